// tests/cuda_emulation/cublas.cpp: the functions of cuBLASLt that the library uses, over Eigen. They check what
// cuBLASLt would refuse or get wrong: shapes, leading dimensions, alignments that were promised, memory out of bounds
// or unwritten.
#include <cublasLt.h>

#include <cstring>  // std::memcpy
#include <Eigen/Core>
#include <ftlib/core/dtype.hpp>

#include "machine.hpp"

using namespace cuda_emulation;

struct cublasLtContext {
  int device;  // that was current when it was made
};

namespace {
struct Operation {
  cublasComputeType_t compute;
  cudaDataType_t scale;
  std::int32_t transpose_a = CUBLAS_OP_N, transpose_b = CUBLAS_OP_N;
  cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  const void* bias = nullptr;
};
struct Layout {
  cudaDataType_t type;
  std::uint64_t rows, cols;
  std::int64_t ld;
};
struct Preference {
  std::uint64_t workspace = 0;
  std::uint32_t alignment = 256;
};

/// Descriptors are opaque arrays of words, which are large enough to hold ours.
template <class Ours, class Handle> cublasStatus_t create(Handle* handle, Ours ours) {
  *handle = reinterpret_cast<Handle>(new Ours(ours));
  return CUBLAS_STATUS_SUCCESS;
}
template <class Ours, class Handle> cublasStatus_t destroy(Handle handle) {
  delete reinterpret_cast<Ours*>(handle);
  return CUBLAS_STATUS_SUCCESS;
}
template <class Ours, class Handle> Ours& of(Handle handle) { return *reinterpret_cast<Ours*>(handle); }
template <class V> cublasStatus_t take(V& to, const void* from, std::size_t bytes) {
  if (bytes != sizeof(V)) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(&to, from, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

std::size_t size_of(cudaDataType_t type) {
  switch (type) {
    case CUDA_R_64F:
      return 8;
    case CUDA_R_32F:
      return 4;
    case CUDA_R_16F:
    case CUDA_R_16BF:
      return 2;
    default:
      throw Fault("cublasLtMatmul: type " + std::to_string(type) + " is not emulated");
  }
}
double value(cudaDataType_t type, const void* p, std::size_t i) {
  switch (type) {
    case CUDA_R_64F:
      return static_cast<const double*>(p)[i];
    case CUDA_R_32F:
      return double{static_cast<const float*>(p)[i]};
    case CUDA_R_16F:
      return double{static_cast<float>(static_cast<const ft::half*>(p)[i])};
    default:
      return double{static_cast<float>(static_cast<const ft::bfloat16*>(p)[i])};
  }
}
void put(cudaDataType_t type, void* p, std::size_t i, double v) {
  switch (type) {
    case CUDA_R_64F:
      static_cast<double*>(p)[i] = v;
      break;
    case CUDA_R_32F:
      static_cast<float*>(p)[i] = static_cast<float>(v);
      break;
    case CUDA_R_16F:
      static_cast<ft::half*>(p)[i] = ft::half(static_cast<float>(v));
      break;
    default:
      static_cast<ft::bfloat16*>(p)[i] = ft::bfloat16(static_cast<float>(v));
  }
}

using Matrix = Eigen::MatrixXd;
/// Element (r, c) lies at r + c ld.
std::size_t at(const Layout& l, Eigen::Index r, Eigen::Index c) {
  return static_cast<std::size_t>(r + c * static_cast<Eigen::Index>(l.ld));
}
void check(const char* name, const Layout& l, const void* p, HostAccess access, std::uint32_t alignment) {
  if (l.ld < static_cast<std::int64_t>(l.rows))
    throw Fault(std::string("cublasLtMatmul: the leading dimension of ") + name + " is less than its rows");
  if (reinterpret_cast<std::uintptr_t>(p) % alignment)
    throw Fault(std::string("cublasLtMatmul: ") + name + " is not aligned as was promised");
  const std::size_t size = size_of(l.type);
  for (std::uint64_t c = 0; c < l.cols; ++c)
    host_access("cublasLtMatmul", static_cast<const std::byte*>(p) + c * static_cast<std::uint64_t>(l.ld) * size,
                l.rows * size, access);
}
Matrix read(const Layout& l, const void* p, bool transpose) {
  Matrix m(static_cast<Eigen::Index>(l.rows), static_cast<Eigen::Index>(l.cols));
  for (Eigen::Index c = 0; c < m.cols(); ++c)
    for (Eigen::Index r = 0; r < m.rows(); ++r) m(r, c) = value(l.type, p, at(l, r, c));
  if (transpose) m = m.transpose().eval();
  return m;
}
/// A product as it was asked for: D = alpha op(A) op(B) + beta C, with its epilogue.
struct Multiplication {
  Operation o;
  Layout la, lb, lc, ld;
  double s, t;  // alpha and beta, which the host gives when it asks
  const void *a, *b, *c;
  void* d;
  cublasLtMatmulAlgo_t algorithm;
  void* workspace;
  std::size_t workspace_bytes;

  cublasStatus_t run() const {
    const bool wide = la.type == CUDA_R_64F;
    if (la.type != lb.type || lc.type != ld.type || o.scale != (wide ? CUDA_R_64F : CUDA_R_32F) ||
        o.compute != (wide ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F) || (ld.type != la.type && ld.type != CUDA_R_32F))
      return CUBLAS_STATUS_NOT_SUPPORTED;
    const auto promised = static_cast<std::uint32_t>(algorithm.data[0]);
    check("A", la, a, HostAccess::read, promised);
    check("B", lb, b, HostAccess::read, promised);
    if (t != 0) check("C", lc, c, HostAccess::read, promised);
    if (workspace_bytes < algorithm.data[1]) return CUBLAS_STATUS_INVALID_VALUE;
    host_access("cublasLtMatmul", workspace, workspace_bytes, HostAccess::scratch);
    const Matrix left = read(la, a, o.transpose_a == CUBLAS_OP_T), right = read(lb, b, o.transpose_b == CUBLAS_OP_T);
    const auto m = static_cast<Eigen::Index>(ld.rows), n = static_cast<Eigen::Index>(ld.cols);
    if (left.rows() != m || right.cols() != n || left.cols() != right.rows() || lc.rows != ld.rows ||
        lc.cols != ld.cols)
      return CUBLAS_STATUS_INVALID_VALUE;
    Matrix result = s * (left * right);
    if (t != 0) result += t * read(lc, c, false);
    if (o.epilogue == CUBLASLT_EPILOGUE_BIAS) {
      check("the bias", {ld.type, ld.rows, 1, static_cast<std::int64_t>(ld.rows)}, o.bias, HostAccess::read, 1);
      for (Eigen::Index r = 0; r < m; ++r) result.row(r).array() += value(ld.type, o.bias, static_cast<std::size_t>(r));
    } else if (o.epilogue != CUBLASLT_EPILOGUE_DEFAULT) {
      return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    check("D", ld, d, HostAccess::write, promised);
    for (Eigen::Index j = 0; j < n; ++j)
      for (Eigen::Index i = 0; i < m; ++i) put(ld.type, d, at(ld, i, j), result(i, j));
    return CUBLAS_STATUS_SUCCESS;
  }
};
}  // namespace

extern "C" {
cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  *handle = new cublasLtContext{current_device};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  delete handle;
  return CUBLAS_STATUS_SUCCESS;
}
const char* cublasLtGetStatusName(cublasStatus_t status) {
  return status == CUBLAS_STATUS_INVALID_VALUE ? "CUBLAS_STATUS_INVALID_VALUE" : "another cublasStatus_t";
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* d, cublasComputeType_t compute, cudaDataType_t scale) {
  return create(d, Operation{.compute = compute, .scale = scale});
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t d) { return destroy<Operation>(d); }
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t d, cublasLtMatmulDescAttributes_t attribute,
                                              const void* from, std::size_t bytes) {
  Operation& o = of<Operation>(d);
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
      return take(o.transpose_a, from, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB:
      return take(o.transpose_b, from, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
      return take(o.epilogue, from, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
      return take(o.bias, from, bytes);
    default:
      return CUBLAS_STATUS_INVALID_VALUE;
  }
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* l, cudaDataType_t type, std::uint64_t rows,
                                          std::uint64_t cols, std::int64_t ld) {
  return create(l, Layout{type, rows, cols, ld});
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t l) { return destroy<Layout>(l); }
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* p) { return create(p, Preference{}); }
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p) { return destroy<Preference>(p); }
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t p,
                                                    cublasLtMatmulPreferenceAttributes_t attribute, const void* from,
                                                    std::size_t bytes) {
  std::uint32_t other = 0;
  switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
      return take(of<Preference>(p).workspace, from, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
      return take(of<Preference>(p).alignment, from, bytes);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
      return take(other, from, bytes);
    default:
      return CUBLAS_STATUS_INVALID_VALUE;
  }
}
/// The "algorithm" is what was promised.
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                              cublasLtMatmulPreference_t preference, int,
                                              cublasLtMatmulHeuristicResult_t* results, int* count) {
  const Preference& p = of<Preference>(preference);
  results[0] = {};
  results[0].algo.data[0] = p.alignment;
  results[0].algo.data[1] = p.workspace;
  results[0].workspaceSize = p.workspace;
  *count = 1;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation, const void* alpha, const void* a,
                              cublasLtMatrixLayout_t a_layout, const void* b, cublasLtMatrixLayout_t b_layout,
                              const void* beta, const void* c, cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* algorithm, void* workspace,
                              std::size_t workspace_bytes, cudaStream_t stream) {
  Machine::get().throw_pending();
  if (handle->device != current_device || !of_current_device(stream)) return CUBLAS_STATUS_EXECUTION_FAILED;
  if (listed) {
    listed->push_back({"cublasLtMatmul", {}, {}, 0});
    return CUBLAS_STATUS_SUCCESS;
  }
  const Operation o = of<Operation>(operation);
  const Multiplication product{o,
                               of<Layout>(a_layout),
                               of<Layout>(b_layout),
                               of<Layout>(c_layout),
                               of<Layout>(d_layout),
                               value(o.scale, alpha, 0),
                               value(o.scale, beta, 0),
                               a,
                               b,
                               c,
                               d,
                               *algorithm,
                               workspace,
                               workspace_bytes};
  if (!recording(stream)) {
    const StreamWork begun(stream);
    return product.run();
  }
  record(stream, NodeKind::product, [product] {
    return static_cast<int>(product.run() == CUBLAS_STATUS_SUCCESS ? cudaSuccess : cudaErrorInvalidValue);
  });
  return CUBLAS_STATUS_SUCCESS;
}
}
