// train/signals.hpp: SIGINT and SIGTERM as a request to stop in order.
#pragma once
#include <ftlib/core/version.hpp>

#include <atomic>   // std::atomic
#include <csignal>  // sigaction, std::signal (POSIX)

namespace ft::inline FTLIB_ABI {

namespace detail {
// A signal handler can reach nothing but what is global; these two are the library's only mutable globals, and they
// are touched only while a StopOnSignal lives.
inline std::atomic<int> stop_signal{0};
inline std::atomic<int> stop_listeners{0};
static_assert(std::atomic<int>::is_always_lock_free, "a signal handler may use nothing else");

extern "C" inline void ftlib_note_stop_signal(int signal) {
  stop_signal.store(signal);
  std::signal(SIGINT, SIG_DFL);  // async-signal-safe, as is a lock-free store
  std::signal(SIGTERM, SIG_DFL);
}
}  // namespace detail

/// While it lives, the first SIGINT or SIGTERM only sets a flag, so that a loop can save and end; the second has its
/// default action again, and ends a program that hangs. Signals are taken also where the program was started with them
/// ignored, as a shell does for `program &`. The handlers of before are put back at the end. One may be made inside the
/// life of another (a trainer's inside the application's): both see the same signal.
class StopOnSignal {
 public:
  StopOnSignal() : outermost_(detail::stop_listeners.fetch_add(1) == 0) {
    if (!outermost_) return;
    detail::stop_signal.store(0);
    struct sigaction action {};
    action.sa_handler = detail::ftlib_note_stop_signal;
    action.sa_flags = SA_RESTART;  // a write that is under way is not cut short
    sigemptyset(&action.sa_mask);
    sigaddset(&action.sa_mask, SIGINT);
    sigaddset(&action.sa_mask, SIGTERM);
    sigaction(SIGINT, &action, &old_int_);
    sigaction(SIGTERM, &action, &old_term_);
  }
  ~StopOnSignal() {
    if (outermost_) {
      sigaction(SIGINT, &old_int_, nullptr);
      sigaction(SIGTERM, &old_term_, nullptr);
    }
    detail::stop_listeners.fetch_sub(1);
  }
  StopOnSignal(const StopOnSignal&) = delete;
  StopOnSignal& operator=(const StopOnSignal&) = delete;

  bool requested() const { return signal() != 0; }
  /// The signal that came; 0 before one did.
  int signal() const { return detail::stop_signal.load(); }

 private:
  bool outermost_;
  struct sigaction old_int_ {};
  struct sigaction old_term_ {};
};

}  // namespace ft::inline FTLIB_ABI
