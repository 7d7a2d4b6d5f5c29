// nn/router_load.hpp: RouterLoad, what the experts of a model were asked for in one forward pass.
#pragma once
#include <ftlib/tensor/tensor.hpp>  // Tensor

#include <vector>  // std::vector

namespace ft::inline FTLIB_ABI {

/// Filled by the layers whose routers are trained; load_balancing_loss() (nn/experts.hpp) makes a loss of it.
template <Scalar T, Device D> struct RouterLoad {
  std::vector<Tensor<T, D>> probabilities;  // of each layer the mean over tokens of softmax(router(x)): (1, E)
  std::vector<int64_t> chosen;              // how often each expert was chosen, in all layers: (E)
  int64_t tokens = 0;                       // of all layers

  void add(Tensor<T, D> probability, const std::vector<int64_t>& times, int64_t n) {
    probabilities.push_back(std::move(probability));
    chosen.resize(times.size());
    for (std::size_t e = 0; e < times.size(); ++e) chosen[e] += times[e];
    tokens += n;
  }
};

}  // namespace ft::inline FTLIB_ABI
