// text/unigram.hpp: the tokens of a text whose scores sum highest, by Viterbi's algorithm. arXiv:1804.10959
#pragma once
#include <ftlib/core/error.hpp>
#include <ftlib/text/unicode.hpp>  // decode_utf8

#include <algorithm>    // std::min
#include <array>        // std::array
#include <cstdint>      // std::int32_t
#include <limits>       // std::numeric_limits
#include <string_view>  // std::string_view
#include <vector>       // std::vector

namespace ft::inline FTLIB_ABI {
namespace detail {

/// A tree of strings, for all of them that a text begins with. Edges lie in one hash table.
class PrefixTree {
 public:
  static constexpr std::uint32_t root = 1;

  void insert(std::string_view text, std::int32_t id) {
    std::uint32_t node = root;
    for (const char c : text) {
      if (ids_.size() * 2 > slots_.size()) grow();
      Slot& slot = slots_[find(key(node, c))];
      if (slot.child == 0) {
        require(ids_.size() < std::size_t{1} << 24, "tokenizer: a vocabulary of over 16 million prefixes");
        slot = {key(node, c), static_cast<std::uint32_t>(ids_.size())};
        ids_.push_back(-1);
      }
      node = slot.child;
    }
    ids_[node] = id;
  }
  /// The node behind an edge, or 0.
  std::uint32_t step(std::uint32_t node, char c) const { return slots_[find(key(node, c))].child; }
  /// The string that ends here, or -1.
  std::int32_t id(std::uint32_t node) const { return ids_[node]; }

 private:
  struct Slot {
    std::uint32_t key = 0, child = 0;
  };
  static std::uint32_t key(std::uint32_t node, char c) { return node << 8 | static_cast<std::uint8_t>(c); }
  std::size_t find(std::uint32_t key) const {
    const std::size_t mask = slots_.size() - 1;
    std::size_t at = static_cast<std::size_t>(key * 0x9e3779b97f4a7c15u >> 32) & mask;
    while (slots_[at].child != 0 && slots_[at].key != key) at = (at + 1) & mask;
    return at;
  }
  void grow() {
    std::vector<Slot> old(slots_.size() * 2);
    old.swap(slots_);
    for (const Slot& slot : old)
      if (slot.child != 0) slots_[find(slot.key)] = slot;
  }

  std::vector<Slot> slots_{16};
  std::vector<std::int32_t> ids_{-1, -1};  // by node; 0 is none
};

/// Scores of a unigram model's tokens, and the tokens themselves.
class Unigram {
 public:
  void insert(std::string_view text, std::int32_t id, float score) {
    tree_.insert(text, id);
    if (static_cast<std::size_t>(id) >= scores_.size()) scores_.resize(static_cast<std::size_t>(id) + 1);
    scores_[static_cast<std::size_t>(id)] = score;
  }
  /// A character that no token covers counts ten less than this.
  void set_lowest(float score) { lowest_ = score; }

  /// Calls put(id, begin, length) for the tokens of a text, from the last to the first; -1 for a character that no
  /// token covers. Sums are kept as Sum: SentencePiece's are float, those of Hugging Face's tokenizers double, and
  /// texts of which one segmentation is as good as another depend on it. The first of equals is taken.
  template <class Sum, class Put> void segment(std::string_view text, Put&& put) const {
    struct Best {
      Sum sum;
      std::int32_t id;
      std::uint32_t from;
    };
    constexpr std::uint32_t none = std::numeric_limits<std::uint32_t>::max();
    std::array<Best, 64> few;
    std::vector<Best> many;
    Best* best = few.data();
    if (text.size() >= few.size()) {
      many.resize(text.size() + 1);
      best = many.data();
    }
    for (std::size_t i = 0; i <= text.size(); ++i) best[i] = {0, -1, none};
    const auto offer = [&](std::size_t end, Sum sum, std::int32_t id, std::size_t from) {
      if (best[end].from == none || sum > best[end].sum) best[end] = {sum, id, static_cast<std::uint32_t>(from)};
    };
    for (std::size_t from = 0; from < text.size();) {
      const Sum sum = best[from].sum;
      const std::size_t character = std::min(decode_utf8(text.data() + from).length, text.size() - from);
      bool covered = false;
      std::uint32_t node = PrefixTree::root;
      for (std::size_t end = from; end < text.size() && (node = tree_.step(node, text[end])) != 0;) {
        const std::int32_t id = tree_.id(node);
        ++end;
        if (id < 0) continue;
        offer(end, sum + static_cast<Sum>(scores_[static_cast<std::size_t>(id)]), id, from);
        covered |= end - from == character;
      }
      if (!covered) offer(from + character, sum + (static_cast<Sum>(lowest_) - 10), -1, from);
      from += character;
    }
    for (std::size_t end = text.size(); end > 0; end = best[end].from)
      put(best[end].id, best[end].from, end - best[end].from);
  }

 private:
  PrefixTree tree_;
  std::vector<float> scores_;
  float lowest_ = 0;
};

}  // namespace detail
}  // namespace ft::inline FTLIB_ABI
