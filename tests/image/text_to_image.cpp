// tests/image/text_to_image.cpp: a model of pictures through ft::Trainer: learning, resuming, adapters, fixed
// validation.
#include "../scratch.hpp"

#include <doctest/doctest.h>
#include <ftlib/image/flow_data.hpp>
#include <ftlib/image/text_to_image.hpp>
#include <ftlib/train/trainer.hpp>

#include <cmath>

#include "tiny_mmjit.hpp"

using namespace ft;
using namespace ft::test;

namespace {

using Model = TextToImage<float, Cpu>;

/// Squares of one colour for each of four captions of 1 to 3 rows.
std::vector<FlowExample> squares(std::size_t count) {
  std::vector<FlowExample> examples;
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t which = i % 4;
    auto caption = std::make_shared<std::vector<float>>(6 * (1 + which % 3));
    for (std::size_t k = 0; k < caption->size(); ++k) (*caption)[k] = k % 6 == which ? 2.0f : -0.5f;
    std::vector<float> picture;
    for (std::size_t ch = 0; ch < 3; ++ch) picture.insert(picture.end(), 64, which == ch ? 0.9f : -0.7f);
    examples.push_back({str("square ", i), picture, caption});
  }
  return examples;
}
PackedText caption(std::size_t which) {
  PackedText text;
  text.add(*squares(4)[which].caption, 6);
  return text;
}
TrainerConfig config(int64_t epochs, const std::filesystem::path& out = {}) {
  TrainerConfig c;
  c.optimizer = AdamW{.lr = 3e-3f};
  c.epochs = epochs;
  c.batch_tokens = 6;
  c.micro_batch_tokens = 4;
  c.out_dir = out;
  return c;
}
std::vector<float> trained(Model& model) {
  std::vector<float> all;
  for (const auto* w : model.parameters()) {
    if (!w->trainable) continue;
    const auto values = w->value.to_host(model.context());
    all.insert(all.end(), values.begin(), values.end());
  }
  return all;
}

}  // namespace

TEST_CASE("text to image: learns squares from noise, and draws the one that is asked for") {
  auto model = Model::initial(tiny_mmjit.to_json(), 1, {.threads = 2});
  const FlowData train(squares(16), tiny_mmjit.info()), held_out(squares(8), tiny_mmjit.info(), /*fixed=*/5);
  Trainer trainer(model, config(120));
  const double before = trainer.evaluate(held_out);
  CHECK(before == trainer.evaluate(held_out));  // times and noise are fixed
  const auto plan = trainer.plan(train);
  CHECK(plan.steps == 360);
  CHECK(plan.tokens == 16 * 120);
  const auto report = trainer.fit(train, &held_out);
  CHECK(report.finished);
  const double after = trainer.evaluate(held_out);
  CHECK(after < 0.05 * before);
  for (std::size_t which = 0; which < 4; ++which) {
    CAPTURE(which);
    const auto picture = model.draw(caption(which), {which}, {.steps = 12, .guidance = 1.5f});
    double error = 0;
    for (std::size_t i = 0; i < picture.size(); ++i)
      error = std::max(error, std::abs(double{picture[i]} - double{squares(4)[which].picture[i]}));
    CHECK(error < 0.35);
  }
}

TEST_CASE("text to image: a resumed run ends as an uninterrupted one, bit for bit") {
  Scratch dir;
  const FlowData train(squares(16), tiny_mmjit.info()), held_out(squares(8), tiny_mmjit.info(), 5);
  const auto run = [&](const std::string& name, int64_t stop_at, float ema = 0) {
    auto model = Model::initial(tiny_mmjit.to_json(), 1, {.threads = 2, .seed = 9});
    auto c = config(4, dir / name);
    c.resume = true;
    c.ema_decay = ema;
    Trainer trainer(model, c);
    trainer.on_step([&](const Step& s) { return s.step == stop_at ? Flow::stop : Flow::go; });
    trainer.fit(train, &held_out);
    return trained(model);
  };
  const auto whole = run("whole", 0);
  CHECK(run("parts", 5) != whole);
  CHECK(run("parts", 0) == whole);

  const auto averaged = run("averaged", 0, 0.9f);
  CHECK(averaged != whole);
  run("averaged in parts", 5, 0.9f);
  CHECK_THROWS_WITH_AS(run("averaged in parts", 0), doctest::Contains("was made with ema_decay = "), Error);
  CHECK(run("averaged in parts", 0, 0.9f) == averaged);
}

TEST_CASE("text to image: LoRA learns beside a frozen f16 base; its strength, merging and files") {
  Scratch dir;
  {
    auto model = Model::initial(tiny_mmjit.to_json(), 1, {.threads = 2});
    Trainer(model, config(20)).fit(FlowData(squares(16), tiny_mmjit.info()));
    model.save(dir / "base.safetensors", DType::f16);
  }
  auto model = Model::from_pretrained(dir / "base.safetensors", {.threads = 2});
  CHECK_THROWS_WITH_AS(Trainer(model, config(1)), doctest::Contains("nothing to train"), Error);
  const auto drawn = [&](Model& m) { return m.draw(caption(1), {3}, {.steps = 4}); };
  const auto base = drawn(model);

  auto negative = squares(16);
  for (FlowExample& e : negative)
    for (float& v : e.picture) v = -v;
  const FlowData train(negative, tiny_mmjit.info()), held_out(negative, tiny_mmjit.info(), 5);
  model.attach({.rank = 4, .alpha = 8});
  CHECK(drawn(model) == base);  // B is zero
  const auto kinds = [&] {
    int64_t weights = 0, learning = 0;
    for (const auto* w : model.parameters()) (w->trainable ? learning : weights) += 1;
    return std::pair(weights, learning);
  };
  CHECK(kinds().second == 2 * 35);  // all layers
  Trainer trainer(model, config(10));
  const double before = trainer.evaluate(held_out);
  trainer.fit(train);
  CHECK(trainer.evaluate(held_out) < 0.8 * before);
  const auto tuned = drawn(model);
  model.save_adapter(dir / "adapter");

  auto again = Model::from_pretrained(dir / "base.safetensors", {.threads = 2});
  again.load_adapter(dir / "adapter");
  CHECK(drawn(again) == tuned);
  again.load_adapter(dir / "adapter", 0);
  CHECK(drawn(again) == base);
  again.load_adapter(dir / "adapter", 0.5f);
  CHECK(drawn(again) != base);
  CHECK(drawn(again) != tuned);
  again.detach();
  CHECK(drawn(again) == base);
  CHECK_THROWS_WITH_AS(again.save_adapter(dir / "none"), doctest::Contains("there is no adapter to save"), Error);
  CHECK_THROWS_WITH_AS(model.save(dir / "lost.safetensors"), doctest::Contains("has an adapter that would be lost"),
                       Error);
  model.merge();
  const auto merged = drawn(model);
  for (std::size_t i = 0; i < tuned.size(); ++i) CHECK(std::abs(merged[i] - tuned[i]) <= 1e-4f);
  model.save(dir / "merged.safetensors");
  auto reread = Model::from_pretrained(dir / "merged.safetensors", {.threads = 2});
  CHECK(drawn(reread) == merged);

  reread.attach({.rank = 2, .targets = {"img_qkv", "img_attn_proj"}});
  reread.train_all();
  Trainer(reread, config(1)).fit(train);
  CHECK(drawn(reread) != merged);
}

TEST_CASE("flow data: every picture once an epoch, in another order; micro-batches; sizes that do not fit") {
  const FlowData data(squares(10), tiny_mmjit.info());
  const auto first = data.plan(4, 1, 0);
  REQUIRE(first.size() == 3);
  CHECK(first[2].size() == 2);
  std::vector<std::size_t> seen;
  for (const auto& batch : first) seen.insert(seen.end(), batch.begin(), batch.end());
  CHECK(seen != std::vector<std::size_t>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9});
  std::sort(seen.begin(), seen.end());
  CHECK(seen == std::vector<std::size_t>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9});
  CHECK(data.plan(4, 1, 0) == first);
  CHECK(data.plan(4, 1, 1) != first);
  CHECK(data.plan(4, 2, 0) != first);

  const auto batch = data.batch({3, 1, 4}, 2);
  REQUIRE(batch.micro.size() == 2);
  CHECK(batch.targets == 3);
  CHECK(batch.names == std::vector<std::string>{"square 3", "square 1", "square 4"});
  const auto& micro = micro_cast<FlowBatch>(*batch.micro[0]);
  CHECK(micro.text.starts == std::vector<int64_t>{0, 1, 3});
  CHECK(batch.micro[1]->tokens() == 1);
  CHECK(micro.times.empty());
  const FlowData fixed(squares(10), tiny_mmjit.info(), 7);
  const auto together = micro_cast<FlowBatch>(*fixed.batch({3, 1}, 2).micro[0]),
             alone = micro_cast<FlowBatch>(*fixed.batch({1}, 2).micro[0]);
  CHECK(together.times[1] == alone.times[0]);
  CHECK(std::equal(alone.noise.begin(), alone.noise.end(), together.noise.begin() + 192));
  CHECK(together.times[0] != together.times[1]);

  CHECK_THROWS_WITH_AS(FlowData({}, tiny_mmjit.info()), doctest::Contains("there is no picture"), Error);
  auto examples = squares(2);
  examples[1].picture.pop_back();
  CHECK_THROWS_WITH_AS(FlowData(examples, tiny_mmjit.info()),
                       doctest::Contains("picture 'square 1' is 191 values, the model learns pictures of 3 x 8 x 8"),
                       Error);
  examples = squares(2);
  examples[0].caption = std::make_shared<std::vector<float>>(7);
  CHECK_THROWS_WITH_AS(FlowData(examples, tiny_mmjit.info()), doctest::Contains("'square 0' has a caption of 7"),
                       Error);
}
