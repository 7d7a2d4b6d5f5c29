// tests/cuda_emulation/fibre.hpp: stacks that take turns on one thread: what the emulation runs a block's threads on.
#pragma once
#include <sys/mman.h>  // mmap

#include <cstddef>    // std::size_t
#include <cstdint>    // std::uint64_t
#include <stdexcept>  // std::runtime_error
#if !defined(__x86_64__)
#include <ucontext.h>  // swapcontext
#endif

namespace cuda_emulation {

#if defined(__x86_64__)
// swapcontext saves the signal mask, a system call each time; this saves what the calling convention asks for, in 2 ns.
extern "C" void cuda_emulation_switch(void** save, void* to);
asm(R"(
.text
.weak cuda_emulation_switch
.type cuda_emulation_switch, @function
cuda_emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size cuda_emulation_switch, .-cuda_emulation_switch
)");
#endif

/// A place in the code to come back to.
class Fibre {
 public:
#if defined(__x86_64__)
  /// The next switch to this one calls entry() on the given stack; entry never returns.
  void start(std::byte* stack, std::size_t bytes, void (*entry)()) {
    auto* top = reinterpret_cast<void**>(stack + bytes) - 1;
    *--top = reinterpret_cast<void*>(entry);  // what `ret` finds; the stack is then aligned as after a call
    for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
    top_ = top;
  }
  void switch_to(Fibre& other) { cuda_emulation_switch(&top_, other.top_); }

 private:
  void* top_ = nullptr;
#else
  void start(std::byte* stack, std::size_t bytes, void (*entry)()) {
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack;
    context_.uc_stack.ss_size = bytes;
    makecontext(&context_, entry, 0);
  }
  void switch_to(Fibre& other) { swapcontext(&context_, &other.context_); }

 private:
  ucontext_t context_;
#endif
};

/// The stacks of a block's threads, one after the other, each with a mark at its end that an overflow overwrites.
class Stacks {
 public:
  static constexpr std::size_t bytes = std::size_t{64} << 10;

  explicit Stacks(int count) : size_(bytes * static_cast<std::size_t>(count)) {
    void* memory = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::runtime_error("cuda_emulation: no memory for stacks");
    memory_ = static_cast<std::byte*>(memory);
    for (int i = 0; i < count; ++i) *mark(i) = intact;
  }
  ~Stacks() { munmap(memory_, size_); }
  Stacks(const Stacks&) = delete;
  Stacks& operator=(const Stacks&) = delete;

  std::byte* operator[](int i) const { return memory_ + bytes * static_cast<std::size_t>(i); }
  bool overflowed(int i) const { return *mark(i) != intact; }
  /// Which stack an address lies on; -1 for none.
  int owner(const std::byte* p) const {
    const auto at = static_cast<std::size_t>(p - memory_);
    return p >= memory_ && at < size_ ? static_cast<int>(at / bytes) : -1;
  }

 private:
  static constexpr std::uint64_t intact = 0x7374'6163'6b20'656e;
  std::uint64_t* mark(int i) const { return reinterpret_cast<std::uint64_t*>((*this)[i]); }

  std::size_t size_;
  std::byte* memory_;
};

}  // namespace cuda_emulation
