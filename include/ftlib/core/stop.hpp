// core/stop.hpp: how another thread asks work to end in order.
#pragma once
#include <ftlib/core/version.hpp>

#include <atomic>  // std::atomic
#include <memory>  // std::shared_ptr

namespace ft::inline FTLIB_ABI {

/// What work looks at now and then. One that was made from nothing is never asked to stop. Named as std::stop_token,
/// which libc++ does not have.
class StopToken {
 public:
  StopToken() = default;
  bool stop_requested() const { return flag_ && flag_->load(std::memory_order_acquire); }

 private:
  friend class StopSource;
  explicit StopToken(std::shared_ptr<const std::atomic<bool>> flag) : flag_(std::move(flag)) {}

  std::shared_ptr<const std::atomic<bool>> flag_;
};

/// Asks all work that holds one of its tokens to stop; from any thread, and for good.
///
///     ft::StopSource stop;                                             // the host's
///     ft::Trainer trainer(lm, {.stop = stop.token()});                 // a thread trains
///     stop.request_stop();                                             // another ends it after its step
class StopSource {
 public:
  StopSource() : flag_(std::make_shared<std::atomic<bool>>(false)) {}
  void request_stop() { flag_->store(true, std::memory_order_release); }
  StopToken token() const { return StopToken(flag_); }

 private:
  std::shared_ptr<std::atomic<bool>> flag_;
};

}  // namespace ft::inline FTLIB_ABI
