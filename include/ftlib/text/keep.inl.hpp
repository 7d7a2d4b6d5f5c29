// text/keep.inl.hpp: the bodies of text/keep.hpp.
#pragma once
#include <ftlib/nn/adapter.hpp>  // AdaptersOff
#include <ftlib/ops/rows.hpp>    // take_rows
#include <ftlib/text/keep.hpp>

#include <algorithm>  // std::any_of, std::min

namespace ft::inline FTLIB_ABI {

FTLIB_INLINE Batch KeptText::batch(const std::vector<std::size_t>& items, int64_t micro_tokens) const {
  const Batch read = data_.batch(items, micro_tokens);
  Batch kept;
  for (const auto& micro : read.micro) {
    const auto& packed = micro_cast<PackedTokens>(*micro);
    kept.add(KeptTokens{packed}, packed.target_count());
  }
  kept.names = read.names;
  return kept;
}

template <Scalar T, Device D> Keeping<T, D>::Keeping(CausalLM<T, D>& lm) : lm_(lm) {
  bool trained = false;
  lm.model().visit([&](Parameter<T, D>& w) { trained |= w.trainable; });
  if (trained)
    throw Error("keep: weights of the base are trained, so there is no base to be held to",
                "train an adapter, or mix text into the data instead.");
}

template <Scalar T, Device D> Loss<T, D> Keeping<T, D>::loss_sum(const MicroBatch& micro, bool recompute) {
  if (std::string_view(micro.kind()) != KeptTokens::kind) return lm_.loss_sum(micro, recompute);
  Context<D>& ctx = lm_.context();
  const PackedTokens& packed = micro_cast<KeptTokens>(micro).packed;
  std::vector<int32_t> rows;
  for (std::size_t n = 0; n < packed.targets.size(); ++n)
    if (packed.targets[n] != ignored_target) rows.push_back(static_cast<int32_t>(n));
  const auto states = [&](const ForwardOptions<T, D>& options) {
    return take_rows(ctx, lm_.model().hidden(ctx, packed, options), rows);
  };
  const Tensor<T, D> base = [&] {
    const NoGrad unrecorded(ctx);
    const AdaptersOff off(ctx);
    return states({});
  }();
  return head_divergence(ctx, states({.recompute = recompute}), lm_.model().head(), base, logits_chunk_bytes,
                         lm_.model().logits_cap());
}

template <Scalar T, Device D> void Keeping<T, D>::describe(Description& d) const {
  lm_.describe(d);
  d.add("objective", "keep: KL(base || tuned) on kept tokens");
}

template <Scalar T, Device D>
std::vector<text::Record> write_texts(CausalLM<T, D>& lm, const std::vector<std::string>& beginnings,
                                      const WriteOptions& options) {
  std::vector<text::Record> texts;
  const AdaptersOff off(lm);
  GenerateOptions generate{.max_new_tokens = options.tokens, .sampling = options.sampling, .seed = options.seed};
  for (std::size_t begin = 0; begin < beginnings.size();) {
    const std::size_t end = std::min(beginnings.size(), begin + static_cast<std::size_t>(options.batch));
    std::vector<std::vector<int32_t>> prompts;
    for (std::size_t i = begin; i < end; ++i) prompts.push_back(lm.encode(beginnings[i]));
    generate.seed = options.seed + begin;
    const auto written = lm.generate_batch(std::move(prompts), generate);
    for (std::size_t i = begin; i < end; ++i) {
      std::string whole = beginnings[i] + written[i - begin];
      while (!text::text_fault(whole).empty() && !whole.empty()) whole.pop_back();  // half a character at its end
      if (!text::is_blank(whole)) texts.push_back({.id = str("written/", i), .text = std::move(whole)});
    }
    begin = end;
    if (options.progress) options.progress(static_cast<int64_t>(end), static_cast<int64_t>(beginnings.size()));
  }
  return texts;
}

}  // namespace ft::inline FTLIB_ABI
