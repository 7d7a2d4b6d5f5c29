// train/trainer_checks.inl.hpp: what a Trainer refuses, before a run and in between, and what a resumed run must agree
// in.
#pragma once
#include <ftlib/io/atomic_file.hpp>  // check_room
#include <ftlib/optim/optimizer.inl.hpp>
#include <ftlib/train/trainer.hpp>
#include <ftlib/train/weight_hash.hpp>  // add_weight

#include <algorithm>  // std::find_if
#include <map>        // std::map

namespace ft::inline FTLIB_ABI {

namespace detail {
void check_config(const TrainerConfig& config);
}  // namespace detail

template <Scalar T, Device D>
Trainer<T, D>::Trainer(Trainable<T, D>& model, TrainerConfig config)
    : model_(model), config_(std::move(config)), ranks_(config_.world, config_.exact), graph_(config_.cuda_graph) {
  detail::check_config(config_);
  optimizer_ = config_.optimizer.make<T, D>(config_.groups);
  if (config_.micro_batch_tokens == 0) config_.micro_batch_tokens = config_.batch_tokens;
  if (config_.loss_scale == 0 && std::same_as<T, half>) config_.loss_scale = 65536;
  loss_scale_ = LossScale(config_.loss_scale);
  held_.push_back(model.context().overlay());
  for (Parameter<T, D>* w : model.parameters())
    if (w->trainable) params_.push_back(w);
  if (params_.empty())
    throw Error("trainer: the model has nothing to train", "attach an adapter, or call train_all().");
  ranks_.share_out(params_, config_.exchange_bytes);
  std::map<std::string, Share> shares;
  for (std::size_t i = 0; i < params_.size(); ++i)
    if (!ranks_.shares().all_mine(i)) shares[params_[i]->name] = ranks_.shares().mine(i);
  optimizer_->share_out(std::move(shares));
  if (config_.ema_decay > 0) average_.emplace(model.context(), params_, config_.ema_decay, ranks_.shares());
}
template <Scalar T, Device D> Trainer<T, D>::~Trainer() = default;

template <Scalar T, Device D> void Trainer<T, D>::check_parameters() {
  std::vector<Parameter<T, D>*> now;
  for (Parameter<T, D>* w : model_.parameters())
    if (w->trainable) now.push_back(w);
  if (now != params_)
    throw Error(str("trainer: it was made for ", params_.size(), " trained weights, the model now has ",
                    now.size() == params_.size() ? "others" : str(now.size())),
                "make a new Trainer after attach(), detach(), merge(), load_adapter() or train_all().");
}

template <Scalar T, Device D>
void Trainer<T, D>::check_run(const DataSource& train, const DataSource* held_out, const EpochWalk& data) {
  check_parameters();
  model_.check(train.limits());
  if (held_out) model_.check(held_out->limits());
  if (data.steps() == 0 && config_.schedule.needs_steps())
    throw Error("trainer: the schedule needs to know how many steps there are, and the data do not say",
                "set max_steps, or a schedule of Constant{}, with a warmup of 0 or of a number of steps.");
  if (!config_.out_dir.empty() && config_.save_every > 0) {
    int64_t bytes = config_.optimizer.make<T, D>()->state_bytes(params_);  // not a rank's share alone
    for (const Parameter<T, D>* w : params_)
      bytes += w->count() * static_cast<int64_t>(sizeof(T) * (config_.patience > 0 ? 2 : 1) +
                                                 (average_ ? sizeof(accumulate_t<T>) : 0));
    check_room(config_.out_dir, static_cast<uint64_t>(bytes));  // for a checkpoint, beside the one before it
  }
  // On a GPU, where all weights would have to come to the host, a loss that is no number leads to the same look.
  if constexpr (std::same_as<D, Cpu>) check_weights();
  if (!ranks_.alone()) {
    std::string lines;
    const Description run = describe_run(train, held_out, data);
    for (const auto& [key, value] : run.entries()) lines += key + " = " + value + '\n';
    lines += str("on_gradients = ", on_gradients_ ? "yes" : "no", '\n');
    agree(*config_.world, lines);
  }
}

// Throws Error for a weight with a NaN or an infinity; looks once.
template <Scalar T, Device D> void Trainer<T, D>::check_weights() {
  if (std::exchange(checked_, true)) return;
  for (const Parameter<T, D>* w : model_.parameters())
    if (const auto fault = weight_fault(model_.context(), *w); !fault.empty())
      throw Error("train: " + fault, "the model's file is damaged, or was made by a training that failed.",
                  ErrorKind::bad_file);
}

template <Scalar T, Device D> void Trainer<T, D>::count_bad(const Batch& batch, double loss, bool finite, float scale) {
  const bool overflow = std::isfinite(loss) && scale > 1;  // of gradients that the scale made too large
  if (finite) state_.bad_steps = 0;
  else if (!overflow) ++state_.bad_steps;
  if (!std::isfinite(loss)) check_weights();
  if (state_.bad_steps < config_.max_bad_steps || finite) return;
  std::string names;
  for (std::size_t i = 0; i < batch.names.size() && i < 16; ++i) names += (i ? ", " : "") + batch.names[i];
  throw Error(str("train: ", state_.bad_steps,
                  " steps in a row had a loss or gradient that is not finite; the last one's records: ", names),
              "lower the learning rate, or look at these records.", ErrorKind::other);
}

template <Scalar T, Device D>
Description Trainer<T, D>::describe_run(const DataSource& train, const DataSource* held_out, const EpochWalk& data) {
  Context<D>& ctx = model_.context();
  Description d;
  d.add("compute", str(dtype_of<T>, " on ", D::name));
  if constexpr (std::same_as<D, Cpu>) d.add("threads", ctx.threads());
  model_.describe(d);
  Hash frozen, trained;
  for (const Parameter<T, D>* w : model_.parameters()) {
    if (!w->trainable && *w) add_weight(frozen, ctx, w->name, w->weight());
    if (!w->trainable) continue;
    const ParameterInfo info{w->name, w->kind, w->shape()};
    trained.add(w->name);
    for (const int64_t size : w->shape()) trained.add(size);
    trained.add(config_.groups.lr_scale ? config_.groups.lr_scale(info) : 1.0f);
    trained.add(config_.groups.decays ? config_.groups.decays(info) : w->decays());
  }
  d.add("frozen weights", frozen);
  d.add("trained weights and groups", trained);
  d.add("data", train.content());
  if (held_out) d.add("held-out data", held_out->content());
  d.add("steps", data.steps());
  if (!data.known()) d.add("epochs", config_.epochs);
  d.add("batch_tokens", config_.batch_tokens);
  d.add("micro_batch_tokens", config_.micro_batch_tokens);
  if (config_.world) d.add("gradients", config_.exact ? "added in a tree over micro-batches" : "added rank by rank");
  d.add("seed", config_.seed);
  config_.optimizer.describe(d);
  config_.schedule.describe(d);
  d.add("clip_norm", config_.clip_norm);
  d.add("loss_scale", config_.loss_scale);
  d.add("ema_decay", config_.ema_decay);
  d.add("evaluate_every", config_.evaluate_every);
  d.add("patience", config_.patience);
  return d;
}

FTLIB_INLINE void detail::check_config(const TrainerConfig& c) {
  const auto at_least = [](const char* name, auto value, int64_t least) {
    if (!(value >= static_cast<decltype(value)>(least)))
      throw Error(str("trainer: ", name, " is ", value), str("it must be ", least, " or more."));
  };
  at_least("epochs", c.epochs, 1);
  at_least("batch_tokens", c.batch_tokens, 1);
  at_least("micro_batch_tokens", c.micro_batch_tokens, 0);
  at_least("max_steps", c.max_steps, 0);
  at_least("clip_norm", c.clip_norm, 0);
  at_least("evaluate_every", c.evaluate_every, 0);
  at_least("patience", c.patience, 0);
  at_least("save_every", c.save_every, 0);
  at_least("max_bad_steps", c.max_bad_steps, 1);
  at_least("exchange_bytes", c.exchange_bytes, 0);
  if (c.world && c.cuda_graph)
    throw Error("trainer: cuda_graph and world", "ranks speak in the middle of a step, which no graph holds.");
}

}  // namespace ft::inline FTLIB_ABI
