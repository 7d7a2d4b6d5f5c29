// text/chat.hpp: conversations in the form that a chat model was trained on, as its own template writes them.
#pragma once
#include <ftlib/text/conversation.hpp>  // Message
#include <ftlib/text/jinja.hpp>         // JinjaTemplate
#include <ftlib/text/tokenizer.hpp>     // Tokenizer

#include <cstddef>  // std::size_t
#include <string>   // std::string
#include <vector>   // std::vector

namespace ft::inline FTLIB_ABI {
namespace text {

struct ChatOptions {
  bool answer_next = true;     // go on to where the assistant's next words go: the template's add_generation_prompt
  bool thinking = false;       // the template's enable_thinking and thinking: whether a model that can is to think
  std::string variables = {};  // more variables for the template, as an object of JSON
  std::string date = {};  // of templates that write one, "2024-07-26"; empty: today's, so that tomorrow's tokens differ
};

/// A conversation to learn: tokens, and for each whether it is one that the assistant has to say.
struct ChatTokens {
  std::vector<int32_t> tokens;
  std::vector<bool> learned;
};

/// A tokenizer's chat template (see text/jinja.hpp), parsed once. Cheap to copy, safe from many threads.
///
/// Roles are system, user and assistant; a template may refuse an order of them, which is an Error with its words. The
/// tokens of a conversation are those of the text that the template makes of it, but that control tokens which are
/// written in a message stay text, so that nobody can forge a turn. A beginning-of-text token stands where the template
/// writes one or the tokenizer asks for one, never twice.
class ChatTemplate {
 public:
  /// Throws Error where there is no template, or it cannot be parsed.
  explicit ChatTemplate(Tokenizer tokenizer);

  /// For showing; encode with encode(), or a message may forge a turn.
  std::string render(const std::vector<Message>& messages, const ChatOptions& options = {}) const;
  std::vector<int32_t> encode(const std::vector<Message>& messages, const ChatOptions& options = {}) const;

  /// A conversation to learn, up to its last assistant's turn; `answer_next` does not count. It begins with the tokens
  /// by which encode() asks for that turn, whatever the template makes of them behind an answer: an empty thought may
  /// stand behind the last question alone, a system message in it.
  ///
  /// Learned is what the template marks by {% generation %}; where it marks nothing, each assistant's turn from where
  /// encode() would have asked for it, and the control token that ends it. What is learned is encoded by itself, as
  /// generation makes it. Throws Error where the template leaves a turn out, writes no control token behind it, or
  /// writes before an answer something else than it asks by (as for thoughts in a conversation whose `thinking` is
  /// off).
  ChatTokens learn(std::vector<Message> messages, const ChatOptions& options = {}) const;

  /// The token that ends an assistant's turn: the first control token that the template writes behind one's words; the
  /// tokenizer's eos where it writes none.
  int32_t end_of_turn(const ChatOptions& options = {}) const;

  /// Whether the template reads a variable of this name.
  bool mentions(std::string_view variable) const { return jinja_.mentions(variable); }

 private:
  struct Rendered;
  Rendered run(const std::vector<Message>& messages, const ChatOptions& options) const;
  std::vector<int32_t> encode(const Rendered& rendered, std::size_t begin, std::size_t end) const;
  Rendered asked(const std::vector<Message>& messages, std::size_t turn, const ChatOptions& options) const;
  std::size_t asked_from(const Rendered& rendered, const Rendered& asked, const std::vector<Message>& messages,
                         std::size_t turn) const;
  bool is_control(int32_t id) const;

  Tokenizer tokenizer_;
  JinjaTemplate jinja_;
};

/// ChatTemplate::encode with the tokenizer's own template.
std::vector<int32_t> encode_chat(const Tokenizer& tokenizer, const std::vector<Message>& messages,
                                 const ChatOptions& options = {});

}  // namespace text
}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/text/chat.inl.hpp>
#endif
