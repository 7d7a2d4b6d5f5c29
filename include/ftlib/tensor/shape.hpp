// tensor/shape.hpp: a shape of at most six axes, without a heap allocation, printed as "(8, 128, 576)".
#pragma once
#include <ftlib/core/error.hpp>

#include <array>             // std::array
#include <cstdint>           // std::int64_t
#include <initializer_list>  // std::initializer_list
#include <ostream>           // std::ostream
#include <span>              // std::span

namespace ft::inline FTLIB_ABI {

/// The sizes of a tensor's axes, outermost first; rank 0 is a scalar. Also holds strides, in elements.
class Shape {
 public:
  static constexpr int max_rank = 6;

  Shape() = default;
  Shape(std::initializer_list<std::int64_t> sizes) : Shape(std::span(sizes.begin(), sizes.size())) {}
  explicit Shape(std::span<const std::int64_t> sizes) : rank_(static_cast<int>(sizes.size())) {
    if (sizes.size() > max_rank)
      throw Error(str("shape: ", sizes.size(), " axes, at most ", max_rank, " are supported"));
    for (int i = 0; i < rank_; ++i) sizes_[index(i)] = sizes[index(i)];
  }

  int rank() const { return rank_; }
  /// Axis i; negative counts from the end.
  std::int64_t operator[](int i) const { return sizes_[index(i < 0 ? i + rank_ : i)]; }
  std::int64_t& operator[](int i) { return sizes_[index(i < 0 ? i + rank_ : i)]; }
  std::int64_t back() const { return (*this)[-1]; }
  const std::int64_t* begin() const { return sizes_.data(); }
  const std::int64_t* end() const { return sizes_.data() + rank_; }

  /// The product of all sizes; 1 for a scalar.
  std::int64_t count() const {
    std::int64_t n = 1;
    for (const std::int64_t size : *this) n *= size;
    return n;
  }
  /// The product of all sizes but the last; 1 for a scalar.
  std::int64_t rows() const {
    std::int64_t n = 1;
    for (int i = 0; i + 1 < rank_; ++i) n *= (*this)[i];
    return n;
  }
  /// Row-major strides in elements.
  Shape strides() const {
    Shape s = *this;
    std::int64_t step = 1;
    for (int i = rank_ - 1; i >= 0; --i) {
      s[i] = step;
      step *= (*this)[i];
    }
    return s;
  }

  friend bool operator==(const Shape& a, const Shape& b) {
    if (a.rank_ != b.rank_) return false;
    for (int i = 0; i < a.rank_; ++i)
      if (a[i] != b[i]) return false;
    return true;
  }
  friend std::ostream& operator<<(std::ostream& out, const Shape& shape) {
    out << '(';
    for (int i = 0; i < shape.rank_; ++i) out << (i ? ", " : "") << shape[i];
    return out << ')';
  }

 private:
  static constexpr std::size_t index(int i) { return static_cast<std::size_t>(i); }
  std::array<std::int64_t, max_rank> sizes_{};
  int rank_ = 0;
};

}  // namespace ft::inline FTLIB_ABI
