// tests/image/mmjit_case.hpp: a tiny MM-JiT with what PyTorch made of it (tools/make_mmjit_fixtures.py).
#pragma once
#include <ftlib/adapters/set.hpp>
#include <ftlib/image/flow.hpp>
#include <ftlib/models/mmjit.hpp>
#include <ftlib/optim/adamw.hpp>
#include <ftlib/optim/clip.hpp>

#include "../scratch.hpp"
#include "fixture.hpp"

#include <cmath>
#include <optional>
#include <string>
#include <vector>

namespace ft::test {

struct MMJiTCase : Fixture {
#if FTLIB_WITH_CUDA  // tests/cuda_emulation
  using D = Cuda;
  Context<D> ctx;
#else
  using D = Cpu;
  Context<D> ctx{{.threads = 2}};
#endif
  std::filesystem::path folder;
  MMJiT<float, D> net;
  std::vector<Parameter<float, D>*> parameters;
  std::optional<AdapterSet<float, D>> adapters;

  explicit MMJiTCase(const std::string& name)
      : Fixture(std::filesystem::path(FTLIB_TEST_DATA) / "mmjit" / name),
        folder(std::filesystem::path(FTLIB_TEST_DATA) / "mmjit" / name),
        net(MMJiT<float, D>::open(ctx, folder / "model.safetensors")) {
    ctx.poison(true);
    net.visit([&](Parameter<float, D>& w) { parameters.push_back(&w); });
    adapters.emplace(parameters);
  }
  /// Puts an adapter into the set, to be trained and in use.
  void take(const AdapterData& data) {
    adapters->put(ctx, "a", data);
    adapters->train(ctx, "a");
    adapters->use(ctx, "a");
  }

  using Fixture::difference;
  double difference(const Tensor<float, D>& got, const std::string& name) {
    return difference(contiguous(ctx, got).to_host(ctx), name);
  }

  /// A batch of the ten steps, with its times and noise.
  FlowBatch batch(std::size_t i) const {
    const std::string at = str("batch.", i, '.');
    FlowBatch b;
    b.pictures = array(at + "pictures");
    b.times = array(at + "times");
    b.noise = array(at + "noise");
    const auto lengths = expected["captions"][i].get<std::vector<int64_t>>();
    for (std::size_t n = 0; n < lengths.size(); ++n)
      b.text.add(lengths[n] ? array(str(at, "caption.", n)) : std::vector<float>{}, net.config().txt_input_size);
    return b;
  }
  Tensor<float, D> loss_sum(std::size_t i, bool recompute = false) {
    return flow_loss(ctx, net, batch(i), {}, recompute);
  }
  /// The network on batch 0's noisy pictures.
  Tensor<float, D> predict() {
    const FlowBatch b = batch(0);
    const auto values = static_cast<std::size_t>(net.config().picture_values());
    std::vector<float> z(b.pictures.size());
    for (std::size_t i = 0; i < z.size(); ++i) {
      const float t = b.times[i / values];
      z[i] = t * b.pictures[i] + (1 - t) * net.config().noise_scale * b.noise[i];
    }
    return net.forward(ctx, Tensor<float, D>(ctx, {b.tokens(), 3, 12, 12}, z), b.times, b.text);
  }
};

}  // namespace ft::test
