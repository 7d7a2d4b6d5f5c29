// examples/image_style/exif.hpp: how a camera was held: EXIF's orientation in JPEG, PNG and WebP files. What is damaged
// or cut short counts as upright.
#pragma once
#include <cstddef>      // std::size_t
#include <cstdint>      // std::uint32_t
#include <string_view>  // std::string_view

namespace image_style {

namespace detail {

/// An unsigned number of 1 to 4 bytes; 0 where the bytes end.
inline std::uint32_t number(std::string_view bytes, std::size_t at, std::size_t size, bool little_endian) {
  if (at > bytes.size() || bytes.size() - at < size) return 0;
  std::uint32_t value = 0;
  for (std::size_t i = 0; i < size; ++i)
    value = (value << 8) | static_cast<unsigned char>(bytes[little_endian ? at + size - 1 - i : at + i]);
  return value;
}

/// From EXIF's block, a small TIFF file: tag 0x0112 of its first directory.
inline int tiff_orientation(std::string_view tiff) {
  if (tiff.starts_with(std::string_view("Exif\0\0", 6))) tiff.remove_prefix(6);
  const bool little = tiff.starts_with("II");
  if (!little && !tiff.starts_with("MM")) return 1;
  const std::size_t directory = number(tiff, 4, 4, little), entries = number(tiff, directory, 2, little);
  for (std::size_t i = 0; i < entries; ++i) {
    const std::size_t entry = directory + 2 + 12 * i;
    if (entry + 12 > tiff.size()) break;
    if (number(tiff, entry, 2, little) != 0x0112) continue;
    const auto value = number(tiff, entry + 8, 2, little);
    return value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
  }
  return 1;
}

}  // namespace detail

/// Segments: FF, a type, two bytes of length; EXIF is in type E1.
inline int jpeg_orientation(std::string_view bytes) {
  for (std::size_t at = 2; at + 4 <= bytes.size();) {
    const auto marker = detail::number(bytes, at, 2, false), length = detail::number(bytes, at + 2, 2, false);
    if (marker < 0xFF00 || marker == 0xFFDA || length < 2) break;  // DA: the pixels begin
    const auto body = bytes.substr(at + 4, length - 2);
    if (marker == 0xFFE1 && body.starts_with("Exif")) return detail::tiff_orientation(body);
    at += 2 + length;
  }
  return 1;
}

/// Chunks: four bytes of length, a type, the body, a checksum.
inline int png_orientation(std::string_view bytes) {
  for (std::size_t at = 8; at + 12 <= bytes.size();) {
    const auto body = bytes.substr(at + 8, detail::number(bytes, at, 4, false));
    if (bytes.substr(at + 4, 4) == "eXIf") return detail::tiff_orientation(body);
    at += 12 + body.size();
  }
  return 1;
}

/// Chunks: a type, four bytes of length, the body, padded to an even size.
inline int webp_orientation(std::string_view bytes) {
  for (std::size_t at = 12; at + 8 <= bytes.size();) {
    const auto body = bytes.substr(at + 8, detail::number(bytes, at + 4, 4, true));
    if (bytes.substr(at, 4) == "EXIF") return detail::tiff_orientation(body);
    at += 8 + body.size() + body.size() % 2;
  }
  return 1;
}

}  // namespace image_style
