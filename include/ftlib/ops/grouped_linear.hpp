// ops/grouped_linear.hpp: groups of rows, each times a matrix of its own: contract, checks, autograd rule.
#pragma once
#include <ftlib/ops/linear.hpp>  // project, project_back, outer
#include <ftlib/ops/shape.hpp>   // part

#include <vector>  // std::vector

namespace ft::inline FTLIB_ABI {

/// y = x W_g^T + b_g for rows [starts[g], starts[g + 1]) of x: (M, in), G matrices (out, in), as many biases (out) or
/// none -> (M, out). A matrix without rows costs nothing, so experts cost what the chosen ones cost. Matrices may be
/// stored in any DType. Throws Error where shapes differ, or the starts do not rise from 0 to M.
template <Scalar T, Device D>
Tensor<T, D> grouped_linear(Context<D>& ctx, const Tensor<T, D>& x_, const std::vector<Parameter<T, D>*>& ws,
                            const std::vector<int64_t>& starts, const std::vector<Parameter<T, D>*>& biases = {}) {
  bool rising = x_.rank() == 2 && starts.size() == ws.size() + 1 && !ws.empty() && starts.front() == 0 &&
                starts.back() == x_.size(0);
  for (std::size_t g = 0; rising && g < ws.size(); ++g) rising = starts[g] <= starts[g + 1];
  if (!rising)
    throw Error(
        str("grouped_linear: ", starts.size(), " starts do not part x ", x_.shape(), " among ", ws.size(), " matrices"),
        "x is (rows, width); starts rise from 0 to the number of rows, one more than matrices.");
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

}  // namespace ft::inline FTLIB_ABI
