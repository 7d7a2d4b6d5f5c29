// adapters/diffusers_lora.inl.hpp: the bodies of adapters/diffusers_lora.hpp.
#pragma once
#include <ftlib/adapters/data.inl.hpp>
#include <ftlib/adapters/diffusers_lora.hpp>
#include <ftlib/adapters/peft.hpp>   // read_peft
#include <ftlib/io/safetensors.hpp>  // SafetensorsFile, write_safetensors

#include <string_view>  // std::string_view

namespace ft::inline FTLIB_ABI {

namespace detail {
/// The file that `path` stands for: itself, or diffusers' default name in a folder.
inline std::filesystem::path diffusers_lora_file(const std::filesystem::path& path) {
  return path.extension() == ".safetensors" ? path : path / "pytorch_lora_weights.safetensors";
}

/// "transformer.double_blocks.0.img_qkv.lora_down.weight" -> "double_blocks.0.img_qkv.lora_A.weight"; other tensors
/// lose their prefix alone.
inline std::string plain_lora_name(const std::string& key) {
  static constexpr std::string_view beginnings[] = {"transformer.", "base_model.model.", "diffusion_model.",
                                                    "model.net.",  // MiniT2I's own script, behind another one
                                                    "lora_unet_",   "lora_transformer_"};
  static constexpr std::pair<std::string_view, std::string_view> kohya[] = {{".lora_down.weight", ".lora_A.weight"},
                                                                            {".lora_up.weight", ".lora_B.weight"}};
  std::string name = without_adapter_name(key);
  for (const auto& [theirs, ours] : kohya)
    if (name.ends_with(theirs)) name.replace(name.size() - theirs.size(), theirs.size(), ours);
  for (bool again = true; again;) {
    again = false;
    for (const std::string_view beginning : beginnings)
      if (name.starts_with(beginning)) {
        name.erase(0, beginning.size());
        again = true;
      }
  }
  return name;
}

/// MiniT2I's own script writes PEFT's folders, with its layers below "model.net.".
[[gnu::cold]] FTLIB_INLINE AdapterData read_minit2i_lora(const std::filesystem::path& folder) {
  constexpr std::string_view prefix = "model.net.";
  AdapterData data;
  if (path_exists(folder / "adapter_model.safetensors")) data = read_peft(folder);
  std::map<std::string, Stored<Cpu>> tensors;
  for (auto& [name, tensor] : data.tensors) {
    if (!name.starts_with(prefix)) continue;
    const std::string plain = name.substr(prefix.size());
    data.keys[plain] = data.key_of(name);
    tensors.emplace(plain, std::move(tensor));
  }
  if (tensors.empty() || tensors.size() != data.tensors.size())
    throw Error(str(folder.string(), ": holds a PEFT adapter of a language model"),
                "give it to CausalLM::load_adapter.");
  data.tensors = std::move(tensors);
  for (std::string& target : data.said_names)
    if (target.starts_with(prefix)) target.erase(0, prefix.size());
  return data;
}
}  // namespace detail

[[gnu::cold]] FTLIB_INLINE void write_diffusers_lora(const std::filesystem::path& path, const AdapterData& adapter,
                                                     const std::map<std::string, Shape>& file_shapes) {
  const auto file = detail::diffusers_lora_file(path);
  if (adapter.tensors.empty())
    throw Error(str(file.string(), ": there is no adapter to save"), "attach one, or save the whole model.");
  std::vector<TensorEntry> entries;
  for (const auto& [name, tensor] : adapter.tensors) {
    TensorEntry& e = entries.emplace_back(entry("transformer." + name, tensor));
    for (const auto& [weight, shape] : file_shapes) {
      if (shape.rank() != 4) continue;
      const std::string module = module_of(weight);
      if (name == module + ".lora_A.weight") e.shape = {tensor.shape[0], shape[1], shape[2], shape[3]};
      if (name == module + ".lora_B.weight") e.shape = {tensor.shape[0], tensor.shape[1], 1, 1};
    }
  }
  Json json = detail::lora_config_json(adapter.config, "transformer.");
  json.erase("transformer.use_dora");
  if (adapter.config.kind == "dora") json["transformer.use_dora"] = true;
  std::error_code error;
  if (!file.parent_path().empty()) std::filesystem::create_directories(file.parent_path(), error);
  if (error) throw Error(str(file.parent_path().string(), ": cannot make the folder: ", error.message()));
  write_safetensors(file, entries, {{"format", "pt"}, {"lora_adapter_metadata", json.dump(2)}});
}

[[gnu::cold]] FTLIB_INLINE AdapterData read_diffusers_lora(const std::filesystem::path& path) {
  const auto name = detail::diffusers_lora_file(path);
  if (!path_exists(name) && path_exists(path / "adapter_config.json")) return detail::read_minit2i_lora(path);
  const auto file = SafetensorsFile::open(name);
  AdapterData data;
  data.source = file.file_name();
  for (const std::string& key : file.names()) {
    if (key.find("dora_scale") != std::string::npos)
      throw Error(str(data.source, ": '", key, "' (DoRA) is not supported by kohya's names"),
                  "PEFT's and diffusers' DoRA is.");
    const std::string plain = detail::plain_lora_name(key);
    if (!data.tensors.emplace(plain, file.tensor(key)).second)
      throw Error(str(data.source, ": '", data.key_of(plain), "' and '", key, "' are for one layer"));
    data.keys[plain] = key;
  }
  data.rank_in_tensors = true;
  if (const auto found = file.metadata().find("lora_adapter_metadata"); found != file.metadata().end()) {
    const std::string where = data.source + ": lora_adapter_metadata", prefix = "transformer.";
    const Json json = parse_json(found->second, where);
    detail::read_lora_config(data, json, prefix, where);
    if (json.contains(prefix + "r")) {
      data.rank_in_tensors = false;
      data.config.rank = at<int32_t>(json, prefix + "r", where);
      data.config.alpha = value_or<float>(json, prefix + "lora_alpha", static_cast<float>(data.config.rank), where);
      data.config.check(where);
    }
  }
  for (const auto& [key, tensor] : data.tensors)
    if (key.ends_with(".lora_magnitude_vector")) data.config.kind = "dora";
  return data;
}

}  // namespace ft::inline FTLIB_ABI
