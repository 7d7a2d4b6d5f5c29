// examples/qa/readers.hpp: questions and answers out of the files people have: JSON, JSON lines, CSV, TSV, SQuAD and
// KorQuAD, WebQuestions, the chatterbot corpus's YAML, Open Trivia's text. A reader keeps what it can and lists the
// rest.
#pragma once
#include "../common/rows.hpp"

#include <ftlib/io/file.hpp>
#include <ftlib/io/json.hpp>
#include <ftlib/text/records.hpp>

#include <yaml-cpp/yaml.h>

#include <algorithm>    // std::find, std::count, std::sort
#include <array>        // std::array
#include <cstdint>      // std::int64_t
#include <filesystem>   // std::filesystem
#include <iterator>     // std::input_iterator_tag
#include <string>       // std::string
#include <string_view>  // std::string_view
#include <utility>      // std::exchange, std::move
#include <vector>       // std::vector

namespace qa {

using examples::lowered;
using examples::Rows;
using examples::trimmed;
using ft::Error;
using ft::Json;
using ft::str;
using ft::text::BadRecord;
using ft::text::Record;

/// What becomes of a passage and of a conversation.
enum class Form {
  qa,       ///< a question and its answers alone; a conversation's first turn is the question, all others are answers
  chat,     ///< a record for each turn after a conversation's first, the turns before its question as the context
  context,  ///< as qa, and the passage or input that a question came with is kept as its context
};

/// What a file held.
struct Source {
  std::vector<Record> records;  ///< ids only where the file has them
  std::vector<BadRecord> bad;
};

using Names = std::vector<std::string_view>;
inline const Names question_names = {"question", "q", "prompt", "instruction", "qtext", "질문"};
inline const Names answer_names = {"answer", "answers", "a", "response", "output", "completion", "답변", "답"};
inline const Names input_names = {"input"};
inline const Names context_names = {"context", "passage"};
inline const Names id_names = {"id", "qid"};

/// Collects the records of one file, and lists what is unfit.
class Collector {
 public:
  Collector(const std::filesystem::path& file, Form form) : file_(file.string()), form_(form) {}

  void bad(std::int64_t line, std::string why) { source_.bad.push_back({file_, line, std::move(why)}); }

  /// `input` is what a task is to be done on: a part of the question, or the context where that is kept.
  void add(std::int64_t line, Record record, std::string_view input = {}) {
    record.question = trimmed(record.question);
    record.context = trimmed(record.context);
    if (const auto task = trimmed(input); !task.empty()) {
      if (form_ == Form::context && record.context.empty()) record.context = task;
      else record.question += '\n' + task;
    }
    if (form_ == Form::qa) record.context.clear();
    std::vector<std::string> answers;
    for (const auto& answer : record.answers)
      if (auto text = trimmed(answer); std::find(answers.begin(), answers.end(), text) == answers.end())
        answers.push_back(std::move(text));
    record.answers = std::move(answers);
    if (const auto fault = record_fault(record); !fault.empty())
      bad(line,
          record.id.empty() || !ft::text::text_fault(record.id).empty() ? fault : str("id ", record.id, ": ", fault));
    else source_.records.push_back(std::move(record));
  }

  Form form() const { return form_; }
  Source take() { return std::move(source_); }

 private:
  std::string file_;
  Form form_;
  Source source_;
};

// --- JSON and JSON lines -------------------------------------------------------------------------------------------

/// The first of an object's members that has one of these names, in whatever case; null where there is none.
inline const Json& member(const Json& object, const Names& names) {
  static const Json none;
  for (const auto name : names)
    for (const auto& [key, value] : object.items())
      if (lowered(key) == name) return value;
  return none;
}

inline std::string text_of(const Json& value, std::string_view what) {
  if (value.is_null()) return {};
  if (value.is_string()) return value.get<std::string>();
  if (value.is_number()) return value.dump();
  throw Error(str("the ", what, " is not text"));
}

/// "text", ["text", ...], [{"text": ...}, ...] (SQuAD) or {"text": [...]} (SQuAD as a table).
inline std::vector<std::string> answers_of(const Json& value) {
  if (value.is_null()) return {};
  if (value.is_object() && value.contains("text")) return answers_of(value["text"]);
  if (!value.is_array()) return {text_of(value, "answer")};
  std::vector<std::string> answers;
  for (const auto& one : value)
    answers.push_back(text_of(one.is_object() && one.contains("text") ? one["text"] : one, "answer"));
  return answers;
}

inline void add_object(Collector& out, std::int64_t line, const Json& object, const Json& passage = {}) {
  try {
    Record record;
    record.id = text_of(member(object, id_names), "id");
    record.question = text_of(member(object, question_names), "question");
    record.answers = answers_of(member(object, answer_names));
    record.context = text_of(passage.is_null() ? member(object, context_names) : passage, "context");
    record.lang = text_of(member(object, {"lang", "language"}), "language");
    record.split = text_of(member(object, {"split"}), "split");
    if (record.answers.empty() && member(object, {"is_impossible"}) == true)
      out.bad(line, str("id ", record.id, ": is marked as a question without an answer"));
    else out.add(line, std::move(record), text_of(member(object, input_names), "input"));
  } catch (const Error& e) {
    out.bad(line, e.message());
  }
}

/// Reads a text and counts its lines, so that the parser's position can be told while it parses.
struct LineCountingIterator {
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  const char* at;
  std::int64_t* line;

  reference operator*() const { return *at; }
  LineCountingIterator& operator++() {
    if (*at++ == '\n') ++*line;
    return *this;
  }
  LineCountingIterator operator++(int) {
    const auto before = *this;
    ++*this;
    return before;
  }
  friend bool operator==(LineCountingIterator a, LineCountingIterator b) { return a.at == b.at; }
};

inline constexpr const char* line_member = "\nline";  // no file's key has a line feed

/// The text's value, in which each object has a member more: the line on which it starts. Throws Json::parse_error,
/// Json::out_of_range for a number that no double holds, and Error for what is nested so deep that a function that
/// walks down it could run out of stack.
inline Json parse_with_lines(std::string_view text) {
  std::int64_t line = 1;
  std::vector<std::int64_t> starts;
  const auto note = [&](int depth, Json::parse_event_t event, Json& value) {
    if (depth > ft::max_json_depth) throw Error(str("nested deeper than ", ft::max_json_depth, " levels"));
    if (event == Json::parse_event_t::object_start) {
      starts.push_back(line);
    } else if (event == Json::parse_event_t::object_end) {
      value[line_member] = starts.back();
      starts.pop_back();
    }
    return true;
  };
  return Json::parse(LineCountingIterator{text.data(), &line}, LineCountingIterator{text.data() + text.size(), &line},
                     note);
}

inline void read_json_lines(Collector& out, const std::filesystem::path& path) {
  ft::text::LineReader lines(path);
  for (std::string line; lines.next(line);) {
    if (auto fault = lines.fault(line); !fault.empty()) {
      out.bad(lines.number(), std::move(fault));
      continue;
    }
    if (trimmed(line).empty()) continue;
    try {
      const Json object = parse_with_lines(line);
      if (object.is_object()) add_object(out, lines.number(), object);
      else out.bad(lines.number(), "the line is not a JSON object");
    } catch (const Json::parse_error& e) {
      out.bad(lines.number(), str("not JSON at byte ", e.byte));
    } catch (const Json::out_of_range&) {
      out.bad(lines.number(), "a number is too large");
    } catch (const Error& e) {
      out.bad(lines.number(), e.message());
    }
  }
}

/// A list of objects, {"data": [objects]}, SQuAD's {"data": [{"paragraphs": [...]}]}, or one object; or JSON lines,
/// which many a .json file holds.
inline void read_json(Collector& out, const std::filesystem::path& path, std::string_view text) {
  const auto line_at = [&](std::size_t byte) {
    return std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(std::min(byte, text.size())), '\n') + 1;
  };
  Json root;
  try {
    root = parse_with_lines(text);
  } catch (const Json::parse_error& e) {
    if (text.starts_with('{') && Json::accept(text.substr(0, text.find('\n')))) return read_json_lines(out, path);
    return out.bad(line_at(e.byte > 0 ? e.byte - 1 : 0), "not JSON from here on");
  } catch (const Json::out_of_range&) {
    return out.bad(1, "a number in the file is too large");
  } catch (const Error& e) {
    return out.bad(1, e.message());
  }
  std::int64_t line = 1;
  // Calls what(object) for each object of a list; anything else in its place is bad.
  const auto each = [&](const Json& list, std::string_view name, const auto& what) {
    if (!list.is_array()) return out.bad(line, str("\"", name, "\" is not a list"));
    for (std::size_t i = 0; i < list.size(); ++i) {
      if (!list[i].is_object()) {
        out.bad(line, str("entry ", i + 1, " of \"", name, "\" is not an object"));
        continue;
      }
      line = list[i][line_member].get<std::int64_t>();
      what(list[i]);
    }
  };
  const auto read_question = [&](const Json& object) { add_object(out, line, object); };
  const auto read_paragraph = [&](const Json& paragraph) {
    const Json passage = paragraph.contains("context") ? paragraph["context"] : Json("");
    each(member(paragraph, {"qas"}), "qas", [&](const Json& question) { add_object(out, line, question, passage); });
  };
  const auto read_article = [&](const Json& object) {
    if (object.contains("paragraphs")) each(object["paragraphs"], "paragraphs", read_paragraph);
    else read_question(object);
  };
  if (root.is_array()) each(root, "the list", read_article);
  else if (root.is_object() && root.contains("data")) each(root["data"], "data", read_article);
  else if (root.is_object()) read_article(root);
  else out.bad(1, "neither a list of objects nor SQuAD's {\"data\": ...}");
}

// --- CSV and TSV ---------------------------------------------------------------------------------------------------

/// With a header that names a question and an answer column, or without one: then the first two columns of two or
/// three.
inline void read_table(Collector& out, std::string_view text, char delimiter) {
  Rows rows(text, delimiter);
  constexpr std::size_t absent = static_cast<std::size_t>(-1);
  std::size_t width = 0, question = 0, answer = 1, input = absent, context = absent, id = absent, lang = absent,
              split = absent;
  while (rows.next()) {
    const auto& cells = rows.cells;
    if (!rows.why.empty()) {
      out.bad(rows.line, rows.why);
      continue;
    }
    if (cells.size() == 1 && trimmed(cells[0]).empty()) continue;
    if (width == 0) {  // the first row
      width = cells.size();
      const auto column = [&](const Names& names) {
        for (const auto name : names)
          for (std::size_t i = 0; i < cells.size(); ++i)
            if (lowered(trimmed(cells[i])) == name) return i;
        return absent;
      };
      if (column(question_names) != absent && column(answer_names) != absent) {
        question = column(question_names), answer = column(answer_names);
        input = column(input_names), context = column(context_names);
        id = column(id_names), lang = column({"lang", "language"}), split = column({"split"});
        continue;
      }
      if (width < 2 || width > 3)
        return out.bad(
            rows.line,
            str("of the ", width,
                " columns none is named question (or q, prompt, instruction) and answer (or a, response, output)"));
    }
    if (cells.size() != width) {
      out.bad(rows.line, str("the row has ", cells.size(), " columns, the first has ", width));
      continue;
    }
    const auto cell = [&](std::size_t column) { return column == absent ? std::string() : cells[column]; };
    out.add(rows.line, {cell(id), cell(question), {cell(answer)}, cell(context), cell(lang), cell(split)}, cell(input));
  }
}

// --- the chatterbot corpus -----------------------------------------------------------------------------------------

inline void read_chatterbot(Collector& out, const std::string& text) try {
  const YAML::Node conversations = YAML::Load(text)["conversations"];
  if (!conversations || !conversations.IsSequence()) return out.bad(1, "there is no list named conversations");
  for (const auto& conversation : conversations) {
    const auto line = std::int64_t{conversation.Mark().line} + 1;
    std::vector<std::string> turns;
    if (conversation.IsSequence())
      for (const auto& turn : conversation)
        if (turn.IsScalar()) turns.push_back(turn.Scalar());
    if (!conversation.IsSequence() || turns.size() != conversation.size()) {
      out.bad(line, "the conversation is not a list of texts; is one with ': ' in it unquoted?");
    } else if (turns.size() < 2) {
      out.bad(line, "the conversation has no second turn");
    } else if (out.form() != Form::chat) {
      out.add(line, {"", turns[0], {turns.begin() + 1, turns.end()}, "", "", ""});
    } else {
      std::string before;
      for (std::size_t i = 1; i < turns.size(); ++i) {
        out.add(line, {"", turns[i - 1], {turns[i]}, before, "", ""});
        before += turns[i - 1] + '\n';
      }
    }
  }
} catch (const YAML::Exception& e) {
  out.bad(std::max(std::int64_t{e.mark.line}, std::int64_t{0}) + 1, str("not YAML: ", e.msg));
}

// --- Open Trivia ---------------------------------------------------------------------------------------------------

/// "#Q question", which may go on over lines; "^ answer"; then the choices, which are passed over.
inline void read_trivia(Collector& out, const std::filesystem::path& path) {
  ft::text::LineReader lines(path);
  Record record;
  std::int64_t start = 0;  // the open question's line; 0 between a block's answer and the next question
  bool any = false;
  std::string fault;
  const auto give_up = [&] {
    if (start > 0) out.bad(start, "a question without an answer");
    start = 0;
  };
  for (std::string line; lines.next(line);) {
    if (line.starts_with("#Q")) {
      give_up();
      any = true;
      start = lines.number();
      record = {"", line.substr(2), {}, "", "", ""};
      fault.clear();
    }
    if (start == 0) continue;
    if (fault.empty()) fault = lines.fault(line);
    if (line.starts_with("^")) {
      record.answers = {line.substr(1)};
      if (fault.empty()) out.add(start, std::exchange(record, {}));
      else out.bad(start, fault);
      start = 0;
    } else if (lines.number() > start) {
      record.question += '\n' + line;
    }
  }
  give_up();
  if (!any) out.bad(1, "no line starts with #Q");
}

// --- files and folders ---------------------------------------------------------------------------------------------

inline constexpr std::array<std::string_view, 8> source_endings = {".json", ".jsonl", ".ndjson", ".csv",
                                                                   ".tsv",  ".yml",   ".yaml",   ".txt"};
inline bool is_source(const std::filesystem::path& path) {
  return std::find(source_endings.begin(), source_endings.end(), lowered(path.extension().string())) !=
         source_endings.end();
}

/// The file itself, or what a folder and its folders hold of the kinds that can be read, in the order of their names.
/// Throws Error where there is nothing to read.
inline std::vector<std::filesystem::path> source_files(const std::filesystem::path& path) {
  constexpr auto kinds = "it reads .json, .jsonl, .csv, .tsv, .yml, .yaml and .txt (Open Trivia), and folders of them.";
  if (!std::filesystem::exists(path)) throw Error(str(path.string(), ": there is no such file"), "check the name.");
  if (!std::filesystem::is_directory(path)) {
    if (!is_source(path))
      throw Error(str(path.string(), ": '", path.extension().string(), "' is no kind of file that prepare reads"),
                  kinds);
    return {path};
  }
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(path))
    if (entry.is_regular_file() && is_source(entry.path())) files.push_back(entry.path());
  if (files.empty()) throw Error(str(path.string(), ": the folder holds no file that prepare reads"), kinds);
  std::sort(files.begin(), files.end());
  return files;
}

/// The records of one file. Throws Error where it cannot be read at all; what is wrong inside is listed.
inline Source read_source(const std::filesystem::path& path, Form form) {
  Collector out(path, form);
  const auto ending = lowered(path.extension().string());
  if (ending == ".jsonl" || ending == ".ndjson") {
    read_json_lines(out, path);
    return out.take();
  }
  if (ending == ".txt") {
    read_trivia(out, path);
    return out.take();
  }
  std::string text = ft::read_file(path, ft::max_json_bytes);
  if (text.starts_with("\xEF\xBB\xBF")) text.erase(0, 3);
  if (ending == ".csv" || ending == ".tsv") {
    read_table(out, text, ending == ".csv" ? ',' : '\t');
    return out.take();
  }
  // JSON and YAML are one value: a byte that is not UTF-8 spoils all of it, and is looked for first to name its line.
  std::int64_t line = 1;
  for (std::string_view rest = text; !rest.empty(); ++line) {
    const auto end = std::min(rest.size(), rest.find('\n') == rest.npos ? rest.size() : rest.find('\n') + 1);
    if (auto fault = ft::text::text_fault(rest.substr(0, end)); !fault.empty()) {
      out.bad(line, std::move(fault));
      return out.take();
    }
    rest.remove_prefix(end);
  }
  if (ending == ".json") read_json(out, path, text);
  else read_chatterbot(out, text);
  return out.take();
}

}  // namespace qa
