// train/screen/progress.hpp: the live line of a run, the memory of the process, and numbers written for people.
#pragma once
#include <ftlib/core/dtype.hpp>  // int64_t
#include <ftlib/core/error.hpp>  // str

#include <sys/ioctl.h>     // ioctl, TIOCGWINSZ
#include <sys/resource.h>  // getrusage
#include <unistd.h>        // isatty
#include <chrono>          // std::chrono::steady_clock
#include <cmath>           // std::isfinite, std::llround
#include <cstdio>          // std::snprintf
#include <cstdlib>         // std::getenv
#include <fstream>         // std::ifstream
#include <functional>      // std::function
#include <iostream>        // std::cerr
#include <optional>        // std::optional
#include <string>          // std::string
#include <string_view>     // std::string_view
#include <utility>         // std::move

namespace ft::inline FTLIB_ABI {

namespace detail {
template <class... Args> std::string printed(const char* format, Args... args) {
  char text[64];
  std::snprintf(text, sizeof text, format, args...);
  return text;
}
/// Three digits and a unit: value / 1000^k below 1000.
inline std::string with_unit(double value, const char* const (&units)[5]) {
  std::size_t k = 0;
  while (std::abs(value) >= 999.5 && k < 4) {
    value /= 1000;
    ++k;
  }
  const int decimals = k == 0 || std::abs(value) >= 99.95 ? 0 : std::abs(value) >= 9.995 ? 1 : 2;
  return printed("%.*f", decimals, value) + units[k];
}
}  // namespace detail

/// "512 B", "1.23 MB", "3.17 GB": powers of 1000.
inline std::string pretty_bytes(int64_t bytes) {
  return detail::with_unit(static_cast<double>(bytes), {" B", " kB", " MB", " GB", " TB"});
}
/// "512", "4.88 M", "135 M": powers of 1000.
inline std::string pretty_count(int64_t count) {
  return detail::with_unit(static_cast<double>(count), {"", " k", " M", " G", " T"});
}
/// "0.4 s", "42 s", "3:05", "1:02:03"; "?" where it is not known.
inline std::string pretty_duration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0 || seconds > 1e9) return "?";
  if (seconds < 9.95) return detail::printed("%.1f s", seconds);
  const long long s = std::llround(seconds);
  if (s < 60) return detail::printed("%lld s", s);
  if (s < 3600) return detail::printed("%lld:%02lld", s / 60, s % 60);
  return detail::printed("%lld:%02lld:%02lld", s / 3600, s / 60 % 60, s % 60);
}

/// Bytes of main memory that this process holds, and the most it ever held; 0 where the system does not say.
struct ProcessMemory {
  int64_t resident = 0;
  int64_t peak = 0;
};
/// Reads /proc/self/status (VmRSS, VmHWM); elsewhere the peak is getrusage's and `resident` is 0.
inline ProcessMemory process_memory() {
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

/// What the live line shows. Empty or 0 leaves a figure out.
struct ProgressState {
  int64_t step = 0;   // steps done
  int64_t steps = 0;  // of the whole run
  std::optional<double> loss = {};
  std::optional<double> lr = {};
  double tokens_per_second = 0;
  int64_t memory = 0;  // bytes
  const char* unit = "tokens";
};

/// Shows how a run goes. On a terminal one line that is written over; elsewhere (a file, a pipe) a plain line now and
/// then. The time left follows from the pace since construction. Not for several threads at once.
class Progress {
 public:
  enum class Style { automatic, terminal, plain };
  struct Options {
    Style style = Style::automatic;    // a terminal where the stream is std::cout or std::cerr on one
    double plain_every_seconds = 30;   // between two plain lines, unless steps say so earlier
    int64_t plain_every_steps = 0;     // 0: by time alone
    int64_t first_step = 0;            // steps done before, in a resumed run
    std::function<double()> now = {};  // seconds; a steady clock where empty
  };

  explicit Progress(std::ostream& out = std::cerr) : Progress(out, Options{}) {}
  Progress(std::ostream& out, Options options) : out_(out), options_(std::move(options)) {
    if (!options_.now)
      options_.now = [] {
        return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
      };
    start_ = options_.now();
    const int descriptor = &out == &std::cout ? STDOUT_FILENO : &out == &std::cerr ? STDERR_FILENO : -1;
    const char* const term = std::getenv("TERM");
    live_ =
        options_.style == Style::terminal || (options_.style == Style::automatic && descriptor >= 0 &&
                                              isatty(descriptor) != 0 && !(term && std::string_view(term) == "dumb"));
    winsize size{};
    if (live_ && descriptor >= 0 && ioctl(descriptor, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) width_ = size.ws_col;
  }
  ~Progress() {
    try {
      finish();
    } catch (...) {  // a stream that throws: nothing more can be shown
    }
  }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// Takes the state after a step; shows it if it is time to. The first and the last step are always shown.
  void update(const ProgressState& state) {
    const double now = options_.now();
    last_ = line(state, now);
    pending_ = true;
    const bool due =
        live_ ? now - shown_at_ >= 0.1
              : now - shown_at_ >= options_.plain_every_seconds ||
                    (options_.plain_every_steps > 0 && state.step - shown_step_ >= options_.plain_every_steps);
    if (due || !shown_ || state.step >= state.steps) {
      show();
      shown_ = true;
      shown_at_ = now;
      shown_step_ = state.step;
    }
  }

  /// A line of its own, above the live one.
  void message(std::string_view text) {
    if (live_ && shown_) out_ << "\r\x1b[K";
    out_ << text << '\n';
    if (live_ && shown_) show();
    out_ << std::flush;
  }

  /// Shows the last state, if it was not yet, and ends the line.
  void finish() {
    if (pending_) show();
    if (live_ && shown_) out_ << '\n' << std::flush;
    shown_ = false;
  }

  /// "step 120/400 (30 %)  loss 1.234  lr 4.8e-04  254 tokens/s  1.05 GB  3:05 left", as update() shows it.
  std::string line(const ProgressState& s, double now) const {
    std::string text = str("step ", s.step, '/', s.steps);
    if (s.steps > 0) text += str(" (", 100 * s.step / s.steps, " %)");
    if (s.loss) text += detail::printed("  loss %.4f", *s.loss);
    if (s.lr) text += detail::printed("  lr %.2e", *s.lr);
    if (s.tokens_per_second > 0) text += detail::printed("  %.0f ", s.tokens_per_second) + s.unit + "/s";
    if (s.memory > 0) text += "  " + pretty_bytes(s.memory);
    const auto done = static_cast<double>(s.step - options_.first_step);
    if (s.step >= s.steps) text += "  " + pretty_duration(now - start_);
    else if (done > 0)
      text += "  " + pretty_duration((now - start_) / done * static_cast<double>(s.steps - s.step)) + " left";
    return text;
  }

 private:
  void show() {
    if (live_)  // a line that wraps cannot be written over
      out_ << '\r' << last_.substr(0, static_cast<std::size_t>(width_ - 1)) << "\x1b[K" << std::flush;
    else out_ << last_ << '\n' << std::flush;
    pending_ = false;
  }

  std::ostream& out_;
  Options options_;
  bool live_ = false;
  int width_ = 100;
  bool shown_ = false, pending_ = false;
  int64_t shown_step_ = 0;
  double start_ = 0, shown_at_ = 0;
  std::string last_;
};

}  // namespace ft::inline FTLIB_ABI
