// tests/cases/text.cpp: what is right for each input about text in this folder; see README.md here.
#include "../../examples/qa/prepare.hpp"

#include <doctest/doctest.h>

#include <filesystem>  // std::filesystem
#include <fstream>     // std::ofstream
#include <sstream>     // std::ostringstream
#include <string>      // std::string
#include <vector>      // std::vector

#include "../scratch.hpp"

using namespace qa;
using ft::test::Scratch;
namespace fs = std::filesystem;

namespace {

const fs::path cases = fs::path(FTLIB_TEST_DATA) / ".." / "cases";

using Pairs = std::vector<std::pair<std::string, std::string>>;
/// Question and first answer of each record.
Pairs pairs(const Source& source) {
  Pairs out;
  for (const auto& record : source.records)
    out.emplace_back(record.question, record.answers.empty() ? "" : record.answers.front());
  return out;
}
Pairs pairs(const char* name, const ReadOptions& options = {}) { return pairs(read_source(cases / name, options)); }

/// As a file of that name.
Source read_text(const std::string& name, std::string_view text, const ReadOptions& options = {}) {
  const Scratch scratch;
  std::ofstream(scratch / name, std::ios::binary) << text;
  return read_source(scratch / name, options);
}

std::string joined(const Source& source) {
  std::string out;
  for (const auto& note : source.notes) out += note + '\n';
  for (const auto& bad : source.bad) out += str(bad.line, ": ", bad.why, '\n');
  return out + source.hint;
}
bool says(const Source& source, std::string_view text) { return joined(source).find(text) != std::string::npos; }

/// What prepare writes and says.
struct Prepared {
  std::vector<Record> records;
  std::string said;
  bool says(std::string_view text) const { return said.find(text) != said.npos; }
};
Prepared prepared(PrepareOptions options) {
  const Scratch scratch;
  options.out = scratch / "out.jsonl";
  std::ostringstream report;
  prepare(options, report);
  return {ft::text::read_records(options.out), report.str()};
}
std::string refusal(PrepareOptions options) {
  try {
    prepared(std::move(options));
  } catch (const Error& e) {
    return e.message() + " / " + e.hint();
  }
  return "was not refused";
}

const Pairs colours = {{"Which colour is a ripe lemon?", "Yellow"}, {"Which colour is fresh grass?", "Green"}};
const Pairs grass = {{"Colour of grass?", "Green"}};
const Pairs grass_and_lemon = {{"Colour of grass?", "Green"}, {"Colour of lemon?", "Yellow"}};

}  // namespace

TEST_CASE("cases/01: columns are found by name, or given, or the file is refused with its columns named") {
  const std::string folder = "01-csv-3col-unknown-header/";
  CHECK(pairs((folder + "back_front.csv").c_str()) == colours);
  CHECK(pairs((folder + "id_first.csv").c_str()) == colours);
  CHECK(pairs((folder + "faq.csv").c_str()).front() == colours.front());
  CHECK(says(read_source(cases / (folder + "faq.csv")), "not used: \"category\""));
  const auto headerless = cases / (folder + "headerless_id.csv");
  CHECK(refusal({.files = {headerless}})
            .find("of the 3 columns none is named question or answer: \"1\", \"Which colour is a ripe lemon?\", "
                  "\"Yellow\" / "
                  "say which they are: --question-column") != std::string::npos);
  ReadOptions options;
  options.no_header = true;
  CHECK(read_source(headerless, options).refused != "");  // of three columns none is known
  options.columns = {.question = "2", .answer = "3", .context = {}, .id = "1", .split = {}};
  CHECK(pairs(read_source(headerless, options)) == colours);
  CHECK(read_source(headerless, options).records[1].id == "2");
  // Others of the kind: names in Korean, names given, in any case and spelling, a name that is not there.
  CHECK(pairs(read_text("a.csv", "분류,질문내용,답변 내용\nx,색?,노랑\n")) == Pairs{{"색?", "노랑"}});
  ReadOptions given;
  given.columns.question = "Was ist";
  given.columns.answer = "das";
  CHECK(pairs(read_text("a.tsv", "das\tWAS_IST\n2\t1 + 1?\n", given)) == Pairs{{"1 + 1?", "2"}});
  CHECK(pairs(read_text("a.json", R"([{"was ist":"1 + 1?","das":2}])", given)) == Pairs{{"1 + 1?", "2"}});
  given.columns.answer = "dies";
  CHECK(says(read_text("a.csv", "das,was ist\n2,1 + 1?\n", given),
             "--answer-column dies: the columns are \"das\", \"was ist\""));
  const auto unknown = read_text("a.json", R"([{"question":"a","human_answers":["b"]}])");
  CHECK(says(unknown,
             "none of \"human_answers\", \"question\" is known as an answer: say which they are: --question-column"));
  CHECK(read_text("a.csv", "question,answer,question\na,b,c\n").refused == "two columns are named \"question\"");
}

TEST_CASE("cases/02: the delimiter is found or given; Excel's sep= line is understood") {
  CHECK(pairs("02-csv-semicolon/a.csv") ==
        Pairs{{"Which colour is a lemon, when ripe?", "Yellow"}, {"Which colour is grass?", "Green"}});
  CHECK(pairs("02-csv-semicolon/sep.csv") == Pairs{{"Which colour is a lemon?", "Yellow"}});
  CHECK(pairs("02-csv-semicolon/sepcomma.csv") == Pairs{{"Which colour is a lemon?", "Yellow"}});
  CHECK(read_source(cases / "02-csv-semicolon/headerless.csv").refused != "");
  ReadOptions options;
  options.no_header = true;
  const Pairs right = {{"Which colour is a lemon, when ripe?", "Yellow"}, {"Which colour is grass, in May?", "Green"}};
  CHECK(pairs("02-csv-semicolon/headerless.csv", options) == right);  // behind each comma is a blank
  CHECK(says(read_text("a.csv", "a,b;c\nd,e;f\n", options), "its columns may be separated by ',' or ';'"));
  options.delimiter = ';';
  CHECK(pairs("02-csv-semicolon/headerless.csv", options) == right);
  CHECK(pairs(read_text("a.csv", "a,b;c\nd,e;f\n", options)) == Pairs{{"a,b", "c"}, {"d,e", "f"}});
  CHECK(pairs(read_text("a.csv", "id|question|answer\n1|a;b?|c\n")) == Pairs{{"a;b?", "c"}});
  CHECK(pairs(read_text("a.csv", "| question | answer |\n| --- | :-: |\n| a? | c |\n")) == Pairs{{"a?", "c"}});
  CHECK(pairs(read_text("a.csv", "question\tanswer\na, b?\tc\n")) == Pairs{{"a, b?", "c"}});
  CHECK(pairs(read_text("a.csv", "sep=|\r\nquestion|answer\r\na?|c\r\n")) == Pairs{{"a?", "c"}});
}

TEST_CASE("cases/03: a byte-order mark says how to read; what is not UTF-8 is named with the call that mends it") {
  const Pairs quoted = {{"Which colour, when\r\nripe, is a \"lemon\"?", "Yellow"}, {"Colour of grass?", "Green"}};
  CHECK(pairs("03-encodings/bom.json") == grass);
  CHECK(pairs("03-encodings/bom.jsonl") == grass_and_lemon);
  CHECK(pairs("03-encodings/bom_crlf.csv") == quoted);
  CHECK(pairs("03-encodings/bomquoted.csv") == grass);
  CHECK(pairs("03-encodings/oldmac.csv") == grass_and_lemon);
  CHECK(pairs("03-encodings/oldmac.jsonl") == grass_and_lemon);
  CHECK(pairs("03-encodings/utf16.csv") == quoted);
  CHECK(pairs("03-encodings/utf16.jsonl") == grass);
  CHECK(says(read_source(cases / "03-encodings/utf16.tsv"), "read as UTF-16LE, by its byte-order mark"));
  const auto latin = read_source(cases / "03-encodings/latin1.csv");
  CHECK(pairs(latin) == Pairs{{"plain?", "yes"}});
  CHECK(says(latin, "2: question: not UTF-8 at byte 10"));
  CHECK(says(latin, "iconv -f WINDOWS-1252 -t UTF-8 "));
  // The other marks; and none.
  const std::string json = R"({"question":"색?","answer":"🙂"})";
  const auto units = [](std::u32string_view text, int unit, bool big, bool mark) {
    std::string out;
    const auto put = [&](char32_t value) {
      for (int k = 0; k < unit; ++k) out += static_cast<char>(value >> 8 * (big ? unit - 1 - k : k) & 0xff);
    };
    if (mark) put(0xfeff);
    for (const char32_t c : text) {
      if (unit == 2 && c > 0xffff) put(0xd800 + ((c - 0x10000) >> 10)), put(0xdc00 + ((c - 0x10000) & 0x3ff));
      else put(c);
    }
    return out;
  };
  const std::u32string text = UR"({"question":"색?","answer":"🙂"})";
  for (const int unit : {2, 4})
    for (const bool big : {false, true}) {
      CHECK(pairs(read_text("a.jsonl", units(text, unit, big, true))) == Pairs{{"색?", "🙂"}});
      CHECK(pairs(read_text("a.json", units(text, unit, big, true))) == Pairs{{"색?", "🙂"}});
    }
  const auto unmarked = read_text("a.jsonl", units(text, 2, true, false));
  CHECK(unmarked.refused == "is UTF-16 without a byte-order mark, as it seems");
  CHECK(unmarked.hint.find("iconv -f UTF-16BE -t UTF-8 ") == 0);
  CHECK(read_text("a.csv", units(text, 2, false, true) + "x").refused ==
        "begins with the byte-order mark of UTF-16LE and is not UTF-16LE");
  CHECK(says(read_text("a.csv", "question,answer\n\xbb\xf6?,\xb3\xeb\xb6\xfb\n"), "iconv -f CP949 -t UTF-8 "));
}

TEST_CASE("cases/04: conversations and plain text are records of their own; rated answers are named") {
  const auto first = [](const char* name) { return read_source(cases / "04-chat-formats" / name).records.at(0); };
  CHECK(pairs("04-chat-formats/alpaca.json") ==
        Pairs{{"Name the colour.\nGrass", "Green"}, {"Name the sky's colour.", "Blue"}, {"Translate.", "x"}});
  CHECK(first("alpaca_system_history.json").turns == std::vector<Message>{{"system", "You speak like a pirate."},
                                                                          {"user", "Hello"},
                                                                          {"assistant", "Ahoy"},
                                                                          {"user", "How be ye?"},
                                                                          {"assistant", "Fine"},
                                                                          {"user", "Name the colour of grass."},
                                                                          {"assistant", "Green, arr"}});
  CHECK(first("dolly.jsonl").answers == std::vector<std::string>{"Green"});
  CHECK(says(read_source(cases / "04-chat-formats/dolly.jsonl"), "contexts left out (--form context keeps them): 1"));
  CHECK(read_source(cases / "04-chat-formats/dolly.jsonl", Form::context).records[0].context ==
        "The grass in the garden is green.");
  CHECK(first("messages.jsonl").turns ==
        std::vector<Message>{{"system", "Be brief."}, {"user", "Colour of grass?"}, {"assistant", "Green."}});
  const auto shared = read_source(cases / "04-chat-formats/sharegpt.json");
  REQUIRE(shared.records.size() == 2);
  CHECK(shared.records[0].turns.size() == 5);
  CHECK(shared.records[0].turns[3] == Message{"user", "And of a lemon?"});
  CHECK(shared.records[1].turns.empty());  // one question and its answer
  CHECK(shared.records[1].question == "Sides of a hexagon?");
  CHECK(pairs("04-chat-formats/trl_prompt_completion.jsonl") == Pairs{{"Colour of grass?", "Green."}});
  CHECK(pairs("04-chat-formats/llamacpp_prompt_response.jsonl") == grass);
  CHECK(says(read_source(cases / "04-chat-formats/llamacpp_prompt_response.jsonl"), "not used: \"response\""));
  CHECK(first("text_only.jsonl").text == "### Human: Colour of grass? ### Assistant: Green.");
  CHECK(says(read_source(cases / "04-chat-formats/text_only.jsonl"), "text from \"text\""));
  CHECK(says(read_text("a.csv", "id,text\n1,Grass is green.\n"), "is plain text (\"text\")"));
  const char* open = R"({"question":"a?","answers":[]})";
  CHECK(says(read_text("a.jsonl", open), "there is no answer"));
  ReadOptions keep;
  keep.unanswered = true;
  const auto kept = read_text("a.jsonl", open, keep);
  CHECK(kept.records.at(0).unanswered);
  CHECK(says(kept, "questions without an answer: 1"));
  CHECK(read_text("a.jsonl", R"({"question":"a?","is_impossible":true,"answers":["b"]})", keep)
            .records.at(0)
            .answers.empty());
  CHECK(says(read_text("a.jsonl", R"({"question":"a?"})", keep), "there is no answer"));
  CHECK(pairs(read_text("a.jsonl", R"({"prompt":"a?","completion":"b"})")) == Pairs{{"a?", "b"}});
  // Others of the kind.
  const auto turns = [](std::string_view json) {
    const auto source = read_text("a.jsonl", json);
    return source.records.empty() ? std::vector<Message>{{"bad", joined(source)}} : source.records[0].turns;
  };
  const std::vector<Message> two = {{"user", "a"}, {"assistant", "b"}, {"user", "c"}, {"assistant", "d"}};
  CHECK(turns(R"({"conversation":[{"human":"a","assistant":"b"},{"human":"c","assistant":"d"}]})") == two);
  CHECK(turns(R"({"id":"7","data":["a","b","c","d"]})") == two);
  CHECK(turns(R"([{"role":"user","content":"a"},{"role":"assistant","content":"b"},{"role":"user","content":"c"},)"
              R"({"role":"assistant","content":[{"type":"text","text":"d"}]}])") == two);
  CHECK(turns(R"({"conversations":[{"from":"human","value":"a"},{"from":"gpt","value":"b"}],"system":"s"})") ==
        std::vector<Message>{{"system", "s"}, {"user", "a"}, {"assistant", "b"}});
  CHECK(turns(R"({"instruction":"c","output":"d","history":[["a","b"]]})") == two);
  CHECK(turns(R"({"prompt":[{"role":"system","content":"s"},{"role":"user","content":"a"}],"completion":"b"})") ==
        std::vector<Message>{{"system", "s"}, {"user", "a"}, {"assistant", "b"}});
  const auto why = [&](std::string_view json) { return turns(json).at(0).content; };
  CHECK(why(R"({"messages":[{"role":"user","content":"a"}]})").find("last turn is not the assistant's") !=
        std::string::npos);
  CHECK(why(R"({"messages":[{"role":"user","content":"a"},{"role":"tool","content":"b"}]})")
            .find("turn 2: the role 'tool'") != std::string::npos);
  CHECK(why(R"({"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b","weight":0}]})")
            .find("turn 2: it is marked as not to be learned") != std::string::npos);
  CHECK(why(R"({"messages":[{"role":"user","content":[{"type":"image_url"}]},{"role":"assistant","content":"b"}]})")
            .find("turn 1: its content holds 'image_url', which is not text") != std::string::npos);
  CHECK(why(R"({"prompt":"a","completion":"b","label":false})").find("is a rated answer (label)") != std::string::npos);
  CHECK(why(R"({"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}],"label":true})")
            .find("is a rated answer") != std::string::npos);
  CHECK(
      says(read_text("a.jsonl", R"({"text":"a","label":"b"})"), "none of \"label\", \"text\" is known as a question"));
  CHECK(read_text("a.csv", "text\nabc\n").refused.find("is plain text") == 0);
  // Written and read back.
  const auto out = prepared({.files = {cases / "04-chat-formats/sharegpt.json"}});
  CHECK(out.records[0].turns == shared.records[0].turns);
  CHECK(out.says("1 conversation, of which every assistant's turn is learned"));
  CHECK(out.says("    assistant: [[Yellow.]]\n"));
}

TEST_CASE("cases/04: preference pairs of every form are records with a rejected answer") {
  const auto from = [](std::string_view json, const char* name = "a.jsonl") {
    const auto source = read_text(name, json);
    return source.records.empty() ? Record{.text = joined(source)} : source.records[0];
  };
  const Record plain{.question = "Colour of grass?", .answers = {"Green"}, .rejected = {"Blue"}};
  const auto dpo = read_source(cases / "04-chat-formats/dpo.jsonl");
  REQUIRE(dpo.records.size() == 1);
  CHECK(dpo.records[0] == plain);
  CHECK(says(dpo, "question from \"prompt\"; answer from \"chosen\"; rejected from \"rejected\""));
  CHECK(from("prompt,chosen,rejected\nColour of grass?,Green,Blue\n", "a.csv") == plain);
  CHECK(from(R"([{"instruction":"Colour","input":"grass","chosen":" Green","rejected":"Blue "}])", "a.json") ==
        Record{.question = "Colour\ngrass", .answers = {"Green"}, .rejected = {"Blue"}});
  // Whole conversations: TRL's implicit prompt, UltraFeedback with the prompt and the chosen one beside it,
  // Anthropic's.
  const std::string user = R"({"role":"user","content":"Colour of grass?"})",
                    better = R"({"role":"assistant","content":"Green"})",
                    worse = R"({"role":"assistant","content":"Blue"})";
  const std::string sides = "\"chosen\":[" + user + ',' + better + "],\"rejected\":[" + user + ',' + worse + ']';
  CHECK(from('{' + sides + '}') == plain);
  CHECK(from("{\"prompt\":\"Colour of grass?\",\"messages\":[" + user + ',' + better + "]," + sides +
             ",\"score_chosen\":8}") == plain);
  CHECK(from(R"({"prompt":"Colour of grass?",)" + sides + '}') == plain);
  CHECK(
      from(
          R"({"chosen":"\n\nHuman: Colour of grass?\n\nAssistant: Green","rejected":"\n\nHuman: Colour of grass?\n\nAssistant: Blue"})") ==
      plain);
  CHECK(from("chosen,rejected\n\"\n\nHuman: Colour of grass?\n\nAssistant: Green\",\"\n\nHuman: Colour of "
             "grass?\n\nAssistant: Blue\"\n",
             "a.csv") == plain);
  CHECK(from("{\"prompt\":[" + user + "],\"chosen\":[" + better + "],\"rejected\":[" + worse + "]}") == plain);
  CHECK(from(R"({"prompt":"\n\nHuman: Colour of grass?\n\nAssistant:","chosen":"Green","rejected":"Blue"})") == plain);
  // Behind a prompt of several turns: TRL, LLaMA-Factory; a system prompt, a history.
  Record turned{.turns = {{"system", "Be brief."},
                          {"user", "Hello"},
                          {"assistant", "Hi"},
                          {"user", "Colour of grass?"},
                          {"assistant", "Green"}},
                .rejected = {"Blue"}};
  CHECK(
      from(
          R"({"conversations":[{"from":"system","value":"Be brief."},{"from":"human","value":"Hello"},{"from":"gpt","value":"Hi"},)"
          R"({"from":"human","value":"Colour of grass?"}],"chosen":{"from":"gpt","value":"Green"},"rejected":{"value":"Blue"}})") ==
      turned);
  CHECK(
      from(
          R"({"system":"Be brief.","history":[["Hello","Hi"]],"question":"Colour of grass?","chosen":"Green","rejected":"Blue"})") ==
      turned);
  CHECK(
      from(
          R"({"system":"Be brief.","messages":[{"role":"user","content":"Hello"},{"role":"assistant","content":"Hi"},)" +
          user + ',' + better + R"(],"rejected_response":"Blue"})") == turned);
  turned.turns.erase(turned.turns.begin());
  CHECK(from(R"({"chosen":"\n\nHuman: Hello\n\nAssistant: Hi\n\nHuman: Colour of grass?\n\nAssistant: Green",)"
             R"("rejected":"\n\nHuman: Hello\n\nAssistant: Hi\n\nHuman: Colour of grass?\n\nAssistant: Blue"})") ==
        turned);
  // The chosen alone, where that is asked for; and what is no pair, by name.
  ReadOptions alone;
  alone.columns.answer = "chosen";
  CHECK(read_source(cases / "04-chat-formats/dpo.jsonl", alone).records[0].rejected.empty());
  const auto why = [&](std::string_view json) { return from(json).text; };
  const auto contains = [](const std::string& text, std::string_view part) {
    CHECK_MESSAGE(text.find(part) != text.npos, text);
  };
  contains(why(R"({"prompt":"a","chosen":"b","rejected":"b "})"), "1: the rejected answer is an accepted one too");
  contains(why(R"({"prompt":"a","chosen":"b","rejected":" "})"), "1: the rejected answer is empty");
  contains(why(R"({"prompt":"a","chosen":"","rejected":"b"})"), "1: the answer is empty");
  contains(why(R"({"chosen":"b","rejected":"c"})"), "1: is a preference pair without a question");
  contains(why(R"({"prompt":"a","chosen":"b"})"), "1: has a chosen answer and no rejected one");
  contains(why(R"({"prompt":"a","rejected":"b"})"), "1: has a rejected answer and none that is better");
  contains(why("{\"chosen\":[" + user + "],\"rejected\":[" + user + "]}"), "does not end with the assistant's turn");
  contains(why("{\"chosen\":[" + user + ',' + better + R"(],"rejected":[{"role":"user","content":"Of tar?"},)" + worse +
               "]}"),
           "part before their last turns");
  contains(why(R"({"prompt":"Another?",)" + sides + '}'),
           "the question beside the preference pair is not in its conversations");
  contains(why("{\"messages\":[" + user + ',' + better + R"(],"chosen":"Green","rejected":"Blue"})"),
           "ends with the assistant's turn already");
  CHECK(read_text("a.csv", "prompt,chosen\na,b\n").refused.find("has a chosen answer and no rejected one") == 0);
  // Written, told, and read back.
  const auto out = prepared({.files = {cases / "04-chat-formats/dpo.jsonl"}});
  CHECK(out.records[0].rejected == plain.rejected);
  CHECK(out.says("  1 preference pair, of which the better answer is learned to be preferred\n"));
  CHECK(out.says("    A:[[ Green]]\n    not [[ Blue]]\n"));
  const Scratch scratch;
  ft::text::write_records(scratch / "again.jsonl", out.records);
  CHECK(prepared({.files = {scratch / "again.jsonl"}}).records == out.records);
  const std::vector<Record> several = {
      {.id = "1", .question = "a", .answers = {"b", "c"}, .lang = "en", .rejected = {"d", "e"}},
      {.id = "2", .lang = "en", .turns = turned.turns, .rejected = {"Blue", "Red"}}};
  ft::text::write_records(scratch / "several.jsonl", several);
  const auto read = prepared({.files = {scratch / "several.jsonl"}});
  CHECK(read.records == several);
  CHECK(read.says("  4 preference pairs"));
}

TEST_CASE("cases/05: a question that is marked as impossible is left out and counted") {
  const auto table = read_source(cases / "05-squad/hf_flat.jsonl");
  CHECK(pairs(table) == Pairs{{"Colour?", "green"}});
  CHECK(says(table, "2: id h2: there is no answer"));
  const auto marked = [](std::string_view mark) {
    return read_text("a.jsonl", str(R"({"id":"h","question":"Sky?","answers":{"text":["blue"]},)", mark, "}"));
  };
  for (const char* mark : {R"("is_impossible":true)", R"("is_impossible":"True")", R"("is_impossible":1)",
                           R"("answerable":false)", R"("is_answerable":0)"})
    CHECK_MESSAGE(says(marked(mark), "1: id h: is marked as a question without an answer"), mark);
  CHECK(marked(R"("is_impossible":false)").records.size() == 1);
  CHECK(read_text("a.jsonl", R"({"query":"a","answers":["No Answer Present."]})").records.empty());
  CHECK(read_text("a.jsonl", R"({"question":"a","answers":["CANNOTANSWER"]})").records.empty());
  CHECK(says(read_text("a.csv", "question,answer,is_impossible\na?,b,True\nc?,d,False\n"),
             "2: is marked as a question without an answer"));
}

TEST_CASE("cases/06: digits as they are written, blanks that are none, and JSON as people have it") {
  const auto types = pairs("06-json-odd/types.jsonl");
  const auto has = [&](const char* question, const char* answer) {
    return std::find(types.begin(), types.end(), std::pair<std::string, std::string>(question, answer)) != types.end();
  };
  CHECK(has("Phone?", "12345678901234567890123"));
  CHECK(has("Price?", "3.10"));
  CHECK(has("Big?", "1e22"));
  CHECK(has("both", "real"));
  CHECK(has("real prompt", "x"));
  CHECK(has("both2", "real"));
  CHECK(types.size() == 12);
  const auto all = read_source(cases / "06-json-odd/types.jsonl");
  CHECK(all.bad.size() == 14);
  CHECK(says(all, "11: the answer is empty"));  // U+00A0
  CHECK(says(all, "24: the answer is empty"));  // U+200B
  CHECK(says(all, "19: the key 'answer' is there twice"));
  for (const char* blank :
       {"\\u3000", "\\u2028", "\\ufeff", "\\u2060\\u00ad", "\\u180e", "\\u3164", "\\u0085", "\\u2800"})
    CHECK_MESSAGE(
        says(read_text("a.jsonl", str(R"({"question":"a","answer":")", blank, "\"}")), "1: the answer is empty"),
        blank);
  CHECK(pairs(read_text("a.json",
                        R"([{"question":-0,"answer":-0.50},{"question":"n","answer":18446744073709551616}])")) ==
        Pairs{{"-0", "-0.50"}, {"n", "18446744073709551616"}});
  CHECK(pairs("06-json-odd/nan.json") == grass);
  CHECK(says(read_source(cases / "06-json-odd/nan.json"), "NaN or Infinity, read as nothing: 1"));
  CHECK(pairs("06-json-odd/nan.jsonl") == Pairs{{"Colour of grass?", "Green"}, {"Sun?", "Yellow"}});
  CHECK(pairs(read_text("a.json", R"([{"question":"NaN, or -Infinity,]?","answer":"a","x":-Infinity,}, ])")) ==
        Pairs{{"NaN, or -Infinity,]?", "a"}});
  for (const char* name : {"pretty_concat.json", "pretty_concat.jsonl"})
    CHECK(pairs((std::string("06-json-odd/") + name).c_str()) ==
          Pairs{{"Colour of grass?", "Green"}, {"Lemon?", "Yellow"}});
  CHECK(pairs("06-json-odd/columns.json") == Pairs{{"Colour of grass?", "Green"}, {"Sky?", "Blue"}});
  CHECK(pairs(read_text("a.json", R"({"question":["a","b"],"answer":["1",2]})")) == Pairs{{"a", "1"}, {"b", "2"}});
  CHECK(says(read_text("a.json", R"({"question":["a","b"],"answer":["1"]})"), "is a table by columns of which"));
  CHECK(says(read_text("a.jsonl", "{'question': 'a', 'answer': 'b'}\n"), "as Python prints a dict, it is no JSON"));
  CHECK(pairs("06-json-odd/array.jsonl") == grass);
  CHECK(pairs("06-json-odd/bracketed.jsonl") == grass_and_lemon);
  CHECK(pairs("06-json-odd/trailing.jsonl") == grass_and_lemon);
  CHECK(pairs("06-json-odd/single.json") == grass);
  const auto splits = read_source(cases / "06-json-odd/splits.json");
  CHECK(pairs(splits) == Pairs{{"Sky?", "Blue"}, {"Colour of grass?", "Green"}});
  CHECK(splits.records[0].split == "test");
  CHECK(splits.records[1].split == "train");
  CHECK(refusal({.files = {cases / "06-json-odd/qdict.json"}})
            .find("none of \"Colour of grass?\", \"Sky?\" is known as a question") != std::string::npos);
  for (const char* name : {"empty.csv", "empty.json", "empty.jsonl", "emptylist.json", "headeronly.csv"})
    CHECK_MESSAGE(refusal({.files = {cases / "06-json-odd" / name}}).find(": holds no record") != std::string::npos,
                  name);
  CHECK(refusal({.files = {cases / "06-json-odd/onecol.csv"}}).find("none is named answer: \"question\"") !=
        std::string::npos);
  CHECK(pairs(read_text("a.json", R"({"rows":[{"row_idx":0,"row":{"question":"a","answer":"b"}}]})")) ==
        Pairs{{"a", "b"}});
  CHECK(pairs(read_text("a.json", R"({"questions":[{"question":"a","answer":{"value":"b","aliases":["c"]}}]})")) ==
        Pairs{{"a", "b"}});

  const auto dups = prepared({.files = {cases / "06-json-odd/dups.jsonl"}});
  CHECK(dups.records.size() == 4);
  CHECK(dups.says("left out: 1 that were there already"));
  CHECK(dups.says("1 id that were there already got a number"));
  CHECK(dups.says("warning: 1 question with different answers"));
}

TEST_CASE("cases/08: splits by all their usual names; a row without one is trained; what is not trained is told") {
  for (const char* name : {"val", "valid", "Validation", "DEV", "eval", " development "})
    CHECK_MESSAGE(ft::text::split_name(name) == "valid", name);
  for (const char* name : {"train", "Training", "TRAIN", "학습"})
    CHECK_MESSAGE(ft::text::split_name(name) == "train", name);
  for (const char* name : {"test", "Testing"}) CHECK_MESSAGE(ft::text::split_name(name) == "test", name);
  CHECK(ft::text::split_name("Untrained ") == "Untrained");
  const auto both = prepared({.files = {cases / "08-splits/both.jsonl"}});
  CHECK(both.records.size() == 53);
  CHECK(both.says("splits: none 30 (is trained), train 20, valid 3\n"));
  const auto caps = ft::text::read_records(cases / "08-splits/caps.jsonl");
  CHECK(caps.front().split == "train");
  CHECK(caps.back().split == "test");
  const Scratch scratch;
  std::ofstream(scratch / "a.jsonl") << R"({"question":"a","answer":"b","split":"train"})" << '\n'
                                     << R"({"question":"c","answer":"d","split":"holdout"})" << '\n';
  const auto sets = read_text("a.csv", "question,answer,set\na,b,Validation\nc,d,x\n").records;
  CHECK(sets[0].split == "valid");
  CHECK(sets[1].split.empty());  // what it names is no split
  CHECK(says(read_text("a.csv", "question,answer,set,chat\na,b,x,y\n"), "not used: \"chat\", \"set\""));
  CHECK(read_text("a.csv", "question,answer,language\na,b,ko-KR\n").records[0].lang == "ko");
  CHECK(
      prepared({.files = {scratch / "a.jsonl"}}).says("holdout 1 (is not trained: not train, valid or test), train 1"));
}

TEST_CASE("cases/18: splits by the files' names, and rows that do not fit, by line") {
  const auto count = [](const std::vector<Record>& records, std::string_view split) {
    return std::count_if(records.begin(), records.end(), [&](const Record& r) { return r.split == split; });
  };
  const auto hf = cases / "18-misc/hf";
  for (const auto& files : {std::vector<fs::path>{hf}, {hf / "train.jsonl", hf / "valid.jsonl", hf / "test.jsonl"}}) {
    const auto out = prepared({.files = files});
    CHECK(count(out.records, "train") == 4);
    CHECK(count(out.records, "valid") == 4);
    CHECK(count(out.records, "test") == 4);
    CHECK(out.says("splits: test 4, train 4, valid 4; 12 by their files' names\n"));
    CHECK(out.says("  split \"valid\" by its name\n"));
    CHECK(out.says("files of which nothing is read: \"README.txt\", \"dataset_info.json\"\n") == (files.size() == 1));
  }
  // One file is all there is, whatever its name.
  CHECK(count(prepared({.files = {hf / "test.jsonl"}}).records, "") == 4);
  CHECK(detail::split_of_name("KorQuAD_v1.0_dev.json", ".") == "valid");
  CHECK(detail::split_of_name("train-00000-of-00001.jsonl", ".") == "train");
  CHECK(detail::split_of_name("train_test.json", ".") == "");
  CHECK(detail::split_of_name("contest.json", ".") == "");
  CHECK(detail::split_of_name(cases / "Validation" / "b" / "a.csv", cases) == "valid");  // the folder's name
  const auto quotes = read_source(cases / "18-misc/bs.csv");
  CHECK(quotes.records.size() == 2);
  CHECK(says(quotes, "2: there is text behind a closing quote"));
  CHECK(says(read_source(cases / "18-misc/unclosed.csv"), "2: there is text behind a closing quote"));
  CHECK(pairs("18-misc/tabs.tsv").front().first == "\"Gone with the wind\" is a film?");
  CHECK(says(read_source(cases / "18-misc/deep.json"), "nested deeper than 128 levels"));
}

TEST_CASE("cases: prepare writes no line that train refuses, and never over what it reads") {
  const Scratch scratch;
  std::ofstream(scratch / "a.json") << R"([{"question":"long","answer":")" << std::string(ft::text::max_line_bytes, 'x')
                                    << R"("},{"question":"a","answer":"b"}])";
  const auto out = prepared({.files = {scratch / "a.json"}});
  CHECK(out.records.size() == 1);
  CHECK(out.says("bytes, more than 1048576\n"));
  const auto before = ft::read_file(scratch / "a.json", 1 << 22);
  for (const fs::path& name : {scratch / "a.json", scratch.path() / "." / "a.json"}) {
    std::ostringstream report;
    CHECK_THROWS_WITH_AS(prepare({.files = {scratch / "a.json"}, .out = name}, report),
                         doctest::Contains("is to be read and to be written"), Error);
  }
  CHECK(ft::read_file(scratch / "a.json", 1 << 22) == before);
}

TEST_CASE("cases: prepare says lengths in a model's tokens, and warns of answers of several lines") {
  const auto model = fs::path(FTLIB_TEST_DATA) / "models/llama_q4_1.gguf";
  const auto out = prepared({.files = {cases / "11-train/multi.jsonl"}, .model = model});
  CHECK(out.says("  tokens a record: half have up to "));
  CHECK(out.says("    Q: List the colours.\n    A:[[ red\n    green\n    blue"));
  CHECK(out.says("warning: 3 answers have several lines, and a line's end ends answers in the question-answer form"));
  // No chat template.
  const auto chat = prepared({.files = {cases / "04-chat-formats/sharegpt.json"}, .model = model});
  CHECK(chat.says("warning: this model does not learn them in the chat form: "));
  CHECK(chat.says("    assistant: [[Yellow.]]\n"));
  CHECK(refusal({.files = {cases / "11-train/multi.jsonl"}, .model = cases / "nowhere.gguf"}).find("nowhere.gguf") !=
        std::string::npos);
}
