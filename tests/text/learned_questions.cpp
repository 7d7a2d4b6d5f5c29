// tests/text/learned_questions.cpp: nearness among states by hand, how its signs are weighed, what a file may hold.
#include <doctest/doctest.h>
#include <ftlib/core/error.hpp>
#include <ftlib/core/random.hpp>
#include <ftlib/io/json.hpp>
#include <ftlib/text/learned_questions.hpp>
#include <ftlib/text/logistic_regression.hpp>

#include <algorithm>
#include <cmath>

using namespace ft;

namespace {
/// One token, whose states are (x, y) after each layer.
QuestionStates one(int32_t token, float x, float y) { return {{token}, {x, y}, {x, y, x, y, x, y}}; }
const std::vector<QuestionStates> compass{one(1, 1, 0), one(2, 0, 3), one(3, -1, 0), one(4, 0, -1)};  // of mean 0
LearnedQuestions four() { return {8, compass, {"east", "north", "west", " east\n"}}; }
}  // namespace

TEST_CASE("text/learned_questions: the nearest of the questions with this answer, by its end and by its tokens") {
  const LearnedQuestions q = four();
  CHECK((q.size() == 4 && q.width() == 2 && q.blocks() == 8 && !q.empty()));
  CHECK(LearnedQuestions::layers(30) == std::vector<int64_t>{15, 22, 30});
  CHECK(LearnedQuestions::layers(1) == std::vector<int64_t>{1, 1, 1});
  const QuestionStates north_east = one(9, 2, 2), far_north = one(2, 0, 9);
  const auto signs = [&](const QuestionStates& of, const char* answer) { return q.signs_of(of, answer); };
  for (int layer = 0; layer < 3; ++layer) {
    const auto l = static_cast<std::size_t>(layer);
    CHECK(signs(north_east, "east")[l] == doctest::Approx(std::sqrt(0.5)));
    CHECK(signs(north_east, "west")[l] == doctest::Approx(-std::sqrt(0.5)));
    CHECK(signs(far_north, "north")[l] == doctest::Approx(1));  // how long a state is does not count
    CHECK(signs(far_north, "east")[l] == doctest::Approx(0));   // of two, the nearer: (1, 0), not (0, -1)
    CHECK(signs(one(9, 0, -2), "east")[l] == doctest::Approx(1));
    CHECK(signs(one(9, 0, 0), "east")[l] == -1);  // the mean itself has no direction
  }
  // Before it is weighed, the last layer's cosine alone; of an answer that was not learned nothing is known.
  CHECK(q.nearness(north_east, " east", 0.1) == doctest::Approx(std::sqrt(0.5)));
  CHECK(q.nearness(north_east, "west", 0.9) == 0);
  CHECK(q.nearness(north_east, "up", 0.1) == 1);
  CHECK(signs(north_east, "up") == LearnedQuestions::Signs{});
  CHECK(LearnedQuestions().nearness(north_east, "east", 0.1) == 1);

  // Each token's nearest among all questions of the answer, weighted by how rare it is: 5 is in both, 6 in one.
  const LearnedQuestions two(
      8, {{{5, 6}, {1, 0, 0, 1}, {1, 0, 0, 1, 1, 1}}, {{5, 7}, {-1, 0, 0, -1}, {0, 1, 1, 0, 1, -1}}}, {"a", "a"});
  const QuestionStates asked{{5, 6, 8}, {2, 0, 0, 1, 0, -3}, {1, 0, 0, 1, 1, 1}};
  const auto seen = two.signs_of(asked, "a");
  CHECK(seen[3] == doctest::Approx(1));  // each has its twin in one of the two
  CHECK(seen[4] == doctest::Approx(1));
  const auto other =
      LearnedQuestions(8, {{{5, 6}, {1, 0, -1, 0}, {1, 0, 0, 1, 1, 1}}, {{5}, {0, 1}, {1, 2, 3, 4, 5, 6}}}, {"a", "b"})
          .signs_of({{5, 8}, {1, 0, 0, 1}, {1, 0, 0, 1, 1, 1}}, "a");
  CHECK(other[3] == doctest::Approx(other[4]));  // both questions have 5, so 8, which none has, decides: the least here
  CHECK(other[4] < 0.5);

  CHECK_THROWS_WITH_AS(q.nearness({{1}, {1, 2, 3}, {1, 2, 3, 4, 5, 6}}, "east", 1),
                       doctest::Contains("1 tokens has 3 numbers of states and 6 of ends, theirs have 2 each"), Error);
  // Of states that all lean one way, the mean is taken off: (3, 4) / 5, (4, 3) / 5 and between them (1, 1) / sqrt(2).
  const LearnedQuestions leaning(8, {one(1, 3, 4), one(2, 4, 3)}, {"a", "b"});
  for (std::size_t layer = 0; layer < 3; ++layer) {
    CHECK(leaning.signs_of(one(1, 0.6f, 0.8f), "a")[layer] == doctest::Approx(1));
    CHECK(leaning.signs_of(one(1, 0.6f, 0.8f), "b")[layer] == doctest::Approx(-1));
  }
  CHECK_THROWS_WITH_AS(LearnedQuestions(1, {compass[0], {{1}, {1, 2, 3}, {1, 2, 3, 4, 5, 6}}}, {"a", "b"}),
                       doctest::Contains("1 tokens has 3 numbers of states"), Error);
  CHECK_THROWS_WITH_AS(LearnedQuestions(1, {}, {}), doctest::Contains("0 questions and 0 answers"), Error);
  CHECK_THROWS_WITH_AS(LearnedQuestions(1, compass, {"a", "b"}), doctest::Contains("4 questions and 2 answers"), Error);
}

TEST_CASE("text/learned_questions: signs are weighed by right answers beside those of the nearest other question") {
  // Twelve facts, two questions each, in directions of their own: only the last layer's end tells facts apart.
  constexpr std::size_t width = 16, facts = 12;
  Random random(7);
  const auto noise = [&](std::size_t n) {
    std::vector<float> out(n);
    for (float& x : out) x = static_cast<float>(random.normal());
    return out;
  };
  const auto asked_of = [&](std::size_t fact, double spread) {
    QuestionStates q{{static_cast<int32_t>(fact), 99}, noise(2 * width), noise(3 * width)};
    for (std::size_t c = 0; c < width; ++c)
      q.ends[2 * width + c] = static_cast<float>((c == fact) + spread * random.normal());
    return q;
  };
  std::vector<QuestionStates> learned;
  std::vector<std::string> answers;
  for (std::size_t i = 0; i < 2 * facts; ++i) {
    learned.push_back(asked_of(i % facts, 0.05));
    answers.push_back(std::to_string(i % facts));
  }
  LearnedQuestions q(8, learned, answers);
  std::vector<AnsweredQuestion> right;
  for (std::size_t i = 0; i < 36; ++i)
    right.push_back({asked_of(i % facts, 0.1), std::to_string(i % facts), 0.8 + 0.005 * static_cast<double>(i)});
  LearnedQuestions few = q;
  few.weigh({right.begin(), right.begin() + 9});
  CHECK(few == q);
  q.weigh(right);
  CHECK(!(q == few));
  double sum = 0;
  for (const auto& r : right) {
    const double own = q.nearness(r.question, r.answer, r.confidence);
    const std::string other = std::to_string((std::stoul(r.answer) + 1) % facts);
    CHECK(own > 0.02);
    CHECK(q.nearness(r.question, other, r.confidence) < own);
    CHECK(q.nearness(r.question, r.answer, 0.3) < own);  // it counts how sure it was
    sum += std::log(own / (1 - own));
  }
  CHECK(sum / 36 == doctest::Approx(0).epsilon(1e-6));  // what is usual is 0.5
  const auto unlearned = [&](double confidence) { return q.nearness(right[0].question, "up", confidence); };
  CHECK((unlearned(0.99) > unlearned(0.9) && unlearned(0.9) > unlearned(0.1)));
  const auto kept = LearnedQuestions::from_json(parse_json(q.to_json().dump(), "kept"), "kept");
  CHECK(kept == q);
  CHECK(kept.nearness(right[3].question, "3", 0.7) == q.nearness(right[3].question, "3", 0.7));
}

TEST_CASE("text/learned_questions: a bound leaves out about the share of a normal spread") {
  Random random(5);
  std::vector<double> nearness;
  for (int i = 0; i < 4000; ++i) nearness.push_back(1 / (1 + std::exp(-(0.4 + 1.3 * random.normal()))));
  double before = 0;
  for (const double lost : {0.02, 0.07, 0.3, 0.5}) {
    const double bound = LearnedQuestions::bound(nearness, lost);
    const auto below = std::count_if(nearness.begin(), nearness.end(), [&](double n) { return n < bound; });
    CHECK(static_cast<double>(below) / 4000 == doctest::Approx(lost).epsilon(0.2));
    CHECK(bound > before);
    before = bound;
  }
  CHECK(LearnedQuestions::bound(nearness, 0.5) == doctest::Approx(1 / (1 + std::exp(-0.4))).epsilon(0.03));
  CHECK(LearnedQuestions::bound(nearness, 0) < 1e-3);
  CHECK(LearnedQuestions::bound(nearness, 1) > 0.999);
  CHECK_THROWS_WITH_AS(LearnedQuestions::bound({}, 0.1), doctest::Contains("a bound of 0 answers"), Error);
  CHECK_THROWS_WITH_AS(LearnedQuestions::bound({0.5}, 2), doctest::Contains("a share of 2"), Error);
}

TEST_CASE("text/learned_questions: logistic regression ends where its gradient does") {
  Random random(3);
  std::vector<std::array<double, 2>> positives, negatives;
  for (int i = 0; i < 40; ++i) {
    positives.push_back({random.normal() + 1, random.normal()});
    negatives.push_back({random.normal() - 1, random.normal() + 0.5});
  }
  negatives.resize(25);
  const double penalty = 3;
  const auto w = ft::detail::logistic_regression(positives, negatives, penalty);
  std::array<double, 3> gradient{penalty * w[0], penalty * w[1], 0};
  const auto add = [&](const std::array<double, 2>& x, double wanted) {
    const double p = 1 / (1 + std::exp(-(w[0] * x[0] + w[1] * x[1] + w[2])));
    gradient[0] += (p - wanted) * x[0];
    gradient[1] += (p - wanted) * x[1];
    gradient[2] += p - wanted;
  };
  for (const auto& x : positives) add(x, 1);
  for (const auto& x : negatives) add(x, 0);
  for (const double g : gradient) CHECK(std::abs(g) < 1e-8);
  CHECK((w[0] > 0.5 && w[1] < 0 && std::abs(w[1]) < w[0]));
  // Parted by a line: the penalty keeps them finite.
  const auto parted = ft::detail::logistic_regression<1>({{1}, {2}}, {{-1}, {-2}}, 1);
  CHECK((parted[0] > 0.3 && parted[0] < 3 && std::abs(parted[1]) < 1e-6));
}

TEST_CASE("text/learned_questions: to JSON and back, the same; what does not fit is an error") {
  const Json json = parse_json(four().to_json().dump(), "kept");
  CHECK(LearnedQuestions::from_json(json, "kept") == four());
  const auto refused = [&](const char* key, const Json& value, const char* why) {
    Json wrong = json;
    wrong[key] = value;
    CHECK_THROWS_WITH_AS(LearnedQuestions::from_json(wrong, "kept"), doctest::Contains(why), Error);
  };
  refused("blocks", -1, "make no sense");
  refused("token_mean", "", "means of 0");
  refused("token_mean", "AAA", "'token_mean' is not base64");
  refused("token_mean", "AADAfwAAAAA=", "a NaN or an infinity");
  refused("ends", "AAAA", "3 numbers of ends");
  refused("tokens", "AAAA", "3 of tokens");
  refused("first_token", "AAAAAAAAAAA=", "make no sense");
  refused("answers", "AAAA", "'answers' is not base64 of its type");
  refused("answers", 7, "answers");
  refused("token_ids", "AAAAAA==", "1 and 4 tokens");
  refused("weighed", Json::array({1.0, 2.0}), "2 weights");
  refused("weighed", Json::array({0, 0, 1, 0, 0, 0, 0, 0}), "a deviation of no size");
  CHECK(LearnedQuestions::from_json({{"layer", 3}, {"states", ""}}, "kept").empty());  // an older version's
}
