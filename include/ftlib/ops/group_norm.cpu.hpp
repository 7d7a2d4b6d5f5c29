// ops/group_norm.cpu.hpp: norms over groups of channels on the CPU, forward and backward.
#pragma once
#include <ftlib/ops/elementwise.cpu.hpp>  // for_vectors, parallel_for

#include <algorithm>  // std::fill, std::max, std::min
#include <cmath>      // std::sqrt
#include <vector>     // std::vector

namespace ft::inline FTLIB_ABI {

namespace detail {
inline namespace FTLIB_SIMD {
/// The sums over each sample's rows of f(at, n, b), (B, C): runs of 256 rows in T, and those in double. Each thread
/// owns some columns, so the order of a sum does not depend on timing.
template <Scalar T, class F> std::vector<double> channel_sums(Context<Cpu>& ctx, int64_t B, int64_t S, int64_t C, F f) {
  constexpr int64_t run = 256;
  std::vector<double> sums(static_cast<std::size_t>(B * C));
  parallel_for(ctx.pool(), C, std::max<int64_t>(16, elementwise_grain / (B * S + 1)), [&](int64_t begin, int64_t end) {
    std::vector<T> of_run(static_cast<std::size_t>(C));
    T* const p = of_run.data();
    for (int64_t b = 0; b < B; ++b)
      for (int64_t first = b * S; first < (b + 1) * S; first += run) {
        std::fill(p + begin, p + end, T(0));
        for (int64_t n = first; n < std::min((b + 1) * S, first + run); ++n)
          for_vectors<T>(begin, end, [&](auto at) { at.store(p, at(p) + f(at, n, b)); });
        for (int64_t c = begin; c < end; ++c) sums[static_cast<std::size_t>(b * C + c)] += double{p[c]};
      }
  });
  return sums;
}
/// f(n, b) for each row n of sample b.
template <class F> void for_each_sample_row(Context<Cpu>& ctx, int64_t B, int64_t S, int64_t C, F f) {
  parallel_for(ctx.pool(), B * S, 1 + elementwise_grain / (C + 1), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) f(n, n / S);
  });
}
/// One value a group, (B, G), to one a channel, (B, C).
template <Scalar T> std::vector<T> by_channel(In<T> of_group, int64_t C) {
  const int64_t B = of_group.rows(), G = of_group.cols();
  std::vector<T> values;
  for (int64_t i = 0; i < B * C; ++i) values.push_back(of_group.data[i / C * G + i % C / (C / G)]);
  return values;
}
}  // namespace FTLIB_SIMD
}  // namespace detail

template <Scalar T>
void group_norm_forward(Context<Cpu>& ctx,
                        View<T> y,                   // (B, S, C)
                        View<accumulate_t<T>> mean,  // (B, G)
                        View<accumulate_t<T>> r,     // (B, G)
                        In<T> x,                     // (B, S, C)
                        In<T> w,                     // (C)
                        In<T> bias,                  // (C)
                        float eps) {
  const int64_t B = x.shape[0], S = x.shape[1], C = x.cols(), G = mean.cols(), each = C / G;
  const auto group = [&](const std::vector<double>& sums, int64_t i) {  // the mean of a group's sums
    double sum = 0;
    for (int64_t c = 0; c < each; ++c) sum += sums[static_cast<std::size_t>(i * each + c)];
    return sum / static_cast<double>(S * each);
  };
  const auto sums = detail::channel_sums<T>(ctx, B, S, C, [&](auto at, int64_t n, int64_t) { return at(x.row(n)); });
  for (int64_t i = 0; i < B * G; ++i) mean.data[i] = static_cast<T>(group(sums, i));
  const std::vector<T> means = detail::by_channel<T>(mean, C);
  const auto squares = detail::channel_sums<T>(ctx, B, S, C, [&](auto at, int64_t n, int64_t b) {
    const auto off = at(x.row(n)) - at(means.data() + b * C);
    return off * off;
  });
  for (int64_t i = 0; i < B * G; ++i) r.data[i] = static_cast<T>(1 / std::sqrt(group(squares, i) + double{eps}));
  const std::vector<T> rs = detail::by_channel<T>(r, C);
  detail::for_each_sample_row(ctx, B, S, C, [&](int64_t n, int64_t b) {
    detail::for_vectors<T>(0, C, [&](auto at) {
      at.store(y.row(n),
               (at(x.row(n)) - at(means.data() + b * C)) * at(rs.data() + b * C) * at(w.data) + at(bias.data));
    });
  });
}

// The formulas are in ops/group_norm.hpp, where the rule is.
template <Scalar T>
void group_norm_backward(Context<Cpu>& ctx,
                         View<T> dx,                // (B, S, C)  assigned
                         View<accumulate_t<T>> dw,  // (C)        added: a parameter's
                         View<accumulate_t<T>> db,  // (C)        added: a parameter's
                         In<T> dy,                  // (B, S, C)
                         In<T> x,                   // (B, S, C)
                         In<accumulate_t<T>> mean,  // (B, G)
                         In<accumulate_t<T>> r,     // (B, G)
                         In<T> w) {                 // (C)
  const int64_t B = x.shape[0], S = x.shape[1], C = x.cols(), G = mean.cols(), each = C / G;
  const std::vector<T> means = detail::by_channel<T>(mean, C), rs = detail::by_channel<T>(r, C);
  const auto z = [&](auto at, int64_t n, int64_t b) {
    return (at(x.row(n)) - at(means.data() + b * C)) * at(rs.data() + b * C);
  };
  const auto p =
      detail::channel_sums<T>(ctx, B, S, C, [&](auto at, int64_t n, int64_t b) { return at(dy.row(n)) * z(at, n, b); });
  const auto q = detail::channel_sums<T>(ctx, B, S, C, [&](auto at, int64_t n, int64_t) { return at(dy.row(n)); });
  for (int64_t i = 0; i < B * C; ++i) {
    if (dw) dw.data[i % C] += static_cast<T>(p[static_cast<std::size_t>(i)]);
    if (db) db.data[i % C] += static_cast<T>(q[static_cast<std::size_t>(i)]);
  }
  if (!dx) return;
  std::vector<T> of_p, of_q;  // (B, C)  the group's means of g z and g
  for (int64_t i = 0; i < B * C; ++i) {
    double sum_p = 0, sum_q = 0;
    for (int64_t c = i / each * each; c < (i / each + 1) * each; ++c) {
      sum_p += double{w.data[c % C]} * p[static_cast<std::size_t>(c)];
      sum_q += double{w.data[c % C]} * q[static_cast<std::size_t>(c)];
    }
    of_p.push_back(static_cast<T>(sum_p / static_cast<double>(S * each)));
    of_q.push_back(static_cast<T>(sum_q / static_cast<double>(S * each)));
  }
  detail::for_each_sample_row(ctx, B, S, C, [&](int64_t n, int64_t b) {
    detail::for_vectors<T>(0, C, [&](auto at) {
      at.store(dx.row(n), at(rs.data() + b * C) * (at(dy.row(n)) * at(w.data) - at(of_q.data() + b * C) -
                                                   z(at, n, b) * at(of_p.data() + b * C)));
    });
  });
}

}  // namespace ft::inline FTLIB_ABI
