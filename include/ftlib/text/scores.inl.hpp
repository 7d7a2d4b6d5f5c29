// text/scores.inl.hpp: the bodies of text/scores.hpp.
#pragma once
#include <ftlib/core/error.hpp>      // str
#include <ftlib/text/normalize.hpp>  // to_nfc
#include <ftlib/text/scores.hpp>
#include <ftlib/text/unicode.hpp>  // CharacterClasses

#include <algorithm>  // std::max, std::sort, std::set_intersection
#include <cstddef>    // std::size_t
#include <iterator>   // std::back_inserter

namespace ft::inline FTLIB_ABI {

namespace text {

namespace detail {

/// Lower case in the scripts whose capitals a short rule covers: Latin, Greek, Cyrillic, Armenian, Roman numerals,
/// circled and full-width letters. (Georgian's, Cherokee's and rarer ones stay; answers in them match all the same.)
FTLIB_INLINE char32_t lower(char32_t c) {
  const auto in = [c](char32_t first, char32_t last) { return first <= c && c <= last; };
  const auto even_is_upper = [&] { return (c & 1) == 0 ? c + 1 : c; };
  const auto odd_is_upper = [&] { return (c & 1) == 1 ? c + 1 : c; };
  if (c < 0x80) return in('A', 'Z') ? c + 32 : c;
  if ((in(0xC0, 0xDE) && c != 0xD7) || in(0x391, 0x3A1) || in(0x3A3, 0x3AB) || in(0x410, 0x42F) || in(0xFF21, 0xFF3A))
    return c + 32;
  if (in(0x139, 0x148) || in(0x179, 0x17E)) return odd_is_upper();
  if ((in(0x100, 0x137) && c != 0x130 && c != 0x131) || in(0x14A, 0x177)) return even_is_upper();
  if (in(0x1E00, 0x1E95) || in(0x1EA0, 0x1EFF) || in(0x460, 0x481) || in(0x48A, 0x4BF) || in(0x4D0, 0x52F))
    return even_is_upper();
  if (in(0x400, 0x40F)) return c + 80;
  if (in(0x2160, 0x216F)) return c + 16;
  if (in(0x24B6, 0x24CF)) return c + 26;
  if (in(0x531, 0x556)) return c + 48;
  if (in(0x388, 0x38A)) return c + 37;
  if (in(0x1CD, 0x1DC)) return odd_is_upper();
  switch (c) {
    case 0x178:
      return 0xFF;  // Y with diaeresis
    case 0x1A0:
      return 0x1A1;  // O with horn
    case 0x1AF:
      return 0x1B0;  // U with horn
    case 0x218:
      return 0x219;  // S with comma
    case 0x21A:
      return 0x21B;  // T with comma
    case 0x386:
      return 0x3AC;  // alpha with tonos
    case 0x38C:
      return 0x3CC;  // omicron with tonos
    case 0x38E:
      return 0x3CD;  // upsilon with tonos
    case 0x38F:
      return 0x3CE;  // omega with tonos
    case 0x1E9E:
      return 0xDF;  // sharp s
    default:
      return c;
  }
}

/// What Python's str.split() splits at.
FTLIB_INLINE bool is_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

/// Python's string.punctuation: ASCII's.
FTLIB_INLINE bool is_punctuation(char32_t c) {
  return (c >= 0x21 && c <= 0x2F) || (c >= 0x3A && c <= 0x40) || (c >= 0x5B && c <= 0x60) || (c >= 0x7B && c <= 0x7E);
}

/// What \w is in Python, where combining marks are none.
FTLIB_INLINE bool is_word(const CharacterClasses& classes, char32_t c) {
  return c == '_' || (classes(c) & (letter_class | number_class)) != 0;
}

/// The marks that KorQuAD's script turns into spaces before it strips punctuation.
FTLIB_INLINE bool is_korquad_mark(char32_t c) {
  return std::u32string_view(U"'\"<>()\u300A\u300B\u3008\u3009\u2018\u2019").find(c) != std::u32string_view::npos;
}

/// \b(a|an|the)\b replaced by a space.
FTLIB_INLINE std::u32string without_articles(const std::u32string& text) {
  const CharacterClasses classes;
  std::u32string out;
  for (std::size_t i = 0; i < text.size();) {
    std::size_t end = i;
    while (end < text.size() && is_word(classes, text[end])) ++end;
    const auto word = std::u32string_view(text).substr(i, end - i);
    if (word == U"a" || word == U"an" || word == U"the") out.push_back(U' ');
    else out.append(word);
    if (end < text.size()) out.push_back(text[end++]);
    i = end;
  }
  return out;
}

/// The normalised answer's words.
FTLIB_INLINE std::vector<std::u32string> answer_words(std::string_view answer, Rules rules) {
  const std::string text = replace_broken_utf8(answer);
  std::u32string kept;
  for (std::size_t i = 0; i < text.size();) {
    const auto [c, length] = decode_utf8(text.data() + i);
    i += length;
    if (rules == Rules::korquad && is_korquad_mark(c)) kept.push_back(U' ');
    else if (!is_punctuation(c)) kept.push_back(lower(c));
  }
  if (rules == Rules::squad) kept = without_articles(kept);
  std::vector<std::u32string> words;
  bool inside = false;
  for (const char32_t c : kept) {
    if (!is_space(c)) {
      if (!inside) words.emplace_back();
      words.back().push_back(c);
    }
    inside = !is_space(c);
  }
  return words;
}

template <class Token> double bag_f1(std::vector<Token> prediction, std::vector<Token> gold) {
  std::sort(prediction.begin(), prediction.end());
  std::sort(gold.begin(), gold.end());
  std::vector<Token> common;  // of each token the smaller count
  std::set_intersection(prediction.begin(), prediction.end(), gold.begin(), gold.end(), std::back_inserter(common));
  if (common.empty()) return 0;
  const double same = static_cast<double>(common.size());
  const double precision = same / static_cast<double>(prediction.size()),
               recall = same / static_cast<double>(gold.size());
  return 2 * precision * recall / (precision + recall);
}

/// SQuAD's script leaves out the accepted answers of which nothing is left, and if that is all of them, the answer is
/// "".
FTLIB_INLINE std::vector<std::vector<std::u32string>> gold_words(const std::vector<std::string>& golds, Rules rules) {
  std::vector<std::vector<std::u32string>> words;
  for (const auto& gold : golds) {
    words.push_back(answer_words(gold, rules));
    if (rules == Rules::squad && words.back().empty()) words.pop_back();
  }
  if (rules == Rules::squad && words.empty()) words.emplace_back();
  return words;
}

}  // namespace detail

FTLIB_INLINE std::string normalize_answer(std::string_view answer, Rules rules) {
  std::string out;
  for (const auto& word : detail::answer_words(answer, rules)) {
    if (!out.empty()) out += ' ';
    for (const char32_t c : word) append_utf8(out, c);
  }
  return out;
}

FTLIB_INLINE bool exact_match(std::string_view prediction, const std::vector<std::string>& golds, Rules rules) {
  const auto words = detail::answer_words(prediction, rules);
  const auto accepted = detail::gold_words(golds, rules);
  return std::find(accepted.begin(), accepted.end(), words) != accepted.end();
}

FTLIB_INLINE bool strict_match(std::string_view prediction, const std::vector<std::string>& golds) {
  const auto letters = [](std::string_view text) {
    const auto first = text.find_first_not_of(" \t\r\n");
    if (first == text.npos) return std::string();
    text = text.substr(first, text.find_last_not_of(" \t\r\n") - first + 1);
    return to_nfc(replace_broken_utf8(text));
  };
  const std::string said = letters(prediction);
  return std::any_of(golds.begin(), golds.end(), [&](const auto& gold) { return letters(gold) == said; });
}

FTLIB_INLINE std::string gold_fault(std::string_view gold, Rules rules) {
  if (detail::answer_words(gold, rules).empty()) return "nothing is left of it";
  const auto digit = [&](std::size_t i) { return i < gold.size() && gold[i] >= '0' && gold[i] <= '9'; };
  const auto blank = [&](std::size_t i) { return i >= gold.size() || gold[i] == ' '; };
  constexpr std::string_view symbols = "+#*/=<>^~&|@%$\\_[]{}", between_digits = ".:-";  // commas group digits
  for (std::size_t i = 0; i < gold.size(); ++i) {
    const char c = gold[i];
    const bool begins = i == 0 || blank(i - 1) || gold[i - 1] == '(';
    if ((c == '-' || c == '+') && begins &&
        (digit(i + 1) || (i + 2 < gold.size() && gold[i + 1] == '.' && digit(i + 2))))
      return str("its sign '", c, "' is lost");
    const bool number = i > 0 && digit(i - 1) && digit(i + 1);
    if (symbols.find(c) != symbols.npos || (number && between_digits.find(c) != between_digits.npos))
      return str("its '", c, "' is lost");
  }
  if (rules == Rules::squad) {
    std::u32string text;
    const std::string valid = replace_broken_utf8(gold);
    for (std::size_t i = 0; i < valid.size();) {
      const auto [c, length] = decode_utf8(valid.data() + i);
      i += length;
      if (!detail::is_punctuation(c)) text.push_back(detail::lower(c));
    }
    while (!text.empty() && detail::is_space(text.back())) text.pop_back();
    for (const std::u32string_view article : {U" a", U" an", U" the"})
      if (text.ends_with(article)) return "an article that it ends with is lost";
  }
  return {};
}

FTLIB_INLINE double f1(std::string_view prediction, const std::vector<std::string>& golds, Rules rules) {
  const auto characters = [](const std::vector<std::u32string>& words) {
    std::vector<char32_t> out;
    for (const auto& word : words) out.insert(out.end(), word.begin(), word.end());
    return out;
  };
  const auto words = detail::answer_words(prediction, rules);
  double best = 0;
  for (const auto& gold : detail::gold_words(golds, rules)) {
    if (rules == Rules::korquad) best = std::max(best, detail::bag_f1(characters(words), characters(gold)));
    else best = std::max(best, words.empty() && gold.empty() ? 1.0 : detail::bag_f1(words, gold));
  }
  return best;
}

}  // namespace text

}  // namespace ft::inline FTLIB_ABI
