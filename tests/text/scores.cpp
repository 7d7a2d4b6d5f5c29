// tests/text/scores.cpp: exact match and F1 against a transcription of the published rules
// (tools/make_score_fixtures.py).
#include <ftlib/text/scores.hpp>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include <fstream>  // std::ifstream
#include <string>   // std::string, std::getline

using namespace ft::text;

TEST_CASE("text/scores: the published rules' normal form, exact match and F1 on 240 answers") {
  std::ifstream in(std::string(FTLIB_TEST_DATA) + "/scores/pairs.jsonl");
  int pairs = 0;
  for (std::string line; std::getline(in, line); ++pairs) {
    const auto pair = nlohmann::json::parse(line);
    const auto prediction = pair["prediction"].get<std::string>();
    const auto golds = pair["golds"].get<std::vector<std::string>>();
    CAPTURE(prediction);
    for (const auto rules : {Rules::squad, Rules::korquad}) {
      const auto& expected = pair[rules == Rules::squad ? "squad" : "korquad"];
      CHECK(normalize_answer(prediction, rules) == expected[0].get<std::string>());
      CHECK(exact_match(prediction, golds, rules) == expected[1].get<bool>());
      CHECK(f1(prediction, golds, rules) == doctest::Approx(expected[2].get<double>()).epsilon(1e-12));
    }
  }
  CHECK(pairs >= 240);
}

TEST_CASE("text/scores: Korean is scored by characters, other languages by words") {
  CHECK(rules_for("ko") == Rules::korquad);
  CHECK(rules_for("en") == Rules::squad);
  CHECK(rules_for("") == Rules::squad);
  CHECK(f1("에베레스트", {"에베레스트산"}, rules_for("ko")) == doctest::Approx(10.0 / 11));
  CHECK(f1("에베레스트", {"에베레스트산"}, rules_for("en")) == 0);
  CHECK_FALSE(exact_match("서울", {}, Rules::korquad));
}

TEST_CASE("text/scores: broken UTF-8 is compared, not refused: a model's answer may end in the middle of a character") {
  CHECK(normalize_answer("Seo\xEC\x84", Rules::squad) == "seo\uFFFD");
  CHECK_FALSE(exact_match("서\xEC\x84", {"서울"}, Rules::korquad));
  CHECK(f1("서\xEC\x84", {"서울"}, Rules::korquad) == doctest::Approx(0.5));  // 1 of 2 and 1 of 2 characters
}

TEST_CASE("text/scores: to the letter; and accepted answers that the rules cannot tell from others are named") {
  CHECK(strict_match(" C++\n", {"C#", "C++"}));
  CHECK_FALSE(strict_match("C#", {"C++"}));
  CHECK_FALSE(strict_match("5", {"-5"}));
  CHECK_FALSE(strict_match("the bee", {"The bee"}));
  CHECK(strict_match("e\u0301", {"\u00e9"}));  // one letter, encoded in two ways
  CHECK_FALSE(strict_match("\xFF", {"a"}));
  const auto fault = [](const char* gold) { return gold_fault(gold, Rules::squad); };
  CHECK(fault("-5") == "its sign '-' is lost");
  CHECK(fault("about +.5") == "its sign '+' is lost");
  CHECK(fault("1.5") == "its '.' is lost");
  CHECK(fault("3:15") == "its ':' is lost");
  CHECK(fault("C++") == "its '+' is lost");
  CHECK(fault("C#") == "its '#' is lost");
  CHECK(fault("50%") == "its '%' is lost");
  CHECK(fault("snake_case") == "its '_' is lost");
  CHECK(fault("[1, 2]") == "its '[' is lost");
  for (const char* gold : {"+", "...", "A", "the", "", "\u3000"})
    CHECK_MESSAGE(fault(gold) == "nothing is left of it", gold);
  CHECK(fault("Plan A") == "an article that it ends with is lost");
  for (const char* gold :
       {"B", "well-known", "1,000", "A bee.", "It's 5.", "St. Louis (Missouri)", "녹차", "Mr. A. Mill"})
    CHECK_MESSAGE(fault(gold).empty(), gold);
  CHECK(gold_fault("A", Rules::korquad).empty());
  CHECK(gold_fault("-5", Rules::korquad) == "its sign '-' is lost");
  CHECK(gold_fault("\"\"", Rules::korquad) == "nothing is left of it");
}
