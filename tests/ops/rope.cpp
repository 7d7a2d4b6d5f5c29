// tests/ops/rope.cpp: rotary positions against plain loops, and the table against transformers'
// (tools/ops_fixtures.py).
#include <ftlib/ops/rope.hpp>

#include <array>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "../op_suite.hpp"

using namespace ft;
using namespace ft::test;

namespace {
struct Rope {
  int64_t N, H, hd, rotary;
  RopePairing pairing = RopePairing::half_split;
  static constexpr const char* name = "rope";
  static std::vector<Rope> shapes() {
    using enum RopePairing;
    return {{1, 1, 2, 0},  {3, 5, 6, 0},  {3, 2, 7, 4},  {7, 3, 64, 0, interleaved}, {2, 1, 9, 2, interleaved},
            {0, 3, 64, 0}, {5, 9, 64, 0}, {2, 4, 256, 0}};
  }
  int32_t position(int64_t n) const { return static_cast<int32_t>((n * 37 + 5) % 101); }  // neither sorted nor from 0
  RopeOptions options() const { return {.head_size = hd, .theta = 100, .rotary_size = rotary ? rotary : hd - hd % 2}; }
  std::vector<HostArray> inputs(Random& random) const { return {activation(random, {N, H, hd})}; }
  template <class T, class D> Tensor<T, D> run(Context<D>& ctx, Args<T, D>& a) const {
    const auto table = Rotary<T, D>(options()).table(ctx, 101);
    std::vector<int32_t> positions;
    for (int64_t n = 0; n < N; ++n) positions.push_back(position(n));
    return rope(ctx, a.x[0], table, Tensor<int32_t, D>(ctx, {N}, positions), pairing);
  }
  HostArray reference(const std::vector<HostArray>& in) const {
    HostArray y = in[0];
    const auto frequencies = rope_frequencies(options());
    const auto half = static_cast<int64_t>(frequencies.size());
    for (int64_t n = 0; n < N; ++n)
      for (int64_t h = 0; h < H; ++h)
        for (int64_t i = 0; i < half; ++i) {
          const double angle = static_cast<float>(position(n)) * frequencies[static_cast<std::size_t>(i)];
          const int64_t row = (n * H + h) * hd, a = row + (pairing == RopePairing::half_split ? i : 2 * i),
                        b = pairing == RopePairing::half_split ? a + half : a + 1;
          y[a] = in[0][a] * std::cos(angle) - in[0][b] * std::sin(angle);
          y[b] = in[0][b] * std::cos(angle) + in[0][a] * std::sin(angle);
        }
    return y;
  }
  double tolerance() const { return 1e-12; }
  Tolerance16 tolerance16() const { return {.y = 1e-5, .dx = 5e-5}; }  // the table has 16 bits as well
  double bytes(double item) const { return 2 * item * static_cast<double>(N * H * hd); }
};
}  // namespace

TEST_CASE("ops/rope: rope") { test_op<Rope>(); }

TEST_CASE("ops/rope: tables are those of transformers") {
  std::ifstream file(FTLIB_TEST_DATA "/ops/rope.json");
  REQUIRE(file);
  Context<Cpu> ctx({.threads = 1});
  const auto cases = nlohmann::json::parse(file);
  REQUIRE(cases.size() >= 5);
  for (const auto& c : cases) {
    INFO(c.at("name").get<std::string>());
    RopeOptions options{.head_size = c.at("head_size"), .theta = c.at("theta")};
    if (c.contains("rotary_size")) options.rotary_size = c.at("rotary_size");
    if (c.contains("factor")) options.factor = c.at("factor");
    if (c.contains("llama3")) {
      const auto& s = c.at("llama3");
      options.llama3 = Llama3Scaling{s.at("factor"), s.at("low_freq_factor"), s.at("high_freq_factor"),
                                     s.at("original_max_position_embeddings")};
    }
    const auto table = Rotary<float, Cpu>(options).table(ctx, 8192);
    const int64_t half = table.cos.size(1);
    double error = 0;
    for (const auto& row : c.at("rows")) {
      const int64_t p = row.at("position");
      REQUIRE(row.at("cos").size() == static_cast<std::size_t>(half));
      for (int64_t i = 0; i < half; ++i) {
        const auto at = static_cast<std::size_t>(i);
        error = std::max(error, std::abs(double{table.cos.data()[p * half + i]} - row.at("cos")[at].get<double>()));
        error = std::max(error, std::abs(double{table.sin.data()[p * half + i]} - row.at("sin")[at].get<double>()));
      }
    }
    CHECK(error < 2e-6);
  }
}

TEST_CASE("ops/rope: divisors from a file divide the frequencies") {
  const auto plain = rope_frequencies({.head_size = 4, .theta = 100}),
             divided = rope_frequencies({.head_size = 4, .theta = 100, .divisors = {1, 32}});
  CHECK(divided == std::vector<float>{plain[0], plain[1] / 32});
  CHECK_THROWS_WITH_AS(rope_frequencies({.head_size = 8, .divisors = {1, 2}}),
                       doctest::Contains("2 divisors for 4 frequencies"), Error);
}

TEST_CASE("ops/rope: on a grid, half of a head's pairs turn by the row and half by the column") {
  Context<Cpu> ctx({.threads = 1});
  const auto axis = rope_frequencies({.head_size = 4, .theta = 100});
  const RopeTable<double, Cpu> table(ctx, 4, grid_angles(8, 100, 2, 3));
  REQUIRE(table.cos.shape() == Shape{6, 4});
  for (int64_t row = 0; row < 2; ++row)
    for (int64_t column = 0; column < 3; ++column)
      for (int64_t i = 0; i < 4; ++i) {
        const double angle = static_cast<float>(i < 2 ? row : column) * axis[static_cast<std::size_t>(i % 2)];
        CHECK(table.cos.data()[(row * 3 + column) * 4 + i] == std::cos(angle));
        CHECK(table.sin.data()[(row * 3 + column) * 4 + i] == std::sin(angle));
      }
  CHECK_THROWS_WITH_AS(grid_angles(6, 100, 2, 2), doctest::Contains("rope: rotary size 3"), Error);
}

TEST_CASE("ops/rope: a table grows, and what used the shorter one keeps it") {
  Context<Cpu> ctx({.threads = 1});
  Rotary<double, Cpu> rotary(RopeOptions{.head_size = 8});
  const auto before = rotary.table(ctx, 3);
  const auto rows = before.positions();
  CHECK(rows >= 3);
  CHECK(rotary.table(ctx, rows).cos.data() == before.cos.data());
  const auto after = rotary.table(ctx, rows + 1);
  CHECK(after.positions() >= 2 * rows);
  CHECK(rotary.table(ctx, 1).cos.data() == after.cos.data());
  for (int64_t i = 0; i < before.cos.count(); ++i) CHECK(after.cos.data()[i] == before.cos.data()[i]);
}

TEST_CASE("ops/rope: many sessions ask one model's table at once") {
  Rotary<float, Cpu> rotary(RopeOptions{.head_size = 8});
  std::vector<std::thread> threads;
  std::array<bool, 4> right{};
  for (std::size_t t = 0; t < right.size(); ++t)
    threads.emplace_back([&, t] {
      Context<Cpu> ctx({.threads = 1});
      right[t] = true;
      for (int64_t n = 1; n < 2000; n += 37) {
        const auto table = rotary.table(ctx, n);
        const double angle = static_cast<double>(n - 1);  // of the first pair, whose frequency is 1
        right[t] &= table.positions() >= n && std::abs(double{table.cos.data()[(n - 1) * 4]} - std::cos(angle)) < 1e-6;
      }
    });
  for (auto& thread : threads) thread.join();
  for (const bool r : right) CHECK(r);
}

TEST_CASE("ops/rope: what does not fit is refused") {
  Context<Cpu> ctx({.threads = 1});
  RopeTable<float, Cpu> table;
  const auto x = Tensor<float, Cpu>::zeros(ctx, {2, 3, 8});
  const Tensor<int32_t, Cpu> positions(ctx, {2}, {0, 1});
  CHECK_THROWS_WITH_AS(rope(ctx, x, table, positions), doctest::Contains("rope: a table of () cosines"), Error);
  table = Rotary<float, Cpu>(RopeOptions{.head_size = 8}).table(ctx, 10);
  CHECK_THROWS_WITH_AS(rope(ctx, x.reshaped({2, 24}), table, positions), doctest::Contains("rope: x (2, 24)"), Error);
  CHECK_THROWS_WITH_AS(rope(ctx, x.reshaped({3, 2, 8}), table, positions),
                       doctest::Contains("rope: positions (2) do not fit x (3, 2, 8)"), Error);
  CHECK_THROWS_WITH_AS(rope(ctx, x.reshaped({2, 6, 4}), table, positions),
                       doctest::Contains("does not fit x (2, 6, 4)"), Error);
  const auto last = static_cast<int32_t>(table.positions());
  CHECK_THROWS_WITH_AS(rope(ctx, x, table, Tensor<int32_t, Cpu>(ctx, {2}, {0, last})),
                       doctest::Contains("of token 1 is outside the table"), Error);
  CHECK_THROWS_WITH_AS(rope(ctx, x, table, Tensor<int32_t, Cpu>(ctx, {2}, {-1, 0})), doctest::Contains("position -1"),
                       Error);
  CHECK_THROWS_WITH_AS(rope_frequencies({.head_size = 7}), doctest::Contains("rope: rotary size 7"), Error);
  CHECK_THROWS_WITH_AS(rope_frequencies({.head_size = 8, .theta = -1}), doctest::Contains("theta -1"), Error);
  CHECK_THROWS_WITH_AS(rope_frequencies({.head_size = 8, .llama3 = Llama3Scaling{.high_freq_factor = 1}}),
                       doctest::Contains("llama3 scaling"), Error);
}
