// benchmarks/cuda/roofline.hpp: what a GPU can do at most: the one that is here, or some by their data sheets.
#pragma once
#include <cuda_runtime_api.h>  // cudaDeviceGetAttribute

#include <algorithm>  // std::max
#include <string>     // std::string

#include "cases.hpp"

namespace ft::bench {

struct Card {
  std::string name;
  double bandwidth, fp32, tensor;  // bytes/s; FLOP/s of FMA in float, and of bfloat16 summed in float, without sparsity
  // For tools/roofline.py:
  int sm = 0, multiprocessors = 0;
  double clock = 0;      // Hz
  double latency = 0;    // cycles, of a load that misses all caches
  double mma_share = 1;  // of `tensor` that mma.sync reaches; the rest is for wgmma alone
};

/// Peaks and clocks: NVIDIA A100 80GB SXM data sheet and A100 white paper; H100 SXM white paper, table 3 (dense); Ada
/// white paper, appendix A (RTX 4090). Latency and share: Luo et al., arXiv:2402.13499.
inline const std::vector<Card>& cards() {
  static const std::vector<Card> all{
      {"A100 SXM", 2039e9, 19.5e12, 312e12, 80, 108, 1410e6, 466},
      {"H100 SXM", 3352e9, 66.9e12, 989.4e12, 90, 132, 1830e6, 479, 0.629},
      {"RTX 4090", 1008e9, 82.6e12, 165.2e12, 89, 128, 2520e6, 542},
  };
  return all;
}

/// Seconds that a case takes at the least.
inline double least_seconds(const Case& c, const Card& card) {
  return std::max(c.bytes / card.bandwidth, c.flops / (c.unit == Unit::tensor ? card.tensor : card.fp32));
}
inline const char* bound(const Case& c, const Card& card) {
  if (c.bytes / card.bandwidth >= least_seconds(c, card)) return "memory";
  return c.unit == Unit::tensor ? "tensor cores" : "FP32";
}

/// The GPU that is here, by its memory's clock and width and its multiprocessors' number and highest clock. FLOP a
/// clock and multiprocessor: CUDA C++ Programming Guide, "Throughput of Native Arithmetic Instructions" (FP32), and the
/// white papers of each architecture (tensor cores, bfloat16 summed in float). GeForce's tensor cores of 8.x and 12.0
/// have half of what is said here when they sum in float, which the capability does not tell; 0: not known.
inline Card this_card(const std::string& name) {
  const auto attribute = [](cudaDeviceAttr which) {
    int value = 0;
    if (cudaDeviceGetAttribute(&value, which, 0) != cudaSuccess) value = 0;
    return value;
  };
  const int sm = 10 * attribute(cudaDevAttrComputeCapabilityMajor) + attribute(cudaDevAttrComputeCapabilityMinor),
            count = attribute(cudaDevAttrMultiProcessorCount);
  const double clock = 1e3 * attribute(cudaDevAttrClockRate);
  const double fp32 = sm == 80 ? 128 : sm >= 86 ? 256 : 0;
  const double tensor = sm == 80                            ? 2048
                        : sm == 86 || sm == 89 || sm == 120 ? 1024
                        : sm == 90                          ? 4096
                        : sm == 100                         ? 8192
                                                            : 0;
  const double half = name.find("GeForce") != std::string::npos ? 0.5 : 1;
  // Two transfers a clock.
  const double bandwidth = 2e3 * attribute(cudaDevAttrMemoryClockRate) * attribute(cudaDevAttrGlobalMemoryBusWidth) / 8;
  return {name, bandwidth, fp32 * count * clock, half * tensor * count * clock, sm, count, clock};
}

}  // namespace ft::bench
