// models/smollm3.hpp: SmolLM3. Llama of which some layers, every fourth as released, have no positions; a window on
// chosen layers, which no released model has. transformers' models/smollm3.
#pragma once
#include <ftlib/models/llama.hpp>

namespace ft::inline FTLIB_ABI {

struct SmolLM3Config : LlamaConfig {
  static constexpr const char *name = "smollm3", *gguf_name = "smollm3", *class_name = "SmolLM3ForCausalLM";
  std::vector<int64_t> no_rope_layers;  // in spite of its name 1 where a layer has positions, 0 where it has none
  bool use_sliding_window = false;
  int64_t sliding_window = 0;
  std::vector<bool> sliding;  // a layer: attends to the window alone

  void fields(ConfigFields& f) override {
    common(f, /*tied=*/true, 0, 32768);
    f.rope(rope, head_dim, 2e6f);
    int64_t interval = 4;  // llama.cpp has it fixed
    f.size("no_rope_layer_interval", nullptr, interval, 4);
    std::vector<int64_t> usual;
    for (int64_t i = 0; i < num_hidden_layers; ++i) usual.push_back((i + 1) % interval != 0);
    if (f.is_gguf() && !no_rope_layers.empty() && no_rope_layers != usual)
      f.fail("no_rope_layers is not every fourth layer, which GGUF cannot say");
    f.each_layer("no_rope_layers", nullptr, no_rope_layers, num_hidden_layers, usual);
    f.flag("use_sliding_window", nullptr, use_sliding_window, false);
    f.window(nullptr, sliding_window, 0);
    std::vector<bool> windows;
    for (const int64_t turns : no_rope_layers) windows.push_back(use_sliding_window && sliding_window && !turns);
    f.sliding(sliding, num_hidden_layers, windows);
    f.flag("attention_bias", nullptr, attention_bias, false);
    f.flag("mlp_bias", nullptr, mlp_bias, false);
    f.expect("hidden_act", "silu");
  }
  LayerTraits layer(int64_t i) const override {
    const auto at = static_cast<std::size_t>(i);
    LayerTraits t = LlamaConfig::layer(i);
    if (!no_rope_layers[at]) t.rope = nullptr;
    if (use_sliding_window && sliding[at]) t.window = sliding_window;
    return t;
  }
};

}  // namespace ft::inline FTLIB_ABI
