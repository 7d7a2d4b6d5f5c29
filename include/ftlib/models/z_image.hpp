// models/z_image.hpp: the transformer of Z-Image: from noisy latents and a caption's states to the velocity. Pictures
// and texts each pass refiners of their own, then one stream of blocks; scale and gate by the time, no shift; norms
// before and behind attention and MLP. diffusers' transformer_z_image
#pragma once
#include <ftlib/autograd/recompute.hpp>        // recompute
#include <ftlib/models/kit/denoiser.inl.hpp>   // upload_floats, time_waves, with_dropped
#include <ftlib/models/kit/denoiser_file.hpp>  // DenoiserFile, DenoiserKind
#include <ftlib/models/kit/weights.hpp>        // Weights
#include <ftlib/models/z_image_config.hpp>     // ZImageConfig
#include <ftlib/nn/linear.hpp>                 // Linear
#include <ftlib/ops/activation.hpp>            // silu, swiglu, tanh
#include <ftlib/ops/attention.hpp>             // attention
#include <ftlib/ops/elementwise.hpp>           // add, gate_residual
#include <ftlib/ops/embedding.hpp>             // embedding
#include <ftlib/ops/norm.hpp>                  // rms_norm, rms_norm_modulate, layer_norm_modulate
#include <ftlib/ops/rope.hpp>                  // rope
#include <ftlib/ops/rows.hpp>                  // take_rows
#include <ftlib/ops/shape.hpp>                 // reshape, split, transpose

#include <functional>  // std::function
#include <map>         // std::map
#include <memory>      // std::make_unique
#include <string>      // std::string
#include <vector>      // std::vector

namespace ft::inline FTLIB_ABI {

template <Scalar T, Device D> class ZImage final : public Denoiser<T, D> {
 public:
  // B latents of h x w, P = h w / 4 patches of each; C = H hd width, F feed-forward, W width of the text states, E of
  // the time's embedding
  struct Block {
    Parameter<T, D> attention_norm1, attention_norm2, ffn_norm1, ffn_norm2;  // (C)
    Linear<T, D> q, k, v, out;                                               // (C, C)
    Parameter<T, D> norm_q, norm_k;                                          // (hd)
    Linear<T, D> w1, w2, w3;                                                 // (F, C), (C, F), (F, C)
    Linear<T, D> modulation;                                                 // (4 C, E), but for texts' refiners
  };

  /// Takes its weights from a checkpoint; they stay as they are stored, frozen.
  template <class Source> ZImage(Context<D>& ctx, const ZImageConfig& config, Source& weights) : config_(config) {
    const auto& c = config_;
    const int64_t C = c.dim, F = c.mlp_size(), E = c.time_width();
    const auto linear = [&](const std::string& name, int64_t out, int64_t in, bool bias = true) {
      Linear<T, D> l;
      l.weight = weights.template matrix<T>(ctx, name + ".weight", {out, in}, WeightKind::linear);
      if (bias) l.bias = weights.template vector<T>(ctx, name + ".bias", out);
      return l;
    };
    const auto norm = [&](const std::string& name, int64_t size) {
      return weights.template vector<T>(ctx, name + ".weight", size);
    };
    const auto blocks = [&](const char* of, int64_t count, bool modulated) {
      std::vector<Block> all;
      for (int64_t i = 0; i < count; ++i) {
        const std::string at = str(of, '.', i, '.'), attn = at + "attention.", ff = at + "feed_forward.";
        Block b{norm(at + "attention_norm1", C),     norm(at + "attention_norm2", C),
                norm(at + "ffn_norm1", C),           norm(at + "ffn_norm2", C),
                linear(attn + "to_q", C, C, false),  linear(attn + "to_k", C, C, false),
                linear(attn + "to_v", C, C, false),  linear(attn + "to_out.0", C, C, false),
                norm(attn + "norm_q", c.head_dim()), norm(attn + "norm_k", c.head_dim()),
                linear(ff + "w1", F, C, false),      linear(ff + "w2", C, F, false),
                linear(ff + "w3", F, C, false),      {}};
        if (modulated) b.modulation = linear(at + "adaLN_modulation.0", 4 * C, E);
        all.push_back(std::move(b));
      }
      return all;
    };
    const auto token = [&](const char* name) {
      return weights.template matrix<T>(ctx, name, {1, C}, WeightKind::embedding);
    };
    x_embedder_ = linear("all_x_embedder.2-1", C, c.patch_values());
    final_modulation_ = linear("all_final_layer.2-1.adaLN_modulation.1", C, E);
    final_ = linear("all_final_layer.2-1.linear", c.patch_values(), C);
    noise_refiner_ = blocks("noise_refiner", c.n_refiner_layers, true);
    context_refiner_ = blocks("context_refiner", c.n_refiner_layers, false);
    time_1_ = linear("t_embedder.mlp.0", c.time_hidden, c.waves);
    time_2_ = linear("t_embedder.mlp.2", E, c.time_hidden);
    cap_norm_ = norm("cap_embedder.0", c.cap_feat_dim);
    cap_embedder_ = linear("cap_embedder.1", C, c.cap_feat_dim);
    x_pad_ = token("x_pad_token");
    cap_pad_ = token("cap_pad_token");
    layers_ = blocks("layers", c.n_layers, true);
  }

  static ZImage open(Context<D>& ctx, const DenoiserFile& file) {
    Weights weights(file.name());
    for (const std::string& name : file.tensors.names()) weights.put(name, file.tensors.tensor(name));
    auto config = ZImageConfig::from_json(file.config, file.source);
    if (const Json json = file.of_pipeline("model_index.json"); !json.is_null())
      config.distilled |= value_or<bool>(json, "is_distilled", false, "model_index.json of " + file.name());
    if (const Json json = file.of_pipeline("scheduler/scheduler_config.json"); !json.is_null())
      config.take_scheduler(json, "scheduler/scheduler_config.json of " + file.name());
    ZImage model(ctx, config, weights);
    weights.finish();
    return model;
  }
  static DenoiserKind<T, D> kind() {
    return {
        .model_type = "z_image",
        .class_name = "ZImageTransformer2DModel",
        .open = [](Context<D>& ctx, const DenoiserFile& file) { return std::make_unique<ZImage>(open(ctx, file)); }};
  }

  const ZImageConfig& config() const { return config_; }
  DenoiserInfo info() const override { return config_.info(); }
  Json configuration() const override { return config_.to_json(); }
  Json text_encoding() const override { return config_.text_encoding(); }
  const std::map<std::string, Shape>& file_shapes() const override { return file_shapes_; }
  float time_of(float u, int64_t) const override {
    return config_.time_of(u, config_.side * config_.side / (config_.patch * config_.patch));
  }
  void set_dropped(std::vector<float> states) override { dropped_ = std::move(states); }

  void visit(const std::function<void(Parameter<T, D>&)>& f) override {
    const auto blocks = [&](std::vector<Block>& all) {
      for (Block& b : all) {
        for (Linear<T, D>* l : {&b.q, &b.k, &b.v, &b.out, &b.w1, &b.w2, &b.w3, &b.modulation}) l->visit(f);
        for (auto* w : {&b.norm_q, &b.norm_k, &b.attention_norm1, &b.ffn_norm1, &b.attention_norm2, &b.ffn_norm2})
          f(*w);
      }
    };
    x_embedder_.visit(f);
    final_.visit(f);
    final_modulation_.visit(f);
    blocks(noise_refiner_);
    blocks(context_refiner_);
    time_1_.visit(f);
    time_2_.visit(f);
    f(cap_norm_);
    cap_embedder_.visit(f);
    f(x_pad_);
    f(cap_pad_);
    blocks(layers_);
  }

  /// Latents of any even sides (B, ch, h, w), normalised.
  Tensor<T, D> forward(Context<D>& ctx, const Tensor<T, D>& z, const std::vector<float>& t, const PackedText& given,
                       bool recompute = false) override {
    const auto& c = config_;
    const int64_t B = z.rank() == 4 ? z.size(0) : 0, W = c.cap_feat_dim, p = c.patch;
    if (B < 1 || z.size(1) != c.in_channels || z.size(2) % p || z.size(3) % p || static_cast<int64_t>(t.size()) != B ||
        given.captions() != B || static_cast<int64_t>(given.states.size()) != given.starts.back() * W)
      throw Error(str("z_image: z ", z.shape(), ", ", t.size(), " times and ", given.captions(), " captions of ",
                      given.states.size(), " values do not fit a model of ", c.in_channels,
                      " channels and captions of width ", W),
                  "give a time and a caption for each, and even sides.");
    const PackedText text = with_dropped(given, dropped_, W, "z_image");
    const int64_t h = z.size(2) / p, w = z.size(3) / p;
    const auto layout = std::make_shared<const Layout>(lay_out(ctx, text, B, h, w));  // recomputed blocks read it again
    const Layout& at = *layout;
    const auto time = embed_times(ctx, t);  // (B, E)
    const auto run = [&](std::vector<Block>& blocks, Tensor<T, D> x, const Rows& rows) {
      for (Block& b : blocks) {
        const auto f = [this, &ctx, &b, &rows, layout](const std::vector<Tensor<T, D>>& in) {
          return std::vector{block(ctx, b, in[0], in[1], rows, layout->rope)};
        };
        const std::vector<Tensor<T, D>> in{x, time};
        x = (recompute ? ft::recompute(ctx, in, f) : f(in))[0];
      }
      return x;
    };
    const auto padded = [&](const Tensor<T, D>& x, Parameter<T, D>& pad, const Rows& rows) {
      if (rows.pads.empty()) return take_rows(ctx, x, rows.from);
      return take_rows(ctx, std::vector{x, embedding(ctx, in_use(ctx, pad), rows.pads)}, rows.from);
    };
    auto x = reshape(ctx, z, {B, c.in_channels, h, p, w, p});  // a pixel's channels lie together in a patch
    x = transpose(ctx, transpose(ctx, transpose(ctx, x, 1, 2), 2, 4), 4, 5);
    x = x_embedder_(ctx, reshape(ctx, x, {B * h * w, c.patch_values()}));
    x = run(noise_refiner_, padded(x, x_pad_, at.x), at.x);
    auto cap = upload_floats<T>(ctx, {text.starts.back(), W}, text.states);
    cap = cap_embedder_(ctx, rms_norm(ctx, cap, in_use(ctx, cap_norm_), c.norm_eps));
    cap = run(context_refiner_, padded(cap, cap_pad_, at.cap), at.cap);
    x = run(layers_, take_rows(ctx, std::vector{x, cap}, at.all.from), at.all);

    const auto scale = final_modulation_(ctx, silu(ctx, time));
    x = layer_norm_modulate(ctx, take_rows(ctx, x, at.patches), none_, none_, scale, zeros_like(ctx, scale), 1e-6f,
                            at.patch_starts);
    x = reshape(ctx, final_(ctx, x), {B, h, w, p, p, c.in_channels});
    x = transpose(ctx, transpose(ctx, transpose(ctx, x, 4, 5), 2, 4), 1, 2);
    return reshape(ctx, x, z.shape());  // latents less noise
  }

 private:
  /// Tokens of a stretch of blocks: where they come from, which samples they are of, where they stand.
  struct Rows {
    std::vector<int32_t> from, pads;  // rows of what is given and, behind that, of pad tokens: zeros
    std::vector<int64_t> starts{0};   // (B + 1)
    std::vector<Segment> segments;
    std::vector<int32_t> places;  // rows of the table
    Tensor<int32_t, D> positions;

    void end_sample() {
      const auto begin = starts.back(), end = static_cast<int64_t>(from.size());
      starts.push_back(end);
      segments.push_back({begin, end, begin, end});
    }
  };
  struct Layout {
    Rows x, cap, all;  // pictures first in all
    std::vector<int32_t> patches;
    std::vector<int64_t> patch_starts;
    RopeTable<T, D> rope;
  };

  /// Both kinds are filled up to multiples of 32. Words stand one after the other from 1, the pads among them; a
  /// picture's patches behind them, by row and column; its pads at the origin.
  Layout lay_out(Context<D>& ctx, const PackedText& text, int64_t B, int64_t h, int64_t w) const {
    Layout at;
    std::vector<float> angles;
    const auto full = [](int64_t n) { return (n + config_multiple - 1) / config_multiple * config_multiple; };
    const auto put = [](std::vector<int32_t>& to, int64_t value) { to.push_back(static_cast<int32_t>(value)); };
    const int64_t P = h * w, Nx = full(P), Nt = text.starts.back();
    for (int64_t b = 0; b < B; ++b) {
      const int64_t begin = text.starts[static_cast<std::size_t>(b)],
                    n = text.starts[static_cast<std::size_t>(b) + 1] - begin, Nc = full(n);
      at.patch_starts.push_back(b * P);
      for (int64_t i = 0; i < Nx; ++i) {
        const auto row = static_cast<int64_t>(at.all.from.size());
        if (i < P) put(at.patches, row);
        put(at.x.from, i < P ? b * P + i : B * P + static_cast<int64_t>(at.x.pads.size()));
        if (i >= P) put(at.x.pads, 0);
        put(at.x.places, row);
        put(at.all.from, b * Nx + i);
        config_.put_angles(angles,
                           i < P ? std::array<int64_t, 3>{Nc + 1, i / w, i % w} : std::array<int64_t, 3>{0, 0, 0});
      }
      for (int64_t i = 0; i < Nc; ++i) {
        const auto row = static_cast<int64_t>(at.all.from.size());
        put(at.all.from, B * Nx + static_cast<int64_t>(at.cap.from.size()));
        put(at.cap.from, i < n ? begin + i : Nt + static_cast<int64_t>(at.cap.pads.size()));
        if (i >= n) put(at.cap.pads, 0);
        put(at.cap.places, row);
        config_.put_angles(angles, {1 + i, 0, 0});
      }
      for (Rows* rows : {&at.x, &at.cap, &at.all}) rows->end_sample();
    }
    at.patch_starts.push_back(B * P);
    for (std::size_t i = 0; i < at.all.from.size(); ++i) put(at.all.places, static_cast<int64_t>(i));
    for (Rows* rows : {&at.x, &at.cap, &at.all})
      rows->positions = Tensor<int32_t, D>(ctx, {static_cast<int64_t>(rows->places.size())}, rows->places);
    at.rope = RopeTable<T, D>(ctx, config_.head_dim() / 2, angles);
    return at;
  }

  Tensor<T, D> block(Context<D>& ctx, Block& b, const Tensor<T, D>& x, const Tensor<T, D>& time, const Rows& rows,
                     const RopeTable<T, D>& table) {
    const auto& c = config_;
    std::vector<Tensor<T, D>> m;  // scale and gate of attention, and of the MLP
    if (b.modulation.weight) m = split(ctx, b.modulation(ctx, time), 1, {c.dim, c.dim, c.dim, c.dim});
    const auto before = [&](const Tensor<T, D>& of, Parameter<T, D>& norm, std::size_t i) {
      if (m.empty()) return rms_norm(ctx, of, in_use(ctx, norm), c.norm_eps);
      return rms_norm_modulate(ctx, of, in_use(ctx, norm), m[i], zeros_like(ctx, m[i]), c.norm_eps, rows.starts);
    };
    const auto behind = [&](const Tensor<T, D>& to, const Tensor<T, D>& of, Parameter<T, D>& norm, std::size_t i) {
      const auto y = rms_norm(ctx, of, in_use(ctx, norm), c.norm_eps);
      return m.empty() ? add(ctx, to, y) : gate_residual(ctx, to, y, tanh(ctx, m[i]), rows.starts);
    };
    const auto h = before(x, b.attention_norm1, 0);
    const auto head = [&](Linear<T, D>& l, Parameter<T, D>* norm) {
      const auto y = reshape(ctx, l(ctx, h), {h.size(0), c.n_heads, c.head_dim()});
      if (!norm) return y;
      return rope(ctx, rms_norm(ctx, y, in_use(ctx, *norm), 1e-5f), table, rows.positions, RopePairing::interleaved);
    };
    const auto y = attention(ctx, head(b.q, &b.norm_q), head(b.k, &b.norm_k), head(b.v, nullptr), rows.segments,
                             {.mask = Mask::none});
    const auto s = behind(x, b.out(ctx, reshape(ctx, y, x.shape())), b.attention_norm2, 1);
    const auto f = before(s, b.ffn_norm1, 2);
    return behind(s, b.w2(ctx, swiglu(ctx, b.w1(ctx, f), b.w3(ctx, f))), b.ffn_norm2, 3);
  }

  /// (B) -> (B, E)
  Tensor<T, D> embed_times(Context<D>& ctx, const std::vector<float>& t) {
    std::vector<double> times;
    for (const float time : t) times.push_back(config_.t_scale * double{time});
    const Shape shape{static_cast<int64_t>(t.size()), config_.waves};
    return time_2_(ctx, silu(ctx, time_1_(ctx, upload_floats<T>(ctx, shape, time_waves(times, config_.waves)))));
  }
  static Tensor<T, D> zeros_like(Context<D>& ctx, const Tensor<T, D>& x) { return Tensor<T, D>::zeros(ctx, x.shape()); }

  static constexpr int64_t config_multiple = ZImageConfig::multiple;
  static constexpr Parameter<T, D>* none_ = nullptr;
  ZImageConfig config_;
  std::map<std::string, Shape> file_shapes_;  // none: all are matrices
  std::vector<float> dropped_;                // states of the empty caption
  Linear<T, D> x_embedder_, final_modulation_, final_, time_1_, time_2_, cap_embedder_;
  Parameter<T, D> cap_norm_, x_pad_, cap_pad_;
  std::vector<Block> noise_refiner_, context_refiner_, layers_;
};

}  // namespace ft::inline FTLIB_ABI
