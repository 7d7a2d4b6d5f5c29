// nn/kv_cache.hpp: what layers keep of tokens that were read before, and where the tokens of a packed batch stand.
#pragma once
#include <ftlib/ops/kinds.hpp>      // Segment
#include <ftlib/tensor/tensor.hpp>  // Tensor

#include <vector>  // std::vector

namespace ft::inline FTLIB_ABI {

/// What a layer keeps: of each token `heads` keys and as many values of `head_dim` elements; or of a text, however long
/// it is, the last `window` rows of `width` that a convolution saw, and a state of that shape.
struct KvShape {
  int64_t heads = 0, head_dim = 0;
  int64_t window = 0, width = 0;
  Shape state = {};
};

/// What layers keep of the tokens that were read before. A layer has what its KvShape names.
template <Scalar T, Device D> class KvCache {
 public:
  struct Layer {
    Tensor<T, D> k, v;                 // (slots * capacity, KV, hd) each
    Tensor<T, D> window;               // (slots * window, width)
    Tensor<accumulate_t<T>, D> state;  // (slots, ...)
  };
  /// Room for `slots` sequences of at most `capacity` tokens each. Layers may differ.
  KvCache(Context<D>& ctx, const std::vector<KvShape>& layers, int64_t slots, int64_t capacity)
      : capacity_(capacity), lengths_(static_cast<std::size_t>(slots), 0), read_(lengths_) {
    for (const KvShape& of : layers) {
      Layer layer;
      if (of.heads > 0) {
        const Shape shape{slots * capacity, of.heads, of.head_dim};
        layer.k = Tensor<T, D>(ctx, shape);
        layer.v = Tensor<T, D>(ctx, shape);
      }
      if (of.window > 0) layer.window = Tensor<T, D>(ctx, {slots * of.window, of.width});
      if (of.state.rank() == 3)
        layer.state = Tensor<accumulate_t<T>, D>(ctx, {slots, of.state[0], of.state[1], of.state[2]});
      goes_back_ &= of.window == 0 && of.state.rank() == 0;
      layers_.push_back(std::move(layer));
    }
  }
  Layer& layer(int64_t i) { return layers_[static_cast<std::size_t>(i)]; }
  int64_t capacity() const { return capacity_; }
  int64_t slots() const { return static_cast<int64_t>(lengths_.size()); }
  /// How many tokens of a slot count: 0 begins anew. Keys and values of tokens behind fewer are written again; windows
  /// and states cannot go back.
  int64_t& length(int64_t slot) { return lengths_[static_cast<std::size_t>(slot)]; }
  /// Counts n tokens more. Throws Error where that would go on from a state that has read other tokens.
  void advance(int64_t slot, int64_t n) {
    int64_t &length = lengths_[static_cast<std::size_t>(slot)], &read = read_[static_cast<std::size_t>(slot)];
    if (!goes_back_ && length > 0 && length != read)
      throw Error(str("generate: a text of ", length, " tokens goes on from a state that has read ", read),
                  "set the cache's length of it to 0 and give all its tokens again.");
    read = length += n;
  }

 private:
  int64_t capacity_;
  std::vector<int64_t> lengths_, read_;  // a slot: tokens that count, and that states have read
  bool goes_back_ = true;
  std::vector<Layer> layers_;
};

/// Where each token of a packed batch stands: made once a forward pass, used by every layer.
template <Device D> struct Placement {
  Tensor<int32_t, D> positions;   // (N)  within its sequence, earlier cached tokens counted
  std::vector<Segment> segments;  // which keys each sequence's queries see
  std::vector<int64_t> slots;     // of each segment, in the cache; empty without one
  Tensor<int32_t, D> cache_rows;  // (N)  the cache's row for each token; empty without a cache
  int64_t length = 0;             // the largest position plus one
};

}  // namespace ft::inline FTLIB_ABI
