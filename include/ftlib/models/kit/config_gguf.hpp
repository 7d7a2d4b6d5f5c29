// models/kit/config_gguf.hpp: a configuration as GGUF's metadata: read; written, and read again, so that what GGUF has
// no word for is found before a file is.
#pragma once
#include <ftlib/io/gguf.hpp>                      // GgufFile
#include <ftlib/models/kit/config.hpp>            // ConfigFields, TransformerConfig
#include <ftlib/models/kit/gguf_description.hpp>  // GgufDescription

#include <algorithm>  // std::count, std::max, std::min
#include <cmath>      // std::abs, std::sqrt
#include <optional>   // std::optional
#include <set>        // std::set
#include <span>       // std::span
#include <string>     // std::string
#include <vector>     // std::vector

namespace ft::inline FTLIB_ABI {

namespace detail {

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
                                               "remove_extra_whitespaces",
                                               "precompiled_charsmap",
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
  void has_tensor(const char* name, std::vector<bool>& layers) override {
    for (std::size_t i = 0; i < layers.size(); ++i) layers[i] = gguf_.contains(str("blk.", i, '.', name, ".weight"));
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
    if (!key || values.empty()) return;
    if (std::count(values.begin(), values.end(), values.front()) == std::ssize(values))
      put(key, static_cast<uint32_t>(values.front()));  // as llama.cpp's converters
    else put(key, GgufArray::of(std::vector<int32_t>(values.begin(), values.end())));
  }
  void each_layer(const char*, std::vector<std::string>&, int64_t, const std::vector<std::string>&) override {}
  void has_tensor(const char* name, std::vector<bool>& layers) override {
    for (std::size_t i = 0; i < layers.size(); ++i)
      if (layers[i]) telling_.push_back(str("blk.", i, '.', name, ".weight"));
  }
  /// Names of weights that tell by being there.
  const std::vector<std::string>& telling() const { return telling_; }
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
  std::vector<std::string> telling_;
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
                      .stacks = {},
                      .notes = {}};
  for (int64_t i = 0; i < out.layers; ++i) {
    const LayerTraits t = config.layer(i);
    const std::string at = str(config.decoder().layers, i, '.');
    out.experts = std::max(out.experts, t.experts);
    if (!t.router) continue;
    for (const char* which : {"gate", "up", "down"}) {
      const bool down = std::string_view(which) == "down";
      out.stacks[str(at, t.expert, "0.", which, "_proj.weight")] = {expert_part(t, at, which, 0, config.hidden_size),
                                                                    down ? config.hidden_size : t.expert_size};
    }
  }
  Config copy = config;  // fields() is one description, for readers and for writers
  GgufConfigWriter writer(out);
  copy.fields(writer);

  // A file of the keys, the tables, and matrices without columns.
  std::vector<GgufTensor> tensors{{"token_embd.weight", DType::f32, {config.vocab_size, 0}}};
  if (!config.tie_word_embeddings) tensors.push_back({"output.weight", DType::f32, {config.vocab_size, 0}});
  for (const std::string& name : writer.telling()) tensors.push_back({name, DType::f32, {config.hidden_size, 0}});
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

}  // namespace ft::inline FTLIB_ABI
