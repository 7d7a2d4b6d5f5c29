// adapters/residual.cpu.hpp: the body of adapters/residual.hpp, by Eigen on the host.
#pragma once
#include <ftlib/core/error.hpp>  // Error

#include <algorithm>          // std::min, std::max
#include <Eigen/Eigenvalues>  // SelfAdjointEigenSolver
#include <limits>             // std::numeric_limits
#include <string>             // std::string
#include <utility>            // std::pair
#include <vector>             // std::vector

namespace ft::inline FTLIB_ABI {

/// The `rank` leading eigenvectors, a column each, of W W^T (out, out), or of W^T W (in, in) where that is smaller: by
/// Lanczos' iteration with every vector orthogonalised against all before, which multiplies W a few hundred times and
/// factors nothing larger than what it has found. Golub and Van Loan, Matrix Computations, 10.1 and 10.3.
/// Above 512 rows and columns, singular values that are equal in all digits are found once.
template <class Matrix> [[gnu::cold]] inline Eigen::MatrixXd leading_vectors(const Matrix& W, int64_t rank) {
  using Vector = Eigen::VectorXd;
  const int64_t n = std::min(W.rows(), W.cols()), least = std::min<int64_t>(n, 512);
  const double eps = std::numeric_limits<double>::epsilon();
  Eigen::MatrixXd Q(n, least), vectors;
  Vector diagonal(n), beside(n), q = Vector::LinSpaced(n, 1, 2).normalized();
  for (int64_t k = 0, next_look = least, unit = 0;;) {
    if (k == Q.cols()) Q.conservativeResize(Eigen::NoChange, std::min(n, 2 * k));
    Q.col(k) = q;
    Vector z(n);
    if (W.rows() <= W.cols()) z.noalias() = W * Vector(W.transpose() * q);
    else z.noalias() = W.transpose() * Vector(W * q);
    diagonal[k] = q.dot(z);
    const double size = z.norm();
    const auto found = Q.leftCols(++k);
    const auto orthogonalise = [&] {
      for (int pass = 0; pass < 2; ++pass) z.noalias() -= found * Vector(found.transpose() * z);
    };
    orthogonalise();
    double& off = beside[k - 1];
    off = z.norm();
    if (off <= 8 * eps * size) {  // all that q reaches is found: go on with a direction that is not
      off = 0;
      for (; k < n && z.norm() < 0.5 / static_cast<double>(n); ++unit) {
        z = Vector::Unit(n, unit);
        orthogonalise();
      }
    }
    if (k == next_look || k == n) {
      Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver;
      solver.computeFromTridiagonal(diagonal.head(k), beside.head(k - 1));
      const auto last = solver.eigenvectors().bottomRightCorner(1, rank);  // largest last
      if (k == n || off * last.cwiseAbs().maxCoeff() <= 64 * eps * solver.eigenvalues()[k - 1])
        return found.lazyProduct(solver.eigenvectors().rightCols(rank));  // here and below: no Eigen kernel to compile
      next_look = std::min(n, k + k / 4);
    }
    q = z.normalized();
  }
}

[[gnu::cold]] FTLIB_INLINE std::pair<std::vector<double>, std::vector<double>> removed_factors(
    const std::string& initial, const std::vector<double>& w, int64_t out, int64_t in, int64_t rank, double s) {
  using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  if (rank > std::min(out, in))
    throw Error(str(initial, ": rank ", rank, " is more than a weight of (", out, ", ", in, ") has"));
  const Eigen::Map<const Matrix> W(w.data(), out, in);
  // Both parts are W seen through R orthonormal directions: Q Q^T W, or W P P^T where P is cheaper to find.
  Matrix A, B;
  if (initial == "pissa") {
    const Matrix leading = leading_vectors(W, rank);
    const bool wide = out <= in;
    A = wide ? Matrix(leading.transpose().lazyProduct(W)) : Matrix(leading.transpose());
    B = wide ? leading : Matrix(W.lazyProduct(leading));
  } else if (initial == "olora") {  // modified Gram-Schmidt, twice for orthogonality
    B = W.leftCols(rank);
    for (int64_t c = 0; c < rank; ++c) {
      for (int pass = 0; pass < 2; ++pass)
        for (int64_t before = 0; before < c; ++before) {
          const double along = B.col(before).dot(B.col(c));
          B.col(c) -= along * B.col(before);
        }
      const double norm = B.col(c).norm();
      if (norm > 0) B.col(c) /= norm;
    }
    A = s * B.transpose().lazyProduct(W);
  } else {
    throw Error(str("adapter: initial weights '", initial, "' are not known"));
  }
  return {std::vector<double>(A.data(), A.data() + A.size()), std::vector<double>(B.data(), B.data() + B.size())};
}

}  // namespace ft::inline FTLIB_ABI
