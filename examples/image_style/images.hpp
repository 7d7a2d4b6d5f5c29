// examples/image_style/images.hpp: PNG, JPEG, BMP, GIF, WebP and SVG files to pictures on white. What a file is, its
// first bytes say, not its name. Every size is checked before memory is taken for it.
#pragma once
#include "../common/rows.hpp"  // lowered, trimmed
#include "exif.hpp"
#include "facts.hpp"
#include "picture.hpp"

#include <gdk-pixbuf/gdk-pixbuf.h>
#include <librsvg/rsvg.h>
#include <turbojpeg.h>
#include <webp/decode.h>
#include <webp/demux.h>

#include <cmath>        // std::isfinite
#include <cstdint>      // std::int64_t, std::uint8_t
#include <memory>       // std::unique_ptr
#include <string>       // std::string
#include <string_view>  // std::string_view

namespace image_style {

inline constexpr std::int64_t max_pixels = 100'000'000;  // 700 MB while it is read
inline constexpr std::uint64_t max_file_bytes = std::uint64_t{256} << 20;
inline constexpr int svg_pixels = 512;  // along a drawing's longer side, before it is scaled like any picture

namespace detail {

inline const std::uint8_t* unsigned_bytes(std::string_view bytes) {
  return reinterpret_cast<const std::uint8_t*>(bytes.data());
}

inline void check_size(std::int64_t width, std::int64_t height, std::int64_t most) {
  if (width < 1 || height < 1) throw Error("has no pixels");
  if (width > most || height > most / width)
    throw Error(str("has ", width, " x ", height, " pixels, more than ", most), "make it smaller first.");
}
inline Picture blank(std::int64_t width, std::int64_t height, std::int64_t most) {
  check_size(width, height, most);
  return Picture(static_cast<int>(width), static_cast<int>(height));
}

inline Picture read_png(std::string_view bytes, std::int64_t most) {
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  const std::unique_ptr<png_image, void (*)(png_image*)> freed(&image, png_image_free);
  if (!png_image_begin_read_from_memory(&image, bytes.data(), bytes.size())) throw Error(str("PNG: ", image.message));
  check_size(image.width, image.height, most);
  image.format = PNG_FORMAT_RGBA;
  image.flags |= PNG_IMAGE_FLAG_16BIT_sRGB;  // 16 bits without a gamma are what everybody takes them for
  std::vector<std::uint8_t> rgba(std::size_t{image.width} * image.height * 4);
  if (!png_image_finish_read(&image, nullptr, rgba.data(), 0, nullptr)) throw Error(str("PNG: ", image.message));
  return ft::on_white(rgba.data(), image.width, image.height, std::int64_t{4} * image.width);
}

inline Picture read_jpeg(std::string_view bytes, std::int64_t most) {
  const std::unique_ptr<void, int (*)(tjhandle)> jpeg(tjInitDecompress(), tjDestroy);
  const auto* data = unsigned_bytes(bytes);
  const auto size = static_cast<unsigned long>(bytes.size());
  int width = 0, height = 0, subsampling = 0, colours = 0;
  if (tjDecompressHeader3(jpeg.get(), data, size, &width, &height, &subsampling, &colours) != 0)
    throw Error(str("JPEG: ", tjGetErrorStr2(jpeg.get())));
  Picture out = blank(width, height, most);
  // Limited scans: a progressive file of some kilobytes can ask for hours.
  const auto decode = [&](std::uint8_t* pixels, int format) {
    if (tjDecompress2(jpeg.get(), data, size, pixels, width, 0, height, format, TJFLAG_LIMITSCANS) == 0) return;
    const std::string_view why = tjGetErrorStr2(jpeg.get());
    if (tjGetErrorCode(jpeg.get()) == TJERR_FATAL || why.find("remature end") != why.npos)
      throw Error(str("JPEG: ", why));
  };
  if (colours != TJCS_CMYK && colours != TJCS_YCCK) {
    decode(out.rgb.data(), TJPF_RGB);
    return out;
  }
  std::vector<std::uint8_t> cmyk(out.rgb.size() / 3 * 4);
  decode(cmyk.data(), TJPF_CMYK);
  for (std::size_t i = 0; i < out.rgb.size(); ++i)  // stored as light, not as ink, as Adobe's programs began it
    out.rgb[i] = static_cast<std::uint8_t>((cmyk[i / 3 * 4 + i % 3] * cmyk[i / 3 * 4 + 3] + 127) / 255);
  return out;
}

/// The first frame, where there are many.
inline Picture read_webp(std::string_view bytes, std::int64_t most) {
  WebPBitstreamFeatures facts;
  if (WebPGetFeatures(unsigned_bytes(bytes), bytes.size(), &facts) != VP8_STATUS_OK)
    throw Error("WebP: damaged header");
  check_size(facts.width, facts.height, most);
  const WebPData data{unsigned_bytes(bytes), bytes.size()};
  const std::unique_ptr<WebPAnimDecoder, void (*)(WebPAnimDecoder*)> decoder(WebPAnimDecoderNew(&data, nullptr),
                                                                             WebPAnimDecoderDelete);
  std::uint8_t* rgba = nullptr;
  int milliseconds = 0;
  if (!decoder || !WebPAnimDecoderGetNext(decoder.get(), &rgba, &milliseconds))
    throw Error("WebP: damaged or cut short");
  return ft::on_white(rgba, facts.width, facts.height, std::int64_t{4} * facts.width);
}

struct Unref {
  void operator()(void* object) const { g_object_unref(object); }
};

/// What the library said, freed, on one line.
inline std::string taken(GError* error) {
  const std::string message = error ? error->message : "damaged";
  g_clear_error(&error);
  return ft::printable(examples::trimmed(message));
}

inline std::int64_t little_endian(std::string_view bytes, std::size_t at, std::size_t size) {
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < size && at + i < bytes.size(); ++i)
    value |= std::uint64_t{unsigned_bytes(bytes)[at + i]} << (8 * i);
  return size == 4 ? static_cast<std::int32_t>(value) : static_cast<std::int64_t>(value);
}

/// GIF (the first frame) and BMP.
inline Picture read_with_gdk(std::string_view bytes, const char* type, std::int64_t width, std::int64_t height,
                             std::int64_t most) {
  check_size(width, height, most);
  GError* error = nullptr;
  const std::unique_ptr<GdkPixbufLoader, Unref> loader(
      gdk_pixbuf_loader_new_with_type(examples::lowered(type).c_str(), &error));
  if (!loader) throw Error(str(type, ": ", taken(error)), "install libgdk-pixbuf-2.0-0 anew.");
  if (!gdk_pixbuf_loader_write(loader.get(), unsigned_bytes(bytes), bytes.size(), &error)) {
    gdk_pixbuf_loader_close(loader.get(), nullptr);
    throw Error(str(type, ": ", taken(error)));
  }
  if (!gdk_pixbuf_loader_close(loader.get(), &error)) throw Error(str(type, ": ", taken(error)));
  const GdkPixbuf* pixels = gdk_pixbuf_loader_get_pixbuf(loader.get());
  if (!pixels) throw Error(str(type, ": holds no picture"));
  if (gdk_pixbuf_get_width(pixels) != width || gdk_pixbuf_get_height(pixels) != height)
    throw Error(str(type, ": has another size than its header says"));
  const auto stride = static_cast<std::size_t>(gdk_pixbuf_get_rowstride(pixels));
  const std::uint8_t* data = gdk_pixbuf_read_pixels(pixels);
  if (gdk_pixbuf_get_has_alpha(pixels)) return ft::on_white(data, width, height, gdk_pixbuf_get_rowstride(pixels));
  Picture out(static_cast<int>(width), static_cast<int>(height));
  for (int y = 0; y < out.height; ++y)
    std::copy_n(data + static_cast<std::size_t>(y) * stride, static_cast<std::size_t>(out.width) * 3, out.at(0, y));
  return out;
}

inline Picture read_gif(std::string_view bytes, std::int64_t most) {
  return read_with_gdk(bytes, "GIF", little_endian(bytes, 6, 2), little_endian(bytes, 8, 2), most);
}

inline Picture read_bmp(std::string_view bytes, std::int64_t most) {
  if (little_endian(bytes, 2, 4) > static_cast<std::int64_t>(bytes.size())) throw Error("BMP: cut short");
  const bool old = little_endian(bytes, 14, 4) == 12;  // OS/2's header has 16-bit sizes
  const auto width = old ? little_endian(bytes, 18, 2) : little_endian(bytes, 18, 4);
  const auto height = old ? little_endian(bytes, 20, 2) : little_endian(bytes, 22, 4);
  return read_with_gdk(bytes, "BMP", width, std::abs(height), most);
}

/// Drawn svg_pixels large. Nothing outside the file is read; a picture inside it is refused, because its size cannot be
/// bounded from here.
inline Picture read_svg(std::string_view bytes) {
  if (bytes.find("data:image") != bytes.npos) throw Error("SVG: embeds a picture", "export it as PNG.");
  GError* error = nullptr;
  const std::unique_ptr<RsvgHandle, Unref> svg(rsvg_handle_new_from_data(unsigned_bytes(bytes), bytes.size(), &error));
  if (!svg) throw Error(str("SVG: ", taken(error)));
  rsvg_handle_set_dpi(svg.get(), 96);
  double width = 0, height = 0;
  if (!rsvg_handle_get_intrinsic_size_in_pixels(svg.get(), &width, &height)) {
    gboolean has_width = 0, has_height = 0, has_box = 0;
    RsvgLength ignored;
    RsvgRectangle box{0, 0, 1, 1};
    rsvg_handle_get_intrinsic_dimensions(svg.get(), &has_width, &ignored, &has_height, &ignored, &has_box, &box);
    width = has_box ? box.width : 1;
    height = has_box ? box.height : 1;
  }
  const double scale = svg_pixels / std::max(width, height);
  if (!(width > 0 && height > 0) || !std::isfinite(scale)) throw Error("SVG: has no size");
  const auto pixels = [&](double n) { return std::max(1, static_cast<int>(std::lround(n * scale))); };
  const int across = pixels(width), down = pixels(height);

  const std::unique_ptr<cairo_surface_t, void (*)(cairo_surface_t*)> surface(
      cairo_image_surface_create(CAIRO_FORMAT_RGB24, across, down), cairo_surface_destroy);
  const std::unique_ptr<cairo_t, void (*)(cairo_t*)> cairo(cairo_create(surface.get()), cairo_destroy);
  cairo_set_source_rgb(cairo.get(), 1, 1, 1);
  cairo_paint(cairo.get());
  const RsvgRectangle page{0, 0, static_cast<double>(across), static_cast<double>(down)};
  if (!rsvg_handle_render_document(svg.get(), cairo.get(), &page, &error)) throw Error(str("SVG: ", taken(error)));
  return from_surface(surface.get());
}

}  // namespace detail

struct Decoded {
  Picture picture;             ///< upright
  bool is_drawing = false;     ///< an SVG, which has no size of its own
  bool is_animated = false;    ///< the first frame is taken
  bool other_profile = false;  ///< whose colours are taken as sRGB's
};

namespace detail {
inline Decoded decode_pixels(std::string_view bytes, std::int64_t most) {
  using namespace std::string_view_literals;
  if (bytes.starts_with("\x89PNG\r\n\x1a\n"sv)) return {turned(read_png(bytes, most), png_orientation(bytes))};
  if (bytes.starts_with("\xFF\xD8\xFF"sv)) return {turned(read_jpeg(bytes, most), jpeg_orientation(bytes))};
  if (bytes.starts_with("GIF8"sv)) return {read_gif(bytes, most)};
  if (bytes.starts_with("RIFF"sv) && bytes.substr(0, 12).ends_with("WEBP"sv))
    return {turned(read_webp(bytes, most), webp_orientation(bytes))};
  if (bytes.starts_with("BM"sv)) return {read_bmp(bytes, most)};
  if (bytes.substr(0, 65536).find("<svg"sv) != bytes.npos) return {read_svg(bytes), true};
  if (bytes.empty()) throw Error("is empty");
  const Kind kind = kind_of(bytes);
  if (!*kind.hint) throw Error("is none of PNG, JPEG, BMP, GIF, WebP and SVG");
  throw Error(str("is ", kind.name, ", which is not read"), kind.hint);
}
}  // namespace detail

/// Throws Error, without the file's name, for what cannot be read or has more than `most` pixels.
inline Decoded decode(std::string_view bytes, std::int64_t most = max_pixels) {
  Decoded out = detail::decode_pixels(bytes, most);
  out.is_animated = is_animated(bytes);
  out.other_profile = has_other_profile(bytes);
  return out;
}

}  // namespace image_style
