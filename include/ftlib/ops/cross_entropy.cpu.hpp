// ops/cross_entropy.cpu.hpp: softmax cross-entropy of a chunk of logits on the CPU, and moving rows to and from it.
#pragma once
#include <ftlib/tensor/context.cpu.hpp>  // Context<Cpu>
#include <ftlib/tensor/view.hpp>         // View

#include <algorithm>   // std::copy_n
#include <cmath>       // std::log
#include <Eigen/Core>  // vectorised exp

namespace ft::inline FTLIB_ABI {

/// nll[n] = -log softmax(logits[n])[target[n]]. With `gradient`, logits become softmax - onehot(target).
template <Scalar T>
void softmax_cross_entropy(Context<Cpu>& ctx,
                           View<T> nll,             // (N)     assigned
                           View<T> logits,          // (N, V)  in, and with `gradient` out
                           const int32_t* targets,  // (N)     in [0, V)
                           bool gradient) {
  using Array = Eigen::Array<T, Eigen::Dynamic, 1>;
  const int64_t V = logits.cols();
  parallel_for(ctx.pool(), logits.rows(), 1 + 8192 / V, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      Eigen::Map<Array> row(logits.row(n), V);
      const T most = row.maxCoeff(), wanted = row[targets[n]];
      row = (row - most).exp();
      const double sum = static_cast<double>(row.sum());
      nll.data[n] = static_cast<T>(std::log(sum) - (static_cast<double>(wanted) - static_cast<double>(most)));
      if (gradient) {
        row *= static_cast<T>(1 / sum);
        row[targets[n]] -= T(1);
      }
    }
  });
}

/// to[n] = from[rows[n]]
template <Scalar T>
void gather_rows(Context<Cpu>& ctx,
                 View<T> to,             // (n, C)  assigned
                 In<T> from,             // (N, C)
                 const int32_t* rows) {  // (n)
  parallel_for(ctx.pool(), to.rows(), 1 + 8192 / to.cols(), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) std::copy_n(from.row(rows[n]), to.cols(), to.row(n));
  });
}

/// to[rows[n]] = scale from[n]; no row twice.
template <Scalar T>
void scatter_rows(Context<Cpu>& ctx,
                  View<T> to,           // (N, C)  rows named are assigned, others left
                  In<T> from,           // (n, C)
                  const int32_t* rows,  // (n)
                  T scale) {
  parallel_for(ctx.pool(), from.rows(), 1 + 8192 / from.cols(), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n)
      for (int64_t c = 0; c < from.cols(); ++c) to.row(rows[n])[c] = scale * from.row(n)[c];
  });
}

/// sum = the sum of all of x, in double.
template <Scalar T> void sum_all(Context<Cpu>&, View<T> sum, In<T> x) {
  double total = 0;
  for (int64_t i = 0; i < x.count(); ++i) total += static_cast<double>(x.data[i]);
  sum.data[0] = static_cast<T>(total);
}

}  // namespace ft::inline FTLIB_ABI
