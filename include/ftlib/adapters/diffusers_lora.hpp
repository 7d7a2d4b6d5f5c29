// adapters/diffusers_lora.hpp: LoRA adapters as diffusers' files: pytorch_lora_weights.safetensors, for models of
// pictures.
#pragma once
#include <ftlib/adapters/peft.hpp>  // hang_lora, lora_adapters

#include <algorithm>    // std::replace
#include <filesystem>   // std::filesystem::path
#include <map>          // std::map
#include <optional>     // std::optional
#include <set>          // std::set
#include <string>       // std::string
#include <string_view>  // std::string_view

namespace ft::inline FTLIB_ABI {

namespace detail {
/// The file that `path` stands for: itself, or diffusers' default name in a folder.
inline std::filesystem::path diffusers_lora_file(const std::filesystem::path& path) {
  return path.extension() == ".safetensors" ? path : path / "pytorch_lora_weights.safetensors";
}

enum class LoraPart { none, a, b, alpha };

/// What a key says it holds: "transformer.double_blocks.0.img_qkv.lora_A.weight" -> "double_blocks.0.img_qkv", a.
inline std::pair<std::string, LoraPart> parse_lora_key(const std::string& key) {
  using enum LoraPart;
  static constexpr std::pair<std::string_view, LoraPart> endings[] = {
      {".lora_A.weight", a},         {".lora_B.weight", b},                              // diffusers, PEFT
      {".lora_A.default.weight", a}, {".lora_B.default.weight", b},                      // PEFT's state_dict
      {".lora_down.weight", a},      {".lora_up.weight", b},        {".alpha", alpha}};  // kohya
  static constexpr std::string_view beginnings[] = {"transformer.", "base_model.model.", "diffusion_model.",
                                                    "model.net.",  // MiniT2I's own script, behind another one
                                                    "lora_unet_",   "lora_transformer_"};
  for (const auto& [ending, part] : endings) {
    if (!key.ends_with(ending)) continue;
    std::string_view layer = std::string_view(key).substr(0, key.size() - ending.size());
    for (bool again = true; again;) {
      again = false;
      for (const std::string_view beginning : beginnings)
        if (layer.starts_with(beginning)) {
          layer.remove_prefix(beginning.size());
          again = true;
        }
    }
    return {std::string(layer), part};
  }
  return {key, none};
}
}  // namespace detail

/// Writes the LoRA adapters that hang on `parameters` as diffusers' save_lora_weights does: keys
/// transformer.<module>.lora_A.weight (R, in) and lora_B.weight (out, R), PEFT's configuration in the header's
/// metadata. `path` is a .safetensors file, or a folder for one. `config` is what they were attached with;
/// `file_shapes` names weights that are convolutions in files (MMJiT::file_shapes), whose A is (R, ch, p, p) and B
/// (out, R, 1, 1).
template <Scalar T, Device D>
void save_diffusers_lora(Context<D>& ctx, const std::filesystem::path& path,
                         std::span<Parameter<T, D>* const> parameters, const Lora& config,
                         const std::map<std::string, Shape>& file_shapes = {}) {
  const auto adapters = detail::lora_adapters(parameters);
  const auto file = detail::diffusers_lora_file(path);
  if (adapters.empty())
    throw Error(str(file.string(), ": there is no adapter to save"), "attach one, or save the whole model.");
  std::vector<std::vector<T>> values;
  std::vector<TensorEntry> entries;
  std::set<std::string> modules;
  for (const auto& [w, lora] : adapters) {
    modules.insert(module_of(w->name));
    Shape a = lora->a.shape(), b = lora->b.shape();
    if (const auto found = file_shapes.find(w->name); found != file_shapes.end() && found->second.rank() == 4) {
      a = found->second;
      a[0] = lora->a.shape()[0];
      b = {b[0], b[1], 1, 1};
    }
    for (const auto& [p, shape] : {std::pair(&lora->a, a), std::pair(&lora->b, b)}) {
      values.push_back(p->value.to_host(ctx));
      entries.push_back({"transformer." + p->name, dtype_of<T>, shape, values.back().data()});
    }
  }
  const Json json{{"transformer.r", config.rank},
                  {"transformer.lora_alpha", config.alpha},
                  {"transformer.lora_dropout", config.dropout},
                  {"transformer.use_rslora", config.rslora},
                  {"transformer.bias", "none"},
                  {"transformer.target_modules", modules}};
  std::error_code error;
  if (!file.parent_path().empty()) std::filesystem::create_directories(file.parent_path(), error);
  if (error) throw Error(str(file.parent_path().string(), ": cannot make the folder: ", error.message()));
  write_safetensors(file, entries, {{"format", "pt"}, {"lora_adapter_metadata", json.dump(2)}});
}

/// Reads such a file and hangs its adapters onto `parameters`, which are frozen; returns the configuration. Also reads
/// PEFT's, ai-toolkit's and ComfyUI's prefixes, and kohya's names (lora_unet_double_blocks_0_img_qkv.lora_down.weight,
/// .lora_up.weight, .alpha); without metadata and .alpha, alpha is the rank. Throws Error, and changes nothing, for
/// keys that match no layer (it says which, and how many of all), for shapes that do not fit, for DoRA, and for ranks
/// or alphas that differ from layer to layer.
template <Scalar T, Device D>
Lora load_diffusers_lora(Context<D>& ctx, const std::filesystem::path& path,
                         std::span<Parameter<T, D>* const> parameters) {
  const auto file = SafetensorsFile::open(detail::diffusers_lora_file(path));
  const auto unsupported = [&](const std::string& what) {
    return Error(str(file.file_name(), ": ", what, " is not supported"), "only plain LoRA of one rank and alpha is.");
  };
  std::map<std::string, Parameter<T, D>*> by_module;  // by its name, and by kohya's, which has no dots
  for (Parameter<T, D>* w : parameters) {
    if (w->kind != WeightKind::linear) continue;
    std::string module = module_of(w->name);
    by_module[module] = w;
    std::replace(module.begin(), module.end(), '.', '_');
    by_module[module] = w;
  }
  detail::LoraKeys<T, D> pairs;
  std::map<Parameter<T, D>*, float> alphas;
  std::vector<std::string> unmatched;
  for (const std::string& key : file.names()) {
    if (key.find("dora_scale") != std::string::npos || key.find("magnitude_vector") != std::string::npos)
      throw unsupported(str("'", key, "' (DoRA)"));
    const auto [module, part] = detail::parse_lora_key(key);
    const auto found = by_module.find(module);
    if (part == detail::LoraPart::none || found == by_module.end()) {
      unmatched.push_back(key);
      continue;
    }
    if (part == detail::LoraPart::alpha) {
      const Stored<Cpu> value = file.tensor(key);
      if (value.shape.count() != 1) throw Error(str(file.file_name(), ": '", key, "' ", value.shape, " is no number"));
      dequantise_row(value.type, value.data, 0, 1, &alphas[found->second]);
      continue;
    }
    auto& pair = pairs[found->second];
    auto& own = part == detail::LoraPart::a ? pair.first : pair.second;
    if (!own.empty()) throw Error(str(file.file_name(), ": '", own, "' and '", key, "' are for one layer"));
    own = key;
  }

  Lora config;
  for (const auto& [w, pair] : pairs)
    if (!pair.first.empty()) config.rank = static_cast<int>(file.info(pair.first).shape[0]);
  config.alpha = static_cast<float>(config.rank);
  config.targets = {};
  if (const auto found = file.metadata().find("lora_adapter_metadata"); found != file.metadata().end()) {
    const std::string where = file.file_name() + ": lora_adapter_metadata";
    const Json json = parse_json(found->second, where);
    const auto has = [&](const char* key) { return json.contains(key) && !json[key].empty(); };
    for (const char* key : {"transformer.rank_pattern", "transformer.alpha_pattern"})
      if (has(key)) throw unsupported(key);
    if (value_or<bool>(json, "transformer.use_dora", false, where)) throw unsupported("use_dora");
    config.rank = value_or<int32_t>(json, "transformer.r", config.rank, where);
    config.alpha = value_or<float>(json, "transformer.lora_alpha", config.alpha, where);
    config.rslora = value_or<bool>(json, "transformer.use_rslora", false, where);
    config.dropout = value_or<float>(json, "transformer.lora_dropout", 0, where);
  }
  if (!alphas.empty()) {
    std::set<float> different;
    for (const auto& [w, pair] : pairs) {
      const auto own = alphas.find(w);
      different.insert(own == alphas.end() ? static_cast<float>(config.rank) : own->second);
    }
    if (different.size() > 1)
      throw unsupported(str("an alpha of ", *different.begin(), " beside one of ", *different.rbegin()));
    if (!different.empty()) config.alpha = *different.begin();
  }
  if (config.rank < 1) throw Error(str(file.file_name(), ": rank ", config.rank, " is no rank"));
  detail::hang_lora(ctx, file, parameters, pairs, unmatched, config);
  return config;
}

}  // namespace ft::inline FTLIB_ABI
