// train/checkpoint.hpp: a run's whole state in a folder: trained weights, optimizer, averages, position in the data.
#pragma once
#include <ftlib/optim/optimizer.hpp>  // Optimizer, Shares
#include <ftlib/train/run.hpp>        // RunState

#include <filesystem>  // std::filesystem::path
#include <span>        // std::span

namespace ft::inline FTLIB_ABI {

/// What this library writes into state.json's "format". Another one is refused, by name.
inline constexpr int64_t checkpoint_format = 2;

/// Tensors of one type as a safetensors file.
template <Scalar T, Device D>
void save_tensors(Context<D>& ctx, const std::filesystem::path& file, std::span<const std::string> names,
                  std::span<const Tensor<T, D>> tensors);
/// The opposite, without conversion, so that what was saved comes back bit by bit; of several ranks each gets its
/// share, see part(). Throws Error where names, types or shapes are not these.
template <Scalar T, Device D>
std::vector<Tensor<T, D>> load_tensors(Context<D>& ctx, const std::filesystem::path& file,
                                       std::span<const std::string> names, std::span<const Shape> shapes,
                                       const Shares& shares = {});

/// Writes `folder` whole or not at all: what was there before stays until the new one is complete and on the disk.
/// `run` is what a resumed run must agree in. `averages` of the trainable weights go along where there are some. All
/// ranks that share parameters out call it, with the same file as one rank would write: `together`, for a folder that
/// is the same on all (is_same_folder), each writes its share of weights and states; else rank 0 writes, one array
/// after the other, what the others send it.
template <Scalar T, Device D>
void save_checkpoint(Context<D>& ctx, const std::filesystem::path& folder, std::span<Parameter<T, D>* const> params,
                     const Optimizer<T, D>& optimizer, const RunState& state, const Description& run,
                     std::span<const Tensor<accumulate_t<T>, D>> averages = {}, const Shares& shares = {},
                     bool together = false);

/// True where `folder` holds a checkpoint; finishes what a killed save had left half done.
bool has_checkpoint(const std::filesystem::path& folder);

/// Restores what save_checkpoint wrote, and returns its state; all or nothing. Throws Error where `run` differs from
/// what the checkpoint was made with, naming the settings, then and now.
template <Scalar T, Device D>
RunState load_checkpoint(Context<D>& ctx, const std::filesystem::path& folder, std::span<Parameter<T, D>* const> params,
                         Optimizer<T, D>& optimizer, const Description& run,
                         std::vector<Tensor<accumulate_t<T>, D>>* averages = nullptr, const Shares& shares = {});

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/train/checkpoint.inl.hpp>
#endif
