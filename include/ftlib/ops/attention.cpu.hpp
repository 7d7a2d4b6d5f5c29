// ops/attention.cpu.hpp: attention on the CPU, forward and backward, in tiles that stay in the caches.
//
// Queries are taken in blocks of some rows, a row being one query of one head; all heads that share a key-value head
// are in one block, so that each packed key serves all of them. A block walks over the keys in tiles of 64 with the
// online softmax (Milakov and Gimelshein, arXiv:1805.02867; Dao et al., arXiv:2205.14135): memory is linear in the
// sequence, and only the logarithm of each row's sum is kept for backward, which computes the probabilities again.
// A segment of few queries (decoding) packs nothing: keys and values stream past once, in chunks that are merged.
#pragma once
#include <ftlib/ops/kinds.hpp>           // Mask, Segment, AttentionOptions
#include <ftlib/ops/sink.cpu.hpp>        // sink_forward, sink_backward
#include <ftlib/ops/tile.cpu.hpp>        // tile_product
#include <ftlib/tensor/context.cpu.hpp>  // Context<Cpu>
#include <ftlib/tensor/copy.cpu.hpp>     // fill
#include <ftlib/tensor/tensor.hpp>       // Tensor

#include <algorithm>  // std::min, std::max
#include <array>      // std::array
#include <cmath>      // std::exp, std::log
#include <limits>     // std::numeric_limits
#include <vector>     // std::vector

namespace ft::inline FTLIB_ABI {

namespace detail {
inline namespace FTLIB_SIMD {

inline constexpr int64_t key_tile = 64;      // keys a block looks at in one go
inline constexpr int64_t block_rows = 96;    // rows of a block, about
inline constexpr int64_t stream_keys = 128;  // keys of a chunk where few queries stream
inline constexpr int64_t stream_rows = 8;    // as many rows a key-value head, or fewer, stream

/// What the parts of one call share.
template <Scalar T> struct AttentionCall {
  View<const T> q, k, v;
  const AttentionOptions& options;
  int64_t heads, groups, hd, padded;  // padded: hd up to whole panels; groups: query heads to a key-value head
  T scale;

  AttentionCall(View<const T> q_, View<const T> k_, View<const T> v_, const AttentionOptions& o)
      : q(q_),
        k(k_),
        v(v_),
        options(o),
        heads(q_.shape[1]),
        groups(q_.shape[1] / k_.shape[1]),
        hd(q_.shape[2]),
        padded(round_up(hd, tile_cols<T>)),
        scale(o.scale != 0 ? T(o.scale) : 1 / std::sqrt(static_cast<T>(q_.shape[2]))) {}

  static const T* at(const View<const T>& x, int64_t n, int64_t h) {
    return x.data + n * x.strides[0] + h * x.shape[2];
  }
  /// Query i of segment s sees its keys [first(s, i), last(s, i)), counted from k_begin.
  int64_t last(const Segment& s, int64_t i) const {
    const int64_t nk = s.k_end - s.k_begin;
    return options.mask == Mask::none ? nk : nk - (s.q_end - s.q_begin) + i + 1;
  }
  int64_t first(const Segment& s, int64_t i) const {
    return options.window > 0 ? std::max<int64_t>(0, last(s, i) - options.window) : 0;
  }
  /// Adds the relative bias to a row's products, by key, before the scale: the last query is at the last key.
  void add_bias(T* row, const Segment& s, int64_t i, int64_t h, int64_t lo, int64_t hi) const {
    const int64_t own = s.k_end - s.k_begin - (s.q_end - s.q_begin) + i, R = options.reach;
    const float* const bias = options.bias + h * (2 * R + 1) + R;
    for (int64_t j = lo; j < hi; ++j) row[j] += static_cast<T>(bias[std::clamp(j - own, -R, R)]) / scale;
  }
};

/// Queries [begin, end) of a segment under one key-value head; or, where few queries stream, its keys [begin, end).
struct AttentionBlock {
  std::size_t segment;
  int64_t kv, begin, end;
  double cost_before;  // of all blocks before this one
};

/// A list of blocks, cut into runs of about equal cost, which threads take: a number of runs gives always the same
/// ones.
struct AttentionPlan {
  std::vector<AttentionBlock> blocks;
  double cost = 0;

  void add(std::size_t segment, int64_t kv, int64_t begin, int64_t end, int64_t work) {
    blocks.push_back({segment, kv, begin, end, cost});
    cost += static_cast<double>(work);
  }
  /// How many runs so many threads take: a few for each, so that one with a slow core takes fewer.
  int64_t runs(int threads) const {
    return threads == 1 ? 1 : std::min<int64_t>(pieces_a_thread * threads, static_cast<int64_t>(blocks.size()));
  }
  /// The first block of a run; run + 1 gives its end.
  std::size_t start(int64_t run, int64_t runs) const {
    const double from = cost * static_cast<double>(run) / static_cast<double>(runs);
    const auto found = std::partition_point(blocks.begin(), blocks.end(),
                                            [&](const AttentionBlock& b) { return b.cost_before < from; });
    return run >= runs ? blocks.size() : static_cast<std::size_t>(found - blocks.begin());
  }
  bool starts_unit(std::size_t i) const {
    return i == 0 || blocks[i].segment != blocks[i - 1].segment || blocks[i].kv != blocks[i - 1].kv;
  }
};

template <Scalar T>
AttentionPlan plan_blocks(const AttentionCall<T>& call, const std::vector<Segment>& segments, bool streamed_too) {
  AttentionPlan plan;
  const int64_t queries = std::max<int64_t>(1, block_rows / call.groups);
  for (std::size_t s = 0; s < segments.size(); ++s) {
    const Segment& segment = segments[s];
    const int64_t nq = segment.q_end - segment.q_begin;
    if (!streamed_too && nq * call.groups <= stream_rows) continue;
    for (int64_t kv = 0; kv < call.k.shape[1]; ++kv)
      for (int64_t i = 0; i < nq; i += queries) {
        const int64_t end = std::min(nq, i + queries);
        plan.add(s, kv, i, end,  // the keys the middle query sees, and what a block costs whatever it sees
                 (end - i) * (key_tile / 2 + call.last(segment, (i + end) / 2) - call.first(segment, (i + end) / 2)));
      }
  }
  return plan;
}

template <Scalar T> AttentionPlan plan_streams(const AttentionCall<T>& call, const std::vector<Segment>& segments) {
  AttentionPlan plan;
  for (std::size_t s = 0; s < segments.size(); ++s) {
    const Segment& segment = segments[s];
    const int64_t nq = segment.q_end - segment.q_begin;
    if (nq == 0 || nq * call.groups > stream_rows) continue;
    for (int64_t kv = 0; kv < call.k.shape[1]; ++kv)
      for (int64_t k = call.first(segment, 0); k < segment.k_end - segment.k_begin; k += stream_keys) {
        const int64_t end = std::min(segment.k_end - segment.k_begin, k + stream_keys);
        plan.add(s, kv, k, end, end - k);
      }
  }
  return plan;
}

inline int64_t longest(const std::vector<Segment>& segments) {
  int64_t n = 0;
  for (const Segment& s : segments) n = std::max(n, s.k_end - s.k_begin);
  return n;
}

/// Cuts one block of memory into aligned arrays. Without memory it only counts.
template <Scalar T> struct Arena {
  T* memory = nullptr;
  int64_t used = 0;
  T* take(int64_t n) {
    T* p = memory ? memory + used : nullptr;
    used += round_up(n, 16);
    return p;
  }
};

/// y = factor x over n elements; y may be x.
template <Scalar T> void scaled(T* y, const T* x, int64_t n, T factor) {
  for_vectors<T>(0, n, [&](auto at) { at.store(y, factor * at(x)); });
}
/// y += factor x over n elements.
template <Scalar T> void add_scaled(T* y, const T* x, int64_t n, T factor) {
  for_vectors<T>(0, n, [&](auto at) { at.store(y, at(y) + factor * at(x)); });
}

/// The walk of a block over its keys: f(tile, tile_end, r, m, from, to) for each run of m <= 6 rows from r and each
/// tile of keys, of which the run's rows see some in [from, to); g(tile, tile_end) after each tile.
template <Scalar T, class F, class G>
void walk(const AttentionCall<T>& call, const Segment& s, int64_t begin, int64_t end, F f, G g) {
  const int64_t rows = (end - begin) * call.groups, keys_end = call.last(s, end - 1);
  for (int64_t tile = call.first(s, begin) / key_tile * key_tile; tile < keys_end; tile += key_tile) {
    const int64_t tile_end = std::min(keys_end, tile + key_tile);
    for (int64_t r = 0; r < rows; r += tile_rows) {
      const int64_t m = std::min<int64_t>(tile_rows, rows - r);
      const int64_t from = std::max(tile, call.first(s, begin + r / call.groups)),
                    to = std::min(tile_end, call.last(s, begin + (r + m - 1) / call.groups));
      if (from < to) f(tile, tile_end, r, m, from, to);
    }
    g(tile, tile_end);
  }
}

/// The arrays of a thread in forward.
template <Scalar T> struct ForwardSpace {
  T *keys, *values, *scores, *sums, *largest, *total;
  ForwardSpace(Arena<T>& arena, const AttentionCall<T>& call, int64_t nk) {
    const int64_t rows = std::max<int64_t>(1, block_rows / call.groups) * call.groups;
    keys = arena.take(round_up(nk, tile_cols<T>) * call.hd);  // panels of K^T
    values = arena.take(nk * call.padded);                    // panels of V
    scores = arena.take(tile_rows * key_tile);
    sums = arena.take(rows * call.padded);  // P V so far, not yet divided by the total
    largest = arena.take(rows);
    total = arena.take(rows);
  }
};

template <Scalar T>
void attention_block(const AttentionCall<T>& call, const Segment& s, const AttentionBlock& block,
                     ForwardSpace<T>& space, View<T> y, View<T> lse) {
  constexpr int W = tile_cols<T>;
  const int64_t rows = (block.end - block.begin) * call.groups, nk = s.k_end - s.k_begin, padded = call.padded;
  const auto query = [&](int64_t r) { return block.begin + r / call.groups; };
  const auto head = [&](int64_t r) { return block.kv * call.groups + r % call.groups; };
  std::fill_n(space.sums, rows * padded, T(0));
  std::fill_n(space.total, rows, T(0));
  std::fill_n(space.largest, rows, -std::numeric_limits<T>::infinity());

  const auto look = [&](int64_t tile, int64_t, int64_t r0, int64_t m, int64_t from, int64_t to) {
    const int64_t first = (from - tile) / W, last = (to - tile + W - 1) / W;  // panels
    std::array<const T*, tile_rows> q{}, p{};
    for (int64_t r = 0; r < m; ++r) {
      q[static_cast<std::size_t>(r)] = AttentionCall<T>::at(call.q, s.q_begin + query(r0 + r), head(r0 + r));
      p[static_cast<std::size_t>(r)] = space.scores + r * key_tile + (from - tile);
    }
    with_rows(m, [&](auto M) {
      for (int64_t panel = first; panel < last; ++panel)
        tile_product<M>(space.scores + panel * W, key_tile, q, 1, space.keys + (tile + panel * W) * call.hd, W, call.hd,
                        Write::assign);
    });
    for (int64_t r = 0; r < m; ++r) {
      const int64_t lo = std::max(from, call.first(s, query(r0 + r))), hi = std::min(to, call.last(s, query(r0 + r)));
      T* row = space.scores + r * key_tile - tile;  // by key
      std::fill(row + from, row + std::max(from, std::min(lo, to)), T(0));
      std::fill(row + std::max(from, hi), row + to, T(0));
      if (lo >= hi) continue;
      if (call.options.bias) call.add_bias(row, s, query(r0 + r), head(r0 + r), lo, hi);
      T &largest = space.largest[r0 + r], &total = space.total[r0 + r];
      const T peak = std::max(largest, call.scale * largest_of(row + lo, hi - lo));
      if (peak > largest) {  // what was summed up so far was relative to the old peak
        const T shrink = std::exp(largest - peak);
        total *= shrink;
        T* const sums = space.sums + (r0 + r) * padded;
        scaled(sums, sums, padded, shrink);
        largest = peak;
      }
      total += sum_of_exponentials(row + lo, row + lo, hi - lo, call.scale, peak);
    }
    with_rows(m, [&](auto M) {
      for (int64_t c = 0; c < padded; c += W)
        tile_product<M>(space.sums + r0 * padded + c, padded, p, 1, space.values + c * nk + from * W, W, to - from,
                        Write::add);
    });
  };
  walk(call, s, block.begin, block.end, look, [](int64_t, int64_t) {});

  for (int64_t r = 0; r < rows; ++r) {
    const int64_t n = s.q_begin + query(r), h = head(r);
    scaled(y.data + (n * call.heads + h) * call.hd, space.sums + r * padded, call.hd, 1 / space.total[r]);
    lse.data[h * y.shape[0] + n] = space.largest[r] + std::log(space.total[r]);
  }
}

/// s[r][j] = a[r] . b row j, for M rows of `size` elements and n rows of b, of stride b_step.
template <int M, Scalar T>
void scores_of_rows(T* s, int64_t s_step, const std::array<const T*, tile_rows>& a, const T* b, int64_t b_step,
                    int64_t n, int64_t size) {
  using V = Vec<T>;
  constexpr int lanes = Simd<T>::lanes, J = M <= 3 ? 4 : 2;  // J rows of b at a time hide the latency of a sum
  const auto some = [&]<int Js>(int64_t j, std::integral_constant<int, Js>) {
    V sum[Js][M] = {};
    const T *as[M], *bs[Js];
    unroll<M>([&](auto r) __attribute__((always_inline)) { as[r] = a[static_cast<std::size_t>(int{r})]; });
    unroll<Js>([&](auto k) __attribute__((always_inline)) { bs[k] = b + (j + k) * b_step; });
    const int64_t whole = size / lanes * lanes;
    for (int64_t d = 0; d < whole; d += lanes)
      unroll<Js>([&](auto k) __attribute__((always_inline)) {
        const V x = load<V>(bs[k] + d);
        unroll<M>([&](auto r) __attribute__((always_inline)) { sum[k][r] += load<V>(as[r] + d) * x; });
      });
    unroll<Js>([&](auto k) __attribute__((always_inline)) {
      unroll<M>([&](auto r) __attribute__((always_inline)) {
        T dot = sum_lanes<T>(sum[k][r]);
        for (int64_t d = whole; d < size; ++d) dot += as[r][d] * bs[k][d];
        s[r * s_step + j + k] = dot;
      });
    });
  };
  int64_t j = 0;
  for (; j + J <= n; j += J) some(j, std::integral_constant<int, J>{});
  for (; j < n; ++j) some(j, std::integral_constant<int, 1>{});
}

/// A chunk of keys under few queries. `part` receives for each row: the largest score, the sum of the exponentials,
/// and hd values of P V.
template <Scalar T>
void attention_stream(const AttentionCall<T>& call, const Segment& s, const AttentionBlock& chunk, T* part) {
  constexpr int W = tile_cols<T>;
  const int64_t rows = (s.q_end - s.q_begin) * call.groups, keys = chunk.end - chunk.begin, hd = call.hd;
  const int64_t k_step = call.k.strides[0], v_step = call.v.strides[0];
  const T *k = AttentionCall<T>::at(call.k, s.k_begin + chunk.begin, chunk.kv),
          *v = AttentionCall<T>::at(call.v, s.k_begin + chunk.begin, chunk.kv);
  alignas(64) std::array<T, tile_rows * stream_keys> scores;
  for (int64_t r0 = 0; r0 < rows; r0 += tile_rows) {
    const int64_t m = std::min<int64_t>(tile_rows, rows - r0);
    std::array<const T*, tile_rows> q{}, p{};
    for (int64_t r = 0; r < m; ++r) {
      q[static_cast<std::size_t>(r)] = AttentionCall<T>::at(call.q, s.q_begin + (r0 + r) / call.groups,
                                                            chunk.kv * call.groups + (r0 + r) % call.groups);
      p[static_cast<std::size_t>(r)] = scores.data() + r * stream_keys;
    }
    with_rows(m, [&](auto M) { scores_of_rows<M>(scores.data(), stream_keys, q, k, k_step, keys, hd); });
    for (int64_t r = 0; r < m; ++r) {
      const int64_t i = (r0 + r) / call.groups;
      const int64_t lo = std::clamp<int64_t>(call.first(s, i) - chunk.begin, 0, keys),
                    hi = std::clamp<int64_t>(call.last(s, i) - chunk.begin, lo, keys);
      T* row = scores.data() + r * stream_keys;
      std::fill(row, row + lo, T(0));
      std::fill(row + hi, row + keys, T(0));
      T *largest = part + (r0 + r) * (hd + 2), *total = largest + 1;
      *largest = -std::numeric_limits<T>::infinity();
      *total = 0;
      if (lo == hi) continue;
      if (call.options.bias)
        call.add_bias(row - chunk.begin, s, i, chunk.kv * call.groups + (r0 + r) % call.groups, lo + chunk.begin,
                      hi + chunk.begin);
      *largest = call.scale * largest_of(row + lo, hi - lo);
      *total = sum_of_exponentials(row + lo, row + lo, hi - lo, call.scale, *largest);
    }
    T* out = part + r0 * (hd + 2) + 2;
    int64_t c = 0;
    with_rows(m, [&](auto M) {
      for (; c + W <= hd; c += W) tile_product<M>(out + c, hd + 2, p, 1, v + c, v_step, keys, Write::assign);
    });
    for (int64_t r = 0; r < m && c < hd; ++r) {
      T* const rest = out + r * (hd + 2) + c;
      std::fill_n(rest, hd - c, T(0));
      for (int64_t j = 0; j < keys; ++j)
        add_scaled(rest, v + j * v_step + c, hd - c, p[static_cast<std::size_t>(r)][j]);
    }
  }
}

/// The arrays of a thread in backward.
template <Scalar T> struct BackwardSpace {
  T *keys_t, *values_t, *keys, *queries, *dys, *p, *ds, *dq, *dk, *dv, *delta, *lse;
  static constexpr int64_t step = key_tile + 16;  // of p and ds: 2^n would put a column into few sets of the cache
  BackwardSpace(Arena<T>& arena, const AttentionCall<T>& call, int64_t nk) {
    const int64_t rows = std::max<int64_t>(1, block_rows / call.groups) * call.groups;
    keys_t = arena.take(round_up(nk, tile_cols<T>) * call.hd);    // panels of K^T
    values_t = arena.take(round_up(nk, tile_cols<T>) * call.hd);  // panels of V^T
    keys = arena.take(nk * call.padded);                          // panels of K
    queries = arena.take(rows * call.padded);                     // panels of Q
    dys = arena.take(rows * call.padded);                         // panels of dY
    p = arena.take(rows * step);
    ds = arena.take(rows * step);
    dq = arena.take(rows * call.padded);
    dk = arena.take(nk * call.padded);
    dv = arena.take(nk * call.padded);
    delta = arena.take(rows);
    lse = arena.take(rows);
  }
};

template <Scalar T>
void attention_block_backward(const AttentionCall<T>& call, const Segment& s, const AttentionBlock& block,
                              BackwardSpace<T>& space, T* dk, T* dv, View<T> dq, View<const T> dy, View<const T> y,
                              View<const T> lse) {
  constexpr int W = tile_cols<T>;
  constexpr int64_t step = BackwardSpace<T>::step;
  const int64_t rows = (block.end - block.begin) * call.groups, nk = s.k_end - s.k_begin;
  const int64_t padded = call.padded, hd = call.hd;
  const auto query = [&](int64_t r) { return block.begin + r / call.groups; };
  const auto head = [&](int64_t r) { return block.kv * call.groups + r % call.groups; };
  const auto q_row = [&](int64_t r) { return AttentionCall<T>::at(call.q, s.q_begin + query(r), head(r)); };
  const auto dy_row = [&](int64_t r) { return AttentionCall<T>::at(dy, s.q_begin + query(r), head(r)); };
  for (int64_t r = 0; r < rows; ++r) {  // sum over keys of P dP, by way of y = P V
    const T *const dyr = dy_row(r), *const yr = AttentionCall<T>::at(y, s.q_begin + query(r), head(r));
    space.delta[r] = sum_vectors<T>(hd, [&](auto at) { return at(dyr) * at(yr); });
    space.lse[r] = lse.data[head(r) * y.shape[0] + s.q_begin + query(r)];
  }
  if (dk) {
    pack_panels(space.queries, q_row, rows, hd);
    pack_panels(space.dys, dy_row, rows, hd);
  }
  std::fill_n(space.dq, rows * padded, T(0));

  const auto look = [&](int64_t tile, int64_t tile_end, int64_t r0, int64_t m, int64_t from, int64_t to) {
    std::array<const T*, tile_rows> q{}, dyr{}, ds{};
    for (int64_t r = 0; r < m; ++r) {
      q[static_cast<std::size_t>(r)] = q_row(r0 + r);
      dyr[static_cast<std::size_t>(r)] = dy_row(r0 + r);
      ds[static_cast<std::size_t>(r)] = space.ds + (r0 + r) * step + (from - tile);
    }
    with_rows(m, [&](auto M) {
      for (int64_t c = (from - tile) / W * W; c < to - tile; c += W) {
        tile_product<M>(space.p + r0 * step + c, step, q, 1, space.keys_t + (tile + c) * hd, W, hd, Write::assign);
        tile_product<M>(space.ds + r0 * step + c, step, dyr, 1, space.values_t + (tile + c) * hd, W, hd, Write::assign);
      }
    });
    for (int64_t r = r0; r < r0 + m; ++r) {
      const int64_t lo = std::clamp(call.first(s, query(r)), from, to), hi = std::clamp(call.last(s, query(r)), lo, to);
      for (T* row : {space.p + r * step - tile, space.ds + r * step - tile}) {  // by key
        std::fill(row + tile, row + lo, T(0));
        std::fill(row + hi, row + tile_end, T(0));
      }
      T *const p = space.p + r * step - tile, *const d = space.ds + r * step - tile;
      if (call.options.bias) call.add_bias(p, s, query(r), head(r), lo, hi);
      const T scale = call.scale, lse_r = space.lse[r], delta = space.delta[r];
      for_vectors<T>(lo, hi, [&](auto at) {
        const Vec<T> probability = exponential<T>(at(p) * scale - lse_r);
        at.store(p, probability);
        at.store(d, probability * (at(d) - delta));
      });
    }
    if (dq)
      with_rows(m, [&](auto M) {
        for (int64_t c = 0; c < padded; c += W)
          tile_product<M>(space.dq + r0 * padded + c, padded, ds, 1, space.keys + c * nk + from * W, W, to - from,
                          Write::add);
      });
  };
  const auto sum_up = [&](int64_t tile, int64_t tile_end) {  // dV += P^T dY, dK += dS^T Q, over the rows that see a key
    if (!dk) return;
    int64_t from = 0, to = 0;
    for (int64_t k = tile; k < tile_end; k += tile_rows) {
      const int64_t m = std::min<int64_t>(tile_rows, tile_end - k);
      while (from < rows && call.last(s, query(from)) <= k) from += call.groups;
      while (to < rows && call.first(s, query(to)) < k + m) to += call.groups;
      std::array<const T*, tile_rows> p{}, ds{};
      for (int64_t i = 0; i < m; ++i) {
        p[static_cast<std::size_t>(i)] = space.p + from * step + (k - tile + i);
        ds[static_cast<std::size_t>(i)] = space.ds + from * step + (k - tile + i);
      }
      if (from < to)
        with_rows(m, [&](auto M) {
          for (int64_t c = 0; c < padded; c += W) {
            tile_product<M>(dv + k * padded + c, padded, p, step, space.dys + c * rows + from * W, W, to - from,
                            Write::add);
            tile_product<M>(dk + k * padded + c, padded, ds, step, space.queries + c * rows + from * W, W, to - from,
                            Write::add);
          }
        });
    }
  };
  walk(call, s, block.begin, block.end, look, sum_up);

  if (dq)
    for (int64_t r = 0; r < rows; ++r)
      scaled(dq.data + ((s.q_begin + query(r)) * call.heads + head(r)) * hd, space.dq + r * padded, hd, call.scale);
}

}  // namespace FTLIB_SIMD
}  // namespace detail

template <Scalar T>
void attention_forward(Context<Cpu>& ctx,
                       View<T> y,    // (Nq, H, hd)
                       View<T> lse,  // (H, Nq)      log of the sum of exp(score), for backward
                       In<T> q,      // (Nq, H, hd)  any stride of Nq; the last two axes dense
                       In<T> k,      // (Nk, KV, hd) likewise
                       In<T> v,      // (Nk, KV, hd) likewise
                       const std::vector<Segment>& segments, const AttentionOptions& options) {
  using namespace detail;
  const AttentionCall<T> call(q, k, v, options);
  int64_t covered = 0;
  for (const Segment& s : segments) covered += s.q_end - s.q_begin;
  if (covered < q.shape[0]) {  // queries of no segment
    fill(ctx, y, T(0));
    fill(ctx, lse, T(0));
  }

  if (const AttentionPlan plan = plan_blocks(call, segments, false); !plan.blocks.empty()) {
    const int64_t nk = longest(segments);
    Arena<T> size;
    ForwardSpace<T>(size, call, nk);
    const Tensor<T, Cpu> memory(ctx, {ctx.threads(), size.used});
    T* const base = const_cast<T*>(memory.data());
    const int64_t runs = plan.runs(ctx.threads());
    WorkPieces pieces(runs);
    ctx.pool().run([&](int thread) {
      Arena<T> arena{base + thread * size.used};
      ForwardSpace<T> space(arena, call, nk);
      std::size_t last = plan.blocks.size();  // the block before, if it is this thread's: then its keys are packed
      for (int64_t run = pieces.take(); run >= 0; run = pieces.take())
        for (std::size_t i = plan.start(run, runs); i < plan.start(run + 1, runs); last = i++) {
          const AttentionBlock& block = plan.blocks[i];
          const Segment& s = segments[block.segment];
          if (last + 1 != i || plan.starts_unit(i)) {
            const int64_t n = s.k_end - s.k_begin;
            pack_transposed(
                space.keys, [&](int64_t j) { return call.at(k, s.k_begin + j, block.kv); }, n, call.hd);
            pack_panels(
                space.values, [&](int64_t j) { return call.at(v, s.k_begin + j, block.kv); }, n, call.hd);
          }
          attention_block(call, s, block, space, y, lse);
        }
    });
  }

  if (const AttentionPlan plan = plan_streams(call, segments); !plan.blocks.empty()) {
    const int64_t hd = call.hd, part = stream_rows * (hd + 2);
    Tensor<T, Cpu> parts(ctx, {static_cast<int64_t>(plan.blocks.size()), part});
    const auto part_of = [&](std::size_t i) { return parts.data() + static_cast<int64_t>(i) * part; };
    const int64_t runs = plan.runs(ctx.threads());
    WorkPieces pieces(runs);
    ctx.pool().run([&](int) {
      for (int64_t run = pieces.take(); run >= 0; run = pieces.take())
        for (std::size_t i = plan.start(run, runs); i < plan.start(run + 1, runs); ++i)
          attention_stream(call, segments[plan.blocks[i].segment], plan.blocks[i], part_of(i));
    });
    for (std::size_t i = 0, end; i < plan.blocks.size(); i = end) {  // the chunks of a unit, merged in order
      for (end = i + 1; end < plan.blocks.size() && !plan.starts_unit(end);) ++end;
      const Segment& s = segments[plan.blocks[i].segment];
      for (int64_t r = 0; r < (s.q_end - s.q_begin) * call.groups; ++r) {
        const int64_t n = s.q_begin + r / call.groups, h = plan.blocks[i].kv * call.groups + r % call.groups;
        T largest = -std::numeric_limits<T>::infinity(), total = 0;
        for (std::size_t j = i; j < end; ++j) largest = std::max(largest, part_of(j)[r * (hd + 2)]);
        T* const out = y.data + (n * call.heads + h) * hd;
        std::fill_n(out, hd, T(0));
        for (std::size_t j = i; j < end; ++j) {
          T* const from = part_of(j) + r * (hd + 2);
          const T weight = std::exp(from[0] - largest);
          total += weight * from[1];
          add_scaled(out, from + 2, hd, weight);
        }
        scaled(out, out, hd, 1 / total);
        lse.data[h * q.shape[0] + n] = largest + std::log(total);
      }
    }
  }
}

template <Scalar T>
void attention_backward(Context<Cpu>& ctx,
                        View<T> dq,  // (Nq, H, hd)   assigned
                        View<T> dk,  // (Nk, KV, hd)  assigned
                        View<T> dv,  // (Nk, KV, hd)  assigned
                        In<T> dy,    // (Nq, H, hd)
                        In<T> q,     // (Nq, H, hd)   any stride of Nq; the last two axes dense
                        In<T> k,     // (Nk, KV, hd)  likewise
                        In<T> v,     // (Nk, KV, hd)  likewise
                        In<T> y,     // (Nq, H, hd)
                        In<T> lse,   // (H, Nq)       kept by attention_forward
                        const std::vector<Segment>& segments, const AttentionOptions& options) {
  using namespace detail;
  if (!dq && !dk && !dv) return;
  const AttentionCall<T> call(q, k, v, options);
  for (const View<T>& d : {dq, dk, dv})  // what no segment names has a gradient of zero
    if (d) fill(ctx, d, T(0));
  const AttentionPlan plan = plan_blocks(call, segments, true);
  if (plan.blocks.empty()) return;

  // Where segments share keys their sums meet, so one thread does them all in order.
  std::vector<Segment> sorted = segments;
  std::sort(sorted.begin(), sorted.end(), [](const Segment& a, const Segment& b) { return a.k_begin < b.k_begin; });
  bool shared = false;
  for (std::size_t i = 0; i + 1 < sorted.size(); ++i) shared |= sorted[i].k_end > sorted[i + 1].k_begin;

  const int64_t nk = longest(segments), hd = call.hd, padded = call.padded, KV = k.shape[1];
  const int threads = shared ? 1 : ctx.threads();
  const int64_t runs = plan.runs(threads);
  const bool keys_too = dk || dv;
  Arena<T> size;
  BackwardSpace<T>(size, call, nk);
  Tensor<T, Cpu> memory(ctx, {threads, size.used});
  // Of each run but the first: sums of the unit that the run before began, dk and dv.
  Tensor<T, Cpu> spilled(ctx, {keys_too ? runs - 1 : 0, 2, nk * padded});
  const auto spill_of = [&](int64_t run) { return spilled.data() + (run - 1) * 2 * nk * padded; };
  const auto add_keys = [&](const AttentionBlock& unit, const T* from_k, const T* from_v) {
    const Segment& s = segments[unit.segment];
    for (int64_t j = 0; j < s.k_end - s.k_begin; ++j) {
      const int64_t at = ((s.k_begin + j) * KV + unit.kv) * hd;
      if (dk) add_scaled(dk.data + at, from_k + j * padded, hd, call.scale);
      if (dv) add_scaled(dv.data + at, from_v + j * padded, hd, T(1));
    }
  };
  WorkPieces pieces(runs);
  const auto work = [&](int thread) {
    Arena<T> arena{memory.data() + thread * size.used};
    BackwardSpace<T> space(arena, call, nk);
    for (int64_t run = pieces.take(); run >= 0; run = pieces.take()) {
      const std::size_t begin = plan.start(run, runs), end = plan.start(run + 1, runs);
      T *sum_k = nullptr, *sum_v = nullptr;
      for (std::size_t i = begin; i < end; ++i) {
        const AttentionBlock& block = plan.blocks[i];
        const Segment& s = segments[block.segment];
        if (i == begin || plan.starts_unit(i)) {
          const int64_t n = s.k_end - s.k_begin;
          const auto key = [&](int64_t j) { return call.at(k, s.k_begin + j, block.kv); };
          pack_transposed(space.keys_t, key, n, hd);
          pack_transposed(
              space.values_t, [&](int64_t j) { return call.at(v, s.k_begin + j, block.kv); }, n, hd);
          if (dq) pack_panels(space.keys, key, n, hd);
          if (keys_too) {
            sum_k = plan.starts_unit(i) ? space.dk : spill_of(run);
            sum_v = plan.starts_unit(i) ? space.dv : spill_of(run) + nk * padded;
            std::fill_n(sum_k, n * padded, T(0));
            std::fill_n(sum_v, n * padded, T(0));
          }
        }
        attention_block_backward(call, s, block, space, sum_k, sum_v, dq, dy, y, lse);
        if (keys_too && sum_k == space.dk && (i + 1 == end || plan.starts_unit(i + 1))) add_keys(block, sum_k, sum_v);
      }
    }
  };
  if (threads == 1) work(0);
  else ctx.pool().run(work);
  for (int64_t run = 1; run < runs && keys_too; ++run) {  // what was cut at a run's beginning, in order
    const std::size_t begin = plan.start(run, runs);
    if (begin == plan.start(run + 1, runs) || plan.starts_unit(begin)) continue;
    add_keys(plan.blocks[begin], spill_of(run), spill_of(run) + nk * padded);
  }
}

}  // namespace ft::inline FTLIB_ABI
