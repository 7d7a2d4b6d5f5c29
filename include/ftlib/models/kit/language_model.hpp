// models/kit/language_model.hpp: what all language models have in common: packed tokens in, hidden states out, a KV
// cache.
#pragma once
#include <ftlib/autograd/recompute.hpp>  // recompute
#include <ftlib/nn/adapter.hpp>          // project
#include <ftlib/ops/attention.hpp>       // Segment
#include <ftlib/ops/cross_entropy.hpp>   // linear_cross_entropy, ignored_target
#include <ftlib/ops/shape.hpp>           // reshape

#include <ftlib/io/json.hpp>  // Json
#include <functional>         // std::function
#include <vector>             // std::vector

namespace ft::inline FTLIB_ABI {

/// Sequences of unequal length, one after the other, without padding.
struct PackedTokens {
  std::vector<int32_t> ids;        // (N)    tokens of all sequences
  std::vector<int64_t> starts{0};  // (B+1)  sequence i is [starts[i], starts[i + 1])
  std::vector<int32_t> targets;  // (N)    the token that should follow, or ignored_target; empty where no loss is asked

  int64_t sequences() const { return static_cast<int64_t>(starts.size()) - 1; }
  int64_t tokens() const { return static_cast<int64_t>(ids.size()); }
  /// Appends a sequence; tokens of it before `loss_from` are read but not learned.
  void add(const std::vector<int32_t>& sequence, std::size_t loss_from = 0) {
    ids.insert(ids.end(), sequence.begin(), sequence.end());
    for (std::size_t i = 0; i < sequence.size(); ++i)
      targets.push_back(i + 1 < sequence.size() && i + 1 >= loss_from ? sequence[i + 1] : ignored_target);
    starts.push_back(static_cast<int64_t>(ids.size()));
  }
  int64_t target_count() const {
    int64_t n = 0;
    for (const int32_t t : targets) n += t != ignored_target;
    return n;
  }
};

/// The keys and values of tokens that were read before: one (slots * capacity, KV, hd) pair a layer.
template <Scalar T, Device D> class KvCache {
 public:
  struct Layer {
    Tensor<T, D> k, v;
  };
  /// Room for `slots` sequences of at most `capacity` tokens each.
  KvCache(Context<D>& ctx, int64_t layers, int64_t kv_heads, int64_t head_dim, int64_t slots, int64_t capacity)
      : capacity_(capacity), lengths_(static_cast<std::size_t>(slots), 0) {
    for (int64_t i = 0; i < layers; ++i)
      layers_.push_back({Tensor<T, D>(ctx, {slots * capacity, kv_heads, head_dim}),
                         Tensor<T, D>(ctx, {slots * capacity, kv_heads, head_dim})});
  }
  Layer& layer(int64_t i) { return layers_[static_cast<std::size_t>(i)]; }
  int64_t capacity() const { return capacity_; }
  int64_t slots() const { return static_cast<int64_t>(lengths_.size()); }
  int64_t& length(int64_t slot) { return lengths_[static_cast<std::size_t>(slot)]; }

 private:
  int64_t capacity_;
  std::vector<int64_t> lengths_;  // tokens held, a slot
  std::vector<Layer> layers_;
};

/// Where each token of a packed batch stands: made once a forward pass, used by every layer.
template <Device D> struct Placement {
  Tensor<int32_t, D> positions;   // (N)  within its sequence, earlier cached tokens counted
  std::vector<Segment> segments;  // which keys each sequence's queries see
  Tensor<int32_t, D> cache_rows;  // (N)  the cache's row for each token; empty without a cache
  int64_t length = 0;             // the largest position plus one
};

template <Scalar T, Device D> struct ForwardOptions {
  KvCache<T, D>* cache = nullptr;   // sequence i is read on from slot slots[i] (or i)
  std::vector<int64_t> slots = {};  // which slot of the cache each sequence has; empty: 0, 1, 2 ...
  int64_t layers = -1;              // stop after so many blocks and return their hidden state, without the last norm
  bool recompute = false;           // keep only each block's input, and run blocks again in backward
};

/// Lays out a packed batch; with a cache, makes room in it. Throws Error where a sequence does not fit.
template <Scalar T, Device D>
Placement<D> place(Context<D>& ctx, const PackedTokens& batch, const ForwardOptions<T, D>& options) {
  Placement<D> p;
  std::vector<int32_t> positions, cache_rows;
  for (int64_t i = 0; i < batch.sequences(); ++i) {
    const int64_t begin = batch.starts[static_cast<std::size_t>(i)],
                  end = batch.starts[static_cast<std::size_t>(i) + 1], n = end - begin;
    if (!options.cache) {
      for (int64_t j = 0; j < n; ++j) positions.push_back(static_cast<int32_t>(j));
      p.segments.push_back({begin, end, begin, end});
      continue;
    }
    const int64_t slot = options.slots.empty() ? i : options.slots[static_cast<std::size_t>(i)];
    const int64_t before = options.cache->length(slot), base = slot * options.cache->capacity();
    if (before + n > options.cache->capacity())
      throw Error(str("generate: ", before, " + ", n, " tokens do not fit a cache of ", options.cache->capacity()),
                  "ask for fewer new tokens, or a larger context.");
    for (int64_t j = 0; j < n; ++j) {
      positions.push_back(static_cast<int32_t>(before + j));
      cache_rows.push_back(static_cast<int32_t>(base + before + j));
    }
    p.segments.push_back({begin, end, base, base + before + n});
    options.cache->length(slot) += n;
  }
  for (const int32_t position : positions) p.length = std::max<int64_t>(p.length, position + 1);
  p.positions = Tensor<int32_t, D>(ctx, {batch.tokens()}, positions);
  if (options.cache) p.cache_rows = Tensor<int32_t, D>(ctx, {batch.tokens()}, cache_rows);
  return p;
}

/// x through blocks in turn: block(b, x, placement, cache layer or null). Stops after options.layers; see
/// ForwardOptions.
template <Scalar T, Device D, class Block, class F>
Tensor<T, D> run_blocks(Context<D>& ctx, Tensor<T, D> x, std::vector<Block>& blocks, const Placement<D>& at,
                        const ForwardOptions<T, D>& options, F block) {
  int64_t layer = 0;
  for (Block& b : blocks) {
    if (layer == options.layers) break;
    if (options.recompute)  // the rule outlives this call, so it keeps a placement of its own
      x = ft::recompute(ctx, x, [&b, at, block](const Tensor<T, D>& in) { return block(b, in, at, nullptr); });
    else x = block(b, x, at, options.cache ? &options.cache->layer(layer) : nullptr);
    ++layer;
  }
  return x;
}

/// (N, H hd) -> (N, H, hd), and back.
template <Scalar T, Device D> Tensor<T, D> split_heads(Context<D>& ctx, const Tensor<T, D>& x, int64_t head_dim) {
  return reshape(ctx, x, {x.rows(), x.cols() / head_dim, head_dim});
}
template <Scalar T, Device D> Tensor<T, D> merge_heads(Context<D>& ctx, const Tensor<T, D>& x) {
  return reshape(ctx, x, {x.size(0), x.size(1) * x.size(2)});
}

/// Attention of q over k and v, or over the cache once k and v have been written to it.
template <Scalar T, Device D>
Tensor<T, D> cached_attention(Context<D>& ctx, const Tensor<T, D>& q, const Tensor<T, D>& k, const Tensor<T, D>& v,
                              const Placement<D>& at, const AttentionOptions& options,
                              typename KvCache<T, D>::Layer* cache) {
  if (!cache) return attention(ctx, q, k, v, at.segments, options);
  no_backward(ctx, "attention with a KV cache", {q, k, v});
  const auto rows = [](const Tensor<T, D>& x, T* data) { return View<T>(data, {x.size(0), x.size(1) * x.size(2)}); };
  const Tensor<T, D> new_k = contiguous(ctx, k), new_v = contiguous(ctx, v);
  scatter_rows(ctx, rows(cache->k, cache->k.data()), View<const T>(new_k.data(), {k.size(0), k.size(1) * k.size(2)}),
               at.cache_rows.view());
  scatter_rows(ctx, rows(cache->v, cache->v.data()), View<const T>(new_v.data(), {v.size(0), v.size(1) * v.size(2)}),
               at.cache_rows.view());
  return attention(ctx, q, cache->k, cache->v, at.segments, options);
}

/// A causal language model of any architecture.
template <Scalar T, Device D> class LanguageModel {
 public:
  virtual ~LanguageModel() = default;

  /// The hidden states that the LM head reads, after the last norm: N tokens -> (N, C).
  virtual Tensor<T, D> hidden(Context<D>& ctx, const PackedTokens& batch, const ForwardOptions<T, D>& options) = 0;
  /// The LM head's matrix (V, C); the embedding's where they are tied.
  virtual Parameter<T, D>& head() = 0;
  /// Every parameter once, in the checkpoint's order; adapters' not among them.
  virtual void visit(const std::function<void(Parameter<T, D>&)>& f) = 0;
  virtual KvCache<T, D> make_cache(Context<D>& ctx, int64_t slots, int64_t capacity) = 0;
  /// The configuration, in the words of Hugging Face's config.json.
  virtual Json config() const = 0;
  /// The longest sequence the model was made for, in tokens.
  virtual int64_t context_length() const = 0;

  /// (N, V). Large: for losses use nll_sum, for generation ask the rows that are needed.
  Tensor<T, D> logits(Context<D>& ctx, const PackedTokens& batch, const ForwardOptions<T, D>& options = {}) {
    return linear(ctx, hidden(ctx, batch, options), head());
  }
  /// The sum over targets of -log p(target): a scalar.
  Tensor<accumulate_t<T>, D> nll_sum(Context<D>& ctx, const PackedTokens& batch,
                                     const ForwardOptions<T, D>& options = {}) {
    return linear_cross_entropy(ctx, hidden(ctx, batch, options), head(), batch.targets);
  }
};

}  // namespace ft::inline FTLIB_ABI
