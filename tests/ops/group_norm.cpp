// tests/ops/group_norm.cpp: norms over groups of channels against plain loops.
#include <ftlib/ops/group_norm.hpp>

#include "../op_suite.hpp"

using namespace ft;
using namespace ft::test;

namespace {

struct GroupNorm {
  int64_t B, H, W, C, G;
  static constexpr const char* name = "group_norm";
  static std::vector<GroupNorm> shapes() {
    return {{1, 1, 2, 1, 1}, {2, 3, 5, 6, 3}, {1, 1, 1, 8, 2}, {3, 2, 3, 7, 1}, {1, 20, 20, 16, 4}, {2, 2, 2, 64, 32}};
  }
  std::vector<HostArray> inputs(Random& random) const {
    HostArray x = activation(random, {B, H, W, C});
    for (int64_t i = 0; i < x.count(); ++i) x[i] += 2;
    return {x, parameter(random, {C}), parameter(random, {C})};
  }
  template <class T, class D> Tensor<T, D> run(Context<D>& ctx, Args<T, D>& a) const {
    return group_norm(ctx, a.x[0], a.w[0], a.w[1], G, 0x1p-10f);
  }
  HostArray reference(const std::vector<HostArray>& in) const {
    HostArray y = in[0];
    const int64_t S = H * W, each = C / G;
    const auto count = static_cast<double>(S * each);
    for (int64_t b = 0; b < B; ++b)
      for (int64_t g = 0; g < G; ++g) {
        const auto all = [&](auto f) {
          for (int64_t s = 0; s < S; ++s)
            for (int64_t c = g * each; c < (g + 1) * each; ++c) f(y[(b * S + s) * C + c], c);
        };
        double mean = 0, variance = 0;
        all([&](double& v, int64_t) { mean += v / count; });
        all([&](double& v, int64_t) { variance += (v - mean) * (v - mean) / count; });
        all([&](double& v, int64_t c) { v = (v - mean) / std::sqrt(variance + 0x1p-10) * in[1][c] + in[2][c]; });
      }
    return y;
  }
  double bytes(double item) const { return item * static_cast<double>(2 * B * H * W * C + 2 * C); }
};

}  // namespace

TEST_CASE("ops/group_norm: group_norm") { test_op<GroupNorm>(); }

TEST_CASE("ops/group_norm: what does not fit is refused by name and shape") {
  Context<Cpu> ctx({.threads = 1});
  const auto x = Tensor<float, Cpu>::zeros(ctx, {1, 4, 4, 6});
  Parameter<float, Cpu> w("norm.weight", Tensor<float, Cpu>::zeros(ctx, {6})),
      b("norm.bias", Tensor<float, Cpu>::zeros(ctx, {5}));
  CHECK_THROWS_WITH_AS(group_norm(ctx, x, w, w, 4, 1e-6f), doctest::Contains("x (1, 4, 4, 6) in 4 groups"), Error);
  CHECK_THROWS_WITH_AS(group_norm(ctx, x, w, b, 3, 1e-6f), doctest::Contains("does not fit 'norm.bias' (5)"), Error);
}
