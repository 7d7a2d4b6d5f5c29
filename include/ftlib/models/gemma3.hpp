// models/gemma3.hpp: Gemma 3 (text). Norms before and after each part, norms on q and k, local layers with a window
// between global ones, GEGLU. arXiv:2503.19786; transformers' models/gemma3.
#pragma once
#include <ftlib/models/kit/config.hpp>

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
  LayerTraits layer(int64_t i) const override {
    const bool window = sliding[static_cast<std::size_t>(i)];
    return {.q_norm = "self_attn.q_norm",
            .k_norm = "self_attn.k_norm",
            .after_mixer = "post_attention_layernorm",
            .after_mlp = "post_feedforward_layernorm",
            .mlp_norm = "pre_feedforward_layernorm",
            .qkv_bias = attention_bias,
            .o_bias = attention_bias,
            .rope = window ? &rope_local : &rope,
            .window = window ? sliding_window : 0,
            .attention_scale = 1 / std::sqrt(query_pre_attn_scalar),
            .activation = Activation::gelu_tanh};
  }
  DecoderTraits decoder() const override {  // transformers rounds sqrt(C) to the compute type before it multiplies
    return {.embedding_scale = std::sqrt(static_cast<float>(hidden_size)), .rounded_scale = true, .norm_offset = 1};
  }
};

}  // namespace ft::inline FTLIB_ABI
