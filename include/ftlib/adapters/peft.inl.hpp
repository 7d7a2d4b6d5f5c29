// adapters/peft.inl.hpp: the bodies of adapters/peft.hpp.
#pragma once
#include <ftlib/adapters/data.inl.hpp>
#include <ftlib/adapters/peft.hpp>
#include <ftlib/io/atomic_file.hpp>  // AtomicFolder, write_atomically
#include <ftlib/io/safetensors.hpp>  // SafetensorsFile, write_safetensors

namespace ft::inline FTLIB_ABI {

namespace detail {
inline constexpr std::string_view peft_prefix = "base_model.model.", wrapped = ".base_layer";

// PEFT wraps a module once for each of its parameters that are adapted, and keys tell only how deep a wrapper lies:
// "x.experts.lora_A" is the outermost one's, "x.experts.base_layer.lora_A" the next one's. Here a stack has a name of
// its own, "x.experts.gate_up_proj".

/// Of a file's key, the name that its tensor has here.
inline std::string stack_key(std::string key, const std::vector<std::string>& parameters) {
  const std::size_t end = key.rfind(".lora_");
  std::size_t at = end, depth = 0;
  while (at != key.npos && std::string_view(key).substr(0, at).ends_with(wrapped)) {
    at -= wrapped.size();
    ++depth;
  }
  if (at == key.npos || parameters.empty() || !std::string_view(key).substr(0, at).ends_with("experts")) return key;
  const std::string module = key.substr(0, at);
  std::vector<std::string> inside_out;
  for (const std::string_view one : stack_parameters)
    if (std::string name = str(module, '.', one); Targets(parameters).match(name)) inside_out.push_back(name);
  if (depth >= inside_out.size()) return key;
  return inside_out[inside_out.size() - 1 - depth] + key.substr(end);
}
/// The opposite, of all names that there are.
inline std::string stack_key(const std::string& name, const std::map<std::string, Stored<Cpu>>& all) {
  const std::size_t end = name.rfind(".lora_"), cut = end == name.npos ? end : name.rfind('.', end - 1);
  if (cut == name.npos || !std::string_view(name).substr(0, cut).ends_with(".experts")) return name;
  const std::string module = name.substr(0, cut);
  std::string key = module;
  bool inner = false;
  for (const std::string_view one : stack_parameters) {
    if (inner && all.contains(str(module, '.', one, ".lora_A.weight"))) key += wrapped;
    inner |= name.substr(cut + 1, end - cut - 1) == one;
  }
  return inner ? key + name.substr(end) : name;
}
/// Names of stacks among those of targets.
inline bool names_stack(const std::string& target) {
  return std::any_of(stack_parameters.begin(), stack_parameters.end(),
                     [&](std::string_view one) { return target.ends_with(str("experts.", one)); });
}

[[gnu::cold]] FTLIB_INLINE AdapterData peft_data(const Json& json, const std::string& config_name,
                                                 const SafetensorsFile& file) {
  AdapterData data;
  data.source = file.file_name();
  data.metadata = file.metadata();
  data.metadata.erase("format");
  if (const auto type = at<std::string>(json, "peft_type", config_name); type != "LORA")
    throw Error(str(config_name, ": peft_type '", type, "' is not supported"), "only LORA is, with DoRA and rsLoRA.");
  read_lora_config(data, json, "", config_name);
  data.config.rank = at<int32_t>(json, "r", config_name);
  data.config.alpha = at<float>(json, "lora_alpha", config_name);
  data.config.check(config_name);
  data.base = value_or<std::string>(json, "base_model_name_or_path", "", config_name);
  const auto set = [&](const char* key) { return json.contains(key) && is_set(json[key]); };
  if (set("target_modules") && !set("exclude_modules") && !set("layers_to_transform") && !set("layers_pattern")) {
    if (json["target_modules"].is_string()) data.said_pattern = at<std::string>(json, "target_modules", config_name);
    else data.said_names = at<std::vector<std::string>>(json, "target_modules", config_name);
  }
  for (const std::string& key : file.names()) {
    std::string name = without_adapter_name(key);
    if (name.starts_with(peft_prefix)) name.erase(0, peft_prefix.size());
    name = stack_key(std::move(name), data.said_parameters);
    if (!data.tensors.emplace(name, file.tensor(key)).second)
      throw Error(str(data.source, ": '", key, "' is there twice, under two prefixes"));
    data.keys[name] = key;
  }
  return data;
}
FTLIB_INLINE std::vector<TensorEntry> peft_entries(const AdapterData& adapter) {
  if (adapter.tensors.empty())
    throw Error(str(adapter.source, ": there is no adapter to save"), "attach one, or save the whole model.");
  std::vector<TensorEntry> entries;
  for (const auto& [name, tensor] : adapter.tensors)
    entries.push_back(entry(std::string(peft_prefix) + stack_key(name, adapter.tensors), tensor));
  return entries;
}
FTLIB_INLINE std::map<std::string, std::string> peft_metadata(const AdapterData& adapter) {
  auto metadata = adapter.metadata;
  metadata["format"] = "pt";
  return metadata;
}
FTLIB_INLINE std::string peft_config(const AdapterData& adapter, const std::string& task) {
  Json json = lora_config_json(adapter.config);
  json.update({{"peft_type", "LORA"},
               {"task_type", task},
               {"base_model_name_or_path", adapter.base},
               {"fan_in_fan_out", false},
               {"inference_mode", true},
               {"init_lora_weights", true}});
  std::vector<std::string> modules =
                               adapter.short_targets.empty() ? adapter.config.targets.names : adapter.short_targets,
                           parameters;
  std::copy_if(modules.begin(), modules.end(), std::back_inserter(parameters), names_stack);
  std::erase_if(modules, names_stack);
  json["target_modules"] = modules;
  if (!parameters.empty()) json["target_parameters"] = parameters;
  return json.dump(2) + "\n";
}
}  // namespace detail

namespace detail {
[[gnu::cold]] FTLIB_INLINE AdapterData read_peft_folder(const std::filesystem::path& folder) {
  const auto config = folder / "adapter_config.json", weights = folder / "adapter_model.safetensors";
  if (!path_exists(config) && path_exists(folder / "pytorch_lora_weights.safetensors"))
    throw Error(str(folder.string(), ": holds an adapter of diffusers', for a model of pictures"),
                "give it to TextToImage::load_adapter.");
  if (!path_exists(config) && path_exists(folder / "config.json"))
    throw Error(str(folder.string(), ": holds a model, and no adapter"), "open it with from_pretrained (qa: --model).",
                ErrorKind::bad_file);
  const Json json = read_json(config);
  if (!path_exists(weights) && path_exists(folder / "adapter_model.bin"))
    throw Error(str(folder.string(), ": has adapter_model.bin and no adapter_model.safetensors"),
                "weights in pickle files are not read; save the adapter with safetensors.");
  return peft_data(json, config.string(), SafetensorsFile::open(weights));
}
}  // namespace detail

FTLIB_INLINE AdapterData read_peft(const std::filesystem::path& folder) {
  return reading_file([&] { return detail::read_peft_folder(folder); });
}
[[gnu::cold]] FTLIB_INLINE AdapterData read_peft(std::string_view config, std::span<const std::byte> tensors,
                                                 const std::string& name) {
  const std::string config_name = name + ": adapter_config.json";
  return reading_file([&] {
    return detail::peft_data(parse_json(config, config_name), config_name,
                             SafetensorsFile::parse(tensors, name + ": adapter_model.safetensors"));
  });
}

[[gnu::cold]] FTLIB_INLINE void write_peft(const std::filesystem::path& folder, const AdapterData& adapter,
                                           const std::string& task) {
  const auto entries = detail::peft_entries(adapter);
  AtomicFolder out(folder);
  write_atomically(out.folder() / "adapter_config.json", detail::peft_config(adapter, task));
  write_safetensors(out.folder() / "adapter_model.safetensors", entries, detail::peft_metadata(adapter));
  out.commit();
}
[[gnu::cold]] FTLIB_INLINE PeftBytes peft_bytes(const AdapterData& adapter, const std::string& task) {
  return {detail::peft_config(adapter, task),
          safetensors_bytes(adapter.source, detail::peft_entries(adapter), detail::peft_metadata(adapter))};
}

}  // namespace ft::inline FTLIB_ABI
