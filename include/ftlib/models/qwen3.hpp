// models/qwen3.hpp: Qwen3, dense. Qwen2 without its biases, with norms on q and k, and a head size of its own.
// arXiv:2505.09388; transformers' models/qwen3.
#pragma once
#include <ftlib/models/qwen2.hpp>

namespace ft::inline FTLIB_ABI {

struct Qwen3Config : Qwen2Config {
  static constexpr const char *name = "qwen3", *gguf_name = "qwen3", *class_name = "Qwen3ForCausalLM";

  void fields(ConfigFields& f) override {
    describe(f, 128);
    f.flag("attention_bias", nullptr, o_bias, false);
    qkv_bias = o_bias;
    qk_norm = true;
  }
};

}  // namespace ft::inline FTLIB_ABI
