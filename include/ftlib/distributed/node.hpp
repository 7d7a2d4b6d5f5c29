// distributed/node.hpp: what a rank has of the machine that it runs on: which of its GPUs, how many of its cores.
#pragma once
#include <ftlib/core/parallel.hpp>  // available_cores
#include <ftlib/distributed/communicator.hpp>

#if defined(__linux__)
#include <sched.h>  // sched_getaffinity
#endif

namespace ft::inline FTLIB_ABI {

/// A rank among those of its machine.
struct NodeShare {
  int rank = 0, ranks = 1;
  /// Cores for this rank's threads: those that it is bound to, shared with the machine's ranks that are bound to the
  /// same; at least 1.
  int cores = 1;
};

namespace detail {
/// Which cores the calling thread may run on, as bytes that are equal where they are; empty where that is not known.
inline std::string bound_cores() {
#if defined(__linux__)
  cpu_set_t* const set = CPU_ALLOC(1 << 16);
  if (!set) return {};
  std::string mask(CPU_ALLOC_SIZE(1 << 16), '\0');
  const bool known = ::sched_getaffinity(0, mask.size(), set) == 0;
  if (known) std::memcpy(mask.data(), set, mask.size());
  CPU_FREE(set);
  while (!mask.empty() && mask.back() == '\0') mask.pop_back();
  return known ? mask : std::string();
#else
  return {};
#endif
}
}  // namespace detail

/// All ranks call it; null: a process that is no rank, which has all that it is bound to.
[[gnu::cold]] inline NodeShare share_node(Communicator* world) {
  NodeShare share{.cores = available_cores()};
  if (!world) return share;
  const auto node = split(*world, world->node());
  share.rank = node->rank();
  share.ranks = node->size();
  const std::string mine = detail::bound_cores();
  int sharing = 0;
  for (const std::string& theirs : node->gather(mine)) sharing += theirs == mine;
  share.cores = std::max(1, share.cores / sharing);
  return share;
}

}  // namespace ft::inline FTLIB_ABI
