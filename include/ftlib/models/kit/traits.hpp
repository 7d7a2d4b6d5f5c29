// models/kit/traits.hpp: what the layers of a decoder are made of: a table by which one class
// (models/kit/transformer.hpp) computes all architectures.
#pragma once
#include <ftlib/autograd/parameter.hpp>  // StackPart
#include <ftlib/nn/mlp.hpp>              // Activation
#include <ftlib/nn/norm.hpp>             // NormKind
#include <ftlib/ops/rope.hpp>            // RopeOptions

#include <string>       // std::string
#include <string_view>  // std::string_view

namespace ft::inline FTLIB_ABI {

/// One layer: x + s attention(norm(x)), then the same with the feed-forward part. Names are Hugging Face's, below the
/// layer's own; a part without a name is not there. What is not said is Llama's.
struct LayerTraits {
  const char *input_norm = "input_layernorm", *q = "self_attn.q_proj", *k = "self_attn.k_proj",
             *v = "self_attn.v_proj",  // no v: k's product, before its norm
                 *o = "self_attn.o_proj";
  const char* qkv = nullptr;                         // in place of q, k and v: their rows one after the other
  const char *q_norm = nullptr, *k_norm = nullptr;   // over each head, before the positions
  bool v_norm = false;                               // RMSNorm over each head, without a weight
  int64_t head_dim = 0, kv_heads = 0, mlp_size = 0;  // 0: the configuration's
  int64_t kv_of = -1;           // the earlier layer whose keys and values it reads, in place of k and v; -1: its own
  const char* sinks = nullptr;  // a score more for each head, of no key
  const char *after_mixer = nullptr, *after_mlp = nullptr;  // norms of what is added to x
  const char* mlp_norm = "post_attention_layernorm";
  const char *gate = "mlp.gate_proj", *up = "mlp.up_proj", *down = "mlp.down_proj";  // no gate: down(f(up(x)))
  const char* conv = nullptr;  // a gated short convolution in place of attention: in_proj, conv, out_proj below it
  int64_t conv_length = 0;     // tokens that it sees, its own included
  // A gated delta net in place of attention: in_proj_qkv, in_proj_z, in_proj_b, in_proj_a, conv1d (of conv_length),
  // A_log, dt_bias, norm and out_proj below it.
  const char* delta = nullptr;
  int64_t key_heads = 0, value_heads = 0, key_dim = 0, value_dim = 0;  // of the delta net: how many, and how wide
  bool output_gate = false;                                            // attention's: q has in each head q and a gate
  // Experts in place of the feed-forward part: the router's name, and what is before an expert's number.
  const char *router = nullptr, *expert = nullptr;
  int64_t experts = 0, chosen = 0, expert_size = 0;
  bool renormalise = false;       // the chosen ones' probabilities sum to 1
  bool interleaved = false;       // where experts' gate and up are one matrix, their rows take turns
  const char* gate_up = nullptr;  // in place of gate and up: their rows one after the other
  // Behind the feed-forward part, of the layer's per-layer embeddings e: x + norm(projection(f(gate(x)) e)); all or
  // none.
  const char *per_layer_gate = nullptr, *per_layer_projection = nullptr, *after_per_layer = nullptr;
  const char* scalar = nullptr;  // a constant of the model, by which the result is multiplied
  bool qkv_bias = false, o_bias = false, mlp_bias = false;  // the last of router and experts too
  const RopeOptions* rope = nullptr;  // null: no positions. Layers that point at the same options share a table
  int64_t window = 0;                 // how many keys a token sees, its own included; 0: all
  bool causal = true;                 // no: a token sees those behind it too
  float attention_scale = 0;          // of the scores; 0: 1 / sqrt(head size)
  float residual_scale = 1;           // s
  Activation activation = Activation::silu;
};

/// Where an expert's matrix ("gate", "up" or "down") lies in the stacks of its layer, whose name is `at`: gate and up
/// are one there, one behind the other or row by row in turns. `width` of the model.
[[gnu::cold]] inline StackPart expert_part(const LayerTraits& t, const std::string& at, std::string_view which,
                                           int64_t expert, int64_t width) {
  const bool down = which == "down";
  return {.stack = str(at, t.expert, down ? "down_proj" : "gate_up_proj"),
          .number = expert,
          .count = t.experts,
          .rows = down ? width : 2 * t.expert_size,
          .first = which != "up"   ? 0
                   : t.interleaved ? 1
                                   : t.expert_size,
          .row_step = !down && t.interleaved ? 2 : 1};
}

/// What is around the layers.
struct DecoderTraits {
  const char *embedding = "model.embed_tokens", *layers = "model.layers.", *norm = "model.norm";
  const char* positions = nullptr;  // learned ones, added to the embedding
  bool transposed = false;          // a folder has matrices of layers as (in, out)
  float embedding_scale = 1;        // of what is looked up
  bool rounded_scale = false;       // to the compute type first: bf16 makes 25.298 into 25.25
  float logits_divisor = 1;
  float logits_cap = 0;  // c tanh(logits / c); 0: none
  // Per-layer embeddings: a second table (V, layers size), its projection from the embedding, and the projection's
  // norm.
  const char *per_layer_embedding = nullptr, *per_layer_projection = nullptr, *per_layer_norm = nullptr;
  int64_t per_layer_size = 0;
  NormKind norm_kind = NormKind::rms;  // of all norms
  float norm_offset = 0;               // 1 where weights are kept about zero
  // A learned bias of scores by distance, (buckets, heads), which all layers share (nn/relative_bias.hpp).
  const char* relative_bias = nullptr;
  int64_t relative_buckets = 0, relative_distance = 0;
};

}  // namespace ft::inline FTLIB_ABI
