// models/kit/language_model.inl.hpp: the bodies of models/kit/language_model.hpp.
#pragma once
#include <ftlib/autograd/recompute.hpp>           // recompute
#include <ftlib/models/kit/gguf_description.hpp>  // GgufDescription
#include <ftlib/models/kit/language_model.hpp>
#include <ftlib/nn/adapter.hpp>       // project, in_use, adapted
#include <ftlib/nn/experts.hpp>       // load_balancing_loss
#include <ftlib/ops/divergence.hpp>   // linear_divergence, divergence
#include <ftlib/ops/elementwise.hpp>  // add, add_scaled
#include <ftlib/ops/rows.hpp>         // take_rows
#include <ftlib/ops/shape.hpp>        // slice

#include <algorithm>  // std::max

namespace ft::inline FTLIB_ABI {

FTLIB_INLINE void PackedTokens::add(const std::vector<int32_t>& sequence, std::size_t loss_from) {
  ids.insert(ids.end(), sequence.begin(), sequence.end());
  for (std::size_t i = 0; i < sequence.size(); ++i)
    targets.push_back(i + 1 < sequence.size() && i + 1 >= loss_from ? sequence[i + 1] : ignored_target);
  starts.push_back(static_cast<int64_t>(ids.size()));
}
FTLIB_INLINE void PackedTokens::add(const std::vector<int32_t>& sequence, const std::vector<bool>& learned) {
  if (sequence.size() != learned.size())
    throw Error(
        str("packed tokens: ", sequence.size(), " tokens, and ", learned.size(), " words on which are learned"));
  ids.insert(ids.end(), sequence.begin(), sequence.end());
  for (std::size_t i = 1; i <= sequence.size(); ++i)
    targets.push_back(i < sequence.size() && learned[i] ? sequence[i] : ignored_target);
  starts.push_back(static_cast<int64_t>(ids.size()));
}
FTLIB_INLINE int64_t PackedTokens::target_count() const {
  int64_t n = 0;
  for (const int32_t t : targets) n += t != ignored_target;
  return n;
}

template <Scalar T, Device D>
Placement<D> place(Context<D>& ctx, const PackedTokens& batch, const ForwardOptions<T, D>& options, int64_t long_from) {
  Placement<D> p;
  std::vector<int32_t> positions, cache_rows;
  for (int64_t i = 0; i < batch.sequences(); ++i) {
    const int64_t begin = batch.starts[static_cast<std::size_t>(i)],
                  end = batch.starts[static_cast<std::size_t>(i) + 1], n = end - begin;
    int64_t before = 0;  // tokens that the cache holds
    const int64_t seen = end - (batch.padding.empty() ? 0 : batch.padding.at(static_cast<std::size_t>(i)));
    if (seen < begin + (end > begin ? 1 : 0) || seen > end || (options.cache && seen < end))
      throw Error(
          str("language model: ", end - seen, " of ", n, " tokens are padding", options.cache ? ", with a cache" : ""),
          "at least one is not, and a cache takes none.");
    if (!options.cache) {
      p.segments.push_back({begin, seen, begin, seen});
      for (int64_t j = seen; j < end; ++j) p.segments.push_back({j, j + 1, begin, seen});
    } else {
      const int64_t slot = options.slots.empty() ? i : options.slots[static_cast<std::size_t>(i)];
      const int64_t base = slot * options.cache->capacity();
      before = options.cache->length(slot);
      if (before + n > options.cache->capacity())
        throw Error(str("generate: ", before, " + ", n, " tokens do not fit a cache of ", options.cache->capacity()),
                    "ask for fewer new tokens, or a larger context.");
      for (int64_t j = 0; j < n; ++j) cache_rows.push_back(static_cast<int32_t>(base + before + j));
      p.segments.push_back({begin, end, base, base + before + n});
      options.cache->advance(slot, n);
      p.slots.push_back(slot);
    }
    const bool is_long = long_from > 0 && before + n > long_from;
    if (is_long && before > 0 && before <= long_from)
      throw Error(str("generate: a text of ", before, " tokens in the cache grows to ", before + n, ", longer than ",
                      long_from, ", where its positions become others"),
                  "set the cache's length of it to 0 and give all its tokens again.");
    for (int64_t j = 0; j < n; ++j) positions.push_back(static_cast<int32_t>((is_long ? long_from : 0) + before + j));
  }
  for (const int32_t position : positions) p.length = std::max<int64_t>(p.length, position + 1);
  p.positions = Tensor<int32_t, D>(ctx, {batch.tokens()}, positions);
  if (options.cache) p.cache_rows = Tensor<int32_t, D>(ctx, {batch.tokens()}, cache_rows);
  return p;
}

template <Scalar T, Device D> [[gnu::cold]] GgufDescription LanguageModel<T, D>::gguf() const {
  throw Error(str("gguf: how a model of kind '", info().model_type, "' is said in GGUF is not known"),
              "its class may say so by LanguageModel::gguf().");
}

template <Scalar T, Device D>
std::vector<Tensor<T, D>> LanguageModel<T, D>::hidden_after(Context<D>& ctx, const PackedTokens& batch,
                                                            const std::vector<int64_t>& blocks,
                                                            const ForwardOptions<T, D>& options) {
  const int64_t layers = info().num_hidden_layers;
  for (const int64_t n : blocks)
    if (n < 0 || n > layers) throw Error(str("hidden_after: ", n, " blocks are asked of a model of ", layers));
  if (blocks.empty()) return {};
  Taps<T, D> taps{blocks, std::vector<Tensor<T, D>>(blocks.size())};
  ForwardOptions<T, D> tapped = options;
  tapped.taps = &taps;
  hidden(ctx, batch, tapped);
  return std::move(taps.states);
}

template <Scalar T, Device D>
Tensor<accumulate_t<T>, D> head_loss(Context<D>& ctx, const Tensor<T, D>& h, Parameter<T, D>& w,
                                     const std::vector<int32_t>& targets, int64_t chunk_bytes, float cap) {
  if (!adapted(ctx, w)) return linear_cross_entropy(ctx, h, w, targets, chunk_bytes, cap);
  Parameter<T, D>& whole = in_use(ctx, w);
  if (&whole != &w) return linear_cross_entropy(ctx, h, whole, targets, chunk_bytes, cap);
  const std::vector<int32_t> rows = detail::rows_with_target("head_loss", "h", targets, h.shape(), w.shape()[0]).first;
  const int64_t chunk = std::max<int64_t>(1, chunk_bytes / (w.shape()[0] * static_cast<int64_t>(sizeof(T))));
  Tensor<accumulate_t<T>, D> loss = Tensor<accumulate_t<T>, D>::zeros(ctx, Shape{});
  for (std::size_t begin = 0; begin < rows.size(); begin += static_cast<std::size_t>(chunk)) {
    const auto end = std::min(rows.size(), begin + static_cast<std::size_t>(chunk));
    const std::vector<int32_t> part(rows.begin() + static_cast<std::ptrdiff_t>(begin),
                                    rows.begin() + static_cast<std::ptrdiff_t>(end));
    std::vector<int32_t> wanted;
    for (const int32_t n : part) wanted.push_back(targets[static_cast<std::size_t>(n)]);
    const auto share = recompute(ctx, take_rows(ctx, h, part), [&ctx, &w, cap, wanted](const Tensor<T, D>& x) {
      return cross_entropy(ctx, soft_cap(ctx, project(ctx, x, w), cap), wanted);
    });
    loss = add(ctx, loss, share);
  }
  return loss;
}

template <Scalar T, Device D>
Tensor<accumulate_t<T>, D> head_divergence(Context<D>& ctx, const Tensor<T, D>& h, Parameter<T, D>& w,
                                           const Tensor<T, D>& teacher, int64_t chunk_bytes, float cap) {
  if (!adapted(ctx, w)) return linear_divergence(ctx, h, w, teacher, chunk_bytes, cap);
  const int64_t chunk = std::max<int64_t>(1, chunk_bytes / (2 * w.shape()[0] * static_cast<int64_t>(sizeof(T))));
  Tensor<accumulate_t<T>, D> sum = Tensor<accumulate_t<T>, D>::zeros(ctx, Shape{});
  for (int64_t begin = 0; begin < h.rows(); begin += chunk) {
    const int64_t end = std::min(h.rows(), begin + chunk);
    const auto share =
        recompute(ctx, slice(ctx, h, 0, begin, end),
                  [&ctx, &w, cap, base = slice(ctx, teacher, 0, begin, end)](const Tensor<T, D>& x) {
                    Tensor<T, D> of_base(ctx, {x.rows(), w.shape()[0]});
                    detail::project(ctx, Write::assign, of_base.view(), base.view(), w.weight());
                    return divergence(ctx, soft_cap(ctx, project(ctx, x, w), cap), soft_cap(ctx, of_base, cap));
                  });
    sum = add(ctx, sum, share);
  }
  return sum;
}

template <Scalar T, Device D>
[[gnu::cold]] Error not_finite(Context<D>& ctx, LanguageModel<T, D>& model, const std::string& what) {
  std::string fault;
  const auto look = [&](const Parameter<T, D>& w) {
    if (fault.empty()) fault = weight_fault(ctx, w);
  };
  model.visit([&](Parameter<T, D>& w) {
    const Overlay<T, D>* overlay = Overlay<T, D>::of(ctx);
    const auto* slot = overlay ? overlay->find(w) : nullptr;
    if (!slot || !slot->replacement) look(w);
    if (!slot) return;
    if (slot->replacement) look(*slot->replacement);
    for (const auto& use : slot->uses) use.adapter->visit(look);
  });
  return Error(
      str(what, " holds a NaN or an infinity: ", fault.empty() ? "no weight does, so that they grow too large" : fault),
      fault.empty() ? "the model or its adapter was made by a training that failed; lower its learning rate."
                    : "its file is damaged, or was made by a training that failed.",
      fault.empty() ? ErrorKind::other : ErrorKind::bad_file);
}

template <Scalar T, Device D>
Tensor<T, D> LanguageModel<T, D>::logits(Context<D>& ctx, const PackedTokens& batch,
                                         const ForwardOptions<T, D>& options) {
  return soft_cap(ctx, project(ctx, hidden(ctx, batch, options), head()), logits_cap());
}
template <Scalar T, Device D>
Tensor<accumulate_t<T>, D> LanguageModel<T, D>::nll_sum(Context<D>& ctx, const PackedTokens& batch,
                                                        const ForwardOptions<T, D>& options) {
  RouterLoad<T, D> load;
  ForwardOptions<T, D> counted = options;
  if (router_loss() > 0 && ctx.tape()) counted.load = &load;
  const auto loss =
      head_loss(ctx, hidden(ctx, batch, counted), head(), batch.targets, logits_chunk_bytes, logits_cap());
  if (load.probabilities.empty()) return loss;
  return add_scaled(ctx, loss, load_balancing_loss(ctx, load),
                    router_loss() * static_cast<float>(batch.target_count()));
}
template <Scalar T, Device D>
Tensor<accumulate_t<T>, D> LanguageModel<T, D>::nll_by_sequence(Context<D>& ctx, const PackedTokens& batch,
                                                                const ForwardOptions<T, D>& options) {
  const Tensor<T, D> h = hidden(ctx, batch, options);
  if (Parameter<T, D>& whole = in_use(ctx, head()); &whole != &head() || !adapted(ctx, head()))
    return linear_cross_entropy_by_group(ctx, h, whole, batch.targets, batch.starts, logits_chunk_bytes, logits_cap());
  std::vector<Tensor<accumulate_t<T>, D>> sums;  // an adapted head's products are its own
  for (std::size_t i = 0; i + 1 < batch.starts.size(); ++i) {
    std::vector<int32_t> rows, wanted;
    for (int64_t n = batch.starts[i]; n < batch.starts[i + 1]; ++n) {
      const int32_t target = batch.targets[static_cast<std::size_t>(n)];
      if (target == ignored_target) continue;
      rows.push_back(static_cast<int32_t>(n));
      wanted.push_back(target);
    }
    sums.push_back(
        rows.empty()
            ? Tensor<accumulate_t<T>, D>::zeros(ctx, {1})
            : reshape(ctx, head_loss(ctx, take_rows(ctx, h, rows), head(), wanted, logits_chunk_bytes, logits_cap()),
                      {1}));
  }
  return concat(ctx, sums);
}

}  // namespace ft::inline FTLIB_ABI
