// optim/adamw.hpp: AdamW: its settings, and the optimizer that keeps two moments for each trained parameter.
#pragma once
#include <ftlib/autograd/parameter.hpp>  // Parameter
#include <ftlib/optim/adamw.shared.hpp>  // AdamWItem
#include <ftlib/optim/clip.hpp>          // StepCheck
#include <ftlib/tensor/copy.hpp>         // convert
#if FTLIB_HEADER_ONLY
#include <ftlib/optim/adamw.cpu.hpp>  // adamw_update
#else
#include <ftlib/cpu_runtime.hpp>
#endif
#if FTLIB_WITH_CUDA
#include <ftlib/optim/adamw.cuda.cuh>
#endif

#include <algorithm>   // std::max
#include <cmath>       // std::pow, std::sqrt
#include <functional>  // std::function
#include <map>         // std::map
#include <span>        // std::span
#include <string>      // std::string
#include <utility>     // std::move
#include <vector>      // std::vector

namespace ft::inline FTLIB_ABI {

/// Settings of AdamW, with torch.optim.AdamW's names and defaults but for the decay, which is off. `master` is for
/// weights of 16 bits alone.
struct AdamW {
  float lr = 1e-3f;
  float beta1 = 0.9f;
  float beta2 = 0.999f;
  float eps = 1e-8f;
  float weight_decay = 0.0f;
  Master master = Master::float32;
};

/// Adam with decoupled weight decay (Loshchilov and Hutter, arXiv:1711.05101), number for number as torch.optim.AdamW.
/// With gradient g and the t-th step of this parameter:
///
///     m = beta1 m + (1 - beta1) g        v = beta2 v + (1 - beta2) g^2
///     w = (1 - lr weight_decay) w - lr / (1 - beta1^t) m / (sqrt(v / (1 - beta2^t)) + eps)
///
/// Decay is for matrices (Parameter::decays). A parameter that is frozen or has no gradient is left alone, and its
/// t stays. State is kept under the parameter's name, so names must differ. Weights of 16 bits are rounded after each
/// step; see Master for what then becomes of small changes. Master::float32 trains its floats, so a weight that is set
/// from outside after its first step is set back by the next.
template <Scalar T, Device D> class Optimizer {
 public:
  using State = Tensor<accumulate_t<T>, D>;
  using Params = std::span<Parameter<T, D>* const>;
  /// What the learning rate of a parameter is multiplied by (LoRA+ sets 16 for every lora_B).
  using LrScale = std::function<float(const Parameter<T, D>&)>;

  explicit Optimizer(const AdamW& config = {}, LrScale lr_scale = {})
      : config_(config), lr_scale_(std::move(lr_scale)) {
    const auto check = [](bool holds, const char* name, float value, const char* range) {
      if (!holds) throw Error(str("AdamW: ", name, " is ", value), str("it must be ", range, "."));
    };
    check(config.lr >= 0, "lr", config.lr, "0 or more");
    check(config.beta1 >= 0 && config.beta1 < 1, "beta1", config.beta1, "in [0, 1)");
    check(config.beta2 >= 0 && config.beta2 < 1, "beta2", config.beta2, "in [0, 1)");
    check(config.eps >= 0, "eps", config.eps, "0 or more");
    check(config.weight_decay >= 0, "weight_decay", config.weight_decay, "0 or more");
  }

  const AdamW& config() const { return config_; }

  /// One step of all `params` with learning rate `lr`. Throws Error, and changes nothing, where two parameters have one
  /// name, or a trainable one is only stored in its file's type.
  void step(Context<D>& ctx, Params params, float lr) {
    for (Moments* s : update(ctx, params, lr, nullptr)) ++s->step;
  }
  /// The same with gradients times the factor that `check` found; changes nothing where loss or norm is not finite. The
  /// device decides that by itself: the host waits for it once, at the end, for the verdict that is returned.
  Verdict step(Context<D>& ctx, Params params, float lr, const StepCheck<D>& check) {
    const auto touched = update(ctx, params, lr, check.get());
    const Verdict verdict = check.read(ctx);
    if (verdict.finite)
      for (Moments* s : touched) ++s->step;
    return verdict;
  }
  void step(Context<D>& ctx, Params params) { step(ctx, params, config_.lr); }

  /// The most steps that any parameter has made.
  int64_t steps() const {
    int64_t most = 0;
    for (const auto& [name, s] : moments_) most = std::max(most, s.step);
    return most;
  }
  /// Bytes of state that `params` take once each has had a gradient.
  int64_t state_bytes(Params params) const {
    int64_t bytes = 0;
    for (const Parameter<T, D>* w : params)
      if (w->trainable) bytes += (2 + keeps_master()) * w->count() * static_cast<int64_t>(sizeof(accumulate_t<T>));
    return bytes;
  }

  /// fn(name, tensor) for all that a checkpoint has to hold, in the order of names: "<parameter>.exp_avg",
  /// "<parameter>.exp_avg_sq" and, for Master::float32, "<parameter>.master" of the parameter's shape,
  /// "<parameter>.step" of shape (1). Tensors share memory with the optimizer; the next step changes them.
  template <class F> void for_each_state(Context<D>& ctx, F fn) const {
    for (const auto& [name, s] : moments_) {
      if (s.step == 0) continue;  // no step of it has counted yet
      fn(name + ".exp_avg", s.exp_avg);
      fn(name + ".exp_avg_sq", s.exp_avg_sq);
      if (s.master) fn(name + ".master", s.master);
      fn(name + ".step", State(ctx, {1}, {static_cast<accumulate_t<T>>(s.step)}));  // exact up to 2^24 steps
    }
  }

  /// The opposite: replaces all state by `states`, which become the optimizer's own. Throws Error, and changes nothing,
  /// where a name belongs to no trainable parameter of `params`, one of them is missing, or a shape differs.
  void load_state(Context<D>& ctx, Params params, const std::map<std::string, State>& states) {
    std::map<std::string, Moments> loaded;
    std::size_t used = 0;
    for (const Parameter<T, D>* w : params) {
      if (!w->trainable) continue;
      const auto m = states.find(w->name + ".exp_avg"), v = states.find(w->name + ".exp_avg_sq"),
                 t = states.find(w->name + ".step"), master = states.find(w->name + ".master");
      const int found = (m != states.end()) + (v != states.end()) + (t != states.end());
      if (found == 0) continue;  // had no gradient yet when it was saved
      if (found < 3 || (keeps_master() && master == states.end()))
        throw Error(str("AdamW: the saved state of parameter '", w->name, "' lacks one of exp_avg, exp_avg_sq, step",
                        keeps_master() ? ", master" : ""),
                    keeps_master() ? "resume with the `master` that the run was started with."
                                   : "the checkpoint is damaged; resume from an older one.");
      for (const auto& state : {m, v, keeps_master() ? master : v})
        if (state->second.shape() != w->shape() || !state->second.contiguous())
          throw Error(str("AdamW: saved state '", state->first, "' ", state->second.shape(), " does not fit parameter ",
                          w->shape()),
                      "the checkpoint is of another model or of another LoRA rank.");
      const double steps = t->second.count() == 1 ? static_cast<double>(t->second.item(ctx)) : -1;
      if (!(steps >= 1 && steps <= 9e15) || steps != std::floor(steps))
        throw Error(str("AdamW: saved state '", t->first, "' is no step count"),
                    "the checkpoint is damaged; resume from an older one.");
      Moments loaded_here{m->second, v->second, keeps_master() ? master->second : State(), static_cast<int64_t>(steps)};
      if (!loaded.emplace(w->name, std::move(loaded_here)).second)
        throw Error(str("AdamW: two parameters are called '", w->name, "'"), "state is kept by name: rename one.");
      used += keeps_master() ? 4 : 3;
    }
    if (used != states.size())
      for (const auto& [name, state] : states)
        if (loaded.find(name.substr(0, name.rfind('.'))) == loaded.end() || !is_state(name))
          throw Error(str("AdamW: saved state '", name, "' belongs to no trainable parameter"),
                      "resume with the options that the run was started with (targets, rank, frozen parts).");
    moments_ = std::move(loaded);
  }

 private:
  struct Moments {
    State exp_avg, exp_avg_sq, master;
    int64_t step = 0;
    uint64_t call = 0;  // the call of step() that saw it last
  };

  bool keeps_master() const { return sizeof(T) == 2 && config_.master == Master::float32; }
  bool is_state(const std::string& name) const {
    const std::string kind = name.substr(std::min(name.size(), name.rfind('.')));
    return kind == ".exp_avg" || kind == ".exp_avg_sq" || kind == ".step" || (kind == ".master" && keeps_master());
  }
  Moments& moments(Context<D>& ctx, const Parameter<T, D>& w) {
    auto found = moments_.find(w.name);
    if (found == moments_.end()) {
      Moments s{State::zeros(ctx, w.shape()), State::zeros(ctx, w.shape()), {}};
      if (keeps_master()) s.master = convert<accumulate_t<T>>(ctx, w.value);
      found = moments_.emplace(w.name, std::move(s)).first;
    }
    if (found->second.exp_avg.shape() != w.shape())
      throw Error(str("AdamW: parameter '", w.name, "' is ", w.shape(), ", its state ", found->second.exp_avg.shape()),
                  "state is kept by name: give each parameter its own.");
    return found->second;
  }

  /// Gives all of `params` that have a gradient their step, and returns their state, whose `step` does not count it
  /// yet.
  std::vector<Moments*> update(Context<D>& ctx, Params params, float lr, const Verdict* verdict) {
    std::vector<Moments*> touched;
    std::vector<AdamWItem<T>> items;
    ++calls_;
    for (Parameter<T, D>* w : params) {
      if (!w->trainable || !w->grad) continue;
      if (!w->value)
        throw Error(str("AdamW: parameter '", w->name, "' is stored as ", w->stored.type, " and cannot be trained"),
                    "load it in the compute type, or freeze it and train an adapter.");
      if (w->grad.shape() != w->shape() || !w->value.contiguous() || !w->grad.contiguous())
        throw Error(str("AdamW: gradient ", w->grad.shape(), " does not fit parameter '", w->name, "' ", w->shape()),
                    "both must be contiguous and of one shape.");
      Moments& s = moments(ctx, *w);
      if (s.call == calls_)
        throw Error(str("AdamW: two parameters are called '", w->name, "'"), "state is kept by name: rename one.");
      s.call = calls_;
      const double rate = double{lr} * double{lr_scale_ ? lr_scale_(*w) : 1.0f}, t = static_cast<double>(s.step + 1);
      const double decay = w->decays() ? double{config_.weight_decay} : 0.0;
      const bool by_chance = sizeof(T) == 2 && config_.master == Master::stochastic_rounding;
      items.push_back({.w = w->value.view(),
                       .m = s.exp_avg.view(),
                       .v = s.exp_avg_sq.view(),
                       .g = w->grad.view(),
                       .master = s.master ? s.master.view() : View<accumulate_t<T>>(),
                       .factors = {.keep = 1 - rate * decay,
                                   .step_size = rate / (1 - std::pow(double{config_.beta1}, t)),
                                   .beta1 = double{config_.beta1},
                                   .beta2 = double{config_.beta2},
                                   .sqrt_correction = std::sqrt(1 - std::pow(double{config_.beta2}, t)),
                                   .eps = double{config_.eps}},
                       .random = by_chance ? ctx.random().reserve((static_cast<uint64_t>(w->count()) + 7) / 8) : 0});
      touched.push_back(&s);
    }
    adamw_update(ctx, std::span<const AdamWItem<T>>(items), verdict, config_.master, ctx.random().seed());
    return touched;
  }

  AdamW config_;
  LrScale lr_scale_;
  std::map<std::string, Moments> moments_;
  uint64_t calls_ = 0;
};

}  // namespace ft::inline FTLIB_ABI
