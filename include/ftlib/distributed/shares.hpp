// distributed/shares.hpp: which rank updates which elements of trained arrays, and keeps an optimizer's state for them.
#pragma once
#include <ftlib/distributed/communicator.hpp>

#include <algorithm>  // std::max, std::min
#include <cstdint>    // std::int64_t

namespace ft::inline FTLIB_ABI {

/// Elements [begin, end) of an array.
struct Share {
  std::int64_t begin = 0, end = 0;
  std::int64_t count() const { return end - begin; }
};

/// Arrays in groups, each of which is laid end to end and cut into as many parts as there are ranks, about equal, at
/// starts of whole blocks of each array, so that what is computed by block (norms, 8-bit moments, random numbers) does
/// not depend on the number of ranks. A group is what is exchanged at once. ZeRO-1: Rajbhandari et al.,
/// arXiv:1910.02054, section 5.1
class Shares {
 public:
  /// One rank, whose all is.
  Shares() = default;
  /// `world`, null for one rank, must outlive this. `counts`: elements of each array; `block`: of each block. Groups
  /// are runs of arrays that are about equal, of at least `group` elements each but for the first.
  Shares(Communicator* world, std::vector<std::int64_t> counts, std::int64_t block, std::int64_t group)
      : world_(world), counts_(std::move(counts)), shares_(static_cast<std::size_t>(ranks())) {
    for (auto& part : shares_) part.resize(counts_.size());
    std::size_t last = counts_.size();
    std::int64_t elements = 0;
    for (std::size_t i = counts_.size(); i-- > 0;) {
      elements += counts_[i];
      if (i > 0 && elements < group) continue;
      groups_.push_back({i, last});
      cut(i, last, elements, block);
      last = i;
      elements = 0;
    }
  }

  Communicator* world() const { return world_; }
  int ranks() const { return world_ ? world_->size() : 1; }
  int rank() const { return world_ ? world_->rank() : 0; }
  /// [first array, last + 1), from the last group to the first: about the order in which gradients become final.
  const std::vector<std::pair<std::size_t, std::size_t>>& groups() const { return groups_; }

  /// What a rank has of an array.
  Share of(std::size_t array, int rank) const { return shares_[part_of(rank, ranks())][array]; }
  std::size_t my_part() const { return part_of(rank(), ranks()); }
  Share mine(std::size_t array) const { return of(array, rank()); }
  bool all_mine(std::size_t array) const { return mine(array).count() == counts_[array]; }

  /// f(part, array, share, place) for what all ranks have of those arrays that are `there`, laid end to end, part by
  /// part as reduce_scatter and all_gather have them, where `each` elements, which divide blocks, have become one.
  /// Returns where parts begin and end.
  template <class F> std::vector<std::size_t> pieces(const std::vector<bool>& there, F f, std::int64_t each = 1) const {
    std::vector<std::size_t> bounds{0};
    std::size_t place = 0;
    for (std::size_t part = 0; part < shares_.size(); ++part) {
      for (std::size_t i = 0; i < counts_.size(); ++i) {
        const Share& share = shares_[part][i];
        if (!there[i] || share.count() == 0) continue;
        f(part, i, share, place);
        place += static_cast<std::size_t>((share.count() + each - 1) / each);
      }
      bounds.push_back(place);
    }
    return bounds;
  }
  std::vector<std::size_t> bounds(const std::vector<bool>& there, std::int64_t each = 1) const {
    return pieces(
        there, [](std::size_t, std::size_t, const Share&, std::size_t) {}, each);
  }

 private:
  void cut(std::size_t first, std::size_t last, std::int64_t elements, std::int64_t block) {
    std::size_t array = first;
    std::int64_t base = 0;   // of elements before that array
    std::int64_t begun = 0;  // where the part before has ended in that array
    for (int part = 0; part < ranks(); ++part) {
      const std::int64_t wanted = elements / ranks() * (part + 1) + elements % ranks() * (part + 1) / ranks();
      auto& shares = shares_[static_cast<std::size_t>(part)];
      for (; array < last && base + counts_[array] <= wanted; base += counts_[array++], begun = 0)
        shares[array] = {begun, counts_[array]};
      if (array == last) continue;
      const std::int64_t low = (wanted - base) / block * block, high = std::min(low + block, counts_[array]);
      const std::int64_t end = std::max(begun, wanted - base - low <= base + high - wanted ? low : high);
      shares[array] = {begun, end};
      begun = end;
    }
  }

  Communicator* world_ = nullptr;
  std::vector<std::int64_t> counts_;
  std::vector<std::pair<std::size_t, std::size_t>> groups_;
  std::vector<std::vector<Share>> shares_;  // of each part, of each array
};

}  // namespace ft::inline FTLIB_ABI
