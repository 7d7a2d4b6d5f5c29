// tests/ops/simd.cpp: what the CPU's kernels are made of: e^x against std::exp, walks over arrays of every length.
#include <doctest/doctest.h>
#include <ftlib/ops/simd.cpu.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

using namespace ft;

namespace {
/// How many representable numbers lie between a and b.
template <class T> double distance_in_units(T a, T b) {
  if (a == b || (std::isnan(a) && std::isnan(b))) return 0;
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;  // of positive numbers: in their order
  const auto x = std::bit_cast<Bits>(a), y = std::bit_cast<Bits>(b);
  return static_cast<double>(x > y ? x - y : y - x);
}
template <class T> T exponential_of(T x) {
  std::array<T, detail::Simd<T>::lanes> lanes;
  lanes.fill(x);
  detail::store(lanes.data(), detail::exponential<T>(detail::load<detail::Vec<T>>(lanes.data())));
  for (const T y : lanes)
    if (distance_in_units(y, lanes[0]) != 0) FAIL("lanes differ");
  return lanes[0];
}
template <class T> void check_exponential(T lowest, T highest, double step) {
  double worst = 0;
  T where = 0;
  // The reference in a wider type, so that its own rounding does not count.
  for (long double x = lowest; x < highest; x += step) {
    const T at = static_cast<T>(x);
    const double off = distance_in_units(exponential_of(at), static_cast<T>(std::exp(static_cast<long double>(at))));
    if (off > worst) {
      worst = off;
      where = at;
    }
  }
  INFO("e^", where);
  CHECK(worst <= 2);
  using Limits = std::numeric_limits<T>;
  for (const T x : {T(0), -T(0), T(1), Limits::denorm_min(), Limits::min(), -Limits::min(), Limits::infinity(),
                    -Limits::infinity(), Limits::max(), Limits::lowest(), Limits::quiet_NaN(), lowest, highest}) {
    INFO("e^", x);
    CHECK(distance_in_units(exponential_of(x), std::exp(x)) <= 1);
  }
}
}  // namespace

TEST_CASE("simd: e^x") {
  check_exponential<float>(-105, 90, 1.37e-4);  // results from 0 over subnormal ones to infinity
  check_exponential<double>(-747, 711, 1.131e-3);
}

TEST_CASE_TEMPLATE("simd: walks over arrays of every length", T, float, double) {
  for (std::size_t n = 1; n < 70; ++n) {
    std::vector<T> x(n), y(n + 1, T(-7));
    T sum = 0;
    for (std::size_t i = 0; i < n; ++i) sum += x[i] = static_cast<T>((i * 37) % 64) - 100;
    const auto size = static_cast<int64_t>(n);
    INFO("n ", n);
    CHECK(detail::largest_of(x.data(), size) == *std::max_element(x.begin(), x.end()));
    // Whole numbers: exact in any order. 1 + x of the zeros behind the last element must not count.
    CHECK(detail::sum_vectors<T>(size, [&](auto at) { return T(1) + at(x.data()); }) == sum + static_cast<T>(n));
    detail::for_vectors<T>(0, size, [&](auto at) { at.store(y.data(), detail::larger(at(x.data()), -at(x.data()))); });
    for (std::size_t i = 0; i < n; ++i) CHECK(y[i] == std::abs(x[i]));
    CHECK(y[n] == -7);
  }
}

TEST_CASE_TEMPLATE("simd: a transpose in registers, a square root", T, float, double) {
  constexpr int lanes = detail::Simd<T>::lanes;
  T values[lanes * lanes];
  detail::Vec<T> x[lanes];
  for (int i = 0; i < lanes * lanes; ++i) values[i] = static_cast<T>(i);
  for (int i = 0; i < lanes; ++i) x[i] = detail::load<detail::Vec<T>>(values + i * lanes);
  detail::transpose<T>(x);
  for (int i = 0; i < lanes; ++i) {
    T row[lanes], root[lanes];
    detail::store(row, x[i]);
    detail::store(root, detail::square_root<T>(x[i]));
    for (int j = 0; j < lanes; ++j) {
      CHECK(row[j] == values[j * lanes + i]);
      CHECK(root[j] == std::sqrt(row[j]));
    }
  }
}
