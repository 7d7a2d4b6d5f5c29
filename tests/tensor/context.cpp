// tests/tensor/context.cpp: one thread at a time in a context, and a budget of memory.
#include <doctest/doctest.h>
#include <ftlib/autograd/tape.hpp>
#include <ftlib/ops/elementwise.hpp>

#include <atomic>
#include <thread>

using namespace ft;

namespace {
using Array = Tensor<float, Cpu>;

/// What `body` threw on a thread of its own; empty where nothing.
template <class Body> std::string thrown_elsewhere(Body body) {
  std::string what;
  std::thread([&] {
    try {
      body();
    } catch (const Error& error) {
      what = error.what();
    }
  }).join();
  return what;
}
const char* const in_use = "this session (context) is in use by another thread";
}  // namespace

TEST_CASE("tensor/context: another thread that begins or records is refused, and the first is not disturbed") {
  Context<Cpu> ctx({.threads = 1}), other({.threads = 1});
  Array x(ctx, {3}, {1, 2, 3});
  const auto gradient = [&](auto in_between) {
    Tape<Cpu> tape(ctx);
    tape.watch(x);
    const auto y = sum(ctx, mul(ctx, x, x));
    in_between();
    tape.backward(y);
    const auto dx = tape.gradient(x).to_host(ctx);
    x = x.detached();
    return dx;
  };
  const std::vector<float> expected{2, 4, 6};
  CHECK(gradient([] {}) == expected);
  CHECK(gradient([&] {
          CHECK(thrown_elsewhere([&] { const NoGrad off(ctx); }).find(in_use) == 0);
          CHECK(thrown_elsewhere([&] { const Tape<Cpu> tape(ctx); }).find("lm.session()") != std::string::npos);
          CHECK(thrown_elsewhere([&] { const ContextGuard guard(ctx); }).find(in_use) == 0);
          CHECK(thrown_elsewhere([&] { scale(ctx, x, 2); }).find(in_use) == 0);
          CHECK(thrown_elsewhere([&] { const NoGrad off(other); }) == "");
        }) == expected);
  {
    const NoGrad off(ctx);
    const Tape<Cpu> tape(ctx);        // one inside another
    const ContextGuard guard(other);  // two contexts in one thread
    CHECK(thrown_elsewhere([&] { const ContextGuard guard2(other); }).find(in_use) == 0);
  }
  CHECK(thrown_elsewhere([&] { CHECK(gradient([] {}) == expected); }) == "");  // the next may be any thread
}

TEST_CASE("tensor/context: a training step beside a thread that tries again and again") {
  Context<Cpu> ctx({.threads = 2});
  Parameter<float, Cpu> w("w", Array(ctx, {4}, {1, 2, 3, 4}));
  const Array x(ctx, {4}, {1, -1, 2, -2});
  std::atomic<bool> done{false};
  std::atomic<int> refused{0}, opened{0};
  std::thread server([&] {
    while (!done) {
      try {
        const NoGrad off(ctx);
        ++opened;
      } catch (const Error&) {
        ++refused;
      }
    }
  });
  int wrong = 0, steps = 0;
  for (int i = 0; i < 20000 && (steps < 200 || refused == 0); ++i) {
    try {
      Tape<Cpu> tape(ctx);
      Array a = x.detached();
      tape.watch(a);
      tape.backward(sum(ctx, mul(ctx, a, a)));
      wrong += tape.gradient(a).to_host(ctx) != std::vector<float>{2, -2, 4, -4};
      ++steps;
    } catch (const Error&) {  // the server had it
    }
  }
  done = true;
  server.join();
  CHECK(wrong == 0);
  CHECK(steps > 0);
  CHECK(refused + opened > 0);
}

TEST_CASE("tensor/context: memory beyond the limit is an Error that says what is there; what is there stays") {
  const int64_t mib = int64_t{1} << 20;
  Context<Cpu> ctx({.threads = 1, .memory_limit = 4 * mib});
  const auto floats = [&](int64_t bytes) { return Array::zeros(ctx, {bytes / 4}); };
  Array a = floats(3 * mib);
  CHECK_THROWS_WITH_AS(floats(2 * mib),
                       doctest::Contains("cpu: 2097152 bytes do not fit the memory limit of 4194304; 3145728 are in "
                                         "use"),
                       Error);
  CHECK(ctx.memory().now == 3 * mib);
  CHECK(a.to_host(ctx).back() == 0);
  a = {};
  for (int i = 1; i < 8; ++i) floats(i * mib / 2);  // kept blocks of other sizes make room
  CHECK(ctx.memory().reserved <= 4 * mib);
  a = floats(4 * mib);
  CHECK_THROWS_AS(floats(64), Error);
  CHECK_THROWS_WITH_AS(Context<Cpu>({.memory_limit = -1}), doctest::Contains("a memory limit of -1 bytes"), Error);
  Context<Cpu> free({.threads = 1});
  CHECK_THROWS_WITH_AS(free.allocate(~std::size_t{0}), doctest::Contains("a shape is wrong"), Error);
}
