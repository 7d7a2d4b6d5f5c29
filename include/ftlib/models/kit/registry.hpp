// models/kit/registry.hpp: opens a checkpoint, Hugging Face folder or GGUF file, and makes the model it holds. To add
// an architecture: write its file and give it a word in known.hpp; or, in a host's program, call
// register_architecture(). docs/models.md says how.
#pragma once
#include <ftlib/core/stop.hpp>                  // StopToken
#include <ftlib/io/gguf.hpp>                    // GgufFile
#include <ftlib/io/json.hpp>                    // Json
#include <ftlib/models/kit/any_config.hpp>      // AnyConfig, JsonConfig, GgufConfig
#include <ftlib/models/kit/language_model.hpp>  // LanguageModel
#include <ftlib/models/kit/weights.hpp>         // Weights

#include <concepts>    // std::derived_from
#include <filesystem>  // std::filesystem::path
#include <functional>  // std::function
#include <memory>      // std::unique_ptr
#include <optional>    // std::optional
#include <string>      // std::string

namespace ft::inline FTLIB_ABI {

/// A model's files, opened: what they say it is; weights are mapped when they are asked for.
struct Checkpoint {
  std::filesystem::path path;
  std::string architecture;      // config.json's model_type, or GGUF's general.architecture
  Json json;                     // config.json, or empty
  std::optional<GgufFile> gguf;  // or this, whose metadata hold the tokenizer too
  StopToken stop = {};           // looked at while weights are read
  // Parts beside the text model ("vision_config, audio_config") where config.json has that in text_config: then `json`
  // and `architecture` are the text model's, and the other parts are left out.
  std::string left_out = {};

  /// `path` is a folder with config.json and safetensors files, or a .gguf file. Throws Error for another.
  static Checkpoint open(const std::filesystem::path& path);
  std::string name() const { return path.string(); }

  /// The configuration as an architecture reads it. Throws Error for a variant that it does not compute.
  template <class Config> Config config() const;
  /// All tensors as a model in memory has them, under Hugging Face's names. Throws Error for one of a GGUF that the
  /// architecture has no name for.
  Weights weights(const TensorMap& map) const;
};

/// How an architecture is known and made, for one compute type and device.
template <Scalar T, Device D> struct Architecture {
  std::string name = {};       // config.json's model_type
  std::string gguf_name = {};  // general.architecture; empty where GGUF has none
  std::function<std::unique_ptr<LanguageModel<T, D>>(Context<D>&, const Checkpoint&)> make;
};

/// The model that a configuration's traits describe. Takes what it reads.
template <Scalar T, Device D>
std::unique_ptr<LanguageModel<T, D>> make_transformer(Context<D>& ctx, AnyConfig config, Weights& weights);

/// Of a TransformerConfig with `name`, `gguf_name` and `class_name`: its traits say what it is.
template <std::derived_from<TransformerConfig> Config, Scalar T, Device D> Architecture<T, D> architecture_of();

/// Adds an architecture for make_language_model<T, D>; from any thread. Throws Error for a name that is known.
template <Scalar T, Device D> void register_architecture(Architecture<T, D> architecture);

/// The model that a checkpoint holds. Throws Error, before weights are looked for, where its architecture is not known.
template <Scalar T, Device D>
std::unique_ptr<LanguageModel<T, D>> make_language_model(Context<D>& ctx, const Checkpoint& checkpoint);

// The two that a host's own architecture instantiates.

template <class Config> [[gnu::cold]] Config Checkpoint::config() const {
  Config config;
  config.model_type = Config::name;
  if (gguf) {
    detail::GgufConfig fields(*gguf, architecture);
    config.fields(fields);
    fields.finish(config);
    config.others["architectures"] = {Config::class_name};
  } else {
    detail::JsonConfig fields(json, (path / "config.json").string());
    config.fields(fields);
    fields.finish(config);
    if (!left_out.empty()) {
      config.others["architectures"] = {Config::class_name};
      config.notes.push_back(
          str((path / "config.json").string(), ": the text model alone is read, without ", left_out));
    }
  }
  return config;
}

template <std::derived_from<TransformerConfig> Config, Scalar T, Device D> Architecture<T, D> architecture_of() {
  return {Config::name, Config::gguf_name, [](Context<D>& ctx, const Checkpoint& checkpoint) {
            auto config = checkpoint.config<Config>();
            Weights weights = checkpoint.weights(config.tensors());
            config.prepare(weights);
            for (std::string& note : weights.notes()) config.notes.push_back(std::move(note));
            auto model = make_transformer<T>(ctx, AnyConfig(std::move(config)), weights);
            weights.finish();
            return model;
          }};
}

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/models/kit/registry.inl.hpp>
#endif
