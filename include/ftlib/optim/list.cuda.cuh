// optim/list.cuda.cuh: kernels over all arrays of a list at once: a table of the arrays on the GPU, and one chunk of an
// array for each block. Launches do not grow with the number of parameters.
#pragma once
#include <ftlib/cuda/pack.cuda.cuh>  // load, store

#include <memory>  // std::shared_ptr
#include <vector>  // std::vector

namespace ft::inline FTLIB_ABI::detail {

inline constexpr int64_t list_chunk = 16384;  // elements of a block

/// A list as kernels take it. An Entry has its array's `count`, and `first_block`, which upload_list() sets.
template <class Entry> struct List {
  const Entry* entries;
  int64_t size;
};
template <class Entry> struct ListOnDevice {
  std::shared_ptr<const Entry> entries;
  int64_t size, blocks;

  List<Entry> get() const { return {entries.get(), size}; }
};
/// 100 bytes or fewer an array: made anew for each launch, for gradients move from step to step.
template <class Entry> ListOnDevice<Entry> upload_list(Context<Cuda>& ctx, std::vector<Entry> entries) {
  int64_t blocks = 0;
  for (Entry& e : entries) {
    e.first_block = blocks;
    blocks += ceil_div(e.count, list_chunk);
  }
  return {ctx.upload(entries), static_cast<int64_t>(entries.size()), blocks};
}

/// What this block has to do: elements begin to end - 1 of an entry's array.
template <class Entry> struct ListPart {
  const Entry& entry;
  int64_t begin, end;
};
template <class Entry> __device__ ListPart<Entry> my_part(const List<Entry>& list) {
  const int64_t block = blockIdx.x;
  int64_t low = 0, high = list.size;  // the last entry that begins at or before this block; empty arrays have none
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    if (list.entries[middle].first_block <= block) low = middle;
    else high = middle;
  }
  const Entry& e = list.entries[low];
  const int64_t begin = (block - e.first_block) * list_chunk;
  return {e, begin, begin + list_chunk < e.count ? begin + list_chunk : e.count};
}
/// f(V or 1 as a type, i) for this thread's share of the chunk: packs of V where the arrays are aligned, one by one
/// what is left.
template <int V, class Entry, class F> __device__ void for_each_pack_of(const ListPart<Entry>& c, bool aligned, F f) {
  const int64_t packs = aligned ? c.begin + (c.end - c.begin) / V * V : c.begin;
  for (int64_t i = c.begin + int64_t{threadIdx.x} * V; i < packs; i += block_size * V)
    f(std::integral_constant<int, V>(), i);
  for (int64_t i = packs + threadIdx.x; i < c.end; i += block_size) f(std::integral_constant<int, 1>(), i);
}

}  // namespace ft::inline FTLIB_ABI::detail
