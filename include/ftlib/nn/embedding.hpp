// nn/embedding.hpp: Embedding, a row of a matrix for each token.
#pragma once
#include <ftlib/nn/adapter.hpp>     // in_use
#include <ftlib/ops/embedding.hpp>  // embedding

#include <vector>  // std::vector

namespace ft::inline FTLIB_ABI {

template <Scalar T, Device D> struct Embedding {
  Parameter<T, D> weight = {};  // (V, C)
  float scale = 1;              // of what is looked up

  /// N ids -> (N, C). Throws Error for an id outside [0, V).
  Tensor<T, D> operator()(Context<D>& ctx, const std::vector<int32_t>& ids) {
    return embedding(ctx, in_use(ctx, weight), ids, scale);
  }
};

}  // namespace ft::inline FTLIB_ABI
