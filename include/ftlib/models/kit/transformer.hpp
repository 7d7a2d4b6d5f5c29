// models/kit/transformer.hpp: Transformer, the decoder of every architecture: its layers are what the configuration's
// traits say.
#pragma once
#include <ftlib/models/kit/decoder.hpp>  // Decoder, WeightReader
#include <ftlib/nn/attention.hpp>        // Attention
#include <ftlib/nn/experts.hpp>          // Experts
#include <ftlib/nn/gated_delta_net.hpp>  // GatedDeltaNet
#include <ftlib/nn/mlp.hpp>              // Mlp
#include <ftlib/nn/relative_bias.hpp>    // relative_bias
#include <ftlib/nn/short_conv.hpp>       // ShortConv
#include <ftlib/ops/elementwise.hpp>     // add, add_scaled, scale

#include <cmath>   // std::sqrt
#include <map>     // std::map
#include <memory>  // std::make_shared
#include <string>  // std::string
#include <tuple>   // std::tie

namespace ft::inline FTLIB_ABI {

/// y = x + s mixer(norm(x)), the mixer being attention, a convolution or a gated delta net, z = y + s mlp(norm(y)),
/// (N, C) -> (N, C); with norms of what is added, or without. With per-layer embeddings e (N, P) then
/// z + norm(projection(f(gate(z)) e)).
template <Scalar T, Device D> struct TransformerBlock {
  NormLayer<T, D> input_norm = {}, after_mixer = {}, mlp_norm = {},
                  after_mlp = {};  // (C) each; the after_ ones may be empty
  Attention<T, D> attention = {};
  ShortConv<T, D> conv = {};
  GatedDeltaNet<T, D> delta = {};
  Mlp<T, D> mlp = {};
  Experts<T, D> experts = {};
  Linear<T, D> per_layer_gate = {}, per_layer_projection = {};  // (P, C), (C, P); or empty
  NormLayer<T, D> after_per_layer = {};                         // (C), or empty
  Parameter<T, D> scalar = {};                                  // (1), or empty
  float residual_scale = 1;                                     // s
  float scalar_value = 1;                                       // of the result
  int64_t kv_of = -1;                                           // the layer whose keys and values it reads; -1: its own

  Tensor<T, D> operator()(Context<D>& ctx, const Tensor<T, D>& x, const Placement<D>& at,
                          typename KvCache<T, D>::Layer* cache, const Tensor<T, D>& per_layer, KeysValues<T, D>& shared,
                          RouterLoad<T, D>* load) {
    const auto in = input_norm(ctx, x);
    auto a = conv    ? conv(ctx, in, at, cache)
             : delta ? delta(ctx, in, at, cache)
                     : attention(ctx, in, at, cache, shared);
    if (after_mixer) a = after_mixer(ctx, a);
    Tensor<T, D> y, h;
    if (residual_scale == 1) {
      std::tie(y, h) = mlp_norm.after_add(ctx, x, a);
    } else {
      y = add_scaled(ctx, x, a, residual_scale);
      h = mlp_norm(ctx, y);
    }
    auto m = experts ? experts(ctx, h, load) : mlp(ctx, h);
    if (after_mlp) m = after_mlp(ctx, m);
    y = add_scaled(ctx, y, m, residual_scale);
    if (per_layer_gate.weight) {
      const auto e = gated(ctx, mlp.activation, per_layer_gate(ctx, y), per_layer);
      y = add(ctx, y, after_per_layer(ctx, per_layer_projection(ctx, e)));
    }
    return scalar_value == 1 ? y : scale(ctx, y, scalar_value);
  }
  int64_t reads_kv_of() const { return kv_of; }
  KvShape kept() const { return conv ? conv.kept() : delta ? delta.kept() : attention.kept(); }
  void visit(const std::function<void(Parameter<T, D>&)>& f) {
    attention.visit(f);
    conv.visit(f);
    delta.visit(f);
    mlp.visit(f);
    experts.visit(f);
    per_layer_gate.visit(f);
    per_layer_projection.visit(f);
    for (auto* n : {&input_norm, &after_mixer, &mlp_norm, &after_mlp, &after_per_layer}) n->visit(f);
    if (scalar) f(scalar);
  }
};

/// Fills blocks from a checkpoint, as traits say.
template <Scalar T, Device D> class BlockReader {
 public:
  BlockReader(Context<D>& ctx, Weights& weights, const TransformerConfig& c)
      : read_{ctx, weights}, c_(c), whole_(c.decoder()) {}
  const DecoderTraits& whole() const { return whole_; }

  NormLayer<T, D> norm(const std::string& name, int64_t size) const {
    return read_.norm(name, size, c_.rms_norm_eps, whole_.norm_offset, whole_.norm_kind);
  }
  Linear<T, D> linear(const std::string& name, int64_t out, int64_t in) const { return read_.linear(name, out, in); }
  [[gnu::cold]] TransformerBlock<T, D> block(int64_t i) {
    const LayerTraits t = c_.layer(i);
    const std::string at = str(whole_.layers, i, '.');
    const int64_t C = c_.hidden_size, hd = t.head_dim ? t.head_dim : c_.head_dim;
    const auto norm_of = [&](const char* name, int64_t size) {
      return name ? norm(at + name, size) : NormLayer<T, D>{};
    };
    TransformerBlock<T, D> b;
    b.input_norm = norm_of(t.input_norm, C);
    b.after_mixer = norm_of(t.after_mixer, C);
    b.mlp_norm = norm_of(t.mlp_norm, C);
    b.after_mlp = norm_of(t.after_mlp, C);
    b.residual_scale = t.residual_scale;
    if (t.conv) {
      const std::string name = at + t.conv;
      b.conv.in_proj = read_.linear(name + "in_proj", 3 * C, C);
      b.conv.kernel =
          read_.weights.template dense<T>(read_.ctx, name + "conv.weight", {C, 1, t.conv_length}, WeightKind::other);
      b.conv.out_proj = read_.linear(name + "out_proj", C, C);
    } else if (t.delta) {
      b.delta = delta(at + t.delta, t);
    } else {
      b.attention = attention(at, t);
      b.attention.q_norm = norm_of(t.q_norm, hd);
      if (t.kv_of < 0) b.attention.k_norm = norm_of(t.k_norm, hd);
      b.attention.v_norm.bare = t.v_norm && t.kv_of < 0;
      b.attention.v_norm.eps = c_.rms_norm_eps;
      b.kv_of = t.kv_of;
      if (t.sinks)
        b.attention.sinks = read_.weights.template vector<T>(read_.ctx, at + t.sinks, c_.num_attention_heads);
    }
    if (t.router) b.experts = experts(at, t);
    else b.mlp = mlp(at, t);
    if (t.per_layer_gate) {
      b.per_layer_gate = read_.linear(at + t.per_layer_gate, whole_.per_layer_size, C);
      b.per_layer_projection = read_.linear(at + t.per_layer_projection, C, whole_.per_layer_size);
      b.after_per_layer = norm_of(t.after_per_layer, C);
    }
    if (t.scalar) {
      b.scalar = read_.weights.template dense<T>(read_.ctx, at + t.scalar + ".weight", {1}, WeightKind::constant);
      b.scalar_value = static_cast<float>(b.scalar.value.item(read_.ctx));
    }
    return b;
  }

 private:
  GatedDeltaNet<T, D> delta(const std::string& name, const LayerTraits& t) const {
    const int64_t C = c_.hidden_size, H = t.value_heads, all = 2 * t.key_heads * t.key_dim + H * t.value_dim;
    GatedDeltaNet<T, D> d;
    d.qkv = read_.linear(name + "in_proj_qkv", all, C);
    d.z = read_.linear(name + "in_proj_z", H * t.value_dim, C);
    d.b = read_.linear(name + "in_proj_b", H, C);
    d.a = read_.linear(name + "in_proj_a", H, C);
    d.kernel =
        read_.weights.template dense<T>(read_.ctx, name + "conv1d.weight", {all, 1, t.conv_length}, WeightKind::other);
    d.A_log = read_.weights.template vector<T>(read_.ctx, name + "A_log", H);
    d.dt_bias = read_.weights.template vector<T>(read_.ctx, name + "dt_bias", H);
    d.norm = read_.norm(name + "norm", t.value_dim, c_.rms_norm_eps);
    d.out_proj = read_.linear(name + "out_proj", C, H * t.value_dim);
    d.key_heads = t.key_heads, d.heads = H, d.dk = t.key_dim, d.dv = t.value_dim;
    d.make_units(read_.ctx);
    return d;
  }
  Attention<T, D> attention(const std::string& at, const LayerTraits& t) {
    const int64_t C = c_.hidden_size, hd = t.head_dim ? t.head_dim : c_.head_dim,
                  KV = t.kv_heads ? t.kv_heads : c_.num_key_value_heads, q = c_.num_attention_heads * hd, kv = KV * hd;
    Attention<T, D> a;
    if (t.qkv) {
      a.qkv_proj = read_.linear(at + t.qkv, q + 2 * kv, C, t.qkv_bias);
    } else {
      a.output_gate = t.output_gate;
      a.q_proj = read_.linear(at + t.q, t.output_gate ? 2 * q : q, C, t.qkv_bias);
      if (t.kv_of < 0) a.k_proj = read_.linear(at + t.k, kv, C, t.qkv_bias);
      if (t.kv_of < 0 && t.v) a.v_proj = read_.linear(at + t.v, kv, C, t.qkv_bias);
    }
    a.o_proj = read_.linear(at + t.o, C, q, t.o_bias);
    a.heads = c_.num_attention_heads;
    a.kv_heads = KV;
    a.head_dim = hd;
    a.options = {.mask = t.causal ? Mask::causal : Mask::none, .window = t.window, .scale = t.attention_scale};
    if (t.rope) {
      auto& shared = rotary_[t.rope];
      if (!shared) shared = std::make_shared<Rotary<T, D>>(*t.rope);
      a.rotary = shared;
    }
    return a;
  }
  Mlp<T, D> mlp(const std::string& at, const LayerTraits& t) const {
    const int64_t C = c_.hidden_size, F = t.mlp_size ? t.mlp_size : c_.intermediate_size;
    Mlp<T, D> m;
    if (t.gate_up) {
      m.gate_up_proj = read_.linear(at + t.gate_up, 2 * F, C, t.mlp_bias);
    } else {
      if (t.gate) m.gate_proj = read_.linear(at + t.gate, F, C, t.mlp_bias);
      m.up_proj = read_.linear(at + t.up, F, C, t.mlp_bias);
    }
    m.down_proj = read_.linear(at + t.down, C, F, t.mlp_bias);
    m.activation = t.activation;
    return m;
  }

  Experts<T, D> experts(const std::string& at, const LayerTraits& t) const {
    const int64_t C = c_.hidden_size, F = t.expert_size;
    const auto matrix = [&](const std::string& name, int64_t out, int64_t in) {
      return read_.weights.template matrix<T>(read_.ctx, at + name + ".weight", {out, in}, WeightKind::other);
    };
    const auto part = [&](const char* which, int64_t i, int64_t out, int64_t in) {
      Parameter<T, D> w = matrix(str(t.expert, i, '.', which, "_proj"), out, in);
      w.part_of = std::make_shared<const StackPart>(expert_part(t, at, which, i, C));
      return w;
    };
    const auto bias = [&](const std::string& name, int64_t out) {
      return read_.weights.template vector<T>(read_.ctx, at + name + ".bias", out);
    };
    Experts<T, D> e;
    e.router = matrix(t.router, t.experts, C);
    if (t.mlp_bias) e.router_bias = bias(t.router, t.experts);
    for (int64_t i = 0; i < t.experts; ++i) {
      const std::string expert = str(t.expert, i);
      e.gate.push_back(part("gate", i, F, C));
      e.up.push_back(part("up", i, F, C));
      e.down.push_back(part("down", i, C, F));
      if (!t.mlp_bias) continue;
      e.gate_bias.push_back(bias(expert + ".gate_proj", F));
      e.up_bias.push_back(bias(expert + ".up_proj", F));
      e.down_bias.push_back(bias(expert + ".down_proj", C));
    }
    e.activation = t.activation;
    e.chosen = t.chosen;
    e.renormalise = t.renormalise;
    e.ones = Parameter<T, D>(
        "ones", Tensor<T, D>(read_.ctx, {C, 1}, std::vector<T>(static_cast<std::size_t>(C), T(1.0f))), false);
    return e;
  }

  WeightReader<T, D> read_;
  const TransformerConfig& c_;
  DecoderTraits whole_;
  std::map<const RopeOptions*, std::shared_ptr<Rotary<T, D>>> rotary_;
};

template <Scalar T, Device D> class Transformer final : public Decoder<T, D, TransformerBlock<T, D>> {
 public:
  [[gnu::cold]] Transformer(Context<D>& ctx, AnyConfig config, Weights& weights)
      : Decoder<T, D, TransformerBlock<T, D>>(ctx, std::move(config), weights) {
    BlockReader<T, D> read(ctx, weights, *this->config_);
    const DecoderTraits& whole = read.whole();
    const auto scale_of = [&](float s) { return whole.rounded_scale ? static_cast<float>(T(s)) : s; };
    this->embed_tokens_.scale = scale_of(whole.embedding_scale);
    this->output_scale_ = 1 / whole.logits_divisor;
    if (whole.per_layer_embedding) {
      const int64_t L = this->config_->num_hidden_layers, P = whole.per_layer_size;
      this->per_layer_.size = P;
      this->per_layer_.table.weight = weights.template matrix<T>(
          ctx, str(whole.per_layer_embedding, ".weight"), {this->config_->vocab_size, L * P}, WeightKind::embedding);
      this->per_layer_.table.scale = scale_of(std::sqrt(static_cast<float>(P)));
      this->per_layer_.projection = read.linear(whole.per_layer_projection, L * P, this->config_->hidden_size);
      this->per_layer_.norm = read.norm(whole.per_layer_norm, P);
    }
    for (int64_t i = 0; i < this->config_->num_hidden_layers; ++i) this->blocks_.push_back(read.block(i));
    this->norm_ = read.norm(whole.norm, this->config_->hidden_size);
    if (whole.relative_bias) {
      const int64_t H = this->config_->num_attention_heads;
      this->relative_bias_ = weights.template dense<T>(ctx, str(whole.relative_bias, ".weight"),
                                                       {whole.relative_buckets, H}, WeightKind::constant);
      const auto bias =
          relative_bias(ctx, convert<float>(ctx, this->relative_bias_.value).to_host(ctx), H, whole.relative_distance);
      for (auto& b : this->blocks_) b.attention.bias = bias;
    }
  }
};

}  // namespace ft::inline FTLIB_ABI
