// train/trainer.inl.hpp: the loop, a step, and what comes between steps.
#pragma once
#include <ftlib/autograd/tape.hpp>                // Tape, NoGrad
#include <ftlib/ops/elementwise.hpp>              // scale
#include <ftlib/optim/clip.inl.hpp>               // StepCheck
#include <ftlib/train/gradient_exchange.inl.hpp>  // GradientExchange
#include <ftlib/train/run_folder.inl.hpp>         // RunFolder
#include <ftlib/train/run_watch.hpp>              // Stopwatch, Restore, memory_of
#include <ftlib/train/screen/listeners.hpp>       // MetricsListener, TensorBoardListener
#include <ftlib/train/trainer.hpp>
#include <ftlib/train/trainer_checks.inl.hpp>  // what is checked before a step, and described for resuming
#include <ftlib/train/trainer_plan.inl.hpp>    // plan

namespace ft::inline FTLIB_ABI {

template <Scalar T, Device D> RunReport Trainer<T, D>::fit(const DataSource& train, const DataSource* held_out) {
  std::optional<StopOnSignal> signals;
  const detail::Restore signals_back(signals_);
  const detail::Restore files_back(files_);
  const detail::Restore board_back(board_);
  if (config_.signals) signals_ = &signals.emplace();
  EpochWalk data(train, batches(config_.seed), config_.epochs, config_.max_steps);
  check_run(train, held_out, data);
  RunFolder<T, D> folder(config_.out_dir, config_.out_dir.empty() ? Description() : describe_run(train, held_out, data),
                         ranks_.writes());
  best_.clear();
  state_ = folder.begin(parts(), config_.resume);
  if (config_.loss_scale > 0 && state_.step > 0) loss_scale_ = LossScale(state_.loss_scale, state_.good_steps);
  data.seek(state_.epoch, state_.batch);
  begin_listening();

  RunReport report;
  const detail::Stopwatch watch;
  int64_t tokens = 0, saved = state_.step;
  bool stopped = state_.evaluation_due && held_out && !evaluate_run(*held_out, report);
  const auto patience_left = [&] { return config_.patience == 0 || state_.since_best < config_.patience; };
  while (!stopped && patience_left() && (data.steps() == 0 || state_.step < data.steps())) {
    const auto batch = data.next();
    if (!batch) {  // an epoch has ended; where that was not known before, it is looked at now
      if (!data.known() && held_out && config_.evaluate_every == 0) stopped = !evaluate_run(*held_out, report);
      if (!data.next_epoch()) break;
      continue;
    }
    Step s = step(*batch, config_.optimizer.lr() * config_.schedule.multiplier(state_.step, data.steps()));
    tokens += s.tokens;
    state_.epoch = data.epoch();
    state_.batch = data.batch();
    if (average_ && !s.skipped) average_->update(model_.context(), s.step);
    s.steps = data.steps();
    s.tokens_per_second = static_cast<double>(tokens) / watch.seconds();
    s.memory = detail::memory_of(model_.context()).resident;
    s.unit = train.unit();
    report.train_loss.push_back({static_cast<double>(s.step), s.loss});
    for (const auto* list : {&files_, &listeners_})
      for (const auto& listener : *list) listener->step(s);
    if (on_step_ && on_step_(s) == Flow::stop) stopped = true;
    state_.evaluation_due = held_out && evaluation_due(data);
    stopped = ranks_.any(stopped);
    if (ranks_.any(stop_requested())) stopped = true;  // at once: the resumed run looks at held-out data first
    else if (state_.evaluation_due) stopped |= !evaluate_run(*held_out, report);
    if (!stopped && config_.save_every > 0 && s.step % config_.save_every == 0) {
      folder.save(parts(), state_);
      saved = s.step;
    }
  }
  if (stopped || (config_.save_every > 0 && saved != state_.step)) folder.save(parts(), state_);
  report.steps = state_.step;
  report.finished = !state_.evaluation_due && (!stopped || state_.step == data.steps());
  report.stopped_early = !patience_left();
  report.seconds = watch.seconds();
  report.tokens_per_second = static_cast<double>(tokens) / std::max(1e-9, report.seconds);
  end_run(report);
  return report;
}

template <Scalar T, Device D> Step Trainer<T, D>::step(const Batch& batch, float lr) {
  Context<D>& ctx = model_.context();
  check_parameters();
  if (batch.targets < 1)
    throw Error(str("train: a batch of ", batch.tokens, " tokens has no target"), "nothing can be learned from it.");
  const float scale = loss_scale_.value();
  const detail::Restore random(ctx.random());
  const auto draw_from = [&](std::size_t micro) {
    ctx.random() = random_of(config_.seed, state_.step, static_cast<int64_t>(micro));
  };
  Verdict found;
  graph_.run(ctx, [&] {
    StepCheck<D> check(ctx);  // loss and norm stay on the device until the update has been asked for
    do {
      zero_grad(params_);
      const auto [first, last] = ranks_.share(ctx, batch.micro.size(), state_.step + 1);
      for (std::size_t i = first; i < last; ++i) {  // sums over tokens, so micro-batches of any size weigh right
        draw_from(i);
        Tape<D> tape(ctx, ranks_.listen(ctx, batch.micro[i]->kind(), i + 1 == last));
        model_.loss_sum(*batch.micro[i], config_.recompute).visit([&](const auto& unweighted) {
          using Sum = typename std::remove_cvref_t<decltype(unweighted)>::value_type;
          const auto sum = batch.weights.empty() ? unweighted : ft::scale(ctx, unweighted, batch.weights[i]);
          if (sum.node())
            tape.backward(sum, Tensor<Sum, D>(ctx, sum.shape(), {Sum(scale / static_cast<float>(batch.targets))}));
          ranks_.take(ctx, check, sum);
        });
      }
    } while (!ranks_.finish(ctx, check));
    if (std::none_of(params_.begin(), params_.end(), [](const auto* w) { return static_cast<bool>(w->grad); }))
      throw Error(str("train: none of the ", params_.size(), " trained weights got a gradient in this step"),
                  "the loss must depend on them, and be computed on the tape of the model's context.");
    if (on_gradients_) {
      ranks_.gather_gradients(ctx);
      on_gradients_(ctx, params_);
    }
    ranks_.measure(ctx, check, config_.clip_norm, scale);
    draw_from(batch.micro.size());
    found = optimizer_->step(ctx, params_, lr, check);
    if (found.finite) ranks_.gather_weights(ctx);
  });
  zero_grad(params_);
  loss_scale_.update(found.finite);
  const double loss = found.loss / static_cast<double>(batch.targets);
  count_bad(batch, loss, found.finite, scale);
  state_.still_steps += found.finite && found.norm == 0;
  ++state_.step;
  state_.loss_scale = loss_scale_.value();
  state_.good_steps = loss_scale_.good_steps();
  return {.step = state_.step,
          .loss = loss,
          .lr = lr,
          .grad_norm = found.norm,
          .tokens = batch.tokens,
          .skipped = !found.finite};
}

template <Scalar T, Device D> double Trainer<T, D>::evaluate(const DataSource& data) {
  Context<D>& ctx = model_.context();
  const NoGrad off(ctx);
  const detail::Restore random(ctx.random());
  ctx.random() = random_of(config_.seed, 0, int64_t{1} << 40);  // the same whenever it is looked at
  std::vector<double> losses;                                   // of this rank's micro-batches: it has one in turn
  int64_t targets = 0, micro = 0;
  for (const auto reader = data.epoch(0, batches(0)); const auto batch = reader->next();) {
    for (std::size_t i = 0; i < batch->micro.size(); ++i) {
      if (!ranks_.reads(micro++)) continue;
      if (config_.world) ctx.random() = random_of(config_.seed, 0, (int64_t{1} << 40) + micro);
      if (ranks_.alone() && stop_requested()) throw Interrupted("evaluate: stopped by the host");
      losses.push_back((batch->weights.empty() ? 1 : batch->weights[i]) *
                       model_.loss_sum(*batch->micro[i], false).item(ctx));
    }
    targets += batch->targets;
  }
  double loss = 0;
  for (const double one : ranks_.merged(losses)) loss += one;
  if (targets == 0) throw Error("evaluate: the data hold no target");
  return loss / static_cast<double>(targets);
}

template <Scalar T, Device D> bool Trainer<T, D>::evaluation_due(const EpochWalk& data) const {
  return config_.evaluate_every > 0 ? state_.step % config_.evaluate_every == 0 : data.at_epoch_end();
}

// False where it was interrupted, and is due.
template <Scalar T, Device D> bool Trainer<T, D>::evaluate_run(const DataSource& held_out, RunReport& report) {
  double loss = 0;
  state_.evaluation_due = true;
  try {
    struct InPlace {  // the average in the weights' place for as long as it lives
      std::optional<WeightAverage<T, D>>& average;
      explicit InPlace(std::optional<WeightAverage<T, D>>& a) : average(a) { swap(); }
      ~InPlace() { swap(); }
      void swap() {
        if (average) average->swap();
      }
    } const in_place(average_);
    loss = evaluate(held_out);
    report.held_out_loss.push_back({static_cast<double>(state_.step), loss});
    for (const auto* list : {&files_, &listeners_})
      for (const auto& listener : *list) listener->evaluation(state_.step, loss);
    if (on_evaluation_) on_evaluation_(state_.step, loss);
  } catch (const Interrupted&) {
    return false;
  }
  state_.evaluation_due = false;
  ++state_.since_best;
  if (!(loss < state_.best_loss)) return true;
  state_.best_loss = loss;
  state_.best_step = state_.step;
  state_.since_best = 0;
  if (config_.patience == 0) return true;
  best_.clear();
  for (const Parameter<T, D>* w : params_) best_.push_back(clone(model_.context(), w->value));
  return true;
}

template <Scalar T, Device D> void Trainer<T, D>::begin_listening() {
  files_.clear();
  if (!config_.out_dir.empty() && ranks_.writes()) {
    auto board = std::make_shared<TensorBoardListener>(config_.out_dir);
    files_ = {std::make_shared<MetricsListener>(config_.out_dir), board};
    for (const auto& file : files_) file->begin(state_.step);
    board_ = board->writer();
  }
  for (const auto& listener : listeners_) listener->begin(state_.step);
}

// The best weights where patience kept them, else the average where there is one; and what should be said.
template <Scalar T, Device D> void Trainer<T, D>::end_run(RunReport& report) {
  report.best_loss = state_.best_loss;
  report.best_step = state_.best_step;
  report.peak_bytes = detail::memory_of(model_.context()).peak;
  if (state_.still_steps > 0)
    report.warnings.push_back(str("in ", state_.still_steps, " of ", state_.step,
                                  " steps every gradient was exactly 0, and nothing was learned: the weights may have "
                                  "been thrown too far; lower the learning rate, or set clip_norm"));
  if (ranks_.idle_steps() > 0)
    report.warnings.push_back(str("in ", ranks_.idle_steps(), " of ", state_.step,
                                  " steps there were fewer micro-batches than ranks, some of which waited: make "
                                  "micro_batch_tokens smaller, or batch_tokens larger"));
  if (state_.bad_steps > 0)
    report.warnings.push_back(
        str("the last ", state_.bad_steps, " of ", state_.step,
            " steps were skipped, for their loss or gradient was not finite: the weights may have "
            "been thrown too far; lower the learning rate"));
  if (!report.finished) return;
  if (!best_.empty() && state_.best_step > 0)
    for (std::size_t i = 0; i < params_.size(); ++i) params_[i]->value = best_[i];
  else if (average_) average_->assign();
  best_.clear();
}

}  // namespace ft::inline FTLIB_ABI
