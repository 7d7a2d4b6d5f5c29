// distributed/nccl.cuda.cuh: ranks that have a GPU each, over NCCL. Include it in the program, which links ftlib::nccl;
// no other header does.
#pragma once
#include <ftlib/distributed/array_exchange.hpp>
#include <ftlib/tensor/context.cuda.cuh>
#include <ftlib/tensor/copy.hpp>  // accumulate

#include <nccl.h>

#include <unistd.h>   // gethostname
#include <algorithm>  // std::max
#include <array>      // std::array
#include <atomic>     // std::atomic
#include <charconv>   // std::from_chars
#include <chrono>     // std::chrono
#include <cstdlib>    // std::getenv, setenv
#include <exception>  // std::uncaught_exceptions
#include <thread>     // std::this_thread

namespace ft::inline FTLIB_ABI {

/// NCCL's ranks. Arrays go from GPU to GPU in a stream of their own, which waits for the context's where they are
/// handed over, and which the context's waits for in wait(); the host waits for neither.
class NcclCommunicator final : public Communicator, public ArrayExchange<Cuda> {
 public:
  /// All ranks make one at the same time, each with another GPU, and the id that ncclGetUniqueId has given to one of
  /// them: nccl_over() and nccl_from_environment() see to that. Throws Error where they do not meet in 10 minutes.
  NcclCommunicator(const ncclUniqueId& id, int rank, int ranks, int device)
      : rank_(rank), size_(ranks), stream_({.device = device}) {
    const detail::DeviceGuard guard(device);
    for (cudaEvent_t* event : {&handed_over_, &done_})
      detail::check_cuda(cudaEventCreateWithFlags(event, cudaEventDisableTiming), "cudaEventCreateWithFlags");
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    announce("the meeting of ranks");
    settle(ncclCommInitRankConfig(&comm_, ranks, id, rank, &config), "ncclCommInitRankConfig");
    std::array<char, 256> host{};
    ::gethostname(host.data(), host.size() - 1);
    nodes_ = gather(host.data());
  }
  ~NcclCommunicator() override {
    const detail::DeviceGuard guard(stream_.device());
    bool sound = comm_ && !failed_ && !cancelled_ && std::uncaught_exceptions() <= unwinding_;
    try {
      if (sound) {
        finish();
        settle(ncclCommFinalize(comm_), "ncclCommFinalize");
      }
    } catch (...) {
      sound = false;
    }
    if (sound) ncclCommDestroy(comm_);
    else if (comm_) ncclCommAbort(comm_);
    if (staged_) cudaFreeHost(staged_);
    for (cudaEvent_t event : {handed_over_, done_}) cudaEventDestroy(event);
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  std::string node() const override { return nodes_.empty() ? "?" : nodes_[static_cast<std::size_t>(rank_)]; }
  std::string name() const override { return str(Communicator::name(), " (", node(), ", GPU ", device(), ')'); }
  void cancel() override { cancelled_ = true; }
  /// The GPU: of a Context<Cuda> whose arrays are exchanged.
  int device() const { return stream_.device(); }

  void swap(int other, std::span<const std::byte> out, std::span<std::byte> in) override {
    constexpr std::size_t most = std::size_t{64} << 20;  // what is staged in pinned memory at a time
    for (std::size_t i = 0; i < std::max(out.size(), in.size()); i += most) {
      const auto sent = out.subspan(std::min(i, out.size()));
      const auto got = in.subspan(std::min(i, in.size()));
      const std::size_t s = std::min(most, sent.size()), g = std::min(most, got.size());
      stage(s + g);
      std::byte *const theirs = staged_ + s, *const device = on_device();
      if (s > 0) std::memcpy(staged_, sent.data(), s);
      stream_.copy_from_host(device, staged_, s);
      grouped([&] {
        if (s > 0) settle(ncclSend(device, s, ncclInt8, other, comm_, stream()), "ncclSend");
        if (g > 0) settle(ncclRecv(device + s, g, ncclInt8, other, comm_, stream()), "ncclRecv");
      });
      bring(theirs, device + s, g);
      if (g > 0) std::memcpy(got.data(), theirs, g);
    }
  }
  std::vector<std::string> gather(std::string_view mine) override {
    const std::uint64_t length = mine.size();
    std::vector<std::uint64_t> lengths(static_cast<std::size_t>(size_));
    const auto said = gather_equal(&length, sizeof length, sizeof length);
    std::memcpy(lengths.data(), said.data(), said.size());
    const std::size_t most = *std::max_element(lengths.begin(), lengths.end());
    const auto all = most > 0 ? gather_equal(mine.data(), mine.size(), most) : std::string();
    std::vector<std::string> parts;
    for (std::size_t r = 0; r < lengths.size(); ++r) parts.push_back(all.substr(most > 0 ? r * most : 0, lengths[r]));
    return parts;
  }

  void reduce_scatter(Context<Cuda>& ctx, std::shared_ptr<float> x, std::vector<std::size_t> bounds,
                      bool exact) override {
    add_up(ctx, std::move(x), bounds, exact, ncclFloat32);
  }
  void reduce_scatter(Context<Cuda>& ctx, std::shared_ptr<double> x, std::vector<std::size_t> bounds,
                      bool exact) override {
    add_up(ctx, std::move(x), bounds, exact, ncclFloat64);
  }
  void all_gather(Context<Cuda>& ctx, std::shared_ptr<std::byte> x, std::vector<std::size_t> bounds) override {
    take_over(ctx, x);
    const auto send = [&](int other, detail::Parts mine, detail::Parts theirs) {
      grouped([&] { swap_parts(x.get(), x.get() + bounds[theirs.first], bounds, other, mine, theirs, ncclInt8); });
    };
    if (power_of_two()) return detail::double_up(rank_, size_, send);
    const auto me = static_cast<std::size_t>(rank_);
    detail::in_pairs(*this, [&](int other) {
      const auto r = static_cast<std::size_t>(other);
      send(other, {me, me + 1}, {r, r + 1});
    });
  }
  void wait(Context<Cuda>& ctx) override {
    must_be_here(ctx);
    follow(ctx.stream(), stream_.stream(), done_);
    kept_.clear();  // given back in the context's order, which is behind the exchange now
  }

 private:
  using Clock = std::chrono::steady_clock;

  cudaStream_t stream() const { return stream_.stream(); }
  bool power_of_two() const { return std::has_single_bit(static_cast<unsigned>(size_)); }

  /// What is asked of `later` from here on comes behind what `earlier` was asked for.
  void follow(cudaStream_t later, cudaStream_t earlier, cudaEvent_t event) {
    const detail::DeviceGuard guard(device());
    detail::check_cuda(cudaEventRecord(event, earlier), "cudaEventRecord");
    detail::check_cuda(cudaStreamWaitEvent(later, event, 0), "cudaStreamWaitEvent");
  }
  void must_be_here(Context<Cuda>& ctx) const {
    if (ctx.device() != device())
      throw Error(str(name(), ": an array of GPU ", ctx.device(), " is to be exchanged"),
                  "make the model's context with {.device = communicator.device()}.");
  }
  /// x is what the context has written so far, and is kept until wait().
  void take_over(Context<Cuda>& ctx, std::shared_ptr<void> x) {
    must_be_here(ctx);
    follow(stream_.stream(), ctx.stream(), handed_over_);
    kept_.push_back(std::move(x));
  }

  /// In the tree's order, by recursive halving as distributed/communicator.hpp has it: what machines say to one another
  /// is then no more than in a ring. Not `exact`: by NCCL, which wants parts of one size.
  template <class V>
  void add_up(Context<Cuda>& ctx, std::shared_ptr<V> x, const std::vector<std::size_t>& bounds, bool exact,
              ncclDataType_t type) {
    take_over(ctx, x);
    const auto count = [&](detail::Parts parts) { return bounds[parts.last] - bounds[parts.first]; };
    if (exact && power_of_two()) {
      const std::size_t middle = bounds[static_cast<std::size_t>(size_ / 2)];
      const auto theirs =
          std::static_pointer_cast<V>(stream_.allocate(std::max(middle, bounds.back() - middle) * sizeof(V)));
      return detail::halve(rank_, size_, [&](int other, detail::Parts sent, detail::Parts kept) {
        grouped([&] { swap_parts(x.get(), theirs.get(), bounds, other, sent, kept, type); });
        const auto n = static_cast<int64_t>(count(kept));
        if (n > 0) accumulate(stream_, View<V>(x.get() + bounds[kept.first], {n}), View<const V>(theirs.get(), {n}));
      });
    }
    const auto ranks = static_cast<std::size_t>(size_), me = static_cast<std::size_t>(rank_);
    std::size_t each = 0;
    for (std::size_t part = 0; part < ranks; ++part) each = std::max(each, count({part, part + 1}));
    const auto even = std::static_pointer_cast<V>(stream_.allocate(each * ranks * sizeof(V)));
    stream_.zero(even.get(), each * ranks * sizeof(V));
    for (int r = 0; r < size_; ++r) {
      const std::size_t part = part_of(r, size_);
      stream_.copy_on_device(even.get() + static_cast<std::size_t>(r) * each, x.get() + bounds[part],
                             count({part, part + 1}) * sizeof(V));
    }
    V* const sum = even.get() + me * each;
    const detail::DeviceGuard guard(device());
    settle(ncclReduceScatter(even.get(), sum, each, type, ncclSum, comm_, stream()), "ncclReduceScatter");
    const std::size_t mine = part_of(rank_, size_);
    stream_.copy_on_device(x.get() + bounds[mine], sum, count({mine, mine + 1}) * sizeof(V));
  }
  template <class V>
  void swap_parts(const V* x, V* to, const std::vector<std::size_t>& bounds, int other, detail::Parts sent,
                  detail::Parts got, ncclDataType_t type) {
    const std::size_t out = bounds[sent.last] - bounds[sent.first], in = bounds[got.last] - bounds[got.first];
    if (out > 0) settle(ncclSend(x + bounds[sent.first], out, type, other, comm_, stream()), "ncclSend");
    if (in > 0) settle(ncclRecv(to, in, type, other, comm_, stream()), "ncclRecv");
  }

  /// Of each rank, `bytes` bytes, made up to `each` by zeros.
  std::string gather_equal(const void* mine, std::size_t bytes, std::size_t each) {
    const auto ranks = static_cast<std::size_t>(size_);
    stage(each * ranks);
    std::byte *const here = staged_ + static_cast<std::size_t>(rank_) * each, *const device =
                                                                                  on_device() +
                                                                                  static_cast<std::size_t>(rank_) *
                                                                                      each;
    std::memset(here, 0, each);
    if (bytes > 0) std::memcpy(here, mine, bytes);
    stream_.copy_from_host(device, here, each);
    const detail::DeviceGuard guard(stream_.device());
    settle(ncclAllGather(device, on_device(), each, ncclInt8, comm_, stream()), "ncclAllGather");
    bring(staged_, on_device(), each * ranks);
    return {reinterpret_cast<const char*>(staged_), each * ranks};
  }
  std::byte* on_device() const { return static_cast<std::byte*>(staged_on_device_.get()); }
  /// Pinned memory, which copies to and from go on in while the host looks at its clock.
  void stage(std::size_t bytes) {
    if (bytes <= staged_bytes_) return;
    const detail::DeviceGuard guard(device());
    if (staged_) cudaFreeHost(std::exchange(staged_, nullptr));
    staged_bytes_ = 0;
    void* host = nullptr;
    detail::check_cuda(cudaMallocHost(&host, bytes), "cudaMallocHost");
    staged_ = static_cast<std::byte*>(host);
    staged_on_device_ = stream_.allocate(bytes);
    staged_bytes_ = bytes;
  }
  /// To the host's pinned memory, and waits.
  void bring(std::byte* to, const std::byte* from, std::size_t bytes) {
    const detail::DeviceGuard guard(device());
    if (bytes > 0)
      detail::check_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream()), "cudaMemcpyAsync");
    finish();
  }

  /// Sends and receives that go at once.
  template <class F> void grouped(F calls) {
    const detail::DeviceGuard guard(device());
    settle(ncclGroupStart(), "ncclGroupStart");
    calls();
    settle(ncclGroupEnd(), "ncclGroupEnd");
  }
  /// Waits for the stream; throws where it does not come to its end, because a rank has failed or hangs.
  void finish() {
    const detail::DeviceGuard guard(device());
    detail::check_cuda(cudaEventRecord(done_, stream()), "cudaEventRecord");
    const auto begin = Clock::now();
    for (cudaError_t found = cudaEventQuery(done_); found != cudaSuccess; found = cudaEventQuery(done_)) {
      if (found != cudaErrorNotReady) detail::check_cuda(found, "cudaEventQuery");
      ncclResult_t state = ncclSuccess;
      ncclCommGetAsyncError(comm_, &state);
      if (state != ncclInProgress) check(state, "the exchange");
      pause(begin);
    }
  }
  /// Calls return at once; where one has only begun, its end is asked for, with an eye on the clock.
  void settle(ncclResult_t result, const char* call) {
    for (const auto begin = Clock::now(); result == ncclInProgress;) {
      check(ncclCommGetAsyncError(comm_, &result), "ncclCommGetAsyncError");
      if (result == ncclInProgress) pause(begin);
    }
    check(result, call);
  }
  void pause(Clock::time_point begin) {
    const auto time = std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - begin);
    if (cancelled_) throw Error(str(name(), ": cancelled, for this rank has failed"), {}, ErrorKind::cancelled);
    if (time > timeout_) {
      failed_ = true;
      throw Error(waited(time) + "another rank", waiting_hint, ErrorKind::other);
    }
    if (time < std::chrono::milliseconds(1)) std::this_thread::yield();
    else std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
  void check(ncclResult_t result, const char* call) {
    if (result == ncclSuccess) return;
    failed_ = true;
    const char* const why = ncclGetLastError(comm_);
    throw Error(str(name(), ": ", call, ": ", ncclGetErrorString(result), why && *why ? ", " : "", why ? why : ""),
                result == ncclRemoteError ? "another rank has failed: its message is the one to look at."
                                          : "NCCL_DEBUG=WARN says more; each rank needs a GPU of its own.",
                ErrorKind::other);
  }

  int rank_, size_;
  std::atomic<bool> cancelled_ = false;
  bool failed_ = false;
  int unwinding_ = std::uncaught_exceptions();  // where there are more at the end, this rank has failed
  Context<Cuda> stream_;                        // the exchange's own
  ncclComm_t comm_ = nullptr;
  cudaEvent_t handed_over_ = nullptr, done_ = nullptr;
  std::vector<std::shared_ptr<void>> kept_;  // what is being exchanged
  std::vector<std::string> nodes_;
  std::byte* staged_ = nullptr;
  std::size_t staged_bytes_ = 0;
  std::shared_ptr<void> staged_on_device_;
};

/// NCCL's ranks for those of another engine, MPI's, say, which carries the id alone; `device`: this rank's GPU, for
/// instance share_node(&host).rank of distributed/node.hpp.
[[gnu::cold]] inline std::unique_ptr<NcclCommunicator> nccl_over(Communicator& host, int device) {
  ncclUniqueId id{};
  std::string said;
  if (host.rank() == 0) {
    if (const ncclResult_t result = ncclGetUniqueId(&id); result != ncclSuccess) said = ncclGetErrorString(result);
    else said.assign(id.internal, sizeof id.internal);
  }
  host.announce("NCCL's id");
  const std::string first = host.gather(said).front();
  if (first.size() != sizeof id.internal) throw Error("rank 0: ncclGetUniqueId: " + first);
  std::copy(first.begin(), first.end(), id.internal);
  return std::make_unique<NcclCommunicator>(id, host.rank(), host.size(), device);
}

/// The rank that torchrun, or whoever sets the same variables, has made of this process: RANK of WORLD_SIZE, on GPU
/// LOCAL_RANK, which meet at MASTER_ADDR and MASTER_PORT (the port after it where torchrun itself listens there), or at
/// NCCL_COMM_ID, host:port. Null where RANK and WORLD_SIZE are not set. Throws Error for what is no number or missing.
[[gnu::cold]] inline std::unique_ptr<NcclCommunicator> nccl_from_environment() {
  const auto text = [](const char* name) {
    const char* const value = std::getenv(name);
    return std::string(value ? value : "");
  };
  const auto number = [&](const char* name, int least) {
    const std::string value = text(name);
    int found = -1;
    const auto [end, failure] = std::from_chars(value.data(), value.data() + value.size(), found);
    if (failure != std::errc{} || end != value.data() + value.size() || found < least)
      throw Error(str("nccl: ", name, " is '", value, "'"), "torchrun sets it: a whole number.");
    return found;
  };
  if (text("RANK").empty() && text("WORLD_SIZE").empty()) return nullptr;
  const int rank = number("RANK", 0), ranks = number("WORLD_SIZE", 1);
  const int device = text("LOCAL_RANK").empty() ? 0 : number("LOCAL_RANK", 0);
  if (rank >= ranks) throw Error(str("nccl: RANK is ", rank, ", WORLD_SIZE ", ranks));
  if (text("NCCL_COMM_ID").empty()) {
    std::string address = text("MASTER_ADDR");
    if (address.empty())
      throw Error("nccl: MASTER_ADDR is not set", "torchrun sets it: the machine of rank 0; or set NCCL_COMM_ID.");
    if (address.find(':') != address.npos) address = '[' + address + ']';  // IPv6
    const int port = number("MASTER_PORT", 1) + (text("TORCHELASTIC_USE_AGENT_STORE") == "True");
    ::setenv("NCCL_COMM_ID", str(address, ':', port).c_str(), 0);
  }
  ncclUniqueId id{};
  if (const ncclResult_t result = ncclGetUniqueId(&id); result != ncclSuccess)
    throw Error(str("nccl: ncclGetUniqueId: ", ncclGetErrorString(result)), "NCCL_DEBUG=WARN says more.");
  return std::make_unique<NcclCommunicator>(id, rank, ranks, device);
}

}  // namespace ft::inline FTLIB_ABI
