// models/qwen2.hpp: Qwen2 and Qwen2.5. Llama's block with biases on q, k and v; late layers may have a window.
// arXiv:2407.10671; transformers' models/qwen2.
#pragma once
#include <ftlib/models/kit/config.hpp>

namespace ft::inline FTLIB_ABI {

struct Qwen2Config : TransformerConfig {
  static constexpr const char *name = "qwen2", *gguf_name = "qwen2", *class_name = "Qwen2ForCausalLM";
  RopeOptions rope;
  bool qkv_bias = true, o_bias = false, qk_norm = false;  // Qwen3 has others
  int64_t sliding_window = 0;
  std::vector<bool> sliding;  // a layer: attends to the window alone

  void fields(ConfigFields& f) override { describe(f, 0); }
  TensorMap tensors() const override { return {num_hidden_layers, qwen_tensors()}; }
  std::vector<TensorRule> qwen_tensors() const {
    auto rules = common_tensors();
    rules.push_back({"model.layers.{}.post_attention_layernorm", "blk.{}.ffn_norm"});
    rules.push_back({"model.layers.{}.self_attn.q_norm", "blk.{}.attn_q_norm"});
    rules.push_back({"model.layers.{}.self_attn.k_norm", "blk.{}.attn_k_norm"});
    return rules;
  }
  LayerTraits layer(int64_t i) const override {
    LayerTraits t{.qkv_bias = qkv_bias,
                  .o_bias = o_bias,
                  .rope = &rope,
                  .window = sliding[static_cast<std::size_t>(i)] ? sliding_window : 0};
    if (qk_norm) t.q_norm = "self_attn.q_norm", t.k_norm = "self_attn.k_norm";
    return t;
  }

 protected:
  void describe(ConfigFields& f, int64_t default_head_dim) {
    common(f, /*tied=*/false, default_head_dim, 32768);
    f.rope(rope, head_dim, 10000);
    bool windows = std::find(sliding.begin(), sliding.end(), true) != sliding.end();
    int64_t first = std::find(sliding.begin(), sliding.end(), true) - sliding.begin();
    f.flag("use_sliding_window", nullptr, windows, false);
    f.size("sliding_window", nullptr, sliding_window, 4096);
    f.size("max_window_layers", nullptr, first, 28, 0);
    std::vector<bool> late;
    for (int64_t i = 0; i < num_hidden_layers; ++i) late.push_back(windows && i >= first);
    f.sliding(sliding, num_hidden_layers, late);
    if (!windows) sliding.assign(sliding.size(), false);
    f.expect("hidden_act", "silu");
  }
};

}  // namespace ft::inline FTLIB_ABI
