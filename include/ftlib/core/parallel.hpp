// core/parallel.hpp: who runs the loops: a pool of threads, or a host's own. Work is cut into pieces by its size and
// the number of threads, so the same number gives the same sums; who is free takes the next one.
#pragma once
#include <ftlib/core/error.hpp>

#include <atomic>       // std::atomic
#include <concepts>     // std::invocable
#include <cstdint>      // std::int64_t
#include <memory>       // std::addressof, std::unique_ptr
#include <type_traits>  // std::remove_cvref_t

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

/// What runs the loops of a Context<Cpu>: a ThreadPool, or a host's own threads behind this interface. Several contexts
/// may share one, each in a thread of its own.
class Executor {
 public:
  Executor() = default;
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;
  virtual ~Executor() = default;

  /// The most threads that a job gets, the caller's among them; it does not change.
  virtual int size() const = 0;
  /// Calls job(0) in the caller's thread and, at the same time, job(thread) in as many others as are free, each with a
  /// number of its own in [1, size()); returns when all calls that have begun have returned, with one exception of
  /// theirs. Nobody else may come, or come late: a job takes its work from WorkPieces, so that it is done all the same.
  /// Called from any thread, and from inside a job.
  virtual void run(FunctionRef<void(int)> job) = 0;
};

/// The pieces of a job, taken one by one by whoever is free: a thread that shares its core with other programs takes
/// fewer of them, and none is waited for that it has not begun.
class WorkPieces {
 public:
  explicit WorkPieces(std::int64_t count) : count_(count) {}
  /// The next piece, counted from 0; -1 when all are taken.
  std::int64_t take() {
    const std::int64_t piece = next_.fetch_add(1, std::memory_order_relaxed);
    return piece < count_ ? piece : -1;
  }

 private:
  const std::int64_t count_;
  alignas(64) std::atomic<std::int64_t> next_{0};
};

/// WorkPieces for each thread, where a job is cut for several: enough that one which comes late finds some left.
inline constexpr int pieces_a_thread = 4;

/// Threads that sleep until there is a job. One job at a time: a job that comes meanwhile, from inside the first or
/// from another thread, is run alone by the thread that brings it.
///
/// After fork() the child has none of these threads: there, each job is run alone by the thread that brings it.
class ThreadPool final : public Executor {
 public:
  /// `threads` in all; 0 means one for each core that this thread is bound to (sched_getaffinity: taskset, a
  /// container's cpuset). Throws Error for a negative number, and where the system refuses a thread, after ending those
  /// it gave.
  explicit ThreadPool(int threads = 0);
  ~ThreadPool() override;

  int size() const override { return size_; }
  void run(FunctionRef<void(int)> job) override;

 private:
  struct State;
  std::unique_ptr<State> state_;  // null where there is one thread
  int size_;
};

/// Cores that the calling thread may run on; at least 1.
int available_cores();

/// body(begin, end) over pieces of [0, count), each of at least `grain` items; in one piece where there are not two.
void parallel_for(Executor& pool, std::int64_t count, std::int64_t grain,
                  FunctionRef<void(std::int64_t, std::int64_t)> body);

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/core/parallel.inl.hpp>
#endif
