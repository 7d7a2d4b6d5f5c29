// optim/share.hpp: a rank's share of tensors, and how ranks put theirs together.
#pragma once
#include <ftlib/distributed/shares.hpp>  // Share, Shares
#include <ftlib/tensor/tensor.hpp>       // Tensor

namespace ft::inline FTLIB_ABI {

/// Elements of a contiguous tensor, as one of one axis that shares the memory; x itself where they are all.
template <Element T, Device D> Tensor<T, D> part(const Tensor<T, D>& x, const Share& share) {
  return share.count() == x.count() ? x : x.strided(share.begin, {share.count()}, {1});
}

/// Gives every rank all elements of tensors of which each has its share. All ranks call it with the same tensors, in
/// the order of the arrays that `shares` were made of; an empty one is left out.
template <Element T, Device D>
void gather_shares(Context<D>& ctx, const Shares& shares, const std::vector<Tensor<T, D>>& xs) {
  if (shares.ranks() == 1) return;
  std::vector<bool> there;
  for (const auto& x : xs) there.push_back(static_cast<bool>(x));
  const auto bounds = shares.bounds(there);
  std::vector<T> flat(bounds.back());
  const auto each = [&](auto f) {  // (tensor, its place in `flat`, share)
    std::size_t begin = 0;
    for (std::size_t i = 0; i < xs.size(); ++i) {
      if (!there[i]) continue;
      Tensor<T, D> x = xs[i];
      f(x.data(), flat.data() + begin, shares.mine(i), x.count());
      begin += static_cast<std::size_t>(x.count());
    }
  };
  const auto bytes = [](int64_t count) { return static_cast<std::size_t>(count) * sizeof(T); };
  each([&](T* x, T* host, const Share& mine, int64_t) {
    ctx.copy_to_host(host + mine.begin, x + mine.begin, bytes(mine.count()));
  });
  all_gather(*shares.world(), std::span(flat), bounds);
  each([&](T* x, T* host, const Share& mine, int64_t count) {
    ctx.copy_from_host(x, host, bytes(mine.begin));
    ctx.copy_from_host(x + mine.end, host + mine.end, bytes(count - mine.end));
  });
}

}  // namespace ft::inline FTLIB_ABI
