// models/qwen3_5.hpp: Qwen3.5, the text model, dense. Three layers of four are a gated delta net, the fourth is
// attention with norms on q and k, a part of each head that turns, and a gate of its result. transformers'
// models/qwen3_5; GGUF as llama.cpp's converter writes it.
#pragma once
#include <ftlib/models/kit/config.hpp>

namespace ft::inline FTLIB_ABI {

struct Qwen3_5Config : TransformerConfig {
  static constexpr const char *name = "qwen3_5_text", *gguf_name = "qwen35", *class_name = "Qwen3_5ForCausalLM";
  RopeOptions rope;
  bool attention_bias = false;
  int64_t conv_length = 4, key_heads = 0, value_heads = 0, key_dim = 0, value_dim = 0;
  std::vector<std::string> layer_types;  // "linear_attention" or "full_attention"

  void fields(ConfigFields& f) override {
    common(f, /*tied=*/false, 256, 32768);
    for (const char* of_others : {"mtp_", "mamba_ssm_dtype", "mrope_"}) f.pass_over(of_others);
    f.rope(rope, head_dim, 10000, nullptr, /*partial=*/true);
    if (!f.is_gguf() && rope.rotary_size == 0)
      f.fail("partial_rotary_factor is missing or 1: heads that turn as a whole are not known");
    f.flag("attention_bias", nullptr, attention_bias, false);
    bool gate = true;
    f.flag("attn_output_gate", nullptr, gate, true);
    if (!gate) f.fail("attn_output_gate is false: attention without a gate is not computed");
    f.expect("hidden_act", "silu");
    sections(f);
    delta(f);
    kinds(f);
  }
  TensorMap tensors() const override {
    auto rules = common_tensors();
    for (const auto& [hf, gguf] :
         {std::pair{"post_attention_layernorm", "post_attention_norm"}, std::pair{"self_attn.q_norm", "attn_q_norm"},
          std::pair{"self_attn.k_norm", "attn_k_norm"}})
      rules.push_back({str("model.layers.{}.", hf), str("blk.{}.", gguf)});
    for (TensorRule& r : rules)  // these norms are kept about zero; GGUF has 1 + w
      if (r.hf.ends_with("norm")) r = {.hf = r.hf, .gguf = r.gguf, .transform = Transform::shift, .shift = 1};
    const auto rule = [&](const char* hf, const char* gguf, const HeadTiles& tiles, Transform t = Transform::none) {
      rules.push_back({.hf = str("model.layers.{}.linear_attn.", hf),
                       .gguf = str("blk.{}.", gguf),
                       .transform = t,
                       .tiles = value_heads > key_heads ? tiles : HeadTiles{}});
    };
    const HeadTiles values{.groups = key_heads, .heads = value_heads};
    HeadTiles behind_keys = values, columns = values;
    behind_keys.begin = 2 * key_heads * key_dim;  // rows of q and k
    columns.columns = true;
    rule("in_proj_qkv", "attn_qkv", behind_keys);
    rule("conv1d", "ssm_conv1d", behind_keys, Transform::squeeze);
    for (const auto& [hf, gguf] : {std::pair{"in_proj_z", "attn_gate"}, std::pair{"in_proj_b", "ssm_beta"},
                                   std::pair{"in_proj_a", "ssm_alpha"}, std::pair{"dt_bias", "ssm_dt.bias"}})
      rule(hf, gguf, values);
    rule("A_log", "ssm_a", values, Transform::negative_exp);
    rule("norm", "ssm_norm", {});
    rule("out_proj", "ssm_out", columns);
    return {num_hidden_layers, rules};
  }
  LayerTraits layer(int64_t i) const override {
    LayerTraits t{.q_norm = "self_attn.q_norm",
                  .k_norm = "self_attn.k_norm",
                  .output_gate = true,
                  .qkv_bias = attention_bias,
                  .o_bias = attention_bias,
                  .rope = &rope};
    if (layer_types[static_cast<std::size_t>(i)] == "full_attention") return t;
    t.delta = "linear_attn.";
    t.conv_length = conv_length;
    t.key_heads = key_heads, t.value_heads = value_heads, t.key_dim = key_dim, t.value_dim = value_dim;
    return t;
  }
  DecoderTraits decoder() const override { return {.norm_offset = 1}; }
  void prepare(Weights& weights) const override { weights.pass_over_all("mtp."); }  // layers that guess later tokens
  std::string in_llama_cpp() const override {
    if (value_dim == key_dim) return {};
    return str("llama.cpp opens no such file, for linear_value_head_dim ", value_dim, " is not linear_key_head_dim ",
               key_dim);
  }

 private:
  /// Which of the parts that turn go by height and width in pictures: in texts all go by the token's place.
  void sections(ConfigFields& f) const {
    const int64_t pairs = (rope.rotary_size ? rope.rotary_size : head_dim) / 2, first = (pairs + 2) / 3,
                  second = (pairs - first + 1) / 2;
    std::vector<int64_t> parts{first, second, pairs - first - second, 0};
    f.each_layer(nullptr, "rope.dimension_sections", parts, 4, parts);
  }
  void delta(ConfigFields& f) {
    f.size("linear_conv_kernel_dim", "ssm.conv_kernel", conv_length, 4);
    f.size("linear_key_head_dim", "ssm.state_size", key_dim, 128);
    f.size("linear_num_key_heads", "ssm.group_count", key_heads, 16);
    f.size("linear_num_value_heads", "ssm.time_step_rank", value_heads, 32);
    int64_t inner = value_heads * value_dim;
    f.size("linear_value_head_dim", nullptr, value_dim, f.is_gguf() ? key_dim : 128);
    f.size(nullptr, "ssm.inner_size", inner, value_heads * value_dim);
    if (f.is_gguf()) {
      if (inner % value_heads) f.fail(str("ssm.inner_size ", inner, " is not of ", value_heads, " heads"));
      value_dim = inner / value_heads;
    }
    if (value_heads % key_heads)
      f.fail(str("linear_num_key_heads ", key_heads, " does not divide linear_num_value_heads ", value_heads));
  }
  void kinds(ConfigFields& f) {
    const auto is_full = std::find(layer_types.begin(), layer_types.end(), "full_attention");
    int64_t interval = layer_types.empty() ? 4 : is_full - layer_types.begin() + 1;
    f.size("full_attention_interval", "full_attention_interval", interval, 4);
    std::vector<std::string> types;
    for (int64_t i = 1; i <= num_hidden_layers; ++i)
      types.push_back(i % interval ? "linear_attention" : "full_attention");
    f.each_layer("layer_types", layer_types, num_hidden_layers, types);
    for (const std::string& type : layer_types)
      if (type != "linear_attention" && type != "full_attention")
        f.fail(str("layer_types holds '", type, "', which is not computed for this architecture"));
  }
};

}  // namespace ft::inline FTLIB_ABI
