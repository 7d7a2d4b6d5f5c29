// models/z_image_config.hpp: Z-Image's configuration, its rotary angles and times.
#pragma once
#include <ftlib/io/json.hpp>                 // Json
#include <ftlib/models/kit/denoiser.hpp>     // DenoiserInfo
#include <ftlib/models/kit/json_reader.hpp>  // ConfigReader

#include <array>   // std::array
#include <cmath>   // std::exp, std::pow
#include <string>  // std::string
#include <vector>  // std::vector

namespace ft::inline FTLIB_ABI {

/// In the words of diffusers' config.json; the defaults are the published model's.
struct ZImageConfig {
  int64_t in_channels = 16;  // of latents; patches of 2 x 2 are tokens
  int64_t dim = 3840;
  int64_t n_layers = 30, n_refiner_layers = 2, n_heads = 30;
  float norm_eps = 1e-5f;
  int64_t cap_feat_dim = 2560;  // of the text encoder's hidden states
  double rope_theta = 256, t_scale = 1000;
  std::vector<int64_t> axes_dims = {32, 48, 48};  // elements of a head that turn by word or picture, row, column
  // Ours, for published files do not say them:
  int64_t side = 64;          // of the latents that it learns and draws: 512 pixels (sample_size)
  int64_t text_length = 512;  // tokens of a text at most (max_sequence_length)
  double shift = 3;           // of times, as scheduler_config.json says it; 0: by the number of tokens (time_shift)
  bool distilled = false;     // Turbo: eight steps, no guidance (is_distilled)

  static constexpr int64_t patch = 2, multiple = 32, waves = 256, time_hidden = 1024;
  int64_t head_dim() const { return dim / n_heads; }
  int64_t time_width() const { return std::min<int64_t>(dim, 256); }
  int64_t mlp_size() const { return static_cast<int64_t>(static_cast<double>(dim) / 3 * 8); }
  int64_t patch_values() const { return patch * patch * in_channels; }

  /// Throws Error, naming `file`, where a field is missing or says what is not computed.
  static ZImageConfig from_json(const Json& json, const std::string& file) {
    const ConfigReader read{json, file};
    ZImageConfig c;
    c.in_channels = read.size("in_channels");
    c.dim = read.size("dim");
    c.n_layers = read.size("n_layers");
    c.n_refiner_layers = read.size("n_refiner_layers", 2);
    c.n_heads = read.size("n_heads");
    c.norm_eps = read.number("norm_eps", 1e-5f);
    c.cap_feat_dim = read.size("cap_feat_dim");
    c.rope_theta = value_or<double>(json, "rope_theta", 256.0, file);
    c.t_scale = value_or<double>(json, "t_scale", 1000.0, file);
    c.axes_dims = value_or<std::vector<int64_t>>(json, "axes_dims", c.axes_dims, file);
    c.side = read.size("sample_size", 64);
    c.text_length = read.size("max_sequence_length", 512);
    c.shift = value_or<double>(json, "time_shift", 3.0, file);
    c.distilled = read.flag("is_distilled", false);
    read.expect_divides("n_heads", c.n_heads, "dim", c.dim);
    read.expect_divides("a patch's side", patch, "sample_size", c.side);
    const auto one = [&](const char* key, int64_t known) {
      if (value_or<std::vector<int64_t>>(json, key, {known}, file) != std::vector{known})
        throw Error(str(file, ": ", key, " other than ", known, " is not computed"));
    };
    one("all_patch_size", patch);
    one("all_f_patch_size", 1);
    if (read.size("n_kv_heads", c.n_heads) != c.n_heads || !read.flag("qk_norm", true))
      throw Error(str(file, ": n_kv_heads other than n_heads, and qk_norm off, are not computed"));
    if (json.contains("siglip_feat_dim") && !json["siglip_feat_dim"].is_null())
      throw Error(file + ": siglip_feat_dim is given: pictures as conditions (Omni) are not computed");
    int64_t turning = 0;
    for (const int64_t axis : c.axes_dims) turning += axis % 2 || axis < 0 ? c.head_dim() + 1 : axis;
    if (c.axes_dims.size() != 3 || turning != c.head_dim() || !(c.rope_theta > 1) || !(c.t_scale > 0) ||
        !(c.shift >= 0))
      throw Error(str(file, ": axes_dims, ", c.n_heads, " heads of ", c.head_dim(), ", rope_theta ", c.rope_theta,
                      ", t_scale ", c.t_scale, " or time_shift ", c.shift, " makes no sense"));
    return c;
  }
  Json to_json() const {
    return {{"model_type", "z_image"},      {"_class_name", "ZImageTransformer2DModel"},
            {"all_patch_size", {patch}},    {"all_f_patch_size", {1}},
            {"in_channels", in_channels},   {"dim", dim},
            {"n_layers", n_layers},         {"n_refiner_layers", n_refiner_layers},
            {"n_heads", n_heads},           {"n_kv_heads", n_heads},
            {"norm_eps", norm_eps},         {"qk_norm", true},
            {"cap_feat_dim", cap_feat_dim}, {"rope_theta", rope_theta},
            {"t_scale", t_scale},           {"axes_dims", axes_dims},
            {"sample_size", side},          {"max_sequence_length", text_length},
            {"time_shift", shift},          {"is_distilled", distilled}};
  }
  /// Takes the shift of a pipeline's scheduler_config.json. Throws Error where that asks for what is not computed.
  [[gnu::cold]] void take_scheduler(const Json& json, const std::string& file) {
    const ConfigReader read{json, file};
    read.expect("_class_name", "FlowMatchEulerDiscreteScheduler");
    read.expect("time_shift_type", "exponential");
    shift = read.flag("use_dynamic_shifting", false) ? 0 : double{read.number("shift", 1)};
    for (const char* other :
         {"use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "invert_sigmas", "stochastic_sampling"})
      if (read.flag(other, false)) throw Error(str(file, ": ", other, " is not computed"));
    if (json.contains("shift_terminal") && !json["shift_terminal"].is_null())
      throw Error(file + ": shift_terminal is not computed");
    if (shift == 0 && (read.number("base_shift", 0.5f) != 0.5f || read.number("max_shift", 1.15f) != 1.15f))
      throw Error(file + ": base_shift and max_shift other than 0.5 and 1.15 are not computed");
    if (!(shift >= 0)) throw Error(str(file, ": shift ", shift, " makes no sense"));
  }
  /// diffusers guides by v + g (v - v_dropped), which is a guidance of g + 1 here; its pipeline's g is 5, Turbo's 0.
  DenoiserInfo info() const {
    return {.model_type = "z_image",
            .channels = in_channels,
            .side = side,
            .latents = true,
            .text_width = cap_feat_dim,
            .dropped_is_empty = true,
            .predicts = Predicts::velocity,
            .picture_layers = {"to_q", "to_k", "to_v", "to_out.0"},
            .steps = distilled ? 8 : 50,
            .guidance = distilled ? 1.0f : 6.0f};
  }
  /// Qwen3's states before its last layer of a user's message, thinking on: diffusers' pipeline_z_image.
  Json text_encoding() const {
    return {{"layer", -1}, {"before", ""},           {"mean", Json::array()}, {"scale", Json::array()},
            {"limit", 0},  {"longest", text_length}, {"chat", true},          {"thinking", true}};
  }

  /// Adds the angles of a place's pairs, which lie together: hd / 2 of them.
  void put_angles(std::vector<float>& to, const std::array<int64_t, 3>& place) const {
    for (std::size_t axis = 0; axis < 3; ++axis)
      for (int64_t i = 0; i < axes_dims[axis]; i += 2)
        to.push_back(
            static_cast<float>(static_cast<double>(place[axis]) *
                               std::pow(rope_theta, -static_cast<double>(i) / static_cast<double>(axes_dims[axis]))));
  }
  /// The time of step u = k / steps: 1 - sigma, sigma = s / (s + 1 / (1 - u) - 1), s the shift or e^mu, mu linear from
  /// 0.5 at 256 tokens to 1.15 at 4096. diffusers' FlowMatchEulerDiscreteScheduler, calculate_shift
  float time_of(float u, int64_t tokens) const {
    if (u <= 0 || u >= 1) return u;
    const double mu = 0.5 + (static_cast<double>(tokens) - 256) * (1.15 - 0.5) / (4096 - 256);
    const double s = shift > 0 ? shift : std::exp(mu);
    return static_cast<float>(1 - s / (s + 1 / (1 - double{u}) - 1));
  }
};

}  // namespace ft::inline FTLIB_ABI
