// train/screen/progress.hpp: the live line of a run, the memory of the process, and numbers written for people.
#pragma once
#include <ftlib/core/dtype.hpp>    // int64_t
#include <ftlib/core/message.hpp>  // pretty_bytes

#include <sys/resource.h>  // getrusage
#include <functional>      // std::function
#include <iostream>        // std::cerr
#include <optional>        // std::optional
#include <string>          // std::string
#include <string_view>     // std::string_view

namespace ft::inline FTLIB_ABI {

/// Bytes of main memory that this process holds, and the most it ever held; 0 where the system does not say.
struct ProcessMemory {
  int64_t resident = 0;
  int64_t peak = 0;
};
/// Reads /proc/self/status (VmRSS, VmHWM); elsewhere the peak is getrusage's and `resident` is 0.
ProcessMemory process_memory();

/// What the live line shows. Empty or 0 leaves a figure out.
struct ProgressState {
  int64_t step = 0;   // steps done
  int64_t steps = 0;  // of the whole run
  std::optional<double> loss = {};
  std::optional<double> lr = {};
  double tokens_per_second = 0;
  int64_t memory = 0;  // bytes
  const char* unit = "tokens";
  std::string_view what = "step";  // what is counted: "base model: answers"
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
  Progress(std::ostream& out, Options options);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// Takes the state after a step; shows it if it is time to. The first and the last step are always shown.
  void update(const ProgressState& state);

  /// A line of its own, above the live one.
  void message(std::string_view text);

  /// Shows the last state, if it was not yet, and ends the line.
  void finish();

  /// "step 120/400 (30 %)  loss 1.234  lr 4.8e-04  254 tokens/s  1.05 GB  3:05 left", as update() shows it.
  std::string line(const ProgressState& s, double now) const;

 private:
  void show();

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

#if FTLIB_HEADER_ONLY
#include <ftlib/train/screen/progress.inl.hpp>
#endif
