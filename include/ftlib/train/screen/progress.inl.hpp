// train/screen/progress.inl.hpp: the bodies of train/screen/progress.hpp.
#pragma once
#include <ftlib/core/error.hpp>  // str
#include <ftlib/train/screen/progress.hpp>

#include <sys/ioctl.h>  // ioctl, TIOCGWINSZ
#include <unistd.h>     // isatty
#include <chrono>       // std::chrono::steady_clock
#include <cmath>        // std::isfinite, std::llround
#include <cstdio>       // std::snprintf
#include <cstdlib>      // std::getenv
#include <fstream>      // std::ifstream
#include <utility>      // std::move

namespace ft::inline FTLIB_ABI {

FTLIB_INLINE ProcessMemory process_memory() {
  ProcessMemory memory;
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmRSS:")) memory.resident = 1024 * std::atoll(line.c_str() + 6);
    if (line.starts_with("VmHWM:")) memory.peak = 1024 * std::atoll(line.c_str() + 6);
  }
  rusage use{};
  if (memory.peak == 0 && getrusage(RUSAGE_SELF, &use) == 0) {
#if defined(__APPLE__)
    memory.peak = static_cast<int64_t>(use.ru_maxrss);  // bytes there, KiB elsewhere
#else
    memory.peak = 1024 * static_cast<int64_t>(use.ru_maxrss);
#endif
  }
  return memory;
}

FTLIB_INLINE Progress::Progress(std::ostream& out, Options options) : out_(out), options_(std::move(options)) {
  if (!options_.now)
    options_.now = [] {
      return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
    };
  start_ = options_.now();
  const int descriptor = &out == &std::cout ? STDOUT_FILENO : &out == &std::cerr ? STDERR_FILENO : -1;
  const char* const term = std::getenv("TERM");
  live_ = options_.style == Style::terminal || (options_.style == Style::automatic && descriptor >= 0 &&
                                                isatty(descriptor) != 0 && !(term && std::string_view(term) == "dumb"));
  winsize size{};
  if (live_ && descriptor >= 0 && ioctl(descriptor, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) width_ = size.ws_col;
}

FTLIB_INLINE Progress::~Progress() {
  try {
    finish();
  } catch (...) {  // a stream that throws: nothing more can be shown
  }
}

FTLIB_INLINE void Progress::update(const ProgressState& state) {
  const double now = options_.now();
  last_ = line(state, now);
  pending_ = true;
  const bool due = live_
                       ? now - shown_at_ >= 0.1
                       : now - shown_at_ >= options_.plain_every_seconds ||
                             (options_.plain_every_steps > 0 && state.step - shown_step_ >= options_.plain_every_steps);
  if (due || !shown_ || state.step >= state.steps) {
    show();
    shown_ = true;
    shown_at_ = now;
    shown_step_ = state.step;
  }
}

FTLIB_INLINE void Progress::message(std::string_view text) {
  if (live_ && shown_) out_ << "\r\x1b[K";
  out_ << text << '\n';
  if (live_ && shown_) show();
  out_ << std::flush;
}

FTLIB_INLINE void Progress::finish() {
  if (pending_) show();
  if (live_ && shown_) out_ << '\n' << std::flush;
  shown_ = false;
}

FTLIB_INLINE std::string Progress::line(const ProgressState& s, double now) const {
  std::string text = str(s.what, ' ', s.step, '/', s.steps);
  if (s.steps > 0) text += str(" (", 100 * s.step / s.steps, " %)");
  if (s.loss) text += printed("  loss %.4f", *s.loss);
  if (s.lr) text += printed("  lr %.2e", *s.lr);
  if (s.tokens_per_second > 0) text += printed("  %.0f ", s.tokens_per_second) + s.unit + "/s";
  if (s.memory > 0) text += "  " + pretty_bytes(s.memory);
  const auto done = static_cast<double>(s.step - options_.first_step);
  if (s.step >= s.steps) text += "  " + pretty_duration(now - start_);
  else if (done > 0)
    text += "  " + pretty_duration((now - start_) / done * static_cast<double>(s.steps - s.step)) + " left";
  return text;
}

FTLIB_INLINE void Progress::show() {
  if (live_)  // a line that wraps cannot be written over
    out_ << '\r' << last_.substr(0, static_cast<std::size_t>(width_ - 1)) << "\x1b[K" << std::flush;
  else out_ << last_ << '\n' << std::flush;
  pending_ = false;
}

}  // namespace ft::inline FTLIB_ABI
