// tests/tensor/quantised.cpp: quantised blocks: read as gguf-py reads them, to the bit, and made with no more error
// than ggml makes (tools/make_quantised_fixtures.py).
#include <ftlib/tensor/quantise.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

using namespace ft;

namespace {
constexpr DType all_quantised[] = {DType::q8_0, DType::q4_0, DType::q4_1, DType::q5_0, DType::q5_1,
                                   DType::q4_k, DType::q5_k, DType::q6_k, DType::mxfp4};
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
  for (const DType type : all_quantised) {
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

namespace {
/// sum w (x - x')^2 of each 256 values; w null: 1.
std::vector<double> errors_of(DType type, const std::vector<std::byte>& row, const std::vector<float>& x,
                              const float* w = nullptr) {
  std::vector<float> got(x.size());
  dequantise_row(type, row.data(), 0, static_cast<int64_t>(x.size()), got.data());
  std::vector<double> errors(x.size() / 256);
  for (std::size_t i = 0; i < x.size(); ++i)
    errors[i / 256] += (w ? double{w[i]} : 1.0) * std::pow(double{got[i]} - double{x[i]}, 2);
  return errors;
}
std::vector<std::byte> quantised(DType type, const std::vector<float>& x, const float* w = nullptr) {
  std::vector<std::byte> row(static_cast<std::size_t>(storage_bytes(type, static_cast<int64_t>(x.size()))));
  quantise_row(type, x.data(), static_cast<int64_t>(x.size()), row.data(), w);
  return row;
}
}  // namespace

TEST_CASE("tensor/quantised: Q8_0's blocks are made as ggml makes them, to the bit") {
  CHECK(quantised(DType::q8_0, floats("values.f32")) == bytes("values.q8_0"));
}

TEST_CASE("tensor/quantised: of every 256 values no type loses more than ggml's does") {
  const auto values = floats("values.f32");
  for (const DType type : all_quantised) {
    const auto ours = errors_of(type, quantised(type, values), values),
               theirs = errors_of(type, bytes("values." + file_name(type)), values);
    for (std::size_t i = 0; i < ours.size(); ++i) {
      INFO(info(type).name << ", block " << i << ": " << ours[i] << ", ggml " << theirs[i]);
      CHECK(theirs[i] > 0);
      CHECK(ours[i] <= 1.005 * theirs[i]);
    }
  }
}

TEST_CASE("tensor/quantised: weights of the columns lower the error that they weigh") {
  const auto values = floats("values.f32");
  std::vector<float> w(values.size());
  for (std::size_t i = 0; i < w.size(); ++i) w[i] = i % 7 == 0 ? 100.0f : 0.5f;
  for (const DType type : all_quantised) {
    if (type == DType::q8_0 || type == DType::mxfp4) continue;  // whose scale leaves little to choose
    const auto with = errors_of(type, quantised(type, values, w.data()), values, w.data()),
               without = errors_of(type, quantised(type, values), values, w.data());
    for (std::size_t i = 1; i < with.size(); ++i) {  // in the first one value is all of the error
      INFO(info(type).name << ", block " << i << ": " << with[i] << ", without weights " << without[i]);
      CHECK(with[i] <= 0.97 * without[i]);
    }
  }
}

TEST_CASE("tensor/quantised: NF4's levels, and which are chosen, are bitsandbytes'; it loses no more than that does") {
  const auto levels = floats("nf4.code"), values = floats("values.f32"), theirs = floats("nf4.f32");
  REQUIRE(levels.size() == 16);
  for (std::size_t i = 0; i < 16; ++i) {
    CHECK(same_bits(levels[i], ft::detail::nf4_levels.of[i]));
    CHECK(same_bits(levels[i], ft::detail::nf4_level(static_cast<int>(i))));
  }
  const auto row = quantised(DType::nf4, values), codes = bytes("values.nf4");
  std::vector<float> got(values.size());
  dequantise_row(DType::nf4, row.data(), 0, static_cast<int64_t>(got.size()), got.data());
  double ours = 0, its = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    BlockNF4 block;
    std::memcpy(&block, row.data() + i / 256 * sizeof block, sizeof block);
    const auto at = i % 256;
    const int code = ft::detail::nibble(block.q + at / 32 * 16, static_cast<int>(at % 32));
    float absmax = 0;
    for (std::size_t j = i / 64 * 64; j < i / 64 * 64 + 64; ++j) absmax = std::max(absmax, std::abs(values[j]));
    if (absmax > 0) CHECK(code == (static_cast<int>(codes[i / 2]) >> (i % 2 ? 0 : 4) & 15));
    // The magnitude is one of 256 steps of its square root below the largest of four, which is rounded to a half.
    CHECK(std::abs(got[i] - absmax * levels[static_cast<std::size_t>(code)]) <=
          std::abs(got[i]) * 2e-3f + absmax * (1.1f / 255) * std::sqrt(static_cast<float>(block.d) / absmax));
    ours += std::pow(double{got[i]} - double{values[i]}, 2);
    its += std::pow(double{theirs[i]} - double{values[i]}, 2);
  }
  INFO("squared error ", ours, ", bitsandbytes' ", its);
  CHECK(ours <= its);
}

TEST_CASE("tensor/quantised: zeros, one value alone, the smallest and the largest") {
  std::vector<DType> types(std::begin(all_quantised), std::end(all_quantised));
  types.push_back(DType::nf4);
  for (const DType type : types) {
    INFO(info(type).name);
    std::vector<float> values(512, 0.0f), out(512);
    values[300] = -2.0f;
    for (std::size_t i = 0; i < 32; ++i) values[i + 352] = 1e-30f;
    dequantise_row(type, quantised(type, values).data(), 0, 512, out.data());
    for (std::size_t i = 0; i < 512; ++i) CHECK(out[i] == doctest::Approx(double{values[i]}).epsilon(2e-3));
    std::vector<float> nothing(256, 1.0f), weights(256, 0.0f);  // where no column counts there still are finite numbers
    dequantise_row(type, quantised(type, nothing, weights.data()).data(), 0, 256, out.data());
    for (std::size_t i = 0; i < 256; ++i) CHECK(std::isfinite(out[i]));
    if (type == DType::mxfp4) continue;  // whose scale is no half
    std::vector<float> large(256, 0.0f);
    large[3] = 3e38f;
    CHECK_THROWS_WITH_AS(quantised(type, large), doctest::Contains("half precision does not hold"), Error);
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
  values[5] = std::nanf("");
  CHECK_THROWS_WITH_AS(quantise_row(DType::q8_0, values.data(), 32, row.data()), doctest::Contains("value 5"), Error);
}
