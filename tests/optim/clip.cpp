// tests/optim/clip.cpp: the global norm and clipping against torch's clip_grad_norm_.
#include <doctest/doctest.h>
#include <ftlib/optim/clip.hpp>

#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

using namespace ft;

namespace {
using Params = std::vector<Parameter<float, Cpu>*>;

/// The gradients of tools/make_optim_fixtures.py at step 3, and a parameter without one.
std::vector<Parameter<float, Cpu>> model(Context<Cpu>& ctx) {
  std::vector<Parameter<float, Cpu>> params;
  for (const Shape& shape : {Shape{1}, Shape{7}, Shape{5, 13}, Shape{2, 3, 5}, Shape{3, 521}}) {
    const auto index = static_cast<double>(params.size());
    std::vector<float> values;
    for (int64_t i = 0; i < shape.count(); ++i)
      values.push_back(static_cast<float>(std::sin(0.7 * static_cast<double>(i) + 1.3 * 3 + index) * 1.03));
    params.emplace_back(str("w", index), Tensor<float, Cpu>::zeros(ctx, shape));
    params.back().grad = Tensor<float, Cpu>(ctx, shape, values);
  }
  params.emplace_back("none", Tensor<float, Cpu>::zeros(ctx, {4}));
  return params;
}
Params pointers(std::vector<Parameter<float, Cpu>>& params) {
  Params out;
  for (auto& w : params) out.push_back(&w);
  return out;
}
}  // namespace

TEST_CASE("optim/clip: norm and clipped gradients as torch's clip_grad_norm_") {
  std::ifstream file(FTLIB_TEST_DATA "/optim/clip.json");
  REQUIRE(file);
  const auto data = nlohmann::json::parse(file);
  Context<Cpu> ctx({.threads = 2});
  auto params = model(ctx);
  const float norm = clip_grad_norm(ctx, pointers(params), data["max_norm"].get<float>());
  CHECK(norm == doctest::Approx(data["norm"].get<double>()).epsilon(1e-6));
  const auto bias = params[1].grad.to_host(ctx);
  for (std::size_t i = 0; i < bias.size(); ++i)
    CHECK(bias[i] == doctest::Approx(data["bias"][i].get<double>()).epsilon(1e-6));
  CHECK(clip_grad_norm(ctx, pointers(params), 0) == doctest::Approx(2).epsilon(1e-5));
}

TEST_CASE("optim/clip: measuring, and gradients that are short enough, change nothing") {
  Context<Cpu> ctx;
  auto params = model(ctx);
  const auto before = params[4].grad.to_host(ctx);
  const float norm = clip_grad_norm(ctx, pointers(params), 0);
  clip_grad_norm(ctx, std::span<Parameter<float, Cpu>* const>(pointers(params)), norm * 1.01f);
  CHECK(params[4].grad.to_host(ctx) == before);
  CHECK(clip_grad_norm(ctx, Params{}, 1.0f) == 0);
}

TEST_CASE("optim/clip: a norm that is not finite is returned, and gradients are left alone") {
  Context<Cpu> ctx;
  for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    auto params = model(ctx);
    params[3].grad.data()[2] = bad;
    const auto before = params[4].grad.to_host(ctx);
    CHECK_FALSE(std::isfinite(clip_grad_norm(ctx, pointers(params), 1.0f)));
    CHECK(params[4].grad.to_host(ctx) == before);
  }
}

TEST_CASE("optim/clip: the norm is the same to the bit on one thread and on four") {
  std::vector<float> norms, first;
  for (const int threads : {1, 4}) {
    Context<Cpu> ctx({.threads = threads});
    Random random(5);
    std::vector<float> values(100'003);
    for (float& v : values) v = static_cast<float>(random.normal());
    Parameter<float, Cpu> w("w", Tensor<float, Cpu>::zeros(ctx, {100'003}));
    w.grad = Tensor<float, Cpu>(ctx, w.shape(), values);
    norms.push_back(clip_grad_norm(ctx, Params{&w}, 1.0f));
    first.push_back(w.grad.data()[100'002]);
  }
  CHECK(norms[0] == norms[1]);
  CHECK(first[0] == first[1]);
}

TEST_CASE("optim/clip: zero_grad forgets gradients and frees their memory") {
  Context<Cpu> ctx;
  auto params = model(ctx);
  const int64_t before = ctx.memory().now;
  zero_grad(pointers(params));
  CHECK_FALSE(params[4].grad);
  CHECK(ctx.memory().now < before);
}
