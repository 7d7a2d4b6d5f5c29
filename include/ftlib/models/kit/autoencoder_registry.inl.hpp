// models/kit/autoencoder_registry.inl.hpp: the bodies of models/kit/autoencoder_registry.hpp.
#pragma once
#include <ftlib/models/autoencoder_kl.hpp>  // AutoencoderKL
#include <ftlib/models/kit/autoencoder_registry.hpp>

namespace ft::inline FTLIB_ABI {

template <Scalar T, Device D>
[[gnu::cold]] std::unique_ptr<Autoencoder<T, D>> open_autoencoder(Context<D>& ctx, const std::filesystem::path& path) {
  const auto tensors = is_folder(path) ? tensors_in(path, "diffusion_pytorch_model") : path;
  if (tensors.empty())
    throw Error(str(path.string(), ": has neither diffusion_pytorch_model.safetensors nor its index"),
                "an autoencoder is a folder as diffusers writes it: config.json and that file.", ErrorKind::bad_file);
  const auto file = DenoiserFile::open(tensors);
  const auto name = value_or<std::string>(file.config, "_class_name", "", file.source);
  if (AutoencoderKLConfig::is_known(name)) return std::make_unique<AutoencoderKL<T, D>>(ctx, file);
  throw Error(str(file.source, ": autoencoder '", name, "' is not known"),
              "known are AutoencoderKL and AutoencoderKLFlux2.", ErrorKind::bad_file);
}

}  // namespace ft::inline FTLIB_ABI
