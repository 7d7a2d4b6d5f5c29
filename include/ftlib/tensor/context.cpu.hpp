// tensor/context.cpu.hpp: the CPU's context: a thread pool and an allocator that keeps freed blocks for the next step.
#pragma once
#include <ftlib/core/parallel.hpp>  // ThreadPool
#include <ftlib/tensor/device.hpp>  // ContextBase

#include <cstdlib>  // std::aligned_alloc, std::free
#include <cstring>  // std::memset, std::memcpy
#include <map>      // std::multimap
#include <memory>   // std::shared_ptr
#include <mutex>    // std::mutex
#include <utility>  // std::exchange

namespace ft::inline FTLIB_ABI {

namespace detail {

/// Hands out 64-byte aligned blocks in sizes of at most 12.5 % waste, and keeps freed ones: a training step asks for
/// the same sizes again and again, and fresh pages from the system cost a page fault each 4 KiB.
class CpuAllocator {
 public:
  CpuAllocator() = default;
  CpuAllocator(const CpuAllocator&) = delete;
  CpuAllocator& operator=(const CpuAllocator&) = delete;
  ~CpuAllocator() { trim(); }

  struct Block {
    void* data;
    std::size_t bytes;
  };

  Block allocate(std::size_t bytes) {
    const std::size_t size = size_class(bytes);
    const std::lock_guard lock(mutex_);
    auto found = free_.lower_bound(size);
    Block block{nullptr, size};
    if (found != free_.end() && found->first <= size + size / 4) {
      block = {found->second, found->first};
      free_.erase(found);
      cached_ -= static_cast<int64_t>(block.bytes);
    } else {
      if (cached_ > (int64_t{64} << 20) + use_.now / 4) trim_locked();
      block.data = std::aligned_alloc(64, size);
      if (!block.data) {
        trim_locked();
        block.data = std::aligned_alloc(64, size);
      }
      if (!block.data)
        throw Error(str("cpu: cannot allocate ", size, " bytes; ", use_.now, " are in use"),
                    "use a smaller batch, or recompute activations.");
      use_.reserved += static_cast<int64_t>(size);
    }
    use_.now += static_cast<int64_t>(block.bytes);
    use_.peak = std::max(use_.peak, use_.now);
    return block;
  }

  void release(Block block) noexcept {
    const std::lock_guard lock(mutex_);
    use_.now -= static_cast<int64_t>(block.bytes);
    cached_ += static_cast<int64_t>(block.bytes);
    try {
      free_.emplace(block.bytes, block.data);
    } catch (...) {
      std::free(block.data);
    }
  }

  void trim() {
    const std::lock_guard lock(mutex_);
    trim_locked();
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
  void trim_locked() {
    for (auto& [size, data] : free_) {
      std::free(data);
      use_.reserved -= static_cast<int64_t>(size);
    }
    free_.clear();
    cached_ = 0;
  }

  mutable std::mutex mutex_;
  std::multimap<std::size_t, void*> free_;
  int64_t cached_ = 0;
  MemoryUse use_;
};

}  // namespace detail

/// Threads, memory and random state of computations on the CPU.
template <> class Context<Cpu> : public ContextBase<Cpu> {
 public:
  struct Options {
    int threads = 0;  // 0: one for each core that the system shows
    uint64_t seed = 0;
  };
  Context() : Context(Options{}) {}
  explicit Context(const Options& options)
      : ContextBase(options.seed), pool_(options.threads), allocator_(std::make_shared<detail::CpuAllocator>()) {}

  struct Graph {};  // work is done as it comes, see StepGraph

  ThreadPool& pool() { return pool_; }
  int threads() const { return pool_.size(); }
  MemoryUse memory() const { return allocator_->use(); }
  void reset_peak() { allocator_->reset_peak(); }
  /// What was asked for is done already.
  void synchronize() {}

  /// Uninitialised bytes, given back when the last copy of the pointer goes; they may outlive the context.
  std::shared_ptr<void> allocate(std::size_t bytes) {
    const auto block = allocator_->allocate(bytes);
    if (poison()) std::memset(block.data, 0xff, block.bytes);  // all ones is a NaN in every float type
    return {block.data, [allocator = allocator_, block](void*) { allocator->release(block); }};
  }
  void copy_from_host(void* to, const void* from, std::size_t bytes) {
    if (bytes) std::memcpy(to, from, bytes);
  }
  void copy_to_host(void* to, const void* from, std::size_t bytes) {
    if (bytes) std::memcpy(to, from, bytes);
  }
  void copy_on_device(void* to, const void* from, std::size_t bytes) {
    if (bytes) std::memcpy(to, from, bytes);
  }
  void zero(void* to, std::size_t bytes) {
    if (bytes) std::memset(to, 0, bytes);
  }

 private:
  ThreadPool pool_;
  std::shared_ptr<detail::CpuAllocator> allocator_;
};

}  // namespace ft::inline FTLIB_ABI
