// io/entry.hpp: a tensor on its way to a file, and sizes computed from numbers that a file claims.
#pragma once
#include <ftlib/io/file.hpp>
#include <ftlib/tensor/stored.hpp>  // Stored, Shape, DType

#include <functional>  // std::function
#include <optional>    // std::optional
#include <vector>      // std::vector

namespace ft::inline FTLIB_ABI {

/// What a writer takes: row-major bytes that live until the file is written, or that are made when they are.
struct TensorEntry {
  std::string name = {};
  DType type = DType::f32;
  Shape shape = {};
  const void* data = nullptr;
  std::string_view word = {};  // in safetensors files: a type of theirs that is no DType, U8 or I64; empty: `type`'s
  std::function<std::vector<std::byte>()> make = {};  // in place of `data`; asked once, when its turn has come
};
inline TensorEntry entry(std::string name, const Stored<Cpu>& tensor) {
  return {std::move(name), tensor.type, tensor.shape, tensor.data};
}
template <Scalar T> TensorEntry entry(std::string name, View<const T> x) {
  if (!x.contiguous()) throw Error(str("entry ", quote(name), ": a strided tensor of shape ", x.shape));
  return {std::move(name), dtype_of<T>, x.shape, x.data};
}

namespace detail {

/// a b, or nothing where int64_t cannot hold it.
inline std::optional<int64_t> checked_mul(int64_t a, int64_t b) {
  int64_t product = 0;
  if (__builtin_mul_overflow(a, b, &product)) return std::nullopt;
  return product;
}

/// The number of elements, or nothing where an axis is negative, or where int64_t cannot hold the product of the axes
/// that are not 0: then Shape::strides would overflow, even if there is no element.
inline std::optional<int64_t> checked_count(std::span<const int64_t> sizes) {
  int64_t nonzero = 1;
  bool empty = false;
  for (const int64_t size : sizes) {
    if (size < 0) return std::nullopt;
    empty |= size == 0;
    const auto product = checked_mul(nonzero, std::max<int64_t>(size, 1));
    if (!product) return std::nullopt;
    nonzero = *product;
  }
  return empty ? 0 : nonzero;
}

/// Bytes of an entry that is about to be written. Throws Error for what no file should hold.
inline int64_t entry_bytes(const TensorEntry& tensor, std::string_view file) {
  const auto count = checked_count({tensor.shape.begin(), static_cast<std::size_t>(tensor.shape.rank())});
  const DTypeInfo of_word{tensor.word, 1, tensor.word == "I64" ? 8 : 1};
  const auto [type, block, block_bytes] = tensor.word.empty() ? info(tensor.type) : of_word;
  const int64_t row = tensor.shape.rank() ? tensor.shape.back() : 1;
  const auto bytes = count && row % block == 0 ? checked_mul(*count / block, block_bytes) : std::nullopt;
  if (!bytes || (*bytes > 0 && !tensor.data && !tensor.make))
    throw Error(str(file, ": tensor ", quote(tensor.name), " ", tensor.shape, " ", type,
                    " cannot be written: ", !bytes ? "its shape does not fit the type" : "it has no data"));
  return *bytes;
}

/// f(the bytes of an entry). Throws Error where those that are made are not as many as they should be.
template <class F> void with_entry_data(const TensorEntry& tensor, int64_t bytes, F f) {
  const auto count = static_cast<std::size_t>(bytes);
  if (!tensor.make) return f(std::span(static_cast<const std::byte*>(tensor.data), count));
  const std::vector<std::byte> made = tensor.make();
  if (made.size() != count)
    throw Error(
        str("tensor ", quote(tensor.name), " ", tensor.shape, ": ", made.size(), " bytes were made of ", count));
  f(std::span(made));
}

}  // namespace detail

}  // namespace ft::inline FTLIB_ABI
