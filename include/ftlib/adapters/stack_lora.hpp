// adapters/stack_lora.hpp: LoRA on a stack of matrices, all experts of a layer: PEFT's target_parameters.
#pragma once
#include <ftlib/adapters/lora.hpp>  // low_rank_factors

#include <functional>  // std::function
#include <memory>      // std::shared_ptr
#include <string>      // std::string
#include <vector>      // std::vector

namespace ft::inline FTLIB_ABI {

/// LoRA on each of G matrices that are one tensor in PEFT: W_g' = W_g + s B_g A_g. One adapter serves all weights that
/// are parts of the stack (Parameter::part_of), so an expert's gate and up share an A. It has no dropout, as in PEFT.
template <Scalar T, Device D> class StackLora final : public Adapter<T, D> {
 public:
  /// Of the stack that w is a part of. A is drawn from U(-1/sqrt(in), 1/sqrt(in)), B is zero; without `random` the
  /// values are still to come, from a file. Throws Error where the configuration is another kind's, or has a dropout.
  StackLora(Context<D>& ctx, const Parameter<T, D>& w, const Lora& config, Random* random);
  StackLora(Parameter<T, D> a_, Parameter<T, D> b_, float scale_) : a(std::move(a_)), b(std::move(b_)), scale(scale_) {}

  Tensor<T, D> linear(Context<D>& ctx, const Tensor<T, D>& x, Parameter<T, D>& w, Parameter<T, D>* bias,
                      float strength) override;
  Tensor<T, D> addition(Context<D>& ctx, const Tensor<T, D>& x, Parameter<T, D>& w) override;
  Tensor<T, D> grouped_addition(Context<D>& ctx, const Tensor<T, D>& x, const Parameter<T, D>& w,
                                const std::vector<int64_t>& starts) override;
  Tensor<T, D> merged(Context<D>& ctx, const Parameter<T, D>& w) override;
  void visit(const std::function<void(Parameter<T, D>&)>& f) override {
    f(a);
    f(b);
  }
  std::shared_ptr<Adapter<T, D>> copy(Context<D>& ctx, const Parameter<T, D>& w, float share) override;

  // A_g is rows [g R, (g + 1) R) of A (G R, in), column k of B_g is column k G + g of B (out, R G): as PEFT's files.
  Parameter<T, D> a, b;
  float scale;  // s
};

/// What adapters call a weight, or the stack that it is a part of.
template <Scalar T, Device D> std::string target_of(const Parameter<T, D>& w) {
  return w.part_of ? w.part_of->stack : module_of(w.name);
}

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/adapters/stack_lora.inl.hpp>
#endif
