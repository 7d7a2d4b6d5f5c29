// models/mistral.hpp: Mistral 7B and its kin of one form. Llama with a window over all layers, or none. Its GGUF files
// are of the architecture llama, and have no word for the window: llama.cpp attends to everything. arXiv:2310.06825;
// transformers' models/mistral.
#pragma once
#include <ftlib/models/llama.hpp>

namespace ft::inline FTLIB_ABI {

struct MistralConfig : LlamaConfig {
  static constexpr const char *name = "mistral", *gguf_name = "llama", *class_name = "MistralForCausalLM";
  using from_gguf = LlamaConfig;
  int64_t sliding_window = 0;  // keys that a token sees; 0: all

  void fields(ConfigFields& f) override {
    common(f, /*tied=*/false, 0, 131072);
    f.rope(rope, head_dim, 10000);
    f.window(nullptr, sliding_window, 4096);
    f.expect("hidden_act", "silu");
  }
  LayerTraits layer(int64_t) const override { return {.rope = &rope, .window = sliding_window}; }
};

}  // namespace ft::inline FTLIB_ABI
