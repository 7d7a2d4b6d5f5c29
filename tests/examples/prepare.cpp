// tests/examples/prepare.cpp: every kind of file that `qa prepare` reads, its bad records, and the file it writes.
// The samples under tests/data/records/sources are our own, in the published formats.
#include "../../examples/qa/prepare.hpp"

#include <doctest/doctest.h>

#include <unistd.h>    // getpid
#include <filesystem>  // std::filesystem
#include <fstream>     // std::ofstream
#include <sstream>     // std::ostringstream
#include <string>      // std::string

using namespace qa;
namespace fs = std::filesystem;

namespace {
const fs::path sources = fs::path(FTLIB_TEST_DATA) / "records" / "sources";

struct Scratch {
  fs::path folder = fs::temp_directory_path() / str("ftlib-prepare-", getpid());
  Scratch() { fs::create_directories(folder); }
  ~Scratch() { fs::remove_all(folder); }
};

/// The bad records as "line: why".
std::vector<std::string> faults(const Source& source) {
  std::vector<std::string> out;
  for (const auto& bad : source.bad) out.push_back(str(bad.line, ": ", bad.why));
  return out;
}
using Strings = std::vector<std::string>;

Source read(const char* name, Form form = Form::qa) { return read_source(sources / name, form); }
}  // namespace

TEST_CASE("examples/prepare: JSON lists under the usual member names") {
  const auto source = read("list.json");
  REQUIRE(source.records.size() == 4);
  CHECK(source.records[0] == Record{"", "What do bees make?", {"Honey"}, "", "", ""});
  CHECK(source.records[1] == Record{"", "How many legs has an ant?", {"6"}, "", "", ""});
  CHECK(source.records[2] == Record{"", "Put into capitals.\nhoney", {"HONEY"}, "", "", ""});
  CHECK(source.records[3] == Record{"7", "Name a sweetener.", {"Honey", "Sugar"}, "", "en", "test"});
  CHECK(faults(source) == Strings{"5: there is no answer", "6: entry 6 of \"the list\" is not an object"});
  CHECK(read("list.json", Form::context).records[2] == Record{"", "Put into capitals.", {"HONEY"}, "honey", "", ""});
}

TEST_CASE("examples/prepare: WebQuestions keeps ids and every answer") {
  const auto source = read("web.json");
  REQUIRE(source.records.size() == 2);
  CHECK(source.records[0] == Record{"own000001", "who built the blue mill?", {"Ada Mill", "A. Mill"}, "", "", ""});
  CHECK(faults(source) == Strings{"3: id own000002: there is no answer"});
}

TEST_CASE("examples/prepare: SQuAD and KorQuAD; the passage is kept where it is asked for") {
  const auto source = read("squad.json", Form::context);
  REQUIRE(source.records.size() == 2);
  CHECK(source.records[0] ==
        Record{"s1", "Who built the blue mill?", {"Ada Mill"}, "The blue mill was built by Ada Mill in 1848.", "", ""});
  CHECK(source.records[1].question == "푸른 방앗간은 어디에 있는가?");
  CHECK(faults(source) ==
        Strings{"5: id s2: is marked as a question without an answer", "6: id s3: the question is empty"});
  CHECK(read("squad.json").records[0].context.empty());
}

TEST_CASE("examples/prepare: JSON lines, whatever the file is called") {
  auto source = read("lines.json");
  REQUIRE(source.records.size() == 2);
  CHECK(source.records[1].answers == Strings{"2", "II"});
  source = read("lines.jsonl", Form::context);
  REQUIRE(source.records.size() == 2);
  CHECK(source.records[0].context == "numbers");
  CHECK(source.records[1].question == "five?");
  CHECK(faults(source) ==
        Strings{"3: not JSON at byte 2", "4: the line is not a JSON object", "5: the answer is not text"});
}

TEST_CASE("examples/prepare: CSV by RFC 4180, with the rows that break it named by line") {
  const auto source = read("chat.csv");
  REQUIRE(source.records.size() == 3);
  CHECK(source.records[0] == Record{"", "배고파", {"뭐라도 드세요."}, "", "", ""});
  CHECK(source.records[1] == Record{"", "쉼표, 있는 질문", {"그는 \"네\"\n라고 했다."}, "", "", ""});
  CHECK(source.records[2].answers == Strings{"좋은 꿈 꾸세요."});
  CHECK(faults(source) == Strings{"6: the answer is empty", "7: there is text behind a closing quote",
                                  "8: the row has 4 columns, the first has 3",
                                  "9: there is text behind a closing quote"});
  CHECK(faults(read("columns.csv")).front().starts_with("1: of the 4 columns none is named question"));
}

TEST_CASE("examples/prepare: TSV without a header, where that is said; quotes that do not fit are text") {
  ReadOptions options;
  options.no_header = true;
  const auto source = read_source(sources / "plain.tsv", options);
  REQUIRE(source.records.size() == 3);
  CHECK(source.records[0] == Record{"", "What is 1 + 1?", {"2"}, "", "", ""});
  CHECK(source.records[1] == Record{"", "\"Hello\" she said", {"what is this"}, "", "", ""});
  CHECK(source.records[2] == Record{"", "quoted\ttab", {"and \"this\""}, "", "", ""});
  CHECK(read("plain.tsv").records.empty());  // never guessed
  CHECK(read("plain.tsv").refused == "of the 2 columns none is named question or answer: \"What is 1 + 1?\", \"2\"");
}

TEST_CASE("examples/prepare: an unclosed quote costs its own row, not the rest of the file") {
  const Scratch scratch;
  std::ofstream(scratch.folder / "open.csv") << "q,a\n\"open,1\nb,2\nc,3\n";
  const auto source = read_source(scratch.folder / "open.csv", Form::qa);
  CHECK(source.records.size() == 2);
  CHECK(faults(source) == Strings{"2: a quote is opened and not closed"});
}

TEST_CASE("examples/prepare: chatterbot's conversations, as a question with answers or turn by turn") {
  const auto source = read("talk.yml");
  REQUIRE(source.records.size() == 2);
  CHECK(source.records[0] == Record{"", "Hello there", {"Good day", "And to you", "Thanks"}, "", "", ""});
  CHECK(source.records[1] == Record{"", "몇 시야?", {"10"}, "", "", ""});
  CHECK(faults(source) == Strings{"10: the conversation has no second turn",
                                  "11: the conversation is not a list of texts; is one with ': ' in it unquoted?",
                                  "13: the conversation is not a list of texts; is one with ': ' in it unquoted?"});
  const auto turns = read("talk.yml", Form::chat);
  REQUIRE(turns.records.size() == 4);
  CHECK(turns.records[2] == Record{"", "And to you", {"Thanks"}, "Hello there\nGood day", "", ""});
  REQUIRE(read("broken.yml").bad.size() == 1);
  CHECK(read("broken.yml").bad[0].why.starts_with("not YAML: "));
}

TEST_CASE("examples/prepare: Open Trivia's text") {
  auto source = read("quiz.txt");
  REQUIRE(source.records.size() == 3);
  CHECK(source.records[0] == Record{"", "Which insect makes honey?", {"The bee"}, "", "", ""});
  CHECK(source.records[1].question == "A riddle\nover two lines");
  CHECK(faults(source) == Strings{"12: a question without an answer"});
  source = read("quiz_bytes.txt");
  CHECK(source.records.size() == 1);
  CHECK(faults(source) == Strings{"1: not UTF-8 at byte 7"});
}

TEST_CASE("examples/prepare: bytes that are not UTF-8 and files cut short are reported where they are") {
  ReadOptions options;
  options.no_header = true;
  CHECK(faults(read_source(sources / "cp949.csv", options)) ==
        Strings{"1: question: not UTF-8 at byte 1", "2: question: not UTF-8 at byte 1"});
  CHECK(faults(read("cp949.csv")) == Strings{"1: in the first row: not UTF-8 at byte 1"});
  CHECK(read("cp949.csv").hint.find("iconv -f CP949 -t UTF-8 ") != std::string::npos);
  CHECK(faults(read("bytes.json")) == Strings{"2: not UTF-8 at byte 16"});
  CHECK(faults(read("cut.json")) == Strings{"2: not JSON from here on"});
  const Scratch scratch;
  std::ofstream(scratch.folder / "large.json") << "[{\"q\":\"q\",\"a\":1e999}]";
  CHECK(faults(read_source(scratch.folder / "large.json", Form::qa)) ==
        Strings{"1: a number in the file is too large"});
  std::ofstream(scratch.folder / "large.jsonl") << "{\"q\":\"q\",\"a\":1e999}\n";
  CHECK(faults(read_source(scratch.folder / "large.jsonl", Form::qa)) == Strings{"1: a number is too large"});
  std::ofstream(scratch.folder / "deep.json") << "[{\"q\":\"q\",\"a\":" << std::string(100000, '[');
  CHECK(faults(read_source(scratch.folder / "deep.json", Form::qa)) == Strings{"1: nested deeper than 128 levels"});
}

TEST_CASE("examples/prepare: Hangul tells Korean") {
  CHECK(has_hangul("K2는 산이다"));
  CHECK(has_hangul("ㅋㅋ"));
  CHECK(has_hangul("\u1112\u1161\u11ab"));
  CHECK_FALSE(has_hangul("What is 東京? Ça va — “ok”"));
  CHECK_FALSE(has_hangul("\xEA\xB0"));
}

TEST_CASE("examples/prepare: a folder becomes one file: no pair twice, no id twice, every record with a language") {
  const Scratch scratch;
  std::ostringstream report;
  prepare({.files = {sources, sources / "lines.json"}, .out = scratch.folder / "out.jsonl"}, report);
  const auto records = ft::text::read_records(scratch.folder / "out.jsonl");
  CHECK(records.size() == 21);  // plain.tsv has no row of names
  std::unordered_set<std::string> ids;
  for (const auto& record : records) {
    CHECK_MESSAGE(ids.insert(record.id).second, record.id);
    CHECK(record.lang == (has_hangul(record.question) ? "ko" : "en"));
  }
  CHECK(records[0].id == "chat/1");  // files are read in the order of their names
  CHECK(ids.contains("s4"));
  const std::string said = report.str();
  CHECK(said.find("web.json: 2 records, 0 duplicates, 1 bad\n  ") != said.npos);
  CHECK(said.find("web.json:3: id own000002: there is no answer\n") != said.npos);
  CHECK(said.find("lines.json: 2 records, 2 duplicates, 0 bad\n") != said.npos);  // when it came again
  CHECK(said.find("out.jsonl: 21 records, en 16, ko 5\n") != said.npos);
}

TEST_CASE("examples/prepare: what was prepared stays as it is when it is prepared again") {
  const Scratch scratch;
  std::ostringstream report;
  const auto once = scratch.folder / "once.jsonl", twice = scratch.folder / "twice.jsonl";
  prepare({.files = {sources}, .out = once, .form = Form::context}, report);
  prepare({.files = {once}, .out = twice, .form = Form::context}, report);
  CHECK(ft::read_file(once, 1 << 20) == ft::read_file(twice, 1 << 20));
}

TEST_CASE("examples/prepare: two records of one id are told apart; 20 bad records are listed, the others counted") {
  const Scratch scratch;
  {
    std::ofstream file(scratch.folder / "same.jsonl");
    for (int i = 0; i < 3; ++i) file << "{\"id\":\"x\",\"question\":\"q" << i << "\",\"answer\":\"a\"}\n";
    for (int i = 0; i < 25; ++i) file << "bad\n";
  }
  std::ostringstream report;
  prepare({.files = {scratch.folder / "same.jsonl"}, .out = scratch.folder / "out.jsonl"}, report);
  const auto records = ft::text::read_records(scratch.folder / "out.jsonl");
  REQUIRE(records.size() == 3);
  CHECK(records[1].id == "x-2");
  CHECK(records[2].id == "x-3");
  CHECK(report.str().find("same.jsonl:23: not JSON") != std::string::npos);
  CHECK(report.str().find("same.jsonl:24: not JSON") == std::string::npos);
  CHECK(report.str().find("  and 5 more\n") != std::string::npos);
}

TEST_CASE("examples/prepare: what cannot be done is an Error and leaves no file") {
  const Scratch scratch;
  std::ostringstream report;
  const auto out = scratch.folder / "out.jsonl";
  const auto refused = [&](const fs::path& file, const char* why, bool strict = false) {
    CHECK_THROWS_WITH_AS(prepare({.files = {file}, .out = out, .strict = strict}, report), doctest::Contains(why),
                         Error);
    CHECK_FALSE(fs::exists(out));
  };
  refused(sources / "absent.json", "absent.json: there is no such file");
  refused(sources / "notes.md", "notes.md: '.md' is no kind of file that prepare reads");
  refused(scratch.folder, "the folder holds no file that prepare reads");
  refused(sources / "cp949.csv", "cp949.csv: no record can be used");
  refused(sources / "web.json", "web.json:3: id own000002: there is no answer", /*strict=*/true);
}

TEST_CASE("examples/prepare: the command line") {
  const Scratch scratch;
  const auto out = (scratch.folder / "out.jsonl").string();
  CLI::App app{"qa"};
  add_prepare(app);
  const auto run = [&](std::vector<std::string> arguments) {
    std::reverse(arguments.begin(), arguments.end());  // as CLI11 wants them
    std::ostringstream hidden;
    auto* const screen = std::cout.rdbuf(hidden.rdbuf());
    try {
      app.parse(std::move(arguments));
    } catch (...) {
      std::cout.rdbuf(screen);
      throw;
    }
    std::cout.rdbuf(screen);
  };
  run({"prepare", (sources / "squad.json").string(), "--out", out, "--form", "context"});
  CHECK(ft::text::read_records(out).front().context == "The blue mill was built by Ada Mill in 1848.");
  CHECK_THROWS_AS(run({"prepare", (sources / "squad.json").string(), "--out", out, "--strict"}), Error);
  CHECK_THROWS_AS(run({"prepare", "--out", out}), CLI::ParseError);
  CHECK_THROWS_AS(run({"prepare", "x.json", "--out", out, "--form", "poem"}), CLI::ParseError);
  const auto help = app.get_subcommand("prepare")->help();
  CHECK(help.find("=qa") != help.npos);
  CHECK(help.find("Example:\n  qa prepare ") != help.npos);
}
