// examples/qa/conversations.hpp: turns out of the forms that chat data come in: OpenAI's and TRL's messages, ShareGPT,
// pairs of human and assistant, texts that alternate, Anthropic's transcripts.
#pragma once
#include "members.hpp"

#include <ftlib/text/conversation.hpp>

#include <string>       // std::string
#include <string_view>  // std::string_view
#include <vector>       // std::vector

namespace qa {

using ft::text::Message;

inline const Names user_roles = {"user", "human", "prompter", "usr", "customer", "questioner", "사용자"};
inline const Names assistant_roles = {"assistant", "gpt",  "chatgpt", "bot",   "model",    "ai",
                                      "chatbot",   "bing", "bard",    "agent", "answerer", "챗봇"};
inline const Names system_roles = {"system", "developer"};
inline const Names role_members = {"role", "from", "speaker", "author"};
inline const Names content_members = {"content", "value", "text", "message", "utterance"};

/// "system", "user" or "assistant"; empty for any other role.
inline std::string role_of(std::string_view name) {
  const auto plain = plain_name(name);
  const auto is = [&](const Names& names) { return std::find(names.begin(), names.end(), plain) != names.end(); };
  return is(user_roles) ? "user" : is(assistant_roles) ? "assistant" : is(system_roles) ? "system" : "";
}

/// Whether a list holds turns: objects with a role, or pairs of a human's and an assistant's text.
inline bool holds_turns(const Json& list) {
  if (!list.is_array() || list.empty() || !list[0].is_object()) return false;
  Members members(list[0]);
  if (members(role_members).is_string()) return true;
  return members(user_roles).is_string() && members(assistant_roles).is_string();
}

/// A turn's text: a string, or a list of parts that are all text. Throws Error.
inline std::string content_of(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_null()) throw ft::Error("it has no content");
  if (!value.is_array()) throw ft::Error("its content is not text");
  std::string text;
  for (const auto& part : value) {
    if (part.is_string()) {
      text += part.get<std::string>();
    } else if (part.is_object() && part.contains("text") && part["text"].is_string()) {
      text += part["text"].get<std::string>();
    } else {
      const bool typed = part.is_object() && part.contains("type") && part["type"].is_string();
      throw ft::Error(ft::str("its content holds ", typed ? ft::quote(part["type"].get<std::string>()) : "something",
                              ", which is not text"));
    }
  }
  return text;
}

/// Appends a list's turns. Throws Error for what is no turn, and for what would be learned otherwise than it says: tool
/// calls, turns that are not to be learned.
inline void add_turns(std::vector<Message>& turns, const Json& list) {
  if (!list.is_array()) throw ft::Error("the conversation is not a list of turns");
  for (std::size_t i = 0; i < list.size(); ++i) {
    const Json& one = list[i];
    try {
      if (one.is_string()) {  // the user begins
        turns.push_back({i % 2 ? "assistant" : "user", one.get<std::string>()});
        continue;
      }
      if (!one.is_object()) throw ft::Error("it is not an object");
      if (one.contains(fault_member)) throw ft::Error(one[fault_member].get<std::string>());
      Members members(one);
      const Json& role = members(role_members);
      if (role.is_null()) {  // a pair
        const Json &asked = members(user_roles), &said = members(assistant_roles), &system = members(system_roles);
        if (asked.is_null() && said.is_null()) throw ft::Error("it has no role");
        if (system.is_string() && !ft::text::is_blank(system.get<std::string>()))
          turns.push_back({"system", system.get<std::string>()});
        turns.push_back({"user", content_of(asked)});
        turns.push_back({"assistant", content_of(said)});
        continue;
      }
      if (!role.is_string()) throw ft::Error("its role is not text");
      for (const auto* call : {"toolcalls", "functioncall"})
        if (const Json& calls = members.named(call); !calls.is_null() && !calls.empty())
          throw ft::Error("it calls a tool, which is not learned yet");
      for (const auto* mark : {"weight", "train", "loss", "trainable"})
        if (const Json& value = members.named(mark); value == "0" || value == "0.0" || value == false)
          throw ft::Error(ft::str("it is marked as not to be learned (\"", mark, "\"), and every assistant's turn is"));
      const std::string name = role.get<std::string>(), known = role_of(name);
      if (known.empty()) throw ft::Error(ft::str("the role ", ft::quote(name), " is not known"));
      std::string content = content_of(members(content_members));
      if (known == "system" && ft::text::is_blank(content)) continue;  // nothing was said
      turns.push_back({known, std::move(content)});
    } catch (const ft::Error& e) {
      throw ft::Error(ft::str("turn ", i + 1, ": ", e.message()));
    }
  }
}

/// The turns of a text as Anthropic's HH-RLHF writes conversations, "\n\nHuman: ...\n\nAssistant: ..."; none where it
/// is none.
inline std::vector<Message> turns_of_transcript(std::string_view text) {
  struct Mark {
    std::string_view written, role;
  };
  static constexpr Mark marks[] = {{"Human:", "user"}, {"Assistant:", "assistant"}};
  std::vector<Message> turns;
  while (text.starts_with('\n')) text.remove_prefix(1);
  if (!text.starts_with(marks[0].written) || text.find("\n\nAssistant:") == text.npos) return turns;
  for (std::size_t at = 0; at < text.size();) {
    const Mark& mark = text.substr(at).starts_with(marks[0].written) ? marks[0] : marks[1];
    at += mark.written.size();
    std::size_t end = text.size();
    for (const Mark& next : marks) end = std::min(end, text.find("\n\n" + std::string(next.written), at));
    turns.push_back({std::string(mark.role), examples::trimmed(text.substr(at, end - at))});
    at = end == text.size() ? end : end + 2;
  }
  return turns;
}

}  // namespace qa
