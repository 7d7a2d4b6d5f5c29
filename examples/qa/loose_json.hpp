// examples/qa/loose_json.hpp: JSON as people have it: numbers as they are written, the line on which an object starts,
// NaN, commas before a closing bracket, several values one after the other.
#pragma once
#include <ftlib/io/json.hpp>

#include <cstddef>      // std::size_t
#include <cstdint>      // std::int64_t
#include <iterator>     // std::input_iterator_tag
#include <string>       // std::string
#include <string_view>  // std::string_view
#include <utility>      // std::move
#include <vector>       // std::vector

namespace qa {

using ft::Json;

inline constexpr const char* line_member = "\nline";    // no file's key has a line feed
inline constexpr const char* fault_member = "\nfault";  // what is wrong with the object, where something is

/// A text that is no JSON.
struct BadJson {
  std::size_t byte;  ///< bytes read, the offending one included; more than the text has where it ends too early
  bool too_large;    ///< a number that no double holds
};

namespace detail {

struct Cursor {
  const char* at;
  std::int64_t line;
};

/// Reads a text, and tells where it is.
struct CountingIterator {
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  const char* at;
  Cursor* cursor;

  reference operator*() const { return *at; }
  CountingIterator& operator++() {
    if (*at++ == '\n') ++cursor->line;
    cursor->at = at;
    return *this;
  }
  CountingIterator operator++(int) {
    const auto before = *this;
    ++*this;
    return before;
  }
  friend bool operator==(CountingIterator a, CountingIterator b) { return a.at == b.at; }
};

/// Builds the value from the parser's events. Numbers become strings of their digits; an object has its line as a
/// member more, and a key that it has twice as its fault.
class LooseBuilder {
 public:
  explicit LooseBuilder(const Cursor& cursor) : cursor_(cursor) {}
  Json take() { return std::move(root_); }

  bool null() { return put(nullptr); }
  bool boolean(bool value) { return put(value); }
  // Of what starts with '-' alone: "-0" is 0 here.
  bool number_integer(std::int64_t value) { return put(value == 0 ? std::string("-0") : std::to_string(value)); }
  bool number_unsigned(std::uint64_t value) { return put(std::to_string(value)); }
  bool number_float(double, const std::string& digits) { return put(digits); }
  bool string(std::string& value) { return put(std::move(value)); }
  bool binary(Json::binary_t&) { return false; }
  bool start_object(std::size_t) {
    const auto line = cursor_.line;
    open(Json::object());
    (*open_.back())[line_member] = line;
    return true;
  }
  bool start_array(std::size_t) { return open(Json::array()); }
  bool end_object() { return close(); }
  bool end_array() { return close(); }
  bool key(std::string& name) {
    auto& members = open_.back()->get_ref<Json::object_t&>();
    const auto [at, fresh] = members.try_emplace(name);
    member_ = &at->second;
    if (!fresh) members[fault_member] = ft::str("the key ", ft::quote(name), " is there twice");
    return true;
  }
  [[gnu::cold]] bool parse_error(std::size_t position, const std::string&, const Json::exception& error) {
    throw BadJson{position, error.id == 406};
  }

 private:
  template <class Value> Json& place(Value&& value) {
    if (open_.empty()) return root_ = std::forward<Value>(value);
    if (open_.back()->is_object()) return *member_ = std::forward<Value>(value);
    return open_.back()->get_ref<Json::array_t&>().emplace_back(std::forward<Value>(value));
  }
  template <class Value> bool put(Value&& value) {
    place(std::forward<Value>(value));
    return true;
  }
  bool open(Json&& container) {
    // A function that walks down a value could run out of stack.
    if (open_.size() == ft::max_json_depth)
      throw ft::Error(ft::str("nested deeper than ", ft::max_json_depth, " levels"));
    open_.push_back(&place(std::move(container)));
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }

  const Cursor& cursor_;
  Json root_;
  Json* member_ = nullptr;
  std::vector<Json*> open_;
};

/// The text with what Python writes and JSON has not made into JSON, at the same places: NaN and infinities become
/// empty values; a comma before a closing bracket or between values a space. Counts the former.
inline std::string strict_json(std::string_view text, std::int64_t& not_numbers) {
  std::string out(text);
  int depth = 0;
  for (std::size_t i = 0; i < out.size(); ++i) {
    const char c = out[i];
    if (c == '"') {
      for (++i; i < out.size() && out[i] != '"'; ++i)
        if (out[i] == '\\') ++i;
    } else if (c == '{' || c == '[') {
      ++depth;
    } else if (c == '}' || c == ']') {
      --depth;
    } else if (c == ',') {
      const auto next = out.find_first_not_of(" \t\r\n", i + 1);
      if (depth <= 0 || (next != out.npos && (out[next] == '}' || out[next] == ']'))) out[i] = ' ';
    } else if (c == 'N' || c == 'I' || c == '-') {
      for (const std::string_view word : {"NaN", "Infinity", "-Infinity"}) {
        if (out.compare(i, word.size(), word) != 0) continue;
        ++not_numbers;
        out.replace(i, word.size(), word == "NaN" ? "\"\" " : "null" + std::string(word.size() - 4, ' '));
        i += word.size() - 1;
        break;
      }
    }
  }
  return out;
}

}  // namespace detail

/// Calls take(value, line) for each of the values in a text that starts on line `line`. NaN and infinities are empty
/// values and counted in `not_numbers`. Throws BadJson, and Error for what is nested too deep.
template <class Take>
void loose_json(std::string_view text, std::int64_t line, std::int64_t& not_numbers, const Take& take) {
  const std::string strict = detail::strict_json(text, not_numbers);
  const char *const begin = strict.data(), *const end = begin + strict.size();
  detail::Cursor cursor{begin, line};
  for (;;) {
    while (cursor.at != end && std::string_view(" \t\r\n").find(*cursor.at) != std::string_view::npos)
      if (*cursor.at++ == '\n') ++cursor.line;
    if (cursor.at == end) return;
    const auto before = static_cast<std::size_t>(cursor.at - begin);
    const auto value_line = cursor.line;
    detail::LooseBuilder builder(cursor);
    try {
      using Bytes = decltype(nlohmann::detail::input_adapter(detail::CountingIterator{}, detail::CountingIterator{}));
      nlohmann::detail::parser<Json, Bytes>(
          nlohmann::detail::input_adapter(detail::CountingIterator{cursor.at, &cursor},
                                          detail::CountingIterator{end, &cursor}))
          .sax_parse(&builder, /*strict=*/false);
    } catch (BadJson bad) {
      bad.byte += before;
      throw bad;
    }
    take(builder.take(), value_line);
  }
}

}  // namespace qa
