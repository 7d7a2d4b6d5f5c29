// tests/model_fixtures.hpp: the tiny models in tests/data/models, all that are there: tests over models run over these.
#pragma once
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

namespace ft::test {

inline const std::filesystem::path model_data = std::filesystem::path(FTLIB_TEST_DATA) / "models";

/// Names of Hugging Face folders, or of GGUF files.
inline std::vector<std::string> model_fixtures(bool gguf) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(model_data))
    if (gguf ? entry.path().extension() == ".gguf" : entry.is_directory())
      names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  REQUIRE(!names.empty());
  return names;
}
inline std::vector<std::string> model_folders() { return model_fixtures(false); }
inline std::vector<std::string> model_ggufs() { return model_fixtures(true); }

/// `value`, which a test found of a model: added to the file that FTLIB_EVIDENCE names, a line "MODEL WHAT VALUE", from
/// which tools/model_evidence makes the table of docs/models.md.
inline double evidence(const std::string& model, const char* what, double value) {
  if (const char* file = std::getenv("FTLIB_EVIDENCE")) {
    std::ofstream out(file, std::ios::app);
    out << model << ' ' << what << ' ' << value << '\n';
  }
  return value;
}

}  // namespace ft::test
