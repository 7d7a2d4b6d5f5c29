// benchmarks/cuda/main.cpp: Google Benchmark over the kernels' cases (cases.hpp): bytes/s, FLOP/s and the share of the
// nearer roof. Where there is no GPU it prints the roofs themselves, by data sheets.
#include <benchmark/benchmark.h>
#include <cuda_runtime_api.h>

#include <cstdio>

#include "roofline.hpp"

using namespace ft;
using namespace ft::bench;

namespace {

struct Events {
  cudaEvent_t begin{}, end{};
  Events() {
    ft::detail::check_cuda(cudaEventCreateWithFlags(&begin, cudaEventDefault), "cudaEventCreateWithFlags");
    ft::detail::check_cuda(cudaEventCreateWithFlags(&end, cudaEventDefault), "cudaEventCreateWithFlags");
  }
  ~Events() {
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
  }
  Events(const Events&) = delete;
  Events& operator=(const Events&) = delete;

  /// Seconds on the GPU of each of `calls` calls, one right after the other.
  double seconds(Context<Cuda>& ctx, const Call<void>& run, int calls) {
    ft::detail::check_cuda(cudaEventRecord(begin, ctx.stream()), "cudaEventRecord");
    for (int i = 0; i < calls; ++i) run();
    ft::detail::check_cuda(cudaEventRecord(end, ctx.stream()), "cudaEventRecord");
    ft::detail::check_cuda(cudaEventSynchronize(end), "cudaEventSynchronize");
    float milliseconds = 0;
    ft::detail::check_cuda(cudaEventElapsedTime(&milliseconds, begin, end), "cudaEventElapsedTime");
    return double{milliseconds} * 1e-3 / calls;
  }
};

/// The case that is measured: Google Benchmark calls its function several times, and making arrays takes longer.
struct Current {
  const Case* of = nullptr;
  Ready ready;
  int calls = 1;  // between two events, so that the host's time for a launch is hidden: 2 ms of them
};

void measure(benchmark::State& state, const Case& c, Context<Cuda>& ctx, const Card& card, Current& current) try {
  Events events;
  if (current.of != &c) {
    current = {};
    current.ready = c.prepare(ctx);
    current.of = &c;
    (*current.ready.run)();  // cuBLASLt chooses its algorithms, and the pool gets its memory
    ctx.synchronize();
    for (const auto& finite : current.ready.finite)
      if (!finite()) return state.SkipWithError("a result that is not finite");
    const double once = events.seconds(ctx, *current.ready.run, 2);
    current.calls = static_cast<int>(std::clamp(2e-3 / std::max(once, 1e-7), 1.0, 100.0));
  }
  double total = 0;
  for ([[maybe_unused]] auto _ : state) {
    const double seconds = events.seconds(ctx, *current.ready.run, current.calls);
    state.SetIterationTime(seconds);
    total += seconds;
  }
  const auto rate = [](double each) { return benchmark::Counter(each, benchmark::Counter::kIsIterationInvariantRate); };
  state.counters["B/s"] = rate(c.bytes);
  state.counters["FLOP/s"] = rate(c.flops);
  state.counters["% roof"] = 100 * least_seconds(c, card) * static_cast<double>(state.iterations()) / total;
  state.SetLabel(bound(c, card));
} catch (const Error& e) {
  current = {};
  state.SkipWithError(e.what());
}

void print_roofs(const std::vector<Case>& cases) {
  std::printf(
      "There is no GPU here. What follows is no measurement: it is the least time, in microseconds, that each\n"
      "case can take on a card by its data sheet; no kernel is faster. tools/roofline.py says which of them what\n"
      "ptxas reports puts farther off.\n\n| case | MB | FLOP/B |");
  for (const Card& card : cards()) std::printf(" %s, us | by |", card.name.c_str());
  std::printf("\n| --- | ---: | ---: |");
  for (std::size_t i = 0; i < cards().size(); ++i) std::printf(" ---: | --- |");
  std::printf("\n");
  for (const Case& c : cases) {
    std::printf("| %s | %.0f | %.1f |", c.name.c_str(), c.bytes * 1e-6, c.flops / c.bytes);
    for (const Card& card : cards()) std::printf(" %.0f | %s |", 1e6 * least_seconds(c, card), bound(c, card));
    std::printf("\n");
  }
}

}  // namespace

int main(int argc, char** argv) try {
  const std::vector<Case> cases = Cases(false).all;
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    print_roofs(cases);
    return 0;
  }
  cudaDeviceProp properties{};
  ft::detail::check_cuda(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
  const Card card = this_card(properties.name);
  Context<Cuda> ctx;
  Current current;
  for (const Case& c : cases)
    benchmark::RegisterBenchmark(c.name.c_str(),
                                 [&](benchmark::State& state) { measure(state, c, ctx, card, current); })
        ->UseManualTime()
        ->Unit(benchmark::kMicrosecond);
  benchmark::AddCustomContext("gpu", card.name);
  benchmark::AddCustomContext("peak", str(card.bandwidth * 1e-9, " GB/s, ", card.fp32 * 1e-12, " TFLOP/s in float, ",
                                          card.tensor * 1e-12, " TFLOP/s in bfloat16"));
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
} catch (const Error& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 2;
}
