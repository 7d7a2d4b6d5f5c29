// tests/text/learned_questions.cpp: nearness among states by hand, and what a file may hold of them.
#include <doctest/doctest.h>
#include <ftlib/core/error.hpp>
#include <ftlib/io/json.hpp>
#include <ftlib/text/learned_questions.hpp>

#include <cmath>

using namespace ft;

namespace {
const std::vector<float> learned_states{1, 0, 0, 1, -1, 0, 0, -1};  // (4, 2), of mean 0
LearnedQuestions four() { return {3, learned_states, {"east", "north", "west", " east\n"}}; }
}  // namespace

TEST_CASE("text/learned_questions: the nearest of the questions with this answer") {
  const LearnedQuestions q = four();
  CHECK((q.size() == 4 && q.width() == 2 && q.layer() == 3 && !q.empty()));
  const std::vector<float> north_east{1, 1}, far_north{0, 9};
  CHECK(q.nearness(north_east, "east") == doctest::Approx(std::sqrt(0.5)));
  CHECK(q.nearness(north_east, "west") == doctest::Approx(-std::sqrt(0.5)));
  CHECK(q.nearness(far_north, "north") == doctest::Approx(1));  // how long a state is does not count
  CHECK(q.nearness(far_north, "east") == doctest::Approx(0));   // of two, the nearer: (1, 0), not (0, -1)
  CHECK(q.nearness(std::vector<float>{0, -2}, "east") == doctest::Approx(1));
  CHECK(q.nearness(north_east, "up") == 1);
  CHECK(q.nearness(std::vector<float>{0, 0}, "east") == -1);  // the mean itself has no direction
  CHECK(LearnedQuestions().nearness(north_east, "east") == 1);
  CHECK_THROWS_WITH_AS(q.nearness(std::vector<float>{1, 2, 3}, "east"), doctest::Contains("a state of 3 numbers"),
                       Error);
  const std::vector<float> shifted{11, 5, 10, 6, 9, 5, 10, 4};  // the mean is taken off
  CHECK(LearnedQuestions(3, shifted, {"e", "n", "w", "s"}).nearness(std::vector<float>{10, 50}, "n") ==
        doctest::Approx(1));
}

TEST_CASE("text/learned_questions: to JSON and back, the same; what does not fit is an error") {
  const Json json = parse_json(four().to_json().dump(), "kept");
  CHECK(LearnedQuestions::from_json(json, "kept") == four());
  const auto refused = [&](const char* key, const Json& value, const char* why) {
    Json wrong = json;
    wrong[key] = value;
    CHECK_THROWS_WITH_AS(LearnedQuestions::from_json(wrong, "kept"), doctest::Contains(why), Error);
  };
  refused("layer", -1, "make no sense");
  refused("mean", "", "a mean of 0");
  refused("mean", "AAA", "'mean' is not base64");
  refused("mean", "AADAfwAAAAA=", "a NaN or an infinity");
  refused("states", "AAAA", "3 numbers of states");
  refused("answers", "AAAA", "'answers' is not base64 of its type");
  refused("answers", 7, "answers");
  CHECK_THROWS_WITH_AS(LearnedQuestions(1, {}, {}), doctest::Contains("0 answers"), Error);
  CHECK_THROWS_WITH_AS(LearnedQuestions(1, std::vector<float>{1, 2, 3}, {"a", "b"}),
                       doctest::Contains("3 numbers of states"), Error);
}
