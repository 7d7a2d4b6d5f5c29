// optim/adamw_factors.hpp: the numbers of one AdamW step, as its kernels take them on any device.
#pragma once
#include <ftlib/core/version.hpp>

namespace ft::inline FTLIB_ABI {

/// The numbers of one AdamW step that are the same for all elements of a parameter.
struct AdamWFactors {
  double keep;             // 1 - lr weight_decay
  double step_size;        // lr / (1 - beta1^t)
  double beta1, beta2;     //
  double sqrt_correction;  // sqrt(1 - beta2^t)
  double eps;
};

}  // namespace ft::inline FTLIB_ABI
