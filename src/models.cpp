// src/models.cpp: the language models, those of pictures and their autoencoders, how a checkpoint becomes one, and how
// layers ask for the adapter in use.
#include <ftlib/models/kit/autoencoder_registry.inl.hpp>
#include <ftlib/models/kit/denoiser_registry.inl.hpp>
#include <ftlib/models/kit/language_model.inl.hpp>
#include <ftlib/models/kit/registry.inl.hpp>
#include <ftlib/models/mmjit_config.inl.hpp>
#include <ftlib/nn/adapter.inl.hpp>

namespace ft::inline FTLIB_ABI {
// Float for models, double for gradient checks.
#define FTLIB_ADAPTED(T, D)                                                                               \
  template struct Overlay<T, D>;                                                                          \
  template Tensor<T, D> project(Context<D>&, const Tensor<T, D>&, Parameter<T, D>&, Parameter<T, D>*);    \
  template Tensor<T, D> grouped_project(Context<D>&, const Tensor<T, D>&, std::vector<Parameter<T, D>>&,  \
                                        const std::vector<int64_t>&, std::vector<Parameter<T, D>>&);      \
  template Parameter<T, D>& in_use(Context<D>&, Parameter<T, D>&);                                        \
  template bool adapted(const Context<D>&, const Parameter<T, D>&);                                       \
  template Tensor<T, D> dense(Context<D>&, const Parameter<T, D>&);                                       \
  template Tensor<accumulate_t<T>, D> head_loss(Context<D>&, const Tensor<T, D>&, Parameter<T, D>&,       \
                                                const std::vector<int32_t>&, int64_t, float);             \
  template Tensor<accumulate_t<T>, D> head_divergence(Context<D>&, const Tensor<T, D>&, Parameter<T, D>&, \
                                                      const Tensor<T, D>&, int64_t, float);
FTLIB_ADAPTED(float, Cpu)
FTLIB_ADAPTED(double, Cpu)
#undef FTLIB_ADAPTED

using T = float;
using D = Cpu;

template class LanguageModel<T, D>;
template Error not_finite(Context<D>&, LanguageModel<T, D>&, const std::string&);
template Placement<D> place(Context<D>&, const PackedTokens&, const ForwardOptions<T, D>&, int64_t);
template std::unique_ptr<LanguageModel<T, D>> make_transformer(Context<D>&, AnyConfig, Weights&);
template std::unique_ptr<LanguageModel<T, D>> make_language_model(Context<D>&, const Checkpoint&);
template void register_architecture(Architecture<T, D>);
template class Denoiser<T, D>;
template std::unique_ptr<Denoiser<T, D>> open_denoiser(Context<D>&, const std::filesystem::path&);
template std::unique_ptr<Denoiser<T, D>> initial_denoiser(Context<D>&, const Json&, uint64_t);
template void register_denoiser(DenoiserKind<T, D>);
template std::unique_ptr<Autoencoder<T, D>> open_autoencoder(Context<D>&, const std::filesystem::path&);
}  // namespace ft::inline FTLIB_ABI
