// tensor/finite.hpp: does a stored array hold a NaN or an infinity, and where.
#pragma once
#include <ftlib/tensor/stored.hpp>  // Stored

namespace ft::inline FTLIB_ABI {

/// The place of the first of `count` elements that is no finite number, or -1; of quantised blocks, whose scales alone
/// can be none, the block's first element. Reads what a matrix product reads of each block first, so it costs little
/// more than bringing the bytes in from a mapped file.
int64_t first_not_finite(DType type, const std::byte* data, int64_t count);

/// The same of an array on any device, which is read through the host in pieces.
template <Device D> int64_t first_not_finite(Context<D>& ctx, const Stored<D>& x) {
  if constexpr (std::same_as<D, Cpu>) {
    return first_not_finite(x.type, x.data, x.shape.count());
  } else {
    const int64_t count = x.shape.count(), piece = int64_t{1} << 22;  // a multiple of every block
    std::vector<std::byte> bytes;
    for (int64_t i = 0; i < count; i += piece) {
      const int64_t n = count - i < piece ? count - i : piece;
      bytes.resize(static_cast<std::size_t>(storage_bytes(x.type, n)));
      ctx.copy_to_host(bytes.data(), x.data + storage_bytes(x.type, i), bytes.size());
      if (const int64_t at = first_not_finite(x.type, bytes.data(), n); at >= 0) return i + at;
    }
    return -1;
  }
}

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/tensor/finite.inl.hpp>
#endif
