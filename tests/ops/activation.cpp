// tests/ops/activation.cpp: activations and their gated forms against plain loops.
#include <ftlib/ops/activation.hpp>

#include "../op_suite.hpp"

using namespace ft;
using namespace ft::test;

namespace {

enum class Curve { silu, gelu, gelu_tanh, relu, tanh, limited, sigmoid };

double value(Curve kind, double x) {
  switch (kind) {
    case Curve::silu:
      return x / (1 + std::exp(-x));
    case Curve::gelu:
      return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
    case Curve::gelu_tanh:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
    case Curve::relu:
      return std::max(x, 0.0);
    case Curve::sigmoid:
      return 1 / (1 + std::exp(-x));
    case Curve::tanh:
      return std::tanh(x);
    case Curve::limited:
      return std::min(x, 7.0) / (1 + std::exp(-1.702 * std::min(x, 7.0)));
  }
  return 0;
}

template <Curve kind> struct Activation {
  Shape shape;
  static constexpr const char* name = "activation";
  static std::vector<Activation> shapes() { return {{{1}}, {{0, 3}}, {{3, 5, 7}}, {{2, 128}}, {{129}}, {{1, 300}}}; }
  std::vector<HostArray> inputs(Random& random) const {
    HostArray x = activation(random, shape, 3);
    for (double& v : x.values)  // no difference quotient over ReLU's kink
      if (kind == Curve::relu && std::abs(v) < 0.01) v = 0.5;
    return {x};
  }
  template <class T, class D> Tensor<T, D> run(Context<D>& ctx, Args<T, D>& a) const {
    if constexpr (kind == Curve::silu) return silu(ctx, a.x[0]);
    else if constexpr (kind == Curve::gelu) return gelu(ctx, a.x[0]);
    else if constexpr (kind == Curve::gelu_tanh) return gelu_tanh(ctx, a.x[0]);
    else if constexpr (kind == Curve::tanh) return ft::tanh(ctx, a.x[0]);
    else return relu(ctx, a.x[0]);
  }
  HostArray reference(const std::vector<HostArray>& in) const {
    HostArray y = in[0];
    for (double& v : y.values) v = value(kind, v);
    return y;
  }
  double tolerance() const { return 1e-12; }
  double bytes(double item) const { return 2 * item * static_cast<double>(shape.count()); }
};

template <Curve kind> struct Gated {
  Shape shape;
  static constexpr const char* name = "gated";
  static std::vector<Gated> shapes() { return {{{1}}, {{0, 3}}, {{3, 5, 7}}, {{2, 128}}, {{129}}, {{1, 300}}}; }
  std::vector<HostArray> inputs(Random& random) const {
    if (kind != Curve::limited) return {activation(random, shape, 3), activation(random, shape)};
    std::vector<HostArray> in{activation(random, shape, 7), activation(random, shape, 7)};
    for (HostArray& x : in)  // no difference quotient over a limit
      for (double& v : x.values)
        if (std::abs(std::abs(v) - 7) < 0.05) v = 0.5;
    return in;
  }
  template <class T, class D> Tensor<T, D> run(Context<D>& ctx, Args<T, D>& a) const {
    if constexpr (kind == Curve::silu) return swiglu(ctx, a.x[0], a.x[1]);
    else if constexpr (kind == Curve::gelu) return geglu(ctx, a.x[0], a.x[1]);
    else if constexpr (kind == Curve::sigmoid) return glu(ctx, a.x[0], a.x[1]);
    else if constexpr (kind == Curve::limited) return limited_swiglu(ctx, a.x[0], a.x[1]);
    else return geglu_tanh(ctx, a.x[0], a.x[1]);
  }
  HostArray reference(const std::vector<HostArray>& in) const {
    HostArray y = in[0];
    for (int64_t i = 0; i < y.count(); ++i) {
      const double up = kind == Curve::limited ? std::clamp(in[1][i], -7.0, 7.0) + 1 : in[1][i];
      y[i] = value(kind, in[0][i]) * up;
    }
    return y;
  }
  Tolerance16 tolerance16() const {  // limited: of up + 1, which is rounded
    if (kind == Curve::limited) return {.y = 2e-5, .dx = 2e-5};
    return {};
  }
  double tolerance() const { return 1e-12; }
  double bytes(double item) const { return 3 * item * static_cast<double>(shape.count()); }
};

}  // namespace

TEST_CASE("ops/activation: silu") { test_op<Activation<Curve::silu>>(); }
TEST_CASE("ops/activation: gelu") { test_op<Activation<Curve::gelu>>(); }
TEST_CASE("ops/activation: gelu_tanh") { test_op<Activation<Curve::gelu_tanh>>(); }
TEST_CASE("ops/activation: relu") { test_op<Activation<Curve::relu>>(); }
TEST_CASE("ops/activation: tanh") { test_op<Activation<Curve::tanh>>(); }
TEST_CASE("ops/activation: swiglu") { test_op<Gated<Curve::silu>>(); }
TEST_CASE("ops/activation: geglu") { test_op<Gated<Curve::gelu>>(); }
TEST_CASE("ops/activation: geglu_tanh") { test_op<Gated<Curve::gelu_tanh>>(); }
TEST_CASE("ops/activation: glu") { test_op<Gated<Curve::sigmoid>>(); }
TEST_CASE("ops/activation: limited_swiglu") { test_op<Gated<Curve::limited>>(); }

TEST_CASE("ops/activation: far from zero, values and gradients stay finite and right") {
  Context<Cpu> ctx({.threads = 1});
  const std::vector<float> xs{-1e4f, -100, -30, -8, -5, 0, 5, 8, 30, 100, 1e4f};
  const auto size = static_cast<int64_t>(xs.size());
  const auto check = [&](auto op, Curve kind) {
    Tape<Cpu> tape(ctx);
    Tensor<float, Cpu> x(ctx, {size}, xs);
    tape.watch(x);
    const auto y = op(x);
    tape.backward(y, Tensor<float, Cpu>(ctx, {size}, std::vector<float>(xs.size(), 1)));
    const auto ys = y.to_host(ctx), dxs = tape.gradient(x).to_host(ctx);
    for (std::size_t i = 0; i < xs.size(); ++i) {
      INFO("x = ", xs[i]);
      CHECK(std::abs(ys[i] - value(kind, xs[i])) <= 1e-6 * std::abs(xs[i]));
      if (std::abs(xs[i]) >= 30) CHECK(dxs[i] == doctest::Approx(xs[i] > 0 ? 1 : 0));
    }
  };
  check([&](auto& x) { return silu(ctx, x); }, Curve::silu);
  check([&](auto& x) { return gelu(ctx, x); }, Curve::gelu);
  check([&](auto& x) { return gelu_tanh(ctx, x); }, Curve::gelu_tanh);
}

TEST_CASE("ops/activation: tanh keeps its digits near zero, and its bounds far from it") {
  Context<Cpu> ctx({.threads = 1});
  const std::vector<float> xs{-1e4f, -20,   -1,   -0.31f,  -0.29f,  -1e-3f, -1e-30f,
                              0,     1e-6f, 0.1f, 0.2999f, 0.3001f, 9,      1e4f};
  const auto ys = ft::tanh(ctx, Tensor<float, Cpu>(ctx, {static_cast<int64_t>(xs.size())}, xs)).to_host(ctx);
  for (std::size_t i = 0; i < xs.size(); ++i) {
    INFO("x = ", xs[i]);
    CHECK(std::abs(double{ys[i]} - std::tanh(double{xs[i]})) <= 4e-7 * std::abs(std::tanh(double{xs[i]})));
  }
}

TEST_CASE("ops/activation: gate and up of different shapes are refused with both") {
  Context<Cpu> ctx;
  const auto gate = Tensor<float, Cpu>::zeros(ctx, {2, 4}), up = Tensor<float, Cpu>::zeros(ctx, {2, 5});
  CHECK_THROWS_WITH_AS(swiglu(ctx, gate, up), doctest::Contains("swiglu: gate (2, 4) and up (2, 5) differ"), Error);
}
