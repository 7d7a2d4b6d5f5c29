// models/flux2_config.hpp: FLUX.2-klein's configuration, its rotary angles and times, and the names of its single file.
#pragma once
#include <ftlib/io/json.hpp>                 // Json
#include <ftlib/io/safetensors.hpp>          // SafetensorsModel
#include <ftlib/models/kit/denoiser.hpp>     // DenoiserInfo
#include <ftlib/models/kit/json_reader.hpp>  // ConfigReader
#include <ftlib/models/kit/tensor_map.hpp>   // rows_of, joined
#include <ftlib/models/kit/weights.hpp>      // Weights

#include <array>    // std::array
#include <cmath>    // std::exp, std::pow
#include <string>   // std::string
#include <utility>  // std::pair
#include <vector>   // std::vector

namespace ft::inline FTLIB_ABI {

/// In the words of diffusers' config.json; the defaults are klein 4B's.
struct Flux2Config {
  int64_t in_channels = 128;       // of latents, in patches of 2 x 2
  int64_t num_layers = 5;          // double blocks
  int64_t num_single_layers = 20;  // single ones behind them
  int64_t num_attention_heads = 24;
  int64_t attention_head_dim = 128;
  int64_t joint_attention_dim = 7680;  // of the text encoder's hidden states
  int64_t timestep_guidance_channels = 256;
  double mlp_ratio = 3;
  float eps = 1e-6f;
  double rope_theta = 2000;
  std::vector<int64_t> axes_dims_rope = {32, 32, 32, 32};  // elements of a head that turn by time, row, column, word
  // Ours, for published files do not say them:
  int64_t side = 32;                            // of the latents that it learns and draws: 512 pixels (sample_size)
  std::vector<int64_t> text_layers{9, 18, 27};  // after which the text encoder's states are read
  int64_t text_length = 512;                    // rows of each text
  bool distilled = false;                       // model_index.json's is_distilled: four steps, no guidance

  int64_t width() const { return num_attention_heads * attention_head_dim; }
  int64_t mlp_size() const { return static_cast<int64_t>(static_cast<double>(width()) * mlp_ratio); }

  /// Throws Error, naming `file`, where a field is missing or says what is not computed.
  static Flux2Config from_json(const Json& json, const std::string& file) {
    const ConfigReader read{json, file};
    Flux2Config c;
    c.in_channels = read.size("in_channels");
    c.num_layers = read.size("num_layers");
    c.num_single_layers = read.size("num_single_layers");
    c.num_attention_heads = read.size("num_attention_heads");
    c.attention_head_dim = read.size("attention_head_dim");
    c.joint_attention_dim = read.size("joint_attention_dim");
    c.timestep_guidance_channels = read.size("timestep_guidance_channels", 256);
    c.mlp_ratio = value_or<double>(json, "mlp_ratio", 3.0, file);
    c.eps = read.number("eps", 1e-6f);
    c.rope_theta = value_or<double>(json, "rope_theta", 2000.0, file);
    c.axes_dims_rope = value_or<std::vector<int64_t>>(json, "axes_dims_rope", c.axes_dims_rope, file);
    c.side = read.size("sample_size", 32);
    c.text_layers = value_or<std::vector<int64_t>>(json, "text_encoder_out_layers", c.text_layers, file);
    c.text_length = read.size("max_sequence_length", 512);
    c.distilled = read.flag("is_distilled", false);
    if (read.flag("guidance_embeds", true))
      throw Error(str(file, ": guidance_embeds is true: the guidance that FLUX.2-dev is told is not computed"),
                  "klein's transformers, base and distilled, have none.");
    if (read.size("patch_size", 1) != 1 || read.size("out_channels", c.in_channels) != c.in_channels)
      throw Error(str(file, ": patch_size and out_channels other than 1 and in_channels are not computed"));
    int64_t turning = 0;
    for (const int64_t axis : c.axes_dims_rope) turning += axis % 2 || axis < 0 ? c.attention_head_dim + 1 : axis;
    if (c.axes_dims_rope.size() != 4 || turning != c.attention_head_dim || c.timestep_guidance_channels % 2 ||
        !(c.mlp_ratio > 0 && c.mlp_ratio < 64) || !(c.rope_theta > 1))
      throw Error(str(file, ": axes_dims_rope, attention_head_dim ", c.attention_head_dim,
                      ", timestep_guidance_channels ", c.timestep_guidance_channels, ", mlp_ratio ", c.mlp_ratio,
                      " or rope_theta ", c.rope_theta, " makes no sense"));
    return c;
  }
  Json to_json() const {
    return {{"model_type", "flux2"},
            {"_class_name", "Flux2Transformer2DModel"},
            {"patch_size", 1},
            {"in_channels", in_channels},
            {"num_layers", num_layers},
            {"num_single_layers", num_single_layers},
            {"num_attention_heads", num_attention_heads},
            {"attention_head_dim", attention_head_dim},
            {"joint_attention_dim", joint_attention_dim},
            {"timestep_guidance_channels", timestep_guidance_channels},
            {"mlp_ratio", mlp_ratio},
            {"eps", eps},
            {"rope_theta", rope_theta},
            {"axes_dims_rope", axes_dims_rope},
            {"guidance_embeds", false},
            {"sample_size", side},
            {"text_encoder_out_layers", text_layers},
            {"max_sequence_length", text_length},
            {"is_distilled", distilled}};
  }
  /// Qwen3's states of a user's message, thinking off, padded: diffusers' pipeline_flux2_klein.
  Json text_encoding() const {
    return {{"layers", text_layers},  {"before", ""}, {"mean", Json::array()}, {"scale", Json::array()}, {"limit", 0},
            {"longest", text_length}, {"chat", true}, {"padded", true}};
  }
  /// Throws Error where a pipeline's scheduler_config.json asks for other times than time_of()'s.
  [[gnu::cold]] static void check_scheduler(const Json& json, const std::string& file) {
    const ConfigReader read{json, file};
    read.expect("_class_name", "FlowMatchEulerDiscreteScheduler");
    read.expect("time_shift_type", "exponential");
    if (!read.flag("use_dynamic_shifting", false))
      throw Error(file +
                  ": use_dynamic_shifting is off: times that do not depend on the picture's size are not computed");
    for (const char* other :
         {"use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "invert_sigmas", "stochastic_sampling"})
      if (read.flag(other, false)) throw Error(str(file, ": ", other, " is not computed"));
    if (json.contains("shift_terminal") && !json["shift_terminal"].is_null())
      throw Error(file + ": shift_terminal is not computed");
  }
  DenoiserInfo info() const {
    return {.model_type = "flux2",
            .channels = in_channels,
            .side = side,
            .latents = true,
            .text_width = joint_attention_dim,
            .dropped_is_empty = true,
            .predicts = Predicts::velocity,
            .picture_layers = {"to_q", "to_k", "to_v", "to_out.0", "to_qkv_mlp_proj", "attn.to_out"},
            .steps = distilled ? 4 : 50,
            .guidance = distilled ? 1.0f : 4.0f};
  }

  /// Angles of a head's pairs, which lie together: the places of h x w latents row by row, then words, (P, hd / 2).
  std::vector<float> angles(int64_t h, int64_t w, int64_t words) const {
    std::vector<float> all;
    const auto put = [&](const std::array<int64_t, 4>& place) {
      for (std::size_t axis = 0; axis < 4; ++axis)
        for (int64_t i = 0; i < axes_dims_rope[axis]; i += 2)
          all.push_back(static_cast<float>(
              static_cast<double>(place[axis]) *
              std::pow(rope_theta, -static_cast<double>(i) / static_cast<double>(axes_dims_rope[axis]))));
    };
    for (int64_t row = 0; row < h; ++row)
      for (int64_t column = 0; column < w; ++column) put({0, row, column, 0});
    for (int64_t i = 0; i < words; ++i) put({0, 0, 0, i});
    return all;
  }

  /// The time of step u = k / steps of a drawing of so many places: 1 - sigma, sigma = e^mu / (e^mu + 1 / (1 - u) - 1).
  /// diffusers' compute_empirical_mu and FlowMatchEulerDiscreteScheduler
  static float time_of(float u, int64_t steps, int64_t places) {
    if (u <= 0 || u >= 1) return u;
    const auto n = static_cast<double>(places);
    double mu = 0.00016927 * n + 0.45666666;
    if (places <= 4300) {
      const double at_10 = 8.73809524e-05 * n + 1.89833333, slope = (mu - at_10) / 190;
      mu += slope * (static_cast<double>(steps) - 200);
    }
    return static_cast<float>(1 - std::exp(mu) / (std::exp(mu) + 1 / (1 - double{u}) - 1));
  }

  /// What the names and shapes of Black Forest Labs' single file say; null where it is another.
  static Json of_single_file(const SafetensorsModel& file);
};

namespace detail {

/// A single file's names begin with nothing, or as ComfyUI writes them.
inline std::string flux2_plain(std::string name) {
  for (const std::string_view beginning : {"model.diffusion_model.", "diffusion_model."})
    if (name.starts_with(beginning)) name.erase(0, beginning.size());
  return name;
}

/// "double_blocks.3.img_attn.qkv.weight" -> {"double_blocks.", "3", "img_attn.qkv.weight"}
inline std::array<std::string, 3> flux2_parts(const std::string& name) {
  const auto first = name.find('.'), second = name.find('.', first + 1);
  return {name.substr(0, first + 1), name.substr(first + 1, second - first - 1), name.substr(second + 1)};
}

}  // namespace detail

[[gnu::cold]] inline Json Flux2Config::of_single_file(const SafetensorsModel& file) {
  Flux2Config c;
  c.num_layers = c.num_single_layers = c.in_channels = c.attention_head_dim = 0;
  int64_t C = 0;
  for (const std::string& name : file.names()) {
    const std::string plain = detail::flux2_plain(name);
    const Shape shape = file.file_of(name).info(name).shape;
    const auto [kind, number, rest] = detail::flux2_parts(plain);
    if (plain == "img_in.weight" && shape.rank() == 2) C = shape[0], c.in_channels = shape[1];
    if (plain == "txt_in.weight" && shape.rank() == 2) c.joint_attention_dim = shape[1];
    if (plain == "time_in.in_layer.weight" && shape.rank() == 2) c.timestep_guidance_channels = shape[1];
    if (rest == "img_attn.norm.query_norm.scale" && shape.rank() == 1) c.attention_head_dim = shape[0];
    if (kind == "double_blocks." && rest == "img_attn.qkv.weight") ++c.num_layers;
    if (kind == "single_blocks." && rest == "linear1.weight") ++c.num_single_layers;
    if (kind == "double_blocks." && rest == "img_mlp.2.weight" && shape.rank() == 2 && shape[0] > 0)
      c.mlp_ratio = static_cast<double>(shape[1]) / static_cast<double>(shape[0]);
  }
  const bool modulated = file.contains("double_stream_modulation_img.lin.weight") ||
                         file.contains("model.diffusion_model.double_stream_modulation_img.lin.weight") ||
                         file.contains("diffusion_model.double_stream_modulation_img.lin.weight");
  if (!modulated || C < 1 || c.attention_head_dim < 1 || C % c.attention_head_dim || c.attention_head_dim % 8)
    return nullptr;
  c.num_attention_heads = C / c.attention_head_dim;
  c.axes_dims_rope.assign(4, c.attention_head_dim / 4);
  return c.to_json();
}

/// Puts a tensor under diffusers' name, those of Black Forest Labs' single file among them: q, k and v apart, and the
/// last layer's scale before its shift. Others stay as they are.
[[gnu::cold]] inline void put_flux2_tensor(Weights& weights, const std::string& name, const Stored<Cpu>& tensor) {
  static constexpr std::pair<std::string_view, std::string_view> whole[] = {
      {"img_in.", "x_embedder."},
      {"txt_in.", "context_embedder."},
      {"time_in.in_layer.", "time_guidance_embed.timestep_embedder.linear_1."},
      {"time_in.out_layer.", "time_guidance_embed.timestep_embedder.linear_2."},
      {"double_stream_modulation_img.lin.", "double_stream_modulation_img.linear."},
      {"double_stream_modulation_txt.lin.", "double_stream_modulation_txt.linear."},
      {"single_stream_modulation.lin.", "single_stream_modulation.linear."},
      {"final_layer.linear.", "proj_out."}};
  static constexpr std::pair<std::string_view, std::string_view> inside[] = {
      {"img_attn.proj.weight", "attn.to_out.0.weight"},
      {"txt_attn.proj.weight", "attn.to_add_out.weight"},
      {"img_attn.norm.query_norm.scale", "attn.norm_q.weight"},
      {"img_attn.norm.key_norm.scale", "attn.norm_k.weight"},
      {"txt_attn.norm.query_norm.scale", "attn.norm_added_q.weight"},
      {"txt_attn.norm.key_norm.scale", "attn.norm_added_k.weight"},
      {"img_mlp.0.weight", "ff.linear_in.weight"},
      {"img_mlp.2.weight", "ff.linear_out.weight"},
      {"txt_mlp.0.weight", "ff_context.linear_in.weight"},
      {"txt_mlp.2.weight", "ff_context.linear_out.weight"},
      {"linear1.weight", "attn.to_qkv_mlp_proj.weight"},
      {"linear2.weight", "attn.to_out.weight"},
      {"norm.query_norm.scale", "attn.norm_q.weight"},
      {"norm.key_norm.scale", "attn.norm_k.weight"}};
  const std::string plain = detail::flux2_plain(name);
  const int64_t rows = tensor.shape.rank() ? tensor.shape[0] : 0;
  if (plain == "final_layer.adaLN_modulation.1.weight" && rows % 2 == 0)
    return weights.put(
        "norm_out.linear.weight",
        detail::joined({detail::rows_of(tensor, rows / 2, rows), detail::rows_of(tensor, 0, rows / 2)}, false));
  for (const auto& [theirs, ours] : whole)
    if (plain.starts_with(theirs)) return weights.put(std::string(ours) + plain.substr(theirs.size()), tensor);
  const auto [kind, number, rest] = detail::flux2_parts(plain);
  if (kind != "double_blocks." && kind != "single_blocks.") return weights.put(plain, tensor);
  const std::string at =
      (kind == "double_blocks." ? "transformer_blocks." : "single_transformer_blocks.") + number + '.';
  for (const auto& [stream, parts] :
       {std::pair{"img_attn.qkv.weight", std::array{"to_q", "to_k", "to_v"}},
        std::pair{"txt_attn.qkv.weight", std::array{"add_q_proj", "add_k_proj", "add_v_proj"}}})
    if (rest == stream && rows % 3 == 0) {
      for (std::size_t i = 0; i < 3; ++i)
        weights.put(at + "attn." + parts[i] + ".weight", detail::rows_of(tensor, static_cast<int64_t>(i) * rows / 3,
                                                                         (static_cast<int64_t>(i) + 1) * rows / 3));
      return;
    }
  for (const auto& [theirs, ours] : inside)
    if (rest == theirs) return weights.put(at + std::string(ours), tensor);
  weights.put(plain, tensor);  // which the model does not take: an error that names it
}

}  // namespace ft::inline FTLIB_ABI
