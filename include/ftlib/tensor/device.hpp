// tensor/device.hpp: the two devices, and the context that owns what belongs to a device: threads or streams, memory,
// random state. The seam between CPU and GPU is an overload on Context<Cpu>& or Context<Cuda>&.
#pragma once
#include <ftlib/core/random.hpp>  // Random

#include <atomic>    // std::atomic
#include <concepts>  // std::same_as
#include <memory>    // std::shared_ptr
#include <thread>    // std::thread::id
#include <utility>   // std::exchange

namespace ft::inline FTLIB_ABI {

struct Cpu {
  static constexpr const char* name = "cpu";
};
struct Cuda {
  static constexpr const char* name = "cuda";
};

template <class D>
concept Device = std::same_as<D, Cpu> || std::same_as<D, Cuda>;

/// Bytes that a device's allocator has handed out.
struct MemoryUse {
  int64_t now = 0;       // bytes in tensors that live
  int64_t peak = 0;      // the most they ever were since reset_peak()
  int64_t reserved = 0;  // bytes held from the system: tensors and what is kept for the next ones
};

template <Device D> class Tape;

namespace detail {
/// The thread that uses a context now. It may enter again; another thread is refused until the last leave().
class ContextOwner {
 public:
  /// Throws Error where another thread is inside.
  void enter() {
    const std::thread::id me = std::this_thread::get_id();
    if (owner_.load(std::memory_order_relaxed) != me) {  // nobody but this thread stores its id
      std::thread::id nobody;
      if (!owner_.compare_exchange_strong(nobody, me, std::memory_order_acquire, std::memory_order_relaxed)) refuse();
    }
    ++depth_;
  }
  void leave() noexcept {
    if (--depth_ == 0) owner_.store(std::thread::id(), std::memory_order_release);
  }
  /// Throws Error unless this thread is inside.
  void check() const {
    if (owner_.load(std::memory_order_relaxed) != std::this_thread::get_id()) refuse();
  }

 private:
  [[noreturn]] static void refuse();

  std::atomic<std::thread::id> owner_{};
  int depth_ = 0;  // the owner's alone
};
}  // namespace detail

/// What every Context has, on any device; it is passed to each op and serves one thread at a time. Tape, NoGrad and
/// ContextGuard hold it for their thread; what another thread begins meanwhile is an Error.
template <Device D> class ContextBase {
 public:
  explicit ContextBase(uint64_t seed) : random_(seed) {}
  ContextBase(const ContextBase&) = delete;
  ContextBase& operator=(const ContextBase&) = delete;

  /// The stream that dropout and initialisation draw from.
  Random& random() { return random_; }

  /// The tape that records now; null where nothing does (see autograd/tape.hpp).
  Tape<D>* tape() const { return tape_.load(std::memory_order_relaxed); }
  Tape<D>* exchange_tape(Tape<D>* tape) {
    Tape<D>* const before = this->tape();
    tape_.store(tape, std::memory_order_relaxed);
    return before;
  }
  /// Which thread uses the context; see ContextGuard.
  detail::ContextOwner& owner() { return owner_; }

  /// What this session hangs over the shared weights (an adapter's terms, say); null: nothing. Typed access is in
  /// nn/adapter.hpp.
  const std::shared_ptr<void>& overlay() const { return overlay_; }
  std::shared_ptr<void> exchange_overlay(std::shared_ptr<void> overlay) {
    return std::exchange(overlay_, std::move(overlay));
  }

  /// Fill new tensors with NaN, so that a kernel that reads what nobody wrote shows it. For tests.
  void poison(bool on) { poison_ = on; }
  bool poison() const { return poison_; }

 private:
  Random random_;
  detail::ContextOwner owner_;
  std::atomic<Tape<D>*> tape_{nullptr};  // atomic, so that the thread that breaks the rule reads a pointer, and is told
  std::shared_ptr<void> overlay_;
  bool poison_ = false;
};

/// Holds a context for the calling thread while it lives: `const ContextGuard guard(ctx);` where a model begins to
/// work. One inside another is fine. Throws Error where another thread holds the context: two threads in one session
/// would share its tape and its random numbers, and both would get wrong results.
template <Device D> class ContextGuard {
 public:
  explicit ContextGuard(ContextBase<D>& ctx) : owner_(ctx.owner()) { owner_.enter(); }
  ~ContextGuard() { owner_.leave(); }
  ContextGuard(const ContextGuard&) = delete;
  ContextGuard& operator=(const ContextGuard&) = delete;

 private:
  detail::ContextOwner& owner_;
};

/// Context<Cpu> is in tensor/context.cpu.hpp, Context<Cuda> in tensor/context.cuda.cuh.
template <Device D> class Context {
  static_assert(std::same_as<D, Cpu>,
                "ft::Cuda needs the CUDA side: link ftlib::cuda (for a .cu) or ftlib::cuda_runtime (for a .cpp)");
};
template <Device D> ContextGuard(Context<D>&) -> ContextGuard<D>;

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/tensor/device.inl.hpp>
#endif
