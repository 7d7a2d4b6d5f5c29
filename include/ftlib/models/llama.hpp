// models/llama.hpp: Llama 2 and 3, SmolLM2, TinyLlama. Pre-norm, rotary positions, grouped-query attention, SwiGLU.
// arXiv:2302.13971, 2305.13245; transformers' models/llama.
#pragma once
#include <ftlib/models/kit/config.hpp>          // config_value, gguf_number
#include <ftlib/models/kit/language_model.hpp>  // LanguageModel
#include <ftlib/models/kit/tensor_map.hpp>      // Weights
#include <ftlib/nn/linear.hpp>                  // Linear
#include <ftlib/ops/activation.hpp>             // swiglu
#include <ftlib/ops/elementwise.hpp>            // add
#include <ftlib/ops/embedding.hpp>              // embedding
#include <ftlib/ops/norm.hpp>                   // rms_norm, add_rms_norm
#include <ftlib/ops/rope.hpp>                   // rope

#include <tuple>  // std::tie

namespace ft::inline FTLIB_ABI {

/// config.json's fields, by its names.
struct LlamaConfig {
  int64_t vocab_size, hidden_size, intermediate_size, num_hidden_layers, num_attention_heads, num_key_value_heads,
      head_dim;
  int64_t max_position_embeddings;
  float rms_norm_eps;
  RopeOptions rope;
  bool tie_word_embeddings, attention_bias, mlp_bias;

  [[gnu::cold]] static LlamaConfig from_json(const Json& json, const std::string& file) {
    const ConfigReader read{json, file};
    LlamaConfig c{};
    c.vocab_size = read.size("vocab_size");
    c.hidden_size = read.size("hidden_size");
    c.intermediate_size = read.size("intermediate_size");
    c.num_hidden_layers = read.size("num_hidden_layers");
    c.num_attention_heads = read.size("num_attention_heads");
    c.num_key_value_heads = read.size("num_key_value_heads", c.num_attention_heads);
    c.head_dim = read.size("head_dim", c.hidden_size / c.num_attention_heads);
    c.max_position_embeddings = read.size("max_position_embeddings", 2048);
    c.rms_norm_eps = read.number("rms_norm_eps", 1e-6f);
    c.rope = read.rope(c.head_dim, 10000);
    c.tie_word_embeddings = read.flag("tie_word_embeddings", false);
    c.attention_bias = read.flag("attention_bias", false);
    c.mlp_bias = read.flag("mlp_bias", false);
    read.expect("hidden_act", "silu");
    read.expect_divides("num_key_value_heads", c.num_key_value_heads, "num_attention_heads", c.num_attention_heads);
    return c;
  }

  [[gnu::cold]] static Json config_from_gguf(const GgufFile& gguf) {
    const GgufConfig read{gguf, "llama"};
    auto json = read.common();
    json["architectures"] = {"LlamaForCausalLM"};
    json["model_type"] = "llama";
    json["hidden_act"] = "silu";
    json["attention_bias"] = json["mlp_bias"] = false;
    json["rope_theta"] = read.number("rope.freq_base", 10000.0);
    return json;
  }
  /// Hugging Face's tensor from GGUF's; an empty name where it is none of this architecture's.
  [[gnu::cold]] static std::pair<std::string, Stored<Cpu>> tensor_from_gguf(const Json& config, const std::string& name,
                                                                            const Stored<Cpu>& tensor) {
    static const std::map<std::string, std::string> parts{
        {"attn_norm", "input_layernorm"}, {"attn_q", "self_attn.q_proj"},      {"attn_k", "self_attn.k_proj"},
        {"attn_v", "self_attn.v_proj"},   {"attn_output", "self_attn.o_proj"}, {"ffn_norm", "post_attention_layernorm"},
        {"ffn_gate", "mlp.gate_proj"},    {"ffn_up", "mlp.up_proj"},           {"ffn_down", "mlp.down_proj"}};
    if (name == "rope_freqs.weight") return {name, tensor};
    const std::string own = from_gguf_name(name, parts);
    if (name.find(".attn_q.") != std::string::npos)
      return {own, unpermute_heads(tensor, config["num_attention_heads"].get<int64_t>())};
    if (name.find(".attn_k.") != std::string::npos)
      return {own, unpermute_heads(tensor, config["num_key_value_heads"].get<int64_t>())};
    return {own, tensor};
  }
};

template <Scalar T, Device D> class Llama final : public LanguageModel<T, D> {
 public:
  // N tokens, C width, H heads, KV key/value heads, hd head size, F feed-forward, V vocabulary
  struct Block {
    Parameter<T, D> input_layernorm;           // (C)
    Linear<T, D> q_proj, k_proj, v_proj;       // (H hd, C), (KV hd, C), (KV hd, C)
    Linear<T, D> o_proj;                       // (C, H hd)
    Parameter<T, D> post_attention_layernorm;  // (C)
    Linear<T, D> gate_proj, up_proj;           // (F, C)
    Linear<T, D> down_proj;                    // (C, F)
  };

  [[gnu::cold]] Llama(Context<D>& ctx, const Json& json, Weights& weights)
      : json_(json),
        config_(LlamaConfig::from_json(json, weights.file())),
        rope_(with_divisors(config_.rope, weights)) {
    const auto& c = config_;
    const auto linear = [&](const std::string& name, int64_t out, int64_t in, bool bias) {
      Linear<T, D> l;
      l.weight = weights.template matrix<T>(ctx, name + ".weight", {out, in}, WeightKind::linear);
      if (bias) l.bias = weights.template vector<T>(ctx, name + ".bias", out);
      return l;
    };
    embed_tokens_ = weights.template matrix<T>(ctx, "model.embed_tokens.weight", {c.vocab_size, c.hidden_size},
                                               WeightKind::embedding);
    const int64_t q = c.num_attention_heads * c.head_dim, kv = c.num_key_value_heads * c.head_dim;
    for (int64_t i = 0; i < c.num_hidden_layers; ++i) {
      const std::string at = str("model.layers.", i, '.');
      Block b;
      b.input_layernorm = weights.template vector<T>(ctx, at + "input_layernorm.weight", c.hidden_size);
      b.q_proj = linear(at + "self_attn.q_proj", q, c.hidden_size, c.attention_bias);
      b.k_proj = linear(at + "self_attn.k_proj", kv, c.hidden_size, c.attention_bias);
      b.v_proj = linear(at + "self_attn.v_proj", kv, c.hidden_size, c.attention_bias);
      b.o_proj = linear(at + "self_attn.o_proj", c.hidden_size, q, c.attention_bias);
      b.post_attention_layernorm =
          weights.template vector<T>(ctx, at + "post_attention_layernorm.weight", c.hidden_size);
      b.gate_proj = linear(at + "mlp.gate_proj", c.intermediate_size, c.hidden_size, c.mlp_bias);
      b.up_proj = linear(at + "mlp.up_proj", c.intermediate_size, c.hidden_size, c.mlp_bias);
      b.down_proj = linear(at + "mlp.down_proj", c.hidden_size, c.intermediate_size, c.mlp_bias);
      blocks_.push_back(std::move(b));
      weights.ignore(at + "self_attn.rotary_emb.inv_freq");  // a constant that old checkpoints carry
    }
    norm_ = weights.template vector<T>(ctx, "model.norm.weight", c.hidden_size);
    if (c.tie_word_embeddings) weights.ignore("lm_head.weight");
    else lm_head_ = weights.template matrix<T>(ctx, "lm_head.weight", {c.vocab_size, c.hidden_size}, WeightKind::head);
  }

  Tensor<T, D> hidden(Context<D>& ctx, const PackedTokens& batch, const ForwardOptions<T, D>& options) override {
    const Placement<D> at = place(ctx, batch, options);
    rope_.reserve(ctx, at.length);
    auto x = embedding(ctx, embed_tokens_, batch.ids);  // (N, C)
    x = run_blocks(ctx, x, blocks_, at, options,
                   [this, &ctx](Block& b, const Tensor<T, D>& in, const Placement<D>& where,
                                typename KvCache<T, D>::Layer* cache) { return block(ctx, b, in, where, cache); });
    return options.layers >= 0 ? x : rms_norm(ctx, x, norm_, config_.rms_norm_eps);
  }

  Parameter<T, D>& head() override { return config_.tie_word_embeddings ? embed_tokens_ : lm_head_; }

  void visit(const std::function<void(Parameter<T, D>&)>& f) override {
    f(embed_tokens_);
    for (Block& b : blocks_) {
      for (Linear<T, D>* l : {&b.q_proj, &b.k_proj, &b.v_proj, &b.o_proj, &b.gate_proj, &b.up_proj, &b.down_proj})
        l->visit(f);
      f(b.input_layernorm);
      f(b.post_attention_layernorm);
    }
    f(norm_);
    if (lm_head_) f(lm_head_);
  }

  KvCache<T, D> make_cache(Context<D>& ctx, int64_t slots, int64_t capacity) override {
    return {ctx, config_.num_hidden_layers, config_.num_key_value_heads, config_.head_dim, slots, capacity};
  }
  Json config() const override { return json_; }
  int64_t context_length() const override { return config_.max_position_embeddings; }

 private:
  /// GGUF files of Llama 3 hold the scaling as one divisor for each frequency.
  static RopeOptions with_divisors(RopeOptions rope, Weights& weights) {
    if (weights.has("rope_freqs.weight")) {
      const Stored<Cpu> divisors = weights.take("rope_freqs.weight", {rope.head_size / 2});
      rope.divisors.resize(static_cast<std::size_t>(divisors.shape.count()));
      dequantise_row(divisors.type, divisors.data, 0, divisors.shape.count(), rope.divisors.data());
    }
    return rope;
  }
  Tensor<T, D> block(Context<D>& ctx, Block& b, const Tensor<T, D>& x, const Placement<D>& at,
                     typename KvCache<T, D>::Layer* cache) {
    const auto& c = config_;
    auto h = rms_norm(ctx, x, b.input_layernorm, c.rms_norm_eps);                                   // (N, C)
    const auto q = rope(ctx, split_heads(ctx, b.q_proj(ctx, h), c.head_dim), rope_, at.positions);  // (N, H, hd)
    const auto k = rope(ctx, split_heads(ctx, b.k_proj(ctx, h), c.head_dim), rope_, at.positions);  // (N, KV, hd)
    const auto v = split_heads(ctx, b.v_proj(ctx, h), c.head_dim);                                  // (N, KV, hd)
    h = b.o_proj(ctx, merge_heads(ctx, cached_attention(ctx, q, k, v, at, {}, cache)));             // (N, C)
    Tensor<T, D> y;
    std::tie(y, h) = add_rms_norm(ctx, x, h, b.post_attention_layernorm, c.rms_norm_eps);
    return add(ctx, y, b.down_proj(ctx, swiglu(ctx, b.gate_proj(ctx, h), b.up_proj(ctx, h))));
  }

  Json json_;
  LlamaConfig config_;
  RopeTable<T, D> rope_;
  Parameter<T, D> embed_tokens_, norm_, lm_head_;
  std::vector<Block> blocks_;
};

}  // namespace ft::inline FTLIB_ABI
