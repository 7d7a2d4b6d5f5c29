// models/autoencoder_kl.hpp: the convolutional autoencoder of latent diffusion: FLUX.2's, with latents in patches of
// 2 x 2, and the one of Stable Diffusion and FLUX.1, by configuration. diffusers' autoencoder_kl{,_flux2}, vae;
// arXiv:2112.10752
#pragma once
#include <ftlib/models/autoencoder_kl_config.hpp>  // AutoencoderKLConfig
#include <ftlib/models/kit/autoencoder.hpp>        // Autoencoder
#include <ftlib/models/kit/denoiser_file.hpp>      // DenoiserFile
#include <ftlib/models/kit/weights.hpp>            // Weights
#include <ftlib/nn/conv.hpp>                       // Conv2d, GroupNorm
#include <ftlib/nn/linear.hpp>                     // Linear
#include <ftlib/ops/activation.hpp>                // silu
#include <ftlib/ops/attention.hpp>                 // attention
#include <ftlib/ops/elementwise.hpp>               // add, modulate
#include <ftlib/ops/shape.hpp>                     // reshape, slice, transpose
#include <ftlib/ops/upsample.hpp>                  // upsample_nearest

#include <cmath>       // std::sqrt
#include <functional>  // std::function
#include <string>      // std::string
#include <vector>      // std::vector

namespace ft::inline FTLIB_ABI {

template <Scalar T, Device D> class AutoencoderKL final : public Autoencoder<T, D> {
 public:
  /// Takes its weights, in the compute type, frozen. Throws Error where the file does not fit its configuration.
  AutoencoderKL(Context<D>& ctx, const DenoiserFile& file)
      : config_(AutoencoderKLConfig::from_json(file.config, file.source)) {
    const auto& c = config_;
    Weights weights(file.name());
    for (const std::string& name : file.tensors.names())
      if (name != "bn.num_batches_tracked") weights.put(name, file.tensors.tensor(name));
    const std::vector<int64_t> outwards(c.decoder.rbegin(), c.decoder.rend());
    encoder_ = half(ctx, weights, "encoder.", c.encoder, c.in_channels, 2 * c.latent_channels, c.layers_per_block);
    decoder_ = half(ctx, weights, "decoder.", outwards, c.latent_channels, c.out_channels, c.layers_per_block + 1);
    if (c.use_quant_conv) quant_ = conv(ctx, weights, "quant_conv", 2 * c.latent_channels, 2 * c.latent_channels, 1);
    if (c.use_post_quant_conv)
      post_quant_ = conv(ctx, weights, "post_quant_conv", c.latent_channels, c.latent_channels, 1);
    normalise(ctx, weights);
    weights.finish();
  }

  AutoencoderInfo info() const override { return {config_.channels(), config_.pixels()}; }
  const AutoencoderKLConfig& config() const { return config_; }

  Tensor<T, D> encode(Context<D>& ctx, const Tensor<T, D>& x) override {
    const int64_t p = config_.pixels(), latents = config_.latent_channels;
    if (x.rank() != 4 || x.size(1) != config_.in_channels || x.size(2) % p || x.size(3) % p || x.count() == 0)
      throw Error(str("autoencoder: pictures ", x.shape(), " are not (pictures, ", config_.in_channels,
                      ", height, width) with sides that are multiples of ", p));
    auto h = run(ctx, encoder_, transpose(ctx, transpose(ctx, x, 1, 2), 2, 3), Way::down);
    if (quant_) h = quant_(ctx, h);
    auto z = slice(ctx, h, 3, 0, latents);  // the means; behind them logarithms of variances
    const int64_t B = z.size(0), H = z.size(1), W = z.size(2), k = config_.patches ? 2 : 1;
    // (B, H, dy, W, dx, C) -> (B, H, W, C, dy, dx)
    z = reshape(ctx, z, {B, H / k, k, W / k, k, latents});
    z = transpose(ctx, transpose(ctx, transpose(ctx, z, 2, 3), 3, 5), 4, 5);
    z = reshape(ctx, z, {B * (H / k) * (W / k), config_.channels()});
    z = reshape(ctx, modulate(ctx, z, to_unit_.scale, to_unit_.shift), {B, H / k, W / k, config_.channels()});
    return contiguous_copy(ctx, transpose(ctx, transpose(ctx, z, 2, 3), 1, 2));
  }

  Tensor<T, D> decode(Context<D>& ctx, const Tensor<T, D>& z) override {
    if (z.rank() != 4 || z.size(1) != config_.channels() || z.count() == 0)
      throw Error(
          str("autoencoder: latents ", z.shape(), " are not (pictures, ", config_.channels(), ", rows, columns)"));
    const int64_t B = z.size(0), H = z.size(2), W = z.size(3), k = config_.patches ? 2 : 1;
    auto x = reshape(ctx, transpose(ctx, transpose(ctx, z, 1, 2), 2, 3), {B * H * W, config_.channels()});
    x = modulate(ctx, x, from_unit_.scale, from_unit_.shift);
    x = reshape(ctx, x, {B, H, W, config_.latent_channels, k, k});
    x = transpose(ctx, transpose(ctx, transpose(ctx, x, 4, 5), 3, 5), 2, 3);
    x = reshape(ctx, x, {B, k * H, k * W, config_.latent_channels});
    if (post_quant_) x = post_quant_(ctx, x);
    x = run(ctx, decoder_, x, Way::up);
    return contiguous_copy(ctx, transpose(ctx, transpose(ctx, x, 2, 3), 1, 2));
  }

  void visit(const std::function<void(Parameter<T, D>&)>& f) override {
    for (Half* half : {&encoder_, &decoder_}) {
      half->conv_in.visit(f);
      for (Block& block : half->blocks) {
        for (Resnet& resnet : block.resnets) resnet.visit(f);
        block.sampler.visit(f);
      }
      for (Resnet& resnet : half->mid) resnet.visit(f);
      half->attention.visit(f);
      half->norm_out.visit(f);
      half->conv_out.visit(f);
    }
    quant_.visit(f);
    post_quant_.visit(f);
    if (mean_) f(mean_);
    if (variance_) f(variance_);
  }

 private:
  // Pictures and what layers make of them are (B, H, W, C), channels last.
  struct Resnet {
    GroupNorm<T, D> norm1, norm2;
    Conv2d<T, D> conv1, conv2, shortcut;  // the last where the number of channels changes

    Tensor<T, D> operator()(Context<D>& ctx, const Tensor<T, D>& x) {
      const auto h = conv2(ctx, silu(ctx, norm2(ctx, conv1(ctx, silu(ctx, norm1(ctx, x))))));
      return add(ctx, shortcut ? shortcut(ctx, x) : x, h);
    }
    void visit(const std::function<void(Parameter<T, D>&)>& f) {
      norm1.visit(f);
      conv1.visit(f);
      norm2.visit(f);
      conv2.visit(f);
      shortcut.visit(f);
    }
  };
  /// All places of a picture look at all, with one head.
  struct Attention {
    GroupNorm<T, D> norm;
    Linear<T, D> q, k, v, out;  // (C, C)

    Tensor<T, D> operator()(Context<D>& ctx, const Tensor<T, D>& x) {
      const int64_t B = x.size(0), S = x.size(1) * x.size(2), C = x.size(3);
      const auto h = reshape(ctx, norm(ctx, x), {B * S, C});
      std::vector<Segment> segments;
      for (int64_t b = 0; b < B; ++b) segments.push_back({b * S, (b + 1) * S, b * S, (b + 1) * S});
      const auto head = [&](Linear<T, D>& l) { return reshape(ctx, l(ctx, h), {B * S, 1, C}); };
      const auto y = ft::attention(ctx, head(q), head(k), head(v), segments, {.mask = Mask::none});
      return add(ctx, x, reshape(ctx, out(ctx, reshape(ctx, y, {B * S, C})), x.shape()));
    }
    void visit(const std::function<void(Parameter<T, D>&)>& f) {
      if (q.weight) norm.visit(f);
      for (Linear<T, D>* l : {&q, &k, &v, &out}) l->visit(f);
    }
  };
  struct Block {
    std::vector<Resnet> resnets;
    Conv2d<T, D> sampler;  // to the next size; the last block has none
  };
  struct Half {
    Conv2d<T, D> conv_in, conv_out;
    std::vector<Block> blocks;
    std::vector<Resnet> mid;
    Attention attention;
    GroupNorm<T, D> norm_out;
  };
  enum class Way { down, up };
  struct Affine {
    Tensor<T, D> scale, shift;  // (1, channels): z (1 + scale) + shift
  };

  static Conv2d<T, D> conv(Context<D>& ctx, Weights& weights, const std::string& name, int64_t out, int64_t in,
                           int64_t k, const ConvWindow& window = {}) {
    return {weights.dense<T>(ctx, name + ".weight", {out, in, k, k}, WeightKind::other),
            weights.vector<T, D>(ctx, name + ".bias", out), window};
  }
  Half half(Context<D>& ctx, Weights& weights, const std::string& at, const std::vector<int64_t>& channels, int64_t in,
            int64_t out, int64_t layers) {
    const bool down = at == "encoder.";
    const auto norm = [&](const std::string& name, int64_t C) {
      return GroupNorm<T, D>{weights.vector<T, D>(ctx, name + ".weight", C),
                             weights.vector<T, D>(ctx, name + ".bias", C), config_.norm_num_groups};
    };
    const auto conv3 = [&](const std::string& name, int64_t to, int64_t from) {
      return conv(ctx, weights, name, to, from, 3, ConvWindow::padded(1));
    };
    const auto resnet = [&](const std::string& name, int64_t from, int64_t to) {
      Resnet r{norm(name + ".norm1", from),
               norm(name + ".norm2", to),
               conv3(name + ".conv1", to, from),
               conv3(name + ".conv2", to, to),
               {}};
      if (from != to) r.shortcut = conv(ctx, weights, name + ".conv_shortcut", to, from, 1);
      return r;
    };
    Half h;
    h.conv_in = conv3(at + "conv_in", channels.front(), in);
    int64_t from = channels.front();
    for (std::size_t i = 0; i < channels.size(); ++i) {
      const std::string block = str(at, down ? "down" : "up", "_blocks.", i, '.');
      Block b;
      for (int64_t j = 0; j < layers; ++j) {
        b.resnets.push_back(resnet(str(block, "resnets.", j), from, channels[i]));
        from = channels[i];
      }
      if (i + 1 < channels.size()) {  // downwards a row and a column of zeros below and right alone
        b.sampler = conv3(str(block, down ? "down" : "up", "samplers.0.conv"), from, from);
        if (down) b.sampler.window = {2, 0, 0, 1, 1};
      }
      h.blocks.push_back(std::move(b));
    }
    const int64_t C = down ? channels.back() : channels.front();
    for (int i = 0; i < 2; ++i) h.mid.push_back(resnet(str(at, "mid_block.resnets.", i), C, C));
    if (config_.mid_block_add_attention) {
      const std::string name = at + "mid_block.attentions.0.";
      const auto linear = [&](const char* part) {
        return Linear<T, D>{weights.dense<T>(ctx, name + part + ".weight", {C, C}, WeightKind::linear),
                            weights.vector<T, D>(ctx, name + part + ".bias", C)};
      };
      h.attention = {norm(name + "group_norm", C), linear("to_q"), linear("to_k"), linear("to_v"), linear("to_out.0")};
    }
    h.norm_out = norm(at + "conv_norm_out", channels.back());
    h.conv_out = conv3(at + "conv_out", out, channels.back());
    return h;
  }
  /// What latents are normalised by, both ways.
  void normalise(Context<D>& ctx, Weights& weights) {
    const int64_t C = config_.channels();
    std::vector<double> mean(static_cast<std::size_t>(C), config_.shift_factor),
        deviation(static_cast<std::size_t>(C), 1 / config_.scaling_factor);
    if (config_.patches) {
      mean_ = weights.dense<T>(ctx, "bn.running_mean", {C}, WeightKind::constant);
      variance_ = weights.dense<T>(ctx, "bn.running_var", {C}, WeightKind::constant);
      const auto means = mean_.value.to_host(ctx), variances = variance_.value.to_host(ctx);
      for (std::size_t i = 0; i < mean.size(); ++i) {
        mean[i] = static_cast<double>(means[i]);
        deviation[i] = std::sqrt(static_cast<double>(variances[i]) + double{config_.batch_norm_eps});
      }
    }
    std::vector<T> to_scale, to_shift, from_scale, from_shift;
    for (std::size_t i = 0; i < mean.size(); ++i) {
      const auto put = [](std::vector<T>& to, double v) {
        to.push_back(static_cast<T>(static_cast<accumulate_t<T>>(v)));
      };
      put(to_scale, 1 / deviation[i] - 1);
      put(to_shift, -mean[i] / deviation[i]);
      put(from_scale, deviation[i] - 1);
      put(from_shift, mean[i]);
    }
    to_unit_ = {Tensor<T, D>(ctx, {1, C}, to_scale), Tensor<T, D>(ctx, {1, C}, to_shift)};
    from_unit_ = {Tensor<T, D>(ctx, {1, C}, from_scale), Tensor<T, D>(ctx, {1, C}, from_shift)};
  }
  static Tensor<T, D> contiguous_copy(Context<D>& ctx, const Tensor<T, D>& x) { return reshape(ctx, x, x.shape()); }

  Tensor<T, D> run(Context<D>& ctx, Half& half, const Tensor<T, D>& x, Way way) {
    auto h = half.conv_in(ctx, x);
    const auto blocks = [&] {
      for (Block& block : half.blocks) {
        for (Resnet& resnet : block.resnets) h = resnet(ctx, h);
        if (block.sampler) h = block.sampler(ctx, way == Way::up ? upsample_nearest(ctx, h, 2) : h);
      }
    };
    if (way == Way::down) blocks();
    h = half.mid[0](ctx, h);
    if (config_.mid_block_add_attention) h = half.attention(ctx, h);
    h = half.mid[1](ctx, h);
    if (way == Way::up) blocks();
    return half.conv_out(ctx, silu(ctx, half.norm_out(ctx, h)));
  }

  AutoencoderKLConfig config_;
  Half encoder_, decoder_;
  Conv2d<T, D> quant_, post_quant_;
  Parameter<T, D> mean_, variance_;  // (channels)  with patches
  Affine to_unit_, from_unit_;
};

}  // namespace ft::inline FTLIB_ABI
