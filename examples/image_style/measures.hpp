// examples/image_style/measures.hpp: how well a style is met, from rows of features (features.hpp): a classifier, the
// maximum mean discrepancy, retrieval, copying, and intervals for all of them. Nothing here knows of pictures.
#pragma once
#include <ftlib/core/error.hpp>
#include <ftlib/core/random.hpp>

#include <Eigen/Dense>

#include <algorithm>   // std::sort, std::clamp
#include <cmath>       // std::sqrt
#include <cstdint>     // std::uint64_t
#include <functional>  // std::function
#include <vector>      // std::vector

namespace image_style {

using Matrix = Eigen::MatrixXd;  ///< a row a picture
using Vector = Eigen::VectorXd;

/// The middle 95 % of what a figure might have come out as.
struct Interval {
  double low = 0, high = 0;
};

/// Percentile bootstrap over n concepts: `statistic` gets how often each was drawn, n times in all. Shares of 0 and 1
/// get an interval without width, as the method has it.
inline Interval bootstrap(Eigen::Index n, std::uint64_t seed,
                          const std::function<double(const Vector& times)>& statistic, int rounds = 1000) {
  if (n < 1) return {};
  ft::Random random(seed);
  std::vector<double> values;
  for (int round = 0; round < rounds; ++round) {
    Vector times = Vector::Zero(n);
    for (Eigen::Index i = 0; i < n; ++i) times[random.below(n)] += 1;
    values.push_back(statistic(times));
  }
  std::sort(values.begin(), values.end());
  const auto at = [&](double share) { return values[static_cast<std::size_t>(std::lround(share * (rounds - 1)))]; };
  return {at(0.025), at(0.975)};
}

/// A figure with its interval.
struct Figure {
  double value = 0;
  Interval interval;
};

/// The mean of one value a concept.
inline Figure mean_of(const Vector& values, std::uint64_t seed) {
  if (values.size() == 0) return {};
  const auto n = static_cast<double>(values.size());
  return {values.mean(), bootstrap(values.size(), seed, [&](const Vector& times) { return times.dot(values) / n; })};
}

/// Ridge regression onto one column a class, 1 for the own and 0 for the others; the largest answer names the class.
/// All classes weigh the same, however many rows they have. Takes features of about mean 0 and deviation 1.
class Classifier {
 public:
  /// `classes[i]` in 0..count - 1 is row i's. `ridge` is the penalty's share of the mean variance.
  Classifier(const Matrix& rows, const std::vector<int>& classes, int count, double ridge = 0.003) {
    const Eigen::Index n = rows.rows(), d = rows.cols();
    Vector sizes = Vector::Zero(count), weights(n);
    for (const int c : classes) sizes[c] += 1;
    Matrix answers = Matrix::Zero(n, count);
    for (Eigen::Index i = 0; i < n; ++i) {
      const int c = classes[static_cast<std::size_t>(i)];
      answers(i, c) = 1;
      weights[i] = 1 / (count * sizes[c]);
    }
    mean_ = weights.transpose() * rows;
    const Matrix centred = rows.rowwise() - mean_, weighted = weights.asDiagonal() * centred;
    Matrix covariance = centred.transpose() * weighted;
    covariance.diagonal().array() += ridge * covariance.trace() / static_cast<double>(d) + 1e-9;
    constant_ = weights.transpose() * answers;
    slopes_ = covariance.ldlt().solve(weighted.transpose() * (answers.rowwise() - constant_));
  }
  /// The class of each row.
  std::vector<int> operator()(const Matrix& rows) const {
    const Matrix answers = ((rows.rowwise() - mean_) * slopes_).rowwise() + constant_;
    std::vector<int> classes(static_cast<std::size_t>(rows.rows()));
    for (Eigen::Index i = 0; i < rows.rows(); ++i) answers.row(i).maxCoeff(&classes[static_cast<std::size_t>(i)]);
    return classes;
  }

 private:
  Eigen::RowVectorXd mean_, constant_;
  Matrix slopes_;
};

/// KID's kernel, (x.y / d + 1)^3, between all rows of x and of y.  arXiv:1801.01401
inline Matrix cubic_kernel(const Matrix& x, const Matrix& y) {
  return ((x * y.transpose()).array() / static_cast<double>(x.cols()) + 1).cube();
}

struct Discrepancy {
  Figure mmd;    ///< squared; 0 where both are alike on average, so that it may be negative
  double p = 1;  ///< how often chance alone gives as much
};

/// Unbiased squared MMD of n rows from n others, row i of both being of one concept (or of any: the test then only
/// loses power): the mean over i != j of h_ij = k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) - k(y_i, x_j); Gretton et al.,
/// JMLR 13 (2012), after lemma 6. Were both drawn alike, x_i and y_i could change places, and h_ij its sign: p is the
/// share of such exchanges, the one that happened among them, with at least the value. Throws Error below two rows.
inline Discrepancy mmd(const Matrix& x, const Matrix& y, std::uint64_t seed, int permutations = 1999) {
  if (x.rows() != y.rows() || x.rows() < 2)
    throw ft::Error(ft::str("mmd: ", x.rows(), " pictures against ", y.rows()), "as many on both sides, two at least.");
  const Matrix cross = cubic_kernel(x, y);
  Matrix h = cubic_kernel(x, x) + cubic_kernel(y, y) - cross - cross.transpose();
  h.diagonal().setZero();
  const auto n = static_cast<double>(x.rows());
  Discrepancy result;
  result.mmd.value = h.sum() / (n * (n - 1));
  result.mmd.interval = bootstrap(x.rows(), seed, [&](const Vector& times) {  // a concept is not compared with itself
    const double pairs = n * n - times.squaredNorm();
    return pairs > 0 ? times.dot(h * times) / pairs : 0.0;
  });
  ft::Random random(seed, std::uint64_t{1} << 40);
  int as_much = 1;
  Vector signs(x.rows());
  for (int round = 0; round < permutations; ++round) {
    for (double& sign : signs) sign = random.word() & 1 ? 1 : -1;
    as_much += signs.dot(h * signs) >= h.sum();
  }
  result.p = static_cast<double>(as_much) / (permutations + 1);
  return result;
}

/// Euclid's distances between all rows of x and of y.
inline Matrix distances(const Matrix& x, const Matrix& y) {
  Matrix squares = -2 * x * y.transpose();
  squares.colwise() += x.rowwise().squaredNorm();
  squares.rowwise() += y.rowwise().squaredNorm().transpose();
  return squares.cwiseMax(0).cwiseSqrt();
}

/// For each row how many of the gallery's are at least as near to it as row truth[i], the true one: 0 where it is the
/// nearest. What is equally near counts against it, so that one drawing for everything earns nothing.
inline std::vector<int> ranks(const Matrix& rows, const Matrix& gallery, const std::vector<Eigen::Index>& truth) {
  const Matrix d = distances(rows, gallery);
  std::vector<int> result;
  for (Eigen::Index i = 0; i < rows.rows(); ++i) {
    const double own = d(i, truth[static_cast<std::size_t>(i)]) + 1e-6;
    result.push_back(static_cast<int>((d.row(i).array() <= own).count()) - 1);
  }
  return result;
}

/// 1 for each drawing that is rather a trained picture than what was asked for, else 0. `drawn` and `real` have a row a
/// held-out concept, the drawing and the real picture of it; `trained` has the pictures of the style that were trained,
/// all of other concepts. A drawing is a copy where its nearest trained picture is nearer to it
///   - than any trained picture is to the real one, and
///   - than the real one is to it.
/// The first alone would hold for half of all perfect drawings, the second alone for most bad ones.
inline Vector copies(const Matrix& drawn, const Matrix& real, const Matrix& trained) {
  const Vector nearest = distances(drawn, trained).rowwise().minCoeff(),
               usual = distances(real, trained).rowwise().minCoeff(), own = (drawn - real).rowwise().norm();
  return (nearest.array() < usual.array() && nearest.array() < own.array()).cast<double>();
}

/// The harmonic mean: high where all shares are high.
inline double harmonic_mean(const std::vector<double>& shares) {
  double sum = 0;
  for (const double share : shares) {
    if (!(share > 0)) return 0;
    sum += 1 / share;
  }
  return sum > 0 ? static_cast<double>(shares.size()) / sum : 0;
}

}  // namespace image_style
