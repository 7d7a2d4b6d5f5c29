// ops/simd.cpu.hpp: vectors of the widest registers that the compiler's flags allow, and the walks over memory in them
// that the CPU's kernels are made of. The compiler's own vector types: one text for AVX-512, AVX2, SSE2 and NEON.
#pragma once
#include <ftlib/core/dtype.hpp>  // int64_t

#include <cmath>        // std::sqrt
#include <cstring>      // std::memcpy
#include <iterator>     // std::size
#include <type_traits>  // std::integral_constant
#include <utility>      // std::index_sequence

#if defined(__AVX2__)
#include <immintrin.h>  // square roots, and widening conversions, which GCC 12 does not find by itself
#endif

// The instruction set is part of the name of all that depends on it: two translation units with other flags in one
// program must not share an inline function whose panels have another width.
#if defined(__AVX512F__)
#define FTLIB_SIMD avx512
#define FTLIB_SIMD_BYTES 64
#elif defined(__AVX2__) && defined(__FMA__)
#define FTLIB_SIMD avx2
#define FTLIB_SIMD_BYTES 32
#else
#define FTLIB_SIMD generic
#define FTLIB_SIMD_BYTES 16
#endif

namespace ft::inline FTLIB_ABI {
namespace detail {
inline namespace FTLIB_SIMD {

/// A vector of T, which has + - * / with vectors and scalars, comparisons, and `mask ? a : b`; a vector of integers as
/// wide; and how many elements either has.
template <class T> struct Simd;
template <> struct Simd<float> {
  typedef float Vec __attribute__((vector_size(FTLIB_SIMD_BYTES)));
  typedef float InMemory __attribute__((vector_size(FTLIB_SIMD_BYTES), aligned(4)));
  typedef int32_t Int __attribute__((vector_size(FTLIB_SIMD_BYTES)));
  static constexpr int lanes = FTLIB_SIMD_BYTES / 4;
};
template <> struct Simd<double> {
  typedef double Vec __attribute__((vector_size(FTLIB_SIMD_BYTES)));
  typedef double InMemory __attribute__((vector_size(FTLIB_SIMD_BYTES), aligned(8)));
  typedef int64_t Int __attribute__((vector_size(FTLIB_SIMD_BYTES)));
  static constexpr int lanes = FTLIB_SIMD_BYTES / 8;
};
template <class T> using Vec = typename Simd<T>::Vec;

template <class V> V load(const void* p) {
  V v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <class V> void store(void* p, const V& v) { std::memcpy(p, &v, sizeof v); }

/// f(integral_constant 0), ..., f(integral_constant N - 1), written out: arrays indexed by it stay in registers at any
/// level of optimisation.
template <int N, class F> [[gnu::always_inline]] inline void unroll(F&& f) {
  [&]<int... i>(std::integer_sequence<int, i...>) __attribute__((always_inline)) {
    (f(std::integral_constant<int, i>{}), ...);
  }
  (std::make_integer_sequence<int, N>{});
}

/// Element j is element at(j) of a and b as one row. Spelled out, because nvcc loses a parameter pack in here.
template <auto at, class V> [[gnu::always_inline]] inline V shuffled(V a, V b) {
  constexpr int lanes = sizeof(V) / sizeof(a[0]);
  if constexpr (lanes == 2) return __builtin_shufflevector(a, b, at(0), at(1));
  else if constexpr (lanes == 4) return __builtin_shufflevector(a, b, at(0), at(1), at(2), at(3));
  else if constexpr (lanes == 8)
    return __builtin_shufflevector(a, b, at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7));
  else
    return __builtin_shufflevector(a, b, at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7), at(8), at(9), at(10),
                                   at(11), at(12), at(13), at(14), at(15));
}
// Which elements of two rows make the upper and the lower one, once off-diagonal blocks have been swapped.
template <int distance, int lanes> constexpr int upper_row(int j) { return j & distance ? lanes + j - distance : j; }
template <int distance, int lanes> constexpr int lower_row(int j) { return j & distance ? lanes + j : j + distance; }
/// lanes x lanes transposed in registers: log2(lanes) rounds that swap ever smaller off-diagonal blocks.
template <class T> [[gnu::always_inline]] inline void transpose(Vec<T> (&x)[Simd<T>::lanes]) {
  using V = Vec<T>;
  constexpr int lanes = Simd<T>::lanes;
  const auto round = [&](auto distance) __attribute__((always_inline)) {
    unroll<lanes>([&](auto i) __attribute__((always_inline)) {
      if constexpr ((i & distance) == 0) {
        const V top = x[i], bottom = x[i + distance];
        x[i] = shuffled<upper_row<distance, lanes>>(top, bottom);
        x[i + distance] = shuffled<lower_row<distance, lanes>>(top, bottom);
      }
    });
  };
  if constexpr (lanes >= 16) round(std::integral_constant<int, 8>{});
  if constexpr (lanes >= 8) round(std::integral_constant<int, 4>{});
  if constexpr (lanes >= 4) round(std::integral_constant<int, 2>{});
  round(std::integral_constant<int, 1>{});
}

template <class V> [[gnu::always_inline]] inline V larger(V a, V b) { return a > b ? a : b; }
template <class V> [[gnu::always_inline]] inline V absolute(V a) { return a < V{} ? -a : a; }

template <int distance, int lanes> constexpr int rotated(int j) { return (j + distance) % lanes; }
/// f of all elements of v, joined in halves: log2(lanes) rounds in registers.
template <class T, class F> [[gnu::always_inline]] inline T fold(Vec<T> v, F f) {
  constexpr int lanes = Simd<T>::lanes;
  if constexpr (lanes >= 16) v = f(v, shuffled<rotated<8, lanes>>(v, v));
  if constexpr (lanes >= 8) v = f(v, shuffled<rotated<4, lanes>>(v, v));
  if constexpr (lanes >= 4) v = f(v, shuffled<rotated<2, lanes>>(v, v));
  v = f(v, shuffled<rotated<1, lanes>>(v, v));
  return v[0];
}
template <class T> [[gnu::always_inline]] inline T sum_lanes(const Vec<T>& v) {
  return fold<T>(
      v, [](const Vec<T>& a, const Vec<T>& b) __attribute__((always_inline)) { return a + b; });
}

template <class T> [[gnu::always_inline]] inline Vec<T> square_root(Vec<T> v) {
#if defined(__AVX512F__)  // with a mask, because GCC 12 warns of the other's undefined operand
  if constexpr (sizeof(T) == 4) {
    const __m512 root = _mm512_maskz_sqrt_ps(0xffff, load<__m512>(&v));
    return load<Vec<T>>(&root);
  } else {
    const __m512d root = _mm512_maskz_sqrt_pd(0xff, load<__m512d>(&v));
    return load<Vec<T>>(&root);
  }
#elif defined(__AVX2__) && defined(__FMA__)
  if constexpr (sizeof(T) == 4) {
    const __m256 root = _mm256_sqrt_ps(load<__m256>(&v));
    return load<Vec<T>>(&root);
  } else {
    const __m256d root = _mm256_sqrt_pd(load<__m256d>(&v));
    return load<Vec<T>>(&root);
  }
#else
  T x[Simd<T>::lanes];
  std::memcpy(x, &v, sizeof x);
  for (T& e : x) e = std::sqrt(e);
  return load<Vec<T>>(x);
#endif
}

/// What exponential() is made of: e^x = 2^n e^r, |r| <= ln(2) / 2, and e^r = 1 + r + r^2 q(r). q is minimax for the
/// relative error of e^r: 3.1e-9 in float, 2e-20 in double.
template <class T> struct ExpConstants;
template <> struct ExpConstants<float> {
  static constexpr float lowest = -104, highest = 89;                            // e^x is 0 below and infinite above
  static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440055e-4f;  // n ln2_high is exact
  static constexpr float q[] = {0.00138145840312f, 0.00836872393598f, 0.0416683887296f, 0.166665205736f,
                                0.499999934439f};
  static constexpr int mantissa = 23, bias = 127;
};
template <> struct ExpConstants<double> {
  static constexpr double lowest = -746, highest = 710;
  static constexpr double ln2_high = 0x1.62e42fee00000p-1, ln2_low = 1.9082149292705878161e-10;
  static constexpr double q[] = {2.091469456035159159e-9,
                                 2.510522763655175914e-8,
                                 2.755727362486647633e-7,
                                 2.755725537465874205e-6,
                                 2.480158732556212581e-5,
                                 1.984126987484076864e-4,
                                 1.388888888888374419e-3,
                                 8.333333333326129364e-3,
                                 4.166666666666666976e-2,
                                 1.666666666666667099e-1,
                                 5.0e-1};
  static constexpr int mantissa = 52, bias = 1023;
};

/// e^x, within 2 units in the last place; subnormal results, 0, infinity and NaN as std::exp has them.
template <class T> [[gnu::always_inline]] inline Vec<T> exponential(Vec<T> x) {
  using V = Vec<T>;
  using I = typename Simd<T>::Int;
  using C = ExpConstants<T>;
  constexpr T shift = T(1.5) * static_cast<T>(int64_t{1} << C::mantissa);  // x + shift: x rounded to whole numbers
  x = x < C::lowest ? V{} + C::lowest : x;                                 // NaN stays
  x = x > C::highest ? V{} + C::highest : x;
  const V shifted = x * T(1.4426950408889634074) + shift, n = shifted - shift;
  const V r = (x - n * C::ln2_high) - n * C::ln2_low;
  V q = V{} + C::q[0];
  for (std::size_t i = 1; i < std::size(C::q); ++i) q = q * r + C::q[i];
  const V y = q * (r * r) + r + T(1);
  // 2^n in two factors, because n may be beyond what one exponent holds.
  const I whole = reinterpret_cast<I>(shifted) - reinterpret_cast<I>(V{} + shift), half = whole >> 1;
  const V first = reinterpret_cast<V>((half + C::bias) << C::mantissa);
  const V second = reinterpret_cast<V>((whole - half + C::bias) << C::mantissa);
  return y * first * second;
}

/// Where a walk is: lanes elements from `first` on, or fewer, the last ones of all.
template <class T> struct WholeVector {
  int64_t first;
  // Not by memcpy: what it writes may be anything, so the compiler would read all pointers again after each vector.
  using InMemory = typename Simd<T>::InMemory;
  [[gnu::always_inline]] Vec<T> operator()(const T* p) const { return *reinterpret_cast<const InMemory*>(p + first); }
  [[gnu::always_inline]] void store(T* p, const Vec<T>& v) const { *reinterpret_cast<InMemory*>(p + first) = v; }
};
template <class T> struct PartOfVector {
  int64_t first;
  int64_t count;
  [[gnu::always_inline]] Vec<T> operator()(const T* p) const {  // zeros behind the last element
    T x[Simd<T>::lanes] = {};
    for (int64_t i = 0; i < count; ++i) x[i] = p[first + i];
    return load<Vec<T>>(x);
  }
  [[gnu::always_inline]] void store(T* p, const Vec<T>& v) const {
    T x[Simd<T>::lanes];
    std::memcpy(x, &v, sizeof x);
    for (int64_t i = 0; i < count; ++i) p[first + i] = x[i];
  }
};

/// f(at) for elements [begin, end) of some arrays, a vector at a time: at(x) is what lies there in array x, at.store(y,
/// v) puts v there in y.
///
///     for_vectors<T>(0, n, [&](auto at) { at.store(y, at(x) * scale + at(y)); });
template <class T, class F> [[gnu::always_inline]] inline void for_vectors(int64_t begin, int64_t end, F f) {
  constexpr int lanes = Simd<T>::lanes;
  for (; begin + lanes <= end; begin += lanes) f(WholeVector<T>{begin});
  if (begin < end) f(PartOfVector<T>{begin, end - begin});
}

/// The sum of f(at) over n elements, in an order that depends on n alone.
template <class T, class F> [[gnu::always_inline]] inline T sum_vectors(int64_t n, F f) {
  constexpr int lanes = Simd<T>::lanes;
  Vec<T> even{}, odd{};  // additions that do not wait for one another
  int64_t i = 0;
  for (; i + 2 * lanes <= n; i += 2 * lanes) {
    even += f(WholeVector<T>{i});
    odd += f(WholeVector<T>{i + lanes});
  }
  if (i + lanes <= n) {
    even += f(WholeVector<T>{i});
    i += lanes;
  }
  if (i < n) {  // f of the zeros behind the last element does not count
    T x[lanes] = {};
    PartOfVector<T>{0, n - i}.store(x, f(PartOfVector<T>{i, n - i}));
    odd += load<Vec<T>>(x);
  }
  return sum_lanes<T>(even + odd);
}

/// y = e^(x scale - from) over n elements, and their sum. y may be x.
template <class T> T sum_of_exponentials(T* y, const T* x, int64_t n, T scale, T from) {
  return sum_vectors<T>(
      n, [&](auto at) __attribute__((always_inline)) {
        const Vec<T> e = exponential<T>(at(x) * scale - from);
        at.store(y, e);
        return e;
      });
}

/// The largest of n > 0 elements.
template <class T> T largest_of(const T* x, int64_t n) {
  constexpr int lanes = Simd<T>::lanes;
  T most = x[0];
  int64_t i = 0;
  if (n >= lanes) {
    auto v = load<Vec<T>>(x);
    for (i = lanes; i + lanes <= n; i += lanes) v = larger(load<Vec<T>>(x + i), v);
    most = fold<T>(
        v, [](const Vec<T>& a, const Vec<T>& b) __attribute__((always_inline)) { return larger(a, b); });
  }
  for (; i < n; ++i) most = x[i] > most ? x[i] : most;
  return most;
}

}  // namespace FTLIB_SIMD
}  // namespace detail
}  // namespace ft::inline FTLIB_ABI
