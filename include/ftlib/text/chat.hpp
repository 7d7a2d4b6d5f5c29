// text/chat.hpp: conversations in the form that a chat model was trained on. No Jinja: the templates of the supported
// models are recognised by their marks, and written by hand.
#pragma once
#include <ftlib/text/tokenizer.hpp>  // Tokenizer

#include <algorithm>    // std::min
#include <string>       // std::string
#include <string_view>  // std::string_view
#include <vector>       // std::vector

namespace ft::inline FTLIB_ABI {
namespace text {

struct Message {
  std::string role;  // "system", "user" or "assistant"
  std::string content;
};

/// The forms of chat that are known.
enum class ChatTemplate {
  none,    // a base model
  chatml,  // <|im_start|>role\n...<|im_end|>\n: SmolLM2, Qwen
  gemma,   // <start_of_turn>role\n...<end_of_turn>\n, the assistant called "model", system text before the first user's
  llama3,  // <|start_header_id|>role<|end_header_id|>\n\n...<|eot_id|>
};

/// The form that a Jinja template means; empty text means none. Throws Error for one that is not known, and for one
/// that writes more than turns (tools, dates), which would be left out here.
inline ChatTemplate recognise_chat_template(std::string_view jinja) {
  const auto has = [&](std::string_view mark) { return jinja.find(mark) != jinja.npos; };
  if (jinja.empty()) return ChatTemplate::none;
  if (!has("tools") && !has("Cutting Knowledge Date")) {
    if (has("<|im_start|>")) return ChatTemplate::chatml;
    if (has("<start_of_turn>")) return ChatTemplate::gemma;
    if (has("<|start_header_id|>")) return ChatTemplate::llama3;
  }
  throw Error(str("chat: the model's template is not known: ", printable(jinja, 120)),
              "known are ChatML's, Gemma's and Llama 3's, without tools; use the question-answer form.");
}

namespace detail {
/// A piece of a conversation: the template's own text, whose control tokens count, or somebody's words, whose do not.
struct ChatPiece {
  std::string text;
  bool control;
};

/// The system line that a ChatML template puts in where a conversation has none (SmolLM2's does), or empty: what it
/// has between <|im_start|>system and <|im_end|>, if that is a plain string.
inline std::string default_system_line(std::string_view jinja) {
  constexpr std::string_view begin = "<|im_start|>system", end = "<|im_end|>";
  const std::size_t found = jinja.find(begin);
  if (found == jinja.npos) return {};
  jinja.remove_prefix(found + begin.size());
  if (jinja.substr(0, 1) == "\n") jinja.remove_prefix(1);  // inside a Jinja string, as itself or escaped
  else if (jinja.substr(0, 2) == "\\n") jinja.remove_prefix(2);
  else return {};
  const std::string_view line = jinja.substr(0, jinja.find(end));
  const bool plain = line.size() < jinja.size() && line.find_first_of("'\"{}\\") == line.npos;
  return plain ? std::string(line) : std::string();
}

/// `text` without white space at both ends, as Jinja's filter trim.
inline std::string trim(std::string_view text) {
  const CharacterClasses classes;
  const std::string good = replace_broken_utf8(text);
  std::size_t begin = good.size(), end = 0;
  for (std::size_t at = 0; at < good.size();) {
    const Utf8Char c = decode_utf8(good.data() + at);
    const bool white = (classes(c.code) & space_class) || (c.code >= 0x1c && c.code <= 0x1f);  // Python's isspace
    if (!white) {
      begin = std::min(begin, at);
      end = at + c.length;
    }
    at += c.length;
  }
  return begin < end ? good.substr(begin, end - begin) : std::string();
}

[[gnu::cold]] inline std::vector<ChatPiece> chat_pieces(std::string_view jinja, const std::vector<Message>& messages,
                                                        bool answer_next) {
  const ChatTemplate form = recognise_chat_template(jinja);
  std::vector<ChatPiece> pieces;
  const auto turn = [&](const std::string& before, const std::string& content, const std::string& after) {
    pieces.push_back({before, true});
    pieces.push_back({content, false});
    pieces.push_back({after, true});
  };
  for (const Message& m : messages)
    if (m.role != "system" && m.role != "user" && m.role != "assistant")
      throw Error("chat: role '" + m.role + "' is none of system, user, assistant");
  switch (form) {
    case ChatTemplate::none:
      throw Error("chat: this is a base model, it has no chat template", "use the question-answer form.");
    case ChatTemplate::chatml:
      if (const std::string line = default_system_line(jinja);
          !line.empty() && !messages.empty() && messages.front().role != "system")
        turn("<|im_start|>system\n", line, "<|im_end|>\n");
      for (const Message& m : messages) turn("<|im_start|>" + m.role + "\n", m.content, "<|im_end|>\n");
      if (answer_next) pieces.push_back({"<|im_start|>assistant\n", true});
      break;
    case ChatTemplate::gemma: {
      const bool has_system = !messages.empty() && messages.front().role == "system";
      for (std::size_t i = has_system; i < messages.size(); ++i) {
        const bool users = (i - has_system) % 2 == 0;
        if (messages[i].role != (users ? "user" : "assistant"))
          throw Error(str("chat: message ", i, " is the ", messages[i].role, "'s"),
                      "Gemma's turns alternate, the user's first; a system message may stand before them.");
        const std::string system = has_system && i == 1 ? messages.front().content + "\n\n" : std::string();
        turn(users ? "<start_of_turn>user\n" : "<start_of_turn>model\n", system + trim(messages[i].content),
             "<end_of_turn>\n");
      }
      if (answer_next) pieces.push_back({"<start_of_turn>model\n", true});
      break;
    }
    case ChatTemplate::llama3:
      for (const Message& m : messages)
        turn("<|start_header_id|>" + m.role + "<|end_header_id|>\n\n", trim(m.content), "<|eot_id|>");
      if (answer_next) pieces.push_back({"<|start_header_id|>assistant<|end_header_id|>\n\n", true});
      break;
  }
  return pieces;
}
}  // namespace detail

/// A conversation as the model's template writes it; with `answer_next`, up to where the assistant's next words go. For
/// showing: text from outside could forge a turn, so encode with encode_chat. Without the beginning-of-text token that
/// Gemma's and Llama 3's templates begin with.
inline std::string render_chat(std::string_view jinja, const std::vector<Message>& messages, bool answer_next = true) {
  std::string text;
  for (const auto& piece : detail::chat_pieces(jinja, messages, answer_next)) text += piece.text;
  return text;
}

/// The same as tokens, with the beginning-of-text token where the model asks for one. Control tokens that are written
/// in a message stay text. Messages and marks are encoded apart, so where a ChatML message begins with white space the
/// tokens can differ from those of the rendered text (the other templates trim).
inline std::vector<int32_t> encode_chat(const Tokenizer& tokenizer, const std::vector<Message>& messages,
                                        bool answer_next = true) {
  std::vector<int32_t> ids;
  if (tokenizer.add_bos()) ids.push_back(tokenizer.bos());
  for (const auto& piece : detail::chat_pieces(tokenizer.chat_template(), messages, answer_next)) {
    const auto part = tokenizer.encode(piece.text, {.special = piece.control ? Special::parse : Special::as_text});
    ids.insert(ids.end(), part.begin(), part.end());
  }
  return ids;
}

/// The token that ends a turn; -1 where the model has no chat template.
inline int32_t end_of_turn(const Tokenizer& tokenizer) {
  switch (recognise_chat_template(tokenizer.chat_template())) {
    case ChatTemplate::chatml:
      return tokenizer.id("<|im_end|>");
    case ChatTemplate::gemma:
      return tokenizer.id("<end_of_turn>");
    case ChatTemplate::llama3:
      return tokenizer.id("<|eot_id|>");
    case ChatTemplate::none:
      break;
  }
  return -1;
}

}  // namespace text
}  // namespace ft::inline FTLIB_ABI
