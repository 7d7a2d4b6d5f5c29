// tests/cuda_emulation/loss_test.cpp: softmax cross-entropy and moved rows on the GPU beside the CPU, the same in any
// order of threads.
#include <ftlib/ops/cross_entropy.hpp>

#include "../op_suite.hpp"

using namespace ft;
using namespace ft::test;

namespace {
/// nll, and logits after it: their gradient with `gradient`. With a scale, times 0.375.
template <class T, Device D>
std::vector<Result> loss_of(Context<D>& ctx, const HostArray& logits, Layout layout, bool gradient, bool scaled) {
  const int64_t N = logits.rows(), V = logits.cols();
  std::vector<int32_t> targets;
  for (int64_t n = 0; n < N; ++n) targets.push_back(static_cast<int32_t>((n * 7919 + V - 1) % V));
  const Tensor<int32_t, D> on_device(ctx, {N}, targets);
  Tensor<T, D> x = upload<T>(ctx, logits, layout);
  Tensor<accumulate_t<T>, D> nll(ctx, {N}), scale(ctx, Shape{}, {accumulate_t<T>(0.375)}), sum(ctx, Shape{});
  const auto factor = scaled ? std::as_const(scale).view() : View<const accumulate_t<T>>{};
  softmax_cross_entropy(ctx, nll.view(), x.view(), on_device.view(), gradient, factor);
  sum_all(ctx, sum.view(), nll.view());
  const DType sums = dtype_of<accumulate_t<T>>;
  std::vector<Result> results{{"nll", sums, download(ctx, nll)}, {"their sum", sums, download(ctx, sum)}};
  if (gradient) results.push_back({"dlogits", dtype_of<T>, download(ctx, x)});
  return results;
}

/// The divergence from a teacher, which is the logits' rows the other way round, and its gradient.
template <class T, Device D>
std::vector<Result> divergence_of(Context<D>& ctx, const HostArray& logits, Layout layout, bool gradient) {
  const int64_t N = logits.rows();
  HostArray other = logits;
  std::reverse(other.values.begin(), other.values.end());
  Tensor<T, D> x = upload<T>(ctx, logits, layout), teacher = upload<T>(ctx, other, layout);
  Tensor<accumulate_t<T>, D> kl(ctx, {N}), scale(ctx, Shape{}, {accumulate_t<T>(0.375)});
  softmax_divergence(ctx, kl.view(), x.view(), teacher.view(), gradient, std::as_const(scale).view());
  std::vector<Result> results{{"kl", dtype_of<accumulate_t<T>>, download(ctx, kl)}};
  if (gradient) results.push_back({"dlogits", dtype_of<T>, download(ctx, x)});
  return results;
}

/// Rows gathered, and scattered times 0.375 over ones.
template <class T, Device D> std::vector<Result> moved(Context<D>& ctx, const HostArray& from, Layout layout) {
  const int64_t N = from.rows(), C = from.cols();
  std::vector<int32_t> rows;
  for (int64_t n = N - 1; n >= 0; n -= 2) rows.push_back(static_cast<int32_t>(n));
  const auto count = static_cast<int64_t>(rows.size());
  const Tensor<int32_t, D> at(ctx, {count}, rows);
  const Tensor<T, D> x = upload<T>(ctx, from, layout);
  const Tensor<accumulate_t<T>, D> scale(ctx, Shape{}, {accumulate_t<T>(0.375)});
  Tensor<T, D> some(ctx, {count, C}), all = upload<T>(ctx, HostArray(from.shape, 1), layout);
  gather_rows(ctx, some.view(), x.view(), at.view());
  scatter_rows(ctx, all.view(), some.view(), at.view(), scale.view());
  const HostArray scaled = download(ctx, all);
  scatter_rows(ctx, all.view(), some.view(), at.view());
  const DType type = dtype_of<T>;
  return {{"gathered", type, download(ctx, some)},
          {"scattered, times 0.375", type, scaled},
          {"scattered", type, download(ctx, all)}};
}

/// f(T, context, array, layout) on the GPU against float on the CPU, in float and in bfloat16.
template <class F> void beside_cpu(const HostArray& x, F f, double tolerance16 = Tolerance16::nearest) {
  Context<Cpu> cpu({.threads = 1});
  for (const Layout layout : {Layout::contiguous, Layout::unaligned}) {
    INFO(x.shape, layout == Layout::contiguous ? " contiguous" : " unaligned");
    const auto expected = f(float(), cpu, x, layout), expected16 = f(float(), cpu, rounded<bfloat16>(x), layout);
    std::vector<Result> first;
    for (const uint64_t seed : {1u, 2u}) {
      cuda_emulation::set_seed(seed);
      Context<Cuda> ctx;
      const auto got = f(float(), ctx, x, layout), got16 = f(bfloat16(), ctx, rounded<bfloat16>(x), layout);
      for (std::size_t i = 0; i < got.size(); ++i) {
        CHECK(difference<float>(got[i], expected[i], 1e-7, seed) == "");
        const double tolerance = got16[i].type == DType::f32 ? 1e-9 : tolerance16;
        CHECK(difference<bfloat16>(got16[i], expected16[i], tolerance, seed) == "");
        if (seed == 1) first = got;
        else if (got[i].array.values != first[i].array.values)
          CHECK(difference<float>(got[i], first[i], 0, seed) == "the same as with seed 1");
      }
    }
  }
}
}  // namespace

TEST_CASE("cuda/loss: softmax cross-entropy and its gradient, for rows of any length and address") {
  Random random(3);
  for (const Shape& shape : {Shape{1, 1}, Shape{1, 2}, Shape{3, 7}, Shape{5, 65}, Shape{4, 256}, Shape{2, 4099},
                             Shape{1, 16384}, Shape{3, 20001}}) {
    const HostArray logits = activation(random, shape, 4);
    for (const bool gradient : {false, true})
      for (const bool scaled : {false, true})
        beside_cpu(logits, [=](auto t, auto& ctx, const HostArray& x, Layout layout) {
          return loss_of<decltype(t)>(ctx, x, layout, gradient, scaled);
        });
  }
}

TEST_CASE("cuda/loss: divergence from a teacher and its gradient, for rows of any length and address") {
  Random random(5);
  for (const Shape& shape : {Shape{1, 1}, Shape{1, 2}, Shape{3, 7}, Shape{5, 65}, Shape{4, 256}, Shape{2, 4099}}) {
    const HostArray logits = activation(random, shape, 4);
    for (const bool gradient : {false, true})
      beside_cpu(
          logits,
          [=](auto t, auto& ctx, const HostArray& x, Layout layout) {
            return divergence_of<decltype(t)>(ctx, x, layout, gradient);
          },
          1e-5);  // a difference of two probabilities, which may all but vanish
  }
}

TEST_CASE("cuda/loss: large logits do not overflow; one that is infinite or no number shows") {
  Context<Cuda> ctx;
  HostArray logits({3, 300}, -1e30);
  for (int64_t v = 0; v < 300; ++v) logits[v] = v % 3 ? -INFINITY : 1e4;  // 100 equal ones
  logits[300 + 299] = 3e38;
  logits[600 + 17] = NAN;
  const auto got = loss_of<float>(ctx, logits, Layout::contiguous, true, false);
  CHECK(got[0].array[0] == INFINITY);  // its target's logit is -infinity
  CHECK(got[2].array[0] == doctest::Approx(0.01));
  CHECK(got[2].array[1] == 0);
  CHECK(got[2].array[300] == 0);
  CHECK(std::isnan(got[0].array[2]));
  CHECK(std::isnan(got[2].array[600]));
}

TEST_CASE("cuda/loss: rows gathered and scattered") {
  Random random(4);
  for (const Shape& shape : {Shape{1, 1}, Shape{3, 7}, Shape{9, 64}, Shape{34, 65}, Shape{11, 576}})
    beside_cpu(activation(random, shape),
               [](auto t, auto& ctx, const HostArray& x, Layout layout) { return moved<decltype(t)>(ctx, x, layout); });
}
