// models/gemma3.hpp: Gemma 3 (text). Norms before and after each part, norms on q and k, local layers with a window
// between global ones, GEGLU. arXiv:2503.19786; transformers' models/gemma3.
#pragma once
#include <ftlib/models/kit/config.hpp>
#include <ftlib/models/kit/language_model.hpp>
#include <ftlib/models/kit/tensor_map.hpp>
#include <ftlib/nn/linear.hpp>
#include <ftlib/ops/activation.hpp>   // geglu_tanh
#include <ftlib/ops/elementwise.hpp>  // add
#include <ftlib/ops/embedding.hpp>    // embedding
#include <ftlib/ops/norm.hpp>         // rms_norm, add_rms_norm
#include <ftlib/ops/rope.hpp>         // rope

#include <tuple>  // std::tie

namespace ft::inline FTLIB_ABI {

/// config.json's fields, by its names.
struct Gemma3Config {
  int64_t vocab_size, hidden_size, intermediate_size, num_hidden_layers, num_attention_heads, num_key_value_heads,
      head_dim;
  int64_t max_position_embeddings, sliding_window;
  float rms_norm_eps, query_pre_attn_scalar;
  RopeOptions rope, rope_local;
  std::vector<bool> sliding;  // a layer: attends to the window alone
  bool attention_bias;

  [[gnu::cold]] static Gemma3Config from_json(const Json& json, const std::string& file) {
    const ConfigReader read{json, file};
    Gemma3Config c{};
    c.vocab_size = read.size("vocab_size");
    c.hidden_size = read.size("hidden_size");
    c.intermediate_size = read.size("intermediate_size");
    c.num_hidden_layers = read.size("num_hidden_layers");
    c.num_attention_heads = read.size("num_attention_heads");
    c.num_key_value_heads = read.size("num_key_value_heads", c.num_attention_heads);
    c.head_dim = read.size("head_dim", 256);
    c.max_position_embeddings = read.size("max_position_embeddings", 32768);
    c.sliding_window = read.size("sliding_window", 4096);
    c.rms_norm_eps = read.number("rms_norm_eps", 1e-6f);
    c.query_pre_attn_scalar = read.number("query_pre_attn_scalar", static_cast<float>(c.head_dim));
    c.rope = read.rope(c.head_dim, 1e6f, "full_attention");
    c.rope_local.head_size = c.head_dim;
    c.rope_local.theta = read.local_theta(10000);
    c.sliding = read.sliding_layers(c.num_hidden_layers, 6);
    c.attention_bias = read.flag("attention_bias", false);
    if (!read.flag("tie_word_embeddings", true)) throw Error(file + ": Gemma 3 with an untied LM head is not known");
    read.expect("hidden_activation", "gelu_pytorch_tanh");
    read.expect_none("final_logit_softcapping");
    read.expect_none("attn_logit_softcapping");
    read.expect_divides("num_key_value_heads", c.num_key_value_heads, "num_attention_heads", c.num_attention_heads);
    return c;
  }

  [[gnu::cold]] static Json config_from_gguf(const GgufFile& gguf) {
    const GgufConfig read{gguf, "gemma3"};
    auto json = read.common();
    json["architectures"] = {"Gemma3ForCausalLM"};
    json["model_type"] = "gemma3_text";
    json["hidden_activation"] = "gelu_pytorch_tanh";
    json["attention_bias"] = false;
    json["sliding_window"] = read.size("attention.sliding_window", 512);
    json["query_pre_attn_scalar"] = json["head_dim"];
    json["rope_theta"] = read.number("rope.freq_base", 1000000.0);
    json["rope_local_base_freq"] = 10000.0;
    return json;
  }
  /// Hugging Face's tensor from GGUF's; an empty name where it is none of this architecture's.
  [[gnu::cold]] static std::pair<std::string, Stored<Cpu>> tensor_from_gguf(const Json&, const std::string& name,
                                                                            const Stored<Cpu>& tensor) {
    static const std::map<std::string, std::string> parts{{"attn_norm", "input_layernorm"},
                                                          {"attn_q", "self_attn.q_proj"},
                                                          {"attn_k", "self_attn.k_proj"},
                                                          {"attn_v", "self_attn.v_proj"},
                                                          {"attn_output", "self_attn.o_proj"},
                                                          {"attn_q_norm", "self_attn.q_norm"},
                                                          {"attn_k_norm", "self_attn.k_norm"},
                                                          {"post_attention_norm", "post_attention_layernorm"},
                                                          {"ffn_norm", "pre_feedforward_layernorm"},
                                                          {"post_ffw_norm", "post_feedforward_layernorm"},
                                                          {"ffn_gate", "mlp.gate_proj"},
                                                          {"ffn_up", "mlp.up_proj"},
                                                          {"ffn_down", "mlp.down_proj"}};
    const bool is_norm = name.ends_with("norm.weight");
    return {from_gguf_name(name, parts), is_norm ? shifted(tensor, -1.0f) : tensor};
  }
};

template <Scalar T, Device D> class Gemma3 final : public LanguageModel<T, D> {
 public:
  // N tokens, C width, H heads, KV key/value heads, hd head size, F feed-forward, V vocabulary
  struct Block {
    Parameter<T, D> input_layernorm, post_attention_layernorm;              // (C)
    Linear<T, D> q_proj, k_proj, v_proj;                                    // (H hd, C), (KV hd, C), (KV hd, C)
    Linear<T, D> o_proj;                                                    // (C, H hd)
    Parameter<T, D> q_norm, k_norm;                                         // (hd)
    Parameter<T, D> pre_feedforward_layernorm, post_feedforward_layernorm;  // (C)
    Linear<T, D> gate_proj, up_proj;                                        // (F, C)
    Linear<T, D> down_proj;                                                 // (C, F)
    bool sliding;
  };

  [[gnu::cold]] Gemma3(Context<D>& ctx, const Json& json, Weights& weights)
      : json_(json),
        config_(Gemma3Config::from_json(json, weights.file())),
        rope_(config_.rope),
        rope_local_(config_.rope_local) {
    const auto& c = config_;
    const auto linear = [&](const std::string& name, int64_t out, int64_t in, bool bias) {
      Linear<T, D> l;
      l.weight = weights.template matrix<T>(ctx, name + ".weight", {out, in}, WeightKind::linear);
      if (bias) l.bias = weights.template vector<T>(ctx, name + ".bias", out);
      return l;
    };
    const auto norm = [&](const std::string& name, int64_t size) {
      return weights.template vector<T>(ctx, name + ".weight", size);
    };
    embed_tokens_ = weights.template matrix<T>(ctx, "model.embed_tokens.weight", {c.vocab_size, c.hidden_size},
                                               WeightKind::embedding);
    const int64_t q = c.num_attention_heads * c.head_dim, kv = c.num_key_value_heads * c.head_dim;
    for (int64_t i = 0; i < c.num_hidden_layers; ++i) {
      const std::string at = str("model.layers.", i, '.');
      Block b;
      b.input_layernorm = norm(at + "input_layernorm", c.hidden_size);
      b.q_proj = linear(at + "self_attn.q_proj", q, c.hidden_size, c.attention_bias);
      b.k_proj = linear(at + "self_attn.k_proj", kv, c.hidden_size, c.attention_bias);
      b.v_proj = linear(at + "self_attn.v_proj", kv, c.hidden_size, c.attention_bias);
      b.o_proj = linear(at + "self_attn.o_proj", c.hidden_size, q, c.attention_bias);
      b.q_norm = norm(at + "self_attn.q_norm", c.head_dim);
      b.k_norm = norm(at + "self_attn.k_norm", c.head_dim);
      b.post_attention_layernorm = norm(at + "post_attention_layernorm", c.hidden_size);
      b.pre_feedforward_layernorm = norm(at + "pre_feedforward_layernorm", c.hidden_size);
      b.gate_proj = linear(at + "mlp.gate_proj", c.intermediate_size, c.hidden_size, false);
      b.up_proj = linear(at + "mlp.up_proj", c.intermediate_size, c.hidden_size, false);
      b.down_proj = linear(at + "mlp.down_proj", c.hidden_size, c.intermediate_size, false);
      b.post_feedforward_layernorm = norm(at + "post_feedforward_layernorm", c.hidden_size);
      b.sliding = c.sliding[static_cast<std::size_t>(i)];
      blocks_.push_back(std::move(b));
    }
    norm_ = norm("model.norm", c.hidden_size);
    weights.ignore("lm_head.weight");  // tied: where it is there, it is the embedding again
  }

  Tensor<T, D> hidden(Context<D>& ctx, const PackedTokens& batch, const ForwardOptions<T, D>& options) override {
    const Placement<D> at = place(ctx, batch, options);
    rope_.reserve(ctx, at.length);
    rope_local_.reserve(ctx, at.length);
    // transformers rounds sqrt(C) to the compute type first: bf16 makes 25.298 into 25.25.
    const float scale = static_cast<float>(T(std::sqrt(static_cast<float>(config_.hidden_size))));
    auto x = embedding(ctx, embed_tokens_, batch.ids, scale);  // (N, C)
    x = run_blocks(ctx, x, blocks_, at, options,
                   [this, &ctx](Block& b, const Tensor<T, D>& in, const Placement<D>& where,
                                typename KvCache<T, D>::Layer* cache) { return block(ctx, b, in, where, cache); });
    return options.layers >= 0 ? x : norm(ctx, x, norm_);
  }

  Parameter<T, D>& head() override { return embed_tokens_; }

  void visit(const std::function<void(Parameter<T, D>&)>& f) override {
    f(embed_tokens_);
    for (Block& b : blocks_) {
      for (Linear<T, D>* l : {&b.q_proj, &b.k_proj, &b.v_proj, &b.o_proj}) l->visit(f);
      f(b.q_norm);
      f(b.k_norm);
      for (Linear<T, D>* l : {&b.gate_proj, &b.up_proj, &b.down_proj}) l->visit(f);
      for (Parameter<T, D>* w : {&b.input_layernorm, &b.post_attention_layernorm, &b.pre_feedforward_layernorm,
                                 &b.post_feedforward_layernorm})
        f(*w);
    }
    f(norm_);
  }

  KvCache<T, D> make_cache(Context<D>& ctx, int64_t slots, int64_t capacity) override {
    return {ctx, config_.num_hidden_layers, config_.num_key_value_heads, config_.head_dim, slots, capacity};
  }
  Json config() const override { return json_; }
  int64_t context_length() const override { return config_.max_position_embeddings; }

 private:
  /// Gemma's norm weights are kept about zero and stand for 1 + w: offset 1.
  Tensor<T, D> norm(Context<D>& ctx, const Tensor<T, D>& x, Parameter<T, D>& w) {
    return rms_norm(ctx, x, w, config_.rms_norm_eps, 1.0f);
  }

  Tensor<T, D> block(Context<D>& ctx, Block& b, const Tensor<T, D>& x, const Placement<D>& at,
                     typename KvCache<T, D>::Layer* cache) {
    const auto& c = config_;
    RopeTable<T, D>& table = b.sliding ? rope_local_ : rope_;
    const AttentionOptions options{.window = b.sliding ? c.sliding_window : 0,
                                   .scale = 1 / std::sqrt(c.query_pre_attn_scalar)};
    auto h = norm(ctx, x, b.input_layernorm);  // (N, C)
    const auto q = rope(ctx, norm(ctx, split_heads(ctx, b.q_proj(ctx, h), c.head_dim), b.q_norm), table,
                        at.positions);  // (N, H, hd)
    const auto k = rope(ctx, norm(ctx, split_heads(ctx, b.k_proj(ctx, h), c.head_dim), b.k_norm), table,
                        at.positions);                                                        // (N, KV, hd)
    const auto v = split_heads(ctx, b.v_proj(ctx, h), c.head_dim);                            // (N, KV, hd)
    h = b.o_proj(ctx, merge_heads(ctx, cached_attention(ctx, q, k, v, at, options, cache)));  // (N, C)
    h = norm(ctx, h, b.post_attention_layernorm);
    Tensor<T, D> y;
    std::tie(y, h) = add_rms_norm(ctx, x, h, b.pre_feedforward_layernorm, c.rms_norm_eps, 1.0f);
    h = b.down_proj(ctx, geglu_tanh(ctx, b.gate_proj(ctx, h), b.up_proj(ctx, h)));
    return add(ctx, y, norm(ctx, h, b.post_feedforward_layernorm));
  }

  Json json_;
  Gemma3Config config_;
  RopeTable<T, D> rope_, rope_local_;
  Parameter<T, D> embed_tokens_, norm_;
  std::vector<Block> blocks_;
};

}  // namespace ft::inline FTLIB_ABI
