// train/signals.inl.hpp: the handler of signals, and who may install it.
#pragma once
#include <ftlib/train/signals.hpp>

#include <signal.h>  // sigaction, raise (POSIX)
#include <array>     // std::array
#include <atomic>    // std::atomic
#include <cerrno>    // errno
#include <cstddef>   // std::size_t
#include <mutex>     // std::mutex

namespace ft::inline FTLIB_ABI {

namespace detail {

/// A handler can reach nothing but what is global, and may use nothing but lock-free atomics and what POSIX calls
/// async-signal-safe. Each build of the library in a program has its own, and they call one another.
struct StopHandler {
  static constexpr std::array<int, 3> signals{SIGINT, SIGTERM, SIGUSR1};
  using Action = struct ::sigaction;

  std::mutex mutex;                                      // of who begins and ends; not of the handler
  std::atomic<int> listeners{0};                         // StopOnSignal objects that live
  std::atomic<int> signal{0};                            // the first that came to them
  std::array<Action, signals.size()> before{};           // what we stand in for; written while we are not installed
  std::array<std::atomic<bool>, signals.size()> busy{};  // so that a host's handler that calls back ends here

  static void handle(int signal, siginfo_t* info, void* context);

  void begin() {
    const std::lock_guard lock(mutex);
    if (listeners.load() == 0) {
      signal.store(0);
      for (std::size_t i = 0; i < signals.size(); ++i) {
        Action now{};
        ::sigaction(signals[i], nullptr, &now);
        if (ours(now)) continue;  // the host has put it back, say; what stood before us has not changed
        before[i] = now;
        Action action{};
        action.sa_sigaction = handle;
        action.sa_flags = SA_RESTART | SA_SIGINFO;  // restart: a write that is under way is not cut short
        sigemptyset(&action.sa_mask);
        for (const int other : signals) sigaddset(&action.sa_mask, other);
        ::sigaction(signals[i], &action, nullptr);
      }
    }
    listeners.fetch_add(1);
  }
  void end() {
    const std::lock_guard lock(mutex);
    if (listeners.fetch_sub(1) > 1) return;
    for (std::size_t i = 0; i < signals.size(); ++i) {
      Action now{};
      ::sigaction(signals[i], nullptr, &now);
      if (ours(now)) ::sigaction(signals[i], &before[i], nullptr);
    }
  }

  static bool ours(const Action& action) { return (action.sa_flags & SA_SIGINFO) && action.sa_sigaction == handle; }
  static bool is_function(const Action& action) {
    return (action.sa_flags & SA_SIGINFO) || (action.sa_handler != SIG_DFL && action.sa_handler != SIG_IGN);
  }
};
static_assert(std::atomic<int>::is_always_lock_free && std::atomic<bool>::is_always_lock_free,
              "a signal handler may use nothing else");

inline constinit StopHandler stop_handler;  // one of the library's few mutable globals

FTLIB_INLINE void StopHandler::handle(int signal, siginfo_t* info, void* context) {
  StopHandler& self = stop_handler;
  const int error = errno;
  std::size_t i = 0;
  while (i < signals.size() && signals[i] != signal) ++i;
  if (i == signals.size() || self.busy[i].exchange(true)) return;
  const Action& before = self.before[i];
  const bool has_next = is_function(before), wanted = self.listeners.load() > 0;
  int none = 0;
  if (wanted && self.signal.compare_exchange_strong(none, signal)) {
    // the first: a request, and nobody else's affair
  } else if (has_next) {
    if (before.sa_flags & SA_SIGINFO) before.sa_sigaction(signal, info, context);
    else before.sa_handler(signal);
  } else {
    Action now{};
    ::sigaction(signal, nullptr, &now);
    // Somebody else's handler that calls ours decides for itself. Ours is left alone where nobody listens any more if
    // another build put it back that began after us and ended after us.
    if (ours(now) && (wanted || before.sa_handler == SIG_DFL)) {
      now.sa_flags = 0;
      now.sa_handler = SIG_DFL;
      ::sigaction(signal, &now, nullptr);
      ::raise(signal);  // as soon as this handler has returned
    }
  }
  self.busy[i].store(false);
  errno = error;
}

}  // namespace detail

FTLIB_INLINE StopOnSignal::StopOnSignal() { detail::stop_handler.begin(); }
FTLIB_INLINE StopOnSignal::~StopOnSignal() { detail::stop_handler.end(); }
FTLIB_INLINE int StopOnSignal::signal() const { return detail::stop_handler.signal.load(); }

}  // namespace ft::inline FTLIB_ABI
