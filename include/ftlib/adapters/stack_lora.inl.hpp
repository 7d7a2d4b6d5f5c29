// adapters/stack_lora.inl.hpp: the bodies of adapters/stack_lora.hpp.
#pragma once
#include <ftlib/adapters/lora.inl.hpp>
#include <ftlib/adapters/stack_lora.hpp>

namespace ft::inline FTLIB_ABI {

template <Scalar T, Device D>
[[gnu::cold]] StackLora<T, D>::StackLora(Context<D>& ctx, const Parameter<T, D>& w, const Lora& config, Random* random)
    : scale(config.scale_of(target_of(w))) {
  const StackPart& part = *w.part_of;
  if (config.kind != "lora" || config.dropout > 0)
    throw Error(str("lora: '", part.stack, "' is a stack of matrices: ",
                    config.kind != "lora" ? str("an adapter of kind '", config.kind, '\'') : "dropout",
                    " is not supported there"),
                "nor is it in PEFT: take LoRA without dropout, or leave the experts out of the targets.");
  const int64_t ranks = config.rank_of(part.stack) * part.count;
  std::tie(a, b) = detail::low_rank_factors<T, D>(ctx, part.stack, part.rows, w.shape()[1], ranks, random);
}

template <Scalar T, Device D>
Tensor<T, D> StackLora<T, D>::grouped_addition(Context<D>& ctx, const Tensor<T, D>& x, const Parameter<T, D>& w,
                                               const std::vector<int64_t>& starts) {
  const StackPart& part = *w.part_of;
  return grouped_low_rank(ctx, x, a, b, starts, scale, w.shape()[0], part.first, part.row_step);
}
template <Scalar T, Device D>
Tensor<T, D> StackLora<T, D>::addition(Context<D>& ctx, const Tensor<T, D>& x, Parameter<T, D>& w) {
  std::vector<int64_t> starts(static_cast<std::size_t>(w.part_of->count) + 1, 0);
  for (auto g = static_cast<std::size_t>(w.part_of->number) + 1; g < starts.size(); ++g) starts[g] = x.rows();
  const auto y = grouped_addition(ctx, reshape(ctx, x, {x.rows(), x.cols()}), w, starts);
  return reshape(ctx, y, detail::with_last(x.shape(), w.shape()[0]));
}
template <Scalar T, Device D>
Tensor<T, D> StackLora<T, D>::linear(Context<D>& ctx, const Tensor<T, D>& x, Parameter<T, D>& w, Parameter<T, D>* bias,
                                     float strength) {
  return add_scaled(ctx, ft::linear(ctx, x, w, bias), addition(ctx, x, w), strength);
}
template <Scalar T, Device D> Tensor<T, D> StackLora<T, D>::merged(Context<D>& ctx, const Parameter<T, D>& w) {
  const StackPart& part = *w.part_of;
  const int64_t ranks = a.shape()[0], R = ranks / part.count, out = w.shape()[0], in = w.shape()[1];
  const Tensor<T, D> up =
      contiguous(ctx, b.value.strided(part.first * ranks + part.number, {out, R}, {part.row_step * ranks, part.count}));
  Tensor<T, D> sum = dense(ctx, w);
  gemm(ctx, Write::add, out, in, R, sum.data(), in, DenseOperand<T>{up.data(), R, 1},
       DenseOperand<T>{a.value.data() + part.number * R * in, in, 1}, accumulate_t<T>(scale));
  return sum;
}
template <Scalar T, Device D>
std::shared_ptr<Adapter<T, D>> StackLora<T, D>::copy(Context<D>& ctx, const Parameter<T, D>&, float share) {
  return std::make_shared<StackLora>(detail::frozen_copy(ctx, a), detail::frozen_copy(ctx, b, share), scale);
}

}  // namespace ft::inline FTLIB_ABI
