// train/weight_hash.hpp: whether two runs have the same weights, told by a few pages of each.
#pragma once
#include <ftlib/core/description.hpp>  // Hash
#include <ftlib/tensor/stored.hpp>     // Stored

#include <algorithm>  // std::min
#include <cstring>    // std::memcpy
#include <string>     // std::string
#include <vector>     // std::vector

namespace ft::inline FTLIB_ABI {

/// Of a weight: name, type, shape, and bytes: all of a small one, of a large one sixteen pieces of a page, first and
/// last among them. So a base whose weights were trained on is another base; a few elements changed by hand may be
/// overlooked.
template <Device D> void add_weight(Hash& hash, Context<D>& ctx, const std::string& name, const Stored<D>& w) {
  constexpr int64_t page = 4096, pieces = 16;
  hash.add(name);
  hash.add(info(w.type).name);
  for (const int64_t size : w.shape) hash.add(size);
  const int64_t bytes = w.bytes(), count = std::min(pieces, (bytes + page - 1) / page);
  std::vector<std::byte> piece(static_cast<std::size_t>(std::min(page, bytes)));
  for (int64_t i = 0; i < count; ++i) {
    const int64_t at = count > 1 ? (bytes - static_cast<int64_t>(piece.size())) / (count - 1) * i : 0;
    if constexpr (std::same_as<D, Cpu>) std::memcpy(piece.data(), w.data + at, piece.size());
    else ctx.copy_to_host(piece.data(), w.data + at, piece.size());
    hash.add(piece.data(), piece.size());
  }
}

}  // namespace ft::inline FTLIB_ABI
