// distributed/link.hpp: what lies between ranks, measured, and what an exchange of gradients will take.
#pragma once
#include <ftlib/distributed/communicator.hpp>

#include <algorithm>  // std::max, std::sort

namespace ft::inline FTLIB_ABI {

/// Between two ranks that swap bytes: seconds for few of them, and bytes a second, each way at once, for many.
struct Link {
  double latency = 0, bandwidth = 0;
};

/// By the machine's clock.
inline double steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Of each distance between ranks that reduce_scatter swaps over (1, 2, 4 ...; where ranks are no power of two, of one
/// way to pair them), the slowest pair's figures. All ranks call it; takes some hundred swaps of 8 bytes, and a few of
/// `bytes`: what is measured with messages of one size holds for that size, roughly. `now`: seconds, by another clock
/// than the machine's.
inline std::vector<Link> measure_links(Communicator& world, std::size_t bytes = std::size_t{1} << 20,
                                       double (*now)() = steady_seconds) {
  world.announce("the measurement of the network");
  std::vector<std::byte> out(bytes), in(out.size());
  const auto seconds = [&](int other, std::size_t size, int times) {  // the median of swaps
    std::vector<double> all;
    for (int i = 0; i < times; ++i) {
      const double begin = now();
      world.swap(other, std::span(out).first(size), std::span(in).first(size));
      all.push_back(now() - begin);
    }
    std::sort(all.begin(), all.end());
    return all[all.size() / 2];
  };
  const bool power = std::has_single_bit(static_cast<unsigned>(world.size()));
  std::vector<Link> links;
  for (int distance = 1; distance < world.size() && (power || links.empty()); distance *= 2) {
    const int other = power ? world.rank() ^ distance : (1 - world.rank() + world.size()) % world.size();
    Link link;
    if (other != world.rank()) {
      seconds(other, 8, 10);  // the first ones connect
      link.latency = seconds(other, 8, 100);
      link.bandwidth = static_cast<double>(out.size()) / seconds(other, out.size(), 5);
    }
    std::string said(sizeof link, '\0');
    std::memcpy(said.data(), &link, sizeof link);
    Link slowest;
    for (const std::string& one : world.gather(said)) {
      std::memcpy(&link, one.data(), sizeof link);
      if (link.bandwidth == 0) continue;  // without a partner
      slowest.latency = std::max(slowest.latency, link.latency);
      if (slowest.bandwidth == 0 || link.bandwidth < slowest.bandwidth) slowest.bandwidth = link.bandwidth;
    }
    links.push_back(slowest);
  }
  return links;
}

/// Seconds that reduce_scatter or all_gather of so many bytes takes: latency and bytes of each swap, n/2, n/4 ... at
/// distance 1, 2 ...; of ranks that are no power of two, n/W with each of the others.
inline double exchange_seconds(const std::vector<Link>& links, int ranks, double bytes) {
  double seconds = 0;
  if (std::has_single_bit(static_cast<unsigned>(ranks))) {
    for (const Link& link : links) seconds += link.latency + (bytes /= 2) / link.bandwidth;
    return seconds;
  }
  return ranks * (links.at(0).latency + bytes / ranks / links[0].bandwidth);
}

}  // namespace ft::inline FTLIB_ABI
