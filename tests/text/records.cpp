// tests/text/records.cpp: the records' JSON lines file: what is read, what is refused and how it is named.
#include <ftlib/text/records.hpp>

#include <doctest/doctest.h>

#include <fstream>  // std::ofstream
#include <string>   // std::string

#include "../scratch.hpp"

using namespace ft;
using namespace ft::text;
using ft::test::Scratch;

namespace {
namespace fs = std::filesystem;

fs::path write(const Scratch& scratch, const std::string& name, std::string_view bytes) {
  std::ofstream(scratch / name, std::ios::binary) << bytes;
  return scratch / name;
}

const std::string data = std::string(FTLIB_TEST_DATA) + "/records/";
}  // namespace

TEST_CASE("text/records: every member is read; what is unknown is passed over") {
  const auto records = read_records(data + "good.jsonl");
  REQUIRE(records.size() == 5);
  CHECK(records[0] == Record{"m/0", "Which mountain is highest?", {"Mount Everest"}, "", "en", "train"});
  CHECK(records[1] == Record{"m/1", "지구에서 가장 높은 산은?", {"에베레스트산", "에베레스트"}, "", "ko", "test"});
  CHECK(records[2] ==
        Record{"4", "Which planet is largest?", {"Jupiter"}, "Jupiter is large.", "", ""});  // line 3 is blank
  CHECK(records[3] == Record{"17", "first\tand \"second\"", {"one", "two"}, "", "", ""});
  CHECK(records[4].question == "\xF0\x9F\x99\x82?");
}

TEST_CASE("text/records: bad lines are listed by line, with the reason, and the rest is kept") {
  std::vector<BadRecord> bad;
  const auto records = read_records(data + "bad.jsonl", bad);
  CHECK(records.size() == 2);
  const std::vector<std::pair<std::int64_t, std::string>> expected = {
      {2, "not JSON at byte 15"},       {3, "the line is not a JSON object"},
      {4, "the question is empty"},     {5, "there is no answer"},
      {6, "the answer is empty"},       {7, "\"question\" is not a string"},
      {8, "\"answers\" is not a list"}, {9, "an answer is not a string"},
      {10, "not UTF-8 at byte 15"},     {11, "answer: a NUL at byte 2"},
      {12, "\"lang\" is not a string"}, {13, "not JSON at byte 20"},  // an escape that is half a surrogate pair
      {14, "a number is too large"},
  };
  REQUIRE(bad.size() == expected.size());
  for (std::size_t i = 0; i < bad.size(); ++i) {
    CHECK(bad[i].file == data + "bad.jsonl");
    CHECK(bad[i].line == expected[i].first);
    CHECK(bad[i].why == expected[i].second);
  }
  CHECK(str(bad[0]) == data + "bad.jsonl:2: not JSON at byte 15");
  CHECK_THROWS_WITH_AS(read_records(data + "bad.jsonl"), doctest::Contains("bad.jsonl:2: not JSON at byte 15"), Error);
}

TEST_CASE(
    "text/records: a byte order mark, \\r\\n and a last line without an end are read; a NUL and a long line are not") {
  const Scratch scratch;
  std::string bytes = "\xEF\xBB\xBF{\"question\":\"a\",\"answer\":\"b\"}\r\n\r\n";
  bytes += std::string("{\"question\":\"a\",\"answer\":\"b\"}\0\n", 31);
  bytes += "{\"question\":\"" + std::string(max_line_bytes, 'x') + "\",\"answer\":\"b\"}\n";
  bytes += "{\"question\":\"last\",\"answer\":\"b\"}";
  std::vector<BadRecord> bad;
  const auto records = read_records(write(scratch, "mixed.jsonl", bytes), bad);
  REQUIRE(records.size() == 2);
  CHECK(records[1].question == "last");
  CHECK(records[1].id == "5");
  REQUIRE(bad.size() == 2);
  CHECK(bad[0].why == "a NUL at byte 30");
  CHECK(bad[1].line == 4);
  CHECK(bad[1].why == "the line has 1048604 bytes, more than 1048576");
}

TEST_CASE("text/records: a file without a record, or that is none, is an error that names it") {
  const Scratch scratch;
  std::vector<BadRecord> bad;
  CHECK_THROWS_WITH_AS(read_records(write(scratch, "empty.jsonl", "")),
                       doctest::Contains("empty.jsonl: holds no record"), Error);
  CHECK_THROWS_WITH_AS(read_records(write(scratch, "blank.jsonl", "\n\n"), bad),
                       doctest::Contains("blank.jsonl: holds no record"), Error);
  CHECK_THROWS_WITH_AS(read_records(write(scratch, "all_bad.jsonl", "\nx\n"), bad),
                       doctest::Contains("all_bad.jsonl: no record can be used; line 2: not JSON at byte 1"), Error);
  CHECK_THROWS_WITH_AS(read_records(scratch / "absent.jsonl"), doctest::Contains("absent.jsonl: cannot be read"),
                       Error);
  CHECK_THROWS_WITH_AS(read_records(scratch.path()), doctest::Contains("cannot be read"), Error);
}

TEST_CASE("text/records: UTF-8 is judged as RFC 3629 has it") {
  for (const char* good : {"", "a", "\xC2\x80", "\xDF\xBF", "\xE0\xA0\x80", "\xED\x9F\xBF", "\xEE\x80\x80",
                           "\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF"})
    CHECK_MESSAGE(text_fault(good).empty(), good);
  for (const char* evil : {"\x80", "\xC0\xAF", "\xC1\xBF", "\xC2", "\xE0\x9F\xBF", "\xED\xA0\x80", "\xEF\xBF",
                           "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFF"})
    CHECK(text_fault(str("ab", evil)) == "not UTF-8 at byte 3");
}

TEST_CASE("text/records: what is written is read back the same, and a fault leaves the old file") {
  const Scratch scratch;
  const auto path = scratch / "out.jsonl";
  const std::vector<Record> records = {{"a", "q \"1\"\n", {"x"}, "", "en", "train"},
                                       {"b", "질문", {"답", "답 2"}, "문맥", "ko", ""}};
  write_records(path, records);
  CHECK(read_records(path) == records);
  CHECK_THROWS_WITH_AS(write_records(path, {{"c", "q", {" "}, "", "", ""}}),
                       doctest::Contains("record 'c': the answer is empty"), Error);
  CHECK_THROWS_AS(write_records(path, {{"c", "q", {"\xFF"}, "", "", ""}}), Error);
  CHECK(read_records(path) == records);
  CHECK_THROWS_WITH_AS(write_records(scratch / "absent" / "out.jsonl", records), doctest::Contains("out.jsonl"), Error);
  CHECK(std::distance(fs::directory_iterator(scratch.path()), {}) == 1);  // no temporary file is left
}

TEST_CASE("text/records: plain texts and questions without an answer are written and read; what is neither is named") {
  std::vector<BadRecord> bad;
  const auto one = [&](std::string_view line) {
    bad.clear();
    try {
      return parse_records(line, bad).at(0);
    } catch (const Error&) {
      return Record{.id = bad.at(0).why};
    }
  };
  const Record text = one(R"({"text":"Grass is green.","lang":"en"})"),
               open = one(R"({"question":"Why?","answers":[]})");
  CHECK(text == Record{.id = "1", .lang = "en", .text = "Grass is green."});
  CHECK(open == Record{.id = "1", .question = "Why?", .unanswered = true});
  for (const Record& record : {text, open}) CHECK(one(to_json_line(record)) == record);
  CHECK(one(R"({"question":"Why?"})").id == "there is no answer");
  CHECK(one(R"({"text":"","id":"a"})").id == "the text is empty");
  CHECK(one(R"({"text":"a","context":"b"})").id ==
        "a plain text has turns, a question, an answer or a context beside it");
  CHECK(one(R"({"question":"Why?","answer":"So.","text":"passed over"})").text.empty());
  CHECK(record_fault({.question = "Why?", .answers = {"So."}, .unanswered = true}) ==
        "it is unanswered, and has an answer");
  CHECK(record_fault({.text = "a\xFF"}) == "text: not UTF-8 at byte 2");
}

TEST_CASE("text/records: conversations are written and read; what is no conversation is named") {
  const Scratch scratch;
  const auto path = scratch / "out.jsonl";
  Record record;
  record.id = "c";
  record.turns = {{"system", "Be \"brief\"."}, {"user", "색?"}, {"assistant", "노랑\n"}};
  CHECK(to_json_line(record) ==
        "{\"id\":\"c\",\"messages\":[{\"role\":\"system\",\"content\":\"Be \\\"brief\\\".\"},"
        "{\"role\":\"user\",\"content\":\"색?\"},{\"role\":\"assistant\",\"content\":\"노랑\\n\"}]}");
  write_records(path, {record});
  CHECK(read_records(path) == std::vector<Record>{record});
  const auto fault = [&](std::vector<Message> turns) {
    Record one;
    one.turns = std::move(turns);
    return record_fault(one);
  };
  CHECK(fault({{"user", "a"}, {"assistant", "b"}}).empty());
  CHECK(fault({{"user", "a"}}) == "the conversation's last turn is not the assistant's");
  CHECK(fault({{"system", "a"}, {"assistant", "b"}}) == "the conversation has no user's turn");
  CHECK(fault({{"user", "a"}, {"system", "s"}, {"assistant", "b"}}) ==
        "turn 2: a system's turn stands first or not at all");
  CHECK(fault({{"user", "a"}, {"assistant", "\u200b"}}) == "turn 2: the assistant's content is empty");
  CHECK(fault({{"human", "a"}, {"assistant", "b"}}) ==
        "turn 1: the role 'human' is none of system, user and assistant");
  CHECK(fault({{"user", "a\xFF"}, {"assistant", "b"}}) == "turn 1: not UTF-8 at byte 2");
  record.question = "q";
  CHECK(record_fault(record) == "a conversation has a question, answer or context beside its turns");
  std::vector<BadRecord> bad;
  CHECK_THROWS_AS(
      read_records(write(scratch, "bad.jsonl", "{\"messages\":[]}\n{\"messages\":[1]}\n{\"messages\":[{}]}\n"), bad),
      Error);
  REQUIRE(bad.size() == 3);
  CHECK(bad[0].why == "\"messages\" is not a list of turns");
  CHECK(bad[1].why == "a turn of \"messages\" is not an object");
  CHECK(bad[2].why == "turn 1: the role '' is none of system, user and assistant");
}

TEST_CASE("text/records: one name for each split; blanks are what cannot be seen; no line that reading refuses") {
  const Scratch scratch;
  const auto records = read_records(write(scratch, "s.jsonl",
                                          "{\"question\":\"a\",\"answer\":\"b\",\"split\":\" Dev "
                                          "\"}\n{\"question\":\"a\",\"answer\":\"b\",\"split\":\"mine\"}"));
  CHECK(records[0].split == "valid");
  CHECK(records[1].split == "mine");
  CHECK(is_known_split("Validation"));
  CHECK_FALSE(is_known_split("mine"));
  for (const char* blank : {"", " \t\r\n", "\u00a0", "\u3000\u200b", "\ufeff", "\u2028\u00ad"}) CHECK(is_blank(blank));
  for (const char* seen : {"a", "\u00a0.", "\u0600", "가", "\xFF"}) CHECK_FALSE(is_blank(seen));
  CHECK(record_fault({"", "\u3000", {"a"}, "", "", ""}) == "the question is empty");
  CHECK_THROWS_WITH_AS(to_json_line({"x", "q", {std::string(max_line_bytes, 'a')}, "", "", ""}),
                       doctest::Contains("record 'x': its line has 1048613 bytes, more than 1048576"), Error);
}

TEST_CASE("text/records: other people's files are named for what they are") {
  const Scratch scratch;
  const auto refused = [&](std::string_view bytes, const char* why) {
    CHECK_THROWS_WITH_AS(read_records(write(scratch, "a.jsonl", bytes)), doctest::Contains(why), Error);
  };
  refused({"\xFF\xFE{\0", 4},
          "a.jsonl: is UTF-16, by its byte-order mark\n  hint: make it UTF-8: iconv -f UTF-16 -t UTF-8 ");
  refused({"\xFE\xFF\0{", 4}, "is UTF-16");
  refused({"\xFF\xFE\0\0", 4}, "is UTF-32");
  refused({"\0\0\xFE\xFF", 4}, "is UTF-32");
  refused("{\"conversations\":[]}", "a.jsonl:1: has no \"question\", \"messages\" or \"text\", but 'conversations'");
  refused("{}", "a.jsonl:1: the object is empty");
  refused("x", "a.jsonl:1: not JSON at byte 1");
  for (const char* shortest : {"", "\n", "{", "{}", "{ }", "\xEF\xBB", "\xEF\xBB\xBF"})
    CHECK_THROWS_AS(read_records(write(scratch, "a.jsonl", shortest)), Error);
}

TEST_CASE("text/records: rejected answers are read, written and read back; what is no pair is named") {
  const Scratch scratch;
  std::vector<BadRecord> bad;
  const auto one = [&](std::string_view line) {
    bad.clear();
    try {
      const auto records = parse_records(line, bad);
      CHECK(parse_records(to_json_line(records[0]), bad) == records);
      return records[0];
    } catch (const Error& e) {
      return Record{.question = e.message()};
    }
  };
  CHECK(one(R"({"id":"1","question":"a","answer":"b","rejected":"c"})").rejected == std::vector<std::string>{"c"});
  CHECK(one(R"({"id":"1","question":"a","answers":["b","e"],"rejected":["c","d","c"]})").rejected ==
        std::vector<std::string>{"c", "d"});
  CHECK(one(R"({"id":"1","question":"a","answers":[],"rejected":["made up"]})").unanswered);
  CHECK(one(R"({"id":"1","question":"a","answer":"b","rejected":null})").rejected.empty());
  const auto turned =
      one(R"({"id":"1","messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}],"rejected":"c"})");
  CHECK((turned.turns.size() == 2 && turned.rejected == std::vector<std::string>{"c"}));
  const auto why = [&](std::string_view line) { return one(line).question; };
  CHECK(why(R"({"question":"a","answers":["b","c"],"rejected":"c"})").find("is an accepted one too") !=
        std::string::npos);
  CHECK(why(R"({"question":"a","answer":"b","rejected":" "})").find("the rejected answer is empty") !=
        std::string::npos);
  CHECK(why(R"({"question":"a","answer":"b","rejected":[1]})").find("a rejected answer is not a string") !=
        std::string::npos);
  CHECK(why(R"({"question":"a","answer":"b","rejected":"x\u0000"})").find("rejected answer: a NUL at byte 2") !=
        std::string::npos);
  CHECK(why(R"({"text":"a","rejected":"b"})").find("a plain text has") != std::string::npos);
}
