// adapters/lora.hpp: LoRA: W + s B A with a small rank; the base stays frozen in whatever type it is stored.
#pragma once
#include <ftlib/adapters/config.hpp>  // Lora
#include <ftlib/nn/adapter.hpp>       // Adapter

#include <functional>  // std::function
#include <memory>      // std::shared_ptr
#include <vector>      // std::vector

namespace ft::inline FTLIB_ABI {

/// LoRA on one matrix: W' = W + s B A. rsLoRA is another s.
template <Scalar T, Device D> class LoraAdapter final : public Adapter<T, D> {
 public:
  static constexpr AdapterKind kind{"lora", ""};

  /// A is drawn from U(-1/sqrt(in), 1/sqrt(in)) (Kaiming's with a = sqrt(5), as PEFT does), B is zero. Without `random`
  /// the values are still to come, from a file.
  LoraAdapter(Context<D>& ctx, const Parameter<T, D>& w, const Lora& config, Random* random);
  /// One whose factors are there already.
  LoraAdapter(Parameter<T, D> a_, Parameter<T, D> b_, float scale_, float dropout = 0)
      : a(std::move(a_)), b(std::move(b_)), scale(scale_), dropout_(dropout) {}

  Tensor<T, D> linear(Context<D>& ctx, const Tensor<T, D>& x, Parameter<T, D>& w, Parameter<T, D>* bias,
                      float strength) override;
  Tensor<T, D> addition(Context<D>& ctx, const Tensor<T, D>& x, Parameter<T, D>& w) override;
  Tensor<T, D> merged(Context<D>& ctx, const Parameter<T, D>& w) override;
  void visit(const std::function<void(Parameter<T, D>&)>& f) override {
    f(a);
    f(b);
  }
  std::shared_ptr<Adapter<T, D>> copy(Context<D>& ctx, const Parameter<T, D>& w, float share) override;

  Parameter<T, D> a, b;  // (R, in), (out, R)
  float scale;           // s

 private:
  float dropout_;
};

/// LoRA+ (arXiv:2402.12354): B's learning rate is `ratio` times that of the others; 16 is the paper's. What a
/// parameter's rate is multiplied by:    TrainerConfig{.groups = {.lr_scale = lora_plus()}}
inline auto lora_plus(float ratio = 16) {
  return [ratio](const auto& w) { return w.name.ends_with(".lora_B.weight") ? ratio : 1.0f; };
}

namespace detail {
/// A (rank, in) and B (out, rank) of a new low-rank adapter on `module`.
template <Scalar T, Device D>
std::pair<Parameter<T, D>, Parameter<T, D>> low_rank_factors(Context<D>& ctx, const std::string& module, int64_t out,
                                                             int64_t in, int64_t rank, Random* random);
/// The same for what a configuration asks of w.
template <Scalar T, Device D>
std::pair<Parameter<T, D>, Parameter<T, D>> low_rank_factors(Context<D>& ctx, const Parameter<T, D>& w,
                                                             const Lora& config, Random* random);
/// s x, in memory of its own.
template <Scalar T, Device D> Tensor<T, D> scaled_copy(Context<D>& ctx, const Tensor<T, D>& x, float s);
/// A frozen copy of a parameter, its values times `share`.
template <Scalar T, Device D> Parameter<T, D> frozen_copy(Context<D>& ctx, const Parameter<T, D>& w, float share = 1);
}  // namespace detail

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/adapters/lora.inl.hpp>
#endif
