// tests/text/prefer.cpp: of two answers the better one is learned to be preferred.
#include <ftlib/io/json.hpp>
#include <ftlib/io/safetensors.hpp>
#include <ftlib/ops/softmax.hpp>
#include <ftlib/tensor/quantised.hpp>
#include <ftlib/text/keep.hpp>
#include <ftlib/text/prefer.hpp>
#include <ftlib/train/mixed_source.hpp>
#include <ftlib/train/trainer.hpp>
#include "../tiny_text_model.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <fstream>

using namespace ft;

namespace {
using Lm = CausalLM<float, Cpu>;

Lm preference_model(const std::vector<std::string>& targets, const char* name = "llama_tiny") {
  const test::Scratch scratch;
  Lm lm = Lm::from_pretrained(test::tiny_text_model(scratch, name), {.threads = 1});
  if (!targets.empty()) lm.attach({.rank = 4, .alpha = 8, .targets = targets});
  return lm;
}
const std::vector<text::Record> preferences = {
    {.id = "a", .question = "sky?", .answers = {"blue", "azure"}, .rejected = {"green", "no"}},
    {.id = "b", .question = "snow?", .answers = {"white"}, .rejected = {"black as tar"}},
    {.id = "c", .question = "grass?", .answers = {"green"}, .rejected = {"blue"}},
    {.id = "d", .question = "tar?", .answers = {"black"}, .rejected = {"as white as snow"}}};

Batch whole(const IndexedSource& source, int64_t micro = 512) {
  return *source.epoch(0, {.batch_tokens = 4096, .micro_batch_tokens = micro})->next();
}
/// log p of a sequence's targets, from whole logits.
double log_p(Lm& lm, const text::Example& e) {
  PackedTokens packed;
  packed.add(e.tokens, e.learned);
  const NoGrad unrecorded(lm.context());
  const auto all = log_softmax(lm.context(), lm.model().logits(lm.context(), packed)).to_host(lm.context());
  const std::size_t V = all.size() / packed.ids.size();
  double sum = 0;
  for (std::size_t n = 0; n < packed.targets.size(); ++n)
    if (packed.targets[n] != ignored_target) sum += double{all[n * V + static_cast<std::size_t>(packed.targets[n])]};
  return sum;
}
/// What preference_loss() and evaluate_preferences() say, by hand.
PreferenceReport preferences_by_hand(Lm& lm, const PreferenceData& data, double beta) {
  PreferenceReport r;
  r.pairs = static_cast<int64_t>(data.size());
  for (const auto& [chosen, rejected] : data.pairs()) {
    const double tuned = log_p(lm, chosen) - log_p(lm, rejected);
    const AdaptersOff off(lm);
    const double base = log_p(lm, chosen) - log_p(lm, rejected), margin = beta * (tuned - base);
    r.loss += std::log1p(std::exp(-margin)) / static_cast<double>(r.pairs);
    r.margin += margin / static_cast<double>(r.pairs);
    r.accuracy += (margin > 0) / static_cast<double>(r.pairs);
    r.likelier += (tuned > 0) / static_cast<double>(r.pairs);
    r.base_likelier += (base > 0) / static_cast<double>(r.pairs);
  }
  return r;
}
}  // namespace

TEST_CASE("text/prefer: each rejected answer makes a pair with the first accepted one; what is left out is told") {
  Lm lm = preference_model({});
  const PreferenceData data(preferences, lm.prompt());
  REQUIRE(data.size() == 5);
  CHECK(data.left_out().empty());
  const auto& tokenizer = lm.tokenizer();
  const auto said = [&](const text::Example& e) {
    std::vector<int32_t> learned;
    for (std::size_t i = 0; i < e.tokens.size(); ++i)
      if (e.learned[i]) learned.push_back(e.tokens[i]);
    CHECK(learned.back() == tokenizer.eos());
    learned.pop_back();
    return tokenizer.decode(learned);
  };
  CHECK(said(data.pairs()[1].chosen) == " blue");
  CHECK(said(data.pairs()[1].rejected) == " no");
  CHECK(said(data.pairs()[2].rejected) == " black as tar");
  CHECK(data.pairs()[1].chosen.record == 0);

  // Pairs are whole in their micro-batches, however small these are to be; each is one target.
  for (const int64_t micro : {1, 30, 60, 4096}) {
    const Batch batch = whole(data, micro);
    int64_t pairs = 0;
    for (const auto& m : batch.micro) {
      const auto& one = micro_cast<PreferencePairs>(*m);
      CHECK(one.packed.sequences() == 2 * one.pairs());
      pairs += one.pairs();
    }
    CHECK((pairs == 5 && batch.targets == 5 && batch.tokens == data.tokens()));
    CHECK((micro > 1 || batch.micro.size() == 5));
  }
  const auto size = *data.size(0, {.batch_tokens = 60, .micro_batch_tokens = 60});
  CHECK(size.tokens == data.tokens());
  CHECK(data.limits().last_token == text::Dataset(preferences, lm.prompt()).limits().last_token);
  CHECK(data.content().value() !=
        PreferenceData({preferences.begin(), preferences.end() - 1}, lm.prompt()).content().value());

  const auto [more, rest] = data.split(0.5, 1);
  CHECK((more.size() + rest.size() == 5 && more.records().size() == 2 && rest.records().size() == 2));

  auto records = preferences;
  records.push_back({.question = "sun?", .answers = {"hot"}});
  const PreferenceData shorter(records, lm.prompt(), 20);
  CHECK(shorter.left_out() == "1 record without a rejected answer; 2 pairs left out: longer than 20 tokens");
  CHECK_THROWS_WITH_AS(PreferenceData({records.back()}, lm.prompt()),
                       doctest::Contains("of 1 records no pair is left; 1 record without a rejected answer"), Error);
  records.back().rejected = {"hot"};
  CHECK_THROWS_WITH_AS(PreferenceData(records, lm.prompt()),
                       doctest::Contains("record 4: the rejected answer is an accepted one too"), Error);
}

TEST_CASE("text/prefer: of conversations the last turns are learned alone, and what the template refuses is told") {
  const test::Scratch scratch;
  const auto folder = test::tiny_text_model(scratch);
  std::ofstream(folder / "chat_template.jinja")
      << "{% for m in messages %}{% if m.content == 'tar?' %}{{ raise_exception('no tar') }}{% endif %}"
         "{{ m.role + ':' + m.content + '<|endoftext|>' }}{% endfor %}"
         "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}";
  Lm lm = Lm::from_pretrained(folder, {.threads = 1});
  auto records = preferences;
  records.push_back({.id = "e",
                     .turns = {{"user", "hi"}, {"assistant", "ho"}, {"user", "sun?"}, {"assistant", "hot"}},
                     .rejected = {"cold"}});
  const PreferenceData data(records, lm.prompt(text::Form::chat));
  CHECK(data.size() == 5);
  CHECK_MESSAGE(data.left_out().find("1 pair left out that the chat template refuses: record 4 'd' (") == 0,
                data.left_out());
  for (const bool rejected : {false, true}) {
    const auto& pair = data.pairs().back();
    const text::Example& e = rejected ? pair.rejected : pair.chosen;
    std::string read, learned;
    for (std::size_t i = 0; i < e.tokens.size(); ++i)
      (e.learned[i] ? learned : read) += lm.tokenizer().decode(std::vector<int32_t>{e.tokens[i]});
    CHECK(read == "user:hi<|endoftext|>assistant:ho<|endoftext|>user:sun?<|endoftext|>assistant:");
    CHECK(learned == (rejected ? "cold<|endoftext|>" : "hot<|endoftext|>"));
  }
}

TEST_CASE(
    "text/prefer: the loss is that of log-probabilities, tuned and of the base; other micro-batches stay others'") {
  for (const bool head : {false, true}) {
    Lm lm = preference_model({"v_proj", head ? "lm_head" : "down_proj"}, head ? "llama_untied" : "llama_tiny");
    const PreferenceData data(preferences, lm.prompt());
    const text::Dataset records(preferences, lm.prompt());
    const PreferenceOptions options{.beta = 0.3f};
    Preferring<float, Cpu> preferring(lm, options);
    const auto loss = [&](const Batch& batch) {
      double sum = 0;
      for (const auto& micro : batch.micro) sum += preferring.loss_sum(*micro, false).item(lm.context());
      return sum;
    };
    CHECK(loss(whole(data)) == doctest::Approx(5 * std::log(2.0)));  // LoRA's B begins at zero
    const auto before = evaluate_preferences(lm, data, options);
    CHECK((before.margin == doctest::Approx(0).epsilon(1e-5) && before.likelier == before.base_likelier));

    Trainer trainer(preferring, {.optimizer = AdamW{.lr = 1e-2f}});
    for (int step = 0; step < 6; ++step) trainer.step(whole(data), 1e-2f);
    const auto after = evaluate_preferences(lm, data, options), wanted = preferences_by_hand(lm, data, 0.3);
    CHECK(after.pairs == 5);
    CHECK(after.loss == doctest::Approx(wanted.loss).epsilon(1e-4));
    CHECK(after.margin == doctest::Approx(wanted.margin).epsilon(1e-3));
    CHECK(after.accuracy == doctest::Approx(wanted.accuracy));
    CHECK(after.likelier == doctest::Approx(wanted.likelier));
    CHECK(after.base_likelier == doctest::Approx(wanted.base_likelier));
    CHECK((after.accuracy == 1 && after.margin > 0.5 && after.loss < 0.6 * before.loss));
    CHECK(loss(whole(data)) == doctest::Approx(5 * after.loss).epsilon(1e-4));
    CHECK(loss(whole(data, 40)) == doctest::Approx(5 * after.loss).epsilon(1e-4));  // in several micro-batches
    CHECK(trainer.evaluate(data) == doctest::Approx(after.loss).epsilon(1e-4));

    // Forgotten activations are made again with the adapter; and pairs in other micro-batches are the same step.
    Trainer plain(preferring, {}), again(preferring, {.recompute = true});
    const double norm = plain.step(whole(data), 0).grad_norm;
    CHECK(norm == doctest::Approx(again.step(whole(data), 0).grad_norm).epsilon(1e-4));
    CHECK(norm == doctest::Approx(plain.step(whole(data, 40), 0).grad_norm).epsilon(1e-4));
    CHECK(loss(whole(records)) == doctest::Approx(lm.loss_sum(*whole(records).micro[0], false).item(lm.context())));
  }
}

TEST_CASE("text/prefer: loss, rewards, gradients and ten steps are TRL's") {  // tools/make_preference_fixtures.py
  const auto folder = std::filesystem::path(FTLIB_TEST_DATA);
  const Json expected = read_json(folder / "preferences/llama_tiny.json");
  const auto arrays = SafetensorsFile::open(folder / "preferences/llama_tiny.safetensors");
  Lm lm = Lm::from_pretrained(folder / "models/llama_tiny", {.threads = 1});
  const float beta = expected["beta"].get<float>();
  PreferencePairs pairs;
  for (const Json& pair : expected["pairs"])
    for (const char* side : {"chosen", "rejected"})
      pairs.packed.add(pair[side].get<std::vector<int32_t>>(), pair["question"].get<std::size_t>());
  Batch batch;
  batch.add(pairs, pairs.pairs());
  const auto near = [](double got, const Json& wanted, double most) {
    CHECK(std::abs(got - wanted.get<double>()) <= most * std::max(1.0, std::abs(wanted.get<double>())));
  };
  const auto check_rewards = [&](const Json& wanted, double most) {
    const NoGrad off(lm.context());
    const auto tuned = lm.model().nll_by_sequence(lm.context(), pairs.packed).to_host(lm.context());
    const AdaptersOff base_alone(lm);
    const auto base = lm.model().nll_by_sequence(lm.context(), pairs.packed).to_host(lm.context());
    for (std::size_t i = 0; i < tuned.size(); ++i) {
      near(-double{base[i]}, expected["tuned"]["reference"][i / 2][i % 2], 1e-5);
      near(double{beta} * (double{base[i]} - double{tuned[i]}), wanted[i / 2][i % 2], most);
    }
  };
  const auto most_apart = [&](const std::string& what, bool gradients) {
    double most = 0;
    for (const auto* w : lm.parameters()) {
      if (!w->trainable) continue;
      const auto stored = arrays.tensor(what + "base_model.model." + w->name);
      std::vector<float> values(static_cast<std::size_t>(stored.shape.count()));
      dequantise_row(stored.type, stored.data, 0, stored.shape.count(), values.data());
      const auto got = (gradients ? w->grad : w->value).to_host(lm.context());
      REQUIRE(got.size() == values.size());
      for (std::size_t i = 0; i < got.size(); ++i) most = std::max(most, std::abs(double{got[i]} - double{values[i]}));
    }
    return most;
  };

  lm.load_adapter(folder / "models/llama_tiny/adapter_trained");
  for (const char* way : {"tuned", "smoothed", "with_nll"}) {
    const Json& wanted = expected[way];
    PreferenceOptions options{.beta = beta};
    if (wanted.contains("nll")) {
      options.label_smoothing = wanted["label_smoothing"].get<float>();
      options.nll = wanted["nll"].get<float>();
    }
    Preferring<float, Cpu> preferring(lm, options);
    Trainer trainer(preferring, {.clip_norm = 0});
    trainer.on_gradients([&](auto&, auto) {
      if (std::string_view(way) == "tuned") CHECK(most_apart("grad.", true) <= 1e-5);
    });
    const Step step = trainer.step(batch, 0);
    near(step.loss, wanted["loss"], 1e-5);
    near(step.grad_norm, wanted["grad_norm"], 1e-5);
  }
  check_rewards(expected["tuned"]["rewards"], 1e-5);

  lm.load_adapter(folder / "models/llama_tiny/adapter_initial");
  Preferring<float, Cpu> preferring(lm, {.beta = beta});
  const Json& training = expected["training"];
  Trainer trainer(preferring, {.optimizer = AdamW{.lr = 1e-3f, .weight_decay = 0.01f}, .clip_norm = 1});
  for (std::size_t i = 0; i < training["losses"].size(); ++i) {
    const Step step = trainer.step(batch, 1e-3f);
    near(step.loss, training["losses"][i], 1e-4);
    near(step.grad_norm, training["grad_norms"][i], 1e-4);
  }
  check_rewards(training["last_rewards"], 1e-4);
  CHECK(most_apart("final.", false) <= 1e-4);
}

TEST_CASE("text/prefer: pairs beside plain records and kept text, each with its loss") {
  Lm lm = preference_model({"q_proj", "v_proj", "up_proj"});
  const PreferenceData pairs(preferences, lm.prompt());
  const text::Dataset records({{.question = "sun?", .answers = {"hot"}}, {.question = "ice?", .answers = {"cold"}}},
                              lm.prompt());
  const KeptText kept(text::Dataset({{.text = "a lemon is yellow"}, {.text = "a rose is red"}}, lm.prompt()));
  Keeping<float, Cpu> keeping(lm);
  Preferring<float, Cpu> preferring(lm, {.beta = 0.3f, .nll = 0.1f}, keeping);
  const MixedSource source(pairs, {{&records, 1, 1}, {&kept, 1, 1}});
  Trainer trainer(preferring, {.optimizer = AdamW{.lr = 1e-2f}, .epochs = 12, .batch_tokens = 64});
  const double before = trainer.evaluate(records);
  trainer.fit(source);
  const double moved = trainer.evaluate(kept);
  MESSAGE("records: ", before, " -> ", trainer.evaluate(records), "; kept text moved by ", moved);
  CHECK(evaluate_preferences(lm, pairs).accuracy == 1);
  CHECK(trainer.evaluate(records) < 0.5 * before);
  CHECK((moved > 0 && moved < 0.5));
  Description d;
  preferring.describe(d);
  std::string all;
  for (const auto& [name, value] : d.entries()) all += name + '=' + value + ';';
  for (const char* word : {"beta=0.3", "keep: KL", "DPO"}) CHECK_MESSAGE(all.find(word) != all.npos, all);
}

TEST_CASE("text/prefer: refused are a trained base, options out of range, and a stop is heard") {
  Lm lm = preference_model({});
  const PreferenceData data(preferences, lm.prompt());
  CHECK_THROWS_WITH_AS((Preferring<float, Cpu>(lm, {.beta = -1})), doctest::Contains("beta -1"), Error);
  StopSource stop;
  stop.request_stop();
  CHECK_THROWS_AS(evaluate_preferences(lm, data, {}, stop.token()), Interrupted);
  lm.train_all();
  CHECK_THROWS_WITH_AS((Preferring<float, Cpu>(lm)), doctest::Contains("weights of the base are trained"), Error);
}
