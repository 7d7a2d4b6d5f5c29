// cuda_runtime.cuda.cuh: what the shipped translation unit (src/cuda_runtime.cu) compiles and a .cpp that links
// ftlib::cuda_runtime only declares: everything above ops/ that runs on the GPU, for float and bfloat16.
#pragma once
#include <ftlib/ops/activation.cuda.cuh>
#include <ftlib/ops/attention.cuda.cuh>
#include <ftlib/ops/causal_conv.cuda.cuh>
#include <ftlib/ops/conv2d.cuda.cuh>
#include <ftlib/ops/cross_entropy.cuda.cuh>
#include <ftlib/ops/dropout.cuda.cuh>
#include <ftlib/ops/elementwise.cuda.cuh>
#include <ftlib/ops/embedding.cuda.cuh>
#include <ftlib/ops/gated_delta_rule.cuda.cuh>
#include <ftlib/ops/group_norm.cuda.cuh>
#include <ftlib/ops/linear.cuda.cuh>
#include <ftlib/ops/norm.cuda.cuh>
#include <ftlib/ops/rope.cuda.cuh>
#include <ftlib/ops/rows.cuda.cuh>
#include <ftlib/ops/sampling.cuda.cuh>
#include <ftlib/ops/softmax.cuda.cuh>
#include <ftlib/optim/adamw.cuda.cuh>
#include <ftlib/optim/adamw8bit.cuda.cuh>
#include <ftlib/optim/clip.cuda.cuh>
#include <ftlib/optim/ema.cuda.cuh>
#include <ftlib/optim/lion.cuda.cuh>
#include <ftlib/tensor/stored.cuda.cuh>

// EXTERN is `extern` to declare and empty to define. T is the compute type.
#define FTLIB_CUDA_ACTIVATION(EXTERN, F, T)                                                 \
  EXTERN template void activation_forward<F, T>(Context<Cuda>&, F, View<T>, In<T>);         \
  EXTERN template void activation_backward<F, T>(Context<Cuda>&, F, View<T>, In<T>, In<T>); \
  EXTERN template void gated_forward<F, T>(Context<Cuda>&, F, View<T>, In<T>, In<T>);       \
  EXTERN template void gated_backward<F, T>(Context<Cuda>&, F, View<T>, View<T>, In<T>, In<T>, In<T>);
#define FTLIB_CUDA_TEMPLATES(EXTERN, T)                                                                                \
  EXTERN template void norm_forward<T>(Context<Cuda>&, const Norm<T>&, View<T>, View<T>, View<accumulate_t<T>>,        \
                                       View<accumulate_t<T>>, In<T>, In<T>);                                           \
  EXTERN template void norm_backward<T>(Context<Cuda>&, const Norm<T>&, View<T>, View<accumulate_t<T>>,                \
                                        View<accumulate_t<T>>, View<T>, View<T>, In<T>, In<T>, In<T>,                  \
                                        In<accumulate_t<T>>, In<accumulate_t<T>>);                                     \
  EXTERN template void softmax_forward<T>(Context<Cuda>&, View<T>, In<T>, SoftmaxResult);                              \
  EXTERN template void softmax_backward<T>(Context<Cuda>&, View<T>, In<T>, In<T>, SoftmaxResult);                      \
  EXTERN template void softmax_cross_entropy<T>(Context<Cuda>&, View<accumulate_t<T>>, View<T>, In<int32_t>, bool,     \
                                                In<accumulate_t<T>>);                                                  \
  EXTERN template void softmax_divergence<T>(Context<Cuda>&, View<accumulate_t<T>>, View<T>, View<T>, bool,            \
                                             In<accumulate_t<T>>);                                                     \
  EXTERN template void gather_rows<T>(Context<Cuda>&, View<T>, In<T>, In<int32_t>);                                    \
  EXTERN template void scatter_rows<T>(Context<Cuda>&, View<T>, In<T>, In<int32_t>, In<accumulate_t<T>>);              \
  EXTERN template void attention_forward<T>(Context<Cuda>&, View<T>, View<accumulate_t<T>>, In<T>, In<T>, In<T>,       \
                                            const std::vector<Segment>&, const AttentionOptions&);                     \
  EXTERN template void attention_backward<T>(Context<Cuda>&, View<T>, View<T>, View<T>, In<T>, In<T>, In<T>, In<T>,    \
                                             In<T>, In<accumulate_t<T>>, const std::vector<Segment>&,                  \
                                             const AttentionOptions&);                                                 \
  EXTERN template void sink_forward<T>(Context<Cuda>&, View<T>, View<accumulate_t<T>>, In<T>);                         \
  EXTERN template void sink_backward<T>(Context<Cuda>&, View<accumulate_t<T>>, View<const T>, In<T>,                   \
                                        In<accumulate_t<T>>, In<T>);                                                   \
  EXTERN template void dropout_mask<T>(Context<Cuda>&, View<T>, In<T>, float, uint64_t, uint64_t);                     \
  EXTERN template void rope_turn<T>(Context<Cuda>&, View<T>, In<T>, In<T>, In<T>, In<int32_t>, RopePairing, T);        \
  EXTERN template void embedding_forward<T>(Context<Cuda>&, View<T>, const Stored<Cuda>&, const std::vector<int32_t>&, \
                                            float);                                                                    \
  EXTERN template void embedding_backward<T>(Context<Cuda>&, View<accumulate_t<T>>, View<const T>,                     \
                                             const std::vector<int32_t>&, float);                                      \
  EXTERN template void linear_combination<T>(Context<Cuda>&, View<T>, In<T>, In<T>, T, T);                             \
  EXTERN template void product<T>(Context<Cuda>&, View<T>, In<T>, In<T>);                                              \
  EXTERN template void modulate_forward<T>(Context<Cuda>&, View<T>, In<T>, In<T>, In<T>, const std::vector<int64_t>&); \
  EXTERN template void modulate_backward<T>(Context<Cuda>&, View<T>, View<T>, View<T>, In<T>, In<T>, In<T>,            \
                                            const std::vector<int64_t>&);                                              \
  EXTERN template void gate_residual_forward<T>(Context<Cuda>&, View<T>, In<T>, In<T>, In<T>,                          \
                                                const std::vector<int64_t>&);                                          \
  EXTERN template void gate_residual_backward<T>(Context<Cuda>&, View<T>, View<T>, In<T>, In<T>, In<T>,                \
                                                 const std::vector<int64_t>&);                                         \
  EXTERN template void sum_forward<T>(Context<Cuda>&, View<T>, In<T>, double);                                         \
  EXTERN template void sum_backward<T>(Context<Cuda>&, View<T>, In<T>, double);                                        \
  EXTERN template void mean_squared_error_forward<T>(Context<Cuda>&, View<T>, In<T>, In<T>);                           \
  EXTERN template void mean_squared_error_backward<T>(Context<Cuda>&, View<T>, View<T>, In<T>, In<T>, In<T>);          \
  EXTERN template void dequantise<T>(Context<Cuda>&, View<T>, const Stored<Cuda>&);                                    \
  EXTERN template void gemm(Context<Cuda>&, Write, int64_t, int64_t, int64_t, T*, int64_t, const DenseOperand<T>&,     \
                            const StoredOperand&, accumulate_t<T>, const T*);                                          \
  EXTERN template void gemm(Context<Cuda>&, Write, int64_t, int64_t, int64_t, T*, int64_t, const DenseOperand<T>&,     \
                            const DenseOperand<T>&, accumulate_t<T>, const T*);                                        \
  EXTERN template void causal_conv_apply<T>(Context<Cuda>&, View<T>, In<T>, In<T>, const std::vector<int32_t>&,        \
                                            const std::vector<int32_t>&, int64_t);                                     \
  EXTERN template void causal_conv_weights<T>(Context<Cuda>&, View<accumulate_t<T>>, View<const T>, In<T>,             \
                                              const std::vector<int32_t>&);                                            \
  EXTERN template void gather_patches<T>(Context<Cuda>&, View<T>, In<T>, const Patches&, int64_t);                     \
  EXTERN template void group_norm_forward<T>(Context<Cuda>&, View<T>, View<accumulate_t<T>>, View<accumulate_t<T>>,    \
                                             In<T>, In<T>, In<T>, float);                                              \
  EXTERN template void group_norm_backward<T>(Context<Cuda>&, View<T>, View<accumulate_t<T>>, View<accumulate_t<T>>,   \
                                              In<T>, In<T>, In<accumulate_t<T>>, In<accumulate_t<T>>, In<T>);          \
  EXTERN template void gated_delta_forward<T>(Context<Cuda>&, const DeltaRule<T>&, View<T>, View<accumulate_t<T>>,     \
                                              View<accumulate_t<T>>);                                                  \
  EXTERN template void gated_delta_backward<T>(Context<Cuda>&, const DeltaRule<T>&, View<T>, View<T>, View<T>,         \
                                               View<T>, View<T>, View<accumulate_t<T>>, View<accumulate_t<T>>, In<T>,  \
                                               In<accumulate_t<T>>);                                                   \
  EXTERN template void take_rows_forward<T>(Context<Cuda>&, View<T>, In<T>, int64_t, const std::vector<int32_t>&);     \
  EXTERN template void take_rows_backward<T>(Context<Cuda>&, Write, View<T>, In<T>, int64_t,                           \
                                             const std::vector<int32_t>&);                                             \
  EXTERN template void mean_rows_forward<T>(Context<Cuda>&, View<T>, In<T>, const std::vector<int64_t>&);              \
  EXTERN template void mean_rows_backward<T>(Context<Cuda>&, View<T>, In<T>, const std::vector<int64_t>&);             \
  EXTERN template void add_column_sums<T>(Context<Cuda>&, View<accumulate_t<T>>, View<const T>);                       \
  EXTERN template void flat_outer<T>(Context<Cuda>&, Write, View<accumulate_t<T>>, View<const T>, In<T>);              \
  EXTERN template void fill<T>(Context<Cuda>&, View<T>, T);                                                            \
  EXTERN template void copy<T, T>(Context<Cuda>&, View<T>, View<const T>);                                             \
  EXTERN template void accumulate<T>(Context<Cuda>&, View<T>, View<const T>);                                          \
  EXTERN template void adamw_update<T>(Context<Cuda>&, std::span<const AdamWItem<T>>, const Verdict*, Master,          \
                                       uint64_t);                                                                      \
  EXTERN template void lion_update<T>(Context<Cuda>&, std::span<const LionItem<T>>, const Verdict*, Master, uint64_t); \
  EXTERN template void adamw8bit_update<T>(Context<Cuda>&, std::span<const AdamW8bitItem<T>>, const Verdict*, Master,  \
                                           uint64_t);                                                                  \
  EXTERN template void move_towards<T>(Context<Cuda>&, View<accumulate_t<T>>, View<const T>, double);                  \
  FTLIB_CUDA_ACTIVATION(EXTERN, detail::Silu, T)                                                                       \
  FTLIB_CUDA_ACTIVATION(EXTERN, detail::Gelu, T)                                                                       \
  FTLIB_CUDA_ACTIVATION(EXTERN, detail::GeluTanh, T)                                                                   \
  FTLIB_CUDA_ACTIVATION(EXTERN, detail::Relu, T)                                                                       \
  FTLIB_CUDA_ACTIVATION(EXTERN, detail::Sigmoid, T)                                                                    \
  FTLIB_CUDA_ACTIVATION(EXTERN, detail::Tanh, T)                                                                       \
  FTLIB_CUDA_ACTIVATION(EXTERN, detail::LimitedSilu, T)                                                                \
  FTLIB_CUDA_ACTIVATION(EXTERN, detail::LimitedUp, T)
/// Those that do not depend on the compute type, or convert between types.
#define FTLIB_CUDA_COMMON_TEMPLATES(EXTERN)                                                                          \
  EXTERN template void fill<int32_t>(Context<Cuda>&, View<int32_t>, int32_t);                                        \
  EXTERN template void copy<int32_t, int32_t>(Context<Cuda>&, View<int32_t>, View<const int32_t>);                   \
  EXTERN template void accumulate<double>(Context<Cuda>&, View<double>, View<const double>);                         \
  EXTERN template void copy<float, bfloat16>(Context<Cuda>&, View<float>, View<const bfloat16>);                     \
  EXTERN template void copy<bfloat16, float>(Context<Cuda>&, View<bfloat16>, View<const float>);                     \
  EXTERN template void gemm(Context<Cuda>&, Write, int64_t, int64_t, int64_t, float*, int64_t,                       \
                            const DenseOperand<bfloat16>&, const DenseOperand<bfloat16>&, float, const bfloat16*);   \
  EXTERN template void sum_all<float>(Context<Cuda>&, View<float>, In<float>);                                       \
  EXTERN template void choose_tokens<float>(Context<Cuda>&, View<int32_t>, View<float>, const detail::SamplingRule&, \
                                            const std::vector<double>&, const std::vector<int32_t>&,                 \
                                            const std::vector<int64_t>&);                                            \
  EXTERN template void add_loss<float>(Context<Cuda>&, Verdict*, View<const float>);                                 \
  EXTERN template void block_squares<float>(Context<Cuda>&, View<double>, std::span<const View<float>>);             \
  EXTERN template void judge_squares<double>(Context<Cuda>&, Verdict*, View<const double>, double, double);          \
  EXTERN template void scale_gradients<float>(Context<Cuda>&, std::span<const View<float>>, const Verdict*);

#if FTLIB_CUDA_RUNTIME
namespace ft::inline FTLIB_ABI {
FTLIB_CUDA_TEMPLATES(extern, float)
FTLIB_CUDA_TEMPLATES(extern, bfloat16)
FTLIB_CUDA_COMMON_TEMPLATES(extern)
}  // namespace ft::inline FTLIB_ABI
#endif
