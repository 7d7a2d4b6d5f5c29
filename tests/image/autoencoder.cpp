// tests/image/autoencoder.cpp: FLUX.2's autoencoder and FLUX.1's beside diffusers (tools/make_autoencoder_fixtures.py):
// latents, pictures, every gradient; what is not computed is refused.
#include "../scratch.hpp"
#include "fixture.hpp"

#include <doctest/doctest.h>
#include <ftlib/models/kit/autoencoder_registry.hpp>
#include <ftlib/ops/elementwise.hpp>

#include <algorithm>

using namespace ft;
using namespace ft::test;

namespace {

const std::filesystem::path autoencoder_data = std::filesystem::path(FTLIB_TEST_DATA) / "autoencoder";

#if FTLIB_WITH_CUDA  // tests/cuda_emulation
using AutoencoderDevice = Cuda;
const Context<Cuda>::Options autoencoder_options{};
#else
using AutoencoderDevice = Cpu;
const Context<Cpu>::Options autoencoder_options{.threads = 2};
#endif

}  // namespace

TEST_CASE("image/autoencoder: latents, pictures and every gradient are diffusers'") {
  for (const char* name : {"flux2", "plain"}) {
    CAPTURE(name);
    const Fixture f(autoencoder_data / name);
    Context<AutoencoderDevice> ctx(autoencoder_options);
    ctx.poison(true);
    const auto model = open_autoencoder<float>(ctx, autoencoder_data / name);
    CHECK(model->info().channels == f.expected["channels"].get<int64_t>());
    CHECK(model->info().pixels == f.expected["pixels"].get<int64_t>());
    std::vector<Parameter<float, AutoencoderDevice>*> weights;
    model->visit([&](auto& w) { weights.push_back(&w); });
    for (auto* w : weights) w->trainable = w->kind != WeightKind::constant;

    Tape tape(ctx);
    const auto latents = model->encode(ctx, f.tensor(ctx, "pictures"));
    const auto decoded = model->decode(ctx, latents);
    CHECK(str(latents.shape()) == str(f.arrays.info("latents").shape));
    CHECK(str(decoded.shape()) == str(f.arrays.info("decoded").shape));
    CHECK(f.difference(latents.to_host(ctx), "latents") <= 2e-5 * f.largest("latents"));
    CHECK(f.difference(decoded.to_host(ctx), "decoded") <= 2e-5 * f.largest("decoded"));
    const auto at_seed = mul(ctx, latents, f.tensor(ctx, "seed"));
    const auto loss = add(ctx, mean_squared_error(ctx, decoded, f.tensor(ctx, "target")),
                          scale(ctx, sum(ctx, at_seed), 1.0f / static_cast<float>(latents.count())));
    CHECK(loss.item(ctx) == doctest::Approx(f.expected["loss"].get<double>()).epsilon(1e-5));
    tape.backward(loss);
    std::size_t compared = 0;
    for (auto* w : weights) {
      const std::string key = "grad." + w->name;
      CAPTURE(key);
      CHECK(bool(w->grad) == f.arrays.contains(key));
      if (!w->grad) continue;
      ++compared;
      CHECK(f.difference(w->grad.to_host(ctx), key) <= 1e-4 * f.largest(key, 0.1));
    }
    CHECK(compared == f.arrays.names().size() - 5);
  }
}

TEST_CASE("image/autoencoder: what does not fit, and what is not computed, is refused") {
  Context<AutoencoderDevice> ctx(autoencoder_options);
  const auto model = open_autoencoder<float>(ctx, autoencoder_data / "flux2");
  CHECK_THROWS_WITH_AS(model->encode(ctx, Tensor<float, AutoencoderDevice>::zeros(ctx, {1, 3, 16, 18})),
                       doctest::Contains("(1, 3, 16, 18) are not (pictures, 3, height, width) with sides that are "
                                         "multiples of 4"),
                       Error);
  CHECK_THROWS_WITH_AS(model->decode(ctx, Tensor<float, AutoencoderDevice>::zeros(ctx, {1, 4, 2, 2})),
                       doctest::Contains("latents (1, 4, 2, 2) are not (pictures, 8, rows, columns)"), Error);
  const auto refusal = [&](const char* key, const Json& value) {
    Scratch dir;
    std::filesystem::copy(autoencoder_data / "flux2", dir / "vae");
    Json config = read_json(dir / "vae" / "config.json");
    config[key] = value;
    write_atomically(dir / "vae" / "config.json", config.dump());
    try {
      open_autoencoder<float>(ctx, dir / "vae");
    } catch (const Error& e) {
      return e.message();
    }
    return std::string();
  };
  const auto refuses = [&](const char* key, const Json& value, const char* words) {
    CHECK(refusal(key, value).find(words) != std::string::npos);
  };
  refuses("_class_name", "AutoencoderDC", "autoencoder 'AutoencoderDC' is not known");
  refuses("act_fn", "gelu", "act_fn is 'gelu'");
  refuses("down_block_types", {"AttnDownEncoderBlock2D"}, "down_block_types has a 'AttnDownEncoderBlock2D'");
  refuses("block_out_channels", {4, 7}, "a block of 7 channels in 2 groups");
  refuses("latent_channels", 3, "tensor 'encoder.conv_out.weight' has shape (4, 8, 3, 3), the configuration says");
  refuses("layers_per_block", 2, "tensor 'encoder.down_blocks.0.resnets.1.norm1.weight' (4) is missing");
}
