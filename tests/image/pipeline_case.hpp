// tests/image/pipeline_case.hpp: a tiny pipeline as diffusers writes it, held against what diffusers makes with it.
#pragma once
#include "../scratch.hpp"
#include "fixture.hpp"

#include <doctest/doctest.h>
#include <ftlib/image/painter.hpp>
#include <ftlib/models/kit/autoencoder_registry.hpp>
#include <ftlib/train/trainer.hpp>

#include <algorithm>
#include <string>
#include <vector>

namespace ft::test {

/// A copy of a fixture's folder, whose files may be changed. Pictures are 16 x 16, of two prompts.
struct PipelineCase : Fixture {
  /// Of two pictures' latents: their shape, what the fixture calls their arrays, before their own names, and figures.
  struct Names {
    Shape latents;
    std::string before, steps, loss;
  };
  Names names;
  int64_t width;  // of a caption's states
  Scratch dir;
  std::filesystem::path base = dir / "base";

  PipelineCase(const std::filesystem::path& folder, Names called, int64_t caption_width)
      : Fixture(folder), names(std::move(called)), width(caption_width) {
    std::filesystem::copy(folder, base, std::filesystem::copy_options::recursive);
  }
  void change(const char* name, const Json& changes) const {
    Json config = read_json(base / name);
    config.update(changes);
    write_atomically(base / name, config.dump());
  }
  Painter<float, Cpu> open() const { return Painter<float, Cpu>::from_pretrained(base, {}, {.threads = 2}); }
  std::vector<std::string> prompts() const { return expected["prompts"].get<std::vector<std::string>>(); }

  /// Captions' states and those of no words, within the rounding of f16, in which they are kept.
  void check_states() const {
    auto painter = open();
    CHECK(painter.encoder().width() == width);
    auto texts = prompts();
    texts.push_back("");
    const auto states = painter.encoder().encode(texts);
    for (std::size_t i = 0; i < states.size(); ++i) {
      const std::string name = i == 2 ? "states.empty" : str("states.", i);
      CAPTURE(name);
      CHECK(difference(*states[i], name) <= 6e-4 * largest(name));
    }
    CHECK(painter.encoder().left_out() > 0);  // of the second, which is too long
  }

  /// Pictures from the fixture's noise, by our states and by its own, whose dropped caption `painter` then has.
  void check_pictures(Painter<float, Cpu>& painter) const {
    CHECK(painter.side() == 16);
    CHECK(painter.info().steps == 50);
    PackedText ours, theirs;
    for (const auto& states : painter.encoder().encode(prompts())) ours.add(*states, width);
    for (int i = 0; i < 2; ++i) theirs.add(array(str("states.", i)), width);
    CHECK(difference(pictures(painter, ours), "pictures") <= 1.0 / 255);
    painter.model().network().set_dropped(array("states.empty"));
    CHECK(difference(pictures(painter, theirs), "pictures") <= 1e-4);
  }

  /// Latents and a batch's loss; a LoRA that learns from cached ones, is saved, and draws the same when it is opened.
  void check_learning() const {
    auto painter = open();
    const auto photos = array("photos");
    std::vector<CaptionedPicture> captioned;
    for (std::size_t i = 0; i < 2; ++i)
      captioned.push_back({str("photo ", i),
                           {photos.begin() + static_cast<std::ptrdiff_t>(i * 768),
                            photos.begin() + static_cast<std::ptrdiff_t>((i + 1) * 768)},
                           prompts()[i]});
    const auto cache = dir / "cache";
    const auto examples = painter.examples(captioned, "", cache);
    FlowBatch batch{.noise = array(names.before + "noise")};
    for (std::size_t i = 0; i < 2; ++i) {
      batch.pictures.insert(batch.pictures.end(), examples[i].picture.begin(), examples[i].picture.end());
      batch.text.add(array(str("states.", i)), width);
      batch.times.push_back(1 - array(names.before + "sigmas")[i]);
    }
    CHECK(difference(batch.pictures, names.before + "latents") <= 1e-4);
    CHECK(painter.model().loss_sum(batch).item(painter.model().context()) / 2 ==
          doctest::Approx(expected[names.loss].get<double>()).epsilon(1e-4));
    const auto again = open().examples(captioned, "", cache);
    CHECK(again[0].picture == examples[0].picture);
    CHECK(*again[1].caption == *examples[1].caption);
    CHECK_THROWS_WITH_AS(painter.examples({{"small", std::vector<float>(3 * 8 * 8), "dog"}}, ""),
                         doctest::Contains("picture 'small' is 8 x 8, the model learns pictures of 3 x 16 x 16"),
                         Error);

    auto& model = painter.model();
    model.attach({.rank = 4, .targets = model.info().picture_layers});
    TrainerConfig config;
    config.epochs = 20;
    config.batch_tokens = 2;
    config.optimizer = AdamW{.lr = 1e-2f};
    const auto loss = [&] {
      const NoGrad off(model.context());
      return model.loss_sum(batch).item(model.context());
    };
    const float before = loss();
    Trainer(model, config).fit(FlowData(examples, model.info()));
    CHECK(loss() < before);
    painter.save_adapter(dir / "adapter", "photo style", "in photo style");
    const auto tuned = painter.draw({"red apple"}, {.seeds = {7}, .steps = 2})[0];
    auto other = Painter<float, Cpu>::from_pretrained(dir / "adapter", {}, {.threads = 2});
    CHECK(other.words() == "in photo style");
    CHECK(tuned == other.draw({"red apple"}, {.seeds = {7}, .style = "", .steps = 2})[0]);
    CHECK(tuned != open().draw({"red apple"}, {.seeds = {7}, .steps = 2})[0]);
  }

 private:
  /// As they are shown: values in [0, 1].
  std::vector<float> pictures(Painter<float, Cpu>& painter, const PackedText& text) const {
    auto& ctx = painter.model().context();
    const auto latents =
        denoise(ctx, painter.model().network(), text, array(names.before + "start"),
                {.steps = expected[names.steps], .solver = Solver::euler, .guidance = painter.info().guidance});
    const auto autoencoder = open_autoencoder<float>(ctx, base / "vae");
    auto values = autoencoder->decode(ctx, Tensor<float, Cpu>(ctx, names.latents, latents)).to_host(ctx);
    for (float& v : values) v = std::clamp(v / 2 + 0.5f, 0.0f, 1.0f);
    return values;
  }
};

}  // namespace ft::test
