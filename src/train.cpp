// src/train.cpp: the bodies of optim/ and train/: optimizers, the loop, checkpoints, logs.
#include <ftlib/optim/adamw.inl.hpp>
#include <ftlib/optim/adamw8bit.inl.hpp>
#include <ftlib/optim/clip.inl.hpp>
#include <ftlib/optim/ema.inl.hpp>
#include <ftlib/optim/lion.inl.hpp>
#include <ftlib/optim/optimizer.inl.hpp>
#include <ftlib/tensor/finite.inl.hpp>
#include <ftlib/train/checkpoint.inl.hpp>
#include <ftlib/train/data_source.inl.hpp>
#include <ftlib/train/gradient_exchange.inl.hpp>
#include <ftlib/train/mixed_source.inl.hpp>
#include <ftlib/train/rank_files.inl.hpp>
#include <ftlib/train/run.inl.hpp>
#include <ftlib/train/run_folder.inl.hpp>
#include <ftlib/train/screen/listeners.inl.hpp>
#include <ftlib/train/screen/plot.inl.hpp>
#include <ftlib/train/screen/progress.inl.hpp>
#include <ftlib/train/screen/tensorboard.inl.hpp>
#include <ftlib/train/signals.inl.hpp>
#include <ftlib/train/trainer.inl.hpp>

namespace ft::inline FTLIB_ABI {

template class StepCheck<Cpu>;
using T = float;
template void StepCheck<Cpu>::add_loss(Context<Cpu>&, const Tensor<T, Cpu>&);
template void StepCheck<Cpu>::sum_squares(Context<Cpu>&, std::span<const View<T>>);
template float detail::clip_grad_norm(Context<Cpu>&, std::span<const View<T>>, float);
template class NamedStates<T, Cpu>;
template class AdamWOptimizer<T, Cpu>;
template class AdamW8bitOptimizer<T, Cpu>;
template class LionOptimizer<T, Cpu>;
template class WeightAverage<T, Cpu>;
template void save_checkpoint(Context<Cpu>&, const std::filesystem::path&, std::span<Parameter<T, Cpu>* const>,
                              const Optimizer<T, Cpu>&, const RunState&, const Description&,
                              std::span<const Tensor<accumulate_t<T>, Cpu>>, const Shares&, bool);
template RunState load_checkpoint(Context<Cpu>&, const std::filesystem::path&, std::span<Parameter<T, Cpu>* const>,
                                  Optimizer<T, Cpu>&, const Description&, std::vector<Tensor<accumulate_t<T>, Cpu>>*,
                                  const Shares&);
template class RunFolder<T, Cpu>;
template class GradientExchange<T, Cpu>;
template class Trainer<T, Cpu>;

}  // namespace ft::inline FTLIB_ABI
