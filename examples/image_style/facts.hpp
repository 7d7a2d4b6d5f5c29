// examples/image_style/facts.hpp: what a file says of itself beside its pixels: what it is, by its first bytes; whether
// it moves; whether its colours are meant by a profile other than sRGB's. What is damaged or cut short says nothing.
#pragma once
#include "exif.hpp"  // number

#include <zlib.h>  // uncompress

#include <array>        // std::array
#include <string>       // std::string
#include <string_view>  // std::string_view

namespace image_style {

/// What a file is; the name is empty where its bytes do not tell.
struct Kind {
  const char *name = "", *ending = "";
  bool is_picture = false;
  const char* hint = "";  ///< how to make a picture of it that is read
};

inline Kind kind_of(std::string_view bytes) {
  using namespace std::string_view_literals;
  static constexpr const char* convert = "make it a PNG file first: magick mogrify -format png FILE";
  struct Magic {
    std::size_t at;
    std::string_view bytes;
    Kind kind;
  };
  static constexpr Magic known[] = {
      {0, "\x89PNG\r\n\x1a\n"sv, {"PNG", ".png", true}},
      {0, "\xFF\xD8\xFF"sv, {"JPEG", ".jpg", true}},
      {0, "GIF8"sv, {"GIF", ".gif", true}},
      {8, "WEBP"sv, {"WebP", ".webp", true}},
      {4, "ftypheic"sv, {"HEIC", ".heic", true, convert}},
      {4, "ftypheix"sv, {"HEIC", ".heic", true, convert}},
      {4, "ftypmif1"sv, {"HEIF", ".heif", true, convert}},
      {4, "ftypavif"sv, {"AVIF", ".avif", true, convert}},
      {0, "II*\0"sv, {"TIFF", ".tif", true, convert}},
      {0, "MM\0*"sv, {"TIFF", ".tif", true, convert}},
      {0, "\0\0\0\x0cJXL "sv, {"JPEG XL", ".jxl", true, convert}},
      {0, "\xFF\x0A"sv, {"JPEG XL", ".jxl", true, convert}},
      {0, "8BPS"sv, {"a Photoshop file", ".psd", true, convert}},
      {0, "version https://git-lfs"sv, {"a Git LFS pointer", "", false, "git lfs pull fetches the picture."}},
      {0, "PK\3\4"sv, {"a ZIP archive", ".zip", false, "unpack it."}},
      {0, "\x1f\x8b"sv, {"compressed by gzip", ".gz", false, "unpack it."}}};
  for (const auto& one : known)
    if (bytes.size() > one.at && bytes.substr(one.at).starts_with(one.bytes)) return one.kind;
  if (bytes.starts_with("BM") && bytes.size() > 18 && detail::number(bytes, 6, 4, true) == 0)
    return {"BMP", ".bmp", true};
  std::string head(bytes.substr(0, 512));
  for (char& c : head)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c + 32);
  if (head.find("<svg") != head.npos) return {"SVG", ".svg", true};
  if (head.find("<!doctype html") != head.npos || head.find("<html") != head.npos)
    return {"a web page", ".html", false, "the download of the picture failed; get it again."};
  return {};
}

namespace detail {

/// The body of the first PNG chunk of a type that stands before the pixels.
inline std::string_view png_chunk(std::string_view bytes, std::string_view type) {
  for (std::size_t at = 8; at + 12 <= bytes.size();) {
    const auto body = bytes.substr(at + 8, number(bytes, at, 4, false));
    if (bytes.substr(at + 4, 4) == type) return body;
    if (bytes.substr(at + 4, 4) == "IDAT") break;
    at += 12 + body.size();
  }
  return {};
}
inline std::string_view webp_chunk(std::string_view bytes, std::string_view type) {
  for (std::size_t at = 12; at + 8 <= bytes.size();) {
    const auto body = bytes.substr(at + 8, number(bytes, at + 4, 4, true));
    if (bytes.substr(at, 4) == type) return body;
    at += 8 + body.size() + body.size() % 2;
  }
  return {};
}

/// Pictures in a GIF file, counted up to two.
inline int gif_frames(std::string_view bytes) {
  const auto table = [&](std::size_t at) {  // bytes of a colour table, by the flags at `at`
    const auto flags = number(bytes, at, 1, true);
    return flags & 0x80 ? std::size_t{3} << ((flags & 7) + 1) : std::size_t{0};
  };
  int frames = 0;
  for (std::size_t at = 13 + table(10); at < bytes.size() && frames < 2;) {
    const auto block = number(bytes, at, 1, true);
    if (block == 0x2C) {  // a picture: its place, flags, table, and the width of its codes
      ++frames;
      at += 10 + table(at + 9) + 1;
    } else if (block == 0x21) {
      at += 2;
    } else {
      break;
    }
    while (at < bytes.size() && number(bytes, at, 1, true) != 0) at += 1 + number(bytes, at, 1, true);
    ++at;
  }
  return frames;
}

/// The colour profile that a file holds, or the part of it that can be had; empty without one.
inline std::string profile_of(std::string_view bytes) {
  if (bytes.starts_with("\x89PNG")) {
    const auto chunk = png_chunk(bytes, "iCCP");  // a name, a zero, the method, the profile by zlib
    const auto name = chunk.find('\0');
    if (name == chunk.npos || chunk.size() < name + 2) return {};
    std::string profile(std::size_t{1} << 20, '\0');
    uLongf size = profile.size();
    const auto packed = chunk.substr(name + 2);
    if (uncompress(reinterpret_cast<Bytef*>(profile.data()), &size, reinterpret_cast<const Bytef*>(packed.data()),
                   packed.size()) != Z_OK)
      size = 0;
    return std::string(chunk.substr(0, name)) + profile.substr(0, size);
  }
  if (bytes.starts_with("\xFF\xD8")) {
    std::string profile;
    for (std::size_t at = 2; at + 4 <= bytes.size();) {
      const auto marker = number(bytes, at, 2, false), length = number(bytes, at + 2, 2, false);
      if (marker < 0xFF00 || marker == 0xFFDA || length < 2) break;  // DA: the pixels begin
      const auto body = bytes.substr(at + 4, length - 2);
      if (marker == 0xFFE2 && body.starts_with("ICC_PROFILE"))
        profile += body.substr(std::min<std::size_t>(14, body.size()));
      at += 2 + length;
    }
    return profile;
  }
  if (bytes.starts_with("RIFF")) return std::string(webp_chunk(bytes, "ICCP"));
  return {};
}

}  // namespace detail

/// Whether a file holds several frames.
inline bool is_animated(std::string_view bytes) {
  if (bytes.starts_with("GIF8")) return detail::gif_frames(bytes) > 1;
  if (bytes.starts_with("\x89PNG")) return !detail::png_chunk(bytes, "acTL").empty();
  return bytes.starts_with("RIFF") && !detail::webp_chunk(bytes, "ANIM").empty();
}

/// Whether a file says that its colours are not sRGB's.
inline bool has_other_profile(std::string_view bytes) {
  using namespace std::string_view_literals;
  const auto profile = detail::profile_of(bytes);
  for (const auto name : {"sRGB"sv, "\0s\0R\0G\0B"sv})
    if (profile.find(name) != profile.npos) return false;
  return !profile.empty();
}

}  // namespace image_style
