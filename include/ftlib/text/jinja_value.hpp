// text/jinja_value.hpp: what a chat template computes with: text that knows where each character is from, and values.
#pragma once
#include <ftlib/text/jinja_piece.hpp>  // JinjaPiece
#include <ftlib/text/unicode.hpp>      // CharacterClasses, decode_utf8

#include <algorithm>  // std::upper_bound
#include <memory>     // std::shared_ptr
#include <string>     // std::string
#include <utility>    // std::move
#include <variant>    // std::variant
#include <vector>     // std::vector

namespace ft::inline FTLIB_ABI {
namespace text::jinja {

struct Source {
  std::int32_t from = JinjaPiece::from_template;
  bool generated = false;

  friend bool operator==(const Source&, const Source&) = default;
};

/// Valid UTF-8 in which every byte has a source, kept as runs. Characters are code points, as in Python.
class Text {
 public:
  struct Run {
    std::size_t end;
    Source source;
  };

  Text() = default;
  [[gnu::noinline]] Text(const Text& other) : bytes_(other.bytes_), runs_(other.runs_) {}
  [[gnu::noinline]] Text(Text&& other) noexcept : bytes_(std::move(other.bytes_)), runs_(std::move(other.runs_)) {}
  [[gnu::noinline]] Text& operator=(const Text& other) {
    bytes_ = other.bytes_;
    runs_ = other.runs_;
    return *this;
  }
  [[gnu::noinline]] Text& operator=(Text&& other) noexcept {
    bytes_ = std::move(other.bytes_);
    runs_ = std::move(other.runs_);
    return *this;
  }
  [[gnu::noinline]] ~Text() {}
  [[gnu::noinline]] Text(std::string_view bytes, Source source = {}) : bytes_(bytes) {
    if (!bytes_.empty()) runs_.push_back({bytes_.size(), source});
  }

  const std::string& bytes() const { return bytes_; }
  const std::vector<Run>& runs() const { return runs_; }
  std::size_t size() const { return bytes_.size(); }
  bool empty() const { return bytes_.empty(); }

  [[gnu::noinline]] void append(std::string_view bytes, Source source) {
    if (bytes.empty()) return;
    bytes_ += bytes;
    if (!runs_.empty() && runs_.back().source == source) runs_.back().end = bytes_.size();
    else runs_.push_back({bytes_.size(), source});
  }
  void append(const Text& other) { append(other, 0, other.size()); }
  /// The bytes [begin, end) of `other`.
  [[gnu::noinline]] void append(const Text& other, std::size_t begin, std::size_t end) {
    for (auto run = other.run_of(begin); begin < end; ++run) {
      const std::size_t stop = std::min(end, run->end);
      append(std::string_view(other.bytes_).substr(begin, stop - begin), run->source);
      begin = stop;
    }
  }
  [[gnu::noinline]] Text part(std::size_t begin, std::size_t end) const {
    Text text;
    text.append(*this, begin, end);
    return text;
  }
  Source source_at(std::size_t at) const { return run_of(at)->source; }
  void mark_generated() {
    for (Run& run : runs_) run.source.generated = true;
  }
  /// The same runs over other bytes, as many.
  Text with_bytes(std::string bytes) const {
    Text text;
    text.bytes_ = std::move(bytes);
    text.runs_ = runs_;
    return text;
  }
  /// Where each character begins, and the end.
  [[gnu::noinline]] std::vector<std::size_t> characters() const {
    std::vector<std::size_t> at;
    at.reserve(bytes_.size() + 1);
    for (std::size_t i = 0; i < bytes_.size(); ++i)
      if ((static_cast<std::uint8_t>(bytes_[i]) & 0xc0) != 0x80) at.push_back(i);
    at.push_back(bytes_.size());
    return at;
  }

 private:
  std::vector<Run>::const_iterator run_of(std::size_t at) const {
    return std::upper_bound(runs_.begin(), runs_.end(), at, [](std::size_t a, const Run& run) { return a < run.end; });
  }

  std::string bytes_;
  std::vector<Run> runs_;
};

/// What Python's str.isspace takes for white space.
[[gnu::noinline]] inline bool is_white(char32_t code) {
  return (CharacterClasses()(code) & space_class) || (code >= 0x1c && code <= 0x1f);
}

struct Node;
struct List;
struct Dict;
struct Namespace;
struct Loop;

struct Undefined {};
struct None {};
enum class Builtin { raise_exception, strftime_now, range, make_namespace, dict };

using AnyValue = std::variant<Undefined, None, bool, std::int64_t, double, std::shared_ptr<const Text>,
                              std::shared_ptr<const List>, std::shared_ptr<const Dict>, std::shared_ptr<Namespace>,
                              const Loop*, const Node*, Builtin>;  // Node: a macro

/// A value; copied and destroyed by calls, which in place of code at each of some hundred places halve the compiler's
/// time.
struct Value : AnyValue {
  using AnyValue::AnyValue;
  [[gnu::noinline]] Value(const Value& other) : AnyValue(other) {}
  [[gnu::noinline]] Value(Value&& other) noexcept : AnyValue(std::move(other)) {}
  [[gnu::noinline]] Value& operator=(const Value& other) {
    AnyValue::operator=(other);
    return *this;
  }
  [[gnu::noinline]] Value& operator=(Value&& other) noexcept {
    AnyValue::operator=(std::move(other));
    return *this;
  }
  [[gnu::noinline]] ~Value() {}
};

struct List {
  std::vector<Value> items;
  int depth = 1;  // of lists and dicts in it
};
struct Dict {
  std::vector<std::pair<Value, Value>> items;  // in order of insertion; keys are strings or integers; few: searched
  int depth = 1;

  const Value* find(const Value& key) const {
    for (const auto& [name, value] : items)
      if (same_key(name, key)) return &value;
    return nullptr;
  }
  const Value* find(std::string_view key) const {
    for (const auto& [name, value] : items)
      if (const auto* text = std::get_if<std::shared_ptr<const Text>>(&name); text && (*text)->bytes() == key)
        return &value;
    return nullptr;
  }
  void put(Value key, Value value) {
    for (auto& [name, old] : items)
      if (same_key(name, key)) {
        old = std::move(value);
        return;
      }
    items.emplace_back(std::move(key), std::move(value));
  }
  void put(std::string_view key, Value value) {
    put(Value(std::make_shared<const Text>(std::string(key))), std::move(value));
  }

 private:
  static bool same_key(const Value& a, const Value& b) {
    if (a.index() != b.index()) return false;
    if (const auto* i = std::get_if<std::int64_t>(&a)) return *i == std::get<std::int64_t>(b);
    const auto* text = std::get_if<std::shared_ptr<const Text>>(&a);
    return text && (*text)->bytes() == std::get<std::shared_ptr<const Text>>(b)->bytes();
  }
};
struct Namespace {
  Dict members;
};
/// `loop` inside a for: its fields are made when they are asked for.
struct Loop {
  const std::vector<Value>& items;
  std::size_t at;
};

[[gnu::noinline]] inline Value text_value(Text text) { return std::make_shared<const Text>(std::move(text)); }
inline const Text* as_text(const Value& v) {
  const auto* text = std::get_if<std::shared_ptr<const Text>>(&v);
  return text ? text->get() : nullptr;
}
inline const List* as_list(const Value& v) {
  const auto* list = std::get_if<std::shared_ptr<const List>>(&v);
  return list ? list->get() : nullptr;
}
inline const Dict* as_dict(const Value& v) {
  const auto* dict = std::get_if<std::shared_ptr<const Dict>>(&v);
  return dict ? dict->get() : nullptr;
}
inline Namespace* as_namespace(const Value& v) {
  const auto* space = std::get_if<std::shared_ptr<Namespace>>(&v);
  return space ? space->get() : nullptr;
}
inline bool is_undefined(const Value& v) { return std::holds_alternative<Undefined>(v); }
inline bool is_none(const Value& v) { return std::holds_alternative<None>(v); }
inline bool is_number(const Value& v) {
  return std::holds_alternative<bool>(v) || std::holds_alternative<std::int64_t>(v) ||
         std::holds_alternative<double>(v);
}
/// A bool counts as 0 or 1, as in Python.
inline double as_double(const Value& v) {
  if (const auto* b = std::get_if<bool>(&v)) return *b ? 1 : 0;
  if (const auto* i = std::get_if<std::int64_t>(&v)) return static_cast<double>(*i);
  return std::get<double>(v);
}

/// What a value is called in messages.
inline const char* kind_of(const Value& v) {
  constexpr const char* names[] = {"an undefined value", "none",     "a bool",  "an integer",
                                   "a number",           "a string", "a list",  "a dict",
                                   "a namespace",        "loop",     "a macro", "a function"};
  return names[v.index()];
}

}  // namespace text::jinja
}  // namespace ft::inline FTLIB_ABI
