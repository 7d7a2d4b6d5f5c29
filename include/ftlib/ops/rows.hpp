// ops/rows.hpp: rows of tensors in a new order, and the mean of each group of rows: contract, checks, autograd rules.
#pragma once
#include <ftlib/autograd/tape.hpp>
#if FTLIB_HEADER_ONLY
#include <ftlib/ops/rows.cpu.hpp>
#else
#include <ftlib/cpu_runtime.hpp>
#endif
#if FTLIB_WITH_CUDA
#include <ftlib/ops/rows.cuda.cuh>
#endif

#include <vector>  // std::vector

namespace ft::inline FTLIB_ABI {

/// y[i] = row rows[i] of all xs stacked, each row at most once: (N1, C), (N2, C) ..., n rows -> (n, C). Rows that lie
/// apart come together in one copy (text and image tokens of each sample), and go back in another. Throws Error where
/// widths differ, a row is outside the tensors or is taken twice.
template <Scalar T, Device D>
Tensor<T, D> take_rows(Context<D>& ctx, const std::vector<Tensor<T, D>>& xs_, const std::vector<int32_t>& rows) {
  std::vector<Tensor<T, D>> xs;
  std::vector<int64_t> first{0};  // of each tensor, among all stacked; the last one is their number
  bool wanted = false;
  for (const Tensor<T, D>& x : xs_) {
    if (x.rank() != 2 || x.size(1) != xs_[0].size(1))
      throw Error(str("take_rows: x ", x.shape(), " does not go with ", xs_[0].shape()),
                  "they are (rows, width) of one width.");
    xs.push_back(contiguous(ctx, x));
    first.push_back(first.back() + x.size(0));
    wanted |= recording(ctx, "take_rows", {x});
  }
  if (xs.empty()) throw Error("take_rows: no tensors are given");
  std::vector<bool> taken(static_cast<std::size_t>(first.back()));
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const bool inside = rows[i] >= 0 && rows[i] < first.back();
    if (!inside || taken[static_cast<std::size_t>(rows[i])])
      throw Error(str("take_rows: row ", rows[i], " at ", i,
                      inside ? " is taken twice" : str(" is outside the ", first.back(), " rows of the tensors")));
    taken[static_cast<std::size_t>(rows[i])] = true;
  }
  Tensor<T, D> y(ctx, {static_cast<int64_t>(rows.size()), xs[0].size(1)});
  for (std::size_t k = 0; k < xs.size(); ++k) take_rows_forward(ctx, y.view(), xs[k].view(), first[k], rows);
  if (wanted) {
    const std::vector<TensorId<T>> ids(xs.begin(), xs.end());
    ctx.tape()->push({&y}, [ids, first, rows](Gradients<T, D>& g) {  // dx[rows[i]] = dy[i], 0 for rows not taken
      for (std::size_t k = 0; k < ids.size(); ++k)
        if (const auto [dx, write] = g.write(ids[k]); dx)
          take_rows_backward(g.context(), write, dx, g.incoming(), first[k], rows);
    });
  }
  return y;
}
template <Scalar T, Device D>
Tensor<T, D> take_rows(Context<D>& ctx, const Tensor<T, D>& x, const std::vector<int32_t>& rows) {
  return take_rows(ctx, std::vector<Tensor<T, D>>{x}, rows);
}

/// y[g] = mean of rows [starts[g], starts[g + 1]) of x: (N, C), B + 1 starts -> (B, C). Throws Error where the starts
/// do not rise from 0 to N: a group without rows has no mean.
template <Scalar T, Device D>
Tensor<T, D> mean_rows(Context<D>& ctx, const Tensor<T, D>& x, const std::vector<int64_t>& starts) {
  bool rising = x.rank() == 2 && !starts.empty() && starts.front() == 0 && starts.back() == x.size(0);
  for (std::size_t g = 0; g + 1 < starts.size(); ++g) rising &= starts[g] < starts[g + 1];
  if (!rising)
    throw Error(str("mean_rows: ", starts.size(), " starts do not part x ", x.shape(), " into groups"),
                "x is (rows, width); starts rise from 0 to the number of rows, one more than groups.");
  Tensor<T, D> y(ctx, {static_cast<int64_t>(starts.size()) - 1, x.size(1)});
  mean_rows_forward(ctx, y.view(), contiguous(ctx, x).view(), starts);
  record(ctx, "mean_rows", y, {x}, [x = TensorId<T>(x), starts](Gradients<T, D>& g) {  // dx[n] = dy[g] / rows of g
    if (const View<T> dx = g.assign(x)) mean_rows_backward(g.context(), dx, g.incoming(), starts);
  });
  return y;
}

}  // namespace ft::inline FTLIB_ABI
