// tests/cuda_emulation/emulation_test.cpp: the emulation runs right kernels right, and finds what is planted in wrong
// ones.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_pipeline.h>
#include <doctest/doctest.h>
#include <ftlib/core/dtype.hpp>
#include <ftlib/cuda/launch.cuda.cuh>
#include <ftlib/cuda/mma.cuda.cuh>
#include <ftlib/cuda/pack.cuda.cuh>

#include <algorithm>
#include <set>
#include <vector>

using cuda_emulation::Fault;
using ft::launch;

namespace {

/// Device memory for a test.
template <class T> struct Buffer {
  T* data = nullptr;
  std::size_t count;
  explicit Buffer(std::size_t n) : count(n) {
    REQUIRE(cudaMalloc(reinterpret_cast<void**>(&data), n * sizeof(T)) == 0);
  }
  explicit Buffer(const std::vector<T>& values) : Buffer(values.size()) {
    cudaMemcpy(data, values.data(), count * sizeof(T), cudaMemcpyHostToDevice);
  }
  ~Buffer() { cudaFree(data); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  std::vector<T> host() const {
    std::vector<T> values(count);
    cudaMemcpy(values.data(), data, count * sizeof(T), cudaMemcpyDeviceToHost);
    return values;
  }
};
std::vector<float> iota(std::size_t n) {
  std::vector<float> values(n);
  for (std::size_t i = 0; i < n; ++i) values[i] = static_cast<float>(i);
  return values;
}

/// The kernel is at fault under each of a few seeds, and the report has all of `words`.
template <class F> void check_found(F run, std::initializer_list<const char*> words) {
  for (const std::uint64_t seed : {1u, 2u, 3u}) {
    cuda_emulation::set_seed(seed);
    std::string report = "nothing";
    try {
      run();
    } catch (const Fault& fault) {
      report = fault.what();
    }
    CHECK_MESSAGE(report.find("  ") == std::string::npos, report);
    for (const char* word : words)
      CHECK_MESSAGE(report.find(word) != std::string::npos, report, " lacks ", std::string(word));
  }
}

// Right kernels.

__global__ void __launch_bounds__(256) block_sums(float* sums, const float* x, int n) {
  __shared__ float of_warp[8];
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  float sum = i < static_cast<unsigned>(n) ? x[i] : 0;
  for (int lanes = 16; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    float total = 0;
    for (unsigned w = 0; w < blockDim.x / 32; ++w) total += of_warp[w];
    sums[blockIdx.x] = total;
  }
}

__global__ void reversed(float* y, const float* x) {
  float* const tile = ft::detail::dynamic_shared<float>();
  tile[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = tile[blockDim.x - 1 - threadIdx.x];
}

__global__ void warp_functions(int* out) {
  const int lane = static_cast<int>(threadIdx.x);
  const unsigned all = 0xffffffffu;
  int n = 0;
  const auto put = [&](int v) { out[32 * n++ + lane] = v; };
  put(__shfl_sync(all, lane, 5));
  put(__shfl_sync(all, lane, 1, 8));
  put(__shfl_up_sync(all, lane, 3));
  put(__shfl_down_sync(all, lane, 3, 16));
  put(__shfl_xor_sync(all, lane, 1));
  put(static_cast<int>(__ballot_sync(all, lane % 2)));
  put(__any_sync(all, lane == 7));
  put(__all_sync(all, lane < 31));
  put(__reduce_add_sync(all, lane));
  put(__reduce_min_sync(all, lane - 8));
  put(static_cast<int>(__reduce_max_sync(all, static_cast<unsigned>(lane))));
  put(static_cast<int>(__reduce_xor_sync(all, 1u << lane)));
  if (lane < 4) put(__reduce_add_sync(0xfu, lane));
}

__global__ void votes_of_block(int* out) {
  const int odd = threadIdx.x % 2;
  const int count = __syncthreads_count(odd), all = __syncthreads_and(odd), any = __syncthreads_or(odd);
  if (threadIdx.x == 0) {
    out[0] = count;
    out[1] = all;
    out[2] = any;
  }
}

__global__ void histogram(unsigned* bins, const float* x, int n) {
  for (unsigned i = threadIdx.x + blockIdx.x * blockDim.x; i < static_cast<unsigned>(n); i += blockDim.x * gridDim.x)
    atomicAdd(&bins[static_cast<unsigned>(x[i]) % 4], 1);
}

/// Lanes hand values on through shared memory: right with __syncwarp, a race without.
template <bool synchronised> __global__ void through_shared(float* y) {
  __shared__ float tile[64];
  tile[threadIdx.x] = static_cast<float>(threadIdx.x);
  if (synchronised) __syncwarp();
  y[threadIdx.x] = tile[threadIdx.x ^ 1];
}

/// Copies that go on in the background: right where they are waited for.
template <bool waits> __global__ void through_pipeline(float* y, const float* x) {
  __shared__ __align__(16) float tile[128];
  __pipeline_memcpy_async(tile + 4 * threadIdx.x, x + 4 * threadIdx.x, 16);
  __pipeline_commit();
  if (waits) __pipeline_wait_prior(0);
  __syncthreads();
  for (unsigned i = threadIdx.x; i < 128; i += blockDim.x) y[i] = tile[127 - i];
}

/// Rows that are still being copied are used for something else.
__global__ void stores_under_copies(float* y, const float* x) {
  __shared__ __align__(16) float tile[128];
  __pipeline_memcpy_async(tile + 4 * threadIdx.x, x + 4 * threadIdx.x, 16);
  __pipeline_commit();
  __syncthreads();
  tile[127 - threadIdx.x] = 1;
  y[threadIdx.x] = tile[127 - threadIdx.x];
}

/// c = a b^T with a (16, 16) and b (8, 16); and c = a b with b (16, 8): matrices as load_matrices deals them out.
template <class T, bool transposed> __global__ void multiplies(float* c, const T* a, const T* b) {
  __shared__ __align__(16) T as[16 * 16], bs[16 * 8];
  for (unsigned i = threadIdx.x; i < 256; i += blockDim.x) as[i] = a[i];
  for (unsigned i = threadIdx.x; i < 128; i += blockDim.x) bs[i] = b[i];
  __syncthreads();
  const unsigned l = threadIdx.x % 32;
  std::uint32_t ra[4], rb[4];
  ft::detail::load_matrices<ft::detail::Order::rows>(ra, as + l % 16 * 16 + l / 16 * 8);
  if (transposed) ft::detail::load_matrices<ft::detail::Order::rows>(rb, bs + l % 8 * 16 + l / 8 % 2 * 8);
  else ft::detail::load_matrices<ft::detail::Order::columns>(rb, bs + l % 16 * 8);
  float sums[4] = {1, 1, 1, 1};
  ft::detail::mma<T>(sums, ra, rb[0], rb[1]);
  for (unsigned e = 0; e < 4; ++e) c[(l / 4 + e / 2 * 8) * 8 + l % 4 * 2 + e % 2] = sums[e];
}

// Wrong ones.

template <int wrong> __global__ void loads_matrices(unsigned* y, const ft::half* x) {
  __shared__ __align__(16) ft::half tile[32 * 8 + 1];
  for (unsigned i = threadIdx.x; i < 32 * 8 + 1; i += blockDim.x) tile[i] = x[i];
  if (wrong != 0) __syncthreads();
  if (wrong == 3 && threadIdx.x == 31) return;
  std::uint32_t m[4];
  ft::detail::load_matrices<ft::detail::Order::columns>(
      m, wrong == 2 ? x + threadIdx.x * 8 : tile + threadIdx.x * 8 + (wrong == 1));
  y[threadIdx.x] = m[0];
}
__global__ void forgets_barrier(float* y, const float* x) {
  __shared__ float tile[64];
  tile[threadIdx.x] = 0;
  __syncthreads();
  tile[threadIdx.x] = x[threadIdx.x];
  y[threadIdx.x] = tile[63 - threadIdx.x];
}
__global__ void forgets_second_barrier(float* y) {
  __shared__ float total;
  for (int round = 0; round < 3; ++round) {
    if (threadIdx.x == 0) total = static_cast<float>(round);
    __syncthreads();
    y[threadIdx.x] = total;  // the next round overwrites it while others still read
  }
}
__global__ void blocks_share_output(float* y) { y[threadIdx.x] = static_cast<float>(blockIdx.x); }
__global__ void blocks_read_neighbour(float* y) {
  if (threadIdx.x == 0) y[blockIdx.x] = 1;
  if (threadIdx.x == 1) y[blockIdx.x + 2] = y[(blockIdx.x + 1) % 2];
}
__global__ void adds_not_atomically(unsigned* sum) {
  if (threadIdx.x % 2) atomicAdd(sum, 1);
  else *sum += 1;
}
__global__ void last_one_wins(int* y) { atomicExch(y, static_cast<int>(threadIdx.x)); }
__global__ void guards_with_greater(float* y, int n) {
  const int i = static_cast<int>(threadIdx.x);
  if (i > n) return;
  y[i] = 1;
}
__global__ void reads_before(float* y) { y[threadIdx.x] = y[static_cast<int>(threadIdx.x) - 1]; }
__global__ void fills_all(float* y) { y[threadIdx.x] = 1; }
__global__ void copies_one(float* y, const float* x) { *y = *x; }
__global__ void runs_over_tile(float* y, unsigned n) {
  __shared__ float tile[32];
  for (unsigned i = threadIdx.x; i < n; i += 32) tile[i] = 1;
  __syncthreads();
  y[threadIdx.x] = tile[threadIdx.x];
}
__global__ void returns_before_barrier(float* y) {
  if (threadIdx.x >= 40) return;
  __syncthreads();
  y[threadIdx.x] = 1;
}
__global__ void barrier_in_branch(float* y) {
  if (threadIdx.x < 32) __syncthreads();
  else y[threadIdx.x] = 1;
  __syncthreads();
}
__global__ void shuffles_in_branch(float* y) {
  float v = static_cast<float>(threadIdx.x);
  if (threadIdx.x < 16) v += __shfl_down_sync(0xffffffffu, v, 8);
  __syncthreads();
  y[threadIdx.x] = v;
}
__global__ void reads_absent_lane(float* y) {
  if (threadIdx.x >= 16) return;
  const float v = static_cast<float>(threadIdx.x);
  y[threadIdx.x] = __shfl_xor_sync(0xffffffffu, v, 16);
}
__global__ void leaves_itself_out(float* y) { y[threadIdx.x] = __shfl_sync(0xffffu, 1.0f, 0); }
__global__ void reads_unwritten(float* y) {
  __shared__ float tile[64];
  if (threadIdx.x < 63) tile[threadIdx.x] = 1;
  __syncthreads();
  y[threadIdx.x] = tile[threadIdx.x];
}
__global__ void loads_vectors(float4* y, const float* x) {
  y[threadIdx.x] = *reinterpret_cast<const float4*>(x + 4 * threadIdx.x);
}
__global__ void loads_packs(float* y, const float* x) {
  ft::detail::store(y + 4 * threadIdx.x, ft::detail::load<4>(x + 4 * threadIdx.x));
}
__global__ void lends_local(float* y) {
  __shared__ float* lent;
  float local = 1;
  if (threadIdx.x == 0) lent = &local;
  __syncthreads();
  y[threadIdx.x] = *lent;
}

}  // namespace

TEST_CASE("cuda_emulation: sums of blocks by shuffles and shared memory") {
  const auto x = iota(1000);
  const Buffer<float> dx(x), dy(4);
  for (const std::uint64_t seed : {1u, 2u, 3u}) {
    cuda_emulation::set_seed(seed);
    launch(block_sums, 4, 256, 0, {}, dy.data, dx.data, 1000);
    const auto y = dy.host();
    for (std::size_t b = 0; b < 4; ++b) {
      float sum = 0;
      for (std::size_t i = 256 * b; i < std::min<std::size_t>(1000, 256 * b + 256); ++i) sum += x[i];
      CHECK(y[b] == sum);
    }
  }
}

namespace {
template <class T, bool transposed> void check_product() {
  std::vector<T> a(256), b(128);
  for (std::size_t i = 0; i < 256; ++i) a[i] = T(static_cast<float>(i * 37 % 101) / 64 - 0.75f);
  for (std::size_t i = 0; i < 128; ++i) b[i] = T(static_cast<float>(i * 53 % 97) / 32 - 1.5f);
  const Buffer<T> da(a), db(b);
  const Buffer<float> dc(16 * 8);
  launch(multiplies<T, transposed>, 1, 32, 0, {}, dc.data, da.data, db.data);
  const auto c = dc.host();
  for (std::size_t m = 0; m < 16; ++m)
    for (std::size_t n = 0; n < 8; ++n) {
      double sum = 1;
      for (std::size_t k = 0; k < 16; ++k)
        sum += double{static_cast<float>(a[m * 16 + k])} *
               double{static_cast<float>(b[transposed ? n * 16 + k : k * 8 + n])};
      CHECK(static_cast<double>(c[m * 8 + n]) == doctest::Approx(sum).epsilon(1e-6));
    }
}
}  // namespace

TEST_CASE("cuda_emulation: tensor cores give the plain product") {
  check_product<ft::bfloat16, false>();
  check_product<ft::bfloat16, true>();
  check_product<ft::half, false>();
  check_product<ft::half, true>();
}

TEST_CASE("cuda_emulation: loads of matrices are watched as other loads are") {
  const Buffer<ft::half> x(std::vector<ft::half>(32 * 8 + 1));
  const Buffer<unsigned> y(32);
  launch(loads_matrices<4>, 1, 32, 0, {}, y.data, x.data);
  check_found([&] { launch(loads_matrices<0>, 1, 32, 0, {}, y.data, x.data); },
              {"race in kernel", "loads_matrices<0>", "reads 4 bytes of shared memory", "tile"});
  check_found([&] { launch(loads_matrices<1>, 1, 32, 0, {}, y.data, x.data); }, {"loads_matrices<1>", "misaligned"});
  check_found([&] { launch(loads_matrices<2>, 1, 32, 0, {}, y.data, x.data); },
              {"loads_matrices<2>", "is not of shared memory"});
  check_found([&] { launch(loads_matrices<3>, 1, 32, 0, {}, y.data, x.data); },
              {"loads_matrices<3>", "needs all lanes"});
}

TEST_CASE("cuda_emulation: dynamic shared memory") {
  const Buffer<float> x(iota(100)), y(100);
  launch(reversed, 1, 100, 100 * sizeof(float), {}, y.data, x.data);
  auto expected = iota(100);
  std::reverse(expected.begin(), expected.end());
  CHECK(y.host() == expected);
  check_found([&] { launch(reversed, 1, 100, 99 * sizeof(float), {}, y.data, x.data); },
              {"reversed", "out of bounds of shared memory", "emulation_test.cpp:"});
}

TEST_CASE("cuda_emulation: functions of a warp and of a block") {
  const Buffer<int> out(std::vector<int>(13 * 32, -1));
  launch(warp_functions, 1, 32, 0, {}, out.data);
  const auto y = out.host();
  for (int lane = 0; lane < 32; ++lane) {
    const int expected[] = {5,
                            lane / 8 * 8 + 1,
                            lane < 3 ? lane : lane - 3,
                            lane % 16 < 13 ? lane + 3 : lane,
                            lane ^ 1,
                            static_cast<int>(0xaaaaaaaau),
                            1,
                            0,
                            496,
                            -8,
                            31,
                            -1,
                            lane < 4 ? 6 : -1};
    for (int n = 0; n < 13; ++n) CHECK_MESSAGE(y[static_cast<std::size_t>(32 * n + lane)] == expected[n], n);
  }
  launch(votes_of_block, 1, 50, 0, {}, out.data);
  CHECK(out.host()[0] == 25);
  CHECK(out.host()[1] == 0);
  CHECK(out.host()[2] == 1);
}

TEST_CASE("cuda_emulation: atomics of all blocks meet") {
  const Buffer<unsigned> bins(std::vector<unsigned>(4));
  const Buffer<float> x(iota(1002));
  launch(histogram, 5, 96, 0, {}, bins.data, x.data, 1002);
  CHECK(bins.host() == std::vector<unsigned>{251, 251, 250, 250});
}

TEST_CASE("cuda_emulation: the toolkit's 16-bit floats round as ours") {
  for (const float v : {0.0f, -1.5f, 3.14159265f, 1e-8f, 65504.0f, 1e30f, -7.00390625f, 0.33333333f}) {
    CHECK(__bfloat16_as_ushort(__float2bfloat16_rn(v)) == ft::bfloat16(v).bits);
    CHECK(__half_as_ushort(__float2half_rn(v)) == ft::half(v).bits);
  }
}

TEST_CASE("cuda_emulation: a race on shared memory is found, with kernel, threads, place and both lines") {
  const Buffer<float> x(iota(64)), y(64);
  check_found([&] { launch(forgets_barrier, 1, 64, 0, {}, y.data, x.data); },
              {"race in kernel", "forgets_barrier", "thread (", "of block (0, 0, 0)",
               "4 bytes of shared memory at byte ", "tile", "emulation_test.cpp:", "; thread ("});
  check_found([&] { launch(forgets_second_barrier, 1, 64, 0, {}, y.data); },
              {"race in kernel", "forgets_second_barrier", "total"});
}

TEST_CASE("cuda_emulation: lanes of a warp are ordered by __syncwarp alone") {
  const Buffer<float> y(64);
  launch(through_shared<true>, 1, 64, 0, {}, y.data);
  CHECK(y.host()[62] == 63);
  check_found([&] { launch(through_shared<false>, 1, 64, 0, {}, y.data); },
              {"through_shared<false>", "emulation_test.cpp:"});
}

TEST_CASE("cuda_emulation: a race on global memory is found, between blocks too") {
  const Buffer<float> y(std::vector<float>(64));
  check_found([&] { launch(blocks_share_output, 2, 64, 0, {}, y.data); },
              {"race in kernel", "blocks_share_output", "writes 4 bytes of global memory", "writes it"});
  check_found([&] { launch(blocks_read_neighbour, 2, 32, 0, {}, y.data); },
              {"race in kernel", "blocks_read_neighbour", "of block (0, 0, 0)", "of block (1, 0, 0)"});
  const Buffer<unsigned> sum(std::vector<unsigned>(1));
  check_found([&] { launch(adds_not_atomically, 1, 32, 0, {}, sum.data); }, {"race in kernel", "adds_not_atomically"});
}

TEST_CASE("cuda_emulation: what depends on the order of threads differs from seed to seed") {
  const Buffer<int> y(1);
  std::set<int> results;
  for (std::uint64_t seed = 0; seed < 8; ++seed) {
    cuda_emulation::set_seed(seed);
    cudaMemset(y.data, 0, 4);
    launch(last_one_wins, 1, 128, 0, {}, y.data);
    results.insert(y.host()[0]);
  }
  CHECK(results.size() > 4);
}

TEST_CASE("cuda_emulation: accesses out of bounds are found") {
  const Buffer<float> y(std::vector<float>(33));
  check_found([&] { launch(guards_with_greater, 1, 64, 0, {}, y.data, 33); },
              {"guards_with_greater", "thread (33, 0, 0)", "writes 4 bytes", "at byte 132 of an allocation of 132",
               "emulation_test.cpp:"});
  check_found([&] { launch(reads_before, 1, 1, 0, {}, y.data); },
              {"reads_before", "reads 4 bytes", "4 bytes before an allocation of 132"});
  check_found([&] { launch(runs_over_tile, 1, 32, 0, {}, y.data, 33); },
              {"runs_over_tile", "out of bounds of shared memory", "tile"});
  std::vector<float> on_host(1);
  check_found([&] { launch(copies_one, 1, 1, 0, {}, y.data, on_host.data()); },
              {"copies_one", "which is not memory of the device"});
  check_found([&] { launch(lends_local, 1, 32, 0, {}, y.data); },
              {"lends_local", "a local variable of thread (0, 0, 0)"});
}

TEST_CASE("cuda_emulation: memory that is freed, or that nobody wrote, is not read") {
  const Buffer<float> y(64);
  check_found([&] { launch(copies_one, 1, 1, 0, {}, y.data, y.data + 1); },
              {"copies_one", "global memory that nobody has written"});
  float* gone = nullptr;
  {
    const Buffer<float> x(64);
    gone = x.data;
  }
  check_found([&] { launch(fills_all, 1, 64, 0, {}, gone); }, {"fills_all", "which was freed"});
  check_found([&] { launch(reads_unwritten, 1, 64, 0, {}, y.data); },
              {"reads_unwritten", "thread (63, 0, 0)", "shared memory that nobody has written", "tile"});
}

TEST_CASE("cuda_emulation: divergent barriers and shuffles are reported, not waited for") {
  const Buffer<float> y(64);
  check_found([&] { launch(returns_before_barrier, 1, 64, 0, {}, y.data); },
              {"returns_before_barrier", "divergent barrier", "which has left the kernel", "emulation_test.cpp:"});
  check_found([&] { launch(barrier_in_branch, 1, 64, 0, {}, y.data); },
              {"barrier_in_branch", "divergent barrier", "waits for thread"});
  check_found([&] { launch(shuffles_in_branch, 1, 32, 0, {}, y.data); },
              {"shuffles_in_branch", "divergent shuffle", "mask 0xffffffff", "which waits at"});
  check_found([&] { launch(reads_absent_lane, 1, 32, 0, {}, y.data); },
              {"reads_absent_lane", "divergent shuffle", "takes no part"});
  check_found([&] { launch(leaves_itself_out, 1, 32, 0, {}, y.data); },
              {"leaves_itself_out", "is not among the lanes that it names at ", "mask 0xffff"});
}

TEST_CASE("cuda_emulation: 16-byte accesses off their alignment are found") {
  const Buffer<float> x(iota(132));
  const Buffer<float4> y(32);
  launch(loads_vectors, 1, 32, 0, {}, y.data, x.data + 4);
  CHECK(y.host()[31].w == 131);
  check_found([&] { launch(loads_vectors, 1, 32, 0, {}, y.data, x.data + 1); },
              {"loads_vectors", "aligned to 16 bytes: misaligned", "emulation_test.cpp:"});
  // By load() and store(): the kernel's line too.
  const Buffer<float> z(128), unwritten(128);
  launch(loads_packs, 1, 32, 0, {}, z.data, x.data);
  check_found([&] { launch(loads_packs, 1, 32, 0, {}, z.data, x.data + 1); },
              {"loads_packs", "misaligned", "pack.cuda.cuh:", ", inlined at ", "emulation_test.cpp:"});
  check_found([&] { launch(loads_packs, 1, 32, 0, {}, z.data, unwritten.data); },
              {"that nobody has written", "pack.cuda.cuh:", ", inlined at ", "emulation_test.cpp:"});
  check_found([&] { launch(loads_packs, 1, 32, 0, {}, z.data + 4, x.data); },
              {"out of bounds", "pack.cuda.cuh:", ", inlined at ", "emulation_test.cpp:"});
}

TEST_CASE("cuda_emulation: asynchronous copies are there once they are waited for") {
  const Buffer<float> x(iota(128)), y(128);
  launch(through_pipeline<true>, 1, 32, 0, {}, y.data, x.data);
  CHECK(y.host()[0] == 127);
  check_found([&] { launch(through_pipeline<false>, 1, 32, 0, {}, y.data, x.data); },
              {"through_pipeline<false>", "shared memory that nobody has written"});
  check_found([&] { launch(through_pipeline<true>, 1, 24, 0, {}, y.data, x.data + 1); },
              {"through_pipeline<true>", "asynchronously: misaligned"});
  check_found([&] { launch(stores_under_copies, 1, 32, 0, {}, y.data, x.data); },
              {"race in kernel", "stores_under_copies"});
}

TEST_CASE("cuda_emulation: the host's mistakes are found") {
  Buffer<float> y(std::vector<float>(4));
  CHECK_THROWS_WITH_AS(cudaMemset(y.data, 0, 17), doctest::Contains("of an allocation of 16"), Fault);
  float value = 0;
  CHECK_THROWS_AS(cudaMemcpy(&value, y.data + 4, 4, cudaMemcpyDeviceToHost), Fault);
  CHECK_THROWS_WITH_AS(cudaMemcpy(&value, y.data, 4, cudaMemcpyHostToDevice), doctest::Contains("kind of copy"), Fault);
  value = *static_cast<volatile float*>(y.data);
  CHECK_THROWS_WITH_AS(cudaDeviceSynchronize(), doctest::Contains("the host reads device memory"), Fault);
  CHECK(cudaDeviceSynchronize() == cudaSuccess);
  CHECK(cudaFree(&value) == cudaErrorInvalidValue);
  CHECK_THROWS_AS(cudaDeviceSynchronize(), Fault);
  CHECK_THROWS_WITH_AS(launch(fills_all, 1, 1025, 0, {}, y.data), doctest::Contains("cudaErrorInvalidConfiguration"),
                       ft::Error);
  CHECK_THROWS_WITH_AS(launch(fills_all, 1, 4, 300000, {}, y.data), doctest::Contains("shared memory"), ft::Error);
  launch(fills_all, 0, 4, 0, {}, y.data);
  CHECK(y.host()[0] == 0);
}

TEST_CASE("cuda_emulation: what a recorded stream may not be asked for is found") {
  cudaStream_t stream = nullptr;
  REQUIRE(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
  const std::vector<float> host(64);
  const Buffer<float> y(host);
  REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed) == cudaSuccess);
  launch(fills_all, 1, 64, 0, {stream, 0}, y.data);
  CHECK_THROWS_WITH_AS(cudaMemcpyAsync(y.data, host.data(), 256, cudaMemcpyHostToDevice, stream),
                       doctest::Contains("not pinned"), Fault);
  CHECK(cudaStreamSynchronize(stream) == cudaErrorStreamCaptureUnsupported);
  void* more = nullptr;
  CHECK(cudaMallocAsync(&more, 4, stream) == cudaErrorStreamCaptureUnsupported);
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t made = nullptr;
  REQUIRE(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
  CHECK(y.host() == host);  // nothing has run yet
  REQUIRE(cudaGraphInstantiate(&made, graph, 0) == cudaSuccess);
  CHECK(cudaGraphLaunch(made, stream) == cudaSuccess);
  CHECK(y.host() == std::vector<float>(64, 1.0f));

  cudaGraph_t other = nullptr;
  cudaGraphExecUpdateResultInfo info;
  REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed) == cudaSuccess);
  cudaMemsetAsync(y.data, 0, 256, stream);
  REQUIRE(cudaStreamEndCapture(stream, &other) == cudaSuccess);
  CHECK(cudaGraphExecUpdate(made, other, &info) == cudaErrorGraphExecUpdateFailure);  // a node of another kind
  cudaGraphDestroy(graph);
  cudaGraphDestroy(other);
  cudaGraphExecDestroy(made);
  cudaStreamDestroy(stream);
}

TEST_CASE("cuda_emulation: after a fault the next kernel runs as if nothing had been") {
  const Buffer<float> y(64);
  CHECK_THROWS_AS(launch(barrier_in_branch, 1, 64, 0, {}, y.data), Fault);
  launch(fills_all, 1, 64, 0, {}, y.data);
  CHECK(y.host() == std::vector<float>(64, 1.0f));
}
