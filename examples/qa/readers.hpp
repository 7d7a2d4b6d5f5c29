// examples/qa/readers.hpp: questions, answers and conversations out of the files people have: JSON, JSON lines, CSV,
// TSV, SQuAD and KorQuAD, WebQuestions, chat data, the chatterbot corpus's YAML, Open Trivia's text. A reader keeps
// what it can, lists the rest, and says what it took for what.
#pragma once
#include "readers/collector.hpp"
#include "readers/json.hpp"
#include "readers/table.hpp"

#include <yaml-cpp/yaml.h>

#include <algorithm>    // std::find, std::sort, std::max
#include <array>        // std::array
#include <cstdint>      // std::int64_t
#include <filesystem>   // std::filesystem
#include <string>       // std::string
#include <string_view>  // std::string_view
#include <utility>      // std::exchange, std::move
#include <vector>       // std::vector

namespace qa {

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
inline void read_trivia(Collector& out, std::string_view text) {
  Lines lines(text);
  Record record;
  std::int64_t start = 0;  // the open question's line; 0 between a block's answer and the next question
  bool any = false;
  std::string fault;
  const auto give_up = [&] {
    if (start > 0) out.bad(start, "a question without an answer");
    start = 0;
  };
  for (std::string_view line; lines.next(line);) {
    if (line.starts_with("#Q")) {
      give_up();
      any = true;
      start = lines.number();
      record = {"", std::string(line.substr(2)), {}, "", "", ""};
      fault.clear();
    }
    if (start == 0) continue;
    if (fault.empty()) fault = Lines::fault(line);
    if (line.starts_with("^")) {
      record.answers = {std::string(line.substr(1))};
      if (fault.empty()) out.add(start, std::exchange(record, {}));
      else out.bad(start, fault);
      start = 0;
    } else if (lines.number() > start) {
      record.question.append("\n").append(line);
    }
  }
  give_up();
  if (!any)
    out.refuse(
        1, "no line starts with #Q, as Open Trivia's text has it",
        "plain text is learned from lines of {\"text\": ...} in a .jsonl file; questions and answers may stand in "
        "a .csv, .tsv, .json or .jsonl file.");
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
inline Source read_source(const std::filesystem::path& path, const ReadOptions& options = {}) {
  Collector out(path, options);
  const auto ending = lowered(path.extension().string());
  const bool lines =
      ending == ".jsonl" || ending == ".ndjson" || ending == ".txt";  // one value or record after the other
  const auto decoded = decode(ft::read_file(path, lines ? 32 * ft::max_json_bytes : ft::max_json_bytes), path);
  const std::string_view text = decoded.text;
  if (!decoded.note.empty()) out.note(decoded.note);
  if (!decoded.fault.empty()) {
    out.refuse(1, decoded.fault, decoded.hint);
    return out.take();
  }
  if (!decoded.hint.empty()) out.hint(decoded.hint);
  if (ending == ".txt") {
    read_trivia(out, text);
  } else if (ending == ".csv" || ending == ".tsv") {
    read_table(out, text, ending == ".csv" ? ',' : '\t');
  } else if (ending == ".jsonl" || ending == ".ndjson") {
    if (goes_over_lines(text) && text.size() <= ft::max_json_bytes) read_json(out, text);
    else read_json_lines(out, text);
  } else {
    // JSON and YAML are one value: a byte that is not UTF-8 spoils all of it, and is looked for first to name its line.
    Lines all(text);
    for (std::string_view line; all.next(line);)
      if (auto fault = ft::text::text_fault(line); !fault.empty()) {
        out.bad(all.number(), std::move(fault));
        return out.take();
      }
    if (ending != ".json") read_chatterbot(out, std::string(text));
    else if (is_object_a_line(text)) read_json_lines(out, text);  // which many a .json file holds
    else read_json(out, text);
  }
  return out.take();
}

}  // namespace qa
