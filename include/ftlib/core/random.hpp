// core/random.hpp: counter-based random numbers (Philox 4x32-10): the same numbers on any device, in any order.
#pragma once
#include <ftlib/core/dtype.hpp>

#include <array>    // std::array
#include <cmath>    // std::log, std::sqrt, std::cos
#include <numbers>  // std::numbers::pi

namespace ft::inline FTLIB_ABI {

/// Philox 4x32-10: four random words from a 64-bit key and a 128-bit counter.
/// Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
constexpr std::array<uint32_t, 4> philox(uint64_t key, uint64_t counter_low, uint64_t counter_high = 0) {
  std::array<uint32_t, 4> c{static_cast<uint32_t>(counter_low), static_cast<uint32_t>(counter_low >> 32),
                            static_cast<uint32_t>(counter_high), static_cast<uint32_t>(counter_high >> 32)};
  auto k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c[0], p1 = uint64_t{0xCD9E8D57u} * c[2];
    c = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<uint32_t>(p1),
         static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k1, static_cast<uint32_t>(p0)};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c;
}

/// A word as a float in [0, 1), in steps of 2^-24.
constexpr float to_unit(uint32_t word) { return static_cast<float>(word >> 8) * 5.9604644775390625e-8f; }

/// A stream of random numbers whose whole state is (seed, position): save both, and it goes on as if never stopped.
class Random {
 public:
  explicit Random(uint64_t seed = 0, uint64_t position = 0) : seed_(seed), position_(position) {}

  uint64_t seed() const { return seed_; }
  uint64_t position() const { return position_; }
  void seek(uint64_t position) { position_ = position; }

  /// Takes `count` counters for an op that draws its numbers by itself (dropout): philox(seed, result + i, 1).
  uint64_t reserve(uint64_t count) {
    const uint64_t first = position_;
    position_ += count;
    return first;
  }

  uint32_t word() { return philox(seed_, position_++)[0]; }
  /// Uniform in [0, 1).
  double uniform() {
    const auto w = philox(seed_, position_++);
    return static_cast<double>((uint64_t{w[0]} << 21) ^ (w[1] >> 11)) * 0x1.0p-53;
  }
  /// Uniform in [0, n), n > 0; without modulo bias worth naming (n < 2^53).
  int64_t below(int64_t n) { return static_cast<int64_t>(uniform() * static_cast<double>(n)); }
  /// Standard normal, by Box and Muller.
  double normal() {
    const double u = 1.0 - uniform(), v = uniform();
    return std::sqrt(-2.0 * std::log(u)) * std::cos(2.0 * std::numbers::pi * v);
  }

  /// Fisher-Yates, from the end.
  template <class Container> void shuffle(Container& items) {
    for (auto i = static_cast<int64_t>(items.size()) - 1; i > 0; --i) {
      using std::swap;
      swap(items[static_cast<std::size_t>(i)], items[static_cast<std::size_t>(below(i + 1))]);
    }
  }

 private:
  uint64_t seed_, position_;
};

/// The stream of one micro-batch: a function of the run's seed, the step and the micro-batch's number in it (of all
/// ranks together), so that what dropout and noise draw there depends on nothing that was drawn before: not on the
/// number of ranks, nor on evaluations in between, nor on where a run was resumed. Its key is a word of Philox, from
/// counters that no stream with this seed uses.
inline Random random_of(uint64_t seed, int64_t step, int64_t micro) {
  if (step < 0 || micro < 0) throw Error(str("random: step ", step, ", micro-batch ", micro, ": neither is negative"));
  const auto w = philox(seed, static_cast<uint64_t>(step), ~static_cast<uint64_t>(micro));
  return Random((uint64_t{w[0]} << 32) | w[1]);
}

}  // namespace ft::inline FTLIB_ABI
