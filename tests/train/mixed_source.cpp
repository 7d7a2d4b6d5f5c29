// tests/train/mixed_source.cpp: several sources in one run: what a step reads of each, and what its loss is.
#include <ftlib/text/causal_lm.hpp>
#include <ftlib/train/mixed_source.hpp>
#include <ftlib/train/trainer.hpp>

#include <doctest/doctest.h>

using namespace ft;

namespace {
/// Texts of tokens, each learned whole; a step reads as many as have room.
class TokenTexts final : public IndexedSource {
 public:
  explicit TokenTexts(std::vector<std::vector<int32_t>> all) : texts_(std::move(all)) {}
  std::vector<std::vector<std::size_t>> plan(int64_t batch_tokens, uint64_t seed, int64_t epoch) const override {
    std::vector<std::size_t> order;
    for (std::size_t i = 0; i < texts_.size(); ++i) order.push_back(i);
    Random(seed, static_cast<uint64_t>(epoch) << 40).shuffle(order);
    std::vector<std::vector<std::size_t>> batches(1);
    int64_t tokens = 0;
    for (const std::size_t i : order) {
      if (!batches.back().empty() && tokens + tokens_of(i) > batch_tokens) {
        batches.emplace_back();
        tokens = 0;
      }
      batches.back().push_back(i);
      tokens += tokens_of(i);
    }
    return batches;
  }
  Batch batch(const std::vector<std::size_t>& items, int64_t) const override {
    Batch batch;
    PackedTokens packed;
    for (const std::size_t i : items) packed.add(texts_[i]);
    const int64_t targets = packed.target_count();
    batch.add(std::move(packed), targets);
    for (const std::size_t i : items) batch.names.push_back(str(texts_[i].front()));
    return batch;
  }
  int64_t tokens_of(std::size_t item) const override { return static_cast<int64_t>(texts_[item].size()); }
  Hash content() const override {
    Hash hash;
    for (const auto& text : texts_) hash.add(text);
    return hash;
  }
  DataLimits limits() const override { return {texts_[0][0], texts_[0][0], "first"}; }

 private:
  std::vector<std::vector<int32_t>> texts_;
};

const TokenTexts main_texts({{1, 2, 3, 4}, {5, 6, 7, 8}, {9, 10, 11, 12}, {13, 14, 15, 16}});
const TokenTexts other_texts({{20, 21, 22}, {23, 24, 25}, {26, 27, 28}});
const BatchOptions by_eight{.batch_tokens = 8, .micro_batch_tokens = 8, .seed = 5};

std::vector<std::string> names_of(const DataSource& source, int64_t epoch) {
  std::vector<std::string> all;
  const auto reader = source.epoch(epoch, by_eight);
  while (const auto batch = reader->next()) {
    std::string names;
    for (const auto& name : batch->names) names += (names.empty() ? "" : " ") + name;
    all.push_back(names);
  }
  return all;
}
}  // namespace

TEST_CASE("train/mixed_source: each step reads of every source, by its share and weight, the same by seed and epoch") {
  const MixedSource mixed(main_texts, {{&other_texts, 0.5, 3}});
  const auto batch = mixed.epoch(0, by_eight)->next();
  REQUIRE(batch);
  CHECK(batch->micro.size() == 2);
  CHECK(batch->tokens == 8 + 3);  // half of 8 has room for one text of 3
  CHECK(batch->targets == 6);     // the first source's alone: it is their mean that the others' means are added to
  CHECK(batch->weights == std::vector<float>{1, 3 * 6.0f / 2});
  CHECK(batch->names.size() == 3);

  CHECK(names_of(mixed, 0).size() == 2);  // an epoch is the first source's
  CHECK(names_of(mixed, 0) == names_of(mixed, 0));
  CHECK(names_of(mixed, 0) != names_of(mixed, 1));
  const auto skipped = mixed.epoch(0, by_eight);
  skipped->skip(1);
  CHECK(skipped->next()->names == [&] {
    const auto reader = mixed.epoch(0, by_eight);
    reader->next();
    return reader->next()->names;
  }());
  const auto size = mixed.size(0, by_eight);
  CHECK(size->batches == 2);
  CHECK(size->tokens == 16 + 2 * 3);
  CHECK(size->largest == 8);
  CHECK(mixed.limits().last_token == 20);
  CHECK(mixed.content().value() != MixedSource(main_texts, {{&other_texts, 0.5, 2}}).content().value());
  CHECK(MixedSource(main_texts, {}).content().value() == main_texts.content().value());
  // A part that is shorter than the epoch begins again.
  const TokenTexts one({{30, 31, 32}});
  for (const auto& names : names_of(MixedSource(main_texts, {{&one, 1, 1}}), 0)) CHECK(names.ends_with("30"));

  const StreamSource stream("stream", [] { return []() -> std::optional<Batch> { return {}; }; });
  CHECK_THROWS_WITH_AS(MixedSource(main_texts, {{&stream}}), doctest::Contains("part 1 is a stream"), Error);
  CHECK_THROWS_WITH_AS(MixedSource(main_texts, {{&other_texts, 0}}), doctest::Contains("a share of 0"), Error);
  CHECK_THROWS_WITH_AS(MixedSource(main_texts, {{&other_texts, 1, -1}}), doctest::Contains("a weight of -1"), Error);
}

TEST_CASE("train/mixed_source: the loss is the first's mean and the weighted means of the others, and so is the step") {
  const auto path = std::filesystem::path(FTLIB_TEST_DATA) / "models/llama_tiny";
  auto lm = CausalLM<float, Cpu>::from_pretrained(path, {.threads = 1});
  lm.attach({.rank = 2});
  Trainer trainer(lm, {.batch_tokens = 8});
  const auto mean = [&](const DataSource& source) {
    const auto batch = source.epoch(0, by_eight)->next();
    return lm.loss_sum(*batch->micro[0], false).item(lm.context()) / static_cast<double>(batch->targets);
  };
  const TokenTexts first({{1, 2, 3, 4}}), second({{20, 21, 22}});
  const MixedSource mixed(first, {{&second, 1, 0.5}});
  const double wanted = mean(first) + 0.5 * mean(second);
  CHECK(trainer.evaluate(mixed) == doctest::Approx(wanted).epsilon(1e-6));
  CHECK(trainer.plan(mixed).seconds > 0);
  const auto batch = mixed.epoch(0, by_eight)->next();
  // The gradient too: of the two losses apart, added.
  const auto gradients = [&](const Batch& of) {
    std::vector<std::vector<float>> all;
    Trainer one(lm, {.optimizer = AdamW{.lr = 0}, .clip_norm = 0});
    one.on_gradients([&](Context<Cpu>& ctx, Trainer<float, Cpu>::Params params) {
      for (const auto* w : params) all.push_back(w->grad.to_host(ctx));
    });
    CHECK(one.step(of, 0).loss > 0);
    return all;
  };
  const auto both = gradients(*batch), alone = gradients(*first.epoch(0, by_eight)->next()),
             other = gradients(*second.epoch(0, by_eight)->next());
  for (std::size_t i = 0; i < both.size(); ++i)
    for (std::size_t k = 0; k < both[i].size(); ++k)
      CHECK(both[i][k] == doctest::Approx(alone[i][k] + 0.5 * other[i][k]).epsilon(1e-4));
  CHECK(trainer.step(*batch, 0).loss == doctest::Approx(wanted).epsilon(1e-6));
}
