// models/kit/denoiser_registry.inl.hpp: the bodies of models/kit/denoiser_registry.hpp.
#pragma once
#include <ftlib/models/kit/denoiser.inl.hpp>
#include <ftlib/models/kit/denoiser_registry.hpp>
#include <ftlib/models/kit/known_denoisers.hpp>

#include <mutex>   // std::mutex
#include <vector>  // std::vector

namespace ft::inline FTLIB_ABI {

namespace detail {
template <Scalar T, Device D> struct Denoisers {
  std::mutex mutex;
  std::vector<DenoiserKind<T, D>> known = known_denoisers<T, D>();

  static Denoisers& all() {
    static Denoisers denoisers;  // the one list a process, under its mutex
    return denoisers;
  }
  /// The kind that a configuration names. Throws Error, naming `file`, where it is not known.
  static DenoiserKind<T, D> of(const Json& config, const std::string& file) {
    const auto type = value_or<std::string>(config, "model_type", "", file),
               name = value_or<std::string>(config, "_class_name", "", file);
    std::string names;
    const std::lock_guard lock(all().mutex);
    for (const auto& kind : all().known) {
      if (type.empty() ? !name.empty() && kind.class_name == name : kind.model_type == type) return kind;
      names +=
          str(names.empty() ? "" : ", ", kind.model_type, kind.class_name.empty() ? "" : " (" + kind.class_name + ")");
    }
    throw Error(type.empty() && name.empty()
                    ? str(file, ": has no model_type and no _class_name, so which picture model it is is not said")
                    : str(file, ": picture model '", type.empty() ? name : type, "' is not known"),
                str("known are: ", names, "."));
  }
};
}  // namespace detail

template <Scalar T, Device D> void register_denoiser(DenoiserKind<T, D> kind) {
  auto& all = detail::Denoisers<T, D>::all();
  const std::lock_guard lock(all.mutex);
  for (const auto& known : all.known)
    if (known.model_type == kind.model_type || (!kind.class_name.empty() && known.class_name == kind.class_name))
      throw Error(str("register_denoiser: '", kind.model_type, "' (", kind.class_name, ") is known already"));
  all.known.push_back(std::move(kind));
}

template <Scalar T, Device D>
[[gnu::cold]] std::unique_ptr<Denoiser<T, D>> open_denoiser(Context<D>& ctx, const std::filesystem::path& path) {
  auto file = DenoiserFile::open(path, /*may_be_missing=*/true);
  if (file.config.is_null()) {
    auto& all = detail::Denoisers<T, D>::all();
    const std::lock_guard lock(all.mutex);
    for (const auto& kind : all.known)
      if (file.config.is_null() && kind.recognise) file.config = kind.recognise(file.tensors);
  }
  if (file.config.is_null()) file = DenoiserFile::open(path);  // which says what is missing
  return detail::Denoisers<T, D>::of(file.config, file.source).open(ctx, file);
}

template <Scalar T, Device D>
[[gnu::cold]] std::unique_ptr<Denoiser<T, D>> initial_denoiser(Context<D>& ctx, const Json& configuration,
                                                               uint64_t seed) {
  const auto kind = detail::Denoisers<T, D>::of(configuration, "configuration");
  if (!kind.initial)
    throw Error(str("picture model '", kind.model_type, "' is not trained from nothing"), "open one from a file.");
  return kind.initial(ctx, configuration, seed);
}

}  // namespace ft::inline FTLIB_ABI
