// train/signals.hpp: SIGINT, SIGTERM and SIGUSR1 as a request to stop in order.
#pragma once
#include <ftlib/core/version.hpp>

namespace ft::inline FTLIB_ABI {

/// While one lives, the first SIGINT (Ctrl-C), SIGTERM or SIGUSR1 (which Slurm and Open MPI send ahead of a job's end)
/// only sets a flag, so that a loop can save and end. A second one goes where it would have gone: to the handler that
/// the program had, else to the default action, which ends a program that hangs. Signals are taken also where the
/// program was started with them ignored, as a shell does for `program &`.
///
/// The process has one set of handlers, so a request is seen by all that live, in any thread (a trainer's and the
/// application's, two trainers'). The first to begin installs them, the last to end puts back what was there, in
/// whatever order they end; a handler that the program installs meanwhile stays, and may call the one that it found.
class StopOnSignal {
 public:
  StopOnSignal();
  ~StopOnSignal();
  StopOnSignal(const StopOnSignal&) = delete;
  StopOnSignal& operator=(const StopOnSignal&) = delete;

  bool requested() const { return signal() != 0; }
  /// The signal that came first; 0 before one did.
  int signal() const;
};

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/train/signals.inl.hpp>
#endif
