// image/flow.inl.hpp: the bodies of image/flow.hpp.
#pragma once
#include <ftlib/image/flow.hpp>
#include <ftlib/image/picture.inl.hpp>        // size_of_values
#include <ftlib/models/kit/denoiser.inl.hpp>  // upload_floats
#include <ftlib/ops/elementwise.hpp>          // mul, scale, mean_squared_error

#include <algorithm>  // std::copy_n
#include <cmath>      // std::exp

namespace ft::inline FTLIB_ABI {

FTLIB_INLINE float draw_time(Random& random, const FlowOptions& options) {
  const double x = double{options.time_mu} + double{options.time_sigma} * random.normal();
  return static_cast<float>(1 / (1 + std::exp(-x)));
}

FTLIB_INLINE void draw_noise(Random random, std::span<float> noise) {
  for (float& e : noise) e = static_cast<float>(random.normal());
}

namespace detail {
/// Host values as pictures (B, ch, S, S) on the device.
template <Scalar T, Device D>
Tensor<T, D> pictures(Context<D>& ctx, const DenoiserInfo& model, const std::vector<float>& values) {
  return upload_floats<T>(
      ctx, {static_cast<int64_t>(values.size()) / model.values(), model.channels, model.side, model.side}, values);
}

/// What the network is asked, and what it should say: weight x_pred = weight x, or the velocity.
struct Mixed {
  std::vector<float> times;   // (B)
  std::vector<float> z;       // (B, ch, S, S)  t x + (1 - t) s e
  std::vector<float> weight;  // (B, ch, S, S)  1 / max(1 - t, eps); empty where it predicts the velocity
  std::vector<float> target;  // (B, ch, S, S)  weight x, or x - s e
  PackedText text;            // with those captions dropped that are
};
/// Draws what the batch leaves open. Each picture has counters of its own, so threads do not change the numbers.
template <Device D>
Mixed mix(Context<D>& ctx, const DenoiserInfo& model, const FlowBatch& batch, const FlowOptions& options) {
  const auto B = static_cast<std::size_t>(batch.tokens()), M = static_cast<std::size_t>(model.values()),
             W = static_cast<std::size_t>(model.text_width);
  const bool drawn = batch.times.empty(), pictures = model.predicts == Predicts::picture;
  const uint64_t each = 2 * M + 3, first = drawn ? ctx.random().reserve(B * each) : 0, seed = ctx.random().seed();
  Mixed m{batch.times, batch.noise, std::vector<float>(pictures ? B * M : 0), std::vector<float>(B * M), {}};
  m.times.resize(B);
  m.z.resize(B * M);
  std::vector<char> dropped(B);
  const auto draw_some = [&](int64_t begin, int64_t end) {
    for (auto b = static_cast<std::size_t>(begin); b < static_cast<std::size_t>(end); ++b) {
      if (drawn) {
        Random random(seed, first + b * each);
        dropped[b] = random.uniform() < double{options.caption_drop} ? 1 : 0;
        m.times[b] = draw_time(random, options);
        draw_noise(random, std::span(m.z).subspan(b * M, M));
      }
      const float t = m.times[b], weight = 1 / std::max(1 - t, options.eps);
      for (std::size_t i = b * M; i < (b + 1) * M; ++i) {
        const float x = batch.pictures[i], e = m.z[i];
        m.z[i] = t * x + (1 - t) * model.noise_scale * e;
        if (pictures) m.weight[i] = weight;
        m.target[i] = pictures ? weight * x : x - model.noise_scale * e;
      }
    }
  };
  if constexpr (std::same_as<D, Cpu>) parallel_for(ctx.pool(), static_cast<int64_t>(B), 1, draw_some);
  else draw_some(0, static_cast<int64_t>(B));  // the context of a GPU has no threads
  for (std::size_t b = 0; b < B; ++b) {
    const auto begin = static_cast<std::size_t>(batch.text.starts[b]),
               end = static_cast<std::size_t>(batch.text.starts[b + 1]);
    m.text.add(std::span(batch.text.states).subspan(begin * W, dropped[b] ? 0 : (end - begin) * W), model.text_width);
  }
  return m;
}
}  // namespace detail

template <Scalar T, Device D>
Tensor<T, D> flow_loss(Context<D>& ctx, Denoiser<T, D>& net, const FlowBatch& batch, const FlowOptions& options,
                       bool recompute) {
  const DenoiserInfo model = net.info();
  const int64_t B = batch.tokens(), M = model.values(), W = model.text_width;
  const auto holds = [](const std::vector<float>& values, int64_t count) {
    return static_cast<int64_t>(values.size()) == count;
  };
  const bool open = batch.times.empty() && batch.noise.empty();
  if (B < 1 || !holds(batch.pictures, B * M) || !holds(batch.text.states, batch.text.starts.back() * W) ||
      !(open || (holds(batch.times, B) && holds(batch.noise, B * M))))
    throw Error(str("flow_loss: ", B, " captions of ", batch.text.states.size(), " values, pictures of ",
                    batch.pictures.size(), ", ", batch.times.size(), " times and noise of ", batch.noise.size(),
                    " do not fit a model of pictures of ", M, " and captions of width ", W),
                "each picture has a caption, and all have a time and noise or none.");
  const detail::Mixed m = detail::mix(ctx, model, batch, options);
  const auto on_device = [&](const std::vector<float>& values) { return detail::pictures<T>(ctx, model, values); };
  auto said = net.forward(ctx, on_device(m.z), m.times, m.text, recompute);
  if (model.predicts == Predicts::picture) said = mul(ctx, said, on_device(m.weight));
  return scale(ctx, mean_squared_error(ctx, said, on_device(m.target)), static_cast<float>(B));
}

template <Scalar T, Device D>
std::vector<float> denoise(Context<D>& ctx, Denoiser<T, D>& net, const PackedText& captions, std::vector<float> noise,
                           const DrawOptions& options, const std::function<void(const DrawStep&)>& on_step) {
  const DenoiserInfo model = net.info();
  const auto B = static_cast<std::size_t>(captions.captions());
  if (options.steps < 1) throw Error(str("draw: ", options.steps, " steps"), "it must be 1 or more.");
  if (!(options.from >= 0 && options.from < options.to && options.to <= 1))
    throw Error(str("draw: from time ", options.from, " to ", options.to), "times run from 0, noise, to 1, picture.");
  if (const auto M = static_cast<std::size_t>(model.values()); noise.size() != B * M) {
    std::string given = str(noise.size(), " values");
    const std::string each = B && noise.size() % B == 0 ? detail::size_of_values(noise.size() / B, model.channels) : "";
    if (each.find('x') != each.npos) given = str(B, " of ", each);
    else if (noise.size() % M == 0) given = str(noise.size() / M, " pictures");
    throw Error(str("draw: ", B, " captions, and noise of ", given, "; the model draws pictures of ", model.channels,
                    " x ", model.side, " x ", model.side),
                "give one seed, or noise of one picture, for each caption; a model draws one size.");
  }
  const NoGrad off(ctx);
  PackedText both = captions;  // and as many dropped ones
  for (std::size_t b = 0; b < B; ++b) both.add({}, model.text_width);

  const auto velocity = [&](const std::vector<float>& z, float t) {
    const bool guided = options.guidance != 1 && t >= options.guide_from && t <= options.guide_to;
    std::vector<float> input = z;
    if (guided) input.insert(input.end(), z.begin(), z.end());
    const auto said = net.forward(ctx, detail::pictures<T>(ctx, model, input),
                                  std::vector<float>(guided ? 2 * B : B, t), guided ? both : captions)
                          .to_host(ctx);
    std::vector<float> v(z.size());
    for (std::size_t i = 0; i < v.size(); ++i) {
      const auto caption = static_cast<float>(said[i]);
      const float dropped = guided ? static_cast<float>(said[i + v.size()]) : caption;
      const float mixed = dropped + (guided ? options.guidance : 1) * (caption - dropped);
      v[i] = model.predicts == Predicts::velocity ? mixed : (mixed - z[i]) / std::max(1 - t, options.eps);
    }
    return v;
  };

  std::vector<float> z = std::move(noise);
  if (options.from == 0)
    for (float& e : z) e *= model.noise_scale;
  const auto time = [&](int64_t step) {
    const float share = static_cast<float>(step) / static_cast<float>(options.steps);
    return net.time_of(options.from + (options.to - options.from) * share, options.steps);
  };
  std::vector<float> ahead(z.size()), seen(z.size());
  for (int64_t step = 0; step < options.steps; ++step) {
    const bool last = step + 1 == options.steps;
    const float t = time(step), next = last ? net.time_of(options.to, options.steps) : time(step + 1);
    auto v = velocity(z, t);
    for (std::size_t i = 0; i < z.size(); ++i) {
      seen[i] = z[i] + (1 - t) * v[i];
      ahead[i] = z[i] + (next - t) * v[i];
    }
    if (options.solver == Solver::heun && !last) {
      const auto w = velocity(ahead, next);
      for (std::size_t i = 0; i < z.size(); ++i) ahead[i] = z[i] + (next - t) / 2 * (v[i] + w[i]);
    }
    std::swap(z, ahead);
    if (on_step) on_step({step + 1, options.steps, next < 1 ? seen : z, z});
  }
  return z;
}

template <Scalar T, Device D>
std::vector<float> draw(Context<D>& ctx, Denoiser<T, D>& net, const PackedText& captions,
                        const std::vector<uint64_t>& seeds, const DrawOptions& options,
                        const std::function<void(const DrawStep&)>& on_step) {
  const auto M = static_cast<std::size_t>(net.info().values());
  std::vector<float> noise(seeds.size() * M);
  for (std::size_t b = 0; b < seeds.size(); ++b) draw_noise(Random(seeds[b]), std::span(noise).subspan(b * M, M));
  return denoise(ctx, net, captions, std::move(noise), options, on_step);
}

}  // namespace ft::inline FTLIB_ABI
