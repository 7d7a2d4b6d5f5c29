// models/kit/config.hpp: reading a model's configuration: Hugging Face's config.json, and GGUF's metadata turned into
// one.
#pragma once
#include <ftlib/io/gguf.hpp>   // GgufFile
#include <ftlib/io/json.hpp>   // Json, at, value_or
#include <ftlib/ops/rope.hpp>  // RopeOptions

#include <string>  // std::string
#include <vector>  // std::vector

namespace ft::inline FTLIB_ABI {

/// Reads config.json's fields with the file's name in every message.
struct ConfigReader {
  const Json& json;
  const std::string& file;

  /// A positive whole number; Error where it is missing, none, or absurdly large.
  int64_t size(const char* key) const { return checked(key, at<int64_t>(json, key, file)); }
  int64_t size(const char* key, int64_t fallback) const {
    return checked(key, value_or<int64_t>(json, key, fallback, file));
  }
  float number(const char* key, float fallback) const { return value_or<float>(json, key, fallback, file); }
  bool flag(const char* key, bool fallback) const { return value_or<bool>(json, key, fallback, file); }

  /// Throws Error where `key` says something else: a variant of the architecture that ftlib does not compute.
  void expect(const char* key, const std::string& known) const {
    const auto got = value_or<std::string>(json, key, known, file);
    if (got != known)
      throw Error(str(file, ": ", key, " is '", got, "'; ftlib knows '", known, "' for this architecture"));
  }
  void expect_none(const char* key) const {
    if (json.contains(key) && !json[key].is_null())
      throw Error(str(file, ": ", key, " is set, which ftlib does not compute for this architecture"));
  }
  void expect_divides(const char* small, int64_t divisor, const char* large, int64_t number_of) const {
    if (number_of % divisor)
      throw Error(str(file, ": ", small, " ", divisor, " does not divide ", large, " ", number_of));
  }

  /// Rotary positions: `rope_parameters` (transformers 5; by layer type where there are several) or `rope_theta` with
  /// `rope_scaling` (before).
  [[gnu::cold]] RopeOptions rope(int64_t head_size, float default_theta, const char* layer_type = nullptr) const {
    RopeOptions rope;
    rope.head_size = head_size;
    rope.theta = number("rope_theta", default_theta);
    const Json* p = object(json, "rope_parameters");
    if (p && layer_type && object(*p, layer_type)) p = object(*p, layer_type);
    if (p) rope.theta = value_or<float>(*p, "rope_theta", rope.theta, file);
    else p = object(json, "rope_scaling");
    if (!p) return rope;
    const auto type = value_or<std::string>(*p, "rope_type", value_or<std::string>(*p, "type", "default", file), file);
    if (type == "linear") {
      rope.factor = at<float>(*p, "factor", file);
    } else if (type == "llama3") {
      rope.llama3 =
          Llama3Scaling{.factor = at<float>(*p, "factor", file),
                        .low_freq_factor = at<float>(*p, "low_freq_factor", file),
                        .high_freq_factor = at<float>(*p, "high_freq_factor", file),
                        .original_max_position_embeddings = at<int64_t>(*p, "original_max_position_embeddings", file)};
    } else if (type != "default") {
      throw Error(str(file, ": rope type '", type, "' is not known"), "known are default, linear and llama3.");
    }
    return rope;
  }
  /// Theta of the layers with a window.
  float local_theta(float fallback) const {
    const Json* p = object(json, "rope_parameters");
    if (p) p = object(*p, "sliding_attention");
    return p ? value_or<float>(*p, "rope_theta", fallback, file) : number("rope_local_base_freq", fallback);
  }
  /// Which layers attend to the window alone: `layer_types`, or all but every `sliding_window_pattern`-th.
  [[gnu::cold]] std::vector<bool> sliding_layers(int64_t layers, int64_t default_pattern) const {
    std::vector<bool> sliding;
    if (json.contains("layer_types")) {
      for (const auto& type : at<std::vector<std::string>>(json, "layer_types", file))
        sliding.push_back(type == "sliding_attention");
      if (static_cast<int64_t>(sliding.size()) != layers)
        throw Error(str(file, ": layer_types has ", sliding.size(), " entries for ", layers, " layers"));
      return sliding;
    }
    const char* key = json.contains("sliding_window_pattern") ? "sliding_window_pattern" : "_sliding_window_pattern";
    const int64_t pattern = size(key, default_pattern);
    for (int64_t i = 0; i < layers; ++i) sliding.push_back((i + 1) % pattern != 0);
    return sliding;
  }

 private:
  static constexpr int64_t largest = int64_t{1} << 31;  // no axis of a model is near this: a file that says more lies

  int64_t checked(const char* key, int64_t n) const {
    if (n < 1 || n > largest) throw Error(str(file, ": ", key, " ", n, " makes no sense"));
    return n;
  }
  static const Json* object(const Json& from, const char* key) {
    const auto found = from.find(key);
    return found != from.end() && found->is_object() ? &*found : nullptr;
  }
};

/// Reads GGUF metadata "<architecture>.<key>".
struct GgufConfig {
  const GgufFile& gguf;
  std::string architecture;

  int64_t size(const std::string& key) const { return gguf.get<int64_t>(architecture + "." + key); }
  int64_t size(const std::string& key, int64_t fallback) const {
    return gguf.get_or<int64_t>(architecture + "." + key, fallback);
  }
  double number(const std::string& key, double fallback) const {
    return gguf.get_or<double>(architecture + "." + key, fallback);
  }

  /// The fields of config.json that all architectures share.
  [[gnu::cold]] Json common() const {
    Json json;
    const int64_t width = size("embedding_length"), heads = size("attention.head_count");
    if (width < 1 || heads < 1)
      throw Error(str(gguf.file_name(), ": ", architecture, ": width ", width, " and ", heads, " heads make no sense"));
    json["vocab_size"] = gguf.tensor("token_embd.weight").shape[0];
    json["hidden_size"] = width;
    json["intermediate_size"] = size("feed_forward_length");
    json["num_hidden_layers"] = size("block_count");
    json["num_attention_heads"] = heads;
    json["num_key_value_heads"] = size("attention.head_count_kv", heads);
    json["head_dim"] = size("attention.key_length", width / heads);
    json["max_position_embeddings"] = size("context_length", 2048);
    json["rms_norm_eps"] = number("attention.layer_norm_rms_epsilon", 1e-6);
    json["tie_word_embeddings"] = !gguf.contains("output.weight");
    json["torch_dtype"] = "float32";
    return json;
  }
};

}  // namespace ft::inline FTLIB_ABI
