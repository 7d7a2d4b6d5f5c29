// models/kit/json_reader.hpp: typed fields out of a configuration in JSON, with the file's name in every message.
#pragma once
#include <ftlib/io/json.hpp>  // Json, at, value_or

#include <string>  // std::string

namespace ft::inline FTLIB_ABI {

/// Reads config.json's fields with the file's name in every message.
struct ConfigReader {
  const Json& json;
  const std::string& file;

  /// A positive whole number; Error where it is missing, none, or absurdly large.
  int64_t size(const char* key) const { return checked(key, at<int64_t>(json, key, file)); }
  int64_t size(const char* key, int64_t fallback) const {
    return checked(key, value_or<int64_t>(json, key, fallback, file));
  }
  float number(const char* key, float fallback) const { return value_or<float>(json, key, fallback, file); }
  bool flag(const char* key, bool fallback) const { return value_or<bool>(json, key, fallback, file); }

  /// Throws Error where `key` says something else: a variant of the architecture that ftlib does not compute.
  void expect(const char* key, const std::string& known) const {
    const auto got = value_or<std::string>(json, key, known, file);
    if (got != known)
      throw Error(str(file, ": ", key, " is '", got, "'; ftlib knows '", known, "' for this architecture"));
  }
  void expect_divides(const char* small, int64_t divisor, const char* large, int64_t number_of) const {
    if (number_of % divisor)
      throw Error(str(file, ": ", small, " ", divisor, " does not divide ", large, " ", number_of));
  }

 private:
  static constexpr int64_t largest = int64_t{1} << 31;  // no axis of a model is near this: a file that says more lies

  int64_t checked(const char* key, int64_t n) const {
    if (n < 1 || n > largest) throw Error(str(file, ": ", key, " ", n, " makes no sense"));
    return n;
  }
};

}  // namespace ft::inline FTLIB_ABI
