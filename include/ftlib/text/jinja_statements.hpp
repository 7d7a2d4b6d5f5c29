// text/jinja_statements.hpp: of what runs a chat template, statements and expressions.
#pragma once
#include <ftlib/text/jinja_run.hpp>

#include <algorithm>  // std::clamp, std::equal
#include <charconv>   // std::to_chars
#include <cmath>      // std::floor

namespace ft::inline FTLIB_ABI {
namespace text {
namespace jinja {

// --- statements ---

inline Flow Run::run(const Node& node, Scope& scope, Text& out) {
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

inline Value Run::block(const Nodes& body, Scope& scope, int line) {
  Scope inner{&scope};
  Text text;
  run(body, inner, text);
  return made(std::move(text), line);
}

inline void Run::loop(const Node& node, Scope& scope, Text& out) {
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

inline Value Run::eval(const Node& node, Scope& scope) {
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

inline bool Run::truth(const Value& v) {
  if (const auto* b = std::get_if<bool>(&v)) return *b;
  if (is_number(v)) return as_double(v) != 0;
  if (const Text* text = as_text(v)) return !text->empty();
  if (const List* items = as_list(v)) return !items->items.empty();
  if (const Dict* members = as_dict(v)) return !members->items.empty();
  return !is_undefined(v) && !is_none(v);
}

inline Text Run::printed_text(const Value& v, int line) {
  if (const Text* text = as_text(v)) return *text;
  if (is_undefined(v)) return {};
  if (is_none(v)) return Text("None");
  if (const auto* b = std::get_if<bool>(&v)) return Text(*b ? "True" : "False");
  if (const auto* i = std::get_if<std::int64_t>(&v)) return Text(std::to_string(*i));
  if (const auto* x = std::get_if<double>(&v)) return Text(printed_number(*x, line));
  refuse(line, str("printing ", kind_of(v)));
}

inline std::string Run::printed_number(double x, int line) {
  char digits[64];
  const auto end = std::to_chars(digits, digits + sizeof digits, x).ptr;
  std::string text(digits, end);
  if (text.find_first_of("einf") != text.npos) refuse(line, "printing the number " + text);
  return text.find('.') == text.npos ? text + ".0" : text;
}

inline std::vector<Value> Run::items_of(const Value& v, int line) {
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

inline Value Run::attribute(const Value& object, std::string_view name, int line) {
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

inline Value Run::loop_field(const Loop& loop, std::string_view name, int line) {
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

inline Value Run::item(const Value& object, const Value& place, int line) {
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

inline Value Run::slice(const Node& node, Scope& scope) {
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

inline bool Run::equal(const Value& a, const Value& b) {
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

inline bool Run::compare(std::string_view op, const Value& a, const Value& b, int line) {
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

inline bool Run::contains(const Value& whole, const Value& part, int line) {
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

inline Value Run::arithmetic(std::string_view op, const Value& a, const Value& b, int line) {
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

}  // namespace jinja
}  // namespace text
}  // namespace ft::inline FTLIB_ABI
