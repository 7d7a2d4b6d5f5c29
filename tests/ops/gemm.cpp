// tests/ops/gemm.cpp: the matrix product against a plain triple loop in double: sizes, strides, types, threads.
#include <ftlib/ops/linear.hpp>       // gemm
#include <ftlib/tensor/quantise.hpp>  // quantise_row

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <memory>
#include <vector>

using namespace ft;

namespace {
/// An array of exactly n elements on the heap, so that AddressSanitizer sees the first step beyond it.
template <class T> struct Exact {
  std::unique_ptr<T[]> data;
  int64_t size;
  explicit Exact(int64_t n) : data(new T[static_cast<std::size_t>(n)]), size(n) {}
  T& operator[](int64_t i) { return data[static_cast<std::size_t>(i)]; }
  const T& operator[](int64_t i) const { return data[static_cast<std::size_t>(i)]; }
  T* get() const { return data.get(); }
};
template <class T> Exact<T> normal(Random& random, int64_t n) {
  Exact<T> x(n);
  for (int64_t i = 0; i < n; ++i) x[i] = static_cast<T>(random.normal());
  return x;
}

/// Random blocks of a type whose values are about one, shifted by one byte: no alignment is promised.
Exact<std::byte> blocks(Random& random, DType type, int64_t count) {
  const int64_t size = storage_bytes(type, count);
  Exact<std::byte> data(size + 1);
  const auto put = [&](int64_t at, half h) { std::memcpy(data.get() + 1 + at, &h, sizeof h); };
  if (!is_quantised(type)) {
    const auto x = normal<float>(random, count);
    quantise_row(type, x.get(), count, data.get() + 1);
    return data;
  }
  for (int64_t i = 0; i < size; ++i) data[i + 1] = static_cast<std::byte>(random.word() & 255);
  for (int64_t i = 0; i < size; i += info(type).bytes) {
    const auto scale = [&](double unit) { return half(static_cast<float>(unit * random.normal())); };
    if (type == DType::q6_k) put(i + 208, scale(1e-3));
    else
      put(i, scale(type == DType::nf4                           ? 1
                   : type == DType::q8_0                        ? 0.01
                   : type == DType::q4_k || type == DType::q5_k ? 2e-3
                                                                : 0.1));
    if (type == DType::q4_1 || type == DType::q5_1) put(i + 2, scale(1));
    if (type == DType::q4_k || type == DType::q5_k) put(i + 2, scale(0.02));
  }
  return data;
}

struct Case {
  int64_t M, N, K;
  Write write = Write::assign;
  double alpha = 1;
  bool bias = false;
};

/// One product against the loop. `b_at(k, n)` gives B's element in double; C has gaps between its rows that must stay.
template <class T, class B, class At>
void check(Context<Cpu>& ctx, const Case& test, bool transpose_a, const B& b, At b_at) {
  const int64_t M = test.M, N = test.N, K = test.K;
  const Write write = test.write;
  const double alpha = test.alpha;
  const bool with_bias = test.bias;
  INFO(str("M ", M, " N ", N, " K ", K, " threads ", ctx.threads(), transpose_a ? " A^T" : "", " alpha ", alpha,
           write == Write::add ? " add" : "", with_bias ? " bias" : ""));
  Random random(5);
  const auto a = normal<T>(random, M * K), bias = normal<T>(random, N);
  const DenseOperand<T> A = transpose_a ? DenseOperand<T>{a.get(), 1, M} : DenseOperand<T>{a.get(), K, 1};
  const int64_t stride = N + 3;
  const int64_t size = M == 0 ? 0 : (M - 1) * stride + N;
  auto c = normal<T>(random, size);
  Exact<T> before(size);
  std::copy(c.get(), c.get() + size, before.get());
  if (write == Write::assign)  // what must be overwritten is poison
    for (int64_t m = 0; m < M; ++m) std::fill_n(c.get() + m * stride, N, std::numeric_limits<T>::quiet_NaN());

  gemm(ctx, write, M, N, K, c.get(), stride, A, b, static_cast<T>(alpha), with_bias ? bias.get() : nullptr);

  double worst = 0;
  int64_t strays = 0;
  const double unit = std::is_same_v<T, float> ? 6e-8 : 1.1e-16;
  for (int64_t i = 0; i < size; ++i) {
    const int64_t m = i / stride, n = i % stride;
    if (n >= N) {
      strays += c[i] != before[i];
      continue;
    }
    double sum = 0, magnitude = 0;
    for (int64_t k = 0; k < K; ++k) {
      const double product = static_cast<double>(transpose_a ? a[k * M + m] : a[m * K + k]) * b_at(k, n);
      sum += product;
      magnitude += std::abs(product);
    }
    double expected = static_cast<T>(alpha) * sum;
    magnitude *= std::abs(alpha);
    for (const double term :
         {write == Write::add ? static_cast<double>(before[i]) : 0.0, with_bias ? static_cast<double>(bias[n]) : 0.0}) {
      expected += term;
      magnitude += std::abs(term);
    }
    // Rounding: at most about K units of the sum of magnitudes, in practice its root.
    const double allowed = unit * (4 + 2 * std::sqrt(static_cast<double>(K))) * magnitude + 1e-300;
    const double error = std::abs(static_cast<double>(c[i]) - expected) / allowed;
    worst = std::isfinite(error) ? std::max(worst, error) : INFINITY;
  }
  CHECK(worst <= 1.0);
  CHECK(strays == 0);
}

template <class T> void check_dense(Context<Cpu>& ctx, const Case& test) {
  Random random(9);
  const auto b = normal<T>(random, test.K * test.N);
  for (const bool transpose_a : {false, true}) {
    check<T>(ctx, test, transpose_a, DenseOperand<T>{b.get(), test.N, 1},
             [&](int64_t k, int64_t n) { return static_cast<double>(b[k * test.N + n]); });
    check<T>(ctx, test, transpose_a, DenseOperand<T>{b.get(), 1, test.K},
             [&](int64_t k, int64_t n) { return static_cast<double>(b[n * test.K + k]); });
  }
}

template <class T> void check_stored(Context<Cpu>& ctx, DType type, const Case& test, Transpose transpose) {
  INFO(str(info(type).name, transpose == Transpose::yes ? " W^T" : " W"));
  Random random(11);
  const bool yes = transpose == Transpose::yes;
  const int64_t rows = yes ? test.N : test.K, cols = yes ? test.K : test.N;
  const auto w = blocks(random, type, rows * cols);
  Exact<T> values(rows * cols);
  dequantise_row(type, w.get() + 1, 0, rows * cols, values.get());
  check<T>(ctx, test, false, StoredOperand{type, w.get() + 1, rows, cols, transpose}, [&](int64_t k, int64_t n) {
    return static_cast<double>(yes ? values[n * cols + k] : values[k * cols + n]);
  });
}

constexpr DType all_types[] = {DType::f32,  DType::f64,  DType::f16,  DType::bf16, DType::q8_0,
                               DType::q4_0, DType::q4_1, DType::q5_0, DType::q5_1, DType::q4_k,
                               DType::q5_k, DType::q6_k, DType::nf4};
}  // namespace

TEST_CASE("ops/gemm: dense operands in any order, odd sizes, one and two threads") {
  const std::vector<Case> cases{{1, 1, 1},
                                {1, 1, 0},
                                {3, 5, 0, Write::add, 1, true},
                                {3, 5, 0, Write::assign, 1, true},
                                {0, 4, 3},
                                {4, 0, 3},
                                {2, 3, 5},
                                {5, 16, 7, Write::add},
                                {6, 17, 8, Write::assign, 0.5, true},
                                {9, 33, 31},
                                {13, 31, 40, Write::add, -2, true},
                                {64, 64, 64},
                                {129, 65, 321, Write::add, 0.25, true},
                                {67, 130, 700},
                                {300, 100, 37, Write::assign, 1, true},
                                {20, 2100, 400, Write::add, 1, true}};
  for (const int threads : {1, 2, 3}) {
    Context<Cpu> ctx({.threads = threads});
    ctx.poison(true);
    for (const Case& test : cases) {
      check_dense<float>(ctx, test);
      check_dense<double>(ctx, test);
    }
  }
}

TEST_CASE("ops/gemm: one to nine rows") {
  for (const int threads : {1, 2}) {
    Context<Cpu> ctx({.threads = threads});
    ctx.poison(true);
    for (int64_t M = 1; M <= 9; ++M)
      for (const int64_t K : {1, 31, 100, 576}) {
        const Case test{M, 301, K, M % 2 ? Write::add : Write::assign, M % 3 ? 1.0 : 0.5, M % 4 < 2};
        check_dense<float>(ctx, test);
        check_dense<double>(ctx, test);
      }
  }
}

TEST_CASE("ops/gemm: weights of every stored type, both ways round") {
  for (const int threads : {1, 2}) {
    Context<Cpu> ctx({.threads = threads});
    ctx.poison(true);
    for (const DType type : all_types) {
      const int64_t block = info(type).block;
      for (const int64_t M : {1, 2, 3, 5, 8, 9, 37}) {
        const Case test{M,   77,  block == 1 ? 333 : block == 32 ? 352 : 512, M % 2 ? Write::add : Write::assign,
                        0.5, true};
        check_stored<float>(ctx, type, test, Transpose::yes);
        check_stored<double>(ctx, type, test, Transpose::yes);
        const Case back{M, test.K, 77, test.write, 1, false};
        check_stored<float>(ctx, type, back, Transpose::no);
        check_stored<double>(ctx, type, back, Transpose::no);
      }
      check_stored<float>(ctx, type, {70, 600, 768}, Transpose::yes);
      check_stored<float>(ctx, type, {70, 768, 600}, Transpose::no);
    }
  }
}

TEST_CASE("ops/gemm: the same call gives the same bits") {
  Context<Cpu> ctx({.threads = 2});
  Random random(1);
  const int64_t M = 130, N = 200, K = 500;
  const auto a = normal<float>(random, M * K), b = normal<float>(random, K * N);
  std::vector<float> first(static_cast<std::size_t>(M * N)), again(first.size());
  gemm(ctx, Write::assign, M, N, K, first.data(), N, {a.get(), K, 1}, DenseOperand<float>{b.get(), N, 1});
  for (int i = 0; i < 20; ++i) {
    gemm(ctx, Write::assign, M, N, K, again.data(), N, {a.get(), K, 1}, DenseOperand<float>{b.get(), N, 1});
    REQUIRE(again == first);
  }
}

TEST_CASE("ops/gemm: inside another parallel loop it works alone") {
  Context<Cpu> ctx({.threads = 2});
  Random random(1);
  const int64_t n = 80;
  const auto a = normal<float>(random, n * n), b = normal<float>(random, n * n);
  std::vector<float> expected(static_cast<std::size_t>(n * n)), c(4 * expected.size());
  const DenseOperand<float> A{a.get(), n, 1}, B{b.get(), n, 1};
  gemm(ctx, Write::assign, n, n, n, expected.data(), n, A, B);
  parallel_for(ctx.pool(), 4, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) gemm(ctx, Write::assign, n, n, n, c.data() + i * n * n, n, A, B);
  });
  double worst = 0;
  for (std::size_t i = 0; i < c.size(); ++i)
    worst = std::max(worst, static_cast<double>(std::abs(c[i] - expected[i % expected.size()])));
  CHECK(worst < 1e-4);
}

TEST_CASE("ops/gemm: a stored weight that does not fit is refused with its shape") {
  Context<Cpu> ctx({.threads = 1});
  std::vector<std::byte> w(1024);
  std::vector<float> a(64), c(64);
  CHECK_THROWS_WITH_AS(gemm(ctx, Write::assign, 2, 4, 32, c.data(), 4, {a.data(), 32, 1},
                            StoredOperand{DType::q8_0, w.data(), 5, 32, Transpose::yes}),
                       doctest::Contains("stored weight of shape (5, 32), transposed"), Error);
  CHECK_THROWS_WITH_AS(gemm(ctx, Write::assign, 2, 4, 31, c.data(), 4, {a.data(), 31, 1},
                            StoredOperand{DType::q8_0, w.data(), 4, 31, Transpose::yes}),
                       doctest::Contains("not whole Q8_0 blocks"), Error);
}

#if FTLIB_WITH_BLAS
TEST_CASE("ops/gemm: a BLAS gets what it can read, and the rest is ours") {
  Context<Cpu> ctx({.threads = 2});
  Random random(1);
  const int64_t n = 24;
  const auto a = normal<double>(random, 2 * n * n);
  std::vector<double> c(static_cast<std::size_t>(n * n));
  const auto takes = [&](const DenseOperand<double>& x, const DenseOperand<double>& y) {
    return detail::gemm_blas(ctx, Write::assign, n, n, n, c.data(), n, x, y, 1.0, static_cast<const double*>(nullptr));
  };
  const DenseOperand<double> rows{a.get(), n, 1}, columns{a.get(), 1, n}, gaps{a.get(), 2 * n, 2}, same{a.get(), 0, 1};
  CHECK(takes(rows, columns));
  CHECK(takes(columns, rows));
  CHECK_FALSE(takes(gaps, rows));
  CHECK_FALSE(takes(rows, gaps));
  CHECK_FALSE(takes(rows, same));  // one row again and again
}
#endif
