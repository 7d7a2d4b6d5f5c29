// examples/image_style/picture.hpp: the library's pictures, turned, magnified, out of cairo's surfaces, to PNG files.
#pragma once
#include <ftlib/image/picture.hpp>
#include <ftlib/io/atomic_file.hpp>

#include <cairo.h>  // cairo_surface_t
#include <png.h>
#include <zlib.h>  // png_image_write_to_memory

#include <algorithm>   // std::copy_n
#include <cstddef>     // std::size_t
#include <cstdint>     // std::uint8_t
#include <filesystem>  // std::filesystem::path
#include <string>      // std::string
#include <utility>     // std::swap
#include <vector>      // std::vector

namespace image_style {

using ft::Error;
using ft::Fit;
using ft::fitted;
using ft::Picture;
using ft::resized;
using ft::str;

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
