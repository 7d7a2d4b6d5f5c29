// text/normalize.hpp: Unicode's normalisation form C, which some tokenizers put text into before they split it.
#pragma once
#include <ftlib/text/unicode.hpp>

#include <algorithm>      // std::stable_sort, std::upper_bound
#include <array>          // std::array
#include <cstdint>        // std::uint16_t
#include <iterator>       // std::begin, std::end
#include <string>         // std::string
#include <string_view>    // std::string_view
#include <unordered_map>  // std::unordered_map
#include <vector>         // std::vector

namespace ft::inline FTLIB_ABI {
namespace detail {

/// What NFC asks of characters, made once from the tables of unicode_tables.hpp.      Unicode Standard Annex 15
class Composition {
 public:
  static const Composition& get() {
    static const Composition composition;
    return composition;
  }

  /// The canonical combining class.
  std::uint8_t combining(char32_t c) const { return c < plane ? static_cast<std::uint8_t>(facts_[c]) : 0; }
  /// Whether NFC leaves the character as it is wherever it stands in canonical order (NFC_Quick_Check = Yes).
  bool stays(char32_t c) const { return c < plane ? !(facts_[c] & unsure) : !find(c); }

  void decompose(char32_t c, std::vector<char32_t>& out) const {
    if (c >= hangul && c < hangul + lv_count * 28) {
      const char32_t s = c - hangul;
      out.push_back(leading + s / (21 * 28));
      out.push_back(vowel + s % (21 * 28) / 28);
      if (s % 28) out.push_back(trailing + s % 28);
    } else if (const Decomposition* d = find(c)) {
      decompose(d->first, out);
      if (d->second) out.push_back(d->second);
    } else {
      out.push_back(c);
    }
  }
  /// The character that two make, or 0.
  char32_t compose(char32_t a, char32_t b) const {
    if (a >= leading && a < leading + 19 && b >= vowel && b < vowel + 21)
      return hangul + ((a - leading) * 21 + (b - vowel)) * 28;
    if (a >= hangul && a < hangul + lv_count * 28 && (a - hangul) % 28 == 0 && b > trailing && b < trailing + 28)
      return a + (b - trailing);
    const auto found = pairs_.find(key(a, b));
    return found == pairs_.end() ? 0 : found->second;
  }

 private:
  static constexpr char32_t plane = 0x20000;  // above it are no combining characters, and single decompositions alone
  static constexpr char32_t hangul = 0xac00, leading = 0x1100, vowel = 0x1161, trailing = 0x11a7, lv_count = 19 * 21;
  static constexpr std::uint16_t unsure = 0x100;

  Composition() : facts_(plane, std::uint16_t{0}) {
    for (const CombiningRange& range : combining_ranges)
      for (char32_t c = range.first; c <= range.last; ++c) facts_[c] = range.combining_class;
    for (const Decomposition& d : decompositions) {
      if (!d.composes) {
        if (d.code < plane) facts_[d.code] |= unsure;
      } else {
        pairs_.emplace(key(d.first, d.second), d.code);
        facts_[d.second] |= unsure;
      }
    }
    for (char32_t i = 0; i < 21; ++i) facts_[vowel + i] |= unsure;
    for (char32_t i = 1; i < 28; ++i) facts_[trailing + i] |= unsure;
  }
  static const Decomposition* find(char32_t c) {
    const auto* next = std::upper_bound(std::begin(decompositions), std::end(decompositions), c,
                                        [](char32_t code, const Decomposition& d) { return code < d.code; });
    return next != std::begin(decompositions) && next[-1].code == c ? next - 1 : nullptr;
  }
  static std::uint64_t key(char32_t a, char32_t b) { return std::uint64_t{a} << 32 | b; }

  std::vector<std::uint16_t> facts_;  // by character: its combining class, and whether it is unsure
  std::unordered_map<std::uint64_t, char32_t> pairs_;
};

}  // namespace detail

/// Whether valid UTF-8 is surely in normalisation form C; false also where only composing would tell. Reads most text
/// at the speed of memory: no character below U+0300 needs a look.
inline bool is_surely_nfc(std::string_view text) {
  std::size_t at = 0;
  const detail::Composition* facts = nullptr;
  std::uint8_t last = 0;  // the combining class before
  while (at < text.size()) {
    if (static_cast<std::uint8_t>(text[at]) < 0xcc) {  // a lead byte below U+0300's, or what follows it
      last = 0;
      std::uint64_t eight;
      if (text.size() - at >= sizeof eight) {
        std::memcpy(&eight, text.data() + at, sizeof eight);
        if ((eight & 0x8080808080808080u) == 0) {  // eight ASCII characters
          at += sizeof eight;
          continue;
        }
      }
      ++at;
      continue;
    }
    if (!facts) facts = &detail::Composition::get();
    const Utf8Char c = decode_utf8(text.data() + at);
    const std::uint8_t combining = facts->combining(c.code);
    if (!facts->stays(c.code) || (combining && last > combining)) return false;
    last = combining;
    at += c.length;
  }
  return true;
}

/// Valid UTF-8 in normalisation form C: decomposed, marks in canonical order, composed.
inline std::string to_nfc(std::string_view text) {
  const auto& facts = detail::Composition::get();
  std::vector<char32_t> codes;
  codes.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const Utf8Char c = decode_utf8(text.data() + at);
    facts.decompose(c.code, codes);
    at += c.length;
  }
  for (std::size_t begin = 0; begin < codes.size();) {  // runs of marks by their class
    std::size_t end = begin;
    while (end < codes.size() && facts.combining(codes[end])) ++end;
    std::stable_sort(codes.begin() + static_cast<std::ptrdiff_t>(begin),
                     codes.begin() + static_cast<std::ptrdiff_t>(end),
                     [&](char32_t a, char32_t b) { return facts.combining(a) < facts.combining(b); });
    begin = end + 1;
  }
  constexpr std::size_t none = static_cast<std::size_t>(-1);
  std::size_t starter = none, kept = 0;
  std::uint8_t last = 0;  // the class of what was kept behind the starter; 0: nothing was
  for (const char32_t c : codes) {
    const std::uint8_t combining = facts.combining(c);
    if (starter != none && (last == 0 ? starter + 1 == kept : last < combining))
      if (const char32_t both = facts.compose(codes[starter], c)) {
        codes[starter] = both;
        continue;
      }
    if (combining == 0) starter = kept;
    last = combining;
    codes[kept++] = c;
  }
  std::string out;
  out.reserve(text.size());
  for (std::size_t i = 0; i < kept; ++i) append_utf8(out, codes[i]);
  return out;
}

}  // namespace ft::inline FTLIB_ABI
