// models/gpt2.hpp: GPT-2 and its kin (DistilGPT2). LayerNorm, learned positions, one matrix for q, k and v, GELU
// without a gate, biases everywhere. Its folders hold matrices as (in, out). transformers' models/gpt2.
#pragma once
#include <ftlib/models/kit/config.hpp>

namespace ft::inline FTLIB_ABI {

struct Gpt2Config : TransformerConfig {
  static constexpr const char *name = "gpt2", *gguf_name = "gpt2", *class_name = "GPT2LMHeadModel";

  void fields(ConfigFields& f) override {
    f.vocabulary(vocab_size);
    f.size("n_embd", "embedding_length", hidden_size, 768);
    f.size("n_inner", "feed_forward_length", intermediate_size, 4 * hidden_size);
    f.size("n_layer", "block_count", num_hidden_layers, 12);
    f.size("n_head", "attention.head_count", num_attention_heads, 12);
    f.size(nullptr, "attention.head_count_kv", num_key_value_heads, num_attention_heads);
    f.size("n_positions", "context_length", max_position_embeddings, 1024);
    f.number("layer_norm_epsilon", "attention.layer_norm_epsilon", rms_norm_eps, 1e-5f);
    f.tied(tie_word_embeddings, true);
    f.expect("activation_function", "gelu_new");
    bool scaled = true;
    f.flag("scale_attn_weights", nullptr, scaled, true);
    if (!scaled) f.fail("scale_attn_weights is false: attention without a scale is not computed");
    if (hidden_size % num_attention_heads || num_key_value_heads != num_attention_heads)
      f.fail(str(num_attention_heads, " heads of ", num_key_value_heads, " keys do not fit a width of ", hidden_size));
    head_dim = hidden_size / num_attention_heads;
    // n_ctx says n_positions again; reorder_and_upcast_attn is the same in other arithmetic; summaries are of other
    // heads.
    for (const char* of_others : {"n_ctx", "reorder_and_upcast_attn", "summary_"}) f.pass_over(of_others);
  }
  TensorMap tensors() const override {
    std::vector<TensorRule> rules;
    for (const std::string at : {"", "transformer."}) {  // a model that was saved without its head has no prefix
      for (const auto& [hf, gguf] :
           {std::pair{"wte", "token_embd"}, std::pair{"wpe", "position_embd"}, std::pair{"ln_f", "output_norm"},
            std::pair{"h.{}.ln_1", "blk.{}.attn_norm"}, std::pair{"h.{}.ln_2", "blk.{}.ffn_norm"}})
        rules.push_back({at + hf, gguf});
      for (const auto& [hf, gguf] :
           {std::pair{"h.{}.attn.c_attn", "blk.{}.attn_qkv"}, std::pair{"h.{}.attn.c_proj", "blk.{}.attn_output"},
            std::pair{"h.{}.mlp.c_fc", "blk.{}.ffn_up"}, std::pair{"h.{}.mlp.c_proj", "blk.{}.ffn_down"}})
        rules.push_back({at + hf, gguf, Transform::transpose});
    }
    rules.push_back({"lm_head", "output"});
    return {num_hidden_layers, rules};
  }
  LayerTraits layer(int64_t) const override {
    return {.input_norm = "ln_1",
            .o = "attn.c_proj",
            .qkv = "attn.c_attn",
            .mlp_norm = "ln_2",
            .gate = nullptr,
            .up = "mlp.c_fc",
            .down = "mlp.c_proj",
            .qkv_bias = true,
            .o_bias = true,
            .mlp_bias = true,
            .activation = Activation::gelu_tanh};
  }
  DecoderTraits decoder() const override {
    return {.embedding = "transformer.wte",
            .layers = "transformer.h.",
            .norm = "transformer.ln_f",
            .positions = "transformer.wpe",
            .transposed = true,
            .norm_kind = NormKind::layer};
  }
  void prepare(Weights& weights) const override {
    if (weights.has("wte.weight")) weights.put_below("transformer.", "lm_head.");  // saved without its head
    for (int64_t i = 0; i < num_hidden_layers; ++i)
      for (const char* mask : {"bias", "masked_bias"})  // constants that old checkpoints carry
        weights.ignore(str("transformer.h.", i, ".attn.", mask));
  }
};

}  // namespace ft::inline FTLIB_ABI
