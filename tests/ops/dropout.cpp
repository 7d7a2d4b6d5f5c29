// tests/ops/dropout.cpp: dropout against its definition by Philox, and the share of what it drops.
#include <ftlib/ops/dropout.hpp>

#include "../op_suite.hpp"

using namespace ft;
using namespace ft::test;

namespace {
struct Dropout {
  Shape shape;
  float p;
  static constexpr const char* name = "dropout";
  static std::vector<Dropout> shapes() {
    return {{{1}, 0.5f}, {{3, 5, 7}, 0.25f}, {{129}, 0.9f}, {{2, 64}, 0}, {{0, 3}, 0.5f}, {{7, 9}, 0.1f}};
  }
  std::vector<HostArray> inputs(Random& random) const { return {activation(random, shape)}; }
  template <class T, class D> Tensor<T, D> run(Context<D>& ctx, Args<T, D>& a) const { return dropout(ctx, a.x[0], p); }
  HostArray reference(const std::vector<HostArray>& in) const {
    HostArray y = in[0];
    for (int64_t i = 0; i < y.count(); ++i)  // the suite's seed, from position 0
      if (to_unit(philox(7, static_cast<uint64_t>(i / 4), 1)[static_cast<std::size_t>(i % 4)]) < p) y[i] = 0;
      else y[i] /= 1 - double{p};
    return y;
  }
  double bytes(double item) const { return 2 * item * static_cast<double>(shape.count()); }
};
}  // namespace

TEST_CASE("ops/dropout: dropout") { test_op<Dropout>(); }

TEST_CASE("ops/dropout: drops its share, keeps the mean, and draws anew each time") {
  Context<Cpu> ctx({.threads = 2, .seed = 3});
  const Tensor<float, Cpu> x(ctx, {100000}, std::vector<float>(100000, 1.0f));
  const auto first = dropout(ctx, x, 0.3f).to_host(ctx), second = dropout(ctx, x, 0.3f).to_host(ctx);
  CHECK(first != second);
  const auto dropped = std::count(first.begin(), first.end(), 0.0f);
  CHECK(dropped > 29000);
  CHECK(dropped < 31000);
  for (const float v : first) REQUIRE((v == 0 || v == doctest::Approx(1 / 0.7)));
  ctx.random().seek(0);
  CHECK(dropout(ctx, x, 0.3f).to_host(ctx) == first);
  CHECK(ctx.random().position() == 25000);
}

TEST_CASE("ops/dropout: a probability outside [0, 1) is refused") {
  Context<Cpu> ctx({.threads = 1});
  const auto x = Tensor<float, Cpu>::zeros(ctx, {2});
  CHECK_THROWS_WITH_AS(dropout(ctx, x, 1.0f), doctest::Contains("dropout: a probability of 1 is outside [0, 1)"),
                       Error);
  CHECK_THROWS_WITH_AS(dropout(ctx, x, -0.1f), doctest::Contains("dropout"), Error);
  CHECK_THROWS_WITH_AS(dropout(ctx, x, NAN), doctest::Contains("dropout"), Error);
}
