// text/normalize.hpp: what some tokenizers do to text before they split it: Unicode's normalisation form C, and
// SentencePiece's precompiled rules.
#pragma once
#include <ftlib/core/error.hpp>
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

/// The bytes of the grapheme cluster that valid UTF-8, not empty, begins with. Of extended clusters' rules those for
/// conjoining Hangul, flags, emoji sequences and Indic conjuncts are left out, whose clusters have six bytes or more.
/// Unicode Standard Annex 29
inline std::size_t grapheme_length(std::string_view text) {
  const auto kind = [](char32_t c) {
    const auto* next = std::upper_bound(std::begin(detail::grapheme_ranges), std::end(detail::grapheme_ranges), c,
                                        [](char32_t code, const detail::GraphemeRange& r) { return code < r.first; });
    return next != std::begin(detail::grapheme_ranges) && c <= next[-1].last ? next[-1].kind : std::uint8_t{0};
  };
  if (text.starts_with("\r\n")) return 2;
  std::size_t at = 0;
  for (std::uint8_t last = 2; at < text.size();) {
    if (static_cast<std::uint8_t>(text[at]) < 0x80 && last != 2) break;
    const Utf8Char c = decode_utf8(text.data() + at);
    const std::uint8_t is = kind(c.code);
    if (at > 0 && is != 1 && (last != 2 || is == 3)) break;
    at += c.length;
    last = is;
    if (is == 3) break;
  }
  return at;
}

/// SentencePiece's precompiled_charsmap: what stretches of text become, as a double array (darts-clone) over their
/// bytes and, one after the other and each ended by a zero byte, what stands in their place. Any bytes may be read: an
/// array that leads out of itself ends a stretch there.
class Charsmap {
 public:
  struct Match {
    std::string_view text;   // what stands in place of
    std::size_t length = 0;  // so many bytes; 0: no rule
  };

  Charsmap() = default;
  /// Throws Error, naming `name`, for what is too short or whose texts are not UTF-8. The bytes are copied.
  explicit Charsmap(std::string_view bytes, std::string_view name) {
    const auto fail = [&](std::string_view what) { throw Error(str(name, ": precompiled_charsmap: ", what)); };
    if (bytes.size() < 4) fail("less than four bytes");
    const std::size_t size = little_endian(bytes.data());
    if (size % 4 != 0 || size == 0 || size > bytes.size() - 4)
      fail(str("a trie of ", size, " bytes in ", bytes.size()));
    for (std::size_t at = 4; at < 4 + size; at += 4) units_.push_back(little_endian(bytes.data() + at));
    texts_ = bytes.substr(4 + size);
    if (texts_.empty() || texts_.back() != '\0') fail("its texts do not end with a zero byte");
    if (valid_utf8_prefix(texts_) != texts_.size()) fail("its texts are not UTF-8");
    for (int c = 0; c < 128; ++c) {  // no rule reaches over two such, and none is for one alone
      bool rule = false;
      walk(std::string_view(std::string(1, static_cast<char>(c))), [&](Match) { return rule = true; });
      for (int d = 0; d < 128 && !rule; ++d) {
        const char both[] = {static_cast<char>(c), static_cast<char>(d)};
        std::size_t steps = 0;
        walk(
            std::string_view(both, 2), [](Match) { return true; }, &steps);
        rule = steps == 2;
      }
      plain_[static_cast<std::size_t>(c)] = !rule;
    }
  }

  bool empty() const { return units_.empty(); }
  /// Whether an ASCII character that another follows stays as it is.
  bool plain(char c) const {
    return static_cast<signed char>(c) >= 0 && (empty() || plain_[static_cast<std::uint8_t>(c)]);
  }
  /// The rule for the longest stretch at the start of `text`.
  Match longest(std::string_view text) const {
    Match found;
    walk(text, [&](const Match& match) {
      found = match;
      return false;
    });
    return found;
  }
  /// The rule for the shortest.
  Match shortest(std::string_view text) const {
    Match found;
    walk(text, [&](const Match& match) {
      found = match;
      return true;
    });
    return found;
  }

 private:
  static std::uint32_t little_endian(const char* bytes) {
    std::uint32_t value = 0;
    for (int i = 3; i >= 0; --i) value = value << 8 | static_cast<std::uint8_t>(bytes[i]);
    return value;
  }
  /// Calls put for the rules of longer and longer stretches until it returns true; counts the bytes that have an edge.
  template <class Put> void walk(std::string_view text, const Put& put, std::size_t* steps = nullptr) const {
    const auto offset = [](std::uint32_t unit) { return (unit >> 10) << ((unit & 0x200) >> 6); };
    if (units_.empty()) return;
    std::size_t node = offset(units_[0]);
    for (std::size_t i = 0; i < text.size(); ++i) {
      const auto byte = static_cast<std::uint8_t>(text[i]);
      node ^= byte;
      if (node >= units_.size() || (units_[node] & 0x800000ff) != byte) return;
      const std::uint32_t unit = units_[node];
      node ^= offset(unit);
      if (steps) ++*steps;
      if (!(unit >> 8 & 1) || node >= units_.size()) continue;
      if (i + 1 < text.size() && (static_cast<std::uint8_t>(text[i + 1]) & 0xc0) == 0x80)
        continue;  // inside a character
      const std::size_t begin = units_[node] & 0x7fffffff;
      if (begin >= texts_.size() || (static_cast<std::uint8_t>(texts_[begin]) & 0xc0) == 0x80) continue;
      if (put(Match{std::string_view(texts_.data() + begin), i + 1})) return;
    }
  }

  std::vector<std::uint32_t> units_;
  std::string texts_;
  std::array<bool, 128> plain_{};
};

}  // namespace ft::inline FTLIB_ABI
