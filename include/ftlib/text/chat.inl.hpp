// text/chat.inl.hpp: the bodies of text/chat.hpp.
#pragma once
#include <ftlib/core/message.hpp>  // printable, quote
#include <ftlib/text/chat.hpp>

#include <algorithm>    // std::find
#include <string_view>  // std::string_view
#include <utility>      // std::move

namespace ft::inline FTLIB_ABI {
namespace text {

/// A conversation as text, with what each stretch of it comes from.
struct ChatTemplate::Rendered {
  std::string text;
  struct Piece {
    std::size_t begin, end;
    std::int32_t from;
    bool generated;
  };
  std::vector<Piece> pieces;

  /// Where the template's words begin that stand directly before `at`.
  std::size_t template_before(std::size_t at) const {
    std::size_t begin = 0;
    for (const Piece& piece : pieces)
      if (piece.end <= at && piece.from != JinjaPiece::from_template) begin = piece.end;
    return begin;
  }
  /// Where the template's words end that stand directly behind `at`.
  std::size_t template_after(std::size_t at) const {
    for (const Piece& piece : pieces)
      if (piece.begin >= at && piece.from != JinjaPiece::from_template) return piece.begin;
    return text.size();
  }
  /// Goes on with another text from its byte `from`.
  void append(const Rendered& other, std::size_t from) {
    for (const Piece& piece : other.pieces) {
      if (piece.end <= from) continue;
      const std::size_t begin = std::max(from, piece.begin), at = text.size();
      text.append(other.text, begin, piece.end - begin);
      pieces.push_back({at, text.size(), piece.from, piece.generated});
    }
  }
  /// The stretch from a message's first character to its last; empty where it has none.
  std::pair<std::size_t, std::size_t> of(std::size_t message) const {
    std::pair<std::size_t, std::size_t> stretch{0, 0};
    for (const Piece& piece : pieces) {
      if (piece.from != static_cast<std::int32_t>(message)) continue;
      if (stretch.first == stretch.second) stretch.first = piece.begin;
      stretch.second = piece.end;
    }
    return stretch;
  }
};

[[gnu::cold]] FTLIB_INLINE ChatTemplate::ChatTemplate(Tokenizer tokenizer)
    : tokenizer_(std::move(tokenizer)), jinja_(tokenizer_.chat_template()) {
  if (tokenizer_.chat_template().empty())
    throw Error("chat: this is a base model, it has no chat template", "use the question-answer form.");
}

FTLIB_INLINE ChatTemplate::Rendered ChatTemplate::run(const std::vector<Message>& messages,
                                                      const ChatOptions& options) const {
  for (const Message& m : messages)
    if (m.role != "system" && m.role != "user" && m.role != "assistant")
      throw Error("chat: role " + quote(m.role) + " is none of system, user, assistant");
  JinjaInput input{.messages = &messages};
  for (const auto& [name, id] : {std::pair{"bos_token", tokenizer_.bos()}, std::pair{"eos_token", tokenizer_.eos()},
                                 std::pair{"pad_token", tokenizer_.pad()}, std::pair{"unk_token", tokenizer_.unk()}})
    if (id >= 0) input.texts.emplace_back(name, tokenizer_.token(id));
  input.flags = {{"add_generation_prompt", options.answer_next},
                 {"enable_thinking", options.thinking},
                 {"thinking", options.thinking}};
  input.variables = options.variables;
  input.date = options.date;
  Rendered out;
  for (JinjaPiece& piece : jinja_.render(input)) {
    const std::size_t begin = out.text.size();
    out.text += piece.text;
    out.pieces.push_back({begin, out.text.size(), piece.from, piece.generated});
  }
  return out;
}

/// The tokens of a stretch of the text.
FTLIB_INLINE std::vector<int32_t> ChatTemplate::encode(const Rendered& rendered, std::size_t begin,
                                                       std::size_t end) const {
  std::vector<TextPart> parts;
  for (const auto& piece : rendered.pieces) {
    const std::size_t from = std::max(begin, piece.begin), to = std::min(end, piece.end);
    if (from < to)
      parts.push_back({std::string_view(rendered.text).substr(from, to - from),
                       piece.from == JinjaPiece::from_template ? Special::parse : Special::as_text});
  }
  auto ids = tokenizer_.encode(parts);
  if (begin == 0 && tokenizer_.add_bos() && (ids.empty() || ids.front() != tokenizer_.bos()))
    ids.insert(ids.begin(), tokenizer_.bos());
  return ids;
}

FTLIB_INLINE std::string ChatTemplate::render(const std::vector<Message>& messages, const ChatOptions& options) const {
  return run(messages, options).text;
}
FTLIB_INLINE std::vector<int32_t> ChatTemplate::encode(const std::vector<Message>& messages,
                                                       const ChatOptions& options) const {
  const Rendered rendered = run(messages, options);
  return encode(rendered, 0, rendered.text.size());
}

FTLIB_INLINE bool ChatTemplate::is_control(int32_t id) const {
  const auto& ends = tokenizer_.spec().ends;
  return tokenizer_.is_special(id) || id == tokenizer_.eos() || std::find(ends.begin(), ends.end(), id) != ends.end();
}

FTLIB_INLINE int32_t ChatTemplate::end_of_turn(const ChatOptions& options) const {
  ChatOptions whole = options;
  whole.answer_next = false;
  const Rendered rendered = run({{"user", "a"}, {"assistant", "b"}}, whole);
  const std::size_t said = rendered.of(1).second;
  if (said > 0)
    for (const int32_t id : encode(rendered, said, rendered.template_after(said)))
      if (is_control(id)) return id;
  return tokenizer_.eos();
}

/// The text by which encode() asks for turn `turn`.
FTLIB_INLINE ChatTemplate::Rendered ChatTemplate::asked(const std::vector<Message>& messages, std::size_t turn,
                                                        const ChatOptions& options) const {
  ChatOptions asking = options;
  asking.answer_next = true;
  return run({messages.begin(), messages.begin() + static_cast<std::ptrdiff_t>(turn)}, asking);
}

/// Where the words of turn `turn` begin, in a text that has it, that encode() would have left to the assistant.
FTLIB_INLINE std::size_t ChatTemplate::asked_from(const Rendered& rendered, const Rendered& asked,
                                                  const std::vector<Message>& messages, std::size_t turn) const {
  const auto [words, words_end] = rendered.of(turn);
  const std::string_view question = std::string_view(asked.text).substr(asked.template_before(asked.text.size()));
  const std::size_t begin = rendered.template_before(words);
  const std::string_view written = std::string_view(rendered.text).substr(begin, words - begin);
  if (written.starts_with(question)) return begin + question.size();
  const auto bare = [](std::string_view text) {
    const std::size_t first = text.find_first_not_of(" \t\r\n");
    return first == text.npos ? std::string_view() : text.substr(first, text.find_last_not_of(" \t\r\n") + 1 - first);
  };
  // What stands behind the last question alone, as an empty thought. The last answer has to be whole, for a thought
  // that is cut out of it, or written apart, would stand elsewhere than it is asked for.
  const bool whole =
      bare(std::string_view(rendered.text).substr(words, words_end - words)) == bare(messages[turn].content);
  if (question.starts_with(written) && (whole || turn + 1 < messages.size())) return words;
  throw Error(
      str("chat: the template asks for turn ", turn, " by ", quote(question), ", and writes it behind ",
          quote(written)),
      "what was learned would not be what is asked for; `thinking` may be off in a conversation with thoughts.");
}

FTLIB_INLINE ChatTokens ChatTemplate::learn(std::vector<Message> messages, const ChatOptions& options) const {
  while (!messages.empty() && messages.back().role != "assistant") messages.pop_back();
  if (messages.empty()) throw Error("chat: the conversation has no assistant's turn, so nothing to learn");
  const std::size_t last = messages.size() - 1;
  ChatOptions written = options;
  written.answer_next = false;
  Rendered rendered = run(messages, written);
  if (const auto [begin, end] = rendered.of(last); begin == end)
    throw Error(str("chat: the template writes nothing of turn ", last, ", ", quote(messages[last].content)),
                "leave the turn out, or give it words.");
  if (last > 0) {  // as it will be asked for, whatever the template makes of what stands before an answer
    Rendered question = asked(messages, last, options);
    if (!jinja_.marks_generation()) {
      const std::size_t from = asked_from(rendered, question, messages, last);
      question.append(rendered, from);
      rendered = std::move(question);
    } else if (!rendered.text.starts_with(question.text)) {
      const auto differs =
          std::mismatch(question.text.begin(), question.text.end(), rendered.text.begin(), rendered.text.end());
      const auto at = static_cast<std::size_t>(differs.first - question.text.begin());
      throw Error(
          str("chat: the template asks for turn ", last, " by ", quote(std::string_view(question.text).substr(at)),
              ", and writes ", quote(std::string_view(rendered.text).substr(at)), " there"),
          "what was learned would not be what is asked for.");
    }
  }

  std::vector<std::pair<std::size_t, std::size_t>> said;  // stretches that the assistant says, up to their end token
  if (jinja_.marks_generation()) {
    for (const auto& piece : rendered.pieces) {
      if (!piece.generated) continue;
      if (!said.empty() && said.back().second == piece.begin) said.back().second = piece.end;
      else said.emplace_back(piece.begin, piece.end);
    }
    if (said.empty()) throw Error("chat: the template marks nothing of the conversation as the assistant's");
  } else {
    for (std::size_t i = 0; i < messages.size(); ++i) {
      if (messages[i].role != "assistant") continue;
      const auto [begin, end] = rendered.of(i);
      if (begin == end)
        throw Error(str("chat: the template writes nothing of turn ", i, ", ", quote(messages[i].content)),
                    "leave the turn out, or give it words.");
      for (const auto& piece : rendered.pieces)
        if (piece.begin >= begin && piece.end <= end && piece.from >= 0 && piece.from != static_cast<std::int32_t>(i))
          throw Error(str("chat: the template writes turns ", i, " and ", piece.from, " into each other"));
      if (i == 0) said.emplace_back(begin, end);  // nobody asked
      else said.emplace_back(asked_from(rendered, asked(messages, i, options), messages, i), end);
    }
  }

  ChatTokens out;
  const auto put = [&](const std::vector<int32_t>& ids, std::size_t learned) {
    out.tokens.insert(out.tokens.end(), ids.begin(), ids.end());
    for (std::size_t i = 0; i < ids.size(); ++i) out.learned.push_back(i < learned);
  };
  put(encode(rendered, 0, said.front().first), 0);
  for (std::size_t i = 0; i < said.size(); ++i) {
    const auto [begin, end] = said[i];
    const std::size_t next = i + 1 < said.size() ? said[i + 1].first : rendered.text.size();
    const auto control = [&](int32_t id) { return is_control(id); };
    if (const auto closing = encode(rendered, rendered.template_before(end), end);
        jinja_.marks_generation() && std::any_of(closing.begin(), closing.end(), control)) {  // its end is in it
      const auto own = encode(rendered, begin, end);
      put(own, own.size());
      put(encode(rendered, end, next), 0);
      continue;
    }
    // Up to the first control token of the template behind the words.
    const auto own = encode(rendered, begin, end), behind = encode(rendered, end, rendered.template_after(end));
    const auto inside = std::count_if(own.begin(), own.end(), control);
    if (std::none_of(behind.begin(), behind.end(), control))
      throw Error(str("chat: the template writes no control token behind the assistant's ",
                      quote(std::string_view(rendered.text).substr(begin, end - begin))),
                  "nothing would tell the model to stop.");
    const auto ids = encode(rendered, begin, next);
    std::size_t learned = 0;
    for (auto left = inside + 1; learned < ids.size() && left > 0; ++learned) left -= is_control(ids[learned]);
    put(ids, learned);
  }
  while (!out.learned.empty() && !out.learned.back()) {  // the last turn's end is the end
    out.learned.pop_back();
    out.tokens.pop_back();
  }
  return out;
}

FTLIB_INLINE std::vector<int32_t> encode_chat(const Tokenizer& tokenizer, const std::vector<Message>& messages,
                                              const ChatOptions& options) {
  return ChatTemplate(tokenizer).encode(messages, options);
}

}  // namespace text
}  // namespace ft::inline FTLIB_ABI
