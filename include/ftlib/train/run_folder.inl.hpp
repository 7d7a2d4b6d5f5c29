// train/run_folder.inl.hpp: what train/run_folder.hpp declares.
#pragma once
#include <ftlib/train/checkpoint.inl.hpp>
#include <ftlib/train/run_folder.hpp>

namespace ft::inline FTLIB_ABI {

template <Scalar T, Device D> RunState RunFolder<T, D>::begin(const RunParts<T, D>& parts, bool resume) {
  if (folder_.empty()) return {};
  if (writes_) {
    make_folders(folder_);
    remove_parts(checkpoint());
  }
  if (parts.shares.ranks() > 1) together_ = is_same_folder(*parts.shares.world(), folder_);
  if (!resume || !has_checkpoint(checkpoint())) {
    if (!writes_) return {};
    std::error_code ignored;
    std::filesystem::remove_all(checkpoint(), ignored);
    remove_best_files({});
    return {};
  }
  const auto state = load_checkpoint<T, D>(parts.ctx, checkpoint(), parts.params, parts.optimizer, run_,
                                           parts.average ? &parts.average->averages() : nullptr, parts.shares);
  if (!state.best.empty()) {
    const detail::TrainedNames<T, D> trained(parts.params);
    parts.best = load_tensors<T, D>(parts.ctx, folder_ / state.best, trained.names, trained.shapes);
  }
  return state;
}

template <Scalar T, Device D> void RunFolder<T, D>::save(const RunParts<T, D>& parts, RunState& state) {
  if (folder_.empty()) return;
  state.best.clear();
  if (writes_ && !parts.best.empty()) {  // before the checkpoint that names it, and under a name of its own step
    state.best = str("best-", state.best_step, ".safetensors");
    const detail::TrainedNames<T, D> trained(parts.params);
    if (!path_exists(folder_ / state.best))
      save_tensors<T, D>(parts.ctx, folder_ / state.best, trained.names, parts.best);
  }
  using Average = Tensor<accumulate_t<T>, D>;
  save_checkpoint<T, D>(
      parts.ctx, checkpoint(), parts.params, parts.optimizer, state, run_,
      parts.average ? std::span<const Average>(parts.average->averages()) : std::span<const Average>(), parts.shares,
      together_);
  if (writes_) remove_best_files(state.best);
}

template <Scalar T, Device D> void RunFolder<T, D>::remove_best_files(const std::string& but) const {
  std::error_code ignored;
  for (const auto& file : std::filesystem::directory_iterator(folder_, ignored))
    if (const auto name = file.path().filename().string();
        name.starts_with("best-") && name.ends_with(".safetensors") && name != but)
      std::filesystem::remove(file.path(), ignored);
}

}  // namespace ft::inline FTLIB_ABI
