// tests/train/trainer.cpp: the loop on a tiny real model: resuming, accumulation, early stopping, bad losses, signals.
#include "../scratch.hpp"

#include <doctest/doctest.h>
#include <ftlib/finetune.hpp>

#include <sys/wait.h>
#include <csignal>
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
  c.optimizer.lr = 2e-2f;
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

TEST_CASE("trainer: a resumed run with other options is refused") {
  Scratch dir;
  {
    auto lm = open_tiny();
    auto c = config(dir / "run");
    c.save_every = 1;
    Trainer trainer(lm, c);
    trainer.on_step([](const Step& s) { return s.step == 2 ? Flow::stop : Flow::go; });
    CHECK(!trainer.fit(some_data(lm)).finished);
  }
  auto lm = open_tiny();
  auto c = config(dir / "run");
  c.resume = true;
  c.batch_tokens = 200;
  Trainer trainer(lm, c);
  CHECK_THROWS_WITH_AS(trainer.fit(some_data(lm)), doctest::Contains("state.json: was made with"), Error);
}

TEST_CASE("trainer: SIGTERM saves and ends in order, and the resumed run goes on") {
  Scratch dir;
  auto lm = open_tiny();
  const auto data = some_data(lm);
  auto c = config(dir / "run");
  c.loss_scale = 256;  // goes along
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

TEST_CASE("trainer: losses that are not finite skip the step, then stop the run and name the records") {
  auto lm = open_tiny();
  const auto data = some_data(lm);
  for (auto* w : lm.parameters())
    if (w->name == "model.norm.weight") w->value.data()[0] = std::numeric_limits<float>::quiet_NaN();
  const auto before = weights(lm);
  Trainer trainer(lm, config());
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

TEST_CASE("trainer: early stopping keeps the best weights") {
  auto lm = open_tiny();
  const auto [learned, held_out] = some_data(lm).split(0.5, 2);
  auto c = config();
  c.optimizer.lr = 0.2f;  // far too high: the held-out loss gets worse soon
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
}
