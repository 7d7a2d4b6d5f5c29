// optim/clip.cpu.hpp: the verdict on the gradients of a step, and their scaling by it, on the CPU.
#pragma once
#include <ftlib/optim/clip.shared.hpp>   // Verdict, judge
#include <ftlib/tensor/context.cpu.hpp>  // Context<Cpu>
#include <ftlib/tensor/view.hpp>         // View

#include <algorithm>   // std::min
#include <cmath>       // std::sqrt
#include <Eigen/Core>  // Eigen::Map
#include <span>        // std::span
#include <vector>      // std::vector

namespace ft::inline FTLIB_ABI {

namespace detail {
/// body(block, first element, count) for blocks of fixed size over all arrays, shared among threads. Blocks, unlike
/// threads' shares, do not depend on the number of threads.
template <Scalar A, class Body>
void for_each_block(Context<Cpu>& ctx, std::span<const View<A>> xs, std::vector<double>* sums, Body body) {
  constexpr int64_t block = 4096;
  struct Piece {
    A* data;
    int64_t count;
  };
  std::vector<Piece> pieces;
  for (const View<A>& x : xs)
    for (int64_t i = 0; i < x.count(); i += block) pieces.push_back({x.data + i, std::min(block, x.count() - i)});
  if (sums) sums->assign(pieces.size(), 0.0);
  parallel_for(ctx.pool(), static_cast<int64_t>(pieces.size()), 8, [&](int64_t begin, int64_t end) {
    for (auto i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end); ++i)
      body(i, Eigen::Map<Eigen::Array<A, Eigen::Dynamic, 1>>(pieces[i].data, pieces[i].count));
  });
}

/// The sum of x^2 over all elements of all `xs` (contiguous), in double, in an order that depends on sizes alone.
template <Scalar A> double sum_of_squares(Context<Cpu>& ctx, std::span<const View<A>> xs) {
  std::vector<double> sums;
  for_each_block(ctx, xs, &sums, [&](std::size_t i, const auto& x) {
    constexpr int64_t lanes = 8;  // partial sums that do not wait for one another
    double partial[lanes] = {};
    int64_t k = 0;
    for (; k + lanes <= x.size(); k += lanes)
      for (int64_t lane = 0; lane < lanes; ++lane) {
        const auto v = static_cast<double>(x.data()[k + lane]);
        partial[lane] += v * v;
      }
    for (; k < x.size(); ++k) partial[0] += static_cast<double>(x[k]) * static_cast<double>(x[k]);
    for (const double p : partial) sums[i] += p;
  });
  double sum = 0;
  for (const double s : sums) sum += s;
  return sum;
}
}  // namespace detail

/// v's loss += loss ()
template <Scalar A> void add_loss(Context<Cpu>&, Verdict* v, View<const A> loss) {
  v->loss += static_cast<double>(*loss.data);
}

/// The verdict on gradients `xs` (contiguous), which loss_scale has made larger.
template <Scalar A>
void judge_gradients(Context<Cpu>& ctx, Verdict* v, std::span<const View<A>> xs, double max_norm, double loss_scale) {
  detail::judge(*v, std::sqrt(detail::sum_of_squares(ctx, xs)), max_norm, loss_scale);
}

/// x *= the verdict's factor for all `xs` (contiguous); nothing where the verdict is not finite.
template <Scalar A> void scale_gradients(Context<Cpu>& ctx, std::span<const View<A>> xs, const Verdict* v) {
  if (!v->finite || v->factor == 1) return;
  detail::for_each_block(ctx, xs, nullptr, [&](std::size_t, auto x) { x *= static_cast<A>(v->factor); });
}

}  // namespace ft::inline FTLIB_ABI
