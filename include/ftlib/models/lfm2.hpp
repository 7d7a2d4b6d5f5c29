// models/lfm2.hpp: LFM2 and LFM2.5, dense: most layers are a gated short convolution, some are attention with norms on
// q and k. transformers' models/lfm2.
#pragma once
#include <ftlib/models/kit/config.hpp>

namespace ft::inline FTLIB_ABI {

struct Lfm2Config : TransformerConfig {
  static constexpr const char *name = "lfm2", *gguf_name = "lfm2", *class_name = "Lfm2ForCausalLM";
  RopeOptions rope;
  int64_t conv_L_cache = 3;
  std::vector<std::string> layer_types;  // "conv" or "full_attention"

  void fields(ConfigFields& f) override {
    f.vocabulary(vocab_size);
    f.size("hidden_size", "embedding_length", hidden_size, 2560);
    f.size("num_hidden_layers", "block_count", num_hidden_layers, 32);
    f.size("num_attention_heads", "attention.head_count", num_attention_heads, 32);
    f.size("num_key_value_heads", nullptr, num_key_value_heads, f.is_gguf() ? num_attention_heads : 8);
    f.size("max_position_embeddings", "context_length", max_position_embeddings, 128000);
    f.number("norm_eps", "attention.layer_norm_rms_epsilon", rms_norm_eps, 1e-5f);
    f.tied(tie_word_embeddings, true);
    f.flag("tie_embedding", nullptr, tie_word_embeddings, tie_word_embeddings);  // counts where both are said
    feed_forward(f);
    kinds(f);
    f.size(nullptr, "attention.key_length", head_dim, std::max<int64_t>(1, hidden_size / num_attention_heads));
    if (num_attention_heads % num_key_value_heads)
      f.fail(str("num_key_value_heads ", num_key_value_heads, " does not divide ", num_attention_heads, " heads"));
    f.rope(rope, head_dim, 1e6f);
    f.size("conv_L_cache", "shortconv.l_cache", conv_L_cache, 3);
    bool bias = false, swiglu = true;
    f.flag("conv_bias", nullptr, bias, false);
    if (bias) f.fail("conv_bias is true: a convolution with a bias is not computed");
    f.flag("block_use_swiglu", nullptr, swiglu, true);
    if (!swiglu) f.fail("block_use_swiglu is false, which is not computed");
    for (const char* of_others : {"block_", "conv_", "use_pos_enc", "num_heads", "theta"}) f.pass_over(of_others);
  }
  TensorMap tensors() const override {
    auto rules = common_tensors();
    rules.push_back({"model.embedding_norm", "token_embd_norm"});  // the last norm, whatever its name
    for (const auto& [hf, gguf] :
         {std::pair{"operator_norm", "attn_norm"}, std::pair{"ffn_norm", "ffn_norm"},
          std::pair{"self_attn.out_proj", "attn_output"}, std::pair{"self_attn.q_layernorm", "attn_q_norm"},
          std::pair{"self_attn.k_layernorm", "attn_k_norm"}, std::pair{"conv.in_proj", "shortconv.in_proj"},
          std::pair{"conv.out_proj", "shortconv.out_proj"}, std::pair{"feed_forward.w1", "ffn_gate"},
          std::pair{"feed_forward.w3", "ffn_up"}, std::pair{"feed_forward.w2", "ffn_down"}})
      rules.push_back({str("model.layers.{}.", hf), str("blk.{}.", gguf)});
    rules.push_back({"model.layers.{}.conv.conv", "blk.{}.shortconv.conv", Transform::squeeze});
    return {num_hidden_layers, rules};
  }
  LayerTraits layer(int64_t i) const override {
    LayerTraits t{.input_norm = "operator_norm",
                  .o = "self_attn.out_proj",
                  .q_norm = "self_attn.q_layernorm",
                  .k_norm = "self_attn.k_layernorm",
                  .mlp_norm = "ffn_norm",
                  .gate = "feed_forward.w1",
                  .up = "feed_forward.w3",
                  .down = "feed_forward.w2",
                  .rope = &rope};
    if (layer_types[static_cast<std::size_t>(i)] == "conv") t.conv = "conv.", t.conv_length = conv_L_cache;
    return t;
  }
  DecoderTraits decoder() const override { return {.norm = "model.embedding_norm"}; }

 private:
  /// The width as it is built: config.json may say what it is computed from.
  void feed_forward(ConfigFields& f) {
    bool adjust = false;
    float multiplier = 1;
    int64_t multiple = 1;
    f.size("intermediate_size", "feed_forward_length", intermediate_size, 12288);
    f.size("block_ff_dim", nullptr, intermediate_size, intermediate_size);
    f.flag("block_auto_adjust_ff_dim", nullptr, adjust, !f.is_gguf());
    f.number("block_ffn_dim_multiplier", nullptr, multiplier, 1);
    f.size("block_multiple_of", nullptr, multiple, 256);
    if (!adjust) return;
    const auto part = static_cast<int64_t>(multiplier * static_cast<float>(2 * intermediate_size / 3));
    intermediate_size = (part + multiple - 1) / multiple * multiple;
  }
  /// Which layers are attention: by name, by number, or in GGUF those that have key-value heads.
  void kinds(ConfigFields& f) {
    const auto L = static_cast<std::size_t>(num_hidden_layers);
    std::vector<int64_t> attention, kv(L, num_key_value_heads);
    for (std::size_t i = 0; i < L; ++i) {
      if (layer_types.size() == L && layer_types[i] == "conv") kv[i] = 0;
      else attention.push_back(static_cast<int64_t>(i));
    }
    f.each_layer("full_attn_idxs", nullptr, attention, -1, attention);
    f.each_layer(nullptr, "attention.head_count_kv", kv, num_hidden_layers, kv);
    std::vector<std::string> types(L, "conv");
    if (f.is_gguf()) {
      for (std::size_t i = 0; i < L; ++i)
        if (kv[i] > 0) types[i] = "full_attention", num_key_value_heads = kv[i];
    } else {
      for (const int64_t i : attention)
        if (i >= 0 && i < num_hidden_layers) types[static_cast<std::size_t>(i)] = "full_attention";
    }
    f.each_layer("layer_types", layer_types, num_hidden_layers, types);
    for (std::size_t i = 0; i < L; ++i) {
      if (layer_types[i] != "conv" && layer_types[i] != "full_attention")
        f.fail(str("layer_types holds '", layer_types[i], "', which is not computed for this architecture"));
      if (f.is_gguf() && kv[i] != 0 && kv[i] != num_key_value_heads)
        f.fail(str("attention.head_count_kv is ", kv[i], " in one layer and ", num_key_value_heads, " in another"));
    }
  }
};

}  // namespace ft::inline FTLIB_ABI
