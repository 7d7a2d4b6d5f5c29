// image/flow.hpp: flow matching: the network predicts the clean picture or the velocity, the loss is in the velocity;
// and back from noise to pictures by Euler's or Heun's steps, with classifier-free guidance.
//
//     z = t x + (1 - t) s e,    v = (x - z) / max(1 - t, eps)      x picture, e noise, s the model's noise_scale
//
// Time runs from 0, noise, to 1, picture.  Lipman et al., arXiv:2210.02747; x-prediction: JiT, arXiv:2511.13720
#pragma once
#include <ftlib/models/kit/denoiser.hpp>  // Denoiser, PackedText
#include <ftlib/tensor/tensor.hpp>        // Tensor

#include <functional>  // std::function
#include <span>        // std::span
#include <vector>      // std::vector

namespace ft::inline FTLIB_ABI {

/// How pictures are mixed with noise in training; times and noise scale as JiT and MiniT2I have them.
struct FlowOptions {
  float time_mu = -0.8f, time_sigma = 0.8f;  // t = sigmoid(mu + sigma N(0, 1)): more noise than picture, mostly
  float eps = 0.05f;                         // 1 - t counts as this at least
  float caption_drop = 0.1f;                 // share of captions that are dropped, for guidance
};

/// A micro-batch, as ft::Trainer sees it; its unit is a picture. Without times and noise the loss draws them from
/// ctx.random(), and drops captions; with them it is a function of the weights alone (validation).
struct FlowBatch {
  static constexpr const char* kind = "pictures with captions";
  std::vector<float> pictures = {};  // (B, ch, S, S)  in [-1, 1]
  PackedText text = {};              // B captions
  std::vector<float> times = {};     // (B), or empty
  std::vector<float> noise = {};     // (B, ch, S, S)  from N(0, 1), or empty

  int64_t tokens() const { return text.captions(); }
};

/// A time from the distribution of training.
float draw_time(Random& random, const FlowOptions& options);
void draw_noise(Random random, std::span<float> noise);

/// The sum over the batch's pictures of the mean of (v_pred - v)^2. Where the network predicts pictures, both
/// velocities lead from the same z, so this is the mean of (x_pred - x)^2 / max(1 - t, eps)^2. A scalar; divide by the
/// number of pictures. Throws Error where the batch does not fit the model.
template <Scalar T, Device D>
Tensor<T, D> flow_loss(Context<D>& ctx, Denoiser<T, D>& net, const FlowBatch& batch, const FlowOptions& options = {},
                       bool recompute = false);

enum class Solver { euler, heun };

struct DrawOptions {
  int64_t steps = 50;                  // over the model's grid of times (Denoiser::time_of), mostly uniform,
  float from = 0, to = 1;              // which goes from here to there
  Solver solver = Solver::heun;        // two predictions a step, the last one excepted; Euler: one
  float guidance = 2;                  // w in v = v_dropped + w (v_caption - v_dropped); 1: none, and half the work
  float guide_from = 0, guide_to = 1;  // times at which it is applied
  float eps = 0.05f;                   // 1 - t counts as this at least
};

/// A finished step of drawing; the vectors live as long as the call that is told of it.
struct DrawStep {
  int64_t step, steps;                 // this one, from 1; of all
  const std::vector<float>& pictures;  // (B, ch, S, S)  clean pictures, as the network sees them by now
  const std::vector<float>& noisy;     // (B, ch, S, S)  z; at time 1 the pictures themselves
};

/// Pictures out of given noise e ~ N(0, 1), (B, ch, S, S), under a caption each: (B, ch, S, S), about [-1, 1], not
/// clipped. With options.from above 0 the given is z of that time, as another call, perhaps of another model, left it
/// with options.to. `on_step` hears of each step; what it throws ends the drawing. Throws Error where shapes do not
/// fit.
template <Scalar T, Device D>
std::vector<float> denoise(Context<D>& ctx, Denoiser<T, D>& net, const PackedText& captions, std::vector<float> noise,
                           const DrawOptions& options = {}, const std::function<void(const DrawStep&)>& on_step = {});

/// Pictures under a caption and a seed each. A picture depends on its own caption and seed, not on the others that are
/// drawn with it, but for rounding: products of few rows are summed in another order. See denoise.
template <Scalar T, Device D>
std::vector<float> draw(Context<D>& ctx, Denoiser<T, D>& net, const PackedText& captions,
                        const std::vector<uint64_t>& seeds, const DrawOptions& options = {},
                        const std::function<void(const DrawStep&)>& on_step = {});

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/image/flow.inl.hpp>
#endif
