// autograd/gradcheck.hpp: holds an op's backward against differences of its forward, in double.
#pragma once
#include <ftlib/autograd/tape.hpp>

#include <cmath>   // std::abs, std::isfinite
#include <span>    // std::span
#include <vector>  // std::vector

namespace ft::inline FTLIB_ABI {

struct GradcheckOptions {
  double step = 1e-3;      // distance of the stencil's points, in the input's unit
  double absolute = 1e-7;  // |analytic - numeric| <= absolute + relative |numeric|
  double relative = 1e-5;
  int64_t elements = 64;  // at most so many elements of each input are moved, drawn at random
  uint64_t seed = 1;
};

/// Differentiates sum(c * f(xs)) for a random cotangent c by the tape and by a 4-point stencil,
/// f'(x) = (f(x-2h) - 8 f(x-h) + 8 f(x+h) - f(x+2h)) / 12h, and compares. `f` takes (ctx, xs) and returns a tensor;
/// `ws` are parameters that it uses. Memory is poisoned with NaN, so a gradient that is added to where it should be
/// assigned, or left out, fails; parameters' gradients start at random values, so one that is assigned where it should
/// be added to fails as well. Returns an empty string, or what differs.
template <Device D, class F>
std::string gradcheck(Context<D>& ctx, F f, std::vector<Tensor<double, D>> xs,
                      std::span<Parameter<double, D>* const> ws = {}, const GradcheckOptions& options = {}) {
  Random random(options.seed);
  const bool poisoned = ctx.poison();
  ctx.poison(true);
  struct Restore {
    Context<D>& ctx;
    bool on;
    ~Restore() { ctx.poison(on); }
  } restore{ctx, poisoned};
  const uint64_t position = ctx.random().position();
  const auto value = [&](const std::vector<double>& c) {
    ctx.random().seek(position);  // ops that draw must draw the same
    const auto y = contiguous(ctx, f(ctx, xs)).to_host(ctx);
    double sum = 0;
    for (std::size_t i = 0; i < y.size(); ++i) sum += c[i] * y[i];
    return sum;
  };

  std::vector<Tensor<double, D>> dxs;
  std::vector<double> c;
  std::vector<std::vector<double>> before;  // parameters' gradients do not start at zero, so that assigning one shows
  for (Parameter<double, D>* w : ws) {
    w->grad = {};
    std::vector<double>& start = before.emplace_back();
    if (!w->trainable) continue;
    for (int64_t i = 0; i < w->count(); ++i) start.push_back(random.normal());
    w->grad = Tensor<double, D>(ctx, w->shape(), start);
  }
  {
    Tape<D> tape(ctx);
    for (auto& x : xs) tape.watch(x);
    const Tensor<double, D> y = f(ctx, xs);
    c.resize(static_cast<std::size_t>(y.count()));
    for (double& v : c) v = random.normal();
    tape.backward(y, Tensor<double, D>(ctx, y.shape(), c));
    for (auto& x : xs) {
      dxs.push_back(tape.gradient(x));
      x = x.detached();
    }
  }
  for (std::size_t k = 0; k < ws.size(); ++k) {
    if (!ws[k]->trainable) continue;
    std::vector<double> added = ws[k]->grad.to_host(ctx);
    for (std::size_t i = 0; i < added.size(); ++i) added[i] -= before[k][i];
    ws[k]->grad = Tensor<double, D>(ctx, ws[k]->shape(), added);
  }

  std::string report;
  const auto check = [&](const std::string& what, Tensor<double, D>& x, const Tensor<double, D>& dx) {
    if (!dx) {
      report += what + ": no gradient came\n";
      return;
    }
    const auto analytic = dx.to_host(ctx);
    const int64_t n = x.count(), moved = std::min(n, options.elements);
    for (int64_t k = 0; k < moved; ++k) {
      const int64_t i = moved == n ? k : random.below(n);
      int64_t at = 0, rest = i;  // element i of a strided tensor
      for (int axis = x.rank() - 1; axis >= 0; --axis) {
        at += rest % x.size(axis) * x.strides()[axis];
        rest /= x.size(axis);
      }
      double original;
      ctx.copy_to_host(&original, x.data() + at, sizeof(double));
      const auto moved_by = [&](double h) {
        const double v = original + h;
        ctx.copy_from_host(x.data() + at, &v, sizeof(double));
        return value(c);
      };
      const double h = options.step;
      const double numeric = (moved_by(-2 * h) - 8 * moved_by(-h) + 8 * moved_by(h) - moved_by(2 * h)) / (12 * h);
      ctx.copy_from_host(x.data() + at, &original, sizeof(double));
      const double got = analytic[static_cast<std::size_t>(i)];
      if (!std::isfinite(got) || std::abs(got - numeric) > options.absolute + options.relative * std::abs(numeric))
        report +=
            str(what, " ", x.shape(), " element ", i, ": backward says ", got, ", differences say ", numeric, '\n');
    }
  };
  for (std::size_t i = 0; i < xs.size(); ++i) check(str("input ", i), xs[i], dxs[i]);
  for (Parameter<double, D>* w : ws)
    if (w->trainable) check("parameter " + w->name, w->value, w->grad);
  return report;
}

}  // namespace ft::inline FTLIB_ABI
