// train/trainer_plan.inl.hpp: what a run is expected to take.
#pragma once
#include <ftlib/autograd/tape.hpp>     // Tape
#include <ftlib/distributed/link.hpp>  // measure_links
#include <ftlib/train/run_watch.hpp>   // Stopwatch, Restore
#include <ftlib/train/trainer.hpp>

#include <algorithm>  // std::clamp, std::find_if, std::max
#include <map>        // std::map
#include <string>     // std::string
#if defined(__GLIBC__)
#include <malloc.h>  // malloc_trim
#endif

namespace ft::inline FTLIB_ABI {

template <Scalar T, Device D> Plan Trainer<T, D>::plan(const DataSource& train) {
  Context<D>& ctx = model_.context();
  check_parameters();
  const EpochWalk data(train, batches(config_.seed), config_.epochs, config_.max_steps);
  Plan plan;
  plan.steps = data.steps();
  plan.tokens = data.tokens();
  plan.unit = train.unit();
  for (const Parameter<T, D>* w : model_.parameters()) plan.weight_bytes += w->bytes();
  constexpr auto wide = static_cast<int64_t>(sizeof(accumulate_t<T>));
  plan.ranks = ranks_.shares().ranks();
  plan.optimizer_bytes = optimizer_->state_bytes(params_);
  for (std::size_t i = 0; average_ && i < params_.size(); ++i)
    plan.optimizer_bytes += ranks_.shares().mine(i).count() * wide;
  plan.state_bytes = plan.optimizer_bytes;
  int64_t trained = 0;
  for (const Parameter<T, D>* w : params_) trained += w->count();
  plan.state_bytes += trained * wide;  // gradients
  if (plan.ranks > 1) {
    const auto links = measure_links(*config_.world);
    for (const int64_t item : {wide, static_cast<int64_t>(sizeof(T))}) {  // gradients, weights
      const auto bytes = static_cast<double>(trained * item);
      plan.exchange_bytes += bytes * (plan.ranks - 1) / plan.ranks;
      plan.exchange_seconds += exchange_seconds(links, plan.ranks, bytes);
    }
    for (const Link& link : links) {
      plan.latency = std::max(plan.latency, link.latency);
      plan.bandwidth = plan.bandwidth > 0 ? std::min(plan.bandwidth, link.bandwidth) : link.bandwidth;
    }
    plan.saves = !config_.out_dir.empty();
    if (plan.saves) plan.saves_together = is_same_folder(*config_.world, config_.out_dir);
  }

  const detail::Restore random(ctx.random());
  const auto probe =
      [&](int64_t most_tokens) {  // the batch with the largest micro-batch, in pieces of that many tokens
        BatchOptions options = batches(config_.seed);
        options.micro_batch_tokens = most_tokens;
        const auto reader = train.epoch(data.largest_epoch(), options);
        reader->skip(data.largest().largest_batch);
        auto batch = reader->next();
        if (!batch || batch->micro.empty()) throw Error("plan: the data source gives no batch");
        return *batch;
      };
  // Kinds of micro-batch cost what they cost: each is measured by itself, and has its share of the run's tokens.
  struct Kind {
    int64_t tokens = 0, largest = 0;
  };
  std::map<std::string, Kind> kinds;
  const Batch whole = probe(config_.micro_batch_tokens);
  for (const auto& micro : whole.micro) {
    Kind& kind = kinds[micro->kind()];
    kind.tokens += micro->tokens();
    kind.largest = std::max(kind.largest, micro->tokens());
  }
  struct Cost {
    double tokens, seconds, bytes;
  };
  const auto measure = [&](const std::string& kind, int64_t most_tokens) {
    if (stop_requested()) throw Interrupted("plan: stopped by the host");
    const auto batch = probe(most_tokens);
    const auto& micro =
        **std::find_if(batch.micro.begin(), batch.micro.end(), [&](const auto& one) { return one->kind() == kind; });
    const detail::Stopwatch watch;
    const int64_t before = ctx.memory().now;  // of several micro-batches all but the first find gradients there
    ctx.reset_peak();
    Tape<D> tape(ctx);
    model_.loss_sum(micro, config_.recompute).visit([&](const auto& sum) {
      if (sum.node()) tape.backward(sum);
    });
    ctx.synchronize();
    const Cost cost{static_cast<double>(micro.tokens()), watch.seconds(),
                    static_cast<double>(ctx.memory().peak - before)};
    if (whole.micro.size() == 1) zero_grad(params_);
    return cost;
  };
  for (const auto& [name, kind] : kinds) {
    measure(name, kind.largest / 8);  // touches every weight once, which a mapped file is read for
    if constexpr (!std::same_as<D, Cpu>) measure(name, kind.largest / 2);  // loads kernels, and chooses them by shape
    const Cost small = measure(name, kind.largest / 8), large = measure(name, kind.largest / 2);
    const double more = large.tokens > small.tokens ? large.tokens - small.tokens : 1;
    const double per_token = std::max(0.0, (large.bytes - small.bytes) / more);
    plan.activation_bytes =
        std::max(plan.activation_bytes,
                 static_cast<int64_t>(large.bytes + per_token * (static_cast<double>(kind.largest) - large.tokens)));
    // What is done once for all tokens, a weight's gradient say, is no part of what a further token takes.
    const double each = std::clamp((large.seconds - small.seconds) / more, 0.0, large.seconds / large.tokens);
    const auto all = static_cast<double>(kind.largest);
    plan.seconds += (large.seconds + each * (all - large.tokens)) / all * static_cast<double>(plan.tokens) *
                    static_cast<double>(kind.tokens) / static_cast<double>(whole.tokens);
  }
  zero_grad(params_);
  plan.seconds = plan.seconds / plan.ranks + static_cast<double>(plan.steps) * plan.exchange_seconds;
  if (whole.micro.size() == 1)  // its activations go as its gradients come: what was measured has both
    plan.activation_bytes = std::max<int64_t>(0, plan.activation_bytes - trained * wide);
  plan.peak_bytes = ctx.memory().now + plan.state_bytes + plan.activation_bytes;
  if constexpr (std::same_as<D, Cpu>) {
#if defined(__GLIBC__)
    malloc_trim(0);  // what was freed and is still resident will be used again
#endif
    constexpr int64_t kept = int64_t{64} << 20;  // blocks that fit nothing else, which the allocator may keep
    plan.peak_bytes += process_memory().resident - ctx.memory().reserved + kept;
  }
  return plan;
}

}  // namespace ft::inline FTLIB_ABI
