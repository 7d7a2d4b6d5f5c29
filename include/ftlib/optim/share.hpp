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
  std::vector<T> flat(shares.bounds(there).back());
  const auto bytes = [](const Share& share) { return static_cast<std::size_t>(share.count()) * sizeof(T); };
  const auto bounds = shares.pieces(there, [&](std::size_t part, std::size_t i, const Share& share, std::size_t place) {
    if (part == shares.my_part()) ctx.copy_to_host(flat.data() + place, xs[i].data() + share.begin, bytes(share));
  });
  all_gather(*shares.world(), std::span(flat), bounds);
  shares.pieces(there, [&](std::size_t part, std::size_t i, const Share& share, std::size_t place) {
    if (part == shares.my_part()) return;
    Tensor<T, D> x = xs[i];
    ctx.copy_from_host(x.data() + share.begin, flat.data() + place, bytes(share));
  });
}

}  // namespace ft::inline FTLIB_ABI
