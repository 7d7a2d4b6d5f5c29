// text/chat.hpp: conversations in the form that a chat model was trained on. No Jinja: the templates of the supported
// models are recognised by their marks, and written by hand.
#pragma once
#include <ftlib/text/tokenizer.hpp>  // Tokenizer

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

/// The form that a Jinja template means. Throws Error for one that is not known; empty text means none.
inline ChatTemplate recognise_chat_template(std::string_view jinja) {
  if (jinja.empty()) return ChatTemplate::none;
  if (jinja.find("<|im_start|>") != jinja.npos) return ChatTemplate::chatml;
  if (jinja.find("<start_of_turn>") != jinja.npos) return ChatTemplate::gemma;
  if (jinja.find("<|start_header_id|>") != jinja.npos) return ChatTemplate::llama3;
  throw Error(str("chat: the model's template is not known: ", ft::detail::printable(jinja, 120)),
              "known are ChatML's, Gemma's and Llama 3's; use the question-answer form.");
}

namespace detail {
/// A piece of a conversation: the template's own text, whose control tokens count, or somebody's words, whose do not.
struct ChatPiece {
  std::string text;
  bool control;
};

/// The system line that SmolLM2's template puts in where a conversation has none; empty for other ChatML templates.
inline std::string default_system_line(std::string_view jinja) {
  constexpr std::string_view smollm = "You are a helpful AI assistant named SmolLM, trained by Hugging Face";
  return jinja.find(smollm) != jinja.npos ? std::string(smollm) : std::string();
}

inline std::vector<ChatPiece> chat_pieces(std::string_view jinja, const std::vector<Message>& messages,
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
      std::string system;
      for (const Message& m : messages) {
        if (m.role == "system") {
          system += m.content + "\n\n";
          continue;
        }
        turn(m.role == "assistant" ? "<start_of_turn>model\n" : "<start_of_turn>user\n", system + m.content,
             "<end_of_turn>\n");
        system.clear();
      }
      if (answer_next) pieces.push_back({"<start_of_turn>model\n", true});
      break;
    }
    case ChatTemplate::llama3:
      for (const Message& m : messages)
        turn("<|start_header_id|>" + m.role + "<|end_header_id|>\n\n", m.content, "<|eot_id|>");
      if (answer_next) pieces.push_back({"<|start_header_id|>assistant<|end_header_id|>\n\n", true});
      break;
  }
  return pieces;
}
}  // namespace detail

/// A conversation as the model's template writes it; with `answer_next`, up to where the assistant's next words go. For
/// showing: text from outside could forge a turn, so encode with encode_chat.
inline std::string render_chat(std::string_view jinja, const std::vector<Message>& messages, bool answer_next = true) {
  std::string text;
  for (const auto& piece : detail::chat_pieces(jinja, messages, answer_next)) text += piece.text;
  return text;
}

/// The same as tokens, with the beginning-of-text token where the model asks for one. Control tokens that are written
/// in a message stay text.
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
