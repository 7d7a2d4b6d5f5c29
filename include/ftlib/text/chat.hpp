// text/chat.hpp: conversations in the form that a chat model was trained on. No Jinja: the templates of the supported
// models are recognised by their marks, and written by hand.
#pragma once
#include <ftlib/text/conversation.hpp>  // Message
#include <ftlib/text/tokenizer.hpp>     // Tokenizer

#include <string>       // std::string
#include <string_view>  // std::string_view
#include <vector>       // std::vector

namespace ft::inline FTLIB_ABI {
namespace text {

/// The forms of chat that are known.
enum class ChatTemplate {
  none,    // a base model
  chatml,  // <|im_start|>role\n...<|im_end|>\n: SmolLM2, Qwen2.5
  qwen3,   // ChatML whose assistant may think: <think>...</think> before its answer
  gemma,   // <start_of_turn>role\n...<end_of_turn>\n, the assistant called "model", system text before the first user's
  llama3,  // <|start_header_id|>role<|end_header_id|>\n\n...<|eot_id|>
};

struct ChatOptions {
  bool answer_next = true;  // go on to where the assistant's next words go
  bool thinking = false;  // qwen3: leave it to the model whether it thinks; else an empty <think></think> stands there
};

/// The form that a Jinja template means; empty text means none. What a template does with tools is left aside: nobody
/// is given tools here. Throws Error for a template that is not known, and for one that writes more than turns (dates,
/// thoughts that cannot be turned off), which would be left out here.
ChatTemplate recognise_chat_template(std::string_view jinja);

/// A conversation as the model's template writes it; see ChatOptions. For showing: text from outside could forge a
/// turn, so encode with encode_chat. Without the beginning-of-text token that Gemma's and Llama 3's templates begin
/// with.
std::string render_chat(std::string_view jinja, const std::vector<Message>& messages, const ChatOptions& options = {});

/// The same as tokens, with the beginning-of-text token where the model asks for one. Control tokens that are written
/// in a message stay text. Messages and marks are encoded apart, so where a ChatML message begins with white space the
/// tokens can differ from those of the rendered text (the other templates trim).
std::vector<int32_t> encode_chat(const Tokenizer& tokenizer, const std::vector<Message>& messages,
                                 const ChatOptions& options = {});

/// The token that ends a turn; -1 where the model has no chat template.
int32_t end_of_turn(const Tokenizer& tokenizer);

}  // namespace text
}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/text/chat.inl.hpp>
#endif
