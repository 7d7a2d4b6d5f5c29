// tests/cuda_emulation/stored_test.cpp: stored weights of every type on the GPU beside the CPU, to the bit.
#include <ftlib/ops/embedding.hpp>
#include <ftlib/tensor/quantise.hpp>
#include <ftlib/tensor/stored.cpu.hpp>

#include <cstring>

#include "../op_suite.hpp"

using namespace ft;
using namespace ft::test;

namespace {
constexpr DType types[] = {DType::f32,  DType::f64,  DType::f16,  DType::bf16, DType::q8_0, DType::q4_0,  DType::q4_1,
                           DType::q5_0, DType::q5_1, DType::q4_k, DType::q5_k, DType::q6_k, DType::mxfp4, DType::nf4};

/// Random bytes, with scales that are finite: every 16 bits of a block have a bit of half's exponent cleared.
std::vector<std::byte> some_bytes(DType type, int64_t count, Random& random) {
  std::vector<std::byte> bytes(static_cast<std::size_t>(storage_bytes(type, count)));
  if (!is_quantised(type)) {
    std::vector<float> values(static_cast<std::size_t>(count));
    for (float& v : values) v = static_cast<float>(random.normal());
    quantise_row(type, values.data(), count, bytes.data());
    return bytes;
  }
  for (std::size_t i = 0; i < bytes.size(); ++i)
    bytes[i] = static_cast<std::byte>(random.word() & (i % 2 ? 0xbfu : 0xffu));
  if (type == DType::mxfp4)  // whose scale is one byte, and makes infinities from 253 on
    for (std::size_t i = 0; i < bytes.size(); i += 17) bytes[i] = static_cast<std::byte>(120 + i % 8);
  return bytes;
}
Stored<Cuda> upload_stored(Context<Cuda>& ctx, DType type, const Shape& shape, const std::vector<std::byte>& bytes) {
  const auto memory = ctx.upload(bytes);
  return {type, shape, memory.get(), memory};
}
/// Empty where both have the same bits; else the first element that has not, in rows of C.
template <class T> std::string other_bits(const std::vector<T>& got, const std::vector<T>& expected, int64_t C) {
  if (got.size() != expected.size()) return str(got.size(), " elements, not ", expected.size());
  const auto value = [](T x) { return static_cast<double>(static_cast<accumulate_t<T>>(x)); };
  for (std::size_t i = 0; i < got.size(); ++i)
    if (std::memcmp(&got[i], &expected[i], sizeof(T)) != 0)
      return str("row ", static_cast<int64_t>(i) / C, ", column ", static_cast<int64_t>(i) % C, " is ", value(got[i]),
                 ", not ", value(expected[i]));
  return "";
}

template <class T> void same_bits(DType type, int64_t N, int64_t C, bool aligned) {
  INFO(info(type).name, " as ", info(dtype_of<T>).name, " of ", N, " rows of ", C);
  Random random(static_cast<uint64_t>(N));
  const auto bytes = some_bytes(type, N * C, random);
  const auto count = static_cast<std::size_t>(N * C);
  std::vector<T> expected(count);
  Context<Cpu> cpu({.threads = 1});
  dequantise(cpu, View<T>(expected.data(), {N, C}), Stored<Cpu>{type, {N, C}, bytes.data(), {}});
  for (const uint64_t seed : {1u, 2u}) {
    cuda_emulation::set_seed(seed);
    Context<Cuda> ctx;
    const auto w = upload_stored(ctx, type, {N, C}, bytes);
    Tensor<T, Cuda> all(ctx, {N * C + 1}), values = all.strided(aligned ? 0 : 1, {N, C}, {C, 1});
    dequantise(ctx, values.view(), w);
    CHECK(other_bits(values.to_host(ctx), expected, C) == "");
  }
}
}  // namespace

TEST_CASE_TEMPLATE("cuda/stored: dequantise gives the CPU's bits", T, float, double, bfloat16, ft::half) {
  for (const DType type : types)
    for (const int64_t N : {1, 3, 37}) {
      same_bits<T>(type, N, 256, true);
      same_bits<T>(type, N, is_quantised(type) && info(type).block == 256 ? 512 : 32, false);
    }
  for (const DType type : {DType::f32, DType::f64, DType::f16, DType::bf16}) same_bits<T>(type, 7, 5, true);
}

TEST_CASE("cuda/stored: the embedding reads rows of every type") {
  const std::vector<int32_t> ids{4, 0, 4, 6, 5};
  const int64_t V = 7, N = static_cast<int64_t>(ids.size());
  for (const DType type : types)
    for (const int64_t C : {int64_t{5} * info(type).block, int64_t{1} * info(type).block})
      for (const float scale : {1.0f, 25.25f}) {
        INFO(info(type).name, " of width ", C, ", times ", scale);
        Random random(3);
        const auto bytes = some_bytes(type, V * C, random);
        Context<Cpu> cpu({.threads = 1});
        Context<Cuda> ctx;
        Tensor<float, Cpu> expected(cpu, {N, C});
        Tensor<float, Cuda> got(ctx, {N, C});
        Tensor<bfloat16, Cuda> got16(ctx, {N, C});
        embedding_forward(cpu, expected.view(), Stored<Cpu>{type, {V, C}, bytes.data(), {}}, ids, scale);
        const auto w = upload_stored(ctx, type, {V, C}, bytes);
        embedding_forward(ctx, got.view(), w, ids, scale);
        embedding_forward(ctx, got16.view(), w, ids, scale);
        CHECK(other_bits(got.to_host(ctx), expected.to_host(cpu), C) == "");
        CHECK(nmse(download(ctx, got16), download(cpu, expected)) <= 1e-5);
      }
}

TEST_CASE("cuda/stored: a row of a matrix is read, blocks at an odd address are refused") {
  Context<Cuda> ctx;
  Context<Cpu> cpu({.threads = 1});
  Random random(1);
  const auto bytes = some_bytes(DType::q4_0, 3 * 64, random);
  Stored<Cuda> w = upload_stored(ctx, DType::q4_0, {3, 64}, bytes);
  w.data = w.row(1);
  w.shape = {2, 64};
  Tensor<float, Cuda> got(ctx, {2, 64});
  Tensor<float, Cpu> expected(cpu, {2, 64});
  dequantise(ctx, got.view(), w);
  dequantise(cpu, expected.view(), Stored<Cpu>{DType::q4_0, {2, 64}, bytes.data() + 36, {}});
  CHECK(got.to_host(ctx) == expected.to_host(cpu));
  ++w.data;
  CHECK_THROWS_WITH_AS(dequantise(ctx, got.view(), w), doctest::Contains("no multiple of 2"), Error);
}
