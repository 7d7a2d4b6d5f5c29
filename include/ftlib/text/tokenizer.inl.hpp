// text/tokenizer.inl.hpp: the bodies of text/tokenizer.hpp: byte-level BPE, SentencePiece-style BPE, unigram models.
#pragma once
#include <ftlib/text/bpe.hpp>
#include <ftlib/text/normalize.hpp>
#include <ftlib/text/pretokenize.hpp>
#include <ftlib/text/tokenizer.hpp>
#include <ftlib/text/tokenizer_spec.inl.hpp>  // what both call things
#include <ftlib/text/unicode.hpp>
#include <ftlib/text/unigram.hpp>

#include <algorithm>      // std::reverse, std::stable_sort
#include <array>          // std::array
#include <atomic>         // std::atomic
#include <bitset>         // std::bitset
#include <cmath>          // std::isnan
#include <limits>         // std::numeric_limits
#include <numeric>        // std::iota
#include <unordered_map>  // std::unordered_map

namespace ft::inline FTLIB_ABI {

namespace detail {

/// The longest of a set of strings at a place of a text.
class Trie {
 public:
  struct Match {
    std::int32_t id = -1;
    std::size_t length = 0;
  };
  void insert(std::string_view text, std::int32_t id) {
    if (text.empty()) return;
    std::uint32_t& root = roots_[static_cast<std::uint8_t>(text[0])];
    if (root == 0) root = add(text[0]);
    std::uint32_t node = root;
    for (const char c : text.substr(1)) {
      std::uint32_t child = nodes_[node].child;
      while (child != 0 && nodes_[child].byte != c) child = nodes_[child].sibling;
      if (child == 0) {
        child = add(c);
        nodes_[child].sibling = nodes_[node].child;
        nodes_[node].child = child;
      }
      node = child;
    }
    nodes_[node].id = id;
  }
  bool empty() const { return nodes_.size() == 1; }
  bool may_start(char c) const { return roots_[static_cast<std::uint8_t>(c)] != 0; }
  Match longest(std::string_view text) const {
    Match best;
    std::uint32_t node = text.empty() ? 0 : roots_[static_cast<std::uint8_t>(text[0])];
    for (std::size_t length = 1; node != 0; ++length) {
      if (nodes_[node].id >= 0) best = {nodes_[node].id, length};
      if (length == text.size()) break;
      node = nodes_[node].child;
      while (node != 0 && nodes_[node].byte != text[length]) node = nodes_[node].sibling;
    }
    return best;
  }

 private:
  struct Node {
    std::uint32_t child = 0, sibling = 0;
    std::int32_t id = -1;
    char byte = 0;
  };
  std::uint32_t add(char byte) {
    nodes_.push_back({.byte = byte});
    return static_cast<std::uint32_t>(nodes_.size() - 1);
  }
  std::array<std::uint32_t, 256> roots_{};
  std::vector<Node> nodes_{Node{}};  // node 0 is "none"
};

}  // namespace detail

// Inside, tokens are bytes: byte-level ones out of their alphabet, SentencePiece's with ' ' for U+2581. The text is
// treated alike, so ' ' and U+2581 in a text are one, as they are to the references after their normalizer.
struct Tokenizer::Data {
  using Spec = TokenizerSpec;
  using Ids = std::vector<std::int32_t>;

  static constexpr std::uint8_t special_flag = 1, byte_flag = 2, literal_flag = 4;
  enum : std::uint8_t { unasked, alone, parted };  // states of `whole`

  bool byte_level, unigram, by_rank, byte_fallback, fuse_unk, ignore_merges, nfc, cut_before_spaces, cut_lines;
  bool sentencepiece, collapse_spaces, strip_right, split_whitespace;  // how text is normalised
  bool cut_words = false;
  Spec::SpacePrefix space_prefix;
  PreTokenizer pre_tokenizer;
  std::int32_t bos, eos, pad, unk;
  detail::ByteAlphabet alphabet;
  detail::StringTable table;
  detail::MergeTable merges;
  std::vector<std::uint32_t> rank;  // by score, where there are no merges
  detail::Unigram segments;         // of a unigram model
  Charsmap charsmap;
  detail::Trie untouched;                    // user-defined tokens, which SentencePiece's normalizer leaves alone
  std::vector<std::uint8_t> flags;           // by token
  std::array<std::int32_t, 256> byte_ids;    // of single bytes, or -1
  std::bitset<256> before_space;             // last bytes of what stands before a ' ' inside a token
  detail::Trie raw_added, normalized_added;  // numbers are places in `added`
  std::vector<AddedToken> added;
  // Whether a token's own text is encoded to it: asked when it is first met. Threads may ask at once; all get the
  // same answer.
  std::unique_ptr<std::atomic<std::uint8_t>[]> whole;

  bool normalized_control = false;  // some control token is looked for in normalized text

  /// SentencePiece looks for its user-defined symbols where U+2581 and ' ' are one already: so a GGUF's are sought.
  bool spaces_alike() const { return !byte_level && !by_rank && !unigram && !sentencepiece; }

  explicit Data(const Spec& spec)
      : byte_level(spec.model == Spec::Model::byte_level_bpe),
        unigram(spec.model == Spec::Model::unigram),
        by_rank(!unigram && (spec.scores.empty() || !spec.merges.empty())),
        byte_fallback(spec.byte_fallback),
        fuse_unk(spec.fuse_unk),
        ignore_merges(spec.ignore_merges),
        nfc(spec.nfc),
        cut_before_spaces(spec.cut_before_spaces),
        cut_lines(spec.cut_lines),
        sentencepiece(spec.sentencepiece_normalizer),
        collapse_spaces(spec.collapse_spaces),
        strip_right(spec.strip_right),
        split_whitespace(spec.split_whitespace),
        space_prefix(spec.space_prefix),
        pre_tokenizer(spec.pre_tokenizer),
        bos(spec.bos),
        eos(spec.eos),
        pad(spec.pad),
        unk(spec.unk),
        added(spec.added) {
    check(spec);
    if (!spec.charsmap.empty()) charsmap = Charsmap(spec.charsmap, spec.name);
    byte_ids.fill(-1);
    flags.assign(spec.tokens.size(), 0);
    for (const AddedToken& token : added) {
      flags[static_cast<std::size_t>(token.id)] |= token.special ? special_flag | literal_flag : literal_flag;
      normalized_control |= token.special && token.normalized;
    }
    add_tokens(spec);
    if (unigram) add_segments(spec);
    else if (by_rank) add_merges(spec);
    else rank_scores(spec.scores);
    for (std::size_t i = 0; i < added.size(); ++i) {
      const std::string content = sought(added[i]);
      if (valid_utf8_prefix(content) != content.size()) continue;  // would match inside a character, and part it
      if (sentencepiece && added[i].normalized) {
        untouched.insert(added[i].content, added[i].id);
        // A unigram model's are segments; and the normalized text has no ' '.
        if (unigram || added[i].content.find(' ') != std::string::npos) continue;
      }
      (added[i].normalized ? normalized_added : raw_added).insert(content, static_cast<std::int32_t>(i));
    }
    whole = std::make_unique<std::atomic<std::uint8_t>[]>(spec.tokens.size());
  }

  void check(const Spec& spec) const {
    const auto fail = [&](const auto&... what) { throw Error(str(spec.name, ": tokenizer: ", what...)); };
    const std::size_t count = spec.tokens.size();
    if (count >= std::size_t{1} << 30) fail(count, " tokens");
    if (!spec.types.empty() && spec.types.size() != count) fail(count, " tokens but ", spec.types.size(), " types");
    if (!by_rank && spec.scores.size() != count) fail(count, " tokens but ", spec.scores.size(), " scores");
    for (const float score : spec.scores)
      if (std::isnan(score)) fail("a score is not a number");
    const auto in_range = [&](std::int32_t id, int lowest) {
      return id >= lowest && id < static_cast<std::int32_t>(count);
    };
    for (const std::int32_t id : {bos, eos, pad, unk})
      if (!in_range(id, -1)) fail("bos, eos, pad or unk is ", id, " in a vocabulary of ", count);
    for (const std::int32_t id : spec.ends)
      if (!in_range(id, 0)) fail("a token that ends answers is ", id, " in a vocabulary of ", count);
    for (const AddedToken& token : added)
      if (!in_range(token.id, 0))
        fail("added token ", quote(token.content), " has id ", token.id, " in a vocabulary of ", count);
  }

  /// What stands in the text for an added token.
  std::string sought(const AddedToken& token) const {
    if (!token.normalized) return token.content;
    return sentencepiece ? detail::replace_all(token.content, detail::sp_space, " ") : normalize(token.content);
  }

  /// A token's text as it is kept here.
  std::string inner(std::string_view spelling) const {
    return byte_level ? alphabet.bytes(spelling) : detail::replace_all(spelling, detail::sp_space, " ");
  }

  void add_tokens(const Spec& spec) {
    std::unordered_map<std::int32_t, std::string> normalized;  // which decode to what they are sought as, as there
    for (const AddedToken& token : added)
      if (token.normalized) normalized.emplace(token.id, sought(token));
    table.reserve_index(spec.tokens.size());
    for (std::size_t i = 0; i < spec.tokens.size(); ++i) {
      const auto id = static_cast<std::int32_t>(i);
      const std::string& spelling = spec.tokens[i];
      const Spec::Type type = spec.types.empty() ? Spec::Type::normal : spec.types[i];
      if (type == Spec::Type::byte && !byte_level) {
        const int byte = byte_of(spelling);
        if (byte < 0) throw Error(str(spec.name, ": token ", id, " ", quote(spelling), " is marked as a byte"));
        byte_ids[static_cast<std::size_t>(byte)] = id;
        flags[i] |= byte_flag;
        table.add(std::string(1, static_cast<char>(static_cast<std::uint8_t>(byte))));
        continue;
      }
      if (const auto found = normalized.find(id); found != normalized.end()) table.add(found->second);
      else table.add(byte_level && flags[i] & literal_flag ? spelling : inner(spelling));
      const bool unreachable = !byte_level && type == Spec::Type::normal && spelling.find(' ') != std::string::npos;
      if ((type != Spec::Type::normal && type != Spec::Type::user_defined) || unreachable) continue;
      table.index(id);
      const std::string_view text = table[id];
      if (byte_level && text.size() == 1) byte_ids[static_cast<std::uint8_t>(text[0])] = id;
      for (std::size_t at = 1; at < text.size(); ++at)
        if (text[at] == ' ' && text[at - 1] != ' ') before_space.set(static_cast<std::uint8_t>(text[at - 1]));
    }
    cut_words = table.find(" ") >= 0;
  }

  void add_merges(const Spec& spec) {
    merges = detail::MergeTable(spec.merges.size());
    std::string text;
    for (std::size_t i = 0; i < spec.merges.size(); ++i) {
      const std::string& merge = spec.merges[i];
      const std::size_t space = merge.find(' ', 1);
      std::int32_t left = -1, right = -1, both = -1;
      if (space != std::string::npos) {
        const std::string_view spelling = merge;
        text = inner(spelling.substr(0, space));
        const std::size_t middle = text.size();
        text += inner(spelling.substr(space + 1));
        left = table.find(std::string_view(text).substr(0, middle));
        right = table.find(std::string_view(text).substr(middle));
        both = table.find(text);
      }
      if (left < 0 || right < 0 || both < 0)
        throw Error(str(spec.name, ": merge ", i, " ", quote(merge), " is not of tokens of the vocabulary"),
                    "the file's tokens and merges do not belong together.");
      merges.insert(left, right, {static_cast<std::uint32_t>(i), both});
    }
  }

  /// github.com/google/sentencepiece, src/unigram_model.cc: a user-defined token is to win against all that it could be
  /// made of.
  void add_segments(const Spec& spec) {
    float lowest = std::numeric_limits<float>::max(), highest = std::numeric_limits<float>::min();
    for (std::size_t i = 0; i < spec.tokens.size(); ++i) {
      if (sentencepiece && !spec.types.empty() && spec.types[i] != Spec::Type::normal) continue;
      lowest = std::min(lowest, spec.scores[i]);
      highest = std::max(highest, spec.scores[i]);
    }
    segments.set_lowest(lowest);
    for (std::size_t i = 0; i < spec.tokens.size(); ++i) {
      const Spec::Type type = spec.types.empty() ? Spec::Type::normal : spec.types[i];
      const bool user = sentencepiece && type == Spec::Type::user_defined;
      if (sentencepiece && spec.tokens[i].find(' ') != std::string::npos) continue;  // normalized text has none
      const float bonus = static_cast<float>(spec.tokens[i].size()) * highest - 0.1f;
      // Hugging Face's tokenizers look for byte tokens' own spellings too.
      if (type == Spec::Type::normal || user || (type == Spec::Type::byte && !sentencepiece))
        segments.insert(inner(spec.tokens[i]), static_cast<std::int32_t>(i), user ? bonus : spec.scores[i]);
    }
  }

  void rank_scores(const std::vector<float>& scores) {
    std::vector<std::uint32_t> order(scores.size());
    std::iota(order.begin(), order.end(), 0u);
    std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return scores[a] > scores[b]; });
    rank.resize(scores.size());
    for (std::size_t i = 0; i < order.size(); ++i)  // equal scores, equal ranks: then the leftmost pair goes first
      rank[order[i]] =
          i > 0 && scores[order[i]] == scores[order[i - 1]] ? rank[order[i - 1]] : static_cast<std::uint32_t>(i);
  }

  static int byte_of(std::string_view spelling) {  // of "<0x0A>"
    if (spelling.size() != 6 || spelling.substr(0, 3) != "<0x" || spelling[5] != '>') return -1;
    const auto digit = [](char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1; };
    const int high = digit(spelling[3]), low = digit(spelling[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
  }

  std::string spelling(std::int32_t id, std::string_view bytes) const {
    const std::uint8_t flag = flags[static_cast<std::size_t>(id)];
    if (flag & byte_flag) return detail::TokenizerJson::byte_token(static_cast<std::uint8_t>(bytes[0]));
    if (!byte_level) return detail::replace_all(bytes, " ", detail::sp_space);
    return flag & literal_flag ? std::string(bytes) : alphabet.spelling(bytes);
  }
  std::int32_t find(std::string_view token) const {
    for (const AddedToken& one : added)
      if (one.content == token) return one.id;
    if (const int byte = byte_of(token); !byte_level && byte >= 0) return byte_ids[static_cast<std::size_t>(byte)];
    return table.find(inner(token));
  }

  /// A stretch of text as the model's normalizer leaves it, and with ' ' for U+2581: SentencePiece's form, or NFC where
  /// it asks for that.
  std::string normalize(std::string_view text) const {
    if (byte_level) return nfc ? to_nfc(text) : std::string(text);
    if (sentencepiece && (collapse_spaces || !charsmap.empty())) return sentencepiece_form(text);
    std::string ruled;
    if (!charsmap.empty()) text = ruled = by_grapheme(text);
    const CharacterClasses classes;
    while (strip_right && !text.empty()) {
      std::size_t last = text.size() - 1;
      while ((static_cast<std::uint8_t>(text[last]) & 0xc0) == 0x80) --last;
      if (!(classes(decode_utf8(text.data() + last).code) & space_class)) break;
      text = text.substr(0, last);
    }
    std::string collapsed;
    if (collapse_spaces && !sentencepiece) {
      for (const char c : text)
        if (c != ' ' || !collapsed.ends_with(' ')) collapsed.push_back(c);
      text = collapsed;
    }
    if (split_whitespace) return std::string(text);  // U+2581 is not white
    std::string out = detail::replace_all(text, detail::sp_space, " ");
    if (space_prefix == Spec::SpacePrefix::always && !out.empty()) out.insert(0, 1, ' ');
    return out;
  }

  /// The rules of charsmap, as Hugging Face's tokenizers apply them: of a grapheme cluster of less than six bytes the
  /// first that it begins with stands for all of it, else each character for itself.
  std::string by_grapheme(std::string_view text) const {
    std::string out;
    out.reserve(text.size());
    const auto put = [&](std::string_view part, bool otherwise) {
      const auto rule = charsmap.shortest(part);
      if (rule.length > 0) out.append(rule.text);
      else if (otherwise) out.append(part);
      return rule.length > 0;
    };
    for (std::size_t at = 0; at < text.size();) {
      if (charsmap.plain(text[at]) && (at + 1 == text.size() || static_cast<signed char>(text[at + 1]) >= 0)) {
        out.push_back(text[at++]);
        continue;
      }
      const std::string_view cluster = text.substr(at, grapheme_length(text.substr(at)));
      at += cluster.size();
      if (cluster.size() < 6 && put(cluster, false)) continue;
      for (std::size_t i = 0, length; i < cluster.size(); i += length) {
        length = decode_utf8(cluster.data() + i).length;
        put(cluster.substr(i, length), true);
      }
    }
    return out;
  }

  /// github.com/google/sentencepiece, src/normalizer.cc.
  std::string sentencepiece_form(std::string_view text) const {
    const auto rule = [&](std::string_view rest) {
      if (untouched.may_start(rest[0]))
        if (const auto found = untouched.longest(rest); found.id >= 0)
          return Charsmap::Match{rest.substr(0, found.length), found.length};
      if (const auto found = charsmap.longest(rest); found.length > 0) return found;
      const std::size_t length = decode_utf8(rest.data()).length;
      return Charsmap::Match{rest.substr(0, length), length};
    };
    std::string out;
    out.reserve(text.size() + 1);
    Charsmap::Match next;
    while (collapse_spaces && !text.empty() && (next = rule(text)).text == " ") text.remove_prefix(next.length);
    if (text.empty()) return out;
    if (space_prefix == Spec::SpacePrefix::always) out.push_back(' ');
    for (bool after_space = collapse_spaces; !text.empty(); text.remove_prefix(next.length)) {
      std::size_t plain = 0;  // a run that stays as it is
      while (plain + 1 < text.size() && text[plain] != ' ' && !untouched.may_start(text[plain]) &&
             charsmap.plain(text[plain]) && static_cast<signed char>(text[plain + 1]) >= 0)
        ++plain;
      next = plain > 0 ? Charsmap::Match{text.substr(0, plain), plain} : rule(text);
      std::string_view part = next.text;
      while (after_space && part.starts_with(' ')) part.remove_prefix(1);
      if (part.empty()) continue;
      out.append(part);
      after_space = collapse_spaces && part.ends_with(' ');
    }
    while (collapse_spaces && (out.ends_with(' ') || out.ends_with(detail::sp_space)))
      out.erase(out.size() - (out.ends_with(' ') ? 1 : detail::sp_space.size()));
    return out.find(detail::sp_space) == out.npos ? out : detail::replace_all(out, detail::sp_space, " ");
  }

  /// Calls token(id) and stretch(text, begin) for the added tokens of a text and what is between them, in order: the
  /// leftmost, then longest match; flags as tokenizers' added_vocabulary.rs treats them.
  /// `outside` are the ends of stretches of the text, the first of which counts and each other one is from outside: no
  /// control token that touches one of those is looked for.
  template <class Token, class Stretch>
  void split(const detail::Trie& trie, std::string_view text, Special special, bool space_is_white,
             std::span<const std::size_t> outside, Token&& token, Stretch&& stretch) const {
    std::size_t done = 0;
    if (!trie.empty()) {
      for (std::size_t at = 0; at < text.size();) {
        if (!trie.may_start(text[at])) {
          ++at;
          continue;
        }
        const detail::Trie::Match match = trie.longest(text.substr(at));
        if (match.id < 0) {
          ++at;
          continue;
        }
        const AddedToken& found = added[static_cast<std::size_t>(match.id)];
        std::size_t begin = at, end = at + match.length;
        at = end;
        if (special == Special::as_text && found.special) continue;
        if (found.special && !outside.empty()) {
          const auto stretch_end = std::upper_bound(outside.begin(), outside.end(), begin);
          if ((stretch_end - outside.begin()) % 2 != 0 || stretch_end == outside.end() || end > *stretch_end) {
            at = begin + 1;  // a shorter one, or one that begins inside, may yet count
            continue;
          }
        }
        const CharacterClasses classes;
        const auto is_white = [&](std::size_t i) {
          return text[i] == ' ' ? space_is_white : (classes(decode_utf8(text.data() + i).code) & space_class) != 0;
        };
        const auto before = [&](std::size_t i) {  // the character that ends at i
          for (--i; (static_cast<std::uint8_t>(text[i]) & 0xc0) == 0x80;) --i;
          return i;
        };
        if (found.single_word) {
          const auto is_word = [&](std::size_t i) { return classes(decode_utf8(text.data() + i).code) & word_class; };
          if ((begin > 0 && is_word(before(begin))) || (end < text.size() && is_word(end))) continue;
        }
        if (found.lstrip)
          while (begin > done && is_white(before(begin))) begin = before(begin);
        if (found.rstrip)
          while (end < text.size() && is_white(end)) end += decode_utf8(text.data() + end).length;
        if (done < begin) stretch(text.substr(done, begin - done), done);
        token(found.id);
        done = end;
      }
    }
    if (done < text.size()) stretch(text.substr(done), done);
  }

  void encode(std::string_view text, Special special, Ids& out, std::span<const std::size_t> outside = {}) const {
    std::string spaced;
    if (spaces_alike() && text.find(detail::sp_space) != std::string_view::npos)
      text = spaced = detail::replace_all(text, detail::sp_space, " ");
    const auto put = [&](std::int32_t id) { out.push_back(id); };
    split(raw_added, text, special, true, outside, put, [&](std::string_view part, std::size_t begin) {
      std::string normal;
      if (!byte_level && (space_prefix == Spec::SpacePrefix::always || collapse_spaces || strip_right ||
                          !charsmap.empty() || part.find(detail::sp_space) != std::string_view::npos))
        part = normal = normalize(part);
      if (nfc && !is_surely_nfc(part)) part = normal = to_nfc(part);
      // SentencePiece's normalizer has made U+2581 of the spaces, which is not white; Metaspace has not yet.
      const bool white = byte_level || space_prefix == Spec::SpacePrefix::unless_there ||
                         space_prefix == Spec::SpacePrefix::first_unless_there;
      split(normalized_added, part, special, white, {}, put, [&](std::string_view rest, std::size_t offset) {
        if (byte_level) encode_bytes(rest, out);
        else encode_pieces(rest, begin + offset == 0, out);
      });
    });
  }

  void encode_bytes(std::string_view text, Ids& out) const {
    std::string prefixed;
    if (pre_tokenizer.add_prefix_space && text[0] != ' ') text = prefixed = ' ' + std::string(text);
    Words words(pre_tokenizer, text);
    for (std::string_view word; words.next(word);) encode_word(word, out);
  }

  void encode_pieces(std::string_view text, bool at_start, Ids& out) const {
    if (split_whitespace) {
      const CharacterClasses classes;
      const auto white = [&](std::size_t i) { return (classes(decode_utf8(text.data() + i).code) & space_class) != 0; };
      const auto length = [&](std::size_t i) { return decode_utf8(text.data() + i).length; };
      for (std::size_t at = 0, end; at < text.size(); at = end) {
        for (end = at; end < text.size() && !white(end);) end += length(end);
        if (end > at) encode_spaced(detail::replace_all(text.substr(at, end - at), detail::sp_space, " "), true, out);
        else end += length(end);
      }
    } else {
      encode_spaced(text, at_start, out);
    }
  }

  /// What stands between white space that is no part of it, or all.
  void encode_spaced(std::string_view text, bool at_start, Ids& out) const {
    std::string prefixed;
    const bool wants_space = space_prefix == Spec::SpacePrefix::unless_there ||
                             (space_prefix == Spec::SpacePrefix::first_unless_there && at_start);
    if (wants_space && text[0] != ' ') text = prefixed = ' ' + std::string(text);
    if (!cut_lines) return encode_line(text, out);
    for (std::size_t at = 0, end; at < text.size(); at = end) {
      end = std::min(text.size(), text[at] == '\n' ? text.find_first_not_of('\n', at) : text.find('\n', at));
      const std::string_view part = text.substr(at, end - at);
      if (const std::int32_t id = part[0] == '\n' ? table.find(part) : -1; id >= 0) out.push_back(id);
      else encode_line(part, out);
    }
  }

  void encode_line(std::string_view text, Ids& out) const {
    // No token has these bytes before a space, so no merge reaches over: the words can be merged one by one. A unigram
    // model's sums are rounded as the text grows, so it is not cut without being told.
    std::size_t begin = 0;
    for (std::size_t at = 1; at < text.size(); ++at) {
      if (text[at] != ' ') continue;
      const char last = text[at - 1];
      const bool apart = !unigram && cut_words && last != ' ' && !before_space[static_cast<std::uint8_t>(last)];
      if (!cut_before_spaces && !apart) continue;
      encode_word(text.substr(begin, at - begin), out);
      begin = at;
    }
    encode_word(text.substr(begin), out);
  }

  /// The tokens of the best segmentation. SentencePiece adds scores as float, Hugging Face's tokenizers as double.
  void encode_segments(std::string_view text, Ids& out) const {
    const std::size_t before = out.size();
    bool unknown = false;                                                           // what stands behind was
    const auto put = [&](std::int32_t id, std::size_t begin, std::size_t length) {  // from the last to the first
      const std::string_view part = text.substr(begin, length);
      if (id < 0 && all_bytes(part)) {
        for (std::size_t i = part.size(); i > 0; --i) out.push_back(byte_ids[static_cast<std::uint8_t>(part[i - 1])]);
      } else if (id >= 0 || (unk >= 0 && !unknown)) {
        out.push_back(id >= 0 ? id : unk);
      }
      unknown = id < 0 && !all_bytes(part);
    };
    if (sentencepiece) segments.segment<float>(text, put);
    else segments.segment<double>(text, put);
    std::reverse(out.begin() + static_cast<std::ptrdiff_t>(before), out.end());
  }

  void encode_word(std::string_view word, Ids& out) const {
    if (unigram) return encode_segments(word, out);
    const std::int32_t id = table.find(word);
    if (id < 0) return merge(word, out);
    auto& state = whole[static_cast<std::size_t>(id)];
    if (ignore_merges || state.load(std::memory_order_relaxed) == alone) return out.push_back(id);
    const std::size_t before = out.size();
    merge(word, out);
    const bool is_alone = out.size() == before + 1 && out.back() == id;
    state.store(is_alone ? alone : parted, std::memory_order_relaxed);
  }

  void merge(std::string_view word, Ids& out) const {
    std::array<detail::Symbol, detail::short_word> few;
    std::vector<detail::Symbol> many;
    detail::Symbol* symbols = few.data();
    if (word.size() > few.size()) {
      many.resize(word.size());
      symbols = many.data();
    }
    std::size_t n = start(word, symbols);
    const auto run = [&](const auto& find) {
      n = n <= detail::short_word ? detail::merge_short(symbols, n, find) : detail::merge_long(symbols, n, find);
    };
    if (by_rank) {
      run([&](const detail::Symbol& a, const detail::Symbol& b) { return merges.find(a.id, b.id); });
    } else {
      run([&](const detail::Symbol& a, const detail::Symbol& b) {
        const std::int32_t id = table.find(word.substr(a.begin, a.length + b.length));
        return id < 0 ? detail::Merge{} : detail::Merge{rank[static_cast<std::size_t>(id)], id};
      });
    }
    bool after_unknown = false;
    for (std::size_t i = 0; i < n; ++i) {
      if (symbols[i].id >= 0) {
        out.push_back(symbols[i].id);
        after_unknown = false;
      } else if (const auto text = word.substr(symbols[i].begin, symbols[i].length); all_bytes(text)) {
        for (const char c : text) out.push_back(byte_ids[static_cast<std::uint8_t>(c)]);
        after_unknown = false;
      } else if (unk >= 0 && !(fuse_unk && after_unknown)) {
        out.push_back(unk);
        after_unknown = true;
      }
    }
  }

  /// Whether a character can be written in byte tokens.
  bool all_bytes(std::string_view text) const {
    if (!byte_fallback) return false;
    for (const char c : text)
      if (byte_ids[static_cast<std::uint8_t>(c)] < 0) return false;
    return true;
  }

  /// The symbols a word begins with; their number. Merging by rank needs a token for each, so what is unknown
  /// becomes bytes or unk before; merging by score leaves it for after, because longer text may be a token.
  std::size_t start(std::string_view word, detail::Symbol* symbols) const {
    std::size_t n = 0;
    bool after_unknown = false;
    for (std::size_t at = 0, length; at < word.size(); at += length) {
      length = byte_level ? 1 : std::min(decode_utf8(word.data() + at).length, word.size() - at);
      const std::string_view text = word.substr(at, length);
      const std::int32_t id = byte_level ? byte_ids[static_cast<std::uint8_t>(text[0])] : table.find(text);
      const auto put = [&](std::int32_t token, std::size_t from, std::size_t size) {
        symbols[n++] = {token, static_cast<std::uint32_t>(from), static_cast<std::uint32_t>(size)};
      };
      const bool unknown = id < 0 && by_rank && (byte_level || !all_bytes(text));
      if (id >= 0 || !by_rank) {
        put(id, at, length);
      } else if (!unknown) {
        for (std::size_t i = 0; i < length; ++i) put(byte_ids[static_cast<std::uint8_t>(text[i])], at + i, 1);
      } else if (unk >= 0) {
        if (fuse_unk && after_unknown) symbols[n - 1].length += static_cast<std::uint32_t>(length);
        else put(unk, at, length);
      }
      after_unknown = unknown;
    }
    return n;
  }
};
[[gnu::cold]] FTLIB_INLINE Tokenizer::Tokenizer(TokenizerSpec spec)
    : spec_(std::make_shared<const TokenizerSpec>(std::move(spec))), data_(std::make_shared<const Data>(*spec_)) {}
FTLIB_INLINE Tokenizer Tokenizer::from_json(const Json& tokenizer_json, const Json* tokenizer_config,
                                            std::string_view name) {
  return Tokenizer(tokenizer_spec_from_json(tokenizer_json, tokenizer_config, name));
}
FTLIB_INLINE Tokenizer Tokenizer::from_file(const std::filesystem::path& file) {
  return Tokenizer(tokenizer_spec_from_file(file));
}
FTLIB_INLINE Tokenizer Tokenizer::from_gguf(const GgufFile& file) { return Tokenizer(tokenizer_spec_from(file)); }

FTLIB_INLINE std::vector<std::int32_t> Tokenizer::encode(std::string_view text, EncodeOptions options) const {
  std::vector<std::int32_t> out;
  if (text.size() >= std::numeric_limits<std::uint32_t>::max())
    throw Error(str("encode: a text of ", text.size(), " bytes"), "encode it in parts below 4 GiB.");
  out.reserve(text.size() / 4 + 4);
  if (options.add_special_tokens && add_bos()) out.push_back(bos());
  std::string repaired;
  if (valid_utf8_prefix(text) != text.size()) text = repaired = replace_broken_utf8(text);
  data_->encode(text, options.special, out);
  if (options.add_special_tokens && add_eos()) out.push_back(eos());
  return out;
}
FTLIB_INLINE std::vector<std::int32_t> Tokenizer::encode(std::span<const TextPart> parts) const {
  std::vector<std::int32_t> out;
  if (data_->normalized_control) {  // looked for in the normalized text, where the parts' places are lost
    for (const TextPart& part : parts) {
      const auto ids = encode(part.text, {.special = part.special});
      out.insert(out.end(), ids.begin(), ids.end());
    }
    return out;
  }
  std::string text;
  std::vector<std::size_t> outside{0};  // where stretches end, by turns ours and from outside
  for (const TextPart& part : parts) {
    if (part.text.empty()) continue;
    const std::string good = replace_broken_utf8(part.text);
    text += data_->spaces_alike() ? detail::replace_all(good, detail::sp_space, " ") : good;
    const bool ours = part.special == Special::parse;
    if (ours != (outside.size() % 2 != 0)) outside.push_back(text.size());
    else outside.back() = text.size();
  }
  if (text.size() >= std::numeric_limits<std::uint32_t>::max())
    throw Error(str("encode: a text of ", text.size(), " bytes"), "encode it in parts below 4 GiB.");
  data_->encode(text, Special::parse, out, outside);
  return out;
}
FTLIB_INLINE std::string Tokenizer::decode(std::span<const std::int32_t> ids, bool skip_special) const {
  std::string out;
  bool strip = strips_space();
  for (const std::int32_t id : ids)
    if (const std::string_view text = bytes(id); !skip_special || !is_special(id))
      out.append(strip ? next_bytes(id, strip) : text);
  return valid_utf8_prefix(out) == out.size() ? out : replace_broken_utf8(out);
}
FTLIB_INLINE std::string_view Tokenizer::bytes(std::int32_t id) const {
  if (id < 0 || id >= vocab_size())
    throw Error(str("tokenizer: token ", id, " is not in the vocabulary of ", vocab_size()),
                "the model and the tokenizer are not of one kind, or the id is padding.");
  return data_->table[id];
}
FTLIB_INLINE std::string_view Tokenizer::next_bytes(std::int32_t id, bool& strip) const {
  std::string_view text = bytes(id);
  if (!strip || text.empty()) return text;
  const bool prepend = spec().space_prefix == TokenizerSpec::SpacePrefix::always && !spec().sentencepiece_normalizer;
  // Metaspace and SentencePiece drop a U+2581 that is spelled in the token, the decoder Strip and llama.cpp any space.
  if (text[0] == ' ' && (prepend || !spec().tokens[static_cast<std::size_t>(id)].starts_with(' ')))
    text.remove_prefix(1);
  strip = text.empty() && spec().sentencepiece_normalizer && spec().collapse_spaces;
  return text;
}
FTLIB_INLINE std::string Tokenizer::token(std::int32_t id) const { return data_->spelling(id, bytes(id)); }
FTLIB_INLINE std::int32_t Tokenizer::id(std::string_view token) const { return data_->find(token); }
FTLIB_INLINE std::int32_t Tokenizer::vocab_size() const { return static_cast<std::int32_t>(data_->table.size()); }
FTLIB_INLINE bool Tokenizer::is_special(std::int32_t id) const {
  return id >= 0 && id < vocab_size() && data_->flags[static_cast<std::size_t>(id)] & Data::special_flag;
}

namespace detail {
/// Bytes at the end of `text` that more bytes could complete to a character.
inline std::size_t unfinished(std::string_view text) {
  for (std::size_t n = std::min<std::size_t>(3, text.size()); n > 0; --n) {
    const Utf8Scan scan = scan_utf8(text.substr(text.size() - n));
    if (scan.kind == Utf8Scan::unfinished && scan.length == n) return n;
  }
  return 0;
}
}  // namespace detail

FTLIB_INLINE std::string StreamDecoder::put(std::int32_t id) {
  const std::string_view bytes = tokenizer_.bytes(id);
  if (skip_special_ && tokenizer_.is_special(id)) return {};
  pending_.append(strip_ ? tokenizer_.next_bytes(id, strip_) : bytes);
  // Only the last character can be unfinished, and it begins in the last three bytes.
  std::size_t keep = pending_.size() - valid_utf8_prefix(pending_);
  if (keep > 0) keep = detail::unfinished(pending_);
  std::string out = replace_broken_utf8(std::string_view(pending_).substr(0, pending_.size() - keep));
  pending_.erase(0, pending_.size() - keep);
  return out;
}
FTLIB_INLINE std::string StreamDecoder::finish() {
  std::string out = replace_broken_utf8(pending_);
  pending_.clear();
  strip_ = tokenizer_.strips_space();
  return out;
}

}  // namespace ft::inline FTLIB_ABI
