// tests/optim/adamw.cpp: twenty steps against torch.optim.AdamW, state out and in, and what is refused.
#include <doctest/doctest.h>
#include <ftlib/optim/adamw.hpp>

#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

using namespace ft;

namespace {
nlohmann::json trajectories() {
  std::ifstream file(FTLIB_TEST_DATA "/optim/adamw.json");
  REQUIRE(file);
  return nlohmann::json::parse(file);
}

template <class T> struct Model {
  std::vector<Parameter<T, Cpu>> params;
  std::vector<Parameter<T, Cpu>*> pointers;

  Model(Context<Cpu>& ctx, const nlohmann::json& description) {
    std::size_t index = 0;
    for (const auto& p : description) {
      const auto sizes = p.at("shape").get<std::vector<int64_t>>();
      const Shape shape{std::span<const int64_t>(sizes)};
      std::vector<T> values;
      for (int64_t i = 0; i < shape.count(); ++i)
        values.push_back(static_cast<float>(std::cos(0.37 * static_cast<double>(i) + static_cast<double>(index))));
      params.emplace_back(p.at("name").get<std::string>(), Tensor<T, Cpu>(ctx, shape, values));
      params.back().kind = p.at("decay").get<bool>() ? WeightKind::linear : WeightKind::vector;
      ++index;
    }
    for (auto& w : params) pointers.push_back(&w);
  }

  /// The fixture's gradients for one step.
  void set_gradients(Context<Cpu>& ctx, const nlohmann::json& description, int step) {
    for (std::size_t index = 0; index < params.size(); ++index) {
      auto& w = params[index];
      w.grad = {};
      const auto without = description[index].at("without").get<std::vector<int>>();
      if (std::find(without.begin(), without.end(), step) != without.end()) continue;
      std::vector<T> values;
      for (int64_t i = 0; i < w.count(); ++i)
        values.push_back(static_cast<float>(
            std::sin(0.7 * static_cast<double>(i) + 1.3 * step + static_cast<double>(index)) * (1 + 0.01 * step)));
      w.grad = Tensor<T, Cpu>(ctx, w.shape(), values);
    }
  }
};

AdamW settings(const nlohmann::json& s) {
  return {.lr = s.at("lr").get<float>(),
          .beta1 = s.at("beta1").get<float>(),
          .beta2 = s.at("beta2").get<float>(),
          .eps = s.at("eps").get<float>(),
          .weight_decay = s.at("weight_decay").get<float>()};
}
const StateEntry& find(const std::vector<StateEntry>& entries, const std::string& name) {
  for (const StateEntry& entry : entries)
    if (entry.name == name) return entry;
  FAIL(name);
  return entries.front();
}
int64_t number(const StateEntry& entry) {
  int64_t n = 0;
  std::memcpy(&n, entry.bytes.data(), sizeof n);
  return n;
}
float rate(const AdamW& config, int step) { return static_cast<float>(double{config.lr} * (1 - step / 32.0)); }

template <class T> void twenty_steps(const char* key, double tolerance) {
  const auto data = trajectories();
  for (const int threads : {1, 2}) {
    Context<Cpu> ctx({.threads = threads});
    Model<T> model(ctx, data["parameters"]);
    AdamWOptimizer<T, Cpu> optimizer(settings(data["settings"]));
    for (int step = 0; step < data["steps"]; ++step) {
      model.set_gradients(ctx, data["parameters"], step);
      optimizer.step(ctx, model.pointers, rate(optimizer.config(), step));
    }
    CHECK(optimizer.steps() == 20);
    for (std::size_t k = 0; k < model.params.size(); ++k) {
      INFO(model.params[k].name);
      const auto expected = data["parameters"][k][key].get<std::vector<double>>();
      const auto got = model.params[k].value.to_host(ctx);
      double worst = 0;
      for (std::size_t i = 0; i < expected.size(); ++i) worst = std::max(worst, std::abs(double{got[i]} - expected[i]));
      CHECK(worst <= tolerance);
    }
  }
}
}  // namespace

TEST_CASE("optim/adamw: twenty steps as torch.optim.AdamW, in float") { twenty_steps<float>("float", 1e-6); }
TEST_CASE("optim/adamw: twenty steps as torch.optim.AdamW, in double") { twenty_steps<double>("double", 1e-12); }

TEST_CASE("optim/adamw: a resumed optimizer goes on to the bit, each parameter from its own step") {
  const auto data = trajectories();
  Context<Cpu> ctx({.threads = 2});
  Model<float> whole(ctx, data["parameters"]), parted(ctx, data["parameters"]);
  AdamWOptimizer<float, Cpu> a(settings(data["settings"])), b(a.config()), c(a.config());
  for (int step = 0; step < 20; ++step) {
    whole.set_gradients(ctx, data["parameters"], step);
    a.step(ctx, whole.pointers, rate(a.config(), step));
    parted.set_gradients(ctx, data["parameters"], step);
    if (step == 12) {
      const auto saved = b.save(ctx);
      CHECK(saved.size() == 3 * parted.params.size());
      CHECK(number(find(saved, "weight.step")) == 9);  // no gradient in its first three steps
      CHECK(find(saved, "weight.exp_avg_sq").shape == Shape{5, 13});
      c.load(ctx, parted.pointers, saved);
    }
    (step < 12 ? b : c).step(ctx, parted.pointers, rate(a.config(), step));
  }
  for (std::size_t k = 0; k < whole.params.size(); ++k)
    CHECK(whole.params[k].value.to_host(ctx) == parted.params[k].value.to_host(ctx));
}

TEST_CASE("optim/adamw: saved state that does not fit is refused, and changes nothing") {
  Context<Cpu> ctx;
  Parameter<float, Cpu> w("w", Tensor<float, Cpu>::zeros(ctx, {2, 3}));
  const std::vector<Parameter<float, Cpu>*> params{&w};
  const auto zeros = [&](const char* name, const Shape& shape) {
    return StateEntry{name, "F32", shape, std::vector<std::byte>(static_cast<std::size_t>(shape.count()) * 4)};
  };
  const auto step = [](int64_t n) {
    StateEntry entry{"w.step", "I64", {1}, std::vector<std::byte>(8)};
    std::memcpy(entry.bytes.data(), &n, 8);
    return entry;
  };
  const auto m = zeros("w.exp_avg", {2, 3}), v = zeros("w.exp_avg_sq", {2, 3});
  AdamWOptimizer<float, Cpu> optimizer;
  optimizer.load(ctx, params, {m, v, step(4)});
  CHECK(optimizer.steps() == 4);
  const auto refuses = [&](const std::vector<StateEntry>& states, const char* message) {
    CHECK_THROWS_WITH_AS(optimizer.load(ctx, params, states), doctest::Contains(message), Error);
    CHECK(optimizer.steps() == 4);
  };
  refuses({m, zeros("w.exp_avg_sq", {3, 2}), step(4)},
          "saved state 'w.exp_avg_sq' (3, 2) F32 does not fit parameter (2, 3), which asks for (2, 3) F32");
  auto bytes = v;
  bytes.type = "U8";
  refuses({m, bytes, step(4)}, "'w.exp_avg_sq' (2, 3) U8 does not fit");
  refuses({m, v}, "parameter 'w' lacks step");
  refuses({m, step(4)}, "parameter 'w' lacks exp_avg_sq");
  refuses({m, v, step(0)}, "no step count");
  refuses({zeros("v.exp_avg", {2, 3})}, "'v.exp_avg' belongs to no trainable parameter");
  refuses({m, v, step(4), zeros("w.max", {1})}, "'w.max' belongs to no trainable parameter");
}

TEST_CASE("optim/adamw: frozen parameters stay, learning rates scale by parameter, names must differ") {
  Context<Cpu> ctx;
  const auto make = [&](const char* name) {
    Parameter<float, Cpu> w(name, Tensor<float, Cpu>::zeros(ctx, {3}));
    w.grad = Tensor<float, Cpu>(ctx, {3}, {1.0f, -2.0f, 3.0f});
    return w;
  };
  auto a = make("lora_A"), b = make("lora_B"), frozen = make("frozen"), twin = make("lora_A");
  frozen.trainable = false;
  std::vector<Parameter<float, Cpu>*> params{&a, &b, &frozen};
  AdamWOptimizer<float, Cpu> optimizer(
      {.lr = 0.5f, .weight_decay = 0.5f},
      {.lr_scale = [](const ParameterInfo& w) { return w.name == "lora_B" ? 16.0f : 1.0f; },
       .decays = [](const ParameterInfo& w) { return w.name == "lora_A" && w.kind == WeightKind::vector; }});
  CHECK(optimizer.state_bytes(params) == 2 * 2 * 3 * 4);
  a.value = b.value = Tensor<float, Cpu>(ctx, {3}, {4.0f, 0.0f, 0.0f});
  b.value = clone(ctx, a.value);
  optimizer.step(ctx, params, 0.5f);
  CHECK(a.value.to_host(ctx)[0] == doctest::Approx(4 - 0.25 * 4 - 0.5));
  CHECK(a.value.to_host(ctx)[1] == doctest::Approx(0.5));  // Adam's first step is lr sign(g)
  CHECK(b.value.to_host(ctx)[0] == doctest::Approx(-4));
  CHECK(b.value.to_host(ctx)[2] == doctest::Approx(-8));
  CHECK(frozen.value.to_host(ctx)[0] == 0);
  params.push_back(&twin);
  CHECK_THROWS_WITH_AS(optimizer.step(ctx, params, 0.5f), doctest::Contains("two parameters are called 'lora_A'"),
                       Error);
  CHECK_THROWS_WITH_AS((AdamWOptimizer<float, Cpu>({.beta2 = 1.0f})), doctest::Contains("beta2 is 1"), Error);
}

TEST_CASE_TEMPLATE("optim/adamw: 16-bit weights keep moments in float and are rounded once a step", T, bfloat16, half) {
  Context<Cpu> ctx;
  const int64_t n = 1031;  // more than one chunk, and a tail
  std::vector<float> start, gradient;
  for (int64_t i = 0; i < n; ++i) {
    start.push_back(static_cast<float>(T(std::cos(static_cast<float>(i)))));
    gradient.push_back(std::sin(static_cast<float>(i)));
  }
  Parameter<float, Cpu> wide("w", Tensor<float, Cpu>(ctx, {n}, start));
  wide.grad = Tensor<float, Cpu>(ctx, {n}, gradient);
  Parameter<T, Cpu> narrow("w", convert<T>(ctx, wide.value));
  narrow.grad = clone(ctx, wide.grad);
  AdamWOptimizer<float, Cpu> reference;
  AdamWOptimizer<T, Cpu> optimizer;
  Parameter<float, Cpu>* const wides[] = {&wide};
  Parameter<T, Cpu>* const narrows[] = {&narrow};
  reference.step(ctx, wides, 0.125f);
  optimizer.step(ctx, narrows, 0.125f);
  const auto expected = wide.value.to_host(ctx);
  const auto got = narrow.value.to_host(ctx);
  int64_t wrong = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) wrong += got[i].bits != T(expected[i]).bits;
  CHECK(wrong == 0);
}

TEST_CASE_TEMPLATE("optim/adamw: 16-bit weights follow float ones by their masters, and on average by chance", T,
                   bfloat16, half) {
  const int64_t n = 4003;
  for (const Master master : {Master::none, Master::float32, Master::stochastic_rounding}) {
    INFO("master ", static_cast<int>(master));
    double moved = 0;
    std::vector<uint16_t> first;
    for (const int threads : {1, 2}) {
      Context<Cpu> ctx({.threads = threads, .seed = 3});
      Parameter<T, Cpu> narrow("w", Tensor<T, Cpu>(ctx, {n}, std::vector<T>(n, T(1.0f))));
      Parameter<float, Cpu> wide("w", convert<float>(ctx, narrow.value));
      Parameter<T, Cpu>* const narrows[] = {&narrow};
      Parameter<float, Cpu>* const wides[] = {&wide};
      AdamWOptimizer<T, Cpu> optimizer(AdamW{.master = master});
      AdamWOptimizer<float, Cpu> reference;
      for (int step = 0; step < 20; ++step) {  // each moves by 1e-5, less than half of 2^-11
        wide.grad = narrow.grad = Tensor<float, Cpu>(ctx, {n}, std::vector<float>(n, 1.0f));
        optimizer.step(ctx, narrows, 1e-5f);
        reference.step(ctx, wides, 1e-5f);
      }
      std::vector<uint16_t> bits;
      moved = 0;
      const auto expected = wide.value.to_host(ctx);
      for (std::size_t i = 0; i < expected.size(); ++i) {
        bits.push_back(narrow.value.data()[i].bits);
        moved += (1 - double{static_cast<float>(narrow.value.data()[i])}) / static_cast<double>(n);
        if (master == Master::float32) REQUIRE(bits[i] == T(expected[i]).bits);
      }
      if (threads == 1) first = bits;
      else CHECK(bits == first);
      CHECK(optimizer.state_bytes(narrows) == (master == Master::float32 ? 3 : 2) * 4 * n);
    }
    if (master == Master::none) CHECK(moved == 0);
    if (master == Master::stochastic_rounding) CHECK(moved == doctest::Approx(2e-4).epsilon(0.15));
  }
}

TEST_CASE("optim/adamw: the master is saved and loaded; without one that is asked for, state is refused") {
  Context<Cpu> ctx;
  const auto make = [&] {
    Parameter<bfloat16, Cpu> w("w", Tensor<bfloat16, Cpu>(ctx, {3}, {bfloat16(1), bfloat16(-2), bfloat16(0.5f)}));
    w.grad = Tensor<float, Cpu>(ctx, {3}, {1.0f, 2.0f, -3.0f});
    return w;
  };
  auto a = make(), b = make();
  Parameter<bfloat16, Cpu>*const as[] = {&a}, *const bs[] = {&b};
  AdamWOptimizer<bfloat16, Cpu> whole, first, second, other(AdamW{.master = Master::none});
  for (int step = 0; step < 30; ++step) whole.step(ctx, as, 1e-4f);
  for (int step = 0; step < 11; ++step) first.step(ctx, bs, 1e-4f);
  auto saved = first.save(ctx);
  std::vector<std::string> names;
  for (const auto& entry : saved) names.push_back(entry.name);
  CHECK(names == std::vector<std::string>{"w.exp_avg", "w.exp_avg_sq", "w.master", "w.step"});
  second.load(ctx, bs, saved);
  for (int step = 0; step < 19; ++step) second.step(ctx, bs, 1e-4f);
  for (int i = 0; i < 3; ++i) CHECK(a.value.data()[i].bits == b.value.data()[i].bits);
  CHECK_THROWS_WITH_AS(other.load(ctx, bs, saved), doctest::Contains("'w.master' belongs to no"), Error);
  saved.erase(saved.begin() + 2);
  CHECK_THROWS_WITH_AS(second.load(ctx, bs, saved), doctest::Contains("lacks master"), Error);
  other.load(ctx, bs, saved);
}

TEST_CASE(
    "optim/adamw: a step with a check clips and takes the loss scale back; one that is not finite counts nowhere") {
  Context<Cpu> ctx;
  const auto data = trajectories();
  Model<float> a(ctx, data["parameters"]), b(ctx, data["parameters"]);
  AdamWOptimizer<float, Cpu> plain, checked;
  for (int step = 0; step < 6; ++step) {
    a.set_gradients(ctx, data["parameters"], step);
    b.set_gradients(ctx, data["parameters"], step);
    for (auto* w : b.pointers)
      if (w->grad)
        for (int64_t i = 0; i < w->grad.count(); ++i) w->grad.data()[i] *= 8;
    StepCheck check(ctx);
    check.add_loss(ctx, Tensor<float, Cpu>(ctx, Shape{}, {step == 2 ? INFINITY : 3.0f}));
    check.measure(ctx, b.pointers, 1.0f, 8.0f);
    const Verdict found = checked.step(ctx, b.pointers, 0.01f, check);
    CHECK(found.finite == (step != 2));
    const float norm = clip_grad_norm(ctx, a.pointers, 1.0f);
    CHECK(found.norm == doctest::Approx(double{norm}).epsilon(1e-6));
    if (step != 2) plain.step(ctx, a.pointers, 0.01f);
  }
  CHECK(checked.steps() == plain.steps());
  for (std::size_t k = 0; k < a.params.size(); ++k) {
    const auto expected = a.params[k].value.to_host(ctx), got = b.params[k].value.to_host(ctx);
    for (std::size_t i = 0; i < got.size(); ++i) CHECK(got[i] == doctest::Approx(expected[i]).epsilon(1e-5));
  }
}
