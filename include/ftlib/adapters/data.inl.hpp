// adapters/data.inl.hpp: the bodies of adapters/data.hpp: PEFT's configuration, key by key.
#pragma once
#include <ftlib/adapters/data.hpp>
#include <ftlib/adapters/kinds.hpp>  // adapter_kinds
#include <ftlib/io/json.hpp>         // Json, at, value_or

#include <algorithm>  // std::find
#include <array>      // std::array
#include <cctype>     // std::tolower

namespace ft::inline FTLIB_ABI {

namespace detail {

/// What PEFT may adapt without a layer of its own: tensors that hold a matrix of each expert, in the order in which a
/// wrapper of one wraps the other's.
inline constexpr std::array<std::string_view, 2> stack_parameters{"gate_up_proj", "down_proj"};

/// Whether a key says anything: not null, false, or empty.
inline bool is_set(const Json& value) {
  return !(value.is_null() || value == false || (value.is_string() && value.get_ref<const std::string&>().empty()) ||
           (value.is_structured() && value.empty()));
}

[[gnu::cold]] FTLIB_INLINE void read_lora_config(AdapterData& data, const Json& json, const std::string& prefix,
                                                 const std::string& where) {
  Lora& config = data.config;
  // Keys that say how the adapter was begun, trained or found, and nothing of what it computes.
  static constexpr std::array<std::string_view, 20> plain{"peft_type",
                                                          "task_type",
                                                          "auto_mapping",
                                                          "peft_version",
                                                          "revision",
                                                          "inference_mode",
                                                          "target_modules",
                                                          "r",
                                                          "lora_alpha",
                                                          "lora_dropout",
                                                          "use_rslora",
                                                          "rank_pattern",
                                                          "alpha_pattern",
                                                          "modules_to_save",
                                                          "base_model_name_or_path",
                                                          "exclude_modules",
                                                          "layers_to_transform",
                                                          "layers_pattern",
                                                          "fan_in_fan_out",
                                                          "runtime_config"};
  static constexpr std::array<std::string_view, 6> of_beginning{"eva_config",   "corda_config",      "lora_ga_config",
                                                                "loftq_config", "qalora_group_size", "megatron_core"};
  // Keys of what is another computation.
  static constexpr std::array<std::string_view, 12> refused{"layer_replication",
                                                            "megatron_config",
                                                            "trainable_token_indices",
                                                            "alora_invocation_tokens",
                                                            "use_qalora",
                                                            "lora_bias",
                                                            "use_bdlora",
                                                            "arrow_config",
                                                            "kasa_config",
                                                            "monteclora_config",
                                                            "ensure_weight_tying",
                                                            "velora_config"};
  const auto known = [](const auto& list, std::string_view key) {
    return std::find(list.begin(), list.end(), key) != list.end();
  };
  const auto unsupported = [&](const std::string& what, const std::string& hint = {}) {
    return Error(
        str(where, ": ", what, " is not supported"),
        hint.empty() ? "what is: LoRA, rsLoRA and DoRA, with rank_pattern, alpha_pattern and modules_to_save." : hint);
  };
  if (!json.is_object()) throw Error(str(where, ": is not an object"));

  config.kind = adapter_kinds().back().name;
  for (const auto& [full, value] : json.items()) {
    if (!full.starts_with(prefix)) continue;
    const std::string key = full.substr(prefix.size());
    bool flag = false;
    for (const AdapterKind& kind : adapter_kinds()) {
      if (kind.flag.empty() || kind.flag != key) continue;
      flag = true;
      if (json_as<bool>(value.is_null() ? Json(false) : value, full, where)) config.kind = kind.name;
    }
    if (flag || known(plain, key) || known(of_beginning, key) || !is_set(value)) continue;
    if (known(refused, key)) throw unsupported(key);
    if (key == "bias") {
      if (const auto bias = json_as<std::string>(value, full, where); bias != "none")
        throw unsupported("bias '" + bias + "'", "name the modules in modules_to_save.");
    } else if (key == "target_parameters") {
      data.said_parameters = json_as<std::vector<std::string>>(value, full, where);
      for (const std::string& name : data.said_parameters)
        if (const auto last = name.substr(name.rfind('.') + 1); !known(stack_parameters, last))
          throw unsupported(key, str("'", name,
                                     "': of parameters those of experts are adapted, 'gate_up_proj' and "
                                     "'down_proj'."));
    } else if (key == "init_lora_weights") {
      const std::string init = value.is_string() ? value.get<std::string>() : "";
      static constexpr std::array<std::string_view, 5> untouched{"", "gaussian", "eva", "orthogonal", "mica"};
      if (init == "olora") data.initial = "olora";
      else if (init == "pissa" || init.starts_with("pissa_niter_")) data.initial = "pissa";
      else if (!known(untouched, init) && init != "default")
        throw unsupported("init_lora_weights '" + init + "'",
                          "such an adapter belongs to a base with other weights; convert it with "
                          "path_initial_model_for_weight_conversion when it is saved.");
      if (init.starts_with("pissa_niter_"))
        data.warnings.push_back(str(where, ": init_lora_weights '", init,
                                    "': what the base was less of is computed by the exact decomposition"));
    } else {
      data.warnings.push_back(str(where, ": key '", full, "' is not known and was ignored"));
    }
  }
  config.rslora = value_or<bool>(json, prefix + "use_rslora", false, where);
  config.dropout = value_or<float>(json, prefix + "lora_dropout", 0, where);
  const auto patterns = [&]<class V>(const char* key, std::map<std::string, V>& to) {
    const Json found = value_or<Json>(json, prefix + key, Json::object(), where);
    if (!found.is_object()) throw wrong_type(found, "an object", key, where);
    for (const auto& [pattern, value] : found.items()) to[pattern] = json_as<V>(value, pattern, where + ": " + key);
  };
  patterns("rank_pattern", config.rank_pattern);
  patterns("alpha_pattern", config.alpha_pattern);
  config.modules_to_save = value_or<std::vector<std::string>>(json, prefix + "modules_to_save", {}, where);
}

[[gnu::cold]] FTLIB_INLINE Json lora_config_json(const Lora& config, const std::string& prefix) {
  Json json{{prefix + "r", config.rank},
            {prefix + "lora_alpha", config.alpha},
            {prefix + "lora_dropout", config.dropout},
            {prefix + "use_rslora", config.rslora},
            {prefix + "bias", "none"},
            {prefix + "target_modules", config.targets.names}};
  for (const AdapterKind& kind : adapter_kinds())
    if (!kind.flag.empty()) json[prefix + std::string(kind.flag)] = kind.name == config.kind;
  if (!config.rank_pattern.empty()) json[prefix + "rank_pattern"] = config.rank_pattern;
  if (!config.alpha_pattern.empty()) json[prefix + "alpha_pattern"] = config.alpha_pattern;
  if (!config.modules_to_save.empty()) json[prefix + "modules_to_save"] = config.modules_to_save;
  return json;
}

FTLIB_INLINE std::string without_adapter_name(std::string key) {
  for (const std::string_view part : {".lora_A.", ".lora_B."}) {
    const auto at = key.find(part);
    if (at == std::string::npos) continue;
    const auto name = at + part.size(), end = key.find('.', name);
    if (end != std::string::npos) key.erase(name, end + 1 - name);
  }
  for (const std::string_view vector : {".lora_magnitude_vector.default.weight", ".lora_magnitude_vector.weight"})
    if (key.ends_with(vector))
      key.resize(key.size() - vector.size() + std::string_view(".lora_magnitude_vector").size());
  return key;
}

}  // namespace detail

[[gnu::cold]] FTLIB_INLINE std::string other_base_warning(const std::string& theirs, const std::string& ours) {
  const auto name_of = [](std::string path) {
    while (!path.empty() && path.back() == '/') path.pop_back();
    if (const auto slash = path.find_last_of("/\\"); slash != std::string::npos) path = path.substr(slash + 1);
    for (char& c : path) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    if (path.ends_with(".gguf")) {
      path.resize(path.size() - 5);
      const auto cut = path.find_last_of(".-");
      if (cut != std::string::npos) {
        const std::string type = path.substr(cut + 1);
        const bool quantised = type.size() > 1 && (type[0] == 'q' || type.starts_with("iq")) &&
                               type.find_first_of("0123456789") != std::string::npos;
        if (quantised || type == "f16" || type == "bf16" || type == "f32") path.resize(cut);
      }
    }
    return path;
  };
  if (theirs.empty() || ours.empty() || name_of(theirs) == name_of(ours)) return {};
  return str("the adapter was made for '", theirs, "', the model is '", ours, "': its answers may be wrong");
}

}  // namespace ft::inline FTLIB_ABI
