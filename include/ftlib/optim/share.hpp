// optim/share.hpp: a rank's share of tensors, and how ranks put theirs together.
#pragma once
#include <ftlib/distributed/array_exchange.hpp>  // ArrayExchange
#include <ftlib/distributed/shares.hpp>          // Share, Shares
#include <ftlib/tensor/tensor.hpp>               // Tensor

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
  const auto bytes = [](const Share& share) { return static_cast<std::size_t>(share.count()) * sizeof(T); };
  auto bounds = shares.bounds(there);
  for (std::size_t& bound : bounds) bound *= sizeof(T);
  const auto flat = std::static_pointer_cast<std::byte>(ctx.allocate(bounds.back()));
  shares.pieces(there, [&](std::size_t part, std::size_t i, const Share& share, std::size_t place) {
    if (part != shares.my_part()) return;
    ctx.copy_on_device(flat.get() + place * sizeof(T), xs[i].data() + share.begin, bytes(share));
  });
  HostArrays<D> host(*shares.world());
  ArrayExchange<D>* const own = arrays_of<D>(shares.world());
  ArrayExchange<D>& arrays = own ? *own : host;
  arrays.all_gather(ctx, flat, std::move(bounds));
  arrays.wait(ctx);
  shares.pieces(there, [&](std::size_t part, std::size_t i, const Share& share, std::size_t place) {
    if (part == shares.my_part()) return;
    Tensor<T, D> x = xs[i];
    ctx.copy_on_device(x.data() + share.begin, flat.get() + place * sizeof(T), bytes(share));
  });
}

}  // namespace ft::inline FTLIB_ABI
