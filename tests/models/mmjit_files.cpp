// tests/models/mmjit_files.cpp: MM-JiT by itself: in double, from files, from a seed, and what it refuses.
#include "../image/mmjit_case.hpp"
#include "../image/tiny_mmjit.hpp"

#include <doctest/doctest.h>
#include <ftlib/autograd/gradcheck.hpp>

using namespace ft;
using namespace ft::test;

TEST_CASE("mmjit: in double, gradients of every parameter are the loss's differences") {
  Context<Cpu> ctx({.threads = 2});
  MMJiTCase c("adaln");
  auto net = MMJiT<double, Cpu>::open(ctx, c.folder / "model.safetensors");
  std::vector<Parameter<double, Cpu>*> parameters;
  net.visit([&](Parameter<double, Cpu>& w) { parameters.push_back(&w); });
  AdapterSet<double, Cpu>(parameters).train_all(ctx);
  const FlowBatch batch = c.batch(0);
  const auto loss = [&](Context<Cpu>& on, std::vector<Tensor<double, Cpu>>&) { return flow_loss(on, net, batch); };
  CHECK(gradcheck(ctx, loss, {}, std::span<Parameter<double, Cpu>* const>(parameters),
                  {.absolute = 1e-6, .elements = 3}) == "");
}

TEST_CASE("mmjit: a file of ours is read again bit by bit, in f16 nearly so, and has the published names and shapes") {
  for (const std::string name : {"published", "adaln"}) {
    CAPTURE(name);
    Scratch dir;
    MMJiTCase c(name);
    const auto original = SafetensorsFile::open(c.folder / "model.safetensors");
    c.net.save(c.ctx, dir / "again.safetensors");
    const auto again = SafetensorsFile::open(dir / "again.safetensors");
    CHECK(again.names().size() == original.names().size());
    for (const std::string& tensor : original.names()) {
      CAPTURE(tensor);
      CHECK(again.tensor(tensor).shape == original.tensor(tensor).shape);
      CHECK(std::ranges::equal(again.bytes(tensor), original.bytes(tensor)));
    }
    CHECK(parse_json(again.metadata().at("config"), "config") == c.net.config().to_json());

    c.net.save(c.ctx, dir / "half.safetensors", DType::f16);
    CHECK(10 * std::filesystem::file_size(dir / "half.safetensors") <
          6 * std::filesystem::file_size(dir / "again.safetensors"));
    c.net = MMJiT<float, Cpu>::open(c.ctx, dir / "half.safetensors");
    CHECK(c.difference(c.predict(), "pred") <= 2e-2);
  }
}

TEST_CASE("mmjit: a published folder is read: names below model.net., config.json beside, unused tensors left out") {
  Scratch dir;
  MMJiTCase c("published");
  const auto file = SafetensorsFile::open(c.folder / "model.safetensors");
  std::vector<TensorEntry> entries;
  const std::vector<float> unused(24 * 256);
  for (const auto& tensor : file.names()) entries.push_back(entry("model.net." + tensor, file.tensor(tensor)));
  entries.push_back({"model.net.t_embedder.mlp.0.weight", DType::f32, {24, 256}, unused.data()});
  entries.push_back({"model.net.pooled_embedder.weight", DType::f32, {24, 10}, unused.data()});
  write_safetensors(dir / "diffusion_pytorch_model.safetensors", entries);
  CHECK_THROWS_WITH_AS((MMJiT<float, Cpu>::open(c.ctx, dir / "diffusion_pytorch_model.safetensors")),
                       doctest::Contains("has no 'config' in its metadata"), Error);
  Json config = c.net.config().to_json();
  for (const char* ours : {"conditioning", "rope_theta", "model_type"}) config.erase(ours);
  write_atomically(dir / "config.json", config.dump());
  c.net = MMJiT<float, Cpu>::open(c.ctx, dir / "diffusion_pytorch_model.safetensors");
  CHECK(c.difference(c.predict(), "pred") <= 1e-4);
}

TEST_CASE("mmjit: a model from a seed begins as its papers say, and learns") {
  Context<Cpu> ctx({.threads = 2});
  auto net = MMJiT<float, Cpu>::initial(ctx, tiny_mmjit, 1), same = MMJiT<float, Cpu>::initial(ctx, tiny_mmjit, 1),
       other = MMJiT<float, Cpu>::initial(ctx, tiny_mmjit, 2);
  std::vector<std::vector<float>> values[3];
  int64_t decaying = 0, all = 0;
  net.visit([&](Parameter<float, Cpu>& w) {
    values[0].push_back(w.value.to_host(ctx));
    CHECK(w.trainable);
    double sum = 0, largest = 0;
    for (const float v : values[0].back()) {
      sum += double{v};
      largest = std::max(largest, std::abs(double{v}));
    }
    CAPTURE(w.name);
    if (w.name.find("norm") != std::string::npos) CHECK(sum == static_cast<double>(w.count()));
    if (w.name.find("adaLN") != std::string::npos || w.name.starts_with("final_layer.linear")) CHECK(largest == 0);
    if (w.name == "double_blocks.0.img_mlp.w1.weight") {  // Xavier
      CHECK(largest <= std::sqrt(6.0 / (32 + 88)));
      CHECK(largest > 0.95 * std::sqrt(6.0 / (32 + 88)));
    }
    if (w.name == "double_blocks.1.txt_qkv.bias") {
      CHECK(largest <= 1 / std::sqrt(32.0));
      CHECK(largest > 0.9 / std::sqrt(32.0));
    }
    decaying += w.decays() ? w.count() : 0;
    all += w.count();
  });
  same.visit([&](Parameter<float, Cpu>& w) { values[1].push_back(w.value.to_host(ctx)); });
  other.visit([&](Parameter<float, Cpu>& w) { values[2].push_back(w.value.to_host(ctx)); });
  CHECK(values[0] == values[1]);
  CHECK(values[0] != values[2]);
  CHECK(decaying < all);
  CHECK(decaying > all / 2);

  std::vector<Parameter<float, Cpu>*> parameters;
  net.visit([&](Parameter<float, Cpu>& w) { parameters.push_back(&w); });
  AdamWOptimizer<float, Cpu> optimizer({.lr = 3e-3f});
  FlowBatch batch;
  Random random(3);
  for (int i = 0; i < 4; ++i) {
    batch.pictures.insert(batch.pictures.end(), 3 * 8 * 8, static_cast<float>(i) / 2 - 0.75f);
    batch.text.add(std::vector<float>(6, static_cast<float>(i)), 6);
    batch.times.push_back(0.3f);
    for (int k = 0; k < 3 * 8 * 8; ++k) batch.noise.push_back(static_cast<float>(random.normal()));
  }
  float first = 0, last = 0;
  for (int step = 0; step < 60; ++step) {
    zero_grad(parameters);
    Tape tape(ctx);
    const auto loss = flow_loss(ctx, net, batch);
    tape.backward(loss);
    optimizer.step(ctx, parameters, 3e-3f);
    (step == 0 ? first : last) = loss.item(ctx);
  }
  CHECK(last < 0.1f * first);
}

TEST_CASE("mmjit: what does not fit is refused") {
  Scratch dir;
  MMJiTCase c("published");
  Json json = c.net.config().to_json();
  const auto config = [&](const char* key, const Json& value) {
    Json other = json;
    other[key] = value;
    return MMJiTConfig::from_json(other, "config.json");
  };
  CHECK(MMJiTConfig::from_json(json, "config.json").to_json() == json);
  CHECK(config("noise_scale", nullptr).noise_scale == 12.0f / 256);  // of published files, which do not say it
  CHECK_THROWS_WITH_AS(config("conditioning", "film"), doctest::Contains("conditioning 'film' is not known"), Error);
  CHECK_THROWS_WITH_AS(config("patch_size", 5), doctest::Contains("patch_size 5 does not divide image_size 12"), Error);
  CHECK_THROWS_WITH_AS(config("head_dim", 6), doctest::Contains("head_dim 6"), Error);
  CHECK_THROWS_WITH_AS(config("hidden_size", 22), doctest::Contains("hidden_size"), Error);
  CHECK_THROWS_WITH_AS(config("txt_hidden_size", 32), doctest::Contains("txt_hidden_size 32 is not hidden_size 24"),
                       Error);
  CHECK_THROWS_WITH_AS(config("prediction", "v"), doctest::Contains("prediction is 'v'"), Error);
  CHECK_THROWS_WITH_AS(config("mlp_ratio", -1), doctest::Contains("mlp_ratio"), Error);
  json.erase("head_dim");
  CHECK_THROWS_WITH_AS(MMJiTConfig::from_json(json, "config.json"), doctest::Contains("config.json: key 'head_dim'"),
                       Error);

  const auto file = SafetensorsFile::open(c.folder / "model.safetensors");
  const auto write = [&](auto change) {
    std::vector<TensorEntry> entries;
    for (const auto& tensor : file.names()) entries.push_back(entry(tensor, file.tensor(tensor)));
    change(entries);
    write_safetensors(dir / "model.safetensors", entries, file.metadata());
    MMJiT<float, Cpu>::open(c.ctx, dir / "model.safetensors");
  };
  CHECK_NOTHROW(write([](auto&) {}));
  CHECK_THROWS_WITH_AS(write([](auto& all) { all.pop_back(); }), doctest::Contains("is missing"), Error);
  CHECK_THROWS_WITH_AS(write([](auto& all) { all[0].name = "extra"; }), doctest::Contains("is missing"), Error);
  CHECK_THROWS_WITH_AS(write([](auto& all) {
                         all.push_back(all[0]);
                         all.back().name = "extra";
                       }),
                       doctest::Contains("tensor 'extra'"), Error);

  const auto z = Tensor<float, Cpu>::zeros(c.ctx, {2, 3, 12, 12});
  PackedText captions;
  captions.add({}, 10);
  CHECK_THROWS_WITH_AS(c.net.forward(c.ctx, z, {0.5f, 0.5f}, captions),
                       doctest::Contains("mmjit: z (2, 3, 12, 12), 2 times and 1 captions of 0 values do not fit"),
                       Error);
  captions.add({}, 10);
  CHECK_THROWS_WITH_AS(c.net.forward(c.ctx, z.reshaped({2, 12, 3, 12}), {0.5f, 0.5f}, captions),
                       doctest::Contains("mmjit: z (2, 12, 3, 12)"), Error);
  CHECK_THROWS_WITH_AS(captions.add(std::vector<float>(7), 10), doctest::Contains("7 values are no rows of width 10"),
                       Error);
}
