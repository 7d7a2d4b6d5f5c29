// examples/image_style/captions.hpp: what a picture shows, in words: from its file's name, from a text file beside it
// (kohya's convention), from metadata.jsonl or metadata.csv (Hugging Face's imagefolder).
#pragma once
#include "../common/rows.hpp"

#include <ftlib/io/file.hpp>
#include <ftlib/io/json.hpp>
#include <ftlib/text/records.hpp>

#include <algorithm>    // std::find
#include <array>        // std::array
#include <cstdint>      // std::int64_t
#include <filesystem>   // std::filesystem::path
#include <string>       // std::string
#include <string_view>  // std::string_view
#include <utility>      // std::move
#include <vector>       // std::vector

namespace image_style {

using examples::lowered;
using examples::trimmed;
using ft::Error;
using ft::Json;
using ft::str;
using ft::text::BadRecord;

/// A caption with its white space, line ends among it, made single spaces.
inline std::string tidy(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const bool space = c == ' ' || (c >= '\t' && c <= '\r');
    if (!space) out += c;
    else if (!out.empty() && out.back() != ' ') out += ' ';
  }
  return trimmed(out);
}

/// "red-apple_03" -> "red apple": a name without its ending, its separators and last numbers taken away.
inline std::string caption_from_name(std::string_view stem) {
  std::string words;
  for (const char c : stem) words += c == '-' || c == '_' || c == '.' || c == '+' ? ' ' : c;
  words = tidy(words);
  while (!words.empty()) {
    const auto space = words.rfind(' ');
    const std::size_t last = space == words.npos ? 0 : space + 1;
    const std::string_view word = std::string_view(words).substr(last);
    if (word.find_first_not_of("0123456789()") != word.npos) break;
    words.resize(last == 0 ? 0 : last - 1);
  }
  return words;
}

/// From a text file's content, where it is fit; throws Error where not.
inline std::string caption_from_text(std::string_view text) {
  if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
  if (auto fault = ft::text::text_fault(text); !fault.empty()) throw Error(std::move(fault));
  return tidy(text);
}

/// One line of a metadata file.
struct MetadataRow {
  std::int64_t line = 0;
  std::string file_name, caption, style, split;

  friend bool operator==(const MetadataRow&, const MetadataRow&) = default;
};

namespace detail {

inline constexpr std::array<std::string_view, 4> caption_names = {"text", "caption", "prompt", "description"};

/// "validation", "val" and "dev" are valid. Throws Error for a word that is no split.
inline std::string split_of(std::string_view word) {
  std::string name = lowered(trimmed(word));
  if (name == "validation" || name == "val" || name == "dev") return "valid";
  if (name.empty() || name == "train" || name == "valid" || name == "test") return name;
  throw Error(str("split ", ft::quote(word), " is none of train, valid and test"));
}

/// What is wrong with a row, or nothing. A name that leads out of the folder is: a metadata file may be a stranger's.
inline std::string fault_of(const MetadataRow& row) {
  if (row.file_name.empty()) return "file_name is missing";
  const std::filesystem::path path(row.file_name);
  if (path.is_absolute() || std::find(path.begin(), path.end(), "..") != path.end())
    return str("file_name ", ft::quote(row.file_name), " leads out of the folder");
  for (const std::string* text : {&row.file_name, &row.caption, &row.style})
    if (auto fault = ft::text::text_fault(*text); !fault.empty()) return fault;
  return {};
}

}  // namespace detail

/// The rows of a metadata file's content: file_name; text, or else caption, prompt or description; style and split
/// where they are wanted. Rows that cannot be used are added to `bad`. `name` is for messages.
inline std::vector<MetadataRow> read_metadata(std::string_view text, bool csv, const std::string& name,
                                              std::vector<BadRecord>& bad) {
  std::vector<MetadataRow> rows;
  const auto add = [&](MetadataRow row, std::string_view split) {
    try {
      row.caption = tidy(row.caption);
      row.style = tidy(row.style);
      row.split = detail::split_of(split);
      if (auto fault = detail::fault_of(row); !fault.empty()) throw Error(std::move(fault));
      rows.push_back(std::move(row));
    } catch (const Error& e) {
      bad.push_back({name, row.line, e.message()});
    }
  };
  if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
  if (csv) {
    examples::Rows table(text, ',');
    std::vector<std::string> header;
    while (table.next()) {
      if (!table.why.empty()) {
        bad.push_back({name, table.line, table.why});
        continue;
      }
      if (table.cells.size() == 1 && trimmed(table.cells[0]).empty()) continue;
      if (header.empty()) {
        for (const auto& cell : table.cells) header.push_back(lowered(trimmed(cell)));
        if (std::find(header.begin(), header.end(), "file_name") != header.end()) continue;
        bad.push_back({name, table.line, "no column of the first row is named file_name"});
        break;
      }
      const auto cell = [&](std::string_view column) -> std::string {
        for (std::size_t i = 0; i < header.size() && i < table.cells.size(); ++i)
          if (header[i] == column) return table.cells[i];
        return {};
      };
      MetadataRow row{table.line, trimmed(cell("file_name")), {}, cell("style"), {}};
      for (const auto column : detail::caption_names)
        if (row.caption.empty()) row.caption = cell(column);
      add(std::move(row), cell("split"));
    }
    return rows;
  }
  std::int64_t number = 0;
  for (std::string_view rest = text; !rest.empty();) {
    const auto end = std::min(rest.size(), rest.find('\n'));
    const std::string_view line = rest.substr(0, end);
    rest.remove_prefix(std::min(rest.size(), end + 1));
    ++number;
    if (trimmed(line).empty()) continue;
    try {
      const Json object = ft::parse_json(line, "JSON");
      const auto member = [&](std::string_view key) { return ft::value_or<std::string>(object, key, "", "JSON"); };
      MetadataRow row{number, member("file_name"), {}, member("style"), {}};
      for (const auto key : detail::caption_names)
        if (row.caption.empty()) row.caption = member(key);
      add(std::move(row), member("split"));
    } catch (const Error& e) {
      bad.push_back({name, number, e.message()});
    }
  }
  return rows;
}

}  // namespace image_style
