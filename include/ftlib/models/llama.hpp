// models/llama.hpp: Llama 2 and 3, SmolLM2, TinyLlama. Pre-norm, rotary positions, grouped-query attention, SwiGLU.
// arXiv:2302.13971, 2305.13245; transformers' models/llama.
#pragma once
#include <ftlib/models/kit/decoder.hpp>

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
  TensorMap tensors() const override {
    auto rules = common_tensors();
    rules.push_back(
        {"model.layers.{}.self_attn.q_proj", "blk.{}.attn_q", Transform::permute_heads, num_attention_heads});
    rules.push_back(
        {"model.layers.{}.self_attn.k_proj", "blk.{}.attn_k", Transform::permute_heads, num_key_value_heads});
    rules.push_back({"model.layers.{}.post_attention_layernorm", "blk.{}.ffn_norm"});
    rules.push_back({"rope_freqs", "rope_freqs"});  // Llama 3's scaling as divisors; Hugging Face has it in config.json
    return {num_hidden_layers, rules};
  }
};

template <Scalar T, Device D> class Llama final : public Decoder<T, D, LlamaConfig, PreNormBlock<T, D>> {
 public:
  using Base = Decoder<T, D, LlamaConfig, PreNormBlock<T, D>>;

  [[gnu::cold]] Llama(Context<D>& ctx, LlamaConfig config, Weights& weights) : Base(ctx, std::move(config), weights) {
    LlamaConfig& c = this->config_;
    if (weights.has("rope_freqs.weight")) c.rope.divisors = weights.numbers("rope_freqs.weight", c.head_dim / 2);
    const auto rotary = std::make_shared<Rotary<T, D>>(c.rope);
    const WeightReader<T, D> read{ctx, weights};
    for (int64_t i = 0; i < c.num_hidden_layers; ++i) {
      const std::string at = str("model.layers.", i, '.');
      PreNormBlock<T, D> b;
      b.input_layernorm = read.rms_norm(at + "input_layernorm", c.hidden_size, c.rms_norm_eps);
      b.self_attn = read.attention(at + "self_attn.", c, c.attention_bias, c.attention_bias);
      b.self_attn.rotary = rotary;
      b.post_attention_layernorm = read.rms_norm(at + "post_attention_layernorm", c.hidden_size, c.rms_norm_eps);
      b.mlp = read.gated_mlp(at + "mlp.", c, Activation::silu, c.mlp_bias);
      this->blocks_.push_back(std::move(b));
      weights.ignore(at + "self_attn.rotary_emb.inv_freq");  // a constant that old checkpoints carry
    }
    this->norm_ = read.rms_norm("model.norm", c.hidden_size, c.rms_norm_eps);
  }
};

}  // namespace ft::inline FTLIB_ABI
