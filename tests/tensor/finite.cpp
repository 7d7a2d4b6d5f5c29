// tests/tensor/finite.cpp: NaN and infinities are found in arrays of every stored type.
#include <doctest/doctest.h>
#include <ftlib/tensor/finite.hpp>

#include <cstring>
#include <vector>

using namespace ft;

TEST_CASE("tensor/finite: one bad number in any type is found where it is; large and small ones are fine") {
  struct Bad {
    DType type;
    uint64_t bits;   // of the number that is none
    int64_t offset;  // of a scale in its block; elements have 0
  };
  const Bad cases[] = {{DType::f32, 0x7f800000, 0}, {DType::f32, 0xffc00000, 0}, {DType::f64, 0x7ff0000000000000, 0},
                       {DType::f16, 0xfc00, 0},     {DType::bf16, 0x7f80, 0},    {DType::q8_0, 0x7e00, 0},
                       {DType::q4_0, 0x7c00, 0},    {DType::q4_1, 0x7c00, 2},    {DType::q5_0, 0x7c00, 0},
                       {DType::q5_1, 0x7e00, 2},    {DType::q4_k, 0x7c00, 2},    {DType::q5_k, 0x7c00, 0},
                       {DType::q6_k, 0x7e00, 208},  {DType::mxfp4, 253, 0},      {DType::nf4, 0x7c00, 0}};
  for (const Bad& bad : cases) {
    const int64_t block = info(bad.type).block, bytes = info(bad.type).bytes;
    INFO(info(bad.type).name);
    const int64_t blocks = 3000, at = 2047;
    std::vector<std::byte> data(static_cast<std::size_t>(blocks * bytes));
    CHECK(first_not_finite(bad.type, data.data(), blocks * block) == -1);
    const std::size_t size = block > 1 ? 2 : static_cast<std::size_t>(bytes);
    std::memcpy(data.data() + at * bytes + bad.offset, &bad.bits, size);
    CHECK(first_not_finite(bad.type, data.data(), blocks * block) == at * block);
    CHECK(first_not_finite(bad.type, data.data(), at * block) == -1);
  }
  const float fine[] = {3e38f, -3e38f, 1e-45f, 0.0f};
  CHECK(first_not_finite(DType::f32, reinterpret_cast<const std::byte*>(fine), 4) == -1);
}
