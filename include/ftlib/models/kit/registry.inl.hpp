// models/kit/registry.inl.hpp: the bodies of models/kit/registry.hpp.
#pragma once
#include <ftlib/io/safetensors.hpp>  // SafetensorsModel
#include <ftlib/models/kit/known.hpp>
#include <ftlib/models/kit/registry.hpp>
#include <ftlib/models/kit/transformer.hpp>

#include <mutex>   // std::mutex
#include <vector>  // std::vector

namespace ft::inline FTLIB_ABI {

[[gnu::cold]] FTLIB_INLINE Checkpoint Checkpoint::open(const std::filesystem::path& path) {
  if (path.empty()) throw Error("model: no path is given", "give a Hugging Face folder or a .gguf file.");
  if (!path_exists(path))
    throw Error(str(path.string(), ": there is no such file or folder"), "give a Hugging Face folder or a .gguf file.");
  Checkpoint checkpoint{.path = path, .architecture = {}, .json = {}, .gguf = {}};
  if (is_folder(path)) {
    if (!path_exists(path / "config.json") && path_exists(path / "adapter_config.json"))
      throw Error(str(path.string(), ": holds an adapter, and no model"),
                  "open the model that it was made for, and give this to load_adapter (qa: --adapter).",
                  ErrorKind::bad_file);
    checkpoint.json = read_json(path / "config.json");
    if (const auto text = checkpoint.json.find("text_config");
        text != checkpoint.json.end() && text->is_object() && text->contains("model_type")) {
      for (const auto& [key, part] : checkpoint.json.items())
        if (key.ends_with("_config") && key != "text_config" && part.is_object())
          checkpoint.left_out += str(checkpoint.left_out.empty() ? "" : ", ", key);
      if (checkpoint.left_out.empty()) checkpoint.left_out = "what is beside text_config";
      Json whole = *text;  // what it does not say, the file may say for all parts
      for (const char* key : {"tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id", "torch_dtype",
                              "dtype", "quantization_config"})
        if (!whole.contains(key) && checkpoint.json.contains(key)) whole[key] = checkpoint.json[key];
      checkpoint.json = std::move(whole);
    }
    checkpoint.architecture = at<std::string>(checkpoint.json, "model_type", (path / "config.json").string());
  } else {
    checkpoint.gguf = GgufFile::open(path);
    if (const auto parts = checkpoint.gguf->get_or<int64_t>("split.count", 1); parts > 1)
      throw Error(str(path.string(), ": is one of ", parts, " parts of a model (split.count)"),
                  "make them one file: llama-gguf-split --merge FIRST-PART OUT.gguf.");
    if (const auto type = checkpoint.gguf->get_or<std::string>("general.type", "model"); type != "model")
      throw Error(str(path.string(), ": holds no model (general.type is '", type, "')"),
                  type == "adapter" ? "adapters are read from PEFT's folders." : "");
    checkpoint.architecture = checkpoint.gguf->get<std::string>("general.architecture");
  }
  return checkpoint;
}

namespace detail {
/// What a tensor of a text model inside a larger one is called by itself; empty for a tensor of another part.
[[gnu::cold]] inline std::string text_part(const std::string& name) {
  for (const auto& [theirs, ours] :
       {std::pair{"model.language_model.", "model."}, std::pair{"language_model.model.", "model."},
        std::pair{"language_model.lm_head.", "lm_head."}, std::pair{"lm_head.", "lm_head."}})
    if (name.starts_with(theirs)) return ours + name.substr(std::string_view(theirs).size());
  return {};
}
}  // namespace detail

[[gnu::cold]] FTLIB_INLINE Weights Checkpoint::weights(const TensorMap& map) const {
  Weights weights(name(), stop);
  if (!gguf) {
    const auto tensors = SafetensorsModel::open(path);
    for (const std::string& tensor : tensors.names()) {
      const SafetensorsFile& file = tensors.file_of(tensor);
      const std::string ours = left_out.empty() ? tensor : detail::text_part(tensor);
      if (ours.empty()) {
        weights.pass_over(tensor);
        continue;
      }
      if (file.info(tensor).dtype == "U8")
        weights.put_bytes(ours, {file.info(tensor).shape, file.bytes(tensor).data(), file.owner()});
      else weights.put(ours, map.across_folder(ours, file.tensor(tensor)));
    }
  } else {
    auto names = gguf->names();
    std::erase_if(names,
                  [](const std::string& n) { return n.starts_with("rope_"); });  // GgufConfig::rope has read them
    bool quantised = false;                                                      // what was got last
    const auto get = [&](const std::string& tensor) {
      Stored<Cpu> w = gguf->tensor(tensor);
      quantised = is_quantised(w.type);
      return w;
    };
    map.to_hf(
        names, get,
        [&](const std::string& tensor, Stored<Cpu> w) {
          if (quantised && !is_quantised(w.type)) weights.unpacked(w.bytes());
          weights.put(tensor, std::move(w));
        },
        name());
  }
  return weights;
}

namespace detail {
template <Scalar T, Device D> struct Architectures {
  std::mutex mutex;
  std::vector<Architecture<T, D>> known = of(KnownConfigs());

  template <class... Config> static std::vector<Architecture<T, D>> of(ConfigList<Config...>) {
    return {architecture_of<Config, T, D>()...};
  }
  static Architectures& all() {
    static Architectures architectures;  // the one list a process, under its mutex
    return architectures;
  }
};
}  // namespace detail

template <Scalar T, Device D>
std::unique_ptr<LanguageModel<T, D>> make_transformer(Context<D>& ctx, AnyConfig config, Weights& weights) {
  return std::make_unique<Transformer<T, D>>(ctx, std::move(config), weights);
}

template <Scalar T, Device D> void register_architecture(Architecture<T, D> architecture) {
  auto& all = detail::Architectures<T, D>::all();
  const std::lock_guard lock(all.mutex);
  for (const auto& known : all.known)
    if (known.name == architecture.name || (!known.gguf_name.empty() && known.gguf_name == architecture.gguf_name))
      throw Error(str("register_architecture: '", architecture.name, "' (GGUF: '", architecture.gguf_name,
                      "') is known already"));
  all.known.push_back(std::move(architecture));
}

template <Scalar T, Device D>
[[gnu::cold]] std::unique_ptr<LanguageModel<T, D>> make_language_model(Context<D>& ctx, const Checkpoint& checkpoint) {
  std::string names;
  std::function<std::unique_ptr<LanguageModel<T, D>>(Context<D>&, const Checkpoint&)> make;
  {
    auto& all = detail::Architectures<T, D>::all();
    const std::lock_guard lock(all.mutex);
    for (const auto& known : all.known) {
      const std::string& name = checkpoint.gguf ? known.gguf_name : known.name;
      if (!make && name == checkpoint.architecture) make = known.make;
      if (!name.empty()) names += str(names.empty() ? "" : ", ", name);
    }
  }
  if (!make)
    throw Error(str(checkpoint.name(), ": architecture '", checkpoint.architecture, "' is not known"),
                str("known are: ", names, "."));
  return make(ctx, checkpoint);
}

}  // namespace ft::inline FTLIB_ABI
