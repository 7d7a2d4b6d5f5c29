// tests/ops/cross_entropy.cpp: the fused LM head and loss against plain loops.
#include "../op_suite.hpp"

#include <ftlib/ops/cross_entropy.hpp>

using namespace ft;
using namespace ft::test;

namespace {
struct LinearCrossEntropy {
  int64_t N, C, V;
  int64_t chunk_bytes;
  bool frozen = false;
  static constexpr const char* name = "linear_cross_entropy";
  static std::vector<LinearCrossEntropy> shapes() {
    return {{1, 1, 2, 1 << 20},     {5, 7, 11, 1 << 20}, {6, 3, 40, 160},
            {9, 16, 33, 700, true}, {4, 5, 6, 1, true},  {3, 64, 100, 1 << 20, true}};
  }
  std::vector<int32_t> targets() const {  // some rows have none
    std::vector<int32_t> t;
    for (int64_t n = 0; n < N; ++n) t.push_back(n % 3 == 1 ? ignored_target : static_cast<int32_t>((7 * n) % V));
    return t;
  }
  std::vector<HostArray> inputs(Random& random) const {
    return {activation(random, {N, C}), parameter(random, {V, C})};
  }
  template <class T, class D> Tensor<accumulate_t<T>, D> run(Context<D>& ctx, Args<T, D>& a) const {
    a.w[0].trainable = !frozen;
    return linear_cross_entropy(ctx, a.x[0], a.w[0], targets(), chunk_bytes);
  }
  HostArray reference(const std::vector<HostArray>& in) const {
    HostArray loss{Shape{}};
    const auto t = targets();
    for (int64_t n = 0; n < N; ++n) {
      if (t[static_cast<std::size_t>(n)] == ignored_target) continue;
      double sum = 0, wanted = 0;
      for (int64_t v = 0; v < V; ++v) {
        double logit = 0;
        for (int64_t c = 0; c < C; ++c) logit += in[0][n * C + c] * in[1][v * C + c];
        sum += std::exp(logit);
        if (v == t[static_cast<std::size_t>(n)]) wanted = logit;
      }
      loss[0] += std::log(sum) - wanted;
    }
    return loss;
  }
  Tolerance16 tolerance16() const { return {.dx = 1e-4, .sums = 1e-5}; }  // logits and their gradients are rounded
};

/// The same loss of logits that are there already.
struct CrossEntropy {
  int64_t N, V;
  static constexpr const char* name = "cross_entropy";
  static std::vector<CrossEntropy> shapes() { return {{1, 2}, {5, 11}, {6, 40}, {3, 700}, {4, 9}}; }
  Tolerance16 tolerance16() const { return {.dx = 1e-4, .sums = 1e-5}; }  // probabilities are rounded, then scaled
  std::vector<int32_t> targets() const {                                  // some rows have none
    std::vector<int32_t> t;
    for (int64_t n = 0; n < N; ++n) t.push_back(n % 3 == 1 ? ignored_target : static_cast<int32_t>((7 * n) % V));
    return t;
  }
  std::vector<HostArray> inputs(Random& random) const { return {activation(random, {N, V})}; }
  template <class T, class D> Tensor<accumulate_t<T>, D> run(Context<D>& ctx, Args<T, D>& a) const {
    return cross_entropy(ctx, a.x[0], targets());
  }
  HostArray reference(const std::vector<HostArray>& in) const {
    HostArray loss{Shape{}};
    const auto t = targets();
    for (int64_t n = 0; n < N; ++n) {
      const int32_t target = t[static_cast<std::size_t>(n)];
      if (target == ignored_target) continue;
      double sum = 0;
      for (int64_t v = 0; v < V; ++v) sum += std::exp(in[0][n * V + v]);
      loss[0] += std::log(sum) - in[0][n * V + target];
    }
    return loss;
  }
};
}  // namespace

TEST_CASE("ops/cross_entropy: cross_entropy") { test_op<CrossEntropy>(); }
TEST_CASE("ops/cross_entropy: linear_cross_entropy") { test_op<LinearCrossEntropy>(); }

TEST_CASE("ops/cross_entropy: large logits do not overflow, and memory stays within the chunk") {
  Context<Cpu> ctx({.threads = 1});
  const int64_t N = 64, C = 8, V = 5000;
  Parameter<float, Cpu> w("head", Tensor<float, Cpu>::zeros(ctx, {V, C}), false);
  for (int64_t i = 0; i < w.count(); ++i) w.value.data()[i] = static_cast<float>(i % 7) * 100;
  auto h = Tensor<float, Cpu>::zeros(ctx, {N, C});
  for (int64_t i = 0; i < h.count(); ++i) h.data()[i] = 50;
  ctx.reset_peak();
  const int64_t before = ctx.memory().now;
  Tape tape(ctx);
  tape.watch(h);
  const auto loss = linear_cross_entropy(ctx, h, w, std::vector<int32_t>(static_cast<std::size_t>(N), 3), 4 * V * 4);
  tape.backward(loss);
  CHECK(std::isfinite(loss.item(ctx)));
  CHECK(ctx.memory().peak - before < N * V * 4 / 4);  // of all logits; the matrix product packs into memory of its own
}

TEST_CASE("ops/cross_entropy: targets outside the vocabulary are refused") {
  Context<Cpu> ctx;
  Parameter<float, Cpu> w("embed", Tensor<float, Cpu>::zeros(ctx, {5, 4}));
  const auto h = Tensor<float, Cpu>::zeros(ctx, {2, 4});
  CHECK_THROWS_WITH_AS(linear_cross_entropy(ctx, h, w, {0, 5}),
                       doctest::Contains("target 5 of row 1 is outside the vocabulary of 5"), Error);
  CHECK_THROWS_WITH_AS(cross_entropy(ctx, h, {0, -1}), doctest::Contains("target -1 of row 1 is outside"), Error);
  CHECK_THROWS_WITH_AS(linear_cross_entropy(ctx, h, w, {0}), doctest::Contains("1 targets do not fit h (2, 4)"), Error);
}
