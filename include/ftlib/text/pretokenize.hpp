// text/pretokenize.hpp: cutting text into words before byte-level BPE: the patterns of tokenizer.json as functions, and
// a table that says which is which. To add one: a name in Pattern, a function of Words, a row in split_patterns, and
// the names that GGUF has for it in gguf_pre_tokenizers.
#pragma once
#include <ftlib/text/pre_tokenizer.hpp>
#include <ftlib/text/unicode.hpp>

#include <cstddef>      // std::size_t
#include <cstdint>      // std::int64_t
#include <string>       // std::string
#include <string_view>  // std::string_view
#include <vector>       // std::vector

namespace ft::inline FTLIB_ABI {

/// The words of `text`, valid UTF-8, one after the other; together they are all of it.
class Words {
 public:
  /// The end of the word that begins where the text stands.
  using Match = const char* (Words::*)() const;

  Words(PreTokenizer how, std::string_view text);

  /// Puts the next word into `word`; false at the end.
  bool next(std::string_view& word) {
    if (at_ == end_) return false;
    const char* stop = match_ ? (this->*match_)() : end_;
    word = std::string_view(at_, static_cast<std::size_t>(stop - at_));
    at_ = stop;
    return true;
  }

  const char* gpt2() const;
  const char* llama3() const { return llama3_like(3, letter); }
  const char* qwen2() const { return llama3_like(1, letter); }
  const char* qwen35() const { return llama3_like(1, letter | mark); }
  const char* gpt4o() const;
  const char* tekken() const;

 private:
  static constexpr std::uint8_t letter = letter_class, number = number_class, space = space_class, mark = mark_class;
  static constexpr std::uint8_t classified = letter | number | space;

  struct Class {
    std::uint8_t classes;
    std::size_t length;
  };
  Class class_at(const char* p) const {
    if (static_cast<signed char>(*p) >= 0) return {classes_(static_cast<char32_t>(*p)), 1};
    const Utf8Char c = decode_utf8(p);
    return {classes_(c.code), c.length};
  }
  bool is(const char* p, std::uint8_t wanted) const { return p < end_ && (class_at(p).classes & wanted); }
  /// The end of the run from p of characters of some of the `wanted` classes, or of none for `others`.
  const char* run(const char* p, std::uint8_t wanted) const {
    for (Class c; p < end_ && ((c = class_at(p)).classes & wanted);) p += c.length;
    return p;
  }
  const char* others(const char* p, std::uint8_t unwanted) const {
    for (Class c; p < end_ && !((c = class_at(p)).classes & unwanted);) p += c.length;
    return p;
  }
  static bool is_break(char c) { return c == '\r' || c == '\n'; }

  /// `\s+(?!\S)|\s+`: leaves the last space to the word after it. `stop` is the end of the text the pattern sees.
  const char* spaces(bool number_ends_text) const {
    const char* stop = run(at_, space);
    if (stop == end_ || (number_ends_text && is(stop, number))) return stop;
    const char* last = stop - 1;
    while ((static_cast<unsigned char>(*last) & 0xc0) == 0x80) --last;
    return last == at_ ? stop : last;
  }

  /// `(?i:'s|'t|'re|'ve|'m|'ll|'d)?`: its end, or p.
  const char* contraction(const char* p) const {
    if (end_ - p < 2 || *p != '\'') return p;
    const auto lower = [&](const char* q) { return end_ - q > 0 ? static_cast<char>(*q | 0x20) : '\0'; };
    const char a = lower(p + 1), b = lower(p + 2);
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return p + 2;
    if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return p + 3;
    const bool long_s = end_ - p >= 3 && p[1] == '\xC5' && p[2] == '\xBF';  // U+017F, which (?i:s) matches
    return long_s ? p + 3 : p;
  }

  /// `\p{N}{1,digits}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+` at the start, of class c; `taken` are the
  /// classes that the second leaves out, and it takes no '/' where `slash` is not set.
  const char* rest(Class c, int digits, std::uint8_t taken, bool slash) const {
    const char *p = at_, *after = p + c.length;
    if (c.classes & number) {
      for (int n = 1; n < digits && is(after, number); ++n) after += class_at(after).length;
      return after;
    }
    const bool leading_space = *p == ' ' && after < end_ && !(class_at(after).classes & taken);
    if (leading_space || !(c.classes & taken)) {
      after = others(leading_space ? after : p, taken);
      while (after < end_ && (is_break(*after) || (slash && *after == '/'))) ++after;
      return after;
    }
    const char* stop = run(p, space);
    for (const char* q = stop; q != p; --q)
      if (is_break(q[-1])) return q;
    return spaces(false);
  }

  /// Llama 3's pattern, with at most so many digits in a word, and words of these classes.
  const char* llama3_like(int digits, std::uint8_t words) const {
    if (const char* stop = contraction(at_); stop != at_) return stop;
    const Class c = class_at(at_);
    const char* after = at_ + c.length;
    if (c.classes & words) return run(after, words);
    if (!(c.classes & number) && !is_break(*at_) && is(after, words)) return run(after, words);
    return rest(c, digits, words | classified, false);
  }

  /// `[U]*[L]+` from p, where U are letters but those of lower case, L letters but those of upper case, both with
  /// marks; null where nothing matches.
  const char* ends_low(const char* p) const {
    const char* low = nullptr;  // the end of the last character of both
    for (Class c; p < end_ && ((c = class_at(p)).classes & (letter | mark));) {
      if (c.classes & lower_class) return run(p, lower_class | caseless_class | mark);
      p += c.length;
      if (!(c.classes & upper_class)) low = p;
    }
    return low;
  }
  /// `[^\r\n\p{L}\p{N}]?[U]*[L]+|[^\r\n\p{L}\p{N}]?[U]+[L]*`; null where nothing matches.
  const char* cased_word(Class c) const {
    if (c.classes & number || is_break(*at_)) return nullptr;
    const char* from = c.classes & letter ? at_ : at_ + c.length;
    if (const char* stop = ends_low(from)) return stop;
    if (c.classes & mark) return ends_low(at_);
    const char* stop = run(from, upper_class);
    return stop == from ? nullptr : stop;
  }

  PreTokenizer how_;
  Match match_ = nullptr;
  const char* at_;
  const char* end_;
  CharacterClasses classes_;
};

inline const char* Words::gpt2() const {
  const char* p = at_;
  if (*p == '\'' && end_ - p >= 2) {
    const char a = p[1], b = end_ - p >= 3 ? p[2] : '\0';
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return p + 2;
    if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return p + 3;
  }
  const bool cut_digits = how_.digits != PreTokenizer::Digits::in_pattern;
  if (*p == ' ' && p + 1 < end_ && !(cut_digits && is(p + 1, number))) ++p;
  const Class c = class_at(p);
  if (c.classes & letter) return run(p + c.length, letter);
  if (c.classes & number) return how_.digits == PreTokenizer::Digits::each ? p + c.length : run(p + c.length, number);
  if (c.classes & space) return spaces(cut_digits);
  return others(p + c.length, classified);
}

inline const char* Words::gpt4o() const {
  const Class c = class_at(at_);
  const char* stop = cased_word(c);
  return stop ? contraction(stop) : rest(c, 3, classified, true);
}

inline const char* Words::tekken() const {
  const Class c = class_at(at_);
  const char* stop = cased_word(c);
  return stop ? stop : rest(c, 1, classified, true);
}

/// A pattern as tokenizer.json writes it, and the function that is it; where there are several of a pattern, which
/// match the same, the first is what is written.
struct SplitPattern {
  PreTokenizer::Pattern pattern;
  std::string_view regex;
  Words::Match match;
};
inline constexpr SplitPattern split_patterns[] = {
    {PreTokenizer::Pattern::gpt2, R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)",
     &Words::gpt2},
    {PreTokenizer::Pattern::llama3,
     R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     &Words::llama3},
    {PreTokenizer::Pattern::llama3,  // as GPT-4 spells it (cl100k)
     R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+)",
     &Words::llama3},
    {PreTokenizer::Pattern::qwen2,
     R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     &Words::qwen2},
    {PreTokenizer::Pattern::qwen35,
     R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     &Words::qwen35},
    {PreTokenizer::Pattern::gpt4o,
     R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     &Words::gpt4o},
    {PreTokenizer::Pattern::tekken,
     R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     &Words::tekken}};

/// Null for Pattern::none.
constexpr const SplitPattern* split_pattern(PreTokenizer::Pattern pattern) {
  for (const SplitPattern& known : split_patterns)
    if (known.pattern == pattern) return &known;
  return nullptr;
}

inline Words::Words(PreTokenizer how, std::string_view text)
    : how_(how), at_(text.data()), end_(text.data() + text.size()) {
  if (const SplitPattern* known = split_pattern(how.pattern)) match_ = known->match;
}

/// What a GGUF's tokenizer.ggml.pre stands for, beside the pattern: as llama.cpp's loader knows it, and NFC as the
/// models' tokenizer.json has it, which llama.cpp leaves out.
struct GgufPreTokenizer {
  std::string_view name;
  PreTokenizer how;
  bool ignore_merges = false;  // and so that a text begins with BOS where the file does not say
  bool nfc = false;
};
inline constexpr PreTokenizer gpt2_words{.pattern = PreTokenizer::Pattern::gpt2},
    smollm_words{.pattern = PreTokenizer::Pattern::gpt2, .digits = PreTokenizer::Digits::each},
    llama3_words{.pattern = PreTokenizer::Pattern::llama3}, qwen2_words{.pattern = PreTokenizer::Pattern::qwen2},
    qwen35_words{.pattern = PreTokenizer::Pattern::qwen35}, gpt4o_words{.pattern = PreTokenizer::Pattern::gpt4o},
    tekken_words{.pattern = PreTokenizer::Pattern::tekken};
inline constexpr GgufPreTokenizer gguf_pre_tokenizers[] = {{"gpt-2", gpt2_words},
                                                           {"gpt2", gpt2_words},
                                                           {"exaone4", gpt2_words},
                                                           {"smollm", smollm_words},
                                                           {"exaone", smollm_words},
                                                           {"refact", smollm_words},
                                                           {"starcoder", smollm_words},
                                                           {"command-r", smollm_words},
                                                           {"codeshell", smollm_words},
                                                           {"llama-bpe", llama3_words, true},
                                                           {"llama3", llama3_words, true},
                                                           {"llama-v3", llama3_words, true},
                                                           {"lfm2", llama3_words, true},
                                                           {"falcon3", llama3_words, true},
                                                           {"pixtral", llama3_words, true},
                                                           {"smaug-bpe", llama3_words},
                                                           {"dbrx", llama3_words},
                                                           {"qwen2", qwen2_words, false, true},
                                                           {"deepseek-r1-qwen", qwen2_words, false, true},
                                                           {"qwen35", qwen35_words, false, true},
                                                           {"gpt-4o", gpt4o_words},
                                                           {"llama4", gpt4o_words},
                                                           {"kanana2", gpt4o_words},
                                                           {"tekken", tekken_words, true}};

namespace detail {
/// How many merges make a token of newlines and others, over which GGUF's kind "gemma4" cuts.
[[gnu::cold]] inline std::int64_t merges_over_lines(const std::vector<std::string>& merges) {
  std::int64_t n = 0;
  for (const std::string& merge : merges)
    n += merge.find('\n') != merge.npos && merge.find_first_not_of("\n ") != merge.npos;
  return n;
}
}  // namespace detail

}  // namespace ft::inline FTLIB_ABI
