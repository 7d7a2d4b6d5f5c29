// optim/clip.shared.hpp: what a step's loss and gradients come to, in numbers that lie where the gradients do.
#pragma once
#include <ftlib/tensor/device.hpp>  // Device

namespace ft::inline FTLIB_ABI {

/// What is decided of a step between backward and update. On a GPU it is written and read by kernels, so the host need
/// not wait in between.
struct Verdict {
  double loss = 0;     // sum over micro-batches
  float norm = 0;      // of all gradients taken as one vector, before clipping, without the loss scale
  bool finite = true;  // loss and norm are: else the update changes nothing
  double factor = 1;   // what the update multiplies gradients by
};

/// Elements of an array whose squares are summed as one: sums of squares come as one number a block, in the order of
/// the arrays, and whole blocks may be summed elsewhere without another result.
template <Device D> inline constexpr int64_t squares_block = std::same_as<D, Cpu> ? 4096 : 16384;

namespace detail {
/// The verdict on gradients of Euclidean norm `norm`, which loss_scale has made larger. They are to be divided by it,
/// and where the norm is above max_norm > 0, multiplied by max_norm / (norm + 1e-6), as torch's clip_grad_norm_ does.
constexpr void judge(Verdict& v, double norm, double max_norm, double loss_scale) {
  v.norm = static_cast<float>(norm / loss_scale);
  v.finite = v.loss - v.loss == 0 && v.norm - v.norm == 0;
  const double clip = max_norm / (double{v.norm} + 1e-6);
  v.factor = (max_norm > 0 && clip < 1 ? clip : 1) / loss_scale;
}
}  // namespace detail

}  // namespace ft::inline FTLIB_ABI
