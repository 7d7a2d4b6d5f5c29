// models/gemma4.hpp: Gemma 4 (text), dense. Layers with a window and layers without have heads of two sizes; the last
// layers read keys and values of earlier ones; each layer has embeddings of the tokens of its own. transformers'
// models/gemma4.
#pragma once
#include <ftlib/models/kit/config.hpp>

#include <cmath>  // std::sqrt

namespace ft::inline FTLIB_ABI {

struct Gemma4Config : TransformerConfig {
  static constexpr const char *name = "gemma4_text", *gguf_name = "gemma4", *class_name = "Gemma4ForCausalLM";
  RopeOptions rope, rope_local;
  // head_dim is that of the layers without a window, config.json's global_head_dim
  int64_t window_head_dim = 0, global_kv_heads = 0, sliding_window = 0, shared_layers = 0, per_layer_size = 0;
  bool attention_bias = false, k_is_v = false, double_wide = false;
  float logits_cap = 0;
  std::vector<bool> sliding;

  void fields(ConfigFields& f) override {
    f.vocabulary(vocab_size);
    f.size("hidden_size", "embedding_length", hidden_size);
    f.size("num_hidden_layers", "block_count", num_hidden_layers);
    f.size("num_attention_heads", "attention.head_count", num_attention_heads);
    f.size("num_key_value_heads", nullptr, num_key_value_heads, num_attention_heads);
    f.size("max_position_embeddings", "context_length", max_position_embeddings, 131072);
    f.number("rms_norm_eps", "attention.layer_norm_rms_epsilon", rms_norm_eps, 1e-6f);
    f.tied(tie_word_embeddings, true);
    f.size("sliding_window", "attention.sliding_window", sliding_window, 512);
    std::vector<bool> usual;
    for (int64_t i = 0; i < num_hidden_layers && !f.is_gguf(); ++i) usual.push_back((i + 1) % 6 != 0);
    f.sliding(sliding, num_hidden_layers, usual);
    if (static_cast<int64_t>(sliding.size()) != num_hidden_layers)
      f.fail("attention.sliding_window_pattern is missing: which layers have a window is not known");
    f.size("num_kv_shared_layers", "attention.shared_kv_layers", shared_layers, 0, 0);
    values_of_keys(f);
    head_sizes(f);
    f.rope(rope, head_dim, f.is_gguf() ? 1e6f : 0, "full_attention", /*partial=*/true);
    if (rope.theta == 0) rope.theta = 1e6f, rope.divisors = detail::proportional_divisors(head_dim, 0.25f);
    f.local_rope(rope_local, window_head_dim, 10000);
    f.flag("attention_bias", nullptr, attention_bias, false);
    feed_forward(f);
    for (int64_t i = num_hidden_layers - shared_layers; i < num_hidden_layers; ++i)
      if (kv_of(i) < 0)
        f.fail(str("num_kv_shared_layers ", shared_layers, ": layer ", i, " has no earlier one of its type"));
    f.size("hidden_size_per_layer_input", "embedding_length_per_layer_input", per_layer_size, f.is_gguf() ? 0 : 256, 0);
    int64_t rows = vocab_size;
    f.size("vocab_size_per_layer_input", nullptr, rows, f.is_gguf() ? vocab_size : 262144);
    if (per_layer_size && rows != vocab_size)
      f.fail(str("vocab_size_per_layer_input ", rows, " is not vocab_size ", vocab_size, ", which is not computed"));
    f.optional_number("final_logit_softcapping", "final_logit_softcapping", logits_cap);
    bool experts = false;
    f.flag("enable_moe_block", nullptr, experts, false);
    if (experts) f.fail("enable_moe_block is true: Gemma 4's experts (26B-A4B) are not computed");
    for (const char* of_experts : {"num_experts", "top_k_experts", "moe_intermediate_size"}) f.pass_over(of_experts);
    f.expect("hidden_activation", "gelu_pytorch_tanh");
    f.expect("use_bidirectional_attention", "vision");  // of pictures' tokens alone
  }
  TensorMap tensors() const override {
    auto rules = common_tensors();
    rules.push_back({"model.embed_tokens_per_layer", "per_layer_token_embd"});
    rules.push_back({"model.per_layer_model_projection", "per_layer_model_proj"});
    rules.push_back({"model.per_layer_projection_norm", "per_layer_proj_norm"});
    for (const auto& [hf, gguf] :
         {std::pair{"self_attn.q_norm", "attn_q_norm"}, std::pair{"self_attn.k_norm", "attn_k_norm"},
          std::pair{"post_attention_layernorm", "post_attention_norm"},
          std::pair{"pre_feedforward_layernorm", "ffn_norm"}, std::pair{"post_feedforward_layernorm", "post_ffw_norm"},
          std::pair{"per_layer_input_gate", "inp_gate"}, std::pair{"per_layer_projection", "proj"},
          std::pair{"post_per_layer_input_norm", "post_norm"}, std::pair{"layer_scalar", "layer_output_scale"}})
      rules.push_back({str("model.layers.{}.", hf), str("blk.{}.", gguf)});
    return {num_hidden_layers, rules};
  }
  LayerTraits layer(int64_t i) const override {
    const bool window = sliding[static_cast<std::size_t>(i)], shared = i >= num_hidden_layers - shared_layers;
    LayerTraits t{.q_norm = "self_attn.q_norm",
                  .k_norm = "self_attn.k_norm",
                  .v_norm = true,
                  .head_dim = window ? window_head_dim : head_dim,
                  .kv_heads = window ? num_key_value_heads : global_kv_heads,
                  .mlp_size = shared && double_wide ? 2 * intermediate_size : intermediate_size,
                  .kv_of = shared ? kv_of(i) : -1,
                  .after_mixer = "post_attention_layernorm",
                  .after_mlp = "post_feedforward_layernorm",
                  .mlp_norm = "pre_feedforward_layernorm",
                  .scalar = "layer_scalar",
                  .qkv_bias = attention_bias,
                  .o_bias = attention_bias,
                  .rope = window ? &rope_local : &rope,
                  .window = window ? sliding_window : 0,
                  .attention_scale = 1,
                  .activation = Activation::gelu_tanh};
    if (k_is_v && !window) t.v = nullptr;
    if (per_layer_size) {
      t.per_layer_gate = "per_layer_input_gate";
      t.per_layer_projection = "per_layer_projection";
      t.after_per_layer = "post_per_layer_input_norm";
    }
    return t;
  }
  DecoderTraits decoder() const override {
    DecoderTraits t{
        .embedding_scale = std::sqrt(static_cast<float>(hidden_size)), .rounded_scale = true, .logits_cap = logits_cap};
    if (!per_layer_size) return t;
    t.per_layer_embedding = "model.embed_tokens_per_layer";
    t.per_layer_projection = "model.per_layer_model_projection";
    t.per_layer_norm = "model.per_layer_projection_norm";
    t.per_layer_size = per_layer_size;
    return t;
  }
  /// Files hold weights by which the layers that read others' keys and values would make their own.
  [[gnu::cold]] void prepare(Weights& weights) const override {
    for (int64_t i = 0; i < num_hidden_layers; ++i) {
      const std::string at = str("model.layers.", i, '.'), scalar = at + "layer_scalar";
      if (weights.has(scalar)) weights.put(scalar + ".weight", weights.take(scalar, {1}));
      if (!weights.has(scalar + ".weight")) weights.put(scalar + ".weight", one());
      const bool shared = i >= num_hidden_layers - shared_layers;
      for (const char* part : {"k_proj.weight", "v_proj.weight", "k_proj.bias", "v_proj.bias", "k_norm.weight"})
        if (shared) weights.ignore(at + "self_attn." + part);
    }
  }
  FolderPlace folder_place(const std::string& ours, const Shape& shape) const override {
    return {ours.ends_with(".layer_scalar.weight") ? ours.substr(0, ours.rfind('.')) : ours, shape};
  }
  std::string in_llama_cpp() const override {
    const int64_t own = num_hidden_layers - shared_layers;
    for (int64_t i = own; i < num_hidden_layers; ++i)
      if (const int64_t theirs = own - (sliding[static_cast<std::size_t>(i)] ? 2 : 1); kv_of(i) != theirs)
        return str("llama.cpp lets layer ", i, " read the keys and values of layer ", theirs, ", not of layer ",
                   kv_of(i), " (num_kv_shared_layers), so that its answers are others");
    return {};
  }

 private:
  /// The last layer of i's type that has keys and values of its own; -1: none.
  int64_t kv_of(int64_t i) const {
    int64_t of = num_hidden_layers - shared_layers - 1;
    while (of >= 0 && sliding[static_cast<std::size_t>(of)] != sliding[static_cast<std::size_t>(i)]) --of;
    return of;
  }
  /// What config.json says of all layers without a window, GGUF says by that they have no weight for values.
  void values_of_keys(ConfigFields& f) {
    f.flag("attention_k_eq_v", nullptr, k_is_v, false);
    std::vector<bool> has_v;
    for (const bool window : sliding) has_v.push_back(window || !k_is_v);
    has_v.resize(static_cast<std::size_t>(std::max<int64_t>(0, num_hidden_layers - shared_layers)));
    f.has_tensor("attn_v", has_v);
    for (std::size_t i = 0; i < has_v.size(); ++i)
      if (!sliding[i]) k_is_v = !has_v[i];
    for (std::size_t i = 0; i < has_v.size(); ++i)
      if (has_v[i] != (sliding[i] || !k_is_v))
        f.fail(str("blk.", i, ".attn_v.weight is ", has_v[i] ? "there" : "missing",
                   ": values are keys in all layers without a window, or in none"));
  }
  /// config.json says the layers without a window by two keys of their own, or since transformers 5 each in
  /// per_layer_config; GGUF counts the heads of each layer.
  void head_sizes(ConfigFields& f) {
    f.size("head_dim", "attention.key_length_swa", window_head_dim, 256);
    f.size(nullptr, "attention.value_length_swa", window_head_dim, window_head_dim);
    f.size("global_head_dim", "attention.key_length", head_dim, f.is_gguf() ? std::nullopt : std::optional<int64_t>(0),
           0);
    f.size("num_global_key_value_heads", nullptr, global_kv_heads, num_key_value_heads);
    if (!k_is_v) global_kv_heads = num_key_value_heads;
    std::vector<int64_t> sizes, heads;
    for (const bool window : sliding) {
      sizes.push_back(window ? window_head_dim : head_dim);
      heads.push_back(window ? num_key_value_heads : global_kv_heads);
    }
    const bool by_layer = f.in_layers("head_dim", sizes);
    f.in_layers("num_key_value_heads", heads);
    f.each_layer(nullptr, "attention.head_count_kv", heads, num_hidden_layers, heads);
    const int64_t otherwise = by_layer ? window_head_dim : 512;
    for (std::size_t i = 0; i < sliding.size(); ++i) {
      if (sizes[i] == 0) sizes[i] = otherwise;
      if (!sliding[i]) head_dim = sizes[i];
      (sliding[i] || !k_is_v ? num_key_value_heads : global_kv_heads) = heads[i];
    }
    if (head_dim == 0) head_dim = otherwise;
    if (!k_is_v) global_kv_heads = num_key_value_heads;
    for (std::size_t i = 0; i < sliding.size(); ++i) {
      if (sizes[i] != (sliding[i] ? window_head_dim : head_dim) ||
          heads[i] != (sliding[i] ? num_key_value_heads : global_kv_heads))
        f.fail(str("layer ", i, " has ", heads[i], " key-value heads of ", sizes[i],
                   ", others of its type have others (num_key_value_heads, head_dim)"));
      if (heads[i] < 1 || num_attention_heads % heads[i])
        f.fail(str("num_key_value_heads ", heads[i], " does not divide num_attention_heads ", num_attention_heads));
    }
  }
  /// GGUF says the width of each layer.
  void feed_forward(ConfigFields& f) {
    f.flag("use_double_wide_mlp", nullptr, double_wide, double_wide);
    f.size("intermediate_size", nullptr, intermediate_size,
           f.is_gguf() ? std::optional(intermediate_size) : std::nullopt, f.is_gguf() ? 0 : 1);
    const auto own = static_cast<std::size_t>(num_hidden_layers - std::min(shared_layers, num_hidden_layers));
    std::vector<int64_t> widths(sliding.size(), intermediate_size);
    if (double_wide) std::fill(widths.begin() + static_cast<std::ptrdiff_t>(own), widths.end(), 2 * intermediate_size);
    f.each_layer(nullptr, "feed_forward_length", widths, num_hidden_layers, widths);
    intermediate_size = widths.front();
    double_wide = own < widths.size() && widths.back() != widths.front();
    for (std::size_t i = 0; i < widths.size(); ++i)
      if (const int64_t width = double_wide && i >= own ? 2 * intermediate_size : intermediate_size;
          width < 1 || widths[i] != width)
        f.fail(str("feed_forward_length is ", widths[i], " in layer ", i, ", where ", width, " is computed"));
  }
  static Stored<Cpu> one() {
    auto [stored, to] = detail::new_stored(DType::f32, {1});
    const float value = 1;
    std::memcpy(to, &value, sizeof value);
    return stored;
  }
};

}  // namespace ft::inline FTLIB_ABI
