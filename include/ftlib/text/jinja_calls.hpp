// text/jinja_calls.hpp: of what runs a chat template, calls: functions, macros, methods of dicts, dates.
#pragma once
#include <ftlib/text/jinja_run.hpp>

#include <algorithm>  // std::any_of, std::find
#include <chrono>     // std::chrono::year_month_day
#include <cstdio>     // std::sscanf
#include <ctime>      // std::time

namespace ft::inline FTLIB_ABI {
namespace text {
namespace jinja {

// --- calls ---

inline Arguments Run::arguments(const Node& node, Scope& scope) {
  Arguments out;
  for (std::size_t i = 1; i < node.children.size(); ++i) out.places.push_back(eval(*node.children[i], scope));
  for (const auto& [name, value] : node.named) out.named.emplace_back(name, eval(*value, scope));
  return out;
}

inline std::int64_t Run::integer(const Value* v, std::int64_t fallback, std::string_view what, int line) {
  if (!v || is_none(*v)) return fallback;
  if (const auto* i = std::get_if<std::int64_t>(v)) return *i;
  if (const auto* b = std::get_if<bool>(v)) return *b ? 1 : 0;
  fail(line, str(what, " is given ", kind_of(*v), " for an integer"));
}

inline Value Run::call(const Node& node, Scope& scope) {
  const Node& callee = *node.children[0];
  if (callee.op == Op::attribute) {
    const Value object = eval(*callee.children[0], scope);
    const Arguments given = arguments(node, scope);
    if (const Text* text = as_text(object)) return text_method(callee.name, *text, given, node.line);
    if (const Dict* members = as_dict(object)) return dict_method(callee.name, *members, given, node.line);
    if (const auto* loop = std::get_if<const Loop*>(&object); loop && callee.name == "cycle") {
      if (given.places.empty()) fail(node.line, "loop.cycle is given nothing");
      return given.places[(*loop)->at % given.places.size()];
    }
    refuse(node.line, str("the method ", quote(callee.name), " of ", kind_of(object)));
  }
  const Value function = eval(callee, scope);
  const Arguments given = arguments(node, scope);
  if (const auto* macro = std::get_if<const Node*>(&function)) return call_macro(**macro, given, node.line);
  const auto* builtin = std::get_if<Builtin>(&function);
  if (!builtin) {
    const std::string name = callee.op == Op::variable ? "the function " + quote(callee.name) : kind_of(function);
    refuse(node.line, is_undefined(function) ? name : "calling " + name);
  }
  switch (*builtin) {
    case Builtin::raise_exception: {
      const auto [message] = in_order<1>(given, {"message"}, "raise_exception", node.line);
      fail(node.line,
           "it refuses the conversation: " + printable(string(message, "raise_exception", node.line).bytes(), 300));
    }
    case Builtin::strftime_now: {
      const auto [format] = in_order<1>(given, {"format"}, "strftime_now", node.line);
      return made(strftime(string(format, "strftime_now", node.line), node.line), node.line);
    }
    case Builtin::range: {
      const auto [first, second, third] = in_order<3>(given, {"start", "stop", "step"}, "range", node.line);
      std::int64_t begin = integer(first, 0, "range", node.line), end = integer(second, 0, "range", node.line);
      const std::int64_t step = integer(third, 1, "range", node.line);
      if (!second) end = std::exchange(begin, 0);
      if (step == 0) fail(node.line, "range's step is 0");
      std::vector<Value> items;
      for (std::int64_t i = begin; step > 0 ? i < end : i > end; i += step) {
        if (items.size() >= 100'000) fail(node.line, "range gives more than 100,000 numbers");  // as jinja2's sandbox
        items.push_back(i);
        if (step > 0 ? i > end - step : i < end - step) break;  // the next would be past the end, or of 64 bits
      }
      return list(std::move(items), node.line);
    }
    case Builtin::make_namespace: {
      auto space = std::make_shared<Namespace>();
      space->members = members_of(given, "namespace", node.line);
      return space;
    }
    default:
      return dict(members_of(given, "dict", node.line), node.line);
  }
}

inline Dict Run::members_of(const Arguments& given, std::string_view what, int line) {
  Dict members;
  if (given.places.size() > 1) fail(line, str(what, " takes one argument without a name"));
  if (!given.places.empty()) {
    const Dict* from = as_dict(given.places[0]);
    if (!from) refuse(line, str(what, " of ", kind_of(given.places[0])));
    members.items = from->items;
  }
  for (const auto& [name, value] : given.named) {
    check_kept(value, line);
    members.put(name, value);
  }
  return members;
}

inline Value Run::call_macro(const Node& macro, const Arguments& given, int line) {
  const Level level(*this, line);
  Scope inner{&root_};
  const std::size_t n = macro.words.size(), required = n - macro.children.size();
  if (given.places.size() > n)
    fail(line, str("macro ", quote(macro.name), " takes ", n, " arguments, ", given.places.size(), " are given"));
  for (std::size_t i = 0; i < given.places.size(); ++i) inner.set(macro.words[i], given.places[i]);
  for (const auto& [name, value] : given.named) {
    const auto found = std::find(macro.words.begin(), macro.words.end(), name);
    if (found == macro.words.end()) fail(line, str("macro ", quote(macro.name), " has no parameter ", quote(name)));
    if (found - macro.words.begin() < static_cast<std::ptrdiff_t>(given.places.size()))
      fail(line, str("macro ", quote(macro.name), " is given ", quote(name), " twice"));
    inner.set(name, value);
  }
  for (std::size_t i = 0; i < n; ++i) {
    const bool there = std::any_of(inner.names.begin(), inner.names.end(),
                                   [&](const auto& known) { return known.first == macro.words[i]; });
    if (!there)
      inner.set(macro.words[i], i >= required ? eval(*macro.children[i - required], inner) : Value(Undefined{}));
  }
  Text text;
  run(macro.bodies[0], inner, text);
  return made(std::move(text), line);
}

inline Text Run::strftime(const Text& format, int line) {
  std::tm at{};
  if (date_.empty()) {
    const std::time_t now = std::time(nullptr);
    ::localtime_r(&now, &at);
  } else {
    int year = 0, month = 0, day = 0, used = 0;
    const std::string date(date_);
    if (std::sscanf(date.c_str(), "%4d-%2d-%2d%n", &year, &month, &day, &used) == 3 && used == 10) {
      if (date.size() > 10 && std::sscanf(date.c_str() + 10, "T%2d:%2d:%2d", &at.tm_hour, &at.tm_min, &at.tm_sec) != 3)
        used = 0;
    }
    const std::chrono::year_month_day ymd{std::chrono::year(year), std::chrono::month(static_cast<unsigned>(month)),
                                          std::chrono::day(static_cast<unsigned>(day))};
    if (used != 10 || !ymd.ok() || at.tm_hour > 23 || at.tm_min > 59 || at.tm_sec > 60 || at.tm_hour < 0 ||
        at.tm_min < 0 || at.tm_sec < 0)
      throw Error("chat template: the date " + quote(date) + " is none",
                  "write it as 2024-07-26 or 2024-07-26T09:30:00.");
    const std::chrono::sys_days days(ymd), january(std::chrono::year(year) / 1 / 1);
    at.tm_year = year - 1900;
    at.tm_mon = month - 1;
    at.tm_mday = day;
    at.tm_wday = static_cast<int>(std::chrono::weekday(days).c_encoding());
    at.tm_yday = static_cast<int>((days - january).count());
  }
  constexpr const char* months[] = {"January", "February", "March",     "April",   "May",      "June",
                                    "July",    "August",   "September", "October", "November", "December"};
  constexpr const char* weekdays[] = {"Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"};
  const std::string month = months[at.tm_mon], weekday = weekdays[at.tm_wday];
  Text out;
  for (std::size_t i = 0; i < format.size(); ++i) {
    const Source source = format.source_at(i);
    if (format.bytes()[i] != '%') {
      out.append(format.bytes().substr(i, 1), source);
      continue;
    }
    bool padded = true;
    if (++i < format.size() && format.bytes()[i] == '-') padded = false, ++i;
    const char letter = i < format.size() ? format.bytes()[i] : '\0';
    const auto two = [&](int n) { return printed(padded ? "%02d" : "%d", n); };
    const int twelve = at.tm_hour % 12 == 0 ? 12 : at.tm_hour % 12;
    std::string text;
    switch (letter) {
      case 'd':
        text = two(at.tm_mday);
        break;
      case 'm':
        text = two(at.tm_mon + 1);
        break;
      case 'y':
        text = two(at.tm_year % 100);
        break;
      case 'H':
        text = two(at.tm_hour);
        break;
      case 'I':
        text = two(twelve);
        break;
      case 'M':
        text = two(at.tm_min);
        break;
      case 'S':
        text = two(at.tm_sec);
        break;
      case 'j':
        text = printed(padded ? "%03d" : "%d", at.tm_yday + 1);
        break;
      case 'Y':
        text = std::to_string(at.tm_year + 1900);
        break;
      case 'B':
        text = month;
        break;
      case 'b':
        text = month.substr(0, 3);
        break;
      case 'A':
        text = weekday;
        break;
      case 'a':
        text = weekday.substr(0, 3);
        break;
      case 'p':
        text = at.tm_hour < 12 ? "AM" : "PM";
        break;
      case 'F':
        text = printed("%d-%02d-%02d", at.tm_year + 1900, at.tm_mon + 1, at.tm_mday);
        break;
      case 'T':
        text = printed("%02d:%02d:%02d", at.tm_hour, at.tm_min, at.tm_sec);
        break;
      case '%':
        text = "%";
        break;
      default:
        refuse(line, str("strftime_now's %", std::string(1, letter)));
    }
    out.append(text, source);
  }
  return out;
}

inline Value Run::dict_method(std::string_view name, const Dict& members, const Arguments& given, int line) {
  if (name == "get") {
    const auto [key, fallback] = in_order<2>(given, {"key", "default"}, "get", line);
    if (!key) fail(line, "get is given no key");
    const Value* found = members.find(*key);
    return found ? *found : fallback ? *fallback : Value(None{});
  }
  if (name == "items" || name == "keys" || name == "values") {
    in_order<0>(given, {}, name, line);
    std::vector<Value> out;
    for (const auto& [key, value] : members.items)
      out.push_back(name == "items" ? list({key, value}, line) : name == "keys" ? key : value);
    return list(std::move(out), line);
  }
  refuse(line, str("the method ", quote(name), " of a dict"));
}

}  // namespace jinja
}  // namespace text
}  // namespace ft::inline FTLIB_ABI
