// tensor/device.hpp: the two devices, and the context that owns what belongs to a device: threads or streams, memory,
// random state. The seam between CPU and GPU is an overload on Context<Cpu>& or Context<Cuda>&.
#pragma once
#include <ftlib/core/random.hpp>  // Random

#include <concepts>  // std::same_as
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

/// What every Context has, on any device; it is passed to each op and is used by one thread at a time.
template <Device D> class ContextBase {
 public:
  explicit ContextBase(uint64_t seed) : random_(seed) {}
  ContextBase(const ContextBase&) = delete;
  ContextBase& operator=(const ContextBase&) = delete;

  /// The stream that dropout and initialisation draw from.
  Random& random() { return random_; }

  /// The tape that records now; null where nothing does (see autograd/tape.hpp).
  Tape<D>* tape() const { return tape_; }
  Tape<D>* exchange_tape(Tape<D>* tape) { return std::exchange(tape_, tape); }
  uint32_t next_tape_serial() { return ++tape_serial_; }

  /// Fill new tensors with NaN, so that a kernel that reads what nobody wrote shows it. For tests.
  void poison(bool on) { poison_ = on; }
  bool poison() const { return poison_; }

 private:
  Random random_;
  Tape<D>* tape_ = nullptr;
  uint32_t tape_serial_ = 0;
  bool poison_ = false;
};

/// Context<Cpu> is in tensor/context.cpu.hpp, Context<Cuda> in tensor/context.cuda.cuh.
template <Device D> class Context {
  static_assert(std::same_as<D, Cpu>,
                "ft::Cuda needs the CUDA side: link ftlib::cuda (for a .cu) or ftlib::cuda_runtime (for a .cpp)");
};

}  // namespace ft::inline FTLIB_ABI
