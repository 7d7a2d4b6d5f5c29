// tests/image/flux2.cpp: FLUX.2's transformer, of klein's form, beside diffusers (tools/make_flux2_fixtures.py):
// velocities, gradients, ten steps of LoRA, the way from noise; its single file's names; klein 4B's counts.
#include "../scratch.hpp"
#include "counted_weights.hpp"
#include "fixture.hpp"
#include "lora_steps.hpp"

#include <doctest/doctest.h>
#include <ftlib/image/text_to_image.hpp>
#include <ftlib/models/flux2.hpp>

#include <cmath>

using namespace ft;
using namespace ft::test;

namespace {

const std::filesystem::path flux2_data = std::filesystem::path(FTLIB_TEST_DATA) / "flux2";

struct Flux2Case : Fixture {
  Scratch dir;
  TextToImage<float, Cpu> model;
  Context<Cpu>& ctx;

  explicit Flux2Case(const char* of = "transformer")
      : Fixture(flux2_data),
        model(TextToImage<float, Cpu>::from_pretrained(sized(dir, of), {.threads = 2})),
        ctx(model.context()) {
    model.network().set_dropped(array("empty"));
  }
  /// With the side of its latents, which a published file does not say.
  static std::filesystem::path sized(const Scratch& dir, const char* of) {
    std::filesystem::copy(flux2_data / of, dir / of);
    if (const auto file = dir / of / "config.json"; path_exists(file)) {
      Json config = read_json(file);
      config["sample_size"] = 4;
      write_atomically(file, config.dump());
    }
    return dir / of;
  }
  PackedText captions(std::size_t count, std::size_t turn = 0) const {
    PackedText text;
    for (std::size_t i = 0; i < count; ++i) text.add(array(str("text.", (i + 3 - turn) % 3)), 24);
    return text;
  }
  FlowBatch batch(std::size_t turn = 0) const {
    FlowBatch b{.pictures = array("latents"), .text = captions(3, turn), .noise = array("noise")};
    for (const float sigma : array("sigmas")) b.times.push_back(1 - sigma);
    return b;
  }
  /// As diffusers says it: noise less latents.
  std::vector<float> predict() {
    const FlowBatch b = batch();
    std::vector<float> z(b.pictures.size());
    for (std::size_t i = 0; i < z.size(); ++i) {
      const float t = b.times[i / 64];
      z[i] = t * b.pictures[i] + (1 - t) * b.noise[i];
    }
    auto v = model.network().forward(ctx, Tensor<float, Cpu>(ctx, {3, 4, 4, 4}, z), b.times, b.text).to_host(ctx);
    for (float& x : v) x = -x;
    return v;
  }
};

}  // namespace

TEST_CASE("flux2: velocities, loss and gradients are diffusers', from its folder and from the single file") {
  for (const char* of : {"transformer", "single.safetensors"}) {
    CAPTURE(of);
    Flux2Case c(of);
    CHECK(c.model.info().predicts == Predicts::velocity);
    CHECK(c.difference(c.predict(), "pred") <= 1e-4);
  }
  for (const bool recompute : {false, true}) {
    Flux2Case c;
    c.model.train_all();
    Tape tape(c.ctx);
    const auto loss = c.model.loss_sum(c.batch(), recompute);
    CHECK(static_cast<double>(loss.item(c.ctx)) / 3 == doctest::Approx(c.expected["loss"].get<double>()).epsilon(1e-5));
    tape.backward(loss, Tensor<float, Cpu>(c.ctx, {}, {1.0f / 3}));
    int compared = 0;
    for (const auto* w : c.model.parameters()) {
      CAPTURE(w->name);
      const std::string key = "grad." + w->name;
      CHECK(bool(w->grad) == c.arrays.contains(key));
      if (!w->grad) continue;
      ++compared;
      CHECK(c.difference(w->grad.to_host(c.ctx), key) <= 1e-4 * c.largest(key));
    }
    CHECK(compared == 49);
  }
}

TEST_CASE("flux2: ten steps of LoRA are peft's, and its file is diffusers'") {
  Flux2Case c;
  CHECK(c.model.load_adapter(flux2_data / "lora_initial").empty());
  ten_lora_steps(c, 3, [&](std::size_t step) { return c.model.loss_sum(c.batch(step % 3)); });
  CHECK(c.difference(c.predict(), "lora.pred") <= 5e-4 * c.largest("lora.pred"));  // ten steps of rounding, by Adam

  Flux2Case other;
  other.model.load_adapter(flux2_data / "lora_trained");
  CHECK(other.difference(other.predict(), "lora.pred") <= 1e-4);
  other.model.save_adapter(other.dir / "again");
  check_same_lora(other.dir / "again", flux2_data / "lora_trained");
}

TEST_CASE("flux2: sigmas are the scheduler's, and each step under guidance is diffusers'") {
  Flux2Case c;
  for (const auto& table : c.expected["sigmas"]) {
    const auto steps = table["steps"].get<int64_t>();
    for (int64_t i = 0; i <= steps; ++i) {
      const float t = Flux2Config::time_of(static_cast<float>(i) / static_cast<float>(steps), steps,
                                           table["tokens"].get<int64_t>());
      CHECK(std::abs(double{1 - t} - table["values"][static_cast<std::size_t>(i)].get<double>()) <= 2e-6);
    }
  }
  int64_t heard = 0;
  denoise(c.ctx, c.model.network(), c.captions(2), c.array("start"),
          {.steps = 5, .solver = Solver::euler, .guidance = 4}, [&](const DrawStep& s) {
            const std::string at = str("step.", heard++);
            CAPTURE(at);
            CHECK(c.difference(s.noisy, at) <= 1e-4 * c.largest(at));
          });
  CHECK(heard == 5);
}

TEST_CASE("flux2: what is not computed, and dropped captions of which nothing is known, are refused") {
  Flux2Case c;
  const Json json = c.model.network().configuration();
  CHECK(Flux2Config::from_json(json, "config.json").to_json() == json);
  const auto refusal = [&](const char* key, const Json& value) {
    Json other = json;
    other[key] = value;
    try {
      Flux2Config::from_json(other, "config.json");
    } catch (const Error& e) {
      return e.message();
    }
    return std::string();
  };
  CHECK(refusal("guidance_embeds", true).find("guidance_embeds is true") != std::string::npos);
  CHECK(refusal("patch_size", 2).find("patch_size") != std::string::npos);
  CHECK(refusal("axes_dims_rope", {4, 4, 4, 6}).find("axes_dims_rope") != std::string::npos);
  c.model.network().set_dropped({});
  CHECK_THROWS_WITH_AS(c.model.draw(c.captions(1), {1}, {.steps = 1, .guidance = 2}),
                       doctest::Contains("a caption is dropped, and the states of the empty one are not known"), Error);
  CHECK_NOTHROW(c.model.draw(c.captions(1), {1}, {.steps = 1, .guidance = 1}));
}

TEST_CASE("flux2: klein 4B has its 3,875,544,576 parameters, and a LoRA of rank 32 on peft's list 38,338,560") {
  Context<Cpu> ctx({.threads = 1});
  CountedWeights weights;
  Flux2<float, Cpu> net(ctx, Flux2Config{}, weights);
  CHECK(weights.parameters == 3875544576);
  const Targets list{"to_out.0", "to_add_out", "to_qkv_mlp_proj", "add_q_proj", "add_k_proj", "add_v_proj", "to_q",
                     "to_k",     "to_v",       "linear_in",       "linear_out"};
  int64_t lora = 0;
  net.visit([&](Parameter<float, Cpu>& w) {
    if (list.match(module_of(w.name))) lora += 32 * (w.shape()[0] + w.shape()[1]);
  });
  CHECK(lora == 38338560);
}
