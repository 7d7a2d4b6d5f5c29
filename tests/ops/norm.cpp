// tests/ops/norm.cpp: RMSNorm and LayerNorm against plain loops.
#include "../op_suite.hpp"

#include <ftlib/ops/norm.hpp>

using namespace ft;
using namespace ft::test;

namespace {
struct RmsNorm {
  int64_t N, C;
  float offset = 0;
  static constexpr const char* name = "rms_norm";
  static std::vector<RmsNorm> shapes() { return {{1, 1}, {3, 65}, {7, 576}, {5, 3, 1}, {2, 640, 1}}; }
  std::vector<HostArray> inputs(Random& random) const { return {activation(random, {N, C}), parameter(random, {C})}; }
  template <class T, class D> Tensor<T, D> run(Context<D>& ctx, Args<T, D>& a) const { return rms_norm(ctx, a.x[0], a.w[0], 1e-6f, offset); }
  HostArray reference(const std::vector<HostArray>& in) const {
    HostArray y = in[0];
    for (int64_t n = 0; n < N; ++n) {
      double sum = 0;
      for (int64_t c = 0; c < C; ++c) sum += in[0][n * C + c] * in[0][n * C + c];
      for (int64_t c = 0; c < C; ++c) y[n * C + c] = in[0][n * C + c] / std::sqrt(sum / static_cast<double>(C) + double{1e-6f}) * (in[1][c] + offset);
    }
    return y;
  }
  double bytes(double item) const { return static_cast<double>(2 * N * C + C) * item + 4.0 * static_cast<double>(N); }
  double flops() const { return 4.0 * static_cast<double>(N * C); }
};
}  // namespace

TEST_CASE("ops/norm: rms_norm") { test_op<RmsNorm>(); }

TEST_CASE("ops/norm: a weight of another width is refused with both shapes") {
  Context<Cpu> ctx;
  Parameter<float, Cpu> w("w", Tensor<float, Cpu>::zeros(ctx, {5}));
  const auto x = Tensor<float, Cpu>::zeros(ctx, {2, 4});
  CHECK_THROWS_WITH_AS(rms_norm(ctx, x, w, 1e-6f), doctest::Contains("rms_norm: x (2, 4) does not fit weight (5)"), Error);
}
