// adapters/dora.hpp: DoRA: LoRA, and a trained length for each row of the weight. The base stays as it is stored.
#pragma once
#include <ftlib/adapters/lora.hpp>  // low_rank_factors

#include <mutex>  // std::mutex

namespace ft::inline FTLIB_ABI {

/// DoRA on one matrix: W' = m / n (W + s B A), row by row, where n is the norm of a row of W + s B A and a constant of
/// the gradient, as in PEFT; m begins as the norm of W's.    Liu et al., arXiv:2402.09353, 4.3
///
/// A sum of adapters adds what each makes of W by itself, W' - W, so DoRA may stand in one beside LoRA. While it is
/// trained n is computed anew in each forward pass; frozen, once.
template <Scalar T, Device D> class DoraAdapter final : public Adapter<T, D> {
 public:
  static constexpr AdapterKind kind{"dora", "use_dora"};

  /// A and B as LoRA's, and so W' = W. Without `random` the values are still to come, from a file.
  DoraAdapter(Context<D>& ctx, const Parameter<T, D>& w, const Lora& config, Random* random);
  DoraAdapter(Parameter<T, D> a_, Parameter<T, D> b_, Parameter<T, D> m_, float scale_, float dropout = 0)
      : a(std::move(a_)), b(std::move(b_)), m(std::move(m_)), scale(scale_), dropout_(dropout) {}

  Tensor<T, D> linear(Context<D>& ctx, const Tensor<T, D>& x, Parameter<T, D>& w, Parameter<T, D>* bias,
                      float strength) override;
  Tensor<T, D> addition(Context<D>& ctx, const Tensor<T, D>& x, Parameter<T, D>& w) override;
  Tensor<T, D> merged(Context<D>& ctx, const Parameter<T, D>& w) override;
  void visit(const std::function<void(Parameter<T, D>&)>& f) override {
    f(a);
    f(b);
    f(m);
  }
  /// W + share (W' - W) is c (W + s B' A) with c = 1 - share + share m / n and B' = B (share m / n) / c, row by row: a
  /// DoRA again.
  std::shared_ptr<Adapter<T, D>> copy(Context<D>& ctx, const Parameter<T, D>& w, float share) override;

  Parameter<T, D> a, b, m;  // (R, in), (out, R), (out)
  float scale;              // s

 private:
  Tensor<accumulate_t<T>, D> inverse_norms(Context<D>& ctx, const Parameter<T, D>& w);  // 1 / n, (out)

  float dropout_;
  std::mutex mutex_;                    // of what is kept: sessions share a frozen adapter
  Tensor<accumulate_t<T>, D> inverse_;  // 1 / n of a frozen adapter
};

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/adapters/dora.inl.hpp>
#endif
