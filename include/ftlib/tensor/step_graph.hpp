// tensor/step_graph.hpp: a step's work launched at once, where the device can do that.
#pragma once
#include <ftlib/tensor/device.hpp>  // Context

namespace ft::inline FTLIB_ABI {

/// On a GPU, records what a step asks for and launches it as one CUDA graph, so that a kernel need not wait for the
/// host to ask for the next. Each step is recorded anew: shapes, learning rates and random numbers may change, and as
/// long as the kernels are the same ones in the same order the graph of the step before is only updated. Its memory is
/// kept apart and not given back before it ends. On the CPU, work is done as it comes.
template <Device D> class StepGraph {
 public:
  explicit StepGraph(bool on) : on_(on) {}

  /// Calls work(). What it asked for is launched when it first reads a value, or at its end; after the reading nothing
  /// is recorded any more. If it throws, what was not launched is forgotten.
  template <class Work> void run(Context<D>& ctx, Work work) {
    if constexpr (std::same_as<D, Cuda>) {
      if (on_ && runs_++ > 0) {  // the first makes what lasts
        if (!graph_) graph_ = ctx.make_graph();
        ctx.record(graph_);
        try {
          work();
        } catch (...) {
          ctx.forget_recorded();
          throw;
        }
        ctx.launch_recorded();
        return;
      }
    }
    work();
  }

 private:
  bool on_;
  int64_t runs_ = 0;
  typename Context<D>::Graph graph_{};
};

}  // namespace ft::inline FTLIB_ABI
