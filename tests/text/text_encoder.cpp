// tests/text/text_encoder.cpp: hidden states of short texts: which rows they are, standardised, and from the cache.
#include "../tiny_text_model.hpp"

#include <doctest/doctest.h>
#include <ftlib/io/safetensors.hpp>
#include <ftlib/text/causal_lm.hpp>
#include <ftlib/text/text_encoder.hpp>

#include <cmath>

using namespace ft;
using ft::test::Scratch;
using ft::test::tiny_text_model;

namespace {
using Encoder = TextEncoder<float, Cpu>;
const std::vector<std::string> texts{"red apple", "dog", "red apple", "a dog, in oil"};
}  // namespace

TEST_CASE("text encoder: the states of a text's own tokens, after a layer, behind the words before") {
  Scratch dir;
  const auto path = tiny_text_model(dir);
  auto encoder = Encoder::open(path, {.layers = {1}, .before = "Draw:"});
  const auto states = encoder.encode(texts);
  REQUIRE(states.size() == 4);
  CHECK(states[0] == states[2]);
  CHECK(states[0]->size() == static_cast<std::size_t>(10 * encoder.width()));  // " red apple", a token a byte
  CHECK(states[1]->size() == static_cast<std::size_t>(4 * encoder.width()));

  auto lm = CausalLM<float, Cpu>::from_pretrained(path);
  PackedTokens batch;
  batch.add(lm.encode("Draw: dog"));
  const auto all = lm.model().hidden_after(lm.context(), batch, {1}).front().to_host(lm.context());
  const auto& own = *states[1];
  for (std::size_t i = 0; i < own.size(); ++i) {
    const float expected = std::clamp(all[all.size() - own.size() + i], -6.0f, 6.0f);
    CHECK(std::abs(own[i] - expected) <= 2e-3f * std::max(1.0f, std::abs(expected)));  // kept as f16
  }
  CHECK_THROWS_WITH_AS(encoder.encode({""}), doctest::Contains("a text is empty"), Error);
  CHECK_THROWS_WITH_AS(Encoder::open(path, {.layers = {99}}), doctest::Contains("layer 99"), Error);
}

TEST_CASE("text encoder: states of several layers side by side, counted from the end, padded") {
  Scratch dir;
  const auto path = tiny_text_model(dir);
  const auto of = [&](std::vector<int64_t> layers) {
    auto encoder = Encoder::open(path, {.layers = layers, .before = "", .limit = 0});
    return *encoder.encode({"dog"}).front();
  };
  const auto first = of({1}), second = of({2}), both = of({1, 2});
  REQUIRE(both.size() == 2 * first.size());
  const std::size_t C = first.size() / 4;
  for (std::size_t i = 0; i < both.size(); ++i) CHECK(both[i] == (i / C % 2 ? second : first)[i / C / 2 * C + i % C]);
  const auto layers = CausalLM<float, Cpu>::from_pretrained(path).model().info().num_hidden_layers;
  CHECK(of({-1}) == of({layers - 1}));
  CHECK_THROWS_WITH_AS(of({-layers}), doctest::Contains("layer"), Error);
  CHECK_THROWS_WITH_AS(of({1, 0}), doctest::Contains("layers 1 0"), Error);
  CHECK_THROWS_WITH_AS(Encoder::open(path, {.layers = {1}, .before = "", .padded = true}),
                       doctest::Contains("`longest` does not say to how many tokens"), Error);
  const TextEncoding encoding{.layers = {1, 2}, .before = "", .longest = 9, .chat = true, .padded = true};
  CHECK(TextEncoding::from_json(encoding.to_json(), "file").to_json() == encoding.to_json());

  auto lm = CausalLM<float, Cpu>::from_pretrained(path);  // padding changes nothing of the text, and sees no padding
  const auto states = [&](std::vector<int32_t> ids, std::vector<int64_t> padding) {
    PackedTokens batch;
    batch.add(ids);
    batch.padding = std::move(padding);
    return lm.model().hidden_after(lm.context(), batch, {layers}).front().to_host(lm.context());
  };
  const auto width = static_cast<std::size_t>(lm.model().info().hidden_size);
  const auto plain = states({5, 6, 7}, {}), padded = states({5, 6, 7, 4, 4}, {2}), less = states({5, 6, 7, 4}, {1});
  for (std::size_t i = 0; i < 3 * width; ++i) CHECK(std::abs(plain[i] - padded[i]) <= 1e-5f);
  for (std::size_t i = 0; i < 4 * width; ++i) CHECK(std::abs(less[i] - padded[i]) <= 1e-5f);
  CHECK_THROWS_WITH_AS(states({5}, {1}), doctest::Contains("1 of 1 tokens are padding"), Error);
}

TEST_CASE("text encoder: standardised states have mean 0 and deviation 1") {
  Scratch dir;
  auto encoder = Encoder::open(tiny_text_model(dir), {.layers = {2}});
  encoder.standardise(texts);
  const auto width = static_cast<std::size_t>(encoder.width());
  std::vector<double> sum(width), squares(width);
  double rows = 0;
  for (const auto& states : encoder.encode(texts)) {
    rows += static_cast<double>(states->size() / width);
    for (std::size_t i = 0; i < states->size(); ++i) {
      sum[i % width] += double{(*states)[i]};
      squares[i % width] += double{(*states)[i]} * double{(*states)[i]};
    }
  }
  for (std::size_t c = 0; c < width; ++c) {
    CHECK(std::abs(sum[c] / rows) < 1e-3);
    CHECK(squares[c] / rows == doctest::Approx(1).epsilon(1e-2));
  }
  const auto again = TextEncoding::from_json(encoder.encoding().to_json(), "file");
  CHECK(again.mean == encoder.encoding().mean);
  CHECK(again.before == encoder.encoding().before);
  CHECK_THROWS_WITH_AS(TextEncoding::from_json({{"layer", 1}}, "file"), doctest::Contains("before"), Error);
}

TEST_CASE("text encoder: a cache gives the same states, grows, and is refused where it does not fit") {
  Scratch dir;
  const auto path = tiny_text_model(dir), cache = dir / "cache";
  const auto open = [&] { return Encoder::open(path, {.layers = {2}}); };
  int64_t computed = 0;
  const auto count = [&](int64_t, int64_t of) { computed += of; };
  const auto fresh = open().encode(texts, cache, count);
  CHECK(computed == 3);
  const auto cached = open().encode({"dog", "red apple", "new"}, cache, count);
  CHECK(computed == 4);
  CHECK(*cached[0] == *fresh[1]);
  CHECK(*cached[1] == *fresh[0]);
  open().encode({"a dog, in oil", "new"}, cache, count);  // what an earlier run did not ask for stayed
  CHECK(computed == 4);
  auto other = Encoder::open(path, {.layers = {1}});
  other.encode({"dog"}, cache, count);
  CHECK(computed == 5);

  for (const auto& file : std::filesystem::directory_iterator(cache)) {
    const float one = 1;
    write_safetensors(file.path(), {{"dog", DType::f32, {1, 1}, &one}});
  }
  CHECK_THROWS_WITH_AS(open().encode({"dog"}, cache), doctest::Contains("'dog' is (1, 1)"), Error);
}
