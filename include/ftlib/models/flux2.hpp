// models/flux2.hpp: the transformer of FLUX.2-klein: from noisy latents and a caption's states to the velocity. Double
// blocks with streams of their own, then single blocks over both; one modulation of each kind for all blocks, no
// biases. diffusers' transformer_flux2; MM-DiT: arXiv:2403.03206, parallel blocks: 2302.05442
#pragma once
#include <ftlib/autograd/recompute.hpp>        // recompute
#include <ftlib/models/flux2_config.hpp>       // Flux2Config
#include <ftlib/models/kit/denoiser.inl.hpp>   // upload_floats
#include <ftlib/models/kit/denoiser_file.hpp>  // DenoiserFile, DenoiserKind
#include <ftlib/models/kit/weights.hpp>        // Weights
#include <ftlib/nn/linear.hpp>                 // Linear
#include <ftlib/ops/activation.hpp>            // silu, swiglu
#include <ftlib/ops/attention.hpp>             // attention
#include <ftlib/ops/elementwise.hpp>           // gate_residual, scale
#include <ftlib/ops/norm.hpp>                  // rms_norm, layer_norm_modulate
#include <ftlib/ops/rope.hpp>                  // rope
#include <ftlib/ops/rows.hpp>                  // take_rows
#include <ftlib/ops/shape.hpp>                 // reshape, split, concat, transpose

#include <cmath>       // std::exp, std::pow
#include <functional>  // std::function
#include <map>         // std::map
#include <memory>      // std::make_unique
#include <string>      // std::string
#include <vector>      // std::vector

namespace ft::inline FTLIB_ABI {

template <Scalar T, Device D> class Flux2 final : public Denoiser<T, D> {
 public:
  // B latents of h x w places, Nt text tokens, Ni = B h w places, N = Nt + Ni; C = H hd width, F = mlp_ratio C, W width
  // of the text states
  struct Stream {
    Linear<T, D> q, k, v, out;       // (C, C)
    Parameter<T, D> norm_q, norm_k;  // (hd)
    Linear<T, D> in, down;           // (2 F, C), (C, F)
  };
  struct DoubleBlock {
    Stream img, txt;
  };
  struct SingleBlock {
    Linear<T, D> in, out;            // (3 C + 2 F, C), (C, C + F)
    Parameter<T, D> norm_q, norm_k;  // (hd)
  };

  /// Takes its weights from a checkpoint; they stay as they are stored, frozen.
  template <class Source> Flux2(Context<D>& ctx, const Flux2Config& config, Source& weights) : config_(config) {
    const auto& c = config_;
    const int64_t C = c.width(), F = c.mlp_size();
    const auto linear = [&](const std::string& name, int64_t out, int64_t in) {
      Linear<T, D> l;
      l.weight = weights.template matrix<T>(ctx, name + ".weight", {out, in}, WeightKind::linear);
      return l;
    };
    const auto norm = [&](const std::string& name) {
      return weights.template vector<T>(ctx, name + ".weight", c.attention_head_dim);
    };
    const auto stream = [&](const std::string& at, const std::array<const char*, 6>& attn, const std::string& ff) {
      Stream s;
      s.q = linear(at + "attn." + attn[0], C, C);
      s.k = linear(at + "attn." + attn[1], C, C);
      s.v = linear(at + "attn." + attn[2], C, C);
      s.out = linear(at + "attn." + attn[3], C, C);
      s.norm_q = norm(at + "attn." + attn[4]);
      s.norm_k = norm(at + "attn." + attn[5]);
      s.in = linear(at + ff + ".linear_in", 2 * F, C);
      s.down = linear(at + ff + ".linear_out", C, F);
      return s;
    };
    time_1_ = linear("time_guidance_embed.timestep_embedder.linear_1", C, c.timestep_guidance_channels);
    time_2_ = linear("time_guidance_embed.timestep_embedder.linear_2", C, C);
    modulation_img_ = linear("double_stream_modulation_img.linear", 6 * C, C);
    modulation_txt_ = linear("double_stream_modulation_txt.linear", 6 * C, C);
    modulation_single_ = linear("single_stream_modulation.linear", 3 * C, C);
    x_embedder_ = linear("x_embedder", C, c.in_channels);
    context_embedder_ = linear("context_embedder", C, c.joint_attention_dim);
    for (int64_t i = 0; i < c.num_layers; ++i) {
      const std::string at = str("transformer_blocks.", i, '.');
      double_.push_back(
          {stream(at, {"to_q", "to_k", "to_v", "to_out.0", "norm_q", "norm_k"}, "ff"),
           stream(at, {"add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", "norm_added_q", "norm_added_k"},
                  "ff_context")});
    }
    for (int64_t i = 0; i < c.num_single_layers; ++i) {
      const std::string at = str("single_transformer_blocks.", i, ".attn.");
      single_.push_back({linear(at + "to_qkv_mlp_proj", 3 * C + 2 * F, C), linear(at + "to_out", C, C + F),
                         norm(at + "norm_q"), norm(at + "norm_k")});
    }
    norm_out_ = linear("norm_out.linear", 2 * C, C);
    proj_out_ = linear("proj_out", c.in_channels, C);
  }

  /// Opens diffusers' file, or Black Forest Labs' single one, frozen. Throws Error for what does not fit.
  static Flux2 open(Context<D>& ctx, const DenoiserFile& file) {
    Weights weights(file.name());
    for (const std::string& name : file.tensors.names()) put_flux2_tensor(weights, name, file.tensors.tensor(name));
    auto config = Flux2Config::from_json(file.config, file.source);
    if (const Json json = file.of_pipeline("model_index.json"); !json.is_null())
      config.distilled |= value_or<bool>(json, "is_distilled", false, "model_index.json of " + file.name());
    if (const Json json = file.of_pipeline("scheduler/scheduler_config.json"); !json.is_null())
      Flux2Config::check_scheduler(json, "scheduler/scheduler_config.json of " + file.name());
    Flux2 model(ctx, config, weights);
    weights.finish();
    return model;
  }
  static DenoiserKind<T, D> kind() {
    return {.model_type = "flux2",
            .class_name = "Flux2Transformer2DModel",
            .open = [](Context<D>& ctx, const DenoiserFile& file) { return std::make_unique<Flux2>(open(ctx, file)); },
            .recognise = [](const SafetensorsModel& file) { return Flux2Config::of_single_file(file); }};
  }

  const Flux2Config& config() const { return config_; }
  DenoiserInfo info() const override { return config_.info(); }
  Json configuration() const override { return config_.to_json(); }
  Json text_encoding() const override { return config_.text_encoding(); }
  const std::map<std::string, Shape>& file_shapes() const override { return file_shapes_; }
  float time_of(float u, int64_t steps) const override {
    return config_.time_of(u, steps, config_.side * config_.side);
  }
  void set_dropped(std::vector<float> states) override { dropped_ = std::move(states); }

  void visit(const std::function<void(Parameter<T, D>&)>& f) override {
    for (Linear<T, D>* l : {&time_1_, &time_2_, &modulation_img_, &modulation_txt_, &modulation_single_, &x_embedder_,
                            &context_embedder_})
      l->visit(f);
    for (DoubleBlock& b : double_)
      for (Stream* s : {&b.img, &b.txt}) {
        for (Linear<T, D>* l : {&s->q, &s->k, &s->v, &s->out}) l->visit(f);
        f(s->norm_q);
        f(s->norm_k);
        s->in.visit(f);
        s->down.visit(f);
      }
    for (SingleBlock& b : single_) {
      b.in.visit(f);
      b.out.visit(f);
      f(b.norm_q);
      f(b.norm_k);
    }
    norm_out_.visit(f);
    proj_out_.visit(f);
  }

  /// Latents of any size (B, ch, h, w), normalised and in patches of 2 x 2. A dropped caption is the empty one's
  /// states.
  Tensor<T, D> forward(Context<D>& ctx, const Tensor<T, D>& z, const std::vector<float>& t, const PackedText& given,
                       bool recompute = false) override {
    const auto& c = config_;
    const int64_t B = z.rank() == 4 ? z.size(0) : 0, W = c.joint_attention_dim;
    if (B < 1 || z.size(1) != c.in_channels || static_cast<int64_t>(t.size()) != B || given.captions() != B ||
        static_cast<int64_t>(given.states.size()) != given.starts.back() * W)
      throw Error(str("flux2: z ", z.shape(), ", ", t.size(), " times and ", given.captions(), " captions of ",
                      given.states.size(), " values do not fit a model of ", c.in_channels,
                      " channels and captions of width ", W),
                  "give a time and a caption for each.");
    const PackedText text = with_dropped(given, dropped_, W, "flux2");
    const Layout at = lay_out(ctx, text, B, z.size(2), z.size(3));
    const auto condition = silu(ctx, embed_times(ctx, t));  // (B, C)
    const auto m_img = modulations(ctx, modulation_img_, condition, 6),
               m_txt = modulations(ctx, modulation_txt_, condition, 6),
               m_single = modulations(ctx, modulation_single_, condition, 3);
    auto img = x_embedder_(ctx, reshape(ctx, transpose(ctx, reshape(ctx, z, {B, c.in_channels, at.places}), 1, 2),
                                        {B * at.places, c.in_channels}));                            // (Ni, C)
    auto txt = context_embedder_(ctx, upload_floats<T>(ctx, {text.starts.back(), W}, text.states));  // (Nt, C)

    for (DoubleBlock& b : double_) {
      std::vector<Tensor<T, D>> in{img, txt};
      in.insert(in.end(), m_img.begin(), m_img.end());
      in.insert(in.end(), m_txt.begin(), m_txt.end());
      const auto run = [this, &ctx, &b, at](const std::vector<Tensor<T, D>>& x) { return double_block(ctx, b, x, at); };
      const auto out = recompute ? ft::recompute(ctx, in, run) : run(in);
      img = out[0];
      txt = out[1];
    }
    auto x = take_rows(ctx, std::vector{txt, img}, at.joint);  // (N, C)
    for (SingleBlock& b : single_) {
      std::vector<Tensor<T, D>> in{x};
      in.insert(in.end(), m_single.begin(), m_single.end());
      const auto run = [this, &ctx, &b, at](const std::vector<Tensor<T, D>>& given_) {
        return std::vector{single_block(ctx, b, given_, at)};
      };
      x = (recompute ? ft::recompute(ctx, in, run) : run(in))[0];
    }
    const auto m = modulations(ctx, norm_out_, condition, 2);  // scale, shift
    img = layer_norm_modulate(ctx, take_rows(ctx, x, at.image_rows), none_, none_, m[0], m[1], c.eps, at.image_starts);
    img = reshape(ctx, proj_out_(ctx, img), {B, at.places, c.in_channels});
    // It says noise less latents, over sigma = 1 - t.
    return scale(ctx, reshape(ctx, contiguous(ctx, transpose(ctx, img, 1, 2)), z.shape()), -1.0f);
  }

 private:
  using Modulations = std::vector<Tensor<T, D>>;
  /// Where each token stands: made once a forward pass, used by every block.
  struct Layout {
    int64_t places = 0;  // of one sample's latents
    std::vector<int64_t> text_starts, image_starts, joint_starts;
    std::vector<int32_t> joint, text_rows, image_rows;  // (N), (Nt), (Ni)  text first, sample by sample
    std::vector<Segment> segments;
    Tensor<int32_t, D> positions;  // (N)  rows of the table
    RopeTable<T, D> rope;
  };

  Layout lay_out(Context<D>& ctx, const PackedText& text, int64_t B, int64_t h, int64_t w) const {
    Layout at;
    at.places = h * w;
    at.text_starts = text.starts;
    const int64_t Nt = text.starts.back();
    int64_t longest = 0;
    std::vector<int32_t> positions;
    const auto put = [](std::vector<int32_t>& to, int64_t value) { to.push_back(static_cast<int32_t>(value)); };
    for (int64_t b = 0; b < B; ++b) {
      const int64_t begin = text.starts[static_cast<std::size_t>(b)],
                    end = text.starts[static_cast<std::size_t>(b) + 1], first = static_cast<int64_t>(at.joint.size());
      at.joint_starts.push_back(first);
      at.image_starts.push_back(b * at.places);
      for (int64_t i = begin; i < end; ++i) {
        put(at.text_rows, static_cast<int64_t>(at.joint.size()));
        put(at.joint, i);
        put(positions, at.places + i - begin);
      }
      for (int64_t i = 0; i < at.places; ++i) {
        put(at.image_rows, static_cast<int64_t>(at.joint.size()));
        put(at.joint, Nt + b * at.places + i);
        put(positions, i);
      }
      const auto last = static_cast<int64_t>(at.joint.size());
      at.segments.push_back({first, last, first, last});
      longest = std::max(longest, end - begin);
    }
    at.joint_starts.push_back(static_cast<int64_t>(at.joint.size()));
    at.image_starts.push_back(B * at.places);
    at.positions = Tensor<int32_t, D>(ctx, {static_cast<int64_t>(positions.size())}, positions);
    at.rope = RopeTable<T, D>(ctx, config_.attention_head_dim / 2, config_.angles(h, w, longest));
    return at;
  }

  /// (B, C) each.
  Modulations modulations(Context<D>& ctx, Linear<T, D>& of, const Tensor<T, D>& condition, int64_t count) {
    return split(ctx, of(ctx, condition), 1, std::vector<int64_t>(static_cast<std::size_t>(count), config_.width()));
  }
  Tensor<T, D> heads(Context<D>& ctx, const Tensor<T, D>& x, Parameter<T, D>* norm) {
    const auto split_up = reshape(ctx, x, {x.size(0), config_.num_attention_heads, config_.attention_head_dim});
    return norm ? rms_norm(ctx, split_up, in_use(ctx, *norm), config_.eps) : split_up;
  }
  /// (N, H, hd) three times -> (N, C)
  Tensor<T, D> attend(Context<D>& ctx, const Tensor<T, D>& q, const Tensor<T, D>& k, const Tensor<T, D>& v,
                      const Layout& at) {
    const auto turned = [&](const Tensor<T, D>& x) {
      return rope(ctx, x, at.rope, at.positions, RopePairing::interleaved);
    };
    return reshape(ctx, attention(ctx, turned(q), turned(k), v, at.segments, {.mask = Mask::none}),
                   {q.size(0), config_.width()});
  }
  Tensor<T, D> feed_forward(Context<D>& ctx, Linear<T, D>& in, Linear<T, D>& down, const Tensor<T, D>& x) {
    const auto both = split(ctx, in(ctx, x), 1, {config_.mlp_size(), config_.mlp_size()});
    return down(ctx, swiglu(ctx, both[0], both[1]));
  }

  /// x: patches (Ni, C), text (Nt, C), six modulations of each: shift, scale, gate of attention, and of the MLP.
  std::vector<Tensor<T, D>> double_block(Context<D>& ctx, DoubleBlock& b, const std::vector<Tensor<T, D>>& x,
                                         const Layout& at) {
    const auto m = [&](bool img, std::size_t i) -> const Tensor<T, D>& { return x[2 + (img ? 0 : 6) + i]; };
    const auto starts = [&](bool img) -> const std::vector<int64_t>& { return img ? at.image_starts : at.text_starts; };
    const auto normed = [&](const Tensor<T, D>& of, bool img, std::size_t i) {
      return layer_norm_modulate(ctx, of, none_, none_, m(img, i + 1), m(img, i), config_.eps, starts(img));
    };
    const auto img_in = normed(x[0], true, 0), txt_in = normed(x[1], false, 0);
    const auto joint = [&](Linear<T, D>& of_txt, Linear<T, D>& of_img, Parameter<T, D>* txt, Parameter<T, D>* img) {
      const auto rows = [&](Linear<T, D>& l, const Tensor<T, D>& in, Parameter<T, D>* norm) {
        return reshape(ctx, heads(ctx, l(ctx, in), norm), {in.size(0), config_.width()});
      };
      const auto all = take_rows(ctx, std::vector{rows(of_txt, txt_in, txt), rows(of_img, img_in, img)}, at.joint);
      return heads(ctx, all, nullptr);
    };
    const auto q = joint(b.txt.q, b.img.q, &b.txt.norm_q, &b.img.norm_q),
               k = joint(b.txt.k, b.img.k, &b.txt.norm_k, &b.img.norm_k), v = joint(b.txt.v, b.img.v, nullptr, nullptr);
    const auto y = attend(ctx, q, k, v, at);
    const auto stream = [&](Stream& s, const Tensor<T, D>& in, bool img, const std::vector<int32_t>& rows) {
      auto out = gate_residual(ctx, in, s.out(ctx, take_rows(ctx, y, rows)), m(img, 2), starts(img));
      return gate_residual(ctx, out, feed_forward(ctx, s.in, s.down, normed(out, img, 3)), m(img, 5), starts(img));
    };
    return {stream(b.img, x[0], true, at.image_rows), stream(b.txt, x[1], false, at.text_rows)};
  }

  /// x: all tokens (N, C), shift, scale and gate.
  Tensor<T, D> single_block(Context<D>& ctx, SingleBlock& b, const std::vector<Tensor<T, D>>& x, const Layout& at) {
    const int64_t C = config_.width(), F = config_.mlp_size();
    const auto h = layer_norm_modulate(ctx, x[0], none_, none_, x[2], x[1], config_.eps, at.joint_starts);
    const auto parts = split(ctx, b.in(ctx, h), 1, {C, C, C, F, F});  // q, k, v, gate, up
    const auto y = attend(ctx, heads(ctx, parts[0], &b.norm_q), heads(ctx, parts[1], &b.norm_k),
                          heads(ctx, parts[2], nullptr), at);
    const auto out = b.out(ctx, concat(ctx, std::vector{y, swiglu(ctx, parts[3], parts[4])}, 1));
    return gate_residual(ctx, x[0], out, x[3], at.joint_starts);
  }

  /// (B) -> (B, C): cosines, then sines of 1000 sigma, through a small MLP.
  Tensor<T, D> embed_times(Context<D>& ctx, const std::vector<float>& t) {
    const int64_t B = static_cast<int64_t>(t.size()), waves = config_.timestep_guidance_channels;
    std::vector<double> times;
    for (const float time : t) times.push_back(1000 * double{1 - time});
    return time_2_(ctx, silu(ctx, time_1_(ctx, upload_floats<T>(ctx, {B, waves}, time_waves(times, waves)))));
  }

  static constexpr Parameter<T, D>* none_ = nullptr;
  Flux2Config config_;
  std::map<std::string, Shape> file_shapes_;  // none: all are matrices
  std::vector<float> dropped_;                // states of the empty caption
  Linear<T, D> time_1_, time_2_, modulation_img_, modulation_txt_, modulation_single_, x_embedder_, context_embedder_,
      norm_out_, proj_out_;
  std::vector<DoubleBlock> double_;
  std::vector<SingleBlock> single_;
};

}  // namespace ft::inline FTLIB_ABI
