// tests/cuda_emulation/hooks.cpp: the functions that -fsanitize=thread and -fsanitize=alignment put calls to before
// each memory access. The sanitizers' own libraries are not linked; these stand in their place and watch kernels.
#include <atomic>  // std::atomic_thread_fence

#include "machine.hpp"

using namespace cuda_emulation;

namespace {
/// Of `bytes` bytes by one instruction, which needs p aligned to that unless the compiler knew that it may not be.
template <std::size_t bytes, bool aligned = true>
[[gnu::always_inline]] inline void access(const void* p, Kind kind, const void* pc) {
  if (aligned && watching && reinterpret_cast<std::uintptr_t>(p) % bytes)
    Machine::get().misaligned(p, bytes, Machine::Seen::by_access, pc);
  // All instrumented code comes here, the host's too, on any of its threads.
  if (watching || (!running && Memory::holds(static_cast<const std::byte*>(p))))
    Machine::get().access(p, bytes, kind, pc);
}
void copies(const void* to, const void* from, std::size_t n, const void* pc) {
  if (!watching || n == 0) return;
  for (const void* p : {from, to})  // 16 bytes at once are a vector, which clang does not check by its type
    if (n == 16 && reinterpret_cast<std::uintptr_t>(p) % 16)
      Machine::get().misaligned(p, 16, Machine::Seen::by_access, pc);
  Machine::get().access(from, n, Kind::read, pc);
  Machine::get().access(to, n, Kind::write, pc);
}
}  // namespace

// NOLINTBEGIN: names and signatures are the compilers'
extern "C" {
#define ACCESS(bytes)                                                                                                \
  void __tsan_read##bytes(void* p) { access<bytes>(p, Kind::read, __builtin_return_address(0)); }                    \
  void __tsan_write##bytes(void* p) { access<bytes>(p, Kind::write, __builtin_return_address(0)); }                  \
  void __tsan_unaligned_read##bytes(void* p) { access<bytes, false>(p, Kind::read, __builtin_return_address(0)); }   \
  void __tsan_unaligned_write##bytes(void* p) { access<bytes, false>(p, Kind::write, __builtin_return_address(0)); } \
  void __tsan_volatile_read##bytes(void* p) { access<bytes>(p, Kind::read, __builtin_return_address(0)); }           \
  void __tsan_volatile_write##bytes(void* p) { access<bytes>(p, Kind::write, __builtin_return_address(0)); }         \
  void __tsan_read_write##bytes(void* p) {                                                                           \
    access<bytes>(p, Kind::read, __builtin_return_address(0));                                                       \
    access<bytes>(p, Kind::write, __builtin_return_address(0));                                                      \
  }
ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)
#undef ACCESS

void __tsan_read_range(void* p, std::size_t n) {
  if (watching && n) Machine::get().access(p, n, Kind::read, __builtin_return_address(0));
}
void __tsan_write_range(void* p, std::size_t n) {
  if (watching && n) Machine::get().access(p, n, Kind::write, __builtin_return_address(0));
}

// clang copies structs by memcpy, float4 among them; the linker's --wrap brings these calls here.
void* __real_memcpy(void* to, const void* from, std::size_t n);
void* __real_memmove(void* to, const void* from, std::size_t n);
void* __real_memset(void* to, int value, std::size_t n);
void* __wrap_memcpy(void* to, const void* from, std::size_t n) {
  copies(to, from, n, __builtin_return_address(0));
  return __real_memcpy(to, from, n);
}
void* __wrap_memmove(void* to, const void* from, std::size_t n) {
  copies(to, from, n, __builtin_return_address(0));
  return __real_memmove(to, from, n);
}
void* __wrap_memset(void* to, int value, std::size_t n) {
  if (watching && n) Machine::get().access(to, n, Kind::write, __builtin_return_address(0));
  return __real_memset(to, value, n);
}
// From clang 15 on they have names of their own.
void* __tsan_memcpy(void* to, const void* from, std::size_t n) {
  copies(to, from, n, __builtin_return_address(0));
  return __real_memcpy(to, from, n);
}
void* __tsan_memmove(void* to, const void* from, std::size_t n) {
  copies(to, from, n, __builtin_return_address(0));
  return __real_memmove(to, from, n);
}
void* __tsan_memset(void* to, int value, std::size_t n) {
  if (watching && n) Machine::get().access(to, n, Kind::write, __builtin_return_address(0));
  return __real_memset(to, value, n);
}
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}

// The host's atomics, which the instrumentation replaces as well. A kernel's are in cuda_runtime.h.
#define ATOMIC(bits, T)                                                                                             \
  T __tsan_atomic##bits##_load(const volatile T* p, int) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }           \
  void __tsan_atomic##bits##_store(volatile T* p, T v, int) { __atomic_store_n(p, v, __ATOMIC_SEQ_CST); }           \
  T __tsan_atomic##bits##_exchange(volatile T* p, T v, int) { return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST); } \
  T __tsan_atomic##bits##_fetch_add(volatile T* p, T v, int) { return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST); } \
  T __tsan_atomic##bits##_fetch_sub(volatile T* p, T v, int) { return __atomic_fetch_sub(p, v, __ATOMIC_SEQ_CST); } \
  T __tsan_atomic##bits##_fetch_and(volatile T* p, T v, int) { return __atomic_fetch_and(p, v, __ATOMIC_SEQ_CST); } \
  T __tsan_atomic##bits##_fetch_or(volatile T* p, T v, int) { return __atomic_fetch_or(p, v, __ATOMIC_SEQ_CST); }   \
  T __tsan_atomic##bits##_fetch_xor(volatile T* p, T v, int) { return __atomic_fetch_xor(p, v, __ATOMIC_SEQ_CST); } \
  int __tsan_atomic##bits##_compare_exchange_strong(volatile T* p, T* e, T v, int, int) {                           \
    return __atomic_compare_exchange_n(p, e, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                         \
  }                                                                                                                 \
  int __tsan_atomic##bits##_compare_exchange_weak(volatile T* p, T* e, T v, int, int) {                             \
    return __atomic_compare_exchange_n(p, e, v, true, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                          \
  }                                                                                                                 \
  T __tsan_atomic##bits##_compare_exchange_val(volatile T* p, T e, T v, int, int) {                                 \
    __atomic_compare_exchange_n(p, &e, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                               \
    return e;                                                                                                       \
  }
ATOMIC(8, unsigned char)
ATOMIC(16, unsigned short)
ATOMIC(32, unsigned int)
ATOMIC(64, unsigned long)
#undef ATOMIC
void __tsan_atomic_thread_fence(int) { std::atomic_thread_fence(std::memory_order_seq_cst); }
void __tsan_atomic_signal_fence(int) { std::atomic_signal_fence(std::memory_order_seq_cst); }

/// What -fsanitize=alignment hands over: compiler-rt's TypeMismatchData.
struct TypeMismatch {
  const char* file;
  unsigned line, column;
  const void* type;
  unsigned char log2_alignment, kind;
};
void __ubsan_handle_type_mismatch_v1(TypeMismatch* at, const void* p) {
  if (watching)
    Machine::get().misaligned(p, std::size_t{1} << at->log2_alignment, Machine::Seen::by_type,
                              __builtin_return_address(0));
}
void __ubsan_handle_type_mismatch_v1_abort(TypeMismatch* at, const void* p) {
  if (watching)
    Machine::get().misaligned(p, std::size_t{1} << at->log2_alignment, Machine::Seen::by_type,
                              __builtin_return_address(0));
}
// clang also checks what a function promises about its result (aligned_alloc): the host's matter.
void __ubsan_handle_alignment_assumption(void*, const void*, std::size_t, std::size_t) {}
void __ubsan_handle_alignment_assumption_abort(void*, const void*, std::size_t, std::size_t) {}
}
// NOLINTEND
