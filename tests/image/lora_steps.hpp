// tests/image/lora_steps.hpp: ten steps of LoRA beside peft's, and the files that adapters are kept in.
#pragma once
#include <doctest/doctest.h>
#include <ftlib/io/safetensors.hpp>
#include <ftlib/optim/adamw.hpp>
#include <ftlib/optim/clip.hpp>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <vector>

namespace ft::test {

/// Trains the adapter of c.model for ten steps, whose losses and norms of gradients must be c.expected["lora"]'s;
/// `loss_sum(step)` is the sum over `count` pictures, with losses that the fixture has the mean of. Returns how many
/// weights were trained.
template <class Case, class Loss> std::size_t ten_lora_steps(Case& c, int count, Loss loss_sum) {
  std::vector<Parameter<float, Cpu>*> trained;
  for (auto* w : c.model.parameters())
    if (w->trainable) trained.push_back(w);
  AdamWOptimizer<float, Cpu> optimizer({.lr = 1e-3f, .weight_decay = 0.01f});
  const auto& expected = c.expected["lora"];
  for (std::size_t step = 0; step < 10; ++step) {
    CAPTURE(step);
    zero_grad(trained);
    Tape tape(c.ctx);
    const auto loss = loss_sum(step);
    tape.backward(loss, Tensor<float, Cpu>(c.ctx, {}, {1.0f / static_cast<float>(count)}));
    const float norm = clip_grad_norm(c.ctx, trained, 1.0f);
    optimizer.step(c.ctx, trained, 1e-3f);
    const double wanted = expected["losses"][step].template get<double>();
    CHECK(std::abs(static_cast<double>(loss.item(c.ctx)) / count - wanted) <= 1e-4 * std::max(1.0, wanted));
    CHECK(norm == doctest::Approx(expected["grad_norms"][step].template get<double>()).epsilon(1e-3));
  }
  return trained.size();
}

/// The adapter that `ours` holds is the one of `theirs`, byte for byte.
inline void check_same_lora(const std::filesystem::path& ours, const std::filesystem::path& theirs) {
  const auto a = SafetensorsFile::open(ours / "pytorch_lora_weights.safetensors"),
             b = SafetensorsFile::open(theirs / "pytorch_lora_weights.safetensors");
  CHECK(a.names().size() == b.names().size());
  for (const auto& name : b.names()) CHECK(std::ranges::equal(a.bytes(name), b.bytes(name)));
}

}  // namespace ft::test
