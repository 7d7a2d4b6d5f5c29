// ops/gemm.cuda.cuh: the matrix product on the GPU, by cuBLASLt; a weight that is stored in another type is brought
// into the compute type first, a part at a time.
#pragma once
#include <ftlib/ops/gemm.shared.hpp>     // DenseOperand, StoredOperand
#include <ftlib/tensor/stored.cuda.cuh>  // dequantise
#include <ftlib/tensor/tensor.hpp>       // Tensor

#include <cublasLt.h>  // cublasLtMatmul
#include <algorithm>   // std::min
#include <array>       // std::array
#include <map>         // std::map
#include <memory>      // std::unique_ptr
#include <optional>    // std::optional

namespace ft::inline FTLIB_ABI {

namespace detail {

/// Throws Error, with the name of the call, where it failed.
inline void check_cublas(cublasStatus_t status, const char* call) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw Error(str("cuda: ", call, ": ", cublasLtGetStatusName(status)),
              "CUBLASLT_LOG_LEVEL=2 in the environment makes cuBLASLt say why.");
}

template <class T> inline constexpr cudaDataType_t cuda_type = CUDA_R_32F;
template <> inline constexpr cudaDataType_t cuda_type<double> = CUDA_R_64F;
template <> inline constexpr cudaDataType_t cuda_type<bfloat16> = CUDA_R_16BF;
template <> inline constexpr cudaDataType_t cuda_type<half> = CUDA_R_16F;

/// cuBLASLt's handle and the products it has been asked for: descriptors and the algorithm that its heuristic named.
/// Lives in the context (Context<Cuda>::part).
class Cublas {
 public:
  static constexpr std::size_t workspace_bytes = std::size_t{32} << 20;  // what NVIDIA recommends for Hopper
  int64_t part_bytes = int64_t{64} << 20;  // of a weight that is brought into the compute type at a time

  /// A matrix as cuBLASLt sees it: columns `ld` apart, each of `rows` adjacent elements.
  struct Layout {
    cudaDataType_t type;
    int64_t rows, cols, ld;
  };
  /// D (m, n) = alpha op(A) op(B) + beta D, and with bias + bias in each column.
  struct Product {
    Layout a, b, d;
    bool transpose_a, transpose_b, bias;
    int alignment;  // of all three pointers, in bytes; at most 16
    auto key() const {
      return std::array<int64_t, 16>{a.type, a.rows, a.cols, a.ld, b.type,      b.rows,      b.cols, b.ld,
                                     d.type, d.rows, d.cols, d.ld, transpose_a, transpose_b, bias,   alignment};
    }
  };

  Cublas() {
    cublasLtHandle_t handle = nullptr;
    check_cublas(cublasLtCreate(&handle), "cublasLtCreate");
    handle_.reset(handle);
  }

  /// `alpha` and `beta` are doubles for a product of doubles, else floats.
  void multiply(Context<Cuda>& ctx, const Product& product, const void* alpha, const void* beta, const void* a,
                const void* b, void* d, const void* bias) {
    const DeviceGuard guard(ctx.device());
    auto found = plans_.find(product.key());
    if (found == plans_.end()) found = plans_.emplace(product.key(), Plan(handle_.get(), product)).first;
    const Plan& plan = found->second;
    if (!workspace_) workspace_ = ctx.allocate(workspace_bytes);
    if (bias) set(plan.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
    check_cublas(
        cublasLtMatmul(handle_.get(), plan.operation.get(), alpha, a, plan.a.get(), b, plan.b.get(), beta, d,
                       plan.d.get(), d, plan.d.get(), &plan.algorithm, workspace_.get(), workspace_bytes, ctx.stream()),
        "cublasLtMatmul");
  }

 private:
  template <auto destroy> struct Destroy {
    void operator()(auto* p) const { destroy(p); }
  };
  template <class Handle, auto destroy> using Owned = std::unique_ptr<std::remove_pointer_t<Handle>, Destroy<destroy>>;
  using Operation = Owned<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
  using Matrix = Owned<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
  using Preference = Owned<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

  template <class V> static void set(const Operation& operation, cublasLtMatmulDescAttributes_t attribute, V value) {
    check_cublas(cublasLtMatmulDescSetAttribute(operation.get(), attribute, &value, sizeof value),
                 "cublasLtMatmulDescSetAttribute");
  }
  template <class V> static void set(const Preference& p, cublasLtMatmulPreferenceAttributes_t attribute, V value) {
    check_cublas(cublasLtMatmulPreferenceSetAttribute(p.get(), attribute, &value, sizeof value),
                 "cublasLtMatmulPreferenceSetAttribute");
  }

  struct Plan {
    Operation operation;
    Matrix a, b, d;
    cublasLtMatmulAlgo_t algorithm{};

    Plan(cublasLtHandle_t handle, const Product& p) : a(matrix(p.a)), b(matrix(p.b)), d(matrix(p.d)) {
      const bool wide = p.a.type == CUDA_R_64F;
      cublasLtMatmulDesc_t made = nullptr;
      check_cublas(cublasLtMatmulDescCreate(&made, wide ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F,
                                            wide ? CUDA_R_64F : CUDA_R_32F),
                   "cublasLtMatmulDescCreate");
      operation.reset(made);
      set(operation, CUBLASLT_MATMUL_DESC_TRANSA, p.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
      set(operation, CUBLASLT_MATMUL_DESC_TRANSB, p.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
      if (p.bias) set(operation, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);

      cublasLtMatmulPreference_t preferred = nullptr;
      check_cublas(cublasLtMatmulPreferenceCreate(&preferred), "cublasLtMatmulPreferenceCreate");
      const Preference preference(preferred);
      set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace_bytes);
      // Sums of parts are kept in float, not in the result's type.
      set(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
      for (const auto side : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                              CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
        set(preference, side, static_cast<uint32_t>(p.alignment));
      cublasLtMatmulHeuristicResult_t best{};
      int results = 0;
      check_cublas(cublasLtMatmulAlgoGetHeuristic(handle, operation.get(), a.get(), b.get(), d.get(), d.get(),
                                                  preference.get(), 1, &best, &results),
                   "cublasLtMatmulAlgoGetHeuristic");
      if (results == 0)
        throw Error(str("cuda: cuBLASLt has no way to multiply (", p.d.rows, ", ", p.d.cols, ") of type ",
                        static_cast<int>(p.a.type), " to type ", static_cast<int>(p.d.type)));
      algorithm = best.algo;
    }
    static Matrix matrix(const Layout& l) {
      cublasLtMatrixLayout_t made = nullptr;
      check_cublas(
          cublasLtMatrixLayoutCreate(&made, l.type, static_cast<uint64_t>(l.rows), static_cast<uint64_t>(l.cols), l.ld),
          "cublasLtMatrixLayoutCreate");
      return Matrix(made);
    }
  };

  std::unique_ptr<cublasLtContext, Destroy<cublasLtDestroy>> handle_;
  std::map<std::array<int64_t, 16>, Plan> plans_;
  std::shared_ptr<void> workspace_;
};

/// An operand (rows, cols) in cuBLASLt's view of columns: its transpose, as it lies; or, where its columns are without
/// gaps, itself, to be transposed. Throws Error where neither axis is without gaps.
template <class T> std::pair<Cublas::Layout, bool> as_columns(const DenseOperand<T>& x, int64_t rows, int64_t cols) {
  if (x.col_stride == 1 || cols == 1)
    return {{cuda_type<T>, cols, rows, std::max(rows == 1 ? cols : x.row_stride, cols)}, false};
  if (x.row_stride == 1 || rows == 1)
    return {{cuda_type<T>, rows, cols, std::max(cols == 1 ? rows : x.col_stride, rows)}, true};
  throw Error(str("gemm: an operand (", rows, ", ", cols, ") with strides (", x.row_stride, ", ", x.col_stride, ")"),
              "on the GPU one of its axes must be without gaps.");
}

/// The largest power of two, up to 16, that divides all addresses.
inline int alignment_of(const void* a, const void* b, const void* c) {
  const auto bits = reinterpret_cast<std::uintptr_t>(a) | reinterpret_cast<std::uintptr_t>(b) |
                    reinterpret_cast<std::uintptr_t>(c) | 16;
  return static_cast<int>(bits & (~bits + 1));
}

}  // namespace detail

/// C = or += alpha A B + bias, as on the CPU (ops/gemm.cpu.hpp). C has the operands' type or, for gradients of
/// parameters, that of their sums; sums are kept in float, for double in double. The same call gives the same bits.
template <class C, Scalar T>
requires std::same_as<C, T> || std::same_as<C, accumulate_t<T>>
void gemm(Context<Cuda>& ctx, Write write, int64_t M, int64_t N, int64_t K,
          C* c,                      // (M, N)  rows c_row_stride apart, columns adjacent
          int64_t c_row_stride,      //
          const DenseOperand<T>& a,  // (M, K)
          const DenseOperand<T>& b,  // (K, N)
          std::type_identity_t<accumulate_t<T>> alpha = 1,
          const std::type_identity_t<T>* bias = nullptr) {  // (N)  added to each row, or null
  detail::check_gemm(M, N, K, b);
  if (M == 0 || N == 0) return;
  if (bias && !std::same_as<C, T>) throw Error("gemm: a bias with a result of another type");
  if (K == 0) {
    const View<C> all(c, {M, N}, {c_row_stride, 1});
    if (write == Write::assign) fill(ctx, all, C(0.0f));
    if (bias) throw Error("gemm: a bias without a product");
    return;
  }
  // C lies in memory as C^T does column by column, and C^T = B^T A^T.
  const auto [left, left_turned] = detail::as_columns(b, K, N);
  const auto [right, right_turned] = detail::as_columns(a, M, K);
  const detail::Cublas::Layout result{detail::cuda_type<C>, N, M, M == 1 ? std::max(N, c_row_stride) : c_row_stride};
  const detail::Cublas::Product product{.a = left,
                                        .b = right,
                                        .d = result,
                                        .transpose_a = left_turned,
                                        .transpose_b = right_turned,
                                        .bias = bias != nullptr,
                                        .alignment = detail::alignment_of(a.data, b.data, c)};
  const accumulate_t<T> beta = write == Write::add ? 1 : 0;
  ctx.part<detail::Cublas>().multiply(ctx, product, &alpha, &beta, b.data, a.data, c, bias);
}

/// The same with a stored weight: in the compute type it is multiplied as it lies; else parts of it are brought into
/// that type, one after another.
template <class C, Scalar T>
void gemm(Context<Cuda>& ctx, Write write, int64_t M, int64_t N, int64_t K, C* c, int64_t c_row_stride,
          const DenseOperand<T>& a, const StoredOperand& b, std::type_identity_t<accumulate_t<T>> alpha = 1,
          const std::type_identity_t<T>* bias = nullptr) {
  detail::check_gemm(M, N, K, b);
  const bool yes = b.transpose == Transpose::yes;
  const auto dense = [&](const T* w) { return yes ? DenseOperand<T>{w, 1, b.cols} : DenseOperand<T>{w, b.cols, 1}; };
  if (b.type == dtype_of<T>) {
    gemm(ctx, write, M, N, K, c, c_row_stride, a, dense(reinterpret_cast<const T*>(b.data)), alpha, bias);
    return;
  }
  const int64_t most =
      std::max<int64_t>(1, ctx.part<detail::Cublas>().part_bytes / (b.cols * static_cast<int64_t>(sizeof(T))));
  const Tensor<T, Cuda> part(ctx, {std::min(most, b.rows), b.cols});
  for (int64_t row = 0; row < b.rows; row += most) {  // rows of W: columns of C, or steps of the sum
    const int64_t rows = std::min(most, b.rows - row);
    const View<T> w(const_cast<T*>(part.data()), {rows, b.cols});
    dequantise(ctx, w, Stored<Cuda>{b.type, w.shape, b.data + row * b.row_bytes(), nullptr});
    if (yes) {
      gemm(ctx, write, M, rows, K, c + row, c_row_stride, a, dense(w.data), alpha, bias ? bias + row : nullptr);
    } else {
      const DenseOperand<T> columns{a.data + row * a.col_stride, a.row_stride, a.col_stride};
      gemm(ctx, row == 0 ? write : Write::add, M, N, rows, c, c_row_stride, columns, dense(w.data), alpha,
           row == 0 ? bias : nullptr);
    }
  }
}

}  // namespace ft::inline FTLIB_ABI
