// tests/cuda_emulation/nccl_test.cpp: ranks with a GPU each over the stand-in for NCCL, which refuses what no event
// orders between compute and exchange; sums and a training beside the CPU's ranks.
#include <doctest/doctest.h>
#include <ftlib/distributed/nccl.cuda.cuh>
#include <ftlib/distributed/thread_group.hpp>
#include <ftlib/ops/shape.hpp>
#include <ftlib/train/trainer.hpp>

#include <atomic>
#include <cstring>
#include <map>

#include "emulation.hpp"
#include "nccl_ranks.hpp"

using namespace ft;

namespace {
/// work(communicator) on so many of NCCL's ranks; the emulation has two GPUs, which several of them share.
template <class F> void run_ranks_of_nccl(int ranks, F work) {
  ncclUniqueId id;
  REQUIRE(ncclGetUniqueId(&id) == ncclSuccess);
  cuda_emulation::run_nccl_ranks(ranks, [&](int rank) {
    NcclCommunicator world(id, rank, ranks, rank % cuda_emulation::devices);
    work(world);
  });
}
std::vector<std::size_t> uneven_bounds(int ranks, std::size_t n) {
  std::vector<std::size_t> bounds;
  for (std::size_t r = 0; r < static_cast<std::size_t>(ranks); ++r)
    bounds.push_back(r == 1 ? 0 : n * r / static_cast<std::size_t>(ranks));
  bounds.push_back(n);
  return bounds;
}
template <class V> std::vector<V> values_of(int rank, std::size_t n) {
  Random random(static_cast<uint64_t>(rank) + 1);
  std::vector<V> values;
  for (std::size_t i = 0; i < n; ++i) values.push_back(static_cast<V>(random.normal()) * (i % 5 ? V(1) : V(1e6)));
  return values;
}
template <class V> std::shared_ptr<V> on_device(Context<Cuda>& ctx, const std::vector<V>& values) {
  const auto x = std::static_pointer_cast<V>(ctx.allocate(values.size() * sizeof(V)));
  ctx.copy_from_host(x.get(), values.data(), values.size() * sizeof(V));
  return x;
}
template <class V> std::vector<V> to_host(Context<Cuda>& ctx, const std::shared_ptr<V>& x, std::size_t n) {
  std::vector<V> values(n);
  ctx.copy_to_host(values.data(), x.get(), n * sizeof(V));
  return values;
}
std::shared_ptr<std::byte> as_bytes(const std::shared_ptr<float>& x) {
  return {x, reinterpret_cast<std::byte*>(x.get())};
}

/// Parameters whose gradients are what a micro-batch says, by a seed.
struct GivenMicro {
  static constexpr const char* kind = "given";
  uint64_t seed = 0;
  int64_t tokens() const { return 1; }
};
template <Device D> struct Given final : Trainable<float, D> {
  static constexpr int64_t size = 9000;  // three blocks, the last of which is short
  Context<D> ctx;
  std::vector<Parameter<float, D>> layers;

  template <class Options> explicit Given(const Options& options) : ctx(options) {
    for (int i = 0; i < 5; ++i)
      layers.emplace_back(str("layer.", i), Tensor<float, D>(ctx, {size}, values_of<float>(100 + i, size)));
  }
  Context<D>& context() override { return ctx; }
  std::vector<Parameter<float, D>*> parameters() override {
    std::vector<Parameter<float, D>*> all;
    for (auto& w : layers) all.push_back(&w);
    return all;
  }
  Loss<float, D> loss_sum(const MicroBatch& micro, bool) override {
    const uint64_t seed = micro_cast<GivenMicro>(micro).seed;
    Tensor<float, D> loss(ctx, Shape{1}, {static_cast<float>(seed)});
    for (std::size_t i = 0; i < layers.size(); ++i) {
      Tensor<float, D> y(ctx, Shape{1}, {static_cast<float>(seed)});
      const Tensor<float, D> x(ctx, {size}, values_of<float>(static_cast<int>(seed * 5 + i), size));
      auto& w = layers[i];
      record(ctx, "given", y, {loss, w}, [this, x, loss, &w](Gradients<float, D>& g) {
        const auto dw = g.add(w), dx = g.assign(loss);
        if (dx.data) fill(ctx, dx, 1.0f);
        accumulate(ctx, dw, std::as_const(x).view());
      });
      loss = y;
    }
    return loss;
  }
};
struct Trained {
  std::vector<float> gradients, weights;  // sums over each step's micro-batches
  std::vector<double> losses;
};
template <Device D, class Options> Trained train(Communicator& world, const Options& options) {
  Given<D> model(options);
  TrainerConfig config;
  config.optimizer = AdamW{.lr = 1e-2f};
  config.clip_norm = 0.5f;
  config.world = &world;
  config.exchange_bytes = 4 * Given<D>::size;  // groups, which leave while backward goes on
  Trainer trainer(model, config);
  Trained ended;
  trainer.on_gradients([&](Context<D>& ctx, typename Trainer<float, D>::Params params) {
    for (const auto* w : params)
      for (const float g : w->grad.to_host(ctx)) ended.gradients.push_back(g);
  });
  for (uint64_t step = 0; step < 3; ++step) {
    Batch batch;
    for (uint64_t i = 0; i < 8; ++i) batch.add(GivenMicro{step * 8 + i}, 1);
    ended.losses.push_back(trainer.step(batch, 1e-2f).loss);
  }
  for (auto& w : model.layers)
    for (const float v : w.value.to_host(model.ctx)) ended.weights.push_back(v);
  return ended;
}
bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}
}  // namespace

TEST_CASE("cuda/nccl: ranks swap and gather, and say which GPU they have") {
  for (const int ranks : {1, 2, 3, 4})
    run_ranks_of_nccl(ranks, [&](NcclCommunicator& world) {
      std::vector<std::string> expected;
      for (int r = 0; r < ranks; ++r) expected.push_back(std::string(static_cast<std::size_t>(r), 'x') + str(r));
      CHECK(world.gather(expected[static_cast<std::size_t>(world.rank())]) == expected);
      CHECK(world.gather("") == std::vector<std::string>(static_cast<std::size_t>(ranks)));
      CHECK(world.name().find(str("GPU ", world.rank() % cuda_emulation::devices)) != std::string::npos);
      const int other = ranks - 1 - world.rank();
      if (other == world.rank()) return;
      const std::vector<std::byte> out(1000, std::byte(world.rank() + 1));
      std::vector<std::byte> in(world.rank() < other ? 0 : 1000);  // one way
      world.swap(other, world.rank() < other ? std::span(out) : std::span<const std::byte>(), in);
      for (const std::byte b : in) CHECK(b == std::byte(other + 1));
    });
}

TEST_CASE("cuda/nccl: a sum over ranks has the bits of the CPU's ranks, in the tree's order; not exact, NCCL's own") {
  for (const int ranks : {1, 2, 3, 4})
    for (const std::size_t n : {1u, 7u, 1001u}) {
      CAPTURE(ranks);
      CAPTURE(n);
      const auto bounds = uneven_bounds(ranks, n);
      std::vector<std::vector<float>> expected(static_cast<std::size_t>(ranks));
      run_thread_group(ranks, [&](Communicator& world) {
        auto x = values_of<float>(world.rank(), n);
        reduce_scatter(world, std::span(x), bounds);
        all_gather(world, std::span(x), bounds);
        expected[static_cast<std::size_t>(world.rank())] = x;
      });
      for (const bool exact : {true, false})
        run_ranks_of_nccl(ranks, [&](NcclCommunicator& world) {
          Context<Cuda> ctx({.device = world.device()});
          const auto x = on_device(ctx, values_of<float>(world.rank(), n));
          const auto d = on_device(ctx, values_of<double>(world.rank(), n));
          world.reduce_scatter(ctx, x, bounds, exact);
          world.reduce_scatter(ctx, d, bounds, exact);
          auto in_bytes = bounds;
          for (std::size_t& b : in_bytes) b *= sizeof(float);
          world.all_gather(ctx, as_bytes(x), in_bytes);
          world.wait(ctx);
          const auto got = to_host(ctx, x, n);
          if (exact && ranks != 3) CHECK(same_bits(got, expected[0]));
          for (std::size_t i = 0; i < n; ++i) CHECK(got[i] == doctest::Approx(expected[0][i]).epsilon(1e-4));
          const auto wide = to_host(ctx, d, n);
          const std::size_t mine = part_of(world.rank(), ranks);
          for (std::size_t i = bounds[mine]; i < bounds[mine + 1]; ++i)
            CHECK(wide[i] == doctest::Approx(expected[0][i]).epsilon(1e-4));
        });
    }
}

TEST_CASE("cuda/nccl: 1, 2 and 4 ranks end a training with the same bits, and have the CPU's ranks' gradients") {
  Trained cpu, one;
  run_thread_group(1, [&](Communicator& world) { cpu = train<Cpu>(world, Context<Cpu>::Options{.threads = 1}); });
  for (const int ranks : {1, 2, 4})
    run_ranks_of_nccl(ranks, [&](NcclCommunicator& world) {
      const auto ended = train<Cuda>(world, Context<Cuda>::Options{.device = world.device()});
      if (ranks == 1) one = ended;
      CAPTURE(ranks);
      CHECK(ended.losses == cpu.losses);
      CHECK(same_bits(ended.gradients, cpu.gradients));
      CHECK(same_bits(ended.weights, one.weights));
      for (std::size_t i = 0; i < cpu.weights.size(); i += 100)  // the two devices' optimizers round apart
        CHECK(ended.weights[i] == doctest::Approx(cpu.weights[i]).epsilon(1e-4));
    });
}

TEST_CASE("cuda/nccl: what no event orders between compute and exchange is refused") {
  const auto refused = [](auto work, const char* message) {
    CHECK_THROWS_WITH_AS(run_ranks_of_nccl(2,
                                           [&](NcclCommunicator& world) {
                                             Context<Cuda> ctx({.device = world.device()});
                                             const auto x = on_device(ctx, std::vector<float>(64, 1.0f));
                                             ctx.synchronize();
                                             work(world, ctx, x);
                                           }),
                         doctest::Contains(message), cuda_emulation::Fault);
  };
  const std::vector<std::size_t> bounds{0, 32, 64};
  // A bucket that leaves before its last writer: with another context's stream in place of the one that writes.
  refused(
      [&](NcclCommunicator& world, Context<Cuda>& ctx, const std::shared_ptr<float>& x) {
        Context<Cuda> other({.device = world.device()});
        fill(ctx, View<float>(x.get(), {64}), 2.0f);
        world.reduce_scatter(other, x, bounds, true);
      },
      "race of streams: ncclSend");
  // A sum that is read before it is waited for.
  refused(
      [&](NcclCommunicator& world, Context<Cuda>& ctx, const std::shared_ptr<float>& x) {
        world.reduce_scatter(ctx, x, bounds, true);
        Tensor<float, Cuda> sum(ctx, {64});
        copy(ctx, sum.view(), View<const float>(x.get(), {64}));
      },
      "race of streams");
  // Memory that is written while it is sent.
  refused(
      [&](NcclCommunicator& world, Context<Cuda>& ctx, const std::shared_ptr<float>& x) {
        world.all_gather(ctx, as_bytes(x), {0, 128, 256});
        fill(ctx, View<float>(x.get(), {64}), 3.0f);
      },
      "race of streams");
  // And freed.
  refused(
      [&](NcclCommunicator& world, Context<Cuda>& ctx, const std::shared_ptr<float>& x) {
        void* block = nullptr;
        const detail::DeviceGuard guard(world.device());
        REQUIRE(cudaMallocAsync(&block, 256, ctx.stream()) == cudaSuccess);
        REQUIRE(cudaMemsetAsync(block, 0, 256, ctx.stream()) == cudaSuccess);
        world.all_gather(ctx, std::shared_ptr<std::byte>(x, static_cast<std::byte*>(block)), {0, 128, 256});
        cudaFreeAsync(block, ctx.stream());
        ctx.synchronize();
      },
      "race of streams: cudaFreeAsync");
}

TEST_CASE("cuda/nccl: ranks by torchrun's variables; what is missing, and a rank that fails, is told") {
  const std::map<std::string, std::string> given{
      {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "::1"}, {"MASTER_PORT", "29500"}, {"TORCHELASTIC_USE_AGENT_STORE", "True"}};
  CHECK(nccl_from_environment() == nullptr);
  for (const auto& [name, value] : given) ::setenv(name.c_str(), value.c_str(), 1);
  ::setenv("RANK", "one", 1);
  CHECK_THROWS_WITH_AS(nccl_from_environment(), doctest::Contains("nccl: RANK is 'one'"), Error);
  std::atomic<int> met = 0;
  cuda_emulation::run_nccl_ranks(2, [&](int rank) {
    ::setenv("RANK", str(rank).c_str(), 1);
    ::setenv("LOCAL_RANK", str(rank).c_str(), 1);
    const auto world = nccl_from_environment();  // reads them before it waits
    CHECK(world->rank() == rank);
    CHECK(world->device() == rank);
    CHECK(std::string(std::getenv("NCCL_COMM_ID")) == "[::1]:29501");
    met += static_cast<int>(world->gather("here").size());
  });
  CHECK(met == 4);
  ::unsetenv("NCCL_COMM_ID");
  ::unsetenv("MASTER_ADDR");
  CHECK_THROWS_WITH_AS(nccl_from_environment(), doctest::Contains("MASTER_ADDR is not set"), Error);
  for (const char* name : {"RANK", "LOCAL_RANK"}) ::unsetenv(name);
  for (const auto& [name, value] : given) ::unsetenv(name.c_str());

  CHECK_THROWS_WITH_AS(run_ranks_of_nccl(4,
                                         [&](NcclCommunicator& world) {
                                           if (world.rank() == 1) throw Error("one is ill");
                                           world.gather("here");
                                         }),
                       doctest::Contains("one is ill"), Error);
  CHECK_THROWS_WITH_AS(run_ranks_of_nccl(1,
                                         [&](NcclCommunicator& world) {
                                           Context<Cuda> ctx({.device = 1});
                                           world.all_gather(ctx, nullptr, {0, 0});
                                         }),
                       doctest::Contains("an array of GPU 1 is to be exchanged"), Error);
}
