// tests/cuda_emulation/memory.hpp: device memory, and what is known of each byte: who wrote and who read it last.
#pragma once
#include <sys/mman.h>  // mmap

#include <array>      // std::array
#include <bit>        // std::countr_zero
#include <cstddef>    // std::byte
#include <cstdint>    // std::uint32_t
#include <cstdlib>    // std::calloc
#include <deque>      // std::deque
#include <stdexcept>  // std::runtime_error
#include <vector>     // std::vector

namespace cuda_emulation {

/// One access of a thread. Intervals are numbered over all launches: each block begins one, and each barrier of it.
/// 0: none; 1: the host's.
struct Access {
  std::uint32_t interval = 0;
  std::uint32_t thread : 10 = 0;  // in its block
  std::uint32_t atomic : 1 = 0;
  std::uint32_t epoch : 21 = 0;  // how often its lane had met others by __syncwarp in this interval
  std::uint32_t pc = 0;          // offset in the program
};

/// What is remembered of a few bytes. Reads by two threads of a block and one of another are enough to meet a writer:
/// whoever it is, one of them is somebody else.
struct Cell {
  Access write, read, other_read, far_read;
};

/// The cells of one stretch of memory: one for 4 bytes, until smaller pieces are accessed.
class Shadow {
 public:
  explicit Shadow(std::size_t bytes) : bytes_(bytes), cells_(make(count())) {}
  ~Shadow() { std::free(cells_); }
  Shadow(const Shadow&) = delete;
  Shadow& operator=(const Shadow&) = delete;

  /// f(cell) for the cells of bytes [at, at + size); ends early where f returns false.
  template <class F> void for_each(std::size_t at, std::size_t size, F f) {
    const std::size_t piece = at + size == bytes_ ? at : at | size;  // the last cell may be wider than what is left
    if ((piece & ((std::size_t{1} << log2_) - 1)) != 0) refine(piece);
    const std::size_t last = (at + size - 1) >> log2_;
    for (std::size_t i = at >> log2_; i <= last; ++i)
      if (!f(cells_[i])) return;
  }
  /// The host, or a copy, has written these bytes.
  void written(std::size_t at, std::size_t size, std::uint32_t interval) {
    if (size == 0) return;
    for_each(at, size, [interval](Cell& cell) {
      cell = {};
      cell.write.interval = interval;
      return true;
    });
  }
  /// Whether anybody has.
  bool written(std::size_t at, std::size_t size) {
    bool all = true;
    for_each(at, size, [&](const Cell& cell) { return all = cell.write.interval != 0; });
    return all;
  }

 private:
  std::size_t count() const { return (bytes_ >> log2_) + 1; }
  static Cell* make(std::size_t n) {
    auto* cells = static_cast<Cell*>(std::calloc(n, sizeof(Cell)));  // pages that nobody touches cost nothing
    if (!cells) throw std::runtime_error("cuda_emulation: no memory to watch memory with");
    return cells;
  }
  void refine(std::size_t piece) {
    const unsigned fine = static_cast<unsigned>(std::countr_zero(piece | 4)), steps = log2_ - fine;
    const std::size_t before = count();
    Cell* const old = cells_;
    log2_ = fine;
    cells_ = make(count() + (std::size_t{1} << steps));
    for (std::size_t i = 0; i < before; ++i)
      for (std::size_t k = 0; k < std::size_t{1} << steps; ++k) {
        const std::size_t to = (i << steps) + k;
        if (old[i].write.interval | old[i].read.interval) cells_[to] = old[i];
      }
    std::free(old);
  }

  std::size_t bytes_;
  unsigned log2_ = 2;
  Cell* cells_;
};

/// How far a stream had come when it last used a block.
struct StreamUse {
  std::size_t stream;
  std::uint32_t piece;
};

/// Device memory: an address is used once, so that a use after free is seen, and each allocation has a page of its own
/// and one behind it that nobody owns.
class Memory {
 public:
  struct Allocation {
    std::byte* begin;
    std::size_t bytes;
    bool alive;
    Shadow* shadow;
    int device;
    std::size_t last_work;        // of StreamOrder
    bool ordered;                 // all uses before that work come before it
    std::vector<StreamUse> uses;  // the last of each stream
  };

  Memory() {
    arena_ = static_cast<std::byte*>(reserve(size));
    owners_ = static_cast<std::uint32_t*>(reserve(size / page * sizeof(std::uint32_t)));
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  void* allocate(std::size_t bytes, int device) {
    const std::size_t pages = (bytes + page - 1) / page + 1;
    if (next_ + pages > size / page) return nullptr;
    std::byte* const begin = arena_ + next_ * page;
    allocations_.push_back({begin, bytes, true, new Shadow(bytes), device, 0, true, {}});
    for (std::size_t i = 0; i < pages; ++i) owners_[next_ + i] = static_cast<std::uint32_t>(allocations_.size());
    next_ += pages;
    used_ += bytes;
    return begin;
  }
  /// False where p is no allocation.
  bool release(const void* p) {
    Allocation* a = find(static_cast<const std::byte*>(p));
    if (!a || !a->alive || a->begin != p) return false;
    a->alive = false;
    used_ -= a->bytes;
    delete a->shadow;
    a->shadow = nullptr;
    a->uses = {};
    madvise(a->begin, (a->bytes + page - 1) / page * page, MADV_DONTNEED);
    return true;
  }
  static bool holds(const std::byte* p) { return arena_ && p >= arena_ && p < arena_ + size; }
  /// The allocation at p or the last one before it, alive or not; null where there is none.
  Allocation* find(const std::byte* p) {
    if (!holds(p)) return nullptr;
    const std::uint32_t owner = owners_[static_cast<std::size_t>(p - arena_) / page];
    return owner ? &allocations_[owner - 1] : nullptr;
  }
  /// The allocation behind `a`; null for the last one.
  const Allocation* after(const Allocation& a) {
    const std::size_t id = owners_[static_cast<std::size_t>(a.begin - arena_) / page];
    return id < allocations_.size() ? &allocations_[id] : nullptr;
  }
  std::size_t used() const { return used_; }

 private:
  static constexpr std::size_t page = 4096, size = std::size_t{64} << 30;  // addresses, not memory

  static void* reserve(std::size_t bytes) {
    void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) throw std::runtime_error("cuda_emulation: no addresses for device memory");
    return p;
  }

  static inline std::byte* arena_ = nullptr;
  std::uint32_t* owners_;  // of each page: number of the allocation, from 1
  std::deque<Allocation> allocations_;
  std::size_t next_ = 1, used_ = 0;
};

}  // namespace cuda_emulation
