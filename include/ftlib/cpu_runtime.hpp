// cpu_runtime.hpp: the CPU's kernels as a program that links ftlib::runtime sees them: declared here, compiled once for
// each instruction set by src/cpu_kernels.cpp, chosen when the first of them is called (src/cpu_dispatch.cpp).
#pragma once
#include <ftlib/tensor/context.cpu.hpp>  // Context<Cpu>
#include <ftlib/tensor/stored.hpp>       // Stored
#include <ftlib/tensor/view.hpp>         // View, In, Write

#include <span>    // std::span
#include <vector>  // std::vector

#if FTLIB_HEADER_ONLY
#error "cpu_runtime.hpp is for the compiled runtime; where all is header-only the kernels are in *.cpu.hpp"
#endif

// The kernels' launchers, each with its arguments behind the context. X is called as X(TAG, NAME, ARGUMENTS...); TAG
// tells launchers of one NAME apart. T is the compute type. An argument with a default is FTLIB_CPU_DEFAULT(TYPE,
// VALUE). tools/check_includes.py fails where a launcher of a *.cpu.hpp is missing here.
#define FTLIB_CPU_ACTIVATION(X, F, T)                         \
  X(F, activation_forward, detail::F, View<T>, In<T>)         \
  X(F, activation_backward, detail::F, View<T>, In<T>, In<T>) \
  X(F, gated_forward, detail::F, View<T>, In<T>, In<T>)       \
  X(F, gated_backward, detail::F, View<T>, View<T>, In<T>, In<T>, In<T>)

#define FTLIB_CPU_LAUNCHERS(X, T)                                                                                     \
  X(, norm_forward, const Norm<T>&, View<T>, View<T>, View<accumulate_t<T>>, View<accumulate_t<T>>, In<T>, In<T>)     \
  X(, norm_backward, const Norm<T>&, View<T>, View<accumulate_t<T>>, View<accumulate_t<T>>, View<T>, View<T>, In<T>,  \
    In<T>, In<T>, In<accumulate_t<T>>, In<accumulate_t<T>>)                                                           \
  X(, softmax_forward, View<T>, In<T>, SoftmaxResult)                                                                 \
  X(, softmax_backward, View<T>, In<T>, In<T>, SoftmaxResult)                                                         \
  X(, softmax_cross_entropy, View<accumulate_t<T>>, View<T>, In<int32_t>, bool,                                       \
    FTLIB_CPU_DEFAULT(In<accumulate_t<T>>, {}))                                                                       \
  X(, softmax_divergence, View<accumulate_t<T>>, View<T>, View<T>, bool, FTLIB_CPU_DEFAULT(In<accumulate_t<T>>, {}))  \
  X(, gather_rows, View<T>, In<T>, In<int32_t>)                                                                       \
  X(, scatter_rows, View<T>, In<T>, In<int32_t>, FTLIB_CPU_DEFAULT(In<accumulate_t<T>>, {}))                          \
  X(, sum_all, View<T>, In<T>)                                                                                        \
  X(, attention_forward, View<T>, View<T>, In<T>, In<T>, In<T>, const std::vector<Segment>&, const AttentionOptions&) \
  X(, attention_backward, View<T>, View<T>, View<T>, In<T>, In<T>, In<T>, In<T>, In<T>, In<T>,                        \
    const std::vector<Segment>&, const AttentionOptions&)                                                             \
  X(, sink_forward, View<T>, View<T>, In<T>)                                                                          \
  X(, sink_backward, View<T>, In<T>, In<T>, In<T>, In<T>)                                                             \
  X(, dropout_mask, View<T>, In<T>, float, uint64_t, uint64_t)                                                        \
  X(, rope_turn, View<T>, In<T>, In<T>, In<T>, In<int32_t>, RopePairing, T)                                           \
  X(, causal_conv_apply, View<T>, In<T>, In<T>, const std::vector<int32_t>&, const std::vector<int32_t>&, int64_t)    \
  X(, causal_conv_weights, View<T>, In<T>, In<T>, const std::vector<int32_t>&)                                        \
  X(, gather_patches, View<T>, In<T>, const Patches&, int64_t)                                                        \
  X(, group_norm_forward, View<T>, View<accumulate_t<T>>, View<accumulate_t<T>>, In<T>, In<T>, In<T>, float)          \
  X(, group_norm_backward, View<T>, View<accumulate_t<T>>, View<accumulate_t<T>>, In<T>, In<T>, In<accumulate_t<T>>,  \
    In<accumulate_t<T>>, In<T>)                                                                                       \
  X(, gated_delta_forward, const DeltaRule<T>&, View<T>, View<accumulate_t<T>>, View<accumulate_t<T>>)                \
  X(, gated_delta_backward, const DeltaRule<T>&, View<T>, View<T>, View<T>, View<T>, View<T>, View<accumulate_t<T>>,  \
    View<accumulate_t<T>>, In<T>, In<accumulate_t<T>>)                                                                \
  X(, embedding_forward, View<T>, const Stored<Cpu>&, const std::vector<int32_t>&, float)                             \
  X(, embedding_backward, View<T>, In<T>, const std::vector<int32_t>&, float)                                         \
  X(, linear_combination, View<T>, In<T>, In<T>, T, T)                                                                \
  X(, product, View<T>, In<T>, In<T>)                                                                                 \
  X(, modulate_forward, View<T>, In<T>, In<T>, In<T>, const std::vector<int64_t>&)                                    \
  X(, modulate_backward, View<T>, View<T>, View<T>, In<T>, In<T>, In<T>, const std::vector<int64_t>&)                 \
  X(, gate_residual_forward, View<T>, In<T>, In<T>, In<T>, const std::vector<int64_t>&)                               \
  X(, gate_residual_backward, View<T>, View<T>, In<T>, In<T>, In<T>, const std::vector<int64_t>&)                     \
  X(, sum_forward, View<T>, In<T>, double)                                                                            \
  X(, sum_backward, View<T>, In<T>, double)                                                                           \
  X(, mean_squared_error_forward, View<T>, In<T>, In<T>)                                                              \
  X(, mean_squared_error_backward, View<T>, View<T>, In<T>, In<T>, In<T>)                                             \
  X(, take_rows_forward, View<T>, In<T>, int64_t, const std::vector<int32_t>&)                                        \
  X(, take_rows_backward, Write, View<T>, In<T>, int64_t, const std::vector<int32_t>&)                                \
  X(, mean_rows_forward, View<T>, In<T>, const std::vector<int64_t>&)                                                 \
  X(, mean_rows_backward, View<T>, In<T>, const std::vector<int64_t>&)                                                \
  X(, dequantise, View<T>, const Stored<Cpu>&)                                                                        \
  X(_stored, gemm, Write, int64_t, int64_t, int64_t, T*, int64_t, const DenseOperand<T>&, const StoredOperand&,       \
    FTLIB_CPU_DEFAULT(T, 1), FTLIB_CPU_DEFAULT(const T*, nullptr))                                                    \
  X(_dense, gemm, Write, int64_t, int64_t, int64_t, T*, int64_t, const DenseOperand<T>&, const DenseOperand<T>&,      \
    FTLIB_CPU_DEFAULT(T, 1), FTLIB_CPU_DEFAULT(const T*, nullptr))                                                    \
  X(, add_column_sums, View<T>, In<T>)                                                                                \
  X(, flat_outer, Write, View<T>, In<T>, In<T>)                                                                       \
  X(, adamw_update, std::span<const AdamWItem<T>>, const Verdict*, Master, uint64_t)                                  \
  X(, lion_update, std::span<const LionItem<T>>, const Verdict*, Master, uint64_t)                                    \
  X(, adamw8bit_update, std::span<const AdamW8bitItem<T>>, const Verdict*, Master, uint64_t)                          \
  X(, move_towards, View<accumulate_t<T>>, View<const T>, double)                                                     \
  X(, add_loss, Verdict*, View<const T>)                                                                              \
  X(, block_squares, View<double>, std::span<const View<T>>)                                                          \
  X(, judge_squares, Verdict*, View<const T>, double, double)                                                         \
  X(, scale_gradients, std::span<const View<T>>, const Verdict*)                                                      \
  FTLIB_CPU_ACTIVATION(X, Silu, T)                                                                                    \
  FTLIB_CPU_ACTIVATION(X, Gelu, T)                                                                                    \
  FTLIB_CPU_ACTIVATION(X, GeluTanh, T)                                                                                \
  FTLIB_CPU_ACTIVATION(X, Relu, T)                                                                                    \
  FTLIB_CPU_ACTIVATION(X, Sigmoid, T)                                                                                 \
  FTLIB_CPU_ACTIVATION(X, Tanh, T)                                                                                    \
  FTLIB_CPU_ACTIVATION(X, LimitedSilu, T)                                                                             \
  FTLIB_CPU_ACTIVATION(X, LimitedUp, T)

/// Those of float alone.
#define FTLIB_CPU_FLOAT_LAUNCHERS(X, T)                                                               \
  X(, choose_tokens, View<int32_t>, View<T>, const detail::SamplingRule&, const std::vector<double>&, \
    const std::vector<int32_t>&, const std::vector<int64_t>&)                                         \
  X(, quantise, std::byte*, DType, View<const T>, const float*)

namespace ft::inline FTLIB_ABI {

template <Scalar T> struct Norm;
template <Scalar T> struct DeltaRule;
template <Scalar T> struct AdamWItem;
template <Scalar T> struct AdamW8bitItem;
template <Scalar T> struct LionItem;
template <class T> struct DenseOperand;
struct StoredOperand;
struct Segment;
struct Patches;
struct AttentionOptions;
struct Verdict;
enum class SoftmaxResult;
enum class RopePairing;
enum class Master;
namespace detail {
struct Silu;
struct Gelu;
struct GeluTanh;
struct Relu;
struct Sigmoid;
struct Tanh;
struct LimitedSilu;
struct LimitedUp;
struct SamplingRule;
}  // namespace detail

#if !defined(FTLIB_CPU_SET)  // src/cpu_kernels.cpp has the definitions, in a namespace of its own
// What moves numbers (tensor/copy.cpu.hpp) waits for memory, not for instructions: compiled once, for all Element
// types.
template <Element T> void fill(Context<Cpu>& ctx, View<T> to, T value);
template <Element To, Element From> void copy(Context<Cpu>& ctx, View<To> to, View<const From> from);
template <Scalar T> void accumulate(Context<Cpu>& ctx, View<T> to, View<const T> from);
#define FTLIB_CPU_DEFAULT(type, value) type = value
#define FTLIB_CPU_DECLARE(TAG, NAME, ...) template <Scalar T> void NAME(Context<Cpu>&, __VA_ARGS__);
FTLIB_CPU_LAUNCHERS(FTLIB_CPU_DECLARE, T)
FTLIB_CPU_FLOAT_LAUNCHERS(FTLIB_CPU_DECLARE, T)
#undef FTLIB_CPU_DECLARE
#undef FTLIB_CPU_DEFAULT
#endif

}  // namespace ft::inline FTLIB_ABI
