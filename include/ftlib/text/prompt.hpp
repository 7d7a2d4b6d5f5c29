// text/prompt.hpp: Prompt, how a model is asked: the form of questions, the beginning of a text, what ends an answer.
// Data, training, evaluation, generation and export all ask it, so that a model answers in the form that it was trained
// in.
#pragma once
#include <ftlib/io/json_fwd.hpp>     // Json
#include <ftlib/text/chat.hpp>       // ChatTemplate, Message
#include <ftlib/text/records.hpp>    // Record
#include <ftlib/text/tokenizer.hpp>  // Tokenizer

#include <optional>     // std::optional
#include <string>       // std::string
#include <string_view>  // std::string_view
#include <vector>       // std::vector

namespace ft::inline FTLIB_ABI {
namespace text {

/// How a record becomes text.
enum class Form {
  question_answer,  // "Q: ...\nA: ...", with "Context: ...\n" before it where the record has one
  chat,             // the model's own chat template
};

/// What a Prompt is made from; an adapter's folder can keep it as JSON.
struct PromptOptions {
  Form form = Form::question_answer;
  bool thinking =
      false;  // chat, of a model that can: let it think; else, mostly, an empty thought stands before answers
  std::optional<std::vector<std::string>> stop = {};  // strings that end an answer; none: the form's, a line's end in
                                                      // question_answer and nothing in chat
  std::string variables = {};                         // chat: more variables for the template, as an object of JSON
  std::string date = {};  // chat: ChatOptions::date; fix it for a run that is to be resumed on another day
  // What is answered to unanswered records: "I do not know."; and in place of an answer that does not reach both of
  std::string unknown = {};
  double sure = 0;   // a confidence (TokenGenerator::confidence); 0: any will do
  double near = -1;  // a nearness of its question (LearnedQuestions::nearness, 0 to 1); -1: any will do

  bool operator==(const PromptOptions&) const = default;
  Json to_json() const;
  /// Throws Error, naming `file`, for a field that is not known or makes no sense.
  static PromptOptions from_json(const Json& json, const std::string& file);
};

/// A form of asking, with the tokenizer that it is written in. Cheap to copy; safe from many threads.
class Prompt {
 public:
  /// Throws Error where the form is chat and the tokenizer has no chat template, or one that text/jinja.hpp does not
  /// hold, or that does not read what `thinking`, `variables` or `date` say.
  Prompt(Tokenizer tokenizer, PromptOptions options = {});  // implicit: a tokenizer alone asks in the usual form

  const Tokenizer& tokenizer() const { return tokenizer_; }
  const PromptOptions& options() const { return options_; }

  /// What every text begins with: the beginning-of-text token where the model asks for one; else nothing.
  std::vector<int32_t> beginning() const;
  /// A text as it stands, begun; never empty. What is written like a control token stays text.
  std::vector<int32_t> plain(std::string_view text) const;
  /// The tokens that a record's answer follows: what generation goes on from, and what training puts before the answer.
  /// Of a conversation, the answer is its last turn, the assistant's.
  std::vector<int32_t> question(const Record& record) const;
  /// The same for the last question of a conversation.
  std::vector<int32_t> conversation(const std::vector<Message>& turns) const;
  /// A record to learn: its question, and learned its first answer with the token that ends it; in the chat form
  /// ChatTemplate::learn of its turns, which a question with its answer is too; a plain text whole, with the end of
  /// text. Throws Error where that does, for a conversation in the question-answer form, and for an unanswered record
  /// where options() have no words for it.
  ChatTokens learn(const Record& record) const;
  /// The answers to a record's last question that are right: accepted_answers(), or options().unknown.
  std::vector<std::string> accepted(const Record& record) const;
  /// An answer, encoded by itself as generation will make it, and the token that ends it.
  std::vector<int32_t> answer(std::string_view answer) const;

  /// What ends an answer that is learned: the end of a turn, or of the text. Throws Error where there is no such token.
  int32_t end_token() const;
  /// What ends an answer that is generated: each of these tokens, and the first of stop().
  std::vector<int32_t> end_tokens() const;
  const std::vector<std::string>& stop() const { return stop_; }

 private:
  static std::vector<Message> asked(const Record& record);
  ChatOptions chat_options() const {
    return {.thinking = options_.thinking, .variables = options_.variables, .date = options_.date};
  }

  Tokenizer tokenizer_;
  PromptOptions options_;
  std::vector<std::string> stop_;
  std::optional<ChatTemplate> chat_;  // in the chat form
  int32_t end_of_turn_ = -1;
};

}  // namespace text
}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/text/prompt.inl.hpp>
#endif
