// examples/qa/members.hpp: which member or column of people's data is the question, which the answer: by the names that
// such data usually have, or as it was said. To have another name known, add it to its list.
#pragma once
#include "../common/rows.hpp"
#include "loose_json.hpp"

#include <ftlib/text/records.hpp>  // is_blank

#include <algorithm>    // std::find
#include <string>       // std::string
#include <string_view>  // std::string_view
#include <utility>      // std::pair
#include <vector>       // std::vector

namespace qa {

/// Names as plain_name() has them; of several that are filled the first in the list is taken.
using Names = std::vector<std::string_view>;
inline const Names question_names = {
    "question", "questions",    "q",      "질문",          "prompt",      "prompts",   "instruction", "instructions",
    "query",    "questiontext", "qtext",  "questiontitle", "usermessage", "userinput", "user",        "human",
    "request",  "problem",      "inputs", "front",         "질의",        "문제",      "물음",        "질문내용",
    "지시",     "지시문",       "명령",   "명령어",        "프롬프트",    "사용자",    "input",       "입력"};
inline const Names answer_names = {"answer",
                                   "answers",
                                   "a",
                                   "답변",
                                   "답",
                                   "정답",
                                   "response",
                                   "responses",
                                   "output",
                                   "outputs",
                                   "completion",
                                   "completions",
                                   "reply",
                                   "answertext",
                                   "atext",
                                   "bestanswer",
                                   "correctanswer",
                                   "goldanswer",
                                   "finalanswer",
                                   "acceptedanswer",
                                   "correctanswers",
                                   "assistantmessage",
                                   "assistant",
                                   "bot",
                                   "gpt",
                                   "solution",
                                   "target",
                                   "targets",
                                   "ideal",
                                   "back",
                                   "응답",
                                   "대답",
                                   "답변내용",
                                   "출력",
                                   "결과"};
inline const Names chosen_names = {"chosen", "chosenresponse"};  // of a preference pair
inline const Names rejected_names = {"rejected", "rejectedresponse"};
inline const Names input_names = {"input", "입력"};  // what an instruction is to be done on
inline const Names context_names = {"context", "passage", "paragraph", "문맥", "지문", "본문"};
inline const Names id_names = {"id", "qid", "questionid", "uuid", "guid"};
inline const Names lang_names = {"lang", "language", "언어"};
inline const Names split_names = {"split", "분할"};
inline const Names may_be_split_names = {"datasplit", "partition", "subset",
                                         "set",       "phase",     "usage"};  // where they say one
inline const Names system_names = {"system", "systemprompt", "systemmessage", "시스템"};
inline const Names history_names = {"history", "chathistory"};
inline const Names turns_names = {"messages", "conversations", "conversation", "dialogue", "dialog",
                                  "dialogs",  "turns",         "chat",         "대화"};
inline const Names unanswerable_names = {"isimpossible", "impossible", "unanswerable", "isanswerabsent", "noanswer"};
inline const Names answerable_names = {"answerable", "isanswerable", "hasanswer"};
inline const Names text_names = {"text", "content", "document"};

/// "Best Answer", "best_answer" and "bestAnswer" are one name: ASCII letters in lower case, without blanks, '_', '-'.
inline std::string plain_name(std::string_view name) {
  std::string out;
  for (const char c : name)
    if (std::string_view(" \t\r\n_-.").find(c) == std::string_view::npos) out += c;
  return examples::lowered(std::move(out));
}

/// Which member is what, where it was said; empty: by the names above. A number counts a table's columns from 1.
struct Columns {
  std::string question, answer, context, id, split;
};

/// "a", "b" and 3 more
inline std::string listed(const std::vector<std::string>& names, std::size_t most = 12) {
  std::string out;
  for (std::size_t i = 0; i < names.size() && i < most; ++i)
    out += ft::str(i ? ", " : "", '"', ft::printable(names[i], 60), '"');
  return names.size() > most ? ft::str(out, " and ", names.size() - most, " more") : out;
}

/// An object's members by their plain names, and which of them were looked for.
class Members {
 public:
  explicit Members(const Json& object) {
    for (const auto& [key, value] : object.items())
      if (key[0] != '\n') members_.push_back({plain_name(key), &key, &value, false});
  }

  /// The first that is filled of those with one of these names, or else the first that is there; null where there is
  /// none. `said`: the one name to look for, where it is not empty.
  const Json& operator()(const Names& names, const std::string& said = {}) { return get(names, said).second; }
  /// The same, with its name as the object has it. With `used` false it counts as unused until use().
  std::pair<std::string, const Json&> get(const Names& names, const std::string& said = {}, bool used = true) {
    static const Json none;
    Member* empty = nullptr;
    const auto look = [&](std::string_view name, bool exact) -> Member* {
      for (auto& member : members_) {
        if (exact ? *member.key != name : member.plain != name) continue;
        if (is_filled(*member.value)) return &member;
        if (!empty) empty = &member;
      }
      return nullptr;
    };
    Member* found = nullptr;
    if (!said.empty()) {
      found = look(said, /*exact=*/true);
      if (!found) found = look(plain_name(said), false);
    } else {
      for (const auto name : names)
        if (!found) found = look(name, false);
    }
    if (!found) found = empty;
    if (!found) return {"", none};
    found->used |= used;
    return {*found->key, *found->value};
  }
  void use(const std::string& key) {
    for (auto& member : members_) member.used |= *member.key == key;
  }
  /// A member with exactly this plain name, filled or not; null where there is none.
  const Json& named(std::string_view plain) {
    static const Json none;
    for (const auto& member : members_)
      if (member.plain == plain) return *member.value;
    return none;
  }
  std::vector<std::string> keys() const {
    std::vector<std::string> out;
    for (const auto& member : members_) out.push_back(*member.key);
    return out;
  }
  template <class Use> void unused(const Use& use) const {
    for (const auto& member : members_)
      if (!member.used) use(*member.key);
  }

 private:
  struct Member {
    std::string plain;
    const std::string* key;
    const Json* value;
    bool used;
  };
  static bool is_filled(const Json& value) {
    if (value.is_string()) return !ft::text::is_blank(value.get_ref<const std::string&>());
    return !value.is_null() && !(value.is_structured() && value.size() == (value.contains(line_member) ? 1u : 0u));
  }

  std::vector<Member> members_;
};

}  // namespace qa
