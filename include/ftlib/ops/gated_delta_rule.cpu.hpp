// ops/gated_delta_rule.cpu.hpp: the gated delta rule on the CPU, forward and backward.
#pragma once
#include <ftlib/ops/gated_delta_rule.shared.hpp>  // DeltaHead
#include <ftlib/ops/tile.cpu.hpp>                 // tile_product
#include <ftlib/tensor/context.cpu.hpp>           // Context<Cpu>

#include <algorithm>  // std::min
#include <array>      // std::array
#include <vector>     // std::vector

namespace ft::inline FTLIB_ABI {

namespace detail {
inline namespace FTLIB_SIMD {

/// One thread.
template <Scalar T> struct DeltaThread {
  static constexpr int64_t pad = tile_cols<T>;

  template <class F> [[gnu::always_inline]] void each(int64_t n, F f) const {
    for (int64_t i = 0; i < n; ++i) f(i);
  }
  template <class F> [[gnu::always_inline]] void each(int64_t rows, int64_t cols, F f) const {
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < cols; ++j) f(i, j);
  }
  void product(T* c, int64_t c_step, const T* a, int64_t a_row, int64_t a_col, const T* b, int64_t b_step, int64_t rows,
               int64_t cols, int64_t depth, Write write) const {
    for (int64_t j = 0; j < cols; j += pad)
      for (int64_t i = 0; i < rows; i += tile_rows) {
        const int64_t many = std::min<int64_t>(tile_rows, rows - i);
        std::array<const T*, tile_rows> from{};
        for (int64_t r = 0; r < many; ++r) from[static_cast<std::size_t>(r)] = a + (i + r) * a_row;
        with_rows(many, [&](auto m) {
          tile_product<m>(c + i * c_step + j, c_step, from, a_col, b + j, b_step, depth, write);
        });
      }
  }
  static T wide(T x) { return x; }
  template <class U> static U narrow(T x) { return x; }
};

/// f(text's number, key head, memory) for all, on all threads; each has its own memory.
template <Scalar T, class F>
void for_delta_heads(Context<Cpu>& ctx, const DeltaRule<T>& rule, const DeltaPointers<T>& of, bool backward, F f) {
  const int64_t KH = of.key_heads, tasks = static_cast<int64_t>(rule.texts.size()) * KH;
  parallel_for(ctx.pool(), tasks, 1, [&](int64_t begin, int64_t end) {
    DeltaScratch<T> m;
    of.lay_out(m, static_cast<T*>(nullptr), DeltaThread<T>::pad, backward);
    std::vector<T> memory(static_cast<std::size_t>(m.size));
    of.lay_out(m, memory.data(), DeltaThread<T>::pad, backward);
    for (int64_t i = begin; i < end; ++i) f(i / KH, i % KH, m);
  });
}

}  // namespace FTLIB_SIMD
}  // namespace detail

/// y, and where they are not empty: `starts`, the state that each chunk of each text begins with, and `kept`, the
/// states from which texts go on, which become those they end with.
template <Scalar T>
void gated_delta_forward(Context<Cpu>& ctx, const DeltaRule<T>& rule,
                         View<T> y,       // (N, H, dv)              assigned
                         View<T> starts,  // (chunks, H, dk, dv)     assigned
                         View<T> kept) {  // (slots, H, dk, dv)      changed
  const detail::DeltaPointers<T> of(rule);
  const detail::DeltaThread<T> thread;
  detail::for_delta_heads<T>(ctx, rule, of, false, [&](int64_t text, int64_t head, const detail::DeltaScratch<T>& m) {
    detail::DeltaHead<T, detail::DeltaThread<T>>(thread, of, rule.texts[static_cast<std::size_t>(text)], head, m)
        .forward(y.data, starts.data, kept.data);
  });
}

/// From what the forward pass left in `starts`. An empty view is a gradient that nobody wants.
template <Scalar T>
void gated_delta_backward(Context<Cpu>& ctx, const DeltaRule<T>& rule,
                          View<T> dq,        // (N, KH, dk)  assigned
                          View<T> dk,        // (N, KH, dk)  assigned
                          View<T> dv,        // (N, H, dv)   assigned
                          View<T> da,        // (N, H)       assigned
                          View<T> db,        // (N, H)       assigned
                          View<T> dA_log,    // (H)          added
                          View<T> ddt_bias,  // (H)          added
                          In<T> dy,          // (N, H, dv)   any stride of N
                          In<T> starts) {    // (chunks, H, dk, dv)
  const detail::DeltaPointers<T> of(rule);
  const detail::DeltaThread<T> thread;
  const auto texts = static_cast<int64_t>(rule.texts.size());
  std::vector<T> sums(static_cast<std::size_t>(texts * of.heads * 2));
  const detail::DeltaGradients<T> to{dq.data, dk.data, dv.data, da.data, db.data, sums.data()};
  detail::for_delta_heads<T>(ctx, rule, of, true, [&](int64_t text, int64_t head, const detail::DeltaScratch<T>& m) {
    detail::DeltaHead<T, detail::DeltaThread<T>>(thread, of, rule.texts[static_cast<std::size_t>(text)], head, m)
        .backward(to, dy.data, dy.strides[0], starts.data, text);
  });
  for (int64_t i = 0; i < texts * of.heads; ++i) {
    if (dA_log) dA_log.data[i % of.heads] += sums[static_cast<std::size_t>(2 * i)];
    if (ddt_bias) ddt_bias.data[i % of.heads] += sums[static_cast<std::size_t>(2 * i + 1)];
  }
}

}  // namespace ft::inline FTLIB_ABI
