// tests/cuda_emulation/benchmarks_test.cpp: the cases of benchmarks/cuda, each run once, tiny; and the launches that
// the full sizes make, which FTLIB_CASES=FILE in the environment writes down for tools/roofline.py.
#include <doctest/doctest.h>

#include <cstdlib>  // std::getenv
#include <fstream>
#include <set>

#include "../../benchmarks/cuda/roofline.hpp"

using namespace ft;
using namespace ft::bench;

TEST_CASE("cuda/benchmarks: each case runs, without a fault, and gives finite numbers") {
  std::set<std::string> names;
  for (const Case& c : Cases(true).all) {
    INFO(c.name);
    CHECK(names.insert(c.name).second);
    CHECK(c.bytes > 0);
    Context<Cuda> ctx;
    const Ready ready = c.prepare(ctx);
    (*ready.run)();
    CHECK(!ready.finite.empty());
    for (const auto& finite : ready.finite) CHECK(finite());
  }
}

TEST_CASE("cuda/benchmarks: the full sizes launch the kernels that the tiny ones run") {
  const std::vector<Case> full = Cases(false).all, tiny = Cases(true).all;
  REQUIRE(full.size() == tiny.size());
  const auto launches_of = [](const Case& c) {
    std::vector<cuda_emulation::Listed> launches;
    cuda_emulation::list_launches(&launches);
    {
      Context<Cuda> ctx;
      const Ready ready = c.prepare(ctx);
      launches.clear();
      (*ready.run)();
    }
    cuda_emulation::list_launches(nullptr);
    return launches;
  };
  std::string list;
  for (std::size_t i = 0; i < full.size(); ++i) {
    const Case& c = full[i];
    INFO(c.name);
    std::string launches;
    std::set<std::string> kernels, kernels_of_tiny;
    for (const auto& l : launches_of(c)) {
      kernels.insert(l.kernel);
      launches += str(launches.empty() ? "" : ", ", R"({"kernel": ")", l.kernel, R"(", "blocks": )", l.grid.x,
                      R"(, "threads": )", l.block.x, R"(, "shared": )", l.shared_bytes, '}');
    }
    for (const auto& l : launches_of(tiny[i])) kernels_of_tiny.insert(l.kernel);
    CHECK(!kernels.empty());
    CHECK(kernels == kernels_of_tiny);
    list +=
        str(list.empty() ? "" : ",\n", R"({"name": ")", c.name, R"(", "bytes": )", c.bytes, R"(, "flops": )", c.flops,
            R"(, "unit": ")", c.unit == Unit::tensor ? "tensor" : "fp32", R"(", "launches": [)", launches, "]}");
  }
  std::string peaks;
  for (const Card& c : cards())
    peaks +=
        str(peaks.empty() ? "" : ",\n", R"({"name": ")", c.name, R"(", "bandwidth": )", c.bandwidth, R"(, "fp32": )",
            c.fp32, R"(, "tensor": )", c.tensor, R"(, "sm": )", c.sm, R"(, "multiprocessors": )", c.multiprocessors,
            R"(, "clock": )", c.clock, R"(, "latency": )", c.latency, R"(, "mma_share": )", c.mma_share, '}');
  if (const char* path = std::getenv("FTLIB_CASES"))
    std::ofstream(path) << "{\"cards\": [" << peaks << "],\n\"cases\": [" << list << "]}\n";
}
