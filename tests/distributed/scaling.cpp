// tests/distributed/scaling.cpp BYTES LAYERS MICRO_BATCHES SECONDS STEPS: steps of a training whose work is sleep, over
// the exchange of gradients that trainings have: measured, and predicted from what lies between ranks. For
// tools/scaling.
//
// Each rank has MICRO_BATCHES of SECONDS each, 0.4 of them forward; its backward passes LAYERS layers, last to first,
// whose gradients are BYTES together. With FTLIB_SMPI, by smpicxx, it runs in SimGrid's time, where no thread exists
// and so nothing is hidden.
#include <ftlib/distributed/link.hpp>
#include <ftlib/ops/shape.hpp>
#include <ftlib/train/gradient_exchange.hpp>
#if FTLIB_SMPI
#include <mpi.h>

#include <smpi/smpi.h>
#else
#include <ftlib/distributed/mpi.hpp>
#endif

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

using namespace ft;

namespace {
double now() { return MPI_Wtime(); }
/// Work, which ends `seconds` after the work before it was to end: what a busy machine oversleeps is not added up.
struct Work {
  double end = 0;
  void begin() { end = now(); }
  void take(double seconds) {
    end += seconds;
    const double left = end - now();
#if FTLIB_SMPI
    smpi_execute(std::max(0.0, left));
#else
    if (left > 0) std::this_thread::sleep_for(std::chrono::duration<double>(left));
#endif
  }
};

#if FTLIB_SMPI
/// SimGrid's ranks have no clock for time-outs and no second thread.
class SimulatedRank final : public Communicator {
 public:
  SimulatedRank() {
    MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
    MPI_Comm_size(MPI_COMM_WORLD, &size_);
  }
  int rank() const override { return rank_; }
  int size() const override { return size_; }
  bool any_thread() const override { return false; }
  void cancel() override {}
  void swap(int other, std::span<const std::byte> out, std::span<std::byte> in) override {
    MPI_Sendrecv(out.data(), static_cast<int>(out.size()), MPI_BYTE, other, 0, in.data(), static_cast<int>(in.size()),
                 MPI_BYTE, other, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
  }
  std::vector<std::string> gather(std::string_view mine) override {
    const int length = static_cast<int>(mine.size());
    const auto ranks = static_cast<std::size_t>(size_);
    std::vector<int> lengths(ranks), begins(ranks + 1);
    MPI_Allgather(&length, 1, MPI_INT, lengths.data(), 1, MPI_INT, MPI_COMM_WORLD);
    for (std::size_t r = 0; r < ranks; ++r) begins[r + 1] = begins[r] + lengths[r];
    std::string all(static_cast<std::size_t>(begins[ranks]), '\0');
    MPI_Allgatherv(mine.data(), length, MPI_BYTE, all.data(), lengths.data(), begins.data(), MPI_BYTE, MPI_COMM_WORLD);
    std::vector<std::string> parts;
    for (std::size_t r = 0; r < ranks; ++r)
      parts.push_back(all.substr(static_cast<std::size_t>(begins[r]), static_cast<std::size_t>(lengths[r])));
    return parts;
  }

 private:
  int rank_ = 0, size_ = 1;
};
#endif

struct Sizes {
  double bytes;
  int layers, micro_batches;
  double seconds;  // of a micro-batch
  int steps;
};

double median(std::vector<double> all) {
  std::sort(all.begin(), all.end());
  return all[all.size() / 2];
}

/// The median of steps, the first ones left out, in groups of so many bytes.
double step_seconds(Communicator* world, const Sizes& sizes, int64_t group_bytes) {
  Context<Cpu> ctx({.threads = 1});
  Work work;
  const auto count = static_cast<int64_t>(sizes.bytes / sizeof(float)) / sizes.layers;
  std::vector<Parameter<float, Cpu>> layers;
  for (int i = 0; i < sizes.layers; ++i) {
    Tensor<float, Cpu> value(ctx, {count});
    ctx.zero(value.data(), static_cast<std::size_t>(count) * sizeof(float));
    layers.emplace_back(str("layer.", i), value);
  }
  std::vector<Parameter<float, Cpu>*> params;
  for (auto& w : layers) params.push_back(&w);
  GradientExchange<float, Cpu> exchange(world);
  exchange.share_out(params, group_bytes);
  const auto all = static_cast<std::size_t>(sizes.micro_batches * (world ? world->size() : 1));
  std::vector<double> steps;
  for (int step = 0; step < sizes.steps + 2; ++step) {
    const double begin = now();
    work.begin();
    StepCheck<Cpu> check(ctx);
    for (auto* w : params) w->grad = {};
    const auto [first, last] = exchange.share(ctx, all, step + 1);
    for (std::size_t i = first; i < last; ++i) {
      Tape<Cpu> tape(ctx, exchange.listen(ctx, "layers", i + 1 == last));
      work.take(0.4 * sizes.seconds);
      Tensor<float, Cpu> x(ctx, Shape{1}, {1.0f});
      for (auto& w : layers) {
        Tensor<float, Cpu> y(ctx, Shape{1}, {1.0f});
        record(ctx, "layer", y, {x, w}, [&work, &sizes, &w, x, i](Gradients<float, Cpu>& g) {
          work.take(0.6 * sizes.seconds / sizes.layers);
          const auto dw = g.add(w), dx = g.assign(x);
          if (dx.data) dx.data[0] = 1;
          dw.data[0] += static_cast<float>(i + 1);
        });
        x = y;
      }
      tape.backward(x);
      exchange.take(ctx, check, x);
    }
    if (!exchange.finish(ctx, check)) throw Error("scaling: a layer's gradient came twice");
    for (std::size_t i = 0; i < params.size(); ++i) {
      const Share share = exchange.shares().mine(i);
      if (share.begin != 0 || share.count() == 0) continue;
      const auto n = static_cast<float>(all);
      if (params[i]->grad.to_host(ctx)[0] != n * (n + 1) / 2) throw Error("scaling: a sum of gradients is wrong");
    }
    exchange.gather_weights(ctx);
    if (step >= 2) steps.push_back(now() - begin);
  }
  return median(steps);
}

int measure(Communicator& world, const Sizes& sizes) {
  const auto links = measure_links(world, std::size_t{4} << 20, now);
  const int ranks = world.size();
  // reduce_scatter and all_gather of all gradients, alone.
  std::vector<float> x(static_cast<std::size_t>(sizes.bytes / sizeof(float)));
  std::vector<std::size_t> bounds;
  for (int r = 0; r <= ranks; ++r)
    bounds.push_back(x.size() * static_cast<std::size_t>(r) / static_cast<std::size_t>(ranks));
  std::vector<double> alone;
  for (int i = 0; i < 3; ++i) {
    world.any(false);
    const double begin = now();
    reduce_scatter(world, std::span(x), bounds);
    all_gather(world, std::span(x), bounds);
    alone.push_back(now() - begin);
  }
  const double at_once = step_seconds(&world, sizes, int64_t{1} << 40);
  double hidden = 0;
  if (world.any_thread()) hidden = step_seconds(&world, sizes, 0);
  // As share_out() cuts: an eighth, within 1 and 25 MiB. Groups leave as their last gradient comes, one after the
  // other.
  const double group = std::clamp(sizes.bytes / 8, 1048576.0, 26214400.0);
  const double groups = std::max(1.0, std::floor(sizes.bytes / group));
  const double one_way = exchange_seconds(links, ranks, sizes.bytes), work = sizes.micro_batches * sizes.seconds;
  // Messages of the groups' size have a bandwidth of their own.
  const auto of_groups = measure_links(world, static_cast<std::size_t>(sizes.bytes / groups / 2), now);
  const double each = exchange_seconds(of_groups, ranks, sizes.bytes / groups), backward = 0.6 * sizes.seconds;
  const double behind = std::max(each, each * groups - backward * (1 - 1 / groups));
  if (world.rank() != 0) return 0;
  double latency = 0, bandwidth = 0;
  for (const Link& link : links) {
    latency = std::max(latency, link.latency);
    if (bandwidth == 0 || link.bandwidth < bandwidth) bandwidth = link.bandwidth;
  }
  std::printf(
      "{\"ranks\": %d, \"latency\": %.9g, \"bandwidth\": %.9g, \"work\": %.9g, \"exchange\": [%.9g, %.9g], "
      "\"at_once\": [%.9g, %.9g], \"hidden\": [%.9g, %.9g]}\n",
      ranks, latency, bandwidth, work, 2 * one_way, median(alone), work + 2 * one_way, at_once, work + behind + one_way,
      hidden);
  return 0;
}
}  // namespace

int main(int argc, char** argv) {
  if (argc != 6) {
    std::fprintf(stderr, "scaling: BYTES LAYERS MICRO_BATCHES SECONDS STEPS, under mpirun\n");
    return 2;
  }
  const Sizes sizes{std::atof(argv[1]), std::atoi(argv[2]), std::atoi(argv[3]), std::atof(argv[4]), std::atoi(argv[5])};
#if FTLIB_SMPI
  MPI_Init(&argc, &argv);
  int result = 0;
  {
    SimulatedRank world;
    result = measure(world, sizes);
  }
  MPI_Finalize();
  return result;
#else
  return run_ranks(argc, argv, [&](Communicator* world) {
    if (!world) throw Error("scaling: no ranks", "start it with mpirun.");
    return measure(*world, sizes);
  });
#endif
}
