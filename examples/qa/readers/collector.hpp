// examples/qa/readers/collector.hpp: what the readers of people's files give to: the records of a file, and what of it
// was left out, not used or guessed at.
#pragma once
#include "../../common/encoding.hpp"
#include "../../common/rows.hpp"
#include "../members.hpp"

#include <ftlib/io/file.hpp>
#include <ftlib/io/json.hpp>
#include <ftlib/text/records.hpp>

#include <algorithm>    // std::find
#include <cstdint>      // std::int64_t
#include <filesystem>   // std::filesystem
#include <map>          // std::map
#include <string>       // std::string
#include <string_view>  // std::string_view
#include <utility>      // std::exchange, std::move
#include <vector>       // std::vector

namespace qa {

using examples::decode;
using examples::Decoded;
using examples::Lines;
using examples::lowered;
using examples::Rows;
using examples::trimmed;
using ft::Error;
using ft::Json;
using ft::str;
using ft::text::BadRecord;
using ft::text::Record;

/// What becomes of a passage and of a chatterbot's conversation.
enum class Form {
  qa,       ///< a question and its answers alone; a conversation's first turn is the question, all others are answers
  chat,     ///< a record for each turn after a conversation's first, the turns before its question as the context
  context,  ///< as qa, and the passage or input that a question came with is kept as its context
};

/// How files are read.
struct ReadOptions {
  Form form;
  Columns columns;
  bool no_header = false;   ///< tables have no row of names
  char delimiter = 0;       ///< of tables; 0: found
  bool unanswered = false;  ///< questions without an answer are records; else they are bad

  ReadOptions(Form f = Form::qa) : form(f) {}
};

/// What a file held.
struct Source {
  std::vector<Record> records;      ///< ids only where the file has them
  std::vector<std::int64_t> lines;  ///< on which they start
  std::vector<BadRecord> bad;
  std::vector<std::string> notes;  ///< what was taken for what, and what was passed over
  std::string refused;             ///< why nothing of the file is read; empty where it is
  std::string hint;                ///< how to mend what is bad, where that is known
};

inline constexpr const char* no_context_note = "contexts left out (--form context keeps them)";
inline constexpr const char* no_input_note = "inputs that say \"<noinput>\", read as none";

/// "ko" and "en" where a language's name or tag means these: scores go by it.
inline std::string language(const std::string& name) {
  const auto plain = plain_name(name);
  if (plain == "ko" || plain == "kor" || plain == "kokr" || plain == "korean" || plain == "한국어") return "ko";
  if (plain == "en" || plain == "eng" || plain == "enus" || plain == "engb" || plain == "english" || plain == "영어")
    return "en";
  return trimmed(name);
}

/// Collects the records of one file, and lists what is unfit.
class Collector {
 public:
  Collector(const std::filesystem::path& file, const ReadOptions& options) : file_(file.string()), options_(options) {}

  void bad(std::int64_t line, std::string why) { source_.bad.push_back({file_, line, std::move(why)}); }
  void bad(std::int64_t line, const Error& e) {
    bad(line, e.message());
    hint(e.hint());
  }
  /// Nothing of the file can be read.
  void refuse(std::int64_t line, std::string why, std::string how) {
    source_.refused = why;
    bad(line, std::move(why));
    hint(std::move(how));
  }
  void note(std::string text) { source_.notes.push_back(std::move(text)); }
  void hint(std::string how) {
    if (source_.hint.empty()) source_.hint = std::move(how);
  }
  /// Counts that a member of this name served as `what`, or that nothing took it.
  void served(const std::string& what, const std::string& name) {
    if (!name.empty()) ++served_[what][name];
  }
  void unused(const std::string& name) { ++unused_[name]; }
  void count(const std::string& what) { ++counts_[what]; }
  std::int64_t not_numbers = 0;  ///< NaN and infinities that were read as empty values

  /// `input` is what a task is to be done on: a part of the question, or the context where that is kept.
  void add(std::int64_t line, Record record, std::string_view input = {}) {
    if (record.turns.size() == 2 && record.turns[0].role == "user" && record.turns[1].role == "assistant") {
      record.question = std::move(record.turns[0].content);  // one question and its answer
      record.answers = {std::move(record.turns[1].content)};
      record.turns.clear();
    }
    record.split = ft::text::split_name(record.split);
    record.lang = language(record.lang);
    record.context = trimmed(record.context);
    bool no_input = false, no_context = false;
    if (record.turns.empty() && record.text.empty()) {
      record.question = trimmed(record.question);
      std::string_view task = input;
      if (trimmed(input) == "<noinput>") {
        task = {};
        no_input = true;
      }
      if (const auto text = trimmed(task); !text.empty()) {
        if (options_.form == Form::context && record.context.empty()) record.context = text;
        else record.question += '\n' + text;
      }
      if (options_.form == Form::qa && !record.context.empty()) {
        no_context = true;
        record.context.clear();
      }
      std::vector<std::string> answers;
      for (const auto& answer : record.answers)
        if (auto text = trimmed(answer); std::find(answers.begin(), answers.end(), text) == answers.end())
          answers.push_back(std::move(text));
      record.answers = std::move(answers);
      for (auto& answer : record.rejected) answer = trimmed(answer);
    }
    if (const auto fault = record_fault(record); !fault.empty())
      return bad(line, record.id.empty() || !ft::text::text_fault(record.id).empty()
                           ? fault
                           : str("id ", record.id, ": ", fault));
    if (no_input) count(no_input_note);
    if (no_context) count(no_context_note);
    source_.records.push_back(std::move(record));
    source_.lines.push_back(line);
  }

  void use(const Columns& columns) { options_.columns = columns; }
  const ReadOptions& options() const { return options_; }
  Form form() const { return options_.form; }
  Source take() {
    std::string said;
    for (const char* what :
         {"question", "answer", "rejected", "turns", "text", "input", "context", "system", "history", "split"}) {
      const auto& names = served_[what];
      if (names.empty()) continue;
      said += str(said.empty() ? "" : "; ", what, " from ");
      const char* comma = "";
      for (const auto& [name, times] : names) {
        said += str(std::exchange(comma, ", "), '"', ft::printable(name, 60), '"');
        if (names.size() > 1) said += str(" (", times, ')');
      }
    }
    if (!said.empty()) note(std::move(said));
    if (!unused_.empty()) {
      std::vector<std::string> names;
      for (const auto& [name, times] : unused_) names.push_back(name);
      note("not used: " + listed(names));
    }
    for (const auto& [what, times] : counts_) note(str(what, ": ", times));
    if (not_numbers > 0) note(str("NaN or Infinity, read as nothing: ", not_numbers));
    return std::move(source_);
  }

 private:
  std::string file_;
  ReadOptions options_;
  Source source_;
  std::map<std::string, std::map<std::string, std::int64_t>> served_;
  std::map<std::string, std::int64_t> unused_, counts_;
};

}  // namespace qa
