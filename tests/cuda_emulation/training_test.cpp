// tests/cuda_emulation/training_test.cpp: whole models on the GPU beside the CPU: ten steps of training, in full, with
// LoRA, on quantised weights, in bfloat16; and generation.
#include <doctest/doctest.h>
#include <ftlib/models/registry.hpp>
#include <ftlib/nn/lora.hpp>
#include <ftlib/nn/trainable.hpp>
#include <ftlib/optim/adamw.hpp>
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

  explicit Loaded(const std::string& name) {
    auto checkpoint = Checkpoint::open(models / name);
    model = make_language_model<T>(ctx, checkpoint.config, checkpoint.weights);
    model->visit([&](Parameter<T, D>& w) { parameters.push_back(&w); });
  }
};

std::vector<int32_t> tokens(Random& random, int64_t count) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < count; ++i) ids.push_back(static_cast<int32_t>(random.uniform() * 50));
  return ids;
}

/// Mean losses of some steps on the same two batches.
template <Scalar T, Device D>
std::vector<double> losses(const std::string& name, bool full, int steps = 10,
                           StepGraph<D> graph = StepGraph<D>(false)) {
  Loaded<T, D> m(name);
  if (full) train_all<T, D>(m.ctx, m.parameters);
  else attach<T, D>(m.ctx, m.parameters, Lora{.rank = 4, .alpha = 8, .seed = 3});
  const auto all = with_adapters<T, D>(m.parameters);
  Optimizer<T, D> optimizer(AdamW{.weight_decay = 0.01f});
  std::vector<double> result;
  for (int step = 0; step < steps; ++step) {
    Random random(static_cast<uint64_t>(step % 2));
    PackedTokens batch;
    for (const int64_t length : {7, 3, step % 2 ? 12 : 5}) batch.add(tokens(random, length), 2);
    graph.run(m.ctx, [&] {
      StepCheck<D> check(m.ctx);
      zero_grad(all);
      Tape<D> tape(m.ctx);
      const auto nll = m.model->nll_sum(m.ctx, batch);
      check.add_loss(m.ctx, nll);
      using Loss = typename decltype(nll)::value_type;
      const auto n = static_cast<Loss>(batch.target_count());
      tape.backward(nll, Tensor<Loss, D>(m.ctx, nll.shape(), {1 / n}));
      check.measure(m.ctx, all, 1.0f, 1.0f);
      result.push_back(optimizer.step(m.ctx, all, 5e-3f, check).loss / double{n});
    });
  }
  return result;
}

}  // namespace

// Dense models in float are in tests/models/reference.cpp, beside transformers.
TEST_CASE("cuda/training: ten steps on quantised weights, and in bfloat16, come to the CPU's losses") {
  for (const std::string name : {"llama_q4_1.gguf", "gemma3_q4_k.gguf"}) {
    CAPTURE(name);
    const auto expected = losses<float, Cpu>(name, false), got = losses<float, Cuda>(name, false);
    CHECK(expected.back() < expected.front() - 0.02);  // it learns
    for (std::size_t i = 0; i < expected.size(); ++i) CHECK(std::abs(got[i] - expected[i]) <= 1e-3);
  }
  for (const std::string name : {"llama_tiny", "gemma3_q4_k.gguf"}) {
    CAPTURE(name);
    const bool full = !name.ends_with(".gguf");
    const auto expected = losses<float, Cpu>(name, full), got = losses<bfloat16, Cuda>(name, full);
    for (std::size_t i = 0; i < expected.size(); ++i)
      CHECK(std::abs(got[i] - expected[i]) <= 0.03 * expected.front());  // eight bits of each number
  }
}

TEST_CASE("cuda/training: each step as one graph, which the next one updates, gives the same bits") {
  CHECK(losses<float, Cuda>("llama_q4_1.gguf", false, 4, StepGraph<Cuda>(true)) ==
        losses<float, Cuda>("llama_q4_1.gguf", false, 4));
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
