// train/run.hpp: what a run tells: its plan, each step, how it ended; and who may listen.
#pragma once
#include <ftlib/core/dtype.hpp>  // int64_t

#include <limits>   // std::numeric_limits
#include <ostream>  // std::ostream
#include <string>   // std::string
#include <vector>   // std::vector

namespace ft::inline FTLIB_ABI {

/// What the host says after a step.
enum class Flow { go, stop };

/// A finished step.
struct Step {
  int64_t step = 0, steps = 0;   // this one, from 1; of the run, 0 where the data's length is not known
  double loss = 0;               // mean over its target tokens
  float lr = 0, grad_norm = 0;   // the norm before clipping
  int64_t tokens = 0;            // read in this step
  double tokens_per_second = 0;  // of this session so far
  int64_t memory = 0;            // bytes of the process; on a GPU, of the tensors there
  bool skipped = false;          // the loss or a gradient was not finite: nothing was changed
  const char* unit = "tokens";   // what the data counts

  friend std::ostream& operator<<(std::ostream& out, const Step& s);
};

/// What a run is expected to take, from two small passes before its first step.
struct Plan {
  int64_t steps = 0, tokens = 0;  // of the run; 0 where the data's length is not known
  int64_t weight_bytes = 0;       // frozen and trained weights
  int64_t state_bytes = 0;        // gradients and optimizer, of one rank
  int64_t optimizer_bytes = 0;    // the optimizer's part of it, with averages: what ranks share out
  int ranks = 1;
  double exchange_bytes = 0, exchange_seconds = 0;  // of gradients and weights, of one rank in a step
  double bandwidth = 0, latency = 0;                // measured, of the slowest pair of ranks: bytes a second, seconds
  bool saves = false, saves_together = false;       // checkpoints: the ranks side by side, or rank 0 for all
  int64_t activation_bytes = 0;                     // of the largest micro-batch
  int64_t peak_bytes = 0;                           // of the process; on a GPU, of the tensors there
  double seconds = 0;
  const char* unit = "tokens";  // what the data counts

  friend std::ostream& operator<<(std::ostream& out, const Plan& p);
};

/// A point of a curve over steps.
struct CurvePoint {
  double x, y;
};

/// What a run came to.
struct RunReport {
  int64_t steps = 0;                                           // done, earlier sessions' among them
  bool finished = false;                                       // false: stopped by the host or a signal, and saved
  bool stopped_early = false;                                  // patience ran out
  double best_loss = std::numeric_limits<double>::infinity();  // of the held-out data
  int64_t best_step = 0;
  double seconds = 0, tokens_per_second = 0;          // of this session
  int64_t peak_bytes = 0;                             // of the process; on a GPU, of the tensors there
  std::vector<CurvePoint> train_loss, held_out_loss;  // over steps, this session's
  std::vector<std::string> warnings;  // what the host should say: steps in which nothing was learned, ...
};

/// Hears of a run: a log file, TensorBoard, a host's dashboard. What it throws ends the run, but for its weights.
struct RunListener {
  virtual ~RunListener() = default;
  /// Before the first step of a session; `done` steps were made in earlier ones.
  virtual void begin(int64_t done) = 0;
  virtual void step(const Step& s) = 0;
  virtual void evaluation(int64_t step, double loss) = 0;
};

/// What a checkpoint holds of a run beside weights, optimizer and averages.
struct RunState {
  int64_t step = 0;              // steps done
  int64_t epoch = 0, batch = 0;  // where the data stand: batches read in this epoch
  int64_t best_step = 0, since_best = 0;
  double best_loss = std::numeric_limits<double>::infinity();
  int64_t bad_steps = 0;        // in a row
  int64_t still_steps = 0;      // whose gradients were all exactly 0
  float loss_scale = 1;         //
  int64_t good_steps = 0;       // since the loss scale changed
  bool evaluation_due = false;  // it was stopped before the evaluation that belongs to this step
  std::string best = {};        // file of the best weights, in the run's folder; empty: none
};

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/train/run.inl.hpp>
#endif
