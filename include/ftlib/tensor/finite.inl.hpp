// tensor/finite.inl.hpp: what tensor/finite.hpp declares.
#pragma once
#include <ftlib/tensor/finite.hpp>

#include <cstring>  // std::memcpy

namespace ft::inline FTLIB_ABI {

namespace detail {
/// Words whose bits under `exponent` are all set are no finite numbers.
template <class Word>
int64_t first_full_exponent(const std::byte* data, int64_t count, std::size_t stride, Word exponent) {
  constexpr int64_t chunk = 1024;  // looked at without a branch
  const auto full = [&](int64_t i) {
    Word word;
    std::memcpy(&word, data + static_cast<std::size_t>(i) * stride, sizeof word);
    return (word & exponent) == exponent;
  };
  for (int64_t begin = 0; begin < count; begin += chunk) {
    const int64_t end = begin + chunk < count ? begin + chunk : count;
    bool any = false;
    for (int64_t i = begin; i < end; ++i) any |= full(i);
    if (!any) continue;
    for (int64_t i = begin; i < end; ++i)
      if (full(i)) return i;
  }
  return -1;
}
}  // namespace detail

FTLIB_INLINE int64_t first_not_finite(DType type, const std::byte* data, int64_t count) {
  constexpr uint16_t half_exponent = 0x7c00;
  switch (type) {
    case DType::f32:
      return detail::first_full_exponent<uint32_t>(data, count, 4, 0x7f800000u);
    case DType::f64:
      return detail::first_full_exponent<uint64_t>(data, count, 8, 0x7ff0000000000000u);
    case DType::f16:
      return detail::first_full_exponent<uint16_t>(data, count, 2, half_exponent);
    case DType::bf16:
      return detail::first_full_exponent<uint16_t>(data, count, 2, 0x7f80);
    case DType::mxfp4:  // the largest value, 12 2^(e - 128), is none from e = 253 on
      for (int64_t i = 0; i < count / 32; ++i)
        if (static_cast<uint8_t>(data[17 * i]) >= 253) return 32 * i;
      return -1;
    default:
      break;
  }
  const int64_t block = info(type).block, bytes = info(type).bytes;
  const auto scale = [&](int64_t offset) {
    const int64_t at = detail::first_full_exponent<uint16_t>(data + offset, count / block,
                                                             static_cast<std::size_t>(bytes), half_exponent);
    return at < 0 ? at : at * block;
  };
  const bool two = type == DType::q4_1 || type == DType::q5_1 || type == DType::q4_k || type == DType::q5_k;
  const int64_t first = scale(type == DType::q6_k ? 208 : 0), second = two ? scale(2) : -1;
  return first < 0 || (second >= 0 && second < first) ? second : first;
}

}  // namespace ft::inline FTLIB_ABI
