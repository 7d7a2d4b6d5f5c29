// train/screen/plot.hpp: loss curves as a small SVG that needs nothing else and is readable on light and on dark pages.
#pragma once
#include <ftlib/train/run.hpp>  // CurvePoint

#include <span>    // std::span
#include <string>  // std::string
#include <vector>  // std::vector

namespace ft::inline FTLIB_ABI {

/// One curve; x is the step. Points that are not finite are left out. A series of at most 60 points is drawn with dots.
struct PlotSeries {
  using Point = CurvePoint;
  std::string name = {};
  std::vector<Point> points = {};
};

struct PlotOptions {
  std::string title = "Loss";
  std::string x_label = "step";
  int width = 720;  // in the SVG's units; it scales with the page
  int height = 380;
};

/// An SVG document with a line for each series over a common axis of steps, ticks, and a legend of names and last
/// values. It stands on a card of its own colour, which follows the reader's light or dark preference.
std::string loss_curve_svg(std::span<const PlotSeries> series, const PlotOptions& options = {});

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/train/screen/plot.inl.hpp>
#endif
