// text/logistic_regression.hpp: logistic regression over a few signs.
#pragma once
#include <algorithm>  // std::copy, std::max
#include <array>      // std::array
#include <cmath>      // std::exp, std::abs
#include <cstddef>    // std::size_t
#include <vector>     // std::vector

namespace ft::inline FTLIB_ABI::detail {

/// The weights w, the last of them of a constant, at which the sum of log(1 + exp(-w.x)) over the positives and
/// log(1 + exp(w.x)) over the negatives, and `penalty` / 2 times the squares of all w but the last, is least: Newton's
/// steps.
template <std::size_t N>
std::array<double, N + 1> logistic_regression(const std::vector<std::array<double, N>>& positives,
                                              const std::vector<std::array<double, N>>& negatives, double penalty) {
  std::array<double, N + 1> w{};
  for (int step = 0; step < 50; ++step) {
    std::array<std::array<double, N + 2>, N + 1> a{};  // the second derivatives, and beside them the gradient
    const auto add = [&](const std::array<double, N>& x, double wanted) {
      std::array<double, N + 1> one;
      std::copy(x.begin(), x.end(), one.begin());
      one[N] = 1;
      double z = 0;
      for (std::size_t i = 0; i <= N; ++i) z += w[i] * one[i];
      const double p = 1 / (1 + std::exp(-z));
      for (std::size_t i = 0; i <= N; ++i) {
        for (std::size_t j = 0; j <= N; ++j) a[i][j] += p * (1 - p) * one[i] * one[j];
        a[i][N + 1] += (p - wanted) * one[i];
      }
    };
    for (const auto& x : positives) add(x, 1);
    for (const auto& x : negatives) add(x, 0);
    for (std::size_t i = 0; i < N; ++i) {
      a[i][i] += penalty;
      a[i][N + 1] += penalty * w[i];
    }
    a[N][N] += 1e-9;
    double moved = 0;
    for (std::size_t i = 0; i <= N; ++i)  // positive definite: no pivot is needed
      for (std::size_t r = 0; r <= N; ++r) {
        if (r == i) continue;
        const double factor = a[r][i] / a[i][i];
        for (std::size_t c = i; c < N + 2; ++c) a[r][c] -= factor * a[i][c];
      }
    for (std::size_t i = 0; i <= N; ++i) {
      const double by = a[i][N + 1] / a[i][i];
      w[i] -= by;
      moved = std::max(moved, std::abs(by));
    }
    if (moved < 1e-9) break;
  }
  return w;
}

}  // namespace ft::inline FTLIB_ABI::detail
