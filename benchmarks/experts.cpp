// benchmarks/experts.cpp: a feed-forward part of which each token uses 4 of 32 experts, beside a dense one of the same
// work: as wide as the four together. Forward and backward, the weights frozen (as LoRA leaves them) and trained.
//   bench_experts [THREADS] [TOKENS ...]
#include <ftlib/nn/experts.hpp>

#include <chrono>
#include <cstdio>
#include <cstdlib>

namespace {
using ft::Cpu;
constexpr int64_t width = 1024, expert_width = 512, experts = 32, chosen = 4;

ft::Tensor<float, Cpu> random(ft::Context<Cpu>& ctx, const ft::Shape& shape, float scale) {
  std::vector<float> values(static_cast<std::size_t>(shape.count()));
  uint32_t state = 12345;
  for (float& v : values) {
    state = state * 1664525 + 1013904223;
    v = scale * (static_cast<float>(state >> 8) / float{1 << 23} - 1);
  }
  return {ctx, shape, values};
}
ft::Parameter<float, Cpu> matrix(ft::Context<Cpu>& ctx, int64_t out, int64_t in, bool trained) {
  ft::Parameter<float, Cpu> w("w", random(ctx, {out, in}, 0.05f), trained);
  w.kind = ft::WeightKind::other;
  return w;
}
double once(ft::Context<Cpu>& ctx, auto& part, const ft::Tensor<float, Cpu>& x) {
  const auto begin = std::chrono::steady_clock::now();
  ft::Tape tape(ctx);
  auto in = x.detached();
  tape.watch(in);
  const auto y = part(ctx, in);
  tape.backward(y, y.detached());
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}
}  // namespace

int main(int argc, char** argv) try {
  ft::Context<Cpu> ctx({.threads = argc > 1 ? std::atoi(argv[1]) : 0});
  std::vector<int64_t> lengths;
  for (int i = 2; i < argc; ++i) lengths.push_back(std::atoll(argv[i]));
  if (lengths.empty()) lengths = {512, 1024, 2048};
  std::printf("| weights | tokens | dense, ms | 4 of 32 experts, ms | ratio |\n| --- | ---: | ---: | ---: | ---: |\n");
  for (const bool trained : {false, true}) {
    ft::Experts<float, Cpu> sparse;
    sparse.router = matrix(ctx, experts, width, false);
    sparse.chosen = chosen;
    sparse.renormalise = true;
    sparse.ones = ft::Parameter<float, Cpu>(
        "ones", ft::Tensor<float, Cpu>(ctx, {width, 1}, std::vector<float>(static_cast<std::size_t>(width), 1)), false);
    for (int64_t e = 0; e < experts; ++e) {
      sparse.gate.push_back(matrix(ctx, expert_width, width, trained));
      sparse.up.push_back(matrix(ctx, expert_width, width, trained));
      sparse.down.push_back(matrix(ctx, width, expert_width, trained));
    }
    ft::Mlp<float, Cpu> dense;
    dense.gate_proj.weight = matrix(ctx, chosen * expert_width, width, trained);
    dense.up_proj.weight = matrix(ctx, chosen * expert_width, width, trained);
    dense.down_proj.weight = matrix(ctx, width, chosen * expert_width, trained);
    for (const int64_t tokens : lengths) {
      const auto x = random(ctx, {tokens, width}, 1);
      double of_dense = 1e9, of_sparse = 1e9;
      for (int round = 0; round < 9; ++round) {  // in turns: the machine's speed moves
        of_dense = std::min(of_dense, once(ctx, dense, x));
        of_sparse = std::min(of_sparse, once(ctx, sparse, x));
      }
      std::printf("| %s | %ld | %.1f | %.1f | %.2f |\n", trained ? "trained" : "frozen", static_cast<long>(tokens),
                  1e3 * of_dense, 1e3 * of_sparse, of_sparse / of_dense);
    }
  }
} catch (const ft::Error& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 2;
}
