// tests/image/tiny_mmjit.hpp: the sizes of an MM-JiT that learns in seconds.
#pragma once
#include <ftlib/models/mmjit.hpp>

namespace ft::test {

inline const MMJiTConfig tiny_mmjit{.image_size = 8,
                                    .patch_size = 4,
                                    .pca_channels = 16,
                                    .hidden_size = 32,
                                    .txt_input_size = 6,
                                    .txt_preamble_depth = 1,
                                    .depth_double = 2,
                                    .num_heads = 2,
                                    .head_dim = 16,
                                    .prompt_length = 1,
                                    .noise_scale = 1,
                                    .conditioning = Conditioning::adaln_zero};

}  // namespace ft::test
