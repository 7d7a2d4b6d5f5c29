// tests/ops/cross_entropy.cpp: the fused LM head and loss against plain loops.
#include "../op_suite.hpp"

#include <ftlib/ops/cross_entropy.hpp>
#include <ftlib/ops/divergence.hpp>

using namespace ft;
using namespace ft::test;

namespace {
struct LinearCrossEntropy {
  int64_t N, C, V;
  int64_t chunk_bytes;
  bool frozen = false;
  float cap = 0;
  static constexpr const char* name = "linear_cross_entropy";
  static std::vector<LinearCrossEntropy> shapes() {
    return {{1, 1, 2, 1 << 20}, {5, 7, 11, 1 << 20},         {6, 3, 40, 160},           {9, 16, 33, 700, true},
            {4, 5, 6, 1, true}, {3, 64, 100, 1 << 20, true}, {6, 5, 21, 300, false, 2}, {5, 16, 33, 400, true, 4}};
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
    return linear_cross_entropy(ctx, a.x[0], a.w[0], targets(), chunk_bytes, cap);
  }
  double row_loss(const std::vector<HostArray>& in, int64_t n) const {
    const int32_t target = targets()[static_cast<std::size_t>(n)];
    if (target == ignored_target) return 0;
    double sum = 0, wanted = 0;
    for (int64_t v = 0; v < V; ++v) {
      double logit = 0;
      for (int64_t c = 0; c < C; ++c) logit += in[0][n * C + c] * in[1][v * C + c];
      if (cap > 0) logit = double{cap} * std::tanh(logit / double{cap});
      sum += std::exp(logit);
      if (v == target) wanted = logit;
    }
    return std::log(sum) - wanted;
  }
  HostArray reference(const std::vector<HostArray>& in) const {
    HostArray loss{Shape{}};
    for (int64_t n = 0; n < N; ++n) loss[0] += row_loss(in, n);
    return loss;
  }
  Tolerance16 tolerance16() const { return {.dx = 1e-4, .sums = 1e-5}; }  // logits and their gradients are rounded
};

/// The same of groups of rows, of which some have no target, and one no row.
struct LinearCrossEntropyByGroup : LinearCrossEntropy {
  static constexpr const char* name = "linear_cross_entropy_by_group";
  static std::vector<LinearCrossEntropyByGroup> shapes() {
    std::vector<LinearCrossEntropyByGroup> out;
    for (const auto& shape : LinearCrossEntropy::shapes()) out.push_back({shape});
    return out;
  }
  std::vector<int64_t> starts() const { return {0, 0, N / 3, N / 3 + (N > 1), std::max<int64_t>(N - 1, 1), N}; }
  template <class T, class D> Tensor<accumulate_t<T>, D> run(Context<D>& ctx, Args<T, D>& a) const {
    a.w[0].trainable = !frozen;
    return linear_cross_entropy_by_group(ctx, a.x[0], a.w[0], targets(), starts(), chunk_bytes, cap);
  }
  HostArray reference(const std::vector<HostArray>& in) const {
    HostArray sums{Shape{static_cast<int64_t>(starts().size()) - 1}};
    for (int64_t g = 0; g < sums.count(); ++g)
      for (int64_t n = starts()[static_cast<std::size_t>(g)]; n < starts()[static_cast<std::size_t>(g) + 1]; ++n)
        sums[g] += row_loss(in, n);
    return sums;
  }
  Tolerance16 tolerance16() const { return {.dx = 4e-4, .sums = 1e-5}; }  // a row's rounding weighs as its group's dy
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

/// Of values that bfloat16 holds exactly.
HostArray in_steps(HostArray a) {
  for (double& v : a.values) v = std::clamp(std::round(v * 32) / 32, -3.0, 3.0);
  return a;
}

/// The sum over rows of KL(softmax(p) || softmax(q)), of logits.
double divergence_of(const HostArray& q, const HostArray& p) {
  double all = 0;
  for (int64_t n = 0; n < q.rows(); ++n) {
    double of_q = 0, of_p = 0;
    for (int64_t v = 0; v < q.cols(); ++v) {
      of_q += std::exp(q[n * q.cols() + v]);
      of_p += std::exp(p[n * q.cols() + v]);
    }
    for (int64_t v = 0; v < q.cols(); ++v) {
      const double log_p = p[n * q.cols() + v] - std::log(of_p), log_q = q[n * q.cols() + v] - std::log(of_q);
      all += std::exp(log_p) * (log_p - log_q);
    }
  }
  return all;
}

/// From a teacher's logits, which get no gradient.
struct Divergence {
  int64_t N, V;
  static constexpr const char* name = "divergence";
  static std::vector<Divergence> shapes() { return {{1, 2}, {5, 11}, {6, 40}, {3, 700}, {4, 9}}; }
  Tolerance16 tolerance16() const { return {.dx = 1e-4, .sums = 1e-5}; }
  HostArray teacher() const {
    Random random(11);
    return in_steps(activation(random, {N, V}));
  }
  std::vector<HostArray> inputs(Random& random) const { return {activation(random, {N, V})}; }
  template <class T, class D> Tensor<accumulate_t<T>, D> run(Context<D>& ctx, Args<T, D>& a) const {
    return divergence(ctx, a.x[0], upload<T>(ctx, teacher(), Layout::contiguous));
  }
  HostArray reference(const std::vector<HostArray>& in) const {
    return HostArray(Shape{}, divergence_of(in[0], teacher()));
  }
};

/// The same through a head that is frozen.
struct LinearDivergence {
  int64_t N, C, V;
  int64_t chunk_bytes;
  float cap = 0;
  static constexpr const char* name = "linear_divergence";
  static std::vector<LinearDivergence> shapes() {
    return {{1, 1, 2, 1 << 20}, {5, 7, 11, 1 << 20},   {6, 3, 40, 700},
            {9, 16, 33, 1},     {3, 64, 100, 1 << 20}, {6, 5, 21, 300, 2}};
  }
  Tolerance16 tolerance16() const { return {.dx = 1e-3, .sums = 1e-3}; }  // two sets of logits are rounded
  HostArray of_seed(uint64_t seed, Shape shape) const {
    Random random(seed);
    return in_steps(parameter(random, shape));
  }
  std::vector<HostArray> inputs(Random& random) const { return {activation(random, {N, C})}; }
  template <class T, class D> Tensor<accumulate_t<T>, D> run(Context<D>& ctx, Args<T, D>& a) const {
    const Parameter<T, D> w("head", upload<T>(ctx, of_seed(5, {V, C}), Layout::contiguous), false);
    return linear_divergence(ctx, a.x[0], w, upload<T>(ctx, of_seed(7, {N, C}), Layout::contiguous), chunk_bytes, cap);
  }
  HostArray reference(const std::vector<HostArray>& in) const {
    const HostArray w = of_seed(5, {V, C}), teacher = of_seed(7, {N, C});
    HostArray q({N, V}), p({N, V});
    for (int64_t n = 0; n < N; ++n)
      for (int64_t v = 0; v < V; ++v)
        for (int64_t c = 0; c < C; ++c) {
          q[n * V + v] += in[0][n * C + c] * w[v * C + c];
          p[n * V + v] += teacher[n * C + c] * w[v * C + c];
        }
    if (cap > 0)
      for (HostArray* logits : {&q, &p})
        for (double& v : logits->values) v = double{cap} * std::tanh(v / double{cap});
    return HostArray(Shape{}, divergence_of(q, p));
  }
};
}  // namespace

TEST_CASE("ops/divergence: divergence") { test_op<Divergence>(); }
TEST_CASE("ops/divergence: linear_divergence") { test_op<LinearDivergence>(); }
TEST_CASE("ops/divergence: what does not fit is refused, and nothing is lost between equals") {
  Context<Cpu> ctx;
  Parameter<float, Cpu> w("embed", Tensor<float, Cpu>::zeros(ctx, {5, 4}), false);
  const auto h = Tensor<float, Cpu>::zeros(ctx, {2, 4}), other = Tensor<float, Cpu>::zeros(ctx, {3, 4});
  CHECK(linear_divergence(ctx, h, w, h).item(ctx) == 0);
  CHECK_THROWS_WITH_AS(divergence(ctx, h, other), doctest::Contains("logits (2, 4), the teacher's (3, 4)"), Error);
  CHECK_THROWS_WITH_AS(linear_divergence(ctx, h, w, other), doctest::Contains("h (2, 4), the teacher's (3, 4)"), Error);
  w.trainable = true;
  CHECK_THROWS_WITH_AS(linear_divergence(ctx, h, w, h), doctest::Contains("embed is trained"), Error);
}
TEST_CASE("ops/cross_entropy: cross_entropy") { test_op<CrossEntropy>(); }
TEST_CASE("ops/cross_entropy: linear_cross_entropy") { test_op<LinearCrossEntropy>(); }
TEST_CASE("ops/cross_entropy: linear_cross_entropy_by_group") { test_op<LinearCrossEntropyByGroup>(); }
TEST_CASE("ops/cross_entropy: groups that do not part the rows are refused") {
  Context<Cpu> ctx;
  Parameter<float, Cpu> w("embed", Tensor<float, Cpu>::zeros(ctx, {5, 4}));
  const auto h = Tensor<float, Cpu>::zeros(ctx, {3, 4});
  for (const std::vector<int64_t>& starts : {std::vector<int64_t>{}, {0, 2}, {1, 3}, {0, 2, 1, 3}})
    CHECK_THROWS_WITH_AS(linear_cross_entropy_by_group(ctx, h, w, {0, 1, 2}, starts),
                         doctest::Contains("starts do not part h (3, 4)"), Error);
}

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
