// tests/cuda_emulation/instantiations.cu: every kernel for every type, for tools/check_cuda.py to compile and to look
// into.
#include <ftlib/ops/activation.cuda.cuh>
#include <ftlib/ops/attention.cuda.cuh>
#include <ftlib/ops/cross_entropy.cuda.cuh>
#include <ftlib/ops/dropout.cuda.cuh>
#include <ftlib/ops/elementwise.cuda.cuh>
#include <ftlib/ops/embedding.cuda.cuh>
#include <ftlib/ops/linear.cuda.cuh>
#include <ftlib/ops/norm.cuda.cuh>
#include <ftlib/ops/rope.cuda.cuh>
#include <ftlib/ops/softmax.cuda.cuh>
#include <ftlib/optim/adamw.cuda.cuh>
#include <ftlib/optim/clip.cuda.cuh>
#include <ftlib/optim/ema.cuda.cuh>
#include <ftlib/tensor/stored.cuda.cuh>

namespace ft::inline FTLIB_ABI {

#define FTLIB_ACTIVATION(F, T)                                                       \
  template void activation_forward<F, T>(Context<Cuda>&, F, View<T>, In<T>);         \
  template void activation_backward<F, T>(Context<Cuda>&, F, View<T>, In<T>, In<T>); \
  template void gated_forward<F, T>(Context<Cuda>&, F, View<T>, In<T>, In<T>);       \
  template void gated_backward<F, T>(Context<Cuda>&, F, View<T>, View<T>, In<T>, In<T>, In<T>);
#define FTLIB_TYPE(T)                                                                                                \
  template void rms_norm_forward<T>(Context<Cuda>&, View<T>, View<accumulate_t<T>>, In<T>, In<T>, float, float);     \
  template void rms_norm_backward<T>(Context<Cuda>&, View<T>, View<accumulate_t<T>>, In<T>, In<T>, In<T>,            \
                                     In<accumulate_t<T>>, float);                                                    \
  template void layer_norm_forward<T>(Context<Cuda>&, View<T>, View<accumulate_t<T>>, View<accumulate_t<T>>, In<T>,  \
                                      In<T>, In<T>, float);                                                          \
  template void layer_norm_backward<T>(Context<Cuda>&, View<T>, View<accumulate_t<T>>, View<accumulate_t<T>>, In<T>, \
                                       In<T>, In<T>, In<accumulate_t<T>>, In<accumulate_t<T>>);                      \
  template void softmax_forward<T>(Context<Cuda>&, View<T>, In<T>, SoftmaxResult);                                   \
  template void softmax_backward<T>(Context<Cuda>&, View<T>, In<T>, In<T>, SoftmaxResult);                           \
  template void softmax_cross_entropy<T>(Context<Cuda>&, View<accumulate_t<T>>, View<T>, In<int32_t>, bool,          \
                                         In<accumulate_t<T>>);                                                       \
  template void gather_rows<T>(Context<Cuda>&, View<T>, In<T>, In<int32_t>);                                         \
  template void scatter_rows<T>(Context<Cuda>&, View<T>, In<T>, In<int32_t>, In<accumulate_t<T>>);                   \
  template void attention_forward<T>(Context<Cuda>&, View<T>, View<accumulate_t<T>>, In<T>, In<T>, In<T>,            \
                                     const std::vector<Segment>&, const AttentionOptions&);                          \
  template void attention_backward<T>(Context<Cuda>&, View<T>, View<T>, View<T>, In<T>, In<T>, In<T>, In<T>, In<T>,  \
                                      In<accumulate_t<T>>, const std::vector<Segment>&, const AttentionOptions&);    \
  template void dropout_mask<T>(Context<Cuda>&, View<T>, In<T>, float, uint64_t, uint64_t);                          \
  template void rope_turn<T>(Context<Cuda>&, View<T>, In<T>, In<T>, In<T>, In<int32_t>, RopePairing, T);             \
  template void embedding_forward<T>(Context<Cuda>&, View<T>, const Stored<Cuda>&, const std::vector<int32_t>&,      \
                                     float);                                                                         \
  template void embedding_backward<T>(Context<Cuda>&, View<accumulate_t<T>>, View<const T>,                          \
                                      const std::vector<int32_t>&, float);                                           \
  template void linear_combination<T>(Context<Cuda>&, View<T>, In<T>, In<T>, T, T);                                  \
  template void product<T>(Context<Cuda>&, View<T>, In<T>, In<T>);                                                   \
  template void modulate_forward<T>(Context<Cuda>&, View<T>, In<T>, In<T>, In<T>, const std::vector<int64_t>&);      \
  template void modulate_backward<T>(Context<Cuda>&, View<T>, View<T>, View<T>, In<T>, In<T>, In<T>,                 \
                                     const std::vector<int64_t>&);                                                   \
  template void gate_residual_forward<T>(Context<Cuda>&, View<T>, In<T>, In<T>, In<T>, const std::vector<int64_t>&); \
  template void gate_residual_backward<T>(Context<Cuda>&, View<T>, View<T>, In<T>, In<T>, In<T>,                     \
                                          const std::vector<int64_t>&);                                              \
  template void sum_forward<T>(Context<Cuda>&, View<T>, In<T>, double);                                              \
  template void sum_backward<T>(Context<Cuda>&, View<T>, In<T>, double);                                             \
  template void mean_squared_error_forward<T>(Context<Cuda>&, View<T>, In<T>, In<T>);                                \
  template void mean_squared_error_backward<T>(Context<Cuda>&, View<T>, View<T>, In<T>, In<T>, In<T>);               \
  template void dequantise<T>(Context<Cuda>&, View<T>, const Stored<Cuda>&);                                         \
  template void gemm(Context<Cuda>&, Write, int64_t, int64_t, int64_t, T*, int64_t, const DenseOperand<T>&,          \
                     const StoredOperand&, accumulate_t<T>, const T*);                                               \
  template void add_column_sums<T>(Context<Cuda>&, View<accumulate_t<T>>, View<const T>);                            \
  template void fill<T>(Context<Cuda>&, View<T>, T);                                                                 \
  template void copy<T, T>(Context<Cuda>&, View<T>, View<const T>);                                                  \
  template void accumulate<T>(Context<Cuda>&, View<T>, View<const T>);                                               \
  template void adamw_update<T>(Context<Cuda>&, std::span<const AdamWItem<T>>, const Verdict*, Master, uint64_t);    \
  template void move_towards<T>(Context<Cuda>&, View<accumulate_t<T>>, View<const T>, double);                       \
  FTLIB_ACTIVATION(detail::Silu, T)                                                                                  \
  FTLIB_ACTIVATION(detail::Gelu, T) FTLIB_ACTIVATION(detail::GeluTanh, T) FTLIB_ACTIVATION(detail::Relu, T)
FTLIB_TYPE(float)
FTLIB_TYPE(bfloat16)
FTLIB_TYPE(half)
#undef FTLIB_TYPE
#undef FTLIB_ACTIVATION
template void add_loss<float>(Context<Cuda>&, Verdict*, View<const float>);
template void judge_gradients<float>(Context<Cuda>&, Verdict*, std::span<const View<float>>, double, double);
template void scale_gradients<float>(Context<Cuda>&, std::span<const View<float>>, const Verdict*);

}  // namespace ft::inline FTLIB_ABI
