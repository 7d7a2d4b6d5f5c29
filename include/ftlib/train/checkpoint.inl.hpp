// train/checkpoint.inl.hpp: what train/checkpoint.hpp declares.
#pragma once
#include <ftlib/io/atomic_file.hpp>  // AtomicFolder, recover_folder
#include <ftlib/io/json.hpp>         // Json
#include <ftlib/io/safetensors.hpp>  // SafetensorsFile, write_safetensors
#include <ftlib/train/checkpoint.hpp>
#include <ftlib/train/rank_files.hpp>  // write_together

#include <algorithm>  // std::copy, std::find
#include <optional>   // std::optional

namespace ft::inline FTLIB_ABI {

namespace detail {
template <Scalar T, Device D> struct TrainedNames {
  std::vector<std::string> names;
  std::vector<Shape> shapes;
  explicit TrainedNames(std::span<Parameter<T, D>* const> params) {
    for (const Parameter<T, D>* w : params)
      if (w->trainable) {
        names.push_back(w->name);
        shapes.push_back(w->shape());
      }
  }
};
void write_state(const std::filesystem::path& file, const RunState& state, const Description& run, uint64_t seed,
                 uint64_t position);
/// Reads what write_state wrote; throws Error where it was made by a run of other settings.
RunState read_state(const std::filesystem::path& file, const Description& run, uint64_t& seed, uint64_t& position);
/// Of several ranks, the first one writes what all have; `parameters`: names, in the order of `shares`. Where there is
/// a folder that is written `together`, each writes into a file of it what it has.
void write_states(const std::filesystem::path& file, const std::vector<StateEntry>& entries, const Shares& shares,
                  const std::vector<std::string>& parameters, const std::filesystem::path& together);
std::vector<StateEntry> read_optimizer(const std::filesystem::path& file);
}  // namespace detail

template <Scalar T, Device D>
void save_tensors(Context<D>& ctx, const std::filesystem::path& file, std::span<const std::string> names,
                  std::span<const Tensor<T, D>> tensors) {
  std::vector<std::vector<T>> host;  // lives until the file is written
  std::vector<TensorEntry> entries;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    host.push_back(tensors[i].to_host(ctx));
    entries.push_back({names[i], dtype_of<T>, tensors[i].shape(), host.back().data()});
  }
  write_safetensors(file, std::move(entries));
}

template <Scalar T, Device D>
std::vector<Tensor<T, D>> load_tensors(Context<D>& ctx, const std::filesystem::path& path,
                                       std::span<const std::string> names, std::span<const Shape> shapes,
                                       const Shares& shares) {
  const auto file = SafetensorsFile::open(path);
  const char* hint = "resume with the options that the run was started with.";
  if (file.names().size() != names.size())
    throw Error(str(path.string(), ": holds ", file.names().size(), " tensors, the run trains ", names.size()), hint);
  std::vector<Tensor<T, D>> values;
  for (std::size_t i = 0; i < names.size(); ++i) {
    const Stored<Cpu> stored = file.tensor(names[i]);
    if (stored.type != dtype_of<T>)
      throw Error(str(path.string(), ": '", names[i], "' is ", stored.type, ", the run computes in ", dtype_of<T>),
                  hint);
    if (stored.shape != shapes[i])
      throw Error(str(path.string(), ": '", names[i], "' is ", stored.shape, ", the model says ", shapes[i]), hint);
    const Share mine = shares.ranks() == 1 ? Share{0, stored.shape.count()} : shares.mine(i);
    values.emplace_back(ctx, mine.count() == stored.shape.count() ? stored.shape : Shape{mine.count()});
    ctx.copy_from_host(values.back().data(), stored.data + static_cast<std::size_t>(mine.begin) * sizeof(T),
                       static_cast<std::size_t>(mine.count()) * sizeof(T));
  }
  return values;
}

template <Scalar T, Device D>
void save_checkpoint(Context<D>& ctx, const std::filesystem::path& folder, std::span<Parameter<T, D>* const> params,
                     const Optimizer<T, D>& optimizer, const RunState& state, const Description& run,
                     std::span<const Tensor<accumulate_t<T>, D>> averages, const Shares& shares, bool together) {
  using A = accumulate_t<T>;
  together &= shares.ranks() > 1;
  const detail::TrainedNames<T, D> trained(params);
  const std::filesystem::path of_all = together ? folder : std::filesystem::path();
  const auto write_shared = [&](const std::filesystem::path& file) {
    detail::write_states(file / "optimizer.safetensors", optimizer.save(ctx), shares, trained.names, of_all);
    if (averages.empty()) return;
    std::vector<StateEntry> states;
    for (std::size_t i = 0; i < averages.size(); ++i) {
      const auto values = averages[i].to_host(ctx);
      const auto bytes = std::as_bytes(std::span(values));
      states.push_back({trained.names[i],
                        std::string(info(dtype_of<A>).name == "float64" ? "F64" : "F32"),
                        trained.shapes[i],
                        {bytes.begin(), bytes.end()},
                        trained.names[i],
                        1});
    }
    detail::write_states(file / "averages.safetensors", states, shares, trained.names, of_all);
  };
  if (shares.ranks() > 1) shares.world()->announce(str("step ", state.step, ", checkpoint"));
  if (shares.rank() > 0 && !together) return write_shared({});
  std::vector<Tensor<T, D>> weights;
  for (const Parameter<T, D>* w : params)
    if (w->trainable) weights.push_back(w->value);
  std::optional<AtomicFolder> out;
  if (shares.rank() == 0) out.emplace(folder);
  const auto into = out ? out->folder() : std::filesystem::path();
  if (together) {
    std::vector<TensorEntry> entries;
    std::vector<FilePiece> pieces;
    std::vector<std::vector<T>> host;  // lives until the file is written
    for (std::size_t i = 0; i < weights.size(); ++i) {
      const Share mine = shares.mine(i);
      entries.push_back({trained.names[i], dtype_of<T>, trained.shapes[i], &weights});  // bytes come by pieces
      if (mine.count() == 0) continue;
      host.push_back(part(weights[i], mine).to_host(ctx));
      pieces.push_back({trained.names[i], static_cast<std::uint64_t>(mine.begin) * sizeof(T),
                        std::as_bytes(std::span<const T>(host.back()))});
    }
    write_together(*shares.world(), folder, into / "weights.safetensors", std::move(entries), pieces);
  } else {
    save_tensors<T, D>(ctx, into / "weights.safetensors", trained.names, weights);
  }
  write_shared(into);
  if (!out) return;
  detail::write_state(into / "state.json", state, run, ctx.random().seed(), ctx.random().position());
  out->commit();
}

template <Scalar T, Device D>
RunState load_checkpoint(Context<D>& ctx, const std::filesystem::path& folder, std::span<Parameter<T, D>* const> params,
                         Optimizer<T, D>& optimizer, const Description& run,
                         std::vector<Tensor<accumulate_t<T>, D>>* averages, const Shares& shares) {
  uint64_t seed = 0, position = 0;
  const RunState state = detail::read_state(folder / "state.json", run, seed, position);
  const detail::TrainedNames<T, D> trained(params);
  auto weights = load_tensors<T, D>(ctx, folder / "weights.safetensors", trained.names, trained.shapes);
  std::vector<Tensor<accumulate_t<T>, D>> loaded;
  if (averages)
    loaded =
        load_tensors<accumulate_t<T>, D>(ctx, folder / "averages.safetensors", trained.names, trained.shapes, shares);
  optimizer.load(ctx, params, detail::read_optimizer(folder / "optimizer.safetensors"));
  if (averages) *averages = std::move(loaded);
  std::size_t next = 0;
  for (Parameter<T, D>* w : params)
    if (w->trainable) w->value = weights[next++];
  ctx.random() = Random(seed, position);
  return state;
}

FTLIB_INLINE bool has_checkpoint(const std::filesystem::path& folder) {
  if (!path_exists(folder.parent_path())) return false;
  recover_folder(folder);
  return path_exists(folder / "state.json");
}

namespace detail {

FTLIB_INLINE void write_state(const std::filesystem::path& file, const RunState& s, const Description& run,
                              uint64_t seed, uint64_t position) {
  Json settings = Json::object();
  for (const auto& [key, value] : run.entries()) settings[key] = value;
  Json json{{"format", checkpoint_format},
            {"run", std::move(settings)},
            {"step", s.step},
            {"epoch", s.epoch},
            {"batch", s.batch},
            {"best_step", s.best_step},
            {"since_best", s.since_best},
            {"bad_steps", s.bad_steps},
            {"still_steps", s.still_steps},
            {"loss_scale", s.loss_scale},
            {"good_steps", s.good_steps},
            {"evaluation_due", s.evaluation_due},
            {"best", s.best},
            {"random", {{"seed", seed}, {"position", position}}}};
  if (s.best_step > 0) json["best_loss"] = s.best_loss;
  write_atomically(file, json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

FTLIB_INLINE RunState read_state(const std::filesystem::path& path, const Description& run, uint64_t& seed,
                                 uint64_t& position) {
  const std::string file = path.string();
  const Json json = read_json(path);
  const auto format = value_or<int64_t>(json, "format", 1, file);
  if (format != checkpoint_format)
    throw Error(str(file, ": is a checkpoint of format ", format, ", this library reads format ", checkpoint_format),
                "finish that run with the version that began it, or start afresh.");
  const auto then = at<Json>(json, "run", file);
  std::string differences;
  int64_t count = 0;
  const auto differs = [&](const std::string& key, const std::string& was, const std::string& now) {
    ++count;
    differences += str(differences.empty() ? "" : "; ", key, " = ", was, ", this run has ", now);
  };
  std::map<std::string, std::string> now;
  for (const auto& [key, value] : run.entries()) {
    now[key] = value;
    const auto was = then.find(key);
    if (was == then.end()) differs(key, "(not there)", value);
    else if (*was != value) differs(key, was->is_string() ? was->get<std::string>() : was->dump(), value);
  }
  for (const auto& [key, value] : then.items())
    if (!now.contains(key)) differs(key, value.is_string() ? value.get<std::string>() : value.dump(), "(not there)");
  if (count > 0)
    throw Error(str(file, ": was made with ", differences),
                "resume with the same options, data and model, or start afresh.");
  RunState s;
  s.step = at<int64_t>(json, "step", file);
  s.epoch = at<int64_t>(json, "epoch", file);
  s.batch = at<int64_t>(json, "batch", file);
  s.best_step = at<int64_t>(json, "best_step", file);
  s.since_best = at<int64_t>(json, "since_best", file);
  s.best_loss = value_or<double>(json, "best_loss", s.best_loss, file);
  s.bad_steps = at<int64_t>(json, "bad_steps", file);
  s.still_steps = at<int64_t>(json, "still_steps", file);
  s.loss_scale = at<float>(json, "loss_scale", file);
  s.good_steps = at<int64_t>(json, "good_steps", file);
  s.evaluation_due = at<bool>(json, "evaluation_due", file);
  s.best = at<std::string>(json, "best", file);
  const auto random = at<Json>(json, "random", file);
  seed = at<uint64_t>(random, "seed", file);
  position = at<uint64_t>(random, "position", file);
  return s;
}

FTLIB_INLINE void write_states(const std::filesystem::path& file, const std::vector<StateEntry>& states,
                               const Shares& shares, const std::vector<std::string>& parameters,
                               const std::filesystem::path& together) {
  Communicator* const world = shares.world();
  const auto array_of = [&](const StateEntry& s) {
    return static_cast<std::size_t>(std::find(parameters.begin(), parameters.end(), s.parameter) - parameters.begin());
  };
  const auto width_of = [](const StateEntry& s) {
    return std::size_t{s.type == "F64" ? 8u : s.type == "U8" ? 1u : 4u};
  };
  const auto place = [&](const StateEntry& s, int64_t element) {
    return static_cast<std::size_t>((element + s.each - 1) / s.each) * width_of(s);
  };
  std::vector<TensorEntry> entries;
  std::vector<FilePiece> pieces;
  for (const StateEntry& s : states) {
    TensorEntry entry{s.name, s.type == "F64" ? DType::f64 : DType::f32, s.shape, s.bytes.data()};
    if (s.type != "F32" && s.type != "F64") entry.word = s.type;
    if (!together.empty()) {
      entry.data = &s;  // bytes come by pieces
      const bool shared = s.each > 0;
      if (shared || shares.rank() == 0)
        pieces.push_back({s.name, shared ? place(s, shares.mine(array_of(s)).begin) : 0, s.bytes});
    } else if (shares.ranks() > 1 && s.each > 0) {
      entry.data = nullptr;
      entry.make = [&, s = &s] {  // of all ranks, on the first one; the others only send
        std::vector<std::byte> all;
        if (shares.rank() > 0) {
          if (!s->bytes.empty()) world->swap(0, s->bytes, {});
          return all;
        }
        all.resize(static_cast<std::size_t>(s->shape.count()) * width_of(*s));
        for (int r = 0; r < shares.ranks(); ++r) {
          const Share share = shares.of(array_of(*s), r);
          const auto begin = place(*s, share.begin);
          const auto theirs = std::span(all).subspan(begin, place(*s, share.end) - begin);
          if (r == 0) std::copy(s->bytes.begin(), s->bytes.end(), theirs.begin());
          else if (!theirs.empty()) world->swap(r, {}, theirs);
        }
        return all;
      };
    }
    entries.push_back(std::move(entry));
  }
  if (!together.empty()) return write_together(*world, together, file, std::move(entries), pieces);
  if (shares.rank() == 0) return write_safetensors(file, std::move(entries));
  for (const TensorEntry& entry : safetensors_layout("a rank's states", std::move(entries), {}).entries)
    if (entry.make) entry.make();
}

FTLIB_INLINE std::vector<StateEntry> read_optimizer(const std::filesystem::path& path) {
  const auto file = SafetensorsFile::open(path);
  std::vector<StateEntry> states;
  for (const std::string& name : file.names()) {
    const auto bytes = file.bytes(name);
    states.push_back({name, file.info(name).dtype, file.info(name).shape, {bytes.begin(), bytes.end()}});
  }
  return states;
}

}  // namespace detail

}  // namespace ft::inline FTLIB_ABI
