// tests/image/z_image_pipeline.cpp: a pipeline of Z-Image's beside diffusers (tools/make_z_image_fixtures.py): states
// of captions, pictures, latents, the loss; a LoRA on cached latents.
#include "pipeline_case.hpp"
#include "split_tensors.hpp"

using namespace ft;
using namespace ft::test;

namespace {

/// The pipeline's folder, with what published files do not say: the side, the length of so small a text encoder.
struct ZImagePipeline : PipelineCase {
  ZImagePipeline()
      : PipelineCase(std::filesystem::path(FTLIB_TEST_DATA) / "z_image",
                     {{2, 3, 8, 8}, "pipe.", "draw_steps", "pipe_loss"}, 12) {
    change("transformer/config.json", {{"sample_size", 8}, {"max_sequence_length", expected["length"]}});
  }
};

}  // namespace

TEST_CASE("image/z_image: states of words, thinking on and nothing padded, are diffusers'") {
  ZImagePipeline().check_states();
}

TEST_CASE("image/z_image: pictures are diffusers', from its states and from ours, from parts in several files") {
  const ZImagePipeline c;
  auto painter = c.open();
  CHECK(painter.info().guidance == c.expected["guidance"].get<float>() + 1);
  c.check_pictures(painter);

  const auto drawn = painter.draw(c.prompts(), {.seeds = {1, 2}, .steps = 3});
  split_tensors(c.base / "transformer", "diffusion_pytorch_model");
  split_tensors(c.base / "text_encoder", "model");
  auto again = c.open();
  again.model().network().set_dropped(c.array("states.empty"));
  CHECK(drawn == again.draw(c.prompts(), {.seeds = {1, 2}, .steps = 3}));
}

TEST_CASE("image/z_image: latents and the loss are diffusers'; a LoRA learns from cached ones and draws") {
  ZImagePipeline().check_learning();
}

TEST_CASE("image/z_image: a distilled pipeline, as the folder says, is drawn in eight steps without guidance") {
  ZImagePipeline c;
  c.change("model_index.json", {{"is_distilled", true}});
  CHECK(c.open().info().steps == 8);
  CHECK(c.open().info().guidance == 1);
}
