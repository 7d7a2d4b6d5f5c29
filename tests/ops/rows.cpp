// tests/ops/rows.cpp: rows in a new order and means of groups against plain loops.
#include <ftlib/ops/rows.hpp>

#include "../op_suite.hpp"

using namespace ft;
using namespace ft::test;

namespace {

/// Rows of two tensors; then of their result, twice, so that shares of one gradient meet.
struct TakeRows {
  int64_t N1, N2, C;
  std::vector<int32_t> rows;
  static constexpr const char* name = "take_rows";
  static std::vector<TakeRows> shapes() {
    return {{1, 0, 1, {0}},       {2, 3, 5, {4, 1, 0, 3, 2}},  // all
            {3, 2, 7, {4, 0, 3}},                              // some
            {0, 3, 9, {2, 0, 1}}, {5, 4, 65, {8, 7, 6, 5, 0, 1, 2}}, {2, 2, 3, {}}};
  }
  std::vector<HostArray> inputs(Random& random) const {
    return {activation(random, {N1, C}), activation(random, {N2, C})};
  }
  std::vector<int32_t> every_second() const {
    std::vector<int32_t> some;
    for (std::size_t i = 0; i < rows.size(); i += 2) some.push_back(static_cast<int32_t>(i));
    return some;
  }
  template <class T, class D> Tensor<T, D> run(Context<D>& ctx, Args<T, D>& a) const {
    const auto y = take_rows(ctx, a.x, rows);
    return take_rows(ctx, std::vector{take_rows(ctx, y, every_second()), y}, all(every_second().size() + rows.size()));
  }
  HostArray reference(const std::vector<HostArray>& in) const {
    std::vector<int32_t> twice;
    for (const int32_t i : every_second()) twice.push_back(rows[static_cast<std::size_t>(i)]);
    twice.insert(twice.end(), rows.begin(), rows.end());
    HostArray y(Shape{static_cast<int64_t>(twice.size()), C});
    for (int64_t i = 0; i < y.shape[0]; ++i)
      for (int64_t c = 0; c < C; ++c) {
        const int64_t row = twice[static_cast<std::size_t>(i)];
        y[i * C + c] = row < N1 ? in[0][row * C + c] : in[1][(row - N1) * C + c];
      }
    return y;
  }
  double bytes(double item) const { return 2 * item * static_cast<double>(C) * static_cast<double>(rows.size()); }

 private:
  static std::vector<int32_t> all(std::size_t count) {
    std::vector<int32_t> every;
    for (std::size_t i = 0; i < count; ++i) every.push_back(static_cast<int32_t>(i));
    return every;
  }
};

struct MeanRows {
  int64_t N, C;
  std::vector<int64_t> starts;
  static constexpr const char* name = "mean_rows";
  static std::vector<MeanRows> shapes() {
    return {{1, 1, {0, 1}}, {6, 5, {0, 1, 3, 6}}, {7, 9, {0, 7}},    {130, 65, {0, 1, 100, 130}},
            {0, 4, {0}},    {3, 2, {0, 1, 2, 3}}, {300, 8, {0, 300}}};
  }
  std::vector<HostArray> inputs(Random& random) const { return {activation(random, {N, C})}; }
  template <class T, class D> Tensor<T, D> run(Context<D>& ctx, Args<T, D>& a) const {
    return mean_rows(ctx, a.x[0], starts);
  }
  HostArray reference(const std::vector<HostArray>& in) const {
    HostArray y(Shape{static_cast<int64_t>(starts.size()) - 1, C});
    for (std::size_t g = 0; g + 1 < starts.size(); ++g)
      for (int64_t n = starts[g]; n < starts[g + 1]; ++n)
        for (int64_t c = 0; c < C; ++c)
          y[static_cast<int64_t>(g) * C + c] += in[0][n * C + c] / static_cast<double>(starts[g + 1] - starts[g]);
    return y;
  }
  double bytes(double item) const { return item * static_cast<double>(N * C); }
};

}  // namespace

TEST_CASE("ops/rows: take_rows") { test_op<TakeRows>(); }
TEST_CASE("ops/rows: mean_rows") { test_op<MeanRows>(); }

TEST_CASE("ops/rows: what does not fit is refused") {
  Context<Cpu> ctx({.threads = 1});
  const auto x = Tensor<float, Cpu>::zeros(ctx, {2, 3}), y = Tensor<float, Cpu>::zeros(ctx, {2, 4});
  CHECK_THROWS_WITH_AS(take_rows(ctx, std::vector{x, y}, {0}),
                       doctest::Contains("take_rows: x (2, 4) does not go with (2, 3)"), Error);
  CHECK_THROWS_WITH_AS(take_rows(ctx, std::vector{x, x}, {4}), doctest::Contains("row 4 at 0 is outside the 4 rows"),
                       Error);
  CHECK_THROWS_WITH_AS(take_rows(ctx, x, {0, -1}), doctest::Contains("row -1 at 1 is outside"), Error);
  CHECK_THROWS_WITH_AS(take_rows(ctx, x, {1, 1}), doctest::Contains("row 1 at 1 is taken twice"), Error);
  CHECK_THROWS_WITH_AS(take_rows(ctx, std::vector<Tensor<float, Cpu>>{}, {}), doctest::Contains("no tensors"), Error);
  CHECK_THROWS_WITH_AS(mean_rows(ctx, x, {0, 1, 1, 2}), doctest::Contains("mean_rows: 4 starts do not part x (2, 3)"),
                       Error);
  CHECK_THROWS_WITH_AS(mean_rows(ctx, x, {0, 1}), doctest::Contains("mean_rows: 2 starts"), Error);
}
