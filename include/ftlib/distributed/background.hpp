// distributed/background.hpp: a thread that makes a communicator's calls while its owner computes.
#pragma once
#include <ftlib/distributed/communicator.hpp>

#include <condition_variable>  // std::condition_variable
#include <deque>               // std::deque
#include <exception>           // std::exception_ptr
#include <functional>          // std::function
#include <mutex>               // std::mutex
#include <thread>              // std::thread

namespace ft::inline FTLIB_ABI {

/// Runs pieces of work in their order, in a thread of its own: engines' calls that return at once move nothing while a
/// rank computes. Where the engine wants one thread, work is done at once.
class Background {
 public:
  explicit Background(Communicator& world) : world_(world) {}
  /// Work that has not come to its end is cancelled, and with it the communicator.
  ~Background() {
    {
      const std::lock_guard lock(mutex_);
      if (!idle()) world_.cancel();
      work_.clear();
      ends_ = true;
    }
    changed_.notify_all();
    if (thread_.joinable()) thread_.join();
  }
  Background(const Background&) = delete;
  Background& operator=(const Background&) = delete;

  void add(std::function<void()> work) {
    if (!world_.any_thread()) return work();
    {
      const std::lock_guard lock(mutex_);
      work_.push_back(std::move(work));
    }
    changed_.notify_all();
    if (!thread_.joinable()) thread_ = std::thread([this] { run(); });
  }
  /// Returns when all work is done, or all but `left` pieces; until all is nobody else may call the communicator.
  /// Throws what a piece has thrown.
  void wait(std::size_t left = 0) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return work_.size() + std::size_t{runs_} <= left; });
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
  }

 private:
  bool idle() const { return work_.empty() && !runs_; }
  void run() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [&] { return ends_ || !work_.empty(); });
      if (ends_) return;
      const auto work = std::move(work_.front());
      work_.pop_front();
      runs_ = true;
      lock.unlock();
      std::exception_ptr error;
      try {
        work();
      } catch (...) {
        error = std::current_exception();
      }
      lock.lock();
      runs_ = false;
      if (error) {
        error_ = error;
        work_.clear();
      }
      changed_.notify_all();
    }
  }

  Communicator& world_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> work_;
  std::exception_ptr error_;
  bool runs_ = false, ends_ = false;
  std::thread thread_;
};

}  // namespace ft::inline FTLIB_ABI
