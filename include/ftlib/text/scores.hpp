// text/scores.hpp: exact match and F1 of an answer against the accepted ones, by SQuAD's rules and by KorQuAD's.
#pragma once
#include <ftlib/core/version.hpp>  // FTLIB_ABI

#include <string>       // std::string, std::u32string
#include <string_view>  // std::string_view
#include <vector>       // std::vector

namespace ft::inline FTLIB_ABI {
namespace text {

/// Whose evaluation script is followed: SQuAD's evaluate-v2.0.py (v1.1 differs only where nothing is left of an
/// answer), arXiv:1606.05250 and 1806.03822; KorQuAD v1.0's, arXiv:1909.07005.
enum class Rules { squad, korquad };

/// KorQuAD's rules for "ko", SQuAD's for every other language.
inline Rules rules_for(std::string_view lang) { return lang == "ko" ? Rules::korquad : Rules::squad; }

/// An answer in the form in which it is compared. SQuAD: lower case, ASCII punctuation and the articles a, an, the
/// gone. KorQuAD: quotes and brackets to spaces, lower case, ASCII punctuation gone. Both: single spaces, none at the
/// ends.
std::string normalize_answer(std::string_view answer, Rules rules);

/// Whether the prediction is one of the accepted answers, once both are normalised.
bool exact_match(std::string_view prediction, const std::vector<std::string>& golds, Rules rules);

/// Whether the prediction is one of the accepted answers to the letter: case, punctuation and articles count; white
/// space at the ends and how an accent is encoded (normalisation form C) do not.
bool strict_match(std::string_view prediction, const std::vector<std::string>& golds);

/// Why the rules cannot tell an accepted answer from wrong ones, or an empty string: nothing is left of it, it loses a
/// sign
/// ("-5" is "5"), a point between digits ("1.5" is "15"), a symbol ("C++" is "C") or an article that is its end ("Plan
/// A").
std::string gold_fault(std::string_view gold, Rules rules);

/// F1 in [0, 1] of the prediction's bag of tokens against an accepted answer's, the best over the accepted answers.
/// Tokens are words for SQuAD, characters for KorQuAD. Nothing against nothing is 1 for SQuAD, 0 for KorQuAD.
double f1(std::string_view prediction, const std::vector<std::string>& golds, Rules rules);

}  // namespace text
}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/text/scores.inl.hpp>
#endif
