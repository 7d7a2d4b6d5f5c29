// models/t5.hpp: T5's encoder (FLAN-T5 and its kin), which reads captions for models of pictures and writes nothing.
// Attention in both directions without a scale, a learned bias by distance in place of positions, RMSNorm, no biases.
// arXiv:1910.10683, 2210.11416; transformers' models/t5.
#pragma once
#include <ftlib/models/kit/config.hpp>

namespace ft::inline FTLIB_ABI {

struct T5Config : TransformerConfig {
  static constexpr const char *name = "t5", *gguf_name = "t5encoder", *class_name = "T5EncoderModel";
  int64_t buckets = 32, max_distance = 128;
  std::string feed_forward = "gated-gelu";

  void fields(ConfigFields& f) override {
    encoder = true;
    f.vocabulary(vocab_size);
    f.size("d_model", "embedding_length", hidden_size);
    f.size("d_kv", "attention.key_length", head_dim);
    f.size("d_ff", "feed_forward_length", intermediate_size);
    f.size("num_layers", "block_count", num_hidden_layers);
    f.size("num_heads", "attention.head_count", num_attention_heads);
    f.size(nullptr, "attention.head_count_kv", num_key_value_heads, num_attention_heads);
    f.size("n_positions", "context_length", max_position_embeddings, 512);
    f.number("layer_norm_epsilon", "attention.layer_norm_rms_epsilon", rms_norm_eps, 1e-6f);
    f.size("relative_attention_num_buckets", "attention.relative_buckets_count", buckets, 32);
    f.size("relative_attention_max_distance", nullptr, max_distance, 128);
    f.word("feed_forward_proj", feed_forward, f.is_gguf() ? "gated-gelu" : "relu");
    if (feed_forward != "gated-gelu" && feed_forward != "relu")
      f.fail(str("feed_forward_proj '", feed_forward, "' is not computed; gated-gelu and relu are"));
    if (num_key_value_heads != num_attention_heads || buckets % 4 || max_distance <= buckets / 4)
      f.fail(str(num_attention_heads, " heads of ", num_key_value_heads, " keys, ", buckets,
                 " buckets of distances up to ", max_distance, " make no sense"));
    tie_word_embeddings = true;  // the decoder's matter, which is not read
    // feed_forward_proj says the activation; the rest is the decoder's or of training.
    for (const char* of_others : {"dense_act_fn", "is_gated_act", "is_encoder_decoder", "is_decoder",
                                  "num_decoder_layers", "decoder_", "scale_decoder_outputs", "tie_word_embeddings",
                                  "dropout_rate", "initializer_factor", "attention.layer_norm_epsilon"})
      f.pass_over(of_others);
  }
  TensorMap tensors() const override {
    std::vector<TensorRule> rules{{"shared", "token_embd"}, {"encoder.final_layer_norm", "enc.output_norm"}};
    for (const auto& [hf, gguf] :
         {std::pair{"0.layer_norm", "attn_norm"}, std::pair{"0.SelfAttention.q", "attn_q"},
          std::pair{"0.SelfAttention.k", "attn_k"}, std::pair{"0.SelfAttention.v", "attn_v"},
          std::pair{"0.SelfAttention.o", "attn_o"}, std::pair{"0.SelfAttention.relative_attention_bias", "attn_rel_b"},
          std::pair{"1.layer_norm", "ffn_norm"}, std::pair{"1.DenseReluDense.wi_0", "ffn_gate"},
          std::pair{gated() ? "1.DenseReluDense.wi_1" : "1.DenseReluDense.wi", "ffn_up"},
          std::pair{"1.DenseReluDense.wo", "ffn_down"}})
      rules.push_back({str("encoder.block.{}.layer.", hf), str("enc.blk.{}.", gguf)});
    return {num_hidden_layers, rules};
  }
  LayerTraits layer(int64_t) const override {
    return {.input_norm = "layer.0.layer_norm",
            .q = "layer.0.SelfAttention.q",
            .k = "layer.0.SelfAttention.k",
            .v = "layer.0.SelfAttention.v",
            .o = "layer.0.SelfAttention.o",
            .mlp_norm = "layer.1.layer_norm",
            .gate = gated() ? "layer.1.DenseReluDense.wi_0" : nullptr,
            .up = gated() ? "layer.1.DenseReluDense.wi_1" : "layer.1.DenseReluDense.wi",
            .down = "layer.1.DenseReluDense.wo",
            .causal = false,
            .attention_scale = 1,
            .activation = gated() ? Activation::gelu_tanh : Activation::relu};
  }
  DecoderTraits decoder() const override {
    return {.embedding = "shared",
            .layers = "encoder.block.",
            .norm = "encoder.final_layer_norm",
            .relative_bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias",
            .relative_buckets = buckets,
            .relative_distance = max_distance};
  }
  void prepare(Weights& weights) const override {
    weights.ignore("encoder.embed_tokens.weight");  // the same as shared
    weights.pass_over_all("decoder.");
  }

 private:
  bool gated() const { return feed_forward != "relu"; }
};

}  // namespace ft::inline FTLIB_ABI
