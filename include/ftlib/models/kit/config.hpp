// models/kit/config.hpp: a model's configuration: a struct whose fields are described once, under the key of
// config.json and the key of GGUF, and are read from either and written back. What a file says beyond that is computed,
// refused by its name, or noted: never passed over without a word.
#pragma once
#include <ftlib/io/gguf.hpp>                      // GgufFile
#include <ftlib/io/json.hpp>                      // Json, at, value_or
#include <ftlib/models/kit/gguf_description.hpp>  // GgufDescription
#include <ftlib/models/kit/language_model.hpp>    // ModelInfo
#include <ftlib/models/kit/tensor_map.hpp>        // TensorMap
#include <ftlib/models/kit/traits.hpp>            // LayerTraits, DecoderTraits
#include <ftlib/models/kit/weights.hpp>           // Weights
#include <ftlib/ops/rope.hpp>                     // RopeOptions

#include <algorithm>  // std::fill_n, std::min
#include <cmath>      // std::abs, std::log, std::sqrt
#include <concepts>   // std::derived_from
#include <cstdio>     // std::snprintf
#include <cstdlib>    // std::strtod
#include <memory>     // std::shared_ptr
#include <optional>   // std::optional
#include <set>        // std::set
#include <string>     // std::string
#include <vector>     // std::vector

namespace ft::inline FTLIB_ABI {

/// A configuration's fields, one call each: `hf` is the key in config.json, `gguf` the key behind "<architecture>." of
/// GGUF; null where a form has none. Readers assign, and throw Error naming the file and the key where a value is
/// missing (and no fallback is given), of another type or absurd; the writer reads.
class ConfigFields {
 public:
  virtual ~ConfigFields() = default;
  /// A whole number of at least `least`.
  virtual void size(const char* hf, const char* gguf, int64_t& value, std::optional<int64_t> fallback = {},
                    int64_t least = 1) = 0;
  virtual void number(const char* hf, const char* gguf, float& value, std::optional<float> fallback = {}) = 0;
  /// A number that may be absent, which config.json says by null: 0.
  virtual void optional_number(const char* hf, const char* gguf, float& value) { number(hf, gguf, value, 0.0f); }
  virtual void flag(const char* hf, const char* gguf, bool& value, bool fallback) = 0;
  /// Rows of the embedding.
  virtual void vocabulary(int64_t& rows) = 0;
  virtual void tied(bool& value, bool fallback) = 0;
  /// Rotary positions, of the layers of one type where there are several ("full_attention"). `partial`: the file may
  /// say that only a part of each head turns; with a layer type it is one that config.json says in rope_parameters
  /// alone. Call it after common().
  virtual void rope(RopeOptions& rope, int64_t head_dim, float theta, const char* layer_type = nullptr,
                    bool partial = false) = 0;
  /// Theta of the layers with a window, which know no other kind.
  virtual void local_rope(RopeOptions& rope, int64_t head_dim, float theta) = 0;
  /// Which layers attend to the window alone; `otherwise` where the file does not say.
  virtual void sliding(std::vector<bool>& layers, int64_t count, const std::vector<bool>& otherwise) = 0;
  /// How many keys a token sees; 0: all, which config.json says by null. `missing`: where it has no such key.
  virtual void window(const char* gguf, int64_t& keys, int64_t missing) = 0;
  /// A number or a word for each layer (count -1: a list of any length); `otherwise` where the file does not say, and
  /// in GGUF without a key for it.
  virtual void each_layer(const char* hf, const char* gguf, std::vector<int64_t>& values, int64_t count,
                          const std::vector<int64_t>& otherwise) = 0;
  virtual void each_layer(const char* hf, std::vector<std::string>& words, int64_t count,
                          const std::vector<std::string>& otherwise) = 0;
  /// What config.json's per_layer_config says of a key in single layers, into `values`, one for each layer. Returns
  /// whether it has such a part.
  virtual bool in_layers(const char* /*hf*/, std::vector<int64_t>& /*values*/) { return false; }
  virtual void word(const char* hf, std::string& value, const char* fallback) = 0;
  /// How the weights are stored (quantization_config): `method` is read here, another is refused. Not written back,
  /// for what is written is dense.
  virtual void storage(const char* /*method*/) {}
  /// Keys with this beginning, of config.json or of GGUF behind the architecture, say nothing that is computed here.
  void pass_over(std::string beginning) { passed_.push_back(std::move(beginning)); }
  /// Whoever says something else is a variant that is not computed here.
  virtual void expect(const char* hf, const char* known) = 0;
  virtual bool is_gguf() const { return false; }

  /// Throws Error of the file.
  [[noreturn]] virtual void fail(const std::string& what) const = 0;

 protected:
  bool passed(std::string_view key) const {
    return std::any_of(passed_.begin(), passed_.end(),
                       [&](const auto& beginning) { return key.starts_with(beginning); });
  }

 private:
  std::vector<std::string> passed_;
};

/// What all decoders have; architectures derive and describe more. Field names are config.json's.
struct TransformerConfig : ModelInfo {
  int64_t intermediate_size = 0, num_attention_heads = 0, num_key_value_heads = 0, head_dim = 0;
  float rms_norm_eps = 1e-6f;
  bool tie_word_embeddings = false;
  bool output_router_logits = false;    // whether training balances the load of experts,
  float router_aux_loss_coef = 0.001f;  // and how much that counts
  Json others =
      Json::object();  // keys of config.json that are no matter of computing (ids of tokens, the class's name)

  virtual ~TransformerConfig() = default;
  virtual void fields(ConfigFields& f) = 0;
  virtual TensorMap tensors() const = 0;
  virtual LayerTraits layer(int64_t i) const = 0;
  virtual DecoderTraits decoder() const { return {}; }
  /// The original length of its longrope; 0: none.
  virtual int64_t long_from() const { return 0; }
  /// What llama.cpp makes otherwise of a GGUF that says all of it; empty: nothing.
  virtual std::string in_llama_cpp() const { return {}; }
  /// Forgets tensors that hold nothing a model reads, and mends names, before parameters are taken.
  virtual void prepare(Weights&) const {}
  /// The opposite: where a folder has what is `name` in memory.
  virtual FolderPlace folder_place(const std::string& name, const Shape& shape) const { return {name, shape}; }
  /// config.json. Throws Error where it cannot be said there.
  Json to_json();

 protected:
  /// The common part; call it first. `default_head_dim` 0: the width over the heads.
  void common(ConfigFields& f, bool tied, int64_t default_head_dim = 0, int64_t default_positions = 2048,
              float default_eps = 1e-6f) {
    f.vocabulary(vocab_size);
    f.size("hidden_size", "embedding_length", hidden_size);
    f.size("intermediate_size", "feed_forward_length", intermediate_size);
    f.size("num_hidden_layers", "block_count", num_hidden_layers);
    f.size("num_attention_heads", "attention.head_count", num_attention_heads);
    f.size("num_key_value_heads", "attention.head_count_kv", num_key_value_heads, num_attention_heads);
    // GGUF's converters leave the key out where it is the width over the heads, whatever config.json's default.
    const bool by_width = default_head_dim == 0 || f.is_gguf();
    f.size("head_dim", "attention.key_length", head_dim,
           by_width ? std::max<int64_t>(1, hidden_size / num_attention_heads) : default_head_dim);
    f.size("max_position_embeddings", "context_length", max_position_embeddings, default_positions);
    f.number("rms_norm_eps", "attention.layer_norm_rms_epsilon", rms_norm_eps, default_eps);
    f.tied(tie_word_embeddings, tied);
    if (num_attention_heads % num_key_value_heads)
      f.fail(str("num_key_value_heads ", num_key_value_heads, " does not divide num_attention_heads ",
                 num_attention_heads));
  }
  /// What is said of training routers; no word in GGUF.
  void router_fields(ConfigFields& f) {
    f.flag("output_router_logits", nullptr, output_router_logits, false);
    f.number("router_aux_loss_coef", nullptr, router_aux_loss_coef, 0.001f);
  }
  static int64_t long_from_of(const RopeOptions& rope) {
    return rope.longrope ? rope.longrope->original_max_position_embeddings : 0;
  }
  /// The names that nearly all decoders share.
  static std::vector<TensorRule> common_tensors() {
    return {{"model.embed_tokens", "token_embd"},
            {"model.norm", "output_norm"},
            {"lm_head", "output"},
            {"model.layers.{}.input_layernorm", "blk.{}.attn_norm"},
            {"model.layers.{}.self_attn.q_proj", "blk.{}.attn_q"},
            {"model.layers.{}.self_attn.k_proj", "blk.{}.attn_k"},
            {"model.layers.{}.self_attn.v_proj", "blk.{}.attn_v"},
            {"model.layers.{}.self_attn.o_proj", "blk.{}.attn_output"},
            {"model.layers.{}.mlp.gate_proj", "blk.{}.ffn_gate"},
            {"model.layers.{}.mlp.up_proj", "blk.{}.ffn_up"},
            {"model.layers.{}.mlp.down_proj", "blk.{}.ffn_down"}};
  }
  /// The matrices of each expert, which GGUF has as one tensor of all.
  static void add_experts(std::vector<TensorRule>& rules, int64_t experts) {
    for (const char* part : {"gate", "up", "down"})
      rules.push_back({.hf = str("model.layers.{}.mlp.experts.{e}.", part, "_proj"),
                       .gguf = str("blk.{}.ffn_", part, "_exps"),
                       .transform = Transform::stack,
                       .experts = experts});
  }
};

namespace detail {

inline constexpr int64_t largest_size = int64_t{1}
                                        << 31;  // no axis of a model is near this: a file that says more lies

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

/// Keys of GGUF that are no matter of computing, or are read elsewhere: who made the file and how, the tokenizer's
/// (text/tokenizer_spec.hpp), and what llama.cpp reads for other kinds of tokenizers and of tasks.
inline bool harmless_gguf(std::string_view key, const GgufValue& value, std::string_view prefix) {
  if (key.starts_with("general.") || key.starts_with("quantize.") || key.starts_with("split.")) return true;
  if (key == std::string(prefix) + "tensor_data_layout") {  // how q and k lie: as all converters lay them
    const auto* layout = std::get_if<std::string>(&value);
    return layout && *layout == "Meta AI original pth";
  }
  if (key.starts_with("tokenizer.chat_template")) return true;
  static const std::set<std::string_view> ggml{"model",
                                               "pre",
                                               "tokens",
                                               "token_type",
                                               "token_type_count",
                                               "scores",
                                               "merges",
                                               "bos_token_id",
                                               "eos_token_id",
                                               "eot_token_id",
                                               "eom_token_id",
                                               "unknown_token_id",
                                               "seperator_token_id",
                                               "padding_token_id",
                                               "cls_token_id",
                                               "mask_token_id",
                                               "add_bos_token",
                                               "add_eos_token",
                                               "add_sep_token",
                                               "add_space_prefix",
                                               "prefix_token_id",
                                               "suffix_token_id",
                                               "middle_token_id",
                                               "fim_pre_token_id",
                                               "fim_suf_token_id",
                                               "fim_mid_token_id",
                                               "fim_pad_token_id",
                                               "fim_rep_token_id",
                                               "fim_sep_token_id"};
  constexpr std::string_view tokenizer = "tokenizer.ggml.";
  return key == "tokenizer.huggingface.json" ||
         (key.starts_with(tokenizer) && ggml.count(key.substr(tokenizer.size())) != 0);
}

/// What cosines and sines are multiplied by where a file does not say.                  transformers'
/// modeling_rope_utils
inline float yarn_attention_factor(float factor) { return factor <= 1 ? 1 : 0.1f * std::log(factor) + 1; }
inline float longrope_attention_factor(float factor, const LongRopeScaling& l) {
  return factor <= 1
             ? 1
             : std::sqrt(1 + std::log(factor) / std::log(static_cast<float>(l.original_max_position_embeddings)));
}

/// "proportional": of all hd / 2 pairs the first `part` turn, at the frequencies that they have in the whole head. The
/// others' divisor is GGUF's.                                                   transformers' modeling_rope_utils
inline constexpr float no_turn = 1e30f;
inline std::vector<float> proportional_divisors(int64_t head_dim, float part) {
  const auto turning = static_cast<std::size_t>(part * static_cast<float>(head_dim) / 2);
  std::vector<float> divisors(static_cast<std::size_t>(head_dim / 2), no_turn);
  std::fill_n(divisors.begin(), std::min(turning, divisors.size()), 1.0f);
  return divisors;
}
/// The part of such a table; 0 where it is another.
inline float proportional_part(const std::vector<float>& divisors) {
  std::size_t turning = 0;
  while (turning < divisors.size() && divisors[turning] == 1) ++turning;
  for (std::size_t i = turning; i < divisors.size(); ++i)
    if (divisors[i] != no_turn) return 0;
  return static_cast<float>(turning) / static_cast<float>(divisors.size());
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

/// GGUF's metadata. Every key of the architecture that is not read and is not neutral is refused.
class GgufConfig final : public ConfigFields {
 public:
  GgufConfig(const GgufFile& gguf, std::string architecture)
      : gguf_(gguf), prefix_(std::move(architecture) + "."), read_{prefix_ + "vocab_size"} {}
  bool is_gguf() const override { return true; }

  void size(const char*, const char* key, int64_t& value, std::optional<int64_t> fallback, int64_t least) override {
    value = get<int64_t>(key, fallback);
    if (value < least || value > largest_size) fail(str(prefix_, key ? key : "", ' ', value, " makes no sense"));
  }
  void number(const char*, const char* key, float& value, std::optional<float> fallback) override {
    value = get<float>(key, fallback);
  }
  void flag(const char*, const char* key, bool& value, bool fallback) override {
    value = get<bool>(key, std::optional(fallback));
  }
  void vocabulary(int64_t& rows) override { rows = gguf_.info("token_embd.weight").shape[0]; }
  void tied(bool& value, bool) override { value = !gguf_.contains("output.weight"); }
  [[gnu::cold]] void rope(RopeOptions& rope, int64_t head_dim, float theta, const char*, bool partial) override {
    rope = {.head_size = head_dim, .theta = get<float>("rope.freq_base", std::optional(theta))};
    if (const auto turned = get<int64_t>("rope.dimension_count", std::optional(head_dim)); turned != head_dim) {
      if (!partial || turned < 2 || turned > head_dim)
        fail(str(prefix_, "rope.dimension_count is ", turned, " of heads of ", head_dim,
                 ": partial rotary positions are not computed for this architecture"));
      rope.rotary_size = turned;
    }
    const int64_t pairs = (rope.rotary_size ? rope.rotary_size : head_dim) / 2;
    rope.divisors = table("rope_freqs.weight", pairs);
    // llama.cpp's rules: a factor without a type is linear, with the type none it is not used, and 0 is none.
    const auto type = get<std::string>("rope.scaling.type", std::optional<std::string>("linear"));
    const auto factor = get<float>("rope.scaling.factor", get_or<float>("rope.scale_linear", 1.0f));
    const auto original = get_or<int64_t>("rope.scaling.original_context_length", get_or<int64_t>("context_length", 0));
    const auto attention_factor = get_or<float>("rope.scaling.attn_factor", 1.0f);
    read_.insert(prefix_ + "rope.scaling.finetuned");
    if (type == "yarn" && factor != 0 && factor != 1) {
      rope.yarn = YarnScaling{.factor = factor,
                              .original_max_position_embeddings = original,
                              .beta_fast = get_or<float>("rope.scaling.yarn_beta_fast", 32.0f),
                              .beta_slow = get_or<float>("rope.scaling.yarn_beta_slow", 1.0f)};
      rope.attention_factor = attention_factor * yarn_attention_factor(factor);
    } else if (type == "linear" || type == "none" || type == "longrope" || type == "yarn") {
      rope.factor = factor == 0 || type == "none" ? 1 : factor;
      if (type == "none" && factor != 1 && factor != 0)
        notes_.push_back(str(gguf_.file_name(), ": ", prefix_, "rope.scaling.factor ", factor,
                             " is not used, for rope.scaling.type is none"));
      if (!(rope.factor > 0)) fail(str(prefix_, "rope.scaling.factor ", factor, " makes no sense"));
      rope.attention_factor = attention_factor;
    } else {
      throw Error(str(gguf_.file_name(), ": ", prefix_, "rope.scaling.type is '", type, "', which is not known"),
                  "known are none, linear and yarn, and tables in rope_freqs.weight, rope_factors_long.weight and "
                  "rope_factors_short.weight.");
    }
    if (auto longer = table("rope_factors_long.weight", pairs); !longer.empty()) {
      rope.longrope = LongRopeScaling{table("rope_factors_short.weight", pairs), std::move(longer), original};
      if (rope.longrope->short_factor.empty() || original < 2)
        fail(str("rope_factors_long.weight is there without rope_factors_short.weight, or for a length of ", original));
    }
  }
  void local_rope(RopeOptions& rope, int64_t head_dim, float theta) override {
    rope = {.head_size = head_dim, .theta = get<float>("rope.freq_base_swa", std::optional(theta))};
    if (const auto turned = get<int64_t>("rope.dimension_count_swa", std::optional(head_dim)); turned != head_dim)
      fail(str(prefix_, "rope.dimension_count_swa is ", turned, " of heads of ", head_dim,
               ": partial rotary positions are not computed for the layers with a window"));
  }
  [[gnu::cold]] void sliding(std::vector<bool>& layers, int64_t count, const std::vector<bool>& otherwise) override {
    layers = otherwise;
    const std::string key = prefix_ + "attention.sliding_window_pattern";
    read_.insert(key);
    const GgufValue* value = gguf_.find(key);
    if (!value) return;
    if (std::holds_alternative<GgufArray>(*value)) {
      layers = gguf_.get<std::vector<bool>>(key);
      if (static_cast<int64_t>(layers.size()) != count)
        fail(str(key, " has ", layers.size(), " entries for ", count, " layers"));
    } else {
      const auto pattern = gguf_.get<int64_t>(key);
      if (pattern < 1) fail(str(key, ' ', pattern, " makes no sense"));
      for (int64_t i = 0; i < count; ++i) layers[static_cast<std::size_t>(i)] = (i + 1) % pattern != 0;
    }
  }
  void window(const char* key, int64_t& keys, int64_t) override {
    keys = get<int64_t>(key, std::optional<int64_t>(0));
    if (keys < 0 || keys > largest_size) fail(str(prefix_, key ? key : "", ' ', keys, " makes no sense"));
  }
  void each_layer(const char*, const char* key, std::vector<int64_t>& values, int64_t count,
                  const std::vector<int64_t>& otherwise) override {
    values = otherwise;
    if (!key) return;
    const std::string name = prefix_ + key;
    read_.insert(name);
    const GgufValue* value = gguf_.find(name);
    if (!value) return;
    if (std::holds_alternative<GgufArray>(*value)) values = gguf_.get<std::vector<int64_t>>(name);
    else values.assign(static_cast<std::size_t>(count), gguf_.get<int64_t>(name));
    if (static_cast<int64_t>(values.size()) != count)
      fail(str(name, " has ", values.size(), " entries for ", count, " layers"));
  }
  void each_layer(const char*, std::vector<std::string>& words, int64_t,
                  const std::vector<std::string>& otherwise) override {
    words = otherwise;
  }
  void word(const char*, std::string& value, const char* fallback) override { value = fallback; }
  void expect(const char*, const char*) override {}  // the architecture's name says it
  [[noreturn]] void fail(const std::string& what) const override { throw Error(str(gguf_.file_name(), ": ", what)); }

  [[gnu::cold]] void finish(TransformerConfig& config) {
    if (const auto size = get<int64_t>("attention.value_length", std::optional(config.head_dim));
        size != config.head_dim)
      fail(str(prefix_, "attention.value_length is ", size, ", attention.key_length ", config.head_dim,
               ": values of another size than keys are not computed"));
    if (!get<bool>("attention.causal", std::optional(true)))
      fail(str(prefix_, "attention.causal is false: attention in both directions is not computed"));
    std::string unknown;
    for (const auto& [key, value] : gguf_.metadata()) {
      if (read_.count(key) || harmless_gguf(key, value, prefix_) || neutral(key, value)) continue;
      if (key.starts_with(prefix_) && passed(std::string_view(key).substr(prefix_.size()))) continue;
      const bool rope = key.find("rope.") != key.npos || key.starts_with("adapter.") || key.starts_with("clip.");
      if (key.starts_with(prefix_) || rope)
        throw Error(str(gguf_.file_name(), ": ", key, " is set, which ftlib does not compute for this architecture"),
                    "the model is a variant that is not known here; without the key its answers would be wrong.");
      unknown += str(unknown.empty() ? "" : ", ", key);
    }
    config.notes.insert(config.notes.end(), notes_.begin(), notes_.end());
    if (!unknown.empty())
      config.notes.push_back(str(gguf_.file_name(), ": keys that ftlib does not know are passed over: ", unknown));
    for (const auto& [hf, key] : {std::pair{"bos_token_id", "tokenizer.ggml.bos_token_id"},
                                  std::pair{"eos_token_id", "tokenizer.ggml.eos_token_id"}})
      if (gguf_.find(key)) config.others[hf] = gguf_.get<int64_t>(key);
    config.others["torch_dtype"] = "float32";
  }

 private:
  static bool neutral(const std::string& key, const GgufValue& value) {
    return std::visit(
        [&]<class V>(const V& v) {
          if constexpr (std::same_as<V, bool>) return !v;
          else if constexpr (std::is_arithmetic_v<V>)
            return v == V(0) || (v == V(1) && (key.find("scale") != key.npos || key.ends_with("_factor")));
          else return false;
        },
        value);
  }
  template <class V> V get_or(const char* key, V fallback) { return get<V>(key, std::optional(fallback)); }
  /// Numbers that GGUF keeps among the tensors; empty where there are none.
  std::vector<float> table(const std::string& name, int64_t count) const {
    if (!gguf_.contains(name)) return {};
    const Stored<Cpu> tensor = gguf_.tensor(name);
    if (tensor.shape != Shape{count}) fail(str("tensor '", name, "' has shape ", tensor.shape, ", not (", count, ")"));
    std::vector<float> values(static_cast<std::size_t>(count));
    dequantise_row(tensor.type, tensor.data, 0, count, values.data());
    return values;
  }
  template <class V> V get(const char* key, const std::optional<V>& fallback) {
    if (!key) return fallback.value();
    const std::string name = prefix_ + key;
    read_.insert(name);
    if constexpr (std::same_as<V, int64_t>)
      if (const GgufValue* value = gguf_.find(name); value && std::holds_alternative<GgufArray>(*value)) {
        const auto each = gguf_.get<std::vector<int64_t>>(name);
        for (const int64_t one : each)
          if (one != each.front())
            fail(str(name, " is ", each.front(), " in one layer and ", one,
                     " in another, which is not computed for this architecture"));
        if (!each.empty()) return each.front();
      }
    return fallback ? gguf_.get_or<V>(name, *fallback) : gguf_.get<V>(name);
  }

  const GgufFile& gguf_;
  std::string prefix_;
  std::set<std::string> read_;
  std::vector<std::string> notes_;
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

/// The configuration that a GGUF of a Config is read as: its own, or where several share a name in GGUF, the one that
/// Config names as its `from_gguf`.
template <class Config> struct GgufReader { using type = Config; };
template <class Config>
requires requires { typename Config::from_gguf; }
struct GgufReader<Config> {
  using type = typename Config::from_gguf;
};

/// Writes GGUF's keys, and the tables that GGUF has among its tensors.
class GgufConfigWriter final : public ConfigFields {
 public:
  explicit GgufConfigWriter(GgufDescription& out) : out_(out), prefix_(out.architecture + ".") {}
  bool is_gguf() const override { return true; }

  void size(const char*, const char* key, int64_t& value, std::optional<int64_t>, int64_t) override {
    put(key, static_cast<uint32_t>(value));
  }
  void number(const char*, const char* key, float& value, std::optional<float>) override { put(key, value); }
  void optional_number(const char*, const char* key, float& value) override {
    if (value != 0) put(key, value);
  }
  void flag(const char*, const char* key, bool& value, bool) override { put(key, value); }
  void vocabulary(int64_t& rows) override { put("vocab_size", static_cast<uint32_t>(rows)); }
  void tied(bool&, bool) override {}  // by whether output.weight is there
  [[gnu::cold]] void rope(RopeOptions& rope, int64_t head_dim, float, const char*, bool) override {
    head_dim_ = head_dim;
    put("rope.freq_base", rope.theta);
    put("rope.dimension_count", static_cast<uint32_t>(rope.rotary_size ? rope.rotary_size : head_dim));
    float attention_factor = rope.attention_factor;
    if (rope.llama3) {
      RopeOptions plain = rope;
      plain.llama3 = {};
      auto divisors = rope_frequencies(plain);
      const auto scaled = rope_frequencies(rope);
      for (std::size_t i = 0; i < scaled.size(); ++i) divisors[i] /= scaled[i];
      out_.tables.emplace_back("rope_freqs.weight", std::move(divisors));
    } else if (rope.yarn) {
      put("rope.scaling.type", std::string("yarn"));
      put("rope.scaling.factor", rope.yarn->factor);
      put("rope.scaling.original_context_length", static_cast<uint32_t>(rope.yarn->original_max_position_embeddings));
      put("rope.scaling.yarn_beta_fast", rope.yarn->beta_fast);
      put("rope.scaling.yarn_beta_slow", rope.yarn->beta_slow);
      attention_factor /= yarn_attention_factor(rope.yarn->factor);
    } else if (rope.longrope) {
      put("rope.scaling.original_context_length",
          static_cast<uint32_t>(rope.longrope->original_max_position_embeddings));
      out_.tables.emplace_back("rope_factors_long.weight", rope.longrope->long_factor);
      out_.tables.emplace_back("rope_factors_short.weight", rope.longrope->short_factor);
    } else if (rope.factor != 1) {
      put("rope.scaling.type", std::string("linear"));
      put("rope.scaling.factor", rope.factor);
    }
    if (!rope.divisors.empty()) out_.tables.emplace_back("rope_freqs.weight", rope.divisors);
    if (std::abs(attention_factor - 1) > 1e-6f) put("rope.scaling.attn_factor", attention_factor);
  }
  void local_rope(RopeOptions& rope, int64_t head_dim, float) override {
    put("rope.freq_base_swa", rope.theta);
    if (head_dim != head_dim_) put("rope.dimension_count_swa", static_cast<uint32_t>(head_dim));
  }
  void sliding(std::vector<bool>& layers, int64_t, const std::vector<bool>& otherwise) override {
    if (windows_ && layers != otherwise) put("attention.sliding_window_pattern", GgufArray::of(layers));
  }
  void window(const char* key, int64_t& keys, int64_t) override { put(key, static_cast<uint32_t>(keys)); }
  void each_layer(const char*, const char* key, std::vector<int64_t>& values, int64_t,
                  const std::vector<int64_t>&) override {
    put(key, GgufArray::of(std::vector<int32_t>(values.begin(), values.end())));
  }
  void each_layer(const char*, std::vector<std::string>&, int64_t, const std::vector<std::string>&) override {}
  void word(const char*, std::string&, const char*) override {}
  void expect(const char*, const char*) override {}
  [[noreturn]] void fail(const std::string& what) const override {
    throw Error(str("gguf: ", what), "leave as a Hugging Face folder, or as a GGUF LoRA over a base that is a GGUF.");
  }

 private:
  void put(const char* key, GgufValue value) {
    if (!key) return;
    windows_ |= std::string_view(key) == "attention.sliding_window";
    const bool keys = std::string_view(key) == "attention.key_length";
    if (keys) out_.metadata.emplace_back(prefix_ + "attention.value_length", value);
    out_.metadata.emplace_back(prefix_ + key, std::move(value));
  }

  GgufDescription& out_;
  std::string prefix_;
  bool windows_ = false;
  int64_t head_dim_ = 0;
};

/// What a configuration computes otherwise than another one that was read from a GGUF of it, by name; windows apart,
/// which llama.cpp's converters leave out for some architectures: they matter to texts that are longer.
struct GgufLoss {
  std::string what;
  std::string windows;
};
[[gnu::cold]] inline GgufLoss lost_in_gguf(const TransformerConfig& ours, const TransformerConfig& read) {
  GgufLoss lost;
  const auto say = [&](const std::string& what) { lost.what += str(lost.what.empty() ? "" : "; ", what); };
  const auto same = [](float a, float b) { return std::abs(a - b) <= 1e-5f * std::abs(a); };
  const auto number = [&](const std::string& what, auto a, auto b) {
    if (!same(static_cast<float>(a), static_cast<float>(b))) say(str(what, " is ", a, " and would be read as ", b));
  };
  number("hidden_size", ours.hidden_size, read.hidden_size);
  number("num_hidden_layers", ours.num_hidden_layers, read.num_hidden_layers);
  number("num_attention_heads", ours.num_attention_heads, read.num_attention_heads);
  number("num_key_value_heads", ours.num_key_value_heads, read.num_key_value_heads);
  number("head_dim", ours.head_dim, read.head_dim);
  number("the width of the feed-forward part", ours.intermediate_size, read.intermediate_size);
  number("max_position_embeddings", ours.max_position_embeddings, read.max_position_embeddings);
  number("the norms' epsilon", ours.rms_norm_eps, read.rms_norm_eps);
  number("tie_word_embeddings", ours.tie_word_embeddings, read.tie_word_embeddings);
  number("the length of longrope", ours.long_from(), read.long_from());
  const DecoderTraits a = ours.decoder(), b = read.decoder();
  number("the embedding's factor", a.embedding_scale, b.embedding_scale);
  number("the logits' divisor", a.logits_divisor, b.logits_divisor);
  number("final_logit_softcapping", a.logits_cap, b.logits_cap);
  number("hidden_size_per_layer_input", a.per_layer_size, b.per_layer_size);
  if (a.norm_kind != b.norm_kind || a.norm_offset != b.norm_offset || !a.positions != !b.positions)
    say("norms or positions are of another kind");
  const auto or_whole = [](int64_t own, int64_t whole) { return own ? own : whole; };
  const auto scale = [&](const TransformerConfig& c, const LayerTraits& t) {
    return t.attention_scale != 0 ? t.attention_scale
                                  : 1 / std::sqrt(static_cast<float>(or_whole(t.head_dim, c.head_dim)));
  };
  const auto turns = [&](const RopeOptions& x, const RopeOptions& y) {
    if (x.rotary_size != y.rotary_size || !same(x.attention_factor, y.attention_factor)) return false;
    for (const bool longer : {false, true}) {
      const auto f = rope_frequencies(x, longer), g = rope_frequencies(y, longer);
      for (std::size_t i = 0; i < f.size(); ++i)
        if (!same(f[i], g[i])) return false;
    }
    return true;
  };
  int64_t windows = 0, window = 0;
  for (int64_t i = 0; i < std::min(ours.num_hidden_layers, read.num_hidden_layers); ++i) {
    const LayerTraits t = ours.layer(i), u = read.layer(i);
    const std::string at = str("layer ", i, ": ");
    if (!t.rope != !u.rope) say(at + (t.rope ? "it has positions" : "it has no positions (no_rope_layers)"));
    else if (t.rope && !turns(*t.rope, *u.rope))
      say(at + "its rotary positions are of a kind that GGUF has no word for");
    number(at + "the scores' factor (query_pre_attn_scalar, attention_multiplier)", scale(ours, t), scale(read, u));
    number(at + "residual_multiplier", t.residual_scale, u.residual_scale);
    number(at + "head_dim", or_whole(t.head_dim, ours.head_dim), or_whole(u.head_dim, read.head_dim));
    number(at + "num_key_value_heads", or_whole(t.kv_heads, ours.num_key_value_heads),
           or_whole(u.kv_heads, read.num_key_value_heads));
    number(at + "the width of its feed-forward part", or_whole(t.mlp_size, ours.intermediate_size),
           or_whole(u.mlp_size, read.intermediate_size));
    number(at + "the layer whose keys and values it reads", t.kv_of, u.kv_of);
    if (!t.v != !u.v || t.v_norm != u.v_norm) say(at + "its values are made otherwise (attention_k_eq_v)");
    number(at + "the number of experts (mlp_only_layers, decoder_sparse_step)", t.experts, u.experts);
    number(at + "the number of experts that a token uses", t.chosen, u.chosen);
    number(at + "the width of an expert", t.expert_size, u.expert_size);
    number(at + "norm_topk_prob", t.renormalise, u.renormalise);
    number(at + "the convolution's length", t.conv || t.delta ? t.conv_length : 0,
           u.conv || u.delta ? u.conv_length : 0);
    if (!t.delta != !u.delta) say(at + "it is a gated delta net in one of them (layer_types)");
    number(at + "linear_num_key_heads", t.key_heads, u.key_heads);
    number(at + "linear_num_value_heads", t.value_heads, u.value_heads);
    number(at + "linear_key_head_dim", t.key_dim, u.key_dim);
    number(at + "linear_value_head_dim", t.value_dim, u.value_dim);
    if (t.activation != u.activation) say(at + "its activation is another");
    if (t.qkv_bias != u.qkv_bias || t.o_bias != u.o_bias || t.mlp_bias != u.mlp_bias)
      say(at + "it has biases (attention_bias, mlp_bias), which are not read from GGUF for this architecture");
    if (!t.q_norm != !u.q_norm || !t.k_norm != !u.k_norm) say(at + "it has norms on q and k");
    if (t.window != u.window) windows++, window = t.window;
    if (!lost.what.empty()) break;  // the next layers would say the same
  }
  if (windows)
    lost.windows = str(windows, " of ", ours.num_hidden_layers, " layers see ", window,
                       " tokens alone (sliding_window), for which GGUF has no word in this architecture: texts longer "
                       "than that are read in full there, and answers to them may differ");
  return lost;
}

/// A configuration for GGUF, read again as whoever opens the file will read it. Throws Error for what GGUF has no word
/// for.
template <class Config> [[gnu::cold]] GgufDescription gguf_description(const Config& config) {
  using Read = typename GgufReader<Config>::type;
  if (!*Config::gguf_name) throw Error(str("gguf: there is no GGUF architecture for ", Config::name));
  GgufDescription out{.architecture = Config::gguf_name,
                      .metadata = {},
                      .tables = {},
                      .map = config.tensors(),
                      .layers = config.num_hidden_layers,
                      .heads = config.num_attention_heads,
                      .kv_heads = config.num_key_value_heads,
                      .notes = {}};
  for (int64_t i = 0; i < out.layers; ++i) out.experts = std::max(out.experts, config.layer(i).experts);
  Config copy = config;  // fields() is one description, for readers and for writers
  GgufConfigWriter writer(out);
  copy.fields(writer);

  // A file of the keys, the tables, and matrices without columns.
  std::vector<GgufTensor> tensors{{"token_embd.weight", DType::f32, {config.vocab_size, 0}}};
  if (!config.tie_word_embeddings) tensors.push_back({"output.weight", DType::f32, {config.vocab_size, 0}});
  for (const auto& [name, values] : out.tables)
    tensors.push_back({name, DType::f32, {static_cast<int64_t>(values.size())}});
  GgufHeader header = gguf_header("gguf", out.metadata, tensors);
  for (const auto& [name, values] : out.tables) {
    const auto bytes = std::as_bytes(std::span(values));
    header.bytes.insert(header.bytes.end(), bytes.begin(), bytes.end());
    header.bytes.resize((header.bytes.size() + 31) / 32 * 32);
  }
  const auto file = GgufFile::parse(header.bytes, "gguf");
  Read read;
  read.model_type = Read::name;
  GgufConfig reader(file, out.architecture);
  read.fields(reader);
  reader.finish(read);
  const GgufLoss lost = lost_in_gguf(config, read);
  if (!lost.what.empty()) writer.fail(str("a ", out.architecture, " file cannot say this: ", lost.what));
  if (!lost.windows.empty()) out.notes.push_back(lost.windows);
  if (auto otherwise = config.in_llama_cpp(); !otherwise.empty()) out.notes.push_back(std::move(otherwise));
  return out;
}

}  // namespace detail

/// A configuration of any architecture, shared and not changed.
class AnyConfig {
 public:
  template <std::derived_from<TransformerConfig> Config>
  AnyConfig(Config config)
      : config_(std::make_shared<const Config>(std::move(config))),
        json_([](const TransformerConfig& c) {
          Config copy = static_cast<const Config&>(c);  // fields() is one description, for readers and for the writer
          return copy.to_json();
        }),
        gguf_([](const TransformerConfig& c) { return detail::gguf_description(static_cast<const Config&>(c)); }) {}
  const TransformerConfig* operator->() const { return config_.get(); }
  const TransformerConfig& operator*() const { return *config_; }
  Json to_json() const { return json_(*config_); }
  GgufDescription to_gguf() const { return gguf_(*config_); }

 private:
  std::shared_ptr<const TransformerConfig> config_;
  Json (*json_)(const TransformerConfig&);
  GgufDescription (*gguf_)(const TransformerConfig&);
};

[[gnu::cold]] inline Json TransformerConfig::to_json() {
  Json json = others;
  json["model_type"] = model_type;
  detail::ConfigWriter writer(json);
  fields(writer);
  return json;
}

}  // namespace ft::inline FTLIB_ABI
