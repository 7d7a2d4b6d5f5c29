// tests/cuda_emulation/nccl.cpp: a stand-in for NCCL among ranks that are threads. Data is moved at once; what is sent
// must have been written, by work that comes before the send in its stream or by an event, and what is received comes
// before what its stream does from there on. Ranks must make matching calls.
#include "nccl.h"

#include <condition_variable>  // std::condition_variable_any
#include <deque>               // std::deque
#include <map>                 // std::map
#include <mutex>               // std::mutex
#include <string>              // std::string
#include <thread>              // std::thread
#include <tuple>               // std::tie

#include "machine.hpp"
#include "nccl_ranks.hpp"

using namespace cuda_emulation;

namespace {
std::mutex turn;  // whose holder's rank goes on
std::condition_variable_any changed;
int failed_ranks = 0;

/// False where a rank has failed meanwhile.
template <class Ready> bool wait_until(Ready ready) {
  changed.wait(turn, [&] { return failed_ranks > 0 || ready(); });
  return failed_ranks == 0;
}

struct Message {
  const void* from;
  std::size_t count;
  ncclDataType_t type;
  Seen seen;  // by the stream that sends
  bool taken = false;
};
struct World {
  int ranks = 0, met = 0;
  std::map<std::pair<int, int>, std::deque<Message*>> on_the_way;  // by sender and receiver
  // A call of all ranks: what each of them gave.
  struct Given {
    const void* from;
    std::size_t count;
    ncclDataType_t type;
    bool sum;
    Seen seen;
  };
  std::vector<Given> given;
  int arrived = 0;
  long round = 0;
};
std::map<std::string, World> worlds;

struct Call {
  bool sends;
  void* data;
  std::size_t count;
  ncclDataType_t type;
  int peer;
  ncclComm_t comm;
  cudaStream_t stream;
};
thread_local int depth = 0;  // of groups
thread_local std::vector<Call> calls;

std::size_t bytes_of(std::size_t count, ncclDataType_t type) {
  return count * (type == ncclInt8 ? 1 : type == ncclFloat32 ? 4 : 8);
}
}  // namespace

struct ncclComm {
  World& world;
  int rank;
};

namespace {
/// All ranks are here.
bool meet(World& w) {
  const long round = w.round;
  if (++w.arrived == w.ranks) {
    w.arrived = 0;
    ++w.round;
    changed.notify_all();
  }
  return wait_until([&] { return w.round != round; });
}
Seen seen_by(cudaStream_t stream) { return Machine::get().order().record(stream_number(stream)); }
void comes_behind(cudaStream_t stream, const Seen& seen) { Machine::get().order().wait(stream_number(stream), seen); }

/// Sends go out first, then receives wait for theirs, then sends until they were taken.
ncclResult_t run_calls() {
  std::deque<Message> sent;
  const auto all = std::exchange(calls, {});
  for (const Call& c : all) {
    if (!of_current_device(c.stream)) return ncclInvalidArgument;
    if (!c.sends) continue;
    {
      const StreamWork begun(c.stream);
      host_access("ncclSend", c.data, bytes_of(c.count, c.type), HostAccess::read);
    }
    sent.push_back({c.data, c.count, c.type, seen_by(c.stream)});
    c.comm->world.on_the_way[{c.comm->rank, c.peer}].push_back(&sent.back());
  }
  changed.notify_all();
  for (const Call& c : all) {
    if (c.sends) continue;
    auto& coming = c.comm->world.on_the_way[{c.peer, c.comm->rank}];
    if (!wait_until([&] { return !coming.empty(); })) return ncclRemoteError;
    Message& m = *coming.front();
    if (m.count != c.count || m.type != c.type) return ncclInvalidUsage;
    comes_behind(c.stream, m.seen);
    const StreamWork begun(c.stream);
    host_access("ncclRecv", c.data, bytes_of(c.count, c.type), HostAccess::write);
    std::memcpy(c.data, m.from, bytes_of(c.count, c.type));
    coming.pop_front();
    m.taken = true;
    changed.notify_all();
  }
  for (const Message& m : sent)
    if (!wait_until([&] { return m.taken; })) return ncclRemoteError;
  return ncclSuccess;
}
ncclResult_t call(Call c) {
  calls.push_back(c);
  return depth > 0 ? ncclSuccess : run_calls();
}

template <class T> void add(void* to, const void* from, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) static_cast<T*>(to)[i] += static_cast<const T*>(from)[i];
}
/// ncclAllGather and ncclReduceScatter, whose parts have `count` elements.
ncclResult_t collective(const void* from, void* to, std::size_t count, ncclDataType_t type, bool sum, ncclComm_t comm,
                        cudaStream_t stream) {
  World& w = comm->world;
  const auto ranks = static_cast<std::size_t>(w.ranks), me = static_cast<std::size_t>(comm->rank);
  const std::size_t part = bytes_of(count, type);
  if (depth > 0 || !of_current_device(stream) || (sum && type == ncclInt8)) return ncclInvalidUsage;
  {
    const StreamWork begun(stream);
    host_access(sum ? "ncclReduceScatter" : "ncclAllGather", from, sum ? part * ranks : part, HostAccess::read);
  }
  w.given.resize(ranks);
  w.given[me] = {from, count, type, sum, seen_by(stream)};
  if (!meet(w)) return ncclRemoteError;
  for (const auto& other : w.given) {
    if (std::tie(other.count, other.type, other.sum) != std::tie(count, type, sum)) return ncclInvalidUsage;
    comes_behind(stream, other.seen);
  }
  {
    const StreamWork begun(stream);
    host_access(sum ? "ncclReduceScatter" : "ncclAllGather", to, sum ? part : part * ranks, HostAccess::write);
    std::vector<std::byte> own(sum ? part : 0);
    for (std::size_t r = 0; r < ranks; ++r) {
      const auto* const theirs = static_cast<const std::byte*>(w.given[r].from) + (sum ? me * part : 0);
      if (!sum) std::memmove(static_cast<std::byte*>(to) + r * part, theirs, part);
      else if (r == 0) std::memcpy(own.data(), theirs, part);
      else if (type == ncclFloat32) add<float>(own.data(), theirs, count);
      else add<double>(own.data(), theirs, count);
    }
    if (sum) std::memcpy(to, own.data(), part);
  }
  return meet(w) ? ncclSuccess : ncclRemoteError;
}
}  // namespace

namespace cuda_emulation {
void run_nccl_ranks(int ranks, const std::function<void(int)>& work) {
  std::exception_ptr error;
  failed_ranks = 0;
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank)
    threads.emplace_back([&, rank] {
      const std::lock_guard lock(turn);
      try {
        work(rank);
      } catch (...) {
        if (failed_ranks++ == 0) error = std::current_exception();
        changed.notify_all();
      }
    });
  for (std::thread& thread : threads) thread.join();
  worlds.clear();
  if (error) std::rethrow_exception(error);
}
}  // namespace cuda_emulation

extern "C" {
ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  static int made = 0;
  const char* const given = std::getenv("NCCL_COMM_ID");
  *id = {};
  std::snprintf(id->internal, sizeof id->internal, "%s", given ? given : std::to_string(++made).c_str());
  return ncclSuccess;
}
ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank, ncclConfig_t*) {
  World& w = worlds[id.internal];
  if (w.ranks == 0) w.ranks = ranks;
  if (w.ranks != ranks || rank < 0 || rank >= ranks) return ncclInvalidArgument;
  *comm = new ncclComm{w, rank};
  return meet(w) ? ncclSuccess : ncclRemoteError;
}
ncclResult_t ncclCommFinalize(ncclComm_t) { return ncclSuccess; }
ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  delete comm;
  return ncclSuccess;
}
ncclResult_t ncclCommAbort(ncclComm_t comm) { return ncclCommDestroy(comm); }
ncclResult_t ncclCommGetAsyncError(ncclComm_t, ncclResult_t* state) {
  *state = failed_ranks > 0 ? ncclRemoteError : ncclSuccess;
  return ncclSuccess;
}
const char* ncclGetErrorString(ncclResult_t result) {
  return result == ncclRemoteError ? "remote process exited or there was a network error" : "another ncclResult_t";
}
const char* ncclGetLastError(ncclComm_t) { return ""; }
ncclResult_t ncclSend(const void* from, std::size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return call({true, const_cast<void*>(from), count, type, peer, comm, stream});
}
ncclResult_t ncclRecv(void* to, std::size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return call({false, to, count, type, peer, comm, stream});
}
ncclResult_t ncclAllGather(const void* from, void* to, std::size_t count, ncclDataType_t type, ncclComm_t comm,
                           cudaStream_t stream) {
  return collective(from, to, count, type, false, comm, stream);
}
ncclResult_t ncclReduceScatter(const void* from, void* to, std::size_t count, ncclDataType_t type, ncclRedOp_t,
                               ncclComm_t comm, cudaStream_t stream) {
  return collective(from, to, count, type, true, comm, stream);
}
ncclResult_t ncclGroupStart() {
  ++depth;
  return ncclSuccess;
}
ncclResult_t ncclGroupEnd() { return --depth > 0 ? ncclSuccess : run_calls(); }
}
