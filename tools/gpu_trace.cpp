// tools/gpu_trace.cpp: where the time of a training step goes on a GPU: a library that CUDA loads into a
// program (CUDA_INJECTION64_PATH), which notes by CUPTI when each kernel ran and each call to the runtime took place,
// and at the program's end writes a table to $GPU_TRACE. A step ends with its AdamW kernel; the first ten are left out.
#include <cuda.h>
#include <cupti.h>
#include <cxxabi.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace {

struct Span {
  const std::string* name;
  uint64_t begin, end;  // ns
};
struct Trace {
  std::mutex mutex;
  std::map<std::string, int> names;                     // interned: a node stays where it is
  std::map<std::string, const std::string*> shortened;  // of kernels, by their mangled names
  std::vector<Span> device, host;

  const std::string* intern(const std::string& name) { return &names.try_emplace(name, 0).first->first; }
};
Trace& trace() {
  static Trace* const t = new Trace;  // CUPTI's own thread may outlive statics
  return *t;
}

/// A kernel's name without namespaces and arguments: "rms_norm_kernel<bfloat16, 8>".
std::string short_name(const char* mangled) {
  int status = 0;
  char* const demangled = abi::__cxa_demangle(mangled, nullptr, nullptr, &status);
  std::string name = demangled ? demangled : mangled;
  std::free(demangled);
  for (const char* drop : {"void ", "ft::v0_1_cuda::detail::", "ft::v0_1_cuda::", "(DType)",
                           "(Write)", "(Master)", "(Take)"})
    for (std::size_t at; (at = name.find(drop)) != std::string::npos;) name.erase(at, std::string(drop).size());
  int depth = 0;
  for (std::size_t i = 0; i < name.size(); ++i) {
    depth += name[i] == '<' ? 1 : name[i] == '>' ? -1 : 0;
    if (name[i] == '(' && depth == 0) name.resize(i);
  }
  return name.substr(0, 100);
}

void CUPTIAPI give_buffer(uint8_t** buffer, size_t* size, size_t* most) {
  *size = size_t{8} << 20;
  *most = 0;
  *buffer = static_cast<uint8_t*>(std::aligned_alloc(8, *size));
}
void CUPTIAPI take_buffer(CUcontext, uint32_t, uint8_t* buffer, size_t, size_t valid) {
  Trace& t = trace();
  const std::lock_guard lock(t.mutex);
  CUpti_Activity* record = nullptr;
  while (cuptiActivityGetNextRecord(buffer, valid, &record) == CUPTI_SUCCESS) {
    if (record->kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) {
      const auto* const k = reinterpret_cast<const CUpti_ActivityKernel9*>(record);
      auto [found, made] = t.shortened.try_emplace(k->name, nullptr);
      if (made) found->second = t.intern(short_name(k->name));
      t.device.push_back({found->second, k->start, k->end});
    } else if (record->kind == CUPTI_ACTIVITY_KIND_MEMCPY) {
      const auto* const c = reinterpret_cast<const CUpti_ActivityMemcpy5*>(record);
      t.device.push_back({t.intern("copy"), c->start, c->end});
    } else if (record->kind == CUPTI_ACTIVITY_KIND_MEMSET) {
      const auto* const s = reinterpret_cast<const CUpti_ActivityMemset4*>(record);
      t.device.push_back({t.intern("memset"), s->start, s->end});
    } else if (record->kind == CUPTI_ACTIVITY_KIND_RUNTIME) {
      const auto* const a = reinterpret_cast<const CUpti_ActivityAPI*>(record);
      const char* name = "?";
      cuptiGetCallbackName(CUPTI_CB_DOMAIN_RUNTIME_API, a->cbid, &name);
      t.host.push_back({t.intern(name), a->start, a->end});
    }
  }
  std::free(buffer);
}

void print_table(std::FILE* out, const char* what, const std::vector<Span>& spans, uint64_t begin, uint64_t end,
                 double steps) {
  struct Sum {
    double us = 0, calls = 0;
  };
  std::map<const std::string*, Sum> sums;
  double all = 0, calls = 0;
  for (const Span& s : spans) {
    if (s.begin < begin || s.begin >= end) continue;
    const double us = static_cast<double>(s.end - s.begin) * 1e-3;
    sums[s.name].us += us;
    sums[s.name].calls += 1;
    all += us;
    calls += 1;
  }
  std::vector<std::pair<const std::string*, Sum>> order(sums.begin(), sums.end());
  std::sort(order.begin(), order.end(), [](auto& a, auto& b) { return a.second.us > b.second.us; });
  std::fprintf(out, "\n| %s | calls a step | us a step | share |\n| --- | ---: | ---: | ---: |\n", what);
  std::fprintf(out, "| all | %.0f | %.0f | 100 %% |\n", calls / steps, all / steps);
  for (const auto& [name, sum] : order)
    if (sum.us >= 0.003 * all)
      std::fprintf(out, "| `%s` | %.1f | %.1f | %.1f %% |\n", name->c_str(), sum.calls / steps, sum.us / steps,
                   100 * sum.us / all);
}

void finish() {
  cuptiActivityFlushAll(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED);
  Trace& t = trace();
  const std::lock_guard lock(t.mutex);
  const char* const path = std::getenv("GPU_TRACE");
  std::FILE* const out = path ? std::fopen(path, "w") : nullptr;
  if (!out) return;
  std::sort(t.device.begin(), t.device.end(), [](const Span& a, const Span& b) { return a.begin < b.begin; });
  std::vector<uint64_t> ends;
  for (const Span& s : t.device)
    if (s.name->starts_with("adamw_kernel")) ends.push_back(s.end);
  const std::size_t skipped = 10;
  if (ends.size() < skipped + 2) {
    std::fprintf(out, "only %zu steps: there must be more than %zu\n", ends.size(), skipped + 1);
  } else {
    const uint64_t begin = ends[skipped], end = ends.back();
    const auto steps = static_cast<double>(ends.size() - 1 - skipped);
    uint64_t busy = 0, until = begin;
    for (const Span& s : t.device) {
      if (s.end <= until || s.begin >= end) continue;
      busy += s.end - std::max(s.begin, until);
      until = s.end;
    }
    std::fprintf(out, "%.0f steps of %.2f ms, in which the GPU is busy for %.2f ms\n", steps,
                 static_cast<double>(end - begin) * 1e-6 / steps, static_cast<double>(busy) * 1e-6 / steps);
    print_table(out, "on the GPU", t.device, begin, end, steps);
    print_table(out, "calls of the host", t.host, begin, end, steps);
  }
  std::fclose(out);
}

}  // namespace

extern "C" int InitializeInjection() {
  cuptiActivityRegisterCallbacks(give_buffer, take_buffer);
  for (const auto kind : {CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL, CUPTI_ACTIVITY_KIND_MEMCPY, CUPTI_ACTIVITY_KIND_MEMSET,
                          CUPTI_ACTIVITY_KIND_RUNTIME})
    cuptiActivityEnable(kind);
  std::atexit(finish);
  return 1;
}
