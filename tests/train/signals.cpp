// tests/train/signals.cpp: a signal sets a flag once, a second one ends the program, handlers are put back.
#include <doctest/doctest.h>
#include <ftlib/train/signals.hpp>

#include <sys/wait.h>
#include <unistd.h>

using namespace ft;

namespace {
/// How a child that runs `body` ended: its exit status, or minus the signal that ended it.
template <class Body> int in_child(Body body) {
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    std::signal(SIGINT, SIG_DFL);  // doctest has handlers of its own
    std::signal(SIGTERM, SIG_DFL);
    body();
    ::_exit(0);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}
}  // namespace

TEST_CASE("train/signals: the first SIGINT or SIGTERM is a request") {
  for (const int signal : {SIGINT, SIGTERM}) {
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
