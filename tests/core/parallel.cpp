// tests/core/parallel.cpp: how many threads a pool has, what it does where it cannot have them, after fork, and where
// several share it.
#include <doctest/doctest.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <ftlib/core/parallel.hpp>
#include <ftlib/ops/attention.hpp>
#include <ftlib/ops/linear.hpp>
#include <ftlib/ops/shape.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <memory>
#include <numeric>
#include <thread>
#include <vector>

using namespace ft;

namespace {

/// The exit status of a child that runs `body`, which must end itself by _exit; 255 where it took longer than 20 s.
template <class Body> int status_of_child(Body body) {
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    ::alarm(20);
    body();
    ::_exit(254);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

int64_t sum_by(Executor& pool, int64_t count) {
  std::atomic<int64_t> sum{0};
  parallel_for(pool, count, 1, [&](int64_t begin, int64_t end) {
    int64_t part = 0;
    for (int64_t i = begin; i < end; ++i) part += i;
    sum += part;
  });
  return sum;
}

/// A host's threads: as many of them as are free come to a job.
class HostThreads final : public Executor {
 public:
  int size() const override { return 3; }
  void run(FunctionRef<void(int)> job) override {
    ++jobs;
    std::vector<std::thread> threads;
    for (int i = 1; i < given; ++i) threads.emplace_back([&, i] { job(i); });
    job(0);
    for (auto& thread : threads) thread.join();
  }
  int given = 3, jobs = 0;
};

}  // namespace

TEST_CASE("core/parallel: a pool has a thread for each core that it is bound to") {
  cpu_set_t set;
  REQUIRE(::sched_getaffinity(0, sizeof set, &set) == 0);
  CHECK(available_cores() == CPU_COUNT(&set));
  CHECK(ThreadPool().size() == CPU_COUNT(&set));
  int size = 0;
  std::thread([&] {  // bound to one of them
    cpu_set_t one;
    CPU_ZERO(&one);
    for (int i = 0; i < CPU_SETSIZE && CPU_COUNT(&one) == 0; ++i)
      if (CPU_ISSET(i, &set)) CPU_SET(i, &one);
    ::sched_setaffinity(0, sizeof one, &one);
    size = ThreadPool().size();
  })
      .join();
  CHECK(size == 1);
}

TEST_CASE("core/parallel: a negative number of threads is refused") {
  CHECK_THROWS_WITH_AS(ThreadPool(-3), doctest::Contains("thread pool: -3 threads"), Error);
}

TEST_CASE("core/parallel: where a thread cannot start, an Error says how many there were, and none is left") {
  // The limit does not bind root, and counts all that a user runs: so it takes a user who runs nothing else.
  const bool root = ::geteuid() == 0;
  const auto body = [&] {
    const rlimit limit{8, 8};
    if (::setrlimit(RLIMIT_NPROC, &limit) != 0 || (root && ::setresuid(54321, 54321, 54321) != 0)) ::_exit(1);
    for (int attempt = 0;; ++attempt) {
      try {
        ThreadPool pool(1000);
        ::_exit(2);
      } catch (const Error& error) {
        const std::string text = error.what();
        if (text.find("thread pool: of 1000 threads only ") != 0 || text.find("ask for fewer: .threads = ") > 1000)
          ::_exit(3);
      }
      if (!root || attempt == 20) ::_exit(42);
      for (int wait = 0;; ++wait) {  // what the attempt had is free again, once the system has counted
        try {
          ThreadPool pool(4);
          if (sum_by(pool, 1000) != 999 * 500) ::_exit(4);
          break;
        } catch (const Error&) {
          if (wait == 1000) ::_exit(5);
          ::usleep(1000);
        }
      }
    }
  };
  CHECK(status_of_child(body) == 42);
}

TEST_CASE("core/parallel: after fork() the child works alone, ends its pool, and makes others") {
  ThreadPool pool(3);
  CHECK(sum_by(pool, 1000) == 999 * 500);
  const auto body = [&] {
    if (sum_by(pool, 1000) != 999 * 500) ::_exit(1);
    pool.run([](int thread) {
      if (thread != 0) ::_exit(2);
    });
    {
      std::unique_ptr<ThreadPool> inherited(&pool);  // its end must not wait for threads that are not there
      std::destroy_at(inherited.release());
    }
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
    ::_exit(42);  // it ends a program that starts threads here
#endif
#endif
    ThreadPool own(3);
    ::_exit(sum_by(own, 1000) == 999 * 500 ? 42 : 3);
  };
  CHECK(status_of_child(body) == 42);
  CHECK(sum_by(pool, 1000) == 999 * 500);  // the parent's is as it was
}

TEST_CASE("core/parallel: each piece of a job is done once, whoever comes to it, and nobody comes when it is done") {
  ThreadPool pool(4);
  int64_t wrong = 0, calls = 0;
  for (int i = 0; i < 2000; ++i) {
    const int64_t count = i % 9;
    std::vector<std::atomic<int>> done(static_cast<std::size_t>(count)), came(4);
    WorkPieces pieces(count);
    pool.run([&](int thread) {
      ++came[static_cast<std::size_t>(thread)];
      for (int64_t piece = pieces.take(); piece >= 0; piece = pieces.take()) ++done[static_cast<std::size_t>(piece)];
    });
    for (const auto& of_piece : done) wrong += of_piece != 1;
    for (const auto& of_thread : came) wrong += of_thread > 1;
    wrong += came[0] != 1;
    for (const auto& of_thread : came) calls += of_thread;
  }
  CHECK(wrong == 0);
  CHECK(calls >= 2000);
}

TEST_CASE("core/parallel: a pool ends at any moment, with threads that are late for its last job") {
  int64_t came = 0;
  for (int i = 0; i < 2000; ++i) {
    ThreadPool pool(3);
    if (i % 4 == 0) std::this_thread::sleep_for(std::chrono::microseconds(300));  // so that they sleep, and are woken
    pool.run([&](int thread) {
      if (thread == 0) ++came;  // the caller alone
    });
  }
  CHECK(came == 2000);
}

TEST_CASE("core/parallel: the first exception of a job comes to the caller, and the pool goes on") {
  ThreadPool pool(3);
  for (int i = 0; i < 3; ++i) {
    WorkPieces pieces(3);
    CHECK_THROWS_WITH_AS(pool.run([&](int) {
      for (int64_t piece = pieces.take(); piece >= 0; piece = pieces.take())
        if (piece == i) throw Error("on purpose");
    }),
                         "on purpose", Error);
  }
  CHECK(sum_by(pool, 1000) == 999 * 500);
}

TEST_CASE("core/parallel: threads that share a pool get their own results and their own exceptions") {
  ThreadPool pool(2);
  std::atomic<int> wrong{0}, thrown{0};
  const auto work = [&](bool throws) {
    for (int i = 0; i < 500; ++i) {
      if (sum_by(pool, 100 + i) != int64_t{99 + i} * (100 + i) / 2) ++wrong;
      try {
        pool.run([&](int) {
          if (throws) throw Error("mine");
        });
        if (throws) ++wrong;
      } catch (const Error&) {
        ++thrown;
      }
    }
  };
  std::thread other(work, true);
  work(false);
  other.join();
  CHECK(wrong == 0);
  CHECK(thrown == 500);
}

TEST_CASE("core/parallel: two contexts on one pool in two threads; and on a host's own threads") {
  const int64_t n = 96;  // enough for gemm's threads, which wait for one another's pieces
  std::vector<float> values(static_cast<std::size_t>(n * n));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 7) - 3;
  const auto answer = [&](Context<Cpu>& ctx) {
    const Tensor<float, Cpu> x(ctx, {n, n}, values);
    Parameter<float, Cpu> w("w", Tensor<float, Cpu>(ctx, {n, n}, values));
    return linear(ctx, x, w).to_host(ctx);
  };
  Context<Cpu> alone({.threads = 1});
  const std::vector<float> expected = answer(alone);  // whole numbers: the same in any order
  const auto pool = std::make_shared<ThreadPool>(2);
  std::atomic<int> wrong{0};
  const auto session = [&] {
    Context<Cpu> ctx({.pool = pool});
    if (ctx.threads() != 2) ++wrong;
    for (int i = 0; i < 20; ++i) wrong += answer(ctx) != expected;
  };
  std::thread other(session);
  session();
  other.join();
  CHECK(wrong == 0);
  const auto host = std::make_shared<HostThreads>();
  Context<Cpu> ctx({.pool = host});
  for (host->given = 1; host->given <= 3; ++host->given) CHECK(answer(ctx) == expected);
  CHECK(host->jobs >= 3);
  CHECK_THROWS_WITH_AS(Context<Cpu>({.threads = 2, .pool = host}),
                       doctest::Contains("threads is 2, and the pool that is given has 3"), Error);
}

TEST_CASE("core/parallel: how many threads come to a job decides no bit") {
  const int64_t n = 200;
  std::vector<float> values(static_cast<std::size_t>(n * n));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = std::sin(static_cast<float>(i));
  const auto host = std::make_shared<HostThreads>();
  const auto gradients = [&](int given) {
    host->given = given;
    Context<Cpu> ctx({.pool = host});
    Parameter<float, Cpu> q("q", Tensor<float, Cpu>(ctx, {n, n}, values)),
        k("k", Tensor<float, Cpu>(ctx, {n, n}, values));
    Tape tape(ctx);
    const Tensor<float, Cpu> x(ctx, {n, n}, values);
    const auto heads = [&](Parameter<float, Cpu>& w) { return reshape(ctx, linear(ctx, x, w), {n, 2, n / 2}); };
    const auto y =
        attention(ctx, heads(q), heads(k), heads(k), {{0, 120, 0, 120}, {120, n, 120, n}}, {.mask = Mask::causal});
    tape.backward(y, y);
    auto both = q.grad.to_host(ctx);
    for (const float g : k.grad.to_host(ctx)) both.push_back(g);
    return both;
  };
  const auto by_three = gradients(3);
  CHECK(gradients(1) == by_three);
  CHECK(gradients(2) == by_three);
}
