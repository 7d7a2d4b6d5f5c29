// tests/optim/ema.cpp: the average of weights, by its formula, its ramp, and in the weights' place.
#include <doctest/doctest.h>
#include <ftlib/optim/ema.hpp>

#include <algorithm>

using namespace ft;

TEST_CASE("optim/ema: a step moves the average by 1 - min(decay, (1 + n) / (10 + n)) of the way") {
  Context<Cpu> ctx({.threads = 2});
  Parameter<float, Cpu> w("w", Tensor<float, Cpu>(ctx, {3}, {1, 2, 3}));
  std::vector<Parameter<float, Cpu>*> params{&w};
  WeightAverage<float, Cpu> average(ctx, std::span<Parameter<float, Cpu>* const>(params), 0.6f);
  std::vector<double> expected{1, 2, 3};
  for (int64_t n = 1; n <= 40; ++n) {
    std::vector<float> now;
    for (int i = 0; i < 3; ++i) now.push_back(static_cast<float>(n * (i + 1)));
    w.value = Tensor<float, Cpu>(ctx, {3}, now);
    average.update(ctx, n);
    const double decay = std::min(double{0.6f}, (1.0 + static_cast<double>(n)) / (10.0 + static_cast<double>(n)));
    for (std::size_t i = 0; i < 3; ++i) expected[i] = decay * expected[i] + (1 - decay) * double{now[i]};
  }
  const auto weights = w.value.to_host(ctx);
  average.swap();
  const auto seen = w.value.to_host(ctx);
  for (std::size_t i = 0; i < 3; ++i) CHECK(double{seen[i]} == doctest::Approx(expected[i]).epsilon(1e-6));
  average.swap();
  CHECK(w.value.to_host(ctx) == weights);
  CHECK_THROWS_WITH_AS((WeightAverage<float, Cpu>(ctx, std::span<Parameter<float, Cpu>* const>(params), 1.0f)),
                       doctest::Contains("a decay of 1"), Error);
}
