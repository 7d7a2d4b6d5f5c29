// tests/scratch.hpp: a folder of a test's own, removed at its end.
#pragma once
#include <unistd.h>
#include <atomic>
#include <filesystem>
#include <string>

namespace ft::test {

class Scratch {
 public:
  Scratch()
      : path_(std::filesystem::temp_directory_path() /
              ("ftlib-test-" + std::to_string(::getpid()) + "-" + std::to_string(next()))) {
    std::filesystem::create_directories(path_);
  }
  ~Scratch() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }
  const std::filesystem::path& path() const { return path_; }

 private:
  static int next() {
    static std::atomic<int> count{0};
    return count++;
  }
  std::filesystem::path path_;
};

}  // namespace ft::test
