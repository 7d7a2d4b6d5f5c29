// tensor/quantise.hpp: numbers into quantised blocks: scales by a search for the least squared error.
#pragma once
#include <ftlib/tensor/quantised.hpp>  // blocks, DType

#include <cstddef>  // std::byte

namespace ft::inline FTLIB_ABI {

/// Stores `count` values, whole blocks of one row, as `type`. Dense types and Q8_0 are rounded as ggml's reference does
/// it, NF4 as bitsandbytes does; for the others scales are looked for that make sum w (x - x')^2 small, w being
/// `importance` (count of them, not negative), or 1 where it is null. Throws Error for a count that is not whole
/// blocks, and for a value that is not finite, or whose scale half precision does not hold.
void quantise_row(DType type, const float* x, int64_t count, std::byte* row, const float* importance = nullptr);

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/tensor/quantise.inl.hpp>
#endif
