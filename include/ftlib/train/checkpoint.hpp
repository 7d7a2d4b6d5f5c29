// train/checkpoint.hpp: a run's whole state in a folder: trained weights, optimizer, random state, position in the
// data.
#pragma once
#include <ftlib/io/atomic_file.hpp>  // AtomicFolder, recover_folder
#include <ftlib/io/json.hpp>         // Json
#include <ftlib/io/safetensors.hpp>  // SafetensorsFile, write_safetensors
#include <ftlib/optim/adamw.hpp>     // Optimizer

#include <filesystem>  // std::filesystem::path
#include <map>         // std::map
#include <span>        // std::span

namespace ft::inline FTLIB_ABI {

namespace detail {
/// Tensors on their way to a file: host copies that live until it is written.
class EntryList {
 public:
  template <Scalar T, Device D> void add(Context<D>& ctx, const std::string& name, const Tensor<T, D>& x) {
    auto bytes = std::make_shared<std::vector<std::byte>>(static_cast<std::size_t>(x.count()) * sizeof(T));
    ctx.copy_to_host(bytes->data(), x.data(), bytes->size());
    entries_.push_back({name, dtype_of<T>, x.shape(), bytes->data()});
    owners_.push_back(std::move(bytes));
  }
  const std::vector<TensorEntry>& entries() const { return entries_; }

 private:
  std::vector<TensorEntry> entries_;
  std::vector<std::shared_ptr<std::vector<std::byte>>> owners_;
};

/// A tensor of exactly T from a file; no conversion, so that what was saved comes back bit by bit.
template <Scalar T, Device D>
Tensor<T, D> exact_tensor(Context<D>& ctx, const SafetensorsFile& file, const std::string& name) {
  const Stored<Cpu> stored = file.tensor(name);
  if (stored.type != dtype_of<T>)
    throw Error(str(file.file_name(), ": '", name, "' is ", stored.type, ", the run computes in ", dtype_of<T>));
  Tensor<T, D> x(ctx, stored.shape);
  ctx.copy_from_host(x.data(), stored.data, static_cast<std::size_t>(stored.bytes()));
  return x;
}
}  // namespace detail

/// The trainable weights of `params` as one safetensors file.
template <Scalar T, Device D>
void save_weights(Context<D>& ctx, const std::filesystem::path& file, std::span<Parameter<T, D>* const> params) {
  detail::EntryList list;
  for (const Parameter<T, D>* w : params)
    if (w->trainable) list.add(ctx, w->name, w->value);
  write_safetensors(file, list.entries());
}
/// The opposite; all or nothing. Throws Error where names or shapes are not those of `params`.
template <Scalar T, Device D>
void load_weights(Context<D>& ctx, const std::filesystem::path& path, std::span<Parameter<T, D>* const> params) {
  const auto file = SafetensorsFile::open(path);
  std::vector<Tensor<T, D>> values;
  for (const Parameter<T, D>* w : params) {
    if (!w->trainable) continue;
    values.push_back(detail::exact_tensor<T>(ctx, file, w->name));
    if (values.back().shape() != w->shape())
      throw Error(str(path.string(), ": '", w->name, "' is ", values.back().shape(), ", the model says ", w->shape()),
                  "resume with the options that the run was started with.");
  }
  if (values.size() != file.names().size())
    throw Error(str(path.string(), ": holds ", file.names().size(), " tensors, the run trains ", values.size()),
                "resume with the options that the run was started with.");
  std::size_t next = 0;
  for (Parameter<T, D>* w : params)
    if (w->trainable) w->value = values[next++];
}

/// Writes `folder` whole or not at all: what was there before stays until the new one is complete and on the disk.
/// `state` is the trainer's own: step, position in the data, what a resumed run must agree in. `averages` of the
/// trainable weights go along where there are some.
template <Scalar T, Device D>
void save_checkpoint(Context<D>& ctx, const std::filesystem::path& folder, std::span<Parameter<T, D>* const> params,
                     const Optimizer<T, D>& optimizer, Json state,
                     std::span<const Tensor<accumulate_t<T>, D>> averages = {}) {
  state["random"] = {{"seed", ctx.random().seed()}, {"position", ctx.random().position()}};
  AtomicFolder out(folder);
  save_weights(ctx, out.folder() / "weights.safetensors", params);
  detail::EntryList list;
  optimizer.for_each_state(ctx, [&](const std::string& name, const auto& x) { list.add(ctx, name, x); });
  write_safetensors(out.folder() / "optimizer.safetensors", list.entries());
  if (!averages.empty()) {
    detail::EntryList average;
    auto next = averages.begin();
    for (const Parameter<T, D>* w : params)
      if (w->trainable) average.add(ctx, w->name, *next++);
    write_safetensors(out.folder() / "averages.safetensors", average.entries());
  }
  write_atomically(out.folder() / "state.json", state.dump(2) + "\n");
  out.commit();
}

/// True where `folder` holds a checkpoint; finishes what a killed save had left half done.
inline bool has_checkpoint(const std::filesystem::path& folder) {
  if (!path_exists(folder.parent_path())) return false;
  recover_folder(folder);
  return path_exists(folder / "state.json");
}

/// Restores what save_checkpoint wrote and returns its `state`.
template <Scalar T, Device D>
Json load_checkpoint(Context<D>& ctx, const std::filesystem::path& folder, std::span<Parameter<T, D>* const> params,
                     Optimizer<T, D>& optimizer) {
  const std::string file = (folder / "state.json").string();
  Json state = read_json(folder / "state.json");
  const auto random = at<Json>(state, "random", file);
  const auto moments = SafetensorsFile::open(folder / "optimizer.safetensors");
  std::map<std::string, Tensor<accumulate_t<T>, D>> states;
  for (const std::string& name : moments.names())
    states.emplace(name, detail::exact_tensor<accumulate_t<T>>(ctx, moments, name));
  load_weights(ctx, folder / "weights.safetensors", params);
  optimizer.load_state(ctx, params, states);
  ctx.random() = Random(at<uint64_t>(random, "seed", file), at<uint64_t>(random, "position", file));
  return state;
}

}  // namespace ft::inline FTLIB_ABI
