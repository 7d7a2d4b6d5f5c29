// tests/image/denoiser.cpp: a host's own denoiser: registered, made, trained, saved, opened, drawn from; and that one
// which predicts velocities is taught and drawn from as one which predicts pictures.
#include "../scratch.hpp"

#include <doctest/doctest.h>
#include <ftlib/image/flow_data.hpp>
#include <ftlib/image/text_to_image.hpp>
#include <ftlib/models/kit/denoiser_registry.hpp>
#include <ftlib/models/kit/weights.hpp>
#include <ftlib/models/mmjit_config.hpp>
#include <ftlib/nn/linear.hpp>
#include <ftlib/ops/elementwise.hpp>
#include <ftlib/ops/rows.hpp>
#include <ftlib/ops/shape.hpp>
#include <ftlib/train/trainer.hpp>

#include <cmath>

using namespace ft;
using namespace ft::test;

namespace {

/// A picture is a matrix times its caption's mean; said as it is, or as the velocity (x - z) / max(1 - t, 0.05).
class Pooled final : public Denoiser<float, Cpu> {
 public:
  Pooled(Predicts predicts, Linear<float, Cpu> out) : predicts_(predicts), out_(std::move(out)) {}

  static DenoiserKind<float, Cpu> kind(Predicts predicts) {
    return {.model_type = name(predicts),
            .open =
                [predicts](Context<Cpu>& ctx, const DenoiserFile& file) {
                  Weights weights(file.name());
                  for (const auto& tensor : file.tensors.names()) weights.put(tensor, file.tensors.tensor(tensor));
                  Linear<float, Cpu> out;
                  out.weight = weights.matrix<float>(ctx, "out.weight", {12, 3}, WeightKind::linear);
                  weights.finish();
                  return std::make_unique<Pooled>(predicts, std::move(out));
                },
            .initial =
                [predicts](Context<Cpu>& ctx, const Json&, uint64_t seed) {
                  Random random(seed);
                  std::vector<float> values(36);
                  for (float& v : values) v = static_cast<float>(random.normal());
                  Linear<float, Cpu> out;
                  out.weight = Parameter<float, Cpu>("out.weight", Tensor<float, Cpu>(ctx, {12, 3}, values));
                  out.weight.kind = WeightKind::linear;
                  return std::make_unique<Pooled>(predicts, std::move(out));
                }};
  }
  static std::string name(Predicts p) { return p == Predicts::picture ? "pooled picture" : "pooled velocity"; }

  DenoiserInfo info() const override {
    return {.model_type = name(predicts_),
            .side = 2,
            .text_width = 3,
            .noise_scale = 1.5f,
            .predicts = predicts_,
            .picture_layers = {"out"}};
  }
  Json configuration() const override { return {{"model_type", name(predicts_)}}; }
  void visit(const std::function<void(Parameter<float, Cpu>&)>& f) override { out_.visit(f); }
  const std::map<std::string, Shape>& file_shapes() const override { return none_; }
  Tensor<float, Cpu> forward(Context<Cpu>& ctx, const Tensor<float, Cpu>& z, const std::vector<float>& t,
                             const PackedText& text, bool) override {
    const Tensor<float, Cpu> states(ctx, {text.starts.back(), 3}, text.states);
    const auto x = reshape(ctx, out_(ctx, mean_rows(ctx, states, text.starts)), z.shape());
    if (predicts_ == Predicts::picture) return x;
    std::vector<float> slopes;
    for (const float time : t) slopes.insert(slopes.end(), 12, 1 / std::max(1 - time, 0.05f));
    return mul(ctx, add(ctx, x, scale(ctx, z, -1.0f)), Tensor<float, Cpu>(ctx, z.shape(), slopes));
  }

 private:
  Predicts predicts_;
  Linear<float, Cpu> out_;
  std::map<std::string, Shape> none_;
};

std::vector<FlowExample> pooled_examples() {
  std::vector<FlowExample> examples;
  for (std::size_t i = 0; i < 3; ++i) {
    auto caption = std::make_shared<std::vector<float>>(6);  // two rows
    (*caption)[i] = (*caption)[3 + i] = 1;
    std::vector<float> picture(12);
    for (std::size_t k = 0; k < 12; ++k) picture[k] = static_cast<float>((k + 5 * i) % 7) / 3.5f - 1;
    examples.push_back({str("picture ", i), picture, caption});
  }
  return examples;
}
PackedText pooled_captions() {
  PackedText text;
  for (const auto& e : pooled_examples()) text.add(*e.caption, 3);
  return text;
}
double farthest(const std::vector<float>& a, const std::vector<float>& b) {
  REQUIRE(a.size() == b.size());
  double most = 0;
  for (std::size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(double{a[i]} - double{b[i]}));
  return most;
}

}  // namespace

TEST_CASE("denoiser: a host's own is registered, trained, saved, opened and drawn from, whatever it predicts") {
  Scratch dir;
  std::vector<std::vector<float>> drawn;
  std::vector<double> losses;
  for (const Predicts predicts : {Predicts::picture, Predicts::velocity}) {
    register_denoiser(Pooled::kind(predicts));
    CHECK_THROWS_WITH_AS(register_denoiser(Pooled::kind(predicts)), doctest::Contains("is known already"), Error);
    auto model = TextToImage<float, Cpu>::initial({{"model_type", Pooled::name(predicts)}}, 3, {.threads = 1},
                                                  {.caption_drop = 0});
    const FlowData train(pooled_examples(), model.info()), held_out(pooled_examples(), model.info(), /*fixed=*/4);
    TrainerConfig config;
    config.optimizer = AdamW{.lr = 0.1f, .weight_decay = 0};
    config.epochs = 600;
    config.batch_tokens = 3;
    Trainer trainer(model, config);
    losses.push_back(trainer.evaluate(held_out));
    trainer.fit(train, &held_out);
    losses.push_back(trainer.evaluate(held_out));
    model.save(dir / "model.safetensors");
    auto again = TextToImage<float, Cpu>::from_pretrained(dir.path(), {.threads = 1});
    CHECK(again.info().predicts == predicts);
    drawn.push_back(again.draw(pooled_captions(), {1, 2, 3}, {.steps = 6, .guidance = 1}));
    std::vector<float> wanted;
    for (const auto& e : pooled_examples()) wanted.insert(wanted.end(), e.picture.begin(), e.picture.end());
    CHECK(farthest(drawn.back(), wanted) < 0.02);
    CHECK_THROWS_WITH_AS(again.network().finisher(), doctest::Contains("finisher: there is none for a model of type"),
                         Error);
  }
  CHECK(losses[0] > 1);
  CHECK(losses[2] == doctest::Approx(losses[0]).epsilon(1e-5));  // the loss is in the velocity for both
  CHECK(losses[1] < 1e-3 * losses[0]);
  CHECK(losses[3] < 1e-3 * losses[0]);
  CHECK(farthest(drawn[0], drawn[1]) < 1e-3);
}

TEST_CASE("denoiser: a configuration that names none that is known is refused") {
  Scratch dir;
  const auto refusal = [&](const Json& config) {
    try {
      TextToImage<float, Cpu>::initial(config, 1);
    } catch (const Error& e) {
      return e.message() + " | " + e.hint();
    }
    return std::string();
  };
  CHECK(refusal({{"model_type", "unet"}}).find("picture model 'unet' is not known") != std::string::npos);
  CHECK(refusal({{"model_type", "unet"}}).find("mmjit (MiniT2IMMJiTModel)") != std::string::npos);
  CHECK(refusal({{"_class_name", "UNet2D"}}).find("picture model 'UNet2D' is not known") != std::string::npos);
  CHECK(refusal({{"side", 2}}).find("has no model_type and no _class_name") != std::string::npos);
  CHECK(refusal({{"_class_name", "MiniT2IMMJiTModel"}}).find("key 'image_size'") != std::string::npos);
}
