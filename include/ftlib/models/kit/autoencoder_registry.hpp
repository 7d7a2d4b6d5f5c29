// models/kit/autoencoder_registry.hpp: opens a folder with an autoencoder of pictures. To add one: write its file and
// give its class name a line in open_autoencoder() (models/kit/autoencoder_registry.inl.hpp).
#pragma once
#include <ftlib/models/kit/autoencoder.hpp>  // Autoencoder

#include <filesystem>  // std::filesystem::path
#include <memory>      // std::unique_ptr

namespace ft::inline FTLIB_ABI {

/// The autoencoder that a folder holds as diffusers writes it (config.json, diffusion_pytorch_model.safetensors), or a
/// file with its config.json beside it; in the compute type, frozen. Throws Error where it is none that is known.
template <Scalar T, Device D>
std::unique_ptr<Autoencoder<T, D>> open_autoencoder(Context<D>& ctx, const std::filesystem::path& path);

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/models/kit/autoencoder_registry.inl.hpp>
#endif
