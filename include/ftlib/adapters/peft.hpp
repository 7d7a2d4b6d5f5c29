// adapters/peft.hpp: LoRA adapters as PEFT's folders: adapter_config.json and adapter_model.safetensors.
#pragma once
#include <ftlib/adapters/lora.hpp>   // LoraAdapter
#include <ftlib/io/atomic_file.hpp>  // AtomicFolder
#include <ftlib/io/json.hpp>         // Json
#include <ftlib/io/safetensors.hpp>  // SafetensorsFile, write_safetensors

#include <filesystem>  // std::filesystem::path
#include <map>         // std::map
#include <set>         // std::set
#include <span>        // std::span

namespace ft::inline FTLIB_ABI {

namespace detail {
inline constexpr std::string_view peft_prefix = "base_model.model.";

template <Scalar T, Device D>
std::vector<std::pair<Parameter<T, D>*, LoraAdapter<T, D>*>> lora_adapters(
    std::span<Parameter<T, D>* const> parameters) {
  std::vector<std::pair<Parameter<T, D>*, LoraAdapter<T, D>*>> found;
  for (Parameter<T, D>* w : parameters)
    if (auto* lora = dynamic_cast<LoraAdapter<T, D>*>(w->adapter.get())) found.emplace_back(w, lora);
  return found;
}
/// The keys of A and B in a file, for each weight that they adapt.
template <Scalar T, Device D> using LoraKeys = std::map<Parameter<T, D>*, std::pair<std::string, std::string>>;

/// Makes the adapters of `keys` from a file's tensors and hangs them onto their weights; all `parameters` are frozen,
/// and config.targets names what is adapted. Convolutions' A (R, ch, p, p) and B (out, R, 1, 1) are matrices in here.
/// Throws Error, and changes nothing, where a key of the file is `unmatched`, has no partner, or has another shape.
template <Scalar T, Device D>
void hang_lora(Context<D>& ctx, const SafetensorsFile& file, std::span<Parameter<T, D>* const> parameters,
               const LoraKeys<T, D>& keys, const std::vector<std::string>& unmatched, Lora& config) {
  if (!unmatched.empty() || keys.empty()) {
    std::string names;
    for (std::size_t i = 0; i < unmatched.size() && i < 8; ++i) names += str(i ? ", '" : ": '", unmatched[i], '\'');
    throw Error(str(file.file_name(), ": ", unmatched.size(), " of ", file.names().size(),
                    " keys match no linear layer of this model", names, unmatched.size() > 8 ? ", ..." : ""),
                "the adapter was made for another model.");
  }
  const auto read = [&](Parameter<T, D>& to, const std::string& key) {
    const Stored<Cpu> tensor = file.tensor(key);
    const int64_t rows = tensor.shape.rank() ? tensor.shape[0] : 1;
    if (tensor.shape.rank() < 2 || Shape{rows, tensor.shape.count() / std::max<int64_t>(1, rows)} != to.shape())
      throw Error(str(file.file_name(), ": '", key, "' is ", tensor.shape, ", the model and rank ", config.rank,
                      " ask for ", to.shape()));
    std::vector<T> values(static_cast<std::size_t>(tensor.shape.count()));
    dequantise_row(tensor.type, tensor.data, 0, tensor.shape.count(), values.data());
    to.value = Tensor<T, D>(ctx, to.shape(), values);
  };
  Random random(0);
  std::vector<std::pair<Parameter<T, D>*, std::shared_ptr<LoraAdapter<T, D>>>> made;
  for (const auto& [w, pair] : keys) {
    if (pair.first.empty() || pair.second.empty())
      throw Error(str(file.file_name(), ": '", pair.first + pair.second, "' has no partner"),
                  "each layer needs both matrices, lora_A and lora_B.");
    auto lora = std::make_shared<LoraAdapter<T, D>>(ctx, *w, config, random);
    read(lora->a, pair.first);
    read(lora->b, pair.second);
    made.emplace_back(w, std::move(lora));
  }
  config.targets = {};
  for (Parameter<T, D>* w : parameters) {
    w->trainable = false;
    w->adapter.reset();
  }
  for (auto& [w, lora] : made) {
    config.targets.names.push_back(module_of(w->name));
    w->adapter = std::move(lora);
  }
}
}  // namespace detail

/// Writes the LoRA adapters that hang on `parameters` to `folder`, whole or not at all. `config` is what they were
/// attached with; `base` is what PEFT is told the base model is called.
template <Scalar T, Device D>
[[gnu::cold]] void save_peft(Context<D>& ctx, const std::filesystem::path& folder,
                             std::span<Parameter<T, D>* const> parameters, const Lora& config, const std::string& base,
                             const std::string& task = "CAUSAL_LM") {
  const auto adapters = detail::lora_adapters(parameters);
  if (adapters.empty())
    throw Error(str(folder.string(), ": there is no adapter to save"), "attach one, or save the whole model.");

  // Short names where they say the same, as people write them; else the modules' full names.
  std::set<std::string> last, full;
  for (const auto& [w, lora] : adapters) {
    const std::string module = module_of(w->name);
    full.insert(module);
    last.insert(module.substr(module.rfind('.') + 1));
  }
  const Targets by_last(std::vector<std::string>(last.begin(), last.end()));
  std::size_t matched = 0;
  for (Parameter<T, D>* w : parameters) matched += w->kind == WeightKind::linear && by_last.match(module_of(w->name));

  const Json json{{"peft_type", "LORA"},
                  {"task_type", task},
                  {"base_model_name_or_path", base},
                  {"r", config.rank},
                  {"lora_alpha", config.alpha},
                  {"lora_dropout", config.dropout},
                  {"use_rslora", config.rslora},
                  {"use_dora", false},
                  {"bias", "none"},
                  {"fan_in_fan_out", false},
                  {"inference_mode", true},
                  {"init_lora_weights", true},
                  {"modules_to_save", nullptr},
                  {"target_modules", matched == adapters.size() ? last : full}};
  std::vector<Tensor<T, D>> kept;
  std::vector<std::vector<T>> values;
  std::vector<TensorEntry> entries;
  const auto put = [&](const Parameter<T, D>& w) {
    values.push_back(w.value.to_host(ctx));
    entries.push_back({std::string(detail::peft_prefix) + w.name, dtype_of<T>, w.shape(), values.back().data()});
  };
  for (const auto& [w, lora] : adapters) {
    put(lora->a);
    put(lora->b);
  }
  AtomicFolder out(folder);
  write_atomically(out.folder() / "adapter_config.json", json.dump(2) + "\n");
  write_safetensors(out.folder() / "adapter_model.safetensors", entries, {{"format", "pt"}});
  out.commit();
}

/// Reads a PEFT folder and hangs its adapters onto `parameters`, which are frozen. Returns the configuration. Throws
/// Error, and changes nothing, for another kind of adapter, for keys that match no parameter (it says which, and how
/// many of all), and for shapes that do not fit.
template <Scalar T, Device D>
Lora load_peft(Context<D>& ctx, const std::filesystem::path& folder, std::span<Parameter<T, D>* const> parameters) {
  const auto config_file = (folder / "adapter_config.json").string();
  const Json json = read_json(folder / "adapter_config.json");
  const auto unsupported = [&](const std::string& what) {
    return Error(str(config_file, ": ", what, " is not supported"),
                 "only LoRA without biases, DoRA or further modules is.");
  };
  if (const auto type = at<std::string>(json, "peft_type", config_file); type != "LORA")
    throw unsupported("peft_type '" + type + "'");
  if (value_or<bool>(json, "use_dora", false, config_file)) throw unsupported("use_dora");
  if (const auto bias = value_or<std::string>(json, "bias", "none", config_file); bias != "none")
    throw unsupported("bias '" + bias + "'");
  for (const char* key : {"rank_pattern", "alpha_pattern", "modules_to_save", "layer_replication"})
    if (json.contains(key) && !json[key].empty()) throw unsupported(key);
  Lora config;
  config.rank = at<int32_t>(json, "r", config_file);
  config.alpha = at<float>(json, "lora_alpha", config_file);
  config.rslora = value_or<bool>(json, "use_rslora", false, config_file);
  config.dropout = value_or<float>(json, "lora_dropout", 0, config_file);
  if (config.rank < 1) throw Error(str(config_file, ": rank ", config.rank, " is no rank"));

  const auto file = SafetensorsFile::open(folder / "adapter_model.safetensors");
  std::map<std::string, Parameter<T, D>*> by_module;
  for (Parameter<T, D>* w : parameters)
    if (w->kind == WeightKind::linear) by_module[module_of(w->name)] = w;
  detail::LoraKeys<T, D> pairs;
  std::vector<std::string> unmatched;
  for (const std::string& key : file.names()) {
    std::string name = key;
    if (name.starts_with(detail::peft_prefix)) name = name.substr(detail::peft_prefix.size());
    const bool is_a = name.ends_with(".lora_A.weight"), is_b = name.ends_with(".lora_B.weight");
    const auto found = is_a || is_b
                           ? by_module.find(name.substr(0, name.size() - std::string_view(".lora_A.weight").size()))
                           : by_module.end();
    if (found == by_module.end()) unmatched.push_back(key);
    else (is_a ? pairs[found->second].first : pairs[found->second].second) = key;
  }
  detail::hang_lora(ctx, file, parameters, pairs, unmatched, config);
  return config;
}

}  // namespace ft::inline FTLIB_ABI
