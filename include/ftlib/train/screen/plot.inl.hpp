// train/screen/plot.inl.hpp: the bodies of train/screen/plot.hpp.
#pragma once
#include <ftlib/core/dtype.hpp>  // int64_t
#include <ftlib/core/error.hpp>  // str
#include <ftlib/train/screen/plot.hpp>

#include <algorithm>    // std::clamp, std::min, std::max
#include <cmath>        // std::floor, std::log10, std::pow
#include <cstdio>       // std::snprintf
#include <limits>       // std::numeric_limits
#include <string_view>  // std::string_view

namespace ft::inline FTLIB_ABI {

namespace detail {
FTLIB_INLINE std::string xml_escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '&') out += "&amp;";
    else if (c == '<') out += "&lt;";
    else if (c == '>') out += "&gt;";
    else if (c == '"') out += "&quot;";
    else if (static_cast<unsigned char>(c) >= 0x20) out += c;  // XML has no place for control characters
  }
  return out;
}
FTLIB_INLINE std::string plot_number(double value, int decimals) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", decimals, value);
  return text;
}

/// An axis from low to high, moved outwards to whole ticks of 1, 2 or 5 times a power of ten.
struct Axis {
  double low, high, tick;
  int decimals;

  Axis(double from, double to, int most_ticks) {
    if (!(to > from)) to = from + std::max(1.0, std::abs(from) * 0.1);
    const double rough = (to - from) / most_ticks, power = std::pow(10.0, std::floor(std::log10(rough)));
    tick = power * (rough <= power ? 1 : rough <= 2 * power ? 2 : rough <= 5 * power ? 5 : 10);
    low = std::floor(from / tick + 1e-9) * tick;
    high = std::ceil(to / tick - 1e-9) * tick;
    decimals = std::clamp(static_cast<int>(-std::floor(std::log10(tick) + 1e-9)), 0, 9);
  }
  int ticks() const { return static_cast<int>(std::lround((high - low) / tick)); }
  double at(int i) const { return low + i * tick; }
};

/// The finite points, at most `most` of them: neighbours are averaged, so a long noisy run stays a small file.
FTLIB_INLINE std::vector<PlotSeries::Point> thinned(const std::vector<PlotSeries::Point>& points, std::size_t most) {
  std::vector<PlotSeries::Point> finite, out;
  for (const auto& p : points)
    if (std::isfinite(p.x) && std::isfinite(p.y)) finite.push_back(p);
  const std::size_t group = (finite.size() + most - 1) / most;
  for (std::size_t i = 0; i < finite.size(); i += group) {
    const std::size_t n = std::min(group, finite.size() - i);
    PlotSeries::Point sum{0, 0};
    for (std::size_t k = i; k < i + n; ++k) sum = {sum.x + finite[k].x, sum.y + finite[k].y};
    out.push_back({sum.x / static_cast<double>(n), sum.y / static_cast<double>(n)});
  }
  return out;
}
}  // namespace detail

FTLIB_INLINE std::string loss_curve_svg(std::span<const PlotSeries> series, const PlotOptions& options) {
  using detail::plot_number;
  std::vector<std::vector<PlotSeries::Point>> curves;
  constexpr double infinity = std::numeric_limits<double>::infinity();
  double x0 = infinity, x1 = -infinity, y0 = infinity, y1 = -infinity;
  for (const PlotSeries& s : series) {
    curves.push_back(detail::thinned(s.points, 400));
    for (const auto& p : curves.back()) {
      x0 = std::min(x0, p.x), x1 = std::max(x1, p.x);
      y0 = std::min(y0, p.y), y1 = std::max(y1, p.y);
    }
  }
  const bool empty = !(x0 <= x1);
  if (empty) x0 = y0 = 0, x1 = y1 = 1;
  if (y0 > 0 && y0 < y1 / 2) y0 = 0;  // most of the way down to zero: show zero, so that heights compare
  const detail::Axis y(y0, y1, 6), x_ticks(x0, x1, 8);
  const double left = 62, right = options.width - 20.0, top = 76, bottom = options.height - 48.0;
  const double span = std::max(x1 - x0, 1e-9);
  const auto px = [&](double v) { return left + (v - x0) / span * (right - left); };
  const auto py = [&](double v) { return bottom - (v - y.low) / (y.high - y.low) * (bottom - top); };

  std::string svg = str("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 ", options.width, ' ', options.height,
                        "\" width=\"", options.width, "\" height=\"", options.height, "\" role=\"img\">\n<title>",
                        detail::xml_escaped(options.title), "</title>\n");
  // Pairs of hues that differ for colour-blind readers too, each at least 3:1 against its card; dashes repeat the
  // difference.
  svg +=
      "<style>\n"
      "text{font:12px system-ui,-apple-system,\"Segoe UI\",sans-serif;fill:#52514e}\n"
      ".card{fill:#fcfcfb;stroke:#dddcd8}.title{font-size:15px;font-weight:600;fill:#1c1c1a}\n"
      ".grid{stroke:#e7e6e2}.axis{stroke:#a8a7a2}.curve{fill:none;stroke-width:2;stroke-linejoin:round}\n"
      ".s0{stroke:#2468c8}.s1{stroke:#d9480f}.s2{stroke:#1f8a5b}.s3{stroke:#7b4fc4}\n"
      ".d0{fill:#2468c8}.d1{fill:#d9480f}.d2{fill:#1f8a5b}.d3{fill:#7b4fc4}\n"
      "@media (prefers-color-scheme:dark){text{fill:#c3c2bc}.card{fill:#1a1a19;stroke:#3a3a37}\n"
      ".title{fill:#f4f4f1}.grid{stroke:#2e2e2b}.axis{stroke:#6d6c67}\n"
      ".s0{stroke:#6ea8fe}.s1{stroke:#ff8f57}.s2{stroke:#4cc38a}.s3{stroke:#b197fc}\n"
      ".d0{fill:#6ea8fe}.d1{fill:#ff8f57}.d2{fill:#4cc38a}.d3{fill:#b197fc}}\n"
      "</style>\n";
  svg +=
      str("<rect class=\"card\" x=\"0.5\" y=\"0.5\" width=\"", options.width - 1, "\" height=\"", options.height - 1,
          "\" rx=\"8\"/>\n<text class=\"title\" x=\"20\" y=\"30\">", detail::xml_escaped(options.title), "</text>\n");

  for (int i = 0; i <= y.ticks(); ++i) {
    const std::string at = plot_number(py(y.at(i)), 1);
    svg += str("<line class=\"", i ? "grid" : "axis", "\" x1=\"", left, "\" y1=\"", at, "\" x2=\"", right, "\" y2=\"",
               at, "\"/><text x=\"", left - 8, "\" y=\"", at, "\" text-anchor=\"end\" dy=\"0.32em\">",
               plot_number(y.at(i), y.decimals), "</text>\n");
  }
  for (int i = 0; i <= x_ticks.ticks(); ++i) {
    const double value = x_ticks.at(i);
    if (value < x0 - 1e-9 || value > x1 + 1e-9) continue;  // steps end where the run does
    const std::string at = plot_number(px(value), 1);
    svg += str("<line class=\"axis\" x1=\"", at, "\" y1=\"", bottom, "\" x2=\"", at, "\" y2=\"", bottom + 5,
               "\"/><text x=\"", at, "\" y=\"", bottom + 19, "\" text-anchor=\"middle\">",
               plot_number(value, x_ticks.decimals), "</text>\n");
  }
  svg += str("<text x=\"", (left + right) / 2, "\" y=\"", options.height - 10, "\" text-anchor=\"middle\">",
             empty ? "no data" : detail::xml_escaped(options.x_label), "</text>\n");

  double legend = 20;
  for (std::size_t i = 0; i < curves.size(); ++i) {
    const auto& points = curves[i];
    const std::size_t colour = i % 4;
    const std::string dash = i % 2 ? " stroke-dasharray=\"6 4\"" : "";
    if (!points.empty()) {
      std::string path;
      for (const auto& p : points)
        path += (path.empty() ? "" : " ") + plot_number(px(p.x), 1) + ',' + plot_number(py(p.y), 1);
      svg += str("<polyline class=\"curve s", colour, '"', dash, " points=\"", path, "\"/>\n");
      if (points.size() <= 60)
        for (const auto& p : points)
          svg += str("<circle class=\"d", colour, "\" cx=\"", plot_number(px(p.x), 1), "\" cy=\"",
                     plot_number(py(p.y), 1), "\" r=\"3\"/>");
    }
    std::string label = series[i].name;
    for (auto p = series[i].points.rbegin(); p != series[i].points.rend(); ++p)
      if (std::isfinite(p->y)) {
        label += ", last " + plot_number(p->y, 3);
        break;
      }
    svg += str("\n<line class=\"curve s", colour, '"', dash, " x1=\"", legend, "\" y1=\"51\" x2=\"", legend + 24,
               "\" y2=\"51\"/><text x=\"", legend + 30, "\" y=\"55\">", detail::xml_escaped(label), "</text>\n");
    legend += 60 + 7 * static_cast<double>(label.size());  // about the width of a letter
  }
  return svg + "</svg>\n";
}

}  // namespace ft::inline FTLIB_ABI
