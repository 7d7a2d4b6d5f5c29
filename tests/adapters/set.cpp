// tests/adapters/set.cpp: named adapters of a model: switching, sums, scopes, the head, weights trained whole, and what
// is refused.
#include "../scratch.hpp"

#include <doctest/doctest.h>
#include <ftlib/adapters/peft.hpp>
#include <ftlib/autograd/gradcheck.hpp>
#include <ftlib/finetune.hpp>
#include <ftlib/io/json.hpp>

#include <chrono>

using namespace ft;
using ft::test::Scratch;

namespace adapters_test {
namespace {
using Lm = CausalLM<float, Cpu>;
const std::filesystem::path models = std::filesystem::path(FTLIB_TEST_DATA) / "models";
const std::vector<int32_t> tokens{7, 70, 6, 46, 90, 3, 22, 51, 8, 33, 12};

Lm open(const std::string& name = "llama_untied") { return Lm::from_pretrained(models / name, {.threads = 1}); }
std::vector<float> logits(Lm& lm) {
  const NoGrad off(lm.context());
  PackedTokens batch;
  batch.add(tokens);
  return lm.model().logits(lm.context(), batch).to_host(lm.context());
}
float loss(Lm& lm) {
  const NoGrad off(lm.context());
  PackedTokens batch;
  batch.add(tokens);
  return lm.loss_sum(batch).item(lm.context());
}
double difference(const std::vector<float>& a, const std::vector<float>& b) {
  REQUIRE(a.size() == b.size());
  double most = 0;
  for (std::size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(double{a[i]} - double{b[i]}));
  return most;
}
/// A few steps on one sequence; what it came to is the loss.
float learn(Lm& lm, int steps = 4, bool recompute = false) {
  std::vector<Parameter<float, Cpu>*> params;
  for (auto* w : lm.parameters())
    if (w->trainable) params.push_back(w);
  REQUIRE(!params.empty());
  AdamWOptimizer<float, Cpu> optimizer({.lr = 2e-2f});
  PackedTokens batch;
  batch.add(tokens);
  for (int step = 0; step < steps; ++step) {
    zero_grad(std::span<Parameter<float, Cpu>* const>(params));
    Tape tape(lm.context());
    tape.backward(lm.loss_sum(batch, recompute));
    optimizer.step(lm.context(), params, 2e-2f);
  }
  return loss(lm);
}

TEST_CASE(
    "adapters: LoRA on the head learns, and loss, logits and generated text go through it; saved, it is the same") {
  Scratch dir;
  for (const std::string kind : {"lora", "dora"}) {
    CAPTURE(kind);
    auto lm = open();
    const auto base = logits(lm);
    const float before = loss(lm);
    CHECK_THROWS_WITH_AS(lm.attach(Lora{.targets = {"lm_head", "q_porj"}}), doctest::Contains("'q_porj'"), Error);
    lm.attach(Lora{.rank = 4, .alpha = 8, .targets = {"lm_head"}, .kind = kind});
    CHECK(difference(logits(lm), base) <= 1e-5);
    CHECK(std::abs(loss(lm) - before) <= 1e-4);
    const float after = learn(lm);
    CHECK(after < before - 0.5f);
    const auto tuned = logits(lm);
    CHECK(difference(tuned, base) > 0.1);
    double nll = 0;  // the loss is that of the logits
    for (std::size_t i = 0; i + 1 < tokens.size(); ++i) {
      double sum = 0;
      for (std::size_t v = 0; v < 97; ++v) sum += std::exp(double{tuned[i * 97 + v]});
      nll += std::log(sum) - double{tuned[i * 97 + static_cast<std::size_t>(tokens[i + 1])]};
    }
    CHECK(std::abs(nll - double{after}) <= 1e-3);
    TokenGenerator<float, Cpu> generator(lm.context(), lm.model(), {tokens}, {.max_new_tokens = 1}, {});
    const auto next = generator.next().front().second;
    const auto last = tuned.end() - 97;
    CHECK(next == std::max_element(last, tuned.end()) - last);
    lm.save_adapter(dir / kind);
    auto again = open();
    again.load_adapter(dir / kind);
    CHECK(difference(logits(again), tuned) <= 1e-6);
    again.merge();
    CHECK(difference(logits(again), tuned) <= 1e-4);
  }
  auto tied = open("llama_tiny");
  CHECK_THROWS_WITH_AS(tied.attach(Lora{.targets = {"lm_head"}}), doctest::Contains("no linear layer's name"), Error);
  CHECK_THROWS_WITH_AS(tied.load_adapter(dir / "lora"), doctest::Contains("this model's head is its embedding"), Error);
  CHECK_THROWS_WITH_AS(tied.attach(Lora{.targets = {"embed_tokens"}}), doctest::Contains("is an embedding"), Error);
}

TEST_CASE("adapters: the loss of an adapted head has the gradients of its differences, in chunks and recomputed") {
  Context<Cpu> ctx({.threads = 1});
  Random random(3);
  const auto values = [&](const Shape& shape) {
    std::vector<double> v(static_cast<std::size_t>(shape.count()));
    for (double& e : v) e = 2 * random.uniform() - 1;
    return Tensor<double, Cpu>(ctx, shape, v);
  };
  Parameter<double, Cpu> w("lm_head.weight", values({13, 6}), false);
  w.kind = WeightKind::head;
  AdapterSet<double, Cpu> set({&w});
  for (const std::string kind : {"lora", "dora"}) {
    CAPTURE(kind);
    set.add(ctx, "a", Lora{.rank = 2, .alpha = 3, .targets = {"lm_head"}, .kind = kind});
    set.use(ctx, "a");
    std::vector<Parameter<double, Cpu>*> own;
    for (auto* p : set.parameters(ctx))
      if (p != &w) own.push_back(p);
    CHECK(own.size() == (kind == "lora" ? 2 : 3));
    own[1]->value = values(own[1]->shape());
    if (kind == "dora")
      own.resize(1);  // the norm is a constant of A's and B's gradients, so differences are other ones
    const std::vector<int32_t> targets{3, ignored_target, 12, 0, 7};
    const auto run = [&](Context<Cpu>& c, std::vector<Tensor<double, Cpu>>& xs) {
      return head_loss(c, xs[0], w, targets, 2 * 13 * 8);
    };
    std::vector<Parameter<double, Cpu>*> checked = kind == "lora" ? own : std::vector<Parameter<double, Cpu>*>{};
    CHECK(gradcheck(ctx, run, {values({5, 6})}, std::span<Parameter<double, Cpu>* const>(checked)) == "");
    set.use_base(ctx);
  }
}

TEST_CASE("adapters: norms that are trained beside LoRA are saved and come back, by modules_to_save or train()") {
  Scratch dir;
  for (const bool by_hand : {false, true}) {
    CAPTURE(by_hand);
    auto lm = open();
    const auto base = logits(lm);
    Lora lora{.rank = 2, .alpha = 4, .targets = {"q_proj"}};
    if (!by_hand) lora.modules_to_save = {"norm", "lm_head"};
    lm.attach(lora);
    if (by_hand) lm.train([](const auto& w) { return w.name.ends_with("norm.weight"); });
    CHECK(logits(lm) == base);
    const float before = loss(lm), after = learn(lm);
    CHECK(after < before - 0.5f);
    const auto tuned = logits(lm);
    lm.save_adapter(dir / "adapter");
    auto again = open();
    again.load_adapter(dir / "adapter");
    CHECK(logits(again) == tuned);
    CHECK(loss(again) == after);
    const auto config = read_json(dir / "adapter" / "adapter_config.json");
    CHECK(config["modules_to_save"].size() == (by_hand ? 5 : 2));
    if (!by_hand) {
      lm.use_base();
      CHECK(logits(lm) == base);  // the base is what it was
      lm.use("default");
      lm.merge();
      CHECK(difference(logits(lm), tuned) <= 1e-4);
    } else {
      CHECK_THROWS_WITH_AS(lm.session(), doctest::Contains("of the base is trained"), Error);
    }
  }
  auto tied = open("llama_tiny");
  CHECK_THROWS_WITH_AS(tied.attach(Lora{.modules_to_save = {"embed_tokens"}}),
                       doctest::Contains("embedding and the head at once"), Error);
  CHECK_THROWS_WITH_AS(tied.attach(Lora{.modules_to_save = {"nothing"}}), doctest::Contains("ends with 'nothing'"),
                       Error);
  auto both = open();
  both.attach(Lora{.rank = 2, .targets = {"q_proj"}});
  for (auto* w : both.parameters())
    if (w->name == "model.layers.0.self_attn.q_proj.weight") w->trainable = true;
  CHECK_THROWS_WITH_AS(both.save_adapter(dir / "both"), doctest::Contains("at once: no file holds that"), Error);
}

TEST_CASE("adapters: many in a set, switched, weighed, off in a scope; each is what it is alone") {
  auto lm = open();
  const auto base = logits(lm);
  std::map<std::string, std::vector<float>> alone;
  for (const std::string name : {"one", "two", "three"}) {
    lm.attach(name, Lora{.rank = 2,
                         .alpha = 4,
                         .targets = {"q_proj", "up_proj"},
                         .seed = name.size(),
                         .kind = name == "two" ? "dora" : "lora",
                         .modules_to_save =
                             name == "three" ? std::vector<std::string>{"model.norm"} : std::vector<std::string>{}});
    learn(lm, 1 + static_cast<int>(name.size()));
    lm.adapters().freeze(lm.context());
    alone[name] = logits(lm);
    CHECK(difference(alone[name], base) > 1e-2);
  }
  for (const auto& [name, expected] : alone) {
    lm.use(name);
    CHECK(logits(lm) == expected);
    const AdaptersOff off(lm);
    CHECK(logits(lm) == base);
  }
  lm.use("two");
  {
    const AdaptersOff off(lm.context());
    CHECK(logits(lm) == base);
  }
  CHECK(logits(lm) == alone["two"]);
  lm.use({{"one", 1.0f}, {"two", 0.0f}});
  CHECK(difference(logits(lm), alone["one"]) <= 1e-4);
  lm.use({{"one", 0.0f}, {"three", 0.0f}});
  CHECK(difference(logits(lm), base) <= 1e-4);
  // A sum is what merging it says.
  for (const std::map<std::string, float>& sum :
       {std::map<std::string, float>{{"one", 0.7f}, {"two", 0.4f}, {"three", 0.5f}},
        {{"two", 0.5f}},
        {{"three", 2.0f}}}) {
    auto merged = open();
    lm.use(sum);
    const auto expected = logits(lm);
    for (const auto& [name, strength] : sum) {
      auto data = lm.adapters().data(lm.context(), name);
      merged.adapters().put(merged.context(), name, data);
    }
    merged.use(sum);
    CHECK(difference(logits(merged), expected) <= 1e-4);
    merged.merge();
    CHECK(difference(logits(merged), expected) <= 2e-4);
    CHECK(merged.adapters().names().empty());
  }
  // Switching is for each request.
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < 100; ++i) lm.use(i % 2 ? "one" : "three");
  const double each = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() / 100;
  MESSAGE("switching an adapter takes " << 1e6 * each << " us");
  CHECK(each < 5e-3);
  lm.adapters().remove("one");
  CHECK_THROWS_WITH_AS(lm.use("one"), doctest::Contains("none called 'one'"), Error);
  lm.use("two");
  lm.adapters().remove("two");
  CHECK(logits(lm) == alone["two"]);  // whoever uses it keeps it
}

TEST_CASE("adapters: interpolated, LoRA, DoRA and whole weights are between base and tuned, and saved so") {
  Scratch dir;
  for (const std::string kind : {"lora", "dora"}) {
    CAPTURE(kind);
    auto lm = open();
    const auto base = logits(lm);
    lm.attach(Lora{.rank = 4, .alpha = 8, .kind = kind, .modules_to_save = {"input_layernorm"}});
    learn(lm);
    CHECK_THROWS_WITH_AS(lm.use({{"default", 0.4f}}), doctest::Contains("cannot learn as a part of a sum"), Error);
    lm.adapters().copy(lm.context(), "default", "frozen");
    lm.use({{"frozen", 0.4f}});
    const auto weighed = logits(lm);
    CHECK_THROWS_WITH_AS(lm.save_adapter(dir / "x"), doctest::Contains("strengths other than 1"), Error);
    lm.use("default");
    const auto tuned = logits(lm);
    lm.interpolate(0.4f);
    const auto got = logits(lm);
    CHECK(difference(got, weighed) <= 2e-4);
    CHECK(difference(got, tuned) > 1e-2);
    lm.save_adapter(dir / kind);
    auto again = open();
    again.load_adapter(dir / kind);
    CHECK(difference(logits(again), got) <= 1e-6);
    lm.interpolate(0);
    CHECK(difference(logits(lm), base) <= 1e-4);
  }
}

TEST_CASE("adapters: to and from memory, frozen or to be trained on, and whose they are") {
  auto lm = open();
  lm.attach(
      Lora{.rank = 3, .alpha = 5, .rslora = true, .rank_pattern = {{"up_proj", 2}}, .alpha_pattern = {{"v_proj", 9}}});
  learn(lm);
  const auto tuned = logits(lm);
  const PeftBytes bytes = peft_bytes(lm.adapters().data(lm.context(), "default"));

  auto other = lm.session();
  CHECK(difference(logits(other), tuned) > 1e-2);  // the base
  CHECK_THROWS_WITH_AS(other.use("default"), doctest::Contains("trained by another session"), Error);
  CHECK_THROWS_WITH_AS(other.attach(Lora{}), doctest::Contains("trained by another session"), Error);
  CHECK_THROWS_WITH_AS(other.train_all(), doctest::Contains("1 other session(s) share these weights"), Error);
  CHECK_THROWS_WITH_AS(lm.merge(), doctest::Contains("1 other session(s) share these weights"), Error);
  lm.adapters().copy(lm.context(), "default", "live");
  other.use("live");
  CHECK(logits(other) == tuned);
  learn(lm);
  CHECK(logits(other) == tuned);
  CHECK(logits(lm) != tuned);
  other.adapters().put(other.context(), "blob", read_peft(bytes.config, bytes.tensors));
  other.use("blob");
  CHECK(logits(other) == tuned);
  for (auto* w : other.parameters()) CHECK(!w->trainable);
  other.adapters().train(other.context(), "blob");
  learn(other);
  CHECK(difference(logits(other), tuned) > 1e-3);
  lm.use("live");
  CHECK(logits(lm) == tuned);
  CHECK_THROWS_WITH_AS(lm.use("blob"), doctest::Contains("trained by another session"), Error);
  { const auto end = std::move(other); }
  lm.use("blob");  // frozen when its session ended
}

TEST_CASE("adapters: what is trained outlives the name, the set and the model") {
  std::vector<std::shared_ptr<Parameter<float, Cpu>>> kept;
  {
    auto lm = open();
    lm.attach(Lora{.rank = 2});
    kept = lm.shared_parameters();
    lm.attach(Lora{.rank = 3});
    lm.detach();
  }
  for (const auto& w : kept) CHECK(w->count() > 0);
}

TEST_CASE("adapters: DoRA beside a quantised base is W at first, learns, recomputed or not, and merges to what it is") {
  for (const std::string name : {"llama_q4_1.gguf", "gemma3_q4_k.gguf"}) {
    CAPTURE(name);
    auto lm = open(name), again = open(name);
    const auto base = logits(lm);
    for (Lm* m : {&lm, &again}) m->attach(Lora{.rank = 4, .alpha = 8, .kind = "dora"});
    CHECK(difference(logits(lm), base) <= 1e-3);
    const float before = loss(lm), after = learn(lm, 3);
    CHECK(after < before - 0.1f);
    CHECK(std::abs(learn(again, 3, /*recompute=*/true) - after) <= 1e-4f);
    const auto tuned = logits(lm);
    lm.adapters().freeze(lm.context());  // the norms are kept from now on
    CHECK(logits(lm) == tuned);
    CHECK(logits(lm) == tuned);
    lm.merge();
    CHECK(difference(logits(lm), tuned) <= 1e-3);
  }
}

TEST_CASE("adapters: train_all is all or nothing") {
  const auto file = models / "llama_q4_1.gguf";
  auto free = Lm::from_pretrained(file, {.threads = 1});
  const auto before = logits(free);
  const auto enough = free.context().memory().peak;  // to answer, but not for all weights in float32
  auto lm = Lm::from_pretrained(file, {.threads = 1, .memory_limit = enough});
  CHECK(logits(lm) == before);
  CHECK_THROWS_WITH_AS(
      lm.train_all(),
      doctest::Contains(str("train: ", lm.adapters().base().size(), " weights in float32 take").c_str()), Error);
  for (auto* w : lm.parameters()) CHECK(!w->trainable);
  CHECK(lm.summary().stored.contains(DType::q4_1));
  CHECK(logits(lm) == before);
  free.train_all();
  CHECK(!free.summary().stored.contains(DType::q4_1));
}

TEST_CASE("adapters: train() takes what it is told, or nothing") {
  auto lm = Lm::from_pretrained(models / "llama_q4_1.gguf", {.threads = 1});
  const auto is_mlp = [](const auto& w) { return w.name.find(".layers.1.mlp.") != std::string::npos; };
  const auto before = logits(lm);
  lm.train(is_mlp);
  for (auto* w : lm.parameters()) CHECK(w->trainable == is_mlp(*w));
  CHECK(lm.summary().stored.contains(DType::q4_1));  // the rest stays as it lies in the file
  CHECK(difference(logits(lm), before) <= 1e-4);
  const float untrained = loss(lm);
  CHECK(learn(lm) < untrained);
  lm.train([](const auto& w) { return w.name == "model.norm.weight"; });
  for (auto* w : lm.parameters()) CHECK(w->trainable == (w->name == "model.norm.weight"));
  CHECK_THROWS_WITH_AS(lm.train([](const auto&) { return false; }), doctest::Contains("weights is meant"), Error);
  lm.attach(Lora{.rank = 2, .targets = {"up_proj"}});
  CHECK_THROWS_WITH_AS(lm.train(is_mlp), doctest::Contains("layers.1.mlp.up_proj.weight' has an adapter"), Error);
  for (auto* w : lm.parameters()) CHECK(w->trainable == (w->name.find("lora_") != std::string::npos));
}

}  // namespace
}  // namespace adapters_test
