// tests/ops/embedding.cpp: the embedding look-up against a plain loop.
#include <ftlib/ops/embedding.hpp>

#include "../op_suite.hpp"

using namespace ft;
using namespace ft::test;

namespace {
struct Embedding {
  int64_t V, C;
  std::vector<int32_t> ids;
  float scale = 1;
  static constexpr const char* name = "embedding";
  static std::vector<Embedding> shapes() {
    return {{1, 1, {0}}, {5, 7, {4, 0, 4, 4}}, {9, 64, {8}, 8}, {3, 65, {2, 1, 0, 2}, 0.5f}, {4, 3, {}}};
  }
  std::vector<HostArray> inputs(Random& random) const { return {parameter(random, {V, C})}; }
  template <class T, class D> Tensor<T, D> run(Context<D>& ctx, Args<T, D>& a) const {
    return embedding(ctx, a.w[0], ids, scale);
  }
  HostArray reference(const std::vector<HostArray>& in) const {
    HostArray y({static_cast<int64_t>(ids.size()), C});
    for (std::size_t n = 0; n < ids.size(); ++n)
      for (int64_t c = 0; c < C; ++c) y[static_cast<int64_t>(n) * C + c] = scale * in[0][ids[n] * C + c];
    return y;
  }
};
}  // namespace

TEST_CASE("ops/embedding: embedding") { test_op<Embedding>(); }

TEST_CASE("ops/embedding: tokens outside the vocabulary are refused") {
  Context<Cpu> ctx;
  Parameter<float, Cpu> w("embed", Tensor<float, Cpu>::zeros(ctx, {5, 4}));
  CHECK_THROWS_WITH_AS(embedding(ctx, w, {1, 5}), doctest::Contains("token 5 is outside the vocabulary of 5 ('embed')"),
                       Error);
}
