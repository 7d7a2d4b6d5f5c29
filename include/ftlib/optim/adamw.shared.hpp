// optim/adamw.shared.hpp: what one AdamW step works on, as its kernels take it on any device.
#pragma once
#include <ftlib/tensor/view.hpp>  // View, In

namespace ft::inline FTLIB_ABI {

/// What becomes of changes that are smaller than half the last bit of a 16-bit weight. Wider weights need none of it.
enum class Master {
  none,                // they are lost
  float32,             // each weight has a float beside it, which is trained; the weight is its rounding
  stochastic_rounding  // they count on average: rounding goes up or down by chance; takes no memory
};

/// The numbers of one AdamW step that are the same for all elements of a parameter.
struct AdamWFactors {
  double keep;             // 1 - lr weight_decay
  double step_size;        // lr / (1 - beta1^t)
  double beta1, beta2;     //
  double sqrt_correction;  // sqrt(1 - beta2^t)
  double eps;
};

/// One parameter in an AdamW step. Views are contiguous and of one shape.
template <Scalar T> struct AdamWItem {
  View<T> w;                      // any shape
  View<accumulate_t<T>> m;        // first moment
  View<accumulate_t<T>> v;        // second moment
  View<const accumulate_t<T>> g;  // gradient
  View<accumulate_t<T>> master;   // empty but for Master::float32
  AdamWFactors factors;
  uint64_t random;  // element i is rounded by number i % 8 of philox(seed, random + i / 8, 2)
};

}  // namespace ft::inline FTLIB_ABI
