// examples/qa/readers/object.hpp: one JSON object as a record: a question and its answers, a conversation, a preference
// pair, a plain text.
#pragma once
#include "../conversations.hpp"
#include "../loose_json.hpp"
#include "collector.hpp"

#include <algorithm>    // std::any_of, std::all_of
#include <cstdint>      // std::int64_t
#include <string>       // std::string
#include <string_view>  // std::string_view
#include <utility>      // std::move, std::pair
#include <vector>       // std::vector

namespace qa {

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

}  // namespace qa
