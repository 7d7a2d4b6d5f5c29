// models/kit/config_json.hpp: a configuration as config.json: read, and written.
#pragma once
#include <ftlib/models/kit/config.hpp>

#include <algorithm>  // std::max_element
#include <cmath>      // std::abs
#include <cstdio>     // std::snprintf
#include <cstdlib>    // std::strtod
#include <optional>   // std::optional
#include <set>        // std::set
#include <string>     // std::string
#include <vector>     // std::vector

namespace ft::inline FTLIB_ABI {

namespace detail {

/// Whether a key speaks of something that is computed. For keys that nobody has read: then a model with it is another.
inline bool of_consequence(std::string_view key) {
  for (const std::string_view word :
       {"scal",  "multiplier", "rope",         "rotary", "window",   "cap",      "expert", "moe",
        "norm",  "bias",       "attention",    "attn",   "head",     "mlp",      "layer",  "residual",
        "logit", "sink",       "quantization", "alibi",  "parallel", "position", "act"})
    if (key.find(word) != key.npos) return true;
  return false;
}
/// Keys of config.json that are no matter of computing.
inline bool harmless(std::string_view key) {
  static const std::set<std::string_view> keys{"model_type",
                                               "architectures",
                                               "torch_dtype",
                                               "dtype",
                                               "transformers_version",
                                               "_name_or_path",
                                               "bos_token_id",
                                               "eos_token_id",
                                               "pad_token_id",
                                               "sep_token_id",
                                               "unk_token_id",
                                               "use_cache",
                                               "initializer_range",
                                               "attention_dropout",
                                               "hidden_dropout",
                                               "resid_pdrop",
                                               "embd_pdrop",
                                               "attn_pdrop",
                                               "classifier_dropout",
                                               "cache_implementation",
                                               "output_attentions",
                                               "output_hidden_states",
                                               "return_dict",
                                               "pretraining_tp",
                                               "is_llama_config",
                                               "attn_implementation",
                                               "_attn_implementation",
                                               "_attn_implementation_autoset",
                                               "transformers.js_config",
                                               "task_specific_params",
                                               "problem_type",
                                               "id2label",
                                               "label2id",
                                               "chunk_size_feed_forward",
                                               "_flash_attn_2_enabled",
                                               "unsloth_fixed",
                                               "unsloth_version",
                                               "gradient_checkpointing",
                                               "max_window_layers",
                                               "_sliding_window_pattern",
                                               "tokenizer_class"};
  return keys.count(key) != 0;
}

/// config.json. Keys are ticked off as they are read; finish() looks at the rest.
class JsonConfig final : public ConfigFields {
 public:
  JsonConfig(const Json& json, std::string file) : json_(json), file_(std::move(file)) {}

  void size(const char* hf, const char*, int64_t& value, std::optional<int64_t> fallback, int64_t least) override {
    value = hf ? get<int64_t>(hf, fallback) : fallback.value();
    if (value < least || value > largest_size) fail(str(hf ? hf : "a size", ' ', value, " makes no sense"));
  }
  void number(const char* hf, const char*, float& value, std::optional<float> fallback) override {
    value = hf ? get<float>(hf, fallback) : fallback.value();
  }
  void flag(const char* hf, const char*, bool& value, bool fallback) override {
    value = hf ? get<bool>(hf, std::optional(fallback)) : fallback;
  }
  void vocabulary(int64_t& rows) override { size("vocab_size", nullptr, rows, {}, 1); }
  void tied(bool& value, bool fallback) override { flag("tie_word_embeddings", nullptr, value, fallback); }

  /// `rope_parameters` (transformers 5; by layer type where there are several) or `rope_theta` with `rope_scaling`
  /// (before).
  [[gnu::cold]] void rope(RopeOptions& rope, int64_t head_dim, float theta, const char* layer_type,
                          bool partial) override {
    rope = {.head_size = head_dim, .theta = theta};
    number("rope_theta", nullptr, rope.theta, theta);
    const Json* p = object(json_, "rope_parameters");
    const Json* old = object(json_, "rope_scaling");
    if (p && layer_type && object(*p, layer_type)) p = object(*p, layer_type);
    if (p) rope.theta = value_or<float>(*p, "rope_theta", rope.theta, file_);
    else p = old;
    if (partial) {
      float part = 1;
      number("partial_rotary_factor", nullptr, part, 1);
      if (p) part = value_or<float>(*p, "partial_rotary_factor", part, file_);
      if (!(part > 0 && part <= 1)) fail(str("partial_rotary_factor ", part, " makes no sense"));
      if (part < 1) rope.rotary_size = static_cast<int64_t>(static_cast<float>(head_dim) * part);
      if (p && value_or<std::string>(*p, "rope_type", "default", file_) == "proportional") {
        rope.rotary_size = 0;
        rope.divisors = proportional_divisors(head_dim, part);
      }
    }
    if (!p) return;
    const auto type =
        value_or<std::string>(*p, "rope_type", value_or<std::string>(*p, "type", "default", file_), file_);
    std::set<std::string> known{"rope_type", "type", "rope_theta"};
    if (partial) known.insert("partial_rotary_factor");
    // The length that the model was trained with, and by how much it is to read more.
    const auto longest = [&] { return static_cast<float>(at<int64_t>(json_, "max_position_embeddings", file_)); };
    const auto original = [&] {
      known.insert({"original_max_position_embeddings", "factor", "attention_factor"});
      const Json* top = find("original_max_position_embeddings");
      const auto length =
          top ? json_as<int64_t>(*top, "original_max_position_embeddings", file_)
              : value_or<int64_t>(*p, "original_max_position_embeddings", static_cast<int64_t>(longest()), file_);
      if (length < 2) fail(str("original_max_position_embeddings ", length, " makes no sense"));
      return length;
    };
    const auto factor_or_ratio = [&](int64_t length) {
      return value_or<float>(*p, "factor", longest() / static_cast<float>(length), file_);
    };
    const auto number_of = [&](const char* key) {
      known.insert(key);
      return at<float>(*p, key, file_);
    };
    if (type == "linear") {
      rope.factor = number_of("factor");
    } else if (type == "llama3") {
      known.insert("original_max_position_embeddings");
      rope.llama3 =
          Llama3Scaling{.factor = number_of("factor"),
                        .low_freq_factor = number_of("low_freq_factor"),
                        .high_freq_factor = number_of("high_freq_factor"),
                        .original_max_position_embeddings = at<int64_t>(*p, "original_max_position_embeddings", file_)};
    } else if (type == "yarn") {
      YarnScaling y{.original_max_position_embeddings = original()};
      known.insert({"beta_fast", "beta_slow", "truncate"});
      y.factor = factor_or_ratio(y.original_max_position_embeddings);
      y.beta_fast = value_or<float>(*p, "beta_fast", y.beta_fast, file_);
      y.beta_slow = value_or<float>(*p, "beta_slow", y.beta_slow, file_);
      y.truncate = value_or<bool>(*p, "truncate", true, file_);
      rope.attention_factor = value_or<float>(*p, "attention_factor", yarn_attention_factor(y.factor), file_);
      rope.yarn = y;
    } else if (type == "longrope" || type == "su") {
      LongRopeScaling l{.original_max_position_embeddings = original()};
      known.insert({"short_factor", "long_factor"});
      l.short_factor = at<std::vector<float>>(*p, "short_factor", file_);
      l.long_factor = at<std::vector<float>>(*p, "long_factor", file_);
      const float s = factor_or_ratio(l.original_max_position_embeddings);
      rope.attention_factor = value_or<float>(*p, "attention_factor", longrope_attention_factor(s, l), file_);
      rope.longrope = std::move(l);
    } else if (type == "proportional" && partial) {
      known.insert("factor");
      rope.factor = value_or<float>(*p, "factor", 1.0f, file_);
    } else if (type != "default") {
      throw Error(str(file_, ": rope type '", type, "' is not known"),
                  "known are default, linear, llama3, yarn and longrope, and proportional where only a part turns.");
    }
    for (const auto& [key, value] : p->items())
      if (!known.count(key) && !passed(key) && !value.is_null() && !(key == "partial_rotary_factor" && value == 1.0))
        fail(str("rope ", quote(key), " is set, which is not computed for rope type '", type, "'"));
  }
  void local_rope(RopeOptions& rope, int64_t head_dim, float theta) override {
    rope = {.head_size = head_dim, .theta = theta};
    number("rope_local_base_freq", nullptr, rope.theta, theta);
    const Json* p = object(json_, "rope_parameters");
    if (p) p = object(*p, "sliding_attention");
    if (!p) return;
    rope.theta = value_or<float>(*p, "rope_theta", rope.theta, file_);
    if (const auto type = value_or<std::string>(*p, "rope_type", "default", file_); type != "default")
      fail(str("rope type '", type, "' in the layers with a window is not known"));
  }
  /// `layer_types`, or all but every `sliding_window_pattern`-th.
  [[gnu::cold]] void sliding(std::vector<bool>& layers, int64_t count, const std::vector<bool>& otherwise) override {
    layers.clear();
    read_.insert("sliding_window_pattern");
    if (const Json* types = find("layer_types")) {
      for (const auto& type : json_as<std::vector<std::string>>(*types, "layer_types", file_)) {
        if (type != "sliding_attention" && type != "full_attention")
          fail(str("layer_types holds '", type, "', which is not computed for this architecture"));
        layers.push_back(type == "sliding_attention");
      }
      if (static_cast<int64_t>(layers.size()) != count)
        fail(str("layer_types has ", layers.size(), " entries for ", count, " layers"));
      return;
    }
    layers = otherwise;
    for (const char* key : {"sliding_window_pattern", "_sliding_window_pattern"})
      if (find(key)) {
        int64_t pattern = 0;
        size(key, nullptr, pattern, {}, 1);
        for (int64_t i = 0; i < count; ++i) layers[static_cast<std::size_t>(i)] = (i + 1) % pattern != 0;
        return;
      }
  }
  void window(const char*, int64_t& keys, int64_t missing) override {
    read_.insert("sliding_window");
    const auto found = json_.find("sliding_window");
    keys = missing;
    if (found == json_.end()) return;
    keys = found->is_null() ? 0 : json_as<int64_t>(*found, "sliding_window", file_);
    if (keys < 0 || keys > largest_size) fail(str("sliding_window ", keys, " makes no sense"));
  }
  void each_layer(const char* hf, const char*, std::vector<int64_t>& values, int64_t count,
                  const std::vector<int64_t>& otherwise) override {
    if (hf) list(hf, values, count, otherwise);
    else values = otherwise;
  }
  void each_layer(const char* hf, std::vector<std::string>& words, int64_t count,
                  const std::vector<std::string>& otherwise) override {
    list(hf, words, count, otherwise);
  }
  [[gnu::cold]] bool in_layers(const char* hf, std::vector<int64_t>& values) override {
    const Json* layers = object(json_, "per_layer_config");
    if (!layers) return false;
    in_layers_.insert(hf);
    for (const auto& [layer, said] : layers->items()) {
      const auto i = static_cast<std::size_t>(std::strtoull(layer.c_str(), nullptr, 10));
      if (layer.find_first_not_of("0123456789") != layer.npos || i >= values.size() || !said.is_object())
        fail(str("per_layer_config holds ", quote(layer), ", which is none of ", values.size(), " layers"));
      if (!said.contains(hf)) continue;
      values[i] = at<int64_t>(said, hf, file_);
      if (values[i] < 1 || values[i] > largest_size)
        fail(str("per_layer_config: ", hf, ' ', values[i], " makes no sense"));
    }
    return true;
  }
  void word(const char* hf, std::string& value, const char* fallback) override {
    value = get<std::string>(hf, std::optional<std::string>(fallback));
  }
  void expect(const char* hf, const char* known) override {
    const auto got = get<std::string>(hf, std::optional<std::string>(known));
    if (got != known) fail(str(hf, " is '", got, "'; ftlib knows '", known, "' for this architecture"));
  }
  void storage(const char* method) override {
    read_.insert("quantization_config");
    const Json* stored = object(json_, "quantization_config");
    if (!stored) return;
    if (const auto got = value_or<std::string>(*stored, "quant_method", "", file_); got != method)
      fail(str("quantization_config's quant_method is '", got, "'; ftlib reads '", method, "' for this architecture"));
  }
  [[noreturn]] void fail(const std::string& what) const override { throw Error(str(file_, ": ", what)); }

  /// Refuses what was not read and is computed elsewhere, notes what else was not, and keeps what is harmless.
  [[gnu::cold]] void finish(TransformerConfig& config) const {
    std::string unknown;
    if (!in_layers_.empty())
      for (const auto& [layer, said] : json_["per_layer_config"].items())
        for (const auto& [key, value] : said.items())
          if (!in_layers_.count(key))
            fail(str("per_layer_config sets ", quote(key), " in layer ", layer,
                     ", which is not computed for this architecture"));
    for (const auto& [key, value] : json_.items()) {
      if (read_.count(key)) continue;
      if (harmless(key) || passed(key)) {
        config.others[key] = value;
        continue;
      }
      const bool multiplies = key.find("multiplier") != key.npos || key.find("scal") != key.npos;
      const bool neutral = value.is_null() || value == false || (value.is_array() && value.empty()) ||
                           (multiplies && value.is_number() && value == 1.0) ||
                           (!multiplies && value.is_number() && value == 0.0);
      if (neutral) continue;
      if (of_consequence(key))
        throw Error(
            str(file_, ": ", key, " is ", printable(value.dump(-1, ' ', false, Json::error_handler_t::replace), 60),
                ", which ftlib does not compute for this architecture"),
            "the model is a variant that is not known here; without the key its answers would be wrong.");
      unknown += str(unknown.empty() ? "" : ", ", key);
    }
    if (!unknown.empty())
      config.notes.push_back(str(file_, ": keys that ftlib does not know are passed over: ", unknown));
  }

 private:
  const Json* find(const char* key) {
    read_.insert(key);
    const auto found = json_.find(key);
    return found != json_.end() && !found->is_null() ? &*found : nullptr;
  }
  template <class V> V get(const char* key, const std::optional<V>& fallback) {
    const Json* found = find(key);
    if (found) return json_as<V>(*found, key, file_);
    if (!fallback) throw Error(str(file_, ": key ", quote(key), " is missing"));
    return *fallback;
  }
  template <class V> void list(const char* hf, std::vector<V>& values, int64_t count, const std::vector<V>& otherwise) {
    const Json* found = find(hf);
    values = found ? json_as<std::vector<V>>(*found, hf, file_) : otherwise;
    if (count >= 0 && static_cast<int64_t>(values.size()) != count)
      fail(str(hf, " has ", values.size(), " entries for ", count, " layers"));
  }
  const Json* object(const Json& from, const char* key) {
    if (&from == &json_) read_.insert(key);
    const auto found = from.find(key);
    return found != from.end() && found->is_object() ? &*found : nullptr;
  }

  const Json& json_;
  std::string file_;
  std::set<std::string, std::less<>> read_, in_layers_;
};

/// Llama 3's scaling, where a table of divisors is one (GGUF's rope_freqs.weight).
[[gnu::cold]] inline std::optional<Llama3Scaling> llama3_of(const RopeOptions& rope) {
  RopeOptions plain = rope;
  plain.divisors.clear();
  const auto frequencies = rope_frequencies(plain);
  Llama3Scaling scaling{.factor = *std::max_element(rope.divisors.begin(), rope.divisors.end())};
  plain.llama3 = scaling;
  const auto scaled = rope_frequencies(plain);
  for (std::size_t i = 0; i < scaled.size(); ++i)
    if (!(std::abs(frequencies[i] / rope.divisors[i] - scaled[i]) <= 1e-4f * scaled[i])) return {};
  return scaling;
}

/// Writes config.json, in words that every version of transformers reads.
class ConfigWriter final : public ConfigFields {
 public:
  explicit ConfigWriter(Json& json) : json_(json) {}
  void size(const char* hf, const char*, int64_t& value, std::optional<int64_t>, int64_t) override { put(hf, value); }
  void number(const char* hf, const char*, float& value, std::optional<float>) override { put(hf, value); }
  void optional_number(const char* hf, const char*, float& value) override {
    json_[hf] = value != 0 ? Json(decimal(value)) : Json();
  }
  void flag(const char* hf, const char*, bool& value, bool) override { put(hf, value); }
  void vocabulary(int64_t& rows) override { json_["vocab_size"] = rows; }
  void tied(bool& value, bool) override { json_["tie_word_embeddings"] = value; }
  [[gnu::cold]] void rope(RopeOptions& rope, int64_t head_dim, float, const char* layer_type, bool partial) override {
    if (layer_type && partial) {
      by_type(rope, layer_type);
      return;
    }
    json_["rope_theta"] = decimal(rope.theta);
    Json& scaling = json_["rope_scaling"] = nullptr;
    if (rope.rotary_size)
      json_["partial_rotary_factor"] = decimal(static_cast<float>(rope.rotary_size) / static_cast<float>(head_dim));
    auto llama3 = rope.llama3;
    if (!rope.divisors.empty()) {
      llama3 = llama3_of(rope);
      if (!llama3)
        fail(
            "rope_freqs.weight is not Llama 3's scaling with 1, 4 and 8192; config.json has no word for another table");
    }
    float usual = 1;  // attention_factor, where it is not said
    if (llama3) {
      scaling = {{"rope_type", "llama3"},
                 {"factor", decimal(llama3->factor)},
                 {"low_freq_factor", decimal(llama3->low_freq_factor)},
                 {"high_freq_factor", decimal(llama3->high_freq_factor)},
                 {"original_max_position_embeddings", llama3->original_max_position_embeddings}};
    } else if (rope.yarn) {
      usual = yarn_attention_factor(rope.yarn->factor);
      scaling = {{"rope_type", "yarn"},
                 {"factor", decimal(rope.yarn->factor)},
                 {"beta_fast", decimal(rope.yarn->beta_fast)},
                 {"beta_slow", decimal(rope.yarn->beta_slow)},
                 {"original_max_position_embeddings", rope.yarn->original_max_position_embeddings}};
      if (!rope.yarn->truncate) scaling["truncate"] = false;
    } else if (rope.longrope) {  // three fields, and the length beside them: older versions read no others
      const auto& l = *rope.longrope;
      json_["original_max_position_embeddings"] = l.original_max_position_embeddings;
      usual = longrope_attention_factor(
          json_.at("max_position_embeddings").get<float>() / static_cast<float>(l.original_max_position_embeddings), l);
      scaling = {{"type", "longrope"}};
      for (const auto& [key, factors] :
           {std::pair{"short_factor", &l.short_factor}, std::pair{"long_factor", &l.long_factor}}) {
        scaling[key] = Json::array();
        for (const float f : *factors) scaling[key].push_back(decimal(f));
      }
    } else if (rope.factor != 1) {
      scaling = {{"rope_type", "linear"}, {"factor", decimal(rope.factor)}};
    }
    if (std::abs(rope.attention_factor - usual) > 1e-6f * usual) {
      if (!rope.yarn && !rope.longrope)
        fail("config.json has no word for an attention_factor without yarn or longrope");
      scaling["attention_factor"] = decimal(rope.attention_factor);
    }
  }
  void local_rope(RopeOptions& rope, int64_t, float) override {
    if (json_.contains("rope_parameters")) by_type(rope, "sliding_attention");
    else json_["rope_local_base_freq"] = decimal(rope.theta);
  }
  void sliding(std::vector<bool>& layers, int64_t, const std::vector<bool>&) override {
    json_["layer_types"] = Json::array();
    for (const bool window : layers) json_["layer_types"].push_back(window ? "sliding_attention" : "full_attention");
  }
  void window(const char*, int64_t& keys, int64_t) override { json_["sliding_window"] = keys ? Json(keys) : Json(); }
  void each_layer(const char* hf, const char*, std::vector<int64_t>& values, int64_t,
                  const std::vector<int64_t>&) override {
    if (hf) json_[hf] = values;
  }
  void each_layer(const char* hf, std::vector<std::string>& words, int64_t, const std::vector<std::string>&) override {
    json_[hf] = words;
  }
  void word(const char* hf, std::string& value, const char*) override { json_[hf] = value; }
  void expect(const char* hf, const char* known) override { json_[hf] = known; }
  [[noreturn]] void fail(const std::string& what) const override { throw Error("config.json: " + what); }

 private:
  /// The shortest decimal that is the float: 1e-06 and not 9.99999997e-07.
  static double decimal(float value) {
    char text[32];
    for (int digits = 6; digits < 10; ++digits) {
      std::snprintf(text, sizeof text, "%.*g", digits, static_cast<double>(value));
      if (std::strtof(text, nullptr) == value) break;
    }
    return std::strtod(text, nullptr);
  }
  /// Of the kinds that rope_parameters alone has words for, default and proportional.
  [[gnu::cold]] void by_type(const RopeOptions& rope, const char* layer_type) {
    const float part = proportional_part(rope.divisors);
    if ((!rope.divisors.empty() && part == 0) || rope.rotary_size || rope.llama3 || rope.yarn || rope.longrope)
      fail("rotary positions by type of layer are written as default or proportional; these are of another kind");
    Json& said = json_["rope_parameters"][layer_type];
    said = {{"rope_type", rope.divisors.empty() ? "default" : "proportional"}, {"rope_theta", decimal(rope.theta)}};
    if (!rope.divisors.empty()) said["partial_rotary_factor"] = decimal(part);
    if (rope.factor != 1) said["factor"] = decimal(rope.factor);
  }
  void put(const char* hf, int64_t value) {
    if (hf) json_[hf] = value;
  }
  void put(const char* hf, float value) {
    if (hf) json_[hf] = decimal(value);
  }
  void put(const char* hf, bool value) {
    if (hf) json_[hf] = value;
  }

  Json& json_;
};

}  // namespace detail

[[gnu::cold]] inline Json TransformerConfig::to_json() {
  Json json = others;
  json["model_type"] = model_type;
  detail::ConfigWriter writer(json);
  fields(writer);
  return json;
}

}  // namespace ft::inline FTLIB_ABI
