// tests/cuda_emulation/device_test.cpp: the GPU's context, tensors, optimizer and clipping beside the CPU's.
#include <ftlib/ops/linear.hpp>
#include <ftlib/ops/norm.hpp>
#include <ftlib/ops/shape.hpp>
#include <ftlib/optim/adamw.hpp>
#include <ftlib/optim/clip.hpp>
#include <ftlib/tensor/step_graph.hpp>

#include <thread>

#include "../op_suite.hpp"

using namespace ft;
using namespace ft::test;

TEST_CASE("cuda/device: memory is counted, and given back with the last tensor") {
  const int64_t before = cuda_emulation::allocated_bytes();
  Tensor<float, Cuda> kept;
  {
    Context<Cuda> ctx;
    const auto a = Tensor<float, Cuda>::zeros(ctx, {3, 5});
    CHECK(ctx.memory().now == 60);
    kept = Tensor<float, Cuda>(ctx, {7}, std::vector<float>(7, 2.0f));
    CHECK(ctx.memory().peak == 88);
    CHECK(kept.to_host(ctx) == std::vector<float>(7, 2.0f));
    CHECK(Tensor<float, Cuda>(ctx, {0}).count() == 0);
    ctx.poison(true);
    CHECK(std::isnan(Tensor<float, Cuda>(ctx, {1}).item(ctx)));
  }
  if (cuda_emulation::here) CHECK(cuda_emulation::allocated_bytes() == before + 28);  // it outlives its context
  kept = {};
  CHECK(cuda_emulation::allocated_bytes() == before);
}

TEST_CASE("cuda/device: memory beyond the limit is an Error that says what is there; what is there stays") {
  const int64_t mib = int64_t{1} << 20;
  const int64_t before = cuda_emulation::allocated_bytes();
  for (const bool keep : {false, true}) {
    Context<Cuda> ctx({.memory_limit = 4 * mib, .keep_blocks = keep});
    const auto floats = [&](int64_t bytes) { return Tensor<float, Cuda>::zeros(ctx, {bytes / 4}); };
    auto a = floats(3 * mib);
    CHECK_THROWS_WITH_AS(
        floats(2 * mib),
        doctest::Contains("cuda: 2097152 bytes do not fit the memory limit of 4194304; 3145728 are in"), Error);
    CHECK(a.to_host(ctx).back() == 0);
    a = {};
    for (int i = 1; i < 8; ++i) floats(i * mib / 2);  // kept blocks of other sizes make room
    if (cuda_emulation::here) CHECK(cuda_emulation::allocated_bytes() - before <= 4 * mib);
    a = floats(4 * mib);
    CHECK_THROWS_AS(floats(64), Error);
  }
  CHECK_THROWS_WITH_AS(Context<Cuda>({.memory_limit = -1}), doctest::Contains("a memory limit of -1 bytes"), Error);
}

TEST_CASE("cuda/device: two devices, in threads that are on neither, on a stream of the host's; the caller's stays") {
  const auto device_now = [] {
    int now = -1;
    cudaGetDevice(&now);
    return now;
  };
  Context<Cpu> cpu({.threads = 1});
  Random random(2);
  const HostArray a = activation(random, {5, 24}), w = parameter(random, {7, 24});
  const auto step = [&](auto& ctx) {  // kernels, products, copies, a recorded step
    auto x = upload<float>(ctx, a);
    Parameter p("w", upload<float>(ctx, w));
    Parameter scale("scale", upload<float>(ctx, HostArray({7}, 2.0)));
    Tape tape(ctx);
    tape.watch(x);
    const auto y = rms_norm(ctx, linear(ctx, x, p), scale, 1e-6f);
    tape.backward(y, upload<float>(ctx, HostArray({5, 7}, 1.0)));
    return std::vector{download(ctx, y), download(ctx, tape.gradient(x)), download(ctx, p.grad)};
  };
  const auto expected = step(cpu);
  const auto agrees = [&](const std::vector<HostArray>& got) {
    for (std::size_t i = 0; i < 3; ++i)
      if (!(nmse(got[i], expected[i]) <= 1e-9)) return false;
    return true;
  };
  const int last = cuda_emulation::devices - 1;
  cudaStream_t outside = nullptr;
  {
    const detail::DeviceGuard guard(last);
    REQUIRE(cudaStreamCreateWithFlags(&outside, cudaStreamNonBlocking) == cudaSuccess);
  }
  CHECK(device_now() == 0);
  {
    Context<Cuda> first({.device = 0}), second({.device = last}), third({.device = last, .stream = outside});
    CHECK(device_now() == 0);
    CHECK(second.device() == last);
    CHECK(third.stream() == outside);
    for (Context<Cuda>* ctx : {&first, &second, &third, &first}) {
      CHECK(agrees(step(*ctx)));
      CHECK(device_now() == 0);
    }
    for (const int current : {0, last}) {
      std::thread([&] {
        cudaSetDevice(current);
        CHECK(agrees(step(first)));
        CHECK(agrees(step(second)));
        StepGraph<Cuda> graph(true);
        for (int i = 0; i < 3; ++i) graph.run(second, [&] { CHECK(agrees(step(second))); });
        CHECK(device_now() == current);
      }).join();
    }
    CHECK(agrees(step(first)));
    if (cuda_emulation::here) {  // the stand-in refuses what CUDA refuses
      Tensor<float, Cuda> x(second, {4}, {1, 2, 3, 4});
      CHECK_THROWS_WITH_AS(fill(first, x.view(), 1.0f), doctest::Contains("memory of device 1 on device 0"),
                           cuda_emulation::Fault);
      cudaLaunchConfig_t config{};
      config.gridDim = config.blockDim = dim3(1);
      config.stream = second.stream();
      CHECK(cudaLaunchKernelEx(
                &config, +[](int) {}, 0) == cudaErrorInvalidResourceHandle);
    }
  }
  CHECK(cudaStreamDestroy(outside) == cudaSuccess);  // it is the host's to end
}

TEST_CASE("cuda/device: freed blocks wait for whoever asks next, until they are too many") {
  const int64_t before = cuda_emulation::allocated_bytes();
  const std::size_t mib = std::size_t{1} << 20;
  const auto held = [&] { return cuda_emulation::here ? cuda_emulation::allocated_bytes() - before : 0; };
  std::shared_ptr<void> kept;
  {
    Context<Cuda> ctx({.keep_blocks = true});
    auto a = ctx.allocate(8 * mib - 40000);
    void* const at = a.get();
    a = {};
    CHECK(ctx.memory().now == 0);
    a = ctx.allocate(8 * mib);  // of the same size's class
    CHECK(a.get() == at);
    auto b = ctx.allocate(8 * mib);
    CHECK(b.get() != at);
    a = ctx.allocate(72 * mib);
    a = b = {};
    kept = ctx.allocate(100);
    if (cuda_emulation::here) CHECK(held() == static_cast<int64_t>(88 * mib + 512));
    a = ctx.allocate(96 * mib);  // beside the 88 that wait, more than a quarter and 64 MiB above those that were in use
    if (cuda_emulation::here) CHECK(held() == static_cast<int64_t>(96 * mib + 512));
    a = {};
    a = ctx.allocate(100);
  }
  if (cuda_emulation::here) CHECK(held() == 512);  // it outlives its context
  kept = {};
  CHECK(held() == 0);
}

TEST_CASE("cuda/device: a list that was uploaded a short while ago is there still") {
  Context<Cuda> ctx;
  const std::vector<int32_t> values{1, 2, 3};
  const auto first = ctx.upload(values);
  CHECK(ctx.upload(values) == first);
  CHECK(ctx.upload(std::vector<int32_t>{1, 2, 4}) != first);
  CHECK(ctx.upload(std::vector<int32_t>{1, 2}) != first);
  for (int i = 0; i < 20; ++i) (void)ctx.upload(std::vector<int32_t>{i});
  const auto again = ctx.upload(values);
  CHECK(again != first);
  std::vector<int32_t> there(3);
  ctx.copy_to_host(there.data(), again.get(), 12);
  CHECK(there == values);
}

TEST_CASE("cuda/device: fill, copies of any strides, conversion, accumulation") {
  Context<Cuda> ctx;
  Context<Cpu> cpu({.threads = 1});
  Random random(5);
  const HostArray a = activation(random, {3, 5, 7});
  const auto x = upload<float>(ctx, a, Layout::strided);
  CHECK(download(ctx, x).values == download(cpu, upload<float>(cpu, a)).values);
  CHECK(download(ctx, convert<double>(ctx, x)).values == download(ctx, x).values);
  CHECK(nmse(download(ctx, convert<bfloat16>(ctx, x)), a) < 1e-5);
  CHECK(nmse(download(ctx, convert<float>(ctx, convert<ft::half>(ctx, x))), a) < 1e-7);
  Tensor<float, Cuda> y = clone(ctx, x), part = y.strided(1, {3, 2}, {35, 7});
  fill(ctx, part.view(), 4.0f);
  accumulate(ctx, y.view(), View<const float>(x.view()));
  accumulate(ctx, part.view(), View<const float>(part.view()));
  const auto got = y.to_host(ctx);
  for (std::size_t i = 0; i < got.size(); ++i) {
    const auto v = static_cast<float>(a.values[i]);
    CHECK(got[i] == (i % 35 % 7 == 1 && i % 35 < 14 ? 2 * (4 + v) : v + v));
  }
  Tensor<int32_t, Cuda> ids(ctx, {5});
  fill(ctx, ids.view(), 3);
  CHECK(ids.to_host(ctx) == std::vector<int32_t>(5, 3));
}

namespace {
/// Three steps of clipping and AdamW on two parameters; all that has changed, and the norms.
template <Device D> std::vector<HostArray> train(Context<D>& ctx) {
  Random random(9);
  std::vector<Parameter<float, D>> ws;
  ws.emplace_back("matrix", upload<float>(ctx, parameter(random, {37, 129})));
  ws.emplace_back("vector", upload<float>(ctx, parameter(random, {40000})));
  ws[0].kind = WeightKind::linear;
  std::vector<Parameter<float, D>*> params{&ws[0], &ws[1]};
  AdamWOptimizer<float, D> optimizer(AdamW{.lr = 0.01f, .weight_decay = 0.1f});
  std::vector<HostArray> results;
  for (int step = 0; step < 3; ++step) {
    for (auto& w : ws) w.grad = upload<float>(ctx, activation(random, w.shape()));
    results.emplace_back(Shape{}, double{clip_grad_norm(ctx, params, 1.0f)});
    optimizer.step(ctx, params, 0.01f);
    for (auto& w : ws) results.push_back(download(ctx, w.grad));
    zero_grad(params);
  }
  for (auto& w : ws) results.push_back(download(ctx, w.value));
  for (const auto& entry : optimizer.save(ctx)) {
    HostArray state(entry.shape);
    for (std::size_t i = 0; entry.type == "F32" && i < state.values.size(); ++i) {
      float f;
      std::memcpy(&f, entry.bytes.data() + 4 * i, 4);
      state.values[i] = f;
    }
    results.push_back(state);
  }
  return results;
}
}  // namespace

TEST_CASE("cuda/device: clipping and AdamW as on the CPU, the same in any order of threads") {
  Context<Cpu> cpu({.threads = 1});
  const auto expected = train(cpu);
  std::vector<HostArray> first;
  for (const uint64_t seed : {1u, 2u}) {
    cuda_emulation::set_seed(seed);
    Context<Cuda> ctx({.keep_blocks = seed == 2});
    const auto got = train(ctx);
    REQUIRE(got.size() == expected.size());
    for (std::size_t i = 0; i < got.size(); ++i) {
      CHECK(nmse(got[i], expected[i]) <= 1e-12);
      if (seed == 1) first = got;
      else CHECK(got[i].values == first[i].values);
    }
  }
}

TEST_CASE("cuda/device: recorded work runs when a value is read, or at its end, and not after an exception") {
  const int64_t before = cuda_emulation::allocated_bytes();
  {
    Context<Cuda> ctx;
    StepGraph<Cuda> graph(true);
    const auto graphs_before = cuda_emulation::graphs();
    Tensor<float, Cuda> sum = Tensor<float, Cuda>::zeros(ctx, {3}), late(ctx, {1}, {9});
    const auto add = [&](float x, auto then) {
      graph.run(ctx, [&] {
        const Tensor<float, Cuda> y(ctx, {3}, {x, x, x});  // the vector is gone when the graph runs
        accumulate(ctx, sum.view(), View<const float>(y.view()));
        then();
      });
    };
    const auto nothing = [] {};
    add(1, nothing);  // not recorded
    const int64_t launches = cuda_emulation::launches();
    add(2, [&] { CHECK(cuda_emulation::launches() == launches); });
    if (cuda_emulation::here) CHECK(cuda_emulation::launches() == launches + 1);
    add(4, [&] { CHECK(sum.to_host(ctx) == std::vector<float>(3, 7)); });
    add(8, [&] { late = {}; });  // the pool's memory, freed while work is recorded
    CHECK_THROWS_WITH(add(16, [] { throw std::runtime_error("no"); }), "no");
    add(32, nothing);
    CHECK(sum.to_host(ctx) == std::vector<float>(3, 47));
    CHECK(ctx.memory().now == 12);
    const auto graphs = [&] {
      const auto now = cuda_emulation::graphs();
      return std::pair(now.instantiated - graphs_before.instantiated, now.updated - graphs_before.updated);
    };
    if (cuda_emulation::here) CHECK(graphs() == std::pair<int64_t, int64_t>(1, 3));
    Tensor<float, Cuda> kept;
    add(0, [&] { kept = clone(ctx, sum); });  // of the graph's memory, used after it
    CHECK(kept.to_host(ctx) == std::vector<float>(3, 47));
    if (cuda_emulation::here) CHECK(graphs() == std::pair<int64_t, int64_t>(2, 3));  // a kernel more
  }
  CHECK(cuda_emulation::allocated_bytes() == before);
}

TEST_CASE("cuda/device: a tape over shapes, slices and shared activations") {
  const auto gradients = [](auto& ctx) {
    Random random(4);
    auto x = upload<float>(ctx, activation(random, {6, 16}));
    Parameter w("w", upload<float>(ctx, parameter(random, {8})));
    Tape tape(ctx);
    tape.watch(x);
    const auto parts = split(ctx, x, 1, {8, 8});
    const auto y =
        concat(ctx, std::vector{rms_norm(ctx, parts[1], w, 1e-6f), transpose(ctx, transpose(ctx, parts[0]))}, 1);
    tape.backward(y, upload<float>(ctx, activation(random, {6, 16})));
    return std::vector{download(ctx, y), download(ctx, tape.gradient(x)), download(ctx, w.grad)};
  };
  Context<Cpu> cpu({.threads = 1});
  Context<Cuda> ctx;
  const auto expected = gradients(cpu), got = gradients(ctx);
  for (std::size_t i = 0; i < 3; ++i) CHECK(nmse(got[i], expected[i]) <= 1e-12);
}

TEST_CASE(
    "cuda/device: a product in parts, for a weight that is stored in another type, and what the stand-in refuses") {
  Context<Cuda> ctx;
  Context<Cpu> cpu({.threads = 1});
  Random random(6);
  const HostArray a = activation(random, {3, 64}), w = activation(random, {50, 64});
  ctx.part<detail::Cublas>().part_bytes = 20 * 64 * sizeof(float);  // three parts
  const auto products = [&](auto& c) {
    const auto x = upload<float>(c, a), stored = upload<float>(c, w);
    Parameter p("w", convert<bfloat16>(c, stored));
    const auto as_bf16 = p.weight();
    using Where = typename std::remove_reference_t<decltype(x)>::device_type;
    Tensor<float, Where> y(c, {3, 50}), dx = Tensor<float, Where>::zeros(c, {3, 64});
    detail::project(c, Write::assign, y.view(), x.view(), as_bf16);
    detail::project_back(c, Write::add, dx.view(), y.view(), as_bf16, 0.5f);
    return std::vector{download(c, y), download(c, dx)};
  };
  const auto expected = products(cpu), got = products(ctx);
  for (std::size_t i = 0; i < 2; ++i) CHECK(nmse(got[i], expected[i]) <= 1e-11);

  if (!cuda_emulation::here) return;
  Tensor<float, Cuda> unwritten(ctx, {2, 2}), y(ctx, {2, 2});
  const DenseOperand<float> operand{unwritten.data(), 2, 1};
  CHECK_THROWS_WITH_AS(gemm(ctx, Write::assign, 2, 2, 2, y.data(), 2, operand, operand),
                       doctest::Contains("which nobody has written"), cuda_emulation::Fault);
  fill(ctx, unwritten.view(), 1.0f);
  CHECK_THROWS_WITH_AS(gemm(ctx, Write::assign, 4, 4, 2, y.data(), 4, operand, operand),
                       doctest::Contains("of an allocation of 16"), cuda_emulation::Fault);
  CHECK_THROWS_WITH_AS(gemm(ctx, Write::assign, 2, 2, 2, y.data(), 2, DenseOperand<float>{y.data(), 2, 2}, operand),
                       doctest::Contains("one of its axes must be without gaps"), Error);
}
