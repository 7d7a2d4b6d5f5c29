// tensor/view.hpp: what a kernel receives: a pointer, a shape and strides, nothing owned.
#pragma once
#include <ftlib/core/dtype.hpp>    // int64_t
#include <ftlib/tensor/shape.hpp>  // Shape

#include <type_traits>  // std::is_const_v, std::type_identity_t

namespace ft::inline FTLIB_ABI {

/// A strided array that somebody else owns. An empty view (no data) stands for a gradient that nobody wants: kernels
/// skip it.
template <class T> struct View {
  T* data = nullptr;
  Shape shape;
  Shape strides;  // in elements

  View() = default;
  View(T* data_, const Shape& shape_) : data(data_), shape(shape_), strides(shape_.strides()) {}
  View(T* data_, const Shape& shape_, const Shape& strides_) : data(data_), shape(shape_), strides(strides_) {}
  /// A mutable view is a const view.
  template <class U>
  requires std::is_const_v<T> && std::is_same_v<const U, T> View(const View<U>& other)
      : data(other.data), shape(other.shape), strides(other.strides) {}

  explicit operator bool() const { return data != nullptr; }
  int64_t count() const { return shape.count(); }
  int64_t rows() const { return shape.rows(); }
  int64_t cols() const { return shape.rank() ? shape.back() : 1; }

  /// True where elements follow one another in row-major order.
  bool contiguous() const {
    int64_t step = 1;
    for (int i = shape.rank() - 1; i >= 0; --i) {
      if (shape[i] != 1 && strides[i] != step) return false;
      step *= shape[i];
    }
    return true;
  }
  /// Row n of a contiguous view, all leading axes taken as one.
  T* row(int64_t n) const { return data + n * cols(); }
};

/// A kernel's read-only argument. T is deduced from the result's View<T> alone, so a View<T> fits here as well.
template <class T> using In = View<const std::type_identity_t<T>>;

/// Whether a kernel overwrites its result or adds to what is there.
enum class Write { assign, add };

}  // namespace ft::inline FTLIB_ABI
