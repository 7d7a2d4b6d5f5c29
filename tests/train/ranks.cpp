// tests/train/ranks.cpp: ranks that share each step, as threads: any number of them ends with the same bits.
#include "../scratch.hpp"

#include <doctest/doctest.h>
#include <ftlib/distributed/link.hpp>
#include <ftlib/distributed/node.hpp>
#include <ftlib/distributed/thread_group.hpp>
#include <ftlib/finetune.hpp>
#include <ftlib/io/atomic_file.hpp>
#include <ftlib/train/rank_files.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <map>
#include <sstream>
#include <thread>

using namespace ft;
using ft::test::Scratch;

namespace {
using RankLm = CausalLM<float, Cpu>;

text::Dataset rank_data(const RankLm& lm) {
  std::vector<text::Record> records;
  for (std::size_t i = 0; i < 30; ++i)
    records.push_back({.id = str("r", i),
                       .question = str("what is ", i, std::string(i % 7, 'x'), "?"),
                       .answers = {str("it is ", i * i)}});
  return text::Dataset(records, lm.tokenizer());
}
struct Ended {
  std::vector<float> weights;
  RunReport report;
};
/// What each of `ranks` ends with; they train one model's twins.
std::vector<Ended> train_on(int ranks, const TrainerConfig& config, bool full = false) {
  std::vector<Ended> ended(static_cast<std::size_t>(ranks));
  run_thread_group(ranks, [&](Communicator& world) {
    auto lm = RankLm::from_pretrained(std::filesystem::path(FTLIB_TEST_DATA) / "models" / "llama_q4_1.gguf",
                                      {.threads = 1, .seed = 5});
    if (full) lm.train_all();
    else lm.attach({.rank = 4, .alpha = 8, .dropout = 0.1f, .seed = 3});
    const auto [learned, held_out] = rank_data(lm).split(0.8, 1);
    TrainerConfig c = config;
    c.world = &world;
    Trainer trainer(lm, c);
    Ended& mine = ended[static_cast<std::size_t>(world.rank())];
    mine.report = trainer.fit(learned, &held_out);
    for (auto* w : lm.parameters())
      if (w->trainable) {
        const auto values = w->value.to_host(lm.context());
        mine.weights.insert(mine.weights.end(), values.begin(), values.end());
      }
  });
  return ended;
}
bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}
TrainerConfig rank_config() {
  TrainerConfig c;
  c.optimizer = AdamW{.lr = 2e-2f};
  c.epochs = 2;
  c.batch_tokens = 256;
  c.micro_batch_tokens = 24;
  c.clip_norm = 0.5f;
  return c;
}
}  // namespace

TEST_CASE("ranks: a sum over ranks is the tree's, whatever the length") {
  for (const int ranks : {1, 2, 3, 4, 6, 8})  // 3 and 6: one by one
    for (const std::size_t n : {0u, 1u, 3u, 7u, 64u, 1001u}) {
      std::vector<std::vector<float>> parts(static_cast<std::size_t>(ranks));
      Random random(n + 1);
      for (auto& part : parts)
        for (std::size_t i = 0; i < n; ++i) part.push_back(static_cast<float>(random.normal()) * (i % 5 ? 1.0f : 1e6f));
      auto wanted = parts;
      for (std::size_t r = 1; ranks % 3 == 0 && r < wanted.size(); ++r)
        for (std::size_t i = 0; i < n; ++i) wanted[0][i] += wanted[r][i];
      for (std::size_t step = 1; ranks % 3 != 0 && step < wanted.size(); step *= 2)
        for (std::size_t r = 0; r + step < wanted.size(); r += 2 * step)
          for (std::size_t i = 0; i < n; ++i) wanted[r][i] += wanted[r + step][i];
      std::atomic<int> right = 0;
      run_thread_group(ranks, [&](Communicator& world) {
        auto mine = parts[static_cast<std::size_t>(world.rank())];
        std::vector<std::size_t> bounds;  // of parts, one of which is empty
        for (std::size_t r = 0; r < static_cast<std::size_t>(ranks); ++r)
          bounds.push_back(r == 1 ? 0 : n * r / static_cast<std::size_t>(ranks));
        bounds.push_back(n);
        reduce_scatter(world, std::span(mine), bounds);
        all_gather(world, std::span(mine), bounds);
        right += same_bits(mine, wanted[0]);
      });
      CAPTURE(ranks);
      CAPTURE(n);
      CHECK(right == ranks);
    }
}

TEST_CASE("ranks: shares are whole blocks, about equal, and all of every array") {
  const std::vector<int64_t> counts{3, 9000, 1, 4096, 40000, 7, 8192};
  const int64_t block = 4096;
  for (const int ranks : {1, 2, 3, 4, 8})
    for (const int64_t group : {1, 10000, 1 << 30})
      run_thread_group(ranks, [&](Communicator& world) {
        if (world.rank() > 0) return;
        const Shares shares(&world, counts, block, group);
        CHECK(shares.groups().size() == (group == 1 ? 7u : group == 10000 ? 3u : 1u));
        std::vector<int64_t> of_rank(static_cast<std::size_t>(ranks)), of_array(counts.size());
        for (std::size_t i = 0; i < counts.size(); ++i)
          for (int r = 0; r < ranks; ++r) {
            const Share share = shares.of(i, r);
            CHECK((share.begin >= 0 && share.begin <= share.end && share.end <= counts[i]));
            if (share.count() > 0)
              CHECK((share.begin % block == 0 && (share.end % block == 0 || share.end == counts[i])));
            of_rank[static_cast<std::size_t>(r)] += share.count();
            of_array[i] += share.count();
          }
        CHECK(of_array == counts);
        if (shares.groups().size() == 1)
          for (const int64_t n : of_rank) CHECK(std::abs(n - 61299 / ranks) <= block);
        const std::vector<bool> some{true, true, false, false, true, true, true};
        std::vector<int> seen(61299);  // elements, each once, in blocks that do not overlap
        std::size_t end = 0;
        const auto bounds =
            shares.pieces(some, [&](std::size_t part, std::size_t i, const Share& share, std::size_t at) {
              CHECK(at == end);
              CHECK((some[i] && part < static_cast<std::size_t>(ranks)));
              end += static_cast<std::size_t>(share.count());
              int64_t first = 0;
              for (std::size_t k = 0; k < i; ++k) first += counts[k];
              for (int64_t k = share.begin; k < share.end; ++k) ++seen[static_cast<std::size_t>(first + k)];
            });
        CHECK((bounds.front() == 0 && bounds.back() == end && end == 61299 - 4097));
        CHECK(std::count(seen.begin(), seen.end(), 1) == 61299 - 4097);
        CHECK(shares.bounds(some, block).back() == 1 + 3 + 10 + 1 + 2);
      });
}

TEST_CASE("ranks: each has its share of optimizer states and averages, and no more") {
  const auto measure = [](int ranks) {
    std::vector<std::pair<int64_t, int64_t>> bytes(static_cast<std::size_t>(ranks));  // planned, and in memory
    run_thread_group(ranks, [&](Communicator& world) {
      auto lm = RankLm::from_pretrained(std::filesystem::path(FTLIB_TEST_DATA) / "models" / "llama_q4_1.gguf",
                                        {.threads = 1, .seed = 5});
      lm.train_all();
      const auto data = rank_data(lm);
      const int64_t before = lm.context().memory().now;
      Trainer trainer(lm, {.max_steps = 2, .ema_decay = 0.9f, .world = &world});
      const auto plan = trainer.plan(data);
      trainer.fit(data);
      CHECK(plan.ranks == ranks);
      CHECK((str(plan).find("a share of its states among") != std::string::npos) == (ranks > 1));
      bytes[static_cast<std::size_t>(world.rank())] = {plan.optimizer_bytes, lm.context().memory().now - before};
    });
    return bytes;
  };
  const auto one = measure(1), four = measure(4);
  int64_t planned = 0;
  for (const auto& [plan, memory] : four) {
    planned += plan;
    CHECK(std::abs(plan - one[0].first / 4) <= 12 * 4096);  // a block is not cut
    CHECK(std::abs(memory - one[0].second / 4) <= 13 * 4096);
  }
  CHECK(planned == one[0].first);
}

TEST_CASE("ranks: the plan says what an exchange takes, from what lies between ranks") {
  CHECK(exchange_seconds({{1e-3, 1e6}}, 2, 1e6) == doctest::Approx(0.501));
  CHECK(exchange_seconds({{1e-3, 1e6}, {2e-3, 1e5}}, 4, 1e6) == doctest::Approx(0.501 + 2.502));
  CHECK(exchange_seconds({{1e-3, 1e6}}, 3, 3e6) == doctest::Approx(3.003));
  for (const int ranks : {2, 3, 4})
    run_thread_group(ranks, [&](Communicator& world) {
      const auto links = measure_links(world);
      CHECK(links.size() == (ranks == 4 ? 2 : 1));
      for (const Link& link : links) CHECK((link.latency > 0 && link.latency < 1 && link.bandwidth > 1e6));
      const auto others = world.gather(str(links[0].latency));
      for (const std::string& other : others) CHECK(other == others[0]);
    });
  const Plan plan{
      .steps = 10, .ranks = 2, .exchange_bytes = 3e6, .exchange_seconds = 0.5, .bandwidth = 1e7, .latency = 2e-3};
  CHECK(str(plan).find("exchange 0.5 s a step, 3") != std::string::npos);
}

TEST_CASE("ranks: groups of them say things to one another; each has its share of its machine") {
  struct Placed final : Communicator {  // ranks 0, 1, 4 and 5 on one machine, the others on another
    Communicator& other;
    explicit Placed(Communicator& o) : other(o) {}
    int rank() const override { return other.rank(); }
    int size() const override { return other.size(); }
    std::string node() const override { return rank() / 2 % 2 ? "second" : "first"; }
    void swap(int with, std::span<const std::byte> out, std::span<std::byte> in) override { other.swap(with, out, in); }
    std::vector<std::string> gather(std::string_view mine) override { return other.gather(mine); }
    void cancel() override { other.cancel(); }
  };
  run_thread_group(7, [](Communicator& world) {
    Placed placed(world);
    const auto group = split(placed, placed.node());
    const std::vector<std::vector<std::string>> members{{"0", "1", "4", "5"}, {"2", "3", "6"}};
    const auto& mine = members[placed.node() == "second"];
    CHECK(group->gather(str(world.rank())) == mine);
    CHECK(mine[static_cast<std::size_t>(group->rank())] == str(world.rank()));
    std::vector<std::size_t> bounds{0};
    for (std::size_t i = 0; i < mine.size(); ++i) bounds.push_back(bounds.back() + i + 1);
    std::vector<int> x(bounds.back(), world.rank());
    reduce_scatter(*group, std::span(x), bounds);
    all_gather(*group, std::span(x), bounds);
    for (const int v : x) CHECK(v == (mine.size() == 4 ? 10 : 11));
    const auto share = share_node(&placed);
    CHECK(share.rank == group->rank());
    CHECK(share.ranks == static_cast<int>(mine.size()));
    CHECK(share.cores == std::max(1, available_cores() / share.ranks));  // threads of a process are bound alike
  });
  CHECK(share_node(nullptr).cores == available_cores());
}

TEST_CASE("ranks: who looks at gradients sees all of them") {
  TrainerConfig config = rank_config();
  config.max_steps = 2;
  std::atomic<int> looked = 0;
  run_thread_group(4, [&](Communicator& world) {
    auto lm = RankLm::from_pretrained(std::filesystem::path(FTLIB_TEST_DATA) / "models" / "llama_q4_1.gguf",
                                      {.threads = 1, .seed = 5});
    lm.train_all();
    TrainerConfig c = config;
    c.world = &world;
    Trainer trainer(lm, c);
    double squares = 0;
    trainer.on_gradients([&](Context<Cpu>& ctx, Trainer<float, Cpu>::Params params) {
      squares = 0;
      for (const auto* w : params)
        if (w->grad)
          for (const float g : w->grad.to_host(ctx)) squares += double{g} * g;
    });
    trainer.on_step([&](const Step& s) {
      CHECK(std::sqrt(squares) == doctest::Approx(s.grad_norm));
      ++looked;
      return Flow::go;
    });
    trainer.fit(rank_data(lm));
  });
  CHECK(looked == 8);
}

TEST_CASE("ranks: one that waits too long says for what and for whom") {
  CHECK_THROWS_WITH_AS(run_thread_group(2,
                                        [&](Communicator& world) {
                                          world.set_timeout(std::chrono::milliseconds(world.rank() ? 60000 : 50));
                                          world.announce("step 17, gradients");
                                          if (world.rank() == 1)
                                            std::this_thread::sleep_for(std::chrono::milliseconds(300));
                                          std::vector<float> x(100);
                                          reduce_scatter(world, std::span(x), {0, 50, 100});
                                        }),
                       doctest::Contains("rank 0 of 2 has waited 0.05 s in step 17, gradients, for rank 1"), Error);
}

TEST_CASE("ranks: 1, 2, 4 and 8 end with the same bits: dropout, clipping, accumulation, average, held-out loss") {
  for (const bool full : {false, true}) {
    TrainerConfig config = rank_config();
    if (full) config.optimizer = AdamW8bit{.lr = 1e-3f};
    config.ema_decay = full ? 0.9f : 0;
    config.patience = full ? 0 : 3;
    config.recompute = full;
    const auto one = train_on(1, config, full);
    config.exchange_bytes = 16 << 10;  // many groups, which leave while backward goes on
    REQUIRE(one[0].report.steps >= 4);
    CHECK(one[0].report.train_loss.back().y < one[0].report.train_loss.front().y);
    for (const int ranks : {2, 4, 8}) {
      CAPTURE(ranks);
      for (const Ended& rank : train_on(ranks, config, full)) {
        CHECK(same_bits(rank.weights, one[0].weights));
        REQUIRE(rank.report.train_loss.size() == one[0].report.train_loss.size());
        for (std::size_t i = 0; i < rank.report.train_loss.size(); ++i)
          CHECK(rank.report.train_loss[i].y == one[0].report.train_loss[i].y);
        CHECK(rank.report.held_out_loss.back().y == one[0].report.held_out_loss.back().y);
      }
    }
  }
}

namespace {
/// A chain of layers y = x w, whose backward rules sleep; one of them is used twice in some micro-batches.
struct SleepyMicro {
  static constexpr const char* kind = "sleepy";
  int64_t again = -1;  // the layer whose weight is used once more, in front of all
  int64_t tokens() const { return 1; }
};
struct Sleepy final : Trainable<float, Cpu> {
  static constexpr int64_t size = 8192;  // two blocks: each of two ranks has one
  Context<Cpu> ctx{{.threads = 1}};
  std::vector<Parameter<float, Cpu>> layers;
  std::chrono::milliseconds sleep;
  int passes = 0;
  int64_t held = 0;  // bytes, when the first layer's rule, the last of a backward pass, begins

  Sleepy(int count, std::chrono::milliseconds s) : sleep(s) {
    Random random(3);
    for (int i = 0; i < count; ++i) {
      std::vector<float> values(size);
      for (float& v : values) v = 1 + 0.1f * static_cast<float>(random.normal());
      layers.emplace_back(str("layer.", i), Tensor<float, Cpu>(ctx, {size}, values));
    }
  }
  Context<Cpu>& context() override { return ctx; }
  std::vector<Parameter<float, Cpu>*> parameters() override {
    std::vector<Parameter<float, Cpu>*> all;
    for (auto& w : layers) all.push_back(&w);
    return all;
  }
  Tensor<float, Cpu> times(const Tensor<float, Cpu>& x, Parameter<float, Cpu>& w) {
    Tensor<float, Cpu> y(ctx, x.shape());
    for (int64_t i = 0; i < y.count(); ++i) y.data()[i] = x.data()[i] * w.value.data()[i];
    record(ctx, "times", y, {x, w}, [this, x, &w](Gradients<float, Cpu>& g) {
      std::this_thread::sleep_for(sleep);
      if (&w == &layers[0]) held = ctx.memory().now;
      const auto dw = g.add(w), dx = g.assign(x);
      for (int64_t i = 0; i < x.count(); ++i) {
        if (dx.data) dx.data[i] = g.incoming().data[i] * w.value.data()[i];
        dw.data[i] += g.incoming().data[i] * x.data()[i];
      }
    });
    return y;
  }
  Loss<float, Cpu> loss_sum(const MicroBatch& micro, bool) override {
    const int64_t again = micro_cast<SleepyMicro>(micro).again;
    ++passes;
    Tensor<float, Cpu> x(ctx, {size}, std::vector<float>(size, 0.5f));
    if (again >= 0) x = times(x, layers[static_cast<std::size_t>(again)]);
    for (auto& w : layers) x = times(x, w);
    return mean(ctx, x);
  }
};
Batch sleepy_batch(const std::vector<int64_t>& again) {
  Batch batch;
  for (const int64_t layer : again) batch.add(SleepyMicro{layer}, 1);
  return batch;
}
/// A network on which each swap takes a while.
struct SlowRank final : Communicator {
  Communicator& other;
  explicit SlowRank(Communicator& o) : other(o) {}
  int rank() const override { return other.rank(); }
  int size() const override { return other.size(); }
  void swap(int with, std::span<const std::byte> out, std::span<std::byte> in) override {
    if (out.size() > 4096) std::this_thread::sleep_for(std::chrono::milliseconds(out.size() / 1024));
    other.swap(with, out, in);
  }
  std::vector<std::string> gather(std::string_view mine) override { return other.gather(mine); }
  void cancel() override { other.cancel(); }
};
}  // namespace

TEST_CASE("ranks: an exchange is hidden behind a backward pass") {
  // Ten layers of 20 ms, whose gradients take 16 ms each on the network: 160 ms, of which the last ones are seen.
  const auto seconds = [](int64_t exchange_bytes) {
    std::atomic<int64_t> best{int64_t{1} << 40};
    run_thread_group(2, [&](Communicator& world) {
      SlowRank slow(world);
      Sleepy model(10, std::chrono::milliseconds(20));
      Trainer trainer(model, {.world = &slow, .exchange_bytes = exchange_bytes});
      for (int step = 0; step < 6; ++step) {  // the first one learns what comes when
        const auto begin = std::chrono::steady_clock::now();
        trainer.step(sleepy_batch({-1, -1}), 1e-3f);
        const auto took = std::chrono::steady_clock::now() - begin;
        if (step > 0)
          best = std::min<int64_t>(best, std::chrono::duration_cast<std::chrono::milliseconds>(took).count());
      }
    });
    return best.load();
  };
  int64_t at_once = 0, in_groups = 0;  // some 130 apart on an idle machine; a busy one sleeps longer, and tries again
  for (int attempt = 0; attempt < 5 && at_once - in_groups < 80; ++attempt) {
    at_once = seconds(1 << 30);
    in_groups = seconds(4 * Sleepy::size);
  }
  CAPTURE(at_once);
  CAPTURE(in_groups);
  CHECK(at_once - in_groups >= 80);
}

TEST_CASE("ranks: a gradient that changes after its group has left is sent again; an error leaves nobody waiting") {
  const auto ended = [](int ranks, bool fails) {
    std::vector<std::vector<float>> weights(static_cast<std::size_t>(ranks));
    run_thread_group(ranks, [&](Communicator& world) {
      Sleepy model(6, std::chrono::milliseconds(0));
      Trainer trainer(model, {.world = &world, .exchange_bytes = 4 * Sleepy::size});
      for (const auto& batch :
           {std::vector<int64_t>{-1, -1, -1, -1}, {-1, -1, -1, -1}, {5, -1, -1, 5}, {-1, 2, 3, -1}, {4, 4, 4, 4}}) {
        if (fails && world.rank() == 1 && batch[0] == 5) throw Error("one is ill");
        trainer.step(sleepy_batch(batch), 1e-3f);
      }
      // With a micro-batch each, what has left is gone, and the step is computed again: the third, and what follows it.
      if (ranks == 4) CHECK((model.passes > 5 && model.passes <= 10));
      else CHECK(model.passes == 20 / ranks);
      for (auto& w : model.layers)
        for (const float v : w.value.to_host(model.ctx)) weights[static_cast<std::size_t>(world.rank())].push_back(v);
    });
    return weights;
  };
  const auto one = ended(1, false);
  for (const int ranks : {2, 4})
    for (const auto& rank : ended(ranks, false)) CHECK(same_bits(rank, one[0]));
  CHECK_THROWS_WITH_AS(ended(4, true), doctest::Contains("one is ill"), Error);
}

TEST_CASE("ranks: with a micro-batch each, a rank holds its share of gradients") {
  constexpr int layers = 64;
  constexpr int64_t layer = 4 * Sleepy::size, all = layers * layer;
  for (const int ranks : {2, 4})
    for (const int each : {1, 2}) {
      CAPTURE(ranks);
      CAPTURE(each);
      run_thread_group(ranks, [&](Communicator& world) {
        Sleepy model(layers, std::chrono::milliseconds(0));
        Trainer trainer(model, {.world = &world, .exchange_bytes = 2 * layer, .exact = false});  // no tree's branches
        const int64_t before = model.ctx.memory().now;
        trainer.step(sleepy_batch(std::vector<int64_t>(static_cast<std::size_t>(ranks * each), -1)), 1e-3f);
        CHECK(model.held - before >= all);  // the first step of a kind learns what comes when
        const int64_t states = model.ctx.memory().now - before;
        trainer.step(sleepy_batch(std::vector<int64_t>(static_cast<std::size_t>(ranks * each), -1)), 1e-3f);
        const int64_t held = model.held - before - states;
        if (world.rank() == 0)
          MESSAGE(ranks, " ranks, ", each, " micro-batches each: ", held, " bytes of ", all, " of gradients");
        if (each == 1) CHECK(held <= all / ranks + 12 * layer);  // two groups on their way, one in work, activations
        else CHECK(held >= all);
      });
    }
}

TEST_CASE("ranks: beside the path without ranks only the order of sums differs") {
  const auto one = train_on(1, rank_config());
  auto lm = RankLm::from_pretrained(std::filesystem::path(FTLIB_TEST_DATA) / "models" / "llama_q4_1.gguf",
                                    {.threads = 1, .seed = 5});
  lm.attach({.rank = 4, .alpha = 8, .dropout = 0.1f, .seed = 3});
  const auto [learned, held_out] = rank_data(lm).split(0.8, 1);
  Trainer trainer(lm, rank_config());
  const auto report = trainer.fit(learned, &held_out);
  REQUIRE(report.train_loss.size() == one[0].report.train_loss.size());
  for (std::size_t i = 0; i < report.train_loss.size(); ++i)
    CHECK(report.train_loss[i].y == doctest::Approx(one[0].report.train_loss[i].y).epsilon(1e-3));
  CHECK(report.held_out_loss.back().y == doctest::Approx(one[0].report.held_out_loss.back().y).epsilon(2e-3));
}

TEST_CASE("ranks: not exact, any number of them trains, with sums in another order") {
  TrainerConfig config = rank_config();
  config.optimizer = AdamW{.lr = 1e-3f};
  config.max_steps = 4;
  const auto one = train_on(1, config, true);
  config.exact = false;
  for (const int ranks : {2, 3, 5}) {
    CAPTURE(ranks);
    const auto ended = train_on(ranks, config, true);
    for (const Ended& rank : ended) {
      CHECK(same_bits(rank.weights, ended[0].weights));
      for (std::size_t i = 0; i < 4; ++i)
        CHECK(rank.report.train_loss[i].y == doctest::Approx(one[0].report.train_loss[i].y).epsilon(1e-3));
    }
    CHECK(same_bits(train_on(ranks, config, true)[0].weights, ended[0].weights));  // and the same again
  }
}

TEST_CASE("ranks: a run that was stopped goes on with another number of ranks, and rank 0 alone writes") {
  struct Case {
    int before, after;
    bool full;
  };
  for (const Case& one :
       {Case{4, 2, false}, Case{4, 1, false}, Case{1, 8, false}, Case{4, 2, true}, Case{1, 4, true}}) {
    const bool full = one.full;
    TrainerConfig config = rank_config();
    if (full) config.optimizer = AdamW8bit{.lr = 1e-3f};
    config.ema_decay = full ? 0.9f : 0;
    const auto whole = train_on(2, config, full);
    const Scratch dir;
    config.out_dir = dir / "run";
    config.resume = false;
    StopSource stop;
    std::atomic<int> files = 0;
    run_thread_group(one.before, [&](Communicator& world) {
      auto lm = RankLm::from_pretrained(std::filesystem::path(FTLIB_TEST_DATA) / "models" / "llama_q4_1.gguf",
                                        {.threads = 1, .seed = 5});
      if (full) lm.train_all();
      else lm.attach({.rank = 4, .alpha = 8, .dropout = 0.1f, .seed = 3});
      const auto [learned, held_out] = rank_data(lm).split(0.8, 1);
      TrainerConfig c = config;
      c.world = &world;
      Trainer trainer(lm, c);
      trainer.on_step([&, last = world.rank() == world.size() - 1](const Step& s) {  // one rank's word is all ranks'
        return last && s.step == 3 ? Flow::stop : Flow::go;
      });
      const auto report = trainer.fit(learned, &held_out);
      CHECK((report.steps == 3 && !report.finished));
      files += trainer.board() != nullptr;
    });
    config.resume = true;
    for (const Ended& rank : train_on(one.after, config, full)) {
      CHECK(rank.report.finished);
      CHECK(same_bits(rank.weights, whole[0].weights));
    }
  }
}

namespace {
/// The bytes of a folder's files, by name.
std::map<std::string, std::string> bytes_in(const std::filesystem::path& folder) {
  std::map<std::string, std::string> all;
  for (const auto& file : files_in(folder)) all[file.filename().string()] = read_file(file, uint64_t{1} << 30);
  return all;
}
}  // namespace

TEST_CASE("ranks: a checkpoint is the same files, written side by side or by rank 0, by any number of ranks") {
  for (const bool full : {false, true}) {
    TrainerConfig config = rank_config();
    if (full) config.optimizer = AdamW8bit{.lr = 1e-3f};
    config.ema_decay = full ? 0.9f : 0;
    config.max_steps = 3;
    config.save_every = 2;
    std::map<std::string, std::string> wanted;
    for (const int ranks : {1, 2, 4, 8})
      for (const bool shared : {true, false}) {
        CAPTURE(ranks);
        CAPTURE(shared);
        const Scratch dir;
        std::atomic<int> together = 0;
        run_thread_group(ranks, [&](Communicator& world) {
          auto lm = RankLm::from_pretrained(std::filesystem::path(FTLIB_TEST_DATA) / "models" / "llama_q4_1.gguf",
                                            {.threads = 1, .seed = 5});
          if (full) lm.train_all();
          else lm.attach({.rank = 4, .alpha = 8, .dropout = 0.1f, .seed = 3});
          TrainerConfig c = config;
          c.world = &world;
          c.out_dir = dir / (shared || world.rank() == 0 ? "run" : str("run", world.rank()));
          Trainer trainer(lm, c);
          const auto data = rank_data(lm);
          const auto plan = trainer.plan(data);
          CHECK(plan.saves == (ranks > 1));
          together += plan.saves_together;
          std::ostringstream said;
          said << plan;
          CHECK((said.str().find("each writes its share of a checkpoint") != std::string::npos) == plan.saves_together);
          trainer.fit(data);
        });
        CHECK(together == (shared && ranks > 1 ? ranks : 0));
        const auto files = bytes_in(dir / "run" / "checkpoint");
        CHECK(files.size() == (full ? 4u : 3u));
        if (wanted.empty()) wanted = files;
        CHECK(files == wanted);
        for (const auto& file : files_in(dir / "run"))  // and nothing else is left
          CHECK(file.filename().string().find(".part-") == std::string::npos);
        if (!shared && ranks > 1) CHECK(!path_exists(dir / "run1" / "checkpoint"));
      }
  }
}

TEST_CASE("ranks: where one cannot write its share all are told, and what was saved stays") {
  const Scratch dir;
  make_folders(dir / "here");
  write_atomically(dir / "here" / "run.part-1-2", "of a run that was killed");
  const auto save = [&](int ranks, bool one_is_lost) {
    run_thread_group(ranks, [&](Communicator& world) {
      Context<Cpu> ctx({.threads = 1});
      Parameter<float, Cpu> w("w", Tensor<float, Cpu>(ctx, {20000}, std::vector<float>(20000, one_is_lost ? 2 : 1)));
      std::vector<Parameter<float, Cpu>*> params{&w};
      const auto optimizer = OptimizerConfig(AdamW{}).make<float, Cpu>({});
      const Shares shares(&world, {20000}, 4096, 1);
      const auto folder = dir / (one_is_lost && world.rank() == 1 ? "gone" : "here") / "run";
      save_checkpoint<float, Cpu>(ctx, folder, params, *optimizer, RunState(), Description(), {}, shares, true);
    });
  };
  save(4, false);
  const auto before = bytes_in(dir / "here" / "run");
  CHECK(before.at("weights.safetensors").size() > 80000);
  CHECK_THROWS_WITH_AS(save(4, true), doctest::Contains("rank 1: "), Error);
  CHECK(bytes_in(dir / "here" / "run") == before);
  CHECK(files_in(dir / "here").size() == 2);  // and the part, which a run's begin removes
  remove_parts(dir / "here" / "run");
  CHECK(files_in(dir / "here").size() == 1);
}

TEST_CASE("ranks: what does not fit is said, and no rank waits for one that has failed") {
  CHECK_THROWS_WITH_AS(train_on(3, rank_config()), doctest::Contains("3 ranks, and their number is no power of two"),
                       Error);
  TrainerConfig config = rank_config();
  config.micro_batch_tokens = 128;  // two a step: the bits are the same, and that ranks wait is told
  const auto eight = train_on(8, config);
  CHECK(same_bits(eight[7].weights, train_on(1, config)[0].weights));
  REQUIRE(!eight[0].report.warnings.empty());
  CHECK(eight[0].report.warnings[0].find("fewer micro-batches than ranks") != std::string::npos);
  config = rank_config();
  config.cuda_graph = true;
  CHECK_THROWS_WITH_AS(train_on(2, config), doctest::Contains("cuda_graph and world"), Error);
  CHECK_THROWS_WITH_AS(
      run_thread_group(4, [&](Communicator& world) { agree(world, str("seed = ", world.rank() == 2 ? 7 : 42, "\n")); }),
      doctest::Contains(R"(rank 0 has "seed = 42", rank 2 has "seed = 7")"), Error);
  CHECK_THROWS_WITH_AS(run_thread_group(4,
                                        [&](Communicator& world) {
                                          if (world.rank() == 1) throw Error("one is ill");
                                          world.gather("here");
                                        }),
                       doctest::Contains("one is ill"), Error);
  CHECK_THROWS_WITH_AS(run_thread_group(2,
                                        [&](Communicator& world) {
                                          std::vector<std::byte> a(world.rank() ? 4 : 8), b(8);
                                          world.swap(1 - world.rank(), a, b);
                                        }),
                       doctest::Contains("4 bytes came from rank 1, 8 were expected"), Error);
}
