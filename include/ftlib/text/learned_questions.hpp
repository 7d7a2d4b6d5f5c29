// text/learned_questions.hpp: LearnedQuestions, by which a tuned model tells a question that it was taught from one
// that it was not: the hidden states of the questions it learned.
#pragma once
#include <ftlib/io/json_fwd.hpp>  // Json

#include <array>        // std::array
#include <cstdint>      // std::int8_t
#include <map>          // std::map
#include <span>         // std::span
#include <string>       // std::string
#include <string_view>  // std::string_view
#include <vector>       // std::vector

namespace ft::inline FTLIB_ABI {

/// What a model makes of a question. Lengths of states do not count: each is taken as of length 1.
struct QuestionStates {
  std::vector<int32_t> tokens;  // (n), the last ones of the prompt
  std::vector<float> states;    // (n, C), of each token after the first of LearnedQuestions::layers()
  std::vector<float> ends;      // (3, C), of the last token after each of these
};

/// A question that was answered, with the confidence of the answer (TokenGenerator::confidence).
struct AnsweredQuestion {
  QuestionStates question;
  std::string answer;
  double confidence = 1;
};

/// The states of n questions, with a hash of each one's answer. A tuned model that is asked what it never learned
/// mostly gives an answer that it did learn, and is often as sure of it as of what it recalls; but its states lie
/// farther from those of the questions which that answer belongs to.    Nearest neighbours among a network's own
/// features: Sun et al., arXiv:2204.06507; tokens each matched to the nearest of another text: Zhang et al.
/// (BERTScore), arXiv:1904.09675
class LearnedQuestions {
 public:
  /// What is weighed of a question and an answer that was learned: the cosine of its end and the nearest end among the
  /// questions that the answer was learned for, after each of the layers; and of its tokens, each beside the nearest
  /// token of these questions: the mean cosine, weighted by how few of all questions have the token, and the least.
  static constexpr std::size_t signs = 5, ends = 3;
  using Signs = std::array<double, signs>;

  /// None: nothing is known against any answer.
  LearnedQuestions() = default;
  /// Of each question its states in a model of so many blocks, and its answer. Throws Error where there is no question,
  /// there are not as many answers, or states have not one width.
  LearnedQuestions(int64_t blocks, const std::vector<QuestionStates>& questions,
                   const std::vector<std::string>& answers);

  /// After how many of `blocks` blocks states are looked at: half, three quarters and all of them.
  static std::vector<int64_t> layers(int64_t blocks);

  bool empty() const { return answers_.empty(); }
  int64_t size() const { return static_cast<int64_t>(answers_.size()); }            // n
  int64_t width() const { return static_cast<int64_t>(ends_mean_.size() / ends); }  // C
  int64_t blocks() const { return blocks_; }

  /// Learns from held-out questions that were answered rightly how the signs and the confidence are to be weighed: by
  /// logistic regression of each beside its own answer against each beside the answer of the nearest other question, so
  /// that none is needed that has no answer. Before, or with fewer than ten of which the answer was learned, the cosine
  /// after the last layer alone counts.
  void weigh(const std::vector<AnsweredQuestion>& right);
  bool weighed() const { return weighed_; }

  /// How near a question lies, 0 to 1, to those that `answer` was learned for: once weighed, 0.5 for what is usual of a
  /// right answer, 0.27 for a score of the signs that is a standard deviation less, 0.12 for two, and confidence
  /// weighs 0.6 as much; of an answer that was not learned, by confidence alone. Where nothing is known: 1. White space
  /// around an answer does not count. Throws Error for states of another width.
  double nearness(const QuestionStates& question, std::string_view answer, double confidence) const;

  /// What a nearness must reach, so that about a share of `lost` (0 to 1) of right answers, of which these are some,
  /// do not: by the mean and the deviation of the logarithms of their odds, taken for normal, since of some dozens the
  /// least few alone say little. Throws Error for none.
  static double bound(const std::vector<double>& nearness, double lost);

  /// What is weighed; zeros where the answer was not learned.
  Signs signs_of(const QuestionStates& question, std::string_view answer) const;

  /// States go as eight bits a number, as they are compared too; those of tokens in 64 numbers, their products with
  /// random signs. Of the questions' text it holds which tokens they have, in how many questions each.
  Json to_json() const;
  /// Throws Error, naming `file`, for what to_json() does not write. What an older version wrote is none.
  static LearnedQuestions from_json(const Json& json, const std::string& file);

  bool operator==(const LearnedQuestions&) const = default;

 private:
  /// Throws Error where the numbers of states do not fit.
  static void check(const QuestionStates& question, std::size_t width);
  void index();
  /// As they are kept: less the mean; for tokens, in the few numbers.
  std::vector<float> end_rows(const QuestionStates& question) const;
  std::vector<float> token_rows(const QuestionStates& question) const;
  double rarity(int32_t token) const;
  /// The hash of the answer, not `other`, whose question lies nearest; `other` where there is none.
  std::uint64_t nearest_answer(const std::vector<float>& end_rows, std::uint64_t other) const;
  Signs signs_of(const QuestionStates& question, const std::vector<std::size_t>& rows) const;

  int64_t blocks_ = 0;
  std::vector<float> token_mean_, ends_mean_;               // (C), (3, C)
  std::vector<std::int8_t> ends_;                           // (n, 3, C). A row's unit is its own, which no cosine sees
  std::vector<std::int8_t> tokens_;                         // (all tokens, 64)
  std::vector<std::int64_t> first_token_;                   // (n + 1), of each question among tokens_
  std::vector<std::uint64_t> answers_;                      // hashes, (n)
  std::map<int32_t, int64_t> questions_with_;               // of each token
  std::map<std::uint64_t, std::vector<std::size_t>> rows_;  // of each answer

  bool weighed_ = false;
  Signs weights_{0, 0, 1, 0, 0};
  double bias_ = 0;
  double confidence_mean_ = 0, confidence_deviation_ = 1;  // of the logarithm of its odds
};

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/text/learned_questions.inl.hpp>
#endif
