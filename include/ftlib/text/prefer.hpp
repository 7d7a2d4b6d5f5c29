// text/prefer.hpp: preference tuning: of two answers to a question the model learns to prefer the better one, held to
// its base (direct preference optimisation).
#pragma once
#include <ftlib/core/stop.hpp>                 // StopToken
#include <ftlib/distributed/communicator.hpp>  // Communicator
#include <ftlib/ops/preference_loss.hpp>       // PreferenceOptions
#include <ftlib/text/causal_lm.hpp>            // CausalLM
#include <ftlib/text/dataset.hpp>              // Example, Refused

#include <string>   // std::string
#include <utility>  // std::pair
#include <vector>   // std::vector

namespace ft::inline FTLIB_ABI {

/// Pairs of answers, whole in one micro-batch: sequence 2 i is pair i's question with the chosen answer, 2 i + 1 the
/// same question with the rejected one. Targets are the answers' tokens alone.
struct PreferencePairs {
  static constexpr const char* kind = "preference pairs";
  PackedTokens packed;
  int64_t pairs() const { return packed.sequences() / 2; }
  int64_t tokens() const { return packed.tokens(); }
};

/// A question with two answers to it, as tokens; learned are those of the answer, in a conversation of its last turn.
struct PreferencePair {
  text::Example chosen, rejected;
};

/// Records with rejected answers as pairs: each rejected answer beside the first accepted one, or beside a
/// conversation's last turn. Batches hold PreferencePairs, and each pair is one target.
class PreferenceData final : public IndexedSource {
 public:
  /// Holds nothing, and no trainer takes it.
  PreferenceData() = default;
  /// Left out, and told by left_out(): pairs of which one side has more than `max_tokens`, whose two sides are the same
  /// tokens, or that the chat template refuses; and records that reject nothing. Throws Error for a record with a fault
  /// (see text::record_fault), and where no pair is left.
  PreferenceData(std::vector<text::Record> records, const text::Prompt& prompt, int64_t max_tokens = 512);

  std::size_t size() const { return pairs_.size(); }
  using IndexedSource::size;
  const std::vector<text::Record>& records() const { return records_; }
  const std::vector<PreferencePair>& pairs() const { return pairs_; }
  /// As a program prints it: "2 pairs left out: longer than 64 tokens; ...". Empty where nothing is.
  std::string left_out() const;
  int64_t tokens() const;
  int64_t tokens_of(std::size_t item) const override;

  /// `share` of the records with their pairs, drawn by `seed`, and the rest; what was left out is told by neither.
  /// Throws Error where one side would be empty.
  std::pair<PreferenceData, PreferenceData> split(double share, uint64_t seed) const;

  /// As text::Dataset: shuffled by (seed, epoch), of like length, up to `batch_tokens` tokens of both sides.
  std::vector<std::vector<std::size_t>> plan(int64_t batch_tokens, uint64_t seed, int64_t epoch) const override;
  Batch batch(const std::vector<std::size_t>& items, int64_t micro_tokens) const override;
  Hash content() const override;
  DataLimits limits() const override;

 private:
  std::vector<text::Record> records_;
  std::vector<PreferencePair> pairs_;
  std::vector<text::Refused> refused_;
  int64_t too_long_ = 0, same_ = 0, without_ = 0, max_tokens_ = 0;
};

/// Learns PreferencePairs by preference_loss(), the base being the model without what the session uses; whatever else
/// comes is learned as `other` does: the model, or a Keeping around it.
template <Scalar T, Device D> class Preferring final : public Trainable<T, D> {
 public:
  /// Throws Error where weights of the base are trained, for then nothing is left to be held to, and for options out of
  /// range.
  explicit Preferring(CausalLM<T, D>& lm, const PreferenceOptions& options = {}) : Preferring(lm, options, lm) {}
  Preferring(CausalLM<T, D>& lm, const PreferenceOptions& options, Trainable<T, D>& other);

  Context<D>& context() override { return lm_.context(); }
  std::vector<Parameter<T, D>*> parameters() override { return lm_.parameters(); }
  Loss<T, D> loss_sum(const MicroBatch& micro, bool recompute) override;
  void check(const DataLimits& data) override { lm_.check(data); }
  void describe(Description& d) const override;

 private:
  CausalLM<T, D>& lm_;
  PreferenceOptions options_;
  Trainable<T, D>& other_;
};

/// What a model makes of pairs. Shares are in [0, 1].
struct PreferenceReport {
  int64_t pairs = 0;
  double loss = 0;      // mean of preference_loss()
  double accuracy = 0;  // share of pairs whose chosen answer has the larger reward; 0 where nothing is in use
  double margin = 0;    // mean difference of the rewards
  /// Share of pairs whose chosen answer is more probable: as a whole, and by its tokens' mean, for of two answers the
  /// shorter one is mostly more probable. Of the model with what the session uses, and of the base.
  double likelier = 0, likelier_a_token = 0, base_likelier = 0, base_likelier_a_token = 0;
};

/// Reads all pairs twice, with what the session uses and without; the ranks of `world`, where it is not null, share
/// them out, and all get the figures of all. Throws Error where the model's numbers are not finite, Interrupted on a
/// request to stop, which one rank alone looks at.
template <Scalar T, Device D>
[[gnu::cold]] PreferenceReport evaluate_preferences(CausalLM<T, D>& lm, const PreferenceData& data,
                                                    const PreferenceOptions& options = {}, const StopToken& stop = {},
                                                    Communicator* world = nullptr);

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/text/prefer.inl.hpp>
#endif
