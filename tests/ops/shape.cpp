// tests/ops/shape.cpp: reshape, transpose, slice, split and concat against plain loops over indices.
#include <ftlib/ops/shape.hpp>

#include "../op_suite.hpp"

using namespace ft;
using namespace ft::test;

namespace {

/// y[i] = x[from(i)], i as an index of each axis.
template <class F> HostArray gather(const HostArray& x, const Shape& shape, F from) {
  HostArray y(shape);
  for (int64_t i = 0; i < y.count(); ++i) {
    Shape index = shape;
    int64_t rest = i, at = 0;
    for (int axis = shape.rank() - 1; axis >= 0; --axis) {
      index[axis] = rest % shape[axis];
      rest /= shape[axis];
    }
    const Shape source = from(index), strides = x.shape.strides();
    for (int axis = 0; axis < source.rank(); ++axis) at += source[axis] * strides[axis];
    y[i] = x[at];
  }
  return y;
}

struct Reshape {
  Shape from, to;
  static constexpr const char* name = "reshape";
  static std::vector<Reshape> shapes() {
    return {{{1}, {}}, {{3, 8}, {3, 2, 4}}, {{5, 3, 7}, {5, 21}}, {{0, 6}, {0, 2, 3}}, {{2, 3, 4}, {24}}};
  }
  std::vector<HostArray> inputs(Random& random) const { return {activation(random, from)}; }
  template <class T, class D> Tensor<T, D> run(Context<D>& ctx, Args<T, D>& a) const {
    return reshape(ctx, a.x[0], to);
  }
  HostArray reference(const std::vector<HostArray>& in) const {
    HostArray y = in[0];
    y.shape = to;
    return y;
  }
};

struct Transposed {
  Shape shape;
  int a, b;
  static constexpr const char* name = "transpose";
  static std::vector<Transposed> shapes() {
    return {{{1, 1}, 0, 1}, {{3, 5}, 0, 1}, {{2, 3, 4}, 0, -1}, {{2, 3, 4, 5}, 1, 2}, {{0, 3}, -2, -1}, {{4}, 0, 0}};
  }
  std::vector<HostArray> inputs(Random& random) const { return {activation(random, shape)}; }
  template <class T, class D> Tensor<T, D> run(Context<D>& ctx, Args<T, D>& x) const {
    return transpose(ctx, x.x[0], a, b);
  }
  HostArray reference(const std::vector<HostArray>& in) const {
    const auto swap = [&](Shape s) {
      std::swap(s[a], s[b]);
      return s;
    };
    return gather(in[0], swap(shape), swap);
  }
};

struct Slice {
  Shape shape;
  int axis;
  int64_t begin, end;
  static constexpr const char* name = "slice";
  static std::vector<Slice> shapes() {
    return {{{1}, 0, 0, 1},        {{5, 7}, 0, 1, 4}, {{5, 7}, 1, 2, 3},
            {{3, 4, 5}, -1, 0, 5}, {{3, 4}, 1, 2, 2}, {{2, 6, 3}, 1, 5, 6}};
  }
  std::vector<HostArray> inputs(Random& random) const { return {activation(random, shape)}; }
  template <class T, class D> Tensor<T, D> run(Context<D>& ctx, Args<T, D>& a) const {
    return slice(ctx, a.x[0], axis, begin, end);
  }
  HostArray reference(const std::vector<HostArray>& in) const {
    Shape to = shape;
    to[axis] = end - begin;
    return gather(in[0], to, [&](Shape index) {
      index[axis] += begin;
      return index;
    });
  }
};

/// The parts of a split in reverse order, the last one left out: gradients of several slices meet.
struct SplitConcat {
  Shape shape;
  int axis;
  std::vector<int64_t> sizes;
  static constexpr const char* name = "split and concat";
  static std::vector<SplitConcat> shapes() {
    return {{{2}, 0, {1, 1}},
            {{5, 7}, 0, {1, 3, 1}},
            {{5, 7}, 1, {2, 2, 3}},
            {{3, 6, 2}, -2, {4, 0, 2}},
            {{0, 3}, 1, {2, 1}}};
  }
  std::vector<HostArray> inputs(Random& random) const { return {activation(random, shape)}; }
  template <class T, class D> Tensor<T, D> run(Context<D>& ctx, Args<T, D>& a) const {
    auto parts = split(ctx, a.x[0], axis, sizes);
    parts.pop_back();
    parts.push_back(parts[0]);
    std::reverse(parts.begin(), parts.end());
    return concat(ctx, parts, axis);
  }
  HostArray reference(const std::vector<HostArray>& in) const {
    std::vector<int64_t> from;  // the source's place along the axis, for each of the result's
    const auto take = [&](std::size_t part) {
      int64_t begin = 0;
      for (std::size_t i = 0; i < part; ++i) begin += sizes[i];
      for (int64_t i = 0; i < sizes[part]; ++i) from.push_back(begin + i);
    };
    take(0);
    for (std::size_t i = sizes.size() - 1; i-- > 0;) take(i);
    Shape to = shape;
    to[axis] = static_cast<int64_t>(from.size());
    return gather(in[0], to, [&](Shape index) {
      index[axis] = from[static_cast<std::size_t>(index[axis])];
      return index;
    });
  }
};

}  // namespace

TEST_CASE("ops/shape: reshape") { test_op<Reshape>(); }
TEST_CASE("ops/shape: transpose") { test_op<Transposed>(); }
TEST_CASE("ops/shape: slice") { test_op<Slice>(); }
TEST_CASE("ops/shape: split and concat") { test_op<SplitConcat>(); }

TEST_CASE("ops/shape: views share memory, concat of watched tensors gives each its part") {
  Context<Cpu> ctx({.threads = 1});
  Tape<Cpu> tape(ctx);
  auto a = Tensor<float, Cpu>::zeros(ctx, {2, 3}), b = Tensor<float, Cpu>::zeros(ctx, {2, 1});
  const auto frozen = Tensor<float, Cpu>::zeros(ctx, {2, 2});
  tape.watch(a);
  tape.watch(b);
  CHECK(reshape(ctx, a, {6}).data() == a.data());
  CHECK(transpose(ctx, a).data() == a.data());
  CHECK(slice(ctx, a, 1, 1, 3).data() == a.data() + 1);
  const auto y = concat(ctx, std::vector{a, frozen, b}, 1);
  tape.backward(y, Tensor<float, Cpu>(ctx, {2, 6}, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}));
  CHECK(tape.gradient(a).to_host(ctx) == std::vector<float>{0, 1, 2, 6, 7, 8});
  CHECK(tape.gradient(b).to_host(ctx) == std::vector<float>{5, 11});
}

TEST_CASE("ops/shape: what does not fit is refused") {
  Context<Cpu> ctx({.threads = 1});
  const auto x = Tensor<float, Cpu>::zeros(ctx, {4, 6}), y = Tensor<float, Cpu>::zeros(ctx, {4, 5});
  CHECK_THROWS_WITH_AS(reshape(ctx, x, {5, 5}),
                       doctest::Contains("reshape: x (4, 6) of 24 elements does not become (5, 5)"), Error);
  CHECK_THROWS_WITH_AS(transpose(ctx, x, 0, 2), doctest::Contains("transpose: x (4, 6) has no axis 2"), Error);
  CHECK_THROWS_WITH_AS(slice(ctx, x, 1, 3, 7), doctest::Contains("slice: [3, 7) is not within axis 1 of x (4, 6)"),
                       Error);
  CHECK_THROWS_WITH_AS(slice(ctx, x, -3, 0, 1), doctest::Contains("slice: x (4, 6) has no axis -3"), Error);
  CHECK_THROWS_WITH_AS(split(ctx, x, 1, {2, 3}), doctest::Contains("split: sizes that sum to 5"), Error);
  CHECK_THROWS_WITH_AS(concat(ctx, std::vector{x, y}, 0), doctest::Contains("concat: x (4, 5) does not go with (4, 6)"),
                       Error);
  CHECK_THROWS_WITH_AS(concat(ctx, std::vector<Tensor<float, Cpu>>{}), doctest::Contains("concat: no tensors"), Error);
}
