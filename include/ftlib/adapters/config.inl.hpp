// adapters/config.inl.hpp: the bodies of adapters/config.hpp, and the small regular expressions of PEFT's patterns.
#pragma once
#include <ftlib/adapters/config.hpp>

#include <cmath>       // std::sqrt
#include <cstdlib>     // std::size_t
#include <functional>  // std::function

namespace ft::inline FTLIB_ABI {

namespace detail {

/// A regular expression against a text, by backtracking. Patterns are a line of an adapter's file: short, but a
/// stranger's, so that the steps are counted.
class NamePattern {
 public:
  NamePattern(std::string_view pattern, std::string_view text) : p_(pattern), t_(text) {}
  /// Whether the whole text matches.
  bool matches() {
    return any_of(0, p_.size(), 0, [this](std::size_t t) { return t == t_.size(); });
  }

 private:
  using Then = std::function<bool(std::size_t)>;
  static constexpr int max_steps = 100'000;

  [[noreturn]] void refuse(const char* what) const {
    throw Error(str("pattern '", std::string(p_), "': ", what), "give module names, or simple regular expressions.");
  }
  /// The end of the part of a pattern that begins at p: a character, an escape, a set or a group.
  std::size_t part_end(std::size_t p, std::size_t end) const {
    if (p_[p] == '\\') {
      if (p + 1 >= end) refuse("ends in a backslash");
      return p + 2;
    }
    if (p_[p] == '[') {
      for (std::size_t q = p + 2; q < end; ++q)
        if (p_[q] == ']') return q + 1;
      refuse("has a set without an end");
    }
    if (p_[p] == '(') {
      int depth = 0;
      for (std::size_t q = p; q < end; ++q) {
        if (p_[q] == '\\') ++q;
        else if (p_[q] == '(') ++depth;
        else if (p_[q] == ')' && --depth == 0) return q + 1;
      }
      refuse("has a group without an end");
    }
    return p + 1;
  }
  bool is_word(char c) const {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
  }
  bool one(std::size_t p, std::size_t end, char c) const {  // a part that takes one character
    if (p_[p] == '.') return true;
    if (p_[p] == '\\') {
      const char e = p_[p + 1];
      if (e == 'd') return c >= '0' && c <= '9';
      if (e == 'w') return is_word(c);
      if (is_word(e)) refuse("has an escape that is not known");
      return c == e;
    }
    if (p_[p] != '[') return c == p_[p];
    bool found = false;
    const bool negated = p_[p + 1] == '^';
    for (std::size_t q = p + 1 + negated; q + 1 < end; ++q) {
      if (q + 3 < end && p_[q + 1] == '-') {
        found |= c >= p_[q] && c <= p_[q + 2];
        q += 2;
      } else {
        found |= c == p_[q];
      }
    }
    return found != negated;
  }
  bool any_of(std::size_t p, std::size_t end, std::size_t t, const Then& then) {  // alternatives, apart by '|'
    std::size_t begin = p;
    for (std::size_t q = p; q < end; q = part_end(q, end))
      if (p_[q] == '|') {
        if (sequence(begin, q, t, then)) return true;
        begin = q + 1;
      }
    return sequence(begin, end, t, then);
  }
  bool sequence(std::size_t p, std::size_t end, std::size_t t, const Then& then) {
    if (++steps_ > max_steps) refuse("takes too long to match");
    if (p == end) return then(t);
    const char c = p_[p];
    if (c == '^') return t == 0 && sequence(p + 1, end, t, then);
    if (c == '$') return t == t_.size() && sequence(p + 1, end, t, then);
    if (c == '*' || c == '+' || c == '?' || c == '{' || c == ')')
      refuse("has a sign that is not known where it stands");
    const std::size_t after = part_end(p, end);
    const char times = after < end ? p_[after] : '\0';
    if (times == '{') refuse("counts repeats, which is not known");
    const bool repeated = times == '*' || times == '+' || times == '?';
    const std::size_t rest = after + repeated;
    if (rest < end && repeated && (p_[rest] == '?' || p_[rest] == '+')) refuse("has a sign that is not known");
    const auto once = [this, p, after, c](std::size_t from, const Then& next) {
      if (c == '(') {
        if (p_[p + 1] == '?') refuse("has a special group, which is not known");
        return any_of(p + 1, after - 1, from, next);
      }
      return from < t_.size() && one(p, after, t_[from]) && next(from + 1);
    };
    const Then go_on = [this, rest, end, &then](std::size_t from) { return sequence(rest, end, from, then); };
    if (!repeated) return once(t, go_on);
    if (times == '?') return once(t, go_on) || go_on(t);
    const std::function<bool(std::size_t)> more = [&](std::size_t from) -> bool {
      if (++steps_ > max_steps) refuse("takes too long to match");
      return once(from, [&](std::size_t next) { return next > from && more(next); }) || go_on(from);
    };
    return times == '*' ? more(t) : once(t, more);
  }

  std::string_view p_, t_;
  int steps_ = 0;
};

}  // namespace detail

FTLIB_INLINE bool Targets::match(std::string_view module) const {
  for (const std::string& name : names)
    if (module == name ||
        (module.size() > name.size() && module.ends_with(name) && module[module.size() - name.size() - 1] == '.'))
      return true;
  return false;
}

FTLIB_INLINE bool matches_pattern(std::string_view key, std::string_view module) {
  return detail::NamePattern("(.*\\.)?(" + std::string(key) + ")", module).matches();
}

FTLIB_INLINE int Lora::rank_of(const std::string& module) const {
  for (const auto& [key, own] : rank_pattern)
    if (matches_pattern(key, module)) return own;
  return rank;
}
FTLIB_INLINE float Lora::alpha_of(const std::string& module) const {
  for (const auto& [key, own] : alpha_pattern)
    if (matches_pattern(key, module)) return own;
  return alpha;
}
FTLIB_INLINE float Lora::scale_of(const std::string& module) const {
  const auto r = static_cast<float>(rank_of(module));
  return alpha_of(module) / (rslora ? std::sqrt(r) : r);
}
FTLIB_INLINE bool Lora::saves(std::string_view module) const {
  for (const std::string& name : modules_to_save)
    if (!name.empty() && module.ends_with(name)) return true;
  return false;
}
[[gnu::cold]] FTLIB_INLINE void Lora::check(const std::string& where) const {
  const auto rank_fault = [&](int r) {
    return Error(str(where, ": rank ", r, " is no rank"), "usual ranks are 8 to 64.");
  };
  if (rank < 1) throw rank_fault(rank);
  for (const auto& [key, own] : rank_pattern)
    if (own < 1) throw rank_fault(own);
  if (!std::isfinite(alpha)) throw Error(str(where, ": alpha ", alpha, " is no number"));
  for (const auto& [key, own] : alpha_pattern)
    if (!std::isfinite(own)) throw Error(str(where, ": alpha ", own, " of '", key, "' is no number"));
  if (!(dropout >= 0 && dropout < 1)) throw Error(str(where, ": dropout ", dropout, " is outside [0, 1)"));
}

FTLIB_INLINE std::string module_of(const std::string& parameter) {
  const std::size_t dot = parameter.rfind('.');
  return dot == std::string::npos ? parameter : parameter.substr(0, dot);
}

}  // namespace ft::inline FTLIB_ABI
