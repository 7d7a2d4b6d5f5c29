// tests/ops/softmax.cpp: softmax and log softmax against plain loops.
#include <ftlib/ops/softmax.hpp>

#include "../op_suite.hpp"

using namespace ft;
using namespace ft::test;

namespace {
template <bool logarithmic> struct Softmax {
  Shape shape;
  static constexpr const char* name = logarithmic ? "log_softmax" : "softmax";
  static std::vector<Softmax> shapes() { return {{{1}}, {{3, 1}}, {{3, 5, 7}}, {{2, 129}}, {{0, 3}}, {{17, 64}}}; }
  std::vector<HostArray> inputs(Random& random) const { return {activation(random, shape, 3)}; }
  template <class T, class D> Tensor<T, D> run(Context<D>& ctx, Args<T, D>& a) const {
    if constexpr (logarithmic) return log_softmax(ctx, a.x[0]);
    else return softmax(ctx, a.x[0]);
  }
  HostArray reference(const std::vector<HostArray>& in) const {
    HostArray y = in[0];
    const int64_t C = y.cols();
    for (int64_t n = 0; n < y.rows(); ++n) {
      double sum = 0;
      for (int64_t c = 0; c < C; ++c) sum += std::exp(in[0][n * C + c]);
      for (int64_t c = 0; c < C; ++c)
        y[n * C + c] = logarithmic ? in[0][n * C + c] - std::log(sum) : std::exp(in[0][n * C + c]) / sum;
    }
    return y;
  }
  double tolerance() const { return 1e-12; }
  Tolerance16 tolerance16() const { return {.dx = 1.5e-5}; }  // from the result, which is rounded
  double bytes(double item) const { return 2 * item * static_cast<double>(shape.count()); }
};
}  // namespace

TEST_CASE("ops/softmax: softmax") { test_op<Softmax<false>>(); }
TEST_CASE("ops/softmax: log_softmax") { test_op<Softmax<true>>(); }

TEST_CASE("ops/softmax: large values do not overflow") {
  Context<Cpu> ctx({.threads = 1});
  const Tensor<float, Cpu> x(ctx, {3}, {1000, 1000, -1000});
  CHECK(softmax(ctx, x).to_host(ctx)[1] == doctest::Approx(0.5));
  CHECK(log_softmax(ctx, x).to_host(ctx)[2] == doctest::Approx(-2000.693f));
}

TEST_CASE("ops/softmax: no last axis is refused") {
  Context<Cpu> ctx({.threads = 1});
  CHECK_THROWS_WITH_AS(softmax(ctx, Tensor<float, Cpu>::zeros(ctx, {2, 0})),
                       doctest::Contains("softmax: x (2, 0) has no last axis"), Error);
  CHECK_THROWS_WITH_AS(log_softmax(ctx, Tensor<float, Cpu>::zeros(ctx, {})), doctest::Contains("log_softmax: x ()"),
                       Error);
}
