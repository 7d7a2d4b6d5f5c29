// tests/ops/gated_delta_rule.cpp: the gated delta rule against its plain recurrence, and over states that are kept.
#include <ftlib/ops/gated_delta_rule.hpp>

#include "../op_suite.hpp"

using namespace ft;
using namespace ft::test;

namespace {

struct GatedDeltaRule {
  int64_t KH, H, dk, dv;
  std::vector<int64_t> starts;
  static constexpr const char* name = "gated_delta_rule";
  static std::vector<GatedDeltaRule> shapes() {
    return {{1, 1, 1, 1, {0, 1}},       {1, 2, 3, 5, {0, 1, 1, 4, 13}}, {2, 2, 4, 2, {0, 9}},
            {2, 4, 8, 6, {0, 3, 12}},   {1, 1, 5, 3, {0, 64, 65}},      {1, 2, 3, 2, {0, 2, 72}},
            {1, 1, 33, 18, {0, 1, 19}}, {1, 1, 2, 3, {0, 130}}};
  }
  int64_t N() const { return starts.back(); }
  std::vector<HostArray> inputs(Random& random) const {
    HostArray k = activation(random, {N(), KH, dk});
    for (int64_t i = 0; i < N() * KH; ++i) {  // of length 1, as the rule wants them
      double sum = 1e-6;
      for (int64_t c = 0; c < dk; ++c) sum += k[i * dk + c] * k[i * dk + c];
      for (int64_t c = 0; c < dk; ++c) k[i * dk + c] /= std::sqrt(sum);
    }
    return {activation(random, {N(), KH, dk}),
            k,
            activation(random, {N(), H, dv}),
            activation(random, {N(), H}),
            activation(random, {N(), H}),
            parameter(random, {H}, 0.5),
            parameter(random, {H})};
  }
  std::vector<Segment> segments() const {
    std::vector<Segment> all;
    for (std::size_t i = 1; i < starts.size(); ++i) all.push_back({starts[i - 1], starts[i], starts[i - 1], starts[i]});
    return all;
  }
  template <class T, class D> Tensor<T, D> run(Context<D>& ctx, Args<T, D>& a) const {
    return gated_delta_rule(ctx, a.x[0], a.x[1], a.x[2], a.x[3], a.x[4], a.w[0], a.w[1], segments());
  }
  HostArray reference(const std::vector<HostArray>& in) const {
    HostArray y(Shape{N(), H, dv});
    for (const Segment& text : segments())
      for (int64_t h = 0; h < H; ++h) {
        std::vector<double> s(static_cast<std::size_t>(dk * dv), 0.0);
        const auto at = [&](int64_t r, int64_t c) -> double& { return s[static_cast<std::size_t>(r * dv + c)]; };
        for (int64_t n = text.q_begin; n < text.q_end; ++n) {
          const double *const q = &in[0].values[static_cast<std::size_t>((n * KH + h / (H / KH)) * dk)],
                              *const k = &in[1].values[static_cast<std::size_t>((n * KH + h / (H / KH)) * dk)];
          const double decay = std::exp(-std::exp(in[5][h]) * std::log1p(std::exp(in[3][n * H + h] + in[6][h])));
          const double beta = 1 / (1 + std::exp(-in[4][n * H + h]));
          for (double& x : s) x *= decay;
          for (int64_t c = 0; c < dv; ++c) {
            double held = 0;
            for (int64_t r = 0; r < dk; ++r) held += at(r, c) * k[r];
            for (int64_t r = 0; r < dk; ++r) at(r, c) += k[r] * beta * (in[2][(n * H + h) * dv + c] - held);
            for (int64_t r = 0; r < dk; ++r) y[(n * H + h) * dv + c] += at(r, c) * q[r];
          }
        }
      }
    return y;
  }
  Tolerance16 tolerance16() const { return {.y = 2e-5, .dx = 2e-5, .sums = 1e-8}; }  // a neighbour where sums cancel
  double bytes(double item) const { return item * static_cast<double>(N() * (2 * KH * dk + 2 * H * dv + 2 * H)); }
  double flops() const { return 8.0 * static_cast<double>(N() * H * dk * dv); }
};

}  // namespace

TEST_CASE("ops/gated_delta_rule: gated_delta_rule") { test_op<GatedDeltaRule>(); }

TEST_CASE("ops/gated_delta_rule: texts go on from the states that they left, and from no other") {
  Context<Cpu> ctx({.threads = 2});
  ctx.poison(true);
  const GatedDeltaRule op{2, 4, 5, 3, {0, 70}};
  Random random(3);
  const auto inputs = op.inputs(random);
  auto args = upload<float>(ctx, inputs);
  const auto whole = op.run(ctx, args).to_host(ctx);
  const int64_t row = op.H * op.dv;
  const std::vector<int64_t> slots{2, 0};
  DeltaStates<float, Cpu> kept{Tensor<float, Cpu>(ctx, {3, op.H, op.dk, op.dv}), slots};
  // Two texts, of the first 6 and of 66 tokens, given piece by piece; the second is read from token 4 on.
  const auto rows = [&](std::size_t i, std::vector<std::pair<int64_t, int64_t>> pieces) {
    const HostArray& a = inputs[i];
    const int64_t size = a.count() / a.shape[0];
    std::vector<float> values;
    Shape shape = a.shape;
    shape[0] = 0;
    for (const auto& [begin, end] : pieces) {
      shape[0] += end - begin;
      for (int64_t j = begin * size; j < end * size; ++j) values.push_back(static_cast<float>(a[j]));
    }
    return Tensor<float, Cpu>(ctx, shape, values);
  };
  const auto step = [&](std::vector<std::pair<int64_t, int64_t>> pieces, const std::vector<Segment>& segments) {
    return gated_delta_rule(ctx, rows(0, pieces), rows(1, pieces), rows(2, pieces), rows(3, pieces), rows(4, pieces),
                            args.w[0], args.w[1], segments, &kept)
        .to_host(ctx);
  };
  const auto first = step({{0, 5}, {0, 66}}, {{0, 5, 10, 15}, {5, 71, 100, 166}});
  const auto second = step({{5, 6}, {66, 69}}, {{0, 1, 10, 16}, {1, 4, 100, 169}});
  const auto third = step({{0, 1}, {69, 70}}, {{0, 1, 10, 11}, {1, 2, 100, 170}});  // the first begins again
  const auto same = [&](const std::vector<float>& got, int64_t from, int64_t begin, int64_t end) {
    for (int64_t i = 0; i < (end - begin) * row; ++i)
      CHECK(got[static_cast<std::size_t>(from * row + i)] ==
            doctest::Approx(whole[static_cast<std::size_t>(begin * row + i)]).epsilon(1e-4));
  };
  same(first, 0, 0, 5);
  same(first, 5, 0, 66);
  same(second, 0, 5, 6);
  same(second, 1, 66, 69);
  same(third, 0, 0, 1);
  same(third, 1, 69, 70);

  CHECK_THROWS_WITH_AS(op.run(ctx, args = upload<float>(ctx, GatedDeltaRule{2, 3, 5, 3, {0, 70}}.inputs(random))),
                       doctest::Contains("do not fit one another"), Error);
  auto again = upload<float>(ctx, inputs);
  CHECK_THROWS_WITH_AS(gated_delta_rule(ctx, again.x[0], again.x[1], again.x[2], again.x[3], again.x[4], again.w[0],
                                        again.w[1], {{0, 70, 0, 71}}),
                       doctest::Contains("with rows [0, 71) makes no sense"), Error);
}
