// cuda/block_cache.cuda.cuh: blocks of device memory that wait for whoever asks next.
#pragma once
#include <ftlib/core/version.hpp>

#include <algorithm>  // std::max
#include <bit>        // std::bit_floor
#include <cstddef>    // std::size_t
#include <map>        // std::multimap
#include <utility>    // std::exchange

namespace ft::inline FTLIB_ABI::detail {

/// Free blocks by size, at hand without the microsecond that CUDA's own pool takes over each (on an H200's host).
class BlockCache {
 public:
  /// The size that a block for `bytes` has: eight sizes for each doubling, so that batches of other lengths find blocks
  /// to reuse.
  static std::size_t size_of(std::size_t bytes) {
    const std::size_t step = std::max<std::size_t>(512, std::bit_floor(bytes) / 8);
    return (bytes + step - 1) / step * step;
  }

  /// A free block of that size, or null.
  void* take(std::size_t size) {
    const auto found = free_.find(size);
    if (found == free_.end()) return nullptr;
    bytes_ -= size;
    void* const block = found->second;
    free_.erase(found);
    return block;
  }
  void put(void* block, std::size_t size) {
    free_.emplace(size, block);
    bytes_ += size;
  }
  /// Of all blocks that wait.
  std::size_t bytes() const { return bytes_; }
  /// give_back(block) for each of them.
  template <class F> void clear(F give_back) {
    for (const auto& [size, block] : std::exchange(free_, {})) give_back(block);
    bytes_ = 0;
  }

 private:
  std::multimap<std::size_t, void*> free_;
  std::size_t bytes_ = 0;
};

}  // namespace ft::inline FTLIB_ABI::detail
