// train/run_folder.hpp: a run's folder on the disk: its checkpoint, and the best weights so far.
#pragma once
#include <ftlib/optim/ema.hpp>         // WeightAverage
#include <ftlib/train/checkpoint.hpp>  // save_checkpoint, load_checkpoint

namespace ft::inline FTLIB_ABI {

/// What of a run a folder keeps, by reference.
template <Scalar T, Device D> struct RunParts {
  Context<D>& ctx;
  std::span<Parameter<T, D>* const> params;  // the trained ones
  Optimizer<T, D>& optimizer;
  WeightAverage<T, D>* average;     // null: none
  std::vector<Tensor<T, D>>& best;  // empty: none
  const Shares& shares;             // of ranks in the optimizer's state and the average
};

/// Keeps a run so that it can be killed at any moment. A checkpoint that cannot be written leaves the one before it,
/// and the weights in memory, as they are.
template <Scalar T, Device D> class RunFolder {
 public:
  /// Without a `folder`, nothing is kept. `run` is what a resumed run must agree in. One that does not `write` reads a
  /// checkpoint that another rank has written.
  RunFolder(std::filesystem::path folder, Description run, bool writes = true)
      : folder_(std::move(folder)), run_(std::move(run)), writes_(writes) {}

  /// Makes the folder; with `resume`, takes up its checkpoint where there is one, else removes it. Returns where the
  /// run stands. Ranks find out whether they see the same folder, and then write checkpoints together.
  RunState begin(const RunParts<T, D>& parts, bool resume);
  /// Writes all of it; sets state.best. All ranks call it, and give the one that writes what they have.
  void save(const RunParts<T, D>& parts, RunState& state);

 private:
  std::filesystem::path checkpoint() const { return folder_ / "checkpoint"; }
  void remove_best_files(const std::string& but) const;

  std::filesystem::path folder_;
  Description run_;
  bool writes_, together_ = false;
};

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/train/run_folder.inl.hpp>
#endif
