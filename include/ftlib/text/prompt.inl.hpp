// text/prompt.inl.hpp: the bodies of text/prompt.hpp.
#pragma once
#include <ftlib/io/json.hpp>  // at, value_or
#include <ftlib/text/prompt.hpp>

#include <algorithm>  // std::find
#include <utility>    // std::move

namespace ft::inline FTLIB_ABI {
namespace text {

[[gnu::cold]] FTLIB_INLINE Json PromptOptions::to_json() const {
  Json json{{"form", form == Form::chat ? "chat" : "question_answer"}};
  if (thinking) json["thinking"] = true;
  if (stop) json["stop"] = *stop;
  if (!variables.empty()) json["variables"] = parse_json(variables, "a prompt's variables");
  if (!date.empty()) json["date"] = date;
  if (!unknown.empty()) json["unknown"] = unknown;
  if (sure > 0) json["sure"] = sure;
  if (near > -1) json["near"] = near;
  return json;
}

[[gnu::cold]] FTLIB_INLINE PromptOptions PromptOptions::from_json(const Json& json, const std::string& file) {
  PromptOptions options;
  const auto form = at<std::string>(json, "form", file);
  if (form != "chat" && form != "question_answer")
    throw Error(str(file, ": form ", quote(form), " of a prompt is not known"), "known are question_answer and chat.");
  if (form == "chat") options.form = Form::chat;
  options.thinking = value_or<bool>(json, "thinking", false, file);
  if (json.contains("stop")) options.stop = at<std::vector<std::string>>(json, "stop", file);
  if (json.contains("variables")) options.variables = at<Json>(json, "variables", file).dump();
  options.date = value_or<std::string>(json, "date", "", file);
  options.unknown = value_or<std::string>(json, "unknown", "", file);
  options.sure = value_or<double>(json, "sure", 0, file);
  options.near = value_or<double>(json, "near", -1, file);
  static constexpr const char* known[] = {"form", "thinking", "stop", "variables", "date", "unknown", "sure", "near"};
  for (const auto& [key, value] : json.items())
    if (std::find(std::begin(known), std::end(known), key) == std::end(known))
      throw Error(str(file, ": ", quote(key), " of a prompt is not known"),
                  "known are form, thinking, stop, variables, date, unknown, sure and near; a later version may have "
                  "more.");
  return options;
}

[[gnu::cold]] FTLIB_INLINE Prompt::Prompt(Tokenizer tokenizer, PromptOptions options)
    : tokenizer_(std::move(tokenizer)), options_(std::move(options)) {
  if (!(options_.sure >= 0 && options_.sure <= 1) || (options_.sure > 0 && options_.unknown.empty()))
    throw Error(str("prompt: sure is ", options_.sure, options_.unknown.empty() ? ", with no words for less" : ""),
                "it is a probability, 0 to 1, below which `unknown` is answered.");
  if (!(options_.near >= -1 && options_.near <= 1) || (options_.near > -1 && options_.unknown.empty()))
    throw Error(str("prompt: near is ", options_.near, options_.unknown.empty() ? ", with no words for less" : ""),
                "it is 0 to 1, or -1 for any; below it `unknown` is answered.");
  if (options_.stop) stop_ = *options_.stop;
  else if (options_.form == Form::question_answer) stop_ = {"\n"};
  if (options_.form != Form::chat) return;
  chat_.emplace(tokenizer_);
  if (options_.thinking && !chat_->mentions("enable_thinking") && !chat_->mentions("thinking"))
    throw Error("prompt: the model's chat template does not read enable_thinking", "leave `thinking` out.");
  if (!options_.date.empty() && !chat_->mentions("strftime_now"))
    throw Error("prompt: the model's chat template writes no date", "leave `date` out.");
  if (!options_.variables.empty()) {
    const Json variables = parse_json(options_.variables, "the prompt's variables");
    for (const auto& [name, value] : variables.items())
      if (!chat_->mentions(name))
        throw Error("prompt: the model's chat template does not read the variable " + quote(name), "check its name.");
  }
  end_of_turn_ = chat_->end_of_turn(chat_options());
}

FTLIB_INLINE std::vector<int32_t> Prompt::beginning() const {
  return tokenizer_.add_bos() ? std::vector<int32_t>{tokenizer_.bos()} : std::vector<int32_t>{};
}

FTLIB_INLINE std::vector<int32_t> Prompt::plain(std::string_view text) const {
  auto ids = beginning();
  const auto rest = tokenizer_.encode(text, {.special = Special::as_text});
  ids.insert(ids.end(), rest.begin(), rest.end());
  if (ids.empty()) ids.push_back(tokenizer_.bos() >= 0 ? tokenizer_.bos() : tokenizer_.eos());
  return ids;
}

/// The turns that a record's answer follows.
FTLIB_INLINE std::vector<Message> Prompt::asked(const Record& record) {
  if (record.turns.empty())
    return {{"user", record.context.empty() ? record.question : record.context + "\n" + record.question}};
  std::vector<Message> turns = record.turns;
  if (turns.back().role == "assistant") turns.pop_back();
  return turns;
}

FTLIB_INLINE std::vector<int32_t> Prompt::question(const Record& record) const {
  if (options_.form == Form::question_answer && !record.context.empty())
    return plain("Context: " + record.context + "\nQ: " + record.question + "\nA:");
  return conversation(asked(record));
}

FTLIB_INLINE std::vector<int32_t> Prompt::conversation(const std::vector<Message>& turns) const {
  if (options_.form == Form::chat) return chat_->encode(turns, chat_options());
  std::string text;
  for (const Message& turn : turns) {
    if (turn.role != "user" && turn.role != "assistant")
      throw Error("prompt: the question-answer form has no place for the role '" + turn.role + "'",
                  "leave the message out, or use the chat form.");
    text += turn.role == "user" ? "Q: " + turn.content + "\nA:" : " " + turn.content + "\n";
  }
  return plain(text);
}

FTLIB_INLINE std::vector<std::string> Prompt::accepted(const Record& record) const {
  if (!record.unanswered) return accepted_answers(record);
  if (options_.unknown.empty())
    throw Error("prompt: a record without answers, and no words for it",
                "PromptOptions::unknown says what is answered (qa: --unknown \"I do not know.\").");
  return {options_.unknown};
}

FTLIB_INLINE ChatTokens Prompt::learn(const Record& record) const {
  if (!record.text.empty()) {
    ChatTokens whole{plain(record.text), {}};
    if (tokenizer_.eos() >= 0) whole.tokens.push_back(tokenizer_.eos());
    whole.learned.assign(whole.tokens.size(), true);
    return whole;
  }
  if (chat_) {
    std::vector<Message> turns = record.turns;
    if (turns.empty()) {
      turns = asked(record);
      turns.push_back({"assistant", accepted(record).at(0)});
    }
    return chat_->learn(std::move(turns), chat_options());
  }
  if (!record.turns.empty())
    throw Error("prompt: a conversation is not learned in the question-answer form",
                "use the chat form (qa: --form chat), or give questions and answers.");
  ChatTokens out{question(record), {}};
  const auto words = answer(accepted(record).at(0));
  out.learned.assign(out.tokens.size(), false);
  out.tokens.insert(out.tokens.end(), words.begin(), words.end());
  out.learned.resize(out.tokens.size(), true);
  return out;
}

FTLIB_INLINE std::vector<int32_t> Prompt::answer(std::string_view answer) const {
  const std::string text = (options_.form == Form::question_answer ? " " : "") + std::string(answer);
  auto ids = tokenizer_.encode(text, {.special = Special::as_text});
  ids.push_back(end_token());
  return ids;
}

FTLIB_INLINE int32_t Prompt::end_token() const {
  const int32_t id = options_.form == Form::chat ? end_of_turn_ : tokenizer_.eos();
  if (id < 0)
    throw Error(options_.form == Form::chat ? "prompt: the tokenizer has no token for the end of its template's turns"
                                            : "prompt: the tokenizer names no end-of-text token",
                "tokenizer_config.json names it as eos_token, GGUF as tokenizer.ggml.eos_token_id.");
  return id;
}

FTLIB_INLINE std::vector<int32_t> Prompt::end_tokens() const {
  std::vector<int32_t> ends;
  const auto add = [&](int32_t id) {
    if (id >= 0 && std::find(ends.begin(), ends.end(), id) == ends.end()) ends.push_back(id);
  };
  add(tokenizer_.eos());
  for (const int32_t id : tokenizer_.spec().ends) add(id);
  add(end_of_turn_);
  for (const char* name : {"<|im_end|>", "<end_of_turn>", "<|eot_id|>", "<|endoftext|>"})
    if (const int32_t id = tokenizer_.id(name); tokenizer_.is_special(id)) add(id);
  return ends;
}

}  // namespace text
}  // namespace ft::inline FTLIB_ABI
