// models/kit/registry.hpp: opens a checkpoint, Hugging Face folder or GGUF file, and makes the model it holds. To add
// an architecture: write its file, include it here, and give it a line in `architectures`.
#pragma once
#include <ftlib/io/safetensors.hpp>  // SafetensorsModel
#include <ftlib/models/gemma3.hpp>
#include <ftlib/models/llama.hpp>

#include <filesystem>  // std::filesystem::path
#include <memory>      // std::unique_ptr
#include <optional>    // std::optional

namespace ft::inline FTLIB_ABI {

/// What the registry knows of an architecture, whatever the compute type and device.
struct Architecture {
  std::string_view model_type;  // in config.json
  std::string_view gguf_name;   // general.architecture
  Json (*config_from_gguf)(const GgufFile&);
  std::pair<std::string, Stored<Cpu>> (*tensor_from_gguf)(const Json& config, const std::string& name,
                                                          const Stored<Cpu>&);
};

inline constexpr std::array<Architecture, 2> architectures{{
    {"llama", "llama", LlamaConfig::config_from_gguf, LlamaConfig::tensor_from_gguf},
    {"gemma3_text", "gemma3", Gemma3Config::config_from_gguf, Gemma3Config::tensor_from_gguf},
}};

template <Scalar T, Device D>
[[gnu::cold]] std::unique_ptr<LanguageModel<T, D>> make_language_model(Context<D>& ctx, const Json& config,
                                                                       Weights& weights) {
  const auto type = at<std::string>(config, "model_type", weights.file());
  std::unique_ptr<LanguageModel<T, D>> model;
  if (type == "llama") model = std::make_unique<Llama<T, D>>(ctx, config, weights);
  if (type == "gemma3_text") model = std::make_unique<Gemma3<T, D>>(ctx, config, weights);
  if (!model) {
    std::string known;
    for (const Architecture& a : architectures) known += str(known.empty() ? "" : ", ", a.model_type);
    throw Error(str(weights.file(), ": architecture '", type, "' is not known"), str("known are: ", known, "."));
  }
  weights.finish();
  return model;
}

/// A checkpoint's configuration and weights, under Hugging Face's names; weights are mapped, not read.
struct Checkpoint {
  std::filesystem::path path;
  Json config;
  Weights weights;
  std::optional<GgufFile> gguf;  // where it is one: its metadata hold the tokenizer

  /// `path` is a folder with config.json and safetensors files, or a .gguf file.
  [[gnu::cold]] static Checkpoint open(const std::filesystem::path& path) {
    if (!path_exists(path))
      throw Error(str(path.string(), ": there is no such file or folder"),
                  "give a Hugging Face folder or a .gguf file.");
    Checkpoint checkpoint{path, {}, Weights(path.string()), {}};
    if (is_folder(path)) {
      checkpoint.config = read_json(path / "config.json");
      const auto tensors = SafetensorsModel::open(path);
      for (const std::string& name : tensors.names()) checkpoint.weights.put(name, tensors.tensor(name));
    } else {
      checkpoint.open_gguf();
    }
    return checkpoint;
  }

 private:
  [[gnu::cold]] void open_gguf() {
    gguf = GgufFile::open(path);
    const auto name = gguf->get<std::string>("general.architecture");
    const Architecture* found = nullptr;
    for (const Architecture& a : architectures)
      if (a.gguf_name == name) found = &a;
    if (!found) {
      std::string known;
      for (const Architecture& a : architectures) known += str(known.empty() ? "" : ", ", a.gguf_name);
      throw Error(str(path.string(), ": architecture '", name, "' is not known"), str("known are: ", known, "."));
    }
    config = found->config_from_gguf(*gguf);
    for (const std::string& tensor : gguf->names()) {
      auto [own, value] = found->tensor_from_gguf(config, tensor, gguf->tensor(tensor));
      if (own.empty())
        throw Error(str(path.string(), ": tensor '", tensor, "' is not part of architecture '", name, "'"));
      weights.put(own, std::move(value));
    }
  }
};

}  // namespace ft::inline FTLIB_ABI
