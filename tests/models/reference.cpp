// tests/models/reference.cpp: whole models beside transformers and peft: logits, losses, gradients, ten steps of
// training, adapters. Fixtures by tools/make_model_fixtures.py.
#include <doctest/doctest.h>
#include <ftlib/adapters/peft.hpp>
#include <ftlib/adapters/set.hpp>
#include <ftlib/io/json.hpp>
#include <ftlib/io/safetensors.hpp>
#include <ftlib/models/kit/registry.hpp>
#include <ftlib/ops/shape.hpp>
#include <ftlib/optim/adamw.hpp>
#include <ftlib/optim/clip.hpp>

#include "../model_fixtures.hpp"

#include <algorithm>
#include <cmath>
#include <optional>

using namespace ft;

namespace {

#if FTLIB_WITH_CUDA  // this file is compiled a second time in tests/cuda_emulation
using D = Cuda;
#else
using D = Cpu;
#endif

using ft::test::evidence;
using ft::test::model_data;

/// A model with what the reference made of it.
struct Case {
  Context<D> ctx;
  std::unique_ptr<LanguageModel<float, D>> model;
  std::vector<Parameter<float, D>*> parameters;
  std::optional<AdapterSet<float, D>> adapters;
  Json expected;
  SafetensorsFile arrays;

  explicit Case(const std::string& name)
      : expected(read_json(name.ends_with(".gguf") ? model_data / (name.substr(0, name.size() - 5) + ".expected.json")
                                                   : model_data / name / "expected.json")),
        arrays(SafetensorsFile::open(name.ends_with(".gguf")
                                         ? model_data / (name.substr(0, name.size() - 5) + ".expected.safetensors")
                                         : model_data / name / "expected.safetensors")) {
    ctx.poison(true);
    model = make_language_model<float>(ctx, Checkpoint::open(model_data / name));
    model->visit([&](Parameter<float, D>& w) { parameters.push_back(&w); });
    adapters.emplace(parameters);
  }
  void train_all() { adapters->train_all(ctx); }
  /// A PEFT folder, in use and to be trained.
  void take(const std::filesystem::path& folder) {
    adapters->put(ctx, "a", read_peft(folder));
    adapters->train(ctx, "a");
    adapters->use(ctx, "a");
  }
  static PackedTokens pack(const Json& sequences) {
    PackedTokens batch;
    for (const Json& s : sequences) {
      const auto tokens = s["tokens"].get<std::vector<int32_t>>(), wanted = s["targets"].get<std::vector<int32_t>>();
      batch.add(tokens);
      for (std::size_t i = 0; i < tokens.size(); ++i)
        if (i > 0 && !wanted[i]) batch.targets[batch.targets.size() - tokens.size() + i - 1] = ignored_target;
    }
    return batch;
  }
  std::vector<float> array(const std::string& name) const {
    const auto stored = arrays.tensor(name);
    std::vector<float> values(static_cast<std::size_t>(stored.shape.count()));
    dequantise_row(stored.type, stored.data, 0, stored.shape.count(), values.data());
    return values;
  }
  /// The largest difference to a fixture.
  double difference(const Tensor<float, D>& got, const std::string& name) {
    const auto expected_values = array(name), values = contiguous(ctx, got).to_host(ctx);
    REQUIRE(values.size() == expected_values.size());
    double most = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
      const double d = std::abs(double{values[i]} - double{expected_values[i]});
      if (!(d <= most)) most = d;
    }
    return most;
  }
};

}  // namespace

TEST_CASE("models: logits, hidden states and losses are transformers'") {
  auto names = ft::test::model_folders();
  for (const std::string& name : ft::test::model_ggufs()) names.push_back(name);
  for (const std::string& name : names) {
    CAPTURE(name);
    Case c(name);
    const auto& sequences = c.expected["sequences"];
    for (std::size_t i = 0; i < sequences.size(); ++i) {
      const auto logits = c.model->logits(c.ctx, Case::pack(Json::array({sequences[i]})));
      CHECK(evidence(name, "logits", c.difference(logits, str("logits.", i))) <= 1e-4);
      const double loss =
          static_cast<double>(c.model->nll_sum(c.ctx, Case::pack(Json::array({sequences[i]}))).item(c.ctx));
      const double wanted = c.expected["loss"]["sum"][i].get<double>();
      CHECK(evidence(name, "loss", std::abs(loss - wanted) / std::max(1.0, wanted)) <= 1e-5);
    }
    // Packed together, each sequence is what it is alone.
    const double all = static_cast<double>(c.model->nll_sum(c.ctx, Case::pack(sequences)).item(c.ctx));
    CHECK(all == doctest::Approx(c.expected["loss"]["total_sum"].get<double>()).epsilon(1e-5));
    if (c.expected.contains("hidden")) {
      const auto& sequence = sequences[c.expected["hidden"]["sequence"].get<std::size_t>()];
      std::vector<int64_t> layers;
      for (int64_t layer = 0; c.arrays.contains(str("hidden.", layer)); ++layer) layers.push_back(layer);
      const auto states = c.model->hidden_after(c.ctx, Case::pack(Json::array({sequence})), layers);
      for (const int64_t layer : layers)
        CHECK(c.difference(states[static_cast<std::size_t>(layer)], str("hidden.", layer)) <= 1e-4);
    }
  }
}

TEST_CASE("models: gradients of every parameter are transformers', recomputed or not") {
  for (const std::string& name : ft::test::model_folders())
    for (const bool recomputed : {false, true}) {
      CAPTURE(name);
      CAPTURE(recomputed);
      Case c(name);
      c.train_all();
      const auto batch =
          Case::pack(Json::array({c.expected["sequences"][c.expected["gradient"]["sequence"].get<std::size_t>()]}));
      Tape tape(c.ctx);
      const auto loss = c.model->nll_sum(c.ctx, batch, {.recompute = recomputed});
      tape.backward(loss, Tensor<float, D>(c.ctx, loss.shape(), {1.0f / static_cast<float>(batch.target_count())}));
      for (auto* w : c.parameters) {
        if (w->kind == WeightKind::constant) continue;
        CAPTURE(w->name);
        // Of those whose gradients are above 1 the bound grows with the largest, as rounding does.
        const bool relative = name.starts_with("qwen3_5") || name.starts_with("gemma4");
        const FolderPlace place = c.model->folder_place(*w);
        const auto there = c.array("grad." + place.name), here = w->grad.to_host(c.ctx);
        double most = 0, largest = 1;
        place.each(w->shape(), [&](int64_t to, int64_t from) {
          const double wanted = double{there.at(static_cast<std::size_t>(to))},
                       d = std::abs(wanted - double{here[static_cast<std::size_t>(from)]});
          if (!(d <= most)) most = d;
          if (relative) largest = std::max(largest, std::abs(wanted));
        });
        CHECK(evidence(name, "gradient", most) <= 2e-5 * largest);
      }
    }
}

TEST_CASE("models: ten steps of full fine-tuning and of LoRA are transformers' and peft's") {
  for (const std::string& name : ft::test::model_folders())
    for (const std::string way : {"full", "lora"}) {
      CAPTURE(name);
      CAPTURE(way);
      Case c(name);
      const auto& training = c.expected["training"];
      if (way == "full") c.train_all();
      else c.take(model_data / name / "adapter_initial");
      std::vector<Parameter<float, D>*> trained;
      for (auto* w : c.adapters->parameters(c.ctx))
        if (w->trainable) trained.push_back(w);
      AdamWOptimizer<float, D> optimizer({.lr = 1e-3f, .weight_decay = 0.01f});
      for (std::size_t step = 0; step < training["batches"].size(); ++step) {
        CAPTURE(step);
        const auto batch = Case::pack(training["batches"][step]);
        zero_grad(trained);
        Tape tape(c.ctx);
        const auto loss = c.model->nll_sum(c.ctx, batch);
        const auto n = static_cast<float>(batch.target_count());
        tape.backward(loss, Tensor<float, D>(c.ctx, loss.shape(), {1.0f / n}));
        const float norm = clip_grad_norm(c.ctx, trained, 1.0f);
        optimizer.step(c.ctx, trained, 1e-3f);
        const double off = static_cast<double>(loss.item(c.ctx) / n) - training[way]["losses"][step].get<double>();
        CHECK(evidence(name, way.c_str(), std::abs(off)) <= 1e-4);
        CHECK(norm == doctest::Approx(training[way]["grad_norms"][step].get<double>()).epsilon(1e-3));
      }
      CHECK(c.difference(c.model->logits(c.ctx, Case::pack(Json::array({c.expected["sequences"][2]}))),
                         way + ".logits") <= 1e-3);
    }
}
