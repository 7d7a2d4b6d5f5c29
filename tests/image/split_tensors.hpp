// tests/image/split_tensors.hpp: a part of a pipeline in two files and an index, as large ones are published.
#pragma once
#include <doctest/doctest.h>
#include <ftlib/io/safetensors.hpp>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

namespace ft::test {

/// `stem`.safetensors of `folder` becomes `stem`-0000N-of-00002.safetensors and `stem`.safetensors.index.json.
inline void split_tensors(const std::filesystem::path& folder, const std::string& stem) {
  {
    const auto file = SafetensorsFile::open(folder / (stem + ".safetensors"));
    std::vector<TensorEntry> entries;
    int64_t total = 0, largest = 0;
    for (const std::string& name : file.names()) {
      if (file.info(name).dtype == "I64")
        entries.push_back(
            {.name = name, .shape = file.info(name).shape, .data = file.bytes(name).data(), .word = "I64"});
      else entries.push_back(entry(name, file.tensor(name)));
      const auto bytes = static_cast<int64_t>(file.bytes(name).size());
      total += bytes;
      largest = std::max(largest, bytes);
    }
    write_safetensors_sharded(folder, entries, file.metadata(), std::min(total / 2 + largest, total - 1), stem);
  }
  REQUIRE(std::filesystem::exists(folder / (stem + "-00002-of-00002.safetensors")));
  REQUIRE(!std::filesystem::exists(folder / (stem + ".safetensors")));
}

}  // namespace ft::test
