// examples/image_style/features.hpp: what can be told of a picture without a learned network: its style as statistics
// that forget where things are, its content as a small blurred version that forgets most of how they are drawn.
#pragma once
#include "picture.hpp"

#include <Eigen/Dense>

#include <algorithm>         // std::clamp, std::max, std::min
#include <array>             // std::array
#include <cmath>             // std::sqrt, std::atan2, std::log
#include <initializer_list>  // std::initializer_list
#include <map>               // std::map
#include <numbers>           // std::numbers::pi
#include <numeric>           // std::accumulate
#include <utility>           // std::pair
#include <vector>            // std::vector

namespace image_style {

using Matrix = Eigen::MatrixXd;  ///< a row a picture

namespace detail {

using Plane = Eigen::ArrayXXf;
inline constexpr float pi = std::numbers::pi_v<float>;

/// Y, Cb and Cr of BT.601 in 0..1 and -0.5..0.5.
inline std::array<Plane, 3> ycbcr(const Picture& picture) {
  std::array<Plane, 3> planes;
  planes.fill(Plane(picture.height, picture.width));
  for (int y = 0; y < picture.height; ++y) {
    for (int x = 0; x < picture.width; ++x) {
      const auto* p = picture.at(x, y);
      const float r = static_cast<float>(p[0]) / 255, g = static_cast<float>(p[1]) / 255,
                  b = static_cast<float>(p[2]) / 255, light = 0.299f * r + 0.587f * g + 0.114f * b;
      planes[0](y, x) = light;
      planes[1](y, x) = (b - light) / 1.772f;
      planes[2](y, x) = (r - light) / 1.402f;
    }
  }
  return planes;
}

/// The plane moved: at (y, x) is what was at (y + down, x + right); the rim is repeated.
inline Plane moved(const Plane& plane, Eigen::Index down, Eigen::Index right) {
  Plane out(plane.rows(), plane.cols());
  for (Eigen::Index x = 0; x < out.cols(); ++x)
    for (Eigen::Index y = 0; y < out.rows(); ++y)
      out(y, x) = plane(std::clamp<Eigen::Index>(y + down, 0, plane.rows() - 1),
                        std::clamp<Eigen::Index>(x + right, 0, plane.cols() - 1));
  return out;
}
inline Plane derivative(const Plane& plane, Eigen::Index down, Eigen::Index right) {
  return moved(plane, down, right) - moved(plane, -down, -right);
}

/// Binomial blur, 1 4 6 4 1 in both directions: a Gaussian of deviation 1 pixel.
inline Plane blurred(const Plane& plane) {
  const auto along = [](const Plane& p, Eigen::Index down, Eigen::Index right) -> Plane {
    return (6 * p + 4 * (moved(p, down, right) + moved(p, -down, -right)) + moved(p, 2 * down, 2 * right) +
            moved(p, -2 * down, -2 * right)) /
           16;
  };
  return along(along(plane, 1, 0), 0, 1);
}

/// Half the size, each pixel the mean of four; an odd row or column at the end is left out.
inline Plane halved(const Plane& plane) {
  Plane out(plane.rows() / 2, plane.cols() / 2);
  for (Eigen::Index x = 0; x < out.cols(); ++x)
    for (Eigen::Index y = 0; y < out.rows(); ++y) out(y, x) = plane.block<2, 2>(2 * y, 2 * x).mean();
  return out;
}

/// How fast the planes change at each pixel: the length of their gradients together.
inline Plane edges(std::initializer_list<const Plane*> planes) {
  Plane sum = Plane::Zero((*planes.begin())->rows(), (*planes.begin())->cols());
  for (const Plane* plane : planes) sum += derivative(*plane, 1, 0).square() + derivative(*plane, 0, 1).square();
  return sum.sqrt();
}

/// The lightest (or darkest) value within `reach` pixels of each.
inline Plane spread(const Plane& plane, Eigen::Index reach, bool lightest) {
  Plane out = plane;
  for (Eigen::Index down = -reach; down <= reach; ++down)
    for (Eigen::Index right = -reach; right <= reach; ++right) {
      const Plane other = moved(plane, down, right);
      if (lightest) out = out.max(other);
      else out = out.min(other);
    }
  return out;
}
/// Lines darker than what is on both sides of them, at most 2 reach wide, by how much: closing minus the plane.
inline Plane dark_lines(const Plane& plane, Eigen::Index reach) {
  return spread(spread(plane, reach, true), reach, false) - plane;
}
inline Plane light_lines(const Plane& plane, Eigen::Index reach) { return dark_lines(-plane, reach); }

/// Gram matrix of filter responses, upper half: contours of luminance and of chroma, a centre-surround filter cut to
/// its positive and negative half, dark and light lines, and ones, which bring in the means. The root keeps a few
/// strong contours from drowning the rest.
inline void add_gram(std::vector<double>& out, const std::array<Plane, 3>& planes) {
  const Plane surround = planes[0] - blurred(planes[0]), ones = Plane::Ones(planes[0].rows(), planes[0].cols());
  const std::vector<Plane> responses{ones,
                                     surround.max(0.0f),
                                     (-surround).max(0.0f),
                                     edges({&planes[1], &planes[2]}),
                                     edges({&planes[0]}),
                                     dark_lines(planes[0], 1),
                                     light_lines(planes[0], 1)};
  for (std::size_t i = 0; i < responses.size(); ++i)
    for (std::size_t k = std::max<std::size_t>(i, 1); k < responses.size(); ++k)
      out.push_back(std::sqrt(std::max(0.0, double{(responses[i] * responses[k]).mean()})));
}

/// Roots of the shares of values in each bin, each counted by its weight; what lies outside counts for the nearest bin.
inline void add_histogram(std::vector<double>& out, const Plane& values, const Plane& weights, float low, float high) {
  std::array<double, 8> counts{};
  for (Eigen::Index i = 0; i < values.size(); ++i) {
    const auto bin = static_cast<int>((values(i) - low) / (high - low) * 8);
    counts[static_cast<std::size_t>(std::clamp(bin, 0, 7))] += double{weights(i)};
  }
  const double all = std::max(1e-6, std::accumulate(counts.begin(), counts.end(), 0.0));
  for (const double count : counts) out.push_back(std::sqrt(count / all));
}

inline void add_colours(std::vector<double>& out, const std::array<Plane, 3>& planes) {
  const Plane ones = Plane::Ones(planes[0].rows(), planes[0].cols());
  std::array<Plane, 3> scaled;
  for (std::size_t c = 0; c < 3; ++c) {
    const float mean = planes[c].mean(), deviation = std::sqrt((planes[c] - mean).square().mean());
    scaled[c] = (planes[c] - mean) / std::max(deviation, 1e-3f);
    out.insert(out.end(), {double{mean}, double{deviation}, double{scaled[c].cube().mean()}});
    add_histogram(out, planes[c], ones, c == 0 ? 0.0f : -0.35f, c == 0 ? 1.0f : 0.35f);
  }
  for (std::size_t c = 0; c < 3; ++c) out.push_back(double{(scaled[c] * scaled[(c + 1) % 3]).mean()});
  const Plane chroma = (planes[1].square() + planes[2].square()).sqrt(), contours = edges({&planes[0]});
  add_histogram(out, chroma, ones, 0, 0.4f);
  add_histogram(out, chroma, contours, 0, 0.4f);
  add_histogram(out, planes[2].binaryExpr(planes[1], [](float y, float x) { return std::atan2(y, x); }), chroma, -pi,
                pi);
}

/// How many colours there are when eight levels a channel are told apart, and how the pixels share them.
inline void add_palette(std::vector<double>& out, const Picture& picture) {
  std::map<int, double> counts;
  for (std::size_t i = 0; i < picture.rgb.size(); i += 3)
    counts[picture.rgb[i] / 32 * 64 + picture.rgb[i + 1] / 32 * 8 + picture.rgb[i + 2] / 32] += 1;
  const auto pixels = static_cast<double>(picture.rgb.size() / 3);
  double most = 0, entropy = 0;
  for (const auto& [colour, count] : counts) {
    most = std::max(most, count / pixels);
    entropy -= count / pixels * std::log(count / pixels);
  }
  out.insert(out.end(), {std::log(static_cast<double>(counts.size())), most, entropy});
}

/// Shares of flat, soft and hard pixels; which way contours run and how light they are on either side; lines.
inline void add_contours(std::vector<double>& out, const std::array<Plane, 3>& planes) {
  const Plane strength = edges({&planes[0], &planes[1], &planes[2]}),
              ones = Plane::Ones(strength.rows(), strength.cols());
  for (const float limit : {0.01f, 0.04f, 0.1f, 0.2f, 0.4f, 0.8f})
    out.push_back(std::sqrt(static_cast<double>((strength < limit).count()) / static_cast<double>(strength.size())));
  const Plane down = derivative(planes[0], 1, 0), right = derivative(planes[0], 0, 1);
  add_histogram(out, down.binaryExpr(right, [](float y, float x) { return std::atan2(y, x); }),
                (down.square() + right.square()).sqrt(), -pi, pi);
  for (const bool lightest : {false, true}) add_histogram(out, spread(planes[0], 1, lightest), strength, 0, 1);
  add_histogram(out, planes[0], strength, 0, 1);
  for (const Eigen::Index reach : {1, 2}) {
    add_histogram(out, dark_lines(planes[0], reach), ones, 0, 0.8f);
    add_histogram(out, light_lines(planes[0], reach), ones, 0, 0.8f);
  }
}

}  // namespace detail

/// The style of a picture of at least 8 x 8: Gram matrices of fixed filters at three scales (as far as there are 8
/// pixels), moments and histograms of colours, palette, contours and lines. Nothing in it says where anything is.
inline std::vector<double> style_features(const Picture& picture) {
  std::vector<double> out;
  auto planes = detail::ycbcr(picture);
  detail::add_colours(out, planes);
  detail::add_palette(out, picture);
  detail::add_contours(out, planes);
  for (int scale = 0; scale < 3 && planes[0].rows() >= 8; ++scale) {
    detail::add_gram(out, planes);
    for (auto& plane : planes) plane = detail::halved(plane);
  }
  return out;
}

/// What a picture shows: Y, Cb and Cr of a version of at most 32 x 32, blurred by a pixel, chroma twice; then how
/// strong contours are, blurred as well. Each plane is without its mean. compared() makes them ready for distances.
inline std::vector<double> content_features(const Picture& picture) {
  auto planes = detail::ycbcr(picture.width > 32 ? resized(picture, 32, 32) : picture);
  for (auto& plane : planes) plane = detail::blurred(plane);
  std::vector<double> out;
  const auto add = [&](const detail::Plane& plane, float weight) {
    const float mean = plane.mean();
    for (const float value : plane.reshaped()) out.push_back(double{weight * (value - mean)});
  };
  for (std::size_t c = 0; c < 3; ++c) add(planes[c], c == 0 ? 1.0f : 2.0f);
  add(detail::blurred(detail::edges({&planes[0], &planes[1], &planes[2]})), 1);
  return out;
}

/// A row a picture.
template <class Features> Matrix rows_of(const std::vector<Picture>& pictures, const Features& features) {
  Matrix rows;
  for (std::size_t i = 0; i < pictures.size(); ++i) {
    const auto values = features(pictures[i]);
    if (i == 0) rows.resize(static_cast<Eigen::Index>(pictures.size()), static_cast<Eigen::Index>(values.size()));
    rows.row(static_cast<Eigen::Index>(i)) = Eigen::Map<const Eigen::RowVectorXd>(values.data(), rows.cols());
  }
  return rows;
}

/// Style features at mean 0 and deviation 1 over the pictures it was made from.
class Standardiser {
 public:
  explicit Standardiser(const Matrix& rows) : mean_(rows.colwise().mean()) {
    const auto n = static_cast<double>(std::max<Eigen::Index>(rows.rows(), 1));
    scale_ = ((rows.rowwise() - mean_).array().square().colwise().sum() / n).sqrt().max(1e-6).inverse();
  }
  /// Cut to -5..5, so that a single feature of an odd drawing does not decide everything.
  Matrix operator()(const Matrix& rows) const {
    return ((rows.rowwise() - mean_).array().rowwise() * scale_.array()).max(-5.0).min(5.0);
  }

 private:
  Eigen::RowVectorXd mean_, scale_;
};

/// Content features as they are compared across styles: without `mean`, which is that of the style they are drawn in
/// (its canvas, its paper), colours and contours each at length sqrt(1/2). Distances are then Euclid's, 0 to 2.
/// Measured on 96 subjects of tools/make_style_sets.py at 32 x 32, the Noto drawing finds its painterly one first in
/// 0.98, its OpenMoji one in 0.36 of cases (root mean square of blurred pixels: 0.26 and 0.32).
inline Matrix compared(Matrix rows, const Eigen::RowVectorXd& mean) {
  const Eigen::Index colours = rows.cols() / 4 * 3;
  rows.rowwise() -= mean;
  for (Eigen::Index i = 0; i < rows.rows(); ++i)
    for (auto part : {rows.row(i).head(colours), rows.row(i).tail(rows.cols() - colours)})
      part *= std::sqrt(0.5) / std::max(part.norm(), 1e-9);
  return rows;
}

}  // namespace image_style
