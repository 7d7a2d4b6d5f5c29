// core/parallel.hpp: a small pool of threads for loops. Static shares, so the same thread count gives the same sums.
#pragma once
#include <ftlib/core/error.hpp>

#include <algorithm>           // std::min, std::max
#include <atomic>              // std::atomic
#include <concepts>            // std::invocable
#include <condition_variable>  // std::condition_variable
#include <cstdint>             // std::int64_t
#include <exception>           // std::exception_ptr
#include <memory>              // std::addressof
#include <mutex>               // std::mutex
#include <thread>              // std::thread
#include <type_traits>         // std::remove_cvref_t
#include <vector>              // std::vector

namespace ft::inline FTLIB_ABI {

template <class Signature> class FunctionRef;

/// A reference to something that can be called. What runs a caller's loop takes this and is no template, so that the
/// loop's body is compiled once, not once for each place that may call it.
template <class R, class... Args> class FunctionRef<R(Args...)> {
 public:
  template <class F>
  // NOLINTNEXTLINE(bugprone-forwarding-reference-overload): `requires` keeps it from the copy's place
  requires(std::invocable<F&, Args...> && !std::same_as<std::remove_cvref_t<F>, FunctionRef>) FunctionRef(F&& f)
      : object_(const_cast<void*>(static_cast<const void*>(std::addressof(f)))),
        call_([](void* object, Args... args) -> R {
          return (*static_cast<std::remove_reference_t<F>*>(object))(args...);
        }) {}

  R operator()(Args... args) const { return call_(object_, args...); }

 private:
  void* object_;
  R (*call_)(void*, Args...);
};

/// Runs a function once on each of `size()` threads, the caller being thread 0. One job at a time; a job that starts
/// another runs it alone on its own thread. The first exception of a job is thrown to the caller.
class ThreadPool {
 public:
  explicit ThreadPool(int threads = 0) {
    const int n = threads > 0 ? threads : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
    for (int i = 1; i < n; ++i) workers_.emplace_back([this, i] { work(i); });
  }
  ~ThreadPool() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
      ticket_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    for (auto& worker : workers_) worker.join();
  }
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  /// job(thread, threads) on every thread; returns when all are done.
  void run(FunctionRef<void(int, int)> job) {
    if (workers_.empty() || busy_.exchange(true, std::memory_order_acquire)) {
      job(0, 1);
      return;
    }
    job_ = &job;
    error_ = nullptr;
    left_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
    {
      const std::lock_guard lock(mutex_);
      ticket_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    invoke(0);
    for (int spins = 0; left_.load(std::memory_order_acquire) > 0;)
      if (++spins > spin_limit) std::this_thread::yield();
    busy_.store(false, std::memory_order_release);
    if (error_) std::rethrow_exception(error_);
  }

 private:
  static constexpr int spin_limit = 4000;  // some microseconds: kernels follow one another at about this distance

  void invoke(int thread) noexcept {
    try {
      (*job_)(thread, size());
    } catch (...) {
      const std::lock_guard lock(error_mutex_);
      if (!error_) error_ = std::current_exception();
    }
  }

  void work(int thread) {
    uint64_t seen = 0;
    for (;;) {
      for (int spins = 0; ticket_.load(std::memory_order_acquire) == seen && spins < spin_limit; ++spins) relax();
      if (ticket_.load(std::memory_order_acquire) == seen) {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [&] { return ticket_.load(std::memory_order_acquire) != seen; });
      }
      ++seen;
      if (stop_) return;
      invoke(thread);
      left_.fetch_sub(1, std::memory_order_acq_rel);
    }
  }

  static void relax() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
  }

  std::vector<std::thread> workers_;
  std::mutex mutex_, error_mutex_;
  std::condition_variable wake_;
  std::atomic<uint64_t> ticket_{0};
  std::atomic<int> left_{0};
  std::atomic<bool> busy_{false};
  std::atomic<bool> stop_{false};
  const FunctionRef<void(int, int)>* job_ = nullptr;
  std::exception_ptr error_;
};

/// body(begin, end) over shares of [0, count); serial where there are fewer than `grain` items for a second thread.
inline void parallel_for(ThreadPool& pool, std::int64_t count, std::int64_t grain,
                         FunctionRef<void(std::int64_t, std::int64_t)> body) {
  if (count <= 0) return;
  const std::int64_t shares =
      std::min<std::int64_t>(pool.size(), std::max<std::int64_t>(1, count / std::max<std::int64_t>(1, grain)));
  if (shares == 1) {
    body(0, count);
    return;
  }
  pool.run([&](int thread, int threads) {
    if (threads == 1) {  // nested: this thread does it all
      body(0, count);
    } else if (thread < shares) {
      body(count * thread / shares, count * (thread + 1) / shares);
    }
  });
}

}  // namespace ft::inline FTLIB_ABI
