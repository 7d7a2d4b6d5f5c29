// tests/models/t5.cpp: T5's encoder beside transformers (tools/make_t5_fixtures.py): hidden states, gradients,
// captions.
#include "../scratch.hpp"

#include <doctest/doctest.h>
#include <ftlib/adapters/set.hpp>
#include <ftlib/io/json.hpp>
#include <ftlib/io/safetensors.hpp>
#include <ftlib/models/kit/registry.hpp>
#include <ftlib/ops/elementwise.hpp>
#include <ftlib/tensor/quantise.hpp>
#include <ftlib/text/causal_lm.hpp>
#include <ftlib/text/text_encoder.hpp>

#include <cmath>

using namespace ft;
using namespace ft::test;

namespace {

const std::filesystem::path t5_data = std::filesystem::path(FTLIB_TEST_DATA) / "t5";

struct T5Case {
  Context<Cpu> ctx{{.threads = 2}};
  SafetensorsFile expected;
  std::unique_ptr<LanguageModel<float, Cpu>> model;

  explicit T5Case(const std::string& name)
      : expected(SafetensorsFile::open(t5_data / (name == "relu" ? "relu" : "flan") / "expected.safetensors")),
        model(make_language_model<float>(ctx, Checkpoint::open(t5_data / name))) {}
  std::vector<float> array(const std::string& name) const {
    const auto stored = expected.tensor(name);
    std::vector<float> values(static_cast<std::size_t>(stored.shape.count()));
    dequantise_row(stored.type, stored.data, 0, stored.shape.count(), values.data());
    return values;
  }
  std::vector<int32_t> ids(int i) const {
    const auto bytes = expected.bytes(str("ids.", i));
    std::vector<int32_t> all(bytes.size() / 4);
    std::memcpy(all.data(), bytes.data(), bytes.size());
    return all;
  }
  /// The three texts, packed.
  PackedTokens batch() const {
    PackedTokens all;
    for (int i = 0; i < 3; ++i) all.add(ids(i));
    all.targets.clear();
    return all;
  }
};

double t5_difference(std::span<const float> a, const std::vector<float>& b) {
  REQUIRE(a.size() == b.size());
  double most = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double d = std::abs(double{a[i]} - double{b[i]});
    if (!(d <= most)) most = d;
  }
  return most;
}

}  // namespace

TEST_CASE("t5: hidden states are transformers', from a folder, one with its decoder, and from GGUF") {
  for (const std::string name : {"flan", "relu", "flan.gguf"}) {
    CAPTURE(name);
    T5Case c(name);
    const auto batch = c.batch();
    const auto last = c.model->hidden(c.ctx, batch, {}).to_host(c.ctx);
    const auto first = c.model->hidden_after(c.ctx, batch, {1}).front().to_host(c.ctx);
    for (std::size_t i = 0; i < 3; ++i) {
      const auto begin = static_cast<std::size_t>(batch.starts[i]) * 24,
                 size = static_cast<std::size_t>(batch.starts[i + 1]) * 24 - begin;
      CHECK(t5_difference(std::span(last).subspan(begin, size), c.array(str("hidden.", i))) <= 1e-4);
      CHECK(t5_difference(std::span(first).subspan(begin, size), c.array(str("block.", i))) <= 1e-4);
    }
    const auto& notes = c.model->info().notes;
    CHECK(c.model->info().encoder);
    CHECK(notes.size() == (name == "relu" ? 1 : 0));
    if (name == "relu") CHECK(notes[0].find("tensors of other parts are passed over, 'decoder.") != std::string::npos);
  }
}

TEST_CASE("t5: gradients are transformers', recomputed or not; the bias is a constant") {
  for (const bool recompute : {false, true}) {
    T5Case c("flan");
    std::vector<Parameter<float, Cpu>*> parameters;
    c.model->visit([&](Parameter<float, Cpu>& w) { parameters.push_back(&w); });
    AdapterSet<float, Cpu>(parameters).train_all(c.ctx);
    PackedTokens batch;
    batch.add(c.ids(1));
    batch.targets.clear();
    Tape tape(c.ctx);
    const auto h = c.model->hidden(c.ctx, batch, {.recompute = recompute});
    tape.backward(h, Tensor<float, Cpu>(c.ctx, h.shape(), c.array("seed")));
    int compared = 0;
    for (const auto* w : parameters) {
      CAPTURE(w->name);
      if (w->name.find("relative_attention_bias") != std::string::npos) CHECK(!w->grad);
      const std::string key = "gradient." + w->name;
      if (!c.expected.contains(key)) continue;
      ++compared;
      const auto wanted = c.array(key);
      double largest = 1;
      for (const float v : wanted) largest = std::max(largest, std::abs(double{v}));
      CHECK(t5_difference(w->grad.to_host(c.ctx), wanted) <= 1e-4 * largest);
    }
    CHECK(compared == 9);
  }
}

TEST_CASE("t5: reads captions, which end in </s> and are cut; CausalLM refuses it, caches are refused") {
  using Encoder = TextEncoder<float, Cpu>;
  const Json expected = read_json(t5_data / "flan" / "expected.json");
  const auto texts = expected["texts"].get<std::vector<std::string>>();
  Scratch dir;
  for (const std::string name : {"flan", "flan.gguf", "parts"}) {
    CAPTURE(name);
    auto path = t5_data / name;
    if (name == "parts") {  // diffusers has the tokenizer in a folder beside
      path = dir / "text_encoder";
      std::filesystem::create_directories(dir / "tokenizer");
      std::filesystem::copy(t5_data / "flan", path);
      for (const char* file : {"tokenizer.json", "tokenizer_config.json"})
        std::filesystem::rename(path / file, dir / "tokenizer" / file);
    }
    auto encoder = Encoder::open(path, {.layers = {0}, .before = "", .limit = 0, .longest = expected["longest"]});
    const auto states = encoder.encode(texts);
    for (std::size_t i = 0; i < texts.size(); ++i) {
      CAPTURE(i);
      const auto first = expected["first_state"][i].get<std::vector<float>>();
      CHECK(states[i]->size() == 24 * expected["cut"][i].size());
      CHECK(t5_difference(std::span(*states[i]).first(24), first) <= 2e-3);  // kept as f16
    }
    CHECK(encoder.left_out() == 8);
    CHECK(Encoder::open(path, {.layers = {0}, .before = "", .limit = 0}).encode(texts)[4]->size() == 24 * 13);
  }
  CHECK_THROWS_WITH_AS(Encoder::open(t5_data / "flan", {.layers = {0}, .before = "Emoji:"}),
                       doctest::Contains("is an encoder, which reads texts alone, and 'Emoji:' is to be read before"),
                       Error);
  CHECK_THROWS_WITH_AS((CausalLM<float, Cpu>::from_pretrained(t5_data / "flan")),
                       doctest::Contains("is an encoder (t5), which reads texts and writes none"), Error);
  T5Case c("flan");
  auto cache = c.model->make_cache(c.ctx, 1, 16);
  PackedTokens batch;
  batch.add({4, 6});
  CHECK_THROWS_WITH_AS(c.model->hidden(c.ctx, batch, {.cache = &cache}), doctest::Contains("an encoder writes nothing"),
                       Error);
}

TEST_CASE("t5: a variant that is not computed is refused") {
  Scratch dir;
  const auto folder = dir / "t5";
  std::filesystem::copy(t5_data / "flan", folder);
  const Json json = read_json(folder / "config.json");
  const auto refusal = [&](const char* key, const Json& value) {
    Json other = json;
    other[key] = value;
    write_atomically(folder / "config.json", other.dump());
    Context<Cpu> ctx({.threads = 1});
    try {
      make_language_model<float>(ctx, Checkpoint::open(folder));
    } catch (const Error& e) {
      return e.message();
    }
    return std::string();
  };
  CHECK(refusal("feed_forward_proj", "gated-silu").find("feed_forward_proj 'gated-silu' is not computed") !=
        std::string::npos);
  CHECK(refusal("relative_attention_num_buckets", 30).find("30 buckets") != std::string::npos);
  CHECK(refusal("attention_scaling", 2).find("attention_scaling") != std::string::npos);
  CHECK(refusal("use_cache", true).empty());
}
