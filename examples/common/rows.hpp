// examples/common/rows.hpp: CSV and TSV files row by row, and small things of text, for what reads people's files.
#pragma once
#include <ftlib/text/records.hpp>  // max_line_bytes

#include <algorithm>    // std::count, std::min
#include <cstddef>      // std::size_t
#include <cstdint>      // std::int64_t
#include <string>       // std::string
#include <string_view>  // std::string_view
#include <vector>       // std::vector

namespace examples {

inline std::string trimmed(std::string_view text) {
  const auto first = text.find_first_not_of(" \t\r\n");
  if (first == text.npos) return {};
  return std::string(text.substr(first, text.find_last_not_of(" \t\r\n") - first + 1));
}

/// ASCII only, for key names.
inline std::string lowered(std::string text) {
  for (char& c : text)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c + 32);
  return text;
}

/// The rows of a table by RFC 4180: a quoted field may hold delimiters, line ends and doubled quotes. A tab-separated
/// row whose quotes do not fit that is taken as it stands, since most such files quote nothing.
class Rows {
 public:
  Rows(std::string_view text, char delimiter) : text_(text), delimiter_(delimiter), ends_{delimiter, '\n'} {}

  std::vector<std::string> cells;
  std::string why;        ///< of a row that cannot be read; cells is empty then
  std::int64_t line = 0;  ///< the row's first

  bool next() {
    if (at_ >= text_.size()) return false;
    line = next_line_;
    why.clear();
    const std::size_t start = at_;
    if (!read_row(/*quotes=*/true)) {
      at_ = start;
      if (delimiter_ == '\t') why.clear();
      read_row(/*quotes=*/false);
      if (!why.empty()) cells.clear();
    }
    next_line_ += std::count(text_.begin() + static_cast<std::ptrdiff_t>(start),
                             text_.begin() + static_cast<std::ptrdiff_t>(at_), '\n');
    return true;
  }

 private:
  bool read_row(bool quotes) {
    cells.clear();
    for (;;) {
      cells.emplace_back();
      if (quotes && at_ < text_.size() && text_[at_] == '"') {
        if (!read_quoted(cells.back())) return false;
      } else {
        const auto end = std::min(text_.size(), text_.find_first_of(ends_, at_));
        cells.back() = text_.substr(at_, end - at_);
        at_ = end;
        if (cells.back().ends_with('\r') && (end == text_.size() || text_[end] == '\n')) cells.back().pop_back();
      }
      if (at_ == text_.size()) return true;
      if (text_[at_++] == '\n') return true;
    }
  }

  /// From an opening quote to the delimiter or the line's end behind the closing one.
  bool read_quoted(std::string& cell) {
    for (++at_;;) {
      const auto quote = text_.substr(0, at_ + ft::text::max_line_bytes).find('"', at_);
      if (quote == text_.npos) {
        why = "a quote is opened and not closed";
        return false;
      }
      cell += text_.substr(at_, quote - at_);
      at_ = quote + 1;
      if (at_ == text_.size() || text_[at_] != '"') break;
      cell += '"';
      ++at_;
    }
    if (text_.substr(at_, 2) == "\r\n") ++at_;
    if (at_ == text_.size() || text_[at_] == delimiter_ || text_[at_] == '\n') return true;
    why = "there is text behind a closing quote";
    return false;
  }

  std::string_view text_;
  char delimiter_;
  std::string ends_;  // of a cell without quotes
  std::size_t at_ = 0;
  std::int64_t next_line_ = 1;
};

}  // namespace examples
