// nn/kv_cache.hpp: the keys and values of tokens that were read before, and where the tokens of a packed batch stand.
#pragma once
#include <ftlib/ops/kinds.hpp>      // Segment
#include <ftlib/tensor/tensor.hpp>  // Tensor

#include <vector>  // std::vector

namespace ft::inline FTLIB_ABI {

/// What a layer keeps of a token: `heads` keys and as many values of `head_dim` elements; or keys alone.
struct KvShape {
  int64_t heads, head_dim;
  bool values = true;
};

/// The keys and values of tokens that were read before: one (slots * capacity, KV, hd) pair a layer.
template <Scalar T, Device D> class KvCache {
 public:
  struct Layer {
    Tensor<T, D> k, v;
  };
  /// Room for `slots` sequences of at most `capacity` tokens each. Layers may differ.
  KvCache(Context<D>& ctx, const std::vector<KvShape>& layers, int64_t slots, int64_t capacity)
      : capacity_(capacity), lengths_(static_cast<std::size_t>(slots), 0) {
    for (const KvShape& of : layers) {
      const Shape shape{slots * capacity, of.heads, of.head_dim};
      layers_.push_back({Tensor<T, D>(ctx, shape), of.values ? Tensor<T, D>(ctx, shape) : Tensor<T, D>()});
    }
  }
  Layer& layer(int64_t i) { return layers_[static_cast<std::size_t>(i)]; }
  int64_t capacity() const { return capacity_; }
  int64_t slots() const { return static_cast<int64_t>(lengths_.size()); }
  int64_t& length(int64_t slot) { return lengths_[static_cast<std::size_t>(slot)]; }

 private:
  int64_t capacity_;
  std::vector<int64_t> lengths_;  // tokens held, a slot
  std::vector<Layer> layers_;
};

/// Where each token of a packed batch stands: made once a forward pass, used by every layer.
template <Device D> struct Placement {
  Tensor<int32_t, D> positions;   // (N)  within its sequence, earlier cached tokens counted
  std::vector<Segment> segments;  // which keys each sequence's queries see
  Tensor<int32_t, D> cache_rows;  // (N)  the cache's row for each token; empty without a cache
  int64_t length = 0;             // the largest position plus one
};

}  // namespace ft::inline FTLIB_ABI
