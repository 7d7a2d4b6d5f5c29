// tests/io/walk.hpp: reads all that an opened file offers, every byte of it; shared by tests and fuzzers.
#pragma once
#include <ftlib/io/gguf.hpp>
#include <ftlib/io/safetensors.hpp>

namespace ft::test {

inline uint64_t sum(std::span<const std::byte> bytes) {
  uint64_t total = 0;
  for (const std::byte byte : bytes) total += std::to_integer<uint64_t>(byte);
  return total;
}

/// Every byte of every tensor that is a DType; the others must throw Error, nothing else.
template <class File> uint64_t walk_tensors(const File& file) {
  uint64_t total = 0;
  for (const auto& name : file.names()) {
    try {
      const Stored<Cpu> tensor = file.tensor(name);
      total += sum({tensor.data, static_cast<std::size_t>(tensor.bytes())});
      for (const int64_t stride : tensor.shape.strides()) total += static_cast<uint64_t>(stride);
      if (tensor.shape.rank() > 0 && tensor.shape.count() > 0)
        total += std::to_integer<uint64_t>(*tensor.row(tensor.shape.rows() - 1));
    } catch (const Error& error) {
      total += error.message().size();
    }
  }
  return total;
}

inline uint64_t walk(const SafetensorsFile& file) {
  uint64_t total = walk_tensors(file);
  for (const auto& name : file.names()) total += sum(file.bytes(name));
  for (const auto& [key, value] : file.metadata()) total += key.size() + value.size();
  return total;
}

inline uint64_t walk(const GgufFile& file) {
  uint64_t total = walk_tensors(file);
  for (const auto& [key, value] : file.metadata()) {
    if (const auto* array = std::get_if<GgufArray>(&value)) {
      if (const auto numbers = array->values<double>()) total += numbers->size();
      if (const auto small = array->values<uint8_t>()) total += small->size();
      if (const auto flags = array->values<bool>()) total += flags->size();
      if (const auto texts = array->values<std::string_view>())
        for (const auto text : *texts) total += sum(std::as_bytes(std::span(text.data(), text.size())));
    }
    try {
      total += static_cast<uint64_t>(file.get<int32_t>(key));
    } catch (const Error& error) {
      total += error.message().size();
    }
  }
  return total;
}

}  // namespace ft::test
