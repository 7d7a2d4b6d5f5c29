// tensor/stored.hpp: a weight as it lies in its file: a run-time type, a shape, bytes. Only the matrix product and the
// embedding look-up read one; everything else sees Tensor.
#pragma once
#include <ftlib/tensor/tensor.hpp>

#include <memory>  // std::shared_ptr

namespace ft::inline FTLIB_ABI {

/// An immutable array in any DType, row-major; a quantised row is a whole number of blocks. `data` may lie at any
/// alignment (a mapped file), so it is read by memcpy or unaligned loads.
template <Device D> struct Stored {
  DType type = DType::f32;
  Shape shape;
  const std::byte* data = nullptr;
  std::shared_ptr<const void> owner;  // keeps the bytes: a mapped file, or a device's memory

  explicit operator bool() const { return data != nullptr; }
  int64_t bytes() const { return storage_bytes(type, shape.count()); }
  int64_t row_bytes() const { return storage_bytes(type, shape.back()); }
  const std::byte* row(int64_t n) const { return data + n * row_bytes(); }
};

/// A contiguous tensor seen as a stored array; shares its memory.
template <Scalar T, Device D> Stored<D> as_stored(const Tensor<T, D>& x) {
  if (!x.contiguous()) throw Error(str("as_stored: a strided tensor of shape ", x.shape()));
  return {dtype_of<T>, x.shape(), reinterpret_cast<const std::byte*>(x.data()), std::make_shared<Tensor<T, D>>(x)};
}

}  // namespace ft::inline FTLIB_ABI
