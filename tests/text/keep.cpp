// tests/text/keep.cpp: a tuned model is held to its base on other text.
#include <ftlib/ops/shape.hpp>
#include <ftlib/ops/softmax.hpp>
#include <ftlib/text/keep.hpp>
#include <ftlib/train/mixed_source.hpp>
#include <ftlib/train/trainer.hpp>
#include "../tiny_text_model.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

using namespace ft;
using ft::test::Scratch;

namespace {
using Lm = CausalLM<float, Cpu>;

Lm keep_model(const std::vector<std::string>& targets, const char* name = "llama_tiny") {
  const Scratch scratch;
  Lm lm = Lm::from_pretrained(test::tiny_text_model(scratch, name), {.threads = 1});
  if (!targets.empty()) lm.attach({.rank = 4, .alpha = 8, .targets = targets});
  return lm;
}
text::Dataset texts_of(Lm& lm, std::initializer_list<const char*> texts) {
  std::vector<text::Record> records;
  for (const char* text : texts) records.push_back({.text = text});
  return {records, lm.prompt()};
}
Batch all_of(const IndexedSource& source) { return *source.epoch(0, {})->next(); }

/// KL(base || tuned) of every place with a target, from whole logits.
double divergence_by_hand(Lm& lm, const PackedTokens& packed) {
  auto& ctx = lm.context();
  const auto logits = [&] { return log_softmax(ctx, lm.model().logits(ctx, packed)).to_host(ctx); };
  const auto tuned = logits();
  const AdaptersOff off(lm);
  const auto base = logits();
  const std::size_t V = base.size() / packed.ids.size();
  double sum = 0;
  for (std::size_t i = 0; i < base.size(); ++i)
    if (packed.targets[i / V] != ignored_target)
      sum += std::exp(double{base[i]}) * (double{base[i]} - double{tuned[i]});
  return sum;
}
}  // namespace

TEST_CASE("text/keep: kept tokens cost their divergence from the base, others what they always cost") {
  for (const bool head : {false, true}) {
    Lm lm = keep_model({"v_proj", head ? "lm_head" : "down_proj"}, head ? "llama_untied" : "llama_tiny");
    const auto learned = texts_of(lm, {"grass is green"});
    const KeptText kept(texts_of(lm, {"the sky is blue", "snow is white"}));
    Keeping<float, Cpu> keeping(lm);
    CHECK(all_of(kept).tokens == all_of(kept.data()).tokens);
    CHECK(kept.content().value() == kept.data().content().value());
    const auto loss = [&](const Batch& batch) { return keeping.loss_sum(*batch.micro[0], false).item(lm.context()); };
    CHECK(loss(all_of(kept)) == doctest::Approx(0).epsilon(1e-6));  // LoRA's B begins at zero
    Trainer trainer(lm, {.optimizer = AdamW{.lr = 1e-2f}});
    for (int step = 0; step < 4; ++step) trainer.step(all_of(learned), 1e-2f);
    CHECK(loss(all_of(learned)) == doctest::Approx(lm.loss_sum(*all_of(learned).micro[0], false).item(lm.context())));
    const double divergence = loss(all_of(kept));
    CHECK(divergence > 1e-3);
    CHECK(
        divergence ==
        doctest::Approx(divergence_by_hand(lm, micro_cast<PackedTokens>(*all_of(kept.data()).micro[0]))).epsilon(1e-4));
    // Forgotten activations are made again with the adapter, as they were.
    Trainer whole(keeping, {}), again(keeping, {.recompute = true});
    CHECK(whole.step(all_of(kept), 0).grad_norm ==
          doctest::Approx(again.step(all_of(kept), 0).grad_norm).epsilon(1e-4));
  }
}

TEST_CASE("text/keep: what is kept moves less, and what is learned is learned all the same") {
  double moved[2] = {}, learned_loss[2] = {};
  for (const bool held : {false, true}) {
    Lm lm = keep_model({"q_proj", "v_proj", "up_proj"});
    const auto learned = texts_of(lm, {"grass is green", "tar is black"});
    const KeptText kept(texts_of(lm, {"the sky is blue", "snow is white", "a lemon is yellow"}));
    Keeping<float, Cpu> keeping(lm);
    const MixedSource source(learned, {{&kept, 1, held ? 1.0f : 0.0f}});
    Trainer trainer(keeping, {.optimizer = AdamW{.lr = 1e-2f}, .epochs = 30, .batch_tokens = 64});
    trainer.fit(source);
    moved[held] = trainer.evaluate(kept);
    learned_loss[held] = trainer.evaluate(learned);
  }
  MESSAGE("divergence from the base: free ", moved[0], ", held ", moved[1], "; loss: ", learned_loss[0], ", ",
          learned_loss[1]);
  CHECK(moved[1] < 0.5 * moved[0]);
  CHECK(learned_loss[1] < 1.5 * learned_loss[0]);
}

TEST_CASE("text/keep: where the base is trained there is nothing to be held to") {
  Lm lm = keep_model({});
  lm.train_all();
  CHECK_THROWS_WITH_AS((Keeping<float, Cpu>(lm)), doctest::Contains("weights of the base are trained"), Error);
}

TEST_CASE("text/keep: the base writes on, by seed, whatever is in use") {
  Lm lm = keep_model({"q_proj", "down_proj"});
  const WriteOptions options{.tokens = 12, .batch = 2};
  const auto before = write_texts(lm, {"sky", "snow", "tar"}, options);
  REQUIRE(before.size() == 3);
  for (const auto& record : before) CHECK(text::record_fault(record).empty());
  CHECK(before[1].text.starts_with("snow"));
  CHECK(before[1].text.size() > 4);
  Trainer trainer(lm, {.optimizer = AdamW{.lr = 1e-1f}});
  trainer.step(all_of(texts_of(lm, {"grass is green"})), 1e-1f);
  CHECK(write_texts(lm, {"sky", "snow", "tar"}, options) == before);
  CHECK(write_texts(lm, {"sky"}, {.tokens = 12, .seed = 7}) != std::vector<text::Record>{before[0]});
}

TEST_CASE("text/keep: an answer that is not sure enough becomes the words for it, and the base's are its own") {
  Lm lm = keep_model({"q_proj", "down_proj"});
  lm.set_prompt({.unknown = "No.", .sure = 1});
  const auto asked = lm.prompt().question({.question = "Which?"});
  const auto answer = [&] {
    return lm.generate_from(asked, lm.answer_options(lm.prompt(), {.max_new_tokens = 4})).rest();
  };
  CHECK(answer() == "No.");
  std::vector<Certainty> certainty;
  const auto both =
      lm.generate_batch({asked, asked}, lm.answer_options(lm.prompt(), {.max_new_tokens = 4}), &certainty);
  CHECK(both == std::vector<std::string>{"No.", "No."});
  const double sure = certainty[0].confidence;
  CHECK((sure > 0 && sure < 1 && sure == certainty[1].confidence && certainty[0].nearness == 1));
  {
    const AdaptersOff off(lm);
    CHECK(answer() != "No.");
  }
  // The least of the tokens' probabilities: of the first alone, its own, among the rows that are tokens.
  const NoGrad unrecorded(lm.context());
  PackedTokens batch;
  batch.add(asked);
  const auto logits = lm.model().logits(lm.context(), batch);
  const auto p =
      softmax(lm.context(), slice(lm.context(), slice(lm.context(), logits, 0, logits.rows() - 1, logits.rows()), 1, 0,
                                  lm.tokenizer().vocab_size()))
          .to_host(lm.context());
  lm.generate_batch({asked}, {.max_new_tokens = 1}, &certainty);
  CHECK(certainty[0].confidence == doctest::Approx(double{*std::max_element(p.begin(), p.end())}).epsilon(1e-4));
  CHECK_THROWS_WITH_AS(lm.set_prompt({.sure = 0.5}), doctest::Contains("with no words for less"), Error);
  CHECK_THROWS_WITH_AS(lm.generate_from(asked, {.sure = 2}), doctest::Contains("sure is 2"), Error);
}

TEST_CASE("text/keep: an answer to a question that lies far from those it was learned for becomes the words for it") {
  Lm lm = keep_model({"q_proj", "down_proj"});
  const auto asked = [&](const char* question) { return lm.prompt().question({.question = question}); };
  const auto answers = [&](const char* question) {
    std::vector<Certainty> certainty;
    auto text = lm.generate_batch({asked(question)}, lm.answer_options(lm.prompt(), {.max_new_tokens = 4}), &certainty);
    const auto streamed =
        lm.generate_from(asked(question), lm.answer_options(lm.prompt(), {.max_new_tokens = 4})).rest();
    CHECK(streamed == text.front());
    return std::pair(text.front(), certainty.front().nearness);
  };
  lm.set_prompt({.stop = std::vector<std::string>{}, .unknown = "No."});
  const std::string which = answers("Which?").first;
  CHECK(answers("Which?").second == 1);  // nothing is known yet
  const std::vector<text::Record> learned{{.question = "Which?", .answers = {which}},
                                          {.question = "What is the sky?", .answers = {"blue"}},
                                          {.text = "a plain text"},
                                          {.question = "Who?", .unanswered = true},
                                          {.question = "What is snow?", .answers = {"white"}}};
  CHECK(lm.remember_questions(learned) == 3);
  CHECK(lm.learned_questions().width() == lm.model().info().hidden_size);
  CHECK(answers("Which?").second == doctest::Approx(1).epsilon(1e-3));  // in eight bits
  const auto [other, far] = answers("And which?");
  if (other == which) CHECK(far < 1);

  // The cosine after the last block by hand, of a question whose answer is taken for learned: each state of length 1,
  // less the mean of the three.
  const auto state = [&](const char* question) {
    PackedTokens batch;
    batch.add(asked(question));
    const NoGrad off(lm.context());
    const auto h = lm.model().hidden_after(lm.context(), batch, {lm.learned_questions().blocks()}).front();
    const auto all = h.to_host(lm.context());
    std::vector<double> last(all.end() - h.cols(), all.end());
    double squares = 0;
    for (const double v : last) squares += v * v;
    for (double& v : last) v /= std::sqrt(squares);
    return last;
  };
  const auto a = state("Which?"), b = state("What is the sky?"), c = state("What is snow?"), x = state("Is it?");
  double product = 0, of_x = 0, of_b = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double mean = (a[i] + b[i] + c[i]) / 3, u = x[i] - mean, v = b[i] - mean;
    product += u * v;
    of_x += u * u;
    of_b += v * v;
  }
  const double cosine = product / std::sqrt(of_x * of_b);
  const auto states = lm.question_states({asked("Is it?"), asked("Which?")});
  CHECK(states.size() == 2);
  CHECK(states[0].tokens == asked("Is it?"));
  const auto seen = lm.learned_questions().signs_of(states[0], " blue\n");
  CHECK(seen[2] == doctest::Approx(cosine).epsilon(0.02));
  CHECK(lm.learned_questions().nearness(states[0], "blue", 1) == std::max(0.0, seen[2]));
  CHECK(lm.learned_questions().nearness(states[0], "green", 1) == 1);
  const auto same = lm.learned_questions().signs_of(states[1], which);  // as it was learned: token for token
  for (const double sign : same) CHECK(sign == doctest::Approx(1).epsilon(0.02));
  const std::string longer(400, 'x');  // of a long prompt the last tokens
  CHECK(lm.question_states({asked(longer.c_str())}).front().tokens.size() == 64);
  CHECK_THROWS_WITH_AS(lm.weigh_nearness(learned, {"a"}, {1}), doctest::Contains("5 records, 1 answers, 1 confidences"),
                       Error);
  CHECK(lm.weigh_nearness({learned[1]}, {"blue"}, {0.5}).front() ==
        doctest::Approx(1).epsilon(0.02));  // too few to weigh

  lm.set_prompt({.stop = std::vector<std::string>{}, .unknown = "No.", .near = 0.9999});
  CHECK(answers("Which?").first == which);
  CHECK((answers("And which?").first == "No.") == (other == which));
  {
    const AdaptersOff off(lm);
    CHECK(answers("And which?").first != "No.");
  }
  // Kept with the adapter, on disk and in memory; a folder that has lost them says so.
  AdapterData data = lm.adapter_data();
  Lm again = keep_model({});
  CHECK(again.load_adapter("a", data).size() <= 1);  // another base's name
  CHECK(again.learned_questions() == lm.learned_questions());
  CHECK(again.prompt().options().near == 0.9999);
  data.metadata.erase("ftlib.learned_questions");
  const auto warnings = again.load_adapter("b", data);
  CHECK(warnings.back().find("it answers every question") != std::string::npos);
  CHECK(again.learned_questions().empty());
  data.metadata["ftlib.learned_questions"] =
      LearnedQuestions(1, {{{1}, {1, 2}, {1, 2, 3, 4, 5, 6}}}, {"x"}).to_json().dump();
  CHECK_THROWS_WITH_AS(again.load_adapter("c", data), doctest::Contains("states of 2 numbers of 1 blocks"), Error);
  data.metadata["ftlib.learned_questions"] = R"({"layer": 1, "states": ""})";  // an older version's
  CHECK(again.load_adapter("d", data).back().find("it answers every question") != std::string::npos);
  CHECK(lm.remember_questions({{.text = "a plain text"}}) == 0);
  CHECK_THROWS_WITH_AS(lm.set_prompt({.near = 0.5}), doctest::Contains("near is 0.5, with no words for less"), Error);
  CHECK_THROWS_WITH_AS(lm.generate_from(asked("Which?"), {.near = -2}), doctest::Contains("near is -2"), Error);
}
