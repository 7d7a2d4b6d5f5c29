// models/kit/decoder.hpp: Decoder, what a language model of blocks in a row is without its blocks, and WeightReader,
// which fills the blocks of nn/ from a checkpoint.
#pragma once
#include <ftlib/autograd/recompute.hpp>         // recompute
#include <ftlib/models/kit/config.hpp>          // TransformerConfig
#include <ftlib/models/kit/language_model.hpp>  // LanguageModel
#include <ftlib/models/kit/weights.hpp>         // Weights
#include <ftlib/nn/attention.hpp>               // Attention
#include <ftlib/nn/embedding.hpp>               // Embedding
#include <ftlib/nn/mlp.hpp>                     // Mlp
#include <ftlib/nn/norm.hpp>                    // NormLayer
#include <ftlib/ops/elementwise.hpp>            // add

#include <algorithm>  // std::max_element
#include <memory>     // std::make_shared
#include <string>     // std::string
#include <utility>    // std::move
#include <vector>     // std::vector

namespace ft::inline FTLIB_ABI {

/// Takes blocks of nn/ out of a checkpoint, under Hugging Face's names. Throws Error for what is missing or of another
/// shape.
template <Scalar T, Device D> struct WeightReader {
  Context<D>& ctx;
  Weights& weights;

  [[gnu::cold]] Linear<T, D> linear(const std::string& name, int64_t out, int64_t in, bool bias = false) const {
    Linear<T, D> l;
    l.weight = weights.template matrix<T>(ctx, name + ".weight", {out, in}, WeightKind::linear);
    if (bias) l.bias = weights.template vector<T>(ctx, name + ".bias", out);
    return l;
  }
  [[gnu::cold]] NormLayer<T, D> rms_norm(const std::string& name, int64_t size, float eps, float offset = 0) const {
    NormLayer<T, D> norm;
    norm.weight = weights.template vector<T>(ctx, name + ".weight", size);
    norm.eps = eps;
    norm.offset = offset;
    return norm;
  }
  /// q_proj, k_proj, v_proj and o_proj below `at`.
  [[gnu::cold]] Attention<T, D> attention(const std::string& at, const TransformerConfig& c, bool qkv_bias,
                                          bool o_bias) const {
    Attention<T, D> a;
    const int64_t C = c.hidden_size, q = c.num_attention_heads * c.head_dim, kv = c.num_key_value_heads * c.head_dim;
    a.q_proj = linear(at + "q_proj", q, C, qkv_bias);
    a.k_proj = linear(at + "k_proj", kv, C, qkv_bias);
    a.v_proj = linear(at + "v_proj", kv, C, qkv_bias);
    a.o_proj = linear(at + "o_proj", C, q, o_bias);
    a.head_dim = c.head_dim;
    return a;
  }
  /// gate_proj, up_proj and down_proj below `at`.
  [[gnu::cold]] Mlp<T, D> gated_mlp(const std::string& at, const TransformerConfig& c, Activation activation,
                                    bool bias = false) const {
    Mlp<T, D> m;
    m.gate_proj = linear(at + "gate_proj", c.intermediate_size, c.hidden_size, bias);
    m.up_proj = linear(at + "up_proj", c.intermediate_size, c.hidden_size, bias);
    m.down_proj = linear(at + "down_proj", c.hidden_size, c.intermediate_size, bias);
    m.activation = activation;
    return m;
  }
};

/// x + attention(norm(x)), and the same with the feed-forward part: the block of Llama and most of its kin.
template <Scalar T, Device D> struct PreNormBlock {
  NormLayer<T, D> input_layernorm;  // (C)
  Attention<T, D> self_attn;
  NormLayer<T, D> post_attention_layernorm;  // (C)
  Mlp<T, D> mlp;

  Tensor<T, D> operator()(Context<D>& ctx, const Tensor<T, D>& x, const Placement<D>& at,
                          typename KvCache<T, D>::Layer* cache) {
    const auto [y, h] = post_attention_layernorm.after_add(  // (N, C) each
        ctx, x, self_attn(ctx, input_layernorm(ctx, x), at, cache));
    return add(ctx, y, mlp(ctx, h));
  }
  KvShape kept() const { return self_attn.kept(); }
  void visit(const std::function<void(Parameter<T, D>&)>& f) {
    self_attn.visit(f);
    mlp.visit(f);
    input_layernorm.visit(f);
    post_attention_layernorm.visit(f);
  }
};

/// Embedding, blocks, last norm and head; an architecture derives and fills them. Config is its TransformerConfig; a
/// Block is called with (ctx, x, placement, cache or null), and has visit(f) and kept(), the shape of its keys and
/// values.
template <Scalar T, Device D, class Config_, class Block> class Decoder : public LanguageModel<T, D> {
 public:
  using Config = Config_;

  Tensor<T, D> hidden(Context<D>& ctx, const PackedTokens& batch, const ForwardOptions<T, D>& options) final {
    const ContextGuard guard(ctx);
    const Placement<D> at = place(ctx, batch, options);
    int64_t last = config_.num_hidden_layers;
    if (options.taps) last = *std::max_element(options.taps->after.begin(), options.taps->after.end());
    auto x = embed_tokens_(ctx, batch.ids);  // (N, C)
    tap(options, 0, x);
    for (int64_t i = 0; i < last; ++i) {
      Block& b = blocks_[static_cast<std::size_t>(i)];
      if (options.recompute)  // the rule outlives this call, so it keeps a placement of its own
        x = recompute(ctx, x, [&ctx, &b, at](const Tensor<T, D>& in) { return b(ctx, in, at, nullptr); });
      else x = b(ctx, x, at, options.cache ? &options.cache->layer(i) : nullptr);
      tap(options, i + 1, x);
    }
    return options.taps ? x : norm_(ctx, x);
  }
  Parameter<T, D>& head() final { return lm_head_ ? lm_head_ : embed_tokens_.weight; }
  void visit(const std::function<void(Parameter<T, D>&)>& f) final {
    f(embed_tokens_.weight);
    for (Block& b : blocks_) b.visit(f);
    norm_.visit(f);
    if (lm_head_) f(lm_head_);
  }
  KvCache<T, D> make_cache(Context<D>& ctx, int64_t slots, int64_t capacity) final {
    std::vector<KvShape> layers;
    for (const Block& b : blocks_) layers.push_back(b.kept());
    return {ctx, layers, slots, capacity};
  }
  const ModelInfo& info() const final { return config_; }
  Json config() const final {
    Config copy = config_;  // fields() is one description, for readers, which assign, and for the writer
    return copy.to_json();
  }

 protected:
  /// Takes the embedding, and the head where it is not tied; the last norm and the blocks are the architecture's.
  [[gnu::cold]] Decoder(Context<D>& ctx, Config config, Weights& weights) : config_(std::move(config)) {
    const Shape shape{config_.vocab_size, config_.hidden_size};
    embed_tokens_.weight = weights.template matrix<T>(ctx, "model.embed_tokens.weight", shape, WeightKind::embedding);
    if (config_.tie_word_embeddings) weights.ignore("lm_head.weight");  // where it is there, it is the embedding again
    else lm_head_ = weights.template matrix<T>(ctx, "lm_head.weight", shape, WeightKind::head);
  }

  Config config_;
  Embedding<T, D> embed_tokens_;
  NormLayer<T, D> norm_;
  Parameter<T, D> lm_head_;  // empty where it is tied
  std::vector<Block> blocks_;

 private:
  static void tap(const ForwardOptions<T, D>& options, int64_t done, const Tensor<T, D>& x) {
    if (!options.taps) return;
    for (std::size_t i = 0; i < options.taps->after.size(); ++i)
      if (options.taps->after[i] == done) options.taps->states[i] = x;
  }
};

}  // namespace ft::inline FTLIB_ABI
