// text/records.inl.hpp: the bodies of text/records.hpp.
#pragma once
#include <ftlib/io/atomic_file.hpp>  // write_atomically
#include <ftlib/io/json.hpp>         // parse_json
#include <ftlib/text/records.hpp>
#include <ftlib/text/unicode.hpp>  // valid_utf8_prefix, CharacterClasses

#include <algorithm>     // std::find
#include <fstream>       // std::ifstream
#include <sstream>       // std::istringstream
#include <system_error>  // std::error_code
#include <utility>       // std::move

namespace ft::inline FTLIB_ABI {

namespace text {

FTLIB_INLINE std::string last_question(const Record& record) {
  for (auto turn = record.turns.rbegin(); turn != record.turns.rend(); ++turn)
    if (turn->role == "user") return turn->content;
  return record.question;
}
FTLIB_INLINE std::vector<std::string> accepted_answers(const Record& record) {
  return record.turns.empty() ? record.answers : std::vector<std::string>{record.turns.back().content};
}

FTLIB_INLINE std::ostream& operator<<(std::ostream& out, const BadRecord& bad) {
  return out << bad.file << ':' << bad.line << ": " << bad.why;
}

FTLIB_INLINE std::string text_fault(std::string_view text) {
  if (const auto nul = text.find('\0'); nul != text.npos) return str("a NUL at byte ", nul + 1);
  if (const auto good = valid_utf8_prefix(text); good < text.size()) return str("not UTF-8 at byte ", good + 1);
  return {};
}

namespace detail {

/// Characters that draw nothing by themselves, beside white space and controls: Default_Ignorable_Code_Point,
/// interlinear marks and the blank braille pattern.                                       Unicode 15,
/// DerivedCoreProperties
FTLIB_INLINE bool draws_nothing(char32_t c) {
  struct Range {
    char32_t first, last;
  };
  static constexpr Range ranges[] = {{0x00, 0x20},     {0x7f, 0xa0},       {0xad, 0xad},       {0x34f, 0x34f},
                                     {0x61c, 0x61c},   {0x115f, 0x1160},   {0x17b4, 0x17b5},   {0x180b, 0x180f},
                                     {0x200b, 0x200f}, {0x202a, 0x202e},   {0x2060, 0x206f},   {0x2800, 0x2800},
                                     {0x3164, 0x3164}, {0xfe00, 0xfe0f},   {0xfeff, 0xfeff},   {0xffa0, 0xffa0},
                                     {0xfff0, 0xfffb}, {0x1bca0, 0x1bca3}, {0x1d173, 0x1d17a}, {0xe0000, 0xe0fff}};
  for (const auto [first, last] : ranges)
    if (first <= c && c <= last) return true;
  return false;
}

/// A turn's fault, or an empty string.
FTLIB_INLINE std::string turn_fault(const Message& turn, bool first) {
  if (turn.role != "system" && turn.role != "user" && turn.role != "assistant")
    return str("the role ", quote(turn.role), " is none of system, user and assistant");
  if (turn.role == "system" && !first) return "a system's turn stands first or not at all";
  if (is_blank(turn.content)) return str("the ", turn.role, "'s content is empty");
  return text_fault(turn.content);
}

FTLIB_INLINE std::string conversation_fault(const Record& record) {
  if (!record.question.empty() || !record.answers.empty() || !record.context.empty())
    return "a conversation has a question, answer or context beside its turns";
  bool asked = false;
  for (std::size_t i = 0; i < record.turns.size(); ++i) {
    if (const auto fault = turn_fault(record.turns[i], i == 0); !fault.empty()) return str("turn ", i + 1, ": ", fault);
    asked |= record.turns[i].role == "user";
  }
  if (!asked) return "the conversation has no user's turn";
  if (record.turns.back().role != "assistant") return "the conversation's last turn is not the assistant's";
  return {};
}

}  // namespace detail

FTLIB_INLINE bool is_blank(std::string_view text) {
  const CharacterClasses classes;
  for (std::size_t at = 0; at < text.size();) {
    if (scan_utf8(text.substr(at)).kind != Utf8Scan::valid) return false;
    const auto [code, length] = decode_utf8(text.data() + at);
    if ((classes(code) & space_class) == 0 && !detail::draws_nothing(code)) return false;
    at += length;
  }
  return true;
}

FTLIB_INLINE std::string split_name(std::string_view name) {
  while (!name.empty() && std::string_view(" \t\r\n").find(name.front()) != name.npos) name.remove_prefix(1);
  while (!name.empty() && std::string_view(" \t\r\n").find(name.back()) != name.npos) name.remove_suffix(1);
  std::string lower(name);
  for (char& c : lower)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c + 32);
  struct Known {
    const char *word, *split;
  };
  static constexpr Known known[] = {
      {"train", "train"},    {"training", "train"},   {"trn", "train"},   {"학습", "train"},
      {"훈련", "train"},     {"valid", "valid"},      {"val", "valid"},   {"validation", "valid"},
      {"validate", "valid"}, {"dev", "valid"},        {"devel", "valid"}, {"development", "valid"},
      {"eval", "valid"},     {"evaluation", "valid"}, {"검증", "valid"},  {"test", "test"},
      {"testing", "test"},   {"tst", "test"},         {"시험", "test"},   {"테스트", "test"}};
  for (const auto& [word, split] : known)
    if (lower == word) return split;
  return std::string(name);
}

FTLIB_INLINE bool is_known_split(std::string_view name) {
  const std::string split = split_name(name);
  return split == "train" || split == "valid" || split == "test";
}

FTLIB_INLINE std::string record_fault(const Record& record) {
  const auto check = [](std::string_view name, std::string_view text) {
    const std::string fault = text_fault(text);
    return fault.empty() ? fault : str(name, ": ", fault);
  };
  std::string fault;
  if (!record.text.empty()) {
    if (!record.turns.empty() || !record.question.empty() || !record.answers.empty() || !record.context.empty() ||
        !record.rejected.empty())
      return "a plain text has turns, a question, an answer or a context beside it";
    if (is_blank(record.text)) return "the text is empty";
    fault = check("text", record.text);
  } else if (!record.turns.empty()) {
    fault = detail::conversation_fault(record);
  } else {
    if (is_blank(record.question)) return "the question is empty";
    if (record.answers.empty() && !record.unanswered) return "there is no answer";
    if (!record.answers.empty() && record.unanswered) return "it is unanswered, and has an answer";
    for (const auto& answer : record.answers)
      if (is_blank(answer)) return "the answer is empty";
    fault = check("question", record.question);
    for (const auto& answer : record.answers)
      if (fault.empty()) fault = check("answer", answer);
    if (fault.empty()) fault = check("context", record.context);
  }
  const auto accepted = accepted_answers(record);
  for (const auto& answer : record.rejected) {
    if (is_blank(answer)) return "the rejected answer is empty";
    if (std::find(accepted.begin(), accepted.end(), answer) != accepted.end())
      return "the rejected answer is an accepted one too";
    if (fault.empty()) fault = check("rejected answer", answer);
  }
  if (fault.empty()) fault = check("id", record.id);
  if (fault.empty()) fault = check("lang", record.lang);
  if (fault.empty()) fault = check("split", record.split);
  return fault;
}

FTLIB_INLINE LineReader::LineReader(const std::filesystem::path& path)
    : in_(std::make_unique<std::ifstream>(path, std::ios::binary)) {
  std::error_code ignored;
  if (!*in_ || std::filesystem::is_directory(path, ignored))
    throw Error(str(path.string(), ": cannot be read"), "check the name, and that it is a file you may read.",
                ErrorKind::bad_file);
  begin(path.string());
}
FTLIB_INLINE LineReader::LineReader(std::string_view text, const std::string& name)
    : in_(std::make_unique<std::istringstream>(std::string(text))) {
  begin(name);
}

FTLIB_INLINE void LineReader::begin(const std::string& name) {
  char head[4] = {};
  const auto size = static_cast<std::size_t>(in_->rdbuf()->sgetn(head, 4));
  const std::string_view mark(head, size);
  const bool wide = mark.starts_with("\xFF\xFE") || mark.starts_with("\xFE\xFF");
  if (wide || mark == std::string_view("\0\0\xFE\xFF", 4)) {
    const bool four = !wide || mark.ends_with(std::string_view("\0\0", 2));
    throw Error(str(name, ": is UTF-", four ? 32 : 16, ", by its byte-order mark"),
                str("make it UTF-8: iconv -f UTF-", four ? 32 : 16, " -t UTF-8 ", name,
                    " > OTHER; qa prepare reads it as it is."),
                ErrorKind::bad_file);
  }
  for (std::size_t i = size; i-- > 0;) held_.push_back(head[i]);
}

FTLIB_INLINE bool LineReader::next(std::string& line) {
  line.clear();
  constexpr auto end = std::char_traits<char>::eof();
  const auto next_byte = [&]() -> std::char_traits<char>::int_type {
    if (held_.empty()) return in_->rdbuf()->sbumpc();
    const char c = held_.back();
    held_.pop_back();
    return std::char_traits<char>::to_int_type(c);
  };
  auto c = next_byte();
  if (c == end) return false;
  ++number_;
  size_ = 0;
  for (; c != end && c != '\n'; c = next_byte())
    if (++size_ <= max_line_bytes) line.push_back(static_cast<char>(c));
  if (number_ == 1 && line.starts_with("\xEF\xBB\xBF")) line.erase(0, 3);
  if (line.ends_with('\r')) line.pop_back();
  return true;
}

FTLIB_INLINE std::string LineReader::fault(std::string_view line) const {
  if (size_ > max_line_bytes) return str("the line has ", size_, " bytes, more than ", max_line_bytes);
  return text_fault(line);
}

namespace detail {

inline constexpr std::string_view records_hint =
    "each line is one object: {\"question\": ..., \"answer\": ...}, {\"messages\": [...]} or {\"text\": ...}; `qa "
    "prepare` makes such a file from others.";

FTLIB_INLINE std::string string_member(const Json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end() || found->is_null()) return {};
  if (!found->is_string()) throw Error(str("\"", key, "\" is not a string"));
  return found->get<std::string>();
}

[[gnu::cold]] FTLIB_INLINE Record record_from_line(const std::string& line) {
  const auto object = parse_json(line, "the line");
  if (!object.is_object()) throw Error("the line is not a JSON object");
  Record record;
  const auto id = object.find("id");
  record.id = id != object.end() && id->is_number_integer() ? id->dump() : string_member(object, "id");
  const bool question = object.contains("question"), turned = object.contains("messages");
  if (!question && !turned && !object.contains("text")) {
    std::string keys;
    for (const auto& [key, value] : object.items())
      if (keys.size() < 200) keys += str(keys.empty() ? "" : ", ", quote(key));
    throw Error(keys.empty() ? "the object is empty" : str("has no \"question\", \"messages\" or \"text\", but ", keys),
                std::string(records_hint));
  }
  record.question = string_member(object, "question");
  const auto add = [&](std::vector<std::string>& answers, const Json& answer) {
    if (!answer.is_string())
      throw Error(&answers == &record.rejected ? "a rejected answer is not a string" : "an answer is not a string");
    auto text = answer.get<std::string>();
    if (std::find(answers.begin(), answers.end(), text) == answers.end()) answers.push_back(std::move(text));
  };
  if (const auto one = object.find("answer"); one != object.end()) add(record.answers, *one);
  if (const auto many = object.find("answers"); many != object.end()) {
    if (!many->is_array()) throw Error("\"answers\" is not a list");
    for (const auto& answer : *many) add(record.answers, answer);
    record.unanswered = record.answers.empty();
  }
  if (const auto worse = object.find("rejected"); worse != object.end() && worse->is_array())
    for (const auto& answer : *worse) add(record.rejected, answer);
  else if (worse != object.end() && !worse->is_null()) add(record.rejected, *worse);
  if (!question && !turned) record.text = string_member(object, "text");
  record.context = string_member(object, "context");
  record.lang = string_member(object, "lang");
  record.split = split_name(string_member(object, "split"));
  if (const auto turns = object.find("messages"); turns != object.end()) {
    if (!turns->is_array() || turns->empty()) throw Error("\"messages\" is not a list of turns");
    for (const auto& turn : *turns) {
      if (!turn.is_object()) throw Error("a turn of \"messages\" is not an object");
      record.turns.push_back({string_member(turn, "role"), string_member(turn, "content")});
    }
  }
  if (record.text.empty() && !question && !turned) throw Error("the text is empty");
  if (auto fault = record_fault(record); !fault.empty()) throw Error(std::move(fault));
  return record;
}

/// Calls `bad(BadRecord)` for what cannot be used; a `bad` that throws makes the first such line fatal.
template <class Bad> std::vector<Record> read_records(LineReader lines, const std::string& name, Bad&& bad) {
  std::vector<Record> records;
  for (std::string line; lines.next(line);) {
    std::string why = lines.fault(line);
    if (why.empty() && line.find_first_not_of(" \t") == line.npos) continue;
    if (why.empty()) {
      try {
        records.push_back(record_from_line(line));
        if (records.back().id.empty()) records.back().id = std::to_string(lines.number());
        continue;
      } catch (const ft::detail::JsonFault& fault) {
        why = fault.out_of_range ? "a number is too large" : str("not JSON at byte ", fault.position);
      } catch (const Error& e) {
        why = e.message();
      }
    }
    bad(BadRecord{name, lines.number(), std::move(why)});
  }
  return records;
}

[[gnu::cold]] FTLIB_INLINE std::vector<Record> usable_records(LineReader lines, const std::string& name,
                                                              std::vector<BadRecord>& bad, ErrorKind kind) {
  const std::size_t before = bad.size();
  auto records = read_records(std::move(lines), name, [&](BadRecord one) { bad.push_back(std::move(one)); });
  if (!records.empty()) return records;
  if (bad.size() > before)
    throw Error(str(name, ": no record can be used; line ", bad[before].line, ": ", bad[before].why),
                std::string(records_hint), kind);
  throw Error(str(name, ": holds no record"), std::string(records_hint), kind);
}

}  // namespace detail

FTLIB_INLINE std::vector<Record> read_records(const std::filesystem::path& path, std::vector<BadRecord>& bad) {
  return detail::usable_records(LineReader(path), path.string(), bad, ErrorKind::bad_file);
}
FTLIB_INLINE std::vector<Record> parse_records(std::string_view lines, std::vector<BadRecord>& bad,
                                               const std::string& name) {
  return detail::usable_records(LineReader(lines, name), name, bad, ErrorKind::bad_argument);
}

FTLIB_INLINE std::vector<Record> read_records(const std::filesystem::path& path) {
  auto records = detail::read_records(LineReader(path), path.string(), [](const BadRecord& bad) {
    throw Error(str(bad),
                "mend the line, or leave it out: `qa prepare` does, and reads other kinds of files; in a program, "
                "read_records() with a list of bad records.",
                ErrorKind::bad_file);
  });
  if (records.empty())
    throw Error(path.string() + ": holds no record", std::string(detail::records_hint), ErrorKind::bad_file);
  return records;
}

FTLIB_INLINE std::string to_json_line(const Record& record) {
  if (const auto fault = record_fault(record); !fault.empty())
    throw Error(str("record '", record.id, "': ", fault), "read_records() gives only records that can be written.");
  std::string line;
  const auto add = [&](std::string_view key, const Json& value) {
    line += (line.empty() ? "{" : ",") + Json(key).dump() + ':' + value.dump();
  };
  if (!record.id.empty()) add("id", record.id);
  if (!record.text.empty()) {
    add("text", record.text);
  } else if (!record.turns.empty()) {
    std::string turns;
    for (const auto& turn : record.turns)
      turns += (turns.empty() ? "{\"role\":" : ",{\"role\":") + Json(turn.role).dump() +
               ",\"content\":" + Json(turn.content).dump() + '}';
    line += (line.empty() ? "{" : ",") + ("\"messages\":[" + turns + ']');
  } else {
    add("question", record.question);
    if (record.answers.size() == 1) add("answer", record.answers.front());
    else add("answers", record.answers);
  }
  if (!record.rejected.empty()) add("rejected", record.rejected);
  if (!record.context.empty()) add("context", record.context);
  if (!record.lang.empty()) add("lang", record.lang);
  if (!record.split.empty()) add("split", record.split);
  line += '}';
  if (line.size() > max_line_bytes)
    throw Error(str("record '", record.id, "': its line has ", line.size(), " bytes, more than ", max_line_bytes),
                "shorten it: no model learns from so long a text at once.");
  return line;
}

FTLIB_INLINE void write_records(const std::filesystem::path& path, const std::vector<Record>& records) {
  std::string lines;
  for (const auto& record : records) lines += to_json_line(record) + '\n';
  write_atomically(path, lines);
}

}  // namespace text

}  // namespace ft::inline FTLIB_ABI
