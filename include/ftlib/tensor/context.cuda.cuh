// tensor/context.cuda.cuh: the GPU's context: a stream, and memory from CUDA's own pool, given and taken in its order.
#pragma once
#include <ftlib/cuda/block_cache.cuda.cuh>  // BlockCache
#include <ftlib/cuda/graph.cuda.cuh>        // CudaGraph
#include <ftlib/cuda/launch.cuda.cuh>       // check_cuda, DeviceGuard
#include <ftlib/tensor/device.hpp>          // ContextBase

#include <algorithm>  // std::max, std::min
#include <atomic>     // std::atomic
#include <cstdlib>    // std::getenv
#include <cstring>    // std::memcmp
#include <deque>      // std::deque
#include <map>        // std::map
#include <memory>     // std::shared_ptr
#include <mutex>      // std::mutex
#include <utility>    // std::exchange
#include <vector>     // std::vector

namespace ft::inline FTLIB_ABI {

namespace detail {

/// Its address names a type, where typeid would need RTTI.
template <class Part> inline constexpr char part_key = 0;

/// The stream of a context and its memory. A freed block is free for what comes later in the stream, so nothing waits.
/// Blocks are kept; before those and what is in use would come to much more than was ever in use, they are given back
/// to CUDA's pool, which makes others of them. While work is recorded, memory is the graph's.
class CudaStream : public std::enable_shared_from_this<CudaStream> {
 public:
  /// `outside`: a stream that somebody else destroys, or null for one of its own. `limit`: of bytes; 0: none.
  CudaStream(int device, bool keep_blocks, cudaStream_t outside, int64_t limit)
      : stream_{outside, device}, own_(!outside), limit_(limit), keep_blocks_(keep_blocks) {
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || device < 0 || device >= devices) {
      (void)cudaGetLastError();
      throw Error(str("cuda: there is no device ", device, "; found ", devices),
                  "it takes an NVIDIA GPU and its driver (nvidia-smi lists them); the CPU works everywhere.");
    }
    if (limit < 0) throw Error(str("context: a memory limit of ", limit, " bytes"), "0 means no limit.");
    const DeviceGuard guard(device);
    if (own_)
      check_cuda(cudaStreamCreateWithFlags(&stream_.stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    check_cuda(cudaDeviceGetDefaultMemPool(&pool_, device), "cudaDeviceGetDefaultMemPool");
    uint64_t keep = ~uint64_t{0};  // bytes that the pool may hold without giving them back
    check_cuda(cudaMemPoolSetAttribute(pool_, cudaMemPoolAttrReleaseThreshold, &keep), "cudaMemPoolSetAttribute");
    check_cuda(cudaDeviceGetAttribute(&multiprocessors_, cudaDevAttrMultiProcessorCount, device),
               "cudaDeviceGetAttribute");
  }
  ~CudaStream() {
    give_back_kept();
    const DeviceGuard guard(stream_.device);
    if (own_) cudaStreamDestroy(stream_);
  }
  CudaStream(const CudaStream&) = delete;
  CudaStream& operator=(const CudaStream&) = delete;

  std::shared_ptr<void> allocate(std::size_t bytes) {
    if (limit_ && (bytes > static_cast<std::size_t>(limit_) || static_cast<int64_t>(bytes) > limit_ - now_))
      throw Error(
          str("cuda: ", bytes, " bytes do not fit the memory limit of ", limit_, "; ", now_.load(), " are in use"),
          "raise memory_limit, use a smaller batch, or recompute activations.", ErrorKind::no_memory);
    void* const data = graph_ ? graph_->allocate(bytes) : from_pool(bytes);
    if (!data)
      throw Error(str("cuda: cannot allocate ", bytes, " bytes; ", now_.load(), " are in use"),
                  graph_ ? "use a smaller batch, recompute activations, or do without graphs, which keep memory."
                         : "use a smaller batch, or recompute activations.",
                  ErrorKind::no_memory);
    now_ += static_cast<int64_t>(bytes);
    peak_ = std::max(peak_.load(), now_.load());
    return {data,
            [self = shared_from_this(), graph = graph_, bytes](void* p) { self->release(p, bytes, graph.get()); }};
  }

  /// Records into `graph` until end_recording().
  void record(std::shared_ptr<CudaGraph> graph) {
    graph->begin();
    graph_ = std::move(graph);
  }
  enum class Then { launch, forget };
  /// Does nothing where nothing is recorded.
  void end_recording(Then then) {
    const auto graph = std::exchange(graph_, nullptr);
    if (!graph) return;
    const auto late = std::exchange(freed_late_, {});
    if (then == Then::launch) graph->launch();
    else graph->forget();
    for (const auto& [data, bytes] : late) give_back(data, bytes);
  }
  bool recording() const { return graph_ != nullptr; }
  /// From here on each block goes back to CUDA's pool at once.
  void keep_nothing() noexcept {
    const std::lock_guard lock(mutex_);
    keep_blocks_ = false;
    give_back_kept();
  }
  /// Where a copy that is asked for now will read the host's `bytes` bytes.
  const void* host_source(const void* from, std::size_t bytes) { return graph_ ? graph_->keep(from, bytes) : from; }

  MemoryUse use() const {
    uint64_t reserved = 0;
    check_cuda(cudaMemPoolGetAttribute(pool_, cudaMemPoolAttrReservedMemCurrent, &reserved), "cudaMemPoolGetAttribute");
    return {now_, peak_, static_cast<int64_t>(reserved)};
  }
  void reset_peak() { peak_ = now_.load(); }

  DeviceStream get() const { return stream_; }
  int multiprocessors() const { return multiprocessors_; }

 private:
  /// Null where the device has no more.
  void* from_pool(std::size_t bytes) {
    const DeviceGuard guard(stream_.device);
    const std::lock_guard lock(mutex_);
    if (keep_blocks_) bytes = BlockCache::size_of(bytes);
    void* data = blocks_.take(bytes);
    if (data) return data;
    int64_t most = peak_ + peak_ / 4 + (int64_t{64} << 20);
    if (limit_) most = std::min(most, limit_);
    if (now_ + static_cast<int64_t>(blocks_.bytes() + bytes) > most) give_back_kept();
    cudaError_t result = cudaMallocAsync(&data, bytes, stream_);
    if (result == cudaErrorMemoryAllocation) {  // kept blocks and other streams' serve once they are given back
      (void)cudaGetLastError();
      give_back_kept();
      check_cuda(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
      check_cuda(cudaMemPoolTrimTo(pool_, 0), "cudaMemPoolTrimTo");
      result = cudaMallocAsync(&data, bytes, stream_);
    }
    if (result != cudaErrorMemoryAllocation) check_cuda(result, "cudaMallocAsync");
    else (void)cudaGetLastError();
    return data;
  }
  void release(void* data, std::size_t bytes, CudaGraph* graph) noexcept {
    now_ -= static_cast<int64_t>(bytes);
    if (graph) graph->free(data, bytes);
    else if (graph_) freed_late_.emplace_back(data, bytes);  // the pool's memory is not freed by a graph
    else give_back(data, bytes);
  }
  void give_back(void* data, std::size_t bytes) noexcept {
    const std::lock_guard lock(mutex_);
    if (!keep_blocks_) {
      const DeviceGuard guard(stream_.device);
      cudaFreeAsync(data, stream_);
      return;
    }
    blocks_.put(data, BlockCache::size_of(bytes));
  }
  void give_back_kept() noexcept {
    const DeviceGuard guard(stream_.device);
    blocks_.clear([this](void* block) { cudaFreeAsync(block, stream_); });
  }

  DeviceStream stream_;
  bool own_;
  int64_t limit_;
  cudaMemPool_t pool_ = nullptr;
  int multiprocessors_ = 0;
  std::atomic<int64_t> now_{0}, peak_{0};
  std::shared_ptr<CudaGraph> graph_;                       // that is being recorded
  std::vector<std::pair<void*, std::size_t>> freed_late_;  // once that is launched
  std::mutex mutex_;                                       // of what follows: tensors may go on any thread
  BlockCache blocks_;
  bool keep_blocks_;
};

}  // namespace detail

/// Stream, memory and random state of computations on a GPU. Calls return at once; what reads a value on the host
/// waits.
template <> class Context<Cuda> : public ContextBase<Cuda> {
 public:
  struct Options {
    int device = 0;
    uint64_t seed = 0;
    /// Bytes that tensors, and blocks kept for the next ones, may take of the device's memory; 0: no limit. What would
    /// go beyond is an Error, and what was there before stays.
    int64_t memory_limit = 0;
    /// A stream of the host's, of `device`, that outlives the context and its tensors; null: one of its own.
    cudaStream_t stream = nullptr;
    /// Keep freed memory at hand. Without, each tensor is an allocation of CUDA's, as compute-sanitizer wants it.
    bool keep_blocks = std::getenv("FTLIB_NO_CUDA_CACHE") == nullptr;
  };
  Context() : Context(Options{}) {}
  explicit Context(const Options& options)
      : ContextBase(options.seed),
        stream_(std::make_shared<detail::CudaStream>(options.device, options.keep_blocks, options.stream,
                                                     options.memory_limit)) {}
  ~Context() { stream_->keep_nothing(); }

  /// For launch(), or as a cudaStream_t: then under a DeviceGuard(device()), as CUDA wants the stream's device current.
  detail::DeviceStream stream() const { return stream_->get(); }
  int device() const { return stream().device; }
  /// How many blocks can run side by side is a multiple of this.
  int multiprocessors() const { return stream_->multiprocessors(); }
  MemoryUse memory() const { return stream_->use(); }
  void reset_peak() { stream_->reset_peak(); }
  /// Waits until all that was asked for is done.
  void synchronize() {
    launch_recorded();
    const detail::DeviceGuard guard(device());
    detail::check_cuda(cudaStreamSynchronize(stream()), "cudaStreamSynchronize");
  }

  /// Uninitialised bytes, given back when the last copy of the pointer goes; they may outlive the context.
  std::shared_ptr<void> allocate(std::size_t bytes) {
    const std::size_t size = std::max<std::size_t>(bytes, 1);  // an empty tensor is a tensor
    const std::shared_ptr<void> data = stream_->allocate(size);
    if (poison()) set(data.get(), 0xff, size);
    return data;
  }
  /// The values in the device's memory, for a kernel that needs a list. The host does not wait. What was uploaded a
  /// short while ago is not uploaded again: all layers ask for the same lists.
  template <class T> std::shared_ptr<const T> upload(const std::vector<T>& values) {
    const std::size_t bytes = values.size() * sizeof(T);
    const auto same = std::find_if(uploads_.begin(), uploads_.end(), [&](const Upload& u) {
      return u.values.size() == bytes && (bytes == 0 || std::memcmp(u.values.data(), values.data(), bytes) == 0);
    });
    std::shared_ptr<void> data;
    if (same != uploads_.end()) {
      data = same->data;
    } else {
      data = allocate(bytes);
      copy_from_host(data.get(), values.data(), bytes);
      if (!stream_->recording() && bytes <= std::size_t{1} << 20) {  // a graph's memory is the graph's
        const auto* const begin = reinterpret_cast<const std::byte*>(values.data());
        uploads_.push_back({{begin, begin + bytes}, data});
        if (uploads_.size() > 12) uploads_.pop_front();
      }
    }
    return {data, static_cast<const T*>(data.get())};
  }
  /// `from` may change as soon as it returns.
  void copy_from_host(void* to, const void* from, std::size_t bytes) {
    copy(to, stream_->host_source(from, bytes), bytes, cudaMemcpyHostToDevice);
  }
  /// Waits for the device.
  void copy_to_host(void* to, const void* from, std::size_t bytes) {
    launch_recorded();
    copy(to, from, bytes, cudaMemcpyDeviceToHost);
    synchronize();
  }
  void copy_on_device(void* to, const void* from, std::size_t bytes) {
    copy(to, from, bytes, cudaMemcpyDeviceToDevice);
  }
  /// What an op keeps from one call to the next (a library's handle, a workspace), made when it is first asked for.
  template <class Part> Part& part() {
    auto& found = parts_[&detail::part_key<Part>];
    if (!found) {
      const detail::DeviceGuard guard(device());
      found = std::make_shared<Part>();
    }
    return *static_cast<Part*>(found.get());
  }
  void zero(void* to, std::size_t bytes) { set(to, 0, bytes); }

  /// For StepGraph: what is asked for from record() on runs when it is launched, by reading a value at the latest.
  using Graph = std::shared_ptr<detail::CudaGraph>;
  Graph make_graph() { return std::make_shared<detail::CudaGraph>(stream()); }
  void record(const Graph& graph) { stream_->record(graph); }
  void launch_recorded() { stream_->end_recording(detail::CudaStream::Then::launch); }
  void forget_recorded() { stream_->end_recording(detail::CudaStream::Then::forget); }

 private:
  void copy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
    if (!bytes) return;
    const detail::DeviceGuard guard(device());
    detail::check_cuda(cudaMemcpyAsync(to, from, bytes, kind, stream()), "cudaMemcpyAsync");
  }
  void set(void* to, int value, std::size_t bytes) {
    if (!bytes) return;
    const detail::DeviceGuard guard(device());
    detail::check_cuda(cudaMemsetAsync(to, value, bytes, stream()), "cudaMemsetAsync");
  }

  struct Upload {
    std::vector<std::byte> values;
    std::shared_ptr<void> data;
  };

  std::shared_ptr<detail::CudaStream> stream_;
  std::map<const void*, std::shared_ptr<void>> parts_;  // by their types' part_key
  std::deque<Upload> uploads_;  // the last few
};

}  // namespace ft::inline FTLIB_ABI
