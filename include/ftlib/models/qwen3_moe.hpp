// models/qwen3_moe.hpp: Qwen3 with experts: of each layer's many feed-forward parts a token uses a few.
// arXiv:2505.09388; transformers' models/qwen3_moe.
#pragma once
#include <ftlib/models/qwen3.hpp>

namespace ft::inline FTLIB_ABI {

struct Qwen3MoeConfig : Qwen3Config {
  static constexpr const char *name = "qwen3_moe", *gguf_name = "qwen3moe", *class_name = "Qwen3MoeForCausalLM";
  int64_t num_experts = 128, num_experts_per_tok = 8, moe_intermediate_size = 768, decoder_sparse_step = 1;
  bool norm_topk_prob = true;
  std::vector<int64_t> mlp_only_layers;  // without experts

  void fields(ConfigFields& f) override {
    Qwen3Config::fields(f);
    f.size("num_local_experts", nullptr, num_experts, 128);  // transformers 5's word
    f.size("num_experts", "expert_count", num_experts, num_experts);
    f.size("num_experts_per_tok", "expert_used_count", num_experts_per_tok, 8);
    f.size("moe_intermediate_size", "expert_feed_forward_length", moe_intermediate_size, 768);
    f.size("decoder_sparse_step", nullptr, decoder_sparse_step, 1);
    f.flag("norm_topk_prob", nullptr, norm_topk_prob, f.is_gguf());  // llama.cpp has no other
    f.each_layer("mlp_only_layers", nullptr, mlp_only_layers, -1, {});
    router_fields(f);
    if (num_experts_per_tok > num_experts)
      f.fail(str("num_experts_per_tok ", num_experts_per_tok, " of num_experts ", num_experts));
  }
  TensorMap tensors() const override {
    auto rules = qwen_tensors();
    rules.push_back({"model.layers.{}.mlp.gate", "blk.{}.ffn_gate_inp"});
    add_experts(rules, num_experts);
    return {num_hidden_layers, rules};
  }
  LayerTraits layer(int64_t i) const override {
    LayerTraits t = Qwen3Config::layer(i);
    if ((i + 1) % decoder_sparse_step ||
        std::find(mlp_only_layers.begin(), mlp_only_layers.end(), i) != mlp_only_layers.end())
      return t;
    t.router = "mlp.gate";
    t.expert = "mlp.experts.";
    t.experts = num_experts;
    t.chosen = num_experts_per_tok;
    t.expert_size = moe_intermediate_size;
    t.renormalise = norm_topk_prob;
    return t;
  }
};

}  // namespace ft::inline FTLIB_ABI
