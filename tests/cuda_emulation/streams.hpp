// tests/cuda_emulation/streams.hpp: which stream's work comes before which on every GPU, although here all is done at
// once: vector clocks (Mattern, "Virtual time and global states of distributed systems", 1988).
#pragma once
#include <algorithm>  // std::max, std::upper_bound
#include <cstdint>    // std::uint32_t
#include <vector>     // std::vector

namespace cuda_emulation {

/// How far somebody has seen each stream come, by its number.
using Seen = std::vector<std::uint32_t>;

/// Streams, whose work is in pieces: one ends where an event is recorded. Work has the numbers that accesses to memory
/// have, Access::interval.
class StreamOrder {
 public:
  StreamOrder() { add(); }  // 0: the default stream
  int add() {
    pieces_of_.push_back(1);
    seen_.emplace_back();
    host_seen_.push_back(0);
    return static_cast<int>(seen_.size()) - 1;
  }
  /// Work of a stream begins, with numbers from `interval` on.
  void begin(int stream, std::uint32_t interval) {
    now_ = index(stream);
    if (host_seen_[now_] != host_waits_) join(seen_[now_], host_);  // what the host has waited for is over
    host_seen_[now_] = host_waits_;
    from_ = to_ = 0;
    if (work_.empty() || work_.back().stream != now_ || work_.back().piece != pieces_of_[now_])
      work_.push_back({interval, now_, pieces_of_[now_]});
  }
  /// Whether work that had that number comes before the work that has begun last.
  bool before(std::uint32_t interval) const {
    if (interval <= 1) return true;  // none, or the host's
    if (interval >= from_ && interval < to_) return found_;
    const auto next = std::upper_bound(work_.begin(), work_.end(), interval,
                                       [](std::uint32_t i, const Work& w) { return i < w.first; });
    if (next == work_.begin()) return true;
    const Work& w = next[-1];
    from_ = w.first;
    to_ = next == work_.end() ? ~std::uint32_t{0} : next->first;
    return found_ = before(w.stream, w.piece);
  }
  bool before(std::size_t stream, std::uint32_t piece) const {
    return stream == now_ || (stream < seen_[now_].size() && seen_[now_][stream] >= piece);
  }
  std::size_t stream() const { return now_; }
  std::uint32_t piece() const { return pieces_of_[now_]; }
  /// Of all work, which piece it is.
  std::size_t work() const { return work_.size(); }

  /// What an event holds that is recorded in a stream now.
  Seen record(int stream) {
    const std::size_t s = index(stream);
    Seen seen = seen_[s];
    if (seen.size() <= s) seen.resize(s + 1);
    seen[s] = pieces_of_[s]++;
    return seen;
  }
  void wait(int stream, const Seen& event) { join(seen_[index(stream)], event); }
  void host_waits(const Seen& event) {
    join(host_, event);
    ++host_waits_;
  }
  void host_waits_for_all() {
    for (std::size_t s = 0; s < seen_.size(); ++s) host_waits(record(static_cast<int>(s)));
  }

 private:
  struct Work {
    std::uint32_t first;
    std::size_t stream;
    std::uint32_t piece;
  };
  static std::size_t index(int i) { return static_cast<std::size_t>(i); }
  static void join(Seen& to, const Seen& from) {
    if (to.size() < from.size()) to.resize(from.size());
    for (std::size_t s = 0; s < from.size(); ++s) to[s] = std::max(to[s], from[s]);
  }

  std::vector<std::uint32_t> pieces_of_;  // the one that each stream is in
  std::vector<Seen> seen_;                // by each stream
  Seen host_;
  std::uint64_t host_waits_ = 0;
  std::vector<std::uint64_t> host_seen_;  // by each stream: how many of the host's waits
  std::vector<Work> work_;
  std::size_t now_ = 0;
  mutable std::uint32_t from_ = 0, to_ = 0;  // numbers for which `found_` holds
  mutable bool found_ = true;
};

}  // namespace cuda_emulation
