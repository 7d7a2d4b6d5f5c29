// ops/grouped_linear.hpp: groups of rows, each times a matrix of its own, or a low-rank one: contract, checks, autograd
// rules.
#pragma once
#include <ftlib/ops/linear.hpp>  // project, project_back, outer
#include <ftlib/ops/shape.hpp>   // part

#include <vector>  // std::vector

namespace ft::inline FTLIB_ABI {

namespace detail {
/// Throws Error where starts do not part the rows of x among G matrices.
inline void check_groups(const char* op, const Shape& x, const std::vector<int64_t>& starts, std::size_t G) {
  bool rising = x.rank() == 2 && starts.size() == G + 1 && G > 0 && starts.front() == 0 && starts.back() == x[0];
  for (std::size_t g = 0; rising && g < G; ++g) rising = starts[g] <= starts[g + 1];
  if (!rising)
    throw Error(str(op, ": ", starts.size(), " starts do not part x ", x, " among ", G, " matrices"),
                "x is (rows, width); starts rise from 0 to the number of rows, one more than matrices.");
}
}  // namespace detail

/// y = x W_g^T + b_g for rows [starts[g], starts[g + 1]) of x: (M, in), G matrices (out, in), as many biases (out) or
/// none -> (M, out). A matrix without rows costs nothing, so experts cost what the chosen ones cost. Matrices may be
/// stored in any DType. Throws Error where shapes differ, or the starts do not rise from 0 to M.
template <Scalar T, Device D>
Tensor<T, D> grouped_linear(Context<D>& ctx, const Tensor<T, D>& x_, const std::vector<Parameter<T, D>*>& ws,
                            const std::vector<int64_t>& starts, const std::vector<Parameter<T, D>*>& biases = {}) {
  detail::check_groups("grouped_linear", x_.shape(), starts, ws.size());
  if (!biases.empty() && biases.size() != ws.size())
    throw Error(str("grouped_linear: ", biases.size(), " biases for ", ws.size(), " matrices"));
  const auto bias_of = [biases](std::size_t g) { return biases.empty() ? nullptr : biases[g]; };
  bool wanted = recording(ctx, "grouped_linear", {x_});
  for (std::size_t g = 0; g < ws.size(); ++g) {
    Parameter<T, D>* const w = ws[g];
    detail::check_linear<T, D>("grouped_linear", x_.shape(), *w, bias_of(g));
    if (!biases.empty()) wanted |= recording(ctx, "grouped_linear", {bias_of(g)});
    if (w->shape() != ws[0]->shape())
      throw Error(str("grouped_linear: weights ", ws[0]->shape(), " '", ws[0]->name, "' and ", w->shape(), " '",
                      w->name, "' differ"));
    wanted |= recording(ctx, "grouped_linear", {*w});
  }
  const Tensor<T, D> x = contiguous(ctx, x_);
  Tensor<T, D> y(ctx, {x.size(0), ws[0]->shape()[0]});
  const auto rows = [starts](auto view, std::size_t g) { return detail::part(view, 0, starts[g], starts[g + 1]); };
  for (std::size_t g = 0; g < ws.size(); ++g)
    if (starts[g] < starts[g + 1])
      detail::project(ctx, Write::assign, rows(y.view(), g), In<T>(rows(x.view(), g)), ws[g]->weight(), 1,
                      bias_of(g) ? bias_of(g)->value.data() : nullptr);
  if (wanted)  // dx = dy W_g;  dW_g += dy^T x, db_g += sum of dy, over the group's rows
    ctx.tape()->push({&y}, [x, ws, starts, rows, bias_of](Gradients<T, D>& g) {
      Context<D>& context = g.context();
      auto [dx, write] = g.write(TensorId<T>(x));
      for (std::size_t i = 0; i < ws.size(); ++i) {
        if (starts[i] == starts[i + 1]) {
          g.add(*ws[i]);  // zeros, which an optimizer steps by as well
          g.add(bias_of(i));
          continue;
        }
        const auto dy = rows(g.incoming(), i);
        if (dx) detail::project_back(context, write, rows(dx, i), In<T>(dy), ws[i]->weight());
        if (auto [dw, how] = g.write(*ws[i]); dw) detail::outer<T, D>(context, how, dw, dy, In<T>(rows(x.view(), i)));
        if (const auto db = g.add(bias_of(i)); db) add_column_sums(context, db, dy);
      }
    });
  return y;
}

/// y = s x A_g^T B_g^T for rows [starts[g], starts[g + 1]) of x: (M, in) -> (M, rows), the pairs of G matrices of rank
/// R lying in two: A_g is rows [g R, (g + 1) R) of A (G R, in), and row o, column k of B_g is row first + o row_step,
/// column k G + g of B (out, R G), as in PEFT's files. A pair without rows of x costs nothing. Throws Error where
/// shapes differ, or the starts do not rise from 0 to M.
template <Scalar T, Device D>
Tensor<T, D> grouped_low_rank(Context<D>& ctx, const Tensor<T, D>& x_, Parameter<T, D>& a, Parameter<T, D>& b,
                              const std::vector<int64_t>& starts, float s, int64_t rows, int64_t first = 0,
                              int64_t row_step = 1) {
  const std::size_t groups = starts.empty() ? 0 : starts.size() - 1;
  detail::check_groups("grouped_low_rank", x_.shape(), starts, groups);
  const auto G = static_cast<int64_t>(groups);
  const Shape A = a.shape(), B = b.shape();
  if (A.rank() != 2 || B.rank() != 2 || A[1] != x_.size(1) || A[0] != B[1] || A[0] % G != 0 || rows < 1 || first < 0 ||
      row_step < 1 || first + (rows - 1) * row_step >= B[0])
    throw Error(str("grouped_low_rank: A ", A, " '", a.name, "' and B ", B, " '", b.name, "' do not fit x ", x_.shape(),
                    ", ", G, " matrices and ", rows, " rows from ", first, ", ", row_step, " apart"),
                "A is (matrices rank, in), B is (out, rank matrices).");
  const int64_t R = A[0] / G, in = A[1];
  const Tensor<T, D> x = contiguous(ctx, x_);
  const int64_t M = x.size(0);
  Tensor<T, D> u(ctx, {M, R}), y(ctx, {M, rows});
  const auto of_group = [starts](auto view, std::size_t g) { return detail::part(view, 0, starts[g], starts[g + 1]); };
  const auto a_of = [R, in](auto* data, std::size_t g) { return data + static_cast<int64_t>(g) * R * in; };
  // B_g's place in B or its gradient.
  const auto b_of = [=](auto view, std::size_t g) {
    view.data += first * R * G + static_cast<int64_t>(g);
    view.shape = {rows, R};
    view.strides = {row_step * R * G, G};
    return view;
  };
  Tensor<T, D> packed(ctx, {rows, R});  // B_g without gaps
  for (std::size_t g = 0; g < groups; ++g) {
    if (starts[g] == starts[g + 1]) continue;
    const auto ys = of_group(y.view(), g), us = of_group(u.view(), g);
    copy(ctx, packed.view(), View<const T>(b_of(b.value.view(), g)));
    gemm(ctx, Write::assign, us.rows(), R, in, us.data, R, DenseOperand<T>{of_group(x.view(), g).data, in, 1},
         DenseOperand<T>{a_of(a.value.data(), g), 1, in});
    gemm(ctx, Write::assign, ys.rows(), rows, R, ys.data, rows, DenseOperand<T>{us.data, R, 1},
         DenseOperand<T>{packed.data(), 1, R}, static_cast<accumulate_t<T>>(s));
  }
  // du = s dy B_g;  dx = du A_g;  dA_g += du^T x;  dB_g += s dy^T u, over the group's rows
  record(ctx, "grouped_low_rank", y, {x, a, b}, [=, &a, &b](Gradients<T, D>& g) {
    Context<D>& context = g.context();
    auto [dx, write] = g.write(TensorId<T>(x));
    const auto da = g.add(a), db = g.add(b);
    Tensor<T, D> b_packed(context, {rows, R}), du(context, u.shape());
    Tensor<accumulate_t<T>, D> db_packed(context, {rows, R});
    for (std::size_t i = 0; i < groups; ++i) {
      if (starts[i] == starts[i + 1]) continue;
      const auto dy = of_group(g.incoming(), i);
      const View<T> dus = of_group(du.view(), i);
      const int64_t m = dy.rows();
      copy(context, b_packed.view(), View<const T>(b_of(b.value.view(), i)));
      gemm(context, Write::assign, m, R, rows, dus.data, R, DenseOperand<T>{dy.data, rows, 1},
           DenseOperand<T>{b_packed.data(), R, 1}, static_cast<accumulate_t<T>>(s));
      if (dx)
        gemm(context, write, m, in, R, of_group(dx, i).data, in, DenseOperand<T>{dus.data, R, 1},
             DenseOperand<T>{a_of(a.value.data(), i), in, 1});
      if (da)
        flat_outer<T>(context, Write::add, View<accumulate_t<T>>(a_of(da.data, i), {R, in}), View<const T>(dus),
                      In<T>(of_group(x.view(), i)));
      if (!db) continue;
      detail::outer<T, D>(context, Write::assign, db_packed.view(), dy, In<T>(of_group(u.view(), i)), s);
      accumulate(context, b_of(db, i), View<const accumulate_t<T>>(db_packed.view()));
    }
  });
  return y;
}

}  // namespace ft::inline FTLIB_ABI
