// train/trainer.hpp: the training loop over any Trainable and any DataSource: plan, steps, evaluation, early stopping,
// checkpoints.
#pragma once
#include <ftlib/core/stop.hpp>                // StopToken
#include <ftlib/optim/loss_scale.hpp>         // LossScale
#include <ftlib/optim/optimizers.hpp>         // OptimizerConfig
#include <ftlib/optim/schedule.hpp>           // Schedule
#include <ftlib/tensor/step_graph.hpp>        // StepGraph
#include <ftlib/train/data_source.hpp>        // DataSource
#include <ftlib/train/gradient_exchange.hpp>  // GradientExchange
#include <ftlib/train/run_folder.hpp>         // RunFolder, RunState
#include <ftlib/train/signals.hpp>            // StopOnSignal
#include <ftlib/train/trainable.hpp>          // Trainable

#include <filesystem>  // std::filesystem::path
#include <functional>  // std::function
#include <optional>    // std::optional

namespace ft::inline FTLIB_ABI {

class TensorBoardWriter;  // train/screen/tensorboard.hpp

struct TrainerConfig {
  OptimizerConfig optimizer = AdamW{.lr = 5e-4f};  // AdamW, Lion, AdamW8bit, or a host's own
  Schedule schedule = Cosine{.warmup = 0.03f};
  ParameterGroups groups{};  // rates and decay by parameter; empty: one rate, and decay for matrices
  int64_t epochs = 3;
  int64_t max_steps = 0;            // stop there; 0: after the epochs
  int64_t batch_tokens = 512;       // tokens a step, or what else the data count: pictures
  int64_t micro_batch_tokens = 0;   // the same of a forward pass: fewer need less memory; 0: all of the batch
  float clip_norm = 1.0f;           // of all gradients together; 0: no clipping
  float loss_scale = 0;             // to begin with, see LossScale; 0: none, but 65536 for half
  float ema_decay = 0;              // of the average of weights that evaluations see and the run ends with; 0: none
  bool recompute = false;           // forget activations and compute them again: less memory, a third more time
  bool cuda_graph = false;          // launch each step on a GPU as one CUDA graph, see StepGraph
  uint64_t seed = 42;               // of the order of the data, and of what steps draw: dropout, noise
  int64_t evaluate_every = 0;       // steps; 0: at the end of each epoch
  int64_t patience = 0;             // stop after so many evaluations without a new best, and keep the best; 0: never
  std::filesystem::path out_dir{};  // for checkpoint, metrics.jsonl, TensorBoard's files; empty: nothing is written
  int64_t save_every = 0;           // steps; 0: only where the run is stopped before its end
  bool resume = false;              // go on from out_dir's checkpoint, where there is one
  int64_t max_bad_steps = 3;        // losses in a row that are not finite, until the run fails
  bool signals = false;             // SIGINT, SIGTERM and SIGUSR1 stop the run in order, see StopOnSignal
  StopToken stop{};                 // another thread's request to stop
  Communicator* world = nullptr;    // ranks that share each step's micro-batches; null: none, see GradientExchange
  int64_t exchange_bytes = 0;  // of gradients that leave at once, see GradientExchange::share_out; 0: by their size
  bool exact = true;           // any number of ranks, a power of two, ends with the same bits; takes more memory
};

/// Trains `model` on data.
///
/// The weights that it trains are those that are trainable when it is made; after an attach(), detach(), merge() or
/// load_adapter() of the model it refuses to go on, and a new one is needed. A step draws from random numbers that
/// (seed, step, micro-batch) give, so it does not matter what else was drawn.
///
/// With a `world`, every rank makes a Trainer of the same model, data and configuration, and calls the same functions:
/// any number of ranks, a power of two, ends with the same bits. Rank 0 alone writes files; all read a checkpoint.
template <Scalar T, Device D> class Trainer {
 public:
  using Params = std::span<Parameter<T, D>* const>;

  Trainer(Trainable<T, D>& model, TrainerConfig config);
  ~Trainer();
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  /// Called after each step and each evaluation of the held-out data.
  void on_step(std::function<Flow(const Step&)> f) { on_step_ = std::move(f); }
  void on_evaluation(std::function<void(int64_t step, double loss)> f) { on_evaluation_ = std::move(f); }
  /// Called between backward and the update: gradients (Parameter::grad, which may be empty) may be read and changed,
  /// and are measured, clipped and applied afterwards. With a loss scale they are multiplied by it here. On ranks, all
  /// of them ask for it, and do the same.
  void on_gradients(std::function<void(Context<D>&, Params)> f) { on_gradients_ = std::move(f); }
  /// Hears of all runs from now on, beside the files in out_dir.
  void listen(std::shared_ptr<RunListener> listener) { listeners_.push_back(std::move(listener)); }
  /// TensorBoard's file while fit() runs, for what the host shows beside; null without out_dir.
  TensorBoardWriter* board() { return board_; }

  /// Forward, backward and update on one batch, at learning rate `lr`: what fit() does in a loop. A loss or gradient
  /// that is not finite changes nothing; after max_bad_steps such in a row, Error names the batch's records. Error too
  /// where nothing that is trained has got a gradient, or the batch has no target.
  Step step(const Batch& batch, float lr);

  /// The mean loss over the targets of `data`; nothing is recorded or changed. Throws Interrupted on a request to stop.
  double evaluate(const DataSource& data);

  /// Measures a small and a larger micro-batch, forward and backward, and says from them what the run will take.
  /// Weights and random state are as before afterwards. Opens the source once more for each of its passes. Of several
  /// ranks all call it; what lies between them is measured too, and out_dir is made and looked for. Throws Interrupted
  /// on a request to stop.
  Plan plan(const DataSource& train);

  /// Trains on `train` for the configured epochs, looks at `held_out` (may be null, or of another kind) in between, and
  /// returns what it came to. Stops in order, with a checkpoint, where on_step says so, or the stop token, or a signal
  /// where config.signals is set. Before the first step, throws Error for data that the model cannot read and for
  /// weights that are no numbers.
  RunReport fit(const DataSource& train, const DataSource* held_out = nullptr);

 private:
  BatchOptions batches(uint64_t seed) const { return {config_.batch_tokens, config_.micro_batch_tokens, seed}; }
  bool stop_requested() const { return config_.stop.stop_requested() || (signals_ && signals_->requested()); }
  RunParts<T, D> parts() {
    return {model_.context(), params_, *optimizer_, average_ ? &*average_ : nullptr, best_, ranks_.shares()};
  }
  void check_parameters();
  void check_run(const DataSource& train, const DataSource* held_out, const EpochWalk& data);
  void check_weights();
  void count_bad(const Batch& batch, double loss, bool finite, float scale);
  Description describe_run(const DataSource& train, const DataSource* held_out, const EpochWalk& data);
  bool evaluation_due(const EpochWalk& data) const;
  bool evaluate_run(const DataSource& held_out, RunReport& report);
  void begin_listening();
  void end_run(RunReport& report);

  Trainable<T, D>& model_;
  TrainerConfig config_;
  std::unique_ptr<Optimizer<T, D>> optimizer_;
  GradientExchange<T, D> ranks_;
  StepGraph<D> graph_;
  LossScale loss_scale_;
  std::vector<Parameter<T, D>*> params_;           // those that are trained
  std::vector<std::shared_ptr<const void>> held_;  // what they live in
  std::optional<WeightAverage<T, D>> average_;
  std::vector<Tensor<T, D>> best_;  // the best weights, where patience asks for them
  RunState state_;
  bool checked_ = false;  // weights are finite
  std::vector<std::shared_ptr<RunListener>> listeners_;
  std::vector<std::shared_ptr<RunListener>> files_;  // while fit() runs with an out_dir
  TensorBoardWriter* board_ = nullptr;
  const StopOnSignal* signals_ = nullptr;  // while fit() runs with config.signals
  std::function<Flow(const Step&)> on_step_;
  std::function<void(int64_t, double)> on_evaluation_;
  std::function<void(Context<D>&, Params)> on_gradients_;
};

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/train/trainer.inl.hpp>
#endif
