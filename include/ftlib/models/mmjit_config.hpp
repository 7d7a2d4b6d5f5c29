// models/mmjit_config.hpp: what an application sees of MM-JiT: its configuration.
#pragma once
#include <ftlib/io/json_fwd.hpp>          // Json
#include <ftlib/models/kit/denoiser.hpp>  // DenoiserInfo

#include <string>  // std::string

namespace ft::inline FTLIB_ABI {

/// How the network learns the time, and of the caption as a whole.
enum class Conditioning {
  none,       // as published: not at all; how noisy a picture is can be seen
  adaln_zero  // each block's image stream is shifted, scaled and gated by SiLU(time + pooled caption): arXiv:2212.09748
};

/// In the words of the published config.json; the defaults are MiniT2I-B/16's.
struct MMJiTConfig {
  int64_t image_size = 512;  // height and width, in pixels
  int64_t in_channels = 3;
  int64_t patch_size = 16;         // a patch is a token
  int64_t pca_channels = 128;      // between the two maps of the patch embedding
  int64_t hidden_size = 768;       // of both streams
  int64_t txt_input_size = 1024;   // of the text encoder's hidden states
  int64_t txt_preamble_depth = 2;  // blocks that see text alone
  int64_t depth_double = 17;       // blocks that see both
  int64_t num_heads = 12;
  int64_t head_dim = 64;
  double mlp_ratio = 8.0 / 3;
  int64_t prompt_length = 256;  // mask_token fills shorter captions up to it; 1: each caption has its own length
  float rope_theta = 10000;
  float noise_scale = 2;  // of the noise that pictures are mixed with: 1 at 256 pixels, 2 at 512, as published
  Conditioning conditioning = Conditioning::none;
  std::string llm = {};  // the text encoder that a published model was trained with
  int64_t n_T = 100;     // steps that a published one is drawn in

  int64_t side() const { return image_size / patch_size; }  // of a picture, in patches
  int64_t patch_values() const { return in_channels * patch_size * patch_size; }
  int64_t picture_values() const { return in_channels * image_size * image_size; }
  int64_t mlp_size() const { return (static_cast<int64_t>(static_cast<double>(hidden_size) * mlp_ratio) + 7) / 8 * 8; }

  /// Throws Error, naming `file`, where a field is missing or the sizes do not fit one another.
  static MMJiTConfig from_json(const Json& json, const std::string& file);
  Json to_json() const;
  DenoiserInfo info() const;
  /// Throws Error where the sizes do not fit one another.
  void check(const std::string& file) const;
};

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/models/mmjit_config.inl.hpp>
#endif
