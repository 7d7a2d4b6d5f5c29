// text/unicode.hpp: UTF-8 in and out, repair of broken UTF-8, and the classes of characters that tokenizers ask for.
#pragma once
#include <ftlib/text/unicode_tables.hpp>

#include <algorithm>    // std::upper_bound
#include <array>        // std::array
#include <cstddef>      // std::size_t
#include <cstdint>      // std::uint8_t, std::uint64_t
#include <cstring>      // std::memcpy
#include <iterator>     // std::begin, std::end
#include <string>       // std::string
#include <string_view>  // std::string_view

namespace ft::inline FTLIB_ABI {

/// One character of UTF-8: its code point and its length in bytes.
struct Utf8Char {
  char32_t code;
  std::size_t length;
};

/// What stands at the start of a string that may be broken.
struct Utf8Scan {
  std::size_t length;                       // bytes of the character, or of what one U+FFFD replaces
  enum { valid, broken, unfinished } kind;  // unfinished: cut by the end, more bytes could make it valid
};

/// Looks at the first character of `text`, which is not empty. What is broken is taken in maximal subparts (Unicode 15,
/// 3.9, "U+FFFD Substitution of Maximal Subparts"), as Python's bytes.decode("utf-8", "replace") and browsers do.
inline Utf8Scan scan_utf8(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<std::uint8_t>(text[i]); };
  const std::uint8_t lead = byte(0);
  if (lead < 0x80) return {1, Utf8Scan::valid};
  if (lead < 0xc2 || lead > 0xf4) return {1, Utf8Scan::broken};
  const std::size_t length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  // The second byte's limits shut out overlong forms, surrogates and what lies above U+10FFFF.
  std::uint8_t low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
  std::uint8_t high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
  for (std::size_t i = 1; i < length; ++i, low = 0x80, high = 0xbf) {
    if (i == text.size()) return {i, Utf8Scan::unfinished};
    if (byte(i) < low || byte(i) > high) return {i, Utf8Scan::broken};
  }
  return {length, Utf8Scan::valid};
}

/// Bytes of `text` before the first that is not valid UTF-8; text.size() where all of it is.
inline std::size_t valid_utf8_prefix(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size()) {
    std::uint64_t eight;
    if (text.size() - at >= sizeof eight) {
      std::memcpy(&eight, text.data() + at, sizeof eight);
      if ((eight & 0x8080808080808080u) == 0) {  // eight ASCII characters
        at += sizeof eight;
        continue;
      }
    }
    const Utf8Scan scan = scan_utf8(text.substr(at));
    if (scan.kind != Utf8Scan::valid) break;
    at += scan.length;
  }
  return at;
}

/// `text` with U+FFFD in place of each maximal subpart that is not valid UTF-8.
inline std::string replace_broken_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (;;) {
    const std::size_t good = valid_utf8_prefix(text);
    out.append(text.substr(0, good));
    if (good == text.size()) return out;
    text.remove_prefix(good);
    out.append("\xEF\xBF\xBD");
    text.remove_prefix(scan_utf8(text).length);
  }
}

/// The first character of `text`, which is valid UTF-8 and not empty.
inline Utf8Char decode_utf8(const char* text) {
  const auto byte = [&](int i) { return static_cast<char32_t>(static_cast<std::uint8_t>(text[i])); };
  const char32_t lead = byte(0);
  if (lead < 0x80) return {lead, 1};
  if (lead < 0xe0) return {(lead & 0x1f) << 6 | (byte(1) & 0x3f), 2};
  if (lead < 0xf0) return {(lead & 0x0f) << 12 | (byte(1) & 0x3f) << 6 | (byte(2) & 0x3f), 3};
  return {(lead & 0x07) << 18 | (byte(1) & 0x3f) << 12 | (byte(2) & 0x3f) << 6 | (byte(3) & 0x3f), 4};
}

/// Appends a code point as UTF-8.
inline void append_utf8(std::string& out, char32_t code) {
  const auto put = [&](char32_t byte) { out.push_back(static_cast<char>(static_cast<std::uint8_t>(byte))); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xc0 | code >> 6), put(0x80 | (code & 0x3f));
  } else if (code < 0x10000) {
    put(0xe0 | code >> 12), put(0x80 | (code >> 6 & 0x3f)), put(0x80 | (code & 0x3f));
  } else {
    put(0xf0 | code >> 18), put(0x80 | (code >> 12 & 0x3f)), put(0x80 | (code >> 6 & 0x3f)), put(0x80 | (code & 0x3f));
  }
}

/// Classes of characters, for masks: `\p{L}`, `\p{N}`, `\s` (White_Space) and `\w` of the patterns; letters of upper or
/// title case and of lower case, `\p{M}`, and letters without case (`\p{Lm}`, `\p{Lo}`).
inline constexpr std::uint8_t letter_class = 1, number_class = 2, space_class = 4, word_class = 8, upper_class = 16,
                              lower_class = 32, mark_class = 64, caseless_class = 128;

namespace detail {
using ClassTable = std::array<std::uint8_t, 0x20000>;

/// A named function and no lambda, which would be constexpr: compilers spend seconds on evaluating it.
inline ClassTable make_class_table() {
  ClassTable table{};
  for (const ClassRange& range : class_ranges)
    for (char32_t c = range.first; c <= range.last && c < table.size(); ++c) table[c] = range.classes;
  return table;
}

/// The first two planes, which hold nearly all text, as a table; made once, 128 KiB.
inline const ClassTable& class_table() {
  static const ClassTable table = make_class_table();
  return table;
}
}  // namespace detail

/// The classes of characters; an object, so that a loop fetches the table once.
class CharacterClasses {
 public:
  CharacterClasses() : table_(detail::class_table().data()) {}
  std::uint8_t operator()(char32_t code) const {
    if (code < 0x20000) return table_[code];
    const auto* next = std::upper_bound(std::begin(detail::class_ranges), std::end(detail::class_ranges), code,
                                        [](char32_t c, const detail::ClassRange& range) { return c < range.first; });
    return code <= next[-1].last ? next[-1].classes : std::uint8_t{0};
  }

 private:
  const std::uint8_t* table_;
};

}  // namespace ft::inline FTLIB_ABI
