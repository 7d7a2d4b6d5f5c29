// text/prefer.inl.hpp: the bodies of text/prefer.hpp.
#pragma once
#include <ftlib/nn/adapter.hpp>        // AdaptersOff
#include <ftlib/text/dataset.inl.hpp>  // quoted_id
#include <ftlib/text/prefer.hpp>

#include <algorithm>  // std::equal
#include <cmath>      // std::isfinite, std::llround
#include <cstring>    // std::memcpy
#include <utility>    // std::exchange

namespace ft::inline FTLIB_ABI {

FTLIB_INLINE PreferenceData::PreferenceData(std::vector<text::Record> records, const text::Prompt& prompt,
                                            int64_t max_tokens)
    : records_(std::move(records)), max_tokens_(max_tokens) {
  std::string hint;
  for (std::size_t i = 0; i < records_.size(); ++i) {
    const text::Record& record = records_[i];
    const auto name = [&] { return str("preferences: record ", i, text::detail::quoted_id(record, ", ")); };
    if (const std::string fault = text::record_fault(record); !fault.empty())
      throw Error(name() + ": " + fault, "leave it out, or mend it.");
    without_ += record.rejected.empty();
    const auto learn = [&](const text::Record& answered) {
      auto [tokens, learned] = prompt.learn(answered);
      const auto question = prompt.question(answered);
      if (tokens.size() < question.size() || !std::equal(question.begin(), question.end(), tokens.begin()))
        throw Error("what is learned does not begin with the question as it is asked");
      std::fill_n(learned.begin(), question.size(), false);  // a conversation's earlier turns are both sides'
      return text::Example{std::move(tokens), std::move(learned), i};
    };
    for (const std::string& rejected : record.rejected) {
      PreferencePair pair;
      try {
        pair.chosen = learn(record);
        text::Record worse = record;
        if (worse.turns.empty()) worse.answers = {rejected};
        else worse.turns.back().content = rejected;
        worse.unanswered = false;
        pair.rejected = learn(worse);
      } catch (const Error& e) {
        if (prompt.options().form != text::Form::chat) throw Error(name() + ": " + e.message(), e.hint(), e.kind());
        refused_.push_back({i, e.message()});
        if (hint.empty()) hint = e.hint();
        continue;
      }
      if (static_cast<int64_t>(std::max(pair.chosen.tokens.size(), pair.rejected.tokens.size())) > max_tokens)
        ++too_long_;
      else if (pair.chosen.tokens == pair.rejected.tokens) ++same_;
      else pairs_.push_back(std::move(pair));
    }
  }
  if (pairs_.empty())
    throw Error(str("preferences: of ", records_.size(), " records no pair is left; ", left_out()),
                too_long_          ? "raise max_tokens."
                : refused_.empty() ? "give records with rejected answers."
                                   : hint);
}

FTLIB_INLINE std::string PreferenceData::left_out() const {
  std::string out;
  const auto add = [&](const auto&... parts) { out += str(out.empty() ? "" : "; ", parts...); };
  const auto pairs = [](int64_t n) { return str(n, n == 1 ? " pair" : " pairs"); };
  if (without_) add(without_, without_ == 1 ? " record" : " records", " without a rejected answer");
  if (too_long_) add(pairs(too_long_), " left out: longer than ", max_tokens_, " tokens");
  if (same_) add(pairs(same_), " left out: both answers are the same tokens");
  if (refused_.empty()) return out;
  add(pairs(static_cast<int64_t>(refused_.size())), " left out that the chat template refuses: ");
  for (std::size_t i = 0; i < refused_.size() && i < 3; ++i)
    out += str(i ? ", " : "", "record ", refused_[i].record + 1,
               text::detail::quoted_id(records_[refused_[i].record], " "), " (", refused_[i].why, ')');
  return out + (refused_.size() > 3 ? ", ..." : "");
}

FTLIB_INLINE int64_t PreferenceData::tokens_of(std::size_t item) const {
  return static_cast<int64_t>(pairs_[item].chosen.tokens.size() + pairs_[item].rejected.tokens.size());
}
FTLIB_INLINE int64_t PreferenceData::tokens() const {
  int64_t n = 0;
  for (std::size_t i = 0; i < pairs_.size(); ++i) n += tokens_of(i);
  return n;
}

FTLIB_INLINE std::pair<PreferenceData, PreferenceData> PreferenceData::split(double share, uint64_t seed) const {
  std::vector<std::size_t> order;  // records that have a pair
  for (const PreferencePair& pair : pairs_)
    if (order.empty() || order.back() != pair.chosen.record) order.push_back(pair.chosen.record);
  Random(seed).shuffle(order);
  const auto cut = static_cast<std::size_t>(std::llround(share * static_cast<double>(order.size())));
  if (cut == 0 || cut >= order.size())
    throw Error(str("preferences: a share of ", share, " of ", order.size(), " records leaves one side empty"));
  std::pair<PreferenceData, PreferenceData> parts;
  for (std::size_t k = 0; k < order.size(); ++k) {
    PreferenceData& part = k < cut ? parts.first : parts.second;
    part.records_.push_back(records_[order[k]]);
    for (PreferencePair pair : pairs_) {
      if (pair.chosen.record != order[k]) continue;
      pair.chosen.record = pair.rejected.record = part.records_.size() - 1;
      part.pairs_.push_back(std::move(pair));
    }
  }
  return parts;
}

FTLIB_INLINE std::vector<std::vector<std::size_t>> PreferenceData::plan(int64_t batch_tokens, uint64_t seed,
                                                                        int64_t epoch) const {
  std::vector<int64_t> lengths;
  for (std::size_t i = 0; i < pairs_.size(); ++i) lengths.push_back(tokens_of(i));
  return text::detail::plan_by_length(lengths, batch_tokens, seed, epoch);
}

FTLIB_INLINE Batch PreferenceData::batch(const std::vector<std::size_t>& items, int64_t micro_tokens) const {
  Batch batch;
  PreferencePairs micro;
  const auto put = [&] {
    const int64_t pairs = micro.pairs();
    if (pairs > 0) batch.add(std::exchange(micro, {}), pairs);
  };
  for (const std::size_t item : items) {
    const auto& [chosen, rejected] = pairs_[item];
    if (micro.tokens() + tokens_of(item) > micro_tokens) put();
    micro.packed.add(chosen.tokens, chosen.learned);
    micro.packed.add(rejected.tokens, rejected.learned);
    batch.names.push_back(records_[chosen.record].id);
  }
  put();
  return batch;
}

FTLIB_INLINE Hash PreferenceData::content() const {
  Hash hash;
  for (const auto& [chosen, rejected] : pairs_) {
    text::detail::add_example(hash, chosen);
    text::detail::add_example(hash, rejected);
  }
  return hash;
}

FTLIB_INLINE DataLimits PreferenceData::limits() const {
  DataLimits limits;
  for (const auto& pair : pairs_)
    for (const text::Example* side : {&pair.chosen, &pair.rejected})
      text::detail::add_limits(limits, side->tokens, records_[side->record].id);
  return limits;
}

namespace detail {
/// -log p of each sequence by the base alone; nothing is recorded.
template <Scalar T, Device D> Tensor<accumulate_t<T>, D> nll_of_base(CausalLM<T, D>& lm, const PackedTokens& packed) {
  const NoGrad unrecorded(lm.context());
  const AdaptersOff off(lm.context());
  return lm.model().nll_by_sequence(lm.context(), packed);
}
FTLIB_INLINE std::vector<int64_t> targets_by_sequence(const PackedTokens& packed) {
  std::vector<int64_t> counts;
  for (std::size_t i = 0; i + 1 < packed.starts.size(); ++i) {
    counts.push_back(0);
    for (int64_t n = packed.starts[i]; n < packed.starts[i + 1]; ++n)
      counts.back() += packed.targets[static_cast<std::size_t>(n)] != ignored_target;
  }
  return counts;
}
}  // namespace detail

template <Scalar T, Device D>
Preferring<T, D>::Preferring(CausalLM<T, D>& lm, const PreferenceOptions& options, Trainable<T, D>& other)
    : lm_(lm), options_(options), other_(other) {
  options.check();
  bool trained = false;
  lm.model().visit([&](Parameter<T, D>& w) { trained |= w.trainable; });
  if (trained)
    throw Error("preferences: weights of the base are trained, so there is no base to be held to",
                "train an adapter; merge() it afterwards where a whole model is wanted.");
}

template <Scalar T, Device D> Loss<T, D> Preferring<T, D>::loss_sum(const MicroBatch& micro, bool recompute) {
  if (std::string_view(micro.kind()) != PreferencePairs::kind) return other_.loss_sum(micro, recompute);
  const PackedTokens& packed = micro_cast<PreferencePairs>(micro).packed;
  const auto reference = detail::nll_of_base(lm_, packed);
  const auto nll = lm_.model().nll_by_sequence(lm_.context(), packed, {.recompute = recompute});
  return preference_loss(lm_.context(), nll, reference, detail::targets_by_sequence(packed), options_);
}

template <Scalar T, Device D> void Preferring<T, D>::describe(Description& d) const {
  other_.describe(d);
  d.add("preferences", "DPO: -log sigmoid of the difference of rewards");
  d.add("beta", options_.beta);
  d.add("label_smoothing", options_.label_smoothing);
  d.add("weight of the chosen answers' nll", options_.nll);
}

template <Scalar T, Device D>
PreferenceReport evaluate_preferences(CausalLM<T, D>& lm, const PreferenceData& data, const PreferenceOptions& options,
                                      const StopToken& stop, Communicator* world) {
  options.check();
  Context<D>& ctx = lm.context();
  const NoGrad off(ctx);
  using A = accumulate_t<T>;
  std::vector<std::string> mine;  // of each micro-batch: its loss, then each sequence's with the adapter and without
  std::vector<std::vector<int64_t>> counts;
  for (const auto& items : data.plan(1024, 0, 0)) {
    const Batch batch = data.batch(items, 1024);
    for (const auto& micro : batch.micro) {
      if ((!world || world->size() == 1) && stop.stop_requested()) throw Interrupted("evaluate: stopped by the host");
      const auto& packed = micro_cast<PreferencePairs>(*micro).packed;
      counts.push_back(detail::targets_by_sequence(packed));
      if (!is_turn(world, static_cast<int64_t>(counts.size()) - 1)) continue;
      const auto nll = lm.model().nll_by_sequence(ctx, packed), reference = detail::nll_of_base(lm, packed);
      std::vector<A> numbers{preference_loss(ctx, nll, reference, counts.back(), options).item(ctx)};
      for (const auto& of : {nll.to_host(ctx), reference.to_host(ctx)})
        numbers.insert(numbers.end(), of.begin(), of.end());
      mine.emplace_back(reinterpret_cast<const char*>(numbers.data()), numbers.size() * sizeof(A));
    }
  }
  if (world) world->announce("preferences");
  const auto all = gather_in_turn(world, std::move(mine));
  PreferenceReport report;
  for (std::size_t micro = 0; micro < counts.size(); ++micro) {
    const auto& n = counts[micro];
    std::vector<A> numbers(1 + 2 * n.size());
    std::memcpy(numbers.data(), all.at(micro).data(), std::min(all[micro].size(), numbers.size() * sizeof(A)));
    const std::span<const A> tuned = std::span(numbers).subspan(1, n.size()), base = std::span(numbers).last(n.size());
    report.loss += static_cast<double>(numbers[0]);
    for (std::size_t i = 0; i < n.size(); i += 2) {
      const auto gap = [&](std::span<const A> of, bool a_token) {  // log p of the chosen answer, less of the rejected
        const double chosen = static_cast<double>(of[i]), rejected = static_cast<double>(of[i + 1]);
        return a_token ? rejected / static_cast<double>(n[i + 1]) - chosen / static_cast<double>(n[i])
                       : rejected - chosen;
      };
      const double margin = static_cast<double>(options.beta) * (gap(tuned, false) - gap(base, false));
      ++report.pairs;
      report.margin += margin;
      report.accuracy += margin > 0;
      report.likelier += gap(tuned, false) > 0;
      report.likelier_a_token += gap(tuned, true) > 0;
      report.base_likelier += gap(base, false) > 0;
      report.base_likelier_a_token += gap(base, true) > 0;
    }
  }
  if (!std::isfinite(report.loss)) throw not_finite(ctx, lm.model(), "evaluate: the loss of pairs");
  if (report.pairs == 0) throw Error("evaluate: there is no preference pair");
  for (double* sum : {&report.loss, &report.accuracy, &report.margin, &report.likelier, &report.likelier_a_token,
                      &report.base_likelier, &report.base_likelier_a_token})
    *sum /= static_cast<double>(report.pairs);
  return report;
}

}  // namespace ft::inline FTLIB_ABI
