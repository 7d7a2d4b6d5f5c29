// tests/ops/linear.cpp: linear, plain and with LoRA, dense and quantised, against plain loops.
#include "../op_suite.hpp"

#include <ftlib/adapters/lora.hpp>
#include <ftlib/tensor/quantise.hpp>

using namespace ft;
using namespace ft::test;

namespace {
/// y = x W^T + b
HostArray product(const HostArray& x, const HostArray& w, const HostArray* b = nullptr) {
  HostArray y(detail::with_last(x.shape, w.shape[0]));
  for (int64_t n = 0; n < x.rows(); ++n)
    for (int64_t o = 0; o < w.shape[0]; ++o) {
      double sum = b ? (*b)[o] : 0;
      for (int64_t i = 0; i < w.cols(); ++i) sum += x[n * x.cols() + i] * w[o * w.cols() + i];
      y[n * w.shape[0] + o] = sum;
    }
  return y;
}

struct LinearOp {
  int64_t N, in, out;
  bool bias = false;
  static constexpr const char* name = "linear";
  static std::vector<LinearOp> shapes() {
    return {{1, 1, 1},         {3, 5, 7, true}, {17, 33, 19},
            {2, 64, 96, true}, {9, 31, 1},      {300, 3, 5, true}};  // rows in several parts, each of many additions
  }
  std::vector<HostArray> inputs(Random& random) const {
    std::vector<HostArray> all{activation(random, {N, in}), parameter(random, {out, in})};
    if (bias) all.push_back(parameter(random, {out}));
    return all;
  }
  template <class T, class D> Tensor<T, D> run(Context<D>& ctx, Args<T, D>& a) const {
    return linear(ctx, a.x[0], a.w[0], bias ? &a.w[1] : nullptr);
  }
  HostArray reference(const std::vector<HostArray>& in_) const {
    return product(in_[0], in_[1], bias ? &in_[2] : nullptr);
  }
  double tolerance() const { return 1e-11; }
};

struct LoraLinear {
  int64_t N, in, out, rank;
  static constexpr const char* name = "lora_linear";
  static std::vector<LoraLinear> shapes() {
    return {{1, 1, 1, 1}, {3, 5, 7, 2}, {17, 33, 19, 4}, {2, 64, 96, 16}, {9, 31, 1, 3}};
  }
  std::vector<HostArray> inputs(Random& random) const {
    return {activation(random, {N, in}), parameter(random, {out, in}), parameter(random, {rank, in}),
            parameter(random, {out, rank}), parameter(random, {out})};
  }
  template <class T, class D> Tensor<T, D> run(Context<D>& ctx, Args<T, D>& a) const {
    return lora_linear(ctx, a.x[0], a.w[0], a.w[1], a.w[2], 0.5f, &a.w[3]);
  }
  HostArray reference(const std::vector<HostArray>& in_) const {
    HostArray y = product(in_[0], in_[1], &in_[4]);
    const HostArray low = product(product(in_[0], in_[2]), in_[3]);
    for (int64_t i = 0; i < y.count(); ++i) y[i] += 0.5 * low[i];
    return y;
  }
  double tolerance() const { return 1e-11; }
  // Its parts are rounded before they are added, and may cancel; x A^T is kept as it was rounded.
  Tolerance16 tolerance16() const { return {.y = 1e-3, .dx = 1e-4, .sums = 1e-5}; }
};
}  // namespace

TEST_CASE("ops/linear: linear") { test_op<LinearOp>(); }
TEST_CASE("ops/linear: lora_linear") { test_op<LoraLinear>(); }

TEST_CASE("ops/linear: a frozen weight in any stored type gives the gradient of its dequantised values") {
  Context<Cpu> ctx({.threads = 2});
  ctx.poison(true);
  Random random(4);
  const int64_t N = 5, in = 256, out = 96;
  for (const DType type : {DType::q8_0, DType::q4_0, DType::q4_1}) {
    CAPTURE(info(type).name);
    const HostArray x = activation(random, {N, in}), w = activation(random, {out, in}),
                    dy = activation(random, {N, out});
    auto bytes = std::make_shared<std::vector<std::byte>>(static_cast<std::size_t>(storage_bytes(type, out * in)));
    std::vector<float> row(static_cast<std::size_t>(in));
    HostArray exact({out, in});
    for (int64_t o = 0; o < out; ++o) {
      for (int64_t i = 0; i < in; ++i) row[static_cast<std::size_t>(i)] = static_cast<float>(w[o * in + i]);
      std::byte* at = bytes->data() + storage_bytes(type, o * in);
      quantise_row(type, row.data(), in, at);
      dequantise_row(type, at, 0, in, row.data());
      for (int64_t i = 0; i < in; ++i) exact[o * in + i] = static_cast<double>(row[static_cast<std::size_t>(i)]);
    }
    Parameter<float, Cpu> p;
    p.name = "w";
    p.stored = {type, {out, in}, bytes->data(), bytes};
    auto xs = upload<float>(ctx, x);
    Tape tape(ctx);
    tape.watch(xs);
    const auto y = linear(ctx, xs, p);
    CHECK(nmse(download(ctx, y), product(x, exact)) <= 1e-10);
    tape.backward(y, upload<float>(ctx, dy));
    HostArray dx({N, in});
    for (int64_t n = 0; n < N; ++n)
      for (int64_t i = 0; i < in; ++i)
        for (int64_t o = 0; o < out; ++o) dx[n * in + i] += dy[n * out + o] * exact[o * in + i];
    CHECK(nmse(download(ctx, tape.gradient(xs)), dx) <= 1e-10);
  }
}

TEST_CASE("ops/linear: LoRA with dropout has the gradients of its differences, and none is dropped outside training") {
  Context<Cpu> ctx({.threads = 2, .seed = 3});
  Random random(5);
  Parameter<double, Cpu> w("w.weight", upload<double>(ctx, activation(random, {6, 8})), false);
  LoraAdapter<double, Cpu> lora(ctx, w, {.rank = 3, .alpha = 6, .dropout = 0.5f}, &random);
  lora.b.value = upload<double>(ctx, activation(random, {6, 3}));
  const auto run = [&](Context<Cpu>& c, std::vector<Tensor<double, Cpu>>& xs) {
    // Differences are taken without a tape, where nothing is dropped: a tape that records nothing makes it drop.
    Tape<Cpu>* outer = c.tape();
    if (outer) return lora.linear(c, xs[0], w, nullptr, 1);
    Tape<Cpu> tape(c);
    return lora.linear(c, xs[0], w, nullptr, 1).detached();
  };
  std::vector<Parameter<double, Cpu>*> ws{&lora.a, &lora.b};
  CHECK(gradcheck(ctx, run, {upload<double>(ctx, activation(random, {4, 8}))},
                  std::span<Parameter<double, Cpu>* const>(ws)) == "");
  const auto x = upload<double>(ctx, activation(random, {4, 8}));
  CHECK(lora.linear(ctx, x, w, nullptr, 1).to_host(ctx) ==
        lora_linear(ctx, x, w, lora.a, lora.b, lora.scale).to_host(ctx));
}

TEST_CASE("ops/linear: shapes that do not fit are refused by name") {
  Context<Cpu> ctx;
  Parameter<float, Cpu> w("blk.w", Tensor<float, Cpu>::zeros(ctx, {5, 4})),
      bias("b", Tensor<float, Cpu>::zeros(ctx, {4}));
  const auto x = Tensor<float, Cpu>::zeros(ctx, {2, 3}), ok = Tensor<float, Cpu>::zeros(ctx, {2, 4});
  CHECK_THROWS_WITH_AS(linear(ctx, x, w),
                       doctest::Contains("linear: x (2, 3) does not fit weight (5, 4) float32 'blk.w'"), Error);
  CHECK_THROWS_WITH_AS(linear(ctx, ok, w, &bias), doctest::Contains("bias (4) 'b' does not fit"), Error);
  Parameter<float, Cpu> a("a", Tensor<float, Cpu>::zeros(ctx, {2, 4})), b("b", Tensor<float, Cpu>::zeros(ctx, {5, 3}));
  CHECK_THROWS_WITH_AS(lora_linear(ctx, ok, w, a, b, 1.0f), doctest::Contains("A (2, 4) and B (5, 3) do not fit"),
                       Error);
}
