// models/phi3.hpp: Phi-3, Phi-3.5-mini and Phi-4-mini. Llama with q, k and v as one matrix, gate and up as another, a
// part of each head that turns, longrope, a window. arXiv:2404.14219, 2503.01743; transformers' models/phi3.
#pragma once
#include <ftlib/models/kit/config.hpp>

namespace ft::inline FTLIB_ABI {

struct Phi3Config : TransformerConfig {
  static constexpr const char *name = "phi3", *gguf_name = "phi3", *class_name = "Phi3ForCausalLM";
  RopeOptions rope;
  int64_t sliding_window = 0;

  void fields(ConfigFields& f) override {
    common(f, /*tied=*/false, 0, 4096, 1e-5f);
    f.rope(rope, head_dim, 10000, nullptr, /*partial=*/true);
    f.pass_over("original_max_position_embeddings");  // where there is longrope, f.rope has read it
    f.window("attention.sliding_window", sliding_window, 0);
    f.expect("hidden_act", "silu");
  }
  TensorMap tensors() const override {
    auto rules = common_tensors();
    rules.push_back({"model.layers.{}.self_attn.qkv_proj", "blk.{}.attn_qkv"});
    rules.push_back({"model.layers.{}.mlp.gate_up_proj", "blk.{}.ffn_up"});
    rules.push_back({"model.layers.{}.post_attention_layernorm", "blk.{}.ffn_norm"});
    return {num_hidden_layers, rules};
  }
  LayerTraits layer(int64_t) const override {
    return {.qkv = "self_attn.qkv_proj", .gate_up = "mlp.gate_up_proj", .rope = &rope, .window = sliding_window};
  }
  int64_t long_from() const override { return long_from_of(rope); }
  std::string in_llama_cpp() const override {
    std::string otherwise;
    if (sliding_window)
      otherwise = str("llama.cpp leaves Phi-3's window of ", sliding_window,
                      " tokens out (sliding_window): longer texts are read in full there");
    if (long_from())
      otherwise += str(otherwise.empty() ? "" : "; ",
                       "llama.cpp takes longrope's long factors for every text where its "
                       "context is over ",
                       long_from(), " tokens (--ctx-size), and the short ones where it is not");
    return otherwise;
  }
};

}  // namespace ft::inline FTLIB_ABI
