// tensor/context.cpu.inl.hpp: the CPU's allocator and the context's definitions.
#pragma once
#include <ftlib/tensor/context.cpu.hpp>

#include <algorithm>  // std::max
#include <cstdlib>    // std::aligned_alloc, std::free
#include <cstring>    // std::memset, std::memcpy
#include <map>        // std::multimap
#include <mutex>      // std::mutex

namespace ft::inline FTLIB_ABI {

namespace detail {

/// Hands out 64-byte aligned blocks in sizes of at most 12.5 % waste, and keeps freed ones: a training step asks for
/// the same sizes again and again, and fresh pages from the system cost a page fault each 4 KiB.
class CpuAllocator {
 public:
  explicit CpuAllocator(int64_t limit) : limit_(limit) {}
  CpuAllocator(const CpuAllocator&) = delete;
  CpuAllocator& operator=(const CpuAllocator&) = delete;
  ~CpuAllocator() { trim_locked(); }

  struct Block {
    void* data;
    std::size_t bytes;
  };

  Block allocate(std::size_t bytes) {
    if (bytes > std::size_t{1} << 62)  // a size of blocks beyond is none that arithmetic can hold
      throw Error(str("cpu: cannot allocate ", bytes, " bytes"), "this is no size of a tensor: a shape is wrong.");
    const std::size_t size = size_class(bytes);
    const std::lock_guard lock(mutex_);
    auto found = free_.lower_bound(size);
    Block block{nullptr, size};
    if (found != free_.end() && found->first <= size + size / 4) {
      block = {found->second, found->first};
      free_.erase(found);
      cached_ -= static_cast<int64_t>(block.bytes);
    } else {
      if (cached_ > (int64_t{64} << 20) + use_.now / 4 || exceeds(size)) trim_locked();
      if (exceeds(size))
        throw Error(
            str("cpu: ", bytes, " bytes do not fit the memory limit of ", limit_, "; ", use_.now, " are in use"),
            "raise memory_limit, use a smaller batch, or recompute activations.", ErrorKind::no_memory);
      block.data = std::aligned_alloc(64, size);
      if (!block.data) {
        trim_locked();
        block.data = std::aligned_alloc(64, size);
      }
      if (!block.data)
        throw Error(str("cpu: cannot allocate ", size, " bytes; ", use_.now, " are in use"),
                    "use a smaller batch, or recompute activations.", ErrorKind::no_memory);
      use_.reserved += static_cast<int64_t>(size);
    }
    use_.now += static_cast<int64_t>(block.bytes);
    use_.peak = std::max(use_.peak, use_.now);
    return block;
  }

  void release(Block block) noexcept {
    const std::lock_guard lock(mutex_);
    use_.now -= static_cast<int64_t>(block.bytes);
    try {
      free_.emplace(block.bytes, block.data);
      cached_ += static_cast<int64_t>(block.bytes);
    } catch (...) {
      std::free(block.data);
      use_.reserved -= static_cast<int64_t>(block.bytes);
    }
  }

  MemoryUse use() const {
    const std::lock_guard lock(mutex_);
    return use_;
  }
  void reset_peak() {
    const std::lock_guard lock(mutex_);
    use_.peak = use_.now;
  }

 private:
  static std::size_t size_class(std::size_t bytes) {
    std::size_t step = 64;
    while (step * 16 < bytes) step *= 2;  // 8 to 16 steps in each power of two
    return std::max<std::size_t>(64, (bytes + step - 1) / step * step);
  }
  bool exceeds(std::size_t size) const { return limit_ && static_cast<int64_t>(size) > limit_ - use_.reserved; }
  void trim_locked() {
    for (auto& [size, data] : free_) {
      std::free(data);
      use_.reserved -= static_cast<int64_t>(size);
    }
    free_.clear();
    cached_ = 0;
  }

  const int64_t limit_;  // of use_.reserved; 0: none
  mutable std::mutex mutex_;
  std::multimap<std::size_t, void*> free_;
  int64_t cached_ = 0;
  MemoryUse use_;
};

FTLIB_INLINE std::shared_ptr<Executor> pool_of(const std::shared_ptr<Executor>& given, int threads) {
  if (!given) return std::make_shared<ThreadPool>(threads);
  if (threads != 0 && threads != given->size())
    throw Error(str("context: threads is ", threads, ", and the pool that is given has ", given->size()),
                "leave threads at 0 where a pool is given.");
  return given;
}

}  // namespace detail

FTLIB_INLINE Context<Cpu>::Context(const Options& options)
    : ContextBase(options.seed), pool_(detail::pool_of(options.pool, options.threads)) {
  if (options.memory_limit < 0)
    throw Error(str("context: a memory limit of ", options.memory_limit, " bytes"), "0 means no limit.");
  allocator_ = std::make_shared<detail::CpuAllocator>(options.memory_limit);
}
FTLIB_INLINE MemoryUse Context<Cpu>::memory() const { return allocator_->use(); }
FTLIB_INLINE void Context<Cpu>::reset_peak() { allocator_->reset_peak(); }

FTLIB_INLINE std::shared_ptr<void> Context<Cpu>::allocate(std::size_t bytes) {
  const auto block = allocator_->allocate(bytes);
  if (poison()) std::memset(block.data, 0xff, block.bytes);  // all ones is a NaN in every float type
  return {block.data, [allocator = allocator_, block](void*) { allocator->release(block); }};
}
FTLIB_INLINE void Context<Cpu>::copy_from_host(void* to, const void* from, std::size_t bytes) {
  if (bytes) std::memcpy(to, from, bytes);
}
FTLIB_INLINE void Context<Cpu>::copy_to_host(void* to, const void* from, std::size_t bytes) {
  if (bytes) std::memcpy(to, from, bytes);
}
FTLIB_INLINE void Context<Cpu>::copy_on_device(void* to, const void* from, std::size_t bytes) {
  if (bytes) std::memcpy(to, from, bytes);
}
FTLIB_INLINE void Context<Cpu>::zero(void* to, std::size_t bytes) {
  if (bytes) std::memset(to, 0, bytes);
}

}  // namespace ft::inline FTLIB_ABI
