// text/jinja_syntax.hpp: the syntax of chat templates: characters to tokens to a tree, with bounded depth.
#pragma once
#include <ftlib/core/message.hpp>      // quote
#include <ftlib/text/jinja_value.hpp>  // Value

#include <charconv>  // std::from_chars
#include <memory>    // std::unique_ptr
#include <string>    // std::string
#include <vector>    // std::vector

namespace ft::inline FTLIB_ABI {
namespace text::jinja {

[[noreturn, gnu::cold]] inline void fail(int line, std::string_view what, const char* hint = "") {
  throw Error(str("chat template, line ", line, ": ", what), hint);
}
[[noreturn, gnu::cold]] inline void refuse(int line, std::string_view construct) {
  fail(line, str(construct, " is not known here"),
       "include/ftlib/text/jinja.hpp says what is; give the model a chat_template.jinja without it.");
}

/// Levels that a tree may have, and that a run may nest: the deepest published template has 28.
inline constexpr int max_depth = 100;

struct Token {
  enum Kind { data, open_output, close_output, open_block, close_block, name, string, integer, number, symbol, end };
  Kind kind;
  int line;
  std::string text;
};

/// The tokens of a template, white space controlled as by jinja2 with trim_blocks and lstrip_blocks.
class Lexer {
 public:
  explicit Lexer(std::string source) : source_(std::move(source)) {}

  std::vector<Token> run() {
    bool at_line_start = true;  // what was read last ended a line
    while (at_ < source_.size()) {
      std::size_t open = source_.find('{', at_);
      while (open != source_.npos &&
             !(open + 1 < source_.size() && std::string_view("{%#").find(source_[open + 1]) != std::string_view::npos))
        open = source_.find('{', open + 1);
      if (open == source_.npos) {
        put(Token::data, source_.substr(at_));
        break;
      }
      const char kind = source_[open + 1];
      std::string text = source_.substr(at_, open - at_);
      const int here = line_;
      advance(open + 2);
      const char sign = at_ < source_.size() ? source_[at_] : ' ';
      if (sign == '-' || sign == '+') advance(at_ + 1);
      if (sign == '-') {
        strip_end(text);
      } else if (sign != '+' && kind != '{') {
        const std::size_t line_start = text.rfind('\n') + 1;  // 0 where there is none
        if ((line_start > 0 || at_line_start) && all_white(std::string_view(text).substr(line_start)))
          text.resize(line_start);
      }
      if (!text.empty()) tokens_.push_back({Token::data, here, std::move(text)});
      if (kind == '#') comment();
      else if (kind == '{') expression(Token::open_output, Token::close_output, '}');
      else if (!raw_block()) expression(Token::open_block, Token::close_block, '%');
      at_line_start = at_ > 0 && source_[at_ - 1] == '\n';
    }
    put(Token::end, {});
    return std::move(tokens_);
  }

 private:
  static bool all_white(std::string_view text) {
    for (std::size_t i = 0; i < text.size();) {
      const Utf8Char c = decode_utf8(text.data() + i);
      if (!is_white(c.code)) return false;
      i += c.length;
    }
    return true;
  }
  static void strip_end(std::string& text) {
    std::size_t keep = 0;
    for (std::size_t i = 0; i < text.size();) {
      const Utf8Char c = decode_utf8(text.data() + i);
      i += c.length;
      if (!is_white(c.code)) keep = i;
    }
    text.resize(keep);
  }
  void put(Token::Kind kind, std::string text) { tokens_.push_back({kind, line_, std::move(text)}); }
  void advance(std::size_t to) {
    line_ += static_cast<int>(std::count(source_.begin() + static_cast<std::ptrdiff_t>(at_),
                                         source_.begin() + static_cast<std::ptrdiff_t>(to), '\n'));
    at_ = to;
  }
  void skip_white() {
    while (at_ < source_.size()) {
      const Utf8Char c = decode_utf8(source_.data() + at_);
      if (!is_white(c.code)) return;
      advance(at_ + c.length);
    }
  }
  /// Behind the end of a tag whose last sign (-, + or none) is given.
  void after_tag(char sign, bool trims) {
    if (sign == '-') skip_white();
    else if (sign != '+' && trims && at_ < source_.size() && source_[at_] == '\n') advance(at_ + 1);
  }
  void comment() {
    const int begun = line_;
    const std::size_t close = source_.find("#}", at_);
    if (close == source_.npos) fail(begun, "the comment is not ended");
    const char sign = close > at_ ? source_[close - 1] : ' ';
    advance(close + 2);
    after_tag(sign, true);
  }
  /// {% raw %} ... {% endraw %}, of which the opening is read already.
  bool raw_block() {
    const auto word = [&](std::size_t from, std::string_view name, std::size_t& close) {
      std::size_t i = from;
      while (i < source_.size() && is_white(static_cast<std::uint8_t>(source_[i]) & 0x7fu)) ++i;
      if (source_.compare(i, name.size(), name) != 0) return false;
      i += name.size();
      while (i < source_.size() && is_white(static_cast<std::uint8_t>(source_[i]) & 0x7fu)) ++i;
      close = i;
      return source_.compare(i, 2, "%}") == 0 || source_.compare(i, 3, "-%}") == 0 || source_.compare(i, 3, "+%}") == 0;
    };
    std::size_t close = 0;
    if (!word(at_, "raw", close)) return false;
    const int begun = line_;
    const char sign = source_[close];
    advance(close + (sign == '%' ? 2 : 3));
    after_tag(sign, true);
    for (std::size_t open = source_.find("{%", at_); open != source_.npos; open = source_.find("{%", open + 2)) {
      const bool strips = open + 2 < source_.size() && source_[open + 2] == '-';
      const bool keeps = open + 2 < source_.size() && source_[open + 2] == '+';
      if (!word(open + 2 + (strips || keeps), "endraw", close)) continue;
      std::string text = source_.substr(at_, open - at_);
      if (strips) strip_end(text);
      else if (const std::size_t start = text.rfind('\n') + 1;
               !keeps && start > 0 && all_white(std::string_view(text).substr(start)))
        text.resize(start);
      if (!text.empty()) put(Token::data, std::move(text));
      const char last = source_[close];
      advance(close + (last == '%' ? 2 : 3));
      after_tag(last, true);
      return true;
    }
    fail(begun, "{% raw %} is not ended");
  }

  void expression(Token::Kind open, Token::Kind close, char mark) {
    const int begun = line_;
    put(open, {});
    std::string brackets;
    for (;;) {
      skip_white();
      if (at_ == source_.size()) fail(begun, mark == '}' ? "{{ is not ended" : "{% is not ended");
      if (brackets.empty()) {
        const std::size_t sign = source_[at_] == '-' || (source_[at_] == '+' && mark == '%') ? 1 : 0;
        if (source_[at_ + sign] == mark && at_ + sign + 1 < source_.size() && source_[at_ + sign + 1] == '}') {
          put(close, {});
          const char last = source_[at_];
          advance(at_ + sign + 2);
          after_tag(last, mark == '%');
          return;
        }
      }
      word(brackets);
    }
  }
  static bool is_digit(char c) { return c >= '0' && c <= '9'; }
  static bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
  void word(std::string& brackets) {
    const char c = source_[at_];
    const auto next = [&](std::size_t i) { return at_ + i < source_.size() ? source_[at_ + i] : '\0'; };
    std::size_t length = 0;
    if (is_letter(c)) {
      while (is_letter(next(length)) || is_digit(next(length))) ++length;
      put(Token::name, source_.substr(at_, length));
    } else if (is_digit(c)) {
      Token::Kind kind = Token::integer;
      while (is_digit(next(length)) || next(length) == '_') ++length;
      if (next(length) == '.' && is_digit(next(length + 1))) {
        kind = Token::number;
        do ++length;
        while (is_digit(next(length)));
      }
      if (is_letter(next(length))) fail(line_, str("a number goes on with ", quote(std::string(1, next(length)))));
      std::string digits = source_.substr(at_, length);
      digits.erase(std::remove(digits.begin(), digits.end(), '_'), digits.end());
      put(kind, std::move(digits));
    } else if (c == '\'' || c == '"') {
      return string_literal(c);
    } else {
      const std::string_view two = std::string_view(source_).substr(at_, 2);
      length = two == "**" || two == "//" || two == "==" || two == "!=" || two == "<=" || two == ">=" ? 2 : 1;
      if (std::string_view("+-*/%~<>=!()[]{}.,:|;").find(c) == std::string_view::npos || (c == '!' && length == 1))
        fail(line_, str("the character ", quote(source_.substr(at_, decode_utf8(source_.data() + at_).length)),
                        " makes no sense"));
      if (c == '(' || c == '[' || c == '{') brackets.push_back(c == '(' ? ')' : c == '[' ? ']' : '}');
      if (c == ')' || c == ']' || c == '}') {
        if (brackets.empty() || brackets.back() != c) fail(line_, str("unexpected '", c, "'"));
        brackets.pop_back();
      }
      put(Token::symbol, std::string(two.substr(0, length)));
    }
    advance(at_ + length);
  }
  /// Python's escapes; jinja2 leaves what is none as it stands.
  void string_literal(char mark) {
    const int begun = line_;
    std::string text;
    for (std::size_t i = at_ + 1; i < source_.size(); ++i) {
      const char c = source_[i];
      if (c == mark) {
        tokens_.push_back({Token::string, begun, replace_broken_utf8(text)});
        return advance(i + 1);
      }
      if (c != '\\') {
        text.push_back(c);
        continue;
      }
      if (++i == source_.size()) break;
      const char e = source_[i];
      constexpr std::string_view letters = "abfnrtv\\'\"", meaning = "\a\b\f\n\r\t\v\\'\"";
      if (const std::size_t known = letters.find(e); known != letters.npos) {
        text.push_back(meaning[known]);
      } else if (e == '\n') {
      } else if (const int digits = e == 'x' ? 2 : e == 'u' ? 4 : e == 'U' ? 8 : 0) {
        std::uint32_t code = 0;
        const char* from = source_.data() + i + 1;
        const char* to = from + std::min<std::size_t>(static_cast<std::size_t>(digits), source_.size() - i - 1);
        const auto read = std::from_chars(from, to, code, 16);
        if (read.ptr != from + digits || code > 0x10ffff) fail(begun, "an escape in a string is broken");
        append_utf8(text, code);
        i += static_cast<std::size_t>(digits);
      } else if (e >= '0' && e <= '7') {
        std::uint32_t code = 0;
        int n = 0;
        for (; n < 3 && i < source_.size() && source_[i] >= '0' && source_[i] <= '7'; ++n, ++i)
          code = code * 8 + static_cast<std::uint32_t>(source_[i] - '0');
        append_utf8(text, code);
        --i;
      } else if (e == 'N') {
        refuse(begun, "the escape \\N in a string");
      } else {
        text += {'\\', e};
      }
    }
    fail(begun, "a string is not ended");
  }

  std::string source_;
  std::size_t at_ = 0;
  int line_ = 1;
  std::vector<Token> tokens_;
};

using NodePtr = std::unique_ptr<Node>;
using Nodes = std::vector<NodePtr>;

enum class Op {
  // expressions
  literal,
  variable,
  list,
  dict,
  attribute,
  item,
  slice,
  call,
  filter,
  test,
  logical_not,
  negative,
  positive,
  logical_and,
  logical_or,
  arithmetic,
  concat,
  compare,
  condition,
  // statements
  text,
  output,
  branch,
  loop,
  set,
  set_block,
  set_attribute,
  macro,
  generation,
  leave,
  next
};

/// A part of a template. What the children are, by op:
///   dict       key, value, key, value ...      call, filter, test   what it is done to, then the arguments
///   item       object, place                   slice                object, begin, end, step (null: not given)
///   compare    operands, `words` between       condition            then, test, else (or null)
///   branch     conditions, `bodies` of these and, one more, of else
///   loop       what is gone through, filter or null; `words` are the targets; bodies: the loop's, else's
///   macro      default values from the right; `words` are the parameters
struct Node {
  Op op;
  int line;
  int depth = 1;
  bool flag = false;          // compare, test: negated
  std::string name;           // variable's, attribute's, filter's, test's, operator's, macro's
  Value value = Undefined{};  // literal's, text's
  Nodes children = {};
  std::vector<std::pair<std::string, NodePtr>> named = {};  // arguments by name
  std::vector<std::string> words = {};
  std::vector<Nodes> bodies = {};
};

/// Tokens to a tree. Grammar and precedence are jinja2's (parser.py).
class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  Nodes run() {
    Nodes all = body({});
    if (now().kind != Token::end) fail(now().line, "an end without a beginning");
    return all;
  }
  std::vector<std::string> variables;
  bool generation = false;

 private:
  const Token& now() const { return tokens_[at_]; }
  bool is(Token::Kind kind, std::string_view text) const { return now().kind == kind && now().text == text; }
  bool symbol(std::string_view text) const { return is(Token::symbol, text); }
  bool word(std::string_view text) const { return is(Token::name, text); }
  bool take_symbol(std::string_view text) { return symbol(text) && ++at_; }
  bool take_word(std::string_view text) { return word(text) && ++at_; }
  std::string shown() const {
    switch (now().kind) {
      case Token::close_output:
        return "}}";
      case Token::close_block:
        return "%}";
      case Token::end:
        return "the end of the template";
      default:
        return quote(now().text);
    }
  }
  void need(bool there, const char* what) const {
    if (!there) fail(now().line, str(what, " was expected, found ", shown()));
  }
  std::string need_name() {
    need(now().kind == Token::name, "a name");
    return tokens_[at_++].text;
  }
  void close_block() {
    need(now().kind == Token::close_block, "%}");
    ++at_;
  }

  /// Counts levels of brackets and blocks while it lives.
  struct Deeper {
    explicit Deeper(Parser& p) : parser(p) {
      if (++parser.nesting_ > max_depth) fail(parser.now().line, str("is nested deeper than ", max_depth, " levels"));
    }
    ~Deeper() { --parser.nesting_; }
    Deeper(const Deeper&) = delete;
    Deeper& operator=(const Deeper&) = delete;
    Parser& parser;
  };

  NodePtr make(Op op, int line, std::string name = {}) {
    auto node = std::make_unique<Node>();
    node->op = op;
    node->line = line;
    node->name = std::move(name);
    return node;
  }
  /// A node with its children, whose depth is theirs and one.
  NodePtr done(NodePtr node) {
    const auto count = [&](const NodePtr& child) {
      if (child) node->depth = std::max(node->depth, child->depth + 1);
    };
    for (const auto& child : node->children) count(child);
    for (const auto& [name, child] : node->named) count(child);
    for (const auto& nodes : node->bodies)
      for (const auto& child : nodes) count(child);
    if (node->depth > max_depth) fail(node->line, str("is nested deeper than ", max_depth, " levels"));
    return node;
  }
  template <class... Child> NodePtr make_of(Op op, int line, std::string name, Child... children) {
    NodePtr node = make(op, line, std::move(name));
    (node->children.push_back(std::move(children)), ...);
    return done(std::move(node));
  }

  // --- statements ---

  /// Up to a block whose first word is one of `ends`; that word is left to be read.
  Nodes body(std::initializer_list<std::string_view> ends) {
    const Deeper deeper(*this);
    Nodes nodes;
    for (;;) {
      const Token& token = now();
      if (token.kind == Token::end) {
        if (ends.size() > 0)
          fail(token.line, str("{% ", *(ends.end() - 1), " %} was expected, found the end of the template"));
        return nodes;
      }
      ++at_;
      if (token.kind == Token::data) {
        nodes.push_back(make(Op::text, token.line));
        nodes.back()->value = text_value(Text(token.text));
      } else if (token.kind == Token::open_output) {
        nodes.push_back(make_of(Op::output, token.line, {}, expression()));
        need(now().kind == Token::close_output, "}}");
        ++at_;
      } else {
        need(now().kind == Token::name, "a statement's name");
        for (const auto end : ends)
          if (word(end)) return nodes;
        nodes.push_back(statement());
      }
    }
  }

  NodePtr statement() {
    const int line = now().line;
    const std::string name = need_name();
    if (name == "if") return if_statement(line);
    if (name == "for") return for_statement(line);
    if (name == "set") return set_statement(line);
    if (name == "macro") return macro_statement(line);
    if (name == "generation") {
      generation = true;
      NodePtr node = make(Op::generation, line);
      close_block();
      node->bodies.push_back(body({"endgeneration"}));
      ++at_;
      close_block();
      return done(std::move(node));
    }
    if (name == "break" || name == "continue") {
      if (loops_ == 0) fail(line, "{% " + name + " %} stands outside a loop");
      close_block();
      return make(name == "break" ? Op::leave : Op::next, line);
    }
    if (name.starts_with("end") || name == "else" || name == "elif")
      fail(line, "{% " + name + " %} ends nothing that was begun");
    refuse(line, "{% " + name + " %}");
  }
  NodePtr if_statement(int line) {
    NodePtr node = make(Op::branch, line);
    for (;;) {
      node->children.push_back(expression());
      close_block();
      node->bodies.push_back(body({"elif", "else", "endif"}));
      if (take_word("elif")) continue;
      if (take_word("else")) {
        close_block();
        node->bodies.push_back(body({"endif"}));
      }
      need(take_word("endif"), "{% endif %}");
      close_block();
      return done(std::move(node));
    }
  }
  NodePtr for_statement(int line) {
    NodePtr node = make(Op::loop, line);
    const bool bracket = take_symbol("(");
    do node->words.push_back(need_name());
    while (take_symbol(","));
    if (bracket) need(take_symbol(")"), "')'");
    need(take_word("in"), "'in'");
    node->children.push_back(any_of());
    if (symbol(",")) node->children.back() = rest_of_tuple(std::move(node->children.back()));
    node->children.push_back(take_word("if") ? expression() : nullptr);
    if (word("recursive")) refuse(line, "a recursive loop");
    close_block();
    ++loops_;
    node->bodies.push_back(body({"else", "endfor"}));
    --loops_;
    if (take_word("else")) {
      close_block();
      node->bodies.push_back(body({"endfor"}));
    }
    need(take_word("endfor"), "{% endfor %}");
    close_block();
    return done(std::move(node));
  }
  NodePtr set_statement(int line) {
    NodePtr node = make(Op::set, line, need_name());
    if (symbol(",")) refuse(line, "{% set %} of several names");
    if (take_symbol(".")) {
      node->op = Op::set_attribute;
      node->words.push_back(need_name());
    }
    if (take_symbol("=")) {
      NodePtr value = expression();
      node->children.push_back(symbol(",") ? rest_of_tuple(std::move(value)) : std::move(value));
      close_block();
      return done(std::move(node));
    }
    if (symbol("|")) refuse(line, "{% set %} with a filter");
    if (node->op == Op::set_attribute) need(false, "'='");
    node->op = Op::set_block;
    close_block();
    node->bodies.push_back(body({"endset"}));
    ++at_;
    close_block();
    return done(std::move(node));
  }
  NodePtr macro_statement(int line) {
    if (in_macro_ || loops_ > 0) refuse(line, "a macro inside a loop or macro");
    NodePtr node = make(Op::macro, line, need_name());
    need(take_symbol("("), "'('");
    while (!take_symbol(")")) {
      if (!node->words.empty()) need(take_symbol(","), "','");
      node->words.push_back(need_name());
      if (take_symbol("=")) node->children.push_back(expression());
      else if (!node->children.empty()) fail(line, "a parameter without a value stands behind one with");
    }
    close_block();
    in_macro_ = true;
    node->bodies.push_back(body({"endmacro"}));
    in_macro_ = false;
    ++at_;
    if (now().kind == Token::name) ++at_;
    close_block();
    return done(std::move(node));
  }

  // --- expressions, from the loosest operator to the tightest ---

  NodePtr expression() {
    const Deeper deeper(*this);
    NodePtr value = any_of();
    while (word("if")) {
      const int line = now().line;
      ++at_;
      NodePtr test = any_of();
      NodePtr otherwise = take_word("else") ? expression() : nullptr;
      value = make_of(Op::condition, line, {}, std::move(value), std::move(test), std::move(otherwise));
    }
    return value;
  }
  NodePtr any_of() {
    NodePtr left = all_of();
    while (word("or")) {
      const int line = tokens_[at_++].line;
      left = make_of(Op::logical_or, line, {}, std::move(left), all_of());
    }
    return left;
  }
  NodePtr all_of() {
    NodePtr left = none_of();
    while (word("and")) {
      const int line = tokens_[at_++].line;
      left = make_of(Op::logical_and, line, {}, std::move(left), none_of());
    }
    return left;
  }
  NodePtr none_of() {
    if (!word("not")) return comparison();
    const Deeper deeper(*this);
    const int line = tokens_[at_++].line;
    return make_of(Op::logical_not, line, {}, none_of());
  }
  NodePtr comparison() {
    const int line = now().line;
    NodePtr node = make(Op::compare, line);
    node->children.push_back(sum());
    for (;;) {
      std::string op;
      for (const char* known : {"==", "!=", "<", "<=", ">", ">="})
        if (symbol(known)) op = known;
      if (word("in")) op = "in";
      if (word("not") && tokens_[at_ + 1].kind == Token::name && tokens_[at_ + 1].text == "in") op = "not in";
      if (op.empty()) break;
      at_ += op == "not in" ? 2 : 1;
      node->words.push_back(op);
      node->children.push_back(sum());
    }
    if (node->words.empty()) return std::move(node->children.front());
    return done(std::move(node));
  }
  NodePtr sum() {
    NodePtr left = joined();
    while (symbol("+") || symbol("-")) {
      const Token& op = tokens_[at_++];
      left = make_of(Op::arithmetic, op.line, op.text, std::move(left), joined());
    }
    return left;
  }
  NodePtr joined() {
    NodePtr first = product();
    if (!symbol("~")) return first;
    NodePtr node = make(Op::concat, now().line);
    node->children.push_back(std::move(first));
    while (take_symbol("~")) node->children.push_back(product());
    return done(std::move(node));
  }
  NodePtr product() {
    NodePtr left = unary();
    for (;;) {
      if (symbol("**")) refuse(now().line, "the operator **");
      if (!symbol("*") && !symbol("/") && !symbol("//") && !symbol("%")) return left;
      const Token& op = tokens_[at_++];
      left = make_of(Op::arithmetic, op.line, op.text, std::move(left), unary());
    }
  }
  NodePtr unary(bool filters = true) {
    const Deeper deeper(*this);
    const int line = now().line;
    NodePtr node;
    if (take_symbol("-")) node = make_of(Op::negative, line, {}, unary(false));
    else if (take_symbol("+")) node = make_of(Op::positive, line, {}, unary(false));
    else node = primary();
    node = with_suffixes(std::move(node));
    return filters ? with_filters(std::move(node)) : std::move(node);
  }
  NodePtr primary() {
    const Token& token = now();
    NodePtr node = make(Op::literal, token.line);
    ++at_;
    switch (token.kind) {
      case Token::name:
        if (token.text == "true" || token.text == "True") node->value = true;
        else if (token.text == "false" || token.text == "False") node->value = false;
        else if (token.text == "none" || token.text == "None") node->value = None{};
        else {
          node->op = Op::variable;
          node->name = token.text;
          if (std::find(variables.begin(), variables.end(), token.text) == variables.end())
            variables.push_back(token.text);
        }
        return node;
      case Token::string: {
        std::string text = token.text;
        while (now().kind == Token::string) text += tokens_[at_++].text;
        node->value = text_value(Text(std::move(text)));
        return node;
      }
      case Token::integer: {
        std::int64_t i = 0;
        if (std::from_chars(token.text.data(), token.text.data() + token.text.size(), i).ec != std::errc())
          fail(token.line, "the number " + token.text + " is too large");
        node->value = i;
        return node;
      }
      case Token::number:
        node->value = number_of(token.text);
        return node;
      case Token::symbol:
        if (token.text == "(") {
          if (take_symbol(")")) {
            node->op = Op::list;
            return node;
          }
          NodePtr inner = expression();
          if (symbol(",")) inner = rest_of_tuple(std::move(inner));
          need(take_symbol(")"), "')'");
          return inner;
        }
        if (token.text == "[") {
          node->op = Op::list;
          while (!take_symbol("]")) {
            if (!node->children.empty()) {
              need(take_symbol(","), "','");
              if (take_symbol("]")) break;
            }
            node->children.push_back(expression());
          }
          return done(std::move(node));
        }
        if (token.text == "{") {
          node->op = Op::dict;
          while (!take_symbol("}")) {
            if (!node->children.empty()) {
              need(take_symbol(","), "','");
              if (take_symbol("}")) break;
            }
            node->children.push_back(expression());
            need(take_symbol(":"), "':'");
            node->children.push_back(expression());
          }
          return done(std::move(node));
        }
        [[fallthrough]];
      default:
        --at_;
        need(false, "a value");
        return node;
    }
  }
  static double number_of(const std::string& text) {
    double x = 0;  // digits, a point, digits
    std::from_chars(text.data(), text.data() + text.size(), x);
    return x;
  }
  /// first, second, ... after first.
  NodePtr rest_of_tuple(NodePtr first) {
    NodePtr node = make(Op::list, first->line);
    node->children.push_back(std::move(first));
    while (take_symbol(",")) {
      if (symbol(")") || now().kind == Token::close_block) break;
      node->children.push_back(expression());
    }
    return done(std::move(node));
  }
  NodePtr with_suffixes(NodePtr node) {
    for (;;) {
      const int line = now().line;
      if (take_symbol(".")) {
        if (now().kind == Token::integer) {
          NodePtr place = primary();
          node = make_of(Op::item, line, {}, std::move(node), std::move(place));
        } else {
          std::string name = need_name();
          node = make_of(Op::attribute, line, std::move(name), std::move(node));
        }
      } else if (take_symbol("[")) {
        node = subscript(std::move(node), line);
      } else if (symbol("(")) {
        node = call(std::move(node));
      } else {
        return node;
      }
    }
  }
  NodePtr subscript(NodePtr object, int line) {
    NodePtr node = make(Op::slice, line);
    node->children.push_back(std::move(object));
    const auto part = [&] { node->children.push_back(symbol(":") || symbol("]") ? nullptr : expression()); };
    part();
    if (take_symbol("]")) {
      if (!node->children.back()) fail(line, "[] has no place in it");
      node->op = Op::item;
      return done(std::move(node));
    }
    need(take_symbol(":"), "']'");
    part();
    if (take_symbol(":")) part();
    else node->children.push_back(nullptr);
    need(take_symbol("]"), "']'");
    return done(std::move(node));
  }
  void arguments(Node& node) {
    need(take_symbol("("), "'('");
    for (bool first = true; !take_symbol(")"); first = false) {
      if (!first) {
        need(take_symbol(","), "','");
        if (take_symbol(")")) break;
      }
      if (symbol("*") || symbol("**")) refuse(now().line, "an argument with " + now().text);
      if (now().kind == Token::name && tokens_[at_ + 1].kind == Token::symbol && tokens_[at_ + 1].text == "=") {
        std::string name = need_name();
        ++at_;
        node.named.emplace_back(std::move(name), expression());
      } else {
        if (!node.named.empty()) fail(now().line, "an argument without a name stands behind one with");
        node.children.push_back(expression());
      }
    }
  }
  NodePtr call(NodePtr callee) {
    NodePtr node = make(Op::call, now().line);
    node->children.push_back(std::move(callee));
    arguments(*node);
    return done(std::move(node));
  }
  NodePtr with_filters(NodePtr node) {
    for (;;) {
      const int line = now().line;
      if (take_symbol("|")) {
        NodePtr filter = make(Op::filter, line, need_name());
        filter->children.push_back(std::move(node));
        if (symbol("(")) arguments(*filter);
        node = done(std::move(filter));
      } else if (take_word("is")) {
        NodePtr test = make(Op::test, line);
        test->flag = take_word("not");
        test->name = need_name();
        test->children.push_back(std::move(node));
        const auto kind = now().kind;
        if (symbol("(")) {
          arguments(*test);
        } else if (kind == Token::string || kind == Token::integer || kind == Token::number || symbol("[") ||
                   symbol("{") ||
                   (kind == Token::name && !word("else") && !word("or") && !word("and") && !word("if") && !word("is") &&
                    !word("in") && !word("not"))) {
          NodePtr argument = primary();
          test->children.push_back(with_suffixes(std::move(argument)));
        }
        node = done(std::move(test));
      } else if (symbol("(")) {
        node = call(std::move(node));
      } else {
        return node;
      }
    }
  }

  std::vector<Token> tokens_;
  std::size_t at_ = 0;
  int nesting_ = 0, loops_ = 0;
  bool in_macro_ = false;
};

}  // namespace text::jinja
}  // namespace ft::inline FTLIB_ABI
