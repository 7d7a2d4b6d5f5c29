// io/json.hpp: JSON that says what is wrong with it: parsing with file, line and column, typed access by key.
#pragma once
#include <ftlib/io/file.hpp>
#include <ftlib/io/json_fwd.hpp>

#include <cmath>              // std::abs, std::trunc
#include <concepts>           // std::integral
#include <nlohmann/json.hpp>  // nlohmann::json
#include <vector>             // std::vector

namespace ft::inline FTLIB_ABI {

inline constexpr int max_json_depth = 128;  // Python's and Rust's readers stop near there too
inline constexpr std::uint64_t max_json_bytes = std::uint64_t{256} << 20;  // a large tokenizer.json has 34 MB

namespace detail {

/// What parse_json throws for a text that is no JSON.
struct JsonFault : Error {
  JsonFault(std::string message, std::size_t position_, bool out_of_range_)
      : Error(std::move(message)), position(position_), out_of_range(out_of_range_) {}
  std::size_t position;  // bytes read, the offending one included
  bool out_of_range;     // a number that no type holds
};

/// Receives nlohmann's parse events and builds the value. Refuses duplicate keys, of which readers keep the first or
/// the last as they like, and depth, because copying and printing a value recurse.
class JsonBuilder {
 public:
  JsonBuilder(std::string_view text, std::string_view name) : text_(text), name_(name) {}
  Json take() { return std::move(root_); }

  bool null() { return put(nullptr); }
  bool boolean(bool value) { return put(value); }
  bool number_integer(std::int64_t value) { return put(value); }
  bool number_unsigned(std::uint64_t value) { return put(value); }
  bool number_float(double value, const std::string&) { return put(value); }
  bool string(std::string& value) { return put(std::move(value)); }
  bool binary(Json::binary_t&) { return false; }  // not in JSON text
  bool start_object(std::size_t) { return open(Json::object()); }
  bool start_array(std::size_t) { return open(Json::array()); }
  bool end_object() { return close(); }
  bool end_array() { return close(); }
  bool key(std::string& name) {
    const auto [at, fresh] = open_.back()->get_ref<Json::object_t&>().try_emplace(name);
    if (!fresh) throw Error(str(name_, ": key ", quote(name), " appears twice in one object"));
    member_ = &at->second;
    return true;
  }
  [[gnu::cold]] bool parse_error(std::size_t position, const std::string&, const Json::exception& error) {
    const auto before = text_.substr(0, position > 0 ? position - 1 : 0);
    const auto line = std::count(before.begin(), before.end(), '\n') + 1;
    const auto column = before.size() - (before.rfind('\n') + 1) + 1;
    std::string_view what =
        error.what();  // "[json.exception.parse_error.101] parse error at line 1, column 2: syntax ..."
    what.remove_prefix(std::min(what.size(), what.find("] ") + 2));
    if (what.substr(0, 11) == "parse error") what.remove_prefix(std::min(what.size(), what.find(": ") + 2));
    throw JsonFault(str(name_, ": line ", line, ", column ", column, ": ", printable(what, 300)), position,
                    error.id == 406);
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
    if (open_.size() == max_json_depth) throw Error(str(name_, ": is nested deeper than ", max_json_depth, " levels"));
    open_.push_back(&place(std::move(container)));
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }

  std::string_view text_, name_;
  Json root_;
  Json* member_ = nullptr;
  std::vector<Json*> open_;  // stay valid: a container grows only while it is the last one here
};

template <class T> struct IsVector : std::false_type {};
template <class U> struct IsVector<std::vector<U>> : std::true_type {};

[[gnu::cold]] inline Error wrong_type(const Json& value, std::string_view expected, std::string_view key,
                                      std::string_view where) {
  const std::string found = value.is_structured()
                                ? std::string("an ") + value.type_name()
                                : printable(value.dump(-1, ' ', false, Json::error_handler_t::replace), 60);
  return Error(str(where, ": key ", quote(key), " should be ", expected, ", found ", found));
}

template <class T> T json_as(const Json& value, std::string_view key, std::string_view where) {
  if constexpr (std::same_as<T, Json>) {
    return value;
  } else if constexpr (std::same_as<T, bool>) {
    if (!value.is_boolean()) throw wrong_type(value, "true or false", key, where);
    return value.template get<bool>();
  } else if constexpr (std::integral<T>) {
    constexpr auto expected = "an integer";
    if (value.is_number_unsigned()) {
      const auto n = value.template get<std::uint64_t>();
      if (std::in_range<T>(n)) return static_cast<T>(n);
    } else if (value.is_number_integer()) {
      const auto n = value.template get<std::int64_t>();
      if (std::in_range<T>(n)) return static_cast<T>(n);
    } else if (value.is_number_float()) {  // 2048.0, as some exporters write
      const auto x = value.template get<double>();
      if (x == std::trunc(x) && x >= -0x1p53 && x <= 0x1p53 && std::in_range<T>(static_cast<std::int64_t>(x)))
        return static_cast<T>(x);
    } else {
      throw wrong_type(value, expected, key, where);
    }
    throw wrong_type(value,
                     str(expected, " in [", std::numeric_limits<T>::min(), ", ", std::numeric_limits<T>::max(), "]"),
                     key, where);
  } else if constexpr (std::floating_point<T>) {
    if (!value.is_number()) throw wrong_type(value, "a number", key, where);
    const auto x = value.template get<double>();
    if (std::abs(x) > static_cast<double>(std::numeric_limits<T>::max()))
      throw wrong_type(value, str("at most ", std::numeric_limits<T>::max()), key, where);
    return static_cast<T>(x);
  } else if constexpr (IsVector<T>::value) {
    if (!value.is_array()) throw wrong_type(value, "an array", key, where);
    T items;
    items.reserve(value.size());
    for (const Json& item : value) items.push_back(json_as<typename T::value_type>(item, key, where));
    return items;
  } else {
    static_assert(std::same_as<T, std::string>, "at<T>: T is Json, bool, a number, std::string or a vector of these");
    if (!value.is_string()) throw wrong_type(value, "a string", key, where);
    return value.template get_ref<const std::string&>();
  }
}

inline const Json* json_find(const Json& object, std::string_view key, std::string_view where) {
  if (!object.is_object())
    throw Error(str(where, ": an object with key ", quote(key), " was expected, found ", object.type_name()));
  const auto& members = object.get_ref<const Json::object_t&>();
  const auto found = members.find(key);
  return found == members.end() ? nullptr : &found->second;
}

}  // namespace detail

/// The value of a JSON text. Throws Error naming `name` (the file), line, column and what was expected; for duplicate
/// keys; for more than max_json_depth levels.
inline Json parse_json(std::string_view text, std::string_view name) {
  detail::JsonBuilder builder(text, name);
  // As Json::sax_parse, which would compile readers of four binary formats as well.
  using Bytes = decltype(nlohmann::detail::input_adapter(text.data(), text.data()));
  nlohmann::detail::parser<Json, Bytes>(nlohmann::detail::input_adapter(text.data(), text.data() + text.size()))
      .sax_parse(&builder);
  return builder.take();
}

/// As parse_json, from a file of at most `max_bytes`.
inline Json read_json(const std::filesystem::path& path, std::uint64_t max_bytes = max_json_bytes) {
  return reading_file([&] {
    const std::string text = read_file(path, max_bytes);
    detail::refuse_substitute(text, path.string());
    return parse_json(text, path.string());
  });
}

/// Member `key` of an object as T: Json, bool, a number, std::string, or a std::vector of these. Throws Error naming
/// `where` (the file), the key, what was expected and what was found; a number that T cannot hold is one as well.
template <class T> T at(const Json& object, std::string_view key, std::string_view where) {
  const Json* value = detail::json_find(object, key, where);
  if (!value) throw Error(str(where, ": key ", quote(key), " is missing"));
  return detail::json_as<T>(*value, key, where);
}

/// As at<T>, but `fallback` where the key is missing or null.
template <class T>
T value_or(const Json& object, std::string_view key, std::type_identity_t<T> fallback, std::string_view where) {
  const Json* value = detail::json_find(object, key, where);
  return value && !value->is_null() ? detail::json_as<T>(*value, key, where) : fallback;
}

}  // namespace ft::inline FTLIB_ABI
