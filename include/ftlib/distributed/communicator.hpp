// distributed/communicator.hpp: Communicator, what ranks of one training say to one another, whatever carries it; and
// sums over ranks in an order that does not depend on their number.
#pragma once
#include <ftlib/core/error.hpp>

#include <chrono>       // std::chrono::milliseconds
#include <cstddef>      // std::byte
#include <span>         // std::span
#include <string>       // std::string
#include <string_view>  // std::string_view
#include <utility>      // std::pair
#include <vector>       // std::vector

namespace ft::inline FTLIB_ABI {

/// One rank's end of a group of size() ranks, which all make the same calls in the same order, each from one thread.
///
/// To add an engine, derive: two ranks that swap bytes, and a gather of small things, are all that is asked.
/// distributed/thread_group.hpp has ranks as threads, distributed/mpi.hpp has MPI's.
class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;  // 0 to size() - 1
  virtual int size() const = 0;
  /// Sends `out` to another rank and receives `in` from it, which makes the matching call. Throws Error where that rank
  /// has failed.
  virtual void swap(int other, std::span<const std::byte> out, std::span<std::byte> in) = 0;
  /// What every rank gives, in the order of ranks: small things, of any length each.
  virtual std::vector<std::string> gather(std::string_view mine) = 0;
  /// For messages: "rank 3 of 8", and what an engine knows beside.
  virtual std::string name() const { return str("rank ", rank(), " of ", size()); }

  /// What is exchanged from here on, for the message of a rank that waits too long: "step 17, gradients".
  void announce(std::string what) { announced_ = std::move(what); }
  /// How long a rank may wait for another one within a call, which then throws Error. 10 minutes; one computes in the
  /// meantime, so it must be longer than a step and what rank 0 does alone.
  void set_timeout(std::chrono::milliseconds timeout) { timeout_ = timeout; }

  /// Whether it is so on any rank.
  bool any(bool here) {
    if (size() == 1) return here;
    for (const std::string& there : gather(here ? "1" : ""))
      if (!there.empty()) return true;
    return false;
  }

 protected:
  /// "rank 0 of 4 has waited 600 s in step 17, gradients, for ": whom, is the engine's to say.
  std::string waited(std::chrono::milliseconds time) const {
    return str(name(), " has waited ", static_cast<double>(time.count()) / 1000, " s in ", announced_, ", for ");
  }
  static constexpr const char* waiting_hint =
      "it hangs, is cut off, or computes for longer than the time-out, which can be set (--rank-timeout); what was "
      "saved is whole, and --resume goes on from it.";

  std::string announced_ = "the beginning";
  std::chrono::milliseconds timeout_ = std::chrono::minutes(10);
};

/// Which part of an array is a rank's after tree_reduce_scatter: its number with the bits in reverse.
inline std::size_t part_of(int rank, int ranks) {
  std::size_t part = 0;
  for (int bit = 1; bit < ranks; bit *= 2) part = part * 2 + static_cast<std::size_t>((rank & bit) != 0);
  return part;
}

/// Adds x up over ranks: afterwards each has its part of the sum, from bounds[part_of()] to the bound after it, added in
/// a binary tree, ((0+1)+(2+3))+((4+5)+(6+7)); the rest of x is lost. Recursive halving, which moves (W-1)/W of x out of
/// each rank (Thakur, Rabenseifner and Gropp, 2005, section 4.4). The number of ranks W must be a power of two, as
/// GradientExchange has looked; there are W + 1 bounds.
template <class V>
void tree_reduce_scatter(Communicator& world, std::span<V> x, const std::vector<std::size_t>& bounds) {
  const auto range = [&](std::size_t first, std::size_t last) {
    return x.subspan(bounds[first], bounds[last] - bounds[first]);
  };
  std::vector<V> theirs;
  std::size_t first = 0, last = bounds.size() - 1;
  for (int distance = 1; distance < world.size(); distance *= 2) {
    const std::size_t middle = first + (last - first) / 2;
    const bool low = (world.rank() & distance) == 0;
    const auto sent = low ? range(middle, last) : range(first, middle);
    (low ? last : first) = middle;
    const auto kept = range(first, last);
    theirs.resize(kept.size());
    world.swap(world.rank() ^ distance, std::as_bytes(sent), std::as_writable_bytes(std::span(theirs)));
    for (std::size_t i = 0; i < theirs.size(); ++i) kept[i] += theirs[i];  // a + b is b + a to the bit
  }
}

/// Each rank gives its part of x, as tree_reduce_scatter has left it, and has all of x afterwards: recursive doubling.
template <class V>
void tree_all_gather(Communicator& world, std::span<V> x, const std::vector<std::size_t>& bounds) {
  const auto range = [&](std::size_t first, std::size_t last) {
    return x.subspan(bounds[first], bounds[last] - bounds[first]);
  };
  std::size_t first = part_of(world.rank(), world.size()), parts = 1;
  for (int distance = world.size() / 2; distance > 0; distance /= 2, parts *= 2) {
    const bool low = (world.rank() & distance) == 0;
    const auto mine = range(first, first + parts);
    const auto other = low ? range(first + parts, first + 2 * parts) : range(first - parts, first);
    world.swap(world.rank() ^ distance, std::as_bytes(mine), std::as_writable_bytes(other));
    if (!low) first -= parts;
  }
}

}  // namespace ft::inline FTLIB_ABI
