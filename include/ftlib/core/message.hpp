// core/message.hpp: numbers, names and texts as messages write them.
#pragma once
#include <ftlib/core/error.hpp>  // str

#include <cstdint>      // std::int64_t, std::uint64_t
#include <cstdio>       // std::snprintf
#include <string>       // std::string
#include <string_view>  // std::string_view

namespace ft::inline FTLIB_ABI {

/// What printf would print: printed("%.1f %%", 99.25).
template <class... Args> std::string printed(const char* format, Args... args) {
  char text[256];
  std::snprintf(text, sizeof text, format, args...);
  return text;
}
/// 101202240 as "101,202,240".
std::string grouped(std::uint64_t n);

/// Text from a file, fit for a message: control bytes as `\xNN`, cut after `limit` bytes.
std::string printable(std::string_view text, std::size_t limit = 120);
/// The same in quotes.
inline std::string quote(std::string_view name) { return "'" + printable(name) + "'"; }

/// "512 B", "1.23 MB", "3.17 GB": powers of 1000.
std::string pretty_bytes(std::int64_t bytes);
/// "512", "4.88 M", "135 M": powers of 1000.
std::string pretty_count(std::int64_t count);
/// "0.4 s", "42 s", "3:05", "1:02:03"; "?" where it is not known.
std::string pretty_duration(double seconds);

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/core/message.inl.hpp>
#endif
