// tensor/quantise.inl.hpp: the bodies of tensor/quantise.hpp.
//
// A group of values x is d l + m of whole numbers l. For l given, d and m are a least-squares fit in closed form; for d
// and m given, l is rounding. So the search tries steps d around the range over the number of levels, rounds, fits,
// keeps the best, and goes on from there in turns. Blocks of 256 hold their groups' d and m as small multiples of two
// halves, which are fitted in turns with the multiples in the same way.
#pragma once
#include <ftlib/core/version.hpp>  // FTLIB_INLINE
#include <ftlib/tensor/quantise.hpp>

#include <algorithm>  // std::clamp, std::minmax_element
#include <array>      // std::array
#include <cmath>      // std::ilogb, std::isfinite, std::nearbyint
#include <limits>     // std::numeric_limits

namespace ft::inline FTLIB_ABI {

namespace detail {

typedef float Four __attribute__((vector_size(16)));
inline Four four(const float* p) {
  Four v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline double sum(Four v) { return static_cast<double>(v[0] + v[1]) + static_cast<double>(v[2] + v[3]); }
/// To the nearest whole number, below 2^22.
inline Four rounded(Four v) {
  constexpr float magic = 12582912;  // 1.5 2^23: what is added to it has no fraction left
  return (v + magic) - magic;
}

/// N values with their weights, and how they are rounded to levels from `least` to `most`.
template <int N> struct Group {
  const float *x, *w;
  float least, most;
  double sw = 0, swx = 0, swxx = 0;  // sums of w, w x, w x^2

  Group(const float* x_, const float* w_, float least_, float most_) : x(x_), w(w_), least(least_), most(most_) {
    Four a{}, b{}, c{};
    for (int i = 0; i < N; i += 4) {
      const Four wx = four(w + i) * four(x + i);
      a += four(w + i);
      b += wx;
      c += wx * four(x + i);
    }
    sw = sum(a);
    swx = sum(b);
    swxx = sum(c);
  }

  /// Sums of w l, w l^2 and w l x.
  struct Levels {
    double l, ll, lx;
  };
  /// Of the levels (x - m) / d, of which `inverse` is 1 / d.
  Levels levels(float inverse, float m) const {
    Four a{}, b{}, c{};
    for (int i = 0; i < N; i += 4) {
      Four l = rounded((four(x + i) - m) * inverse);
      l = l < least ? Four{} + least : l;
      l = l > most ? Four{} + most : l;
      const Four wl = four(w + i) * l;
      a += wl;
      b += wl * l;
      c += wl * four(x + i);
    }
    return {sum(a), sum(b), sum(c)};
  }
  int level(int i, float inverse, float m) const {
    return static_cast<int>(std::clamp(std::nearbyint((x[i] - m) * inverse), least, most));
  }
  /// sum w (x - d l - m)^2
  double error(const Levels& s, double d, double m) const {
    return swxx - 2 * d * s.lx - 2 * m * swx + d * d * s.ll + 2 * d * m * s.l + m * m * sw;
  }
};
inline float inverse_of(float d) { return d != 0 && std::isfinite(1 / d) ? 1 / d : 0; }

struct Fit {
  float d = 0, m = 0;
};

/// d and m of a group with levels 0 to `most`; with `below`, m is not above 0.
template <int N> Fit fit_affine(const Group<N>& group, bool below) {
  const auto [low, high] = std::minmax_element(group.x, group.x + N);
  const float start = below ? std::min(*low, 0.0f) : *low, range = *high - start;
  if (!(range > 0)) return {0, start};
  Fit best{range / group.most, start};  // where sums overflow, or no value counts
  double least = std::numeric_limits<double>::infinity();
  const auto consider = [&](float inverse, float m) {
    const auto s = group.levels(inverse, m);
    const double det = group.sw * s.ll - s.l * s.l;
    if (!(det > 0)) return;
    Fit fit{static_cast<float>((group.sw * s.lx - group.swx * s.l) / det),
            static_cast<float>((s.ll * group.swx - s.l * s.lx) / det)};
    if (below && fit.m > 0) fit = {static_cast<float>(s.lx / s.ll), 0};
    const double error = group.error(s, static_cast<double>(fit.d), static_cast<double>(fit.m));
    if (!(error < least) || !(fit.d > 0)) return;
    least = error;
    best = fit;
  };
  for (int step = -4; step <= 4; ++step) consider((group.most + 0.2f * static_cast<float>(step)) / range, start);
  for (int turn = 0; turn < 2 && best.d > 0; ++turn) consider(inverse_of(best.d), best.m);
  return best;
}

/// d of a group with levels -n to n - 1; of either sign, so that the value of largest magnitude may have level -n.
template <int N> float fit_symmetric(const Group<N>& group) {
  float extreme = 0;
  for (int i = 0; i < N; ++i)
    if (std::abs(group.x[i]) > std::abs(extreme)) extreme = group.x[i];
  float best = extreme / group.least;
  double most = -1;
  const auto consider = [&](float inverse) {
    const auto s = group.levels(inverse, 0);
    if (!(s.ll > 0) || !(s.lx * s.lx > most * s.ll)) return;
    most = s.lx * s.lx / s.ll;
    best = static_cast<float>(s.lx / s.ll);
  };
  if (inverse_of(extreme) == 0) return best;
  for (const float end : {group.least, group.most})
    for (int step = -3; step <= 3; ++step) consider((end + 0.25f * static_cast<float>(step)) / extreme);
  for (int turn = 0; turn < 2; ++turn) consider(inverse_of(best));
  return best;
}

/// A scale in half precision, rounded.
inline half scale_of(float d) {
  const half h(d);
  if (!std::isfinite(static_cast<float>(h)))
    throw Error(str("quantise_row: values of a block need a scale of ", d, ", which half precision does not hold"),
                "store this tensor as float32 or bfloat16.");
  return h;
}

inline void quantise(const float* x, const float*, BlockQ8_0& b) {
  float largest = 0;
  for (int i = 0; i < 32; ++i) largest = std::max(largest, std::abs(x[i]));
  const float d = largest / 127, inverse = d != 0 ? 1 / d : 0;
  b.d = scale_of(d);
  for (int i = 0; i < 32; ++i)  // the product is rounded to float before round() sees it, as in gguf-py
    b.q[i] = static_cast<int8_t>(std::clamp(
        std::round(static_cast<float>(static_cast<double>(x[i]) * static_cast<double>(inverse))), -128.0f, 127.0f));
}

inline void put_level(uint8_t* q, uint8_t* high, int i, int level) {
  q[i % 16] = static_cast<uint8_t>(q[i % 16] | ((level & 15) << (i / 16 * 4)));
  if (high) high[i / 8] = static_cast<uint8_t>(high[i / 8] | (level >> 4) << (i % 8));
}
template <class Block> uint8_t* high_of(Block& b) {
  if constexpr (requires { b.high; }) return b.high;
  else return nullptr;
}
/// Q4_0, Q5_0
template <class Block> void quantise_symmetric(const float* x, const float* w, Block& b, int n) {
  const Group<32> group(x, w, static_cast<float>(-n), static_cast<float>(n - 1));
  b.d = scale_of(fit_symmetric(group));
  const float inverse = inverse_of(static_cast<float>(b.d));
  for (int i = 0; i < 32; ++i) put_level(b.q, high_of(b), i, group.level(i, inverse, 0) + n);
}
/// Q4_1, Q5_1
template <class Block> void quantise_affine(const float* x, const float* w, Block& b, int most) {
  const Group<32> group(x, w, 0, static_cast<float>(most));
  const Fit fit = fit_affine(group, false);
  b.d = scale_of(fit.d);
  b.m = scale_of(fit.m);
  const float inverse = inverse_of(static_cast<float>(b.d)), m = static_cast<float>(b.m);
  for (int i = 0; i < 32; ++i) put_level(b.q, high_of(b), i, group.level(i, inverse, m));
}
inline void quantise(const float* x, const float* w, BlockQ4_0& b) { quantise_symmetric(x, w, b, 8); }
inline void quantise(const float* x, const float* w, BlockQ5_0& b) { quantise_symmetric(x, w, b, 16); }
inline void quantise(const float* x, const float* w, BlockQ4_1& b) { quantise_affine(x, w, b, 15); }
inline void quantise(const float* x, const float* w, BlockQ5_1& b) { quantise_affine(x, w, b, 31); }

/// Eight groups of 32, each d = D scale, m = -M min with scale and min from 0 to 63.
struct KFit {
  half d{}, dmin{};
  std::array<int, 8> scale{}, min{};
};
inline KFit fit_k(const float* x, const float* w, float most) {
  std::array<Fit, 8> fits;
  float d_most = 0, m_most = 0;
  for (std::size_t j = 0; j < 8; ++j) {
    fits[j] = fit_affine(Group<32>(x + 32 * j, w + 32 * j, 0, most), true);
    d_most = std::max(d_most, fits[j].d);
    m_most = std::max(m_most, -fits[j].m);
  }
  KFit best, now;
  now.d = scale_of(d_most / 63);
  now.dmin = scale_of(m_most / 63);
  double least = std::numeric_limits<double>::infinity();
  for (int turn = 0; turn < 3; ++turn) {
    const float d = static_cast<float>(now.d), m = static_cast<float>(now.dmin);
    double total = 0, a = 0, b = 0, c = 0, e = 0, f = 0;  // the normal equations of D and M
    for (std::size_t j = 0; j < 8; ++j) {
      const Group<32> group(x + 32 * j, w + 32 * j, 0, most);
      const auto nearest = [](float value, float unit) {
        return static_cast<int>(std::clamp(std::nearbyint(value * inverse_of(unit)), 0.0f, 63.0f));
      };
      const int s0 = turn ? now.scale[j] : nearest(fits[j].d, d), m0 = turn ? now.min[j] : nearest(-fits[j].m, m);
      double error = std::numeric_limits<double>::infinity();
      typename Group<32>::Levels levels{};
      for (int s = std::max(0, s0 - 1); s <= std::min(63, s0 + 1); ++s)
        for (int n = std::max(0, m0 - 1); n <= std::min(63, m0 + 1); ++n) {
          if (turn && s != s0 && n != m0) continue;
          const float step = d * static_cast<float>(s), start = -m * static_cast<float>(n);
          const auto some = group.levels(inverse_of(step), start);
          const double its = group.error(some, static_cast<double>(step), static_cast<double>(start));
          if (!(its < error)) continue;
          error = its;
          levels = some;
          now.scale[j] = s;
          now.min[j] = n;
        }
      const double s = now.scale[j], n = now.min[j];
      total += error;
      a += s * s * levels.ll;
      b += s * n * levels.l;
      c += n * n * group.sw;
      e += s * levels.lx;
      f += n * group.swx;
    }
    if (total < least) {
      least = total;
      best = now;
    }
    const double det = a * c - b * b;
    const double new_d = det > 0 ? (c * e - b * f) / det
                         : a > 0 ? e / a
                                 : 0,
                 new_m = det > 0 ? (b * e - a * f) / det : 0;
    if (!(new_d > 0) || !(new_m >= 0)) break;
    now.d = scale_of(static_cast<float>(new_d));
    now.dmin = scale_of(static_cast<float>(new_m));
  }
  return best;
}
/// Q4_K, Q5_K
template <class Block> void quantise_k(const float* x, const float* w, Block& b, int most) {
  const KFit fit = fit_k(x, w, static_cast<float>(most));
  b.d = fit.d;
  b.dmin = fit.dmin;
  for (std::size_t j = 0; j < 8; ++j) {
    const auto s = fit.scale[j], n = fit.min[j];
    if (j < 4) {
      b.scales[j] = static_cast<uint8_t>(b.scales[j] | s);
      b.scales[j + 4] = static_cast<uint8_t>(b.scales[j + 4] | n);
    } else {
      b.scales[j + 4] = static_cast<uint8_t>((s & 15) | (n & 15) << 4);
      b.scales[j - 4] = static_cast<uint8_t>(b.scales[j - 4] | (s >> 4) << 6);
      b.scales[j] = static_cast<uint8_t>(b.scales[j] | (n >> 4) << 6);
    }
    const Group<32> group(x + 32 * j, w + 32 * j, 0, static_cast<float>(most));
    const float inverse = inverse_of(static_cast<float>(fit.d) * static_cast<float>(s)),
                m = -static_cast<float>(fit.dmin) * static_cast<float>(n);
    for (std::size_t i = 0; i < 32; ++i) {
      const int level = group.level(static_cast<int>(i), inverse, m);
      uint8_t& low = b.q[j / 2 * 32 + i];
      low = static_cast<uint8_t>(low | (level & 15) << (j % 2 * 4));
      if constexpr (requires { b.high; }) b.high[i] = static_cast<uint8_t>(b.high[i] | (level >> 4) << j);
    }
  }
}
inline void quantise(const float* x, const float* w, BlockQ4_K& b) { quantise_k(x, w, b, 15); }
inline void quantise(const float* x, const float* w, BlockQ5_K& b) { quantise_k(x, w, b, 31); }

inline void quantise(const float* x, const float* w, BlockQ6_K& b) {
  const auto group = [&](std::size_t j) { return Group<16>(x + 16 * j, w + 16 * j, -32, 31); };
  std::array<float, 16> fits;
  float extreme = 0;
  for (std::size_t j = 0; j < 16; ++j) {
    fits[j] = fit_symmetric(group(j));
    if (std::abs(fits[j]) > std::abs(extreme)) extreme = fits[j];
  }
  std::array<int, 16> best{}, now{};
  half d = scale_of(extreme / -128);
  b.d = half(0.0f);
  double least = std::numeric_limits<double>::infinity();
  for (int turn = 0; turn < 3; ++turn) {
    const float unit = static_cast<float>(d);
    double total = 0, a = 0, e = 0;
    for (std::size_t j = 0; j < 16; ++j) {
      const auto g = group(j);
      const int start =
          turn ? now[j] : static_cast<int>(std::clamp(std::nearbyint(fits[j] * inverse_of(unit)), -128.0f, 127.0f));
      double error = std::numeric_limits<double>::infinity(), ll = 0, lx = 0;
      for (int s = std::max(-128, start - 1); s <= std::min(127, start + 1); ++s) {
        const float step = unit * static_cast<float>(s);
        const auto some = g.levels(inverse_of(step), 0);
        const double its = g.error(some, static_cast<double>(step), 0);
        if (!(its < error)) continue;
        error = its;
        ll = some.ll;
        lx = some.lx;
        now[j] = s;
      }
      total += error;
      a += now[j] * now[j] * ll;
      e += now[j] * lx;
    }
    if (total < least) {
      least = total;
      best = now;
      b.d = d;
    }
    if (!(a > 0)) break;
    d = scale_of(static_cast<float>(e / a));
  }
  for (std::size_t j = 0; j < 16; ++j) {
    b.scales[j] = static_cast<int8_t>(best[j]);
    const float inverse = inverse_of(static_cast<float>(b.d) * static_cast<float>(best[j]));
    const auto g = group(j);
    for (std::size_t i = 0; i < 16; ++i) {
      const std::size_t at = 16 * j + i, half_block = at / 128, k = at % 128 / 32, l = at % 32;
      const int level = g.level(static_cast<int>(i), inverse, 0) + 32;
      uint8_t &low = b.low[half_block * 64 + k % 2 * 32 + l], &high = b.high[half_block * 32 + l];
      low = static_cast<uint8_t>(low | (level & 15) << (k / 2 * 4));
      high = static_cast<uint8_t>(high | (level >> 4) << (2 * k));
    }
  }
}

/// The powers of two around that which makes the largest magnitude fit, of which the best is kept.
inline void quantise(const float* x, const float* w, BlockMXFP4& b) {
  const auto [low, high] = std::minmax_element(x, x + 32);
  const float largest = std::max(-*low, *high);
  if (largest == 0) return;
  const int fits = std::ilogb(largest) - 2 + 127;  // 4 to 8 times 2^(fits - 127)
  double least = std::numeric_limits<double>::infinity();
  for (int e = std::clamp(fits - 1, 0, 252); e <= std::clamp(fits + 1, 0, 252); ++e) {
    BlockMXFP4 one{static_cast<uint8_t>(e), {}};
    const double unit = static_cast<double>(half_power(one.e));
    double error = 0;
    for (int i = 0; i < 32; ++i) {
      const double value = static_cast<double>(x[i]), level = std::abs(value) / unit;
      const int q = (level > 0.5) + (level >= 1.5) + (level > 2.5) + (level >= 3.5) + (level > 5) + (level >= 7) +
                    (level > 10);  // half way to the even one
      const int bits = q | (value < 0 && q ? 8 : 0);
      error += static_cast<double>(w[i]) * std::pow(unit * twice_e2m1(bits) - value, 2);
      one.q[i % 16] = static_cast<uint8_t>(one.q[i % 16] | bits << (i / 16 * 4));
    }
    if (!(error < least)) continue;
    least = error;
    b = one;
  }
}

/// The nearest level of each value over its 64's largest magnitude, before that is rounded itself: bitsandbytes'
/// choice.
inline void quantise(const float* x, const float*, BlockNF4& b) {
  std::array<float, 4> largest{};
  for (std::size_t i = 0; i < 256; ++i) largest[i / 64] = std::max(largest[i / 64], std::abs(x[i]));
  b.d = scale_of(*std::max_element(largest.begin(), largest.end()));
  const float inverse = inverse_of(static_cast<float>(b.d));
  for (std::size_t j = 0; j < 4; ++j)
    b.absmax[j] = static_cast<uint8_t>(std::min(255.0f, std::nearbyint(255 * std::sqrt(largest[j] * inverse))));
  for (std::size_t i = 0; i < 256; ++i) {
    const float unit = inverse_of(largest[i / 64]), value = x[i] * unit;
    int level = unit > 0 ? 0 : 7;
    while (unit > 0 && level < 15 && value - nf4_levels.of[level] > nf4_levels.of[level + 1] - value) ++level;
    put_level(b.q + i / 32 * 16, nullptr, static_cast<int>(i % 32), level);
  }
}

}  // namespace detail

FTLIB_INLINE void quantise_row(DType type, const float* x, int64_t count, std::byte* row, const float* importance) {
  if (count % info(type).block != 0)
    throw Error(str("quantise_row: ", count, " values are not whole ", type, " blocks of ", info(type).block));
  static constexpr auto ones = [] {
    std::array<float, 256> all{};
    for (float& one : all) one = 1;
    return all;
  }();
  detail::with_dtype(type, [&]<DType D>() {
    using Block = typename detail::BlockOf<D>::Block;
    constexpr int64_t size = info(D).block;
    for (int64_t i = 0; i < count; i += size, row += sizeof(Block)) {
      Block block{};
      if constexpr (size == 1) {
        block = static_cast<Block>(x[i]);
      } else {
        for (int64_t j = i; j < i + size; ++j)
          if (!std::isfinite(x[j])) throw Error(str("quantise_row: value ", j, " is ", x[j]));
        detail::quantise(x + i, importance ? importance + i : ones.data(), block);
      }
      std::memcpy(row, &block, sizeof block);
    }
  });
}

}  // namespace ft::inline FTLIB_ABI
