// tests/image/z_image.cpp: Z-Image's transformer beside diffusers (tools/make_z_image_fixtures.py): velocities, loss,
// gradients, ten steps of LoRA, the way from noise, times; the published model's count.
#include "../scratch.hpp"
#include "counted_weights.hpp"
#include "fixture.hpp"
#include "lora_steps.hpp"

#include <doctest/doctest.h>
#include <ftlib/image/text_to_image.hpp>
#include <ftlib/models/z_image.hpp>

using namespace ft;
using namespace ft::test;

namespace {

const std::filesystem::path z_image_data = std::filesystem::path(FTLIB_TEST_DATA) / "z_image";

struct ZImageCase : Fixture {
  Scratch dir;
  TextToImage<float, Cpu> model;
  Context<Cpu>& ctx;

  ZImageCase()
      : Fixture(z_image_data),
        model(TextToImage<float, Cpu>::from_pretrained(z_image_data / "transformer", {.threads = 2})),
        ctx(model.context()) {
    model.network().set_dropped(array("empty"));
  }
  PackedText captions(int count, int turn = 0) const {
    PackedText text;
    for (int i = 0; i < count; ++i) text.add(array(str("text.", (i + 3 - turn) % 3)), 12);
    return text;
  }
  /// Latents of 4 x 8, which are no square: by the network itself, as diffusers says it: noise less latents.
  Tensor<float, Cpu> predict(const std::vector<float>& z, const std::vector<float>& sigmas, const PackedText& text,
                             bool recompute = false) {
    std::vector<float> times;
    for (const float sigma : sigmas) times.push_back(1 - sigma);
    const auto B = static_cast<int64_t>(times.size());
    return scale(ctx, model.network().forward(ctx, Tensor<float, Cpu>(ctx, {B, 3, 4, 8}, z), times, text, recompute),
                 -1.0f);
  }
  std::vector<float> mixed() const {
    auto z = array("latents");
    const auto noise = array("noise"), sigmas = array("sigmas");
    for (std::size_t i = 0; i < z.size(); ++i) z[i] = (1 - sigmas[i / 96]) * z[i] + sigmas[i / 96] * noise[i];
    return z;
  }
};

}  // namespace

TEST_CASE("image/z_image: velocities, loss and gradients are diffusers'") {
  ZImageCase c;
  CHECK(c.model.info().predicts == Predicts::velocity);
  CHECK(c.difference(c.predict(c.mixed(), c.array("sigmas"), c.captions(3)).to_host(c.ctx), "pred") <=
        1e-4 * c.largest("pred"));
  auto target = c.array("noise");
  const auto latents = c.array("latents");
  for (std::size_t i = 0; i < target.size(); ++i) target[i] -= latents[i];
  for (const bool recompute : {false, true}) {
    ZImageCase trained;
    trained.model.train_all();
    Tape tape(trained.ctx);
    const auto loss =
        mean_squared_error(trained.ctx, trained.predict(c.mixed(), c.array("sigmas"), c.captions(3), recompute),
                           Tensor<float, Cpu>(trained.ctx, {3, 3, 4, 8}, target));
    CHECK(loss.item(trained.ctx) == doctest::Approx(c.expected["loss"].get<double>()).epsilon(1e-5));
    tape.backward(loss);
    int compared = 0;
    for (const auto* w : trained.model.parameters()) {
      const std::string key = "grad." + w->name;
      CAPTURE(key);
      REQUIRE(bool(w->grad));
      auto grad = w->grad.to_host(trained.ctx);
      if (w->name.starts_with("t_embedder") && w->name.ends_with("weight"))
        grad.resize(static_cast<std::size_t>(8 * w->shape()[1]));
      CHECK(c.difference(grad, key) <= 1e-4 * c.largest(key));
      ++compared;
    }
    CHECK(compared == 73);  // all
  }
}

TEST_CASE("image/z_image: ten steps of LoRA are peft's, and its file is diffusers'") {
  ZImageCase c;
  CHECK(c.model.load_adapter(z_image_data / "lora_initial").empty());
  auto target = c.array("noise");
  const auto latents = c.array("latents");
  for (std::size_t i = 0; i < target.size(); ++i) target[i] -= latents[i];
  const auto trained = ten_lora_steps(c, 1, [&](std::size_t step) {
    return mean_squared_error(c.ctx, c.predict(c.mixed(), c.array("sigmas"), c.captions(3, static_cast<int>(step % 3))),
                              Tensor<float, Cpu>(c.ctx, {3, 3, 4, 8}, target));
  });
  CHECK(trained == 4 * 4 * 2);  // four layers of four blocks
  const auto predicted = [](ZImageCase& of) {
    return of.predict(of.mixed(), of.array("sigmas"), of.captions(3)).to_host(of.ctx);
  };
  CHECK(c.difference(predicted(c), "lora.pred") <= 5e-4 * c.largest("lora.pred"));  // ten steps of rounding, by Adam

  ZImageCase other;
  CHECK(other.model.load_adapter(z_image_data / "lora_trained").empty());
  CHECK(other.difference(predicted(other), "lora.pred") <= 1e-4 * other.largest("lora.pred"));
  other.model.save_adapter(other.dir / "again");
  check_same_lora(other.dir / "again", z_image_data / "lora_trained");
}

TEST_CASE("image/z_image: times are the scheduler's, and each step under guidance is diffusers'") {
  ZImageCase c;
  for (const auto& table : c.expected["sigmas"]) {
    ZImageConfig config;
    config.shift = table["shift"];
    const auto steps = table["steps"].get<int64_t>();
    for (int64_t i = 0; i <= steps; ++i) {
      const float t = config.time_of(static_cast<float>(i) / static_cast<float>(steps), table["tokens"].get<int64_t>());
      CHECK(std::abs(double{1 - t} - table["values"][static_cast<std::size_t>(i)].get<double>()) <= 2e-6);
    }
  }
  // As denoise() goes, which draws squares: v_dropped + (g + 1) (v - v_dropped).
  const NoGrad off(c.ctx);
  const auto sigmas = c.expected["sigmas"][0]["values"].get<std::vector<float>>();
  const auto g = c.expected["guidance"].get<float>();
  PackedText none;
  for (int i = 0; i < 2; ++i) none.add({}, 12);
  auto z = c.array("start");
  for (std::size_t i = 0; i + 1 < sigmas.size(); ++i) {
    const std::vector<float> now(2, sigmas[i]);
    const auto v = c.predict(z, now, c.captions(2)).to_host(c.ctx), dropped = c.predict(z, now, none).to_host(c.ctx);
    for (std::size_t k = 0; k < z.size(); ++k)
      z[k] += (sigmas[i + 1] - sigmas[i]) * (dropped[k] + (g + 1) * (v[k] - dropped[k]));
    CHECK(c.difference(z, str("step.", i)) <= 1e-4 * c.largest(str("step.", i)));
  }
}

TEST_CASE("image/z_image: what is not computed is refused") {
  ZImageCase c;
  const Json json = c.model.network().configuration();
  CHECK(ZImageConfig::from_json(json, "config.json").to_json() == json);
  const auto refuses = [&](const char* key, const Json& value, const char* words) {
    Json other = json;
    other[key] = value;
    CHECK_THROWS_WITH_AS(ZImageConfig::from_json(other, "config.json"), doctest::Contains(words), Error);
  };
  refuses("siglip_feat_dim", 8, "siglip_feat_dim is given");
  refuses("all_patch_size", {4}, "all_patch_size other than 2 is not computed");
  refuses("n_kv_heads", 1, "n_kv_heads other than n_heads");
  refuses("axes_dims", {4, 6, 8}, "axes_dims");
  ZImageConfig config;
  CHECK_THROWS_WITH_AS(config.take_scheduler({{"use_beta_sigmas", true}}, "s"),
                       doctest::Contains("use_beta_sigmas is not computed"), Error);
  config.take_scheduler({{"shift", 6.0}}, "s");
  CHECK(config.shift == 6);
}

TEST_CASE("image/z_image: the published sizes have their 6,154,908,736 parameters; a LoRA of rank 32 33,423,360") {
  Context<Cpu> ctx({.threads = 1});
  CountedWeights weights;
  ZImage<float, Cpu> net(ctx, ZImageConfig{}, weights);
  CHECK(weights.parameters == 6154908736);
  const Targets list(net.info().picture_layers);
  int64_t lora = 0;
  net.visit([&](Parameter<float, Cpu>& w) {
    if (list.match(module_of(w.name))) lora += 32 * (w.shape()[0] + w.shape()[1]);
  });
  CHECK(lora == 33423360);
}
