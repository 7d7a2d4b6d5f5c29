// tests/cuda_emulation/machine.hpp: runs kernels: takes turns among a block's threads, lets them meet, and checks each
// of their memory accesses. docs/cuda.md tells how it works.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdio>   // std::snprintf
#include <cstring>  // std::memcpy
#include <numeric>  // std::iota
#include <utility>  // std::exchange
#include <vector>   // std::vector

#include "emulation.hpp"
#include "fibre.hpp"
#include "memory.hpp"
#include "program.hpp"
#include "streams.hpp"

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
extern "C" thread_local uint4 ftlib_dynamic_shared[];  // what cuda/launch.cuda.cuh calls a block's dynamic memory

namespace cuda_emulation {

constexpr int max_threads = 1024;  // of a block
constexpr std::size_t default_shared_bytes = 48 << 10;

/// cudaSetDevice: the calling thread's.
inline thread_local constinit int current_device = 0;

/// What list_launches() was given.
inline std::vector<Listed>* listed = nullptr;

struct Copy {
  std::byte* to;
  const std::byte* from;
  std::size_t bytes, zeros;
  std::uint32_t pc;
  std::size_t group;
};

struct Thread {
  enum class State { ready, in_block_op, in_warp_op, done };
  Fibre fibre;
  uint3 index;
  State state;
  Where where;  // of the operation it waits in
  BlockOp block_op;
  WarpOp warp_op;
  void (*joint)(void* const* of_lanes);  // WarpOp::joint: what the last to come does, with what each lane brought
  unsigned mask;
  std::int64_t value, result;
  int source;
  std::vector<Copy> copies;
  std::size_t copy_groups;
};

/// Which __syncwarp's of its lanes each lane of a warp has seen: a vector clock.
struct WarpClock {
  bool used = false;
  std::array<std::array<std::uint32_t, warp_size>, warp_size> seen{};  // [lane][of lane]
};

enum class Kind { read, write, atomic };

/// The kernel's thread that runs on this thread of the CPU; null for the host's code.
inline thread_local constinit Thread* running = nullptr;
/// Whether that thread is in the kernel's own code, and so what it accesses is to be checked.
inline thread_local constinit bool watching = false;

/// While the emulation works for a kernel's thread. Its own functions are not instrumented, but the linker may give it
/// the kernels' copy of an inline function of the standard library.
struct Pause {
  bool before = std::exchange(watching, false);  // one pause may be within another
  ~Pause() { watching = before; }
};

/// A stream's number in StreamOrder; the default stream is null.
int stream_number(CUstream_st* stream);

/// One grid at a time, on the thread that launched it; two threads must not launch at once.
class Machine {
 public:
  static Machine& get() {
    static auto* const machine = new Machine;  // never ends: tensors in static storage free their memory late
    return *machine;
  }
  int run(const Launch& launch) {
    throw_pending();
    const auto threads = std::size_t{launch.block.x} * launch.block.y * launch.block.z;
    const auto blocks = std::size_t{launch.grid.x} * launch.grid.y * launch.grid.z;
    if (threads == 0 || threads > max_threads || launch.block.z > 64 || blocks == 0 || launch.grid.x > 0x7fffffffu ||
        launch.grid.y > 65535 || launch.grid.z > 65535)
      return cudaErrorInvalidConfiguration;
    std::size_t shared_limit = default_shared_bytes;
    for (const auto& [kernel, bytes] : shared_limits_)
      if (kernel == launch.kernel) shared_limit = bytes;
    if (launch.shared_bytes > shared_limit) return cudaErrorInvalidValue;
    if (listed) {
      listed->push_back({program_.symbol(launch.kernel), launch.grid, launch.block, launch.shared_bytes});
      return cudaSuccess;
    }

    ++launches_;
    program_.use_thread();
    launch_ = &launch;
    blockDim = launch.block;
    gridDim = launch.grid;
    thread_count_ = static_cast<int>(threads);
    first_of_launch_ = interval_ + 1;
    order_.begin(stream_number(launch.stream), first_of_launch_);
    blocks_run_.clear();
    if (blocks >= (std::size_t{1} << 31)) return cudaErrorInvalidConfiguration;
    std::vector<std::uint32_t> order(blocks);
    std::iota(order.begin(), order.end(), 0u);
    shuffle(order);
    for (const std::uint32_t block : order) {
      run_block(block);
      if (!fault_.text.empty()) throw_fault();
    }
    launch_ = nullptr;
    return cudaSuccess;
  }

  /// All lanes of the warp, for one instruction: f sees, and may change, what each of them brought.
  void meet_whole_warp(void (*f)(void* const* of_lanes), void* mine, Where where) {
    running->joint = f;
    meet_warp(WarpOp::joint, ~0u, reinterpret_cast<std::intptr_t>(mine), 0, where);
  }
  std::int64_t meet_warp(WarpOp op, unsigned mask, std::int64_t value, int source, Where where) {
    const Pause pause;
    Thread& me = *running;
    if (!(mask >> lane() & 1))
      fault({kernel_and_thread() + "is not among the lanes that it names" + at(where) + ": mask " + hex(mask)});
    me.state = Thread::State::in_warp_op;
    me.warp_op = op;
    me.mask = mask;
    me.value = value;
    me.source = source;
    me.where = where;
    finish_warp_op(me);
    if (me.state == Thread::State::in_warp_op) wait();
    me.state = Thread::State::ready;
    return me.result;
  }
  int meet_block(BlockOp op, int predicate, Where where) {
    const Pause pause;
    Thread& me = *running;
    me.state = Thread::State::in_block_op;
    me.block_op = op;
    me.value = predicate != 0;
    me.where = where;
    wait();
    return static_cast<int>(me.result);
  }
  int lane() const { return number_of(*running) % warp_size; }

  /// By the running thread, or by the host where none runs.
  void access(const void* address, std::size_t bytes, Kind kind, const void* pc) {
    const Pause pause;
    const auto* const p = static_cast<const std::byte*>(address);
    if (!running) {
      if (memory_.holds(p)) host_touches(p, kind, pc);
      return;
    }
    const std::uint32_t place = program_.offset(pc);
    if (const int owner = stacks_.owner(p); owner >= 0) {
      if (owner == number_of(*running)) return;
      fault({kernel_and_thread() + verb(kind) + "a local variable of thread " + name(threads_[index(owner)].index),
             place});
    }
    if (memory_.holds(p)) {
      Memory::Allocation* a = memory_.find(p);
      const auto offset = a ? static_cast<std::size_t>(p - a->begin) : 0;
      if (!a || !a->alive || offset + bytes > a->bytes) stray(a, p, bytes, kind, place);
      if (a->device != current_device)
        fault({kernel_and_thread() + verb(kind) + "memory of device " + std::to_string(a->device) + " on device " +
                   std::to_string(current_device),
               place});
      check(*a->shadow, offset, bytes, kind, place, first_of_launch_, global, used(*a));
      return;
    }
    const auto offset = static_cast<std::size_t>(p - program_.local_begin());
    if (p >= program_.local_begin() && offset < program_.local_bytes()) {
      const Program::Symbol* s = variable_at(offset);
      const std::size_t size = !s ? 0 : is_dynamic(*s) ? launch_->shared_bytes : s->size;
      if (!s || offset - s->begin + bytes > size)
        fault({kernel_and_thread() + verb(kind) + std::to_string(bytes) + " bytes out of bounds of shared memory" +
                   (s ? ", at byte " + std::to_string(offset - s->begin) + " of the " + std::to_string(size) + " of " +
                            Program::demangled(s->name)
                      : ""),
               place});
      check(local_, offset, bytes, kind, place, first_of_block_, shared, true);
      return;
    }
    if (kind == Kind::read && (program_.holds(p) || is_parameter(p))) return;  // constants, threadIdx
    fault({kernel_and_thread() + verb(kind) + std::to_string(bytes) + " bytes at " + hex(p) +
               ", which is not memory of the device",
           place});
  }
  void must_be_shared(const void* address, const void* pc) {
    const Pause pause;
    const auto* const p = static_cast<const std::byte*>(address);
    if (p < program_.local_begin() || p >= program_.local_begin() + program_.local_bytes())
      fault({kernel_and_thread() + "reads " + hex(p) + ", which is not of shared memory", program_.offset(pc)});
  }
  /// Found by a check of the type's alignment or by the access itself; `where` is known of what asks for itself.
  enum class Seen { by_type, by_access };
  void misaligned(const void* p, std::size_t alignment, Seen seen, const void* pc, Where where = {}) {
    const Pause pause;
    // clang reads 16 bytes of 8-byte members at once; on the stack, where the emulation's own arguments lie, that is
    // right.
    if (seen == Seen::by_access && stacks_.owner(static_cast<const std::byte*>(p)) >= 0) return;
    fault({kernel_and_thread() + "accesses " + hex(p) + " as if it were aligned to " + std::to_string(alignment) +
               " bytes: misaligned" + (where.file ? at(where) : std::string()),
           where.file ? 0 : program_.offset(pc)});
  }

  void copy_later(void* to, const void* from, std::size_t bytes, std::size_t zeros, const void* pc) {
    const Pause pause;
    const bool whole = (bytes == 4 || bytes == 8 || bytes == 16) && zeros <= bytes;
    if (!whole || ((reinterpret_cast<std::uintptr_t>(to) | reinterpret_cast<std::uintptr_t>(from)) & (bytes - 1)))
      fault({kernel_and_thread() + "copies " + std::to_string(bytes) + " bytes from " + hex(from) + " to " + hex(to) +
                 " asynchronously: misaligned, or not 4, 8 or 16",
             program_.offset(pc)});
    if (bytes > zeros) access(from, bytes - zeros, Kind::read, pc);
    running->copies.push_back({static_cast<std::byte*>(to), static_cast<const std::byte*>(from), bytes, zeros,
                               program_.offset(pc), running->copy_groups});
  }
  void commit_copies() { ++running->copy_groups; }
  /// A thread that ends has waited for none: what it began is written all the same, over what others wrote there since.
  void end_copies() {
    commit_copies();
    wait_for_copies(0);
  }
  void wait_for_copies(std::size_t groups_left) {
    const Pause pause;
    auto& copies = running->copies;
    std::size_t done = 0;
    for (; done < copies.size() && copies[done].group + groups_left < running->copy_groups; ++done) {
      const Copy& c = copies[done];
      access(c.to, c.bytes, Kind::write, program_.at(c.pc));
      std::memcpy(c.to, c.from, c.bytes - c.zeros);
      std::memset(c.to + (c.bytes - c.zeros), 0, c.zeros);
    }
    copies.erase(copies.begin(), copies.begin() + static_cast<std::ptrdiff_t>(done));
  }

  Memory& memory() { return memory_; }
  StreamOrder& order() { return order_; }
  /// A copy or a library's work begins in a stream: the number that its accesses have, or 1, the host's, for what the
  /// host does itself.
  void begin_work(CUstream_st* stream) { order_.begin(stream_number(stream), work_ = ++interval_); }
  void end_work() { work_ = 1; }
  /// The bytes that the host, or work that has begun, accesses now; empty, or which work of another stream touches them
  /// and no event, and no waiting of the host's, lies between.
  const char* access_by_work(Memory::Allocation& a, std::size_t offset, std::size_t bytes, bool writes) {
    if (bytes == 0) return nullptr;
    const char* conflict = nullptr;
    if (work_ > 1) {
      const bool ordered = used(a);
      if (!ordered || !writes)
        a.shadow->for_each(offset, bytes, [&](Cell& cell) {
          if (!ordered) {
            if (!order_.before(cell.write.interval)) conflict = "writes";
            for (const Access& read : {cell.read, cell.other_read, cell.far_read})
              if (writes && !conflict && !order_.before(read.interval)) conflict = "reads";
            if (!writes && !conflict && !order_.before(cell.read.interval)) cell.far_read = cell.read;
          }
          if (!writes && !conflict) {
            cell.read = {};
            cell.read.interval = work_;
          }
          return !conflict;
        });
    }
    if (writes && !conflict) a.shadow->written(offset, bytes, work_);
    return conflict;
  }
  /// The same of a block as a whole, whose bytes nobody looks at.
  const char* use_by_work(Memory::Allocation& a) { return work_ <= 1 || used(a) ? nullptr : "uses"; }
  /// Whether all that streams do with a block comes before what `stream` is asked for now.
  bool may_free(const Memory::Allocation& a, CUstream_st* stream) {
    order_.begin(stream_number(stream), ++interval_);
    for (const StreamUse& use : a.uses)
      if (!order_.before(use.stream, use.piece)) return false;
    return true;
  }
  void set_seed(std::uint64_t seed) { random_ = seed * 0x9E3779B97F4A7C15u + 0x1234567u; }
  void allow_shared(const void* kernel, std::size_t bytes) { shared_limits_.emplace_back(kernel, bytes); }
  std::int64_t launches() const { return launches_; }

  /// A fault of the host's code is thrown by the next call that may throw.
  void host_fault(const std::string& text) {
    if (pending_.empty()) pending_ = text;
  }
  void throw_pending() {
    if (pending_.empty()) return;
    const std::string text = std::exchange(pending_, {});
    throw Fault(text);
  }

 private:
  Machine() : stacks_(max_threads), local_(program_.local_bytes()) {}

  struct Report {
    std::string text = {};
    std::uint32_t pc = 0;
    std::string other = {};
    std::uint32_t other_pc = 0;
  };

  // Turns.

  static void thread_main() {
    Machine& m = get();
    watching = true;
    m.launch_->call(m.launch_->kernel, m.launch_->parameters);
    m.end_copies();
    watching = false;
    running->state = Thread::State::done;
    m.after_exit();
    m.wait();
  }
  void run_block(std::uint32_t block) {
    const dim3 grid = launch_->grid, size = launch_->block;
    blockIdx = {block % grid.x, block / grid.x % grid.y, block / grid.x / grid.y};
    first_of_block_ = ++interval_;
    blocks_run_.push_back({interval_, blockIdx});
    std::memset(static_cast<void*>(ftlib_dynamic_shared), 0xff, launch_->shared_bytes);  // NaN, should a check miss it
    reset_clocks();
    next_.clear();
    for (int i = 0; i < thread_count_; ++i) {
      Thread& t = threads_[index(i)];
      const auto n = static_cast<unsigned>(i);
      t.index = {n % size.x, n / size.x % size.y, n / size.x / size.y};
      t.state = Thread::State::ready;
      t.copies.clear();
      t.copy_groups = 0;
      t.fibre.start(stacks_[i], Stacks::bytes, thread_main);
      next_.push_back(i);
    }
    for (int done = 0; done < thread_count_;) {
      if (next_.empty() && !finish_block_op()) return;
      turn_.swap(next_);
      next_.clear();
      shuffle(turn_);
      for (const int i : turn_) {
        Thread& t = threads_[index(i)];
        running = &t;
        threadIdx = t.index;
        host_.switch_to(t.fibre);
        running = nullptr;
        watching = false;
        if (!fault_.text.empty()) return;
        if (stacks_.overflowed(i)) {
          fault_ = {"kernel " + program_.function(launch_->kernel) + ": thread " + name(t.index) +
                    " needs more stack than the emulation gives"};
          return;
        }
        done += t.state == Thread::State::done;
      }
    }
  }
  void wait() { running->fibre.switch_to(host_); }
  [[noreturn]] void fault(Report report) {
    fault_ = std::move(report);
    wait();
    __builtin_unreachable();
  }
  [[noreturn]] void throw_fault() {
    std::string text = fault_.text;
    if (fault_.pc) text += " (" + program_.line(fault_.pc) + ")";
    text += fault_.other;
    if (fault_.other_pc) text += " (" + program_.line(fault_.other_pc) + ")";
    fault_ = {};
    launch_ = nullptr;
    throw Fault(text);
  }

  // Meetings.

  /// Ends a warp's operation where all threads it names have come.
  void finish_warp_op(const Thread& caller) {
    const int first = number_of(caller) / warp_size * warp_size;
    unsigned present = 0;
    for (int l = 0; l < warp_size && first + l < thread_count_; ++l) {
      const Thread& t = threads_[index(first + l)];
      if (!(caller.mask >> l & 1) || t.state == Thread::State::done) continue;
      if (t.state != Thread::State::in_warp_op || t.mask != caller.mask || t.warp_op != caller.warp_op ||
          t.where != caller.where)
        return;
      present |= 1u << l;
    }
    std::int64_t total = 0;
    bool begun = false;
    for (int l = 0; l < warp_size; ++l) {
      if (!(present >> l & 1)) continue;
      const std::int64_t v = threads_[index(first + l)].value;
      if (caller.warp_op == WarpOp::ballot) total |= v << l;
      else total = begun ? combined(caller.warp_op, total, v) : v;
      begun = true;
    }
    if (caller.warp_op == WarpOp::sync) join_clocks(first / warp_size, present);
    if (caller.warp_op == WarpOp::joint) {
      if (present != ~0u)
        fault({kernel_and_thread() + "needs all lanes" + at(caller.where) + ": some have left the kernel"});
      std::array<void*, warp_size> brought{};
      for (int l = 0; l < warp_size; ++l) brought[index(l)] = reinterpret_cast<void*>(threads_[index(first + l)].value);
      caller.joint(brought.data());
    }
    for (int l = 0; l < warp_size; ++l) {
      if (!(present >> l & 1)) continue;
      Thread& t = threads_[index(first + l)];
      t.result = total;
      if (t.warp_op == WarpOp::shuffle) {
        if (t.source < 0 || t.source >= warp_size || !(present >> t.source & 1))
          fault({kernel_and_thread() + "is in a divergent shuffle" + at(t.where) + ": lane " + std::to_string(l) +
                 " reads lane " + std::to_string(t.source) + ", which takes no part"});
        t.result = threads_[index(first + t.source)].value;
      }
      t.state = Thread::State::ready;
      if (&t != running) next_.push_back(first + l);
    }
  }
  static std::int64_t combined(WarpOp op, std::int64_t a, std::int64_t b) {
    switch (op) {
      case WarpOp::any:
      case WarpOp::bit_or:
        return a | b;
      case WarpOp::all:
      case WarpOp::bit_and:
        return a & b;
      case WarpOp::bit_xor:
        return a ^ b;
      case WarpOp::add:
        return a + b;
      case WarpOp::min:
        return std::min(a, b);
      case WarpOp::max:
        return std::max(a, b);
      default:
        return 0;
    }
  }
  /// Lanes that waited for the one that has left may go on without it.
  void after_exit() {
    const int first = number_of(*running) / warp_size * warp_size;
    for (int l = 0; l < warp_size && first + l < thread_count_; ++l)
      if (threads_[index(first + l)].state == Thread::State::in_warp_op) finish_warp_op(threads_[index(first + l)]);
  }
  /// Called where no thread can go on: ends the block's operation, or reports what everybody waits for.
  bool finish_block_op() {
    const Thread* waiting = nullptr;
    for (int i = 0; i < thread_count_; ++i)
      if (threads_[index(i)].state == Thread::State::in_warp_op) return report_stuck(threads_[index(i)], i);
    for (int i = 0; i < thread_count_ && !waiting; ++i)
      if (threads_[index(i)].state == Thread::State::in_block_op) waiting = &threads_[index(i)];
    int count = 0;
    for (int i = 0; i < thread_count_; ++i) {
      const Thread& t = threads_[index(i)];
      if (t.state == Thread::State::done || t.where != waiting->where || t.block_op != waiting->block_op) {
        fault_ = {"kernel " + program_.function(launch_->kernel) + ", block " + name(blockIdx) +
                  ": divergent barrier: thread " + name(waiting->index) + at(waiting->where) + " waits for thread " +
                  name(t.index) + where_it_is(t)};
        return false;
      }
      count += t.value != 0;
    }
    ++interval_;
    reset_clocks();
    for (int i = 0; i < thread_count_; ++i) {
      Thread& t = threads_[index(i)];
      t.result = t.block_op == BlockOp::count ? count : t.block_op == BlockOp::all ? count == thread_count_ : count > 0;
      t.state = Thread::State::ready;
      next_.push_back(i);
    }
    return true;
  }
  bool report_stuck(const Thread& t, int number) {
    const int first = number / warp_size * warp_size;
    std::string others;
    for (int l = 0; l < warp_size && first + l < thread_count_; ++l) {
      const Thread& other = threads_[index(first + l)];
      const bool same = other.state == Thread::State::in_warp_op && other.where == t.where && other.mask == t.mask;
      if (!(t.mask >> l & 1) || other.state == Thread::State::done || same) continue;
      others = " waits for thread " + name(other.index) + where_it_is(other);
      break;
    }
    fault_ = {"kernel " + program_.function(launch_->kernel) + ", block " + name(blockIdx) +
              ": divergent shuffle, vote or __syncwarp: thread " + name(t.index) + at(t.where) + ", mask " +
              hex(t.mask) + others};
    return false;
  }
  std::string where_it_is(const Thread& t) const {
    if (t.state == Thread::State::done) return ", which has left the kernel";
    return ", which waits" + at(t.where) +
           (t.state == Thread::State::in_warp_op ? " with mask " + hex(t.mask) : std::string());
  }

  void reset_clocks() {
    for (WarpClock& clock : clocks_)
      if (clock.used) clock = {};
  }
  void join_clocks(int warp, unsigned lanes) {
    WarpClock& clock = clocks_[index(warp)];
    clock.used = true;
    std::array<std::uint32_t, warp_size> newest{};
    for (std::size_t l = 0; l < warp_size; ++l)
      if (lanes >> l & 1) {
        ++clock.seen[l][l];  // what it does from here on is in its next epoch
        for (std::size_t k = 0; k < warp_size; ++k) newest[k] = std::max(newest[k], clock.seen[l][k]);
      }
    for (std::size_t l = 0; l < warp_size; ++l)
      if (lanes >> l & 1) clock.seen[l] = newest;
  }

  // Checks.

  /// A block is used by the work that has begun: its last use in that stream. Returns whether all uses of it by earlier
  /// work come before, so that nobody need look at them byte by byte.
  bool used(Memory::Allocation& a) {
    if (a.last_work == order_.work()) return a.ordered;
    a.last_work = order_.work();
    a.ordered = true;
    StreamUse* mine = nullptr;
    for (StreamUse& use : a.uses) {
      a.ordered &= order_.before(use.stream, use.piece);
      if (use.stream == order_.stream()) mine = &use;
    }
    if (mine) mine->piece = order_.piece();
    else a.uses.push_back({order_.stream(), order_.piece()});
    return a.ordered;
  }
  /// Whether an access of this launch came before the running thread's present on every GPU, whatever the order of
  /// threads.
  bool came_before(const Access& a) const {
    if (a.interval < first_of_block_) return false;  // of another block of this launch
    if (a.interval < interval_) return true;         // a barrier lies between
    const int me = number_of(*running), other = static_cast<int>(a.thread);
    if (me == other) return true;
    if (me / warp_size != other / warp_size) return false;
    return clocks_[index(me / warp_size)].seen[index(me % warp_size)][index(other % warp_size)] > a.epoch;
  }
  /// `ordered`: what comes before `first` is known to have come before this.
  void check(Shadow& shadow, std::size_t offset, std::size_t bytes, Kind kind, std::uint32_t pc, std::uint32_t first,
             const char* memory, bool ordered) {
    const std::uint32_t oldest = memory == shared ? first_of_block_ : 1;  // a write before it leaves nothing to read
    const int me = number_of(*running);
    Access now;
    now.interval = interval_;
    now.thread = static_cast<std::uint32_t>(me) & 1023u;
    now.atomic = kind == Kind::atomic;
    now.epoch = clocks_[index(me / warp_size)].seen[index(me % warp_size)][index(me % warp_size)] & 0x1fffffu;
    now.pc = pc;
    const char* unwritten = nullptr;
    Access conflict;
    const char* conflict_verb = nullptr;
    // Of another launch: nothing of shared memory is left by it, and of the device's a stream may be.
    const auto before = [&](const Access& a) {
      return a.interval < first ? ordered || order_.before(a.interval) : came_before(a);
    };
    shadow.for_each(offset, bytes, [&](Cell& cell) {
      if (kind != Kind::write && cell.write.interval < oldest) {
        unwritten = memory;
        return false;
      }
      if (!(kind == Kind::atomic && cell.write.atomic && cell.write.interval >= first) && !before(cell.write)) {
        conflict = cell.write;
        conflict_verb = cell.write.atomic ? " changes it atomically" : " writes it";
        return false;
      }
      if (kind == Kind::read) {
        if (cell.read.interval == now.interval && cell.read.thread == now.thread) {
          cell.read = now;
          return true;
        }
        if (cell.read.interval < first && !before(cell.read)) cell.far_read = cell.read;
        if (cell.read.interval >= first) {
          Access& kept = cell.read.interval < first_of_block_ ? cell.far_read : cell.other_read;
          if (&kept == &cell.other_read && kept.interval >= first && kept.interval < first_of_block_)
            cell.far_read = kept;
          kept = cell.read;
        }
        cell.read = now;
        return true;
      }
      for (const Access& read : {cell.read, cell.other_read, cell.far_read})
        if (!before(read)) {
          conflict = read;
          conflict_verb = " reads it";
          return false;
        }
      cell.write = now;
      return true;
    });
    if (unwritten)
      fault({kernel_and_thread() + "reads " + std::to_string(bytes) + " bytes of " + unwritten +
                 " that nobody has written" + place_in(offset, memory),
             pc});
    if (conflict_verb && conflict.interval < first)
      fault({"race of streams: " + kernel_and_thread() + verb(kind) + std::to_string(bytes) + " bytes of " + memory +
                 place_in(offset, memory),
             pc, std::string("; work of another stream") + conflict_verb + ", and no event lies between", conflict.pc});
    if (conflict_verb) {
      auto run = blocks_run_.rbegin();
      while (run->first > conflict.interval) ++run;
      const dim3 size = launch_->block;
      const uint3 thread{conflict.thread % size.x, conflict.thread / size.x % size.y,
                         conflict.thread / size.x / size.y};
      fault({"race in " + kernel_and_thread() + verb(kind) + std::to_string(bytes) + " bytes of " + memory +
                 place_in(offset, memory),
             pc, "; thread " + name(thread) + " of block " + name(run->second) + conflict_verb, conflict.pc});
    }
  }
  std::string place_in(std::size_t offset, const char* memory) const {
    if (memory == global) return " at byte " + std::to_string(offset) + " of its allocation";
    const Program::Symbol* s = program_.local(offset);
    return s ? " at byte " + std::to_string(offset - s->begin) + " of " + Program::demangled(s->name) : "";
  }
  [[noreturn]] void stray(const Memory::Allocation* a, const std::byte* p, std::size_t bytes, Kind kind,
                          std::uint32_t pc) {
    std::string where = ", which was never allocated";
    if (a) {
      const Memory::Allocation* next = memory_.after(*a);
      const auto past = p - (a->begin + a->bytes), before = next ? next->begin - p : past + 1;
      if (before < past)
        where = ", " + std::to_string(before) + " bytes before an allocation of " + std::to_string(next->bytes);
      else if (past + static_cast<std::ptrdiff_t>(bytes) > 0)
        where = ": out of bounds, at byte " + std::to_string(p - a->begin) + " of an allocation of " +
                std::to_string(a->bytes);
      if (!a->alive && before >= past) where += ", which was freed";
    }
    fault({kernel_and_thread() + verb(kind) + std::to_string(bytes) + " bytes at " + hex(p) + where, pc});
  }
  void host_touches(const std::byte* p, Kind kind, const void* pc) {
    host_fault("the host " + std::string(verb(kind)) + "device memory at " + hex(p) + " (" +
               program_.line(program_.offset(pc)) + ")");
  }
  const Program::Symbol* variable_at(std::size_t offset) {
    if (!variable_ || offset < variable_->begin || offset >= variable_->begin + variable_->size)
      variable_ = program_.local(offset);
    return variable_;
  }
  bool is_dynamic(const Program::Symbol& s) const {
    return program_.local_begin() + s.begin == reinterpret_cast<std::byte*>(ftlib_dynamic_shared);
  }
  bool is_parameter(const std::byte* p) const {
    const auto* const begin = static_cast<const std::byte*>(launch_->parameters);
    return p >= begin && p < begin + launch_->parameter_bytes;
  }

  // Words.

  static constexpr const char *global = "global memory", *shared = "shared memory";

  static std::string name(const uint3& i) {
    return "(" + std::to_string(i.x) + ", " + std::to_string(i.y) + ", " + std::to_string(i.z) + ")";
  }
  static std::string hex(std::uintptr_t value) {
    char text[32];
    std::snprintf(text, sizeof text, "0x%zx", std::size_t{value});
    return text;
  }
  static std::string hex(const void* p) { return hex(reinterpret_cast<std::uintptr_t>(p)); }
  static std::string at(const Where& w) { return " at " + std::string(w.file) + ":" + std::to_string(w.line); }
  static const char* verb(Kind kind) {
    return kind == Kind::read ? "reads " : kind == Kind::write ? "writes " : "changes atomically ";
  }
  std::string kernel_and_thread() const {
    return "kernel " + program_.function(launch_->kernel) + ": thread " + name(running->index) + " of block " +
           name(blockIdx) + " ";
  }

  static std::size_t index(int i) { return static_cast<std::size_t>(i); }
  int number_of(const Thread& t) const { return static_cast<int>(&t - threads_.data()); }
  template <class V> void shuffle(V& items) {
    for (std::size_t i = items.size(); i > 1; --i) {
      random_ ^= random_ << 13;
      random_ ^= random_ >> 7;
      random_ ^= random_ << 17;
      std::swap(items[i - 1], items[random_ % i]);
    }
  }
  Program program_;
  Memory memory_;
  StreamOrder order_;
  std::uint32_t work_ = 1;
  Stacks stacks_;
  Shadow local_;  // of the program's thread-local block: shared memory
  std::vector<Thread> threads_{max_threads};
  std::array<WarpClock, max_threads / warp_size> clocks_{};
  std::vector<std::pair<const void*, std::size_t>> shared_limits_;
  std::uint64_t random_ = 0x9E3779B97F4A7C15u;
  std::int64_t launches_ = 0;

  // The launch that runs.
  const Launch* launch_ = nullptr;
  int thread_count_ = 0;
  std::uint32_t interval_ = 1, first_of_launch_ = 2, first_of_block_ = 2;
  std::vector<std::pair<std::uint32_t, uint3>> blocks_run_;  // first interval and index
  Fibre host_;
  std::vector<int> turn_, next_;
  const Program::Symbol* variable_ = nullptr;  // found last
  Report fault_;
  std::string pending_;
};

/// What the host, or a library for it, does to device memory; a copy may take along what nobody has written, and
/// scratch is looked at as a block, whose bytes are a library's own.
enum class HostAccess { copy, read, write, scratch };
/// Throws Fault, naming the call, where the bytes at p are not within one allocation that lives, or are read and nobody
/// has written them; marks what is written. Memory of the host's own passes.
void host_access(const char* call, const void* p, std::size_t bytes, HostAccess access);

/// While it lives, what host_access() is told of is work of a stream's, which must be ordered with that of others.
struct StreamWork {
  explicit StreamWork(CUstream_st* stream) { Machine::get().begin_work(stream); }
  ~StreamWork() { Machine::get().end_work(); }
  StreamWork(const StreamWork&) = delete;
  StreamWork& operator=(const StreamWork&) = delete;
};

}  // namespace cuda_emulation
