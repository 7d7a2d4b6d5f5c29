// examples/common/encoding.hpp: a file's bytes as UTF-8: byte-order marks, old line ends, and how to mend what is
// neither.
#pragma once
#include <ftlib/core/error.hpp>
#include <ftlib/text/records.hpp>  // text_fault
#include <ftlib/text/unicode.hpp>  // append_utf8, scan_utf8

#include <algorithm>    // std::count, std::replace
#include <cstddef>      // std::size_t
#include <filesystem>   // std::filesystem::path
#include <string>       // std::string
#include <string_view>  // std::string_view
#include <utility>      // std::move

namespace examples {

/// What decode() made of a file.
struct Decoded {
  std::string text;   ///< UTF-8 where hint is empty, without a byte-order mark; lines end in \n or \r\n
  std::string note;   ///< what was done to it, to be told; mostly empty
  std::string fault;  ///< why it cannot be read at all
  std::string hint;   ///< how to make UTF-8 of it; empty where it is
};

namespace detail {

/// UTF-16 (units of 2 bytes) or UTF-32 (of 4) as UTF-8; false where it is not that.
inline bool utf8_of_units(std::string_view bytes, std::size_t unit, bool big, std::string& out) {
  if (bytes.size() % unit != 0) return false;
  const auto at = [&](std::size_t i) {
    char32_t value = 0;
    for (std::size_t k = 0; k < unit; ++k)
      value = value << 8 | static_cast<unsigned char>(bytes[i + (big ? k : unit - 1 - k)]);
    return value;
  };
  for (std::size_t i = 0; i < bytes.size(); i += unit) {
    char32_t code = at(i);
    if (unit == 2 && code >= 0xd800 && code < 0xdc00 && i + 2 < bytes.size()) {
      const char32_t low = at(i + 2);
      if (low < 0xdc00 || low > 0xdfff) return false;
      code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
      i += 2;
    }
    if ((code >= 0xd800 && code <= 0xdfff) || code > 0x10ffff) return false;
    ft::append_utf8(out, code);
  }
  return true;
}

inline std::string iconv_call(const std::filesystem::path& file, std::string_view from, std::string_view option = "") {
  auto mended = file;
  mended.replace_extension(".utf8" + file.extension().string());
  const auto quoted = [](const std::filesystem::path& path) {
    const auto name = path.string();
    return name.find_first_of(" '\"()&;$") == name.npos ? name : '"' + name + '"';
  };
  return ft::str("iconv ", option, "-f ", from, " -t UTF-8 ", quoted(file), " > ", quoted(mended));
}

/// Which encoding bytes that are not UTF-8 may have, by what is between them.
inline std::string mending_hint(const std::filesystem::path& file, std::string_view text) {
  std::size_t whole = 0, broken = 0;  // characters beyond ASCII that are UTF-8, and maximal subparts that are not
  for (std::size_t at = 0; at < text.size();) {
    const auto scan = ft::scan_utf8(text.substr(at));
    if (scan.kind != ft::Utf8Scan::valid) ++broken;
    else if (scan.length > 1) ++whole;
    at += scan.length;
  }
  if (whole > 4 * broken)
    return ft::str("nearly all of it is UTF-8; this leaves out what is not: ", iconv_call(file, "UTF-8", "-c "));
  std::size_t pairs = 0, hangul = 0, single = 0;  // as two bytes a character, as Korean, Chinese and Japanese have it
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto lead = static_cast<unsigned char>(text[i]);
    if (lead < 0x80) continue;
    const auto trail = i + 1 < text.size() ? static_cast<unsigned char>(text[i + 1]) : 0u;
    if (lead == 0x80 || lead == 0xff || trail < 0x41 || (trail > 0x5a && trail < 0x61) ||
        (trail > 0x7a && trail < 0x81)) {
      ++single;
      continue;
    }
    ++pairs;
    hangul += lead >= 0xb0 && lead <= 0xc8 && trail >= 0xa1;
    ++i;
  }
  if (single > 0 || pairs == 0)
    return ft::str("if it is Windows' Western European: ", iconv_call(file, "WINDOWS-1252"),
                   "; for others put their name in its place (iconv -l lists them).");
  if (2 * hangul >= pairs)
    return ft::str("if it is Korean: ", iconv_call(file, "CP949"),
                   "; for others put their name in its place (iconv -l lists them).");
  return ft::str("if it is Japanese: ", iconv_call(file, "CP932"),
                 "; Chinese: GB18030 in place of CP932; Korean: CP949.");
}

}  // namespace detail

/// Reads by a byte-order mark, and turns lines that end in \r alone into such that end in \n.
inline Decoded decode(std::string bytes, const std::filesystem::path& file) {
  using namespace std::literals;
  Decoded out;
  struct Mark {
    std::string_view bytes;
    std::size_t unit;
    bool big;
    const char* name;
  };
  static constexpr Mark marks[] = {{"\xEF\xBB\xBF"sv, 1, false, "UTF-8"},
                                   {"\xFF\xFE\0\0"sv, 4, false, "UTF-32LE"},
                                   {"\0\0\xFE\xFF"sv, 4, true, "UTF-32BE"},
                                   {"\xFF\xFE"sv, 2, false, "UTF-16LE"},
                                   {"\xFE\xFF"sv, 2, true, "UTF-16BE"}};
  const Mark* mark = nullptr;
  for (const auto& one : marks)
    if (!mark && std::string_view(bytes).starts_with(one.bytes)) mark = &one;
  if (mark && mark->unit > 1) {
    if (!detail::utf8_of_units(std::string_view(bytes).substr(mark->bytes.size()), mark->unit, mark->big, out.text)) {
      out.fault = ft::str("begins with the byte-order mark of ", mark->name, " and is not ", mark->name);
      out.hint = "was it cut short? Save it again as UTF-8.";
      return out;
    }
    out.note = ft::str("read as ", mark->name, ", by its byte-order mark");
  } else {
    if (mark) bytes.erase(0, mark->bytes.size());
    out.text = std::move(bytes);
  }
  std::string_view text = out.text;
  if (!mark) {  // every second byte is 0 where Western text is UTF-16 without a mark
    const auto head = text.substr(0, 4096);
    std::size_t zeros[2] = {};
    for (std::size_t i = 0; i < head.size(); ++i) zeros[i % 2] += head[i] == '\0';
    if (3 * (zeros[0] + zeros[1]) > head.size()) {
      out.fault = "is UTF-16 without a byte-order mark, as it seems";
      out.hint = detail::iconv_call(file, zeros[1] > zeros[0] ? "UTF-16LE" : "UTF-16BE");
      return out;
    }
  }
  if (text.find('\n') == text.npos && text.find('\r') != text.npos) {
    std::replace(out.text.begin(), out.text.end(), '\r', '\n');
    out.note += ft::str(out.note.empty() ? "" : "; ", "lines end in CR alone");
  }
  if (ft::valid_utf8_prefix(out.text) < out.text.size()) out.hint = detail::mending_hint(file, out.text);
  return out;
}

/// The lines of a text, without their ends.
class Lines {
 public:
  explicit Lines(std::string_view text) : text_(text) {}

  bool next(std::string_view& line) {
    if (at_ >= text_.size()) return false;
    const auto end = std::min(text_.size(), text_.find('\n', at_));
    line = text_.substr(at_, end - at_);
    at_ = end + 1;
    ++number_;
    if (line.ends_with('\r')) line.remove_suffix(1);
    return true;
  }
  std::int64_t number() const { return number_; }  ///< of the line that next() gave, from 1
  /// Why a line cannot be used, or an empty string.
  static std::string fault(std::string_view line) {
    if (line.size() > ft::text::max_line_bytes)
      return ft::str("the line has ", line.size(), " bytes, more than ", ft::text::max_line_bytes);
    return ft::text::text_fault(line);
  }

 private:
  std::string_view text_;
  std::size_t at_ = 0;
  std::int64_t number_ = 0;
};

}  // namespace examples
