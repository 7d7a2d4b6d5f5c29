// nn/relative_bias.hpp: T5's positions: what a query pays a key more by how far away it is, learned by the bucket of
// distances.
#pragma once
#include <ftlib/core/error.hpp>     // Error
#include <ftlib/tensor/tensor.hpp>  // Tensor

#include <algorithm>  // std::min
#include <cmath>      // std::log
#include <vector>     // std::vector

namespace ft::inline FTLIB_ABI {

/// The bucket of a key `distance` behind its query, of `buckets`: half of them for each direction, a quarter for the
/// nearest places one by one, the others ever wider up to `max_distance`. In float, as transformers has it.
inline int64_t relative_bucket(int64_t distance, int64_t buckets, int64_t max_distance) {
  const int64_t half = buckets / 2, exact = half / 2, n = distance < 0 ? -distance : distance;
  const int64_t side = distance > 0 ? half : 0;
  if (n < exact) return side + n;
  const float part = std::log(static_cast<float>(n) / static_cast<float>(exact)) /
                     static_cast<float>(std::log(static_cast<double>(max_distance) / static_cast<double>(exact)));
  return side + std::min(half - 1, exact + static_cast<int64_t>(part * static_cast<float>(half - exact)));
}

/// What attention() adds to scores: table (buckets, H) -> (H, 2 R + 1), R the max_distance, from which on all keys are
/// in the last bucket.                                                                              arXiv:1910.10683
template <Device D>
Tensor<float, D> relative_bias(Context<D>& ctx, const std::vector<float>& table, int64_t heads, int64_t max_distance) {
  const int64_t buckets = static_cast<int64_t>(table.size()) / heads;
  std::vector<float> values;
  for (int64_t h = 0; h < heads; ++h)
    for (int64_t d = -max_distance; d <= max_distance; ++d)
      values.push_back(table[static_cast<std::size_t>(relative_bucket(d, buckets, max_distance) * heads + h)]);
  return Tensor<float, D>(ctx, {heads, 2 * max_distance + 1}, values);
}

}  // namespace ft::inline FTLIB_ABI
