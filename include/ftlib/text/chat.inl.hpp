// text/chat.inl.hpp: the bodies of text/chat.hpp.
#pragma once
#include <ftlib/text/chat.hpp>
#include <ftlib/text/unicode.hpp>  // decode_utf8, CharacterClasses

#include <algorithm>  // std::min

namespace ft::inline FTLIB_ABI {
namespace text {

FTLIB_INLINE ChatTemplate recognise_chat_template(std::string_view jinja) {
  const auto has = [&](std::string_view mark) { return jinja.find(mark) != jinja.npos; };
  if (jinja.empty()) return ChatTemplate::none;
  const bool dated = has("Cutting Knowledge Date") || has("strftime_now") || has("Today Date");
  if (!dated) {
    if (has("<|im_start|>") && !has("<think>")) return ChatTemplate::chatml;
    if (has("<|im_start|>") && has("enable_thinking is false")) return ChatTemplate::qwen3;
    if (has("<start_of_turn>")) return ChatTemplate::gemma;
    if (has("<|start_header_id|>")) return ChatTemplate::llama3;
  }
  throw Error(str("chat: the model's template is not known: ", printable(jinja, 120)),
              "known are ChatML's (Qwen2.5's and Qwen3's too), Gemma's and Llama 3's, without dates; use the "
              "question-answer form.");
}

namespace detail {
/// A piece of a conversation: the template's own text, whose control tokens count, or somebody's words, whose do not.
struct ChatPiece {
  std::string text;
  bool control;
};

/// The system line that a ChatML template puts in where a conversation has none (SmolLM2's and Qwen2.5's do), or empty:
/// the first plain string that it has between <|im_start|>system and <|im_end|>.
inline std::string default_system_line(std::string_view jinja) {
  constexpr std::string_view begin = "<|im_start|>system", end = "<|im_end|>";
  for (std::size_t found; (found = jinja.find(begin)) != jinja.npos;) {
    jinja.remove_prefix(found + begin.size());
    // The line's end inside a Jinja string, as itself or escaped.
    const std::size_t skip = jinja.substr(0, 1) == "\n" ? 1 : jinja.substr(0, 2) == "\\n" ? 2 : 0;
    if (skip == 0) continue;
    const std::string_view line = jinja.substr(skip, jinja.find(end) - skip);
    if (skip + line.size() < jinja.size() && line.find_first_of("'\"{}\\") == line.npos) return std::string(line);
  }
  return {};
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

/// Qwen3 keeps what the assistant thought in its last turns alone: the answer, and what stood in <think> before it.
struct Thought {
  std::string thinking, answer;

  explicit Thought(const std::string& content) : answer(content) {
    constexpr std::string_view open = "<think>", close = "</think>";
    const std::size_t first = content.find(close), last = content.rfind(close);
    if (last == content.npos) return;
    thinking = content.substr(0, first);
    if (const std::size_t at = thinking.rfind(open); at != thinking.npos) thinking.erase(0, at + open.size());
    thinking = without_lines(thinking);
    answer = content.substr(last + close.size());
    answer.erase(0, std::min(answer.find_first_not_of('\n'), answer.size()));
  }
  /// Without empty lines at both ends.
  static std::string without_lines(std::string_view text) {
    const std::size_t begin = std::min(text.find_first_not_of('\n'), text.size());
    return std::string(text.substr(begin, text.find_last_not_of('\n') + 1 - begin));
  }
};

[[gnu::cold]] inline std::vector<ChatPiece> chat_pieces(std::string_view jinja, const std::vector<Message>& messages,
                                                        const ChatOptions& options) {
  const ChatTemplate form = recognise_chat_template(jinja);
  std::vector<ChatPiece> pieces;
  const auto turn = [&](const std::string& before, const std::string& content, const std::string& after) {
    pieces.push_back({before, true});
    pieces.push_back({content, false});
    pieces.push_back({after, true});
  };
  std::size_t last_question = messages.empty() ? 0 : messages.size() - 1;  // where nobody asks, no turn is behind one
  for (std::size_t i = 0; i < messages.size(); ++i) {
    const std::string& role = messages[i].role;
    if (role != "system" && role != "user" && role != "assistant")
      throw Error("chat: role '" + role + "' is none of system, user, assistant");
    if (role == "user") last_question = i;
  }
  switch (form) {
    case ChatTemplate::none:
      throw Error("chat: this is a base model, it has no chat template", "use the question-answer form.");
    case ChatTemplate::chatml:
      if (const std::string line = default_system_line(jinja);
          !line.empty() && !messages.empty() && messages.front().role != "system")
        turn("<|im_start|>system\n", line, "<|im_end|>\n");
      for (const Message& m : messages) turn("<|im_start|>" + m.role + "\n", m.content, "<|im_end|>\n");
      if (options.answer_next) pieces.push_back({"<|im_start|>assistant\n", true});
      break;
    case ChatTemplate::qwen3:
      for (std::size_t i = 0; i < messages.size(); ++i) {
        const Message& m = messages[i];
        const std::string head = "<|im_start|>" + m.role + "\n";
        if (m.role != "assistant") {
          turn(head, m.content, "<|im_end|>\n");
          continue;
        }
        const Thought said(m.content);
        if (i > last_question && (i + 1 == messages.size() || !said.thinking.empty())) {
          pieces.push_back({head + "<think>\n", true});
          pieces.push_back({said.thinking, false});
          turn("\n</think>\n\n", said.answer.substr(std::min(said.answer.find_first_not_of('\n'), said.answer.size())),
               "<|im_end|>\n");
        } else {
          turn(head, said.answer, "<|im_end|>\n");
        }
      }
      if (options.answer_next)
        pieces.push_back(
            {options.thinking ? "<|im_start|>assistant\n" : "<|im_start|>assistant\n<think>\n\n</think>\n\n", true});
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
      if (options.answer_next) pieces.push_back({"<start_of_turn>model\n", true});
      break;
    }
    case ChatTemplate::llama3:
      for (const Message& m : messages)
        turn("<|start_header_id|>" + m.role + "<|end_header_id|>\n\n", trim(m.content), "<|eot_id|>");
      if (options.answer_next) pieces.push_back({"<|start_header_id|>assistant<|end_header_id|>\n\n", true});
      break;
  }
  return pieces;
}
}  // namespace detail

FTLIB_INLINE std::string render_chat(std::string_view jinja, const std::vector<Message>& messages,
                                     const ChatOptions& options) {
  std::string text;
  for (const auto& piece : detail::chat_pieces(jinja, messages, options)) text += piece.text;
  return text;
}

FTLIB_INLINE std::vector<int32_t> encode_chat(const Tokenizer& tokenizer, const std::vector<Message>& messages,
                                              const ChatOptions& options) {
  std::vector<int32_t> ids;
  if (tokenizer.add_bos()) ids.push_back(tokenizer.bos());
  for (const auto& piece : detail::chat_pieces(tokenizer.chat_template(), messages, options)) {
    const auto part = tokenizer.encode(piece.text, {.special = piece.control ? Special::parse : Special::as_text});
    ids.insert(ids.end(), part.begin(), part.end());
  }
  return ids;
}

FTLIB_INLINE int32_t end_of_turn(const Tokenizer& tokenizer) {
  switch (recognise_chat_template(tokenizer.chat_template())) {
    case ChatTemplate::chatml:
    case ChatTemplate::qwen3:
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
