// core/description.hpp: what decides the result of a run, as named texts that two runs can compare, and a hash of what
// is too long for a text.
#pragma once
#include <ftlib/core/dtype.hpp>

#include <charconv>     // std::to_chars
#include <cstring>      // std::memcpy
#include <string>       // std::string
#include <type_traits>  // std::is_arithmetic_v
#include <utility>      // std::pair
#include <vector>       // std::vector

namespace ft::inline FTLIB_ABI {

/// 64 bits of whatever was added, in its order. Tells two data sets or two models apart; it is no seal against malice.
class Hash {
 public:
  void add(const void* data, std::size_t bytes) {
    const auto* at = static_cast<const unsigned char*>(data);
    mix(bytes);
    for (; bytes >= 8; bytes -= 8, at += 8) mix(word(at, 8));
    if (bytes) mix(word(at, bytes));
  }
  void add(std::string_view text) { add(text.data(), text.size()); }
  template <class V>
  requires std::is_arithmetic_v<V>
  void add(V value) { add(&value, sizeof value); }
  template <class V>
  requires std::is_arithmetic_v<V>
  void add(const std::vector<V>& values) { add(values.data(), values.size() * sizeof(V)); }
  uint64_t value() const { return state_; }

 private:
  static uint64_t word(const unsigned char* at, std::size_t bytes) {
    uint64_t w = 0;
    std::memcpy(&w, at, bytes);
    return w;
  }
  void mix(uint64_t w) {
    state_ = (state_ ^ w) * 0x9E3779B97F4A7C15u;
    state_ ^= state_ >> 29;
  }

  uint64_t state_ = 0x243F6A8885A308D3u;  // pi's digits
};

/// Settings by name, in the order in which they were added:
///
///     Description d;
///     d.add("lr", 5e-4f);                       // lr = 5e-04
///     d.add("data", data.content());            // a Hash, as sixteen digits
class Description {
 public:
  struct Entry {
    std::string key, value;
    friend bool operator==(const Entry&, const Entry&) = default;
  };

  void add(std::string key, std::string_view value) { entries_.push_back({std::move(key), std::string(value)}); }
  void add(std::string key, const char* value) { add(std::move(key), std::string_view(value)); }
  void add(std::string key, const std::string& value) { add(std::move(key), std::string_view(value)); }
  void add(std::string key, bool value) { add(std::move(key), value ? "yes" : "no"); }
  /// A number as the shortest text that is read back as the same one.
  template <class V>
  requires std::is_arithmetic_v<V>
  void add(std::string key, V value) {
    char text[64];
    const auto end = std::to_chars(text, text + sizeof text, value).ptr;
    add(std::move(key), std::string_view(text, static_cast<std::size_t>(end - text)));
  }
  void add(std::string key, const Hash& hash) {
    constexpr char digits[] = "0123456789abcdef";
    std::string text;
    for (int shift = 60; shift >= 0; shift -= 4) text += digits[hash.value() >> shift & 15];
    add(std::move(key), text);
  }

  const std::vector<Entry>& entries() const { return entries_; }

 private:
  std::vector<Entry> entries_;
};

}  // namespace ft::inline FTLIB_ABI
