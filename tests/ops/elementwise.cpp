// tests/ops/elementwise.cpp: sums, products, modulation by groups and reductions to a scalar against plain loops.
#include <ftlib/ops/elementwise.hpp>

#include "../op_suite.hpp"

using namespace ft;
using namespace ft::test;

namespace {

enum class Kind { add, sub, add_scaled, scale, mul, add_itself, mul_itself, sum, mean, mean_squared_error };

template <Kind kind> struct Elementwise {
  Shape shape;
  static constexpr const char* name = "elementwise";
  static constexpr bool one = kind == Kind::scale || kind == Kind::add_itself || kind == Kind::mul_itself ||
                              kind == Kind::sum || kind == Kind::mean;
  static constexpr bool scalar = kind == Kind::sum || kind == Kind::mean || kind == Kind::mean_squared_error;
  static std::vector<Elementwise> shapes() {
    std::vector<Elementwise> all{{{1}}, {{3, 5, 7}}, {{2, 64}}, {{129}}, {{3, 6001}}, {{}}};
    if (kind != Kind::mean && kind != Kind::mean_squared_error) all.push_back({{0, 4}});
    return all;
  }
  std::vector<HostArray> inputs(Random& random) const {
    if (one) return {activation(random, shape)};
    return {activation(random, shape), activation(random, shape)};
  }
  template <class T, class D> Tensor<T, D> run(Context<D>& ctx, Args<T, D>& a) const {
    if constexpr (kind == Kind::add) return add(ctx, a.x[0], a.x[1]);
    else if constexpr (kind == Kind::sub) return sub(ctx, a.x[0], a.x[1]);
    else if constexpr (kind == Kind::add_scaled) return add_scaled(ctx, a.x[0], a.x[1], 0.375f);
    else if constexpr (kind == Kind::scale) return scale(ctx, a.x[0], 0.375f);
    else if constexpr (kind == Kind::mul) return mul(ctx, a.x[0], a.x[1]);
    else if constexpr (kind == Kind::add_itself) return add(ctx, a.x[0], a.x[0]);
    else if constexpr (kind == Kind::mul_itself) return mul(ctx, a.x[0], a.x[0]);
    else if constexpr (kind == Kind::sum) return sum(ctx, a.x[0]);
    else if constexpr (kind == Kind::mean) return mean(ctx, a.x[0]);
    else return mean_squared_error(ctx, a.x[0], a.x[1]);
  }
  HostArray reference(const std::vector<HostArray>& in) const {
    HostArray y = in[0];
    for (int64_t i = 0; i < y.count(); ++i) {
      const double a = in[0][i], b = one ? a : in[1][i];
      switch (kind) {
        case Kind::add:
        case Kind::add_itself:
          y[i] = a + b;
          break;
        case Kind::sub:
          y[i] = a - b;
          break;
        case Kind::add_scaled:
          y[i] = a + 0.375 * b;
          break;
        case Kind::scale:
          y[i] = 0.375 * a;
          break;
        case Kind::mul:
        case Kind::mul_itself:
          y[i] = a * b;
          break;
        case Kind::mean_squared_error:
          y[i] = (a - b) * (a - b);
          break;
        default:
          break;
      }
    }
    if (!scalar) return y;
    HostArray total(Shape{});
    for (const double v : y.values) total[0] += v;
    if (kind != Kind::sum) total[0] /= static_cast<double>(y.count());
    return total;
  }
  GradcheckOptions gradcheck() const { return {.elements = 16}; }
  double bytes(double item) const { return (one ? 2 : 3) * item * static_cast<double>(shape.count()); }
};

/// modulate (x, scale, shift) and gate_residual (x, y, gate).
template <bool gated> struct Grouped {
  int64_t N, B, C;
  std::vector<int64_t> starts = {};
  static constexpr const char* name = gated ? "gate_residual" : "modulate";
  static std::vector<Grouped> shapes() {
    return {{1, 1, 1}, {6, 3, 5}, {7, 3, 9, {0, 4, 4, 7}}, {130, 2, 65, {0, 1, 130}}, {0, 0, 4}, {0, 1, 4}, {5, 1, 33}};
  }
  std::vector<HostArray> inputs(Random& random) const {
    const Shape x{N, C}, by{B, C};
    return {activation(random, x), activation(random, gated ? x : by), activation(random, by)};
  }
  template <class T, class D> Tensor<T, D> run(Context<D>& ctx, Args<T, D>& a) const {
    if constexpr (gated) return gate_residual(ctx, a.x[0], a.x[1], a.x[2], starts);
    else return modulate(ctx, a.x[0], a.x[1], a.x[2], starts);
  }
  HostArray reference(const std::vector<HostArray>& in) const {
    HostArray y = in[0];
    for (int64_t n = 0; n < N; ++n) {
      int64_t g = 0;
      if (starts.empty()) g = n / (N / B);
      else
        while (starts[static_cast<std::size_t>(g) + 1] <= n) ++g;
      for (int64_t c = 0; c < C; ++c)
        y[n * C + c] = gated ? in[0][n * C + c] + in[2][g * C + c] * in[1][n * C + c]
                             : in[0][n * C + c] * (1 + in[1][g * C + c]) + in[2][g * C + c];
    }
    return y;
  }
  double bytes(double item) const { return static_cast<double>((gated ? 3 : 2) * N * C + 2 * B * C) * item; }
};

}  // namespace

TEST_CASE("ops/elementwise: add") { test_op<Elementwise<Kind::add>>(); }
TEST_CASE("ops/elementwise: sub") { test_op<Elementwise<Kind::sub>>(); }
TEST_CASE("ops/elementwise: add_scaled") { test_op<Elementwise<Kind::add_scaled>>(); }
TEST_CASE("ops/elementwise: scale") { test_op<Elementwise<Kind::scale>>(); }
TEST_CASE("ops/elementwise: mul") { test_op<Elementwise<Kind::mul>>(); }
TEST_CASE("ops/elementwise: x + x") { test_op<Elementwise<Kind::add_itself>>(); }
TEST_CASE("ops/elementwise: x x") { test_op<Elementwise<Kind::mul_itself>>(); }
TEST_CASE("ops/elementwise: sum") { test_op<Elementwise<Kind::sum>>(); }
TEST_CASE("ops/elementwise: mean") { test_op<Elementwise<Kind::mean>>(); }
TEST_CASE("ops/elementwise: mean_squared_error") { test_op<Elementwise<Kind::mean_squared_error>>(); }
TEST_CASE("ops/elementwise: modulate") { test_op<Grouped<false>>(); }
TEST_CASE("ops/elementwise: gate_residual") { test_op<Grouped<true>>(); }

TEST_CASE("ops/elementwise: add passes its gradient on without a copy") {
  Context<Cpu> ctx({.threads = 1});
  Tape<Cpu> tape(ctx);
  auto a = Tensor<float, Cpu>::zeros(ctx, {8}), b = Tensor<float, Cpu>::zeros(ctx, {8});
  tape.watch(a);
  tape.watch(b);
  const auto y = add(ctx, a, b);
  tape.backward(y, Tensor<float, Cpu>(ctx, {8}, std::vector<float>(8, 2.0f)));
  CHECK(tape.gradient(a).data() == tape.gradient(b).data());
  CHECK(tape.gradient(a).to_host(ctx) == std::vector<float>(8, 2.0f));
}

TEST_CASE("ops/elementwise: a sum does not depend on the number of threads") {
  Random random(2);
  const HostArray x = activation(random, {100003});
  std::vector<float> sums;
  for (const int threads : {1, 2, 5}) {
    Context<Cpu> ctx({.threads = threads});
    sums.push_back(sum(ctx, upload<float>(ctx, x)).item(ctx));
  }
  CHECK(sums[0] == sums[1]);
  CHECK(sums[0] == sums[2]);
}

TEST_CASE("ops/elementwise: what does not fit is refused") {
  Context<Cpu> ctx({.threads = 1});
  const auto zeros = [&](const Shape& shape) { return Tensor<float, Cpu>::zeros(ctx, shape); };
  const auto a = zeros({6, 3}), b = zeros({2, 3});
  CHECK_THROWS_WITH_AS(add(ctx, a, b), doctest::Contains("add: shapes (6, 3) and (2, 3) differ"), Error);
  CHECK_THROWS_WITH_AS(sub(ctx, a, b), doctest::Contains("sub: shapes"), Error);
  CHECK_THROWS_WITH_AS(add_scaled(ctx, a, b, 2), doctest::Contains("add_scaled: shapes"), Error);
  CHECK_THROWS_WITH_AS(mul(ctx, a, b), doctest::Contains("mul: shapes"), Error);
  CHECK_THROWS_WITH_AS(mean_squared_error(ctx, a, b), doctest::Contains("mean_squared_error: shapes"), Error);
  CHECK_THROWS_WITH_AS(mean(ctx, zeros({0, 3})), doctest::Contains("mean: x (0, 3) has no elements"), Error);
  CHECK_THROWS_WITH_AS(mean_squared_error(ctx, zeros({0}), zeros({0})), doctest::Contains("has no elements"), Error);
  CHECK_THROWS_WITH_AS(modulate(ctx, a, b, zeros({3, 3})), doctest::Contains("modulate: shapes"), Error);
  CHECK_THROWS_WITH_AS(modulate(ctx, a, zeros({2, 4}), zeros({2, 4})),
                       doctest::Contains("modulate: x (6, 3) does not fit (2, 4)"), Error);
  CHECK_THROWS_WITH_AS(modulate(ctx, a, zeros({4, 3}), zeros({4, 3})),
                       doctest::Contains("is not 4 groups of equal size"), Error);
  CHECK_THROWS_WITH_AS(modulate(ctx, a, b, b, {0, 7, 6}), doctest::Contains("modulate: 3 starts do not part x (6, 3)"),
                       Error);
  CHECK_THROWS_WITH_AS(gate_residual(ctx, a, b, b), doctest::Contains("gate_residual: shapes"), Error);
  CHECK_THROWS_WITH_AS(gate_residual(ctx, a, a, b, {0, 3}), doctest::Contains("gate_residual: 2 starts"), Error);
}
