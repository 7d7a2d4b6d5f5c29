// distributed/shares.hpp: which rank updates which elements of trained arrays, and keeps an optimizer's state for them.
#pragma once
#include <ftlib/distributed/communicator.hpp>

#include <algorithm>  // std::min
#include <cstdint>    // std::int64_t

namespace ft::inline FTLIB_ABI {

/// Elements [begin, end) of an array.
struct Share {
  std::int64_t begin = 0, end = 0;
  std::int64_t count() const { return end - begin; }
};

/// Arrays laid end to end and cut into as many parts as there are ranks, about equal, at starts of whole blocks of each
/// array, so that what is computed by block (norms, 8-bit moments, random numbers) does not depend on the number of
/// ranks. ZeRO-1: Rajbhandari et al., arXiv:1910.02054, section 5.1
class Shares {
 public:
  /// One rank, whose all is.
  Shares() = default;
  /// `world`, null for one rank, must outlive this. `counts`: elements of each array; `block`: of each block.
  Shares(Communicator* world, std::vector<std::int64_t> counts, std::int64_t block)
      : world_(world), counts_(std::move(counts)) {
    std::int64_t total = 0, base = 0;
    for (const std::int64_t n : counts_) total += n;
    std::size_t array = 0;
    for (std::int64_t part = 0; part < ranks(); ++part) {
      const std::int64_t wanted = total / ranks() * part + total % ranks() * part / ranks();
      while (array < counts_.size() && base + counts_[array] <= wanted) base += counts_[array++];
      if (array == counts_.size()) {
        cuts_.push_back({array, 0});
        continue;
      }
      const std::int64_t low = (wanted - base) / block * block, high = std::min(low + block, counts_[array]);
      const std::int64_t nearest = wanted - base - low <= base + high - wanted ? low : high;
      cuts_.push_back(nearest == counts_[array] ? Cut{array + 1, 0} : Cut{array, nearest});
    }
    cuts_.push_back({counts_.size(), 0});
  }

  Communicator* world() const { return world_; }
  int ranks() const { return world_ ? world_->size() : 1; }
  int rank() const { return world_ ? world_->rank() : 0; }

  /// What a rank has of an array.
  Share of(std::size_t array, int rank) const {
    const std::size_t part = part_of(rank, ranks());
    const auto at = [&](const Cut& cut) {
      return array < cut.array ? counts_[array] : array == cut.array ? cut.element : 0;
    };
    return {at(cuts_[part]), at(cuts_[part + 1])};
  }
  Share mine(std::size_t array) const { return of(array, rank()); }
  bool all_mine(std::size_t array) const { return mine(array).count() == counts_[array]; }

  /// Where parts begin and end, for reduce_scatter and all_gather, in those arrays that are `there`, laid end
  /// to end, of which `each` elements have become one; `each` divides blocks.
  std::vector<std::size_t> bounds(const std::vector<bool>& there, std::int64_t each = 1) const {
    std::vector<std::size_t> bounds;
    for (const Cut& cut : cuts_) {
      std::int64_t at = 0;
      for (std::size_t i = 0; i < counts_.size() && i <= cut.array; ++i)
        if (there[i]) at += ((i < cut.array ? counts_[i] : cut.element) + each - 1) / each;
      bounds.push_back(static_cast<std::size_t>(at));
    }
    return bounds;
  }

 private:
  struct Cut {
    std::size_t array;
    std::int64_t element;
  };
  Communicator* world_ = nullptr;
  std::vector<std::int64_t> counts_;
  std::vector<Cut> cuts_;  // one more than ranks
};

}  // namespace ft::inline FTLIB_ABI
