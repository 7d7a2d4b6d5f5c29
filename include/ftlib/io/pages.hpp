// io/pages.hpp: memory that a mapped file need not hold any longer.
#pragma once
#include <ftlib/core/version.hpp>  // FTLIB_ABI

#include <sys/mman.h>  // ::madvise
#include <unistd.h>    // ::sysconf

#include <cstddef>  // std::byte
#include <cstdint>  // std::uintptr_t
#include <span>     // std::span

namespace ft::inline FTLIB_ABI {

/// Tells the system that these bytes are not read again soon, so that a walk over a large mapped file does not keep all
/// of it resident. They stay what they are, and come back from the disk where they are read after all. Does nothing
/// where the system cannot (Linux before 5.4).
inline void release_pages(std::span<const std::byte> bytes) noexcept {
#ifdef MADV_PAGEOUT
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = (reinterpret_cast<std::uintptr_t>(bytes.data()) + page - 1) / page * page;
  const auto end = reinterpret_cast<std::uintptr_t>(bytes.data() + bytes.size()) / page * page;
  if (begin < end) (void)::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_PAGEOUT);
#else
  (void)bytes;
#endif
}

}  // namespace ft::inline FTLIB_ABI
