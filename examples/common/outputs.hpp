// examples/common/outputs.hpp: what can be said of an output before the work is done whose result it is to hold.
#pragma once
#include <ftlib/core/error.hpp>
#include <ftlib/io/file.hpp>

#include <unistd.h>  // ::access

#include <filesystem>    // std::filesystem
#include <string>        // std::string
#include <system_error>  // std::error_code
#include <vector>        // std::vector

namespace examples {

/// Throws Error where a file could not be written there.
inline void check_output(const std::string& option, const std::filesystem::path& path) {
  if (path.empty()) return;
  if (ft::is_folder(path)) throw ft::Error(option + ' ' + path.string() + ": is a folder, a file was to be written");
  const auto folder = path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
  if (!ft::is_folder(folder))
    throw ft::Error(option + ' ' + path.string() + ": there is no folder " + folder.string(), "make it first.");
  if (::access((ft::path_exists(path) ? path : folder).c_str(), W_OK) != 0)
    throw ft::system_error(path, "cannot write");
}

/// The same for a folder, which may have to be made.
inline void check_folder(const std::string& option, const std::filesystem::path& path) {
  auto there = path;
  while (!there.empty() && !ft::path_exists(there)) there = there.parent_path();
  if (there.empty()) there = ".";
  if (!ft::is_folder(there))
    throw ft::Error(option + ' ' + path.string() + ": " + there.string() + " is a file, a folder is to be there",
                    "give it another name.");
  if (::access(there.c_str(), W_OK) != 0) throw ft::system_error(path, "cannot write");
}

/// Throws Error where what is to be written is what is read, or a file of a folder that is read, or, where it is to be
/// replaced as a whole, holds it.
inline void check_apart(const std::string& option, const std::filesystem::path& out,
                        const std::vector<std::filesystem::path>& inputs, bool replaced = true) {
  if (out.empty()) return;
  std::error_code ignored;
  const auto written = std::filesystem::weakly_canonical(out, ignored);
  for (const auto& input : inputs) {
    if (input.empty()) continue;
    for (auto read = std::filesystem::weakly_canonical(input, ignored); read.has_relative_path();
         read = replaced ? read.parent_path() : std::filesystem::path())
      if (read == written || std::filesystem::equivalent(read, written, ignored))
        throw ft::Error(option + ' ' + out.string() + ": is to be read and to be written", "give it another name.");
    const bool in_it = std::filesystem::is_directory(input, ignored) &&
                       std::filesystem::is_regular_file(written, ignored) &&
                       std::filesystem::equivalent(written.parent_path(), input, ignored);
    if (in_it)
      throw ft::Error(option + ' ' + out.string() + ": is a file of " + input.string() + ", which is read",
                      "give it another name.");
  }
}

}  // namespace examples
