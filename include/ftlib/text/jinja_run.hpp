// text/jinja_run.hpp: what runs a chat template: its state, what it may use up, and what it is made of. The bodies lie
// in jinja_statements.hpp (statements, expressions), jinja_calls.hpp (functions, methods of dicts, dates),
// jinja_strings.hpp (methods of strings, JSON) and jinja_filters.hpp (filters, tests).
#pragma once
#include <ftlib/io/json.hpp>  // parse_json
#include <ftlib/text/jinja_input.hpp>
#include <ftlib/text/jinja_syntax.hpp>  // Nodes

#include <algorithm>  // std::max, std::find
#include <array>      // std::array
#include <optional>   // std::optional

namespace ft::inline FTLIB_ABI {
namespace text {
namespace jinja {

/// Variables of a block of the template, on the stack of who runs it.
struct Scope {
  Scope* outer = nullptr;
  std::vector<std::pair<std::string_view, Value>> names = {};

  const Value* find(std::string_view name) const {
    for (const Scope* scope = this; scope; scope = scope->outer)
      for (const auto& [known, value] : scope->names)
        if (known == name) return &value;
    return nullptr;
  }
  void set(std::string_view name, Value value) {
    for (auto& [known, old] : names)
      if (known == name) {
        old = std::move(value);
        return;
      }
    names.emplace_back(name, std::move(value));
  }
};

struct Arguments {
  std::vector<Value> places;
  std::vector<std::pair<std::string_view, Value>> named;
};

enum class Flow { on, leave, next };

/// Runs one template once. Where it differs from Python it refuses.
class Run {
 public:
  Run(const JinjaLimits& limits, std::string_view date) : steps_(limits.steps), bytes_(limits.bytes), date_(date) {}

  Text all(const Nodes& nodes, const JinjaInput& input) {
    Scope& scope = root_;
    const std::pair<const char*, Builtin> functions[] = {{"raise_exception", Builtin::raise_exception},
                                                         {"strftime_now", Builtin::strftime_now},
                                                         {"range", Builtin::range},
                                                         {"namespace", Builtin::make_namespace},
                                                         {"dict", Builtin::dict}};
    for (const auto& [name, function] : functions) scope.set(name, function);
    scope.set("tools", None{});
    scope.set("documents", None{});
    if (input.messages) {
      std::vector<Value> messages;
      for (std::size_t i = 0; i < input.messages->size(); ++i) {
        const Message& m = (*input.messages)[i];
        Dict message;
        message.put("role", text_value(Text(replace_broken_utf8(m.role))));
        message.put("content", text_value(Text(replace_broken_utf8(m.content), {static_cast<std::int32_t>(i)})));
        messages.push_back(std::make_shared<const Dict>(std::move(message)));
      }
      scope.set("messages", list(std::move(messages), 0));
    }
    for (const auto& [name, text] : input.texts) scope.set(name, text_value(Text(replace_broken_utf8(text))));
    for (const auto& [name, flag] : input.flags) scope.set(name, flag);
    Json variables;
    if (!input.variables.empty()) {
      variables = parse_json(input.variables, "the chat template's variables");
      if (!variables.is_object()) throw Error("the chat template's variables are no JSON object");
      for (const auto& [name, value] : variables.get_ref<const Json::object_t&>()) scope.set(name, from_json(value));
    }
    Text out;
    run(nodes, scope, out);
    return out;
  }

 private:
  // --- what it may use up ---

  struct Level {
    Level(Run& run, int line) : run_(run) {
      if (--run.steps_ < 0) fail(line, "the template runs too long", "it may not end.");
      if (++run.level_ > 2 * max_depth) fail(line, str("calls are nested deeper than ", 2 * max_depth, " levels"));
    }
    ~Level() { --run_.level_; }
    Level(const Level&) = delete;
    Level& operator=(const Level&) = delete;
    Run& run_;
  };
  void charge(std::size_t bytes, int line) {
    if (bytes > static_cast<std::size_t>(bytes_)) fail(line, "the template makes too much text", "it may not end.");
    bytes_ -= static_cast<std::int64_t>(bytes);
  }
  Value made(Text text, int line) {
    charge(text.size() + 64, line);
    return text_value(std::move(text));
  }
  static int depth_of(const Value& v) {
    if (const List* inner = as_list(v)) return inner->depth;
    if (const Dict* inner = as_dict(v)) return inner->depth;
    return 0;
  }
  /// What may lie in a list, dict or namespace: no namespace or loop, which could make circles or outlive the run.
  static void check_kept(const Value& v, int line) {
    if (as_namespace(v) || std::holds_alternative<const Loop*>(v))
      refuse(line, str(kind_of(v), " inside another value"));
  }
  Value list(std::vector<Value> items, int line) {
    charge(items.size() * sizeof(Value) + 64, line);
    List out;
    for (const Value& v : items) {
      check_kept(v, line);
      out.depth = std::max(out.depth, depth_of(v) + 1);
    }
    if (out.depth > 2 * max_depth) fail(line, "lists are nested too deep");
    out.items = std::move(items);
    return std::make_shared<const List>(std::move(out));
  }
  Value dict(Dict out, int line) {
    charge(out.items.size() * 2 * sizeof(Value) + 64, line);
    for (const auto& [key, v] : out.items) {
      check_kept(v, line);
      out.depth = std::max(out.depth, depth_of(v) + 1);
    }
    if (out.depth > 2 * max_depth) fail(line, "dicts are nested too deep");
    return std::make_shared<const Dict>(std::move(out));
  }
  Value from_json(const Json& json) {  // parse_json bounds its depth
    constexpr Source outside{JinjaPiece::from_variables};
    if (json.is_null()) return None{};
    if (json.is_boolean()) return json.get<bool>();
    if (json.is_number_integer()) return json.get<std::int64_t>();
    if (json.is_number()) return json.get<double>();
    if (json.is_string()) return text_value(Text(replace_broken_utf8(json.get_ref<const std::string&>()), outside));
    if (json.is_array()) {
      std::vector<Value> items;
      for (const Json& item : json) items.push_back(from_json(item));
      return list(std::move(items), 0);
    }
    Dict out;
    for (const auto& [key, value] : json.get_ref<const Json::object_t&>())
      out.items.emplace_back(text_value(Text(replace_broken_utf8(key), outside)), from_json(value));
    return dict(std::move(out), 0);
  }

  // --- statements ---

  Flow run(const Nodes& nodes, Scope& scope, Text& out) {
    for (const NodePtr& node : nodes)
      if (const Flow flow = run(*node, scope, out); flow != Flow::on) return flow;
    return Flow::on;
  }
  void write(Text& out, const Text& text, int line) {
    charge(text.size(), line);
    out.append(text);
  }
  Flow run(const Node& node, Scope& scope, Text& out);
  Value block(const Nodes& body, Scope& scope, int line);
  void loop(const Node& node, Scope& scope, Text& out);

  // --- expressions ---

  Value eval(const Node& node, Scope& scope);

  static bool truth(const Value& v);
  Text printed_text(const Value& v, int line);
  /// As Python's repr.
  static std::string printed_number(double x, int line);

  /// What a loop goes through: a list's items, a dict's keys, a string's characters; nothing for an undefined value.
  std::vector<Value> items_of(const Value& v, int line);

  static bool is_method(std::string_view name) {
    for (const std::string_view known : {"items", "keys", "values", "get", "pop", "update", "copy", "clear"})
      if (name == known) return true;
    return false;
  }
  Value attribute(const Value& object, std::string_view name, int line);
  static Value loop_field(const Loop& loop, std::string_view name, int line);
  Value item(const Value& object, const Value& place, int line);
  Value slice(const Node& node, Scope& scope);

  static bool equal(const Value& a, const Value& b);
  bool compare(std::string_view op, const Value& a, const Value& b, int line);
  bool contains(const Value& whole, const Value& part, int line);

  Value arithmetic(std::string_view op, const Value& a, const Value& b, int line);

  // --- calls ---

  Arguments arguments(const Node& node, Scope& scope);
  /// The arguments in the order of `names`; null where one is not given. Refuses others.
  template <std::size_t N>
  static std::array<const Value*, N> in_order(const Arguments& given, const std::array<const char*, N>& names,
                                              std::string_view what, int line) {
    std::array<const Value*, N> out{};
    if (given.places.size() > N) fail(line, str(what, " takes ", N, " arguments, ", given.places.size(), " are given"));
    for (std::size_t i = 0; i < given.places.size(); ++i) out[i] = &given.places[i];
    for (const auto& [name, value] : given.named) {
      const auto found = std::find(names.begin(), names.end(), name);
      if (found == names.end()) refuse(line, str("the argument ", quote(name), " of ", what));
      out[static_cast<std::size_t>(found - names.begin())] = &value;
    }
    return out;
  }
  static std::int64_t integer(const Value* v, std::int64_t fallback, std::string_view what, int line);
  static const Text& string(const Value* v, std::string_view what, int line) {
    if (!v || !as_text(*v)) fail(line, str(what, " is given ", v ? kind_of(*v) : "nothing", " for a string"));
    return *as_text(*v);
  }

  Value call(const Node& node, Scope& scope);
  Dict members_of(const Arguments& given, std::string_view what, int line);
  Value call_macro(const Node& macro, const Arguments& given, int line);

  /// The date that the run was given, or now, as Python's strftime in the C locale writes it.
  Text strftime(const Text& format, int line);

  Value dict_method(std::string_view name, const Dict& members, const Arguments& given, int line);

  // --- strings ---

  /// Without characters at the ends that are white, or stand in `out`.
  Text stripped(const Text& text, const Value* chars, bool left, bool right, int line);
  /// Letters beyond ASCII are left where they have no case, and refused where they might.
  /// `words`: jinja2's filter title, where words end at white space and brackets, not at each digit.
  Text with_case(const Text& text, std::string_view how, int line, bool words = false);
  Text replaced(const Text& text, const Text& from, const Text& to, std::int64_t count, int line);
  Value split(const Text& text, const Value* separator, std::int64_t most, bool from_right, int line);
  Value text_method(std::string_view name, const Text& text, const Arguments& given, int line);
  Value joined(const Value& items, const Text& between, int line);

  // --- JSON, as Python's json.dumps writes it ---

  struct JsonStyle {
    bool ascii = false, sorted = false;
    std::int64_t indent = -1;  // -1: on one line
    Text item = Text(", "), key = Text(": ");
  };
  void json_string(const Text& text, const JsonStyle& style, Text& out);
  void to_json(const Value& v, const JsonStyle& style, int level, Text& out, int line);

  // --- filters and tests ---

  Value filter(std::string_view name, const Value& v, const Arguments& given, int line);
  /// A field of a field: "function.name".
  Value path(const Value& v, std::string_view dotted, int line);
  Value mapped(const Value& v, const Arguments& given, int line);
  Value selected(std::string_view name, const Value& v, const Arguments& given, int line);
  /// As jinja2: strings are compared without their case unless case_sensitive.
  Value sorted(std::string_view name, const Value& v, const Arguments& given, int line);

  bool test(std::string_view name, const Value& v, const Arguments& given, int line);

  std::int64_t steps_, bytes_;
  int level_ = 0;
  std::string_view date_;
  Scope root_;
};

}  // namespace jinja
}  // namespace text
}  // namespace ft::inline FTLIB_ABI
