// image/picture.hpp: 8-bit RGB pictures: from RGBA buffers and to them, from a model's values and to them; scaling with
// an antialiasing filter, fitting into a square.
#pragma once
#include <ftlib/core/dtype.hpp>    // int64_t
#include <ftlib/core/version.hpp>  // FTLIB_ABI

#include <cstddef>  // std::size_t
#include <cstdint>  // std::uint8_t
#include <span>     // std::span
#include <vector>   // std::vector

namespace ft::inline FTLIB_ABI {

/// sRGB values without alpha, row by row.
struct Picture {
  int width = 0, height = 0;
  std::vector<std::uint8_t> rgb;

  Picture() = default;
  Picture(int w, int h, std::uint8_t fill = 255)
      : width(w), height(h), rgb(static_cast<std::size_t>(w) * static_cast<std::size_t>(h) * 3, fill) {}

  std::uint8_t* at(int x, int y) { return rgb.data() + offset(x, y); }
  const std::uint8_t* at(int x, int y) const { return rgb.data() + offset(x, y); }
  friend bool operator==(const Picture&, const Picture&) = default;

 private:
  std::size_t offset(int x, int y) const {
    return (static_cast<std::size_t>(y) * static_cast<std::size_t>(width) + static_cast<std::size_t>(x)) * 3;
  }
};

/// A part of a picture, in pixels and parts of them.
struct Box {
  double x, y, width, height;
};

/// How a picture becomes a square.
enum class Fit {
  cover,  ///< its middle, as large as there is
  pad,    ///< all of it, on white
};

/// `box` of the picture at another size. As Pillow's resize(LANCZOS, box), to a level: in sRGB values as they are,
/// which is what the field's training pictures are scaled in, first along the rows, then along the columns.
Picture resized(const Picture& from, int width, int height, Box box);
/// All of it at another size.
Picture resized(const Picture& from, int width, int height);
/// A square of `size` pixels a side.
Picture fitted(const Picture& from, int size, Fit fit = Fit::cover);

/// A buffer of 8-bit R, G, B, A, its alpha not multiplied in, laid on white; its rows are `stride` bytes apart. Throws
/// Error for sizes that make no sense.
Picture on_white(const std::uint8_t* rgba, int64_t width, int64_t height, int64_t stride);
/// The same as a model of pictures of `size` learns it: a square as fitted() makes it, (3, size, size) in [-1, 1].
std::vector<float> from_rgba(const std::uint8_t* rgba, int64_t width, int64_t height, int64_t stride, int64_t size,
                             Fit fit = Fit::cover);
/// R, G, B and an alpha of 255, row by row without gaps.
std::vector<std::uint8_t> to_rgba(const Picture& picture);

/// A square picture as a model learns it: (3, S, S) in [-1, 1].
std::vector<float> to_values(const Picture& picture);
/// Pictures (N, 3, size, size) in [-1, 1] as a model draws them; what is beyond is cut. Throws Error where `values` are
/// no whole number of such pictures.
std::vector<Picture> to_pictures(std::span<const float> values, int64_t size);

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/image/picture.inl.hpp>
#endif
