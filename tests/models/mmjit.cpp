// tests/models/mmjit.cpp: MM-JiT beside PyTorch: predictions, losses, gradients, ten steps of training. Fixtures by
// tools/make_mmjit_fixtures.py, whose reference is the published PyTorch code number for number.
#include "../image/mmjit_case.hpp"

#include <doctest/doctest.h>
#include <ftlib/adapters/diffusers_lora.hpp>

using namespace ft;
using namespace ft::test;

TEST_CASE("mmjit: predictions and the loss are PyTorch's") {
  for (const std::string name : {"published", "adaln"}) {
    CAPTURE(name);
    MMJiTCase c(name);
    CHECK(c.difference(c.predict(), "pred") <= 1e-4);
    const double loss = static_cast<double>(c.loss_sum(0).item(c.ctx)) / 3;
    CHECK(loss == doctest::Approx(c.expected["loss"].get<double>()).epsilon(1e-5));
  }
}

TEST_CASE("mmjit: gradients of every parameter are PyTorch's, recomputed or not") {
  for (const std::string name : {"published", "adaln"})
    for (const bool recomputed : {false, true}) {
      CAPTURE(name);
      CAPTURE(recomputed);
      MMJiTCase c(name);
      c.adapters->train_all(c.ctx);
      Tape tape(c.ctx);
      tape.backward(c.loss_sum(0, recomputed), Tensor<float, MMJiTCase::D>(c.ctx, {}, {1.0f / 3}));
      int none = 0;
      for (const auto* w : c.parameters) {
        CAPTURE(w->name);
        const std::string key = "grad." + w->name;
        none += !w->grad;
        CHECK(bool(w->grad) == c.arrays.contains(key));  // nothing reads the text that the last block would make
        if (w->grad) CHECK(c.difference(w->grad, key) <= 1e-4 * std::max(1.0, c.largest(key)));
      }
      CHECK(none == 6);
    }
}

TEST_CASE("mmjit: ten steps of full fine-tuning and of LoRA are PyTorch's and peft's") {
  for (const std::string name : {"published", "adaln"})
    for (const std::string way : {"full", "lora"}) {
      CAPTURE(name);
      CAPTURE(way);
      MMJiTCase c(name);
      const auto& expected = c.expected["training"][way];
      if (way == "full") c.adapters->train_all(c.ctx);
      else c.take(read_diffusers_lora(c.folder / "lora_initial.safetensors"));
      std::vector<Parameter<float, MMJiTCase::D>*> trained;
      for (auto* w : c.adapters->parameters(c.ctx))
        if (w->trainable) trained.push_back(w);
      AdamWOptimizer<float, MMJiTCase::D> optimizer({.lr = 1e-3f, .weight_decay = 0.01f});
      for (std::size_t step = 0; step < 10; ++step) {
        CAPTURE(step);
        zero_grad(trained);
        Tape tape(c.ctx);
        const auto loss = c.loss_sum(step % 3);
        const auto pictures = static_cast<float>(c.batch(step % 3).tokens());
        tape.backward(loss, Tensor<float, MMJiTCase::D>(c.ctx, {}, {1 / pictures}));
        const float norm = clip_grad_norm(c.ctx, trained, 1.0f);
        optimizer.step(c.ctx, trained, 1e-3f);
        const double wanted = expected["losses"][step].get<double>();
        CHECK(std::abs(static_cast<double>(loss.item(c.ctx) / pictures) - wanted) <= 1e-4 * std::max(1.0, wanted));
        CHECK(norm == doctest::Approx(expected["grad_norms"][step].get<double>()).epsilon(1e-3));
      }
      CHECK(c.difference(c.predict(), way + ".pred") <= 1e-3);
    }
}
