// optim/clip.cpu.hpp: the verdict on the gradients of a step, and their scaling by it, on the CPU.
#pragma once
#include <ftlib/ops/simd.cpu.hpp>        // for_vectors
#include <ftlib/optim/clip.shared.hpp>   // Verdict, judge
#include <ftlib/tensor/context.cpu.hpp>  // Context<Cpu>
#include <ftlib/tensor/view.hpp>         // View

#include <algorithm>  // std::min
#include <cmath>      // std::sqrt
#include <span>       // std::span
#include <vector>     // std::vector

namespace ft::inline FTLIB_ABI {

namespace detail {
/// body(block, first element, count) for blocks of fixed size over all arrays, shared among threads. Blocks, unlike
/// threads' shares, do not depend on the number of threads.
template <Scalar A, class Body> void for_each_block(Context<Cpu>& ctx, std::span<const View<A>> xs, Body body) {
  constexpr int64_t block = squares_block<Cpu>;
  struct Piece {
    A* data;
    int64_t count;
  };
  std::vector<Piece> pieces;
  for (const View<A>& x : xs)
    for (int64_t i = 0; i < x.count(); i += block) pieces.push_back({x.data + i, std::min(block, x.count() - i)});
  parallel_for(ctx.pool(), static_cast<int64_t>(pieces.size()), 8, [&](int64_t begin, int64_t end) {
    for (auto i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end); ++i)
      body(i, pieces[i].data, pieces[i].count);
  });
}
}  // namespace detail

/// squares = for each block of each of `xs` (contiguous) the sum of x^2, in double.
template <Scalar A>
void block_squares(Context<Cpu>& ctx, View<double> squares,
                   std::span<const View<A>> xs) {  // (blocks), see squares_block
  detail::for_each_block(ctx, xs, [&](std::size_t i, const A* x, int64_t size) {
    constexpr int64_t lanes = 8;  // partial sums that do not wait for one another
    double partial[lanes] = {};
    int64_t k = 0;
    for (; k + lanes <= size; k += lanes)
      for (int64_t lane = 0; lane < lanes; ++lane) {
        const auto v = static_cast<double>(x[k + lane]);
        partial[lane] += v * v;
      }
    for (; k < size; ++k) partial[0] += static_cast<double>(x[k]) * static_cast<double>(x[k]);
    double sum = 0;
    for (const double p : partial) sum += p;
    squares.data[i] = sum;
  });
}

/// v's loss += loss ()
template <Scalar A> void add_loss(Context<Cpu>&, Verdict* v, View<const A> loss) {
  v->loss += static_cast<double>(*loss.data);
}

/// The verdict on gradients whose squares have these sums, and which loss_scale has made larger.
template <Scalar A>
void judge_squares(Context<Cpu>&, Verdict* v, View<const A> squares, double max_norm, double loss_scale) {
  double sum = 0;
  for (int64_t i = 0; i < squares.count(); ++i) sum += squares.data[i];
  detail::judge(*v, std::sqrt(sum), max_norm, loss_scale);
}

/// x *= the verdict's factor for all `xs` (contiguous); nothing where the verdict is not finite.
template <Scalar A> void scale_gradients(Context<Cpu>& ctx, std::span<const View<A>> xs, const Verdict* v) {
  if (!v->finite || v->factor == 1) return;
  detail::for_each_block(ctx, xs, [&](std::size_t, A* x, int64_t size) {
    const A factor = static_cast<A>(v->factor);
    detail::for_vectors<A>(0, size, [&](auto at) { at.store(x, at(x) * factor); });
  });
}

}  // namespace ft::inline FTLIB_ABI
