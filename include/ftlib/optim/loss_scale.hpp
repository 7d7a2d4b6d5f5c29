// optim/loss_scale.hpp: the factor that keeps half's gradients from underflow, found while training.
#pragma once
#include <ftlib/core/dtype.hpp>  // int64_t

#include <algorithm>  // std::max, std::min

namespace ft::inline FTLIB_ABI {

/// The loss is multiplied by value() before backward. A step whose gradients overflow is skipped and halves it;
/// `interval` good steps in a row double it. arXiv:1710.03740
class LossScale {
 public:
  static constexpr int64_t interval = 2000;

  /// `scale` 0: off, and value() stays 1. `good_steps` in a row so far.
  explicit LossScale(float scale = 0, int64_t good_steps = 0) : scale_(scale), good_steps_(good_steps) {
    if (!(scale == 0 || scale >= 1)) throw Error(str("loss scale: ", scale), "give 1 or more, or 0 for none.");
  }

  float value() const { return scale_ > 0 ? scale_ : 1; }
  int64_t good_steps() const { return good_steps_; }
  /// After a step, whose gradients were finite or not.
  void update(bool finite) {
    if (scale_ == 0) return;
    good_steps_ = finite ? good_steps_ + 1 : 0;
    if (!finite) scale_ = std::max(1.0f, scale_ / 2);
    if (good_steps_ < interval) return;
    scale_ = std::min(0x1p24f, scale_ * 2);
    good_steps_ = 0;
  }

 private:
  float scale_;
  int64_t good_steps_;
};

}  // namespace ft::inline FTLIB_ABI
