// text/bpe.hpp: byte-pair merging: the alphabet of bytes, the vocabulary's look-up, the table of merges, and the
// merging of one word.
#pragma once
#include <ftlib/core/error.hpp>
#include <ftlib/text/unicode.hpp>

#include <algorithm>    // std::copy, std::min_element
#include <array>        // std::array
#include <bit>          // std::bit_ceil
#include <cstddef>      // std::size_t
#include <cstdint>      // std::uint32_t, std::int32_t
#include <cstring>      // std::memcpy
#include <limits>       // std::numeric_limits
#include <queue>        // std::priority_queue
#include <string>       // std::string
#include <string_view>  // std::string_view
#include <vector>       // std::vector

namespace ft::inline FTLIB_ABI {
namespace detail {

/// GPT-2's alphabet: a printable character for each byte. Bytes that are printable in Latin-1 stand for themselves, the
/// other 68 become U+0100, U+0101, ... in order.
class ByteAlphabet {
 public:
  ByteAlphabet() {
    char32_t next = 0x100;
    for (std::size_t byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte != 173);
      code_[byte] = printable ? static_cast<char32_t>(byte) : next++;
      byte_[code_[byte]] = static_cast<std::int16_t>(byte);
    }
  }
  /// The bytes that a token's spelling stands for; the spelling itself where it is not in the alphabet.
  std::string bytes(std::string_view spelling) const {
    std::string out;
    if (valid_utf8_prefix(spelling) != spelling.size()) return std::string(spelling);
    for (std::size_t at = 0; at < spelling.size();) {
      const Utf8Char c = decode_utf8(spelling.data() + at);
      const int byte = c.code < byte_.size() ? byte_[c.code] : -1;
      if (byte < 0) return std::string(spelling);
      out.push_back(static_cast<char>(static_cast<std::uint8_t>(byte)));
      at += c.length;
    }
    return out;
  }
  std::string spelling(std::string_view bytes) const {
    std::string out;
    for (const char c : bytes) append_utf8(out, code_[static_cast<std::uint8_t>(c)]);
    return out;
  }

 private:
  struct Bytes : std::array<std::int16_t, 0x144> {
    Bytes() { fill(-1); }
  };
  std::array<char32_t, 256> code_{};
  Bytes byte_;
};

inline std::string replace_all(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  for (std::size_t at = 0;;) {
    const std::size_t found = text.find(from, at);
    out.append(text.substr(at, found - at));
    if (found == std::string_view::npos) return out;
    out.append(to);
    at = found + from.size();
  }
}

inline std::uint64_t mix(std::uint64_t x) {
  x ^= x >> 32;
  x *= 0xd6e8feb86659fd93u;
  return x ^ x >> 32;
}

/// A hash for short strings, eight bytes at a time.
inline std::uint64_t hash_bytes(std::string_view text) {
  std::uint64_t h = text.size() * 0x9e3779b97f4a7c15u, word = 0;
  const char* p = text.data();
  std::size_t left = text.size();
  for (; left >= 8; p += 8, left -= 8) {
    std::memcpy(&word, p, 8);
    h = mix(h ^ word);
  }
  if (left > 0) {
    word = 0;
    for (std::size_t i = 0; i < left; ++i) word |= static_cast<std::uint64_t>(static_cast<std::uint8_t>(p[i])) << 8 * i;
    h = mix(h ^ word);
  }
  return h;
}

/// Strings by number, and the number of a string. Strings lie end to end in one block.
class StringTable {
 public:
  /// Appends a string, which gets the next number. It is not found by find() until it is indexed.
  void add(std::string_view text) {
    require(text_.size() + text.size() < std::numeric_limits<std::uint32_t>::max(), "tokenizer: vocabulary over 4 GiB");
    text_.append(text);
    ends_.push_back(static_cast<std::uint32_t>(text_.size()));
  }
  void reserve_index(std::size_t count) { slots_.assign(std::bit_ceil(count * 2 + 2), Slot{}); }
  /// Makes a string findable; where two are alike the last one indexed is found. At most reserve_index's count of them.
  void index(std::int32_t id) {
    const std::string_view text = (*this)[id];
    Slot& slot = slots_[find_slot(text, hash_bytes(text))];
    slot = {static_cast<std::uint32_t>(hash_bytes(text)), id};
    if (text.size() > longest_) longest_ = text.size();
  }
  std::string_view operator[](std::int32_t id) const {
    const auto i = static_cast<std::size_t>(id);
    const std::size_t begin = i == 0 ? 0 : ends_[i - 1];
    return std::string_view(text_).substr(begin, ends_[i] - begin);
  }
  /// The number of an indexed string, or -1.
  std::int32_t find(std::string_view text) const {
    return text.size() > longest_ ? -1 : slots_[find_slot(text, hash_bytes(text))].id;
  }
  std::size_t size() const { return ends_.size(); }

 private:
  struct Slot {
    std::uint32_t tag = 0;
    std::int32_t id = -1;
  };
  std::size_t find_slot(std::string_view text, std::uint64_t hash) const {
    const std::size_t mask = slots_.size() - 1;
    std::size_t at = static_cast<std::size_t>(hash >> 16) & mask;
    while (slots_[at].id >= 0 && (slots_[at].tag != static_cast<std::uint32_t>(hash) || (*this)[slots_[at].id] != text))
      at = (at + 1) & mask;
    return at;
  }

  std::string text_;
  std::vector<std::uint32_t> ends_;
  std::vector<Slot> slots_{Slot{}};
  std::size_t longest_ = 0;
};

/// What two neighbours become, and how early: the lowest rank is merged first.
struct Merge {
  static constexpr std::uint32_t never = std::numeric_limits<std::uint32_t>::max();
  std::uint32_t rank = never;
  std::int32_t id = -1;
};

/// Merges by the pair of token numbers.
class MergeTable {
 public:
  explicit MergeTable(std::size_t count = 0) : slots_(std::bit_ceil(count * 2 + 2)) {}
  /// A pair given twice keeps its last merge. At most the constructor's count of pairs.
  void insert(std::int32_t left, std::int32_t right, Merge merge) {
    const std::uint64_t k = key(left, right);
    slots_[find_slot(k)] = {k, merge};
  }
  Merge find(std::int32_t left, std::int32_t right) const { return slots_[find_slot(key(left, right))].merge; }

 private:
  struct Slot {
    std::uint64_t key = 0;
    Merge merge;
  };
  static std::uint64_t key(std::int32_t left, std::int32_t right) {  // token numbers, not negative
    return static_cast<std::uint64_t>(left) << 32 | static_cast<std::uint64_t>(right);
  }
  std::size_t find_slot(std::uint64_t k) const {
    const std::size_t mask = slots_.size() - 1;
    std::size_t at = static_cast<std::size_t>(mix(k * 0x9e3779b97f4a7c15u)) & mask;
    while (slots_[at].merge.id >= 0 && slots_[at].key != k) at = (at + 1) & mask;
    return at;
  }

  std::vector<Slot> slots_;
};

/// A stretch of a word: its token (-1: none yet), and where it lies.
struct Symbol {
  std::int32_t id;
  std::uint32_t begin, length;
};

inline constexpr std::size_t short_word = 32;  // symbols; up to here looking at all pairs each time beats a heap

/// Merges neighbours in s[0, n), lowest rank first, the leftmost of equals, until none can; returns how many symbols
/// are left. `find(left, right)` gives the merge of two neighbours. n <= short_word.
template <class Find> std::size_t merge_short(Symbol* s, std::size_t n, const Find& find) {
  std::array<Merge, short_word> pair;  // pair[i]: of s[i] and s[i + 1]
  for (std::size_t i = 0; i + 1 < n; ++i) pair[i] = find(s[i], s[i + 1]);
  while (n > 1) {
    std::size_t at = 0;
    for (std::size_t i = 1; i + 1 < n; ++i)
      if (pair[i].rank < pair[at].rank) at = i;
    if (pair[at].rank == Merge::never) break;
    s[at].id = pair[at].id;
    s[at].length += s[at + 1].length;
    std::copy(s + at + 2, s + n, s + at + 1);
    std::copy(pair.data() + at + 1, pair.data() + n - 1, pair.data() + at);
    --n;
    if (at > 0) pair[at - 1] = find(s[at - 1], s[at]);
    if (at + 1 < n) pair[at] = find(s[at], s[at + 1]);
  }
  return n;
}

/// The same for any n, in O(n log n): a heap of pairs over a linked list of symbols.
template <class Find> std::size_t merge_long(Symbol* s, std::size_t n, const Find& find) {
  struct Candidate {
    std::uint64_t order;   // rank, then place
    std::uint32_t length;  // of both; a pair that has grown since is out of date
    std::int32_t id;
    bool operator<(const Candidate& other) const { return order > other.order; }
  };
  constexpr std::uint32_t none = std::numeric_limits<std::uint32_t>::max();
  std::vector<std::uint32_t> next(n), previous(n);
  std::vector<Candidate> heap;
  heap.reserve(n);
  const auto candidate = [&](std::uint32_t left, std::uint32_t right, auto&& put) {
    const Merge merge = find(s[left], s[right]);
    if (merge.rank != Merge::never)
      put(Candidate{static_cast<std::uint64_t>(merge.rank) << 32 | left, s[left].length + s[right].length, merge.id});
  };
  for (std::uint32_t i = 0; i < n; ++i) {
    previous[i] = i == 0 ? none : i - 1;
    next[i] = i + 1 == n ? none : i + 1;
    if (i > 0) candidate(i - 1, i, [&](const Candidate& c) { heap.push_back(c); });
  }
  std::priority_queue<Candidate> queue(std::less<Candidate>{}, std::move(heap));
  const auto push = [&](const Candidate& c) { queue.push(c); };
  while (!queue.empty()) {
    const Candidate c = queue.top();
    queue.pop();
    const auto left = static_cast<std::uint32_t>(c.order);
    const std::uint32_t right = next[left];
    if (s[left].length == 0 || right == none || s[left].length + s[right].length != c.length) continue;
    s[left].id = c.id;
    s[left].length = c.length;
    s[right].length = 0;  // gone
    next[left] = next[right];
    if (next[left] != none) previous[next[left]] = left;
    if (previous[left] != none) candidate(previous[left], left, push);
    if (next[left] != none) candidate(left, next[left], push);
  }
  std::size_t count = 0;
  for (std::uint32_t i = 0; i != none && n > 0; i = next[i]) s[count++] = s[i];
  return count;
}

}  // namespace detail
}  // namespace ft::inline FTLIB_ABI
