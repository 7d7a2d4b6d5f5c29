// models/kit/denoiser_registry.hpp: opens a file with a model of pictures, and makes the denoiser that it holds. To add
// one: write its file and give it a word in known_denoisers.hpp; or, in a host's program, call register_denoiser().
#pragma once
#include <ftlib/models/kit/denoiser_file.hpp>  // DenoiserKind

#include <filesystem>  // std::filesystem::path
#include <memory>      // std::unique_ptr

namespace ft::inline FTLIB_ABI {

/// Adds a kind for open_denoiser<T, D>; from any thread. Throws Error for a name that is known.
template <Scalar T, Device D> void register_denoiser(DenoiserKind<T, D> kind);

/// The denoiser that a safetensors file holds, frozen. Throws Error where its configuration names none that is known.
template <Scalar T, Device D>
std::unique_ptr<Denoiser<T, D>> open_denoiser(Context<D>& ctx, const std::filesystem::path& path);

/// A new one from a configuration (model_type and the sizes) and a seed, all of it trainable.
template <Scalar T, Device D>
std::unique_ptr<Denoiser<T, D>> initial_denoiser(Context<D>& ctx, const Json& configuration, uint64_t seed);

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/models/kit/denoiser_registry.inl.hpp>
#endif
