// examples/image_style/picture.hpp: 8-bit RGB pictures: scaling with an antialiasing filter, fitting into a square,
// turning, out of cairo's surfaces, to PNG files.
#pragma once
#include <ftlib/io/atomic_file.hpp>

#include <cairo.h>  // cairo_surface_t
#include <png.h>
#include <zlib.h>  // png_image_write_to_memory

#include <algorithm>   // std::clamp, std::max, std::min
#include <cmath>       // std::lrint, std::lround, std::sin
#include <cstddef>     // std::size_t
#include <cstdint>     // std::uint8_t
#include <filesystem>  // std::filesystem::path
#include <numbers>     // std::numbers::pi
#include <string>      // std::string
#include <utility>     // std::swap
#include <vector>      // std::vector

namespace image_style {

using ft::Error;
using ft::str;

/// sRGB values, row by row.
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

namespace detail {

/// For each place of the new row the places of the old one that it is made of, and their weights: Lanczos with three
/// lobes, stretched by the scale where the row gets shorter, so that nothing of the old one is skipped.
struct Taps {
  std::vector<int> first;
  std::vector<std::vector<float>> weights;

  Taps(double start, double length, int from, int to) {
    const auto lanczos = [](double x) {
      const double y = std::numbers::pi * x;
      return x == 0 ? 1.0 : std::abs(x) >= 3 ? 0.0 : 3 * std::sin(y) * std::sin(y / 3) / (y * y);
    };
    const double scale = length / to, stretch = std::max(scale, 1.0);
    for (int i = 0; i < to; ++i) {
      const double center = start + (i + 0.5) * scale;
      const int begin = std::max(0, static_cast<int>(std::lround(center - 3 * stretch)));
      const int end = std::min(from, static_cast<int>(std::lround(center + 3 * stretch)));
      std::vector<float> w;
      double sum = 0;
      for (int k = begin; k < end; ++k) sum += lanczos((k + 0.5 - center) / stretch);
      for (int k = begin; k < end; ++k) w.push_back(static_cast<float>(lanczos((k + 0.5 - center) / stretch) / sum));
      first.push_back(begin);
      weights.push_back(std::move(w));
    }
  }
};

inline std::uint8_t to_byte(float value) { return static_cast<std::uint8_t>(std::clamp(std::lrint(value), 0l, 255l)); }

}  // namespace detail

/// `box` of the picture at another size. As Pillow's resize(LANCZOS, box), to a level: in sRGB values as they are,
/// which is what the field's training pictures are scaled in, first along the rows, then along the columns.
inline Picture resized(const Picture& from, int width, int height, Box box) {
  const detail::Taps across(box.x, box.width, from.width, width), down(box.y, box.height, from.height, height);
  const int top = down.first.front(), bottom = down.first.back() + static_cast<int>(down.weights.back().size());
  Picture narrow(width, bottom - top), out(width, height);
  for (int y = 0; y < narrow.height; ++y) {
    for (int x = 0; x < width; ++x) {
      float sum[3] = {0, 0, 0};
      const std::uint8_t* source = from.at(across.first[static_cast<std::size_t>(x)], top + y);
      for (const float w : across.weights[static_cast<std::size_t>(x)])
        for (int c = 0; c < 3; ++c) sum[c] += w * static_cast<float>(*source++);
      for (int c = 0; c < 3; ++c) narrow.at(x, y)[c] = detail::to_byte(sum[c]);
    }
  }
  for (int y = 0; y < height; ++y) {
    const auto& weights = down.weights[static_cast<std::size_t>(y)];
    for (int x = 0; x < width; ++x) {
      float sum[3] = {0, 0, 0};
      int row = down.first[static_cast<std::size_t>(y)] - top;
      for (const float w : weights) {
        for (int c = 0; c < 3; ++c) sum[c] += w * static_cast<float>(narrow.at(x, row)[c]);
        ++row;
      }
      for (int c = 0; c < 3; ++c) out.at(x, y)[c] = detail::to_byte(sum[c]);
    }
  }
  return out;
}
inline Picture resized(const Picture& from, int width, int height) {
  return resized(from, width, height, {0, 0, static_cast<double>(from.width), static_cast<double>(from.height)});
}

inline void paste(Picture& onto, const Picture& picture, int left, int top) {
  for (int y = 0; y < picture.height; ++y)
    std::copy_n(picture.at(0, y), std::size_t{3} * static_cast<std::size_t>(picture.width), onto.at(left, top + y));
}

/// How a picture becomes a square.
enum class Fit {
  cover,  ///< its middle, as large as there is
  pad,    ///< all of it, on white
};

inline Picture fitted(const Picture& from, int size, Fit fit) {
  const double w = from.width, h = from.height;
  if (fit == Fit::cover) {
    const double side = std::min(w, h);
    return resized(from, size, size, {(w - side) / 2, (h - side) / 2, side, side});
  }
  const auto scaled = [&](double n) { return std::max(1, static_cast<int>(std::lround(n * size / std::max(w, h)))); };
  const Picture whole = resized(from, scaled(w), scaled(h));
  Picture out(size, size);
  paste(out, whole, (size - whole.width) / 2, (size - whole.height) / 2);
  return out;
}

/// The picture upright, by EXIF's orientation: 1 as it is, 3 upside down, 6 and 8 on a side, even ones mirrored.
inline Picture turned(Picture from, int orientation) {
  if (orientation < 2 || orientation > 8) return from;
  const bool transposed = orientation >= 5;
  const bool from_right = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
  const bool from_below = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
  Picture out(transposed ? from.height : from.width, transposed ? from.width : from.height);
  for (int y = 0; y < out.height; ++y) {
    for (int x = 0; x < out.width; ++x) {
      int from_x = x, from_y = y;
      if (transposed) std::swap(from_x, from_y);
      if (from_right) from_x = from.width - 1 - from_x;
      if (from_below) from_y = from.height - 1 - from_y;
      std::copy_n(from.at(from_x, from_y), 3, out.at(x, y));
    }
  }
  return out;
}

/// What was drawn on an opaque surface.
inline Picture from_surface(cairo_surface_t* surface) {
  if (cairo_surface_status(surface) != CAIRO_STATUS_SUCCESS)
    throw Error(str("cairo: ", cairo_status_to_string(cairo_surface_status(surface))));
  cairo_surface_flush(surface);
  Picture out(cairo_image_surface_get_width(surface), cairo_image_surface_get_height(surface));
  const auto stride = static_cast<std::size_t>(cairo_image_surface_get_stride(surface));
  for (int y = 0; y < out.height; ++y) {
    const std::uint8_t* row = cairo_image_surface_get_data(surface) + static_cast<std::size_t>(y) * stride;
    for (int x = 0; x < out.width; ++x, row += 4)
      for (int c = 0; c < 3; ++c) out.at(x, y)[c] = row[2 - c];  // blue comes first, on little-endian machines
  }
  return out;
}

inline std::string to_png(const Picture& picture) {
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.width = static_cast<png_uint_32>(picture.width);
  image.height = static_cast<png_uint_32>(picture.height);
  image.format = PNG_FORMAT_RGB;
  png_alloc_size_t size = PNG_IMAGE_PNG_SIZE_MAX(image);
  std::string bytes(size, '\0');
  if (!png_image_write_to_memory(&image, bytes.data(), &size, 0, picture.rgb.data(), 0, nullptr))
    throw Error(str("a picture of ", picture.width, " x ", picture.height, " cannot be written: ", image.message));
  bytes.resize(size);
  return bytes;
}

/// Each pixel as a square of `times` x `times`.
inline Picture magnified(const Picture& from, int times) {
  Picture out(from.width * times, from.height * times);
  for (int y = 0; y < out.height; ++y)
    for (int x = 0; x < out.width; ++x) std::copy_n(from.at(x / times, y / times), 3, out.at(x, y));
  return out;
}

/// Text about a picture, by keyword (at most 79 Latin-1 bytes): PNG's iTXt chunks, UTF-8, not compressed.
using PngText = std::vector<std::pair<std::string, std::string>>;

/// A PNG file with `text` behind its header.
inline std::string to_png(const Picture& picture, const PngText& text) {
  const auto big_endian = [](std::size_t n) {
    return std::string{static_cast<char>(n >> 24), static_cast<char>(n >> 16), static_cast<char>(n >> 8),
                       static_cast<char>(n)};
  };
  std::string chunks;
  for (const auto& [keyword, value] : text) {
    std::string body = "iTXt" + keyword;
    body.append(5, '\0').append(value);
    chunks += big_endian(body.size() - 4) + body +
              big_endian(crc32(0, reinterpret_cast<const Bytef*>(body.data()), static_cast<uInt>(body.size())));
  }
  constexpr std::size_t header_end = 8 + 25;  // signature and IHDR
  return to_png(picture).insert(header_end, chunks);
}

inline void write_png(const std::filesystem::path& path, const Picture& picture, const PngText& text = {}) {
  ft::write_atomically(path, to_png(picture, text));
}

}  // namespace image_style
