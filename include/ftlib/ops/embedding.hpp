// ops/embedding.hpp: the embedding look-up: contract, checks, autograd rule.
#pragma once
#include <ftlib/autograd/tape.hpp>
#if FTLIB_HEADER_ONLY
#include <ftlib/ops/embedding.cpu.hpp>
#else
#include <ftlib/cpu_runtime.hpp>
#endif
#if FTLIB_WITH_CUDA
#include <ftlib/ops/embedding.cuda.cuh>
#endif

#include <vector>  // std::vector

namespace ft::inline FTLIB_ABI {

/// Rows `ids` of w, times `scale`: (V, C) -> (N, C). w may be stored in any DType. Throws Error for an id outside [0,
/// V).
template <Scalar T, Device D>
Tensor<T, D> embedding(Context<D>& ctx, Parameter<T, D>& w, const std::vector<int32_t>& ids, float scale = 1) {
  const int64_t N = static_cast<int64_t>(ids.size()), V = w.shape()[0], C = w.shape().back();
  if (w.shape().rank() != 2)
    throw Error(str("embedding: weight '", w.name, "' ", w.shape(), " is no (vocabulary, width) matrix"));
  for (const int32_t id : ids)
    if (id < 0 || id >= V)
      throw Error(str("embedding: token ", id, " is outside the vocabulary of ", V, " ('", w.name, "')"),
                  "the text was encoded with another model's tokenizer.");
  Tensor<T, D> y(ctx, {N, C});
  embedding_forward(ctx, y.view(), w.weight(), ids, scale);
  // dw[id] += scale dy, row by row in the order of the rows
  record(ctx, "embedding", y, {w},
         [&w, ids, scale](Gradients<T, D>& g) { embedding_backward(g.context(), g.add(w), g.incoming(), ids, scale); });
  return y;
}

}  // namespace ft::inline FTLIB_ABI
