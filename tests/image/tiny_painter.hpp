// tests/image/tiny_painter.hpp: a base of random weights that draws 32 x 32 in milliseconds, read by a tiny Llama.
#pragma once
#include <ftlib/image/painter.hpp>

#include <ftlib/io/json.hpp>
#include <ftlib/models/mmjit_config.hpp>

#include <filesystem>

namespace ft::test {

inline const std::filesystem::path tiny_text_model_file =
    std::filesystem::path(FTLIB_TEST_DATA) / "models" / "llama_q4_1.gguf";

inline TextEncoding tiny_encoding() { return {.layers = {1}, .before = "Emoji:", .mean = {}, .scale = {}, .limit = 6}; }

inline void write_tiny_base(const std::filesystem::path& folder, uint64_t seed = 1) {
  const MMJiTConfig config{.image_size = 32,
                           .patch_size = 8,
                           .pca_channels = 16,
                           .hidden_size = 32,
                           .txt_input_size = 64,
                           .txt_preamble_depth = 1,
                           .depth_double = 1,
                           .num_heads = 2,
                           .head_dim = 16,
                           .prompt_length = 1,
                           .noise_scale = 1,
                           .conditioning = Conditioning::adaln_zero};
  auto model = TextToImage<float, Cpu>::initial(config.to_json(), seed, {.threads = 1});
  Random random(seed + 6);
  for (auto* w : model.parameters()) {  // gates start at 0, and then words would change nothing
    auto values = w->value.to_host(model.context());
    for (float& v : values) v += 0.2f * static_cast<float>(random.normal());
    w->value = Tensor<float, Cpu>(model.context(), w->value.shape(), values);
  }
  std::filesystem::create_directories(folder);
  model.save(folder / "model.safetensors", DType::f16,
             {{"text_encoding", tiny_encoding().to_json().dump()}, {"style", "noto style"}});
}

}  // namespace ft::test
