// distributed/communicator.hpp: Communicator, what ranks of one training say to one another, whatever carries it; and
// sums over ranks in an order that does not depend on their number.
#pragma once
#include <ftlib/core/error.hpp>

#include <algorithm>    // std::copy
#include <bit>          // std::has_single_bit
#include <chrono>       // std::chrono::milliseconds
#include <cstddef>      // std::byte
#include <cstdint>      // std::int64_t
#include <cstring>      // std::memcpy
#include <memory>       // std::unique_ptr
#include <span>         // std::span
#include <sstream>      // std::istringstream
#include <string>       // std::string
#include <string_view>  // std::string_view
#include <utility>      // std::move
#include <vector>       // std::vector

namespace ft::inline FTLIB_ABI {

/// One rank's end of a group of size() ranks, which all make the same calls in the same order, one at a time.
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
  /// The machine that this rank runs on: ranks of one machine say the same.
  virtual std::string node() const { return {}; }

  /// Makes a call that waits in another thread throw Error, and all later ones: before a rank that has failed leaves.
  virtual void cancel() = 0;
  /// Whether calls may come from any thread, one at a time.
  virtual bool any_thread() const { return true; }

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

/// Throws Error, on all ranks, naming the first line in which theirs differ: what they work on, and how.
[[gnu::cold]] inline void agree(Communicator& world, const std::string& lines) {
  world.announce("the comparison of what is worked on");
  const auto all = world.gather(lines);
  for (std::size_t r = 1; r < all.size(); ++r) {
    std::istringstream first(all[0]), other(all[r]);
    std::string a, b;
    while (std::getline(first, a)) {
      if (!std::getline(other, b)) b = "nothing";
      if (a != b)
        throw Error(str("rank 0 has \"", a, "\", rank ", r, " has \"", b, '"'),
                    "all ranks need the same program, files and options.");
    }
  }
}

namespace detail {
/// f(partner) for every other rank, in W rounds of pairs.
template <class F> void in_pairs(Communicator& world, F f) {
  for (int round = 0; round < world.size(); ++round)
    if (const int other = (round - world.rank() + world.size()) % world.size(); other != world.rank()) f(other);
}

class RankGroup final : public Communicator {
 public:
  RankGroup(Communicator& world, std::vector<int> ranks, int rank)
      : world_(world), ranks_(std::move(ranks)), rank_(rank) {}
  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(ranks_.size()); }
  std::string name() const override { return world_.name(); }
  std::string node() const override { return world_.node(); }
  bool any_thread() const override { return world_.any_thread(); }
  void cancel() override { world_.cancel(); }
  void swap(int other, std::span<const std::byte> out, std::span<std::byte> in) override {
    world_.announce(announced_);
    world_.swap(ranks_[static_cast<std::size_t>(other)], out, in);
  }
  std::vector<std::string> gather(std::string_view mine) override {
    std::vector<std::string> all(ranks_.size());
    all[static_cast<std::size_t>(rank_)] = mine;
    in_pairs(*this, [&](int other) {
      const std::uint64_t length = mine.size();
      std::uint64_t theirs = 0;
      swap(other, std::as_bytes(std::span(&length, 1)), std::as_writable_bytes(std::span(&theirs, 1)));
      std::string& got = all[static_cast<std::size_t>(other)];
      got.resize(theirs);
      swap(other, std::as_bytes(std::span(mine)), std::as_writable_bytes(std::span(got)));
    });
    return all;
  }

 private:
  Communicator& world_;
  std::vector<int> ranks_;  // of world_
  int rank_;
};
}  // namespace detail

/// This rank's end of a group of those that give the same colour, in their order. All ranks call it. `world` must
/// outlive the group, carries what it says, and is not used while the group is; its time-out holds.
[[gnu::cold]] inline std::unique_ptr<Communicator> split(Communicator& world, const std::string& colour) {
  world.announce("the forming of groups");
  std::vector<int> ranks;
  int rank = 0, mine = 0;
  for (const std::string& theirs : world.gather(colour)) {
    if (rank == world.rank()) mine = static_cast<int>(ranks.size());
    if (theirs == colour) ranks.push_back(rank);
    ++rank;
  }
  return std::make_unique<detail::RankGroup>(world, std::move(ranks), mine);
}

/// Whether a piece of work is this rank's: ranks have one each in turn. `world` is null for one rank.
inline bool is_turn(const Communicator* world, std::int64_t piece) {
  return !world || piece % world->size() == world->rank();
}
namespace detail {
inline std::string pack(const std::vector<std::string>& strings) {
  std::string all;
  for (const std::string& one : strings) {
    const std::uint64_t size = one.size();
    all.append(reinterpret_cast<const char*>(&size), sizeof size).append(one);
  }
  return all;
}
inline std::vector<std::string> unpack(std::string_view all) {
  std::vector<std::string> strings;
  while (!all.empty()) {
    std::uint64_t size = 0;
    std::memcpy(&size, all.data(), sizeof size);
    strings.emplace_back(all.substr(sizeof size, size));
    all.remove_prefix(sizeof size + size);
  }
  return strings;
}
}  // namespace detail
/// What pieces of work that were done in turn have come to, in the order of pieces; `mine`: of those of this rank.
inline std::vector<std::string> gather_in_turn(Communicator* world, std::vector<std::string> mine) {
  if (!world || world->size() == 1) return mine;
  std::vector<std::vector<std::string>> of_ranks;
  for (const std::string& one : world->gather(detail::pack(mine))) of_ranks.push_back(detail::unpack(one));
  std::vector<std::string> all;
  for (std::size_t i = 0;; ++i) {
    auto& one = of_ranks[i % of_ranks.size()];
    if (i / of_ranks.size() >= one.size()) return all;
    all.push_back(std::move(one[i / of_ranks.size()]));
  }
}
inline std::vector<double> gather_in_turn(Communicator* world, const std::vector<double>& mine) {
  std::vector<std::string> bytes;
  for (const double& x : mine) bytes.emplace_back(reinterpret_cast<const char*>(&x), sizeof x);
  std::vector<double> all;
  for (const std::string& one : gather_in_turn(world, std::move(bytes)))
    std::memcpy(&all.emplace_back(), one.data(), sizeof(double));
  return all;
}

/// Which part of an array is a rank's after reduce_scatter: its number with the bits in reverse; where ranks are no
/// power of two, its number.
inline std::size_t part_of(int rank, int ranks) {
  if (!std::has_single_bit(static_cast<unsigned>(ranks))) return static_cast<std::size_t>(rank);
  std::size_t part = 0;
  for (int bit = 1; bit < ranks; bit *= 2) part = part * 2 + static_cast<std::size_t>((rank & bit) != 0);
  return part;
}

namespace detail {
/// Parts [first, last) of an array that is cut for ranks.
struct Parts {
  std::size_t first, last;
};
/// Recursive halving: round(other, sent, kept) for each other rank that half of what is left is sent to, and the other
/// half received from: at distance 1, 2, 4 ..., so that ranks of one machine have done most before others are asked.
/// `ranks` is a power of two.
template <class F> void halve(int rank, int ranks, F round) {
  Parts all{0, static_cast<std::size_t>(ranks)};
  for (int distance = 1; distance < ranks; distance *= 2) {
    const std::size_t middle = all.first + (all.last - all.first) / 2;
    Parts kept{all.first, middle}, sent{middle, all.last};
    if (rank & distance) std::swap(kept, sent);
    all = kept;
    round(rank ^ distance, sent, kept);
  }
}
/// The way back, recursive doubling: round(other, mine, theirs), in whose end all parts are there.
template <class F> void double_up(int rank, int ranks, F round) {
  Parts mine{part_of(rank, ranks), part_of(rank, ranks) + 1};
  for (int distance = ranks / 2; distance > 0; distance /= 2) {
    const std::size_t count = mine.last - mine.first;
    const bool low = (rank & distance) == 0;
    round(rank ^ distance, mine, low ? Parts{mine.last, mine.last + count} : Parts{mine.first - count, mine.first});
    if (low) mine.last += count;
    else mine.first -= count;
  }
}
}  // namespace detail

/// Adds x up over ranks: afterwards each has its part of the sum, from bounds[part_of()] to the bound after it; the
/// rest of x is lost. There are W + 1 bounds, and (W-1)/W of x leave each of W ranks. Where W is a power of two, added
/// in a binary tree, ((0+1)+(2+3))+((4+5)+(6+7)), by recursive halving (Thakur, Rabenseifner and Gropp, 2005,
/// section 4.4); else in the order of ranks.
template <class V> void reduce_scatter(Communicator& world, std::span<V> x, const std::vector<std::size_t>& bounds) {
  const auto range = [&](std::size_t first, std::size_t last) {
    return x.subspan(bounds[first], bounds[last] - bounds[first]);
  };
  const auto ranks = bounds.size() - 1;
  if (!std::has_single_bit(ranks)) {
    const auto me = static_cast<std::size_t>(world.rank());
    const auto mine = range(me, me + 1);
    std::vector<V> all(mine.size() * ranks);  // of each rank
    const auto of = [&](std::size_t r) { return std::span(all).subspan(r * mine.size(), mine.size()); };
    std::copy(mine.begin(), mine.end(), of(me).begin());
    detail::in_pairs(world, [&](int other) {
      const auto r = static_cast<std::size_t>(other);
      world.swap(other, std::as_bytes(range(r, r + 1)), std::as_writable_bytes(of(r)));
    });
    std::copy(of(0).begin(), of(0).end(), mine.begin());
    for (std::size_t r = 1; r < ranks; ++r)
      for (std::size_t i = 0; i < mine.size(); ++i) mine[i] += of(r)[i];
    return;
  }
  std::vector<V> theirs;
  detail::halve(world.rank(), world.size(), [&](int other, detail::Parts sent, detail::Parts kept) {
    const auto out = range(sent.first, sent.last), sum = range(kept.first, kept.last);
    theirs.resize(sum.size());
    world.swap(other, std::as_bytes(out), std::as_writable_bytes(std::span(theirs)));
    for (std::size_t i = 0; i < theirs.size(); ++i) sum[i] += theirs[i];  // a + b is b + a to the bit
  });
}

/// Each rank gives its part of x, as reduce_scatter has left it, and has all of x afterwards: by recursive doubling, or
/// pair by pair.
template <class V> void all_gather(Communicator& world, std::span<V> x, const std::vector<std::size_t>& bounds) {
  const auto range = [&](std::size_t first, std::size_t last) {
    return x.subspan(bounds[first], bounds[last] - bounds[first]);
  };
  if (!std::has_single_bit(bounds.size() - 1)) {
    const std::size_t mine = part_of(world.rank(), world.size());
    return detail::in_pairs(world, [&](int other) {
      const auto r = static_cast<std::size_t>(other);
      world.swap(other, std::as_bytes(range(mine, mine + 1)), std::as_writable_bytes(range(r, r + 1)));
    });
  }
  detail::double_up(world.rank(), world.size(), [&](int other, detail::Parts mine, detail::Parts theirs) {
    world.swap(other, std::as_bytes(range(mine.first, mine.last)),
               std::as_writable_bytes(range(theirs.first, theirs.last)));
  });
}

}  // namespace ft::inline FTLIB_ABI
