// text/learned_questions.hpp: LearnedQuestions, by which a tuned model tells a question that it was taught from one
// that it was not: the hidden states that the questions it learned end in.
#pragma once
#include <ftlib/io/json_fwd.hpp>  // Json

#include <cstdint>      // std::int8_t
#include <map>          // std::map
#include <span>         // std::span
#include <string>       // std::string
#include <string_view>  // std::string_view
#include <vector>       // std::vector

namespace ft::inline FTLIB_ABI {

/// The states (n, C) that n questions end in, with a hash of each one's answer. A tuned model that is asked what it
/// never learned mostly gives an answer that it did learn, and is often as sure of it as of what it recalls; but its
/// state lies farther from those of the questions which that answer belongs to.    Nearest neighbours among a network's
/// own features: Sun et al., arXiv:2204.06507
class LearnedQuestions {
 public:
  /// None: nothing is known against any answer.
  LearnedQuestions() = default;
  /// Of each question its state after `layer` blocks, a row of `states` (n, C), and its answer. Throws Error where
  /// there is no question, or there are not as many rows.
  LearnedQuestions(int64_t layer, std::span<const float> states, const std::vector<std::string>& answers);

  bool empty() const { return answers_.empty(); }
  int64_t size() const { return static_cast<int64_t>(answers_.size()); }  // n
  int64_t width() const { return static_cast<int64_t>(mean_.size()); }    // C
  int64_t layer() const { return layer_; }

  /// The cosine, -1 to 1, between a state (C) and the nearest of the questions that `answer` was learned for, the mean
  /// of all questions taken off each. Of an answer that was not learned: 1, nothing is known against it. White space
  /// around an answer does not count.
  double nearness(std::span<const float> state, std::string_view answer) const;

  /// States go as eight bits a number, as they are compared too.
  Json to_json() const;
  /// Throws Error, naming `file`, for what to_json() does not write.
  static LearnedQuestions from_json(const Json& json, const std::string& file);

  bool operator==(const LearnedQuestions&) const = default;

 private:
  void index();

  int64_t layer_ = 0;
  std::vector<float> mean_;             // (C)
  std::vector<std::int8_t> states_;     // (n, C), less the mean; a row's unit is its own, which no cosine sees
  std::vector<std::uint64_t> answers_;  // hashes, (n)
  std::map<std::uint64_t, std::vector<std::size_t>> rows_;  // of each answer
};

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/text/learned_questions.inl.hpp>
#endif
