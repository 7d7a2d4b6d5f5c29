// tests/train/trainer.cpp: the loop on a tiny real model: resuming, accumulation, early stopping, bad losses, signals.
#include "../scratch.hpp"

#include <doctest/doctest.h>
#include <ftlib/finetune.hpp>
#include <ftlib/io/json.hpp>

#include <sys/resource.h>
#include <sys/wait.h>
#include <csignal>
#include <cstring>
#include <fstream>

using namespace ft;
using ft::test::Scratch;

namespace {

using Lm = CausalLM<float, Cpu>;

Lm open_tiny() {
  auto lm = Lm::from_pretrained(std::filesystem::path(FTLIB_TEST_DATA) / "models" / "llama_q4_1.gguf",
                                {.threads = 2, .seed = 5});
  lm.attach({.rank = 4, .alpha = 8, .dropout = 0.1f, .seed = 3});  // dropout: the random state must be resumed too
  return lm;
}
text::Dataset some_data(const Lm& lm, std::size_t n = 40) {
  std::vector<text::Record> records;
  for (std::size_t i = 0; i < n; ++i)
    records.push_back({.id = str("r", i),
                       .question = str("what is ", i, std::string(i % 7, 'x'), "?"),
                       .answers = {str("it is ", i * i)},
                       .context = "",
                       .lang = "",
                       .split = ""});
  return text::Dataset(records, lm.tokenizer());
}
TrainerConfig config(const std::filesystem::path& out = {}) {
  TrainerConfig c;
  c.optimizer = AdamW{.lr = 2e-2f};
  c.epochs = 2;
  c.batch_tokens = 128;
  c.out_dir = out;
  return c;
}
std::vector<float> weights(Lm& lm) {
  std::vector<float> all;
  for (auto* w : lm.parameters())
    if (w->trainable) {
      const auto values = w->value.to_host(lm.context());
      all.insert(all.end(), values.begin(), values.end());
    }
  return all;
}

}  // namespace

TEST_CASE("trainer: the loss falls, metrics and TensorBoard files are written") {
  Scratch dir;
  auto lm = open_tiny();
  const auto [learned, held_out] = some_data(lm).split(0.8, 1);
  Trainer trainer(lm, config(dir / "run"));
  int64_t seen = 0;
  trainer.on_step([&](const Step& s) {
    CHECK(s.step == ++seen);
    return Flow::go;
  });
  const auto report = trainer.fit(learned, &held_out);
  CHECK(report.finished);
  CHECK(report.steps == seen);
  CHECK(report.train_loss.back().y < 0.8 * report.train_loss.front().y);
  CHECK(report.held_out_loss.size() == 2);
  std::ifstream lines(dir / "run/metrics.jsonl");
  int64_t steps = 0;
  for (std::string line; std::getline(lines, line);) steps += Json::parse(line).contains("lr");
  CHECK(steps == report.steps);
  CHECK(!std::filesystem::is_empty(dir / "run/tensorboard"));
}

TEST_CASE("trainer: micro-batches of any size give the same steps") {
  std::vector<double> whole, split;
  for (auto* losses : {&whole, &split}) {
    auto lm =
        Lm::from_pretrained(std::filesystem::path(FTLIB_TEST_DATA) / "models" / "llama_q4_1.gguf", {.threads = 2});
    lm.attach({.rank = 4, .alpha = 8});
    const auto data = some_data(lm);
    auto c = config();
    c.micro_batch_tokens = losses == &whole ? 0 : 30;
    Trainer trainer(lm, c);
    for (const auto& point : trainer.fit(data).train_loss) losses->push_back(point.y);
  }
  REQUIRE(whole.size() == split.size());
  for (std::size_t i = 0; i < whole.size(); ++i) CHECK(split[i] == doctest::Approx(whole[i]).epsilon(1e-4));
}

TEST_CASE("trainer: a loss scale that is a power of two changes no bit of a step") {
  std::vector<std::vector<float>> ends;
  for (const float loss_scale : {0.0f, 256.0f}) {
    auto lm = open_tiny();
    auto c = config();
    c.loss_scale = loss_scale;
    c.max_steps = 4;
    Trainer trainer(lm, c);
    trainer.fit(some_data(lm));
    ends.push_back(weights(lm));
  }
  CHECK(ends[0] == ends[1]);
}

TEST_CASE("trainer: a run killed at any moment and resumed ends bit-identical to an uninterrupted one") {
  Scratch dir;
  std::vector<float> expected;
  {
    auto lm = open_tiny();
    const auto [learned, held_out] = some_data(lm).split(0.8, 1);
    auto c = config(dir / "whole");
    c.patience = 50;
    c.evaluate_every = 3;
    Trainer trainer(lm, c);
    trainer.fit(learned, &held_out);
    expected = weights(lm);
  }
  // A child trains, saving after every step, and is killed after ever longer times, until one gets through.
  bool finished = false;
  int kills = 0;
  for (int round = 0; !finished && round < 400; ++round) {
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      try {
        auto lm = open_tiny();
        const auto [learned, held_out] = some_data(lm).split(0.8, 1);
        auto c = config(dir / "killed");
        c.patience = 50;
        c.evaluate_every = 3;
        c.save_every = 1;
        c.resume = true;
        Trainer trainer(lm, c);
        trainer.fit(learned, &held_out);
        const auto got = weights(lm);
        ::_exit(got == expected ? 0 : 7);
      } catch (const std::exception& e) {
        MESSAGE(e.what());
        ::_exit(8);
      }
    }
    ::usleep(static_cast<useconds_t>(20000 + 9000 * round));
    int status = 0;
    if (::waitpid(child, &status, WNOHANG) == 0) {
      ::kill(child, SIGKILL);
      ::waitpid(child, &status, 0);
      ++kills;
    }
    if (WIFEXITED(status)) {
      CHECK(WEXITSTATUS(status) == 0);
      finished = true;
    }
  }
  CHECK(finished);
  CHECK(kills > 0);
}

namespace {
/// What a resumed run is told whose setting `change` alters.
std::string refusal(const std::filesystem::path& out, const std::function<void(TrainerConfig&)>& change,
                    const Lora& lora = {.rank = 4, .alpha = 8, .dropout = 0.1f, .seed = 3},
                    const std::function<void(std::vector<text::Record>&)>& edit = {}, text::LossOn loss_on = {},
                    const std::function<void(Lm&)>& base = {}) {
  auto lm = open_tiny();
  lm.attach(lora);
  if (base) base(lm);
  auto records = some_data(lm).records();
  if (edit) edit(records);
  const text::Dataset data(records, lm.tokenizer(), {.loss_on = loss_on});
  auto c = config(out);
  c.resume = true;
  change(c);
  Trainer trainer(lm, c);
  trainer.on_step([](const Step&) { return Flow::stop; });
  try {
    trainer.fit(data);
  } catch (const Error& e) {
    return e.message();
  }
  return "";
}
}  // namespace

TEST_CASE("trainer: a resumed run with anything else that changes its result is refused, and told what") {
  Scratch dir;
  {
    auto lm = open_tiny();
    auto c = config(dir / "run");
    c.save_every = 1;
    Trainer trainer(lm, c);
    trainer.on_step([](const Step& s) { return s.step == 2 ? Flow::stop : Flow::go; });
    CHECK(!trainer.fit(some_data(lm)).finished);
  }
  const auto run = dir / "run";
  const auto told = [&](const char* what, const std::function<void(TrainerConfig&)>& change) {
    INFO(what);
    const auto message = refusal(run, change);
    CHECK(message.find("state.json: was made with ") != std::string::npos);
    CHECK(message.find(what) != std::string::npos);
  };
  told("batch_tokens = 128, this run has 200", [](auto& c) { c.batch_tokens = 200; });
  told("schedule = cosine, this run has constant", [](auto& c) { c.schedule = Constant{}; });
  told("warmup = 0.03, this run has 0.1", [](auto& c) { c.schedule = Cosine{.warmup = 0.1f}; });
  told("floor = 0, this run has 0.5", [](auto& c) { c.schedule = Cosine{.warmup = 0.03f, .floor = 0.5f}; });
  told("beta1 = 0.9, this run has 0.8", [](auto& c) { c.optimizer = AdamW{.lr = 2e-2f, .beta1 = 0.8f}; });
  told("beta2 = 0.999, this run has 0.9", [](auto& c) { c.optimizer = AdamW{.lr = 2e-2f, .beta2 = 0.9f}; });
  told("eps = 1e-08, this run has 1e-06", [](auto& c) { c.optimizer = AdamW{.lr = 2e-2f, .eps = 1e-6f}; });
  told("optimizer = AdamW, this run has AdamW8bit", [](auto& c) { c.optimizer = AdamW8bit{.lr = 2e-2f}; });
  told("seed = 42, this run has 1", [](auto& c) { c.seed = 1; });
  told("patience = 0, this run has 2", [](auto& c) { c.patience = 2; });
  told("trained weights and groups", [](auto& c) { c.groups.lr_scale = [](const ParameterInfo&) { return 2.0f; }; });
  const auto nothing = [](TrainerConfig&) {};
  const Lora lora{.rank = 4, .alpha = 8, .dropout = 0.1f, .seed = 3};
  auto other = lora;
  other.alpha = 16;
  CHECK(refusal(run, nothing, other).find("lora.scale = 2, this run has 4") != std::string::npos);
  other = lora;
  other.dropout = 0.2f;
  CHECK(refusal(run, nothing, other).find("lora.dropout = 0.1, this run has 0.2") != std::string::npos);
  CHECK(refusal(run, nothing, lora, [](auto& records) { records[7].answers[0] = "it is 48"; }).find("with data = ") !=
        std::string::npos);
  CHECK(refusal(run, nothing, lora, {}, text::LossOn::everything).find("with data = ") != std::string::npos);
  const auto another_base = [](Lm& lm) {
    for (auto* w : lm.parameters())
      if (w->name == "model.norm.weight") w->value.data()[3] *= 1.5f;
  };
  CHECK(refusal(run, nothing, lora, {}, {}, another_base).find("with frozen weights = ") != std::string::npos);
  CHECK(refusal(run, nothing) == "");
}

TEST_CASE("trainer: a checkpoint of the format before is refused by name") {
  Scratch dir;
  std::filesystem::create_directories(dir / "run/checkpoint");
  std::ofstream(dir / "run/checkpoint/state.json") << R"({"step": 2, "run": {}})";
  CHECK(refusal(dir / "run", [](TrainerConfig&) {
        }).find("state.json: is a checkpoint of format 1, this library reads") != std::string::npos);
}

TEST_CASE("trainer: a checkpoint that cannot be written leaves the one before it and the weights") {
  Scratch dir;
  auto lm = open_tiny();
  const auto data = some_data(lm);
  auto c = config(dir / "run");
  c.save_every = 1;
  {
    Trainer trainer(lm, c);
    struct rlimit before {};
    ::getrlimit(RLIMIT_FSIZE, &before);
    const auto old = std::signal(SIGXFSZ, SIG_IGN);  // then write() fails, as on a full disk
    std::vector<float> then;
    trainer.on_step([&](const Step& s) {
      const rlimit full{1000, before.rlim_max};
      if (s.step == 3) ::setrlimit(RLIMIT_FSIZE, &full);
      if (s.step == 3) then = weights(lm);
      return Flow::go;
    });
    CHECK_THROWS_WITH_AS(trainer.fit(data), doctest::Contains("cannot write"), Error);
    ::setrlimit(RLIMIT_FSIZE, &before);
    std::signal(SIGXFSZ, old);
    CHECK(weights(lm) == then);
  }
  auto again = open_tiny();
  c.resume = true;
  Trainer trainer(again, c);
  int64_t first = 0;
  trainer.on_step([&](const Step& s) {
    if (!first) first = s.step;
    return Flow::go;
  });
  CHECK(trainer.fit(data).finished);
  CHECK(first == 3);
}

TEST_CASE("trainer: signals are the host's unless the run asks for them") {
  static volatile std::sig_atomic_t seen = 0;
  seen = 0;
  struct sigaction mine {
  }, old{};
  mine.sa_handler = [](int) { seen = seen + 1; };
  ::sigaction(SIGTERM, &mine, &old);
  auto lm = open_tiny();
  Trainer trainer(lm, config());
  trainer.on_step([](const Step& s) {
    if (s.step == 2) ::raise(SIGTERM);
    return Flow::go;
  });
  const auto report = trainer.fit(some_data(lm));
  ::sigaction(SIGTERM, &old, nullptr);
  CHECK(report.finished);
  CHECK(seen == 1);
}

TEST_CASE(
    "trainer: a stop token ends plan, evaluate and fit; a look at held-out data that it cut off comes first later") {
  Scratch dir;
  auto lm = open_tiny();
  const auto [learned, held_out] = some_data(lm).split(0.8, 1);
  auto c = config(dir / "run");
  c.evaluate_every = 2;
  std::vector<std::pair<double, double>> expected, got;
  {
    auto whole = open_tiny();
    c.out_dir.clear();
    Trainer trainer(whole, c);
    for (const auto& p : trainer.fit(learned, &held_out).held_out_loss) expected.emplace_back(p.x, p.y);
    c.out_dir = dir / "run";
  }
  {
    StopSource stop;
    c.stop = stop.token();
    Trainer trainer(lm, c);
    trainer.on_step([&](const Step& s) {
      if (s.step == 4) stop.request_stop();
      return Flow::go;
    });
    const auto report = trainer.fit(learned, &held_out);
    CHECK(!report.finished);
    CHECK(report.steps == 4);
    for (const auto& p : report.held_out_loss) got.emplace_back(p.x, p.y);
    CHECK(got.size() == 1);
    CHECK_THROWS_AS(trainer.plan(learned), Interrupted);
    CHECK_THROWS_AS(trainer.evaluate(held_out), Interrupted);
    CHECK_THROWS_AS(ft::evaluate(lm, held_out.records(), {.stop = stop.token()}), Interrupted);
  }
  auto again = open_tiny();
  c.stop = {};
  c.resume = true;
  Trainer trainer(again, c);
  for (const auto& p : trainer.fit(learned, &held_out).held_out_loss) got.emplace_back(p.x, p.y);
  CHECK(got == expected);
}

TEST_CASE("trainer: a second fit looks at held-out data at the ends of its own epochs") {
  auto lm = open_tiny();
  const auto small = some_data(lm, 12), large = some_data(lm, 40);
  Trainer trainer(lm, config());
  trainer.fit(small, &small);
  const auto report = trainer.fit(large, &small);
  REQUIRE(report.held_out_loss.size() == 2);
  CHECK(report.held_out_loss[0].x == double(large.plan(128, 42, 0).size()));
  CHECK(report.held_out_loss[1].x == double(report.steps));
}

TEST_CASE(
    "trainer: data that cannot be learned from are an error, not a crash: empty, without an answer, of another model") {
  auto lm = open_tiny();
  Trainer trainer(lm, config());
  CHECK_THROWS_WITH_AS(trainer.fit(text::Dataset()), doctest::Contains("the data set is empty"), Error);
  CHECK_THROWS_WITH_AS(trainer.plan(text::Dataset()), doctest::Contains("the data set is empty"), Error);
  CHECK_THROWS_WITH_AS(
      text::Dataset({{.id = "q7", .question = "why?", .answers = {}, .context = "", .lang = "", .split = ""}},
                    lm.tokenizer()),
      doctest::Contains("record 0, 'q7'"), Error);
  struct Foreign final : IndexedSource {
    const text::Dataset& data;
    explicit Foreign(const text::Dataset& d) : data(d) {}
    std::vector<std::vector<std::size_t>> plan(int64_t tokens, uint64_t seed, int64_t epoch) const override {
      return data.plan(tokens, seed, epoch);
    }
    Batch batch(const std::vector<std::size_t>& items, int64_t micro) const override {
      return data.batch(items, micro);
    }
    int64_t tokens_of(std::size_t i) const override { return data.tokens_of(i); }
    Hash content() const override { return data.content(); }
    DataLimits limits() const override { return {0, 70000, "r3"}; }
  };
  const auto data = some_data(lm);
  CHECK(data.limits().last_token > 0);
  int64_t steps = 0;
  trainer.on_step([&](const Step&) { return ++steps, Flow::go; });
  CHECK_THROWS_WITH_AS(trainer.fit(Foreign(data)), doctest::Contains("to 70000 (record 'r3'), the model has"), Error);
  const Foreign foreign(data);
  CHECK_THROWS_WITH_AS(trainer.fit(data, &foreign), doctest::Contains("to 70000"), Error);
  CHECK(steps == 0);
}

TEST_CASE("trainer: one that was made before another attach refuses to go on") {
  auto lm = open_tiny();
  const auto data = some_data(lm);
  Trainer trainer(lm, config());
  lm.attach({.rank = 8});
  CHECK_THROWS_WITH_AS(trainer.fit(data), doctest::Contains("the model now has others"), Error);
  CHECK_THROWS_WITH_AS(trainer.plan(data), doctest::Contains("make a new Trainer"), Error);
  lm.detach();
  CHECK_THROWS_WITH_AS(trainer.fit(data), doctest::Contains("the model now has 0"), Error);
}

TEST_CASE("trainer: a run of one step learns something") {
  auto lm = open_tiny();
  const auto before = weights(lm);
  auto c = config();
  c.max_steps = 1;
  Trainer trainer(lm, c);
  CHECK(trainer.fit(some_data(lm)).train_loss.size() == 1);
  CHECK(weights(lm) != before);
}

TEST_CASE("trainer: dropout is a function of seed and step, whatever else draws") {
  std::vector<std::vector<float>> ends;
  for (const bool disturbed : {false, true}) {
    auto lm = open_tiny();
    auto c = config();
    c.max_steps = 4;
    Trainer trainer(lm, c);
    trainer.on_step([&](const Step&) {
      if (disturbed) lm.context().random().reserve(1000);
      return Flow::go;
    });
    trainer.fit(some_data(lm));
    ends.push_back(weights(lm));
  }
  CHECK(ends[0] == ends[1]);
}

TEST_CASE("trainer: a stream of unknown length trains as the same batches do that are known, and resumes") {
  auto lm = open_tiny();
  const auto data = some_data(lm);
  const StreamSource stream("the same", [&data]() -> StreamSource::Next {
    const std::shared_ptr<BatchReader> reader = data.epoch(0, {128, 128, 42});
    return [reader] { return reader->next(); };
  });
  auto c = config();
  c.epochs = 1;
  c.schedule = Constant{};
  {
    auto cosine = c;
    cosine.schedule = Cosine{};
    Trainer trainer(lm, cosine);
    CHECK_THROWS_WITH_AS(trainer.fit(stream), doctest::Contains("how many steps there are"), Error);
  }
  std::vector<std::vector<float>> ends;
  std::vector<std::size_t> looks;
  for (const DataSource* source : {static_cast<const DataSource*>(&data), static_cast<const DataSource*>(&stream)}) {
    auto fresh = open_tiny();
    Trainer trainer(fresh, c);
    const auto report = trainer.fit(*source, &data);
    CHECK(report.finished);
    looks.push_back(report.held_out_loss.size());
    ends.push_back(weights(fresh));
  }
  CHECK(ends[0] == ends[1]);
  CHECK(looks == std::vector<std::size_t>{1, 1});
  {
    Scratch dir;
    c.out_dir = dir / "run";
    {
      auto first = open_tiny();
      Trainer trainer(first, c);
      trainer.on_step([](const Step& s) { return s.step == 3 ? Flow::stop : Flow::go; });
      CHECK(!trainer.fit(stream, &data).finished);
    }
    auto second = open_tiny();
    c.resume = true;
    Trainer trainer(second, c);
    CHECK(trainer.fit(stream, &data).finished);
    CHECK(weights(second) == ends[0]);
    c.out_dir.clear();
  }
  auto limited = c;
  limited.schedule = Cosine{};
  limited.max_steps = 4;
  auto fresh = open_tiny();
  Trainer trainer(fresh, limited);
  const auto plan = trainer.plan(stream);
  CHECK(plan.steps == 4);
  CHECK(trainer.fit(stream).steps == 4);
}

TEST_CASE("trainer: gradients may be read and changed before the update; any optimizer trains; listeners hear") {
  struct Ear final : RunListener {
    std::vector<int64_t> heard;
    void begin(int64_t done) override { heard.push_back(done); }
    void step(const Step& s) override { heard.push_back(s.step); }
    void evaluation(int64_t step, double) override { heard.push_back(-step); }
  };
  for (const OptimizerConfig& optimizer : {OptimizerConfig(AdamW{.lr = 2e-2f}), OptimizerConfig(Lion{.lr = 5e-3f}),
                                           OptimizerConfig(AdamW8bit{.lr = 2e-2f, .smallest = 1})}) {
    auto lm = open_tiny();
    const auto data = some_data(lm);
    auto c = config();
    c.optimizer = optimizer;
    Trainer trainer(lm, c);
    const auto ear = std::make_shared<Ear>();
    trainer.listen(ear);
    double norm = 0;
    trainer.on_gradients([&](Context<Cpu>&, auto params) {
      norm = 0;
      for (auto* w : params)
        for (int64_t i = 0; i < w->count(); ++i) {
          w->grad.data()[i] *= 2;
          norm += double{w->grad.data()[i]} * double{w->grad.data()[i]};
        }
    });
    trainer.on_step([&](const Step& s) {
      CHECK(double{s.grad_norm} == doctest::Approx(std::sqrt(norm)).epsilon(1e-5));
      return Flow::go;
    });
    const auto report = trainer.fit(data, &data);
    CHECK(report.train_loss.back().y < 0.8 * report.train_loss.front().y);
    CHECK(ear->heard.front() == 0);
    CHECK(ear->heard.back() == -report.steps);
    CHECK(static_cast<int64_t>(ear->heard.size()) == 1 + report.steps + 2);
  }
}

TEST_CASE("trainer: SIGTERM saves and ends in order, and the resumed run goes on") {
  Scratch dir;
  auto lm = open_tiny();
  const auto data = some_data(lm);
  auto c = config(dir / "run");
  c.loss_scale = 256;  // goes along
  c.signals = true;
  {
    Trainer trainer(lm, c);
    trainer.on_step([](const Step& s) {
      if (s.step == 3) ::raise(SIGTERM);
      return Flow::go;
    });
    const auto report = trainer.fit(data);
    CHECK(!report.finished);
    CHECK(report.steps == 3);
    CHECK(has_checkpoint(dir / "run/checkpoint"));
  }
  auto again = open_tiny();
  c.resume = true;
  Trainer trainer(again, c);
  int64_t first = 0;
  trainer.on_step([&](const Step& s) {
    if (!first) first = s.step;
    return Flow::go;
  });
  CHECK(trainer.fit(data).finished);
  CHECK(first == 4);
}

namespace {
/// A model whose losses are multiplied by a number, or whose loss is computed apart from its weights.
struct Spoiled final : Trainable<float, Cpu> {
  Lm& lm;
  float factor;
  bool cut = false;
  Spoiled(Lm& lm_, float factor_) : lm(lm_), factor(factor_) {}
  Context<Cpu>& context() override { return lm.context(); }
  std::vector<Parameter<float, Cpu>*> parameters() override { return lm.parameters(); }
  Loss<float, Cpu> loss_sum(const MicroBatch& micro, bool) override {
    const auto sum = lm.loss_sum(micro_cast<PackedTokens>(micro));
    return scale(lm.context(), cut ? sum.detached() : sum, factor);
  }
};
}  // namespace

TEST_CASE("trainer: losses that are not finite skip the step, then stop the run and name the records") {
  auto lm = open_tiny();
  const auto data = some_data(lm);
  Spoiled spoiled(lm, std::numeric_limits<float>::infinity());
  const auto before = weights(lm);
  Trainer trainer(spoiled, config());
  int64_t skipped = 0;
  trainer.on_step([&](const Step& s) {
    skipped += s.skipped;
    return Flow::go;
  });
  CHECK_THROWS_WITH_AS(
      trainer.fit(data),
      doctest::Contains("3 steps in a row had a loss or gradient that is not finite; the last one's records: r"),
      Error);
  CHECK(skipped == 2);
  CHECK(weights(lm) == before);
}

TEST_CASE("trainer: a step in which nothing that is trained gets a gradient is an error") {
  auto lm = open_tiny();
  Spoiled spoiled(lm, 1);
  spoiled.cut = true;
  Trainer trainer(spoiled, config());
  CHECK_THROWS_WITH_AS(trainer.fit(some_data(lm)), doctest::Contains("trained weights got a gradient"), Error);
  Spoiled none(lm, 0);
  auto c = config();
  c.max_steps = 3;
  Trainer still(none, c);
  const auto report = still.fit(some_data(lm));  // gradients, all of them 0: said at the end
  REQUIRE(report.warnings.size() == 1);
  CHECK(report.warnings[0].find("in 3 of 3 steps every gradient was exactly 0") == 0);
}

TEST_CASE("trainer: a NaN in a weight, dense or in a block's scale, is named before the first step; answers refuse") {
  for (const char* name : {"model.norm.weight", "model.layers.0.mlp.up_proj.weight"}) {
    auto lm = open_tiny();
    const auto data = some_data(lm);
    std::vector<std::byte> bytes;
    for (auto* w : lm.parameters())
      if (w->name == name && w->value) w->value.data()[3] = std::numeric_limits<float>::quiet_NaN();
      else if (w->name == name) {
        bytes.assign(w->stored.data, w->stored.data + w->stored.bytes());
        const uint16_t nan = 0x7e00;
        std::memcpy(bytes.data() + 2 * info(w->stored.type).bytes, &nan, 2);
        w->stored.data = bytes.data();
      }
    Trainer trainer(lm, config());
    int64_t steps = 0;
    trainer.on_step([&](const Step&) { return ++steps, Flow::go; });
    CHECK_THROWS_WITH_AS(trainer.fit(data), doctest::Contains(name), Error);
    CHECK(steps == 0);
    const std::string named = str("weight '", name, '\'');
    CHECK_THROWS_WITH_AS(lm.generate("Q: who?").rest(), doctest::Contains(named.c_str()), Error);
    CHECK_THROWS_WITH_AS(ft::evaluate(lm, data.records()), doctest::Contains(named.c_str()), Error);
    CHECK_THROWS_WITH_AS(perplexity(lm, "some text"), doctest::Contains(named.c_str()), Error);
  }
}

TEST_CASE("trainer: early stopping keeps the best weights") {
  auto lm = open_tiny();
  const auto [learned, held_out] = some_data(lm).split(0.5, 2);
  auto c = config();
  c.optimizer = AdamW{.lr = 0.2f};  // far too high: the held-out loss gets worse soon
  c.schedule = Constant{};
  c.epochs = 30;
  c.evaluate_every = 2;
  c.patience = 3;
  Trainer trainer(lm, c);
  const auto report = trainer.fit(learned, &held_out);
  CHECK(report.stopped_early);
  CHECK(report.steps == report.best_step + 6);
  CHECK(trainer.evaluate(held_out) == doctest::Approx(report.best_loss).epsilon(1e-6));
}

TEST_CASE("trainer: the plan changes nothing and is near the truth") {
  auto lm = open_tiny();
  const auto data = some_data(lm);
  const auto before = weights(lm);
  const auto position = lm.context().random().position();
  Trainer trainer(lm, config());
  const auto plan = trainer.plan(data);
  CHECK(weights(lm) == before);
  CHECK(lm.context().random().position() == position);
  CHECK(plan.tokens == 2 * data.tokens());
  lm.context().reset_peak();
  const auto now = lm.context().memory().now;
  const auto report = trainer.fit(data);
  CHECK(report.steps == plan.steps);
  const auto used = static_cast<double>(lm.context().memory().peak - now);
  const auto planned = static_cast<double>(plan.activation_bytes + plan.state_bytes);
  CHECK(planned > 0.6 * used);
  CHECK(planned < 1.6 * used);
}

TEST_CASE("trainer: nothing to train, and nonsense settings, are refused") {
  auto lm = Lm::from_pretrained(std::filesystem::path(FTLIB_TEST_DATA) / "models" / "llama_q4_1.gguf");
  CHECK_THROWS_WITH_AS(Trainer(lm, config()), doctest::Contains("nothing to train"), Error);
  lm.attach({});
  auto c = config();
  c.epochs = 0;
  CHECK_THROWS_WITH_AS(Trainer(lm, c), doctest::Contains("epochs is 0"), Error);
  c = config();
  c.save_every = -1;
  CHECK_THROWS_WITH_AS(Trainer(lm, c), doctest::Contains("save_every is -1"), Error);
}
