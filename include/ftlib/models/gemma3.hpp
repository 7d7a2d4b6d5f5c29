// models/gemma3.hpp: Gemma 3 (text). Norms before and after each part, norms on q and k, local layers with a window
// between global ones, GEGLU. arXiv:2503.19786; transformers' models/gemma3.
#pragma once
#include <ftlib/models/kit/decoder.hpp>

#include <cmath>  // std::sqrt

namespace ft::inline FTLIB_ABI {

struct Gemma3Config : TransformerConfig {
  static constexpr const char *name = "gemma3_text", *gguf_name = "gemma3", *class_name = "Gemma3ForCausalLM";
  RopeOptions rope, rope_local;
  bool attention_bias = false;
  float query_pre_attn_scalar = 0;  // scores are divided by its root
  int64_t sliding_window = 0;
  std::vector<bool> sliding;  // a layer: attends to the window alone

  void fields(ConfigFields& f) override {
    common(f, /*tied=*/true, 256, 32768);
    if (!tie_word_embeddings) f.fail("Gemma 3 with an untied LM head is not known");
    f.rope(rope, head_dim, 1e6f, "full_attention");
    f.local_rope(rope_local, head_dim, 10000);
    f.flag("attention_bias", nullptr, attention_bias, false);
    // GGUF has no key for it: Gemma 3 27B (62 layers) is the one whose scale is not by the head's size.
    f.number("query_pre_attn_scalar", nullptr, query_pre_attn_scalar,
             static_cast<float>(f.is_gguf() && num_hidden_layers == 62 ? hidden_size / num_attention_heads : head_dim));
    f.size("sliding_window", "attention.sliding_window", sliding_window, f.is_gguf() ? 512 : 4096);
    std::vector<bool> usual;
    for (int64_t i = 0; i < num_hidden_layers; ++i) usual.push_back((i + 1) % 6 != 0);
    f.sliding(sliding, num_hidden_layers, usual);
    f.expect("hidden_activation", "gelu_pytorch_tanh");
  }
  TensorMap tensors() const override {
    auto rules = common_tensors();
    for (const auto& [hf, gguf] :
         {std::pair{"self_attn.q_norm", "attn_q_norm"}, std::pair{"self_attn.k_norm", "attn_k_norm"},
          std::pair{"post_attention_layernorm", "post_attention_norm"},
          std::pair{"pre_feedforward_layernorm", "ffn_norm"}, std::pair{"post_feedforward_layernorm", "post_ffw_norm"}})
      rules.push_back({str("model.layers.{}.", hf), str("blk.{}.", gguf)});
    for (TensorRule& r : rules)  // norms are kept about zero; GGUF has 1 + w
      if (r.hf.ends_with("norm")) r = {.hf = r.hf, .gguf = r.gguf, .transform = Transform::shift, .shift = 1};
    return {num_hidden_layers, rules};
  }
};

template <Scalar T, Device D> struct Gemma3Block {
  NormLayer<T, D> input_layernorm, post_attention_layernorm;  // (C)
  Attention<T, D> self_attn;
  NormLayer<T, D> pre_feedforward_layernorm, post_feedforward_layernorm;  // (C)
  Mlp<T, D> mlp;

  Tensor<T, D> operator()(Context<D>& ctx, const Tensor<T, D>& x, const Placement<D>& at,
                          typename KvCache<T, D>::Layer* cache) {
    const auto a = post_attention_layernorm(ctx, self_attn(ctx, input_layernorm(ctx, x), at, cache));  // (N, C)
    const auto [y, h] = pre_feedforward_layernorm.after_add(ctx, x, a);
    return add(ctx, y, post_feedforward_layernorm(ctx, mlp(ctx, h)));
  }
  KvShape kept() const { return self_attn.kept(); }
  void visit(const std::function<void(Parameter<T, D>&)>& f) {
    self_attn.visit(f);
    mlp.visit(f);
    for (auto* n :
         {&input_layernorm, &post_attention_layernorm, &pre_feedforward_layernorm, &post_feedforward_layernorm})
      n->visit(f);
  }
};

template <Scalar T, Device D> class Gemma3 final : public Decoder<T, D, Gemma3Config, Gemma3Block<T, D>> {
 public:
  [[gnu::cold]] Gemma3(Context<D>& ctx, Gemma3Config config, Weights& weights)
      : Decoder<T, D, Gemma3Config, Gemma3Block<T, D>>(ctx, std::move(config), weights) {
    const Gemma3Config& c = this->config_;
    // transformers rounds sqrt(C) to the compute type first: bf16 makes 25.298 into 25.25.
    this->embed_tokens_.scale = static_cast<float>(T(std::sqrt(static_cast<float>(c.hidden_size))));
    const auto rotary = std::make_shared<Rotary<T, D>>(c.rope), local = std::make_shared<Rotary<T, D>>(c.rope_local);
    const WeightReader<T, D> read{ctx, weights};
    const auto norm = [&](const std::string& name, int64_t size) {
      return read.rms_norm(name, size, c.rms_norm_eps, /*offset=*/1);
    };
    for (int64_t i = 0; i < c.num_hidden_layers; ++i) {
      const std::string at = str("model.layers.", i, '.');
      const bool window = c.sliding[static_cast<std::size_t>(i)];
      Gemma3Block<T, D> b;
      b.input_layernorm = norm(at + "input_layernorm", c.hidden_size);
      b.self_attn = read.attention(at + "self_attn.", c, c.attention_bias, c.attention_bias);
      b.self_attn.q_norm = norm(at + "self_attn.q_norm", c.head_dim);
      b.self_attn.k_norm = norm(at + "self_attn.k_norm", c.head_dim);
      b.self_attn.rotary = window ? local : rotary;
      b.self_attn.options = {.window = window ? c.sliding_window : 0, .scale = 1 / std::sqrt(c.query_pre_attn_scalar)};
      b.post_attention_layernorm = norm(at + "post_attention_layernorm", c.hidden_size);
      b.pre_feedforward_layernorm = norm(at + "pre_feedforward_layernorm", c.hidden_size);
      b.mlp = read.gated_mlp(at + "mlp.", c, Activation::gelu_tanh);
      b.post_feedforward_layernorm = norm(at + "post_feedforward_layernorm", c.hidden_size);
      this->blocks_.push_back(std::move(b));
    }
    this->norm_ = norm("model.norm", c.hidden_size);
  }
};

}  // namespace ft::inline FTLIB_ABI
