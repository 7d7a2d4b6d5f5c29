// distributed/thread_group.hpp: ranks as threads of one process: several GPUs of a machine, and tests.
#pragma once
#include <ftlib/distributed/communicator.hpp>

#include <algorithm>           // std::copy
#include <condition_variable>  // std::condition_variable
#include <exception>           // std::exception_ptr
#include <functional>          // std::function
#include <mutex>               // std::mutex
#include <thread>              // std::thread

namespace ft::inline FTLIB_ABI {

namespace detail {
struct ThreadGroup {
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<std::span<const std::byte>> sent;  // from a to b at a ranks + b; taken when it is empty again
  std::vector<bool> waits;
  std::vector<std::string> gathered, last;  // of the gather that goes on, and of the one before it
  int given = 0;
  int64_t rounds = 0;
  int failed = -1;
  std::exception_ptr error;
};

class ThreadRank final : public Communicator {
 public:
  ThreadRank(ThreadGroup& group, int rank, int ranks) : shared_(group), rank_(rank), ranks_(ranks) {}
  int rank() const override { return rank_; }
  int size() const override { return ranks_; }
  void swap(int other, std::span<const std::byte> out, std::span<std::byte> in) override {
    std::unique_lock lock(shared_.mutex);
    const auto there = static_cast<std::size_t>(rank_ * ranks_ + other),
               here = static_cast<std::size_t>(other * ranks_ + rank_);
    shared_.sent[there] = out;
    shared_.waits[there] = true;
    shared_.changed.notify_all();
    wait(lock, str("rank ", other), [&] { return shared_.waits[here]; });
    if (shared_.sent[here].size() != in.size())
      throw Error(str(name(), ": ", shared_.sent[here].size(), " bytes came from rank ", other, ", ", in.size(),
                      " were expected"),
                  "all ranks must make the same calls.");
    std::copy(shared_.sent[here].begin(), shared_.sent[here].end(), in.begin());
    shared_.waits[here] = false;
    shared_.changed.notify_all();
    wait(lock, str("rank ", other), [&] { return !shared_.waits[there]; });  // `out` is the caller's again
  }
  void cancel() override {
    const std::lock_guard lock(shared_.mutex);
    if (shared_.failed < 0) shared_.failed = rank_;
    shared_.changed.notify_all();
  }
  std::vector<std::string> gather(std::string_view mine) override {
    std::unique_lock lock(shared_.mutex);
    const int64_t round = shared_.rounds;
    shared_.gathered[static_cast<std::size_t>(rank_)] = mine;
    if (++shared_.given == ranks_) {
      shared_.given = 0;
      shared_.last = shared_.gathered;
      ++shared_.rounds;
      shared_.changed.notify_all();
    }
    wait(lock, str(ranks_ - shared_.given, " ranks"), [&] { return shared_.rounds > round; });
    return shared_.last;  // the next round ends only when this rank has given to it
  }

 private:
  template <class Ready> void wait(std::unique_lock<std::mutex>& lock, const std::string& whom, Ready ready) {
    if (!shared_.changed.wait_for(lock, timeout_, [&] { return shared_.failed >= 0 || ready(); }))
      throw Error(waited(timeout_) + whom, waiting_hint, ErrorKind::other);
    // Even if what was waited for is there: the memory of a rank that has thrown is not.
    if (shared_.failed >= 0) throw Error(str(name(), ": rank ", shared_.failed, " has failed"));
  }
  ThreadGroup& shared_;
  int rank_, ranks_;
};
}  // namespace detail

/// Runs work(rank's communicator) in `ranks` threads, and returns when all have. Where one throws, the others' next
/// calls throw too, and its exception is thrown here.
[[gnu::cold]] inline void run_thread_group(int ranks, const std::function<void(Communicator&)>& work) {
  detail::ThreadGroup shared;
  shared.sent.resize(static_cast<std::size_t>(ranks * ranks));
  shared.waits.resize(shared.sent.size());
  shared.gathered.resize(static_cast<std::size_t>(ranks));

  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank)
    threads.emplace_back([&shared, &work, rank, ranks] {
      detail::ThreadRank communicator(shared, rank, ranks);
      try {
        work(communicator);
      } catch (...) {
        const std::lock_guard lock(shared.mutex);
        if (shared.failed < 0 || (shared.failed == rank && !shared.error)) {
          shared.failed = rank;
          shared.error = std::current_exception();
        }
        shared.changed.notify_all();
      }
    });
  for (std::thread& thread : threads) thread.join();
  if (shared.error) std::rethrow_exception(shared.error);
}

}  // namespace ft::inline FTLIB_ABI
