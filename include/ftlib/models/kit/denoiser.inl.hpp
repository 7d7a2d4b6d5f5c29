// models/kit/denoiser.inl.hpp: the bodies of models/kit/denoiser.hpp.
#pragma once
#include <ftlib/io/json.hpp>         // Json
#include <ftlib/io/safetensors.hpp>  // write_safetensors
#include <ftlib/models/kit/denoiser.hpp>
#include <ftlib/nn/adapter.hpp>       // adapted, dense
#include <ftlib/tensor/copy.hpp>      // convert
#include <ftlib/tensor/quantise.hpp>  // quantise_row

namespace ft::inline FTLIB_ABI {

/// Floats of the host on the device, in the compute type.
template <Scalar T, Device D>
Tensor<T, D> upload_floats(Context<D>& ctx, const Shape& shape, const std::vector<float>& values) {
  Tensor<float, D> x(ctx, shape, values);
  if constexpr (std::same_as<T, float>) return x;
  else return convert<T>(ctx, x);
}

template <Scalar T, Device D> Json Denoiser<T, D>::text_encoding() const { return nullptr; }
template <Scalar T, Device D> void Denoiser<T, D>::set_dropped(std::vector<float>) {
  throw Error(str("dropped captions: a model of type '", info().model_type, "' has something of its own for them"));
}
template <Scalar T, Device D> Json Denoiser<T, D>::finisher() const {
  throw Error(str("finisher: there is none for a model of type '", info().model_type, "'"),
              "its drawings are finished as they are.");
}

template <Scalar T, Device D>
void Denoiser<T, D>::save(Context<D>& ctx, const std::filesystem::path& path, DType type,
                          std::map<std::string, std::string> metadata) {
  std::vector<std::vector<std::byte>> bytes;
  std::vector<TensorEntry> entries;
  visit([&](Parameter<T, D>& w) {
    if (adapted(ctx, w))
      throw Error(str(path.string(), ": '", w.name, "' has an adapter that would be lost"),
                  "call merge(), or save the adapter.");
    const auto values = convert<float>(ctx, dense(ctx, w)).to_host(ctx);
    bytes.emplace_back(static_cast<std::size_t>(storage_bytes(type, w.count())));
    quantise_row(type, values.data(), w.count(), bytes.back().data());
    const auto shape = file_shapes().find(w.name);
    entries.push_back({w.name, type, shape == file_shapes().end() ? w.shape() : shape->second, bytes.back().data()});
  });
  metadata["format"] = "pt";
  metadata["config"] = configuration().dump();
  write_safetensors(path, entries, metadata);
}

}  // namespace ft::inline FTLIB_ABI
