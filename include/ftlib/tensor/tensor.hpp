// tensor/tensor.hpp: Tensor, an array of numbers on a device. Copies share the memory.
#pragma once
#include <ftlib/tensor/device.hpp>  // Context, Device
#include <ftlib/tensor/view.hpp>    // View, Shape

#include <memory>  // std::shared_ptr
#include <span>    // std::span
#include <vector>  // std::vector

namespace ft::inline FTLIB_ABI {

/// Names a tensor to the tape without keeping its memory: what a backward rule captures of an input whose values it
/// does not need. Node 0 is not recorded.
template <Element T> struct TensorId {
  uint64_t node = 0;
  Shape shape;
};

/// An array of T on device D. A value: cheap to copy, the copies share memory, the last one frees it.
template <Element T, Device D> class Tensor {
 public:
  using value_type = T;
  using device_type = D;

  Tensor() = default;
  /// Uninitialised. Throws Error where an axis is negative or memory runs out.
  Tensor(Context<D>& ctx, const Shape& shape) : view_(nullptr, shape) {
    for (const int64_t size : shape)
      if (size < 0) throw Error(str("tensor: negative axis in shape ", shape));
    memory_ = ctx.allocate(static_cast<std::size_t>(shape.count()) * sizeof(T));
    view_.data = static_cast<T*>(memory_.get());
  }
  /// A copy of `values` in row-major order.
  Tensor(Context<D>& ctx, const Shape& shape, std::span<const T> values) : Tensor(ctx, shape) {
    if (static_cast<int64_t>(values.size()) != shape.count())
      throw Error(str("tensor: ", values.size(), " values do not fill shape ", shape));
    ctx.copy_from_host(view_.data, values.data(), values.size_bytes());
  }
  Tensor(Context<D>& ctx, const Shape& shape, const std::vector<T>& values)
      : Tensor(ctx, shape, std::span<const T>(values)) {}

  static Tensor zeros(Context<D>& ctx, const Shape& shape) {
    Tensor t(ctx, shape);
    ctx.zero(t.view_.data, static_cast<std::size_t>(shape.count()) * sizeof(T));
    return t;
  }

  const Shape& shape() const { return view_.shape; }
  const Shape& strides() const { return view_.strides; }
  int rank() const { return view_.shape.rank(); }
  int64_t size(int axis) const { return view_.shape[axis]; }
  int64_t count() const { return view_.shape.count(); }
  int64_t rows() const { return view_.rows(); }
  int64_t cols() const { return view_.cols(); }
  bool contiguous() const { return view_.contiguous(); }
  /// False for a default-constructed tensor.
  explicit operator bool() const { return memory_ != nullptr; }

  View<T> view() { return view_; }
  View<const T> view() const { return view_; }
  T* data() { return view_.data; }
  const T* data() const { return view_.data; }

  /// The same memory under another shape of the same count; the tensor must be contiguous. Not recorded: see
  /// ops/shape.hpp.
  Tensor reshaped(const Shape& shape) const {
    if (shape.count() != count() || !contiguous())
      throw Error(str("reshape: ", view_.shape, contiguous() ? "" : " (strided)", " does not become ", shape));
    Tensor t = detached();
    t.view_ = View<T>(view_.data, shape);
    return t;
  }
  /// A view with its own offset (in elements), shape and strides. Not recorded: see ops/shape.hpp.
  Tensor strided(int64_t offset, const Shape& shape, const Shape& strides) const {
    Tensor t = detached();
    t.view_ = View<T>(view_.data + offset, shape, strides);
    return t;
  }

  /// The values, row-major, on the host. Waits for the device.
  std::vector<T> to_host(Context<D>& ctx) const {
    if (!contiguous())
      throw Error(str("to_host: a strided tensor of shape ", shape(), "; call contiguous(ctx, x) first"));
    std::vector<T> values(static_cast<std::size_t>(count()));
    ctx.copy_to_host(values.data(), view_.data, values.size() * sizeof(T));
    return values;
  }
  /// The one value of a tensor of one element, on the host. Waits for the device.
  T item(Context<D>& ctx) const {
    if (count() != 1) throw Error(str("item: a tensor of shape ", shape(), " holds ", count(), " values, not one"));
    T value;
    ctx.copy_to_host(&value, view_.data, sizeof(T));
    return value;
  }

  /// The same memory, unknown to any tape: gradients stop here.
  Tensor detached() const {
    Tensor t = *this;
    t.node_ = 0;
    return t;
  }
  uint64_t node() const { return node_; }
  void set_node(uint64_t node) { node_ = node; }
  operator TensorId<T>() const { return {node_, view_.shape}; }

  /// True where no other tensor shares this memory.
  bool unique() const { return memory_.use_count() == 1; }

 private:
  std::shared_ptr<void> memory_;
  View<T> view_;
  uint64_t node_ = 0;
};

}  // namespace ft::inline FTLIB_ABI
