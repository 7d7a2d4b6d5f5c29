// text/dataset.inl.hpp: the bodies of text/dataset.hpp.
#pragma once
#include <ftlib/text/dataset.hpp>

#include <algorithm>  // std::stable_sort
#include <cmath>      // std::llround
#include <numeric>    // std::iota
#include <utility>    // std::exchange

namespace ft::inline FTLIB_ABI {
namespace text {

namespace detail {
FTLIB_INLINE std::string quoted_id(const Record& record, const char* before) {
  return record.id.empty() ? "" : str(before, '\'', record.id, '\'');
}
FTLIB_INLINE Example encode_example(const Record& record, const Prompt& prompt, LossOn loss_on) {
  auto [tokens, learned] = prompt.learn(record);
  Example example{std::move(tokens), std::move(learned), 0};
  if (loss_on == LossOn::everything) example.learned.assign(example.tokens.size(), true);
  return example;
}

FTLIB_INLINE std::vector<std::vector<std::size_t>> plan_by_length(const std::vector<int64_t>& lengths,
                                                                  int64_t batch_tokens, uint64_t seed, int64_t epoch) {
  std::vector<std::vector<std::size_t>> batches;
  if (lengths.empty()) return batches;
  Random random(seed, static_cast<uint64_t>(epoch) << 40);
  std::vector<std::size_t> order(lengths.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  random.shuffle(order);
  const int64_t mean =
      std::accumulate(lengths.begin(), lengths.end(), int64_t{0}) / static_cast<int64_t>(lengths.size());
  const std::size_t window =
      std::max<std::size_t>(1, static_cast<std::size_t>(32 * batch_tokens / std::max<int64_t>(1, mean)));
  for (std::size_t begin = 0; begin < order.size(); begin += window) {
    const auto end = order.begin() + static_cast<std::ptrdiff_t>(std::min(order.size(), begin + window));
    std::stable_sort(order.begin() + static_cast<std::ptrdiff_t>(begin), end,
                     [&](std::size_t a, std::size_t b) { return lengths[a] < lengths[b]; });
    int64_t filled = batch_tokens;  // a window begins a batch
    for (auto i = order.begin() + static_cast<std::ptrdiff_t>(begin); i != end; ++i) {
      const int64_t n = lengths[*i];
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

FTLIB_INLINE void add_limits(DataLimits& limits, const std::vector<int32_t>& tokens, const std::string& id) {
  for (const int32_t token : tokens) {
    const bool first = limits.last_token < limits.first_token;
    if (!first && token >= limits.first_token && token <= limits.last_token) continue;
    if (first || token < 0 || limits.first_token >= 0) limits.where = id;
    limits.first_token = first ? token : std::min<int64_t>(limits.first_token, token);
    limits.last_token = first ? token : std::max<int64_t>(limits.last_token, token);
  }
}

FTLIB_INLINE void add_example(Hash& hash, const Example& e) {
  hash.add(e.tokens);
  for (std::size_t i = 0; i < e.learned.size(); ++i)  // where it begins and ends
    if (e.learned[i] != (i > 0 && e.learned[i - 1])) hash.add(i);
}
}  // namespace detail

FTLIB_INLINE Dataset::Dataset(std::vector<Record> records, const Prompt& asked, const DatasetOptions& options)
    : records_(std::move(records)), max_tokens_(options.max_tokens) {
  PromptOptions form = asked.options();
  form.form = options.form.value_or(form.form);
  const Prompt prompt(asked.tokenizer(), std::move(form));
  std::string hint;
  for (std::size_t i = 0; i < records_.size(); ++i) {
    const auto name = [&] { return str("dataset: record ", i, detail::quoted_id(records_[i], ", ")); };
    if (const std::string fault = record_fault(records_[i]); !fault.empty())
      throw Error(name() + ": " + fault, "leave it out, or mend it.");
    Example example;
    try {
      example = detail::encode_example(records_[i], prompt, options.loss_on);
    } catch (const Error& e) {
      if (prompt.options().form != Form::chat) throw Error(name() + ": " + e.message(), e.hint(), e.kind());
      refused_.push_back({i, e.message()});
      if (hint.empty()) hint = e.hint();
      continue;
    }
    example.record = i;
    if (static_cast<int64_t>(example.tokens.size()) > options.max_tokens) ++too_long_;
    else examples_.push_back(std::move(example));
  }
  if (examples_.empty())
    throw Error(str("dataset: none of ", records_.size(), " records is left", records_.empty() ? "" : "; ", left_out()),
                too_long_          ? "raise max_tokens."
                : refused_.empty() ? "the data set is empty."
                                   : hint);
}

FTLIB_INLINE std::string Dataset::left_out() const {
  std::string out;
  if (too_long_) out = str(too_long_, " left out: longer than ", max_tokens_, " tokens");
  if (refused_.empty()) return out;
  out += str(out.empty() ? "" : "; ", refused_.size(), " left out that the chat template refuses: ");
  for (std::size_t i = 0; i < refused_.size() && i < 3; ++i)
    out += str(i ? ", " : "", "record ", refused_[i].record + 1, detail::quoted_id(records_[refused_[i].record], " "),
               " (", refused_[i].why, ')');
  return out + (refused_.size() > 3 ? ", ..." : "");
}

FTLIB_INLINE int64_t Dataset::tokens() const {
  int64_t n = 0;
  for (const Example& e : examples_) n += static_cast<int64_t>(e.tokens.size());
  return n;
}

FTLIB_INLINE std::pair<Dataset, Dataset> Dataset::split(double share, uint64_t seed) const {
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

FTLIB_INLINE std::vector<std::vector<std::size_t>> Dataset::plan(int64_t batch_tokens, uint64_t seed,
                                                                 int64_t epoch) const {
  std::vector<int64_t> lengths;
  for (const Example& e : examples_) lengths.push_back(static_cast<int64_t>(e.tokens.size()));
  return detail::plan_by_length(lengths, batch_tokens, seed, epoch);
}

FTLIB_INLINE Batch Dataset::batch(const std::vector<std::size_t>& items, int64_t micro_tokens) const {
  Batch batch;
  PackedTokens micro;
  const auto put = [&] {
    const int64_t targets = micro.target_count();
    if (micro.tokens() > 0) batch.add(std::exchange(micro, {}), targets);
  };
  for (const std::size_t item : items) {
    const Example& e = examples_[item];
    if (micro.tokens() + static_cast<int64_t>(e.tokens.size()) > micro_tokens) put();
    micro.add(e.tokens, e.learned);
    batch.names.push_back(records_[e.record].id);
  }
  put();
  return batch;
}

FTLIB_INLINE Hash Dataset::content() const {
  Hash hash;
  for (const Example& e : examples_) detail::add_example(hash, e);
  return hash;
}

FTLIB_INLINE DataLimits Dataset::limits() const {
  DataLimits limits;
  for (const Example& e : examples_) detail::add_limits(limits, e.tokens, records_[e.record].id);
  return limits;
}

FTLIB_INLINE std::vector<std::size_t> Dataset::all() const {
  std::vector<std::size_t> order(examples_.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  return order;
}

}  // namespace text
}  // namespace ft::inline FTLIB_ABI
