// models/autoencoder_kl_config.hpp: the configuration of AutoencoderKL and AutoencoderKLFlux2, in diffusers' words.
#pragma once
#include <ftlib/io/json.hpp>                 // Json
#include <ftlib/models/kit/json_reader.hpp>  // ConfigReader

#include <string>  // std::string
#include <vector>  // std::vector

namespace ft::inline FTLIB_ABI {

struct AutoencoderKLConfig {
  int64_t in_channels = 3, out_channels = 3;
  int64_t latent_channels = 4;
  std::vector<int64_t> encoder = {64}, decoder = {64};  // channels of each block, from pixels inwards
  int64_t layers_per_block = 1;                         // of the encoder; the decoder has one more
  int64_t norm_num_groups = 32;
  bool use_quant_conv = true, use_post_quant_conv = true, mid_block_add_attention = true;
  // FLUX.2's: latents go in patches of 2 x 2, normalised by running means and variances that its file holds
  bool patches = false;
  float batch_norm_eps = 1e-4f;
  double scaling_factor = 0.18215, shift_factor = 0;  // the other's: latents go as (z - shift_factor) scaling_factor

  static bool is_known(const std::string& name) { return name == "AutoencoderKL" || name == "AutoencoderKLFlux2"; }
  /// Pixels along a side of a place of the latents that a denoiser works on, and their channels.
  int64_t pixels() const { return (int64_t{1} << (encoder.size() - 1)) * (patches ? 2 : 1); }
  int64_t channels() const { return latent_channels * (patches ? 4 : 1); }

  /// Throws Error, naming `file`, where a field makes no sense or says what is not computed.
  static AutoencoderKLConfig from_json(const Json& json, const std::string& file) {
    const ConfigReader read{json, file};
    AutoencoderKLConfig c;
    c.patches = value_or<std::string>(json, "_class_name", "", file) == "AutoencoderKLFlux2";
    c.in_channels = read.size("in_channels", 3);
    c.out_channels = read.size("out_channels", 3);
    c.latent_channels = read.size("latent_channels", c.patches ? 32 : 4);
    c.encoder = at<std::vector<int64_t>>(json, "block_out_channels", file);
    c.decoder = c.encoder;
    if (json.contains("decoder_block_out_channels") && !json["decoder_block_out_channels"].is_null())
      c.decoder = at<std::vector<int64_t>>(json, "decoder_block_out_channels", file);
    c.layers_per_block = read.size("layers_per_block", c.patches ? 2 : 1);
    c.norm_num_groups = read.size("norm_num_groups", 32);
    c.use_quant_conv = read.flag("use_quant_conv", true);
    c.use_post_quant_conv = read.flag("use_post_quant_conv", true);
    c.mid_block_add_attention = read.flag("mid_block_add_attention", true);
    c.batch_norm_eps = read.number("batch_norm_eps", 1e-4f);
    c.scaling_factor = value_or<double>(json, "scaling_factor", 0.18215, file);
    if (json.contains("shift_factor") && !json["shift_factor"].is_null())
      c.shift_factor = at<double>(json, "shift_factor", file);
    read.expect("act_fn", "silu");
    for (const auto& [key, known] :
         {std::pair{"down_block_types", "DownEncoderBlock2D"}, std::pair{"up_block_types", "UpDecoderBlock2D"}})
      for (const auto& type : value_or<std::vector<std::string>>(json, key, {}, file))
        if (type != known) throw Error(str(file, ": ", key, " has a '", type, "'; ", known, " alone is computed"));
    for (const char* mean : {"latents_mean", "latents_std"})
      if (json.contains(mean) && !json[mean].is_null())
        throw Error(str(file, ": ", mean, " is given, which is not computed"));
    if (value_or<std::vector<int64_t>>(json, "patch_size", {2, 2}, file) != std::vector<int64_t>{2, 2})
      throw Error(str(file, ": patch_size other than 2 x 2 is not computed"));
    for (const std::vector<int64_t>* blocks : {&c.encoder, &c.decoder}) {
      if (blocks->empty() || blocks->size() > 8 || blocks->size() != c.encoder.size())
        throw Error(str(file, ": ", c.encoder.size(), " and ", c.decoder.size(), " blocks make no sense"));
      for (const int64_t channels : *blocks)
        if (channels < 1 || channels > 1 << 16 || channels % c.norm_num_groups)
          throw Error(str(file, ": a block of ", channels, " channels in ", c.norm_num_groups, " groups"));
    }
    if (!(c.scaling_factor > 0) || !(c.batch_norm_eps >= 0))
      throw Error(
          str(file, ": scaling_factor ", c.scaling_factor, " or batch_norm_eps ", c.batch_norm_eps, " makes no sense"));
    return c;
  }
};

}  // namespace ft::inline FTLIB_ABI
