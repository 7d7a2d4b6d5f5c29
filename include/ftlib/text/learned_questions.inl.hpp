// text/learned_questions.inl.hpp: the bodies of text/learned_questions.hpp.
#pragma once
#include <ftlib/core/description.hpp>  // Hash
#include <ftlib/core/random.hpp>       // philox
#include <ftlib/io/base64.hpp>         // to_base64, from_base64
#include <ftlib/io/json.hpp>           // at
#include <ftlib/text/learned_questions.hpp>
#include <ftlib/text/logistic_regression.hpp>

#include <algorithm>  // std::max, std::copy_n, std::is_sorted
#include <cmath>      // std::erfc, std::sqrt, std::lround, std::log, std::exp
#include <cstring>    // std::memcpy
#include <numeric>    // std::inner_product
#include <set>        // std::set
#include <tuple>      // std::tie
#include <utility>    // std::pair

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

inline constexpr std::size_t token_numbers = 64;

/// A row as eight bits a number; its largest becomes 127.
FTLIB_INLINE void add_in_eight_bits(std::vector<std::int8_t>& to, std::span<const float> row) {
  float largest = 0;
  for (const float x : row) largest = std::max(largest, std::abs(x));
  const float unit = largest > 0 ? 127 / largest : 0;
  for (const float x : row) to.push_back(static_cast<std::int8_t>(std::lround(x * unit)));
}
/// -1 where one of them has no direction.
FTLIB_INLINE double cosine(std::span<const float> a, std::span<const std::int8_t> b) {
  float product = 0, of_a = 0, of_b = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const float x = a[i], y = b[i];
    product += x * y;
    of_a += x * x;
    of_b += y * y;
  }
  return of_a > 0 && of_b > 0 ? static_cast<double>(product / std::sqrt(of_a * of_b)) : -1;
}
/// Rows of `width`, each of length 1; zeros stay.
FTLIB_INLINE std::vector<float> of_length_one(std::vector<float> rows, std::size_t width) {
  for (std::size_t at = 0; at < rows.size(); at += width) {
    const auto row = std::span(rows).subspan(at, width);
    double sum = 0;
    for (const float v : row) sum += double{v} * v;
    if (sum > 0)
      for (float& v : row) v = static_cast<float>(v / std::sqrt(sum));
  }
  return rows;
}
FTLIB_INLINE double log_odds(double p) { return std::log(std::max(p, 1e-6) / std::max(1 - p, 1e-3)); }

FTLIB_INLINE std::pair<double, double> mean_and_deviation(const std::vector<double>& x) {
  double sum = 0, squares = 0;
  for (const double v : x) sum += v;
  const double mean = sum / static_cast<double>(x.size());
  for (const double v : x) squares += (v - mean) * (v - mean);
  return {mean, std::sqrt(squares / static_cast<double>(x.size()))};
}
}  // namespace detail

FTLIB_INLINE std::vector<int64_t> LearnedQuestions::layers(int64_t blocks) {
  return {std::max<int64_t>(1, blocks / 2), std::max<int64_t>(1, blocks * 3 / 4), blocks};
}

FTLIB_INLINE LearnedQuestions::LearnedQuestions(int64_t blocks, const std::vector<QuestionStates>& questions,
                                                const std::vector<std::string>& answers)
    : blocks_(blocks) {
  const std::size_t width = questions.empty() ? 0 : questions.front().ends.size() / ends;
  if (questions.empty() || questions.size() != answers.size() || width == 0)
    throw Error(str("learned questions: ", questions.size(), " questions and ", answers.size(), " answers, states of ",
                    width, " numbers"),
                "give each question's states and its answer.");
  std::vector<double> token_sum(width), ends_sum(ends * width);
  double tokens = 0;
  for (const auto& question : questions) {
    check(question, width);
    const auto states = detail::of_length_one(question.states, width),
               rows = detail::of_length_one(question.ends, width);
    for (std::size_t c = 0; c < states.size(); ++c) token_sum[c % width] += static_cast<double>(states[c]);
    for (std::size_t c = 0; c < rows.size(); ++c) ends_sum[c] += static_cast<double>(rows[c]);
    tokens += static_cast<double>(question.tokens.size());
  }
  for (const double sum : token_sum) token_mean_.push_back(static_cast<float>(sum / tokens));
  for (const double sum : ends_sum) ends_mean_.push_back(static_cast<float>(sum / static_cast<double>(answers.size())));
  first_token_.push_back(0);
  for (std::size_t q = 0; q < questions.size(); ++q) {
    const auto end = end_rows(questions[q]), token = token_rows(questions[q]);
    for (std::size_t at = 0; at < end.size(); at += width)
      detail::add_in_eight_bits(ends_, std::span(end).subspan(at, width));
    for (std::size_t at = 0; at < token.size(); at += detail::token_numbers)
      detail::add_in_eight_bits(tokens_, std::span(token).subspan(at, detail::token_numbers));
    first_token_.push_back(static_cast<int64_t>(tokens_.size() / detail::token_numbers));
    for (const int32_t t : std::set<int32_t>(questions[q].tokens.begin(), questions[q].tokens.end()))
      ++questions_with_[t];
    answers_.push_back(detail::answer_hash(answers[q]));
  }
  index();
}

FTLIB_INLINE void LearnedQuestions::check(const QuestionStates& question, std::size_t width) {
  const std::size_t n = question.tokens.size();
  if (n == 0 || question.states.size() != n * width || question.ends.size() != ends * width)
    throw Error(str("learned questions: a question of ", n, " tokens has ", question.states.size(),
                    " numbers of states and ", question.ends.size(), " of ends, theirs have ", width, " each"),
                "they are another model's.");
}

FTLIB_INLINE void LearnedQuestions::index() {
  for (std::size_t row = 0; row < answers_.size(); ++row) rows_[answers_[row]].push_back(row);
}

FTLIB_INLINE std::vector<float> LearnedQuestions::end_rows(const QuestionStates& question) const {
  auto rows = detail::of_length_one(question.ends, question.ends.size() / ends);
  for (std::size_t c = 0; c < rows.size(); ++c) rows[c] -= ends_mean_[c];
  return rows;
}

// Products with random signs keep angles, all but: Johnson and Lindenstrauss; with signs, Achlioptas,
// doi:10.1016/S0022-0000(03)00025-4.
FTLIB_INLINE std::vector<float> LearnedQuestions::token_rows(const QuestionStates& question) const {
  const std::size_t width = token_mean_.size(), n = question.tokens.size();
  const auto states = detail::of_length_one(question.states, width);
  std::vector<float> out(n * detail::token_numbers);
  std::vector<std::uint64_t> bits(width);
  for (std::size_t c = 0; c < width; ++c) {
    const auto words = philox(0, c);
    bits[c] = std::uint64_t{words[1]} << 32 | words[0];
  }
  for (std::size_t i = 0; i < n; ++i) {
    const auto to = std::span(out).subspan(i * detail::token_numbers, detail::token_numbers);
    for (std::size_t c = 0; c < width; ++c) {
      const float x = states[i * width + c] - token_mean_[c];
      for (std::size_t k = 0; k < detail::token_numbers; ++k) to[k] += (bits[c] >> k) & 1 ? x : -x;
    }
  }
  return out;
}

FTLIB_INLINE double LearnedQuestions::rarity(int32_t token) const {
  const auto found = questions_with_.find(token);
  const double with = found == questions_with_.end() ? 0 : static_cast<double>(found->second);
  return std::log((static_cast<double>(answers_.size()) + 1) / (with + 1));
}

FTLIB_INLINE LearnedQuestions::Signs LearnedQuestions::signs_of(const QuestionStates& question,
                                                                const std::vector<std::size_t>& rows) const {
  const auto width = static_cast<std::size_t>(this->width());
  check(question, width);
  Signs out;
  out.fill(-1);
  const auto end = end_rows(question), token = token_rows(question);
  for (const std::size_t row : rows)
    for (std::size_t e = 0; e < ends; ++e)
      out[e] = std::max(out[e], detail::cosine(std::span(end).subspan(e * width, width),
                                               std::span(ends_).subspan((row * ends + e) * width, width)));
  constexpr std::size_t numbers = detail::token_numbers;
  double sum = 0, weights = 0, least = 1;
  for (std::size_t i = 0; i < question.tokens.size(); ++i) {
    double best = -1;
    for (const std::size_t row : rows)
      for (auto at = first_token_[row]; at < first_token_[row + 1]; ++at)
        best =
            std::max(best, detail::cosine(std::span(token).subspan(i * numbers, numbers),
                                          std::span(tokens_).subspan(static_cast<std::size_t>(at) * numbers, numbers)));
    const double weight = rarity(question.tokens[i]);
    sum += weight * best;
    weights += weight;
    least = std::min(least, best);
  }
  out[ends] = weights > 0 ? sum / weights : 1;
  out[ends + 1] = least;
  return out;
}
FTLIB_INLINE LearnedQuestions::Signs LearnedQuestions::signs_of(const QuestionStates& question,
                                                                std::string_view answer) const {
  const auto found = rows_.find(detail::answer_hash(answer));
  return found == rows_.end() ? Signs{} : signs_of(question, found->second);
}

FTLIB_INLINE std::uint64_t LearnedQuestions::nearest_answer(const std::vector<float>& end_rows,
                                                            std::uint64_t other) const {
  const auto width = static_cast<std::size_t>(this->width());
  std::uint64_t nearest = other;
  double best = -2;
  for (std::size_t row = 0; row < answers_.size(); ++row) {
    if (answers_[row] == other) continue;
    const double c = detail::cosine(std::span(end_rows).subspan(width, width),
                                    std::span(ends_).subspan((row * ends + 1) * width, width));
    if (c > best) {
      best = c;
      nearest = answers_[row];
    }
  }
  return nearest;
}

FTLIB_INLINE void LearnedQuestions::weigh(const std::vector<AnsweredQuestion>& right) {
  constexpr std::size_t enough = 10;
  constexpr double penalty = 30, confidence_weight = 0.6;  // why: docs/qa.md
  std::vector<Signs> positives, negatives;
  std::vector<double> odds;
  for (const auto& r : right) {
    const auto hash = detail::answer_hash(r.answer);
    const auto found = rows_.find(hash);
    if (found == rows_.end()) continue;
    positives.push_back(signs_of(r.question, found->second));
    odds.push_back(detail::log_odds(r.confidence));
    if (const auto nearest = nearest_answer(end_rows(r.question), hash); nearest != hash)
      negatives.push_back(signs_of(r.question, rows_.at(nearest)));
  }
  if (positives.size() < enough || negatives.size() < enough) return;
  // Of one spread, so that the penalty is fair to all of them.
  Signs mean{}, deviation{};
  for (std::size_t i = 0; i < signs; ++i) {
    std::vector<double> all;
    for (const auto* of : {&positives, &negatives})
      for (const Signs& s : *of) all.push_back(s[i]);
    std::tie(mean[i], deviation[i]) = detail::mean_and_deviation(all);
    if (!(deviation[i] > 0)) deviation[i] = 1;
    for (auto* of : {&positives, &negatives})
      for (Signs& s : *of) s[i] = (s[i] - mean[i]) / deviation[i];
  }
  const auto w = detail::logistic_regression(positives, negatives, penalty);
  std::vector<double> scores;
  for (const Signs& s : positives) scores.push_back(std::inner_product(s.begin(), s.end(), w.begin(), 0.0));
  const auto [usual, spread] = detail::mean_and_deviation(scores);
  const double by = spread > 0 ? spread : 1;
  bias_ = -usual / by;
  for (std::size_t i = 0; i < signs; ++i) {
    weights_[i] = w[i] / deviation[i] / by;
    bias_ -= weights_[i] * mean[i];
  }
  std::tie(confidence_mean_, confidence_deviation_) = detail::mean_and_deviation(odds);
  confidence_deviation_ = std::max(confidence_deviation_, 1e-3) / confidence_weight;
  weighed_ = true;
}

FTLIB_INLINE double LearnedQuestions::nearness(const QuestionStates& question, std::string_view answer,
                                               double confidence) const {
  const auto found = rows_.find(detail::answer_hash(answer));
  const bool learned = found != rows_.end();
  if (!weighed_) return learned ? std::max(0.0, signs_of(question, found->second)[ends - 1]) : 1;
  double z = (detail::log_odds(confidence) - confidence_mean_) / confidence_deviation_;
  if (learned) {
    const Signs s = signs_of(question, found->second);
    z += std::inner_product(s.begin(), s.end(), weights_.begin(), bias_);
  }
  return 1 / (1 + std::exp(-z));
}

FTLIB_INLINE double LearnedQuestions::bound(const std::vector<double>& nearness, double lost) {
  if (nearness.empty() || !(lost >= 0 && lost <= 1))
    throw Error(str("learned questions: a bound of ", nearness.size(), " answers, of which a share of ", lost,
                    " is to be lost"),
                "give some, and a share of 0 to 1.");
  std::vector<double> odds;
  for (const double n : nearness) odds.push_back(detail::log_odds(n));
  const auto [mean, deviation] = detail::mean_and_deviation(odds);
  double low = -8, high = 8;  // deviations between which the normal distribution has the share
  for (int i = 0; i < 60; ++i) {
    const double middle = (low + high) / 2;
    (std::erfc(-middle / std::sqrt(2.0)) / 2 < lost ? low : high) = middle;
  }
  return 1 / (1 + std::exp(-(mean + low * deviation)));
}

[[gnu::cold]] FTLIB_INLINE Json LearnedQuestions::to_json() const {
  std::vector<int32_t> tokens, with;
  for (const auto& [token, n] : questions_with_) {
    tokens.push_back(token);
    with.push_back(static_cast<int32_t>(n));
  }
  std::vector<double> weighed;
  if (weighed_) {
    weighed.assign(weights_.begin(), weights_.end());
    weighed.insert(weighed.end(), {bias_, confidence_mean_, confidence_deviation_});
  }
  return {{"blocks", blocks_},
          {"token_mean", detail::base64_of(token_mean_)},
          {"ends_mean", detail::base64_of(ends_mean_)},
          {"ends", detail::base64_of(ends_)},
          {"tokens", detail::base64_of(tokens_)},
          {"first_token", detail::base64_of(first_token_)},
          {"answers", detail::base64_of(answers_)},
          {"token_ids", detail::base64_of(tokens)},
          {"token_questions", detail::base64_of(with)},
          {"weighed", weighed}};
}

[[gnu::cold]] FTLIB_INLINE LearnedQuestions LearnedQuestions::from_json(const Json& json, const std::string& file) {
  LearnedQuestions q;
  if (json.is_object() && json.contains("layer")) return q;
  q.blocks_ = at<int64_t>(json, "blocks", file);
  q.token_mean_ = detail::values_of<float>(json, "token_mean", file);
  q.ends_mean_ = detail::values_of<float>(json, "ends_mean", file);
  q.ends_ = detail::values_of<std::int8_t>(json, "ends", file);
  q.tokens_ = detail::values_of<std::int8_t>(json, "tokens", file);
  q.first_token_ = detail::values_of<std::int64_t>(json, "first_token", file);
  q.answers_ = detail::values_of<std::uint64_t>(json, "answers", file);
  const auto tokens = detail::values_of<int32_t>(json, "token_ids", file);
  const auto with = detail::values_of<int32_t>(json, "token_questions", file);
  const auto weighed = at<std::vector<double>>(json, "weighed", file);
  const std::size_t n = q.answers_.size(), width = q.token_mean_.size();
  if (q.blocks_ < 1 || n == 0 || width == 0 || q.ends_mean_.size() != ends * width ||
      q.ends_.size() != n * ends * width || q.first_token_.size() != n + 1 || q.first_token_.front() != 0 ||
      !std::is_sorted(q.first_token_.begin(), q.first_token_.end()) ||
      q.tokens_.size() != static_cast<std::size_t>(q.first_token_.back()) * detail::token_numbers ||
      tokens.size() != with.size() || (!weighed.empty() && weighed.size() != signs + 3))
    throw Error(str(file, ": ", q.blocks_, " blocks, means of ", width, " and ", q.ends_mean_.size(), ", ",
                    q.ends_.size(), " numbers of ends and ", q.tokens_.size(), " of tokens, ", n, " answers, ",
                    tokens.size(), " and ", with.size(), " tokens, ", weighed.size(), " weights make no sense"));
  for (const auto* of : {&q.token_mean_, &q.ends_mean_})
    for (const float m : *of)
      if (!(m - m == 0)) throw Error(file + ": a mean holds a NaN or an infinity");
  for (std::size_t i = 0; i < tokens.size(); ++i) q.questions_with_[tokens[i]] = with[i];
  if ((q.weighed_ = !weighed.empty())) {
    std::copy_n(weighed.begin(), signs, q.weights_.begin());
    q.bias_ = weighed[signs];
    q.confidence_mean_ = weighed[signs + 1];
    q.confidence_deviation_ = weighed[signs + 2];
    if (!(q.confidence_deviation_ > 0)) throw Error(file + ": a deviation of no size");
  }
  q.index();
  return q;
}

}  // namespace ft::inline FTLIB_ABI
