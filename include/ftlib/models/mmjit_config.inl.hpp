// models/mmjit_config.inl.hpp: the bodies of models/mmjit_config.hpp.
#pragma once
#include <ftlib/io/json.hpp>                 // Json
#include <ftlib/models/kit/json_reader.hpp>  // ConfigReader
#include <ftlib/models/mmjit_config.hpp>

namespace ft::inline FTLIB_ABI {

FTLIB_INLINE MMJiTConfig MMJiTConfig::from_json(const Json& json, const std::string& file) {
  const ConfigReader read{json, file};
  MMJiTConfig c;
  c.image_size = read.size("image_size");
  c.in_channels = read.size("in_channels", 3);
  c.patch_size = read.size("patch_size");
  c.pca_channels = read.size("pca_channels");
  c.hidden_size = read.size("hidden_size");
  c.txt_input_size = read.size("txt_input_size");
  c.txt_preamble_depth = at<int64_t>(json, "txt_preamble_depth", file);
  c.depth_double = read.size("depth_double");
  c.num_heads = read.size("num_heads");
  c.head_dim = read.size("head_dim");
  c.mlp_ratio = at<double>(json, "mlp_ratio", file);
  c.prompt_length = read.size("prompt_length");
  c.rope_theta = read.number("rope_theta", 10000);
  c.noise_scale = read.number("noise_scale", static_cast<float>(c.image_size) / 256);
  const auto conditioning = value_or<std::string>(json, "conditioning", "none", file);
  if (conditioning != "none" && conditioning != "adaln_zero")
    throw Error(str(file, ": conditioning '", conditioning, "' is not known"), "known are none and adaln_zero.");
  c.conditioning = conditioning == "none" ? Conditioning::none : Conditioning::adaln_zero;
  c.llm = value_or<std::string>(json, "llm", "", file);
  c.n_T = read.size("n_T", 100);
  read.expect("prediction", "x");
  for (const char* width : {"txt_hidden_size", "cond_vec_size"})
    if (const int64_t size = read.size(width, c.hidden_size); size != c.hidden_size)
      throw Error(str(file, ": ", width, " ", size, " is not hidden_size ", c.hidden_size), "ftlib has one width.");
  c.check(file);
  return c;
}

FTLIB_INLINE Json MMJiTConfig::to_json() const {
  Json json{{"model_type", "mmjit"},
            {"image_size", image_size},
            {"in_channels", in_channels},
            {"patch_size", patch_size},
            {"pca_channels", pca_channels},
            {"hidden_size", hidden_size},
            {"txt_hidden_size", hidden_size},
            {"cond_vec_size", hidden_size},
            {"txt_input_size", txt_input_size},
            {"txt_preamble_depth", txt_preamble_depth},
            {"depth_double", depth_double},
            {"num_heads", num_heads},
            {"head_dim", head_dim},
            {"mlp_ratio", mlp_ratio},
            {"prompt_length", prompt_length},
            {"rope_theta", rope_theta},
            {"noise_scale", noise_scale},
            {"prediction", "x"},
            {"conditioning", conditioning == Conditioning::none ? "none" : "adaln_zero"}};
  if (!llm.empty()) json.update({{"llm", llm}, {"n_T", n_T}});
  return json;
}

FTLIB_INLINE void MMJiTConfig::check(const std::string& file) const {
  const ConfigReader read{{}, file};
  read.expect_divides("patch_size", patch_size, "image_size", image_size);
  read.expect_divides("two axes of rotary pairs, so", 4, "head_dim", head_dim);
  read.expect_divides("two axes of sines and cosines, so", 4, "hidden_size", hidden_size);
  if (txt_preamble_depth < 0 || !(mlp_ratio > 0 && mlp_ratio < 1024) || prompt_length < 1 || !(noise_scale > 0))
    throw Error(str(file, ": txt_preamble_depth ", txt_preamble_depth, ", mlp_ratio ", mlp_ratio, ", prompt_length ",
                    prompt_length, " or noise_scale ", noise_scale, " makes no sense"));
}

FTLIB_INLINE DenoiserInfo MMJiTConfig::info() const {
  DenoiserInfo info{.model_type = "mmjit",
                    .channels = in_channels,
                    .side = image_size,
                    .text_width = txt_input_size,
                    .noise_scale = noise_scale,
                    .predicts = Predicts::picture,
                    .picture_layers = {"img_embedder.proj1", "img_embedder.proj2", "img_qkv", "img_attn_proj",
                                       "img_mlp.w1", "img_mlp.w2", "img_mlp.w3", "final_layer.linear"}};
  if (conditioning == Conditioning::adaln_zero) info.picture_layers.names.push_back("adaLN_modulation.1");
  else info.unused = {"t_embedder.", "pooled_embedder"};
  if (!llm.empty()) {  // as MiniT2I's authors draw B/16 and L/16
    info.steps = n_T;
    info.guidance = hidden_size <= 768 ? 2.5f : 6.0f;
  }
  return info;
}

}  // namespace ft::inline FTLIB_ABI
