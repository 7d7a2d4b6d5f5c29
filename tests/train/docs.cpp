// tests/train/docs.cpp: the program text of docs/training.md, compiled and run. tools/check_readme.py holds the page's
// blocks against what stands here between the lines "// block" and "// end".
#include <doctest/doctest.h>
#include <ftlib/finetune.hpp>
#include <ftlib/ops/softmax.hpp>

#include <fstream>

#include "../scratch.hpp"

namespace training_docs {

using T = float;
using D = ft::Cpu;

// block
/// Some tokens count more than others.
struct WeightedTokens {
  static constexpr const char* kind = "weighted tokens";  // a name that no other micro-batch has
  ft::PackedTokens packed;
  std::vector<float> weights;  // a token's, as a target's place
  int64_t tokens() const { return packed.tokens(); }
};

/// The sum over targets of weight (-log p).
struct Weighted final : ft::Trainable<T, D> {
  ft::CausalLM<T, D>& lm;
  explicit Weighted(ft::CausalLM<T, D>& lm_) : lm(lm_) {}

  ft::Context<D>& context() override { return lm.context(); }
  std::vector<ft::Parameter<T, D>*> parameters() override { return lm.parameters(); }
  void describe(ft::Description& d) const override { lm.describe(d); }
  ft::Loss<T, D> loss_sum(const ft::MicroBatch& micro, bool recompute) override {
    const auto& [packed, weights] = ft::micro_cast<WeightedTokens>(micro);
    const auto log_p = ft::log_softmax(context(), lm.model().logits(context(), packed, {.recompute = recompute}));
    std::vector<T> factors(static_cast<std::size_t>(log_p.count()));  // (N, V)  -weight at each target
    for (std::size_t n = 0; n < weights.size(); ++n)
      if (packed.targets[n] != ft::ignored_target)
        factors[n * static_cast<std::size_t>(log_p.cols()) + static_cast<std::size_t>(packed.targets[n])] = -weights[n];
    return ft::sum(context(), ft::mul(context(), log_p, ft::Tensor<T, D>(context(), log_p.shape(), factors)));
  }
};
// end

// block
/// The student learns the teacher's probabilities: the cross-entropy to them, times T^2 at temperature T.
/// Hinton et al., arXiv:1503.02531
struct Distilled final : ft::Trainable<T, D> {
  ft::CausalLM<T, D>&student, &teacher;  // the teacher's session is its own
  float temperature;
  Distilled(ft::CausalLM<T, D>& s, ft::CausalLM<T, D>& t, float tau) : student(s), teacher(t), temperature(tau) {}

  ft::Context<D>& context() override { return student.context(); }
  std::vector<ft::Parameter<T, D>*> parameters() override { return student.parameters(); }
  void describe(ft::Description& d) const override {
    student.describe(d);
    d.add("temperature", temperature);
  }
  ft::Loss<T, D> loss_sum(const ft::MicroBatch& micro, bool recompute) override {
    const auto& packed = ft::micro_cast<ft::PackedTokens>(micro);
    const auto at_temperature = [&](ft::CausalLM<T, D>& lm) {
      auto& ctx = lm.context();
      return ft::scale(ctx, lm.model().logits(ctx, packed, {.recompute = recompute && &lm == &student}),
                       1 / temperature);
    };
    std::vector<T> p = [&] {
      const ft::NoGrad off(teacher.context());
      return ft::softmax(teacher.context(), at_temperature(teacher)).to_host(teacher.context());
    }();
    const std::size_t V = p.size() / packed.ids.size();
    for (std::size_t i = 0; i < p.size(); ++i)
      p[i] *= packed.targets[i / V] == ft::ignored_target ? 0 : -temperature * temperature;
    const auto log_q = ft::log_softmax(context(), at_temperature(student));
    return ft::sum(context(), ft::mul(context(), log_q, ft::Tensor<T, D>(context(), log_q.shape(), p)));
  }
};
// end

// block
/// A step a few lines of a file, for as long as there are lines; the file is never in memory.
ft::StreamSource lines_of(const std::string& path, const ft::Tokenizer& tokenizer) {
  return ft::StreamSource(
      path, [path, &tokenizer]() -> ft::StreamSource::Next {  // opens it anew: for each epoch, or to resume
        return [file = std::make_shared<std::ifstream>(path), &tokenizer]() -> std::optional<ft::Batch> {
          ft::PackedTokens packed;
          for (std::string line; packed.sequences() < 8 && std::getline(*file, line);)
            packed.add(tokenizer.encode(line));
          if (packed.target_count() == 0) return std::nullopt;  // the end
          ft::Batch batch;
          const auto targets = packed.target_count();
          batch.add(std::move(packed), targets);
          return batch;
        };
      });
}
// end

// block
/// v = momentum v + g;  w = w - lr v
struct Momentum final : ft::NamedStates<T, D> {
  float momentum;
  Momentum(float m, ft::ParameterGroups groups) : NamedStates("momentum", std::move(groups)), momentum(m) {}

  std::vector<Array> arrays(const ft::Parameter<T, D>& w) const override { return {{"velocity", wide, w.shape()}}; }
  void apply(ft::Context<D>&, std::span<const Item> items, const ft::Verdict* verdict) override {
    if (verdict && !verdict->finite) return;
    const float factor = verdict ? static_cast<float>(verdict->factor) : 1;  // of clipping
    for (const Item& item : items)
      for (int64_t i = 0; i < item.w.count(); ++i) {
        float& v = item.states.data<float>(0)[i];
        v = momentum * v + factor * item.w.grad.data()[i];
        item.w.value.data()[i] -= static_cast<float>(item.rate) * v;
      }
  }
};
// end

ft::OptimizerConfig with_momentum() {
  // block
  auto optimizer = ft::OptimizerConfig::own<float, ft::Cpu>(
      /*lr=*/0.05f, "gradient descent with momentum 0.9",
      [](ft::ParameterGroups groups) { return std::make_unique<Momentum>(0.9f, std::move(groups)); });
  // end
  return optimizer;
}

double own_loop(ft::CausalLM<float, ft::Cpu>& lm, const ft::text::Dataset& data) {
  double last = 0;
  // block
  ft::Trainer trainer(lm, {.optimizer = ft::AdamW{.lr = 1e-2f}});  // clipping, loss scale and checks are in its step()
  for (int64_t epoch = 0; epoch < 2; ++epoch) {
    const auto reader = data.epoch(epoch, {.batch_tokens = 128, .micro_batch_tokens = 64, .seed = 1});
    while (const auto batch = reader->next()) last = trainer.step(*batch, /*lr=*/1e-2f).loss;
  }
  // end
  return last;
}

ft::CausalLM<T, D> open_model() {
  return ft::CausalLM<T, D>::from_pretrained(std::filesystem::path(FTLIB_TEST_DATA) / "models" / "llama_q4_1.gguf",
                                             {.threads = 2});
}
ft::text::Dataset facts(const ft::CausalLM<T, D>& lm) {
  std::vector<ft::text::Record> records(24);
  for (std::size_t i = 0; i < records.size(); ++i) {
    records[i].id = ft::str("r", i);
    records[i].question = ft::str("what is ", i, "?");
    records[i].answers = {ft::str("it is ", i * i)};
  }
  return ft::text::Dataset(records, lm.tokenizer());
}

}  // namespace training_docs

TEST_CASE("docs/training: an own loss: weights of 1 are the model's own loss, weights of 0 teach nothing") {
  using namespace training_docs;
  auto lm = open_model();
  lm.attach({.rank = 4});
  const auto data = facts(lm);
  const auto batch = data.batch({0, 1, 2}, 1000);
  const auto& packed = ft::micro_cast<ft::PackedTokens>(*batch.micro[0]);
  Weighted weighted(lm);
  const auto of = [&](float weight) {
    ft::Batch own;
    own.add(WeightedTokens{packed, std::vector<float>(packed.ids.size(), weight)}, batch.targets);
    return own;
  };
  CHECK(weighted.loss_sum(*of(1).micro[0], false).item(lm.context()) ==
        doctest::Approx(double{lm.loss_sum(packed).item(lm.context())}).epsilon(1e-5));
  ft::Trainer trainer(weighted, {});
  const auto first = trainer.step(of(1), 0.01f), none = trainer.step(of(0), 0.01f);
  CHECK(first.grad_norm > 0);
  CHECK(none.grad_norm == 0);
  CHECK(trainer.step(of(1), 0.01f).loss < first.loss);
  CHECK_THROWS_WITH_AS(trainer.step(batch, 0.01f),
                       doctest::Contains("holds packed tokens, what learns from it asks for "
                                         "weighted tokens"),
                       ft::Error);
}

TEST_CASE("docs/training: distillation brings the student's loss down to the teacher's entropy") {
  using namespace training_docs;
  auto teacher = open_model(), student = open_model();
  teacher.attach({.rank = 4});
  const auto data = facts(teacher);
  ft::Trainer(teacher, {.optimizer = ft::AdamW{.lr = 2e-2f}, .epochs = 4, .batch_tokens = 128}).fit(data);
  student.attach({.rank = 4});
  Distilled distilled(student, teacher, 2);
  ft::Trainer trainer(distilled, {.optimizer = ft::AdamW{.lr = 2e-2f}, .epochs = 8, .batch_tokens = 128});
  const auto report = trainer.fit(data);
  const double before = report.train_loss.front().y, after = report.train_loss.back().y;
  Distilled itself(teacher, teacher, 2);  // the least it could be
  ft::Trainer measure(itself, {.batch_tokens = 128});
  const double least = measure.evaluate(data);
  CHECK(after - least < 0.3 * (before - least));
}

TEST_CASE("docs/training: a stream of lines, an own optimizer, an own loop") {
  using namespace training_docs;
  const ft::test::Scratch dir;
  {
    std::ofstream file(dir / "lines.txt");
    for (int i = 0; i < 100; ++i) file << "the number after " << i % 10 << " is " << i % 10 + 1 << '\n';
  }
  auto lm = open_model();
  lm.attach({.rank = 4});
  const auto source = lines_of(dir / "lines.txt", lm.tokenizer());
  ft::Trainer trainer(lm, {.optimizer = with_momentum(), .schedule = ft::Constant{}, .epochs = 2});
  const auto report = trainer.fit(source);
  CHECK(report.steps == 2 * 13);
  CHECK(report.train_loss.back().y < 0.9 * report.train_loss.front().y);
  auto other = open_model();
  other.attach({.rank = 4});
  const auto data = facts(other);
  ft::Trainer measure(other, {});
  const double before = measure.evaluate(data);
  CHECK(own_loop(other, data) < before);
}

TEST_CASE("docs/training: two sources, of which one is kept as it is") {
  using namespace training_docs;
  auto lm = open_model();
  lm.attach({.rank = 4});
  const auto data = facts(lm);
  const std::vector<ft::text::Record> prose_records = {{.text = "the sky is blue"}, {.text = "snow is white"}};
  // block
  ft::text::Dataset prose(prose_records, lm.prompt());  // records of text: {"text": ...} in a file
  const ft::KeptText kept(std::move(prose));            // to be left as the base has it
  ft::Keeping<float, ft::Cpu> keeping(lm);              // learns the first source, keeps the second
  const ft::MixedSource both(data, {{&kept, /*share=*/0.25, /*weight=*/1}});
  ft::Trainer keeper(keeping, {.optimizer = ft::AdamW{.lr = 1e-3f}});
  keeper.fit(both);
  const double moved = keeper.evaluate(kept);  // KL(base || tuned) a token: 0.05 is 5 % of perplexity
  // end
  CHECK(moved > 0);
  CHECK(moved < 0.05);
}
