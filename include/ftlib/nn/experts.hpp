// nn/experts.hpp: Experts, a feed-forward part of which each token uses a few of many.
#pragma once
#include <ftlib/nn/adapter.hpp>       // project, grouped_project
#include <ftlib/nn/mlp.hpp>           // Activation, gated
#include <ftlib/nn/router_load.hpp>   // RouterLoad
#include <ftlib/ops/elementwise.hpp>  // add, mul, sum
#include <ftlib/ops/rows.hpp>         // take_rows, mean_rows
#include <ftlib/ops/shape.hpp>        // concat, reshape, slice
#include <ftlib/ops/softmax.hpp>      // softmax

#include <algorithm>   // std::partial_sort
#include <functional>  // std::function
#include <numeric>     // std::iota
#include <vector>      // std::vector

namespace ft::inline FTLIB_ABI {

/// y = sum over the `chosen` experts e of largest p[e] of p[e] down_e(f(gate_e(x)) up_e(x)), p = softmax(router(x)):
/// (N, C) -> (N, C). Which are chosen is read on the host; of equals the first. Each expert's tokens are one product,
/// and an expert that no token has chosen costs nothing.                              arXiv:1701.06538, 2101.03961
template <Scalar T, Device D> struct Experts {
  Parameter<T, D> router = {}, router_bias = {};                    // (E, C), (E); the bias may be empty
  std::vector<Parameter<T, D>> gate, up, down = {};                 // E of (F, C), (F, C), (C, F)
  std::vector<Parameter<T, D>> gate_bias, up_bias, down_bias = {};  // E of (F), (F), (C), or none
  Activation activation = Activation::silu;
  int64_t chosen = 0;
  bool renormalise = false;   // p over the chosen ones alone
  Parameter<T, D> ones = {};  // (C, 1), constant: spreads a token's p over its width

  /// `load` gets what was asked for, where the router is trained.
  Tensor<T, D> operator()(Context<D>& ctx, const Tensor<T, D>& x, RouterLoad<T, D>* load = nullptr) {
    const int64_t N = x.rows(), E = router.shape()[0];
    const auto logits = project(ctx, x, router, router_bias ? &router_bias : nullptr);  // (N, E)
    // Pairs (token, expert), a token's k of them k N apart: row k N + n of what follows.
    const std::vector<int32_t> experts = choose(contiguous(ctx, logits).to_host(ctx), N, E);  // (k N)
    std::vector<int32_t> of_pair;  // its place among the logits
    for (std::size_t i = 0; i < experts.size(); ++i)
      of_pair.push_back(static_cast<int32_t>(static_cast<int64_t>(i) % N * E) + experts[i]);
    const auto wanted = renormalise ? logits : softmax(ctx, logits);
    auto p = reshape(ctx, take_rows(ctx, reshape(ctx, wanted, {N * E, 1}), of_pair), {chosen, N});  // (k, N)
    if (renormalise) p = transpose(ctx, softmax(ctx, transpose(ctx, p)));

    std::vector<int32_t> sorted(experts.size()), back(experts.size());  // by expert, and by pair again
    std::iota(sorted.begin(), sorted.end(), 0);
    std::stable_sort(sorted.begin(), sorted.end(), [&](int32_t a, int32_t b) {
      return experts[static_cast<std::size_t>(a)] < experts[static_cast<std::size_t>(b)];
    });
    std::vector<int64_t> starts(static_cast<std::size_t>(E) + 1, 0);
    for (const int32_t e : experts) ++starts[static_cast<std::size_t>(e) + 1];
    if (load && in_use(ctx, router).trainable)
      load->add(mean_rows(ctx, renormalise ? softmax(ctx, logits) : wanted, {0, N}), {starts.begin() + 1, starts.end()},
                N);
    for (std::size_t e = 0; e < static_cast<std::size_t>(E); ++e) starts[e + 1] += starts[e];
    for (std::size_t i = 0; i < sorted.size(); ++i) back[static_cast<std::size_t>(sorted[i])] = static_cast<int32_t>(i);

    const auto rows = take_rows(ctx, std::vector(static_cast<std::size_t>(chosen), x), sorted);  // (k N, C)
    const auto h = gated(ctx, activation, grouped_project(ctx, rows, gate, starts, gate_bias),
                         grouped_project(ctx, rows, up, starts, up_bias));
    const auto each = take_rows(ctx, grouped_project(ctx, h, down, starts, down_bias), back);
    const auto weighted = mul(ctx, each, linear(ctx, reshape(ctx, p, {chosen * N, 1}), ones));  // (k N, C)
    auto y = slice(ctx, weighted, 0, 0, N);
    for (int64_t k = 1; k < chosen; ++k) y = add(ctx, y, slice(ctx, weighted, 0, k * N, (k + 1) * N));
    return y;
  }
  explicit operator bool() const { return static_cast<bool>(router); }
  void visit(const std::function<void(Parameter<T, D>&)>& f) {
    if (!router) return;
    f(router);
    if (router_bias) f(router_bias);
    for (std::size_t e = 0; e < gate.size(); ++e) {
      for (auto* w : {&gate[e], &up[e], &down[e]}) f(*w);
      if (!gate_bias.empty())
        for (auto* b : {&gate_bias[e], &up_bias[e], &down_bias[e]}) f(*b);
    }
  }

 private:
  /// Expert k of token n is element k N + n; each token's by falling logits.
  std::vector<int32_t> choose(const std::vector<T>& logits, int64_t N, int64_t E) const {
    std::vector<int32_t> all(static_cast<std::size_t>(chosen * N)), order(static_cast<std::size_t>(E));
    for (int64_t n = 0; n < N; ++n) {
      const T* const of = logits.data() + n * E;
      std::iota(order.begin(), order.end(), 0);
      std::partial_sort(order.begin(), order.begin() + chosen, order.end(), [&](int32_t a, int32_t b) {
        const auto x = static_cast<accumulate_t<T>>(of[a]), y = static_cast<accumulate_t<T>>(of[b]);
        return x > y || (x == y && a < b);
      });
      for (int64_t k = 0; k < chosen; ++k)
        all[static_cast<std::size_t>(k * N + n)] = order[static_cast<std::size_t>(k)];
    }
    return all;
  }
};

/// E sum over experts e of f_e P_e: f_e is how often a token chose e, P_e its mean probability, over the tokens of all
/// layers; least where all are asked for alike. Only P has a gradient.      arXiv:2101.03961, (4) to (6); transformers'
/// load_balancing_loss_func
template <Scalar T, Device D>
Tensor<accumulate_t<T>, D> load_balancing_loss(Context<D>& ctx, const RouterLoad<T, D>& load) {
  const auto layers = static_cast<int64_t>(load.probabilities.size()), E = static_cast<int64_t>(load.chosen.size());
  std::vector<T> weights;  // E f_e over the number of layers
  for (int64_t i = 0; i < layers * E; ++i) {
    const auto f = static_cast<double>(load.chosen[static_cast<std::size_t>(i % E)]) / static_cast<double>(load.tokens);
    weights.push_back(
        static_cast<T>(static_cast<accumulate_t<T>>(static_cast<double>(E) * f / static_cast<double>(layers))));
  }
  const auto loss = sum(ctx, mul(ctx, concat(ctx, load.probabilities), Tensor<T, D>(ctx, {layers, E}, weights)));
  if constexpr (std::same_as<T, accumulate_t<T>>) {
    return loss;
  } else {
    auto wide = convert<accumulate_t<T>>(ctx, loss);
    record(ctx, "load_balancing_loss", wide, {loss}, [id = TensorId<T>(loss)](Gradients<accumulate_t<T>, D>& g) {
      if (const View<T> d = g.assign(id)) copy(g.context(), d, g.incoming());
    });
    return wide;
  }
}

}  // namespace ft::inline FTLIB_ABI
