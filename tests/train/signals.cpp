// tests/train/signals.cpp: a signal sets a flag once, a second one ends the program, handlers are put back.
#include <doctest/doctest.h>
#include <ftlib/train/signals.hpp>

#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <optional>
#include <thread>

using namespace ft;

namespace {
/// How a child that runs `body` ended: its exit status, or minus the signal that ended it.
template <class Body> int in_child(Body body) {
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    std::signal(SIGINT, SIG_DFL);  // doctest has handlers of its own
    std::signal(SIGTERM, SIG_DFL);
    std::signal(SIGUSR1, SIG_DFL);
    body();
    ::_exit(0);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

volatile std::sig_atomic_t host_heard = 0;
void host_handler(int) { host_heard = host_heard + 1; }
void (*chained)(int, siginfo_t*, void*) = nullptr;  // as a host's library keeps what it found
void chaining_handler(int signal, siginfo_t* info, void* context) {
  host_heard = host_heard + 1;
  chained(signal, info, context);
}
/// Puts chaining_handler in the place of what stands there.
void install_chaining(int signal) {
  struct sigaction action {
  }, old{};
  action.sa_sigaction = chaining_handler;
  action.sa_flags = SA_SIGINFO;
  ::sigaction(signal, &action, &old);
  chained = old.sa_sigaction;
}
}  // namespace

TEST_CASE("train/signals: the first SIGINT, SIGTERM or SIGUSR1 is a request") {
  for (const int signal : {SIGINT, SIGTERM, SIGUSR1}) {
    CHECK(in_child([&] {
            const StopOnSignal stop;
            if (stop.requested()) ::_exit(1);
            ::raise(signal);
            ::_exit(stop.requested() && stop.signal() == signal ? 42 : 2);
          }) == 42);
    CHECK(in_child([&] { ::raise(signal); }) == -signal);  // what would have happened
  }
}

TEST_CASE("train/signals: the second signal ends the program, of either kind") {
  CHECK(in_child([] {
          const StopOnSignal stop;
          ::raise(SIGINT);
          ::raise(SIGTERM);
        }) == -SIGTERM);
}

TEST_CASE("train/signals: taken though ignored at the start; put back at the end; a later one starts afresh") {
  CHECK(in_child([] {
          std::signal(SIGINT, SIG_IGN);
          {
            const StopOnSignal stop;
            ::raise(SIGINT);
            if (!stop.requested()) ::_exit(1);
          }
          ::raise(SIGINT);  // ignored again
          const StopOnSignal stop;
          ::_exit(stop.requested() ? 2 : 42);
        }) == 42);
}

TEST_CASE("train/signals: one inside another shares its request and leaves its handlers") {
  CHECK(in_child([] {
          const StopOnSignal outer;
          { const StopOnSignal inner; }
          ::raise(SIGTERM);  // still taken
          const StopOnSignal inner;
          ::_exit(outer.requested() && inner.requested() ? 42 : 1);
        }) == 42);
}

TEST_CASE("train/signals: of two in two threads, the first to end does not disarm the other, whichever began") {
  for (const bool first_ends_first : {true, false}) {
    INFO("first_ends_first ", first_ends_first);
    CHECK(in_child([&] {
            std::optional<StopOnSignal> first, second;
            std::thread([&] { first.emplace(); }).join();
            std::thread([&] { second.emplace(); }).join();
            (first_ends_first ? first : second).reset();
            ::raise(SIGTERM);
            if (!(first_ends_first ? second : first)->requested()) ::_exit(1);
            first.reset();
            second.reset();
            ::raise(SIGTERM);  // and after the last the default is there again
          }) == -SIGTERM);
  }
}

TEST_CASE("train/signals: a host's handler gets the second signal, and is put back") {
  CHECK(in_child([] {
          std::signal(SIGTERM, host_handler);
          {
            const StopOnSignal stop;
            ::raise(SIGTERM);
            if (!stop.requested() || host_heard != 0) ::_exit(1);
            ::raise(SIGTERM);
            if (host_heard != 1) ::_exit(2);
          }
          ::raise(SIGTERM);
          ::_exit(host_heard == 2 ? 42 : 3);
        }) == 42);
}

TEST_CASE("train/signals: a handler that the host installs meanwhile stays, and may call ours") {
  CHECK(in_child([] {
          {
            const StopOnSignal stop;
            install_chaining(SIGTERM);
            ::raise(SIGTERM);
            if (!stop.requested() || host_heard != 1) ::_exit(1);
          }
          ::raise(SIGTERM);  // ours is called, has nobody to tell, and leaves the rest to the host
          if (host_heard != 2) ::_exit(2);
          const StopOnSignal stop;
          ::raise(SIGTERM);
          if (!stop.requested() || host_heard != 2) ::_exit(3);
          ::raise(SIGTERM);  // ours, the host's, ours: ends there
          ::_exit(host_heard == 3 ? 42 : 4);
        }) == 42);
}

TEST_CASE("train/signals: two builds of the library in one program hear the same signal") {
  // The other build's handler, as far as this one can tell: it stands in for ours and calls it.
  CHECK(in_child([] {
          std::optional<StopOnSignal> stop(std::in_place);
          install_chaining(SIGINT);
          ::raise(SIGINT);
          if (!stop->requested() || host_heard != 1) ::_exit(1);
          stop.reset();
          struct sigaction ours {};  // the other build ends after us and puts back what it found
          ours.sa_sigaction = chained;
          ours.sa_flags = SA_SIGINFO;
          ::sigaction(SIGINT, &ours, nullptr);
          ::raise(SIGINT);  // nobody listens: as without us
        }) == -SIGINT);
}
