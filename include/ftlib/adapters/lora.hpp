// adapters/lora.hpp: LoRA: W + s B A with a small rank; the base stays frozen in whatever type it is stored.
#pragma once
#include <ftlib/core/description.hpp>  // Description
#include <ftlib/nn/adapter.hpp>
#include <ftlib/ops/dropout.hpp>      // dropout
#include <ftlib/ops/elementwise.hpp>  // add_scaled

#include <cmath>   // std::sqrt
#include <span>    // std::span
#include <string>  // std::string
#include <vector>  // std::vector

namespace ft::inline FTLIB_ABI {

/// Which matrices an adapter goes to: all linear layers but the head, or those whose module name is one of `names` or
/// ends with ".name" (PEFT's rule for target_modules).
struct Targets {
  bool all = false;
  std::vector<std::string> names;

  Targets() = default;
  explicit Targets(bool all_) : all(all_) {}
  Targets(std::vector<std::string> names_) : names(std::move(names_)) {}
  Targets(std::initializer_list<std::string> names_) : names(names_) {}

  bool match(const std::string& module) const {
    for (const std::string& name : names)
      if (module == name ||
          (module.size() > name.size() && module.ends_with(name) && module[module.size() - name.size() - 1] == '.'))
        return true;
    return false;
  }
};
inline const Targets all_linear{true};

/// Low-rank adaptation, Hu et al., arXiv:2106.09685; the fields are PEFT's.
struct Lora {
  int rank = 16;
  float alpha = 32;     // the addition is scaled by alpha / rank,
  bool rslora = false;  // or by alpha / sqrt(rank), Kalajdzievski, arXiv:2312.03732
  float dropout = 0;    // of the adapter's input, in training
  Targets targets = all_linear;
  uint64_t seed = 0;  // of A's initialisation

  float scale() const { return alpha / (rslora ? std::sqrt(static_cast<float>(rank)) : static_cast<float>(rank)); }
};

/// Adds what of an adapter decides its numbers in training, beside its weights.
inline void describe(Description& d, const Lora& lora) {
  d.add("lora.scale", lora.scale());
  d.add("lora.dropout", lora.dropout);
}

/// "model.layers.0.mlp.up_proj.weight" -> "model.layers.0.mlp.up_proj"
inline std::string module_of(const std::string& parameter) {
  const std::size_t dot = parameter.rfind('.');
  return dot == std::string::npos ? parameter : parameter.substr(0, dot);
}

/// LoRA on one matrix.
template <Scalar T, Device D> class LoraAdapter final : public Adapter<T, D> {
 public:
  /// A is drawn from U(-1/sqrt(in), 1/sqrt(in)) (Kaiming's with a = sqrt(5), as PEFT does), B is zero.
  [[gnu::cold]] LoraAdapter(Context<D>& ctx, const Parameter<T, D>& w, const Lora& config, Random& random)
      : scale(config.scale()), dropout_(config.dropout) {
    const int64_t out = w.shape()[0], in = w.shape()[1], rank = config.rank;
    std::vector<T> init(static_cast<std::size_t>(rank * in));
    const double bound = 1 / std::sqrt(static_cast<double>(in));
    for (T& v : init) v = static_cast<T>(static_cast<accumulate_t<T>>((2 * random.uniform() - 1) * bound));
    a = Parameter<T, D>(module_of(w.name) + ".lora_A.weight", Tensor<T, D>(ctx, {rank, in}, init));
    b = Parameter<T, D>(module_of(w.name) + ".lora_B.weight", Tensor<T, D>::zeros(ctx, {out, rank}));
    a.kind = b.kind = WeightKind::linear;
  }

  Tensor<T, D> linear(Context<D>& ctx, const Tensor<T, D>& x, Parameter<T, D>& w, Parameter<T, D>* bias) override {
    if (dropout_ == 0 || !ctx.tape()) return lora_linear(ctx, x, w, a, b, scale, bias);
    const auto low = ft::linear(ctx, ft::linear(ctx, dropout(ctx, x, dropout_), a), b);
    return add_scaled(ctx, ft::linear(ctx, x, w, bias), low, scale);
  }
  Tensor<T, D> merged(Context<D>& ctx, Parameter<T, D>& w) override {
    Tensor<T, D> sum = dense(ctx, w);
    gemm(ctx, Write::add, w.shape()[0], w.shape()[1], a.shape()[0], sum.data(), w.shape()[1],
         DenseOperand<T>{b.value.data(), a.shape()[0], 1}, DenseOperand<T>{a.value.data(), w.shape()[1], 1},
         accumulate_t<T>(scale));
    return sum;
  }
  void visit(const std::function<void(Parameter<T, D>&)>& f) override {
    f(a);
    f(b);
  }

  Parameter<T, D> a, b;  // (rank, in), (out, rank)
  float scale;

 private:
  float dropout_;
};

/// Freezes all of `parameters` and hangs a LoRA onto each that the targets name. Returns how many. Throws Error where
/// there is none, or the rank makes no sense.
template <Scalar T, Device D>
[[gnu::cold]] int attach(Context<D>& ctx, std::span<Parameter<T, D>* const> parameters, const Lora& config) {
  if (config.rank < 1) throw Error(str("lora: rank ", config.rank, " is no rank"), "usual ranks are 8 to 64.");
  if (!(config.dropout >= 0 && config.dropout < 1))
    throw Error(str("lora: dropout ", config.dropout, " is outside [0, 1)"));
  Random random(config.seed);
  int attached = 0;
  for (Parameter<T, D>* w : parameters) {
    w->trainable = false;
    w->grad = {};
    if (!(config.targets.all ? w->kind == WeightKind::linear
                             : w->shape().rank() == 2 && config.targets.match(module_of(w->name))))
      continue;
    if (w->kind == WeightKind::embedding)
      throw Error(str("lora: '", w->name, "' is an embedding; only matrices of linear layers are adapted"));
    w->adapter = std::make_shared<LoraAdapter<T, D>>(ctx, *w, config, random);
    ++attached;
  }
  if (attached == 0) {
    std::string names;
    for (const auto& name : config.targets.names) names += (names.empty() ? "" : ", ") + name;
    throw Error(str("lora: no linear layer's name ends with one of: ", names),
                "Llama's and Gemma's are q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj.");
  }
  return attached;
}

}  // namespace ft::inline FTLIB_ABI
