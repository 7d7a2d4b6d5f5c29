// tests/tensor/quantised.cpp: quantised blocks against gguf-py (tools/make_quantised_fixtures.py), bit for bit.
#include <ftlib/tensor/quantised.hpp>

#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

using namespace ft;

namespace {
std::vector<std::byte> bytes(const std::string& name) {
  std::ifstream file(std::filesystem::path(FTLIB_TEST_DATA) / "quantised" / name, std::ios::binary);
  REQUIRE(file);
  const std::vector<char> chars{std::istreambuf_iterator<char>(file), {}};
  std::vector<std::byte> data(chars.size());
  std::memcpy(data.data(), chars.data(), chars.size());
  return data;
}
std::vector<float> floats(const std::string& name) {
  const auto data = bytes(name);
  std::vector<float> values(data.size() / sizeof(float));
  std::memcpy(values.data(), data.data(), data.size());
  return values;
}
std::string file_name(DType type) {
  std::string name = str(type);
  for (char& c : name) c = static_cast<char>(std::tolower(c));
  return name;
}
bool same_bits(float a, float b) { return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b); }
}  // namespace

TEST_CASE("tensor/quantised: every type's values are gguf-py's, for any part of a row and any alignment") {
  for (const DType type :
       {DType::q8_0, DType::q4_0, DType::q4_1, DType::q5_0, DType::q5_1, DType::q4_k, DType::q5_k, DType::q6_k}) {
    INFO(info(type).name);
    const auto blocks = bytes(file_name(type) + ".blocks");
    const auto expected = floats(file_name(type) + ".f32");
    const auto count = static_cast<int64_t>(expected.size());
    REQUIRE(storage_bytes(type, count) == static_cast<int64_t>(blocks.size()));
    std::vector<std::byte> shifted(blocks.size() + 1);
    std::memcpy(shifted.data() + 1, blocks.data(), blocks.size());
    for (const auto& [first, n] : std::vector<std::pair<int64_t, int64_t>>{
             {0, count}, {0, 1}, {31, 2}, {17, 300}, {255, 257}, {count - 1, 1}, {40, 0}}) {
      std::vector<float> out(static_cast<std::size_t>(n) + 1, -12345.0f);
      dequantise_row(type, shifted.data() + 1, first, n, out.data());
      int64_t wrong = 0;
      for (int64_t i = 0; i < n; ++i)
        wrong += !same_bits(out[static_cast<std::size_t>(i)], expected[static_cast<std::size_t>(first + i)]);
      CHECK(wrong == 0);
      CHECK(out.back() == -12345.0f);
    }
    std::vector<double> out(static_cast<std::size_t>(count));
    dequantise_row(type, blocks.data(), 0, count, out.data());
    CHECK(out[77] == static_cast<double>(expected[77]));
  }
}

TEST_CASE("tensor/quantised: blocks are made as gguf-py makes them") {
  const auto values = floats("values.f32");
  for (const DType type : {DType::q8_0, DType::q4_0, DType::q4_1}) {
    INFO(info(type).name);
    const auto expected = bytes("values." + file_name(type));
    std::vector<std::byte> row(expected.size());
    quantise_row(type, values.data(), static_cast<int64_t>(values.size()), row.data());
    CHECK(row == expected);
  }
}

TEST_CASE("tensor/quantised: unquantised types pass through") {
  const std::vector<float> values{0.0f, -1.5f, 3.0f, 0.000244140625f, -65504.0f, 1.0f, 2.5f};
  for (const DType type : {DType::f32, DType::f64, DType::f16, DType::bf16}) {
    INFO(info(type).name);
    std::vector<std::byte> row(static_cast<std::size_t>(storage_bytes(type, 7)) + 1);
    std::vector<float> exact = values;
    if (type == DType::bf16) exact[4] = -65536.0f;  // seven bits of mantissa
    quantise_row(type, values.data(), 7, row.data() + 1);
    std::vector<float> out(5);
    dequantise_row(type, row.data() + 1, 2, 5, out.data());
    CHECK(out == std::vector<float>(exact.begin() + 2, exact.end()));
  }
}

TEST_CASE("tensor/quantised: what cannot be stored is refused") {
  std::vector<float> values(256, 1.0f);
  std::vector<std::byte> row(1024);
  CHECK_THROWS_WITH_AS(quantise_row(DType::q4_0, values.data(), 33, row.data()),
                       doctest::Contains("33 values are not whole Q4_0 blocks of 32"), Error);
  CHECK_THROWS_WITH_AS(quantise_row(DType::q6_k, values.data(), 256, row.data()), doctest::Contains("Q6_K can be read"),
                       Error);
  values[5] = std::nanf("");
  CHECK_THROWS_WITH_AS(quantise_row(DType::q8_0, values.data(), 32, row.data()), doctest::Contains("value 5"), Error);
}
