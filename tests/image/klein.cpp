// tests/image/klein.cpp: a whole FLUX.2-klein pipeline as a folder of diffusers', beside diffusers
// (tools/make_klein_fixtures.py): words to states, noise to pictures, pictures to latents, the loss, a LoRA.
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
const fs::path klein_data = fs::path(FTLIB_TEST_DATA) / "klein";

/// The pipeline's folder, with what published files do not say: the side, the layers of so small a text encoder.
struct KleinCase : Fixture {
  Scratch dir;
  KleinCase() : Fixture(klein_data) {
    fs::copy(klein_data, dir / "klein", fs::copy_options::recursive);
    fs::copy(fs::path(FTLIB_TEST_DATA) / "flux2" / "transformer", dir / "klein" / "transformer");
    change("transformer/config.json", {{"sample_size", 4},
                                       {"text_encoder_out_layers", expected["layers"]},
                                       {"max_sequence_length", expected["length"]}});
  }
  void change(const char* name, const Json& changes) {
    Json config = read_json(dir / "klein" / name);
    config.update(changes);
    write_atomically(dir / "klein" / name, config.dump());
  }
  Painter<float, Cpu> open() const { return Painter<float, Cpu>::from_pretrained(dir / "klein", {}, {.threads = 2}); }
  std::vector<std::string> prompts() const { return expected["prompts"].get<std::vector<std::string>>(); }
  /// From the fixture's noise, as it is shown: values in [0, 1].
  std::vector<float> pictures(Painter<float, Cpu>& painter, const PackedText& text) const {
    auto& ctx = painter.model().context();
    const auto latents =
        denoise(ctx, painter.model().network(), text, array("start"),
                {.steps = expected["steps"], .solver = Solver::euler, .guidance = expected["guidance"]});
    const auto autoencoder = open_autoencoder<float>(ctx, dir / "klein" / "vae");
    auto values = autoencoder->decode(ctx, Tensor<float, Cpu>(ctx, {2, 4, 4, 4}, latents)).to_host(ctx);
    for (float& v : values) v = std::clamp(v / 2 + 0.5f, 0.0f, 1.0f);
    return values;
  }
};

}  // namespace

TEST_CASE("image/klein: states of words, padding among them, are diffusers'") {
  const KleinCase c;
  auto painter = c.open();
  CHECK(painter.encoder().width() == 24);
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

TEST_CASE("image/klein: pictures are diffusers', from its states and from ours") {
  const KleinCase c;
  auto painter = c.open();
  CHECK(painter.side() == 16);
  CHECK(painter.info().steps == 50);
  CHECK(painter.info().guidance == 4);
  PackedText ours, theirs;
  for (const auto& states : painter.encoder().encode(c.prompts())) ours.add(*states, 24);
  for (int i = 0; i < 2; ++i) theirs.add(c.array(str("states.", i)), 24);
  CHECK(c.difference(c.pictures(painter, ours), "pictures") <= 1.0 / 255);
  painter.model().network().set_dropped(c.array("states.empty"));
  CHECK(c.difference(c.pictures(painter, theirs), "pictures") <= 1e-4);

  int64_t heard = 0;
  std::size_t shown = 0;
  const auto drawn = painter.draw(c.prompts(), {.seeds = {1, 2}, .steps = 3}, [&](const PaintStep& s) {
    ++heard;
    shown += s.pictures.size();
  });
  CHECK(heard == 6);  // one picture after the other
  CHECK(shown == 2);  // decoded after the last step alone
  CHECK(drawn.size() == 2);
  CHECK(drawn[0].width == 16);
  CHECK(drawn[0] == painter.draw({c.prompts()[0]}, {.seeds = {1}, .steps = 3})[0]);
  auto other = painter.session();
  CHECK(drawn[1] == other.draw({c.prompts()[1]}, {.seeds = {2}, .steps = 3})[0]);
}

TEST_CASE("image/klein: latents and the loss are diffusers'; a LoRA learns from cached ones and draws") {
  const KleinCase c;
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
  FlowBatch batch{.noise = c.array("noise")};
  for (std::size_t i = 0; i < 2; ++i) {
    batch.pictures.insert(batch.pictures.end(), examples[i].picture.begin(), examples[i].picture.end());
    batch.text.add(c.array(str("states.", i)), 24);
    batch.times.push_back(1 - c.array("sigmas")[i]);
  }
  CHECK(c.difference(batch.pictures, "latents") <= 1e-4);
  CHECK(painter.model().loss_sum(batch).item(painter.model().context()) / 2 ==
        doctest::Approx(c.expected["loss"].get<double>()).epsilon(1e-4));

  const auto again = c.open().examples(pictures, "", cache);
  CHECK(again[0].picture == examples[0].picture);
  CHECK(*again[1].caption == *examples[1].caption);
  CHECK_THROWS_WITH_AS(painter.examples({{"small", std::vector<float>(3 * 8 * 8), "dog"}}, ""),
                       doctest::Contains("picture 'small' is 8 x 8, the model learns pictures of 3 x 16 x 16"), Error);

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
  CHECK(other.words() == "in photo style");
  CHECK(tuned == other.draw({"red apple"}, {.seeds = {7}, .style = "", .steps = 2})[0]);
  CHECK(tuned != c.open().draw({"red apple"}, {.seeds = {7}, .steps = 2})[0]);
}

TEST_CASE("image/klein: a pipeline whose parts lie in several files is the same; what is missing of them is named") {
  const KleinCase c;
  const auto whole = c.open().draw({"red apple"}, {.seeds = {7}, .steps = 2})[0];
  const auto transformer = c.dir / "klein" / "transformer", encoder = c.dir / "klein" / "text_encoder",
             vae = c.dir / "klein" / "vae";
  split_tensors(transformer, "diffusion_pytorch_model");
  split_tensors(vae, "diffusion_pytorch_model");
  split_tensors(encoder, "model");
  auto painter = c.open();
  CHECK(painter.draw({"red apple"}, {.seeds = {7}, .steps = 2})[0] == whole);

  auto& model = painter.model();  // an adapter finds such a base again, and tells it from another
  model.attach({.rank = 2, .targets = model.info().picture_layers});
  painter.save_adapter(c.dir / "adapter", "photo style", "in photo style");
  CHECK(Painter<float, Cpu>::from_pretrained(c.dir / "adapter", {}, {.threads = 2}).notes().empty());
  const auto index = transformer / "diffusion_pytorch_model.safetensors.index.json";
  Json json = read_json(index);
  auto bytes = read_file(transformer / "diffusion_pytorch_model-00002-of-00002.safetensors", 1 << 20);
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  write_atomically(transformer / "diffusion_pytorch_model-00002-of-00002.safetensors", bytes);
  const auto notes = Painter<float, Cpu>::from_pretrained(c.dir / "adapter", {}, {.threads = 2}).notes();
  REQUIRE(notes.size() == 1);
  CHECK(notes[0].find("was trained on another base") != notes[0].npos);

  json["weight_map"]["x_embedder.bias"] = "diffusion_pytorch_model-00001-of-00002.safetensors";
  write_atomically(index, json.dump());
  CHECK_THROWS_WITH_AS(c.open(),
                       doctest::Contains("tensor 'x_embedder.bias' is not in its shard 'diffusion_pytorch_model-00001"),
                       Error);
  fs::remove(transformer / "diffusion_pytorch_model-00002-of-00002.safetensors");
  CHECK_THROWS_WITH_AS(c.open(), doctest::Contains("names shard 'diffusion_pytorch_model-00002-of-00002.safetensors'"),
                       Error);
}

TEST_CASE("image/klein: a distilled pipeline is drawn in four steps; what is missing or not computed is refused") {
  KleinCase c;
  c.change("model_index.json", {{"is_distilled", true}});
  CHECK(c.open().info().steps == 4);
  CHECK(c.open().info().guidance == 1);
  c.change("scheduler/scheduler_config.json", {{"use_karras_sigmas", true}});
  CHECK_THROWS_WITH_AS(c.open(), doctest::Contains("use_karras_sigmas is not computed"), Error);
  c.change("scheduler/scheduler_config.json", {{"use_karras_sigmas", false}, {"use_dynamic_shifting", false}});
  CHECK_THROWS_WITH_AS(c.open(), doctest::Contains("use_dynamic_shifting is off"), Error);
  c.change("scheduler/scheduler_config.json", {{"use_dynamic_shifting", true}});
  c.change("transformer/config.json", {{"text_encoder_out_layers", {1, 2}}});
  CHECK_THROWS_WITH_AS(c.open(), doctest::Contains("reads captions of width 24, the text model has 16"), Error);
  c.change("transformer/config.json", {{"text_encoder_out_layers", {1, 2, 9}}});
  CHECK_THROWS_WITH_AS(c.open(), doctest::Contains("layers 1 2 9"), Error);
  c.change("transformer/config.json", {{"text_encoder_out_layers", {1, 2, 3}}});
  fs::remove_all(c.dir / "klein" / "vae");
  CHECK_THROWS_WITH_AS(c.open(), doctest::Contains("works on latents, and there is no autoencoder (vae/) beside it"),
                       Error);
}
