// examples/image_style/captions.hpp: what a picture shows, in words: from its file's name, from a text file beside it
// (kohya's convention), from metadata.jsonl or metadata.csv (Hugging Face's imagefolder).
#pragma once
#include "../common/encoding.hpp"
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

/// A caption with its white space, line ends, no-break and wide spaces among it, made single spaces.
inline std::string tidy(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    bool space = c == ' ' || (c >= '\t' && c <= '\r');
    for (const std::string_view other : {"\u00a0", "\u3000"})
      if (text.substr(i).starts_with(other)) {
        space = true;
        i += other.size() - 1;
        break;
      }
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

/// Whether words that came from a name are a camera's, a browser's or a program's: "IMG", "Screenshot", "3f2a90bc".
inline bool says_nothing(const std::string& words) {
  static constexpr std::array<std::string_view, 22> empty = {
      "img", "image",      "images", "pic",      "picture", "photo", "dsc",   "dscn", "dscf",     "pxl", "gopr",
      "mvi", "screenshot", "scan",   "untitled", "unnamed", "file",  "frame", "copy", "download", "at",  "de"};
  bool nothing = true;
  std::string_view rest = words;
  while (!rest.empty()) {
    const auto end = std::min(rest.size(), rest.find(' '));
    const auto word = lowered(std::string(rest.substr(0, end)));
    rest.remove_prefix(std::min(rest.size(), end + 1));
    const bool digits = word.find_first_not_of("0123456789()") == word.npos;
    const bool code = word.size() >= 8 && word.find_first_not_of("0123456789abcdef") == word.npos;
    nothing &= digits || code || std::find(empty.begin(), empty.end(), word) != empty.end();
  }
  return nothing;
}

/// From a text file's bytes; throws Error where they are no UTF-8, with the call that mends them.
inline std::string caption_from_text(std::string bytes, const std::filesystem::path& file) {
  auto decoded = examples::decode(std::move(bytes), file);
  if (!decoded.fault.empty()) throw Error(decoded.fault, decoded.hint);
  if (decoded.note.starts_with("read as "))  // one of many, and the programs that train elsewhere read UTF-8
    throw Error(str("is ", decoded.note.substr(8)), examples::detail::iconv_call(file, "UTF-16"));
  if (auto fault = ft::text::text_fault(decoded.text); !fault.empty()) throw Error(std::move(fault), decoded.hint);
  return tidy(decoded.text);
}

/// One line of a metadata file.
struct MetadataRow {
  std::int64_t line = 0;
  std::string file_name, caption, style, split;

  friend bool operator==(const MetadataRow&, const MetadataRow&) = default;
};

namespace detail {

inline constexpr std::array<std::string_view, 4> caption_names = {"text", "caption", "prompt", "description"};

/// A split by any of its usual names. Throws Error for a word that is no split.
inline std::string split_of(std::string_view word) {
  const std::string name = trimmed(word);
  if (name.empty() || ft::text::is_known_split(name)) return name.empty() ? name : ft::text::split_name(name);
  throw Error(str("split ", ft::quote(word), " is none of train, valid and test"));
}

inline std::string listed(const std::vector<std::string>& names) {
  std::string all;
  for (const auto& name : names) all += (all.empty() ? "" : ", ") + name;
  return all;
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

/// What a metadata file holds, and what is to be told of it.
struct Metadata {
  std::vector<MetadataRow> rows;
  std::vector<std::string> notes;
};

/// A metadata file's content: file_name; text, or else caption, prompt or description; style and split where they are
/// wanted. Rows that cannot be used are added to `bad`. `name` is for messages.
inline Metadata read_metadata(std::string_view text, bool csv, const std::string& name, std::vector<BadRecord>& bad) {
  Metadata out;
  std::vector<std::string> captions, others;  // columns that rows have
  const auto has = [](const auto& names, std::string_view one) {
    return std::find(names.begin(), names.end(), one) != names.end();
  };
  const auto add = [&](MetadataRow row, std::string_view split) {
    try {
      row.caption = tidy(row.caption);
      row.style = tidy(row.style);
      row.split = detail::split_of(split);
      if (auto fault = detail::fault_of(row); !fault.empty()) throw Error(std::move(fault));
      out.rows.push_back(std::move(row));
    } catch (const Error& e) {
      bad.push_back({name, row.line, e.message()});
    }
  };
  const auto see = [&](const std::string& column) {
    if (has(detail::caption_names, column)) {
      if (!has(captions, column)) captions.push_back(column);
    } else if (column != "file_name" && column != "style" && column != "split" && !has(others, column)) {
      others.push_back(column);
    }
  };
  if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
  if (csv) {
    // Excel writes what its country writes, and may say so in a first line.
    std::int64_t skipped = 0;
    const auto first_end = [&] { return std::min(text.size(), text.find('\n')); };
    const auto first_line = [&] { return trimmed(text.substr(0, first_end())); };
    if (lowered(first_line()).starts_with("sep=")) {
      text.remove_prefix(std::min(text.size(), first_end() + 1));
      skipped = 1;
    }
    char delimiter = ',';
    for (const char one : {'\t', ';', ','}) {
      examples::Rows head(text, one);
      while (head.next() && head.cells.size() == 1 && trimmed(head.cells[0]).empty()) {
      }
      for (const auto& cell : head.cells)
        if (lowered(trimmed(cell)) == "file_name" && head.cells.size() > 1) delimiter = one;
    }
    if (delimiter != ',') out.notes.push_back(delimiter == ';' ? "fields end at ';'" : "fields end at tabulators");
    examples::Rows table(text, delimiter);
    std::vector<std::string> header;
    while (table.next()) {
      const auto line = table.line + skipped;
      if (!table.why.empty()) {
        bad.push_back({name, line, table.why});
        continue;
      }
      if (table.cells.size() == 1 && trimmed(table.cells[0]).empty()) continue;
      if (header.empty()) {
        for (const auto& cell : table.cells) header.push_back(lowered(trimmed(cell)));
        for (const auto& column : header) see(column);
        if (has(header, "file_name") && !captions.empty()) continue;
        bad.push_back({name, line,
                       str("no column of the first row is named ",
                           has(header, "file_name") ? "text, caption, prompt or description" : "file_name",
                           "; its columns are ", detail::listed(header))});
        break;
      }
      std::size_t fields = table.cells.size();
      while (fields > header.size() && trimmed(table.cells[fields - 1]).empty()) --fields;
      if (fields > header.size()) {
        bad.push_back({name, line,
                       str("has ", fields, " fields, the first row ", header.size(), ": a text with a '", delimiter,
                           "' in it stands in quotation marks")});
        continue;
      }
      const auto cell = [&](std::string_view column) -> std::string {
        for (std::size_t i = 0; i < header.size() && i < table.cells.size(); ++i)
          if (header[i] == column) return table.cells[i];
        return {};
      };
      MetadataRow row{line, trimmed(cell("file_name")), {}, cell("style"), {}};
      for (const auto column : detail::caption_names)
        if (row.caption.empty()) row.caption = cell(column);
      add(std::move(row), cell("split"));
    }
  } else {
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
        if (object.is_object())
          for (const auto& [key, value] : object.items()) see(key);
        add(std::move(row), member("split"));
      } catch (const Error& e) {
        bad.push_back({name, number, e.message()});
      }
    }
  }
  for (const auto column : detail::caption_names)  // in the order in which they are looked for
    if (has(captions, column)) {
      std::vector<std::string> unread;
      for (const auto& other : captions)
        if (other != column) unread.push_back(other);
      out.notes.insert(out.notes.begin(),
                       str("the words are '", column, "'",
                           unread.empty() ? "" : str(" where a row has it, else ", detail::listed(unread))));
      break;
    }
  if (!others.empty()) out.notes.push_back("not read: " + detail::listed(others));
  return out;
}

}  // namespace image_style
