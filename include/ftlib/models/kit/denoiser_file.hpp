// models/kit/denoiser_file.hpp: the files of a model of pictures, opened, and how a kind of such models is known and
// made.
#pragma once
#include <ftlib/io/file.hpp>              // path_exists
#include <ftlib/io/json.hpp>              // Json
#include <ftlib/io/safetensors.hpp>       // SafetensorsModel
#include <ftlib/models/kit/denoiser.hpp>  // Denoiser

#include <filesystem>    // std::filesystem::path
#include <functional>    // std::function
#include <memory>        // std::unique_ptr
#include <string>        // std::string
#include <string_view>   // std::string_view
#include <system_error>  // std::error_code

namespace ft::inline FTLIB_ABI {

/// What the name of an index of files ends with.
inline constexpr std::string_view index_ending = ".safetensors.index.json";

/// The file of a folder with a model's tensors: `stem`.safetensors, or else the index of the files that hold them,
/// `stem`.safetensors.index.json; empty where there is neither.
[[gnu::cold]] inline std::filesystem::path tensors_in(const std::filesystem::path& folder, const std::string& stem) {
  for (const auto& name : {stem + ".safetensors", stem + std::string(index_ending)})
    if (path_exists(folder / name)) return folder / name;
  return {};
}

/// A file of tensors, or those that the index `path` names, all of which must be there. Throws Error as
/// SafetensorsModel::open.
[[gnu::cold]] inline SafetensorsModel open_tensors(const std::filesystem::path& path) {
  const std::string name = path.filename().string();
  if (!name.ends_with(index_ending)) return SafetensorsModel::open(path);
  return SafetensorsModel::open(path.parent_path(), name.substr(0, name.size() - index_ending.size()));
}

/// A denoiser's file, or the files that an index names, opened: tensors are mapped when they are asked for.
struct DenoiserFile {
  SafetensorsModel tensors;
  Json config;         // JSON under "config" in the header's metadata, or config.json beside the file; or null
  std::string source;  // where that stands, for messages
  std::filesystem::path path = {};  // of the file, or the index

  /// Throws Error where there is no configuration, unless it may be missing, and naming what an index names and no file
  /// has.
  [[gnu::cold]] static DenoiserFile open(const std::filesystem::path& path, bool may_be_missing = false) {
    DenoiserFile file{open_tensors(path), {}, path.string() + " (config)", path};
    const auto found = file.tensors.metadata().find("config");
    const auto beside = path.parent_path() / "config.json";
    if (found != file.tensors.metadata().end()) {
      file.config = parse_json(found->second, file.source);
    } else if (path_exists(beside)) {
      file.config = read_json(beside);
      file.source = beside.string();
    } else if (!may_be_missing) {
      throw Error(str(path.string(), ": has no 'config' in its metadata, and there is no ", beside.string()),
                  "this is no picture model, or its config.json was not copied with it.");
    }
    return file;
  }
  std::string name() const { return path.string(); }
  /// A file of the diffusers pipeline whose transformer/ this is: "model_index.json"; null where there is none.
  [[gnu::cold]] Json of_pipeline(const std::filesystem::path& name) const {
    std::error_code error;
    const auto folder = std::filesystem::absolute(path, error).parent_path();
    const auto beside = folder.parent_path() / name;
    return folder.filename() == "transformer" && path_exists(beside) ? read_json(beside) : Json();
  }
};

/// How a denoiser is known and made, for one compute type and device.
template <Scalar T, Device D> struct DenoiserKind {
  std::string model_type = {};  // in its configuration,
  std::string class_name = {};  // or diffusers' _class_name there; empty: none
  std::function<std::unique_ptr<Denoiser<T, D>>(Context<D>&, const DenoiserFile&)> open = {};
  /// What the names and shapes of a file without a configuration say; null where it is of another kind. Empty: nothing.
  std::function<Json(const SafetensorsModel&)> recognise = {};
  /// A new one from a configuration and a seed, all of it trainable; empty: it is not trained from nothing.
  std::function<std::unique_ptr<Denoiser<T, D>>(Context<D>&, const Json&, uint64_t seed)> initial = {};
};

}  // namespace ft::inline FTLIB_ABI
