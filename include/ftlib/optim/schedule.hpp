// optim/schedule.hpp: how the learning rate moves over a run: constant, linear, cosine, each after a linear warm-up.
#pragma once
#include <ftlib/core/description.hpp>  // Description

#include <algorithm>  // std::max, std::min
#include <cmath>      // std::ceil, std::cos
#include <numbers>    // std::numbers::pi
#include <variant>    // std::variant

namespace ft::inline FTLIB_ABI {

/// The number of warm-up steps that a `warmup` setting means: a share of `steps` where below 1 (rounded up, as
/// transformers' TrainingArguments do), else a count. Throws Error where it is negative.
inline int64_t warmup_steps(float warmup, int64_t steps) {
  if (!(warmup >= 0)) throw Error("schedule: warmup is negative", "give a share below 1, or a number of steps.");
  if (warmup >= 1) return static_cast<int64_t>(warmup);
  // 0.1f is a little more than 0.1: without the margin, a tenth of 100 steps would round up to 11.
  return static_cast<int64_t>(std::ceil(double{warmup} * static_cast<double>(steps) * (1 - 1e-6)));
}

namespace detail {
/// (step + 1) / (warm-up steps + 1) during warm-up; then after(progress), where progress goes from 0 to 1 over the
/// rest.
template <class F> float warmed_up(float warmup, int64_t step, int64_t steps, F after) {
  const int64_t first = warmup_steps(warmup, steps);
  if (step < first) return static_cast<float>(static_cast<double>(step + 1) / static_cast<double>(first + 1));
  const double rest = static_cast<double>(std::max<int64_t>(1, steps - first));
  return static_cast<float>(after(std::min(1.0, static_cast<double>(step - first) / rest)));
}
}  // namespace detail

/// 1 after warm-up.
struct Constant {
  float warmup = 0;  // a share of all steps where below 1, else a number of steps
  float multiplier(int64_t step, int64_t steps) const {
    return detail::warmed_up(warmup, step, steps, [](double) { return 1.0; });
  }
};

/// floor + (1 - floor) (1 - p) after warm-up, where p goes from 0 to 1.
struct LinearDecay {
  float warmup = 0.03f;
  float floor = 0;
  float multiplier(int64_t step, int64_t steps) const {
    return detail::warmed_up(warmup, step, steps, [&](double p) { return floor + (1 - floor) * (1 - p); });
  }
};

/// floor + (1 - floor) (1 + cos(pi p)) / 2 after warm-up, where p goes from 0 to 1.           arXiv:1608.03983
struct Cosine {
  float warmup = 0.03f;
  float floor = 0;
  float multiplier(int64_t step, int64_t steps) const {
    return detail::warmed_up(warmup, step, steps, [&](double p) {
      return floor + (1 - floor) * 0.5 * (1 + std::cos(std::numbers::pi * p));
    });
  }
};

/// Any of them. Step `step` (from 0) of a run of `steps` has the learning rate lr * multiplier(step, steps): the
/// numbers of transformers' get_{constant,linear,cosine}_schedule_with_warmup without the first step of its warm-up,
/// whose rate is 0 and teaches nothing. Steps past the end stay at the floor.
class Schedule {
 public:
  Schedule() : kind_(Cosine{}) {}
  Schedule(const Constant& kind) : kind_(kind) {}
  Schedule(const LinearDecay& kind) : kind_(kind) {}
  Schedule(const Cosine& kind) : kind_(kind) {}

  float multiplier(int64_t step, int64_t steps) const {
    return std::visit([&](const auto& kind) { return kind.multiplier(step, steps); }, kind_);
  }
  /// Whether rates depend on how long the run is.
  bool needs_steps() const {
    const Constant* constant = std::get_if<Constant>(&kind_);
    return !constant || (constant->warmup > 0 && constant->warmup < 1);
  }
  void describe(Description& d) const {
    constexpr const char* names[] = {"constant", "linear", "cosine"};
    d.add("schedule", names[kind_.index()]);
    std::visit(
        [&](const auto& kind) {
          d.add("warmup", kind.warmup);
          if constexpr (requires { kind.floor; }) d.add("floor", kind.floor);
        },
        kind_);
  }

 private:
  std::variant<Constant, LinearDecay, Cosine> kind_;  // in the order of describe()'s names
};

}  // namespace ft::inline FTLIB_ABI
