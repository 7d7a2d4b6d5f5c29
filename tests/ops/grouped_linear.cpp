// tests/ops/grouped_linear.cpp: groups of rows, each times its own matrix, against plain loops.
#include <ftlib/ops/grouped_linear.hpp>

#include "../op_suite.hpp"

using namespace ft;
using namespace ft::test;

namespace {

struct GroupedLinear {
  int64_t in, out;
  std::vector<int64_t> starts;
  static constexpr const char* name = "grouped_linear";
  static std::vector<GroupedLinear> shapes() {
    return {
        {1, 1, {0, 1}}, {5, 3, {0, 0, 2, 2, 7}}, {7, 9, {0, 3, 3}}, {33, 17, {0, 1, 2, 20}}, {16, 8, {0, 4, 8, 12}}};
  }
  std::vector<HostArray> inputs(Random& random) const {
    std::vector<HostArray> all{activation(random, {starts.back(), in})};
    for (std::size_t g = 1; g < starts.size(); ++g) all.push_back(parameter(random, {out, in}));
    return all;
  }
  template <class T, class D> Tensor<T, D> run(Context<D>& ctx, Args<T, D>& a) const {
    std::vector<Parameter<T, D>*> ws;
    for (auto& w : a.w) ws.push_back(&w);
    return grouped_linear(ctx, a.x[0], ws, starts);
  }
  HostArray reference(const std::vector<HostArray>& arrays) const {
    HostArray y(Shape{starts.back(), out});
    for (std::size_t g = 0; g + 1 < starts.size(); ++g)
      for (int64_t n = starts[g]; n < starts[g + 1]; ++n)
        for (int64_t o = 0; o < out; ++o)
          for (int64_t i = 0; i < in; ++i) y[n * out + o] += arrays[0][n * in + i] * arrays[g + 1][o * in + i];
    return y;
  }
  double flops() const { return 2.0 * static_cast<double>(starts.back() * in * out); }
  double bytes(double item) const { return item * static_cast<double>(starts.back() * (in + out)); }
};

struct GroupedLinearBias : GroupedLinear {
  static constexpr const char* name = "grouped_linear with biases";
  static std::vector<GroupedLinearBias> shapes() {
    std::vector<GroupedLinearBias> all;
    for (const GroupedLinear& one : GroupedLinear::shapes()) all.push_back({one});
    return all;
  }
  std::vector<HostArray> inputs(Random& random) const {
    auto all = GroupedLinear::inputs(random);
    for (std::size_t g = 1; g < starts.size(); ++g) all.push_back(parameter(random, {out}));
    return all;
  }
  template <class T, class D> Tensor<T, D> run(Context<D>& ctx, Args<T, D>& a) const {
    std::vector<Parameter<T, D>*> ws, biases;
    for (std::size_t g = 0; g < a.w.size(); ++g) (g < a.w.size() / 2 ? ws : biases).push_back(&a.w[g]);
    return grouped_linear(ctx, a.x[0], ws, starts, biases);
  }
  HostArray reference(const std::vector<HostArray>& arrays) const {
    HostArray y = GroupedLinear::reference(arrays);
    const std::size_t G = starts.size() - 1;
    for (std::size_t g = 0; g < G; ++g)
      for (int64_t n = starts[g]; n < starts[g + 1]; ++n)
        for (int64_t o = 0; o < out; ++o) y[n * out + o] += arrays[1 + G + g][o];
    return y;
  }
};

struct GroupedLowRank {
  int64_t in, rank, out, rows, first, step;  // B has `out` rows, of which y's are `rows` from `first`, `step` apart
  std::vector<int64_t> starts;
  static constexpr const char* name = "grouped_low_rank";
  static std::vector<GroupedLowRank> shapes() {
    return {{1, 1, 1, 1, 0, 1, {0, 1}},
            {5, 2, 6, 3, 3, 1, {0, 0, 2, 2, 7}},
            {7, 3, 9, 9, 0, 1, {0, 3, 3}},
            {33, 4, 34, 17, 1, 2, {0, 1, 2, 20}},
            {16, 8, 16, 8, 0, 2, {0, 4, 8, 12}}};
  }
  std::vector<HostArray> inputs(Random& random) const {
    const auto G = static_cast<int64_t>(starts.size()) - 1;
    return {activation(random, {starts.back(), in}), parameter(random, {G * rank, in}),
            parameter(random, {out, rank * G})};
  }
  template <class T, class D> Tensor<T, D> run(Context<D>& ctx, Args<T, D>& a) const {
    return grouped_low_rank(ctx, a.x[0], a.w[0], a.w[1], starts, 0.75f, rows, first, step);
  }
  HostArray reference(const std::vector<HostArray>& arrays) const {
    HostArray y(Shape{starts.back(), rows});
    const auto G = static_cast<int64_t>(starts.size()) - 1;
    for (int64_t g = 0; g < G; ++g)
      for (int64_t n = starts[static_cast<std::size_t>(g)]; n < starts[static_cast<std::size_t>(g) + 1]; ++n)
        for (int64_t k = 0; k < rank; ++k) {
          double u = 0;
          for (int64_t i = 0; i < in; ++i) u += arrays[0][n * in + i] * arrays[1][(g * rank + k) * in + i];
          for (int64_t o = 0; o < rows; ++o)
            y[n * rows + o] += 0.75 * u * arrays[2][(first + o * step) * rank * G + k * G + g];
        }
    return y;
  }
  Tolerance16 tolerance16() const { return {.y = 1e-4, .dx = 1e-4, .sums = 1e-5}; }  // of x A^T, and dy B, rounded
  double flops() const { return 2.0 * static_cast<double>(starts.back() * rank * (in + rows)); }
  double bytes(double item) const { return item * static_cast<double>(starts.back() * (in + rows)); }
};

}  // namespace

TEST_CASE("ops/grouped_linear: grouped_low_rank") { test_op<GroupedLowRank>(); }
TEST_CASE("ops/grouped_linear: grouped_linear") { test_op<GroupedLinear>(); }
TEST_CASE("ops/grouped_linear: grouped_linear with biases") { test_op<GroupedLinearBias>(); }

TEST_CASE("ops/grouped_linear: what does not fit is refused") {
  Context<Cpu> ctx({.threads = 1});
  const auto x = Tensor<float, Cpu>::zeros(ctx, {4, 3});
  Parameter<float, Cpu> a("a", Tensor<float, Cpu>::zeros(ctx, {2, 3})), b("b", Tensor<float, Cpu>::zeros(ctx, {5, 3}));
  CHECK_THROWS_WITH_AS(grouped_linear(ctx, x, std::vector{&a, &a}, {0, 3, 5}),
                       doctest::Contains("3 starts do not part"), Error);
  CHECK_THROWS_WITH_AS(grouped_low_rank(ctx, x, a, b, {0, 1, 4}, 1, 2), doctest::Contains("do not fit x (4, 3)"),
                       Error);
  CHECK_THROWS_WITH_AS(grouped_linear(ctx, x, std::vector{&a, &b}, {0, 3, 4}), doctest::Contains("'a' and (5, 3) 'b'"),
                       Error);
}
