// tests/image/klein.cpp: a whole FLUX.2-klein pipeline as a folder of diffusers', beside diffusers
// (tools/make_klein_fixtures.py): words to states, noise to pictures, pictures to latents, the loss, a LoRA.
#include "pipeline_case.hpp"
#include "split_tensors.hpp"

using namespace ft;
using namespace ft::test;

namespace {

namespace fs = std::filesystem;
const fs::path klein_data = fs::path(FTLIB_TEST_DATA) / "klein";

/// The pipeline's folder, with what published files do not say: the side, the layers of so small a text encoder.
struct KleinCase : PipelineCase {
  KleinCase() : PipelineCase(klein_data, {{2, 4, 4, 4}, "", "steps", "loss"}, 24) {
    fs::copy(fs::path(FTLIB_TEST_DATA) / "flux2" / "transformer", base / "transformer");
    change("transformer/config.json", {{"sample_size", 4},
                                       {"text_encoder_out_layers", expected["layers"]},
                                       {"max_sequence_length", expected["length"]}});
  }
};

}  // namespace

TEST_CASE("image/klein: states of words, padding among them, are diffusers'") { KleinCase().check_states(); }

TEST_CASE("image/klein: pictures are diffusers', from its states and from ours") {
  const KleinCase c;
  auto painter = c.open();
  CHECK(painter.info().guidance == 4);
  CHECK(painter.info().guidance == c.expected["guidance"].get<float>());
  c.check_pictures(painter);

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
  KleinCase().check_learning();
}

TEST_CASE("image/klein: a pipeline whose parts lie in several files is the same; what is missing of them is named") {
  const KleinCase c;
  const auto whole = c.open().draw({"red apple"}, {.seeds = {7}, .steps = 2})[0];
  const auto transformer = c.base / "transformer", encoder = c.base / "text_encoder", vae = c.base / "vae";
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
  fs::remove_all(c.base / "vae");
  CHECK_THROWS_WITH_AS(c.open(), doctest::Contains("works on latents, and there is no autoencoder (vae/) beside it"),
                       Error);
}
