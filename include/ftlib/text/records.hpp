// text/records.hpp: question-answer records: what they hold, and their JSON lines file, read with every fault named.
#pragma once
#include <ftlib/core/error.hpp>         // Error
#include <ftlib/text/conversation.hpp>  // Message

#include <cstddef>      // std::size_t
#include <cstdint>      // std::int64_t
#include <filesystem>   // std::filesystem::path
#include <istream>      // std::istream
#include <memory>       // std::unique_ptr
#include <ostream>      // std::ostream
#include <string>       // std::string
#include <string_view>  // std::string_view
#include <vector>       // std::vector

namespace ft::inline FTLIB_ABI {
namespace text {

/// A question with its accepted answers, of which the first is the one trained on; or, where it has turns, a
/// conversation, whose every assistant's turn is trained on; or a text, all of which is.
struct Record {
  std::string id = {}, question = {};
  std::vector<std::string> answers = {};
  std::string context = {};         ///< a passage to answer from, or the turns before the question; mostly empty
  std::string lang = {};            ///< "en", "ko", ...; empty where it is not known
  std::string split = {};           ///< "train", "valid", "test", ...; empty where the set has none
  std::vector<Message> turns = {};  ///< a conversation's; question, answers and context are empty then
  std::string text = {};            ///< a plain text; all but id, lang and split are empty then
  bool unanswered = false;          ///< has no answers: what is trained is PromptOptions::unknown, "I do not know."
  std::vector<std::string> rejected = {};  ///< answers that are worse than the first, or than a conversation's last
                                           ///< turn: a preference pair each, see text/prefer.hpp

  friend bool operator==(const Record&, const Record&) = default;
};

/// What a record asks last, and the answers to it that are accepted: its own, or a conversation's last turns.
std::string last_question(const Record& record);
std::vector<std::string> accepted_answers(const Record& record);

/// A record that was left out: where it stands and what is wrong with it.
struct BadRecord {
  std::string file;
  std::int64_t line;  ///< from 1
  std::string why;

  friend bool operator==(const BadRecord&, const BadRecord&) = default;
  friend std::ostream& operator<<(std::ostream& out, const BadRecord& bad);
};

/// Bytes that a line of a text file may have; a longer one is a bad record and is never held in memory.
inline constexpr std::size_t max_line_bytes = std::size_t{1} << 20;

/// What makes `text` unfit for a record, or an empty string: "not UTF-8 at byte 7", "a NUL at byte 3". Bytes
/// count from 1.
std::string text_fault(std::string_view text);

/// Whether nothing of a UTF-8 text can be seen: white space, and characters that only shape others (U+00A0, U+200B,
/// ...).
bool is_blank(std::string_view text);

/// The name of a split as it is used here: "train" for train and training, "valid" for val, valid, validation, dev,
/// development and eval, "test" for test and testing, in any case, and the Korean words for them; any other name as it
/// stands, without white space at its ends.
std::string split_name(std::string_view name);
/// Whether it is one of these.
bool is_known_split(std::string_view name);

/// What is wrong with a record, or an empty string: a blank question or answer, none or, of an unanswered one, any
/// answer, text that text_fault() refuses, a plain text with anything beside it, a rejected answer that is an accepted
/// one too; of a conversation: a role that is not known, a system's turn that is not first, a turn without content, no
/// user's turn, a last turn that is not the assistant's, a question beside it.
std::string record_fault(const Record& record);

/// The lines of a text file, without their ends (LF or CRLF) and without a byte order mark at the start of the file.
class LineReader {
 public:
  /// Throws Error where the file cannot be read, or begins with the mark of UTF-16 or UTF-32.
  explicit LineReader(const std::filesystem::path& path);
  /// A text in memory; `name` is what messages call it.
  LineReader(std::string_view text, const std::string& name);

  /// The next line, cut after max_line_bytes; false at the end of the file.
  bool next(std::string& line);

  /// The number of the line that next() gave, from 1.
  std::int64_t number() const { return number_; }
  /// Why the line that next() gave cannot be used, or an empty string: too long, not UTF-8, a NUL.
  std::string fault(std::string_view line) const;

 private:
  void begin(const std::string& name);

  std::unique_ptr<std::istream> in_;
  std::string held_;  // the first bytes, which were looked at, the next one last
  std::int64_t number_ = 0;
  std::size_t size_ = 0;
};

/// The records of a JSON lines file: one object a line with "question" and "answer" or "answers" (an empty list: it is
/// unanswered), with "messages": [{"role": ..., "content": ...}, ...], or with "text" alone; and, if wanted, "rejected"
/// (a string or a list of them: what the answer, or the last turn, is preferred to), "id", "context", "lang", "split"
/// (see split_name); other members are ignored, blank lines too. A record without an id gets its line's number. Lines
/// that cannot be used (not JSON, not UTF-8, a NUL, what record_fault() names, over 1 MiB) are added to `bad`. Throws
/// Error where the file cannot be read or holds no record.
[[gnu::cold]] std::vector<Record> read_records(const std::filesystem::path& path, std::vector<BadRecord>& bad);

/// The same, but the first line that cannot be used throws Error, so that nothing is left out silently.
[[gnu::cold]] std::vector<Record> read_records(const std::filesystem::path& path);

/// As the first, from a text in memory, which messages call `name`.
[[gnu::cold]] std::vector<Record> parse_records(std::string_view lines, std::vector<BadRecord>& bad,
                                                const std::string& name = "records");

/// A record as its line in the file, without the line's end. Throws Error where record_fault() finds something, and for
/// a line over max_line_bytes, which read_records() would refuse.
[[gnu::cold]] std::string to_json_line(const Record& record);

/// Writes the records as a JSON lines file, atomically. Throws Error where a record is unfit (nothing is written then)
/// or the file cannot be written.
void write_records(const std::filesystem::path& path, const std::vector<Record>& records);

}  // namespace text
}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/text/records.inl.hpp>
#endif
