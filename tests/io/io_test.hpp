// tests/io/io_test.hpp: scratch folders, files, and damage, for the tests of io/.
#pragma once
#include <doctest/doctest.h>

#include <ftlib/io/atomic_file.hpp>
#include <ftlib/io/json.hpp>

#include <cstdlib>  // mkdtemp, getenv
#include <fstream>  // std::ofstream

namespace ft::test {

inline const std::filesystem::path data_folder = std::filesystem::path(FTLIB_TEST_DATA) / "io";

/// A folder that goes with the test.
class Scratch {
 public:
  Scratch() {
    std::string name = (std::filesystem::temp_directory_path() / "ftlib-io-XXXXXX").string();
    if (!::mkdtemp(name.data())) throw Error("cannot make a scratch folder");
    folder_ = name;
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  std::filesystem::path operator/(std::string_view name) const { return folder_ / name; }
  const std::filesystem::path& folder() const { return folder_; }
  /// Names in the folder, sorted.
  std::vector<std::string> names() const {
    std::vector<std::string> found;
    for (const auto& entry : std::filesystem::directory_iterator(folder_)) found.push_back(entry.path().filename());
    std::sort(found.begin(), found.end());
    return found;
  }

 private:
  std::filesystem::path folder_;
};

inline std::string slurp(const std::filesystem::path& path) { return read_file(path, 1u << 30); }
inline void spit(const std::filesystem::path& path, std::string_view text) {
  std::ofstream(path, std::ios::binary).write(text.data(), static_cast<std::streamsize>(text.size()));
}

/// A copy on the heap that ends where the text ends, so that a sanitizer sees the first byte read beyond.
inline std::vector<std::byte> exact(std::string_view text) {
  const auto bytes = std::as_bytes(std::span(text.data(), text.size()));
  return {bytes.begin(), bytes.end()};
}

template <class T> void append(std::string& text, const T& value) {
  text.append(reinterpret_cast<const char*>(&value), sizeof(T));
}

/// `read` over every prefix of a file, and over the file with each bit of its first `header` bytes turned: each must
/// return or throw Error. Returns how many were accepted.
template <class Read> int damage(std::string file, std::size_t header, Read read) {
  int accepted = 0;
  const auto attempt = [&](std::string_view text) {
    const auto bytes = exact(text);
    try {
      read(std::span<const std::byte>(bytes));
      ++accepted;
    } catch (const Error&) {
    }
  };
  for (std::size_t length = 0; length < file.size(); ++length) attempt(std::string_view(file).substr(0, length));
  for (std::size_t i = 0; i < std::min(header, file.size()); ++i)
    for (int bit = 0; bit < 8; ++bit) {
      const char flip = static_cast<char>(1 << bit);
      file[i] = static_cast<char>(file[i] ^ flip);
      attempt(file);
      file[i] = static_cast<char>(file[i] ^ flip);
    }
  return accepted;
}

}  // namespace ft::test
