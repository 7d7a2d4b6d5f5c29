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

#if FTLIB_WITH_CUDA  // this file is compiled a second time in tests/cuda_emulation, where a model takes seconds
using D = Cuda;
const bool recompute_ways[] = {true};
const std::string training_ways[] = {"lora"};
#else
using D = Cpu;
const bool recompute_ways[] = {false, true};
const std::string training_ways[] = {"full", "lora"};
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
  /// Of what is to be trained, beside the losses and norms in `theirs`.
  void ten_steps(const std::string& name, const char* way, const Json& theirs) {
    const Json& batches = expected["training"]["batches"];
    std::vector<Parameter<float, D>*> trained;
    for (auto* w : adapters->parameters(ctx))
      if (w->trainable) trained.push_back(w);
    AdamWOptimizer<float, D> optimizer({.lr = 1e-3f, .weight_decay = 0.01f});
    for (std::size_t step = 0; step < batches.size(); ++step) {
      CAPTURE(step);
      const auto batch = pack(batches[step]);
      zero_grad(trained);
      Tape tape(ctx);
      const auto loss = model->nll_sum(ctx, batch);
      const auto n = static_cast<float>(batch.target_count());
      tape.backward(loss, Tensor<float, D>(ctx, loss.shape(), {1.0f / n}));
      const float norm = clip_grad_norm(ctx, trained, 1.0f);
      optimizer.step(ctx, trained, 1e-3f);
      const double off = static_cast<double>(loss.item(ctx) / n) - theirs["losses"][step].get<double>();
      CHECK(evidence(name, way, std::abs(off)) <= 1e-4);
      CHECK(norm == doctest::Approx(theirs["grad_norms"][step].get<double>()).epsilon(1e-3));
    }
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
    for (const bool recomputed : recompute_ways) {
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
    for (const std::string& way : training_ways) {
      CAPTURE(name);
      CAPTURE(way);
      Case c(name);
      const auto& training = c.expected["training"];
      if (way == "full") c.train_all();
      else c.take(model_data / name / "adapter_initial");
      c.ten_steps(name, way.c_str(), training[way]);
      CHECK(c.difference(c.model->logits(c.ctx, Case::pack(Json::array({c.expected["sequences"][2]}))),
                         way + ".logits") <= 1e-3);
    }
}

TEST_CASE("models: LoRA on experts is peft's: ten steps, its files both ways, weighed, merged") {
  int models = 0;
  for (const std::string& name : ft::test::model_folders()) {
    const auto folder = model_data / name;
    if (!std::filesystem::exists(folder / "experts.json")) continue;
    CAPTURE(name);
    ++models;
    Case c(name);
    c.arrays = SafetensorsFile::open(folder / "experts.safetensors");
    const auto longest = Case::pack(Json::array({c.expected["sequences"][2]}));
    const auto difference = [&] { return c.difference(c.model->logits(c.ctx, longest), "trained.logits"); };
    c.take(folder / "experts_initial");
    c.ten_steps(name, "experts", read_json(folder / "experts.json"));
    CHECK(difference() <= 1e-3);

    CHECK(c.adapters->put(c.ctx, "b", read_peft(folder / "experts_trained")).empty());
    c.adapters->use(c.ctx, "b");
    CHECK(difference() <= 1e-4);
    const PeftBytes ours = peft_bytes(c.adapters->data(c.ctx, "b"));
    const auto theirs = SafetensorsFile::open(folder / "experts_trained" / "adapter_model.safetensors"),
               again = SafetensorsFile::parse(ours.tensors, "ours");
    CHECK(theirs.names() == again.names());
    for (const std::string& key : theirs.names()) {
      CAPTURE(key);
      CHECK(std::ranges::equal(again.bytes(key), theirs.bytes(key)));
    }
    const Json config = parse_json(ours.config, "ours"),
               wanted = read_json(folder / "experts_trained" / "adapter_config.json");
    for (const char* list : {"target_modules", "target_parameters"}) {
      auto one = config.at(list).get<std::vector<std::string>>(),
           other = wanted.at(list).get<std::vector<std::string>>();
      for (std::string& target : other)
        if (target.starts_with("mlp.")) target.erase(0, 4);
      std::sort(one.begin(), one.end());
      std::sort(other.begin(), other.end());
      CHECK(one == other);
    }
    CHECK(c.adapters->put(c.ctx, "again", read_peft(ours.config, ours.tensors)).empty());
    c.adapters->copy(c.ctx, "again", "half", 0.5f);
    c.adapters->use(c.ctx, {{"b", 0.5f}, {"half", 1.0f}});
    CHECK(difference() <= 1e-4);
    c.adapters->use(c.ctx, "b");
    c.adapters->merge(c.ctx);
    CHECK(difference() <= 2e-4);
  }
  CHECK(models == 2);
}

TEST_CASE("models: of experts, one alone, a router, dropout, DoRA and another peft's files are refused, and said why") {
  const auto folder = model_data / "qwen3_moe_tiny";
  Case c("qwen3_moe_tiny");
  const auto refused = [&](const Lora& lora, const char* why) {
    CHECK_THROWS_WITH_AS(c.adapters->add(c.ctx, "a", lora), doctest::Contains(why), Error);
  };
  const std::string stack = "model.layers.1.mlp.experts.gate_up_proj";
  CHECK(c.adapters->add(c.ctx, "a", {.rank = 2, .targets = {"experts.gate_up_proj"}}) == 10);
  CHECK(c.adapters->add(c.ctx, "a", {.rank = 2, .targets = {"q_proj", "gate_up_proj", "experts.down_proj"}}) == 17);
  const AdapterData fresh = c.adapters->data(c.ctx, "a");
  CHECK(fresh.tensors.at(stack + ".lora_A.weight").shape == Shape{10, 20});
  CHECK(fresh.tensors.at(stack + ".lora_B.weight").shape == Shape{24, 10});
  refused({.targets = {"experts.0.gate_proj"}}, "is no linear layer's; only matrices of linear layers are adapted");
  refused({.targets = {"mlp.gate"}}, "is no linear layer's");
  refused({.dropout = 0.1f, .targets = {"experts.down_proj"}}, "dropout is not supported there");
  refused({.targets = {"experts.down_proj"}, .kind = "dora"}, "an adapter of kind 'dora' is not supported there");
  refused({.targets = {"experts.down_proj"}, .modules_to_save = {"experts.3.down_proj"}},
          "is trained whole, and adapted as a part of 'model.layers.1.mlp.experts.down_proj'");
  AdapterData data = read_peft(folder / "experts_trained");
  auto& a = data.tensors.at(stack + ".lora_A.weight");
  a.shape = {20, 15};
  CHECK_THROWS_WITH_AS(
      c.adapters->put(c.ctx, "old", data),
      doctest::Contains("'base_model.model.model.layers.1.mlp."
                        "experts.base_layer.lora_A.weight' is (20, 15), the model and rank 3 ask for (15, 20)"),
      Error);
  data = read_peft(folder / "experts_trained");
  data.tensors.erase(stack + ".lora_A.weight");
  data.tensors.erase(stack + ".lora_B.weight");
  const auto told = c.adapters->put(c.ctx, "part", data);
  REQUIRE(told.size() == 1);
  CHECK(told[0].find("of 1 layers that target_modules names there are no tensors") != told[0].npos);
  CHECK(told[0].find(stack) != told[0].npos);
}

TEST_CASE("models: the loss that balances experts is transformers', in full training alone, recomputed or not") {
  int models = 0;
  for (const std::string& name : ft::test::model_folders()) {
    const auto file = model_data / name / "balance.json";
    if (!std::filesystem::exists(file)) continue;
    CAPTURE(name);
    ++models;
    const Json theirs = read_json(file);
    const auto coefficient = theirs["router_aux_loss_coef"].get<float>();
    Case c(name);
    const auto batch = Case::pack(c.expected["training"]["batches"][0]);
    const auto n = static_cast<float>(batch.target_count());
    const auto loss_of = [&](bool recompute) {
      const Tape tape(c.ctx);
      return c.model->nll_sum(c.ctx, batch, {.recompute = recompute}).item(c.ctx) / n;
    };
    c.train_all();
    CHECK(c.model->router_loss() == 0);
    const float plain = loss_of(false);
    c.model->set_router_loss(coefficient);
    const double aux = theirs["aux"][0].get<double>();
    CHECK(static_cast<double>((loss_of(false) - plain) / coefficient) == doctest::Approx(aux).epsilon(1e-5));
    CHECK(loss_of(true) == loss_of(false));
    CHECK(c.model->nll_sum(c.ctx, batch).item(c.ctx) / n == doctest::Approx(plain).epsilon(1e-6));  // not trained on
    std::vector<std::vector<float>> gradients;                                                      // of routers
    for (const bool recompute : {false, true}) {
      zero_grad(c.parameters);
      Tape tape(c.ctx);
      tape.backward(c.model->nll_sum(c.ctx, batch, {.recompute = recompute}));
      for (auto* w : c.parameters)
        if (w->kind == WeightKind::other && !w->part_of) gradients.push_back(w->grad.to_host(c.ctx));
    }
    REQUIRE(!gradients.empty());
    for (std::size_t i = 0; i < gradients.size() / 2; ++i) CHECK(gradients[i] == gradients[i + gradients.size() / 2]);
    zero_grad(c.parameters);
    c.ten_steps(name, "balance", theirs);
    CHECK_THROWS_WITH_AS(c.model->set_router_loss(-1), doctest::Contains("router_loss: a coefficient of -1"), Error);

    Case frozen(name);  // an adapter leaves routers as they are, and so is the loss
    frozen.take(model_data / name / "adapter_initial");
    frozen.model->set_router_loss(coefficient);
    const Tape tape(frozen.ctx);
    CHECK(frozen.model->nll_sum(frozen.ctx, batch).item(frozen.ctx) / n == doctest::Approx(plain).epsilon(1e-6));
  }
  CHECK(models == 2);
  Case dense("llama_tiny");
  CHECK_THROWS_WITH_AS(dense.model->set_router_loss(0.1f), doctest::Contains("has no routers"), Error);
}
