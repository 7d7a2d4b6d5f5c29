// models/llama.hpp: Llama 2 and 3, SmolLM2, TinyLlama. Pre-norm, rotary positions, grouped-query attention, SwiGLU.
// arXiv:2302.13971, 2305.13245; transformers' models/llama.
#pragma once
#include <ftlib/models/kit/config.hpp>

namespace ft::inline FTLIB_ABI {

struct LlamaConfig : TransformerConfig {
  static constexpr const char *name = "llama", *gguf_name = "llama", *class_name = "LlamaForCausalLM";
  RopeOptions rope;
  bool attention_bias = false, mlp_bias = false;  // attention's on q, k, v and o

  void fields(ConfigFields& f) override {
    common(f, /*tied=*/false);
    f.rope(rope, head_dim, 10000);
    f.flag("attention_bias", nullptr, attention_bias, false);
    f.flag("mlp_bias", nullptr, mlp_bias, false);
    f.expect("hidden_act", "silu");
  }
  TensorMap tensors() const override { return {num_hidden_layers, llama_tensors()}; }
  LayerTraits layer(int64_t) const override {
    return {.qkv_bias = attention_bias, .o_bias = attention_bias, .mlp_bias = mlp_bias, .rope = &rope};
  }
  void prepare(Weights& weights) const override {
    for (int64_t i = 0; i < num_hidden_layers; ++i)  // a constant that old checkpoints carry
      weights.ignore(str("model.layers.", i, ".self_attn.rotary_emb.inv_freq"));
  }

 protected:
  /// The names in a GGUF of llama's kind, whose rows of q and k are permuted.
  std::vector<TensorRule> llama_tensors() const {
    auto rules = common_tensors();
    rules.push_back(
        {"model.layers.{}.self_attn.q_proj", "blk.{}.attn_q", Transform::permute_heads, num_attention_heads});
    rules.push_back(
        {"model.layers.{}.self_attn.k_proj", "blk.{}.attn_k", Transform::permute_heads, num_key_value_heads});
    rules.push_back({"model.layers.{}.post_attention_layernorm", "blk.{}.ffn_norm"});
    return rules;
  }
};

}  // namespace ft::inline FTLIB_ABI
