// tests/optim/stochastic.cpp: rounding by chance: between the right neighbours, as often as it should, exact where it
// can.
#include <doctest/doctest.h>
#include <ftlib/optim/loss_scale.hpp>
#include <ftlib/optim/stochastic.hpp>

#include <cmath>

using namespace ft;

namespace {
/// The mean over all random numbers, by whose spread no other value than the two neighbours may come.
template <class T> double mean(float x) {
  double sum = 0, low = INFINITY, high = -INFINITY;
  for (uint32_t random = 0; random < 65536; random += 5) {
    const T rounded = detail::round_by_chance<T>(x, random);
    const double y{static_cast<float>(rounded)};
    sum += y;
    low = std::min(low, y);
    high = std::max(high, y);
  }
  CHECK(low <= double{x});
  CHECK(high >= double{x});
  const T down(static_cast<float>(low));
  if (high > low) CHECK(std::abs(static_cast<int>(T(static_cast<float>(high)).bits) - down.bits) <= 1);
  return sum / 13108;
}
}  // namespace

TEST_CASE_TEMPLATE("optim/stochastic: the mean is the number, and what is exact stays", T, bfloat16, half) {
  for (const float x : {1.001f, -1.001f, 3.14159f, 1234.567f, -0.0123f, 6.1e-5f, 6.05e-5f, 3.3e-6f, -4e-8f, 65000.7f})
    CHECK(mean<T>(x) == doctest::Approx(double{x}).epsilon(std::abs(x) < 1e-7f ? 1e-3 : 2e-5));
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    T exact;
    exact.bits = static_cast<uint16_t>(bits);
    const auto x = static_cast<float>(exact);
    if (std::isnan(x)) CHECK(std::isnan(static_cast<float>(detail::round_by_chance<T>(x, 0xffff))));
    else REQUIRE(detail::round_by_chance<T>(x, 0xffff).bits == bits);
  }
  CHECK(std::isinf(static_cast<float>(detail::round_by_chance<T>(INFINITY, 7))));
}

TEST_CASE("optim/stochastic: eight numbers of 16 bits in four words") {
  const std::array<uint32_t, 4> words{0x00010000u, 0x00030002u, 0x00050004u, 0x00070006u};
  for (int k = 0; k < 8; ++k) CHECK(detail::bits16(words, k) == static_cast<uint32_t>(k));
}

TEST_CASE("optim/loss_scale: halves on overflow, doubles after many good steps, and is 1 where it is off") {
  LossScale scale(1024), off;
  for (int64_t step = 0; step < LossScale::interval; ++step) {
    CHECK(scale.value() == 1024);
    scale.update(true);
  }
  CHECK(scale.value() == 2048);
  scale.update(true);
  scale.update(false);
  CHECK(scale.value() == 1024);
  CHECK(scale.good_steps() == 0);
  for (int i = 0; i < 20; ++i) scale.update(false);
  CHECK(scale.value() == 1);
  off.update(false);
  CHECK(off.value() == 1);
  CHECK_THROWS_WITH_AS(LossScale(0.5f), doctest::Contains("loss scale: 0.5"), Error);
}
