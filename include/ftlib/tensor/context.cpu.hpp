// tensor/context.cpu.hpp: the CPU's context: threads, and an allocator that keeps freed blocks for the next step.
#pragma once
#include <ftlib/core/parallel.hpp>  // Executor
#include <ftlib/tensor/device.hpp>  // ContextBase

#include <cstddef>  // std::size_t
#include <memory>   // std::shared_ptr

namespace ft::inline FTLIB_ABI {

namespace detail {
class CpuAllocator;
}

/// Threads, memory and random state of computations on the CPU.
template <> class Context<Cpu> : public ContextBase<Cpu> {
 public:
  struct Options {
    /// 0: one for each core that the process is bound to.
    int threads = 0;
    uint64_t seed = 0;
    /// Bytes that it may hold of the system, for tensors and for what is kept for the next ones; 0: no limit. Mapped
    /// weights are the file's and do not count. What would go beyond is an Error, and what was there before stays.
    int64_t memory_limit = 0;
    /// Threads of the host's, or a ThreadPool that several contexts share (`threads` is then 0 or its size()); null: a
    /// pool of its own.
    std::shared_ptr<Executor> pool = nullptr;
  };
  Context() : Context(Options{}) {}
  /// Throws Error where the threads cannot be had, or options make no sense.
  explicit Context(const Options& options);

  struct Graph {};  // work is done as it comes, see StepGraph

  Executor& pool() { return *pool_; }
  int threads() const { return pool_->size(); }
  MemoryUse memory() const;
  void reset_peak();
  /// What was asked for is done already.
  void synchronize() {}

  /// Uninitialised bytes, given back when the last copy of the pointer goes; they may outlive the context. Called from
  /// any thread. Throws Error where the system or the limit has no more.
  std::shared_ptr<void> allocate(std::size_t bytes);
  void copy_from_host(void* to, const void* from, std::size_t bytes);
  void copy_to_host(void* to, const void* from, std::size_t bytes);
  void copy_on_device(void* to, const void* from, std::size_t bytes);
  void zero(void* to, std::size_t bytes);

 private:
  std::shared_ptr<Executor> pool_;
  std::shared_ptr<detail::CpuAllocator> allocator_;
};

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/tensor/context.cpu.inl.hpp>
#endif
