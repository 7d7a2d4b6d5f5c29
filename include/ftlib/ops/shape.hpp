// ops/shape.hpp: other views of a tensor, recorded: reshape, transpose, slice, split; and concat, which copies.
#pragma once
#include <ftlib/autograd/tape.hpp>

#include <algorithm>  // std::swap
#include <utility>    // std::pair
#include <vector>     // std::vector

namespace ft::inline FTLIB_ABI {

namespace detail {
/// Axis counted from the front, for one that may count from the end.
inline int check_axis(const char* op, const Shape& x, int axis) {
  if (axis < -x.rank() || axis >= x.rank()) throw Error(str(op, ": x ", x, " has no axis ", axis));
  return axis < 0 ? axis + x.rank() : axis;
}
/// The part [begin, end) along an axis of a view.
template <class T> View<T> part(View<T> x, int axis, int64_t begin, int64_t end) {
  x.data += begin * x.strides[axis];
  x.shape[axis] = end - begin;
  return x;
}
}  // namespace detail

/// x's elements in row-major order under another shape of the same count; a view where x is contiguous, else a copy.
template <Scalar T, Device D> Tensor<T, D> reshape(Context<D>& ctx, const Tensor<T, D>& x, const Shape& shape) {
  if (shape.count() != x.count())
    throw Error(str("reshape: x ", x.shape(), " of ", x.count(), " elements does not become ", shape));
  Tensor<T, D> y = contiguous(ctx, x).reshaped(shape);
  record(ctx, "reshape", y, {x},
         [x = TensorId<T>(x)](Gradients<T, D>& g) { g.give(x, g.incoming_tensor().reshaped(x.shape)); });
  return y;
}

/// Axes a and b exchanged; a view. Negative axes count from the end.
template <Scalar T, Device D> Tensor<T, D> transpose(Context<D>& ctx, const Tensor<T, D>& x, int a = -2, int b = -1) {
  a = detail::check_axis("transpose", x.shape(), a);
  b = detail::check_axis("transpose", x.shape(), b);
  const auto swapped = [a, b](Shape shape) {
    std::swap(shape[a], shape[b]);
    return shape;
  };
  Tensor<T, D> y = x.strided(0, swapped(x.shape()), swapped(x.strides()));
  record(ctx, "transpose", y, {x}, [x = TensorId<T>(x), swapped](Gradients<T, D>& g) {
    const View<const T> dy = g.incoming();
    if (const View<T> dx = g.assign(x))
      copy(g.context(), dx, View<const T>(dy.data, swapped(dy.shape), swapped(dy.strides)));
  });
  return y;
}

/// Elements [begin, end) along an axis; a view. A negative axis counts from the end.
template <Scalar T, Device D>
Tensor<T, D> slice(Context<D>& ctx, const Tensor<T, D>& x, int axis, int64_t begin, int64_t end) {
  axis = detail::check_axis("slice", x.shape(), axis);
  if (begin < 0 || end < begin || end > x.size(axis))
    throw Error(str("slice: [", begin, ", ", end, ") is not within axis ", axis, " of x ", x.shape()));
  Shape shape = x.shape();
  shape[axis] = end - begin;
  Tensor<T, D> y = x.strided(begin * x.strides()[axis], shape, x.strides());
  // Other slices of x may have left their share already: then this one is added in place, and nothing is filled.
  record(ctx, "slice", y, {x}, [x = TensorId<T>(x), axis, begin, end](Gradients<T, D>& g) {
    const auto [dx, write] = g.write(x);
    if (!dx) return;
    if (write == Write::assign) {
      fill(g.context(), dx, T(0.0f));
      copy(g.context(), detail::part(dx, axis, begin, end), g.incoming());
    } else {
      accumulate(g.context(), detail::part(dx, axis, begin, end), g.incoming());
    }
  });
  return y;
}

/// Slices of `sizes` elements that follow one another along an axis and fill it; views.
template <Scalar T, Device D>
std::vector<Tensor<T, D>> split(Context<D>& ctx, const Tensor<T, D>& x, int axis, const std::vector<int64_t>& sizes) {
  axis = detail::check_axis("split", x.shape(), axis);
  int64_t sum = 0;
  for (const int64_t size : sizes) sum += size;
  if (sum != x.size(axis))
    throw Error(str("split: sizes that sum to ", sum, " do not fill axis ", axis, " of x ", x.shape()));
  std::vector<Tensor<T, D>> parts;
  int64_t begin = 0;
  for (const int64_t size : sizes) {
    parts.push_back(slice(ctx, x, axis, begin, begin + size));
    begin += size;
  }
  return parts;
}

/// The tensors one after the other along an axis; their other axes are alike.
template <Scalar T, Device D> Tensor<T, D> concat(Context<D>& ctx, const std::vector<Tensor<T, D>>& xs, int axis = 0) {
  if (xs.empty()) throw Error("concat: no tensors are given");
  Shape shape = xs[0].shape();
  axis = detail::check_axis("concat", shape, axis);
  shape[axis] = 0;
  bool wanted = false;
  for (const Tensor<T, D>& x : xs) {
    Shape other = x.shape();
    if (other.rank() == shape.rank()) other[axis] = shape[axis];
    if (other != shape)
      throw Error(str("concat: x ", x.shape(), " does not go with ", xs[0].shape(), " along axis ", axis));
    shape[axis] += x.size(axis);
    wanted |= recording(ctx, "concat", {x});
  }
  Tensor<T, D> y(ctx, shape);
  std::vector<TensorId<T>> ids;
  int64_t begin = 0;
  for (const Tensor<T, D>& x : xs) {
    copy(ctx, detail::part(y.view(), axis, begin, begin + x.size(axis)), x.view());
    begin += x.size(axis);
    ids.push_back(x);
  }
  if (wanted)
    ctx.tape()->push({&y}, [ids, axis](Gradients<T, D>& g) {
      int64_t at = 0;
      for (const TensorId<T>& x : ids) {
        if (const View<T> dx = g.assign(x))
          copy(g.context(), dx, detail::part(g.incoming(), axis, at, at + x.shape[axis]));
        at += x.shape[axis];
      }
    });
  return y;
}

}  // namespace ft::inline FTLIB_ABI
