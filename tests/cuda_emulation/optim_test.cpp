// tests/cuda_emulation/optim_test.cpp: the optimizer's step on the GPU beside the CPU's: clipping, AdamW over many
// arrays in one launch, weights of 16 bits, averages, and the trainer's step around them.
#include <ftlib/ops/elementwise.hpp>
#include <ftlib/optim/optimizers.hpp>
#include <ftlib/train/trainer.hpp>

#include <cstring>

#include "../op_suite.hpp"
#include "../scratch.hpp"

using namespace ft;
using namespace ft::test;

namespace {
/// Parameters of odd, tiny and large sizes, one of them off its alignment, one without a gradient.
template <Scalar T, Device D> struct Model {
  std::vector<Parameter<T, D>> ws;
  std::vector<Parameter<T, D>*> params;
  Random random{9};

  explicit Model(Context<D>& ctx) {
    for (const Shape& shape : {Shape{1}, Shape{37, 29}, Shape{7}, Shape{16390}, Shape{3, 5}}) {
      ws.emplace_back(str("w", ws.size()), upload<T>(ctx, parameter(random, shape)));
      if (shape.rank() == 2) ws.back().kind = WeightKind::linear;
    }
    ws[1].value = upload<T>(ctx, parameter(random, {37, 29}), Layout::unaligned);
    for (auto& w : ws) params.push_back(&w);
  }
  /// Draws all gradients; those of the last parameter are forgotten.
  void set_gradients(Context<D>& ctx, double scale = 1) {
    for (auto& w : ws) w.grad = upload<accumulate_t<T>>(ctx, activation(random, w.shape(), scale));
    ws.back().grad = {};
  }
  std::vector<HostArray> weights(Context<D>& ctx) {
    std::vector<HostArray> all;
    for (auto& w : ws) all.push_back(download(ctx, w.value));
    return all;
  }
};

/// A state as numbers: bytes as they are.
HostArray host_array(const StateEntry& entry) {
  HostArray a(entry.shape);
  for (int64_t i = 0; i < a.count(); ++i) {
    const std::byte* const at =
        entry.bytes.data() + static_cast<std::size_t>(i) * (entry.bytes.size() / a.values.size());
    float f;
    double d;
    int64_t n;
    if (entry.type == "U8") a[i] = std::to_integer<int>(*at);
    else if (entry.type == "F64") std::memcpy(&d, at, sizeof d), a[i] = d;
    else if (entry.type == "I64") std::memcpy(&n, at, sizeof n), a[i] = static_cast<double>(n);
    else std::memcpy(&f, at, sizeof f), a[i] = f;
  }
  return a;
}

/// Four steps with StepCheck, the third of which is no number; verdicts, weights and state.
template <Scalar T, Device D> std::vector<HostArray> train(Context<D>& ctx, const OptimizerConfig& config) {
  Model<T, D> model(ctx);
  const auto optimizer = config.make<T, D>();
  std::vector<HostArray> results;
  for (int step = 0; step < 4; ++step) {
    model.set_gradients(ctx, step == 1 ? 1e-4 : 1);
    StepCheck check(ctx);
    for (const float loss : {1.5f, step == 2 ? NAN : 2.0f}) check.add_loss(ctx, Tensor<float, D>(ctx, Shape{}, {loss}));
    check.measure(ctx, model.params, 1.0f, 4.0f);
    const Verdict v = optimizer->step(ctx, model.params, 0.01f, check);
    CHECK(v.finite == (step != 2));
    if (v.finite) CHECK(v.loss == 3.5);
    results.emplace_back(Shape{}, double{v.norm});
    results.emplace_back(Shape{}, v.factor);
  }
  CHECK(optimizer->steps() == 3);
  for (auto& a : model.weights(ctx)) results.push_back(a);
  for (const auto& entry : optimizer->save(ctx)) results.push_back(host_array(entry));
  return results;
}
template <Scalar T> void beside_cpu(const OptimizerConfig& config, double tolerance) {
  Context<Cpu> cpu({.threads = 1, .seed = 7});
  const auto expected = train<T>(cpu, config);
  std::vector<HostArray> first;
  for (const uint64_t seed : {1u, 2u}) {
    cuda_emulation::set_seed(seed);
    Context<Cuda> ctx({.seed = 7});
    const auto got = train<T>(ctx, config);
    REQUIRE(got.size() == expected.size());
    for (std::size_t i = 0; i < got.size(); ++i) {
      CHECK(nmse(got[i], expected[i]) <= tolerance);
      if (seed == 1) first = got;
      else CHECK(got[i].values == first[i].values);
    }
  }
}
}  // namespace

TEST_CASE("cuda/optim: steps as on the CPU, the same in any order of threads; what is not finite changes nothing") {
  const auto adamw = [](Master master) { return AdamW{.lr = 0.01f, .weight_decay = 0.1f, .master = master}; };
  beside_cpu<float>(adamw(Master::none), 1e-12);
  beside_cpu<double>(adamw(Master::none), 1e-24);
  for (const Master master : {Master::none, Master::float32, Master::stochastic_rounding}) {
    beside_cpu<bfloat16>(adamw(master), 1e-6);  // a last bit of float may turn a rounding
    beside_cpu<ft::half>(adamw(master), 1e-8);
  }
}

TEST_CASE("cuda/optim: Lion's steps as on the CPU") {
  const auto lion = [](Master master) { return Lion{.lr = 0.01f, .weight_decay = 0.1f, .master = master}; };
  beside_cpu<float>(lion(Master::none), 1e-12);
  beside_cpu<double>(lion(Master::none), 1e-24);
  for (const Master master : {Master::none, Master::float32, Master::stochastic_rounding})
    beside_cpu<bfloat16>(lion(master), 1e-6);
}

TEST_CASE("cuda/optim: AdamW's steps with moments in 8 bits as on the CPU") {
  const auto adamw = [](Master master) {
    return AdamW8bit{.lr = 0.01f, .weight_decay = 0.1f, .master = master, .smallest = 64};
  };
  beside_cpu<double>(adamw(Master::none), 1e-12);
  beside_cpu<float>(adamw(Master::none), 1e-6);  // a last bit may choose another code
  for (const Master master : {Master::none, Master::float32, Master::stochastic_rounding})
    beside_cpu<bfloat16>(adamw(master), 1e-5);
}

TEST_CASE("cuda/optim: clip_grad_norm as on the CPU") {
  Context<Cpu> cpu({.threads = 1});
  Context<Cuda> ctx;
  for (const float max_norm : {0.0f, 1.0f, 1e6f}) {
    Model<float, Cpu> expected(cpu);
    Model<float, Cuda> got(ctx);
    expected.set_gradients(cpu);
    got.set_gradients(ctx);
    CHECK(clip_grad_norm(ctx, got.params, max_norm) ==
          doctest::Approx(clip_grad_norm(cpu, expected.params, max_norm)).epsilon(1e-6));
    for (std::size_t i = 0; i + 1 < got.ws.size(); ++i)
      CHECK(nmse(download(ctx, got.ws[i].grad), download(cpu, expected.ws[i].grad)) <= 1e-12);
  }
  CHECK(clip_grad_norm(ctx, std::vector<Parameter<float, Cuda>*>(), 1.0f) == 0);
}

TEST_CASE("cuda/optim: the number of launches does not grow with the number of parameters") {
  Context<Cuda> ctx;
  std::vector<Parameter<bfloat16, Cuda>> ws;
  for (int i = 0; i < 100; ++i) ws.emplace_back(str(i), Tensor<bfloat16, Cuda>::zeros(ctx, {65}));
  std::vector<Parameter<bfloat16, Cuda>*> params;
  for (auto& w : ws) {
    w.grad = upload<float>(ctx, scattered({65}));
    params.push_back(&w);
  }
  AdamWOptimizer<bfloat16, Cuda> optimizer;
  for (int step = 0; step < 2; ++step) {  // the first one makes the state
    const auto before = cuda_emulation::launches();
    StepCheck check(ctx);
    check.measure(ctx, params, 1.0f);
    optimizer.step(ctx, params, 0.01f, check);
    if (step == 1 && cuda_emulation::here) CHECK(cuda_emulation::launches() - before == 3);
  }
}

TEST_CASE("cuda/optim: changes below half a weight's last bit are kept, by floats or by chance") {
  Context<Cuda> ctx({.seed = 3});
  const int64_t n = 2000;
  double moved[3] = {};
  for (const Master master : {Master::none, Master::float32, Master::stochastic_rounding}) {
    Parameter<bfloat16, Cuda> w("w", upload<bfloat16>(ctx, HostArray({n}, 1)));
    Parameter<bfloat16, Cuda>* const params[] = {&w};
    AdamWOptimizer<bfloat16, Cuda> optimizer(AdamW{.master = master});
    for (int step = 0; step < 50; ++step) {
      w.grad = upload<float>(ctx, HostArray({n}, 1));
      optimizer.step(ctx, params, 2e-4f);  // Adam's steps are lr each; bfloat16 has 2^-8 below 1
    }
    for (const double v : download(ctx, w.value).values) moved[static_cast<int>(master)] += (1 - v) / n;
  }
  CHECK(moved[0] == 0);
  CHECK(moved[1] == doctest::Approx(0.01).epsilon(0.25));  // rounded to a multiple of 2^-8
  CHECK(moved[2] == doctest::Approx(0.01).epsilon(0.03));
}

TEST_CASE("cuda/optim: a run in 16 bits that was saved goes on to the bit") {
  for (const Master master : {Master::float32, Master::stochastic_rounding}) {
    const Scratch dir;
    const auto steps = [&](Context<Cuda>& ctx, auto& model, auto& optimizer, int from, int to) {
      for (int step = from; step < to; ++step) {
        model.random.seek(static_cast<uint64_t>(step) << 20);
        model.set_gradients(ctx);
        optimizer.step(ctx, model.params, 1e-4f);
      }
    };
    Context<Cuda> whole({.seed = 3}), other({.seed = 8});
    Model<bfloat16, Cuda> a(whole), b(other);
    AdamWOptimizer<bfloat16, Cuda> first(AdamW{.master = master}), second(first.config());
    steps(whole, a, first, 0, 3);
    save_checkpoint<bfloat16, Cuda>(whole, dir / "saved", a.params, first, RunState(), Description());
    steps(whole, a, first, 3, 6);
    load_checkpoint<bfloat16, Cuda>(other, dir / "saved", b.params, second, Description());
    steps(other, b, second, 3, 6);
    const auto expected = a.weights(whole), got = b.weights(other);
    for (std::size_t i = 0; i < got.size(); ++i) CHECK(got[i].values == expected[i].values);
  }
}

TEST_CASE("cuda/optim: weights and their average, as on the CPU") {
  const auto run = []<Device D>(Context<D>& ctx) {
    Random random(5);
    std::vector<Parameter<float, D>> ws;
    ws.emplace_back("a", upload<float>(ctx, activation(random, {33})));
    ws.emplace_back("b", upload<float>(ctx, activation(random, {4, 8}), Layout::unaligned));
    std::vector<Parameter<float, D>*> params{&ws[0], &ws[1]};
    WeightAverage<float, D> average(ctx, params, 0.9f);
    for (int step = 1; step < 4; ++step) {
      for (auto& w : ws) w.value = upload<float>(ctx, activation(random, w.shape()));
      average.update(ctx, step);
    }
    average.swap();
    return std::vector{download(ctx, ws[0].value), download(ctx, ws[1].value)};
  };
  Context<Cpu> cpu({.threads = 1});
  Context<Cuda> ctx;
  const auto expected = run(cpu), got = run(ctx);
  for (std::size_t i = 0; i < expected.size(); ++i) CHECK(nmse(got[i], expected[i]) <= 1e-12);
}

namespace {
/// The mean of (w x - y)^2 over 64 numbers, times `blow`.
struct LineMicro {
  static constexpr const char* kind = "line";
  double blow = 1;
  int64_t tokens() const { return 64; }
};
ft::Batch line_batch(std::initializer_list<double> blows) {
  ft::Batch batch;
  for (const double blow : blows) batch.add(LineMicro{blow}, 0);
  batch.targets = 1;
  batch.names = {"line"};
  return batch;
}
template <Scalar T, Device D> struct Line final : Trainable<T, D> {
  Context<D>& ctx;
  Parameter<T, D> w;

  explicit Line(Context<D>& c) : ctx(c), w("w", upload<T>(c, HostArray({8, 8}, 0.25))) {}
  Context<D>& context() override { return ctx; }
  std::vector<Parameter<T, D>*> parameters() override { return {&w}; }
  Loss<T, D> loss_sum(const MicroBatch& micro, bool) override {
    HostArray x = scattered({8, 8}), y = x;
    for (double& v : y.values) v *= 2;
    const auto wx = apply(upload<T>(ctx, x));
    return scale(ctx, mean_squared_error(ctx, wx, upload<T>(ctx, y)),
                 static_cast<float>(micro_cast<LineMicro>(micro).blow));
  }
  /// w x, as a weight that is an activation: its gradient goes to the parameter.
  Tensor<T, D> apply(const Tensor<T, D>& x) {
    Tensor<T, D> value = w.value.detached();
    record(ctx, "weight", value, {w}, [this](Gradients<T, D>& g) {
      const auto dw = convert<accumulate_t<T>>(g.context(), g.incoming_tensor());
      accumulate(g.context(), g.add(w), dw.view());
    });
    return mul(ctx, value, x);
  }
};
template <Scalar T, Device D> std::vector<HostArray> fit_line(Context<D>& ctx, TrainerConfig config, int steps) {
  Line<T, D> line(ctx);
  Trainer trainer(line, config);
  std::vector<HostArray> results;
  for (int i = 0; i < steps; ++i) {
    const Step s = trainer.step(line_batch({1, 0.5}), 0.01f);
    CHECK(!s.skipped);
    results.emplace_back(Shape{}, s.loss);
    results.emplace_back(Shape{}, double{s.grad_norm});
  }
  results.push_back(download(ctx, line.w.value));
  return results;
}
}  // namespace

TEST_CASE("cuda/optim: the trainer's step as on the CPU; in 16 bits near it") {
  TrainerConfig config;
  config.clip_norm = 0.1f;
  Context<Cpu> cpu({.threads = 1});
  Context<Cuda> ctx;
  const auto expected = fit_line<float>(cpu, config, 20), got = fit_line<float>(ctx, config, 20);
  CHECK(expected[0][0] > 1.2 * expected[38][0]);
  for (std::size_t i = 0; i < got.size(); ++i) CHECK(nmse(got[i], expected[i]) <= 1e-10);
  config.loss_scale = 1024;  // a power of two rounds nothing
  const auto scaled = fit_line<float>(ctx, config, 20);
  for (std::size_t i = 0; i < got.size(); ++i) CHECK(nmse(scaled[i], got[i]) <= 1e-14);
  config.loss_scale = 256;  // half has no 65536, the default, which backward begins with here
  const auto got16 = fit_line<bfloat16>(ctx, config, 20), gotf16 = fit_line<ft::half>(ctx, config, 20);
  for (std::size_t i = 0; i < got.size(); ++i) {
    CHECK(nmse(got16[i], expected[i]) <= 1e-3);
    CHECK(nmse(gotf16[i], expected[i]) <= 1e-5);
  }
}

TEST_CASE("cuda/optim: half's loss scale halves where gradients overflow; such a step changes nothing and is not bad") {
  Context<Cuda> ctx;
  Line<ft::half, Cuda> line(ctx);
  TrainerConfig config;
  config.loss_scale = 0x1p24f;  // twice half's largest number and more
  config.max_bad_steps = 2;
  Trainer trainer(line, config);
  const auto before = download(ctx, line.w.value).values;
  int skipped = 0;
  while (trainer.step(line_batch({1}), 0.01f).skipped) {
    CHECK(download(ctx, line.w.value).values == before);
    REQUIRE(++skipped < 20);
  }
  CHECK(skipped > 2);
  CHECK(download(ctx, line.w.value).values != before);
  const auto bad = line_batch({INFINITY});
  CHECK(trainer.step(bad, 0.01f).skipped);
  CHECK_THROWS_WITH_AS(trainer.step(bad, 0.01f), doctest::Contains("records: line"), Error);
}
