// text/dataset.hpp: records as token sequences, and their batches: by token count, of similar length, shuffled by seed.
#pragma once
#include <ftlib/models/kit/language_model.hpp>  // PackedTokens
#include <ftlib/text/prompt.hpp>                // Form
#include <ftlib/text/records.hpp>               // Record
#include <ftlib/text/tokenizer.hpp>             // Tokenizer

#include <algorithm>  // std::sort
#include <cmath>      // std::llround
#include <numeric>    // std::iota
#include <string>     // std::string
#include <utility>    // std::pair
#include <vector>     // std::vector

namespace ft::inline FTLIB_ABI {
namespace text {

/// Which tokens are learned.
enum class LossOn { answer, everything };

/// The text that a record's answer follows, in the form "Q: ...\nA:".
inline std::string prompt_text(const Record& record) {
  return (record.context.empty() ? "" : "Context: " + record.context + "\n") + "Q: " + record.question + "\nA:";
}

/// The tokens that a record's answer follows: what generation is asked to go on from, and what training puts before the
/// answer. Text that is written like a control token stays text.
inline std::vector<int32_t> encode_prompt(const Record& record, const Tokenizer& tokenizer, Form form) {
  if (form == Form::chat) {
    const std::string context = record.context.empty() ? "" : record.context + "\n";
    return encode_chat(tokenizer, {{.role = "user", .content = context + record.question}});
  }
  auto ids = tokenizer.encode(prompt_text(record), {.special = Special::as_text});
  if (tokenizer.add_bos()) ids.insert(ids.begin(), tokenizer.bos());
  return ids;
}

struct DatasetOptions {
  Form form = Form::question_answer;
  LossOn loss_on = LossOn::answer;
  int64_t max_tokens = 512;  // longer examples are left out, and counted
};

/// One record as tokens.
struct Example {
  std::vector<int32_t> tokens;  // prompt, answer, end of text
  std::size_t loss_from;        // the first token that is learned
  std::size_t record;           // its place in the data set's records
};

/// The token that ends an answer: the end of a turn, or the end of the text.
inline int32_t end_of_answer(const Tokenizer& tokenizer, Form form) {
  const int32_t id = form == Form::chat ? end_of_turn(tokenizer) : tokenizer.eos();
  if (id < 0) throw Error("dataset: the tokenizer names no end-of-text token");
  return id;
}

/// What a step learns from: micro-batches whose losses are summed and divided by the number of target tokens of all.
struct Batch {
  std::vector<PackedTokens> micro;
  int64_t targets = 0, tokens = 0;
  std::vector<std::string> names;  // the records' ids, for messages
};

class Dataset {
 public:
  Dataset() = default;
  /// Throws Error where no record is left.
  Dataset(std::vector<Record> records, const Tokenizer& tokenizer, const DatasetOptions& options = {})
      : records_(std::move(records)) {
    for (std::size_t i = 0; i < records_.size(); ++i) {
      Example example = encode(records_[i], tokenizer, options);
      example.record = i;
      if (static_cast<int64_t>(example.tokens.size()) > options.max_tokens) ++too_long_;
      else examples_.push_back(std::move(example));
    }
    if (examples_.empty())
      throw Error(str("dataset: none of ", records_.size(), " records is left",
                      too_long_ ? str("; ", too_long_, " are longer than ", options.max_tokens, " tokens") : ""),
                  too_long_ ? "raise max_tokens." : "the data set is empty.");
  }

  std::size_t size() const { return examples_.size(); }
  const std::vector<Record>& records() const { return records_; }
  const std::vector<Example>& examples() const { return examples_; }
  /// Records left out because they have more than max_tokens.
  int64_t too_long() const { return too_long_; }
  int64_t tokens() const {
    int64_t n = 0;
    for (const Example& e : examples_) n += static_cast<int64_t>(e.tokens.size());
    return n;
  }

  /// `share` of the examples, drawn by `seed`, and the rest. Throws Error where one side would be empty.
  std::pair<Dataset, Dataset> split(double share, uint64_t seed) const {
    std::vector<std::size_t> order = all();
    Random(seed).shuffle(order);
    const auto cut = static_cast<std::size_t>(std::llround(share * static_cast<double>(order.size())));
    if (cut == 0 || cut >= order.size())
      throw Error(str("dataset: a share of ", share, " of ", order.size(), " examples leaves one side empty"));
    std::pair<Dataset, Dataset> parts;
    for (std::size_t i = 0; i < order.size(); ++i) {
      Dataset& part = i < cut ? parts.first : parts.second;
      part.examples_.push_back(examples_[order[i]]);
      part.records_.push_back(records_[part.examples_.back().record]);
      part.examples_.back().record = part.records_.size() - 1;
    }
    return parts;
  }

  /// The batches of an epoch, as places in examples(): shuffled by (seed, epoch), sorted by length within windows of 32
  /// batches so that attention's work is alike, filled up to `batch_tokens` tokens (at least one example), in random
  /// order.
  std::vector<std::vector<std::size_t>> plan(int64_t batch_tokens, uint64_t seed, int64_t epoch) const {
    Random random(seed, static_cast<uint64_t>(epoch) << 40);
    std::vector<std::size_t> order = all();
    random.shuffle(order);
    const std::size_t window = std::max<std::size_t>(
        1, static_cast<std::size_t>(32 * batch_tokens / std::max<int64_t>(1, tokens() / static_cast<int64_t>(size()))));
    std::vector<std::vector<std::size_t>> batches;
    for (std::size_t begin = 0; begin < order.size(); begin += window) {
      const auto end = order.begin() + static_cast<std::ptrdiff_t>(std::min(order.size(), begin + window));
      std::stable_sort(order.begin() + static_cast<std::ptrdiff_t>(begin), end, [&](std::size_t a, std::size_t b) {
        return examples_[a].tokens.size() < examples_[b].tokens.size();
      });
      int64_t filled = batch_tokens;  // a window begins a batch
      for (auto i = order.begin() + static_cast<std::ptrdiff_t>(begin); i != end; ++i) {
        const auto n = static_cast<int64_t>(examples_[*i].tokens.size());
        if (filled + n > batch_tokens) {
          batches.emplace_back();
          filled = 0;
        }
        batches.back().push_back(*i);
        filled += n;
      }
    }
    random.shuffle(batches);
    return batches;
  }

  /// The examples at `items`, in micro-batches of at most `micro_tokens` tokens.
  Batch batch(const std::vector<std::size_t>& items, int64_t micro_tokens) const {
    Batch batch;
    for (const std::size_t item : items) {
      const Example& e = examples_[item];
      const auto n = static_cast<int64_t>(e.tokens.size());
      if (batch.micro.empty() || batch.micro.back().tokens() + n > micro_tokens) batch.micro.emplace_back();
      batch.micro.back().add(e.tokens, e.loss_from);
      batch.tokens += n;
      batch.names.push_back(records_[e.record].id);
    }
    for (const PackedTokens& micro : batch.micro) batch.targets += micro.target_count();
    return batch;
  }

 private:
  static Example encode(const Record& record, const Tokenizer& tokenizer, const DatasetOptions& options) {
    Example example;
    example.tokens = encode_prompt(record, tokenizer, options.form);
    // Encoded by itself, as generation will make it: after the prompt's tokens.
    const std::string answer = (options.form == Form::question_answer ? " " : "") + record.answers.front();
    const auto tokens = tokenizer.encode(answer, {.special = Special::as_text});
    example.loss_from = options.loss_on == LossOn::answer ? example.tokens.size() : 0;
    example.tokens.insert(example.tokens.end(), tokens.begin(), tokens.end());
    example.tokens.push_back(end_of_answer(tokenizer, options.form));
    return example;
  }
  std::vector<std::size_t> all() const {
    std::vector<std::size_t> order(examples_.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    return order;
  }

  std::vector<Record> records_;
  std::vector<Example> examples_;
  int64_t too_long_ = 0;
};

}  // namespace text
}  // namespace ft::inline FTLIB_ABI
