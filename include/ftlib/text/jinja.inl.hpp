// text/jinja.inl.hpp: the bodies of text/jinja.hpp: chat templates run.
#pragma once
#include <ftlib/io/json.hpp>  // parse_json
#include <ftlib/text/jinja.hpp>
#include <ftlib/text/jinja_syntax.hpp>  // Lexer, Parser

#include <array>     // std::array
#include <charconv>  // std::to_chars
#include <chrono>    // std::chrono::year_month_day
#include <cmath>     // std::floor
#include <cstdio>    // std::sscanf
#include <ctime>     // std::time
#include <optional>  // std::optional

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
  Flow run(const Node& node, Scope& scope, Text& out) {
    const Level level(*this, node.line);
    switch (node.op) {
      case Op::text:
        write(out, *as_text(node.value), node.line);
        return Flow::on;
      case Op::output:
        write(out, printed_text(eval(*node.children[0], scope), node.line), node.line);
        return Flow::on;
      case Op::branch:
        for (std::size_t i = 0; i < node.children.size(); ++i)
          if (truth(eval(*node.children[i], scope))) return run(node.bodies[i], scope, out);
        return node.bodies.size() > node.children.size() ? run(node.bodies.back(), scope, out) : Flow::on;
      case Op::loop:
        loop(node, scope, out);
        return Flow::on;
      case Op::set:
        scope.set(node.name, eval(*node.children[0], scope));
        return Flow::on;
      case Op::set_block:
        scope.set(node.name, block(node.bodies[0], scope, node.line));
        return Flow::on;
      case Op::set_attribute: {
        const Value* target = scope.find(node.name);
        Namespace* space = target ? as_namespace(*target) : nullptr;
        if (!space)
          fail(node.line, quote(node.name) + " is no namespace, so " + quote(node.words[0]) + " cannot be set in it");
        const std::shared_ptr<Namespace> kept = std::get<std::shared_ptr<Namespace>>(*target);
        Value value = eval(*node.children[0], scope);
        check_kept(value, node.line);
        kept->members.put(node.words[0], std::move(value));
        return Flow::on;
      }
      case Op::macro:
        scope.set(node.name, &node);
        return Flow::on;
      case Op::generation: {
        Scope inner{&scope};
        Text said;
        const Flow flow = run(node.bodies[0], inner, said);
        said.mark_generated();
        write(out, said, node.line);
        return flow;
      }
      case Op::leave:
        return Flow::leave;
      case Op::next:
        return Flow::next;
      default:
        refuse(node.line, "this statement");
    }
  }
  Value block(const Nodes& body, Scope& scope, int line) {
    Scope inner{&scope};
    Text text;
    run(body, inner, text);
    return made(std::move(text), line);
  }
  void loop(const Node& node, Scope& scope, Text& out) {
    std::vector<Value> items = items_of(eval(*node.children[0], scope), node.line);
    const auto bind = [&](Scope& inner, const Value& item) {
      if (node.words.size() == 1) return inner.set(node.words[0], item);
      const std::vector<Value> parts = items_of(item, node.line);
      if (parts.size() != node.words.size())
        fail(node.line, str("a loop over ", node.words.size(), " names meets ", parts.size(), " values"));
      for (std::size_t i = 0; i < parts.size(); ++i) inner.set(node.words[i], parts[i]);
    };
    if (node.children[1]) {
      std::vector<Value> kept;
      for (Value& item : items) {
        Scope inner{&scope};
        bind(inner, item);
        if (truth(eval(*node.children[1], inner))) kept.push_back(std::move(item));
      }
      items = std::move(kept);
    }
    if (items.empty()) {
      if (node.bodies.size() > 1) {
        Scope inner{&scope};
        run(node.bodies[1], inner, out);
      }
      return;
    }
    Loop state{items, 0};
    for (; state.at < items.size(); ++state.at) {
      Scope inner{&scope};
      inner.set("loop", &state);
      bind(inner, items[state.at]);
      if (run(node.bodies[0], inner, out) == Flow::leave) return;
    }
  }

  // --- expressions ---

  Value eval(const Node& node, Scope& scope) {
    const Level level(*this, node.line);
    const auto child = [&](std::size_t i) { return eval(*node.children[i], scope); };
    switch (node.op) {
      case Op::literal:
        return node.value;
      case Op::variable: {
        const Value* found = scope.find(node.name);
        return found ? *found : Value(Undefined{});
      }
      case Op::list: {
        std::vector<Value> items;
        for (std::size_t i = 0; i < node.children.size(); ++i) items.push_back(child(i));
        return list(std::move(items), node.line);
      }
      case Op::dict: {
        Dict out;
        for (std::size_t i = 0; i < node.children.size(); i += 2) {
          const Value key = child(i);
          if (!as_text(key) && !std::holds_alternative<std::int64_t>(key))
            refuse(node.line, str(kind_of(key), " as a dict's key"));
          out.put(key, child(i + 1));
        }
        return dict(std::move(out), node.line);
      }
      case Op::attribute:
        return attribute(child(0), node.name, node.line);
      case Op::item: {
        const Value object = child(0), place = child(1);
        return item(object, place, node.line);
      }
      case Op::slice:
        return slice(node, scope);
      case Op::call:
        return call(node, scope);
      case Op::filter: {
        const Value value = child(0);
        return filter(node.name, value, arguments(node, scope), node.line);
      }
      case Op::test: {
        const Value value = child(0);
        return test(node.name, value, arguments(node, scope), node.line) != node.flag;
      }
      case Op::logical_not:
        return !truth(child(0));
      case Op::negative:
      case Op::positive: {
        const Value v = child(0);
        if (!is_number(v)) fail(node.line, str("a sign before ", kind_of(v)));
        const bool minus = node.op == Op::negative;
        if (std::holds_alternative<double>(v)) return minus ? -std::get<double>(v) : std::get<double>(v);
        return minus ? arithmetic("-", std::int64_t{0}, v, node.line) : v;
      }
      case Op::logical_and: {
        Value left = child(0);
        return truth(left) ? child(1) : left;
      }
      case Op::logical_or: {
        Value left = child(0);
        return truth(left) ? left : child(1);
      }
      case Op::arithmetic: {
        const Value left = child(0), right = child(1);
        return arithmetic(node.name, left, right, node.line);
      }
      case Op::concat: {
        Text out;
        for (std::size_t i = 0; i < node.children.size(); ++i) out.append(printed_text(child(i), node.line));
        return made(std::move(out), node.line);
      }
      case Op::compare: {
        Value left = child(0);
        for (std::size_t i = 0; i < node.words.size(); ++i) {
          Value right = child(i + 1);
          if (!compare(node.words[i], left, right, node.line)) return false;
          left = std::move(right);
        }
        return true;
      }
      case Op::condition:
        if (truth(child(1))) return child(0);
        return node.children[2] ? child(2) : Value(Undefined{});
      default:
        refuse(node.line, "this expression");
    }
  }

  static bool truth(const Value& v) {
    if (const auto* b = std::get_if<bool>(&v)) return *b;
    if (is_number(v)) return as_double(v) != 0;
    if (const Text* text = as_text(v)) return !text->empty();
    if (const List* items = as_list(v)) return !items->items.empty();
    if (const Dict* members = as_dict(v)) return !members->items.empty();
    return !is_undefined(v) && !is_none(v);
  }
  Text printed_text(const Value& v, int line) {
    if (const Text* text = as_text(v)) return *text;
    if (is_undefined(v)) return {};
    if (is_none(v)) return Text("None");
    if (const auto* b = std::get_if<bool>(&v)) return Text(*b ? "True" : "False");
    if (const auto* i = std::get_if<std::int64_t>(&v)) return Text(std::to_string(*i));
    if (const auto* x = std::get_if<double>(&v)) return Text(printed_number(*x, line));
    refuse(line, str("printing ", kind_of(v)));
  }
  /// As Python's repr.
  static std::string printed_number(double x, int line) {
    char digits[64];
    const auto end = std::to_chars(digits, digits + sizeof digits, x).ptr;
    std::string text(digits, end);
    if (text.find_first_of("einf") != text.npos) refuse(line, "printing the number " + text);
    return text.find('.') == text.npos ? text + ".0" : text;
  }

  /// What a loop goes through: a list's items, a dict's keys, a string's characters; nothing for an undefined value.
  std::vector<Value> items_of(const Value& v, int line) {
    if (const List* items = as_list(v)) {
      charge(items->items.size() * sizeof(Value), line);
      return items->items;
    }
    std::vector<Value> out;
    if (const Dict* members = as_dict(v))
      for (const auto& [key, value] : members->items) out.push_back(key);
    else if (const Text* text = as_text(v)) {
      const auto at = text->characters();
      for (std::size_t i = 0; i + 1 < at.size(); ++i) out.push_back(made(text->part(at[i], at[i + 1]), line));
    } else if (!is_undefined(v)) {
      fail(line, str(kind_of(v), " cannot be gone through"));
    }
    return out;
  }

  static bool is_method(std::string_view name) {
    for (const std::string_view known : {"items", "keys", "values", "get", "pop", "update", "copy", "clear"})
      if (name == known) return true;
    return false;
  }
  Value attribute(const Value& object, std::string_view name, int line) {
    if (is_undefined(object)) fail(line, str("an undefined value has no ", quote(name)));
    if (const Dict* members = as_dict(object)) {
      if (is_method(name)) refuse(line, str("the method ", quote(name), " that is not called"));
      const Value* found = members->find(name);
      return found ? *found : Value(Undefined{});
    }
    if (const Namespace* space = as_namespace(object)) {
      const Value* found = space->members.find(name);
      return found ? *found : Value(Undefined{});
    }
    if (const auto* loop = std::get_if<const Loop*>(&object)) return loop_field(**loop, name, line);
    return Undefined{};
  }
  static Value loop_field(const Loop& loop, std::string_view name, int line) {
    const auto at = static_cast<std::int64_t>(loop.at), size = static_cast<std::int64_t>(loop.items.size());
    if (name == "index") return at + 1;
    if (name == "index0") return at;
    if (name == "revindex") return size - at;
    if (name == "revindex0") return size - at - 1;
    if (name == "first") return at == 0;
    if (name == "last") return at + 1 == size;
    if (name == "length") return size;
    if (name == "previtem") return at > 0 ? loop.items[loop.at - 1] : Value(Undefined{});
    if (name == "nextitem") return at + 1 < size ? loop.items[loop.at + 1] : Value(Undefined{});
    refuse(line, "loop." + std::string(name));
  }
  Value item(const Value& object, const Value& place, int line) {
    if (is_undefined(object)) fail(line, "an undefined value has no items");
    if (const Dict* members = as_dict(object)) {
      const Value* found = members->find(place);
      return found ? *found : Value(Undefined{});
    }
    if (const Text* name = as_text(place)) return attribute(object, name->bytes(), line);
    const bool counted = std::holds_alternative<std::int64_t>(place) || std::holds_alternative<bool>(place);
    if (!counted) return Undefined{};
    auto i = static_cast<std::int64_t>(as_double(place));
    const auto at = [&](std::size_t size) {
      if (i < 0) i += static_cast<std::int64_t>(size);
      return i >= 0 && i < static_cast<std::int64_t>(size) ? static_cast<std::size_t>(i) : size;
    };
    if (const List* items = as_list(object)) {
      const std::size_t n = at(items->items.size());
      return n < items->items.size() ? items->items[n] : Value(Undefined{});
    }
    if (const Text* text = as_text(object)) {
      const auto begins = text->characters();
      charge(text->size(), line);
      const std::size_t n = at(begins.size() - 1);
      return n + 1 < begins.size() ? made(text->part(begins[n], begins[n + 1]), line) : Value(Undefined{});
    }
    return Undefined{};
  }
  Value slice(const Node& node, Scope& scope) {
    const Value object = eval(*node.children[0], scope);
    const auto bound = [&](std::size_t i) -> std::optional<std::int64_t> {
      if (!node.children[i]) return {};
      const Value v = eval(*node.children[i], scope);
      if (is_none(v)) return {};
      if (!std::holds_alternative<std::int64_t>(v)) fail(node.line, str("a slice's bound is ", kind_of(v)));
      return std::clamp(std::get<std::int64_t>(v), -(std::int64_t{1} << 40), std::int64_t{1} << 40);
    };
    const auto begin = bound(1), end = bound(2);
    const std::int64_t step = bound(3).value_or(1);
    if (step == 0) fail(node.line, "a slice's step is 0");
    const Text* text = as_text(object);
    const List* items = as_list(object);
    if (!text && !items) fail(node.line, str(kind_of(object), " cannot be sliced"));
    const auto begins = text ? text->characters() : std::vector<std::size_t>();
    const auto size = static_cast<std::int64_t>(text ? begins.size() - 1 : items->items.size());
    charge(static_cast<std::size_t>(size), node.line);
    const std::int64_t low = step > 0 ? 0 : -1, high = step > 0 ? size : size - 1;
    const auto place = [&](std::optional<std::int64_t> at, std::int64_t fallback) {
      return at ? std::clamp(*at < 0 ? *at + size : *at, low, high) : fallback;
    };
    const std::int64_t from = place(begin, step > 0 ? low : high), to = place(end, step > 0 ? high : low);
    Text part;
    std::vector<Value> picked;
    for (std::int64_t i = from; step > 0 ? i < to : i > to; i += step) {
      const auto at = static_cast<std::size_t>(i);
      if (text) part.append(*text, begins[at], begins[at + 1]);
      else picked.push_back(items->items[at]);
    }
    return text ? made(std::move(part), node.line) : list(std::move(picked), node.line);
  }

  static bool equal(const Value& a, const Value& b) {
    if (is_number(a) && is_number(b)) {
      const auto *i = std::get_if<std::int64_t>(&a), *j = std::get_if<std::int64_t>(&b);
      return i && j ? *i == *j : as_double(a) == as_double(b);
    }
    if (a.index() != b.index()) return false;
    if (const Text* text = as_text(a)) return text->bytes() == as_text(b)->bytes();
    if (const List* left = as_list(a))
      return std::equal(left->items.begin(), left->items.end(), as_list(b)->items.begin(), as_list(b)->items.end(),
                        equal);
    if (const Dict* left = as_dict(a)) {
      const Dict* right = as_dict(b);
      if (left->items.size() != right->items.size()) return false;
      for (const auto& [key, value] : left->items)
        if (const Value* other = right->find(key); !other || !equal(value, *other)) return false;
      return true;
    }
    if (const Namespace* space = as_namespace(a)) return space == as_namespace(b);
    return is_undefined(a) || is_none(a);
  }
  bool compare(std::string_view op, const Value& a, const Value& b, int line) {
    charge(16, line);
    if (op == "==") return equal(a, b);
    if (op == "!=") return !equal(a, b);
    if (op == "in") return contains(b, a, line);
    if (op == "not in") return !contains(b, a, line);
    const auto by = [&](auto order) {
      return op == "<" ? order < 0 : op == "<=" ? order <= 0 : op == ">" ? order > 0 : order >= 0;
    };
    if (is_number(a) && is_number(b)) return by(as_double(a) - as_double(b));
    if (as_text(a) && as_text(b))
      return by(as_text(a)->bytes().compare(as_text(b)->bytes()));  // UTF-8 sorts by code point
    fail(line, str(kind_of(a), " and ", kind_of(b), " have no order"));
  }
  bool contains(const Value& whole, const Value& part, int line) {
    if (const Text* text = as_text(whole)) {
      const Text* sought = as_text(part);
      if (!sought) fail(line, str("'in' asks a string for ", kind_of(part)));
      charge(text->size(), line);
      return text->bytes().find(sought->bytes()) != std::string::npos;
    }
    if (const List* items = as_list(whole)) {
      charge(items->items.size() * 16, line);
      return std::any_of(items->items.begin(), items->items.end(), [&](const Value& v) { return equal(v, part); });
    }
    if (const Dict* members = as_dict(whole)) return members->find(part);
    if (is_undefined(whole)) return false;
    fail(line, str("'in' asks ", kind_of(whole)));
  }

  Value arithmetic(std::string_view op, const Value& a, const Value& b, int line) {
    if (op == "+" && as_text(a) && as_text(b)) {
      Text out = *as_text(a);
      out.append(*as_text(b));
      return made(std::move(out), line);
    }
    if (op == "+" && as_list(a) && as_list(b)) {
      std::vector<Value> items = as_list(a)->items;
      items.insert(items.end(), as_list(b)->items.begin(), as_list(b)->items.end());
      return list(std::move(items), line);
    }
    if (op == "*" && as_text(a) && std::holds_alternative<std::int64_t>(b)) {
      Text out;
      for (std::int64_t i = 0; i < std::get<std::int64_t>(b); ++i) {
        charge(as_text(a)->size() + 1, line);
        out.append(*as_text(a));
      }
      return made(std::move(out), line);
    }
    if (!is_number(a) || !is_number(b)) {
      const std::string what = str(kind_of(a), ' ', op, ' ', kind_of(b));
      if (is_undefined(a) || is_undefined(b) || is_none(a) || is_none(b)) fail(line, what + " makes no sense");
      refuse(line, what);
    }
    const double x = as_double(a), y = as_double(b);
    if (op == "/" || op == "//" || op == "%")
      if (y == 0) fail(line, "a division by 0");
    if (op == "/") return x / y;
    if (std::holds_alternative<double>(a) || std::holds_alternative<double>(b)) {
      if (op == "+") return x + y;
      if (op == "-") return x - y;
      if (op == "*") return x * y;
      if (op == "//") return std::floor(x / y);
      return x - std::floor(x / y) * y;
    }
    const auto whole = [](const Value& v) {
      return std::holds_alternative<bool>(v) ? std::int64_t{std::get<bool>(v)} : std::get<std::int64_t>(v);
    };
    const std::int64_t i = whole(a), j = whole(b);
    constexpr std::int64_t limit = std::int64_t{1} << 53;  // beyond, Python goes on with more digits
    const double estimate = op == "+" ? x + y : op == "-" ? x - y : op == "*" ? x * y : x;
    if (std::abs(estimate) > static_cast<double>(limit) || i > limit || i < -limit || j > limit || j < -limit)
      refuse(line, "arithmetic beyond 53 bits");
    if (op == "+") return i + j;
    if (op == "-") return i - j;
    if (op == "*") return i * j;
    const std::int64_t down = i / j - (i % j != 0 && (i < 0) != (j < 0));
    return op == "//" ? down : i - down * j;
  }

  // --- calls ---

  Arguments arguments(const Node& node, Scope& scope) {
    Arguments out;
    for (std::size_t i = 1; i < node.children.size(); ++i) out.places.push_back(eval(*node.children[i], scope));
    for (const auto& [name, value] : node.named) out.named.emplace_back(name, eval(*value, scope));
    return out;
  }
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
  static std::int64_t integer(const Value* v, std::int64_t fallback, std::string_view what, int line) {
    if (!v || is_none(*v)) return fallback;
    if (const auto* i = std::get_if<std::int64_t>(v)) return *i;
    if (const auto* b = std::get_if<bool>(v)) return *b ? 1 : 0;
    fail(line, str(what, " is given ", kind_of(*v), " for an integer"));
  }
  static const Text& string(const Value* v, std::string_view what, int line) {
    if (!v || !as_text(*v)) fail(line, str(what, " is given ", v ? kind_of(*v) : "nothing", " for a string"));
    return *as_text(*v);
  }

  Value call(const Node& node, Scope& scope) {
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
  Dict members_of(const Arguments& given, std::string_view what, int line) {
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
  Value call_macro(const Node& macro, const Arguments& given, int line) {
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

  /// The date that the run was given, or now, as Python's strftime in the C locale writes it.
  Text strftime(const Text& format, int line) {
    std::tm at{};
    if (date_.empty()) {
      const std::time_t now = std::time(nullptr);
      ::localtime_r(&now, &at);
    } else {
      int year = 0, month = 0, day = 0, used = 0;
      const std::string date(date_);
      if (std::sscanf(date.c_str(), "%4d-%2d-%2d%n", &year, &month, &day, &used) == 3 && used == 10) {
        if (date.size() > 10 &&
            std::sscanf(date.c_str() + 10, "T%2d:%2d:%2d", &at.tm_hour, &at.tm_min, &at.tm_sec) != 3)
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

  Value dict_method(std::string_view name, const Dict& members, const Arguments& given, int line) {
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

  // --- strings ---

  /// Without characters at the ends that are white, or stand in `out`.
  Text stripped(const Text& text, const Value* chars, bool left, bool right, int line) {
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
  /// Letters beyond ASCII are left where they have no case, and refused where they might.
  /// `words`: jinja2's filter title, where words end at white space and brackets, not at each digit.
  Text with_case(const Text& text, std::string_view how, int line, bool words = false) {
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
  Text replaced(const Text& text, const Text& from, const Text& to, std::int64_t count, int line) {
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
  Value split(const Text& text, const Value* separator, std::int64_t most, bool from_right, int line) {
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
  Value text_method(std::string_view name, const Text& text, const Arguments& given, int line) {
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
      return made(
          replaced(text, string(from, name, line), string(to, name, line), integer(count, -1, name, line), line), line);
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
  Value joined(const Value& items, const Text& between, int line) {
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

  struct JsonStyle {
    bool ascii = false, sorted = false;
    std::int64_t indent = -1;  // -1: on one line
    Text item = Text(", "), key = Text(": ");
  };
  void json_string(const Text& text, const JsonStyle& style, Text& out) {
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
  void to_json(const Value& v, const JsonStyle& style, int level, Text& out, int line) {
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

  // --- filters and tests ---

  Value filter(std::string_view name, const Value& v, const Arguments& given, int line) {
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
  /// A field of a field: "function.name".
  Value path(const Value& v, std::string_view dotted, int line) {
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
  Value mapped(const Value& v, const Arguments& given, int line) {
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
  Value selected(std::string_view name, const Value& v, const Arguments& given, int line) {
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
  /// As jinja2: strings are compared without their case unless case_sensitive.
  Value sorted(std::string_view name, const Value& v, const Arguments& given, int line) {
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
      Value k = by_dict ? as_list(item)->items[by_value]
                : key   ? path(item, string(key, name, line).bytes(), line)
                        : item;
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

  bool test(std::string_view name, const Value& v, const Arguments& given, int line) {
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

  std::int64_t steps_, bytes_;
  int level_ = 0;
  std::string_view date_;
  Scope root_;
};

}  // namespace jinja

struct JinjaTemplate::Program {
  jinja::Nodes nodes;
  std::vector<std::string> variables;
  bool generation = false;
};

[[gnu::cold]] FTLIB_INLINE JinjaTemplate::JinjaTemplate(std::string_view source) {
  if (source.size() > (std::size_t{1} << 20))
    throw Error(str("chat template: has ", source.size(), " bytes"), "1 MiB are read.");
  std::string text;  // as jinja2: lines end in \n, and the last one's end is left out
  for (const char c : replace_broken_utf8(source)) {
    if (c == '\n' && !text.empty() && text.back() == '\r') text.back() = '\n';
    else text.push_back(c);
  }
  std::replace(text.begin(), text.end(), '\r', '\n');
  if (text.ends_with('\n')) text.pop_back();
  jinja::Parser parser(jinja::Lexer(std::move(text)).run());
  auto program = std::make_shared<Program>();
  program->nodes = parser.run();
  program->variables = std::move(parser.variables);
  program->generation = parser.generation;
  program_ = std::move(program);
}

FTLIB_INLINE std::vector<JinjaPiece> JinjaTemplate::render(const JinjaInput& input, const JinjaLimits& limits) const {
  const jinja::Text text = jinja::Run(limits, input.date).all(program_->nodes, input);
  std::vector<JinjaPiece> pieces;
  std::size_t begin = 0;
  for (const auto& run : text.runs()) {
    pieces.push_back({text.bytes().substr(begin, run.end - begin), run.source.from, run.source.generated});
    begin = run.end;
  }
  return pieces;
}

FTLIB_INLINE bool JinjaTemplate::mentions(std::string_view name) const {
  return std::find(program_->variables.begin(), program_->variables.end(), name) != program_->variables.end();
}
FTLIB_INLINE bool JinjaTemplate::marks_generation() const { return program_->generation; }

}  // namespace text
}  // namespace ft::inline FTLIB_ABI
