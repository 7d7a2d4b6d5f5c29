// examples/qa/readers/json.hpp: JSON and JSON lines, SQuAD and KorQuAD among them.
#pragma once
#include "object.hpp"

#include <algorithm>    // std::count, std::sort, std::min
#include <cstdint>      // std::int64_t
#include <map>          // std::map
#include <string>       // std::string
#include <string_view>  // std::string_view
#include <utility>      // std::move
#include <vector>       // std::vector

namespace qa {

/// A list of objects, SQuAD's {"data": [{"paragraphs": [...]}]}, lists under other usual names, a list for each split,
/// a table by columns, or one object.
class JsonReader {
 public:
  explicit JsonReader(Collector& out) : out_(out) {}

  void read(const Json& root, std::int64_t line) {
    line_ = line;
    if (root.is_array()) return each(root, "the list");
    if (!root.is_object()) return out_.bad(line, "neither an object nor a list of objects");
    read_object(root);
  }
  /// A value of a JSON lines file.
  void read_line(const Json& value, std::int64_t line) {
    line_ = line;
    if (value.is_object()) read_object(value, line);
    else if (holds_turns(value)) read_turns(value);
    else if (value.is_array() && !value.empty() && value[0].is_object()) each(value, "the list");
    else out_.bad(line, "the line is not a JSON object");
  }

 private:
  /// `line`: where it stands; 0: what it says itself.
  void read_object(const Json& object, std::int64_t line = 0) {
    line_ = line > 0 ? line : object[line_member].get<std::int64_t>();
    if (object.contains("paragraphs")) return read_paragraphs(object);
    if (object.contains("row") && object["row"].is_object()) return read_object(object["row"], line_);  // a viewer's
    Members members(object);
    const auto& said = out_.options().columns;
    const Json& question = members(question_names, said.question);
    if (is_column(question)) return read_columns(object);
    if (question.is_array() && !question.empty() && !holds_turns(question)) return read_part(question, "questions");
    if (!question.is_null() || is_list_of_turns(members)) return add_object(out_, line_, object);
    if (object.contains("data") &&
        !(object["data"].is_array() && !object["data"].empty() && object["data"][0].is_string()))
      return read_part(object["data"], "data");
    for (const char* name :
         {"rows", "examples", "records", "items", "entries", "samples", "instances", "qas", "results", "list"})
      if (object.contains(name) && object[name].is_array()) return read_part(object[name], name);
    bool splits = false, others = false;
    for (const auto& [key, value] : object.items())
      if (key != line_member && value.is_structured()) (ft::text::is_known_split(key) ? splits : others) = true;
    if (!splits || others) return add_object(out_, line_, object);
    for (const auto& [key, value] : object.items()) {
      if (key == line_member || !value.is_structured()) continue;
      split_ = ft::text::split_name(key);
      read_part(value, key);
    }
    split_.clear();
    out_.note("a list for each split");
  }
  /// {"0": ..., "1": ...} or [..., ...] in a question's place: a table by columns, as pandas writes it.
  static bool is_column(const Json& question) {
    if (question.is_array()) return !question.empty() && !question[0].is_structured();
    return question.is_object() && question.contains("0");
  }
  static bool is_list_of_turns(Members& members) {
    const Json &turns = members(turns_names), &data = members.named("data");
    return turns.is_array() || (data.is_array() && !data.empty() && data[0].is_string());
  }
  void read_columns(const Json& table) {
    const auto line = line_;
    bool lists = true;
    for (const auto& [name, column] : table.items())
      if (name != line_member && column.is_object()) lists = false;
    std::vector<Json> objects;
    std::size_t size = 0;
    bool first = true;
    const auto count = [](const Json& column) { return column.size() - (column.is_object() ? 1 : 0); };
    for (const auto& [name, column] : table.items()) {
      if (name == line_member) continue;
      if (!column.is_structured() || column.is_object() == lists)
        return out_.bad(line, str("is a table by columns, in which \"", ft::printable(name, 60), "\" is none"));
      if (first) size = count(column);
      if (count(column) != size)
        return out_.bad(line, str("is a table by columns of which \"", ft::printable(name, 60), "\" has ",
                                  count(column), " values, the first has ", size));
      first = false;
    }
    objects.assign(size, Json::object());
    if (lists) {
      for (const auto& [name, column] : table.items())
        if (name != line_member)
          for (std::size_t i = 0; i < size; ++i) objects[i][name] = column[i];
    } else {
      std::map<std::string, std::size_t> places;
      for (const auto& [name, column] : table.items())
        if (name != line_member)
          for (const auto& [row, value] : column.items())
            if (row != line_member) places.try_emplace(row, 0);
      if (places.size() != size) return out_.bad(line, "is a table by columns whose rows have different names");
      std::vector<std::string> names;
      for (const auto& [row, place] : places) names.push_back(row);
      std::sort(names.begin(), names.end(), [](const auto& a, const auto& b) {  // "10" behind "9"
        return a.size() != b.size() ? a.size() < b.size() : a < b;
      });
      for (std::size_t i = 0; i < names.size(); ++i) places[names[i]] = i;
      for (const auto& [name, column] : table.items())
        if (name != line_member)
          for (const auto& [row, value] : column.items())
            if (row != line_member) objects[places[row]][name] = value;
    }
    out_.note("a table by columns");
    for (auto& object : objects) {
      object[line_member] = line;
      add(object);
    }
  }
  /// What stands under a name: a list, or again a table or such lists.
  void read_part(const Json& part, std::string_view name) {
    if (part.is_object()) return read_object(part);
    each(part, name);
  }
  /// Anything but objects and conversations in a list is bad.
  void each(const Json& list, std::string_view name) {
    if (!list.is_array()) return out_.bad(line_, str("\"", name, "\" is not a list"));
    for (std::size_t i = 0; i < list.size(); ++i) {
      if (list[i].is_object()) {
        const Json& one = list[i];
        line_ = one[line_member].get<std::int64_t>();
        if (one.contains("paragraphs") || one.contains("row")) read_object(one);
        else add(one);
      } else if (holds_turns(list[i])) {
        read_turns(list[i]);
      } else {
        out_.bad(line_, str("entry ", i + 1, " of \"", name, "\" is not an object"));
      }
    }
  }
  void read_turns(const Json& list) { add(Json{{"messages", list}}); }
  void read_paragraphs(const Json& article) {
    const Json& paragraphs = article["paragraphs"];
    if (!paragraphs.is_array()) return out_.bad(line_, "\"paragraphs\" is not a list");
    for (std::size_t i = 0; i < paragraphs.size(); ++i) {
      const Json& paragraph = paragraphs[i];
      if (!paragraph.is_object()) {
        out_.bad(line_, str("entry ", i + 1, " of \"paragraphs\" is not an object"));
        continue;
      }
      line_ = paragraph[line_member].get<std::int64_t>();
      const Json passage = paragraph.contains("context") ? paragraph["context"] : Json("");
      const Json questions = paragraph.contains("qas") ? paragraph["qas"] : Json();
      if (!questions.is_array()) {
        out_.bad(line_, "\"qas\" is not a list");
        continue;
      }
      for (std::size_t k = 0; k < questions.size(); ++k) {
        if (!questions[k].is_object()) {
          out_.bad(line_, str("entry ", k + 1, " of \"qas\" is not an object"));
          continue;
        }
        line_ = questions[k][line_member].get<std::int64_t>();
        add_object(out_, line_, questions[k], passage);
      }
    }
  }
  void add(const Json& object) {
    if (split_.empty() || object.contains("split")) return add_object(out_, line_, object);
    Json with_split = object;
    with_split["split"] = split_;
    add_object(out_, line_, with_split);
  }

  Collector& out_;
  std::int64_t line_ = 1;
  std::string split_;  // of the list that is read
};

/// Values one after the other: a .json file has one, as a rule.
inline void read_json(Collector& out, std::string_view text) {
  const auto line_at = [&](std::size_t byte) {
    return std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(std::min(byte, text.size())), '\n') + 1;
  };
  JsonReader reader(out);
  std::int64_t values = 0;
  try {
    loose_json(text, 1, out.not_numbers, [&](const Json& value, std::int64_t line) {
      ++values;
      reader.read(value, line);
    });
    if (values > 1) out.note(str(values, " JSON values, one after the other"));
  } catch (const BadJson& bad) {
    if (bad.too_large) out.bad(1, "a number in the file is too large");
    else out.bad(line_at(bad.byte > 0 ? bad.byte - 1 : 0), "not JSON from here on");
  } catch (const Error& e) {
    out.bad(1, e.message());
  }
}

/// Whether a text's first line that is not blank begins a JSON value that goes on behind it.
inline bool goes_over_lines(std::string_view text) {
  Lines lines(text);
  for (std::string_view line; lines.next(line);) {
    if (trimmed(line).empty()) continue;
    std::int64_t ignored = 0;
    try {
      loose_json(line, 1, ignored, [](const Json&, std::int64_t) {});
      return false;
    } catch (const BadJson& bad) {
      return bad.byte > line.size();
    } catch (const Error&) {
      return false;
    }
  }
  return false;
}

/// Whether a text's first line that is not blank is an object, and more follows.
inline bool is_object_a_line(std::string_view text) {
  text.remove_prefix(std::min(text.size(), text.find_first_not_of(" \t\r\n")));
  const auto end = text.find('\n');
  return text.starts_with('{') && end != text.npos && !trimmed(text.substr(end)).empty() && !goes_over_lines(text);
}

inline void read_json_lines(Collector& out, std::string_view text) {
  JsonReader reader(out);
  Lines lines(text);
  for (std::string_view line; lines.next(line);) {
    if (auto fault = Lines::fault(line); !fault.empty()) {
      out.bad(lines.number(), std::move(fault));
      continue;
    }
    if (trimmed(line).empty()) continue;
    try {
      loose_json(line, lines.number(), out.not_numbers,
                 [&](const Json& value, std::int64_t number) { reader.read_line(value, number); });
    } catch (const BadJson& bad) {
      out.bad(lines.number(), bad.too_large ? "a number is too large" : str("not JSON at byte ", bad.byte));
      if (trimmed(line).starts_with("{'"))
        out.hint("as Python prints a dict, it is no JSON; json.dumps() writes that.");
    } catch (const Error& e) {
      out.bad(lines.number(), e.message());
    }
  }
}

}  // namespace qa
