// models/kit/denoiser.inl.hpp: the bodies of models/kit/denoiser.hpp.
#pragma once
#include <ftlib/io/json.hpp>         // Json
#include <ftlib/io/safetensors.hpp>  // write_safetensors
#include <ftlib/models/kit/denoiser.hpp>
#include <ftlib/nn/adapter.hpp>       // adapted, dense
#include <ftlib/tensor/copy.hpp>      // convert
#include <ftlib/tensor/quantise.hpp>  // quantise_row

#include <cmath>  // std::cos, std::exp, std::log, std::sin

namespace ft::inline FTLIB_ABI {

/// Floats of the host on the device, in the compute type.
template <Scalar T, Device D>
Tensor<T, D> upload_floats(Context<D>& ctx, const Shape& shape, const std::vector<float>& values) {
  Tensor<float, D> x(ctx, shape, values);
  if constexpr (std::same_as<T, float>) return x;
  else return convert<T>(ctx, x);
}

/// How times enter a network: of each so many cosines and then as many sines, at rates from 1 down to about 1 / 10000:
/// (B, waves).                                                                             arXiv:1706.03762
inline std::vector<float> time_waves(const std::vector<double>& times, int64_t waves) {
  const int64_t half = waves / 2;
  std::vector<float> values;
  for (const double time : times)
    for (int64_t i = 0; i < 2 * half; ++i) {
      const double angle =
          time * std::exp(-std::log(10000.0) * static_cast<double>(i % half) / static_cast<double>(half));
      values.push_back(static_cast<float>(i < half ? std::cos(angle) : std::sin(angle)));
    }
  return values;
}

/// Captions with `dropped`, the empty one's states (rows, width), in the place of those without rows. Throws Error
/// where there are some and it is not known.
inline PackedText with_dropped(const PackedText& given, const std::vector<float>& dropped, int64_t width,
                               const std::string& model) {
  PackedText text;
  for (std::size_t b = 0; b + 1 < given.starts.size(); ++b) {
    const auto begin = static_cast<std::size_t>(given.starts[b] * width),
               end = static_cast<std::size_t>(given.starts[b + 1] * width);
    if (begin == end && dropped.empty())
      throw Error(model + ": a caption is dropped, and the states of the empty one are not known",
                  "give them to set_dropped(), or drop none (caption_drop 0, guidance 1).");
    text.add(begin == end ? std::span(dropped) : std::span(given.states).subspan(begin, end - begin), width);
  }
  return text;
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
