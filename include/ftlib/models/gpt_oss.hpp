// models/gpt_oss.hpp: gpt-oss. Experts with biases, a limited SwiGLU, attention sinks, a window on every other layer,
// YaRN. Its folder has all experts of a layer as one tensor, in MXFP4 or dense. arXiv:2508.10925; transformers'
// models/gpt_oss.
#pragma once
#include <ftlib/models/kit/config.hpp>
#include <ftlib/models/kit/stacked_experts.hpp>  // split_experts, stacked_expert_place

namespace ft::inline FTLIB_ABI {

struct GptOssConfig : TransformerConfig {
  static constexpr const char *name = "gpt_oss", *gguf_name = "gpt-oss", *class_name = "GptOssForCausalLM";
  RopeOptions rope;
  int64_t sliding_window = 0, num_local_experts = 0, num_experts_per_tok = 0;
  std::vector<bool> sliding;

  void fields(ConfigFields& f) override {
    common(f, /*tied=*/false, 64, 131072, 1e-5f);
    f.rope(rope, head_dim, 150000);
    if (f.is_gguf() && rope.yarn) rope.yarn->truncate = false;  // as the model was trained; GGUF has no word for it
    std::vector<bool> otherwise;
    for (int64_t i = 0; i < num_hidden_layers; ++i) otherwise.push_back(i % 2 == 0);
    f.sliding(sliding, num_hidden_layers, otherwise);
    f.window("attention.sliding_window", sliding_window, 128);
    f.size("num_local_experts", "expert_count", num_local_experts, 128);
    f.size("num_experts_per_tok", "expert_used_count", num_experts_per_tok, 4);
    int64_t expert_size = intermediate_size;  // GGUF says the width twice
    f.size(nullptr, "expert_feed_forward_length", expert_size, intermediate_size);
    bool bias = true;
    f.flag("attention_bias", nullptr, bias, true);
    float limit = 7, alpha = 1.702f;
    f.number("swiglu_limit", nullptr, limit, 7.0f);
    f.number("swiglu_alpha", nullptr, alpha, 1.702f);
    f.expect("hidden_act", "silu");
    f.storage("mxfp4");
    router_fields(f);
    for (const char* said_elsewhere : {"experts_per_token", "initial_context_length"}) f.pass_over(said_elsewhere);
    if (!bias || limit != 7.0f || std::abs(alpha - 1.702f) > 1e-6f || expert_size != intermediate_size)
      f.fail("attention without biases, another limit or gain of SwiGLU or experts of another width are not computed");
    if (num_experts_per_tok > num_local_experts)
      f.fail(str("num_experts_per_tok ", num_experts_per_tok, " of num_local_experts ", num_local_experts));
  }
  TensorMap tensors() const override {
    auto rules = common_tensors();
    rules.push_back({"model.layers.{}.post_attention_layernorm", "blk.{}.post_attention_norm"});
    rules.push_back({"model.layers.{}.self_attn.sinks", "blk.{}.attn_sinks"});
    rules.push_back({"model.layers.{}.mlp.router", "blk.{}.ffn_gate_inp"});
    add_experts(rules, num_local_experts);
    return {num_hidden_layers, rules};
  }
  LayerTraits layer(int64_t i) const override {
    return {.sinks = "self_attn.sinks.weight",
            .router = "mlp.router",
            .expert = "mlp.experts.",
            .experts = num_local_experts,
            .chosen = num_experts_per_tok,
            .expert_size = intermediate_size,
            .renormalise = true,
            .interleaved = true,
            .qkv_bias = true,
            .o_bias = true,
            .mlp_bias = true,
            .rope = &rope,
            .window = sliding[static_cast<std::size_t>(i)] ? sliding_window : 0,
            .activation = Activation::limited_silu};
  }
  /// A folder's experts, (E, in, out) or blocks and scales of (E, out, in), become matrices (out, in) of their own.
  [[gnu::cold]] void prepare(Weights& weights) const override {
    const int64_t E = num_local_experts, C = hidden_size, F = intermediate_size;
    for (int64_t i = 0; i < num_hidden_layers; ++i) {
      const std::string at = str("model.layers.", i, '.'), experts = at + "mlp.experts.";
      if (weights.has(at + "self_attn.sinks"))
        weights.put(at + "self_attn.sinks.weight", weights.take(at + "self_attn.sinks", {num_attention_heads}));
      split_experts(weights, experts, "gate_up_proj", {"gate_proj", "up_proj"}, E, 2 * F, C);
      split_experts(weights, experts, "down_proj", {"down_proj"}, E, C, F);
    }
  }
  FolderPlace folder_place(const std::string& ours, const Shape& shape) const override {
    if (ours.ends_with(".sinks.weight")) return {ours.substr(0, ours.rfind('.')), shape};
    return stacked_expert_place(ours, shape, num_local_experts);
  }
};

}  // namespace ft::inline FTLIB_ABI
