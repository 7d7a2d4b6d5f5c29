// tests/text/causal_lm.cpp: generation beside transformers', adapters and models written and read again, and how wrong
// files are refused.
#include "../model_fixtures.hpp"
#include "../scratch.hpp"
#include "../tiny_text_model.hpp"

#include <doctest/doctest.h>
#include <ftlib/finetune.hpp>
#include <ftlib/io/json.hpp>
#include <ftlib/io/safetensors.hpp>
#include <ftlib/tensor/quantised.hpp>

using namespace ft;
using ft::test::Scratch;

namespace {
using Lm = CausalLM<float, Cpu>;
const std::filesystem::path models = std::filesystem::path(FTLIB_TEST_DATA) / "models";

std::vector<float> logits(Lm& lm, const std::vector<int32_t>& tokens) {
  PackedTokens batch;
  batch.add(tokens);
  return lm.model().logits(lm.context(), batch).to_host(lm.context());
}
double difference(const std::vector<float>& a, const std::vector<float>& b) {
  REQUIRE(a.size() == b.size());
  double most = 0;
  for (std::size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(double{a[i]} - double{b[i]}));
  return most;
}
std::vector<float> stored_values(const SafetensorsFile& file, const std::string& name) {
  const auto tensor = file.tensor(name);
  std::vector<float> values(static_cast<std::size_t>(tensor.shape.count()));
  dequantise_row(tensor.type, tensor.data, 0, tensor.shape.count(), values.data());
  return values;
}
const std::vector<int32_t> some_tokens{7, 70, 6, 46, 90, 3, 22, 51, 8, 33, 12};
}  // namespace

TEST_CASE(
    "generate: greedy tokens are transformers', one prompt or all in a batch, with the repetition penalty or not") {
  for (const std::string& name : ft::test::model_folders())
    for (const bool penalty : {false, true}) {
      CAPTURE(name);
      CAPTURE(penalty);
      auto lm = Lm::from_pretrained(models / name, {.threads = 2});
      const Json expected = read_json(models / name / "expected.json")["generation"];
      GenerateOptions options{.max_new_tokens = 20, .sampling = {.repetition_penalty = penalty ? 1.3f : 1.0f}};
      std::vector<std::vector<int32_t>> prompts, wanted;
      for (const Json& e : expected) {
        prompts.push_back(e["prompt"].get<std::vector<int32_t>>());
        wanted.push_back(e[penalty ? "greedy_repetition_penalty_1.3" : "greedy"].get<std::vector<int32_t>>());
      }
      const auto run = [&](const std::vector<std::vector<int32_t>>& these) {
        std::vector<std::vector<int32_t>> out(these.size());
        TokenGenerator<float, Cpu> generator(lm.context(), lm.model(), these, options, {});
        while (!generator.done())
          for (const auto& [i, token] : generator.next()) out[static_cast<std::size_t>(i)].push_back(token);
        return out;
      };
      const bool same = run(prompts) == wanted;
      CHECK(ft::test::evidence(name, "greedy", same ? 0 : 1) == 0);
      for (std::size_t i = 0; i < prompts.size(); ++i) CHECK(run({prompts[i]}).front() == wanted[i]);
    }
}

TEST_CASE("generate: rows of the head that are no tokens are never chosen") {
  const Scratch dir;
  auto lm = Lm::from_pretrained(ft::test::tiny_text_model(dir), {.threads = 1});
  REQUIRE(lm.tokenizer().vocab_size() < lm.model().info().vocab_size);
  for (uint64_t seed = 0; seed < 60; ++seed)  // some 1,000 draws, almost uniform
    CHECK_NOTHROW(lm.generate("a", {.max_new_tokens = 30, .sampling = {.temperature = 1000}, .seed = seed}).rest());
}

TEST_CASE("generate: streams are seeded, stop strings end them, and a batch says what each prompt says alone") {
  auto lm = Lm::from_pretrained(models / "llama_q4_1.gguf", {.threads = 2});
  GenerateOptions options{
      .max_new_tokens = 24, .sampling = {.temperature = 1.5f, .top_k = 50, .top_p = 0.95f, .min_p = 0.01f}, .seed = 9};
  const std::string once = lm.generate("Hello", options).rest();
  CHECK(lm.generate("Hello", options).rest() == once);
  std::string streamed;
  for (const std::string& piece : lm.generate("Hello", options)) streamed += piece;
  CHECK(streamed == once);
  options.seed = 10;
  CHECK(lm.generate("Hello", options).rest() != once);
  options.seed = 9;
  CHECK(lm.generate_batch({lm.encode("Hello"), lm.encode("another, longer prompt")}, options).front() == once);
  REQUIRE(once.size() > 8);
  const std::string stop = once.substr(5, 2);
  options.stop = {stop};
  CHECK(lm.generate("Hello", options).rest() == once.substr(0, once.find(stop)));
  options.sampling.top_p = 0;
  CHECK_THROWS_WITH_AS(lm.generate("Hello", options), doctest::Contains("top_p 0 is outside"), Error);
}

TEST_CASE("adapters: peft's folder gives peft's logits, and what is saved gives the same again") {
  for (const std::string& name : ft::test::model_folders()) {
    CAPTURE(name);
    Scratch dir;
    auto lm = Lm::from_pretrained(models / name, {.threads = 2});
    const Json expected = read_json(models / name / "expected.json");
    const auto tokens = expected["sequences"][2]["tokens"].get<std::vector<int32_t>>();
    const auto base = logits(lm, tokens);
    lm.load_adapter(models / name / "adapter_trained");
    const auto tuned = logits(lm, tokens);
    const auto arrays = SafetensorsFile::open(models / name / "expected.safetensors");
    CHECK(difference(tuned, stored_values(arrays, "lora.logits")) <= 1e-4);
    CHECK(difference(tuned, base) > 1e-2);

    lm.save_adapter(dir / "adapter");
    auto again = Lm::from_pretrained(models / name, {.threads = 2});
    again.load_adapter(dir / "adapter");
    CHECK(logits(again, tokens) == tuned);
    again.detach();
    CHECK(logits(again, tokens) == base);

    lm.save_pretrained(dir / "merged",
                       {.max_shard_bytes = 4096});  // what is in use is in it, and stays an adapter here
    CHECK(logits(lm, tokens) == tuned);
    auto merged = Lm::from_pretrained(dir / "merged", {.threads = 2});
    CHECK(difference(logits(merged, tokens), tuned) <= 1e-4);
    lm.save_pretrained(dir / "half", {.type = DType::bf16});
    CHECK(read_json(dir / "half/config.json")["torch_dtype"] == "bfloat16");
    const auto halves = SafetensorsFile::open(dir / "half/model.safetensors");
    lm.save_pretrained(dir / "whole");
    const auto whole = SafetensorsFile::open(dir / "whole/model.safetensors");
    REQUIRE(halves.names().size() == whole.names().size());
    for (const std::string& tensor : whole.names()) {
      CHECK(halves.info(tensor).dtype == "BF16");
      const auto v = stored_values(whole, tensor), rounded = stored_values(halves, tensor);
      for (std::size_t i = 0; i < v.size(); ++i) REQUIRE(std::abs(rounded[i] - v[i]) <= std::abs(v[i]) / 256);
    }
    auto opened = Lm::from_pretrained(dir / "half", {.threads = 2});
    CHECK(logits(opened, tokens).size() == tuned.size());
    CHECK_THROWS_WITH_AS(lm.save_pretrained(dir / "x", {.type = DType::q8_0}), doctest::Contains("a folder in Q8_0"),
                         Error);
    lm.merge();
    lm.save_pretrained(dir / "merged");
    CHECK(difference(logits(merged, tokens), tuned) <= 1e-4);
  }
}

TEST_CASE("adapters: interpolated, the base at 0, as trained at 1, and saved as they then are") {
  Scratch dir;
  auto lm = Lm::from_pretrained(models / "llama_tiny", {.threads = 2});
  const auto base = logits(lm, some_tokens);
  CHECK_THROWS_WITH_AS(lm.interpolate(0.5f), doctest::Contains("no adapter"), Error);
  lm.load_adapter(models / "llama_tiny" / "adapter_trained");
  const auto trained = logits(lm, some_tokens);
  lm.interpolate(1);
  CHECK(difference(logits(lm, some_tokens), trained) == 0);
  lm.interpolate(0.5f);
  const auto half = logits(lm, some_tokens);
  CHECK(difference(half, trained) > 1e-3);
  CHECK(difference(half, base) > 1e-3);
  lm.save_adapter(dir / "half");
  auto again = Lm::from_pretrained(models / "llama_tiny", {.threads = 2});
  again.load_adapter(dir / "half");
  CHECK(difference(logits(again, some_tokens), half) <= 1e-6);
  lm.interpolate(0);
  CHECK(difference(logits(lm, some_tokens), base) <= 1e-6);
}

TEST_CASE("adapters: one of another model is refused, with how many keys do not match, and nothing is changed") {
  auto lm = Lm::from_pretrained(models / "gemma3_tiny");
  const auto before = logits(lm, some_tokens);
  CHECK_THROWS_AS(lm.load_adapter(models / "llama_untied" / "adapter_trained"), Error);
  CHECK(logits(lm, some_tokens) == before);
  auto llama = Lm::from_pretrained(models / "llama_tiny");
  CHECK_THROWS_WITH_AS(llama.load_adapter(models / "gemma3_tiny" / "adapter_trained"),
                       doctest::Contains("keys match no linear layer"), Error);
  CHECK_THROWS_WITH_AS(llama.attach({.targets = {"no_such_layer"}}), doctest::Contains("no_such_layer"), Error);
}

TEST_CASE("adapters: the form that a model was trained in goes with the adapter") {
  Scratch dir;
  auto lm = Lm::from_pretrained(models / "llama_q4_1.gguf", {.threads = 1});
  CHECK(lm.prompt().stop() == std::vector<std::string>{"\n"});
  lm.attach({.rank = 2});
  lm.save_adapter(dir / "unsaid");
  lm.set_prompt({.stop = std::vector<std::string>{"END"}});
  CHECK(lm.session().prompt().stop() == std::vector<std::string>{"END"});
  lm.save_adapter(dir / "said");
  auto again = Lm::from_pretrained(models / "llama_q4_1.gguf", {.threads = 1});
  again.load_adapter(dir / "said");
  CHECK(again.prompt().options() == lm.prompt().options());
  again.load_adapter(dir / "unsaid");  // says nothing: the form stays
  CHECK(again.prompt().options() == lm.prompt().options());
  CHECK_THROWS_WITH_AS(lm.set_prompt({.form = text::Form::chat}), doctest::Contains("base model"), Error);
}

TEST_CASE("checkpoints: a GGUF model saved as a Hugging Face folder says the same") {
  Scratch dir;
  for (const std::string& name : ft::test::model_ggufs()) {
    CAPTURE(name);
    auto lm = Lm::from_pretrained(models / name, {.threads = 2});
    lm.save_pretrained(dir / "folder");
    auto again = Lm::from_pretrained(dir / "folder", {.threads = 2});
    CHECK(difference(logits(again, some_tokens), logits(lm, some_tokens)) <= 1e-5);
    for (const char* line : {"Q: What is it?\nA:", "안녕", "  two  spaces", "\n\n\t"})
      CHECK(again.tokenizer().encode(line) == lm.tokenizer().encode(line));
  }
}

TEST_CASE("checkpoints: what is unknown, missing, extra or mis-shaped is named") {
  Scratch dir;
  CHECK_THROWS_WITH_AS(Lm::from_pretrained(dir / "nothing"), doctest::Contains("there is no such file or folder"),
                       Error);
  const auto file = SafetensorsFile::open(models / "llama_tiny/model.safetensors");
  const Json config = read_json(models / "llama_tiny/config.json");
  const auto write = [&](const Json& json, auto change) {
    std::vector<TensorEntry> entries;
    for (const auto& name : file.names()) entries.push_back(entry(name, file.tensor(name)));
    change(entries);
    std::filesystem::create_directories(dir / "model");
    write_atomically(dir / "model/config.json", json.dump());
    write_safetensors(dir / "model/model.safetensors", entries, {{"format", "pt"}});
  };
  const auto keep = [](std::vector<TensorEntry>&) {};
  write(config, keep);
  CHECK_NOTHROW(Lm::from_pretrained(dir / "model"));
  Json other = config;
  other["model_type"] = "mamba";
  write(other, keep);
  CHECK_THROWS_WITH_AS(Lm::from_pretrained(dir / "model"), doctest::Contains("architecture 'mamba' is not known"),
                       Error);
  other = config;
  other.erase("num_hidden_layers");
  write(other, keep);
  CHECK_THROWS_WITH_AS(Lm::from_pretrained(dir / "model"), doctest::Contains("num_hidden_layers"), Error);
  other = config;
  other["intermediate_size"] = 41;
  write(other, keep);
  CHECK_THROWS_WITH_AS(Lm::from_pretrained(dir / "model"), doctest::Contains("the configuration says"), Error);
  write(config,
        [](auto& entries) { std::erase_if(entries, [](const auto& e) { return e.name == "model.norm.weight"; }); });
  CHECK_THROWS_WITH_AS(Lm::from_pretrained(dir / "model"),
                       doctest::Contains("tensor 'model.norm.weight' (24) is missing"), Error);
  const float more[4] = {};
  write(config, [&](auto& entries) { entries.push_back({"model.extra.weight", DType::f32, {4}, more}); });
  CHECK_THROWS_WITH_AS(Lm::from_pretrained(dir / "model"),
                       doctest::Contains("'model.extra.weight' (4) is not part of this architecture"), Error);
}

TEST_CASE("dataset: batches hold every example once, within the budget, and the loss is on the answer") {
  const auto lm = Lm::from_pretrained(models / "llama_q4_1.gguf");
  std::vector<text::Record> records;
  for (int i = 0; i < 100; ++i)
    records.push_back({.id = str(i),
                       .question = std::string(static_cast<std::size_t>(i % 13 + 1), 'q'),
                       .answers = {"yes"},
                       .context = "",
                       .lang = "",
                       .split = ""});
  const text::Dataset data(records, lm.tokenizer());
  const auto plan = data.plan(150, 7, 0);
  std::vector<int> seen(data.size(), 0);
  for (const auto& items : plan) {
    const auto batch = data.batch(items, 60);
    CHECK((batch.tokens <= 150 || items.size() == 1));
    for (const auto& micro : batch.micro) CHECK(micro_cast<PackedTokens>(*micro).tokens() <= 60);
    for (const auto i : items) ++seen[i];
    CHECK(batch.targets ==
          static_cast<int64_t>(items.size()) * static_cast<int64_t>(lm.tokenizer().encode(" yes").size() + 1));
  }
  CHECK(seen == std::vector<int>(data.size(), 1));
  CHECK(data.plan(150, 7, 0) == plan);
  CHECK(data.plan(150, 7, 1) != plan);
  CHECK(data.plan(150, 8, 0) != plan);
  {  // what is known of an epoch before it is read
    const auto size = data.size(0, {.batch_tokens = 150, .micro_batch_tokens = 60, .seed = 7});
    REQUIRE(size.has_value());
    CHECK(size->batches == static_cast<int64_t>(plan.size()));
    CHECK(size->tokens == data.tokens());
    const auto reader = data.epoch(0, {.batch_tokens = 150, .micro_batch_tokens = 60, .seed = 7});
    int64_t largest = 0, in = 0, at = 0;
    while (const auto batch = reader->next()) {
      for (const auto& micro : batch->micro)
        if (micro->tokens() > largest) {
          largest = micro->tokens();
          in = at;
        }
      ++at;
    }
    CHECK(size->largest == largest);
    CHECK(size->largest_batch == in);
    const auto skipped = data.epoch(0, {.batch_tokens = 150, .micro_batch_tokens = 60, .seed = 7});
    skipped->skip(2);
    CHECK(skipped->next()->names == data.batch(plan[2], 60).names);
  }
  CHECK_THROWS_WITH_AS(micro_cast<FlowBatch>(*data.batch({0}, 60).micro[0]),
                       doctest::Contains("holds packed tokens, what learns from it asks for pictures"), Error);
  const auto [a, b] = data.split(0.9, 1);
  CHECK(a.size() == 90);
  CHECK(b.size() == 10);
  CHECK_THROWS_WITH_AS(text::Dataset(records, lm.tokenizer(), {.max_tokens = 2}),
                       doctest::Contains("100 left out: longer than 2 tokens"), Error);
}

TEST_CASE("causal_lm: a request to stop ends opening and writing, and leaves what was there") {
  const Scratch scratch;
  StopSource stop;
  Lm lm = Lm::from_pretrained(models / "llama_tiny", {.threads = 1}, stop.token());
  lm.save_pretrained(scratch / "out", {.stop = stop.token()});
  const auto before = std::filesystem::last_write_time(scratch / "out" / "model.safetensors");
  stop.request_stop();
  for (const char* model : {"llama_tiny", "llama_q4_1.gguf"})
    CHECK_THROWS_WITH_AS(Lm::from_pretrained(models / model, {.threads = 1}, stop.token()),
                         doctest::Contains("opening it was stopped by the host"), Interrupted);
  CHECK_THROWS_WITH_AS(lm.save_pretrained(scratch / "out", {.stop = stop.token()}),
                       doctest::Contains("writing it was stopped by the host"), Interrupted);
  CHECK_THROWS_AS(lm.save_pretrained(scratch / "other", {.stop = stop.token()}), Interrupted);
  CHECK(std::filesystem::last_write_time(scratch / "out" / "model.safetensors") == before);
  CHECK(std::distance(std::filesystem::directory_iterator(scratch.path()), {}) == 1);
}
