// examples/qa/readers.hpp: questions, answers and conversations out of the files people have: JSON, JSON lines, CSV,
// TSV, SQuAD and KorQuAD, WebQuestions, chat data, the chatterbot corpus's YAML, Open Trivia's text. A reader keeps
// what it can, lists the rest, and says what it took for what.
#pragma once
#include "../common/encoding.hpp"
#include "../common/rows.hpp"
#include "conversations.hpp"
#include "loose_json.hpp"
#include "members.hpp"

#include <ftlib/io/file.hpp>
#include <ftlib/io/json.hpp>
#include <ftlib/text/records.hpp>

#include <yaml-cpp/yaml.h>

#include <algorithm>    // std::find, std::count, std::sort
#include <array>        // std::array
#include <cstdint>      // std::int64_t
#include <filesystem>   // std::filesystem
#include <map>          // std::map
#include <optional>     // std::optional
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

// --- one object ----------------------------------------------------------------------------------------------------

inline std::string text_of(const Json& value, std::string_view what) {
  if (value.is_null()) return {};
  if (value.is_string()) return value.get<std::string>();  // a number is its digits, see loose_json.hpp
  throw Error(str("the ", what, " is not text"));
}

/// "text", ["text", ...], [{"text": ...}, ...] (SQuAD), {"text": [...]} (SQuAD as a table), or {"value": "text",
/// "aliases": [...]} (TriviaQA).
inline std::vector<std::string> answers_of(const Json& value) {
  if (value.is_null()) return {};
  if (value.is_object() && value.contains("text")) return answers_of(value["text"]);
  if (value.is_object() && value.contains("value") && value.contains("aliases")) {
    auto answers = answers_of(value["aliases"]);
    answers.insert(answers.begin(), text_of(value["value"], "answer"));
    return answers;
  }
  if (!value.is_array()) return {text_of(value, "answer")};
  std::vector<std::string> answers;
  for (const auto& one : value)
    answers.push_back(text_of(one.is_object() && one.contains("text") ? one["text"] : one, "answer"));
  return answers;
}

inline bool says_yes(const Json& value) {
  return value == true || (value.is_string() && (value == "1" || lowered(value.get<std::string>()) == "true"));
}
inline bool says_no(const Json& value) {
  return value == false || (value.is_string() && (value == "0" || lowered(value.get<std::string>()) == "false"));
}

inline constexpr const char* columns_hint =
    "say which they are: --question-column NAME --answer-column NAME (a table's columns also by number, from 1).";

/// The member of a plain text, where the object is one and not a task of its own, whose two sides can be said.
inline std::string plain_text_name(Members& members) {
  for (const auto* name : {"label", "labels", "summary", "highlights", "category", "sentiment", "translation"})
    if (!members.named(name).is_null()) return {};
  for (const auto name : text_names)
    if (members.named(name).is_string()) return std::string(name);
  return {};
}

/// What an object is that is neither question and answer nor conversation, as an Error with what to do.
inline Error not_a_record(Members& members) {
  if (!members.named("chosen").is_null())
    return Error("has a chosen answer and no rejected one",
                 "to learn the chosen answers alone, say --answer-column chosen.");
  if (!members.named("rejected").is_null())
    return Error("has a rejected answer and none that is better", "a preference pair has a chosen answer too.");
  if (const auto name = plain_text_name(members); !name.empty())
    return Error(str("is plain text (\"", name, "\"), without a question and an answer"),
                 "as lines of {\"text\": ...} in a .jsonl file it is learned whole.");
  return Error(str("none of ", listed(members.keys()), " is known as a question"), columns_hint);
}

/// Turns where the object is a conversation; none where it is a question and its answers.
inline std::vector<Message> conversation_of(Collector& out, Members& members) {
  const auto& said = out.options().columns;
  std::vector<Message> turns;
  const auto system = [&] {
    const auto [name, value] = members.get(system_names);
    if (const auto text = text_of(value, "system prompt"); !ft::text::is_blank(text)) turns.push_back({"system", text});
    out.served("system", name);
  };
  if (said.question.empty()) {
    if (const auto [name, list] = members.get(turns_names, {}, /*used=*/false);
        (list.is_array() && !list.empty()) ||
        (list.is_string() && list.get_ref<const std::string&>().starts_with('['))) {
      system();
      add_turns(turns,
                list.is_array() ? list : ft::parse_json(list.get_ref<const std::string&>(), name));  // of a table
      members.use(name);
      out.served("turns", name);
      return turns;
    }
    if (const Json& list = members.named("data");
        list.is_array() && !list.empty() && list[0].is_string()) {  // UltraChat
      add_turns(turns, list);
      members.use("data");
      out.served("turns", "data");
      return turns;
    }
  }
  if (const auto [name, list] = members.get(question_names, said.question); holds_turns(list)) {  // TRL
    system();
    add_turns(turns, list);
    const auto [answer_name, answer] = members.get(answer_names, said.answer);
    if (answer.is_null()) throw not_a_record(members);
    if (answer.is_string()) turns.push_back({"assistant", answer.get<std::string>()});
    else add_turns(turns, answer);
    out.served("turns", name);
    out.served("turns", answer_name);
  }
  return turns;
}

/// One side of a preference pair as turns: a text, a turn, turns, or a whole transcript.
inline std::vector<Message> side_of(const Json& value) {
  std::vector<Message> turns;
  if (value.is_string()) {
    const auto& text = value.get_ref<const std::string&>();
    if (trimmed(text).starts_with("[{")) {  // of a table
      if (const auto list = ft::parse_json(text, "the list of turns"); holds_turns(list)) add_turns(turns, list);
    } else {
      turns = turns_of_transcript(text);
    }
    if (turns.empty()) turns.push_back({"assistant", text});
  } else if (value.is_object()) {  // one turn, LLaMA-Factory's
    Members members(value);
    if (members(role_members).is_null()) turns.push_back({"assistant", content_of(members(content_members))});
    else add_turns(turns, Json::array({value}));
  } else {
    add_turns(turns, value);
  }
  return turns;
}

/// Makes `record` a preference pair of two conversations that differ in their last turn, the assistant's. `before` are
/// turns that stand before both sides, where these do not hold them.
inline void prefer(Record& record, const std::vector<Message>& before, std::vector<Message> chosen,
                   std::vector<Message> rejected) {
  for (auto* side : {&chosen, &rejected}) {
    if (side->empty()) throw Error("one side of the preference pair is empty");
    const bool whole = std::any_of(side->begin(), side->end(), [](const auto& turn) { return turn.role == "user"; });
    if (whole && !before.empty()) {  // a system prompt goes before it; the question stands in it
      const auto& asked = before.back();
      if (asked.role == "user" && std::none_of(side->begin(), side->end(), [&](const auto& turn) {
            return turn.role == "user" && trimmed(turn.content) == trimmed(asked.content);
          }))
        throw Error("the question beside the preference pair is not in its conversations");
      if (before[0].role == "system" && side->front().role != "system") side->insert(side->begin(), before[0]);
    } else if (!whole) {
      if (!before.empty() && before.back().role == "assistant")
        throw Error("the conversation beside the preference pair ends with the assistant's turn already");
      side->insert(side->begin(), before.begin(), before.end());
    }
    if (side->back().role != "assistant")
      throw Error("one side of the preference pair does not end with the assistant's turn");
  }
  if (chosen.size() != rejected.size() || !std::equal(chosen.begin(), chosen.end() - 1, rejected.begin()))
    throw Error("the two conversations of the preference pair part before their last turns");
  record.turns = std::move(chosen);
  record.rejected = {std::move(rejected.back().content)};
}

/// What came before an Alpaca record's question: its system prompt and history.
inline std::vector<Message> turns_before(Collector& out, Members& members) {
  std::vector<Message> turns;
  const auto [system_name, system] = members.get(system_names);
  if (const auto text = text_of(system, "system prompt"); !ft::text::is_blank(text)) {
    turns.push_back({"system", text});
    out.served("system", system_name);
  }
  const auto [name, history] = members.get(history_names);
  if (history.is_null() || history.empty() || (history.is_string() && ft::text::is_blank(history.get<std::string>())))
    return turns;
  if (!history.is_array()) throw Error("the history is not a list of turns");
  if (history[0].is_array()) {
    for (const auto& pair : history) {
      if (!pair.is_array() || pair.size() != 2) throw Error("the history is not a list of pairs");
      add_turns(turns, pair);
    }
  } else {
    add_turns(turns, history);
  }
  out.served("history", name);
  return turns;
}

/// Whether one side of a pair is an answer alone, or several: neither turns nor a transcript.
inline bool is_a_text(const Json& value) {
  if (value.is_array())
    return std::all_of(value.begin(), value.end(), [](const Json& one) { return one.is_string() && is_a_text(one); });
  if (!value.is_string()) return value.is_null();
  const auto& text = value.get_ref<const std::string&>();
  return !trimmed(text).starts_with("[{") && turns_of_transcript(text).empty();
}

/// A preference pair of conversations: each side whole (TRL's implicit prompt, UltraFeedback, Anthropic's transcripts),
/// or behind the turns of its prompt (TRL, LLaMA-Factory); or a conversation whose last turn another text is worse
/// than.
inline void add_pair(Collector& out, Members& members, Record& record, const std::string& chosen_name,
                     const Json& chosen, const std::string& rejected_name, const Json& rejected) {
  const auto [system_name, system] = members.get(system_names);
  std::vector<Message> before;
  if (const auto text = text_of(system, "system prompt"); !ft::text::is_blank(text)) {
    before.push_back({"system", text});
    out.served("system", system_name);
  }
  const auto& said = out.options().columns;
  const auto [turns_name, turns] = members.get(turns_names);
  const auto [asked_name, asked] = members.get(question_names, said.question);
  const bool blank = asked.is_string() && ft::text::is_blank(asked.get_ref<const std::string&>());
  if (!turns_name.empty() || (!asked.is_null() && !blank)) {
    const Json& value = turns_name.empty() ? asked : turns;
    auto list = side_of(value);
    if (value.is_string() && list.size() == 1) list[0].role = "user";
    if (list.size() > 1 && list.back().role == "assistant" && ft::text::is_blank(list.back().content)) list.pop_back();
    before.insert(before.end(), list.begin(), list.end());
    out.served(turns_name.empty() ? "question" : "turns", turns_name.empty() ? asked_name : turns_name);
  }
  std::vector<Message> better;
  if (!chosen_name.empty()) {
    better = side_of(chosen);
    out.served("answer", chosen_name);
  } else {
    if (before.empty() || before.back().role != "assistant") throw not_a_record(members);
    better = {before.back()};
    before.pop_back();
  }
  out.served("rejected", rejected_name);
  if (rejected.is_array() && is_a_text(rejected)) {  // several, or one, as prepare writes them
    for (const auto& one : rejected) {
      std::vector<std::string> others = std::move(record.rejected);
      prefer(record, before, better, {{"assistant", one.get<std::string>()}});
      others.push_back(std::move(record.rejected.front()));
      record.rejected = std::move(others);
    }
    if (rejected.empty()) throw Error("there is no rejected answer");
  } else {
    prefer(record, before, std::move(better), side_of(rejected));
  }
}

inline void add_object(Collector& out, std::int64_t line, const Json& object, const Json& passage = {}) {
  std::string id;
  try {
    if (object.contains(fault_member)) throw Error(object[fault_member].get<std::string>());
    const auto& said = out.options().columns;
    Members members(object);
    Record record;
    id = text_of(members(id_names, said.id), "id");
    record.id = id;
    record.lang = text_of(members(lang_names), "language");
    record.split = text_of(members(split_names, said.split), "split");
    if (const auto [name, value] = members.get(may_be_split_names, {}, /*used=*/false);
        record.split.empty() && value.is_string() && ft::text::is_known_split(value.get_ref<const std::string&>())) {
      record.split = value.get<std::string>();
      members.use(name);
      out.served("split", name);
    }
    const auto [chosen_name, chosen] = members.get(chosen_names, {}, /*used=*/false);
    const auto [rejected_name, rejected] = members.get(rejected_names, {}, /*used=*/false);
    const bool pair = said.answer.empty() && !rejected.is_null();
    if (pair) {
      members.use(chosen_name);
      members.use(rejected_name);
      if (!is_a_text(chosen) || !is_a_text(rejected) || !is_a_text(members(question_names, said.question)) ||
          !members.get(turns_names, {}, false).first.empty()) {
        add_pair(out, members, record, chosen_name, chosen, rejected_name, rejected);
        members.unused([&](const std::string& key) { out.unused(key); });
        return out.add(line, std::move(record));
      }
    }
    record.turns = conversation_of(out, members);
    const bool rated = members.named("label").is_boolean();
    if (rated && (!record.turns.empty() || !members.named("completion").is_null()))
      throw Error("is a rated answer (label), which is not learned yet",
                  "keep those with a good label, and give them without it.");
    if (!record.turns.empty()) {
      if (record.turns.back().role != "assistant" && !chosen.is_null()) throw not_a_record(members);
      members.unused([&](const std::string& key) { out.unused(key); });
      return out.add(line, std::move(record));
    }
    const auto [question_name, question] = members.get(question_names, said.question);
    const bool of_pair = pair && !chosen_name.empty();
    const auto [answer_name, answer] =
        of_pair ? std::pair<std::string, const Json&>(chosen_name, chosen) : members.get(answer_names, said.answer);
    if (pair) {
      if (answer_name.empty()) throw not_a_record(members);
      if (question_name.empty()) throw Error("is a preference pair without a question", columns_hint);
      record.rejected = answers_of(rejected);
      out.served("rejected", rejected_name);
    }
    // "input" beside another question is what the task is done on, and without one the question.
    std::string input;
    if (const auto [name, value] = members.get(input_names);
        !name.empty() && name != question_name && name != answer_name) {
      input = text_of(value, "input");
      if (!input.empty()) out.served("input", name);
    }
    if (answer_name.empty() && (question_name.empty() || !chosen.is_null())) {
      const auto name = question_name.empty() && members.named("chosen").is_null() ? plain_text_name(members) : "";
      if (name.empty()) throw not_a_record(members);
      record.text = trimmed(text_of(members.named(name), "text"));
      members.use(name);
      if (record.text.empty()) throw Error("the text is empty");
      out.served("text", name);
      members.unused([&](const std::string& key) { out.unused(key); });
      return out.add(line, std::move(record));
    }
    if (question_name.empty())
      throw Error(str("none of ", listed(members.keys()), " is known as a question"), columns_hint);
    const bool marked = says_yes(members(unanswerable_names)) || says_no(members(answerable_names));
    if (answer_name.empty())
      out.hint(str("none of ", listed(members.keys()), " is known as an answer: ", columns_hint));
    out.served("question", question_name);
    out.served("answer", answer_name);
    record.question = text_of(question, "question");
    record.answers = answers_of(answer);
    // A list that is empty, a mark, or QuAC's and MS MARCO's way to say it.
    const bool empty = answer.is_array() && answer.empty();
    if (empty || marked ||
        (record.answers.size() == 1 &&
         (record.answers[0] == "CANNOTANSWER" || record.answers[0] == "No Answer Present."))) {
      if (!out.options().unanswered)
        throw Error(marked || !empty ? "is marked as a question without an answer" : "there is no answer",
                    "--unanswered keeps it: the model learns to say that it does not know.");
      record.unanswered = true;
      record.answers.clear();
      out.count("questions without an answer");
    }
    const auto [context_name, context] = members.get(context_names, said.context);
    if (!passage.is_null()) record.context = text_of(passage, "context");
    else if (out.form() == Form::qa && context.is_structured()) record.context = "a list";  // is left out, and counted
    else record.context = text_of(context, "context");
    if (out.form() != Form::qa && !record.context.empty() && !context_name.empty()) out.served("context", context_name);
    auto before = turns_before(out, members);
    members.unused([&](const std::string& key) { out.unused(key); });
    if (before.empty()) return out.add(line, std::move(record), input);
    if (!record.context.empty() && out.form() != Form::qa) record.question = record.context + '\n' + record.question;
    else if (!record.context.empty()) out.count(no_context_note);
    record.context.clear();
    if (record.answers.size() > 1) out.count("conversations with several answers, of which the first is learned");
    before.push_back({"user", trimmed(trimmed(record.question) + '\n' + trimmed(input))});
    if (record.answers.empty()) throw Error("there is no answer");
    before.push_back({"assistant", trimmed(record.answers.front())});
    for (auto& worse : record.rejected) worse = trimmed(worse);
    record.turns = std::move(before);
    record.question.clear();
    record.answers.clear();
    out.add(line, std::move(record));
  } catch (const Error& e) {
    out.bad(line,
            Error(id.empty() || !ft::text::text_fault(id).empty() ? e.message() : str("id ", id, ": ", e.message()),
                  e.hint()));
  }
}

// --- JSON and JSON lines -------------------------------------------------------------------------------------------

/// A list of objects, SQuAD's {"data": [{"paragraphs": [...]}]}, lists under other usual names, a list for each split,
/// a table by columns, or one object.
class JsonReader {
 public:
  explicit JsonReader(Collector& out) : out_(out) {}

  void read(const Json& root, std::int64_t line) {
    line_ = line;
    if (root.is_array()) return each(root, "the list");
    if (!root.is_object()) return out_.bad(line, "neither an object nor a list of objects");
    read_object(root);
  }
  /// A value of a JSON lines file.
  void read_line(const Json& value, std::int64_t line) {
    line_ = line;
    if (value.is_object()) read_object(value, line);
    else if (holds_turns(value)) read_turns(value);
    else if (value.is_array() && !value.empty() && value[0].is_object()) each(value, "the list");
    else out_.bad(line, "the line is not a JSON object");
  }

 private:
  /// `line`: where it stands; 0: what it says itself.
  void read_object(const Json& object, std::int64_t line = 0) {
    line_ = line > 0 ? line : object[line_member].get<std::int64_t>();
    if (object.contains("paragraphs")) return read_paragraphs(object);
    if (object.contains("row") && object["row"].is_object()) return read_object(object["row"], line_);  // a viewer's
    Members members(object);
    const auto& said = out_.options().columns;
    const Json& question = members(question_names, said.question);
    if (is_column(question)) return read_columns(object);
    if (question.is_array() && !question.empty() && !holds_turns(question)) return read_part(question, "questions");
    if (!question.is_null() || is_list_of_turns(members)) return add_object(out_, line_, object);
    if (object.contains("data") &&
        !(object["data"].is_array() && !object["data"].empty() && object["data"][0].is_string()))
      return read_part(object["data"], "data");
    for (const char* name :
         {"rows", "examples", "records", "items", "entries", "samples", "instances", "qas", "results", "list"})
      if (object.contains(name) && object[name].is_array()) return read_part(object[name], name);
    bool splits = false, others = false;
    for (const auto& [key, value] : object.items())
      if (key != line_member && value.is_structured()) (ft::text::is_known_split(key) ? splits : others) = true;
    if (!splits || others) return add_object(out_, line_, object);
    for (const auto& [key, value] : object.items()) {
      if (key == line_member || !value.is_structured()) continue;
      split_ = ft::text::split_name(key);
      read_part(value, key);
    }
    split_.clear();
    out_.note("a list for each split");
  }
  /// {"0": ..., "1": ...} or [..., ...] in a question's place: a table by columns, as pandas writes it.
  static bool is_column(const Json& question) {
    if (question.is_array()) return !question.empty() && !question[0].is_structured();
    return question.is_object() && question.contains("0");
  }
  static bool is_list_of_turns(Members& members) {
    const Json &turns = members(turns_names), &data = members.named("data");
    return turns.is_array() || (data.is_array() && !data.empty() && data[0].is_string());
  }
  void read_columns(const Json& table) {
    const auto line = line_;
    bool lists = true;
    for (const auto& [name, column] : table.items())
      if (name != line_member && column.is_object()) lists = false;
    std::vector<Json> objects;
    std::size_t size = 0;
    bool first = true;
    const auto count = [](const Json& column) { return column.size() - (column.is_object() ? 1 : 0); };
    for (const auto& [name, column] : table.items()) {
      if (name == line_member) continue;
      if (!column.is_structured() || column.is_object() == lists)
        return out_.bad(line, str("is a table by columns, in which \"", ft::printable(name, 60), "\" is none"));
      if (first) size = count(column);
      if (count(column) != size)
        return out_.bad(line, str("is a table by columns of which \"", ft::printable(name, 60), "\" has ",
                                  count(column), " values, the first has ", size));
      first = false;
    }
    objects.assign(size, Json::object());
    if (lists) {
      for (const auto& [name, column] : table.items())
        if (name != line_member)
          for (std::size_t i = 0; i < size; ++i) objects[i][name] = column[i];
    } else {
      std::map<std::string, std::size_t> places;
      for (const auto& [name, column] : table.items())
        if (name != line_member)
          for (const auto& [row, value] : column.items())
            if (row != line_member) places.try_emplace(row, 0);
      if (places.size() != size) return out_.bad(line, "is a table by columns whose rows have different names");
      std::vector<std::string> names;
      for (const auto& [row, place] : places) names.push_back(row);
      std::sort(names.begin(), names.end(), [](const auto& a, const auto& b) {  // "10" behind "9"
        return a.size() != b.size() ? a.size() < b.size() : a < b;
      });
      for (std::size_t i = 0; i < names.size(); ++i) places[names[i]] = i;
      for (const auto& [name, column] : table.items())
        if (name != line_member)
          for (const auto& [row, value] : column.items())
            if (row != line_member) objects[places[row]][name] = value;
    }
    out_.note("a table by columns");
    for (auto& object : objects) {
      object[line_member] = line;
      add(object);
    }
  }
  /// What stands under a name: a list, or again a table or such lists.
  void read_part(const Json& part, std::string_view name) {
    if (part.is_object()) return read_object(part);
    each(part, name);
  }
  /// Anything but objects and conversations in a list is bad.
  void each(const Json& list, std::string_view name) {
    if (!list.is_array()) return out_.bad(line_, str("\"", name, "\" is not a list"));
    for (std::size_t i = 0; i < list.size(); ++i) {
      if (list[i].is_object()) {
        const Json& one = list[i];
        line_ = one[line_member].get<std::int64_t>();
        if (one.contains("paragraphs") || one.contains("row")) read_object(one);
        else add(one);
      } else if (holds_turns(list[i])) {
        read_turns(list[i]);
      } else {
        out_.bad(line_, str("entry ", i + 1, " of \"", name, "\" is not an object"));
      }
    }
  }
  void read_turns(const Json& list) { add(Json{{"messages", list}}); }
  void read_paragraphs(const Json& article) {
    const Json& paragraphs = article["paragraphs"];
    if (!paragraphs.is_array()) return out_.bad(line_, "\"paragraphs\" is not a list");
    for (std::size_t i = 0; i < paragraphs.size(); ++i) {
      const Json& paragraph = paragraphs[i];
      if (!paragraph.is_object()) {
        out_.bad(line_, str("entry ", i + 1, " of \"paragraphs\" is not an object"));
        continue;
      }
      line_ = paragraph[line_member].get<std::int64_t>();
      const Json passage = paragraph.contains("context") ? paragraph["context"] : Json("");
      const Json questions = paragraph.contains("qas") ? paragraph["qas"] : Json();
      if (!questions.is_array()) {
        out_.bad(line_, "\"qas\" is not a list");
        continue;
      }
      for (std::size_t k = 0; k < questions.size(); ++k) {
        if (!questions[k].is_object()) {
          out_.bad(line_, str("entry ", k + 1, " of \"qas\" is not an object"));
          continue;
        }
        line_ = questions[k][line_member].get<std::int64_t>();
        add_object(out_, line_, questions[k], passage);
      }
    }
  }
  void add(const Json& object) {
    if (split_.empty() || object.contains("split")) return add_object(out_, line_, object);
    Json with_split = object;
    with_split["split"] = split_;
    add_object(out_, line_, with_split);
  }

  Collector& out_;
  std::int64_t line_ = 1;
  std::string split_;  // of the list that is read
};

/// Values one after the other: a .json file has one, as a rule.
inline void read_json(Collector& out, std::string_view text) {
  const auto line_at = [&](std::size_t byte) {
    return std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(std::min(byte, text.size())), '\n') + 1;
  };
  JsonReader reader(out);
  std::int64_t values = 0;
  try {
    loose_json(text, 1, out.not_numbers, [&](const Json& value, std::int64_t line) {
      ++values;
      reader.read(value, line);
    });
    if (values > 1) out.note(str(values, " JSON values, one after the other"));
  } catch (const BadJson& bad) {
    if (bad.too_large) out.bad(1, "a number in the file is too large");
    else out.bad(line_at(bad.byte > 0 ? bad.byte - 1 : 0), "not JSON from here on");
  } catch (const Error& e) {
    out.bad(1, e.message());
  }
}

/// Whether a text's first line that is not blank begins a JSON value that goes on behind it.
inline bool goes_over_lines(std::string_view text) {
  Lines lines(text);
  for (std::string_view line; lines.next(line);) {
    if (trimmed(line).empty()) continue;
    std::int64_t ignored = 0;
    try {
      loose_json(line, 1, ignored, [](const Json&, std::int64_t) {});
      return false;
    } catch (const BadJson& bad) {
      return bad.byte > line.size();
    } catch (const Error&) {
      return false;
    }
  }
  return false;
}

/// Whether a text's first line that is not blank is an object, and more follows.
inline bool is_object_a_line(std::string_view text) {
  text.remove_prefix(std::min(text.size(), text.find_first_not_of(" \t\r\n")));
  const auto end = text.find('\n');
  return text.starts_with('{') && end != text.npos && !trimmed(text.substr(end)).empty() && !goes_over_lines(text);
}

inline void read_json_lines(Collector& out, std::string_view text) {
  JsonReader reader(out);
  Lines lines(text);
  for (std::string_view line; lines.next(line);) {
    if (auto fault = Lines::fault(line); !fault.empty()) {
      out.bad(lines.number(), std::move(fault));
      continue;
    }
    if (trimmed(line).empty()) continue;
    try {
      loose_json(line, lines.number(), out.not_numbers,
                 [&](const Json& value, std::int64_t number) { reader.read_line(value, number); });
    } catch (const BadJson& bad) {
      out.bad(lines.number(), bad.too_large ? "a number is too large" : str("not JSON at byte ", bad.byte));
      if (trimmed(line).starts_with("{'"))
        out.hint("as Python prints a dict, it is no JSON; json.dumps() writes that.");
    } catch (const Error& e) {
      out.bad(lines.number(), e.message());
    }
  }
}

// --- CSV and TSV ---------------------------------------------------------------------------------------------------

/// Why a table's cells of names cannot be used, or what is missing; an empty string where all is found.
inline std::string header_fault(const std::vector<std::string>& header, const Columns& said) {
  Json object = Json::object();
  for (const auto& name : header) object[name] = "x";
  Members members(object);
  const bool chat = said.question.empty() && !members.get(turns_names).first.empty();
  for (const auto& [option, column] :
       {std::pair("--question-column", said.question), std::pair("--answer-column", said.answer),
        std::pair("--context-column", said.context), std::pair("--id-column", said.id),
        std::pair("--split-column", said.split)})
    if (!column.empty() && members.get({}, column).first.empty())
      return str(option, ' ', column, ": the columns are ", listed(header));
  const auto question = members.get(question_names, said.question).first,
             answer = members.get(answer_names, said.answer).first;
  if (chat || (!question.empty() && !answer.empty() && question != answer)) return {};
  const auto chosen = members.get(chosen_names).first, rejected = members.get(rejected_names).first;
  if (said.answer.empty() && !chosen.empty() && !rejected.empty()) return {};  // the sides may hold their question
  if (said.answer.empty() && !rejected.empty() && !question.empty() && !answer.empty()) return {};
  if (!chosen.empty() || (question.empty() && answer.empty()))
    for (const auto name : {"chosen", "text"})
      if (!members.named(name).is_null()) return not_a_record(members).message();
  return str("of the ", header.size(), header.size() == 1 ? " column" : " columns", " none is named ",
             question.empty() ? (answer.empty() ? "question or answer" : "question") : "answer", ": ", listed(header));
}

/// A table's first row, and what separates its columns.
struct TableStart {
  char delimiter;
  std::vector<std::string> header;
  std::string fault;  ///< why the header cannot be used
};

inline std::string name_of_delimiter(char c) { return c == '\t' ? "a tab" : str('\'', c, '\''); }

/// The names of a table's columns. Numbers in Columns count them, and are replaced by the names.
inline std::vector<std::string> names_of(std::vector<std::string> cells, bool no_header) {
  for (std::size_t i = 0; i < cells.size(); ++i) {
    cells[i] = trimmed(cells[i]);
    if (no_header || cells[i].empty()) cells[i] = str(i + 1);
  }
  return cells;
}

inline Columns by_name(Columns said, const std::vector<std::string>& header, bool no_header) {
  if (no_header && header.size() == 2 && said.question.empty() && said.answer.empty())
    said.question = "1", said.answer = "2";
  for (auto* column : {&said.question, &said.answer, &said.context, &said.id, &said.split}) {
    if (column->empty() || std::find(header.begin(), header.end(), *column) != header.end()) continue;
    if (column->size() < 4 && column->find_first_not_of("0123456789") == column->npos) {
      const auto number = std::stoul(*column);
      if (number >= 1 && number <= header.size()) *column = header[number - 1];
    }
  }
  return said;
}

/// Looks for the delimiter with which the first row names what is needed, and where no row names anything, for the one
/// that all of the first rows have alike; one that a blank always follows is prose.
inline TableStart start_of_table(std::string_view text, const ReadOptions& options, char usual) {
  const auto start = [&](char delimiter) {
    TableStart found{delimiter, {}, {}};
    Rows rows(text, delimiter);
    while (rows.next())
      if (!rows.why.empty() || rows.cells.size() > 1 || !trimmed(rows.cells[0]).empty()) break;
    if (!rows.why.empty()) found.fault = "the first row cannot be read: " + rows.why;
    found.header = names_of(rows.cells, options.no_header);
    if (found.fault.empty())
      found.fault = header_fault(found.header, by_name(options.columns, found.header, options.no_header));
    return found;
  };
  if (options.delimiter) return start(options.delimiter);
  std::vector<TableStart> fit;
  TableStart best = start(usual);
  if (best.fault.empty()) fit.push_back(best);
  for (const char delimiter : {',', ';', '\t', '|'}) {
    if (delimiter == usual) continue;
    auto found = start(delimiter);
    if (found.fault.empty()) fit.push_back(std::move(found));
    else if (found.header.size() > best.header.size() && best.header.size() < 2) best = std::move(found);
  }
  if (!options.no_header) return fit.empty() ? best : fit.front();
  std::vector<TableStart> alike;
  for (auto& candidate : fit) {
    Rows rows(text, candidate.delimiter);
    bool same = true, prose = true;
    for (int i = 0; i < 100 && rows.next(); ++i) {
      if (rows.cells.size() == 1 && trimmed(rows.cells[0]).empty()) continue;
      same &= rows.why.empty() && rows.cells.size() == candidate.header.size();
      for (std::size_t k = 1; k < rows.cells.size(); ++k) prose &= rows.cells[k].starts_with(' ');
    }
    if (same && !prose) alike.push_back(std::move(candidate));
  }
  if (alike.size() == 1) return alike.front();
  if (!alike.empty()) {
    best.fault = "its columns may be separated by ";
    for (std::size_t i = 0; i < alike.size(); ++i)
      best.fault += str(i ? " or " : "", name_of_delimiter(alike[i].delimiter));
  } else if (!fit.empty()) {
    return fit.front();  // its rows that differ are bad ones, by line
  }
  return best;
}

/// Whether a row is the line below a Markdown table's names: | --- | :-: |
inline bool is_rule(const std::vector<std::string>& cells) {
  return std::all_of(cells.begin(), cells.end(),
                     [](const std::string& cell) { return cell.find_first_not_of(" -:\r") == cell.npos; });
}

/// With a row of names, or with --no-header: then of two columns the question and its answer.
inline void read_table(Collector& out, std::string_view text, char usual) {
  ReadOptions options = out.options();
  std::int64_t line = 0;
  if (const auto first = text.substr(0, text.find('\n')); lowered(std::string(first.substr(0, 4))) == "sep=" &&
                                                          trimmed(first).size() <= 5 && first.size() > 4) {  // Excel's
    if (!options.delimiter) options.delimiter = first[4] == '\r' ? '\t' : first[4];
    text.remove_prefix(std::min(text.size(), first.size() + 1));
    line = 1;
  }
  if (trimmed(text).empty()) return;
  const auto start = start_of_table(text, options, usual);
  for (const auto& name : start.header)
    if (const auto fault = ft::text::text_fault(name); !fault.empty())
      return out.refuse(line + 1, "in the first row: " + fault, "");
  if (!start.fault.empty())
    return out.refuse(line + 1, start.fault,
                      options.no_header || start.fault.starts_with("its columns")
                          ? "say which they are, by number from 1: --question-column 2 --answer-column 3; and what "
                            "separates them: --delimiter ';'."
                          : "say which they are: --question-column NAME --answer-column NAME; what separates them: "
                            "--delimiter ';'; of a table without a row of names: --no-header.");
  const auto said = by_name(options.columns, start.header, options.no_header);
  for (std::size_t i = 0; i < start.header.size(); ++i)
    if (std::find(start.header.begin(), start.header.begin() + static_cast<std::ptrdiff_t>(i), start.header[i]) !=
        start.header.begin() + static_cast<std::ptrdiff_t>(i))
      return out.refuse(line + 1, str("two columns are named ", listed({start.header[i]})), "give one another name.");
  out.note(
      str("columns separated by ", name_of_delimiter(start.delimiter), options.no_header ? ", without names" : ""));
  out.use(said);
  Rows rows(text, start.delimiter);
  bool names = options.no_header;  // the row of names is behind us
  while (rows.next()) {
    const auto& cells = rows.cells;
    if (!rows.why.empty()) {
      out.bad(line + rows.line, rows.why);
      continue;
    }
    if (cells.size() == 1 && trimmed(cells[0]).empty()) continue;
    if (!std::exchange(names, true)) continue;
    if (start.delimiter == '|' && is_rule(cells)) continue;
    if (cells.size() != start.header.size()) {
      out.bad(line + rows.line, str("the row has ", cells.size(), " columns, the first has ", start.header.size()));
      continue;
    }
    Json object = Json::object();
    for (std::size_t i = 0; i < cells.size(); ++i) object[start.header[i]] = cells[i];
    object[line_member] = line + rows.line;
    add_object(out, line + rows.line, object);
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
