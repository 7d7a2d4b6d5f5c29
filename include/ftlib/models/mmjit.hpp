// models/mmjit.hpp: MM-JiT, the transformer of MiniT2I: from a noisy picture and a caption to the clean picture, in
// pixels. Patches and text tokens run side by side through double-stream blocks with joint attention. JiT:
// arXiv:2511.13720, MM-DiT: 2403.03206; tensor names are those of minit2i-torch.
#pragma once
#include <ftlib/autograd/recompute.hpp>        // recompute
#include <ftlib/models/kit/denoiser.inl.hpp>   // upload_floats
#include <ftlib/models/kit/denoiser_file.hpp>  // DenoiserFile, DenoiserKind
#include <ftlib/models/kit/weights.hpp>        // Weights
#include <ftlib/models/mmjit_config.hpp>       // MMJiTConfig
#include <ftlib/nn/linear.hpp>                 // Linear
#include <ftlib/ops/activation.hpp>            // silu, swiglu
#include <ftlib/ops/attention.hpp>             // attention
#include <ftlib/ops/elementwise.hpp>           // add, gate_residual
#include <ftlib/ops/embedding.hpp>             // embedding
#include <ftlib/ops/norm.hpp>                  // rms_norm, add_rms_norm, rms_norm_modulate
#include <ftlib/ops/rope.hpp>                  // rope
#include <ftlib/ops/rows.hpp>                  // take_rows, mean_rows
#include <ftlib/ops/shape.hpp>                 // reshape, split, concat

#include <algorithm>   // std::any_of, std::max
#include <cmath>       // std::sqrt, std::exp
#include <filesystem>  // std::filesystem::path
#include <functional>  // std::function
#include <map>         // std::map
#include <memory>      // std::shared_ptr
#include <string>      // std::string
#include <tuple>       // std::tie
#include <vector>      // std::vector

namespace ft::inline FTLIB_ABI {

/// Where training from scratch begins; stands where a checkpoint's Weights would. Drawn one after the other from a
/// seed: norms are 1; adaLN and the last layer 0, so that every block starts as the identity; mask_token and t_embedder
/// N(0, 0.02^2); patch embedding and MLPs Xavier with bias 0; other layers and their biases U(-1 / sqrt(in),
/// 1 / sqrt(in)).  minit2i-jax, models/{mmjit,dit_blocks,base}.py; adaLN and t_embedder as in JiT
class InitialWeights {
 public:
  explicit InitialWeights(uint64_t seed) : random_(seed) {}

  template <Scalar T, Device D>
  Parameter<T, D> matrix(Context<D>& ctx, const std::string& name, const Shape& shape, WeightKind kind) {
    const auto in = static_cast<double>(shape.count() / shape[0]), out = static_cast<double>(shape[0]);
    const bool xavier = has(name, "img_embedder") || has(name, "mlp.w");
    last_in_ = xavier || zero(name) || has(name, "t_embedder") ? 0 : in;
    std::vector<T> values(static_cast<std::size_t>(shape.count()));
    for (T& v : values)
      v = zero(name) ? T(0.0f)
          : has(name, "mask_token") || has(name, "t_embedder")
              ? cast<T>(0.02 * random_.normal())
              : cast<T>(uniform(xavier ? std::sqrt(6 / (in + out)) : 1 / std::sqrt(in)));
    Parameter<T, D> w(name, Tensor<T, D>(ctx, shape, values));
    w.kind = kind;
    return w;
  }
  /// A norm's weight, or the bias of the matrix before.
  template <Scalar T, Device D> Parameter<T, D> vector(Context<D>& ctx, const std::string& name, int64_t size) {
    std::vector<T> values(static_cast<std::size_t>(size), T(name.ends_with(".bias") ? 0.0f : 1.0f));
    if (name.ends_with(".bias") && last_in_ > 0)
      for (T& v : values) v = cast<T>(uniform(1 / std::sqrt(last_in_)));
    return Parameter<T, D>(name, Tensor<T, D>(ctx, {size}, values));
  }

 private:
  static bool has(const std::string& name, const char* part) { return name.find(part) != std::string::npos; }
  static bool zero(const std::string& name) { return has(name, "adaLN") || has(name, "final_layer.linear"); }
  template <Scalar T> static T cast(double v) { return static_cast<T>(static_cast<accumulate_t<T>>(v)); }
  double uniform(double bound) { return (2 * random_.uniform() - 1) * bound; }

  Random random_;
  double last_in_ = 0;
};

/// (B, ch, S, S) -> (B P, ch p p): patches row by row, a patch's values in the order of a convolution's weight.
template <Scalar T, Device D> Tensor<T, D> patchify(Context<D>& ctx, const Tensor<T, D>& x, int64_t p) {
  const int64_t B = x.size(0), ch = x.size(1), h = x.size(2) / p, w = x.size(3) / p;
  auto y = reshape(ctx, x, {B, ch, h, p, w, p});
  y = transpose(ctx, transpose(ctx, transpose(ctx, y, 1, 2), 2, 4), 3, 4);  // (B, h, w, ch, p, p)
  return reshape(ctx, y, {B * h * w, ch * p * p});
}
/// (B P, p p ch) -> (B, ch, S, S): the last layer's order, in which a pixel's channels lie together.
template <Scalar T, Device D>
Tensor<T, D> unpatchify(Context<D>& ctx, const Tensor<T, D>& x, int64_t p, int64_t ch, int64_t side) {
  const int64_t B = x.size(0) / (side * side);
  auto y = reshape(ctx, x, {B, side, side, p, p, ch});
  y = transpose(ctx, transpose(ctx, transpose(ctx, y, 1, 5), 2, 5), 4, 5);  // (B, ch, h, p, w, p)
  return reshape(ctx, y, {B, ch, side * p, side * p});
}

template <Scalar T, Device D> class MMJiT final : public Denoiser<T, D> {
 public:
  // B pictures, S their side, P patches of each, ch channels, p patch side; Nt text tokens, Ni = B P patches, N = Nt +
  // Ni; C width, H heads, hd head size, F feed-forward, W width of the text encoder's states
  struct Mlp {
    Linear<T, D> w1, w3, w2;  // (F, C), (F, C), (C, F)
  };
  struct Stream {
    Parameter<T, D> norm1, norm2;  // (C)
    Linear<T, D> qkv, attn_proj;   // (3 H hd, C), (C, H hd)
    Mlp mlp;
  };
  struct TextBlock {
    Stream txt;
    Parameter<T, D> q_norm, k_norm;  // (hd)
  };
  struct DoubleBlock {
    Stream img, txt;
    Parameter<T, D> q_norm, k_norm;   // (hd)  of both streams
    Linear<T, D> adaLN_modulation_1;  // (6 C, C)  with Conditioning::adaln_zero
  };

  /// Takes its weights from `weights`: a checkpoint's (they stay as they are stored, frozen), or InitialWeights.
  template <class Source> MMJiT(Context<D>& ctx, const MMJiTConfig& config, Source& weights) : config_(config) {
    const auto& c = config_;
    c.check("mmjit");
    const int64_t C = c.hidden_size, inner = c.num_heads * c.head_dim, F = c.mlp_size();
    // Files hold the patch embedding as two convolutions and mask_token with axes of 1 before it: matrices in here.
    const auto matrix = [&](const std::string& name, const Shape& shape, WeightKind kind) {
      auto w = weights.template matrix<T>(ctx, name, shape, kind);
      if (shape.rank() == 2) return w;
      file_shapes_[name] = shape;
      const Shape flat{shape[0], shape.count() / shape[0]};
      if (w.value) w.value = w.value.reshaped(flat);
      else w.stored.shape = flat;
      return w;
    };
    // WeightKind::linear for all layers, txt_embedder and pooled_embedder among them: MiniT2I's own LoRA recipe adapts
    // these two. Name the targets to leave them alone, as a style that should not change what words mean may want.
    enum class Bias { no, yes };
    const auto linear = [&](const std::string& name, const Shape& shape, Bias bias = Bias::yes) {
      Linear<T, D> l;
      l.weight = matrix(name + ".weight", shape, WeightKind::linear);
      if (bias == Bias::yes) l.bias = weights.template vector<T>(ctx, name + ".bias", shape[0]);
      return l;
    };
    const auto norm = [&](const std::string& name, int64_t size) {
      return weights.template vector<T>(ctx, name + ".weight", size);
    };
    const auto stream = [&](const std::string& at) {
      Stream s;
      s.norm1 = norm(at + "norm1", C);
      s.norm2 = norm(at + "norm2", C);
      s.qkv = linear(at + "qkv", {3 * inner, C});
      s.attn_proj = linear(at + "attn_proj", {C, inner});
      s.mlp.w1 = linear(at + "mlp.w1", {F, C}, Bias::no);
      s.mlp.w3 = linear(at + "mlp.w3", {F, C}, Bias::no);
      s.mlp.w2 = linear(at + "mlp.w2", {C, F}, Bias::no);
      return s;
    };
    mask_token_ = matrix("mask_token", {1, 1, c.txt_input_size}, WeightKind::embedding);
    proj1_ = linear("img_embedder.proj1", {c.pca_channels, c.in_channels, c.patch_size, c.patch_size}, Bias::no);
    proj2_ = linear("img_embedder.proj2", {C, c.pca_channels, 1, 1});
    txt_embedder_ = linear("txt_embedder", {C, c.txt_input_size}, Bias::no);
    if (adaln()) {
      t_embedder_0_ = linear("t_embedder.mlp.0", {C, time_waves});
      t_embedder_2_ = linear("t_embedder.mlp.2", {C, C});
      pooled_embedder_ = linear("pooled_embedder", {C, c.txt_input_size}, Bias::no);
    }
    for (int64_t i = 0; i < c.txt_preamble_depth; ++i) {
      const std::string at = str("txt_preamble_blocks.", i, '.');
      TextBlock b;
      b.txt = stream(at);
      b.q_norm = norm(at + "q_norm", c.head_dim);
      b.k_norm = norm(at + "k_norm", c.head_dim);
      text_blocks_.push_back(std::move(b));
    }
    for (int64_t i = 0; i < c.depth_double; ++i) {
      const std::string at = str("double_blocks.", i, '.');
      DoubleBlock b;
      b.img = stream(at + "img_");
      b.txt = stream(at + "txt_");
      b.q_norm = norm(at + "q_norm", c.head_dim);
      b.k_norm = norm(at + "k_norm", c.head_dim);
      if (adaln()) b.adaLN_modulation_1 = linear(at + "adaLN_modulation.1", {6 * C, C});
      double_blocks_.push_back(std::move(b));
    }
    norm_final_ = norm("final_layer.norm_final", C);
    final_linear_ = linear("final_layer.linear", {c.patch_values(), C});
    if (adaln()) final_adaLN_1_ = linear("final_layer.adaLN_modulation.1", {2 * C, C});
    positions_ = sincos_positions(ctx);
  }

  /// A new model from a seed, all of it trainable.
  static MMJiT initial(Context<D>& ctx, const MMJiTConfig& config, uint64_t seed) {
    InitialWeights weights(seed);
    return MMJiT(ctx, config, weights);
  }
  /// Opens one safetensors file, frozen. Names may begin with "model.net.", as in published files; tensors of
  /// t_embedder and pooled_embedder that published files carry and never use are left out. Throws Error for what does
  /// not fit.
  static MMJiT open(Context<D>& ctx, const std::filesystem::path& path) { return open(ctx, DenoiserFile::open(path)); }
  static MMJiT open(Context<D>& ctx, const DenoiserFile& file) {
    const auto config = MMJiTConfig::from_json(file.config, file.source);
    constexpr std::string_view prefix = "model.net.";
    const auto unused = config.info().unused;
    Weights weights(file.name());
    for (const std::string& name : file.tensors.names()) {
      const std::string own = name.starts_with(prefix) ? name.substr(prefix.size()) : name;
      if (std::any_of(unused.begin(), unused.end(), [&](const auto& part) { return own.starts_with(part); })) continue;
      weights.put(own, file.tensors.tensor(name));
    }
    MMJiT model(ctx, config, weights);
    weights.finish();
    return model;
  }
  static DenoiserKind<T, D> kind() {
    return {.model_type = "mmjit",
            .class_name = "MiniT2IMMJiTModel",
            .open = [](Context<D>& ctx, const DenoiserFile& file) { return std::make_unique<MMJiT>(open(ctx, file)); },
            .initial =
                [](Context<D>& ctx, const Json& config, uint64_t seed) {
                  return std::make_unique<MMJiT>(initial(ctx, MMJiTConfig::from_json(config, "mmjit"), seed));
                }};
  }

  const MMJiTConfig& config() const { return config_; }
  DenoiserInfo info() const override { return config_.info(); }
  Json configuration() const override { return config_.to_json(); }
  /// Published models read the last states of T5's encoder, cut at prompt_length tokens.
  Json text_encoding() const override {
    if (config_.llm.find("t5") == std::string::npos) return nullptr;
    return {{"layer", 0},
            {"before", ""},
            {"mean", Json::array()},
            {"scale", Json::array()},
            {"limit", 0},
            {"longest", config_.prompt_length}};
  }
  /// Two convolutions, and mask_token.
  const std::map<std::string, Shape>& file_shapes() const override { return file_shapes_; }
  /// Patches of half the side, three narrow blocks, and captions of no rows.
  Json finisher() const override {
    const int64_t patch = std::max<int64_t>(1, config_.patch_size / 2);
    MMJiTConfig c;
    c.image_size = config_.image_size;
    c.in_channels = config_.in_channels;
    c.patch_size = patch;
    c.pca_channels = config_.in_channels * patch * patch;
    c.hidden_size = 96;
    c.txt_input_size = 1;
    c.txt_preamble_depth = 0;
    c.depth_double = 3;
    c.num_heads = 2;
    c.head_dim = 48;
    c.prompt_length = 1;
    c.noise_scale = config_.noise_scale;
    c.conditioning = Conditioning::adaln_zero;
    return c.to_json();
  }

  void visit(const std::function<void(Parameter<T, D>&)>& f) override {
    const auto stream = [&](Stream& s) {
      f(s.norm1);
      f(s.norm2);
      for (Linear<T, D>* l : {&s.qkv, &s.attn_proj, &s.mlp.w1, &s.mlp.w3, &s.mlp.w2}) l->visit(f);
    };
    f(mask_token_);
    for (Linear<T, D>* l : {&proj1_, &proj2_, &txt_embedder_}) l->visit(f);
    if (adaln())
      for (Linear<T, D>* l : {&t_embedder_0_, &t_embedder_2_, &pooled_embedder_}) l->visit(f);
    for (TextBlock& b : text_blocks_) {
      stream(b.txt);
      f(b.q_norm);
      f(b.k_norm);
    }
    for (DoubleBlock& b : double_blocks_) {
      stream(b.img);
      stream(b.txt);
      f(b.q_norm);
      f(b.k_norm);
      if (adaln()) b.adaLN_modulation_1.visit(f);
    }
    f(norm_final_);
    final_linear_.visit(f);
    if (adaln()) final_adaLN_1_.visit(f);
  }

  Tensor<T, D> forward(Context<D>& ctx, const Tensor<T, D>& z, const std::vector<float>& t, const PackedText& text,
                       bool recompute = false) override {
    const auto& c = config_;
    const Shape picture{z.rank() ? z.size(0) : 0, c.in_channels, c.image_size, c.image_size};
    if (z.shape() != picture || static_cast<int64_t>(t.size()) != picture[0] || text.captions() != picture[0] ||
        static_cast<int64_t>(text.states.size()) != text.starts.back() * c.txt_input_size)
      throw Error(str("mmjit: z ", z.shape(), ", ", t.size(), " times and ", text.captions(), " captions of ",
                      text.states.size(), " values do not fit a model of ", c.in_channels, " x ", c.image_size, " x ",
                      c.image_size, " pixels and captions of width ", c.txt_input_size),
                  "give a time and a caption for each picture.");
    const auto at = std::make_shared<const Layout>(lay_out(ctx, text));
    auto states = upload_floats<T>(ctx, {text.starts.back(), c.txt_input_size}, text.states);
    states = take_rows(ctx, std::vector{states, embedding(ctx, in_use(ctx, mask_token_), at->masks)},
                       at->filled);  // (Nt, W)

    auto img = proj2_(ctx, proj1_(ctx, patchify(ctx, z, c.patch_size)));
    img = add(ctx, img, embedding(ctx, positions_, at->places));  // (Ni, C)
    auto txt = txt_embedder_(ctx, states);                        // (Nt, C)
    Tensor<T, D> condition;                                       // (B, C), or none
    if (adaln())
      condition =
          silu(ctx, add(ctx, embed_times(ctx, t), pooled_embedder_(ctx, mean_rows(ctx, states, at->text_starts))));

    for (TextBlock& b : text_blocks_)
      txt = recompute ? ft::recompute(ctx, txt, [&, at](const Tensor<T, D>& in) { return text_block(ctx, b, in, *at); })
                      : text_block(ctx, b, txt, *at);
    for (DoubleBlock& b : double_blocks_) {
      if (recompute) std::tie(img, txt) = double_block_again(ctx, b, img, txt, condition, at);
      else std::tie(img, txt) = double_block(ctx, b, img, txt, condition, *at);
    }

    const auto m = modulations(ctx, final_adaLN_1_, condition, 2);
    img = final_linear_(ctx, normed(ctx, img, norm_final_, m, 0));  // (Ni, p p ch)
    return unpatchify(ctx, img, c.patch_size, c.in_channels, c.side());
  }

 private:
  static constexpr int64_t time_waves = 256;  // sines and cosines that a time is shown as
  static constexpr float norm_eps = 1e-6f;

  /// Where each token stands: made once a forward pass, used by every block.
  struct Layout {
    std::vector<int64_t> text_starts;              // (B + 1)  of captions that are filled up
    std::vector<int32_t> masks;                    // (fillers)  zeros: rows of mask_token
    std::vector<int32_t> filled;                   // (Nt)  captions' own rows, or fillers behind them
    std::vector<int32_t> places;                   // (Ni)  place of a patch in its picture
    std::vector<int32_t> joint;                    // (N)   [all text; all patches] sample by sample, text first
    std::vector<int32_t> text_rows, image_rows;    // (Nt), (Ni)  where they are in that order
    std::vector<Segment> segments, text_segments;  // of the samples, and of the captions alone
    Tensor<int32_t, D> positions, text_positions;  // (N), (Nt)  rows of the rotary table
    RopeTable<T, D> rope;                          // the grid's places, then text positions
  };

  bool adaln() const { return config_.conditioning == Conditioning::adaln_zero; }

  Layout lay_out(Context<D>& ctx, const PackedText& text) {
    const int64_t P = config_.side() * config_.side();
    const auto B = static_cast<std::size_t>(text.captions());
    Layout at;
    at.text_starts.push_back(0);
    for (std::size_t b = 0; b < B; ++b)
      at.text_starts.push_back(at.text_starts.back() +
                               std::max(text.starts[b + 1] - text.starts[b], config_.prompt_length));
    const int64_t Nt = at.text_starts.back();
    int64_t longest = 0;
    std::vector<int32_t> positions, text_positions;
    const auto count = [](const auto& items) { return static_cast<int64_t>(items.size()); };
    const auto put = [](std::vector<int32_t>& to, int64_t value) { to.push_back(static_cast<int32_t>(value)); };
    for (std::size_t b = 0; b < B; ++b) {
      const int64_t begin = at.text_starts[b], end = at.text_starts[b + 1], first = count(at.joint);
      const int64_t own = text.starts[b + 1] - text.starts[b];
      for (int64_t i = 0; i < end - begin; ++i) {
        put(at.filled, i < own ? text.starts[b] + i : text.starts.back() + count(at.masks));
        if (i >= own) put(at.masks, 0);
        put(at.text_rows, count(at.joint));
        put(at.joint, begin + i);
        put(positions, P + i);  // the table's text positions lie behind the grid's
        put(text_positions, P + i);
      }
      for (int64_t i = 0; i < P; ++i) {
        put(at.image_rows, count(at.joint));
        put(at.joint, Nt + count(at.places));
        put(at.places, i);
        put(positions, i);
      }
      at.segments.push_back({first, count(at.joint), first, count(at.joint)});
      at.text_segments.push_back({begin, end, begin, end});
      longest = std::max(longest, end - begin);
    }
    at.positions = Tensor<int32_t, D>(ctx, {count(positions)}, positions);
    at.text_positions = Tensor<int32_t, D>(ctx, {Nt}, text_positions);
    auto angles = grid_angles(config_.head_dim, config_.rope_theta, config_.side(), config_.side());
    const auto behind = text_angles({.head_size = config_.head_dim, .theta = config_.rope_theta}, longest);
    angles.insert(angles.end(), behind.begin(), behind.end());
    at.rope = RopeTable<T, D>(ctx, config_.head_dim / 2, angles);
    return at;
  }

  /// Shift, scale and gate for attention, then for the MLP, (B, C) each; nothing without conditioning.
  using Modulations = std::vector<Tensor<T, D>>;
  Modulations modulations(Context<D>& ctx, Linear<T, D>& adaLN, const Tensor<T, D>& condition, int64_t count) {
    if (!condition) return {};
    return split(ctx, adaLN(ctx, condition), 1,
                 std::vector<int64_t>(static_cast<std::size_t>(count), config_.hidden_size));
  }
  /// RMSNorm, then (1 + scale) x + shift by m[first + 1] and m[first].
  Tensor<T, D> normed(Context<D>& ctx, const Tensor<T, D>& x, Parameter<T, D>& w, const Modulations& m,
                      std::size_t first) {
    return m.empty() ? rms_norm(ctx, x, in_use(ctx, w), norm_eps)
                     : rms_norm_modulate(ctx, x, in_use(ctx, w), m[first + 1], m[first], norm_eps);
  }
  /// x + y, with y gated by m[gate].
  Tensor<T, D> residual(Context<D>& ctx, const Tensor<T, D>& x, const Tensor<T, D>& y, const Modulations& m,
                        std::size_t gate) {
    return m.empty() ? add(ctx, x, y) : gate_residual(ctx, x, y, m[gate]);
  }
  /// That, and its norm: shifted and scaled by m[gate + 1] and m[gate + 2].
  std::pair<Tensor<T, D>, Tensor<T, D>> residual_normed(Context<D>& ctx, const Tensor<T, D>& x, const Tensor<T, D>& y,
                                                        Parameter<T, D>& w, const Modulations& m, std::size_t gate) {
    if (m.empty()) return add_rms_norm(ctx, x, y, in_use(ctx, w), norm_eps);
    const auto z = gate_residual(ctx, x, y, m[gate]);
    return {z, normed(ctx, z, w, m, gate + 1)};
  }
  Tensor<T, D> mlp(Context<D>& ctx, Mlp& m, const Tensor<T, D>& x) {
    return m.w2(ctx, swiglu(ctx, m.w1(ctx, x), m.w3(ctx, x)));
  }
  /// (N, 3 H hd) -> (N, H hd)
  Tensor<T, D> attend(Context<D>& ctx, const Tensor<T, D>& qkv, Parameter<T, D>& q_norm, Parameter<T, D>& k_norm,
                      const RopeTable<T, D>& table, const Tensor<int32_t, D>& positions,
                      const std::vector<Segment>& segments) {
    const int64_t N = qkv.size(0), H = config_.num_heads, hd = config_.head_dim;
    const auto parts = split(ctx, reshape(ctx, qkv, {N, 3 * H, hd}), 1, {H, H, H});
    const auto q = rope(ctx, rms_norm(ctx, parts[0], in_use(ctx, q_norm), norm_eps), table, positions);  // (N, H, hd)
    const auto k = rope(ctx, rms_norm(ctx, parts[1], in_use(ctx, k_norm), norm_eps), table, positions);  // (N, H, hd)
    return reshape(ctx, attention(ctx, q, k, parts[2], segments, {.mask = Mask::none}), {N, H * hd});
  }

  Tensor<T, D> text_block(Context<D>& ctx, TextBlock& b, const Tensor<T, D>& x, const Layout& at) {  // (Nt, C)
    const auto qkv = b.txt.qkv(ctx, rms_norm(ctx, x, in_use(ctx, b.txt.norm1), norm_eps));
    const auto attended = attend(ctx, qkv, b.q_norm, b.k_norm, at.rope, at.text_positions, at.text_segments);
    const auto [y, h] = add_rms_norm(ctx, x, b.txt.attn_proj(ctx, attended), in_use(ctx, b.txt.norm2), norm_eps);
    return add(ctx, y, mlp(ctx, b.txt.mlp, h));
  }

  /// Patches (Ni, C) and text (Nt, C) look at each other within each sample; the rest each stream does by itself.
  std::pair<Tensor<T, D>, Tensor<T, D>> double_block(Context<D>& ctx, DoubleBlock& b, Tensor<T, D> img,
                                                     Tensor<T, D> txt, const Tensor<T, D>& condition,
                                                     const Layout& at) {
    const auto m = modulations(ctx, b.adaLN_modulation_1, condition, 6);
    const auto img_qkv = b.img.qkv(ctx, normed(ctx, img, b.img.norm1, m, 0));                     // (Ni, 3 H hd)
    const auto txt_qkv = b.txt.qkv(ctx, rms_norm(ctx, txt, in_use(ctx, b.txt.norm1), norm_eps));  // (Nt, 3 H hd)
    const auto qkv = take_rows(ctx, std::vector{txt_qkv, img_qkv}, at.joint);                     // (N, 3 H hd)
    const auto y = attend(ctx, qkv, b.q_norm, b.k_norm, at.rope, at.positions, at.segments);      // (N, H hd)
    Tensor<T, D> h;
    std::tie(img, h) =
        residual_normed(ctx, img, b.img.attn_proj(ctx, take_rows(ctx, y, at.image_rows)), b.img.norm2, m, 2);
    img = residual(ctx, img, mlp(ctx, b.img.mlp, h), m, 5);
    if (&b == &double_blocks_.back()) return {img, txt};  // nothing reads the last block's text
    std::tie(txt, h) = add_rms_norm(ctx, txt, b.txt.attn_proj(ctx, take_rows(ctx, y, at.text_rows)),
                                    in_use(ctx, b.txt.norm2), norm_eps);
    txt = add(ctx, txt, mlp(ctx, b.txt.mlp, h));
    return {img, txt};
  }
  /// double_block with its activations forgotten: recompute takes one tensor, so all three go stacked.
  std::pair<Tensor<T, D>, Tensor<T, D>> double_block_again(Context<D>& ctx, DoubleBlock& b, const Tensor<T, D>& img,
                                                           const Tensor<T, D>& txt, const Tensor<T, D>& condition,
                                                           const std::shared_ptr<const Layout>& at) {
    const std::vector<int64_t> sizes{img.size(0), txt.size(0), condition ? condition.size(0) : 0};
    std::vector<Tensor<T, D>> inputs{img, txt};
    if (condition) inputs.push_back(condition);
    const auto y = ft::recompute(ctx, concat(ctx, inputs), [this, &ctx, &b, at, sizes](const Tensor<T, D>& x) {
      const auto in = split(ctx, x, 0, sizes);
      const auto [i, t] = double_block(ctx, b, in[0], in[1], sizes[2] ? in[2] : Tensor<T, D>{}, *at);
      return concat(ctx, std::vector{i, t});
    });
    const auto out = split(ctx, y, 0, {sizes[0], sizes[1]});
    return {out[0], out[1]};
  }

  /// (B) -> (B, C): cosines, then sines of t at 128 frequencies from 1 down to 1 / 10000, through a small MLP.
  Tensor<T, D> embed_times(Context<D>& ctx, const std::vector<float>& t) {
    const int64_t B = static_cast<int64_t>(t.size()), half = time_waves / 2;
    std::vector<float> waves;
    for (const float time : t)
      for (int64_t i = 0; i < time_waves; ++i) {
        const double angle =
            double{time} * std::exp(-std::log(10000.0) * static_cast<double>(i % half) / static_cast<double>(half));
        waves.push_back(static_cast<float>(i < half ? std::cos(angle) : std::sin(angle)));
      }
    return t_embedder_2_(ctx, silu(ctx, t_embedder_0_(ctx, upload_floats<T>(ctx, {B, time_waves}, waves))));
  }

  /// The fixed position (P, C) that is added once: sines and cosines of the column, then of the row (MAE's order).
  Parameter<T, D> sincos_positions(Context<D>& ctx) const {
    const int64_t C = config_.hidden_size, side = config_.side(), waves = C / 4;
    std::vector<float> values;
    for (int64_t row = 0; row < side; ++row)
      for (int64_t column = 0; column < side; ++column)
        for (int64_t i = 0; i < C; ++i) {
          const auto place = static_cast<double>(i < C / 2 ? column : row);
          const double angle = place * std::pow(10000.0, -static_cast<double>(i % waves) / static_cast<double>(waves));
          values.push_back(static_cast<float>(i / waves % 2 == 0 ? std::sin(angle) : std::cos(angle)));
        }
    return Parameter<T, D>("positions", upload_floats<T>(ctx, {side * side, C}, values), false);
  }

  MMJiTConfig config_;
  std::map<std::string, Shape> file_shapes_;
  Parameter<T, D> mask_token_, norm_final_, positions_;
  Linear<T, D> proj1_, proj2_, txt_embedder_, t_embedder_0_, t_embedder_2_, pooled_embedder_, final_linear_,
      final_adaLN_1_;
  std::vector<TextBlock> text_blocks_;
  std::vector<DoubleBlock> double_blocks_;
};

}  // namespace ft::inline FTLIB_ABI
