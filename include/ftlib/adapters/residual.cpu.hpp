// adapters/residual.cpu.hpp: the body of adapters/residual.hpp, by Eigen on the host.
#pragma once
#include <ftlib/core/error.hpp>  // Error

#include <algorithm>          // std::min
#include <Eigen/Eigenvalues>  // SelfAdjointEigenSolver
#include <string>             // std::string
#include <utility>            // std::pair
#include <vector>             // std::vector

namespace ft::inline FTLIB_ABI {

[[gnu::cold]] FTLIB_INLINE std::pair<std::vector<double>, std::vector<double>> removed_factors(
    const std::string& initial, const std::vector<double>& w, int64_t out, int64_t in, int64_t rank, double s) {
  using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  if (rank > std::min(out, in))
    throw Error(str(initial, ": rank ", rank, " is more than a weight of (", out, ", ", in, ") has"));
  const Eigen::Map<const Matrix> W(w.data(), out, in);
  // Both parts are W seen through R orthonormal directions: Q Q^T W, or W P P^T where P is cheaper to find.
  Matrix A, B;
  if (initial == "pissa") {
    const bool wide = out <= in;  // the smaller of W W^T and W^T W has the same eigenvalues, largest last
    const Matrix gram = wide ? Matrix(W * W.transpose()) : Matrix(W.transpose() * W);
    const Eigen::SelfAdjointEigenSolver<Matrix> solver(gram);
    const Matrix leading = solver.eigenvectors().rightCols(rank);
    A = wide ? Matrix(leading.transpose() * W) : Matrix(leading.transpose());
    B = wide ? leading : Matrix(W * leading);
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
    A = s * (B.transpose() * W);
  } else {
    throw Error(str("adapter: initial weights '", initial, "' are not known"));
  }
  return {std::vector<double>(A.data(), A.data() + A.size()), std::vector<double>(B.data(), B.data() + B.size())};
}

}  // namespace ft::inline FTLIB_ABI
