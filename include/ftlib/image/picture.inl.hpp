// image/picture.inl.hpp: the bodies of image/picture.hpp.
#pragma once
#include <ftlib/core/error.hpp>  // Error
#include <ftlib/image/picture.hpp>

#include <algorithm>  // std::clamp, std::max, std::min
#include <cmath>      // std::lrint, std::lround, std::sin
#include <limits>     // std::numeric_limits
#include <numbers>    // std::numbers::pi
#include <utility>    // std::move

namespace ft::inline FTLIB_ABI {

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

/// "64 x 64" for values of a square picture with so many channels, or else their number: for messages.
inline std::string size_of_values(std::size_t values, int64_t channels) {
  const auto plane = static_cast<double>(values) / static_cast<double>(channels);
  const auto side = std::llround(std::sqrt(plane));
  if (static_cast<std::size_t>(side * side * channels) != values || side < 1) return str(values, " values");
  return str(side, " x ", side);
}

}  // namespace detail

FTLIB_INLINE Picture resized(const Picture& from, int width, int height, Box box) {
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

FTLIB_INLINE Picture resized(const Picture& from, int width, int height) {
  return resized(from, width, height, {0, 0, static_cast<double>(from.width), static_cast<double>(from.height)});
}

FTLIB_INLINE Picture fitted(const Picture& from, int size, Fit fit) {
  const double w = from.width, h = from.height;
  if (fit == Fit::cover) {
    const double side = std::min(w, h);
    return resized(from, size, size, {(w - side) / 2, (h - side) / 2, side, side});
  }
  const auto scaled = [&](double n) { return std::max(1, static_cast<int>(std::lround(n * size / std::max(w, h)))); };
  const Picture whole = resized(from, scaled(w), scaled(h));
  Picture out(size, size);
  const int left = (size - whole.width) / 2, top = (size - whole.height) / 2;
  for (int y = 0; y < whole.height; ++y)
    std::copy_n(whole.at(0, y), std::size_t{3} * static_cast<std::size_t>(whole.width), out.at(left, top + y));
  return out;
}

FTLIB_INLINE Picture on_white(const std::uint8_t* rgba, int64_t width, int64_t height, int64_t stride) {
  constexpr int64_t most = std::numeric_limits<int>::max() / 4;
  if (!rgba || width < 1 || height < 1 || width > most || height > most || stride < 4 * width)
    throw Error(str("RGBA: ", rgba ? "" : "no buffer, ", width, " x ", height, " pixels in rows of ", stride, " bytes"),
                "a row has 4 bytes a pixel, and the stride is the distance of two rows in bytes.");
  Picture out(static_cast<int>(width), static_cast<int>(height));
  for (int y = 0; y < out.height; ++y) {
    const std::uint8_t* source = rgba + static_cast<std::ptrdiff_t>(y) * stride;
    for (int x = 0; x < out.width; ++x, source += 4)
      for (int c = 0; c < 3; ++c)
        out.at(x, y)[c] = static_cast<std::uint8_t>((source[c] * source[3] + 255 * (255 - source[3]) + 127) / 255);
  }
  return out;
}

FTLIB_INLINE std::vector<float> from_rgba(const std::uint8_t* rgba, int64_t width, int64_t height, int64_t stride,
                                          int64_t size, Fit fit) {
  if (size < 1 || size > 1 << 14) throw Error(str("RGBA: to a picture of ", size, " x ", size, " pixels"));
  return to_values(fitted(on_white(rgba, width, height, stride), static_cast<int>(size), fit));
}

FTLIB_INLINE std::vector<std::uint8_t> to_rgba(const Picture& picture) {
  std::vector<std::uint8_t> rgba;
  rgba.reserve(picture.rgb.size() / 3 * 4);
  for (std::size_t i = 0; i + 2 < picture.rgb.size(); i += 3)
    rgba.insert(rgba.end(), {picture.rgb[i], picture.rgb[i + 1], picture.rgb[i + 2], 255});
  return rgba;
}

FTLIB_INLINE std::vector<float> to_values(const Picture& picture) {
  if (picture.width != picture.height || picture.width < 1)
    throw Error(str("a picture of ", picture.width, " x ", picture.height, " is not what a model learns"),
                "make it a square with ft::fitted.");
  const std::size_t plane = picture.rgb.size() / 3;
  std::vector<float> values(3 * plane);
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<float>(picture.rgb[i % plane * 3 + i / plane]) / 127.5f - 1.0f;
  return values;
}

FTLIB_INLINE std::vector<Picture> to_pictures(std::span<const float> values, int64_t size) {
  const auto plane = static_cast<std::size_t>(size) * static_cast<std::size_t>(size);
  if (size < 1 || values.size() % (3 * plane))
    throw Error(str("pictures: ", values.size(), " values are no pictures of 3 x ", size, " x ", size),
                "give the size that the model draws: config().image_size.");
  std::vector<Picture> all;
  for (; !values.empty(); values = values.subspan(3 * plane)) {
    Picture& out = all.emplace_back(static_cast<int>(size), static_cast<int>(size));
    for (std::size_t i = 0; i < 3 * plane; ++i)
      out.rgb[i % plane * 3 + i / plane] = detail::to_byte((values[i] + 1) * 127.5f);
  }
  return all;
}

}  // namespace ft::inline FTLIB_ABI
