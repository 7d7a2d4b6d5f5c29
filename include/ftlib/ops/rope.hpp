// ops/rope.hpp: rotary positions: the table of angles, and the op that turns queries and keys by it.
#pragma once
#include <ftlib/autograd/tape.hpp>
#include <ftlib/ops/heads.hpp>  // dense_heads
#include <ftlib/ops/kinds.hpp>  // RopePairing
#if FTLIB_HEADER_ONLY
#include <ftlib/ops/rope.cpu.hpp>
#else
#include <ftlib/cpu_runtime.hpp>
#endif
#if FTLIB_WITH_CUDA
#include <ftlib/ops/rope.cuda.cuh>
#endif

#include <algorithm>  // std::clamp
#include <cmath>      // std::cos, std::sin, std::pow
#include <mutex>      // std::mutex
#include <numbers>    // std::numbers::pi
#include <optional>   // std::optional
#include <vector>     // std::vector

namespace ft::inline FTLIB_ABI {

/// Llama 3's scaling of frequencies ("rope_type": "llama3"): long waves are stretched by `factor`, short ones stay.
struct Llama3Scaling {
  float factor = 8;
  float low_freq_factor = 1;
  float high_freq_factor = 4;
  int64_t original_max_position_embeddings = 8192;
};

/// "yarn": short waves stay, long ones are stretched by `factor`, with a ramp between the pairs that turn beta_fast and
/// beta_slow times over the original length.                                                         arXiv:2309.00071
struct YarnScaling {
  float factor = 1;
  int64_t original_max_position_embeddings = 0;
  float beta_fast = 32, beta_slow = 1;
  bool truncate = true;  // the ramp's ends to whole pairs
};

/// "longrope": divisors of each frequency, (R / 2), for sequences up to the original length and for longer ones.
///                                                                                                   arXiv:2402.13753
struct LongRopeScaling {
  std::vector<float> short_factor = {}, long_factor = {};
  int64_t original_max_position_embeddings = 0;
};

/// In the words of a Hugging Face config.
struct RopeOptions {
  int64_t head_size = 0;
  float theta = 10000;
  int64_t rotary_size = 0;                   // the first so many elements of a head turn; 0: all
  float factor = 1;                          // "linear" scaling: positions are divided by it
  std::optional<Llama3Scaling> llama3 = {};  // "llama3" scaling
  std::optional<YarnScaling> yarn = {};
  std::optional<LongRopeScaling> longrope = {};
  float attention_factor = 1;        // of cosines and sines, with yarn and longrope
  std::vector<float> divisors = {};  // of each frequency, (R / 2), as GGUF's rope_freqs.weight holds; empty: none
};

/// Angle per position of each pair of elements, (R / 2), in float32 arithmetic as transformers computes them
/// (modeling_rope_utils.py), because at position 8,000 the rounding of a frequency shows in the fourth digit.
/// `long_text`: of sequences longer than longrope's original length. Throws Error where the sizes or factors make no
/// sense.                                                                              arXiv:2104.09864, 2407.21783
inline std::vector<float> rope_frequencies(const RopeOptions& o, bool long_text = false) {
  const int64_t rotary = o.rotary_size ? o.rotary_size : o.head_size;
  if (o.head_size < 1 || rotary < 2 || rotary > o.head_size || rotary % 2)
    throw Error(str("rope: rotary size ", rotary, " of a head of ", o.head_size),
                "it must be even, at least 2 and at most the head's size.");
  if (!(o.theta > 0) || !(o.factor > 0))
    throw Error(str("rope: theta ", o.theta, " and factor ", o.factor, " must be above 0"));
  if (o.llama3 &&
      (!(o.llama3->factor > 0) || !(o.llama3->low_freq_factor > 0) ||
       !(o.llama3->high_freq_factor > o.llama3->low_freq_factor) || o.llama3->original_max_position_embeddings < 1))
    throw Error(str("rope: llama3 scaling with factor ", o.llama3->factor, ", low_freq_factor ",
                    o.llama3->low_freq_factor, ", high_freq_factor ", o.llama3->high_freq_factor),
                "factors must be above 0, and high_freq_factor above low_freq_factor.");
  if (!o.divisors.empty() && static_cast<int64_t>(o.divisors.size()) != rotary / 2)
    throw Error(str("rope: ", o.divisors.size(), " divisors for ", rotary / 2, " frequencies"));
  if (!(o.attention_factor > 0)) throw Error(str("rope: attention_factor ", o.attention_factor, " must be above 0"));
  float ramp_begin = 0, ramp_end = 0;  // in pairs
  if (o.yarn) {
    const YarnScaling& y = *o.yarn;
    if (!(y.factor > 0) || !(y.beta_fast > y.beta_slow) || !(y.beta_slow > 0) || y.original_max_position_embeddings < 1)
      throw Error(str("rope: yarn scaling with factor ", y.factor, ", beta_fast ", y.beta_fast, ", beta_slow ",
                      y.beta_slow, ", original_max_position_embeddings ", y.original_max_position_embeddings),
                  "all must be above 0, and beta_fast above beta_slow.");
    const auto pair_that_turns = [&](double times) {
      return static_cast<double>(rotary) *
             std::log(static_cast<double>(y.original_max_position_embeddings) / (times * 2 * std::numbers::pi)) /
             (2 * std::log(double{o.theta}));
    };
    const double low = pair_that_turns(y.beta_fast), high = pair_that_turns(y.beta_slow);
    ramp_begin = static_cast<float>(std::max(0.0, y.truncate ? std::floor(low) : low));
    ramp_end = static_cast<float>(std::min(static_cast<double>(rotary - 1), y.truncate ? std::ceil(high) : high));
    if (ramp_begin == ramp_end) ramp_end += 0.001f;
  }
  if (o.longrope)
    for (const auto& factors : {o.longrope->short_factor, o.longrope->long_factor}) {
      if (static_cast<int64_t>(factors.size()) != rotary / 2)
        throw Error(str("rope: longrope has ", factors.size(), " factors for ", rotary / 2, " frequencies"));
      for (const float f : factors)
        if (!(f > 0)) throw Error(str("rope: longrope's factor ", f, " must be above 0"));
    }
  std::vector<float> frequencies;
  for (int64_t i = 0; i < rotary / 2; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(rotary);
    float f = 1.0f / static_cast<float>(std::pow(double{o.theta}, double{exponent}));
    if (o.llama3) {
      const Llama3Scaling& s = *o.llama3;
      const auto original = static_cast<float>(s.original_max_position_embeddings);
      const float wave = static_cast<float>(2 * std::numbers::pi) / f;
      if (wave > original / s.low_freq_factor) {
        f /= s.factor;
      } else if (wave >= original / s.high_freq_factor) {
        const float smooth = (original / wave - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor);
        f = (1 - smooth) * f / s.factor + smooth * f;
      }
    }
    if (o.yarn) {
      const float stretched = std::clamp((static_cast<float>(i) - ramp_begin) / (ramp_end - ramp_begin), 0.0f, 1.0f);
      f = f / o.yarn->factor * stretched + f * (1 - stretched);
    }
    if (o.longrope) f /= (long_text ? o.longrope->long_factor : o.longrope->short_factor)[static_cast<std::size_t>(i)];
    if (!o.divisors.empty()) f /= o.divisors[static_cast<std::size_t>(i)];
    frequencies.push_back(f / o.factor);
  }
  return frequencies;
}

/// Angle of each pair at text positions 0, 1, ..., (positions, R / 2). With longrope, position p of a sequence that is
/// longer than the original length has row original + p; rows below are of shorter sequences.
inline std::vector<float> text_angles(const RopeOptions& o, int64_t positions) {
  const int64_t first_long = o.longrope ? o.longrope->original_max_position_embeddings : positions;
  const auto short_frequencies = rope_frequencies(o), long_frequencies = rope_frequencies(o, /*long_text=*/true);
  std::vector<float> angles;
  angles.reserve(static_cast<std::size_t>(positions) * short_frequencies.size());
  for (int64_t row = 0; row < positions; ++row)
    for (const float f : row < first_long ? short_frequencies : long_frequencies)
      angles.push_back(static_cast<float>(row < first_long ? row : row - first_long) * f);
  return angles;
}

/// Angle of each pair at the places of a grid, row by row, (height width, hd / 2): the first half of a head's pairs
/// turns by the row, the second by the column, both at the frequencies of a head of half the size.  EVA-02,
/// arXiv:2303.11331
inline std::vector<float> grid_angles(int64_t head_size, float theta, int64_t height, int64_t width) {
  const auto frequencies = rope_frequencies({.head_size = head_size / 2, .theta = theta});
  if (head_size % 4) throw Error(str("rope: a head of ", head_size, " does not part into pairs for two axes"));
  std::vector<float> angles;
  for (int64_t row = 0; row < height; ++row)
    for (int64_t column = 0; column < width; ++column)
      for (const int64_t place : {row, column})
        for (const float f : frequencies) angles.push_back(static_cast<float>(place) * f);
  return angles;
}

/// Cosine and sine of each (position, pair), (P, R / 2) each. Any two tensors of that form do: rotary positions over
/// several axes are a table whose row is a place on the grid. Does not change; copies share the tensors.
template <Scalar T, Device D> struct RopeTable {
  Tensor<T, D> cos, sin;

  RopeTable() = default;
  RopeTable(Tensor<T, D> cos_, Tensor<T, D> sin_) : cos(std::move(cos_)), sin(std::move(sin_)) {}
  /// From the angles of `pairs` pairs at each place, (P, pairs); `factor` is of both.
  RopeTable(Context<D>& ctx, int64_t pairs, const std::vector<float>& angles, float factor = 1) {
    std::vector<T> c, s;
    c.reserve(angles.size());
    s.reserve(angles.size());
    for (const float angle : angles) {
      c.push_back(static_cast<T>(static_cast<accumulate_t<T>>(factor * std::cos(double{angle}))));
      s.push_back(static_cast<T>(static_cast<accumulate_t<T>>(factor * std::sin(double{angle}))));
    }
    const Shape shape{static_cast<int64_t>(angles.size()) / pairs, pairs};
    cos = Tensor<T, D>(ctx, shape, c);
    sin = Tensor<T, D>(ctx, shape, s);
  }
  int64_t positions() const { return cos ? cos.size(0) : 0; }
};

/// A model's rotary positions: a table that grows when a longer text comes. All sessions over the model share it and
/// may ask at once.
template <Scalar T, Device D> class Rotary {
 public:
  /// Throws Error where the options make no sense.
  explicit Rotary(RopeOptions options) : options_(std::move(options)) { rope_frequencies(options_); }
  const RopeOptions& options() const { return options_; }

  /// A table of at least `count` positions. Where it must grow it at least doubles, and is uploaded by `ctx`.
  RopeTable<T, D> table(Context<D>& ctx, int64_t count) {
    const std::lock_guard lock(mutex_);
    if (tables_.empty() || count > tables_.back().positions()) {
      const int64_t before = tables_.empty() ? 0 : tables_.back().positions();
      const int64_t rows = std::max<int64_t>({count, 2 * before, 64});
      const auto angles = text_angles(options_, rows);
      tables_.emplace_back(ctx, static_cast<int64_t>(angles.size()) / rows, angles, options_.attention_factor);
      ctx.synchronize();  // another session's stream may read it next
    }
    return tables_.back();
  }

 private:
  RopeOptions options_;
  std::mutex mutex_;
  // Shorter tables stay, all of them together no larger than the last: a kernel of another session may still read one,
  // and their memory would go back to the session that made them.
  std::vector<RopeTable<T, D>> tables_;
};

/// Turns each pair (a, b) of a head by the angle of its token's position: (a cos - b sin, b cos + a sin); elements past
/// the rotary size pass. x (N, H, hd), positions (N) -> (N, H, hd). Throws Error where shapes do not fit, and on the
/// CPU where a position is outside the table: ask Rotary::table for largest + 1 positions.        arXiv:2104.09864
template <Scalar T, Device D>
Tensor<T, D> rope(Context<D>& ctx, const Tensor<T, D>& x_, const RopeTable<T, D>& table,
                  const Tensor<int32_t, D>& positions, RopePairing pairing = RopePairing::half_split) {
  if (x_.rank() != 3) throw Error(str("rope: x ", x_.shape(), " is not (tokens, heads, head size)"));
  if (positions.shape() != Shape{x_.size(0)} || !positions.contiguous())
    throw Error(str("rope: positions ", positions.shape(), " do not fit x ", x_.shape()),
                "give one position for each token, without gaps.");
  if (!table.cos || table.cos.shape() != table.sin.shape() || table.cos.rank() != 2 || !table.cos.contiguous() ||
      !table.sin.contiguous() || 2 * table.cos.size(1) > x_.size(2))
    throw Error(str("rope: a table of ", table.cos.shape(), " cosines and ", table.sin.shape(),
                    " sines does not fit x ", x_.shape()),
                "a table is (positions, rotary size / 2), made by Rotary::table, no wider than half a head.");
  const Tensor<T, D> x = detail::dense_heads(ctx, x_);
  Tensor<T, D> y(ctx, x.shape());
  rope_turn(ctx, y.view(), x.view(), table.cos.view(), table.sin.view(), positions.view(), pairing, T(1));
  // dx = dy turned back
  record(ctx, "rope", y, {x},
         [x = TensorId<T>(x), cos = table.cos, sin = table.sin, positions, pairing](Gradients<T, D>& g) {
           if (const View<T> dx = g.assign(x))
             rope_turn(g.context(), dx, g.incoming(), cos.view(), sin.view(), positions.view(), pairing, T(-1));
         });
  return y;
}

}  // namespace ft::inline FTLIB_ABI
