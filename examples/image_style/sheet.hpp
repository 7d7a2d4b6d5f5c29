// examples/image_style/sheet.hpp: a contact sheet: pictures side by side, each with a line or two beneath.
#pragma once
#include "picture.hpp"

#include <cairo.h>

#include <algorithm>  // std::max
#include <memory>     // std::unique_ptr
#include <string>     // std::string
#include <vector>     // std::vector

namespace image_style {

struct Cell {
  Picture picture;
  std::string text;
};

namespace detail {

/// The text in at most two lines of `width`, the second cut with dots; the words are kept whole where they fit.
inline std::vector<std::string> two_lines(cairo_t* cairo, const std::string& text, double width) {
  const auto fits = [&](const std::string& line) {
    cairo_text_extents_t size;
    cairo_text_extents(cairo, line.c_str(), &size);
    return size.x_advance <= width;
  };
  if (fits(text)) return {text};
  std::size_t end = text.rfind(' ');
  while (end != text.npos && end > 0 && !fits(text.substr(0, end))) end = text.rfind(' ', end - 1);
  const bool split = end != text.npos && end > 0;
  std::string last = split ? text.substr(end + 1) : text;
  if (!fits(last)) {
    while (!last.empty() && !fits(last + "...")) {
      while (last.size() > 1 && (static_cast<unsigned char>(last.back()) & 0xC0) == 0x80) last.pop_back();  // UTF-8
      last.pop_back();
    }
    last += "...";
  }
  if (!split) return {last};
  return {text.substr(0, end), last};
}

}  // namespace detail

/// Row by row, `columns` wide; a picture is shown `side` pixels large, its own pixels sharp. A cell without a picture
/// stays empty.
inline Picture contact_sheet(const std::vector<Cell>& cells, int columns, int side = 96) {
  constexpr int gap = 6, line = 12;
  const int rows = (static_cast<int>(cells.size()) + columns - 1) / columns, high = side + 2 * line + gap;
  const std::unique_ptr<cairo_surface_t, void (*)(cairo_surface_t*)> surface(
      cairo_image_surface_create(CAIRO_FORMAT_RGB24, columns * (side + gap) + gap, std::max(rows, 1) * high + gap),
      cairo_surface_destroy);
  const std::unique_ptr<cairo_t, void (*)(cairo_t*)> cairo(cairo_create(surface.get()), cairo_destroy);
  cairo_set_source_rgb(cairo.get(), 0.94, 0.94, 0.94);
  cairo_paint(cairo.get());
  cairo_set_source_rgb(cairo.get(), 0, 0, 0);
  cairo_select_font_face(cairo.get(), "sans-serif", CAIRO_FONT_SLANT_NORMAL, CAIRO_FONT_WEIGHT_NORMAL);
  cairo_set_font_size(cairo.get(), line - 2);
  const auto left = [&](std::size_t i) { return gap + static_cast<int>(i) % columns * (side + gap); };
  const auto top = [&](std::size_t i) { return gap + static_cast<int>(i) / columns * high; };
  for (std::size_t i = 0; i < cells.size(); ++i) {
    double y = top(i) + side + line - 1;
    for (const auto& text : detail::two_lines(cairo.get(), cells[i].text, side)) {
      cairo_move_to(cairo.get(), left(i), y);
      cairo_show_text(cairo.get(), text.c_str());
      y += line;
    }
  }
  Picture sheet = from_surface(surface.get());
  for (std::size_t i = 0; i < cells.size(); ++i) {
    if (cells[i].picture.width == 0) continue;
    const Picture small = cells[i].picture.width > side ? resized(cells[i].picture, side, side) : cells[i].picture;
    for (int y = 0; y < side; ++y)
      for (int x = 0; x < side; ++x)
        std::copy_n(small.at(x * small.width / side, y * small.height / side), 3, sheet.at(left(i) + x, top(i) + y));
  }
  return sheet;
}

}  // namespace image_style
