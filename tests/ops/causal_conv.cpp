// tests/ops/causal_conv.cpp: the short causal convolution against plain loops, and over a cache.
#include <ftlib/ops/causal_conv.hpp>

#include "../op_suite.hpp"

using namespace ft;
using namespace ft::test;

namespace {

struct CausalConv {
  int64_t C, L;
  std::vector<int64_t> starts;
  static constexpr const char* name = "causal_conv";
  static std::vector<CausalConv> shapes() {
    return {{1, 1, {0, 1}},  {5, 3, {0, 1, 3, 10}},  {7, 4, {0, 2, 2, 9}},
            {65, 3, {0, 7}}, {64, 3, {0, 1, 2, 40}}, {3, 6, {0, 4, 8}}};
  }
  int64_t N() const { return starts.back(); }
  std::vector<HostArray> inputs(Random& random) const {
    return {activation(random, {N(), C}), parameter(random, {C, 1, L})};
  }
  std::vector<Segment> segments() const {
    std::vector<Segment> all;
    for (std::size_t i = 1; i < starts.size(); ++i) all.push_back({starts[i - 1], starts[i], starts[i - 1], starts[i]});
    return all;
  }
  template <class T, class D> Tensor<T, D> run(Context<D>& ctx, Args<T, D>& a) const {
    return causal_conv(ctx, a.x[0], a.w[0], segments());
  }
  HostArray reference(const std::vector<HostArray>& in) const {
    HostArray y(Shape{N(), C});
    for (const Segment& s : segments())
      for (int64_t n = s.q_begin; n < s.q_end; ++n)
        for (int64_t c = 0; c < C; ++c)
          for (int64_t l = 0; l < L; ++l)
            if (const int64_t from = n - (L - 1) + l; from >= s.q_begin)
              y[n * C + c] += in[1][c * L + l] * in[0][from * C + c];
    return y;
  }
  double bytes(double item) const { return item * static_cast<double>(2 * N() * C + C * L); }
  double flops() const { return 2.0 * static_cast<double>(N() * C * L); }
};

}  // namespace

TEST_CASE("ops/causal_conv: causal_conv") { test_op<CausalConv>(); }

TEST_CASE("ops/causal_conv: tokens behind a cache see what a whole sequence shows them, and no other slot") {
  Context<Cpu> ctx({.threads = 1});
  const std::vector<float> values{1, 2, 3, 4, 5, 6};
  Parameter<float, Cpu> w("w", Tensor<float, Cpu>(ctx, {1, 1, 3}, std::vector<float>{1, 10, 100}));
  const Tensor<float, Cpu> x(ctx, {6, 1}, values);
  const auto whole = causal_conv(ctx, x, w, {{0, 6, 0, 6}}).to_host(ctx);
  CHECK(whole == std::vector<float>{100, 210, 321, 432, 543, 654});
  // Two slots of four rows: the second holds 1 2 3 4, of which the last two are new.
  const Tensor<float, Cpu> cache(ctx, {8, 1}, std::vector<float>{9, 9, 9, 9, 1, 2, 3, 4});
  CHECK(causal_conv(ctx, cache, w, {{0, 1, 0, 1}, {1, 3, 4, 8}}).to_host(ctx) == std::vector<float>{900, 321, 432});
  CHECK_THROWS_WITH_AS(causal_conv(ctx, cache, w, {{0, 1, 0, 9}}), doctest::Contains("rows [0, 9) of x (8, 1)"), Error);
  Parameter<float, Cpu> wide("w", Tensor<float, Cpu>(ctx, {2, 1, 3}));
  CHECK_THROWS_WITH_AS(causal_conv(ctx, x, wide, {{0, 6, 0, 6}}), doctest::Contains("does not fit w (2, 1, 3)"), Error);
}
