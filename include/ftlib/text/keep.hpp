// text/keep.hpp: keeping what a model knows while it learns something else: on other text the tuned model is held to
// the base's own next tokens.
#pragma once
#include <ftlib/text/causal_lm.hpp>  // CausalLM
#include <ftlib/text/dataset.hpp>    // Dataset

#include <functional>  // std::function
#include <string>      // std::string
#include <vector>      // std::vector

namespace ft::inline FTLIB_ABI {

/// Tokens on which a model is to stay as it is: each target's place counts, not which token it is.
struct KeptTokens {
  static constexpr const char* kind = "kept tokens";
  PackedTokens packed;
  int64_t tokens() const { return packed.tokens(); }
};

/// A data set whose batches hold KeptTokens: a part of a MixedSource, for Keeping.
class KeptText final : public IndexedSource {
 public:
  explicit KeptText(text::Dataset data) : data_(std::move(data)) {}
  const text::Dataset& data() const { return data_; }

  std::vector<std::vector<std::size_t>> plan(int64_t batch_tokens, uint64_t seed, int64_t epoch) const override {
    return data_.plan(batch_tokens, seed, epoch);
  }
  Batch batch(const std::vector<std::size_t>& items, int64_t micro_tokens) const override;
  int64_t tokens_of(std::size_t item) const override { return data_.tokens_of(item); }
  Hash content() const override { return data_.content(); }
  DataLimits limits() const override { return data_.limits(); }

 private:
  text::Dataset data_;
};

/// Learns PackedTokens as the model does; on KeptTokens the loss is KL(base || tuned), summed over targets' places, the
/// base being the model without what the session uses.   Learning without forgetting: Li and Hoiem, arXiv:1606.09282
template <Scalar T, Device D> class Keeping final : public Trainable<T, D> {
 public:
  /// Throws Error where weights of the base are trained: then nothing is left to be held to.
  explicit Keeping(CausalLM<T, D>& lm);

  Context<D>& context() override { return lm_.context(); }
  std::vector<Parameter<T, D>*> parameters() override { return lm_.parameters(); }
  Loss<T, D> loss_sum(const MicroBatch& micro, bool recompute) override;
  void check(const DataLimits& data) override { lm_.check(data); }
  void describe(Description& d) const override;

 private:
  CausalLM<T, D>& lm_;
};

struct WriteOptions {
  int64_t tokens = 128;  // of a text, at most
  int64_t batch = 64;    // texts written side by side
  Sampling sampling = {.temperature = 1};
  uint64_t seed = 42;
  std::function<void(int64_t done, int64_t of)> progress = {};
};

/// Texts that the model itself writes, each going on from one of `beginnings`: what it knows, as far as it can say it.
/// As records of text. Blank ones are left out.
template <Scalar T, Device D>
[[gnu::cold]] std::vector<text::Record> write_texts(CausalLM<T, D>& lm, const std::vector<std::string>& beginnings,
                                                    const WriteOptions& options = {});

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/text/keep.inl.hpp>
#endif
