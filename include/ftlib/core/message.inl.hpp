// core/message.inl.hpp: the bodies of core/message.hpp.
#pragma once
#include <ftlib/core/message.hpp>

#include <cmath>    // std::abs, std::isfinite, std::llround
#include <cstddef>  // std::size_t

namespace ft::inline FTLIB_ABI {

FTLIB_INLINE std::string grouped(std::uint64_t n) {
  std::string digits = std::to_string(n);
  for (auto i = static_cast<std::ptrdiff_t>(digits.size()) - 3; i > 0; i -= 3)
    digits.insert(static_cast<std::size_t>(i), 1, ',');
  return digits;
}

FTLIB_INLINE std::string printable(std::string_view text, std::size_t limit) {
  static constexpr char hex[] = "0123456789abcdef";
  std::string out;
  for (const char c : text.substr(0, limit)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) out += {'\\', 'x', hex[byte >> 4], hex[byte & 15]};
    else out += c;
  }
  if (text.size() > limit) out += "...";
  return out;
}

namespace detail {
/// Three digits and a unit: value / 1000^k below 1000.
FTLIB_INLINE std::string with_unit(double value, const char* const (&units)[5]) {
  std::size_t k = 0;
  while (std::abs(value) >= 999.5 && k < 4) {
    value /= 1000;
    ++k;
  }
  const int decimals = k == 0 || std::abs(value) >= 99.95 ? 0 : std::abs(value) >= 9.995 ? 1 : 2;
  return printed("%.*f", decimals, value) + units[k];
}
}  // namespace detail

FTLIB_INLINE std::string pretty_bytes(std::int64_t bytes) {
  return detail::with_unit(static_cast<double>(bytes), {" B", " kB", " MB", " GB", " TB"});
}

FTLIB_INLINE std::string pretty_count(std::int64_t count) {
  return detail::with_unit(static_cast<double>(count), {"", " k", " M", " G", " T"});
}

FTLIB_INLINE std::string pretty_duration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0 || seconds > 1e9) return "?";
  if (seconds < 9.95) return printed("%.1f s", seconds);
  const long long s = std::llround(seconds);
  if (s < 60) return printed("%lld s", s);
  if (s < 3600) return printed("%lld:%02lld", s / 60, s % 60);
  return printed("%lld:%02lld:%02lld", s / 3600, s / 60 % 60, s % 60);
}

}  // namespace ft::inline FTLIB_ABI
