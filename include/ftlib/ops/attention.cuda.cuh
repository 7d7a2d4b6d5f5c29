// ops/attention.cuda.cuh: attention on the GPU, forward and backward, in tiles with the online softmax (Milakov and
// Gimelshein, arXiv:1805.02867; Dao, arXiv:2307.08691): memory is linear in the sequence.
//
// A row is one query of one head. The rows of all heads that share a key-value head follow one another, query by query,
// so that a tile of rows is full although a segment is short or is one token, and so that each key that is loaded
// serves all of them. Heads are padded with zeros to 32, 64, 128, 256 or 512 in shared memory. Sums of more than 256
// columns are more than a warp's registers hold: of heads up to 512 two blocks have a half each, and both compute all
// scores, so that these cost half as much again.
#pragma once
#include <ftlib/ops/kinds.hpp>         // Mask, Segment, AttentionOptions
#include <ftlib/ops/sink.cuda.cuh>     // sink_forward, sink_backward
#include <ftlib/cuda/tile.cuda.cuh>     // multiply_rows, multiply_sums
#include <ftlib/tensor/copy.cuda.cuh>  // fill

#include <algorithm>  // std::stable_sort
#include <cmath>      // std::exp2
#include <vector>     // std::vector

namespace ft::inline FTLIB_ABI {

namespace detail {

/// Sizes of a call, as kernels take them.
struct AttentionSizes {
  int64_t queries;                                      // of q: lse is (H, queries)
  int64_t q_step, k_step, v_step, y_step, dy_step = 0;  // elements from token to token
  uint64_t per_group;                                   // 2^32 / groups, rounded up
  int KV, groups, hd, window;                           // window: more than any segment has, where all are seen
  bool causal, packs;  // packs: each head of each array begins at a multiple of 16 bytes

  /// Query of a row; division takes some twenty instructions, this takes two.
  __device__ int query(int row) const { return static_cast<int>(static_cast<uint32_t>(row) * per_group >> 32); }
  /// Query i of segment s sees its keys [first(s, i), last(s, i)), counted from k_begin.
  __host__ __device__ int last(const Segment& s, int i) const {
    const auto keys = static_cast<int>(s.k_end - s.k_begin);
    return causal ? keys - static_cast<int>(s.q_end - s.q_begin) + i + 1 : keys;
  }
  __host__ __device__ int first(const Segment& s, int i) const {
    const int from = last(s, i) - window;
    return from > 0 ? from : 0;
  }
  __host__ __device__ int rows(const Segment& s) const { return static_cast<int>(s.q_end - s.q_begin) * groups; }
};

/// The rows of a segment and key-value head in an array (tokens, heads, hd); null behind the last.
template <class T> struct QueryRows {
  T* begin;
  int64_t step;
  const AttentionSizes& sizes;
  int count;
  __device__ QueryRows(T* x, int64_t step_, const AttentionSizes& sizes_, const Segment& s, int kv)
      : begin(x + s.q_begin * step_ + kv * sizes_.groups * int64_t{sizes_.hd}),
        step(step_),
        sizes(sizes_),
        count(sizes_.rows(s)) {}
  __device__ T* operator()(int row) const {
    if (row >= count) return nullptr;
    const int i = sizes.query(row);
    return begin + i * step + (row - i * sizes.groups) * sizes.hd;
  }
};
/// Its keys or values, likewise.
template <class T> struct KeyRows {
  T* begin;
  int64_t step;
  int count;
  __device__ KeyRows(T* x, int64_t step_, const AttentionSizes& sizes, int64_t key, int kv, int count_)
      : begin(x + key * step_ + kv * int64_t{sizes.hd}), step(step_), count(count_) {}
  __device__ T* operator()(int j) const { return j < count ? begin + j * step : nullptr; }
};

/// Columns of a head that a block sums, and the first of them.
template <int HD> inline constexpr int summed_columns = HD > 256 ? 256 : HD;
template <int HD> __device__ int first_column() {
  return summed_columns<HD> == HD ? 0 : static_cast<int>(blockIdx.y) * summed_columns<HD>;
}
template <int HD> dim3 over_columns(dim3 grid) {
  grid.y = HD / summed_columns<HD>;
  return grid;
}
/// Rows from a column on.
template <class Rows> struct FromColumn {
  Rows rows;
  int column;
  __device__ auto operator()(int row) const {
    auto* const begin = rows(row);
    return begin ? begin + column : begin;
  }
};
template <class Rows> FromColumn(Rows, int) -> FromColumn<Rows>;

/// How a block works: each of its warps has `tiles` times 16 rows of its own, past which go `passing` rows at a time.
/// At least `blocks` of them run side by side where a multiprocessor has 164 KiB of shared memory (sm_80; sm_90 and
/// sm_100 have more); where it has 100 KiB (sm_89, sm_120) at least one does, and of heads up to 64 at least two do.
/// Sums and scores of a warp fill most of its registers, so few warps run, and loads go on beside the products.
struct Tiling {
  int warps, tiles, passing, blocks;
  constexpr int threads() const { return 32 * warps; }
  constexpr int rows() const { return 16 * tiles * warps; }
};
constexpr bool fits(const Tiling& t, std::size_t bytes) {
  constexpr std::size_t KiB = 1024;  // a block costs one more than it asks for
  return bytes <= 99 * KiB && (bytes + KiB) * static_cast<std::size_t>(t.blocks) <= 164 * KiB;
}

constexpr Tiling forward_tiling_of(std::size_t size, int HD) {
  if (HD == 512) return size == 2 ? Tiling{4, 1, 16, 1} : Tiling{2, 1, 8, 1};
  if (size == 2) return HD <= 64 ? Tiling{4, 2, 64, 2} : HD == 128 ? Tiling{4, 1, 64, 3} : Tiling{4, 1, 32, 2};
  if (size == 4) return HD <= 64 ? Tiling{4, 1, 32, 3} : HD == 128 ? Tiling{4, 1, 32, 2} : Tiling{2, 1, 16, 2};
  return HD <= 64 ? Tiling{2, 1, 16, 2} : HD == 128 ? Tiling{2, 1, 16, 2} : Tiling{1, 1, 16, 1};
}
constexpr Tiling backward_tiling_of(std::size_t size, int HD) {
  if (HD == 512) return size == 2 ? Tiling{2, 1, 16, 1} : Tiling{1, 1, 8, 1};
  if (size == 2) return HD <= 64 ? Tiling{4, 1, 32, 3} : HD == 128 ? Tiling{4, 1, 32, 2} : Tiling{2, 1, 16, 2};
  if (size == 4) return HD <= 64 ? Tiling{4, 1, 16, 3} : HD == 128 ? Tiling{2, 1, 16, 3} : Tiling{2, 1, 16, 1};
  return HD <= 64 ? Tiling{2, 1, 16, 2} : HD == 128 ? Tiling{1, 1, 16, 2} : Tiling{1, 1, 8, 1};
}
/// split: one warp, which takes a part of the keys of at most 16 rows.
inline constexpr int split_rows = 16;
template <class T, int HD, bool split>
inline constexpr Tiling forward_tiling = split ? Tiling{1, 1, forward_tiling_of(sizeof(T), HD).passing,
                                                        HD == 512 && sizeof(T) == 4 ? 2 : 3}
                                               : forward_tiling_of(sizeof(T), HD);
template <class T, int HD> inline constexpr Tiling backward_tiling = backward_tiling_of(sizeof(T), HD);

/// Rows of a segment from `row` on, as many as a block has, and the keys [first, last) that they look at.
struct AttentionTile {
  int segment, row, first, last, part;  // part: of the split ones, in order
};
/// Keys [key, key + keys) of k and v, and the segments that look at them: numbers list to list + lists of a list.
struct KeyTile {
  int64_t key;
  int keys, list, lists;
};
/// Parts [part, part + parts) of the split rows of a segment.
struct AttentionMerge {
  int segment, part, parts;
};

inline constexpr double log2_e = 1.4426950408889634074;

/// Over the four lanes that have columns of one row.
template <class A> __device__ A row_sum(A x) {
  x += __shfl_xor_sync(all_lanes, x, 1);
  return x + __shfl_xor_sync(all_lanes, x, 2);
}
template <class A> __device__ A row_max(A x) {
  for (int lanes = 1; lanes <= 2; lanes *= 2) {
    const A other = __shfl_xor_sync(all_lanes, x, lanes);
    x = x < other ? other : x;
  }
  return x;
}

// y and lse of a tile of rows: S = scale Q K^T, P = 2^(S - top), O = O 2^(old top - top) + P V. S and P stay in
// registers. Values come while S is computed, the next keys while P V is. scale is times log2(e).
// Moves Q and y once, and K and V once a tile of rows, mostly from L2; 4 hd FLOP a score: with 64 rows of a tile, and
// 128 of 16 bits for heads up to 64, bound by arithmetic. Shared memory, of 16 bits: 36, 51, 66 and 90 KiB for heads of
// 64, 128, 256 and 512; of float: 34, 66, 65 and 89. Of 16 bits (128, 2), (128, 3), (128, 2), (128, 1): <= 168
// registers for heads of 128, else 255; 8, 12, 8 and 4 of 64 warps. Split, a block is one warp, which has a part of the
// keys of at most 16 rows, and O, top and the sum of P go to `parts`. It moves K and V once: bound by memory. 11 to 57
// KiB, (32, 3): at least 3 blocks (2 for heads of 512 floats), each with a tile on its way.
template <class T, int HD, bool split>
__global__ void __launch_bounds__(forward_tiling<T, HD, split>.threads(), forward_tiling<T, HD, split>.blocks)
    attention_kernel(T* y, accumulate_t<T>* lse, accumulate_t<T>* parts, const T* q, const T* k, const T* v,
                     accumulate_t<T> scale, AttentionSizes sizes, const Segment* segments, const AttentionTile* tiles) {
  using A = accumulate_t<T>;
  constexpr Tiling tiling = forward_tiling<T, HD, split>;
  constexpr int M = tiling.tiles, keys = tiling.passing, N = keys / 8, step = row_step<T, HD>, C = summed_columns<HD>;
  T *const qs = dynamic_shared<T>(), *const ks = qs + tiling.rows() * step, *const vs = ks + keys * step;
  const AttentionTile tile = tiles[blockIdx.x / static_cast<unsigned>(sizes.KV)];
  const int kv = static_cast<int>(blockIdx.x % static_cast<unsigned>(sizes.KV));
  const Segment s = segments[tile.segment];
  const QueryRows<const T> q_rows(q, sizes.q_step, sizes, s, kv);
  const KeyRows<const T> k_rows(k, sizes.k_step, sizes, s.k_begin, kv, tile.last);
  const int column = first_column<HD>(), hd = sizes.hd - column;  // of values and sums
  const FromColumn v_rows{KeyRows<const T>(v, sizes.v_step, sizes, s.k_begin, kv, tile.last), column};
  const int own = static_cast<int>(threadIdx.x / 32) * 16 * M;  // the warp's first row of the tile
  T* const own_qs = qs + own * step;

  // All rows of the warp see keys [all_from, all_to), and none sees any from `until` on.
  const int first_row = tile.row + own, last_row = first_row + 16 * M - 1;
  const int all_from = sizes.first(s, sizes.query(last_row)), all_to = sizes.last(s, sizes.query(first_row));
  const int until = first_row < q_rows.count ? sizes.last(s, sizes.query(last_row)) : 0;
  A top[M][2], total[M][2] = {}, o[M][C / 8][4] = {};
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int h = 0; h < 2; ++h) top[m][h] = -INFINITY;

  load_rows<tiling.rows(), tiling.threads(), HD>(qs, q_rows, tile.row, sizes.hd, sizes.packs);
  load_rows<keys, tiling.threads(), HD>(ks, k_rows, tile.first, sizes.hd, sizes.packs);
  for (int key = tile.first; key < tile.last; key += keys) {
    meet_rows();  // keys are there, and nobody looks at values
    load_rows<keys, tiling.threads(), C>(vs, v_rows, key, hd, sizes.packs);
    A p[M][N][4] = {};
    if (key < until) multiply_rows<HD>(p, own_qs, ks);
    meet_rows();  // values are there, and nobody looks at keys
    if (key + keys < tile.last) load_rows<keys, tiling.threads(), HD>(ks, k_rows, key + keys, sizes.hd, sizes.packs);
    if (key >= until) continue;
    const bool at_edge = key < all_from || key + keys > all_to || key + keys > tile.last;
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
#pragma unroll
        for (int n = 0; n < N; ++n)
#pragma unroll
          for (int e = 2 * h; e < 2 * h + 2; ++e) p[m][n][e] *= scale;
        if (at_edge) {
          const int i = sizes.query(first_row + 16 * m + fragment_row(2 * h));
          const int from = sizes.first(s, i), last = sizes.last(s, i), to = last < tile.last ? last : tile.last;
#pragma unroll
          for (int n = 0; n < N; ++n)
#pragma unroll
            for (int e = 2 * h; e < 2 * h + 2; ++e) {
              const int at = key + 8 * n + fragment_column(e);
              if (at < from || at >= to) p[m][n][e] = -INFINITY;
            }
        }
        A largest = top[m][h], sum = 0;
#pragma unroll
        for (int n = 0; n < N; ++n)
#pragma unroll
          for (int e = 2 * h; e < 2 * h + 2; ++e) largest = largest < p[m][n][e] ? p[m][n][e] : largest;
        largest = row_max(largest);
        const A offset = largest == static_cast<A>(-INFINITY) ? 0 : largest;  // of a row that has seen no key yet
        const A shrink = std::exp2(top[m][h] - offset);
        top[m][h] = largest;
#pragma unroll
        for (int n = 0; n < N; ++n)
#pragma unroll
          for (int e = 2 * h; e < 2 * h + 2; ++e) sum += p[m][n][e] = std::exp2(p[m][n][e] - offset);
        total[m][h] = total[m][h] * shrink + sum;
#pragma unroll
        for (int n = 0; n < C / 8; ++n)
#pragma unroll
          for (int e = 2 * h; e < 2 * h + 2; ++e) o[m][n][e] *= shrink;
      }
    multiply_sums<C>(o, p, vs);
  }

#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int h = 0; h < 2; ++h) total[m][h] = row_sum(total[m][h]);
  if constexpr (split) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      if (fragment_row(2 * h) >= q_rows.count) continue;
      A* const part = parts + ((tile.part * int64_t{sizes.KV} + kv) * split_rows + fragment_row(2 * h)) * (HD + 2);
#pragma unroll
      for (int n = 0; n < C / 8; ++n)
        store(part + column + 8 * n + fragment_column(0), Pack<A, 2>{{o[0][n][2 * h], o[0][n][2 * h + 1]}});
      if (lane() % 4 == 0 && column == 0) store(part + HD, Pack<A, 2>{{top[0][h], total[0][h]}});
    }
  } else {
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int row = first_row + 16 * m + fragment_row(2 * h), i = sizes.query(row);
        if (row < q_rows.count && lane() % 4 == 0 && column == 0)
          lse[(kv * sizes.groups + row - i * sizes.groups) * sizes.queries + s.q_begin + i] =
              (top[m][h] + std::log2(total[m][h])) * static_cast<A>(1 / log2_e);
        total[m][h] = 1 / total[m][h];
      }
    store_rows<C>(o, total, own_qs, FromColumn{QueryRows<T>(y, sizes.y_step, sizes, s, kv), column}, first_row, hd,
                  sizes.packs);
  }
}

// y and lse of split rows: the sums of their parts, in order. One warp a row. Moves (HD + 2) sizeof(A) bytes a row and
// part; the part itself moves 128 keys and values or more.
template <class T, int HD>
__global__ void __launch_bounds__(block_size)
    attention_merge_kernel(T* y, accumulate_t<T>* lse, const accumulate_t<T>* parts, AttentionSizes sizes,
                           const Segment* segments, const AttentionMerge* merges, int64_t rows) {
  using A = accumulate_t<T>;
  if (row() >= rows) return;
  const int r = static_cast<int>(row() % split_rows), kv = static_cast<int>(row() / split_rows % sizes.KV);
  const AttentionMerge merge = merges[row() / split_rows / sizes.KV];
  const Segment s = segments[merge.segment];
  const QueryRows<T> y_rows(y, sizes.y_step, sizes, s, kv);
  if (r >= y_rows.count) return;
  const int64_t step = int64_t{sizes.KV} * split_rows * (HD + 2);
  const A* const part = parts + ((merge.part * int64_t{sizes.KV} + kv) * split_rows + r) * (HD + 2);
  A top = -INFINITY, total = 0;
  for (int j = 0; j < merge.parts; ++j) top = top < part[j * step + HD] ? part[j * step + HD] : top;
  for (int j = 0; j < merge.parts; ++j) total += std::exp2(part[j * step + HD] - top) * part[j * step + HD + 1];
  for (int c = lane(); c < sizes.hd; c += 32) {
    A sum = 0;
    for (int j = 0; j < merge.parts; ++j) sum += std::exp2(part[j * step + HD] - top) * part[j * step + c];
    y_rows(r)[c] = narrow<T>(sum / total);
  }
  const int i = sizes.query(r);
  if (lane() == 0)
    lse[(kv * sizes.groups + r - i * sizes.groups) * sizes.queries + s.q_begin + i] =
        (top + std::log2(total)) * static_cast<A>(1 / log2_e);
}

// delta (H, N) = the sum over a head of dy y, which is the sum over keys of P dP. L lanes a head of a token, V elements
// a lane and load; blockIdx.y is the head. Moves 2 N H hd sizeof(T) bytes.
template <class T, int V, int L>
__global__ void __launch_bounds__(block_size)
    attention_delta_kernel(accumulate_t<T>* delta, const T* dy, const T* y, AttentionSizes sizes, int64_t N) {
  const int64_t n = (blockIdx.x * int64_t{block_size} + threadIdx.x) / L, h = blockIdx.y;
  const int first = static_cast<int>(threadIdx.x % L) * V;
  accumulate_t<T> sum = 0;
  if (n < N)
    for (int c = first; c < sizes.hd; c += L * V) {
      const auto dys = load<V>(dy + n * sizes.dy_step + h * sizes.hd + c);
      const auto ys = load<V>(y + n * sizes.y_step + h * sizes.hd + c);
      for (int i = 0; i < V; ++i) sum += widen(dys.v[i]) * widen(ys.v[i]);
    }
  sum = warp_sum<accumulate_t<T>, L>(sum);
  if (first == 0 && n < N) delta[h * N + n] = sum;
}
template <class T>
void attention_delta(Context<Cuda>& ctx, accumulate_t<T>* delta, const T* dy, const T* y, const AttentionSizes& sizes,
                     int64_t N) {
  constexpr int V = pack_size<T>;
  const auto run = [&](auto kernel, int lanes) {
    const dim3 grid(grid_of(ceil_div(N * lanes, block_size)).x, static_cast<unsigned>(sizes.KV * sizes.groups));
    launch(kernel, grid, block_size, 0, ctx.stream(), delta, dy, y, sizes, N);
  };
  if (!sizes.packs) run(attention_delta_kernel<T, 1, 32>, 32);
  else if (sizes.hd <= 8 * V) run(attention_delta_kernel<T, V, 8>, 8);
  else if (sizes.hd <= 16 * V) run(attention_delta_kernel<T, V, 16>, 16);
  else run(attention_delta_kernel<T, V, 32>, 32);
}

// dQ of a tile of rows: P = 2^(S - lse), dP = dY V^T, dS = P (dP - delta), dQ = scale dS K. Keys come while dP is
// computed, the next values while the rest is. Moves Q, dY and dQ once, and K and V once a tile of rows; 6 hd FLOP a
// score. Shared memory, of 16 bits: 28, 52, 50 and 98 KiB for heads of 64, 128, 256 and 512; of float: 43, 50, 98, 97.
// Of 16 bits (128, 3), (128, 2), (64, 2), (64, 1): <= 168 registers for heads of 64, else 255; 12, 8, 4 and 2 warps.
template <class T, int HD>
__global__ void __launch_bounds__(backward_tiling<T, HD>.threads(), backward_tiling<T, HD>.blocks)
    attention_queries_kernel(T* dq, const T* dy, const T* q, const T* k, const T* v, const accumulate_t<T>* lse,
                             const accumulate_t<T>* delta, accumulate_t<T> scale, AttentionSizes sizes,
                             const Segment* segments, const AttentionTile* tiles) {
  using A = accumulate_t<T>;
  constexpr Tiling tiling = backward_tiling<T, HD>;
  constexpr int M = tiling.tiles, keys = tiling.passing, N = keys / 8, step = row_step<T, HD>, C = summed_columns<HD>;
  T *const qs = dynamic_shared<T>(), *const dys = qs + tiling.rows() * step, *const ks = dys + tiling.rows() * step,
           *const vs = ks + keys * step;
  const AttentionTile tile = tiles[blockIdx.x / static_cast<unsigned>(sizes.KV)];
  const int kv = static_cast<int>(blockIdx.x % static_cast<unsigned>(sizes.KV));
  const Segment s = segments[tile.segment];
  const QueryRows<const T> q_rows(q, sizes.q_step, sizes, s, kv), dy_rows(dy, sizes.dy_step, sizes, s, kv);
  const KeyRows<const T> k_rows(k, sizes.k_step, sizes, s.k_begin, kv, tile.last);
  const KeyRows<const T> v_rows(v, sizes.v_step, sizes, s.k_begin, kv, tile.last);
  const int own = static_cast<int>(threadIdx.x / 32) * 16 * M, column = first_column<HD>();

  int from[M][2], to[M][2];
  A log_sum[M][2], mean[M][2], factor[M][2], sums[M][C / 8][4] = {};
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = tile.row + own + 16 * m + fragment_row(2 * h), i = sizes.query(row);
      const bool is = row < q_rows.count;
      const int64_t at = (kv * sizes.groups + row - i * sizes.groups) * sizes.queries + s.q_begin + i;
      from[m][h] = sizes.first(s, i);
      to[m][h] = is ? sizes.last(s, i) : 0;
      log_sum[m][h] = is ? lse[at] * static_cast<A>(log2_e) : 0;
      mean[m][h] = is ? delta[at] : 0;
      factor[m][h] = scale * static_cast<A>(1 / log2_e);
    }

  load_rows<tiling.rows(), tiling.threads(), HD>(qs, q_rows, tile.row, sizes.hd, sizes.packs);
  load_rows<tiling.rows(), tiling.threads(), HD>(dys, dy_rows, tile.row, sizes.hd, sizes.packs);
  load_rows<keys, tiling.threads(), HD>(vs, v_rows, tile.first, sizes.hd, sizes.packs);
  for (int key = tile.first; key < tile.last; key += keys) {
    meet_rows();  // values are there, and nobody looks at keys
    load_rows<keys, tiling.threads(), HD>(ks, k_rows, key, sizes.hd, sizes.packs);
    A ds[M][N][4] = {}, p[M][N][4] = {};
    multiply_rows<HD>(ds, dys + own * step, vs);
    meet_rows();  // keys are there, and nobody looks at values
    if (key + keys < tile.last) load_rows<keys, tiling.threads(), HD>(vs, v_rows, key + keys, sizes.hd, sizes.packs);
    multiply_rows<HD>(p, qs + own * step, ks);
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
#pragma unroll
        for (int n = 0; n < N; ++n)
#pragma unroll
          for (int e = 2 * h; e < 2 * h + 2; ++e)
            ds[m][n][e] = std::exp2(scale * p[m][n][e] - log_sum[m][h]) * (ds[m][n][e] - mean[m][h]);
        if (key < from[m][h] || key + keys > to[m][h]) {
#pragma unroll
          for (int n = 0; n < N; ++n)
#pragma unroll
            for (int e = 2 * h; e < 2 * h + 2; ++e) {
              const int at = key + 8 * n + fragment_column(e);
              if (at < from[m][h] || at >= to[m][h]) ds[m][n][e] = 0;
            }
        }
      }
    multiply_sums<C, HD>(sums, ds, ks + column);
  }
  store_rows<C>(sums, factor, qs + own * step, FromColumn{QueryRows<T>(dq, sizes.y_step, sizes, s, kv), column},
                tile.row + own, sizes.hd - column, sizes.packs);
}

// dK and dV of a tile of keys, or one of them, over all rows that see them: dV = P^T dY, dK = scale dS^T Q. The sums
// are transposed: a warp has keys for rows, and queries go past. Queries come while dP is computed, the next dY while
// dK is. Moves K, V, dK and dV once, and Q and dY once a tile of keys; 8 hd FLOP a score, and 10 where a head of 256
// needs two launches; 16 of 512, by halves. Shared memory, registers and warps as for dQ.
template <class T, int HD, bool keys_too, bool values_too>
__global__ void __launch_bounds__(backward_tiling<T, HD>.threads(), backward_tiling<T, HD>.blocks)
    attention_keys_kernel(T* dk, T* dv, const T* dy, const T* q, const T* k, const T* v, const accumulate_t<T>* lse,
                          const accumulate_t<T>* delta, accumulate_t<T> scale, AttentionSizes sizes,
                          const Segment* segments, const KeyTile* tiles, const int* lists) {
  using A = accumulate_t<T>;
  constexpr Tiling tiling = backward_tiling<T, HD>;
  constexpr int M = tiling.tiles, rows = tiling.passing, N = rows / 8, step = row_step<T, HD>, C = summed_columns<HD>;
  T *const ks = dynamic_shared<T>(), *const vs = ks + tiling.rows() * step, *const qs = vs + tiling.rows() * step,
           *const dys = qs + rows * step;
  A *const log_sum = reinterpret_cast<A*>(dys + rows * step), *const mean = log_sum + rows;
  int* const to = reinterpret_cast<int*>(mean + rows);  // where the keys end that a row sees
  const KeyTile tile = tiles[blockIdx.x / static_cast<unsigned>(sizes.KV)];
  const int kv = static_cast<int>(blockIdx.x % static_cast<unsigned>(sizes.KV));
  const int own = static_cast<int>(threadIdx.x / 32) * 16 * M, column = first_column<HD>();

  A dks[M][keys_too ? C / 8 : 1][4] = {}, dvs[M][values_too ? C / 8 : 1][4] = {};
  load_rows<tiling.rows(), tiling.threads(), HD>(ks, KeyRows<const T>(k, sizes.k_step, sizes, tile.key, kv, tile.keys),
                                                 0, sizes.hd, sizes.packs);
  if (keys_too)
    load_rows<tiling.rows(), tiling.threads(), HD>(
        vs, KeyRows<const T>(v, sizes.v_step, sizes, tile.key, kv, tile.keys), 0, sizes.hd, sizes.packs);
  for (int n_list = tile.list; n_list < tile.list + tile.lists; ++n_list) {
    const Segment s = segments[lists[n_list]];
    const QueryRows<const T> q_rows(q, sizes.q_step, sizes, s, kv), dy_rows(dy, sizes.dy_step, sizes, s, kv);
    const auto key = static_cast<int>(tile.key - s.k_begin);  // may be below zero where segments share keys
    // Query i sees keys up to i + ahead, and with a window those from i + ahead + 1 - window on.
    const auto ahead = static_cast<int>((s.k_end - s.k_begin) - (s.q_end - s.q_begin));
    const int begin = sizes.causal && key > ahead ? (key - ahead) * sizes.groups : 0;
    const int64_t seen_until = (int64_t{key} + tile.keys - 1 + sizes.window - ahead) * sizes.groups;
    const int end = seen_until < 0 ? 0 : seen_until < q_rows.count ? static_cast<int>(seen_until) : q_rows.count;
    __syncthreads();  // nobody looks at the last segment's dY
    if (begin < end) load_rows<rows, tiling.threads(), HD>(dys, dy_rows, begin, sizes.hd, sizes.packs);
    for (int first = begin; first < end; first += rows) {
      meet_rows();  // dY is there, and nobody looks at queries
      load_rows<rows, tiling.threads(), HD>(qs, q_rows, first, sizes.hd, sizes.packs);
      if (threadIdx.x < rows) {
        const int row = first + static_cast<int>(threadIdx.x), i = sizes.query(row);
        const bool is = row < q_rows.count;
        const int64_t at = (kv * sizes.groups + row - i * sizes.groups) * sizes.queries + s.q_begin + i;
        log_sum[threadIdx.x] = is ? lse[at] * static_cast<A>(log2_e) : 0;
        mean[threadIdx.x] = is ? delta[at] : 0;
        to[threadIdx.x] = is ? sizes.last(s, i) : 0;
      }
      A ds[M][N][4] = {}, p[M][N][4] = {};
      if constexpr (keys_too) multiply_rows<HD>(ds, vs + own * step, dys);
      meet_rows();  // queries are there
      multiply_rows<HD>(p, ks + own * step, qs);
#pragma unroll
      for (int n = 0; n < N; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const A log_sum_of = log_sum[8 * n + fragment_column(e)];
#pragma unroll
          for (int m = 0; m < M; ++m)
#pragma unroll
            for (int h = 0; h < 2; ++h) p[m][n][2 * h + e] = std::exp2(scale * p[m][n][2 * h + e] - log_sum_of);
        }
      const int last_row = (first + rows < q_rows.count ? first + rows : q_rows.count) - 1;
      if (key + own < sizes.first(s, sizes.query(last_row)) || key + own + 16 * M > sizes.last(s, sizes.query(first))) {
#pragma unroll
        for (int n = 0; n < N; ++n)
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const int to_of = to[8 * n + fragment_column(e)];
#pragma unroll
            for (int m = 0; m < M; ++m)
#pragma unroll
              for (int h = 0; h < 2; ++h) {
                const int at = key + own + 16 * m + fragment_row(2 * h);
                if (at < 0 || at >= to_of || at < to_of - sizes.window) p[m][n][2 * h + e] = 0;
              }
          }
      }
      if constexpr (keys_too) {
#pragma unroll
        for (int n = 0; n < N; ++n)
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const A mean_of = mean[8 * n + fragment_column(e)];
#pragma unroll
            for (int m = 0; m < M; ++m)
#pragma unroll
              for (int h = 0; h < 2; ++h) ds[m][n][2 * h + e] = p[m][n][2 * h + e] * (ds[m][n][2 * h + e] - mean_of);
          }
      }
      if constexpr (values_too) multiply_sums<C, HD>(dvs, p, dys + column);
      if (first + rows < end) {  // in a branch, beyond which ptxas does not put off the product to gather its operands
        __syncthreads();         // nobody looks at dY
        load_rows<rows, tiling.threads(), HD>(dys, dy_rows, first + rows, sizes.hd, sizes.packs);
      }
      if constexpr (keys_too) multiply_sums<C, HD>(dks, ds, qs + column);
    }
  }

  meet_rows();  // also where no row sees the tile
  A factor[M][2], one[M][2];
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      factor[m][h] = scale * static_cast<A>(1 / log2_e);
      one[m][h] = 1;
    }
  const int64_t dense = int64_t{sizes.KV} * sizes.hd;
  if constexpr (keys_too)
    if (dk)
      store_rows<C>(dks, factor, ks + own * step,
                    FromColumn{KeyRows<T>(dk, dense, sizes, tile.key, kv, tile.keys), column}, own, sizes.hd - column,
                    sizes.packs);
  if constexpr (values_too)
    if (dv)
      store_rows<C>(dvs, one, vs + own * step,
                    FromColumn{KeyRows<T>(dv, dense, sizes, tile.key, kv, tile.keys), column}, own, sizes.hd - column,
                    sizes.packs);
}

template <class T, int HD, bool split> constexpr std::size_t forward_bytes() {
  constexpr Tiling t = forward_tiling<T, HD, split>;
  constexpr std::size_t bytes = (static_cast<std::size_t>(t.rows() + t.passing) * row_step<T, HD> +
                                 static_cast<std::size_t>(t.passing) * row_step<T, summed_columns<HD>>) *
                                sizeof(T);
  static_assert(fits(t, bytes));
  return bytes;
}
template <class T, int HD> constexpr std::size_t backward_bytes() {
  constexpr Tiling t = backward_tiling<T, HD>;
  constexpr std::size_t bytes = static_cast<std::size_t>(2 * (t.rows() + t.passing)) * row_step<T, HD> * sizeof(T) +
                                static_cast<std::size_t>(t.passing) * (2 * sizeof(accumulate_t<T>) + sizeof(int));
  static_assert(fits(t, bytes));
  return bytes;
}

inline constexpr int longest_segment = 1 << 29, no_window = 0x7fff0000;  // sums of these stay within an int

/// A tile of double that has more does not fit.
template <class T> inline constexpr int largest_head = sizeof(T) <= 4 ? 512 : 256;
/// f(std::integral_constant<int, HD>) with the least HD that hd fits into.
template <class T, class F> void with_head_size(int64_t hd, F f) {
  if (hd <= 32) f(std::integral_constant<int, 32>{});
  else if (hd <= 64) f(std::integral_constant<int, 64>{});
  else if (hd <= 128) f(std::integral_constant<int, 128>{});
  else if (hd <= 256 || largest_head<T> == 256) f(std::integral_constant<int, 256>{});
  else f(std::integral_constant<int, largest_head<T>>{});
}

template <class T>
AttentionSizes attention_sizes(const View<const T>& q, const View<const T>& k, const View<const T>& v,
                               const std::vector<Segment>& segments, const AttentionOptions& options) {
  const int64_t H = q.shape[1], KV = k.shape[1], hd = q.shape[2], groups = H / KV;
  if (hd > largest_head<T>)
    throw Error(str("attention: a head of ", hd, ' ', dtype_of<T>, " on the GPU"),
                str("its kernels take heads of at most ", largest_head<T>, '.'));
  const int64_t most_rows = std::min(int64_t{1} << 31, (int64_t{1} << 32) / groups) - 1024;  // for query() to be right
  for (const Segment& s : segments)
    if ((s.q_end - s.q_begin) * groups > most_rows || s.k_end - s.k_begin > longest_segment)
      throw Error(str("attention: a segment of ", s.q_end - s.q_begin, " queries and ", s.k_end - s.k_begin,
                      " keys, with ", groups, " query heads to a key-value head, is too long for the GPU"));
  return {.queries = q.shape[0],
          .q_step = q.strides[0],
          .k_step = k.strides[0],
          .v_step = v.strides[0],
          .y_step = H * hd,
          .per_group = static_cast<uint64_t>(ceil_div(int64_t{1} << 32, groups)),
          .KV = static_cast<int>(KV),
          .groups = static_cast<int>(groups),
          .hd = static_cast<int>(hd),
          .window = options.window > 0 && options.window < no_window ? static_cast<int>(options.window) : no_window,
          .causal = options.mask == Mask::causal,
          .packs = rows_aligned16<T>(hd, q.data, k.data, v.data) && q.strides[0] % pack_size<T> == 0 &&
                   k.strides[0] % pack_size<T> == 0 && v.strides[0] % pack_size<T> == 0};
}
template <class T> accumulate_t<T> attention_scale(const AttentionOptions& options, int64_t hd) {
  const double scale = options.scale != 0 ? double{options.scale} : 1 / std::sqrt(static_cast<double>(hd));
  return static_cast<accumulate_t<T>>(scale * log2_e);
}

/// Keys of a part where the rows of a segment are split: a number that depends on sizes alone, so that results do.
inline int keys_of_part(int keys) {
  const int least = static_cast<int>(ceil_div(keys, 64));  // at most so many parts
  return std::max(128, static_cast<int>(ceil_div(least, 64)) * 64);
}
inline bool splits(const AttentionSizes& sizes, const Segment& s) {
  const auto nq = static_cast<int>(s.q_end - s.q_begin);
  return nq > 0 && sizes.rows(s) <= split_rows && sizes.last(s, nq - 1) - sizes.first(s, 0) > keys_of_part(0);
}
/// The work of blocks of `rows` rows, the longest first; without the segments that split, unless all are asked for.
inline std::vector<AttentionTile> row_tiles(const AttentionSizes& sizes, const std::vector<Segment>& segments, int rows,
                                            bool all) {
  std::vector<AttentionTile> tiles;
  for (std::size_t n = 0; n < segments.size(); ++n) {
    const Segment& s = segments[n];
    const int count = sizes.rows(s);
    if (!all && splits(sizes, s)) continue;
    for (int row = 0; row < count; row += rows)
      tiles.push_back({static_cast<int>(n), row, sizes.first(s, row / sizes.groups),
                       sizes.last(s, (std::min(count, row + rows) - 1) / sizes.groups), 0});
  }
  std::stable_sort(tiles.begin(), tiles.end(),
                   [](const auto& a, const auto& b) { return a.last - a.first > b.last - b.first; });
  return tiles;
}
/// The work of blocks that have `keys` keys each, and the segments that each looks at.
inline std::vector<KeyTile> key_tiles(const std::vector<Segment>& segments, int keys, std::vector<int>& lists) {
  std::vector<int> order;
  for (std::size_t n = 0; n < segments.size(); ++n)
    if (segments[n].q_end > segments[n].q_begin) order.push_back(static_cast<int>(n));
  const auto segment = [&](int n) -> const Segment& { return segments[static_cast<std::size_t>(n)]; };
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return segment(a).k_begin < segment(b).k_begin; });
  std::vector<KeyTile> tiles;
  for (std::size_t i = 0, next; i < order.size(); i = next) {  // segments [i, next) share keys, or are one
    int64_t end = segment(order[i]).k_end;
    for (next = i + 1; next < order.size() && segment(order[next]).k_begin < end; ++next)
      end = std::max(end, segment(order[next]).k_end);
    for (int64_t key = segment(order[i]).k_begin; key < end; key += keys) {
      const int64_t stop = std::min(end, key + keys);
      KeyTile tile{key, static_cast<int>(stop - key), static_cast<int>(lists.size()), 0};
      for (std::size_t j = i; j < next; ++j)
        if (segment(order[j]).k_begin < stop && segment(order[j]).k_end > key) {
          lists.push_back(order[j]);
          ++tile.lists;
        }
      tiles.push_back(tile);
    }
  }
  return tiles;
}
/// Whether tiles of keys leave out none of N.
inline bool covers(const std::vector<KeyTile>& tiles, int64_t N) {
  int64_t covered = 0;
  for (const KeyTile& t : tiles) covered += t.keys;
  return covered == N;
}
inline int64_t queries_of(const std::vector<Segment>& segments) {
  int64_t n = 0;
  for (const Segment& s : segments) n += s.q_end - s.q_begin;
  return n;
}

}  // namespace detail

template <Scalar T>
void attention_forward(Context<Cuda>& ctx,
                       View<T> y,                  // (Nq, H, hd)
                       View<accumulate_t<T>> lse,  // (H, Nq)      log of the sum of exp(score), for backward
                       In<T> q,                    // (Nq, H, hd)  any stride of Nq; the last two axes dense
                       In<T> k,                    // (Nk, KV, hd) likewise
                       In<T> v,                    // (Nk, KV, hd) likewise
                       const std::vector<Segment>& segments, const AttentionOptions& options) {
  using namespace detail;
  using A = accumulate_t<T>;
  AttentionSizes sizes = attention_sizes<T>(q, k, v, segments, options);
  sizes.packs &= aligned16(y.data);
  const A scale = attention_scale<T>(options, sizes.hd);
  if (queries_of(segments) < q.shape[0]) {  // queries of no segment
    fill(ctx, y, T(0));
    fill(ctx, lse, A(0));
  }
  const auto segments_there = ctx.upload(segments);

  with_head_size<T>(sizes.hd, [&](auto HD) {
    const auto tiles = row_tiles(sizes, segments, forward_tiling<T, HD, false>.rows(), false);
    const auto tiles_there = ctx.upload(tiles);
    launch(attention_kernel<T, HD, false>, over_columns<HD>(grid_of(static_cast<int64_t>(tiles.size()) * sizes.KV)),
           forward_tiling<T, HD, false>.threads(), forward_bytes<T, HD, false>(), ctx.stream(), y.data, lse.data,
           nullptr, q.data, k.data, v.data, scale, sizes, segments_there.get(), tiles_there.get());

    std::vector<AttentionTile> parts;
    std::vector<AttentionMerge> merges;
    for (std::size_t n = 0; n < segments.size(); ++n) {
      const Segment& s = segments[n];
      if (!splits(sizes, s)) continue;
      const int first = sizes.first(s, 0), last = sizes.last(s, static_cast<int>(s.q_end - s.q_begin) - 1);
      const int keys = keys_of_part(last - first), begin = static_cast<int>(parts.size());
      for (int key = first; key < last; key += keys)
        parts.push_back({static_cast<int>(n), 0, key, std::min(last, key + keys), static_cast<int>(parts.size())});
      merges.push_back({static_cast<int>(n), begin, static_cast<int>(parts.size()) - begin});
    }
    if (parts.empty()) return;
    const auto parts_there = ctx.upload(parts);
    const auto merges_there = ctx.upload(merges);
    const int64_t blocks = static_cast<int64_t>(parts.size()) * sizes.KV;
    const auto memory = ctx.allocate(static_cast<std::size_t>(blocks * split_rows * (HD + 2)) * sizeof(A));
    A* const sums = static_cast<A*>(memory.get());
    launch(attention_kernel<T, HD, true>, over_columns<HD>(grid_of(blocks)), forward_tiling<T, HD, true>.threads(),
           forward_bytes<T, HD, true>(), ctx.stream(), y.data, lse.data, sums, q.data, k.data, v.data, scale, sizes,
           segments_there.get(), parts_there.get());
    const int64_t rows = static_cast<int64_t>(merges.size()) * sizes.KV * split_rows;
    launch(attention_merge_kernel<T, HD>, grid_of_rows(rows), block_size, 0, ctx.stream(), y.data, lse.data, sums,
           sizes, segments_there.get(), merges_there.get(), rows);
  });
}

template <Scalar T>
void attention_backward(Context<Cuda>& ctx,
                        View<T> dq,               // (Nq, H, hd)   assigned
                        View<T> dk,               // (Nk, KV, hd)  assigned
                        View<T> dv,               // (Nk, KV, hd)  assigned
                        In<T> dy,                 // (Nq, H, hd)
                        In<T> q,                  // (Nq, H, hd)   any stride of Nq; the last two axes dense
                        In<T> k,                  // (Nk, KV, hd)  likewise
                        In<T> v,                  // (Nk, KV, hd)  likewise
                        In<T> y,                  // (Nq, H, hd)
                        In<accumulate_t<T>> lse,  // (H, Nq)       kept by attention_forward
                        const std::vector<Segment>& segments, const AttentionOptions& options) {
  using namespace detail;
  using A = accumulate_t<T>;
  if (!dq && !dk && !dv) return;
  AttentionSizes sizes = attention_sizes<T>(q, k, v, segments, options);
  sizes.dy_step = dy.strides[0];
  sizes.packs &= aligned16(dq.data, dk.data, dv.data, dy.data, y.data) && dy.strides[0] % pack_size<T> == 0;
  const A scale = attention_scale<T>(options, sizes.hd);
  const int64_t N = q.shape[0], heads = N * q.shape[1];
  const auto segments_there = ctx.upload(segments);
  const auto memory = ctx.allocate(static_cast<std::size_t>(heads) * sizeof(A));
  A* const delta = static_cast<A*>(memory.get());
  attention_delta<T>(ctx, delta, dy.data, y.data, sizes, N);

  with_head_size<T>(sizes.hd, [&](auto HD) {
    constexpr Tiling tiling = backward_tiling<T, HD>;
    if (dq) {
      if (queries_of(segments) < N) fill(ctx, dq, T(0));
      const auto tiles = row_tiles(sizes, segments, tiling.rows(), true);
      const auto tiles_there = ctx.upload(tiles);
      launch(attention_queries_kernel<T, HD>,
             over_columns<HD>(grid_of(static_cast<int64_t>(tiles.size()) * sizes.KV)), tiling.threads(),
             backward_bytes<T, HD>(), ctx.stream(), dq.data, dy.data, q.data, k.data, v.data, lse.data, delta, scale,
             sizes, segments_there.get(), tiles_there.get());
    }
    if (!dk && !dv) return;
    std::vector<int> lists;
    const auto tiles = key_tiles(segments, tiling.rows(), lists);
    const auto tiles_there = ctx.upload(tiles);
    const auto lists_there = ctx.upload(lists);
    for (const View<T>& d : {dk, dv})
      if (d && !covers(tiles, k.shape[0])) fill(ctx, d, T(0));
    const auto run = [&](auto kernel) {
      launch(kernel, over_columns<HD>(grid_of(static_cast<int64_t>(tiles.size()) * sizes.KV)), tiling.threads(),
             backward_bytes<T, HD>(), ctx.stream(), dk.data, dv.data, dy.data, q.data, k.data, v.data, lse.data, delta,
             scale, sizes, segments_there.get(), tiles_there.get(), lists_there.get());
    };
    if constexpr (HD <= 128) {
      run(attention_keys_kernel<T, HD, true, true>);
    } else {  // the sums of both are more than registers hold
      if (dk) run(attention_keys_kernel<T, HD, true, false>);
      if (dv) run(attention_keys_kernel<T, HD, false, true>);
    }
  });
}

}  // namespace ft::inline FTLIB_ABI
