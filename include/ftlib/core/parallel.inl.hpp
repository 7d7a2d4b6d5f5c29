// core/parallel.inl.hpp: the thread pool's definitions.
#pragma once
#include <ftlib/core/parallel.hpp>

#include <pthread.h>           // pthread_atfork
#include <algorithm>           // std::min, std::max
#include <atomic>              // std::atomic
#include <condition_variable>  // std::condition_variable
#include <exception>           // std::exception_ptr
#include <mutex>               // std::mutex
#include <system_error>        // std::system_error
#include <thread>              // std::thread
#include <utility>             // std::exchange
#include <vector>              // std::vector
#if defined(__linux__)
#include <sched.h>  // sched_getaffinity
#endif

namespace ft::inline FTLIB_ABI {

namespace detail {
/// How often this process has become the child of a fork(). A load, where getpid() is a call of the system each loop.
FTLIB_INLINE const std::atomic<int>& forks() {
  static std::atomic<int> count{0};
  static const int registered = ::pthread_atfork(nullptr, nullptr, [] { count.fetch_add(1); });
  require(registered == 0, "thread pool: pthread_atfork failed");
  return count;
}

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#endif
}
}  // namespace detail

FTLIB_INLINE int available_cores() {
#if defined(__linux__)
  for (int most = 1024; most <= (1 << 20);
       most *= 4) {  // cores that the mask has room for; EINVAL: the kernel has more
    cpu_set_t* const set = CPU_ALLOC(most);
    if (!set) break;
    const std::size_t bytes = CPU_ALLOC_SIZE(most);
    const int found = ::sched_getaffinity(0, bytes, set) == 0 ? CPU_COUNT_S(bytes, set) : 0;
    CPU_FREE(set);
    if (found > 0) return found;
  }
#endif
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

/// In memory of its own, which the child of a fork() leaves as it is: the mutex may be held and the condition waited
/// for by threads that do not exist there, and what ends either would wait for those.
struct ThreadPool::State {
  static constexpr int spin_limit = 4000;  // some microseconds: kernels follow one another at about this distance

  /// Throws Error, with nothing left behind, where a thread cannot start.
  State(int size_, int asked) : forks(&detail::forks()), born(forks->load(std::memory_order_relaxed)), size(size_) {
    try {
      workers.reserve(static_cast<std::size_t>(size - 1));
      for (int i = 1; i < size; ++i) workers.emplace_back([this, i] { work(i); });
    } catch (const std::system_error& error) {
      const std::size_t started = workers.size() + 1;
      stop();
      throw Error(
          str("thread pool: of ", size, " threads", asked ? "" : " (one a core)", " only ", started,
              " could be had, the caller's among them: ", error.code().message()),
          str("raise the limit (ulimit -u; a container's pids limit), or ask for fewer: .threads = ", started, "."),
          ErrorKind::other);
    } catch (...) {
      stop();
      throw;
    }
  }

  bool in_child() const { return forks->load(std::memory_order_relaxed) != born; }

  void run(const FunctionRef<void(int)>& todo) {
    job = &todo;
    {
      const std::lock_guard lock(mutex);
      state.store(number_of(state.load(std::memory_order_relaxed)) + one_job + open, std::memory_order_release);
    }
    wake.notify_all();
    invoke(0);
    state.fetch_and(~open, std::memory_order_acq_rel);  // who has not come by now need not come
    for (int spins = 0; (state.load(std::memory_order_acquire) & inside) > 0;)
      if (++spins > spin_limit) std::this_thread::yield();
      else detail::relax();
    const std::exception_ptr mine = std::exchange(thrown, nullptr);  // before the next job may come
    busy.store(false, std::memory_order_release);
    if (mine) std::rethrow_exception(mine);
  }

  void stop() {
    {
      const std::lock_guard lock(mutex);
      stopped = true;
      state.fetch_add(one_job, std::memory_order_release);
    }
    wake.notify_all();
    for (auto& worker : workers) worker.join();
  }

  void invoke(int thread) noexcept {
    try {
      (*job)(thread);
    } catch (...) {
      const std::lock_guard lock(thrown_mutex);
      if (!thrown) thrown = std::current_exception();
    }
  }

  void work(int thread) {
    std::uint64_t seen = 0;  // the number of the last job that this thread knows of
    const auto next = [&] { return number_of(state.load(std::memory_order_acquire)) != seen; };
    for (;;) {
      for (int spins = 0; !next() && spins < spin_limit; ++spins) detail::relax();
      if (!next()) {
        std::unique_lock lock(mutex);
        wake.wait(lock, next);
      }
      std::uint64_t now = state.load(std::memory_order_acquire);
      while ((now & open) && !state.compare_exchange_weak(now, now + 1, std::memory_order_acq_rel)) {
      }
      seen = number_of(now);
      if (!(now & open)) {
        if (stopped) return;  // asked behind `now`: else the end could come between, and be taken for one that is known
        continue;
      }
      invoke(thread);
      state.fetch_sub(1, std::memory_order_acq_rel);
    }
  }

  /// In one word, so that a thread comes to an open job or not at all: how many threads besides the caller's are in the
  /// job, whether it is open to others, and its number.
  static constexpr std::uint64_t inside = 0xffff, open = 0x10000, one_job = 0x20000;
  static constexpr std::uint64_t number_of(std::uint64_t state) { return state / one_job * one_job; }

  const std::atomic<int>* forks;
  const int born;  // *forks at the start
  const int size;
  std::vector<std::thread> workers;
  std::mutex mutex, thrown_mutex;
  std::condition_variable wake;
  std::atomic<std::uint64_t> state{0};
  std::atomic<bool> busy{false};
  std::atomic<bool> stopped{false};
  const FunctionRef<void(int)>* job = nullptr;
  std::exception_ptr thrown;
};

FTLIB_INLINE ThreadPool::ThreadPool(int threads) : size_(threads == 0 ? available_cores() : threads) {
  if (threads < 0)
    throw Error(str("thread pool: ", threads, " threads"), "0 means one for each core that the process is bound to.");
  if (size_ > 1) state_ = std::make_unique<State>(size_, threads);
}
FTLIB_INLINE ThreadPool::~ThreadPool() {
  if (!state_) return;
  if (state_->in_child()) (void)state_.release();  // NOLINT(bugprone-unused-return-value): see State
  else state_->stop();
}
FTLIB_INLINE void ThreadPool::run(FunctionRef<void(int)> job) {
  if (!state_ || state_->in_child() || state_->busy.exchange(true, std::memory_order_acquire)) job(0);
  else state_->run(job);
}

FTLIB_INLINE void parallel_for(Executor& pool, std::int64_t count, std::int64_t grain,
                               FunctionRef<void(std::int64_t, std::int64_t)> body) {
  if (count <= 0) return;
  const std::int64_t most = pool.size() == 1 ? 1 : pieces_a_thread * std::int64_t{pool.size()};
  const std::int64_t parts = std::min(most, count / std::max<std::int64_t>(1, grain));
  if (parts <= 1) {
    body(0, count);
    return;
  }
  WorkPieces pieces(parts);
  pool.run([&](int) {
    for (std::int64_t i = pieces.take(); i >= 0; i = pieces.take()) body(count * i / parts, count * (i + 1) / parts);
  });
}

}  // namespace ft::inline FTLIB_ABI
