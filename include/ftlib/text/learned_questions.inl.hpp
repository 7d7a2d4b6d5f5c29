// text/learned_questions.inl.hpp: the bodies of text/learned_questions.hpp.
#pragma once
#include <ftlib/core/description.hpp>  // Hash
#include <ftlib/io/base64.hpp>         // to_base64, from_base64
#include <ftlib/io/json.hpp>           // at
#include <ftlib/text/learned_questions.hpp>

#include <algorithm>  // std::max
#include <cmath>      // std::sqrt, std::lround
#include <cstring>    // std::memcpy

namespace ft::inline FTLIB_ABI {

namespace detail {
/// Of an answer without the white space around it.
FTLIB_INLINE std::uint64_t answer_hash(std::string_view answer) {
  constexpr std::string_view space = " \t\r\n";
  const auto first = answer.find_first_not_of(space);
  answer = first == answer.npos ? "" : answer.substr(first, answer.find_last_not_of(space) - first + 1);
  Hash hash;
  hash.add(answer);
  return hash.value();
}
template <class T> std::string base64_of(const std::vector<T>& values) {
  return to_base64({reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)});
}
template <class T> std::vector<T> values_of(const Json& json, const char* key, const std::string& file) {
  const auto bytes = from_base64(at<std::string>(json, key, file));
  if (!bytes || bytes->size() % sizeof(T) != 0) throw Error(str(file, ": ", quote(key), " is not base64 of its type"));
  std::vector<T> values(bytes->size() / sizeof(T));
  if (!values.empty()) std::memcpy(values.data(), bytes->data(), bytes->size());
  return values;
}
}  // namespace detail

FTLIB_INLINE LearnedQuestions::LearnedQuestions(int64_t layer, std::span<const float> states,
                                                const std::vector<std::string>& answers)
    : layer_(layer) {
  const std::size_t n = answers.size(), width = n ? states.size() / n : 0;
  if (n == 0 || width == 0 || width * n != states.size())
    throw Error(str("learned questions: ", n, " answers and ", states.size(), " numbers of states"),
                "give each question's state, (n, C), and its answer.");
  std::vector<double> sum(width);
  for (std::size_t i = 0; i < states.size(); ++i) sum[i % width] += static_cast<double>(states[i]);
  for (const double of_one : sum) mean_.push_back(static_cast<float>(of_one / static_cast<double>(n)));
  for (std::size_t row = 0; row < n; ++row) {
    float largest = 0;
    const auto less_mean = [&](std::size_t c) { return states[row * width + c] - mean_[c]; };
    for (std::size_t c = 0; c < width; ++c) largest = std::max(largest, std::abs(less_mean(c)));
    const float unit = largest > 0 ? 127 / largest : 0;
    for (std::size_t c = 0; c < width; ++c)
      states_.push_back(static_cast<std::int8_t>(std::lround(less_mean(c) * unit)));
    answers_.push_back(detail::answer_hash(answers[row]));
  }
  index();
}

FTLIB_INLINE void LearnedQuestions::index() {
  for (std::size_t row = 0; row < answers_.size(); ++row) rows_[answers_[row]].push_back(row);
}

FTLIB_INLINE double LearnedQuestions::nearness(std::span<const float> state, std::string_view answer) const {
  const auto found = rows_.find(detail::answer_hash(answer));
  if (found == rows_.end()) return 1;
  if (state.size() != mean_.size())
    throw Error(str("learned questions: a state of ", state.size(), " numbers, theirs have ", mean_.size()),
                "they are another model's.");
  double best = -1;
  for (const std::size_t row : found->second) {
    double product = 0, of_state = 0, of_row = 0;
    for (std::size_t c = 0; c < state.size(); ++c) {
      const double x = static_cast<double>(state[c] - mean_[c]), y = states_[row * state.size() + c];
      product += x * y;
      of_state += x * x;
      of_row += y * y;
    }
    if (of_state > 0 && of_row > 0) best = std::max(best, product / std::sqrt(of_state * of_row));
  }
  return best;
}

[[gnu::cold]] FTLIB_INLINE Json LearnedQuestions::to_json() const {
  return {{"layer", layer_},
          {"mean", detail::base64_of(mean_)},
          {"states", detail::base64_of(states_)},
          {"answers", detail::base64_of(answers_)}};
}

[[gnu::cold]] FTLIB_INLINE LearnedQuestions LearnedQuestions::from_json(const Json& json, const std::string& file) {
  LearnedQuestions q;
  q.layer_ = at<int64_t>(json, "layer", file);
  q.mean_ = detail::values_of<float>(json, "mean", file);
  q.states_ = detail::values_of<std::int8_t>(json, "states", file);
  q.answers_ = detail::values_of<std::uint64_t>(json, "answers", file);
  if (q.layer_ < 0 || q.answers_.empty() || q.mean_.empty() || q.states_.size() % q.mean_.size() != 0 ||
      q.states_.size() / q.mean_.size() != q.answers_.size())
    throw Error(str(file, ": layer ", q.layer_, ", a mean of ", q.mean_.size(), ", ", q.states_.size(),
                    " numbers of states and ", q.answers_.size(), " answers make no sense"));
  for (const float m : q.mean_)
    if (!(m - m == 0)) throw Error(file + ": the mean holds a NaN or an infinity");
  q.index();
  return q;
}

}  // namespace ft::inline FTLIB_ABI
