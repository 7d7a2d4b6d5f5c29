// tests/optim/lion.cpp: twenty steps against the paper's algorithm, 16-bit weights, and what is refused.
#include <doctest/doctest.h>
#include <ftlib/optim/lion.hpp>
#include <ftlib/tensor/copy.hpp>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

using namespace ft;

namespace {
/// tools/make_optim_fixtures.py, lion_fixture().
template <class T> void twenty_steps(double tolerance) {
  std::ifstream file(FTLIB_TEST_DATA "/optim/lion.json");
  REQUIRE(file);
  const auto data = nlohmann::json::parse(file);
  const auto& settings = data["settings"];
  const auto& described = data["parameters"];
  for (const int threads : {1, 2}) {
    Context<Cpu> ctx({.threads = threads});
    std::vector<Parameter<T, Cpu>> params;
    for (std::size_t k = 0; k < described.size(); ++k) {
      const auto sizes = described[k]["shape"].get<std::vector<int64_t>>();
      const Shape shape{std::span<const int64_t>(sizes)};
      std::vector<T> values;
      for (int64_t i = 0; i < shape.count(); ++i)
        values.push_back(static_cast<float>(std::cos(0.37 * static_cast<double>(i) + static_cast<double>(k))));
      params.emplace_back(described[k]["name"].get<std::string>(), Tensor<T, Cpu>(ctx, shape, values));
      params.back().kind = described[k]["decay"].get<bool>() ? WeightKind::linear : WeightKind::vector;
    }
    std::vector<Parameter<T, Cpu>*> pointers;
    for (auto& w : params) pointers.push_back(&w);
    LionOptimizer<T, Cpu> optimizer({.lr = settings["lr"].get<float>(),
                                     .beta1 = settings["beta1"].get<float>(),
                                     .beta2 = settings["beta2"].get<float>(),
                                     .weight_decay = settings["weight_decay"].get<float>()});
    for (int step = 0; step < data["steps"]; ++step) {
      for (std::size_t k = 0; k < params.size(); ++k) {
        params[k].grad = {};
        const auto without = described[k]["without"].get<std::vector<int>>();
        if (std::find(without.begin(), without.end(), step) != without.end()) continue;
        std::vector<T> values;
        for (int64_t i = 0; i < params[k].count(); ++i)
          values.push_back(static_cast<float>(
              std::sin(0.7 * static_cast<double>(i) + 1.3 * step + static_cast<double>(k)) * (1 + 0.01 * step)));
        params[k].grad = Tensor<T, Cpu>(ctx, params[k].shape(), values);
      }
      optimizer.step(ctx, pointers, static_cast<float>(double{settings["lr"].get<float>()} * (1 - step / 32.0)));
    }
    CHECK(optimizer.steps() == 20);
    for (std::size_t k = 0; k < params.size(); ++k) {
      INFO(params[k].name);
      const auto expected = described[k]["double"].get<std::vector<double>>();
      const auto got = params[k].value.to_host(ctx);
      double worst = 0;
      for (std::size_t i = 0; i < expected.size(); ++i) worst = std::max(worst, std::abs(double{got[i]} - expected[i]));
      CHECK(worst <= tolerance);
    }
  }
}
}  // namespace

TEST_CASE("optim/lion: twenty steps as the paper has them, in float") { twenty_steps<float>(2e-6); }
TEST_CASE("optim/lion: twenty steps as the paper has them, in double") { twenty_steps<double>(1e-12); }

TEST_CASE_TEMPLATE("optim/lion: 16-bit weights follow float ones by their masters, and on average by chance", T,
                   bfloat16, half) {
  const int64_t n = 4003;
  for (const Master master : {Master::none, Master::float32, Master::stochastic_rounding}) {
    Context<Cpu> ctx({.threads = 2, .seed = 3});
    Parameter<T, Cpu> narrow("w", Tensor<T, Cpu>(ctx, {n}, std::vector<T>(n, T(1.0f))));
    Parameter<float, Cpu> wide("w", convert<float>(ctx, narrow.value));
    Parameter<T, Cpu>* const narrows[] = {&narrow};
    Parameter<float, Cpu>* const wides[] = {&wide};
    LionOptimizer<T, Cpu> optimizer(Lion{.master = master});
    LionOptimizer<float, Cpu> reference;
    for (int step = 0; step < 20; ++step) {
      wide.grad = narrow.grad = Tensor<float, Cpu>(ctx, {n}, std::vector<float>(n, 1.0f));
      optimizer.step(ctx, narrows, 1e-5f);
      reference.step(ctx, wides, 1e-5f);
    }
    double moved = 0;
    for (int64_t i = 0; i < n; ++i) {
      moved += (1 - double{static_cast<float>(narrow.value.data()[i])}) / static_cast<double>(n);
      if (master == Master::float32) REQUIRE(narrow.value.data()[i].bits == T(wide.value.data()[i]).bits);
    }
    if (master == Master::none) CHECK(moved == 0);
    if (master == Master::stochastic_rounding) CHECK(moved == doctest::Approx(2e-4).epsilon(0.15));
    CHECK(optimizer.state_bytes(narrows) == (master == Master::float32 ? 2 : 1) * 4 * n);
  }
}

TEST_CASE("optim/lion: a step that is not finite changes nothing; AdamW's state is refused; settings are checked") {
  Context<Cpu> ctx;
  Parameter<float, Cpu> w("w", Tensor<float, Cpu>::zeros(ctx, {3}));
  const std::vector<Parameter<float, Cpu>*> params{&w};
  w.grad = Tensor<float, Cpu>(ctx, {3}, {1.0f, 0.0f, -2.0f});
  LionOptimizer<float, Cpu> lion;
  StepCheck check(ctx);
  check.add_loss(ctx, Tensor<float, Cpu>(ctx, Shape{}, {NAN}));
  check.measure(ctx, params, 1.0f);
  CHECK(!lion.step(ctx, params, 0.5f, check).finite);
  CHECK(lion.steps() == 0);
  CHECK(lion.save(ctx).empty());
  lion.step(ctx, params, 0.5f);
  CHECK(w.value.to_host(ctx) == std::vector<float>{-0.5f, 0.0f, 0.5f});  // sign(0) is 0
  auto saved = lion.save(ctx);
  LionOptimizer<float, Cpu> again;
  again.load(ctx, params, saved);
  CHECK(again.steps() == 1);
  saved.push_back({"w.exp_avg_sq", "F32", {3}, std::vector<std::byte>(12)});
  CHECK_THROWS_WITH_AS(again.load(ctx, params, saved), doctest::Contains("Lion: saved state 'w.exp_avg_sq' belongs to"),
                       Error);
  CHECK_THROWS_WITH_AS((LionOptimizer<float, Cpu>({.beta1 = 1.5f})), doctest::Contains("Lion: beta1 is 1.5"), Error);
}
