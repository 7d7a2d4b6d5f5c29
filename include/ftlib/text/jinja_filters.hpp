// text/jinja_filters.hpp: of what runs a chat template, filters and tests.
#pragma once
#include <ftlib/text/jinja_run.hpp>

#include <algorithm>  // std::stable_sort, std::min_element
#include <charconv>   // std::from_chars
#include <cstdlib>    // std::abs

namespace ft::inline FTLIB_ABI {
namespace text {
namespace jinja {

// --- filters and tests ---

inline Value Run::filter(std::string_view name, const Value& v, const Arguments& given, int line) {
  const auto text = [&]() -> const Text& { return string(&v, name, line); };
  if (name == "trim") {
    const auto [chars] = in_order<1>(given, {"chars"}, name, line);
    return made(stripped(is_undefined(v) ? Text() : text(), chars, true, true, line), line);
  }
  if (name == "tojson") {
    const auto [indent, ascii, separators, sorted] =
        in_order<4>(given, {"indent", "ensure_ascii", "separators", "sort_keys"}, name, line);
    if (!given.places.empty()) refuse(line, "tojson with an argument without a name");
    JsonStyle style;
    style.indent = std::min<std::int64_t>(integer(indent, -1, name, line), 64);
    style.ascii = ascii && truth(*ascii);
    style.sorted = sorted && truth(*sorted);
    if (style.indent >= 0) style.item = Text(",");
    if (separators && !is_none(*separators)) {
      const List* both = as_list(*separators);
      if (!both || both->items.size() != 2) fail(line, "tojson's separators are not two strings");
      style.item = string(&both->items[0], name, line);
      style.key = string(&both->items[1], name, line);
    }
    Text out;
    to_json(v, style, 0, out, line);
    return made(std::move(out), line);
  }
  if (name == "length" || name == "count") {
    in_order<0>(given, {}, name, line);
    if (const List* items = as_list(v)) return static_cast<std::int64_t>(items->items.size());
    if (const Dict* members = as_dict(v)) return static_cast<std::int64_t>(members->items.size());
    if (is_undefined(v)) return std::int64_t{0};
    return static_cast<std::int64_t>(text().characters().size()) - 1;
  }
  if (name == "default" || name == "d") {
    const auto [fallback, empty] = in_order<2>(given, {"default_value", "boolean"}, name, line);
    const bool missing = is_undefined(v) || (empty && truth(*empty) && !truth(v));
    return !missing ? v : fallback ? *fallback : text_value(Text());
  }
  if (name == "join") {
    const auto [between, key] = in_order<2>(given, {"d", "attribute"}, name, line);
    if (!key) return joined(v, between ? string(between, name, line) : Text(), line);
    std::vector<Value> fields;
    for (const Value& item : items_of(v, line)) fields.push_back(path(item, string(key, name, line).bytes(), line));
    return joined(list(std::move(fields), line), between ? string(between, name, line) : Text(), line);
  }
  if (name == "upper" || name == "lower" || name == "title" || name == "capitalize") {
    in_order<0>(given, {}, name, line);
    return made(with_case(printed_text(v, line), name, line, name == "title"), line);
  }
  if (name == "string") return made(printed_text(v, line), line);
  if (name == "safe") return v;  // nothing is escaped here
  if (name == "replace") {
    const auto [from, to, count] = in_order<3>(given, {"old", "new", "count"}, name, line);
    return made(replaced(printed_text(v, line), string(from, name, line), string(to, name, line),
                         integer(count, -1, name, line), line),
                line);
  }
  if (name == "items") {
    in_order<0>(given, {}, name, line);
    if (is_undefined(v)) return list({}, line);
    if (!as_dict(v)) fail(line, str("items of ", kind_of(v)));
    return dict_method("items", *as_dict(v), given, line);
  }
  if (name == "list") return list(items_of(v, line), line);
  if (name == "first" || name == "last") {
    in_order<0>(given, {}, name, line);
    const std::vector<Value> items = items_of(v, line);
    return items.empty() ? Value(Undefined{}) : name == "first" ? items.front() : items.back();
  }
  if (name == "reverse") {
    if (const Text* whole = as_text(v)) {
      const auto at = whole->characters();
      Text out;
      for (std::size_t i = at.size() - 1; i-- > 0;) out.append(*whole, at[i], at[i + 1]);
      return made(std::move(out), line);
    }
    std::vector<Value> items = items_of(v, line);
    std::reverse(items.begin(), items.end());
    return list(std::move(items), line);
  }
  if (name == "map") return mapped(v, given, line);
  if (name == "select" || name == "reject" || name == "selectattr" || name == "rejectattr")
    return selected(name, v, given, line);
  if (name == "sort" || name == "dictsort" || name == "unique" || name == "min" || name == "max")
    return sorted(name, v, given, line);
  if (name == "indent") {
    const auto [width, first, blank] = in_order<3>(given, {"width", "first", "blank"}, name, line);
    const Text spaces =
        width && as_text(*width)
            ? *as_text(*width)
            : Text(std::string(
                  static_cast<std::size_t>(std::clamp<std::int64_t>(integer(width, 4, name, line), 0, 256)), ' '));
    const bool at_first = first && truth(*first), at_blank = blank && truth(*blank);
    const Text& whole = text();
    Text out;
    std::size_t begin = 0;
    for (bool is_first = true; begin <= whole.size(); is_first = false) {
      const std::size_t end = std::min(whole.bytes().find('\n', begin), whole.size());
      charge(spaces.size() + 1, line);
      if ((is_first && at_first) || (!is_first && (at_blank || end > begin))) out.append(spaces);
      out.append(whole, begin, std::min(end + 1, whole.size()));
      begin = end + 1;
    }
    return made(std::move(out), line);
  }
  if (name == "int" || name == "float") {
    const auto [fallback, base] = in_order<2>(given, {"default", "base"}, name, line);
    if (base) refuse(line, "int with a base");
    const bool whole = name == "int";
    double x = 0;
    bool read = is_number(v);
    if (read) x = as_double(v);
    else if (as_text(v)) {
      const std::string digits = stripped(*as_text(v), nullptr, true, true, line).bytes();
      const auto end = std::from_chars(digits.data(), digits.data() + digits.size(), x);
      read = end.ec == std::errc() && end.ptr == digits.data() + digits.size() && std::abs(x) < 0x1p53;
    }
    if (!read) return fallback ? *fallback : whole ? Value(std::int64_t{0}) : Value(0.0);
    if (whole && !(std::abs(x) < 0x1p53)) refuse(line, "an integer beyond 53 bits");
    return whole ? Value(static_cast<std::int64_t>(x)) : Value(x);
  }
  if (name == "abs") {
    if (!is_number(v)) fail(line, str("abs of ", kind_of(v)));
    return as_double(v) < 0 ? arithmetic("-", std::int64_t{0}, v, line) : v;
  }
  refuse(line, "the filter " + quote(name));
}

inline Value Run::path(const Value& v, std::string_view dotted, int line) {
  Value at = v;
  while (!dotted.empty()) {
    const std::size_t dot = std::min(dotted.find('.'), dotted.size());
    const std::string_view name = dotted.substr(0, dot);
    const bool digits = !name.empty() && name.find_first_not_of("0123456789") == name.npos && name.size() < 10;
    at = item(at, digits ? Value(std::int64_t{std::stol(std::string(name))}) : text_value(Text(std::string(name))),
              line);
    dotted.remove_prefix(std::min(dot + 1, dotted.size()));
  }
  return at;
}

inline Value Run::mapped(const Value& v, const Arguments& given, int line) {
  const std::vector<Value> items = truth(v) ? items_of(v, line) : std::vector<Value>();  // none is nothing to jinja2
  std::vector<Value> out;
  if (given.places.empty()) {
    const auto [key, fallback] = in_order<2>(given, {"attribute", "default"}, "map", line);
    const std::string name = string(key, "map", line).bytes();
    for (const Value& item : items) {
      Value field = path(item, name, line);
      out.push_back(is_undefined(field) && fallback ? *fallback : std::move(field));
    }
  } else {
    const std::string name = string(&given.places[0], "map", line).bytes();
    const Arguments rest{{given.places.begin() + 1, given.places.end()}, given.named};
    for (const Value& item : items) {
      const Level level(*this, line);
      out.push_back(filter(name, item, rest, line));
    }
  }
  return list(std::move(out), line);
}

inline Value Run::selected(std::string_view name, const Value& v, const Arguments& given, int line) {
  const bool by_field = name.ends_with("attr"), keep = name.starts_with("select");
  if (!given.named.empty()) refuse(line, str("the argument ", quote(given.named[0].first), " of ", name));
  if (by_field && given.places.empty()) fail(line, str(name, " is given no attribute"));
  const std::size_t at = by_field ? 1 : 0;  // of the test's name
  Arguments rest;
  for (std::size_t i = at + 1; i < given.places.size(); ++i) rest.places.push_back(given.places[i]);
  std::vector<Value> out;
  if (!truth(v)) return list({}, line);  // none too, as in jinja2
  for (const Value& item : items_of(v, line)) {
    const Value subject = by_field ? path(item, string(&given.places[0], name, line).bytes(), line) : item;
    const bool holds = at < given.places.size()
                           ? test(string(&given.places[at], name, line).bytes(), subject, rest, line)
                           : truth(subject);
    if (holds == keep) out.push_back(item);
  }
  return list(std::move(out), line);
}

inline Value Run::sorted(std::string_view name, const Value& v, const Arguments& given, int line) {
  const bool by_dict = name == "dictsort";
  Arguments as_named = given;
  const auto take_places = [&](std::initializer_list<const char*> names) {
    for (std::size_t i = 0; i < given.places.size(); ++i) {
      if (i >= names.size()) fail(line, str(name, " is given too many arguments"));
      as_named.named.emplace_back(names.begin()[i], given.places[i]);
    }
    as_named.places.clear();
  };
  if (by_dict) take_places({"case_sensitive", "by", "reverse"});
  else if (name == "sort") take_places({"reverse", "case_sensitive", "attribute"});
  else take_places({"case_sensitive", "attribute"});
  const auto [sensitive, by, reverse, key] =
      in_order<4>(as_named, {"case_sensitive", "by", "reverse", "attribute"}, name, line);
  const bool by_value = by && string(by, name, line).bytes() == "value";
  std::vector<Value> items =
      by_dict ? items_of(as_dict(v) ? dict_method("items", *as_dict(v), {}, line) : v, line) : items_of(v, line);
  std::vector<std::pair<Value, Value>> keyed;
  for (Value& item : items) {
    Value k = by_dict ? as_list(item)->items[by_value] : key ? path(item, string(key, name, line).bytes(), line) : item;
    if (as_text(k) && !(sensitive && truth(*sensitive))) k = made(with_case(*as_text(k), "lower", line), line);
    keyed.emplace_back(std::move(k), std::move(item));
  }
  const bool down = reverse && truth(*reverse);
  const auto before = [&](const auto& a, const auto& b) { return compare("<", a.first, b.first, line); };
  std::vector<Value> out;
  if (name == "unique") {
    for (std::size_t i = 0; i < keyed.size(); ++i) {
      charge(i + 1, line);
      if (std::none_of(keyed.begin(), keyed.begin() + static_cast<std::ptrdiff_t>(i),
                       [&](const auto& other) { return equal(other.first, keyed[i].first); }))
        out.push_back(keyed[i].second);
    }
    return list(std::move(out), line);
  }
  if (name == "min" || name == "max") {
    if (keyed.empty()) return Undefined{};
    return (name == "min" ? std::min_element(keyed.begin(), keyed.end(), before)
                          : std::max_element(keyed.begin(), keyed.end(), before))
        ->second;
  }
  std::stable_sort(keyed.begin(), keyed.end(),
                   [&](const auto& a, const auto& b) { return down ? before(b, a) : before(a, b); });
  for (auto& [k, item] : keyed) out.push_back(std::move(item));
  return list(std::move(out), line);
}

inline bool Run::test(std::string_view name, const Value& v, const Arguments& given, int line) {
  const auto [other] = in_order<1>(given, {"other"}, "the test " + quote(name), line);
  const auto needed = [&, given_value = other]() -> const Value& {
    if (!given_value) fail(line, str("the test ", quote(name), " is given nothing"));
    return *given_value;
  };
  if (name == "defined") return !is_undefined(v);
  if (name == "undefined") return is_undefined(v);
  if (name == "none") return is_none(v);
  if (name == "string") return as_text(v);
  if (name == "mapping") return as_dict(v);
  if (name == "sequence") return as_list(v) || as_dict(v) || as_text(v) || is_undefined(v);
  if (name == "iterable") return as_list(v) || as_dict(v) || as_text(v) || is_undefined(v);
  if (name == "number") return is_number(v);
  if (name == "integer") return std::holds_alternative<std::int64_t>(v);
  if (name == "float") return std::holds_alternative<double>(v);
  if (name == "boolean") return std::holds_alternative<bool>(v);
  if (name == "true" || name == "false")
    return std::holds_alternative<bool>(v) && std::get<bool>(v) == (name == "true");
  if (name == "callable") return std::holds_alternative<const Node*>(v) || std::holds_alternative<Builtin>(v);
  if (name == "odd" || name == "even") return (integer(&v, 0, name, line) % 2 != 0) == (name == "odd");
  if (name == "divisibleby") {
    const std::int64_t by = integer(&needed(), 0, name, line);
    if (by == 0) fail(line, "divisibleby 0");
    return by == -1 || integer(&v, 0, name, line) % by == 0;
  }
  if (name == "lower" || name == "upper") {
    const Text& text = string(&v, name, line);
    const bool letters = std::any_of(text.bytes().begin(), text.bytes().end(),
                                     [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); });
    return letters && with_case(text, name, line).bytes() == text.bytes();
  }
  if (name == "in") return contains(needed(), v, line);
  const std::pair<std::string_view, const char*> comparisons[] = {
      {"eq", "=="}, {"equalto", "=="},    {"==", "=="}, {"ne", "!="}, {"!=", "!="},
      {"lt", "<"},  {"lessthan", "<"},    {"<", "<"},   {"le", "<="}, {"<=", "<="},
      {"gt", ">"},  {"greaterthan", ">"}, {">", ">"},   {"ge", ">="}, {">=", ">="}};
  for (const auto& [known, op] : comparisons)
    if (name == known) return compare(op, v, needed(), line);
  refuse(line, "the test " + quote(name));
}

}  // namespace jinja
}  // namespace text
}  // namespace ft::inline FTLIB_ABI
