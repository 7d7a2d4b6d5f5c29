// train/run_watch.hpp: what a run is measured by, and what it puts back.
#pragma once
#include <ftlib/tensor/device.hpp>          // Context
#include <ftlib/train/screen/progress.hpp>  // process_memory

#include <chrono>    // std::chrono::steady_clock
#include <concepts>  // std::same_as
#include <utility>   // std::move

namespace ft::inline FTLIB_ABI {

namespace detail {
/// Seconds since it was made.
struct Stopwatch {
  std::chrono::steady_clock::time_point begin = std::chrono::steady_clock::now();
  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(); }
};
/// Puts a variable back at its end.
template <class V> struct Restore {
  V& place;
  V value;
  explicit Restore(V& x) : place(x), value(x) {}
  ~Restore() { place = std::move(value); }
  Restore(const Restore&) = delete;
  Restore& operator=(const Restore&) = delete;
};
template <class V> Restore(V&) -> Restore<V>;
/// What Step and RunReport tell of memory.
template <Device D> ProcessMemory memory_of(Context<D>& ctx) {
  if constexpr (std::same_as<D, Cpu>) return process_memory();
  else return {ctx.memory().now, ctx.memory().peak};
}
}  // namespace detail

}  // namespace ft::inline FTLIB_ABI
