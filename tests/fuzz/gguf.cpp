// tests/fuzz/gguf.cpp: any bytes as a GGUF file: an Error, or a file that can be read to its last byte, and that is an
// adapter of a small model or an Error.
#include "../io/walk.hpp"

#include <ftlib/models/kit/gguf_adapter.hpp>

namespace {
ft::GgufDescription small_model() {
  using enum ft::Transform;
  ft::GgufDescription model;
  model.architecture = "llama";
  model.map = ft::TensorMap(
      2, {{.hf = "layers.{}.q_proj", .gguf = "blk.{}.attn_q", .transform = permute_heads, .heads = 2},
          {.hf = "layers.{}.up_proj", .gguf = "blk.{}.ffn_up"},
          {.hf = "layers.{}.qkv", .gguf = "blk.{}.attn_k", .transform = split, .end = 4},
          {.hf = "layers.{}.qkv", .gguf = "blk.{}.attn_v", .transform = split, .begin = 4, .end = 8},
          {.hf = "layers.{}.experts.{e}.up", .gguf = "blk.{}.ffn_up_exps", .transform = stack, .experts = 2}});
  return model;
}
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  static const ft::GgufDescription small = small_model();
  try {
    const auto file = ft::GgufFile::parse(std::as_bytes(std::span(data, size)), "fuzz.gguf");
    ft::test::walk(file);
    ft::read_gguf_adapter(small, file);
  } catch (const ft::Error&) {
  }
  return 0;
}
