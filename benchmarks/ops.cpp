// benchmarks/ops.cpp: the ops around the matrix product at SmolLM2-135M's shapes, forward and backward, beside a copy
// of memory and a matrix product in the same run. Each float result is held against the same op in double first.
#include <benchmark/benchmark.h>
#include <ftlib/ops/activation.hpp>
#include <ftlib/ops/attention.hpp>
#include <ftlib/ops/dropout.hpp>
#include <ftlib/ops/elementwise.hpp>
#include <ftlib/ops/linear.hpp>
#include <ftlib/ops/norm.hpp>
#include <ftlib/ops/rope.hpp>
#include <ftlib/ops/softmax.hpp>

#include <chrono>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

using namespace ft;

namespace {

constexpr int64_t C = 576, ffn = 1536, H = 9, KV = 3, hd = 64;  // SmolLM2-135M

template <class T> struct Inputs {
  std::vector<Tensor<T, Cpu>> x;
  std::vector<Parameter<T, Cpu>> w;
};

/// The same numbers for float and double: rounded to float.
template <class T>
Inputs<T> make_inputs(Context<Cpu>& ctx, const std::vector<Shape>& xs, const std::vector<Shape>& ws) {
  Random random(1);
  const auto tensor = [&](const Shape& shape) {
    std::vector<T> values;
    for (int64_t i = 0; i < shape.count(); ++i) values.push_back(static_cast<float>(random.normal()));
    return Tensor<T, Cpu>(ctx, shape, values);
  };
  Inputs<T> in;
  for (const Shape& shape : xs) in.x.push_back(tensor(shape));
  for (const Shape& shape : ws) in.w.emplace_back("w", tensor(shape));
  return in;
}

/// Registers `name` forward and backward. op(ctx, Inputs<T>&) -> Tensor, for T float and double; flops: of the forward.
template <class Op>
void add_op(const std::string& name, std::vector<Shape> xs, std::vector<Shape> ws, double flops, Op op,
            double backward_flops = 2) {
  for (const bool backward : {false, true}) {  // each run checks first: a fast wrong answer is no result
    const auto run = [=](benchmark::State& state) {
      Context<Cpu> ctx({.threads = static_cast<int>(state.range(0))});
      auto in = make_inputs<float>(ctx, xs, ws);
      auto precise = make_inputs<double>(ctx, xs, ws);
      const auto y = contiguous(ctx, op(ctx, in)).to_host(ctx);
      ctx.random().seek(0);
      const auto expected = contiguous(ctx, op(ctx, precise)).to_host(ctx);
      double error = 0, norm = 0;
      for (std::size_t i = 0; i < y.size(); ++i) {
        error += std::pow(y[i] - expected[i], 2);
        norm += std::pow(expected[i], 2);
      }
      if (!(error <= 1e-7 * norm)) return state.SkipWithError("float and double differ");

      double bytes = static_cast<double>(y.size());
      for (const Shape& shape : xs) bytes += static_cast<double>(shape.count());
      for (const Shape& shape : ws) bytes += static_cast<double>(shape.count());
      using clock = std::chrono::steady_clock;
      for ([[maybe_unused]] auto _ : state) {
        if (!backward) {
          const auto start = clock::now();
          benchmark::DoNotOptimize(op(ctx, in).data());
          state.SetIterationTime(std::chrono::duration<double>(clock::now() - start).count());
          continue;
        }
        Tape<Cpu> tape(ctx);
        for (auto& x : in.x) tape.watch(x);
        const auto result = op(ctx, in);
        const auto dy = clone(ctx, result);
        const auto start = clock::now();
        tape.backward(result, dy);
        state.SetIterationTime(std::chrono::duration<double>(clock::now() - start).count());
        for (auto& x : in.x) x = x.detached();
      }
      const auto rate = [](double each) {
        return benchmark::Counter(each, benchmark::Counter::kIsIterationInvariantRate);
      };
      state.counters["B/s"] = rate(4 * bytes * (backward ? 2 : 1));
      state.counters["FLOP/s"] = rate(flops * (backward ? backward_flops : 1));
    };
    benchmark::RegisterBenchmark((name + (backward ? " backward" : "")).c_str(), run)
        ->Arg(1)
        ->Arg(2)
        ->ArgName("threads")
        ->UseManualTime()
        ->Unit(benchmark::kMicrosecond);
  }
}

/// Packed causal self-attention: `count` segments of n tokens each.
void add_attention(int64_t count, int64_t n) {
  const int64_t N = count * n;
  std::vector<Segment> segments;
  for (int64_t i = 0; i < count; ++i) segments.push_back({i * n, (i + 1) * n, i * n, (i + 1) * n});
  const double seen = static_cast<double>(count) * static_cast<double>(n) * static_cast<double>(n + 1) / 2;
  add_op(
      str("attention ", count, " x ", n), {{N, H, hd}, {N, KV, hd}, {N, KV, hd}}, {}, 4.0 * H * hd * seen,
      [=](auto& ctx, auto& in) { return attention(ctx, in.x[0], in.x[1], in.x[2], segments); }, 2.5);
}
void add_decoding(int64_t keys) {
  add_op(
      str("attention 1 of ", keys), {{1, H, hd}, {keys, KV, hd}, {keys, KV, hd}}, {},
      4.0 * H * hd * static_cast<double>(keys),
      [=](auto& ctx, auto& in) {
        return attention(ctx, in.x[0], in.x[1], in.x[2], {{0, 1, 0, keys}});
      },
      2.5);
}

}  // namespace

int main(int argc, char** argv) {
  constexpr int64_t N = 512;
  // The roofs: a copy of memory, and a product of matrices.
  add_op("copy", {{N, ffn}}, {}, 0, [](auto& ctx, auto& in) { return scale(ctx, in.x[0], 1); });
  add_op("linear", {{N, C}}, {{C, C}}, 2.0 * N * C * C,
         [](auto& ctx, auto& in) { return linear(ctx, in.x[0], in.w[0]); });

  add_attention(4, 128);
  add_attention(1, 1024);
  add_attention(16, 24);
  add_decoding(200);
  add_decoding(1024);
  add_op("rope", {{N, H, hd}}, {}, 6.0 * N * H * hd / 2, []<class T>(Context<Cpu>& ctx, Inputs<T>& in) {
    static Rotary<T, Cpu> rotary(RopeOptions{.head_size = hd, .theta = 1e5f});
    std::vector<int32_t> positions(N);
    std::iota(positions.begin(), positions.end(), 0);
    return rope(ctx, in.x[0], rotary.table(ctx, N), Tensor<int32_t, Cpu>(ctx, {N}, positions));
  });
  add_op("rms_norm", {{N, C}}, {{C}}, 4.0 * N * C,
         [](auto& ctx, auto& in) { return rms_norm(ctx, in.x[0], in.w[0], 1e-5f); });
  add_op("rms_norm of heads", {{N, H, hd}}, {{hd}}, 4.0 * N * H * hd,
         [](auto& ctx, auto& in) { return rms_norm(ctx, in.x[0], in.w[0], 1e-5f); });
  add_op("layer_norm", {{N, C}}, {{C}, {C}}, 8.0 * N * C,
         [](auto& ctx, auto& in) { return layer_norm(ctx, in.x[0], &in.w[0], &in.w[1], 1e-5f); });
  add_op("add, rms_norm", {{N, C}, {N, C}}, {{C}}, 5.0 * N * C, [](auto& ctx, auto& in) {
    const auto s = add(ctx, in.x[0], in.x[1]);
    return add(ctx, s, rms_norm(ctx, s, in.w[0], 1e-5f));
  });
  add_op("add_rms_norm", {{N, C}, {N, C}}, {{C}}, 5.0 * N * C, [](auto& ctx, auto& in) {
    const auto [s, h] = add_rms_norm(ctx, in.x[0], in.x[1], in.w[0], 1e-5f);
    return add(ctx, s, h);
  });
  add_op("rms_norm, modulate", {{N, C}, {4, C}, {4, C}}, {{C}}, 6.0 * N * C,
         [](auto& ctx, auto& in) { return modulate(ctx, rms_norm(ctx, in.x[0], in.w[0], 1e-5f), in.x[1], in.x[2]); });
  add_op("rms_norm_modulate", {{N, C}, {4, C}, {4, C}}, {{C}}, 6.0 * N * C,
         [](auto& ctx, auto& in) { return rms_norm_modulate(ctx, in.x[0], in.w[0], in.x[1], in.x[2], 1e-5f); });
  add_op("swiglu", {{N, ffn}, {N, ffn}}, {}, 5.0 * N * ffn,
         [](auto& ctx, auto& in) { return swiglu(ctx, in.x[0], in.x[1]); });
  add_op("geglu_tanh", {{N, ffn}, {N, ffn}}, {}, 10.0 * N * ffn,
         [](auto& ctx, auto& in) { return geglu_tanh(ctx, in.x[0], in.x[1]); });
  add_op("geglu", {{N, ffn}, {N, ffn}}, {}, 25.0 * N * ffn,
         [](auto& ctx, auto& in) { return geglu(ctx, in.x[0], in.x[1]); });
  add_op("softmax", {{N, ffn}}, {}, 5.0 * N * ffn, [](auto& ctx, auto& in) { return softmax(ctx, in.x[0]); });
  add_op("add", {{N, C}, {N, C}}, {}, 1.0 * N * C, [](auto& ctx, auto& in) { return add(ctx, in.x[0], in.x[1]); });
  add_op("modulate", {{N, C}, {4, C}, {4, C}}, {}, 2.0 * N * C,
         [](auto& ctx, auto& in) { return modulate(ctx, in.x[0], in.x[1], in.x[2]); });
  add_op("dropout", {{N, C}}, {}, 1.0 * N * C, [](auto& ctx, auto& in) { return dropout(ctx, in.x[0], 0.1f); });

  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
}
