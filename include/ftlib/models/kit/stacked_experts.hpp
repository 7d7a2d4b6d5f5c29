// models/kit/stacked_experts.hpp: all experts of a layer as one tensor, as some Hugging Face folders have them, and as
// a model in memory has them, a matrix (out, in) of each.
#pragma once
#include <ftlib/models/kit/language_model.hpp>  // FolderPlace
#include <ftlib/models/kit/tensor_map.hpp>      // new_stored
#include <ftlib/models/kit/weights.hpp>         // Weights

#include <algorithm>    // std::copy_n
#include <cstring>      // std::memcpy
#include <string>       // std::string
#include <string_view>  // std::string_view
#include <vector>       // std::vector

namespace ft::inline FTLIB_ABI {

/// Takes `at`whole, (E, in, rows), or its MXFP4 blocks and scales, of (E, rows, in), and its bias (E, rows), and puts
/// the experts' own parts, `at`e.part.weight and .bias, in their place. Row r of an expert is row r / n of part r % n.
[[gnu::cold]] inline void split_experts(Weights& weights, const std::string& at, const std::string& whole,
                                        const std::vector<const char*>& parts, int64_t E, int64_t rows, int64_t in) {
  const auto n = static_cast<int64_t>(parts.size());
  const auto name_of = [&](int64_t e, int64_t part, const char* kind) {
    return str(at, e, '.', parts[static_cast<std::size_t>(part)], kind);
  };
  const auto each = [&](auto f) {
    for (int64_t e = 0; e < E; ++e)
      for (int64_t part = 0; part < n; ++part) f(e, part);
  };
  if (weights.has(at + whole)) {
    const Stored<Cpu> w = weights.take(at + whole, {E, in, rows});
    const int64_t size = storage_bytes(w.type, 1);
    each([&](int64_t e, int64_t part) {
      auto [out, to] = detail::new_stored(w.type, {rows / n, in});
      for (int64_t r = part; r < rows; r += n)
        for (int64_t c = 0; c < in; ++c) to = std::copy_n(w.data + ((e * in + c) * rows + r) * size, size, to);
      weights.put(name_of(e, part, ".weight"), out);
    });
  } else if (weights.has(at + whole + "_blocks")) {
    if (in % 32)
      throw Error(str(weights.file(), ": MXFP4 of rows of ", in, " values, which blocks of 32 do not divide"));
    const int64_t groups = in / 32;
    const auto blocks = weights.take_bytes(at + whole + "_blocks", {E, rows, groups, 16}),
               scales = weights.take_bytes(at + whole + "_scales", {E, rows, groups});
    each([&](int64_t e, int64_t part) {
      auto [out, to] = detail::new_stored(DType::mxfp4, {rows / n, in});
      for (int64_t r = part; r < rows; r += n)
        for (int64_t g = e * rows * groups + r * groups; g < (e * rows + r + 1) * groups; ++g) {
          BlockMXFP4 block{static_cast<uint8_t>(scales.data[g]), {}};
          // Element i is half i % 2 of byte i / 2 there; here the low halves are elements 0 to 15.
          for (int64_t j = 0; j < 32; ++j) {
            const int bits = static_cast<int>(blocks.data[16 * g + j / 2]) >> (j % 2 * 4) & 15;
            block.q[j % 16] = static_cast<uint8_t>(block.q[j % 16] | bits << (j / 16 * 4));
          }
          std::memcpy(to, &block, sizeof block);
          to += sizeof block;
        }
      weights.put(name_of(e, part, ".weight"), out);
    });
  }
  if (!weights.has(at + whole + "_bias")) return;
  const Stored<Cpu> b = weights.take(at + whole + "_bias", {E, rows});
  const int64_t size = storage_bytes(b.type, 1);
  each([&](int64_t e, int64_t part) {
    auto [out, to] = detail::new_stored(b.type, {rows / n});
    for (int64_t r = part; r < rows; r += n) to = std::copy_n(b.data + (e * rows + r) * size, size, to);
    weights.put(name_of(e, part, ".bias"), out);
  });
}

/// The opposite, of dense ones: where such a folder has what is `ours` in memory, gate and up in turns in gate_up_proj.
inline FolderPlace stacked_expert_place(const std::string& ours, const Shape& shape, int64_t E) {
  const auto found = ours.find(".mlp.experts.");
  if (found == ours.npos) return {ours, shape};
  const std::size_t number = found + std::string_view(".mlp.experts.").size(), part = ours.find('.', number) + 1;
  const int64_t e = std::stoll(ours.substr(number)), rows = shape[0];
  const bool down = ours.compare(part, 4, "down") == 0, bias = shape.rank() == 1;
  const int64_t n = down ? 1 : 2, first = ours.compare(part, 2, "up") == 0 ? 1 : 0;
  const std::string whole = ours.substr(0, number) + (down ? "down_proj" : "gate_up_proj");
  if (bias) return {whole + "_bias", {E, n * rows}, e * n * rows + first, n};
  const int64_t in = shape[1];
  return {whole, {E, in, n * rows}, e * in * n * rows + first, n, n * rows};
}

}  // namespace ft::inline FTLIB_ABI
