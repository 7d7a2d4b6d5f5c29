// tests/image/minit2i.cpp: a MiniT2I pipeline as its authors publish it, beside their PyTorch code
// (tools/make_minit2i_fixtures.py): captions, predictions, gradients, ten steps of their LoRA, the way to the picture.
#include "../scratch.hpp"
#include "counted_weights.hpp"
#include "fixture.hpp"
#include "lora_steps.hpp"

#include <doctest/doctest.h>
#include <ftlib/image/painter.hpp>
#include <ftlib/models/mmjit.hpp>
#include <ftlib/optim/adamw.hpp>
#include <ftlib/optim/clip.hpp>
#include <ftlib/train/trainer.hpp>

#include <cmath>

using namespace ft;
using namespace ft::test;

namespace {

namespace fs = std::filesystem;
using Model = TextToImage<float, Cpu>;
using P = Painter<float, Cpu>;
const fs::path minit2i_pipeline = fs::path(FTLIB_TEST_DATA) / "minit2i";

struct MiniT2ICase : Fixture {
  Model model = Model::from_pretrained(minit2i_pipeline, {.threads = 2});
  Context<Cpu>& ctx = model.context();

  MiniT2ICase() : Fixture(minit2i_pipeline) {}

  /// Captions [0, count) turned by so many places; the last of the four is dropped.
  PackedText captions(std::size_t count, std::size_t turn = 0) const {
    PackedText text;
    for (std::size_t i = 0; i < count; ++i)
      if (const std::size_t from = (i + 4 - turn) % 4; from == 3) text.add({}, 24);
      else text.add(array(str("caption.", from)), 24);
    return text;
  }
  FlowBatch batch(std::size_t turn = 0) const {
    return {.pictures = array("pictures"), .text = captions(4, turn), .times = array("times"), .noise = array("noise")};
  }
  std::vector<float> predict() {
    const FlowBatch b = batch();
    std::vector<float> z(b.pictures.size());
    for (std::size_t i = 0; i < z.size(); ++i) {
      const float t = b.times[i / 768];
      z[i] = t * b.pictures[i] + (1 - t) * 2 * b.noise[i];
    }
    return model.network().forward(ctx, Tensor<float, Cpu>(ctx, {4, 3, 16, 16}, z), b.times, b.text).to_host(ctx);
  }
};

}  // namespace

TEST_CASE("minit2i: a pipeline opens; predictions, loss and gradients are PyTorch's") {
  MiniT2ICase c;
  CHECK(c.model.info().side == 16);
  CHECK(c.model.info().steps == 5);
  CHECK(c.model.info().guidance == 2.5f);
  CHECK(c.difference(c.predict(), "pred") <= 1e-4);
  c.model.train_all();
  Tape tape(c.ctx);
  const auto loss = c.model.loss_sum(c.batch());
  CHECK(static_cast<double>(loss.item(c.ctx)) / 4 == doctest::Approx(c.expected["loss"].get<double>()).epsilon(1e-5));
  tape.backward(loss, Tensor<float, Cpu>(c.ctx, {}, {0.25f}));
  int compared = 0;
  for (const auto* w : c.model.parameters()) {
    CAPTURE(w->name);
    const std::string key = "grad." + w->name;
    REQUIRE(c.arrays.contains(key));
    if (!w->grad) {  // nothing reads the text that the last block would make
      for (const float g : c.array(key)) CHECK(g == 0);
      continue;
    }
    ++compared;
    CHECK(c.difference(w->grad.to_host(c.ctx), key) <= 1e-4 * c.largest(key));
  }
  CHECK(compared == 53);
}

TEST_CASE("minit2i: ten steps of its own LoRA are peft's, and what it wrote is read; what it never uses is told") {
  MiniT2ICase c;
  const auto notes = c.model.load_adapter(minit2i_pipeline / "lora_initial");
  REQUIRE(notes.size() == 1);
  CHECK(notes[0].find("2 tensors of layers that the model never uses are left out, 'pooled_embedder.lora_A") !=
        std::string::npos);
  ten_lora_steps(c, 4, [&](std::size_t step) { return c.model.loss_sum(c.batch(step % 3)); });
  CHECK(c.difference(c.predict(), "lora.pred") <= 5e-4 * c.largest("lora.pred"));  // ten steps of rounding, by Adam

  MiniT2ICase other;
  other.model.load_adapter(minit2i_pipeline / "lora_trained");
  CHECK(other.difference(other.predict(), "lora.pred") <= 1e-4);
}

TEST_CASE("minit2i: every step of its sampler, and the picture") {
  MiniT2ICase c;
  auto noise = c.array("latents");
  for (float& e : noise) e /= 2;
  int64_t heard = 0;
  const auto picture = denoise(c.ctx, c.model.network(), c.captions(2), noise,
                               {.steps = 5, .solver = Solver::euler, .guidance = 2.5f}, [&](const DrawStep& s) {
                                 const std::string at = str("step.", heard++);
                                 CAPTURE(at);
                                 CHECK(c.difference(s.noisy, at) <= 1e-4 * c.largest(at));
                               });
  CHECK(heard == 5);
  const auto pictures = to_pictures(picture, 16);
  const auto bytes = c.arrays.bytes("drawn");  // (2, 3, 16, 16), cut to bytes where we round
  for (int i = 0; i < 2; ++i)
    for (int y = 0; y < 16; ++y)
      for (int x = 0; x < 16; ++x)
        for (int ch = 0; ch < 3; ++ch) {
          const auto at = static_cast<std::size_t>(((i * 3 + ch) * 16 + y) * 16 + x);
          CHECK(std::abs(static_cast<int>(pictures[static_cast<std::size_t>(i)].at(x, y)[ch]) -
                         static_cast<int>(bytes[at])) <= 1);
        }
}

TEST_CASE("minit2i: words in, pictures out, by its own encoder; a style is learned and drawn") {
  Scratch dir;
  auto painter = P::from_pretrained(minit2i_pipeline, {}, {.threads = 2});
  CHECK(P::text_model_of(minit2i_pipeline).filename() == "text_encoder");
  CHECK(painter.words() == "");
  MiniT2ICase c;
  const auto texts = c.expected["captions"].get<std::vector<std::string>>();
  const auto states = painter.encoder().encode({texts[0], texts[1], texts[2]});
  for (std::size_t i = 0; i < 3; ++i)
    CHECK(c.difference(*states[i], str("caption.", i)) <= 2e-3 * c.largest(str("caption.", i)));  // kept as f16
  const auto base = painter.draw({texts[0]});
  CHECK(painter.draw({texts[0]}, {.steps = 5, .guidance = 2.5f}).front() == base.front());
  CHECK(painter.draw({texts[0]}, {.guidance = 1}).front() != base.front());

  std::vector<CaptionedPicture> some;
  for (int i = 0; i < 4; ++i)
    some.push_back({str(i), std::vector<float>(768, i % 2 ? 0.5f : -0.5f), i % 2 ? "dog" : "red apple"});
  painter.model().attach({.rank = 2, .targets = painter.info().picture_layers});
  TrainerConfig config;
  config.epochs = 2;
  config.batch_tokens = 2;
  Trainer(painter.model(), config).fit(FlowData(painter.examples(some), painter.info()));
  painter.save_adapter(dir / "adapter", "flat");
  auto tuned = P::from_pretrained(dir / "adapter", {}, {.threads = 2});  // it names the pipeline
  CHECK(tuned.notes().empty());
  CHECK(tuned.style() == "flat");
  const auto drawn = tuned.draw({texts[0]});
  CHECK(drawn.front() != base.front());
  tuned.remove_adapter();
  CHECK(tuned.draw({texts[0]}).front() == base.front());
}

TEST_CASE("minit2i: B/16 and L/16 have as many parameters as published, less those that are never used") {
  Context<Cpu> ctx({.threads = 1});
  const auto count = [&](const MMJiTConfig& config) {
    CountedWeights weights;
    MMJiT<float, Cpu>(ctx, config, weights);
    const int64_t C = config.hidden_size;
    return std::pair(weights.parameters, weights.parameters + (256 * C + C) + (C * C + C) + 1024 * C);
  };
  CHECK(count({}) == std::pair<int64_t, int64_t>(256548480, 258122880));
  CHECK(count({.hidden_size = 1248, .depth_double = 23, .num_heads = 24, .head_dim = 52, .mlp_ratio = 2.7}) ==
        std::pair<int64_t, int64_t>(908609256, 911766696));
}

TEST_CASE("minit2i: a repository of several models asks which") {
  Scratch dir;
  for (const char* variant : {"minit2i-b-16", "minit2i-l-16"}) {
    fs::create_directories(dir / "repository" / variant);
    fs::copy(minit2i_pipeline / "transformer", dir / "repository" / variant / "transformer");
  }
  fs::copy(minit2i_pipeline / "model_index.json", dir / "repository" / "model_index.json");
  CHECK_THROWS_WITH_AS(Model::from_pretrained(dir / "repository"),
                       doctest::Contains("holds several: minit2i-b-16, minit2i-l-16, not a picture model"), Error);
  CHECK(Model::from_pretrained(dir / "repository" / "minit2i-l-16").info().side == 16);
  CHECK_THROWS_WITH_AS(P::from_pretrained(dir / "repository" / "minit2i-l-16"),
                       doctest::Contains("holds no text_encoder"), Error);
  fs::copy(minit2i_pipeline / "text_encoder", dir / "repository" / "text_encoder");
  fs::copy(minit2i_pipeline / "tokenizer", dir / "repository" / "tokenizer");
  CHECK(P::from_pretrained(dir / "repository" / "minit2i-l-16").side() == 16);
  fs::remove_all(dir / "repository" / "minit2i-b-16");
  CHECK(Model::from_pretrained(dir / "repository").info().side == 16);
}
