// text/jinja_strings.hpp: of what runs a chat template, strings and JSON.
#pragma once
#include <ftlib/text/jinja_run.hpp>

#include <algorithm>  // std::any_of, std::find

namespace ft::inline FTLIB_ABI {
namespace text {
namespace jinja {

// --- strings ---

inline Text Run::stripped(const Text& text, const Value* chars, bool left, bool right, int line) {
  const auto at = text.characters();
  charge(text.size(), line);
  const bool white = !chars || is_none(*chars);
  std::vector<char32_t> set;
  if (!white)
    for (std::size_t i = 0; const std::size_t begin : string(chars, "strip", line).characters())
      if (begin < as_text(*chars)->size())
        set.push_back(decode_utf8(as_text(*chars)->bytes().data() + begin).code), ++i;
  const auto goes = [&](std::size_t i) {
    const char32_t code = decode_utf8(text.bytes().data() + at[i]).code;
    return white ? is_white(code) : std::find(set.begin(), set.end(), code) != set.end();
  };
  std::size_t begin = 0, end = at.size() - 1;
  while (left && begin < end && goes(begin)) ++begin;
  while (right && begin < end && goes(end - 1)) --end;
  return text.part(at[begin], at[end]);
}

inline Text Run::with_case(const Text& text, std::string_view how, int line, bool words) {
  std::string bytes = text.bytes();
  charge(bytes.size(), line);
  bool inside = false;  // of a word (title), of the text (capitalize)
  for (std::size_t i = 0; i < bytes.size();) {
    const Utf8Char c = decode_utf8(bytes.data() + i);
    const bool may_have_case =
        c.code >= 0x80 && (c.code < 0x600 || (c.code >= 0x10a0 && c.code < 0x1100) ||
                           (c.code >= 0x13a0 && c.code < 0x1400) || (c.code >= 0x1c80 && c.code < 0x2200) ||
                           (c.code >= 0x2460 && c.code < 0x2500) || (c.code >= 0x2c00 && c.code < 0x2e00) ||
                           (c.code >= 0xa640 && c.code < 0xac00) || (c.code >= 0xfb00 && c.code < 0xfb50) ||
                           (c.code >= 0xff20 && c.code < 0xff60) || (c.code >= 0x10400 && c.code < 0x20000));
    if (may_have_case && (CharacterClasses()(c.code) & letter_class))
      refuse(line, str(how, " of a letter like '", bytes.substr(i, c.length), "'"));
    const bool lower = c.code >= 'a' && c.code <= 'z', upper = c.code >= 'A' && c.code <= 'Z';
    const bool up = how == "upper" || ((how == "title" || how == "capitalize") && !inside);
    if (up && lower) bytes[i] = static_cast<char>(bytes[i] - 32);
    if (!up && upper) bytes[i] = static_cast<char>(bytes[i] + 32);
    if (how == "capitalize") inside = true;
    else if (words)
      inside = !is_white(c.code) && std::u32string_view(U"-({[<").find(c.code) == std::u32string_view::npos;
    else inside = lower || upper || (c.code >= 0x80 && (CharacterClasses()(c.code) & letter_class));
    i += c.length;
  }
  return text.with_bytes(std::move(bytes));
}

inline Text Run::replaced(const Text& text, const Text& from, const Text& to, std::int64_t count, int line) {
  Text out;
  std::size_t done = 0;
  if (from.empty()) {  // between all characters, as Python has it
    const auto at = text.characters();
    for (std::size_t i = 0; i < at.size() && count != 0; ++i, --count) {
      charge(to.size() + 1, line);
      out.append(text, done, at[i]);
      out.append(to);
      done = at[i];
    }
  } else {
    for (std::size_t at; count != 0 && (at = text.bytes().find(from.bytes(), done)) != std::string::npos; --count) {
      charge(to.size() + 1, line);
      out.append(text, done, at);
      out.append(to);
      done = at + from.size();
    }
  }
  out.append(text, done, text.size());
  return out;
}

inline Value Run::split(const Text& text, const Value* separator, std::int64_t most, bool from_right, int line) {
  const std::string& bytes = text.bytes();
  charge(bytes.size(), line);
  std::vector<std::pair<std::size_t, std::size_t>> parts;
  if (!separator || is_none(*separator)) {
    if (from_right && most >= 0) refuse(line, "rsplit at white space with a limit");
    std::size_t begin = bytes.npos;
    for (std::size_t i = 0; i < bytes.size();) {
      const Utf8Char c = decode_utf8(bytes.data() + i);
      if (!is_white(c.code) && begin == bytes.npos) {
        begin = i;
        if (most >= 0 && static_cast<std::int64_t>(parts.size()) == most) {
          parts.emplace_back(begin, bytes.size());
          begin = bytes.npos;
          break;
        }
      } else if (is_white(c.code) && begin != bytes.npos) {
        parts.emplace_back(begin, i);
        begin = bytes.npos;
      }
      i += c.length;
    }
    if (begin != bytes.npos) parts.emplace_back(begin, bytes.size());
  } else {
    const std::string& sought = string(separator, "split", line).bytes();
    if (sought.empty()) fail(line, "split is given an empty separator");
    if (from_right) {
      std::size_t end = bytes.size();
      while (most != 0 && end >= sought.size()) {
        const std::size_t at = bytes.rfind(sought, end - sought.size());
        if (at == bytes.npos) break;
        parts.emplace_back(at + sought.size(), end);
        end = at;
        --most;
      }
      parts.emplace_back(0, end);
      std::reverse(parts.begin(), parts.end());
    } else {
      std::size_t begin = 0;
      for (std::size_t at; most != 0 && (at = bytes.find(sought, begin)) != bytes.npos; --most) {
        parts.emplace_back(begin, at);
        begin = at + sought.size();
      }
      parts.emplace_back(begin, bytes.size());
    }
  }
  std::vector<Value> out;
  for (const auto& [begin, end] : parts) out.push_back(made(text.part(begin, end), line));
  return list(std::move(out), line);
}

inline Value Run::text_method(std::string_view name, const Text& text, const Arguments& given, int line) {
  if (name == "strip" || name == "lstrip" || name == "rstrip") {
    const auto [chars] = in_order<1>(given, {"chars"}, name, line);
    return made(stripped(text, chars, name != "rstrip", name != "lstrip", line), line);
  }
  if (name == "split" || name == "rsplit") {
    const auto [separator, most] = in_order<2>(given, {"sep", "maxsplit"}, name, line);
    return split(text, separator, integer(most, -1, name, line), name == "rsplit", line);
  }
  if (name == "startswith" || name == "endswith") {
    const auto [part] = in_order<1>(given, {"prefix"}, name, line);
    const auto fits = [&](const Value& v) {
      const std::string& end = string(&v, name, line).bytes();
      return name == "startswith" ? text.bytes().starts_with(end) : text.bytes().ends_with(end);
    };
    if (part && as_list(*part)) return std::any_of(as_list(*part)->items.begin(), as_list(*part)->items.end(), fits);
    if (!part) fail(line, str(name, " is given nothing"));
    return fits(*part);
  }
  if (name == "upper" || name == "lower" || name == "title" || name == "capitalize") {
    in_order<0>(given, {}, name, line);
    return made(with_case(text, name, line), line);
  }
  if (name == "replace") {
    const auto [from, to, count] = in_order<3>(given, {"old", "new", "count"}, name, line);
    return made(replaced(text, string(from, name, line), string(to, name, line), integer(count, -1, name, line), line),
                line);
  }
  if (name == "find" || name == "rfind" || name == "count") {
    const auto [part] = in_order<1>(given, {"sub"}, name, line);
    const std::string& sought = string(part, name, line).bytes();
    charge(text.size(), line);
    if (name == "count") {
      if (sought.empty()) refuse(line, "count of an empty string");
      std::int64_t n = 0;
      for (std::size_t at = 0; (at = text.bytes().find(sought, at)) != std::string::npos; at += sought.size()) ++n;
      return n;
    }
    const std::size_t at = name == "find" ? text.bytes().find(sought) : text.bytes().rfind(sought);
    if (at == std::string::npos) return std::int64_t{-1};
    return static_cast<std::int64_t>(text.part(0, at).characters().size()) - 1;
  }
  if (name == "format") {  // {} alone, one after the other
    if (!given.named.empty()) refuse(line, "format with an argument with a name");
    Text out;
    std::size_t next = 0;
    for (std::size_t i = 0; i < text.size(); ++i) {
      const char c = text.bytes()[i], after = i + 1 < text.size() ? text.bytes()[i + 1] : '\0';
      if ((c == '{' || c == '}') && after == c) {
        out.append(text, i, i + 1);
        ++i;
      } else if (c == '{' && after == '}') {
        if (next == given.places.size()) fail(line, "format is given too few arguments");
        const Text part = printed_text(given.places[next++], line);
        charge(part.size(), line);
        out.append(part);
        ++i;
      } else if (c == '{' || c == '}') {
        refuse(line, "format with more than {}");
      } else {
        out.append(text, i, i + 1);
      }
    }
    return made(std::move(out), line);
  }
  if (name == "join") {
    const auto [items] = in_order<1>(given, {"iterable"}, name, line);
    if (!items) fail(line, "join is given nothing");
    for (const Value& item : items_of(*items, line)) string(&item, name, line);
    return joined(*items, text, line);
  }
  refuse(line, str("the method ", quote(name), " of a string"));
}

inline Value Run::joined(const Value& items, const Text& between, int line) {
  Text out;
  bool first = true;
  for (const Value& v : items_of(items, line)) {
    if (!first) out.append(between);
    first = false;
    out.append(printed_text(v, line));
    charge(between.size() + 16, line);
  }
  return made(std::move(out), line);
}

// --- JSON, as Python's json.dumps writes it ---

inline void Run::json_string(const Text& text, const JsonStyle& style, Text& out) {
  out.append("\"", {});
  for (std::size_t i = 0; i < text.size();) {
    const Utf8Char c = decode_utf8(text.bytes().data() + i);
    const Source source = text.source_at(i);
    constexpr std::string_view named = "\"\\\n\r\t\b\f", letters = "\"\\nrtbf";
    if (const std::size_t known = c.code < 0x80 ? named.find(static_cast<char>(c.code)) : named.npos;
        known != named.npos) {
      out.append(std::string{'\\', letters[known]}, source);
    } else if (c.code < 0x20 || (style.ascii && c.code >= 0x7f && c.code < 0x10000 && c.code != 0x7f)) {
      out.append(printed("\\u%04x", static_cast<unsigned>(c.code)), source);
    } else if (style.ascii && c.code >= 0x10000) {
      const unsigned above = static_cast<unsigned>(c.code) - 0x10000;
      out.append(printed("\\u%04x\\u%04x", 0xd800 + (above >> 10), 0xdc00 + (above & 0x3ff)), source);
    } else {
      out.append(std::string_view(text.bytes()).substr(i, c.length), source);
    }
    i += c.length;
  }
  out.append("\"", {});
}

inline void Run::to_json(const Value& v, const JsonStyle& style, int level, Text& out, int line) {
  const Level deeper(*this, line);
  charge(16, line);
  const auto line_break = [&](int depth) {
    if (style.indent < 0) return;
    const auto spaces = static_cast<std::size_t>(style.indent) * static_cast<std::size_t>(depth);
    charge(spaces, line);
    out.append("\n" + std::string(spaces, ' '), {});
  };
  const auto between = [&](bool first) {
    if (!first) out.append(style.item);
    line_break(level + 1);
  };
  if (const Text* text = as_text(v)) {
    charge(text->size(), line);
    json_string(*text, style, out);
  } else if (is_none(v)) {
    out.append("null", {});
  } else if (const auto* b = std::get_if<bool>(&v)) {
    out.append(*b ? "true" : "false", {});
  } else if (is_number(v)) {
    out.append(printed_text(v, line));
  } else if (const List* items = as_list(v)) {
    out.append("[", {});
    for (std::size_t i = 0; i < items->items.size(); ++i) {
      between(i == 0);
      to_json(items->items[i], style, level + 1, out, line);
    }
    if (!items->items.empty()) line_break(level);
    out.append("]", {});
  } else if (const Dict* members = as_dict(v)) {
    std::vector<const std::pair<Value, Value>*> order;
    for (const auto& member : members->items) order.push_back(&member);
    if (style.sorted)
      std::stable_sort(order.begin(), order.end(),
                       [&](const auto* x, const auto* y) { return compare("<", x->first, y->first, line); });
    out.append("{", {});
    for (std::size_t i = 0; i < order.size(); ++i) {
      between(i == 0);
      json_string(printed_text(order[i]->first, line), style, out);
      out.append(style.key);
      to_json(order[i]->second, style, level + 1, out, line);
    }
    if (!order.empty()) line_break(level);
    out.append("}", {});
  } else {
    fail(line, str("tojson of ", kind_of(v)));
  }
}

}  // namespace jinja
}  // namespace text
}  // namespace ft::inline FTLIB_ABI
