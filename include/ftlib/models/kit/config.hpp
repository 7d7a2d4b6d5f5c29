// models/kit/config.hpp: a model's configuration: a struct whose fields are described once, under the key of
// config.json and the key of GGUF, and are read from either and written back (config_json.hpp, config_gguf.hpp). What a
// file says beyond that is computed, refused by its name, or noted: never passed over without a word.
#pragma once
#include <ftlib/io/json.hpp>                    // Json
#include <ftlib/models/kit/language_model.hpp>  // ModelInfo
#include <ftlib/models/kit/tensor_map.hpp>      // TensorMap
#include <ftlib/models/kit/traits.hpp>          // LayerTraits, DecoderTraits
#include <ftlib/models/kit/weights.hpp>         // Weights
#include <ftlib/ops/rope.hpp>                   // RopeOptions

#include <algorithm>  // std::fill_n, std::min
#include <cmath>      // std::log, std::sqrt
#include <optional>   // std::optional
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
  /// Which layers have a tensor "blk.N.NAME.weight": what GGUF has no key for, and says by that. Of config.json nothing
  /// is read.
  virtual void has_tensor(const char* /*gguf*/, std::vector<bool>& /*layers*/) {}
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

}  // namespace detail

}  // namespace ft::inline FTLIB_ABI
