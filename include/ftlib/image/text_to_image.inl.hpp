// image/text_to_image.inl.hpp: the bodies of image/text_to_image.hpp.
#pragma once
#include <ftlib/adapters/adapted.hpp>
#include <ftlib/adapters/diffusers_lora.hpp>  // read_diffusers_lora, write_diffusers_lora
#include <ftlib/image/text_to_image.hpp>
#include <ftlib/io/file.hpp>                       // path_exists
#include <ftlib/io/json.hpp>                       // read_json
#include <ftlib/models/kit/denoiser_registry.hpp>  // open_denoiser, initial_denoiser

#include <algorithm>  // std::none_of

namespace ft::inline FTLIB_ABI {

namespace detail {
template <Scalar T, Device D> std::vector<Parameter<T, D>*> weights_of(Denoiser<T, D>& net) {
  std::vector<Parameter<T, D>*> all;
  net.visit([&](Parameter<T, D>& w) { all.push_back(&w); });
  return all;
}

/// The file of weights that `path` stands for, or the index of several: itself, or the one in a folder. Throws Error
/// saying what the path is where it is no picture model.
[[gnu::cold]] FTLIB_INLINE std::filesystem::path model_file_of(const std::filesystem::path& path) {
  const auto refuse = [&](const std::string& what, const std::string& hint) -> Error {
    return Error(str(path.string(), ": ", what, ", not a picture model"), hint);
  };
  const auto has = [&](const char* name) { return path_exists(path / name); };
  if (!is_folder(path)) {
    if (path.extension() == ".gguf")
      throw refuse("is a GGUF file, a language model", "CausalLM opens it; a picture model is a safetensors file.");
    return path;
  }
  if (has("adapter_config.json"))
    throw refuse("holds a PEFT adapter of a language model", "give it to CausalLM::load_adapter.");
  if (has("transformer")) return model_file_of(path / "transformer");
  std::vector<std::filesystem::path> variants;  // one repository may hold several, each with a transformer
  for (const auto& inside : files_in(path))
    if (path_exists(inside / "transformer")) variants.push_back(inside);
  if (variants.size() == 1) return model_file_of(variants.front());
  if (!variants.empty()) {
    std::string names;
    for (const auto& variant : variants) names += str(names.empty() ? "" : ", ", variant.filename().string());
    throw refuse("holds several: " + names, "give one of them.");
  }
  if (has("model_index.json"))
    throw refuse(
        str("holds a diffusers pipeline (",
            value_or<std::string>(read_json(path / "model_index.json"), "_class_name", "?", path.string()), ")"),
        "it has no transformer folder; give a whole pipeline, or a base that image_style pretrain made.");
  for (const char* stem : {"model", "diffusion_pytorch_model"}) {
    const auto file = tensors_in(path, stem);
    if (file.empty()) continue;
    if (has("config.json")) {
      const Json json = read_json(path / "config.json");
      if (json.contains("num_hidden_layers"))
        throw refuse(
            str("holds a language model (", value_or<std::string>(json, "model_type", "?", path.string()), ")"),
            "CausalLM opens it.");
    }
    return file;
  }
  if (has("pytorch_lora_weights.safetensors"))
    throw refuse("holds an adapter of a picture model",
                 "open its base, then load_adapter; or Painter::from_pretrained.");
  throw refuse(
      "is a folder without model.safetensors and without diffusion_pytorch_model.safetensors, or an index of their "
      "parts",
      "give the folder or file that Painter::save or TextToImage::save wrote.");
}
}  // namespace detail

template <Scalar T, Device D>
TextToImage<T, D>::TextToImage(std::unique_ptr<Context<D>> ctx, std::shared_ptr<Denoiser<T, D>> net,
                               const FlowOptions& flow)
    : Adapted<T, D>(std::move(ctx), net, detail::weights_of(*net)), net_(std::move(net)), flow_(flow) {}
template <Scalar T, Device D>
TextToImage<T, D>::TextToImage(TextToImage& other, const Options& options)
    : Adapted<T, D>(std::make_unique<Context<D>>(options), other), net_(other.net_), flow_(other.flow_) {}

template <Scalar T, Device D>
[[gnu::cold]] TextToImage<T, D> TextToImage<T, D>::from_pretrained(const std::filesystem::path& path,
                                                                   const Options& options, const FlowOptions& flow) {
  auto ctx = std::make_unique<Context<D>>(options);
  std::shared_ptr<Denoiser<T, D>> net =
      reading_file([&] { return open_denoiser<T>(*ctx, detail::model_file_of(path)); });
  return {std::move(ctx), std::move(net), flow};
}
template <Scalar T, Device D>
[[gnu::cold]] TextToImage<T, D> TextToImage<T, D>::initial(const Json& configuration, uint64_t seed,
                                                           const Options& options, const FlowOptions& flow) {
  auto ctx = std::make_unique<Context<D>>(options);
  std::shared_ptr<Denoiser<T, D>> net = initial_denoiser<T>(*ctx, configuration, seed);
  return {std::move(ctx), std::move(net), flow};
}

template <Scalar T, Device D> [[gnu::cold]] void TextToImage<T, D>::save_adapter(const std::filesystem::path& path) {
  write_diffusers_lora(path, this->adapter_data(path.string(), {}, {}), net_->file_shapes());
}
template <Scalar T, Device D>
[[gnu::cold]] std::vector<std::string> TextToImage<T, D>::load_adapter(const std::filesystem::path& path,
                                                                       float strength) {
  AdapterData data = reading_file([&] { return read_diffusers_lora(path); });
  const auto unused = net_->info().unused;
  std::string first;
  const auto left_out = std::erase_if(data.tensors, [&](const auto& named) {
    const auto in = [&](const std::string& part) { return named.first.starts_with(part); };
    if (std::none_of(unused.begin(), unused.end(), in)) return false;
    if (first.empty()) first = named.first;
    return true;
  });
  auto notes = this->take_adapter("default", data, {}, strength);
  if (left_out)
    notes.push_back(str(data.source, ": ", left_out, " tensors of layers that the model never uses are left out, '",
                        first, "' the first of them"));
  return notes;
}
template <Scalar T, Device D>
[[gnu::cold]] void TextToImage<T, D>::save(const std::filesystem::path& path, DType type,
                                           const std::map<std::string, std::string>& metadata) {
  net_->save(this->context(), path, type, metadata);
}

}  // namespace ft::inline FTLIB_ABI
