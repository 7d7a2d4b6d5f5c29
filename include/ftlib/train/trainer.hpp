// train/trainer.hpp: the training loop, for any model and any data: plan, steps, evaluation, early stopping,
// checkpoints.
#pragma once
#include <ftlib/autograd/tape.hpp>             // NoGrad
#include <ftlib/optim/adamw.hpp>               // AdamW, Optimizer
#include <ftlib/optim/clip.hpp>                // StepCheck, zero_grad
#include <ftlib/optim/ema.hpp>                 // WeightAverage
#include <ftlib/optim/loss_scale.hpp>          // LossScale
#include <ftlib/optim/schedule.hpp>            // Schedule
#include <ftlib/tensor/step_graph.hpp>         // StepGraph
#include <ftlib/train/checkpoint.hpp>          // save_checkpoint, load_checkpoint
#include <ftlib/train/metrics_log.hpp>         // MetricsLog
#include <ftlib/train/screen/plot.hpp>         // PlotSeries
#include <ftlib/train/screen/progress.hpp>     // Progress, process_memory
#include <ftlib/train/screen/tensorboard.hpp>  // TensorBoardWriter
#include <ftlib/train/signals.hpp>             // StopOnSignal

#include <chrono>      // std::chrono::steady_clock
#include <filesystem>  // std::filesystem::path
#include <functional>  // std::function
#include <limits>      // std::numeric_limits
#include <optional>    // std::optional

namespace ft::inline FTLIB_ABI {

struct TrainerConfig {
  AdamW optimizer = {.lr = 5e-4f};
  Schedule schedule = Cosine{.warmup = 0.03f};
  int64_t epochs = 3;
  int64_t max_steps = 0;            // stop there; 0: after the epochs
  int64_t batch_tokens = 512;       // tokens a step
  int64_t micro_batch_tokens = 0;   // tokens a forward pass: fewer need less memory; 0: all of the batch
  float clip_norm = 1.0f;           // of all gradients together; 0: no clipping
  float loss_scale = 0;             // to begin with, see LossScale; 0: none, but 65536 for half
  float ema_decay = 0;              // of the average of weights that evaluations see and the run ends with; 0: none
  bool recompute = false;           // forget activations and compute them again: less memory, a third more time
  bool cuda_graph = false;          // launch each step on a GPU as one CUDA graph, see StepGraph
  uint64_t seed = 42;               // of the order of the data
  int64_t evaluate_every = 0;       // steps; 0: at the end of each epoch
  int64_t patience = 0;             // stop after so many evaluations without a new best, and keep the best; 0: never
  std::filesystem::path out_dir{};  // for checkpoint, metrics.jsonl, TensorBoard's files; empty: nothing is written
  int64_t save_every = 0;           // steps; 0: only where the run is stopped before its end
  bool resume = false;              // go on from out_dir's checkpoint, where there is one
  int64_t max_bad_steps = 3;        // losses in a row that are not finite, until the run fails
};

/// What the host says after a step.
enum class Flow { go, stop };

/// A finished step.
struct Step {
  int64_t step, steps;       // this one, from 1; of the run
  double loss;               // mean over its target tokens
  float lr, grad_norm;       // the norm before clipping
  int64_t tokens;            // read in this step
  double tokens_per_second;  // of this session so far
  int64_t memory;            // bytes of the process; on a GPU, of the tensors there
  bool skipped;              // the loss or a gradient was not finite: nothing was changed

  friend std::ostream& operator<<(std::ostream& out, const Step& s) {
    return out << "step " << s.step << '/' << s.steps << "  loss " << s.loss << "  lr " << s.lr << "  norm "
               << s.grad_norm << "  " << static_cast<int64_t>(s.tokens_per_second) << " tokens/s"
               << (s.skipped ? "  skipped: not finite" : "");
  }
};

/// What a run is expected to take, from two small passes before its first step.
struct Plan {
  int64_t steps = 0, tokens = 0;  // of the run
  int64_t weight_bytes = 0;       // frozen and trained weights
  int64_t state_bytes = 0;        // gradients and optimizer
  int64_t activation_bytes = 0;   // of the largest micro-batch
  int64_t peak_bytes = 0;         // of the process; on a GPU, of the tensors there
  double seconds = 0;
  const char* unit = "tokens";  // what the data counts

  friend std::ostream& operator<<(std::ostream& out, const Plan& p) {
    return out << "plan: " << p.steps << " steps, " << pretty_count(p.tokens) << ' ' << p.unit << "; memory "
               << pretty_bytes(p.peak_bytes) << " (weights " << pretty_bytes(p.weight_bytes)
               << ", gradients and optimizer " << pretty_bytes(p.state_bytes) << ", activations "
               << pretty_bytes(p.activation_bytes) << "); about " << pretty_duration(p.seconds) << '\n';
  }
};

/// What a run came to.
struct RunReport {
  int64_t steps = 0;                                           // done, earlier sessions' among them
  bool finished = false;                                       // false: stopped by the host or a signal, and saved
  bool stopped_early = false;                                  // patience ran out
  double best_loss = std::numeric_limits<double>::infinity();  // of the held-out data
  int64_t best_step = 0;
  double seconds = 0, tokens_per_second = 0;                 // of this session
  int64_t peak_bytes = 0;                                    // of the process; on a GPU, of the tensors there
  std::vector<PlotSeries::Point> train_loss, held_out_loss;  // over steps, this session's
};

/// Fine-tunes `model` on data.
///
/// A Model has context(), parameters() (a vector of pointers; the trainable ones are trained) and
/// loss_sum(micro, recompute) -> scalar. A Data has size(), plan(batch_tokens, seed, epoch) -> batches of indices, and
/// batch(indices, micro_batch_tokens) -> {micro, targets, tokens, names}; see text::Dataset. What it counts as tokens
/// may be something else, which Data::unit names.
template <class Model> class Trainer {
 public:
  using T = typename Model::value_type;
  using D = typename Model::device_type;

  Trainer(Model& model, TrainerConfig config)
      : model_(model), config_(std::move(config)), optimizer_(config_.optimizer), graph_(config_.cuda_graph) {
    const auto positive = [](const char* name, int64_t value) {
      if (value < 1) throw Error(str("trainer: ", name, " is ", value), "it must be 1 or more.");
    };
    positive("epochs", config_.epochs);
    positive("batch_tokens", config_.batch_tokens);
    if (config_.micro_batch_tokens == 0) config_.micro_batch_tokens = config_.batch_tokens;
    if (config_.loss_scale == 0 && std::same_as<T, half>) config_.loss_scale = 65536;
    loss_scale_ = LossScale(config_.loss_scale);
    for (Parameter<T, D>* w : model.parameters())
      if (w->trainable) params_.push_back(w);
    if (params_.empty())
      throw Error("trainer: the model has nothing to train", "attach an adapter, or call train_all().");
    if (config_.ema_decay > 0) average_.emplace(model.context(), params_, config_.ema_decay);
  }

  /// Called after each step and each evaluation of the held-out data.
  void on_step(std::function<Flow(const Step&)> f) { on_step_ = std::move(f); }
  void on_evaluation(std::function<void(int64_t step, double loss)> f) { on_evaluation_ = std::move(f); }

  /// TensorBoard's file while fit() runs, for what the host shows beside; null without out_dir.
  TensorBoardWriter* board() { return log_ ? &log_->board : nullptr; }

  /// Forward, backward and update on one batch, at the current learning rate: what fit() does in a loop. A loss or
  /// gradient that is not finite changes nothing; after max_bad_steps such in a row, Error names the batch's records.
  template <class Batch> Step step(const Batch& batch, float lr) {
    Context<D>& ctx = model_.context();
    const float scale = loss_scale_.value();
    Verdict found;
    graph_.run(ctx, [&] {
      StepCheck<D> check(ctx);  // loss and norm stay on the device until the update has been asked for
      zero_grad(params_);
      for (const auto& micro : batch.micro) {  // sums over tokens, so micro-batches of any size weigh right
        Tape<D> tape(ctx);
        const auto nll = model_.loss_sum(micro, config_.recompute);
        using Loss = typename decltype(nll)::value_type;
        check.add_loss(ctx, nll);
        if (nll.node())
          tape.backward(nll, Tensor<Loss, D>(ctx, nll.shape(), {Loss(scale / static_cast<float>(batch.targets))}));
      }
      check.measure(ctx, params_, config_.clip_norm, scale);
      found = optimizer_.step(ctx, params_, lr, check);
    });
    zero_grad(params_);
    loss_scale_.update(found.finite);
    const double loss = found.loss / static_cast<double>(std::max<int64_t>(1, batch.targets));
    const bool overflow = std::isfinite(loss) && scale > 1;  // of gradients that the scale made too large
    if (found.finite) bad_steps_ = 0;
    else if (!overflow) ++bad_steps_;
    if (bad_steps_ >= config_.max_bad_steps) {
      std::string names;
      for (std::size_t i = 0; i < batch.names.size() && i < 16; ++i) names += (i ? ", " : "") + batch.names[i];
      throw Error(str("train: ", bad_steps_,
                      " steps in a row had a loss or gradient that is not finite; the last one's records: ", names),
                  "lower the learning rate, or look at these records.");
    }
    return {.step = 0,
            .steps = 0,
            .loss = loss,
            .lr = lr,
            .grad_norm = found.norm,
            .tokens = batch.tokens,
            .tokens_per_second = 0,
            .memory = 0,
            .skipped = !found.finite};
  }

  /// The mean loss over the target tokens of `data`; nothing is recorded or changed.
  template <class Data> double evaluate(const Data& data) {
    const NoGrad off(model_.context());
    double loss = 0;
    int64_t targets = 0;
    for (const auto& items : data.plan(config_.batch_tokens, 0, 0)) {
      const auto batch = data.batch(items, config_.micro_batch_tokens);
      for (const auto& micro : batch.micro)
        loss += static_cast<double>(model_.loss_sum(micro, false).item(model_.context()));
      targets += batch.targets;
    }
    return loss / static_cast<double>(std::max<int64_t>(1, targets));
  }

  /// Measures a small and a larger micro-batch, forward and backward, and says from them what the run will take.
  /// Weights and random state are as before afterwards.
  template <class Data> Plan plan(const Data& train) {
    Context<D>& ctx = model_.context();
    Plan plan;
    const auto batches = all_batches(train);
    plan.steps = static_cast<int64_t>(batches.size());
    int64_t largest = 0;
    std::size_t probe = 0;
    for (std::size_t i = 0; i < batches.size(); ++i) {
      const auto batch = train.batch(batches[i], config_.micro_batch_tokens);
      plan.tokens += batch.tokens;
      for (const auto& micro : batch.micro)
        if (micro.tokens() > largest) {
          largest = micro.tokens();
          probe = i;
        }
    }
    for (const Parameter<T, D>* w : model_.parameters()) plan.weight_bytes += w->bytes();
    for (const Parameter<T, D>* w : params_)  // the gradient, and the average where there is one
      plan.state_bytes += (average_ ? 2 : 1) * w->count() * static_cast<int64_t>(sizeof(accumulate_t<T>));
    plan.state_bytes += optimizer_.state_bytes(params_);
    if constexpr (requires { Data::unit; }) plan.unit = Data::unit;

    const uint64_t position = ctx.random().position();
    const auto measure = [&](int64_t most_tokens) {  // one micro-batch of the probe, cut to about so many tokens
      const auto batch = train.batch(batches[probe], most_tokens);
      const auto& micro = batch.micro.front();
      const auto begin = std::chrono::steady_clock::now();
      const int64_t before = ctx.memory().now;
      ctx.reset_peak();
      Tape<D> tape(ctx);
      const auto nll = model_.loss_sum(micro, config_.recompute);
      if (nll.node()) tape.backward(nll);
      ctx.synchronize();
      struct {
        double tokens, seconds, bytes;
      } result{static_cast<double>(micro.tokens()),
               std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(),
               static_cast<double>(ctx.memory().peak - before)};
      zero_grad(params_);
      ctx.random().seek(position);
      return result;
    };
    measure(largest / 8);  // touches every weight once, which a mapped file is read for
    if constexpr (!std::same_as<D, Cpu>) measure(largest / 2);  // loads kernels, and chooses them by shape
    const auto small = measure(largest / 8), large = measure(largest / 2);
    const double steps_of = large.tokens > small.tokens ? large.tokens - small.tokens : 1;
    const double per_token = std::max(0.0, (large.bytes - small.bytes) / steps_of);
    plan.activation_bytes =
        static_cast<int64_t>(large.bytes + per_token * (static_cast<double>(largest) - large.tokens));
    plan.seconds = large.seconds / large.tokens * static_cast<double>(plan.tokens);
    plan.peak_bytes = ctx.memory().now + plan.state_bytes + plan.activation_bytes;
    if constexpr (std::same_as<D, Cpu>) plan.peak_bytes += process_memory().resident - ctx.memory().reserved;
    return plan;
  }

  /// Trains on `train` for the configured epochs, looks at `held_out` (may be null) in between, and returns what it
  /// came to. Stops in order, with a checkpoint, where on_step says so or SIGINT or SIGTERM comes.
  template <class Data> RunReport fit(const Data& train, const Data* held_out = nullptr) {
    const StopOnSignal signals;
    const auto batches = all_batches(train);
    const auto steps = static_cast<int64_t>(batches.size());
    RunReport report;
    int64_t done = begin_run(report, train, steps), since_best = report.best_step > 0 ? since_best_ : 0;
    report.stopped_early = config_.patience > 0 && since_best >= config_.patience;
    log_ = open_log(done);
    const auto started = std::chrono::steady_clock::now();
    const auto seconds = [&] {
      return std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
    };
    int64_t tokens = 0;
    bool stopped = false;

    while (done < steps && !report.stopped_early && !stopped) {
      const auto batch = train.batch(batches[static_cast<std::size_t>(done)], config_.micro_batch_tokens);
      Step s = step(batch, config_.optimizer.lr * config_.schedule.multiplier(done, steps));
      tokens += s.tokens;
      s.step = ++done;
      if (average_ && !s.skipped) average_->update(model_.context(), done);
      s.steps = steps;
      s.tokens_per_second = static_cast<double>(tokens) / seconds();
      s.memory = memory().resident;
      report.train_loss.push_back({static_cast<double>(done), s.loss});
      if (log_) log_->step(s);
      if (on_step_ && on_step_(s) == Flow::stop) stopped = true;
      stopped = stopped || signals.requested();
      if (held_out && evaluation_due(done, train)) {
        since_best = evaluate_run(*held_out, done, report, since_best);
        report.stopped_early = config_.patience > 0 && since_best >= config_.patience;
      }
      const bool save = stopped || (config_.save_every > 0 && done % config_.save_every == 0);
      if (save || (done == steps && config_.save_every > 0)) save_run(report, train, steps, done, since_best);
    }
    report.steps = done;
    report.finished = !stopped || done == steps;
    report.seconds = seconds();
    report.tokens_per_second = static_cast<double>(tokens) / std::max(1e-9, report.seconds);
    report.peak_bytes = memory().peak;
    if (report.finished) end_run(report);
    log_.reset();
    return report;
  }

 private:
  /// metrics.jsonl and TensorBoard's event file of a run.
  struct Log {
    MetricsLog lines;
    TensorBoardWriter board;

    void step(const Step& s) {
      lines.write({{"step", s.step},
                   {"loss", s.loss},
                   {"lr", s.lr},
                   {"grad_norm", s.grad_norm},
                   {"tokens", s.tokens},
                   {"tokens_per_second", s.tokens_per_second},
                   {"memory", s.memory},
                   {"skipped", s.skipped}});
      board.scalar("train/loss", s.step, s.loss);
      board.scalar("train/lr", s.step, static_cast<double>(s.lr));
      board.scalar("train/grad_norm", s.step, static_cast<double>(s.grad_norm));
      board.scalar("train/tokens_per_second", s.step, s.tokens_per_second);
    }
    void evaluation(int64_t step, double loss) {
      lines.write({{"step", step}, {"held_out_loss", loss}});
      board.scalar("held_out/loss", step, loss);
    }
  };

  /// The average in the weights' place for as long as it lives.
  struct AveragedWeights {
    std::optional<WeightAverage<T, D>>& average;
    explicit AveragedWeights(std::optional<WeightAverage<T, D>>& a) : average(a) { swap(); }
    ~AveragedWeights() { swap(); }
    AveragedWeights(const AveragedWeights&) = delete;
    AveragedWeights& operator=(const AveragedWeights&) = delete;
    void swap() {
      if (average) average->swap();
    }
  };

  /// What Step and RunReport tell.
  ProcessMemory memory() const {
    if constexpr (std::same_as<D, Cpu>) {
      return process_memory();
    } else {
      const MemoryUse use = model_.context().memory();
      return {use.now, use.peak};
    }
  }
  template <class Data> std::vector<std::vector<std::size_t>> all_batches(const Data& data) const {
    std::vector<std::vector<std::size_t>> all;
    for (int64_t epoch = 0; epoch < config_.epochs; ++epoch)
      for (auto& items : data.plan(config_.batch_tokens, config_.seed, epoch)) all.push_back(std::move(items));
    if (config_.max_steps > 0 && static_cast<int64_t>(all.size()) > config_.max_steps)
      all.resize(static_cast<std::size_t>(config_.max_steps));
    return all;
  }
  template <class Data> bool evaluation_due(int64_t done, const Data& train) {
    if (config_.evaluate_every > 0) return done % config_.evaluate_every == 0;
    if (epoch_ends_.empty())  // an epoch's number of batches differs by how its lengths fall
      for (int64_t epoch = 0, at = 0; epoch < config_.epochs; ++epoch)
        epoch_ends_.push_back(at += static_cast<int64_t>(train.plan(config_.batch_tokens, config_.seed, epoch).size()));
    return std::find(epoch_ends_.begin(), epoch_ends_.end(), done) != epoch_ends_.end();
  }

  std::optional<Log> open_log(int64_t done) const {
    if (config_.out_dir.empty()) return std::nullopt;
    const auto lines = config_.out_dir / "metrics.jsonl", board = config_.out_dir / "tensorboard";
    if (done > 0) return Log{MetricsLog::resume(lines, done), TensorBoardWriter::resume(board, done)};
    return Log{MetricsLog::create(lines), TensorBoardWriter(board)};
  }

  template <class Data>
  int64_t evaluate_run(const Data& held_out, int64_t done, RunReport& report, int64_t since_best) {
    const AveragedWeights in_place(average_);
    const double loss = evaluate(held_out);
    report.held_out_loss.push_back({static_cast<double>(done), loss});
    if (log_) log_->evaluation(done, loss);
    if (on_evaluation_) on_evaluation_(done, loss);
    if (!(loss < report.best_loss)) return since_best + 1;
    report.best_loss = loss;
    report.best_step = done;
    if (config_.patience > 0) keep_best();
    return 0;
  }

  // The best weights so far, where patience asks for them: in memory, and on the disk once a checkpoint is written.
  void keep_best() {
    best_.clear();
    for (const Parameter<T, D>* w : params_) best_.push_back(clone(model_.context(), w->value));
  }

  std::filesystem::path checkpoint() const { return config_.out_dir / "checkpoint"; }

  /// What a resumed run must agree in to end as an uninterrupted one.
  template <class Data> Json fingerprint(const Data& train, int64_t steps) const {
    Json run{{"steps", steps},
             {"examples", train.size()},
             {"batch_tokens", config_.batch_tokens},
             {"micro_batch_tokens", config_.micro_batch_tokens},
             {"seed", config_.seed},
             {"lr", config_.optimizer.lr},
             {"weight_decay", config_.optimizer.weight_decay},
             {"clip_norm", config_.clip_norm},
             {"ema_decay", config_.ema_decay}};
    if constexpr (std::same_as<D, Cpu>) run["threads"] = model_.context().threads();
    if (sizeof(T) == 2) run["master"] = static_cast<int>(config_.optimizer.master);
    if (config_.loss_scale > 0) run["loss_scale"] = config_.loss_scale;
    return run;
  }
  template <class Data>
  void save_run(const RunReport& report, const Data& train, int64_t steps, int64_t done, int64_t since_best) {
    if (config_.out_dir.empty()) return;
    Json state{{"step", done},
               {"run", fingerprint(train, steps)},
               {"best_step", report.best_step},
               {"since_best", since_best},
               {"bad_steps", bad_steps_}};
    if (config_.loss_scale > 0) {
      state["loss_scale"] = loss_scale_.value();
      state["good_steps"] = loss_scale_.good_steps();
    }
    if (report.best_step > 0) state["best_loss"] = report.best_loss;
    if (!best_.empty()) {  // before the checkpoint that names it, and under a name of its own step
      detail::EntryList list;
      for (std::size_t i = 0; i < params_.size(); ++i) list.add(model_.context(), params_[i]->name, best_[i]);
      const std::string name = str("best-", report.best_step, ".safetensors");
      if (!std::filesystem::exists(config_.out_dir / name)) write_safetensors(config_.out_dir / name, list.entries());
      state["best"] = name;
    }
    using Average = typename WeightAverage<T, D>::Average;
    save_checkpoint<T, D>(model_.context(), checkpoint(), params_, optimizer_, state,
                          average_ ? std::span<const Average>(average_->averages()) : std::span<const Average>());
    remove_best_files(state.contains("best") ? state["best"].template get<std::string>() : std::string());
  }
  void remove_best_files(const std::string& but) const {
    std::error_code ignored;
    for (const auto& file : std::filesystem::directory_iterator(config_.out_dir, ignored))
      if (const auto name = file.path().filename().string();
          name.starts_with("best-") && name.ends_with(".safetensors") && name != but)
        std::filesystem::remove(file.path(), ignored);
  }

  /// Makes the folder, and takes up the checkpoint where one is asked for and there; returns the steps done.
  template <class Data> int64_t begin_run(RunReport& report, const Data& train, int64_t steps) {
    best_.clear();
    if (config_.out_dir.empty()) return 0;
    std::error_code error;
    std::filesystem::create_directories(config_.out_dir, error);
    if (error) throw Error(str(config_.out_dir.string(), ": cannot make the folder: ", error.message()));
    if (!config_.resume || !has_checkpoint(checkpoint())) {
      std::filesystem::remove_all(checkpoint(), error);
      return 0;
    }
    const std::string file = (checkpoint() / "state.json").string();
    const Json now = fingerprint(train, steps), then = at<Json>(read_json(checkpoint() / "state.json"), "run", file);
    for (const auto& [key, value] : now.items())
      if (!then.contains(key) || then[key] != value)
        throw Error(
            str(file, ": was made with ", key, " = ", then.value(key, Json()).dump(), ", this run has ", value.dump()),
            "resume with the same options and data, or start afresh.");
    const Json state = load_checkpoint<T, D>(model_.context(), checkpoint(), params_, optimizer_);
    report.best_step = at<int64_t>(state, "best_step", file);
    report.best_loss = value_or<double>(state, "best_loss", report.best_loss, file);
    since_best_ = at<int64_t>(state, "since_best", file);
    bad_steps_ = at<int64_t>(state, "bad_steps", file);
    if (config_.loss_scale > 0)
      loss_scale_ = LossScale(at<float>(state, "loss_scale", file), at<int64_t>(state, "good_steps", file));
    if (average_) {
      const auto averages = SafetensorsFile::open(checkpoint() / "averages.safetensors");
      for (std::size_t i = 0; i < params_.size(); ++i)
        average_->averages()[i] = detail::exact_tensor<accumulate_t<T>>(model_.context(), averages, params_[i]->name);
    }
    if (state.contains("best")) {
      const auto best = SafetensorsFile::open(config_.out_dir / at<std::string>(state, "best", file));
      for (const Parameter<T, D>* w : params_)
        best_.push_back(detail::exact_tensor<T>(model_.context(), best, w->name));
    }
    return at<int64_t>(state, "step", file);
  }
  /// The best weights where patience kept them, else the average where there is one.
  void end_run(const RunReport& report) {
    if (!best_.empty() && report.best_step > 0)
      for (std::size_t i = 0; i < params_.size(); ++i) params_[i]->value = best_[i];
    else if (average_) average_->assign();
    best_.clear();
  }

  Model& model_;
  TrainerConfig config_;
  Optimizer<T, D> optimizer_;
  StepGraph<D> graph_;
  LossScale loss_scale_;
  std::vector<Parameter<T, D>*> params_;
  std::vector<Tensor<T, D>> best_;
  std::optional<WeightAverage<T, D>> average_;
  std::optional<Log> log_;  // while fit() runs
  std::vector<int64_t> epoch_ends_;
  int64_t bad_steps_ = 0, since_best_ = 0;
  std::function<Flow(const Step&)> on_step_;
  std::function<void(int64_t, double)> on_evaluation_;
};

}  // namespace ft::inline FTLIB_ABI
