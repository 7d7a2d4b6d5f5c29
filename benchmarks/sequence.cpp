// benchmarks/sequence.cpp: what a training step costs a token as sequences grow longer and models deeper, attention's
// own share apart, and what memory it takes.
//   bench_sequence MODEL [THREADS]
#include <ftlib/finetune.hpp>

#include <chrono>
#include <cstdio>

namespace {
using Lm = ft::CausalLM<float, ft::Cpu>;

double seconds_of(const auto& f) {
  double best = 1e9;
  for (int round = 0; round < 3; ++round) {
    const auto begin = std::chrono::steady_clock::now();
    f();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  return best;
}

/// Forward and backward of `layers` blocks with LoRA on 1,024 tokens in sequences of `length`.
void step(Lm& lm, int64_t length, int64_t layers) {
  ft::PackedTokens batch;
  for (int64_t i = 0; i < 1024 / length; ++i)
    batch.add(std::vector<int32_t>(static_cast<std::size_t>(length), static_cast<int32_t>(300 + i)));
  ft::Tape tape(lm.context());
  auto h = lm.model().hidden_after(lm.context(), batch, {layers}).front();
  tape.backward(h, h.detached());
}

/// One block's attention, forward and backward, with the model's heads.
void attention_alone(ft::Context<ft::Cpu>& ctx, const ft::Json& config, int64_t length) {
  const int64_t heads = config["num_attention_heads"], kv = config["num_key_value_heads"], hd = config["head_dim"];
  std::vector<ft::Segment> segments;
  for (int64_t i = 0; i < 1024 / length; ++i)
    segments.push_back({i * length, (i + 1) * length, i * length, (i + 1) * length});
  auto q = ft::Tensor<float, ft::Cpu>::zeros(ctx, {1024, heads, hd}),
       k = ft::Tensor<float, ft::Cpu>::zeros(ctx, {1024, kv, hd}), v = k;
  ft::Tape tape(ctx);
  tape.watch(q);
  tape.watch(k);
  tape.watch(v);
  const auto y = attention(ctx, q, k, v, segments, {});
  tape.backward(y, y.detached());
}
}  // namespace

int main(int argc, char** argv) try {
  if (argc < 2) throw ft::Error("usage: bench_sequence MODEL [THREADS]");
  auto lm = Lm::from_pretrained(argv[1], {.threads = argc > 2 ? std::atoi(argv[2]) : 0});
  lm.attach({});
  const auto config = lm.model().config();
  const int64_t layers = config["num_hidden_layers"];
  std::printf(
      "| sequence | ms a token | of that attention | the rest | activations, MB |\n| ---: | ---: | ---: | ---: | ---: "
      "|\n");
  for (const int64_t length : {64, 128, 256, 512, 1024}) {
    lm.context().reset_peak();
    const int64_t before = lm.context().memory().now;
    const double all = seconds_of([&] { step(lm, length, layers); }) / 1.024;
    const double memory = static_cast<double>(lm.context().memory().peak - before) * 1e-6;
    const double attention =
        seconds_of([&] { attention_alone(lm.context(), config, length); }) * static_cast<double>(layers) / 1.024;
    std::printf("| %ld | %.3f | %.3f | %.3f | %.0f |\n", static_cast<long>(length), all, attention, all - attention,
                memory);
  }
  std::printf("\n| layers | ms a token | activations, MB |\n| ---: | ---: | ---: |\n");
  for (int64_t n = layers / 3; n <= layers; n += layers / 3) {
    lm.context().reset_peak();
    const int64_t before = lm.context().memory().now;
    const double all = seconds_of([&] { step(lm, 128, n); }) / 1.024;
    std::printf("| %ld | %.3f | %.0f |\n", static_cast<long>(n), all,
                static_cast<double>(lm.context().memory().peak - before) * 1e-6);
  }
} catch (const ft::Error& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 2;
}
