// tests/image/z_image_pipeline.cpp: a pipeline of Z-Image's beside diffusers (tools/make_z_image_fixtures.py): states
// of captions, pictures, latents, the loss; a LoRA on cached latents.
#include "../scratch.hpp"
#include "fixture.hpp"
#include "split_tensors.hpp"

#include <doctest/doctest.h>
#include <ftlib/image/painter.hpp>
#include <ftlib/models/kit/autoencoder_registry.hpp>
#include <ftlib/train/trainer.hpp>

using namespace ft;
using namespace ft::test;

namespace {

namespace fs = std::filesystem;

/// The pipeline's folder, with what published files do not say: the side, the length of so small a text encoder.
struct ZImagePipeline : Fixture {
  Scratch dir;
  ZImagePipeline() : Fixture(fs::path(FTLIB_TEST_DATA) / "z_image") {
    fs::copy(fs::path(FTLIB_TEST_DATA) / "z_image", dir / "base", fs::copy_options::recursive);
    change("transformer/config.json", {{"sample_size", 8}, {"max_sequence_length", expected["length"]}});
  }
  void change(const char* name, const Json& changes) {
    Json config = read_json(dir / "base" / name);
    config.update(changes);
    write_atomically(dir / "base" / name, config.dump());
  }
  Painter<float, Cpu> open() const { return Painter<float, Cpu>::from_pretrained(dir / "base", {}, {.threads = 2}); }
  std::vector<std::string> prompts() const { return expected["prompts"].get<std::vector<std::string>>(); }
  /// From the fixture's noise, as it is shown: values in [0, 1].
  std::vector<float> pictures(Painter<float, Cpu>& painter, const PackedText& text) const {
    auto& ctx = painter.model().context();
    const auto latents =
        denoise(ctx, painter.model().network(), text, array("pipe.start"),
                {.steps = expected["draw_steps"], .solver = Solver::euler, .guidance = painter.info().guidance});
    const auto autoencoder = open_autoencoder<float>(ctx, dir / "base" / "vae");
    auto values = autoencoder->decode(ctx, Tensor<float, Cpu>(ctx, {2, 3, 8, 8}, latents)).to_host(ctx);
    for (float& v : values) v = std::clamp(v / 2 + 0.5f, 0.0f, 1.0f);
    return values;
  }
};

}  // namespace

TEST_CASE("image/z_image: states of words, thinking on and nothing padded, are diffusers'") {
  const ZImagePipeline c;
  auto painter = c.open();
  CHECK(painter.encoder().width() == 12);
  auto texts = c.prompts();
  texts.push_back("");
  const auto states = painter.encoder().encode(texts);
  for (std::size_t i = 0; i < states.size(); ++i) {
    const std::string name = i == 2 ? "states.empty" : str("states.", i);
    CAPTURE(name);
    CHECK(c.difference(*states[i], name) <= 6e-4 * c.largest(name));  // kept as f16
  }
  CHECK(painter.encoder().left_out() > 0);  // of the second, which is too long
}

TEST_CASE("image/z_image: pictures are diffusers', from its states and from ours, from parts in several files") {
  const ZImagePipeline c;
  auto painter = c.open();
  CHECK(painter.side() == 16);
  CHECK(painter.info().steps == 50);
  CHECK(painter.info().guidance == c.expected["guidance"].get<float>() + 1);
  PackedText ours, theirs;
  for (const auto& states : painter.encoder().encode(c.prompts())) ours.add(*states, 12);
  for (int i = 0; i < 2; ++i) theirs.add(c.array(str("states.", i)), 12);
  CHECK(c.difference(c.pictures(painter, ours), "pictures") <= 1.0 / 255);
  painter.model().network().set_dropped(c.array("states.empty"));
  CHECK(c.difference(c.pictures(painter, theirs), "pictures") <= 1e-4);

  const auto drawn = painter.draw(c.prompts(), {.seeds = {1, 2}, .steps = 3});
  split_tensors(c.dir / "base" / "transformer", "diffusion_pytorch_model");
  split_tensors(c.dir / "base" / "text_encoder", "model");
  auto again = c.open();
  again.model().network().set_dropped(c.array("states.empty"));
  CHECK(drawn == again.draw(c.prompts(), {.seeds = {1, 2}, .steps = 3}));
}

TEST_CASE("image/z_image: latents and the loss are diffusers'; a LoRA learns from cached ones and draws") {
  const ZImagePipeline c;
  auto painter = c.open();
  const auto photos = c.array("photos");
  std::vector<CaptionedPicture> pictures;
  for (std::size_t i = 0; i < 2; ++i)
    pictures.push_back({str("photo ", i),
                        {photos.begin() + static_cast<std::ptrdiff_t>(i * 768),
                         photos.begin() + static_cast<std::ptrdiff_t>((i + 1) * 768)},
                        c.prompts()[i]});
  const auto cache = c.dir / "cache";
  const auto examples = painter.examples(pictures, "", cache);
  FlowBatch batch{.noise = c.array("pipe.noise")};
  for (std::size_t i = 0; i < 2; ++i) {
    batch.pictures.insert(batch.pictures.end(), examples[i].picture.begin(), examples[i].picture.end());
    batch.text.add(c.array(str("states.", i)), 12);
    batch.times.push_back(1 - c.array("pipe.sigmas")[i]);
  }
  CHECK(c.difference(batch.pictures, "pipe.latents") <= 1e-4);
  CHECK(painter.model().loss_sum(batch).item(painter.model().context()) / 2 ==
        doctest::Approx(c.expected["pipe_loss"].get<double>()).epsilon(1e-4));
  const auto again = c.open().examples(pictures, "", cache);
  CHECK(again[0].picture == examples[0].picture);
  CHECK(*again[1].caption == *examples[1].caption);

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
  painter.save_adapter(c.dir / "adapter", "photo style", "in photo style");
  const auto tuned = painter.draw({"red apple"}, {.seeds = {7}, .steps = 2})[0];
  auto other = Painter<float, Cpu>::from_pretrained(c.dir / "adapter", {}, {.threads = 2});
  CHECK(tuned == other.draw({"red apple"}, {.seeds = {7}, .style = "", .steps = 2})[0]);
  CHECK(tuned != c.open().draw({"red apple"}, {.seeds = {7}, .steps = 2})[0]);
}

TEST_CASE("image/z_image: a distilled pipeline, as the folder says, is drawn in eight steps without guidance") {
  ZImagePipeline c;
  c.change("model_index.json", {{"is_distilled", true}});
  CHECK(c.open().info().steps == 8);
  CHECK(c.open().info().guidance == 1);
}
