// tensor/stored.cuda.cuh: stored weights into the compute type on the GPU: whole, or some of their rows.
#pragma once
#include <ftlib/tensor/copy.cuda.cuh>  // Same
#include <ftlib/cuda/pack.cuda.cuh>  // load, store, map
#include <ftlib/tensor/quantised.hpp>  // blocks
#include <ftlib/tensor/stored.hpp>     // Stored

#include <algorithm>  // std::min

namespace ft::inline FTLIB_ABI {

namespace detail {

/// Eight neighbouring elements of a block: element k is scale (byte k of q - centre) + offset, of NF4 scale times the
/// level that the byte names. The product is exact in float (NF4's is alone and rounds), so this rounds as
/// dequantise(block, i) does. No offset is -0: x + -0 is x, be x -0 itself.
struct Eight {
  uint64_t q;
  float centre, scale, offset = -0.0f;
};

/// Eight bytes, the first one lowest, from an address that is a multiple of Word's size.
template <class Word> __device__ uint64_t eight_bytes(const uint8_t* p) {
  uint64_t bytes = 0;
  for (int k = 0; k < 8; k += static_cast<int>(sizeof(Word)))
    bytes |= uint64_t{*reinterpret_cast<const Word*>(p + k)} << (8 * k);
  return bytes;
}
/// Elements i to i + 7 of a block of 32, whose low nibbles come first.
template <class Word> __device__ uint64_t eight_nibbles(const uint8_t* q, int i) {
  return (eight_bytes<Word>(q + i % 16) >> (i / 16 * 4)) & 0x0f0f0f0f0f0f0f0fu;
}
/// Bits i to i + 7 of `high`, each as bit 4 of its element's byte.
__device__ inline uint64_t eight_fifth_bits(const uint8_t* high, int i) {
  uint64_t bits = 0;
  for (int k = 0; k < 8; ++k) bits |= uint64_t{(high[i / 8] >> k) & 1u} << (8 * k + 4);
  return bits;
}

// Elements i to i + 7 of a block, i a multiple of 8. Blocks lie at multiples of their size, and the first one at a
// multiple of block_alignment.
__device__ inline Eight eight_of(const BlockQ8_0& b, int i) {
  const auto* const q = reinterpret_cast<const uint8_t*>(b.q);
  return {eight_bytes<uint16_t>(q + i) ^ 0x8080808080808080u, 128, widen(b.d)};  // -128 becomes 0
}
__device__ inline Eight eight_of(const BlockQ4_0& b, int i) { return {eight_nibbles<uint16_t>(b.q, i), 8, widen(b.d)}; }
__device__ inline Eight eight_of(const BlockQ4_1& b, int i) {
  return {eight_nibbles<uint32_t>(b.q, i), 0, widen(b.d), widen(b.m)};
}
__device__ inline Eight eight_of(const BlockQ5_0& b, int i) {
  return {eight_nibbles<uint16_t>(b.q, i) | eight_fifth_bits(b.high, i), 16, widen(b.d)};
}
__device__ inline Eight eight_of(const BlockQ5_1& b, int i) {
  return {eight_nibbles<uint64_t>(b.q, i) | eight_fifth_bits(b.high, i), 0, widen(b.d), widen(b.m)};
}
/// Of Q4_K and Q5_K, whose scales are alike.
template <class Block> __device__ Eight eight_of_k(const Block& b, int i, uint64_t q) {
  return {q, 0, widen(b.d) * static_cast<float>(k_scale(b.scales, i / 32)),
          -(widen(b.dmin) * static_cast<float>(k_min(b.scales, i / 32)))};
}
template <class Block> __device__ uint64_t eight_nibbles_k(const Block& b, int i) {
  return (eight_bytes<uint64_t>(b.q + i / 64 * 32 + i % 32) >> (i / 32 % 2 * 4)) & 0x0f0f0f0f0f0f0f0fu;
}
__device__ inline Eight eight_of(const BlockQ4_K& b, int i) { return eight_of_k(b, i, eight_nibbles_k(b, i)); }
__device__ inline Eight eight_of(const BlockQ5_K& b, int i) {
  const uint64_t high = (eight_bytes<uint64_t>(b.high + i % 32) >> (i / 32)) & 0x0101010101010101u;
  return eight_of_k(b, i, eight_nibbles_k(b, i) | high << 4);
}
__device__ inline Eight eight_of(const BlockQ6_K& b, int i) {
  const int of_128 = i / 128, j = i % 128 / 32, l = i % 32;
  const uint64_t low = (eight_bytes<uint16_t>(b.low + of_128 * 64 + j % 2 * 32 + l) >> (j / 2 * 4)),
                 high = (eight_bytes<uint16_t>(b.high + of_128 * 32 + l) >> (2 * j));
  return {(low & 0x0f0f0f0f0f0f0f0fu) | (high & 0x0303030303030303u) << 4, 32,
          widen(b.d) * static_cast<float>(b.scales[i / 16])};
}
__device__ inline Eight eight_of(const BlockMXFP4& b, int i) {
  const uint64_t bits = eight_nibbles<uint8_t>(b.q, i);
  uint64_t q = 0;
  for (int k = 0; k < 8; ++k)
    q |= static_cast<uint64_t>(12 + twice_e2m1(static_cast<int>(bits >> (8 * k) & 15))) << (8 * k);
  return {q, 12, half_power(b.e)};
}
__device__ inline Eight eight_of(const BlockNF4& b, int i) {
  return {eight_nibbles<uint16_t>(b.q + i / 32 * 16, i % 32), 0, nf4_scale(widen(b.d), b.absmax[i / 64])};
}
/// What the first block's address must be a multiple of: the largest power of two in a block's size, so that the
/// others' are as well.
template <class Block>
inline constexpr std::size_t block_alignment = std::min<std::size_t>(16, sizeof(Block) & -sizeof(Block));

// Row n of `to` = scale times row rows[n] of w, or row n where rows is null. Eight elements a thread, and 16-byte
// stores where `to` is aligned. Reads each block once from memory, for the threads that share it find it in the cache,
// and writes count sizeof(T) bytes: bound by memory.
template <DType type, class T>
__global__ void __launch_bounds__(block_size)
    dequantise_kernel(T* to, const typename BlockOf<type>::Block* w, const int32_t* rows, int64_t count, int64_t C,
                      accumulate_t<T> scale, bool aligned) {
  using A = accumulate_t<T>;
  constexpr int64_t size = info(type).block;
  const int64_t i = (blockIdx.x * int64_t{block_size} + threadIdx.x) * 8;
  if (i >= count) return;
  const int64_t from = rows ? rows[i / C] * C + i % C : i;
  const Eight eight = eight_of(w[from / size], static_cast<int>(from % size));
  Pack<T, 8> out;
  for (int k = 0; k < 8; ++k) {
    const auto byte = static_cast<int>((eight.q >> (8 * k)) & 255u);
    const float q = type == DType::nf4 ? nf4_level(byte) : static_cast<float>(byte) - eight.centre;
    out.v[k] = narrow<T>(scale * static_cast<A>(eight.scale * q + eight.offset));
  }
  if (aligned) store(to + i, out);
  else
    for (int k = 0; k < 8; ++k) to[i + k] = out.v[k];
}

/// The blocks of a stored weight. Throws Error where they lie at an address that kernels cannot read.
template <DType type> const typename BlockOf<type>::Block* blocks_of(const Stored<Cuda>& w) {
  using Block = typename BlockOf<type>::Block;
  if (reinterpret_cast<std::uintptr_t>(w.data) % block_alignment<Block> != 0)
    throw Error(str("cuda: a weight ", w.shape, ' ', w.type, " lies at an address that is no multiple of ",
                    block_alignment<Block>),
                "copy it to the device into memory of its own.");
  return reinterpret_cast<const Block*>(w.data);
}

/// Row n of `to` = scale times row rows[n] of quantised w; null rows are all of them.
template <DType type, class T>
void dequantise_blocks(Context<Cuda>& ctx, View<T> to, const Stored<Cuda>& w, const int32_t* rows,
                       accumulate_t<T> scale) {
  launch(dequantise_kernel<type, T>, grid_of(ceil_div(to.count(), 8 * block_size)), block_size, 0, ctx.stream(),
         to.data, blocks_of<type>(w), rows, to.count(), w.shape.back(), scale, aligned16(to.data));
}

}  // namespace detail

/// to = the values of w, of the same count; they are rounded to float (double for f64) before they become T.
template <Scalar T> void dequantise(Context<Cuda>& ctx, View<T> to, const Stored<Cuda>& w) {
  detail::with_dtype(w.type, [&]<DType type>() {
    if constexpr (is_quantised(type)) detail::dequantise_blocks<type>(ctx, to, w, nullptr, 1);
    else detail::map(ctx, detail::Same{}, to.count(), to.data, detail::blocks_of<type>(w));
  });
}

}  // namespace ft::inline FTLIB_ABI
