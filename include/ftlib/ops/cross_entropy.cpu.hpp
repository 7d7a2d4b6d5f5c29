// ops/cross_entropy.cpu.hpp: softmax cross-entropy of a chunk of logits on the CPU, and moving rows to and from it.
#pragma once
#include <ftlib/ops/simd.cpu.hpp>        // largest_of, sum_of_exponentials
#include <ftlib/tensor/context.cpu.hpp>  // Context<Cpu>
#include <ftlib/tensor/view.hpp>         // View

#include <algorithm>  // std::copy_n
#include <cmath>      // std::log

namespace ft::inline FTLIB_ABI {

/// nll[n] = -log softmax(logits[n])[target[n]]. With `gradient`, logits become scale (softmax - onehot(target)).
template <Scalar T>
void softmax_cross_entropy(Context<Cpu>& ctx,
                           View<accumulate_t<T>> nll,                        // (N)     assigned
                           View<T> logits,                                   // (N, V)  in, and with `gradient` out
                           In<int32_t> targets,                              // (N)     in [0, V)
                           bool gradient, In<accumulate_t<T>> scale = {}) {  // ()      empty: 1
  const int64_t V = logits.cols();
  const T whole = scale ? static_cast<T>(*scale.data) : T(1);
  parallel_for(ctx.pool(), logits.rows(), 1 + 8192 / V, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      T* const row = logits.row(n);
      const int32_t target = targets.data[n];
      const T most = detail::largest_of(row, V), wanted = row[target];
      const double sum = static_cast<double>(detail::sum_of_exponentials(row, row, V, T(1), most));
      if (nll) nll.data[n] = static_cast<T>(std::log(sum) - (static_cast<double>(wanted) - static_cast<double>(most)));
      if (gradient) {
        const T factor = static_cast<T>(static_cast<double>(whole) / sum);
        detail::for_vectors<T>(0, V, [&](auto at) { at.store(row, at(row) * factor); });
        row[target] -= whole;
      }
    }
  });
}

/// kl[n] = KL(softmax(teacher[n]) || softmax(logits[n])), of finite logits. With `gradient`, logits become scale
/// (softmax(logits) - softmax(teacher)). `teacher` is written over.
template <Scalar T>
void softmax_divergence(Context<Cpu>& ctx,
                        View<accumulate_t<T>> kl,                         // (N)     assigned
                        View<T> logits,                                   // (N, V)  in, and with `gradient` out
                        View<T> teacher,                                  // (N, V)  in, and spent
                        bool gradient, In<accumulate_t<T>> scale = {}) {  // ()      empty: 1
  const int64_t V = logits.cols();
  const double whole = scale ? static_cast<double>(*scale.data) : 1;
  parallel_for(ctx.pool(), logits.rows(), 1 + 4096 / V, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      T *const q = logits.row(n), *const p = teacher.row(n);
      const T most_q = detail::largest_of(q, V), most_p = detail::largest_of(p, V);
      const double gain = static_cast<double>(detail::sum_vectors<T>(V, [&](auto at) {
        const auto log_p = at(p) - most_p;
        return detail::exponential<T>(log_p) * (log_p - (at(q) - most_q));
      }));
      const double sum_p = static_cast<double>(detail::sum_of_exponentials(p, p, V, T(1), most_p));
      const double sum_q = static_cast<double>(detail::sum_of_exponentials(q, q, V, T(1), most_q));
      kl.data[n] = static_cast<T>(gain / sum_p + std::log(sum_q / sum_p));
      if (!gradient) continue;
      const T of_q = static_cast<T>(whole / sum_q), of_p = static_cast<T>(whole / sum_p);
      detail::for_vectors<T>(0, V, [&](auto at) { at.store(q, at(q) * of_q - at(p) * of_p); });
    }
  });
}

/// to[n] = from[rows[n]]
template <Scalar T>
void gather_rows(Context<Cpu>& ctx,
                 View<T> to,          // (n, C)  assigned
                 In<T> from,          // (N, C)
                 In<int32_t> rows) {  // (n)
  parallel_for(ctx.pool(), to.rows(), 1 + 8192 / to.cols(), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) std::copy_n(from.row(rows.data[n]), to.cols(), to.row(n));
  });
}

/// to[rows[n]] = scale from[n]; no row twice.
template <Scalar T>
void scatter_rows(Context<Cpu>& ctx,
                  View<T> to,                        // (N, C)  rows named are assigned, others left
                  In<T> from,                        // (n, C)
                  In<int32_t> rows,                  // (n)
                  In<accumulate_t<T>> scale = {}) {  // ()      empty: 1
  const T factor = scale ? static_cast<T>(*scale.data) : T(1);
  parallel_for(ctx.pool(), from.rows(), 1 + 8192 / from.cols(), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n)
      for (int64_t c = 0; c < from.cols(); ++c) to.row(rows.data[n])[c] = factor * from.row(n)[c];
  });
}

/// sum = the sum of all of x, in double.
template <Scalar T> void sum_all(Context<Cpu>&, View<T> sum, In<T> x) {
  double total = 0;
  for (int64_t i = 0; i < x.count(); ++i) total += static_cast<double>(x.data[i]);
  sum.data[0] = static_cast<T>(total);
}

}  // namespace ft::inline FTLIB_ABI
