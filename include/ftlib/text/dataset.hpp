// text/dataset.hpp: records as token sequences, and their batches: by token count, of similar length, shuffled by seed.
#pragma once
#include <ftlib/models/kit/language_model.hpp>  // PackedTokens
#include <ftlib/text/prompt.hpp>                // Prompt
#include <ftlib/text/records.hpp>               // Record
#include <ftlib/train/data_source.hpp>          // IndexedSource

#include <optional>  // std::optional
#include <string>    // std::string
#include <utility>   // std::pair
#include <vector>    // std::vector

namespace ft::inline FTLIB_ABI {
namespace text {

/// Which tokens are learned: of a conversation, `answer` is what the assistant says.
enum class LossOn { answer, everything };

struct DatasetOptions {
  std::optional<Form> form = {};  // none: the prompt's
  LossOn loss_on = LossOn::answer;
  int64_t max_tokens = 512;  // longer examples are left out, and counted
};

/// A record that a data set leaves out.
struct Refused {
  std::size_t record;  // its place in the data set's records
  std::string why;
};

/// One record as tokens.
struct Example {
  std::vector<int32_t> tokens = {};  // prompt, answer, end of text; or a conversation up to its last answer
  std::vector<bool> learned = {};    // one a token
  std::size_t record = 0;            // its place in the data set's records
};

namespace detail {
/// Places in `lengths` as batches: see Dataset::plan().
std::vector<std::vector<std::size_t>> plan_by_length(const std::vector<int64_t>& lengths, int64_t batch_tokens,
                                                     uint64_t seed, int64_t epoch);
/// Counts a sequence's tokens in, which are a record's of the name `id`.
void add_limits(DataLimits& limits, const std::vector<int32_t>& tokens, const std::string& id);
/// Adds a sequence's tokens, and where what is learned of them begins and ends.
void add_example(Hash& hash, const Example& example);
}  // namespace detail

/// Records that a language model learns from: batches hold PackedTokens. Answers that are rejected are no part of it:
/// see PreferenceData, text/prefer.hpp.
class Dataset final : public IndexedSource {
 public:
  /// Holds nothing, and no trainer takes it.
  Dataset() = default;
  /// Throws Error where a record has a fault (see record_fault), no record is left, or one is a conversation and the
  /// form is question_answer. What the model's chat template refuses (ChatTemplate::learn) is left out, and listed.
  /// `prompt` is a model's (CausalLM::prompt), or a tokenizer alone, which asks in the usual form.
  Dataset(std::vector<Record> records, const Prompt& prompt, const DatasetOptions& options = {});

  std::size_t size() const { return examples_.size(); }
  using IndexedSource::size;
  const std::vector<Record>& records() const { return records_; }
  const std::vector<Example>& examples() const { return examples_; }
  /// Records left out because they have more than max_tokens.
  int64_t too_long() const { return too_long_; }
  /// Records left out because the model's chat template refuses them, in the order of records().
  const std::vector<Refused>& refused() const { return refused_; }
  /// What the two come to, as a program prints it: "4 left out: longer than 64 tokens; 1 left out that the chat
  /// template refuses: 'id': why". Empty where nothing is left out.
  std::string left_out() const;
  int64_t tokens() const;
  int64_t tokens_of(std::size_t item) const override { return static_cast<int64_t>(examples_[item].tokens.size()); }

  /// `share` of the examples, drawn by `seed`, and the rest; what was left out is told by neither. Throws Error where
  /// one side would be empty.
  std::pair<Dataset, Dataset> split(double share, uint64_t seed) const;

  /// The batches of an epoch, as places in examples(): shuffled by (seed, epoch), sorted by length within windows of 32
  /// batches so that attention's work is alike, filled up to `batch_tokens` tokens (at least one example), in random
  /// order.
  std::vector<std::vector<std::size_t>> plan(int64_t batch_tokens, uint64_t seed, int64_t epoch) const override;
  Batch batch(const std::vector<std::size_t>& items, int64_t micro_tokens) const override;
  /// Of all tokens, and of which are learned.
  Hash content() const override;
  DataLimits limits() const override;

 private:
  std::vector<std::size_t> all() const;

  std::vector<Record> records_;
  std::vector<Example> examples_;
  std::vector<Refused> refused_;
  int64_t too_long_ = 0, max_tokens_ = 0;
};

}  // namespace text
}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/text/dataset.inl.hpp>
#endif
