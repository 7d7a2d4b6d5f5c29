// tests/ops/dora.cpp: what DoRA needs beside LoRA's product, against plain loops: norms of rows, scaled columns.
#include "../op_suite.hpp"

#include <ftlib/ops/dora.hpp>
#include <ftlib/tensor/quantise.hpp>

using namespace ft;
using namespace ft::test;

namespace {
struct ScaleColumns {
  int64_t N, C;
  bool bias = true;
  static constexpr const char* name = "scale_columns";
  Tolerance16 tolerance16() const { return {.y = 1e-4, .dx = 1e-4, .sums = 1e-5}; }  // factors and products are rounded
  static std::vector<ScaleColumns> shapes() { return {{1, 1}, {3, 65}, {7, 24, false}, {5, 128}, {2, 3}}; }
  double constant(int64_t c) const { return 0.25 * static_cast<double>(c % 7 + 1); }
  std::vector<HostArray> inputs(Random& random) const {
    return {activation(random, {N, C}), parameter(random, {C}), parameter(random, {C})};
  }
  template <class T, class D> Tensor<T, D> run(Context<D>& ctx, Args<T, D>& a) const {
    std::vector<accumulate_t<T>> r;
    for (int64_t c = 0; c < C; ++c) r.push_back(static_cast<accumulate_t<T>>(constant(c)));
    return scale_columns(ctx, a.x[0], a.w[0], Tensor<accumulate_t<T>, D>(ctx, {C}, r), bias ? &a.w[1] : nullptr);
  }
  HostArray reference(const std::vector<HostArray>& in) const {
    HostArray y({N, C});
    for (int64_t n = 0; n < N; ++n)
      for (int64_t c = 0; c < C; ++c) y[n * C + c] = in[0][n * C + c] * in[1][c] * constant(c) + (bias ? in[2][c] : 0);
    return y;
  }
};
}  // namespace

TEST_CASE("ops/dora: scale_columns") { test_op<ScaleColumns>(); }

TEST_CASE("ops/dora: norms of the rows of W + s B A, of stored weights too, in chunks, and of a row of zeros") {
  Context<Cpu> ctx({.threads = 2});
  ctx.poison(true);
  Random random(4);
  const int64_t out = 7, in = 64, R = 3;
  auto w = activation(random, {out, in}), a = activation(random, {R, in}), b = activation(random, {out, R});
  for (int64_t i = 0; i < in; ++i) w[2 * in + i] = 0;
  for (int64_t r = 0; r < R; ++r) b[2 * R + r] = 0;
  for (const DType type : {DType::f32, DType::q8_0, DType::q4_1}) {
    CAPTURE(type);
    auto bytes = std::make_shared<std::vector<std::byte>>(static_cast<std::size_t>(storage_bytes(type, out * in)));
    std::vector<float> values;
    for (int64_t i = 0; i < out * in; ++i) values.push_back(static_cast<float>(w[i]));
    quantise_row(type, values.data(), out * in, bytes->data());
    dequantise_row(type, bytes->data(), 0, out * in, values.data());
    Parameter<float, Cpu> W, A("a", upload<float>(ctx, a)), B("b", upload<float>(ctx, b));
    W.stored = {type, {out, in}, bytes->data(), bytes};
    for (const int64_t chunk : {int64_t{1}, 3 * in * 4, int64_t{1} << 20}) {
      const auto got = inverse_row_norms(ctx, W, A, B, 0.5f, chunk).to_host(ctx);
      for (int64_t o = 0; o < out; ++o) {
        double sum = 0;
        for (int64_t i = 0; i < in; ++i) {
          double v = static_cast<double>(values[static_cast<std::size_t>(o * in + i)]);
          for (int64_t r = 0; r < R; ++r) v += 0.5 * b[o * R + r] * a[r * in + i];
          sum += v * v;
        }
        if (o == 2) CHECK(std::isfinite(got[2]));
        else CHECK(double{got[static_cast<std::size_t>(o)]} * std::sqrt(sum) == doctest::Approx(1).epsilon(1e-5));
      }
    }
  }
}

TEST_CASE("ops/dora: shapes that do not fit are refused by name") {
  Context<Cpu> ctx;
  Parameter<float, Cpu> m("q.lora_magnitude_vector", Tensor<float, Cpu>::zeros(ctx, {4}));
  const auto x = Tensor<float, Cpu>::zeros(ctx, {2, 3}), r = Tensor<float, Cpu>::zeros(ctx, {3});
  CHECK_THROWS_WITH_AS(scale_columns(ctx, x, m, r),
                       doctest::Contains("x (2, 3) does not fit m (4) 'q.lora_magnitude_vector'"), Error);
}
