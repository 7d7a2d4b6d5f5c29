// models/qwen2.hpp: Qwen2 and Qwen2.5. Llama's block with biases on q, k and v; late layers may have a window.
// arXiv:2407.10671; transformers' models/qwen2.
#pragma once
#include <ftlib/models/kit/decoder.hpp>

namespace ft::inline FTLIB_ABI {

struct Qwen2Config : TransformerConfig {
  static constexpr const char *name = "qwen2", *gguf_name = "qwen2", *class_name = "Qwen2ForCausalLM";
  RopeOptions rope;
  bool qkv_bias = true, o_bias = false, qk_norm = false;  // Qwen3 has others
  int64_t sliding_window = 0;
  std::vector<bool> sliding;  // a layer: attends to the window alone

  void fields(ConfigFields& f) override { describe(f, 0); }
  TensorMap tensors() const override {
    auto rules = common_tensors();
    rules.push_back({"model.layers.{}.post_attention_layernorm", "blk.{}.ffn_norm"});
    rules.push_back({"model.layers.{}.self_attn.q_norm", "blk.{}.attn_q_norm"});
    rules.push_back({"model.layers.{}.self_attn.k_norm", "blk.{}.attn_k_norm"});
    return {num_hidden_layers, rules};
  }

 protected:
  void describe(ConfigFields& f, int64_t default_head_dim) {
    common(f, /*tied=*/false, default_head_dim, 32768);
    f.rope(rope, head_dim, 10000);
    bool windows = std::find(sliding.begin(), sliding.end(), true) != sliding.end();
    int64_t first = std::find(sliding.begin(), sliding.end(), true) - sliding.begin();
    f.flag("use_sliding_window", nullptr, windows, false);
    f.size("sliding_window", nullptr, sliding_window, 4096);
    f.size("max_window_layers", nullptr, first, 28, 0);
    std::vector<bool> late;
    for (int64_t i = 0; i < num_hidden_layers; ++i) late.push_back(windows && i >= first);
    f.sliding(sliding, num_hidden_layers, late);
    if (!windows) sliding.assign(sliding.size(), false);
    f.expect("hidden_act", "silu");
  }
};

template <Scalar T, Device D, class Config> class Qwen final : public Decoder<T, D, Config, PreNormBlock<T, D>> {
 public:
  [[gnu::cold]] Qwen(Context<D>& ctx, Config config, Weights& weights)
      : Decoder<T, D, Config, PreNormBlock<T, D>>(ctx, std::move(config), weights) {
    const Config& c = this->config_;
    const auto rotary = std::make_shared<Rotary<T, D>>(c.rope);
    const WeightReader<T, D> read{ctx, weights};
    for (int64_t i = 0; i < c.num_hidden_layers; ++i) {
      const std::string at = str("model.layers.", i, '.');
      PreNormBlock<T, D> b;
      b.input_layernorm = read.rms_norm(at + "input_layernorm", c.hidden_size, c.rms_norm_eps);
      b.self_attn = read.attention(at + "self_attn.", c, c.qkv_bias, c.o_bias);
      if (c.qk_norm) {
        b.self_attn.q_norm = read.rms_norm(at + "self_attn.q_norm", c.head_dim, c.rms_norm_eps);
        b.self_attn.k_norm = read.rms_norm(at + "self_attn.k_norm", c.head_dim, c.rms_norm_eps);
      }
      b.self_attn.rotary = rotary;
      if (c.sliding[static_cast<std::size_t>(i)]) b.self_attn.options.window = c.sliding_window;
      b.post_attention_layernorm = read.rms_norm(at + "post_attention_layernorm", c.hidden_size, c.rms_norm_eps);
      b.mlp = read.gated_mlp(at + "mlp.", c, Activation::silu);
      this->blocks_.push_back(std::move(b));
    }
    this->norm_ = read.rms_norm("model.norm", c.hidden_size, c.rms_norm_eps);
  }
};

template <Scalar T, Device D> using Qwen2 = Qwen<T, D, Qwen2Config>;

}  // namespace ft::inline FTLIB_ABI
