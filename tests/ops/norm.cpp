// tests/ops/norm.cpp: RMSNorm and LayerNorm against plain loops.
#include <ftlib/ops/norm.hpp>

#include "../op_suite.hpp"

using namespace ft;
using namespace ft::test;

namespace {
struct RmsNorm {
  Shape x;
  float offset = 0;
  static constexpr const char* name = "rms_norm";
  static std::vector<RmsNorm> shapes() {
    return {{{1, 1}}, {{3, 65}}, {{7, 576}}, {{5, 3}, 1}, {{2, 640}, 1}, {{3, 2, 64}}, {{0, 4}}};
  }
  std::vector<HostArray> inputs(Random& random) const { return {activation(random, x), parameter(random, {x.back()})}; }
  template <class T, class D> Tensor<T, D> run(Context<D>& ctx, Args<T, D>& a) const {
    return rms_norm(ctx, a.x[0], a.w[0], 1e-6f, offset);
  }
  HostArray reference(const std::vector<HostArray>& in) const {
    HostArray y = in[0];
    const int64_t C = x.back();
    for (int64_t n = 0; n < x.rows(); ++n) {
      double sum = 0;
      for (int64_t c = 0; c < C; ++c) sum += in[0][n * C + c] * in[0][n * C + c];
      for (int64_t c = 0; c < C; ++c)
        y[n * C + c] =
            in[0][n * C + c] / std::sqrt(sum / static_cast<double>(C) + double{1e-6f}) * (in[1][c] + double{offset});
    }
    return y;
  }
  double tolerance() const { return 1e-12; }
  double bytes(double item) const { return static_cast<double>(2 * x.count() + x.back()) * item; }
  double flops() const { return 4.0 * static_cast<double>(x.count()); }
};

struct LayerNorm {
  Shape x;
  bool weight, bias;
  static constexpr const char* name = "layer_norm";
  static std::vector<LayerNorm> shapes() {
    return {{{1, 1}, true, true},    {{3, 65}, true, true},    {{7, 576}, true, false}, {{5, 3}, false, true},
            {{2, 32}, false, false}, {{3, 2, 64}, true, true}, {{0, 4}, true, true}};
  }
  std::vector<HostArray> inputs(Random& random) const {
    std::vector<HostArray> all{activation(random, x)};
    for (double& v : all[0].values) v += 2;
    if (weight) all.push_back(parameter(random, {x.back()}));
    if (bias) all.push_back(parameter(random, {x.back()}));
    return all;
  }
  template <class T, class D> Tensor<T, D> run(Context<D>& ctx, Args<T, D>& a) const {
    return layer_norm(ctx, a.x[0], weight ? &a.w[0] : nullptr, bias ? &a.w.back() : nullptr, 1e-3f);
  }
  HostArray reference(const std::vector<HostArray>& in) const {
    HostArray y = in[0];
    const int64_t C = x.back();
    for (int64_t n = 0; n < x.rows(); ++n) {
      double mean = 0, variance = 0;
      for (int64_t c = 0; c < C; ++c) mean += in[0][n * C + c] / static_cast<double>(C);
      for (int64_t c = 0; c < C; ++c) variance += std::pow(in[0][n * C + c] - mean, 2) / static_cast<double>(C);
      for (int64_t c = 0; c < C; ++c) {
        double& v = y[n * C + c];
        v = (v - mean) / std::sqrt(variance + double{1e-3f});
        if (weight) v *= in[1][c];
        if (bias) v += in.back()[c];
      }
    }
    return y;
  }
  double tolerance() const { return 1e-11; }
  double bytes(double item) const { return static_cast<double>(2 * x.count() + 2 * x.back()) * item; }
  double flops() const { return 8.0 * static_cast<double>(x.count()); }
};
}  // namespace

TEST_CASE("ops/norm: rms_norm") { test_op<RmsNorm>(); }
TEST_CASE("ops/norm: layer_norm") { test_op<LayerNorm>(); }

TEST_CASE("ops/norm: what does not fit is refused") {
  Context<Cpu> ctx({.threads = 1});
  Parameter<float, Cpu> w("w", Tensor<float, Cpu>::zeros(ctx, {5}));
  const auto x = Tensor<float, Cpu>::zeros(ctx, {2, 4});
  CHECK_THROWS_WITH_AS(rms_norm(ctx, x, w, 1e-6f),
                       doctest::Contains("rms_norm: x (2, 4) does not fit weight (5) 'w': last axes differ"), Error);
  CHECK_THROWS_WITH_AS(layer_norm(ctx, x, &w, {}, 1e-6f), doctest::Contains("layer_norm: x (2, 4) does not fit"),
                       Error);
  CHECK_THROWS_WITH_AS(layer_norm(ctx, x, {}, &w, 1e-6f), doctest::Contains("layer_norm: x (2, 4) does not fit"),
                       Error);
  CHECK_THROWS_WITH_AS(layer_norm(ctx, Tensor<float, Cpu>::zeros(ctx, {2, 0}), &w, {}, 1e-6f),
                       doctest::Contains("x (2, 0) has no last axis"), Error);
  Parameter<float, Cpu> stored;
  stored.name = "norm.weight";
  stored.stored = as_stored(convert<half>(ctx, Tensor<float, Cpu>::zeros(ctx, {4})));
  CHECK_THROWS_WITH_AS(rms_norm(ctx, x, stored, 1e-6f),
                       doctest::Contains("rms_norm: weight 'norm.weight' is stored as float16"), Error);
}
