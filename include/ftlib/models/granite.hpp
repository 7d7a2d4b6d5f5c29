// models/granite.hpp: Granite 3 and 4, dense: Llama with four scalars, of the embedding, the scores, the residuals and
// the logits. Granite 4's dense models come in a hybrid's form without its other layers: gate and up are one matrix,
// and positions may be absent. transformers' models/granite and models/granitemoehybrid.
#pragma once
#include <ftlib/models/llama.hpp>

namespace ft::inline FTLIB_ABI {

struct GraniteConfig : LlamaConfig {
  static constexpr const char *name = "granite", *gguf_name = "granite", *class_name = "GraniteForCausalLM";
  float embedding_multiplier = 1, attention_multiplier = 1, residual_multiplier = 1, logits_scaling = 1;
  bool positions = true;  // GGUF alone says so of this form: llama.cpp goes by a key of another name

  void fields(ConfigFields& f) override {
    describe(f);
    f.flag("mlp_bias", nullptr, mlp_bias, false);
    f.flag(nullptr, "rope.scaling.finetuned", positions, true);
    if (!positions && !f.is_gguf())
      f.fail("the model has no positions, for which this form of config.json has no word");
    // Converters from the hybrid's form write these of layers that are not there: a tensor of one would be refused.
    for (const char* of_others : {"ssm.", "expert_shared_feed_forward_length"}) f.pass_over(of_others);
  }
  LayerTraits layer(int64_t i) const override {
    LayerTraits t = LlamaConfig::layer(i);
    t.attention_scale = attention_multiplier;
    t.residual_scale = residual_multiplier;
    if (!positions) t.rope = nullptr;
    return t;
  }
  DecoderTraits decoder() const override {
    return {.embedding_scale = embedding_multiplier, .logits_divisor = logits_scaling};
  }

 protected:
  void describe(ConfigFields& f) {
    common(f, /*tied=*/false);
    f.rope(rope, head_dim, 10000);
    f.flag("attention_bias", nullptr, attention_bias, false);
    f.number("embedding_multiplier", "embedding_scale", embedding_multiplier, 1);
    f.number("residual_multiplier", "residual_scale", residual_multiplier, 1);
    f.number("logits_scaling", "logit_scale", logits_scaling, 1);
    // In place of 1 / sqrt(head size), which is what GGUF's absent key means.
    f.number("attention_multiplier", "attention.scale", attention_multiplier,
             f.is_gguf() ? 1 / std::sqrt(static_cast<float>(head_dim)) : 1);
    for (const float scalar : {embedding_multiplier, attention_multiplier, residual_multiplier, logits_scaling})
      if (!(scalar > 0)) f.fail(str("a multiplier is ", scalar, ", which makes no sense"));
    f.expect("hidden_act", "silu");
  }
};

struct GraniteHybridConfig : GraniteConfig {
  static constexpr const char *name = "granitemoehybrid", *gguf_name = "granite",
                              *class_name = "GraniteMoeHybridForCausalLM";
  using from_gguf = GraniteConfig;
  std::vector<std::string> layer_types;
  std::string position_embedding_type;
  int64_t experts = 0;

  void fields(ConfigFields& f) override {
    describe(f);
    f.size("num_local_experts", nullptr, experts, 8, 0);
    if (experts) f.fail(str("num_local_experts is ", experts, ": Granite's experts are not computed"));
    f.size("shared_intermediate_size", nullptr, intermediate_size, 1024);
    f.each_layer("layer_types", layer_types, num_hidden_layers,
                 std::vector<std::string>(static_cast<std::size_t>(num_hidden_layers), "mamba"));
    for (std::string& type : layer_types) {
      if (type != "attention" && type != "full_attention")  // before transformers 5, and since
        f.fail(str("layer_types holds '", type, "': Granite's Mamba layers are not computed"));
      type = "attention";
    }
    f.word("position_embedding_type", position_embedding_type, "nope");
    if (position_embedding_type != "rope" && position_embedding_type != "nope")
      f.fail(str("position_embedding_type is '", position_embedding_type, "'; ftlib knows rope and nope"));
    positions = position_embedding_type == "rope";
    f.flag(nullptr, "rope.scaling.finetuned", positions, positions);
    for (const char* of_others : {"mamba_", "num_experts_per_tok", "router_aux_loss_coef", "output_router_logits",
                                  "time_step_limit", "layers_block_type"})
      f.pass_over(of_others);
  }
  TensorMap tensors() const override {
    auto rules = llama_tensors();
    std::erase_if(rules, [](const TensorRule& r) { return r.hf.find(".mlp.") != r.hf.npos; });
    const std::string input = "model.layers.{}.shared_mlp.input_linear";
    rules.push_back({.hf = input, .gguf = "blk.{}.ffn_gate", .transform = Transform::split, .end = intermediate_size});
    rules.push_back({.hf = input,
                     .gguf = "blk.{}.ffn_up",
                     .transform = Transform::split,
                     .begin = intermediate_size,
                     .end = 2 * intermediate_size});
    rules.push_back({"model.layers.{}.shared_mlp.output_linear", "blk.{}.ffn_down"});
    return {num_hidden_layers, rules};
  }
  LayerTraits layer(int64_t i) const override {
    LayerTraits t = GraniteConfig::layer(i);
    t.gate_up = "shared_mlp.input_linear";
    t.down = "shared_mlp.output_linear";
    return t;
  }
};

}  // namespace ft::inline FTLIB_ABI
