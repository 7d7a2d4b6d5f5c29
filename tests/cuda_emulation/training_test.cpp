// tests/cuda_emulation/training_test.cpp: whole models on the GPU beside the CPU: ten steps of training, in full, with
// LoRA, on quantised weights, in bfloat16 and half; and generation.
#include <doctest/doctest.h>
#include <ftlib/adapters/set.hpp>
#include <ftlib/models/kit/registry.hpp>
#include <ftlib/optim/adamw.hpp>
#include <ftlib/optim/loss_scale.hpp>
#include <ftlib/tensor/step_graph.hpp>
#include <ftlib/text/generate.hpp>

#include <cmath>
#include <filesystem>

#include "emulation.hpp"

using namespace ft;

namespace {

const std::filesystem::path models = std::filesystem::path(FTLIB_TEST_DATA) / "models";

template <Scalar T, Device D> struct Loaded {
  Context<D> ctx;
  std::unique_ptr<LanguageModel<T, D>> model;
  std::vector<Parameter<T, D>*> parameters;
  std::unique_ptr<AdapterSet<T, D>> adapters;

  explicit Loaded(const std::string& name) {
    model = make_language_model<T>(ctx, Checkpoint::open(models / name));
    model->visit([&](Parameter<T, D>& w) { parameters.push_back(&w); });
    adapters = std::make_unique<AdapterSet<T, D>>(parameters);
  }
};

std::vector<int32_t> tokens(Random& random, int64_t count) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < count; ++i) ids.push_back(static_cast<int32_t>(random.uniform() * 50));
  return ids;
}

/// Training on two batches in turn.
template <Scalar T, Device D> struct Training {
  Loaded<T, D> m;
  std::vector<Parameter<T, D>*> all;
  AdamWOptimizer<T, D> optimizer{AdamW{.weight_decay = 0.01f}};
  LossScale scale;
  StepGraph<D> graph;

  Training(const std::string& name, bool full, LossScale scale_ = LossScale(),
           StepGraph<D> graph_ = StepGraph<D>(false), const std::string& kind = "lora")
      : m(name), scale(scale_), graph(graph_) {
    if (full) {
      m.adapters->train_all(m.ctx);
    } else {
      m.adapters->add(m.ctx, "a", Lora{.rank = 4, .alpha = 8, .seed = 3, .kind = kind});
      m.adapters->use(m.ctx, "a");
    }
    all = m.adapters->parameters(m.ctx);
  }
  /// The verdict on step number i, with the mean loss.
  Verdict step(int i) {
    Random random(static_cast<uint64_t>(i % 2));
    PackedTokens batch;
    for (const int64_t length : {7, 3, i % 2 ? 12 : 5}) batch.add(tokens(random, length), 2);
    const auto n = static_cast<double>(batch.target_count());
    Verdict found;
    graph.run(m.ctx, [&] {
      StepCheck<D> check(m.ctx);
      zero_grad(all);
      Tape<D> tape(m.ctx);
      const auto nll = m.model->nll_sum(m.ctx, batch);
      check.add_loss(m.ctx, nll);
      using Loss = typename decltype(nll)::value_type;
      tape.backward(nll, Tensor<Loss, D>(m.ctx, nll.shape(), {static_cast<Loss>(double{scale.value()} / n)}));
      check.measure(m.ctx, all, 1.0f, scale.value());
      found = optimizer.step(m.ctx, all, 5e-3f, check);
    });
    scale.update(found.finite);
    found.loss /= n;
    return found;
  }
};

/// Mean losses of some steps.
template <Scalar T, Device D> std::vector<double> losses(Training<T, D> training, int steps = 10) {
  std::vector<double> result;
  for (int i = 0; i < steps; ++i) result.push_back(training.step(i).loss);
  return result;
}

}  // namespace

// Dense models in float are in tests/models/reference.cpp, beside transformers.
TEST_CASE("cuda/training: ten steps on quantised weights, and in bfloat16, come to the CPU's losses") {
  for (const std::string name : {"llama_q4_1.gguf", "gemma3_q4_k.gguf"}) {
    CAPTURE(name);
    const auto expected = losses(Training<float, Cpu>(name, false)), got = losses(Training<float, Cuda>(name, false));
    CHECK(expected.back() < expected.front() - 0.02);  // it learns
    for (std::size_t i = 0; i < expected.size(); ++i) CHECK(std::abs(got[i] - expected[i]) <= 1e-3);
  }
  {  // DoRA is made of kernels that others have
    const auto run = []<Device D>(D) {
      return losses(Training<float, D>("llama_q4_1.gguf", false, LossScale(), StepGraph<D>(false), "dora"), 4);
    };
    const auto expected = run(Cpu{}), got = run(Cuda{});
    CHECK(expected.back() < expected.front());
    for (std::size_t i = 0; i < expected.size(); ++i) CHECK(std::abs(got[i] - expected[i]) <= 1e-3);
  }
  for (const std::string name : {"llama_tiny", "gemma3_q4_k.gguf"}) {
    CAPTURE(name);
    const bool full = !name.ends_with(".gguf");
    const auto expected = losses(Training<float, Cpu>(name, full)), got = losses(Training<bfloat16, Cuda>(name, full));
    for (std::size_t i = 0; i < expected.size(); ++i)
      CHECK(std::abs(got[i] - expected[i]) <= 0.03 * expected.front());  // eight bits of each number
  }
}

TEST_CASE("cuda/training: ten steps in half with a loss scale come to the CPU's losses; what overflows is skipped") {
  const auto expected = losses(Training<float, Cpu>("llama_tiny", true)),
             got = losses(Training<ft::half, Cuda>("llama_tiny", true, LossScale(1024)));
  CHECK(expected.back() < expected.front() - 0.02);
  for (std::size_t i = 0; i < expected.size(); ++i)
    CHECK(std::abs(got[i] - expected[i]) <= 0.03 / 8 * expected.front());  // eleven bits, where bfloat16 has eight

  Training<ft::half, Cuda> training("llama_tiny", true, LossScale(0x1p24f));  // half ends at 2^16
  const auto weights = [&] {
    std::vector<uint16_t> bits;
    for (const auto* w : training.all)
      for (const ft::half v : w->value.to_host(training.m.ctx)) bits.push_back(v.bits);
    return bits;
  };
  const auto before = weights();
  int skipped = 0;
  for (Verdict found = training.step(0); !found.finite; found = training.step(0)) {
    CHECK(std::isfinite(found.loss));  // it is the gradients that overflow
    CHECK(weights() == before);
    REQUIRE(++skipped < 24);
    CHECK(training.scale.value() == std::ldexp(0x1p24f, -skipped));
  }
  CHECK(skipped > 2);
  CHECK(weights() != before);
  CHECK(training.optimizer.steps() == 1);
}

TEST_CASE("cuda/training: each step as one graph, which the next one updates, gives the same bits") {
  CHECK(losses(Training<float, Cuda>("llama_q4_1.gguf", false, LossScale(), StepGraph<Cuda>(true)), 4) ==
        losses(Training<float, Cuda>("llama_q4_1.gguf", false), 4));
}

TEST_CASE("cuda/training: generation gives the CPU's tokens, many prompts at once") {
  const auto generate = []<Device D>(D, const std::string& name, const Sampling& sampling) {
    Loaded<float, D> m(name);
    Random random(4);
    TokenGenerator<float, D> generator(m.ctx, *m.model, {tokens(random, 5), tokens(random, 1), tokens(random, 9)},
                                       {.max_new_tokens = 6, .sampling = sampling, .seed = 2}, {});
    std::vector<std::pair<int64_t, int32_t>> all;
    while (!generator.done())
      for (const auto& token : generator.next()) all.push_back(token);
    return all;
  };
  const Sampling drawn{.repetition_penalty = 1.2f, .temperature = 1, .top_k = 40, .top_p = 0.9f};
  for (const std::string name : {"llama_tiny", "gemma3_tiny"})
    for (const Sampling& sampling : {Sampling{}, drawn})
      CHECK(generate(Cuda{}, name, sampling) == generate(Cpu{}, name, sampling));
}
