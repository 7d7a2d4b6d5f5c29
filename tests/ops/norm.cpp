// tests/ops/norm.cpp: RMSNorm and LayerNorm, by themselves and fused with what stands beside them, against plain loops.
#include <ftlib/ops/norm.hpp>
#include <ftlib/ops/shape.hpp>  // concat

#include "../op_suite.hpp"

using namespace ft;
using namespace ft::test;

namespace {
/// What a norm is of, beside its input.
struct NormTerms {
  bool centred;
  double eps, offset = 0;
  const HostArray *w = nullptr, *b = nullptr, *scale = nullptr, *shift = nullptr;
  std::vector<int64_t> starts{};
};
HostArray plain_norm(const HostArray& x, const NormTerms& of) {
  HostArray y = x;
  const int64_t C = x.cols();
  for (int64_t n = 0, g = 0; n < x.rows(); ++n) {
    while (of.scale && of.starts[static_cast<std::size_t>(g) + 1] <= n) ++g;
    double mean = 0, variance = 0;
    for (int64_t c = 0; c < C && of.centred; ++c) mean += x[n * C + c] / static_cast<double>(C);
    for (int64_t c = 0; c < C; ++c) variance += std::pow(x[n * C + c] - mean, 2) / static_cast<double>(C);
    for (int64_t c = 0; c < C; ++c) {
      double& v = y[n * C + c];
      v = (v - mean) / std::sqrt(variance + of.eps);
      if (of.w) v *= (*of.w)[c] + of.offset;
      if (of.b) v += (*of.b)[c];
      if (of.scale) v = v * (1 + (*of.scale)[g * C + c]) + (*of.shift)[g * C + c];
    }
  }
  return y;
}
HostArray shifted_activation(Random& random, const Shape& shape) {
  HostArray x = activation(random, shape);
  for (double& v : x.values) v += 2;
  return x;
}

/// Which results of s = x + y and norm(s) something is made of: both, one below the other, or one alone.
enum class Used { both, sum, norm };
template <class T, class D>
Tensor<T, D> used_of(Context<D>& ctx, Used used, const std::pair<Tensor<T, D>, Tensor<T, D>>& results) {
  if (used == Used::both) return concat(ctx, std::vector{results.first, results.second});
  return used == Used::sum ? results.first : results.second;
}
HostArray used_of(Used used, HostArray s, HostArray h) {
  if (used != Used::both) return used == Used::sum ? s : h;
  s.values.insert(s.values.end(), h.values.begin(), h.values.end());
  s.shape[0] *= 2;
  return s;
}
HostArray sum_of(const HostArray& x, const HostArray& y) {
  HostArray s = x;
  for (int64_t i = 0; i < s.count(); ++i) s[i] += y[i];
  return s;
}

struct RmsNorm {
  Shape x;
  float offset = 0;
  double size = 1;  // of the inputs
  static constexpr const char* name = "rms_norm";
  static std::vector<RmsNorm> shapes() {
    return {
        {{1, 1}},           {{1, 2}},     {{3, 65}}, {{7, 576}},         {{5, 3}, 1},
        {{2, 640}, 1},      {{3, 2, 64}}, {{0, 4}},  {{5, 33}, 0, 1e-3},  // mean squares beside which epsilon counts
        {{3, 64}, 0, 1e-3}, {{130, 8}}};                                  // sums over rows in several parts
  }
  std::vector<HostArray> inputs(Random& random) const {
    return {activation(random, x, size), parameter(random, {x.back()})};
  }
  template <class T, class D> Tensor<T, D> run(Context<D>& ctx, Args<T, D>& a) const {
    return rms_norm(ctx, a.x[0], a.w[0], 1e-6f, offset);
  }
  HostArray reference(const std::vector<HostArray>& in) const {
    return plain_norm(in[0], {.centred = false, .eps = double{1e-6f}, .offset = double{offset}, .w = &in[1]});
  }
  double tolerance() const { return 1e-12; }
  GradcheckOptions gradcheck() const { return {.step = 1e-3 * size}; }
  bool rounding_alone() const { return x.back() == 1; }
  double bytes(double item) const { return static_cast<double>(2 * x.count() + x.back()) * item; }
  double flops() const { return 4.0 * static_cast<double>(x.count()); }
};

/// Without a weight.
struct BareRmsNorm : RmsNorm {
  static std::vector<BareRmsNorm> shapes() {
    return {{{{1, 2}}}, {{{3, 65}}}, {{{5, 2, 64}}}, {{{2, 512}}}, {{{0, 4}}}};
  }
  std::vector<HostArray> inputs(Random& random) const { return {activation(random, x, size)}; }
  template <class T, class D> Tensor<T, D> run(Context<D>& ctx, Args<T, D>& a) const {
    return rms_norm(ctx, a.x[0], 1e-6f);
  }
  HostArray reference(const std::vector<HostArray>& in) const {
    return plain_norm(in[0], {.centred = false, .eps = double{1e-6f}});
  }
};

struct LayerNorm {
  Shape x;
  bool weight, bias;
  static constexpr const char* name = "layer_norm";
  static std::vector<LayerNorm> shapes() {
    return {{{1, 1}, true, true},     {{1, 3}, true, true},  {{3, 65}, true, true},
            {{7, 576}, true, false},  {{5, 3}, false, true}, {{2, 32}, false, false},
            {{3, 2, 64}, true, true}, {{0, 4}, true, true},  {{130, 8}, true, true}};
  }
  std::vector<HostArray> inputs(Random& random) const {
    std::vector<HostArray> all{shifted_activation(random, x)};
    for (int i = 0; i < weight + bias; ++i) all.push_back(parameter(random, {x.back()}));
    return all;
  }
  template <class T, class D> Tensor<T, D> run(Context<D>& ctx, Args<T, D>& a) const {
    return layer_norm(ctx, a.x[0], weight ? &a.w[0] : nullptr, bias ? &a.w.back() : nullptr, 1e-3f);
  }
  HostArray reference(const std::vector<HostArray>& in) const {
    return plain_norm(
        in[0],
        {.centred = true, .eps = double{1e-3f}, .w = weight ? &in[1] : nullptr, .b = bias ? &in.back() : nullptr});
  }
  double tolerance() const { return 1e-11; }
  bool rounding_alone() const { return x.back() == 1; }
  double bytes(double item) const { return static_cast<double>(2 * x.count() + 2 * x.back()) * item; }
  double flops() const { return 8.0 * static_cast<double>(x.count()); }
};

struct AddRmsNorm {
  Shape x;
  float offset = 0;
  Used used = Used::both;
  static constexpr const char* name = "add_rms_norm";
  static std::vector<AddRmsNorm> shapes() {
    return {{{1, 1}},
            {{3, 65}},
            {{7, 576}},
            {{5, 3}, 1},
            {{0, 4}},
            {{3, 2, 64}, 1},
            {{4, 40}, 0, Used::sum},
            {{4, 40}, 0, Used::norm}};
  }
  std::vector<HostArray> inputs(Random& random) const {
    return {activation(random, x), activation(random, x), parameter(random, {x.back()})};
  }
  template <class T, class D> Tensor<T, D> run(Context<D>& ctx, Args<T, D>& a) const {
    return used_of(ctx, used, add_rms_norm(ctx, a.x[0], a.x[1], a.w[0], 1e-6f, offset));
  }
  HostArray reference(const std::vector<HostArray>& in) const {
    const HostArray s = sum_of(in[0], in[1]);
    return used_of(used, s,
                   plain_norm(s, {.centred = false, .eps = double{1e-6f}, .offset = double{offset}, .w = &in[2]}));
  }
  double tolerance() const { return 1e-12; }
  Tolerance16 tolerance16() const { return {.y = 1.5e-5, .dx = 1.5e-5, .sums = 1.5e-5}; }  // of s, which is rounded
};

struct AddLayerNorm {
  Shape x;
  bool weight, bias;
  Used used = Used::both;
  static constexpr const char* name = "add_layer_norm";
  static std::vector<AddLayerNorm> shapes() {
    return {{{1, 1}, true, true},
            {{3, 65}, true, true},
            {{7, 576}, true, false},
            {{5, 3}, false, true},
            {{2, 32}, false, false},
            {{3, 2, 64}, true, true},
            {{0, 4}, true, true},
            {{4, 40}, true, true, Used::sum},
            {{4, 40}, true, true, Used::norm}};
  }
  std::vector<HostArray> inputs(Random& random) const {
    std::vector<HostArray> all{shifted_activation(random, x), activation(random, x)};
    for (int i = 0; i < weight + bias; ++i) all.push_back(parameter(random, {x.back()}));
    return all;
  }
  template <class T, class D> Tensor<T, D> run(Context<D>& ctx, Args<T, D>& a) const {
    return used_of(
        ctx, used,
        add_layer_norm(ctx, a.x[0], a.x[1], weight ? &a.w[0] : nullptr, bias ? &a.w.back() : nullptr, 1e-3f));
  }
  HostArray reference(const std::vector<HostArray>& in) const {
    const HostArray s = sum_of(in[0], in[1]);
    return used_of(
        used, s,
        plain_norm(
            s,
            {.centred = true, .eps = double{1e-3f}, .w = weight ? &in[2] : nullptr, .b = bias ? &in.back() : nullptr}));
  }
  double tolerance() const { return 1e-11; }
  Tolerance16 tolerance16() const { return {.y = 1.5e-5, .dx = 1.5e-5, .sums = 1.5e-5}; }  // of s, which is rounded
};

/// N rows of C, in groups of equal size or from `starts` on.
struct Groups {
  int64_t N, C, B;
  std::vector<int64_t> starts{};

  static std::vector<Groups> shapes() {
    return {{1, 1, 1},
            {1, 3, 1},
            {6, 65, 3},
            {7, 576, 2, {0, 5, 7}},
            {9, 8, 4, {0, 4, 4, 5, 9}},      // an empty group
            {5, 24, 5, {0, 0, 3, 3, 5, 5}},  // and others, at both ends
            {300, 3, 2, {0, 290, 300}},
            {0, 4, 2},
            {0, 4, 0}};
  }
  std::vector<int64_t> all_starts() const {
    std::vector<int64_t> all = starts;
    for (int64_t g = 0; starts.empty() && g <= B; ++g) all.push_back(B ? g * (N / B) : 0);
    return all;
  }
};

struct RmsNormModulate : Groups {
  static constexpr const char* name = "rms_norm_modulate";
  static std::vector<RmsNormModulate> shapes() {
    std::vector<RmsNormModulate> all;
    for (const Groups& groups : Groups::shapes()) all.push_back({groups});
    return all;
  }
  std::vector<HostArray> inputs(Random& random) const {
    return {activation(random, {N, C}), activation(random, {B, C}), activation(random, {B, C}), parameter(random, {C})};
  }
  template <class T, class D> Tensor<T, D> run(Context<D>& ctx, Args<T, D>& a) const {
    return rms_norm_modulate(ctx, a.x[0], a.w[0], a.x[1], a.x[2], 1e-3f, starts);
  }
  HostArray reference(const std::vector<HostArray>& in) const {
    return plain_norm(in[0], {.centred = false,
                              .eps = double{1e-3f},
                              .w = &in[3],
                              .scale = &in[1],
                              .shift = &in[2],
                              .starts = all_starts()});
  }
  double tolerance() const { return 1e-12; }
};

struct LayerNormModulate : Groups {
  bool weight, bias;
  static constexpr const char* name = "layer_norm_modulate";
  static std::vector<LayerNormModulate> shapes() {
    std::vector<LayerNormModulate> all;
    for (const Groups& groups : Groups::shapes()) all.push_back({groups, all.size() % 3 != 1, all.size() % 4 < 2});
    return all;
  }
  std::vector<HostArray> inputs(Random& random) const {
    std::vector<HostArray> all{shifted_activation(random, {N, C}), activation(random, {B, C}),
                               activation(random, {B, C})};
    for (int i = 0; i < weight + bias; ++i) all.push_back(parameter(random, {C}));
    return all;
  }
  template <class T, class D> Tensor<T, D> run(Context<D>& ctx, Args<T, D>& a) const {
    return layer_norm_modulate(ctx, a.x[0], weight ? &a.w[0] : nullptr, bias ? &a.w.back() : nullptr, a.x[1], a.x[2],
                               1e-3f, starts);
  }
  HostArray reference(const std::vector<HostArray>& in) const {
    return plain_norm(in[0], {.centred = true,
                              .eps = double{1e-3f},
                              .w = weight ? &in[3] : nullptr,
                              .b = bias ? &in.back() : nullptr,
                              .scale = &in[1],
                              .shift = &in[2],
                              .starts = all_starts()});
  }
  double tolerance() const { return 1e-11; }
  bool rounding_alone() const { return C == 1; }
};
}  // namespace

TEST_CASE("ops/norm: rms_norm") { test_op<RmsNorm>(); }
TEST_CASE("ops/norm: rms_norm without a weight") { test_op<BareRmsNorm>(); }
TEST_CASE("ops/norm: layer_norm") { test_op<LayerNorm>(); }
TEST_CASE("ops/norm: add_rms_norm") { test_op<AddRmsNorm>(); }
TEST_CASE("ops/norm: add_layer_norm") { test_op<AddLayerNorm>(); }
TEST_CASE("ops/norm: rms_norm_modulate") { test_op<RmsNormModulate>(); }
TEST_CASE("ops/norm: layer_norm_modulate") { test_op<LayerNormModulate>(); }

TEST_CASE("ops/norm: x and y of add_rms_norm share their gradient, and it is right where one of them is used again") {
  Context<Cpu> ctx({.threads = 1});
  const auto gradient_of = [&](const auto& f) {  // of x, of w; f(x, w) is s + h
    Parameter<double, Cpu> w("w", Tensor<double, Cpu>(ctx, {3}, {1, -2, 0.5}));
    Tensor<double, Cpu> x(ctx, {2, 3}, {0.5, 1, -1, 2, 0.25, -3});
    Tape<Cpu> tape(ctx);
    tape.watch(x);
    const auto y = f(x, w);
    tape.backward(y, Tensor<double, Cpu>(ctx, {2, 3}, {1, 2, 3, 4, 5, 6}));
    return std::pair{tape.gradient(x).to_host(ctx), w.grad.to_host(ctx)};
  };
  const auto expected = gradient_of([&](const auto& x, auto& w) {
    const auto y = scale(ctx, x, 2), s = add(ctx, x, y);
    return add(ctx, add(ctx, s, rms_norm(ctx, s, w, 0.1f)), y);
  });
  const auto got = gradient_of([&](const auto& x, auto& w) {
    const auto y = scale(ctx, x, 2);
    const auto [s, h] = add_rms_norm(ctx, x, y, w, 0.1f);
    return add(ctx, add(ctx, s, h), y);
  });
  for (std::size_t i = 0; i < 6; ++i) CHECK(got.first[i] == doctest::Approx(expected.first[i]));
  for (std::size_t i = 0; i < 3; ++i) CHECK(got.second[i] == doctest::Approx(expected.second[i]));
  const auto twice = gradient_of([&](const auto& x, auto& w) { return add_rms_norm(ctx, x, x, w, 0.1f).second; });
  const auto once = gradient_of([&](const auto& x, auto& w) { return rms_norm(ctx, scale(ctx, x, 2), w, 0.1f); });
  for (std::size_t i = 0; i < 6; ++i) CHECK(twice.first[i] == doctest::Approx(once.first[i]));
  // A frozen weight gets nothing, and neither does an input that wants nothing.
  Parameter<double, Cpu> v("v", Tensor<double, Cpu>(ctx, {3}, {1, -2, 0.5}), false);
  const auto frozen = gradient_of([&](const auto& x, auto& w) {
    const auto y = add_rms_norm(ctx, x, scale(ctx, x.detached(), 1), v, 0.1f).second;
    return add(ctx, y, rms_norm(ctx, scale(ctx, x.detached(), 2), w, 0.1f));
  });
  for (std::size_t i = 0; i < 6; ++i) CHECK(frozen.first[i] == doctest::Approx(once.first[i] / 2));
  for (std::size_t i = 0; i < 3; ++i) CHECK(frozen.second[i] == doctest::Approx(once.second[i]));
  CHECK(!v.grad);
}

TEST_CASE("ops/norm: what does not fit is refused") {
  Context<Cpu> ctx({.threads = 1});
  Parameter<float, Cpu> w("w", Tensor<float, Cpu>::zeros(ctx, {5}));
  const auto x = Tensor<float, Cpu>::zeros(ctx, {2, 4});
  CHECK_THROWS_WITH_AS(rms_norm(ctx, x, w, 1e-6f),
                       doctest::Contains("rms_norm: x (2, 4) does not fit weight (5) 'w': last axes differ"), Error);
  CHECK_THROWS_WITH_AS(layer_norm(ctx, x, &w, {}, 1e-6f), doctest::Contains("layer_norm: x (2, 4) does not fit"),
                       Error);
  CHECK_THROWS_WITH_AS(layer_norm(ctx, x, {}, &w, 1e-6f), doctest::Contains("layer_norm: x (2, 4) does not fit"),
                       Error);
  CHECK_THROWS_WITH_AS(layer_norm(ctx, Tensor<float, Cpu>::zeros(ctx, {2, 0}), &w, {}, 1e-6f),
                       doctest::Contains("x (2, 0) has no last axis"), Error);
  Parameter<float, Cpu> stored;
  stored.name = "norm.weight";
  stored.stored = as_stored(convert<half>(ctx, Tensor<float, Cpu>::zeros(ctx, {4})));
  CHECK_THROWS_WITH_AS(rms_norm(ctx, x, stored, 1e-6f),
                       doctest::Contains("rms_norm: weight 'norm.weight' is stored as float16"), Error);
  const auto y = Tensor<float, Cpu>::zeros(ctx, {4, 2}), group = Tensor<float, Cpu>::zeros(ctx, {2, 4});
  Parameter<float, Cpu> fits("fits", Tensor<float, Cpu>::zeros(ctx, {4}));
  CHECK_THROWS_WITH_AS(add_rms_norm(ctx, x, y, fits, 1e-6f),
                       doctest::Contains("add_rms_norm: shapes (2, 4) and (4, 2) differ"), Error);
  CHECK_THROWS_WITH_AS(add_layer_norm(ctx, x, x, &fits, &w, 1e-6f),
                       doctest::Contains("add_layer_norm: x (2, 4) does not fit weight (5) 'w'"), Error);
  CHECK_THROWS_WITH_AS(rms_norm_modulate(ctx, x, fits, y, y, 1e-6f),
                       doctest::Contains("rms_norm_modulate: x (2, 4) does not fit (4, 2)"), Error);
  CHECK_THROWS_WITH_AS(rms_norm_modulate(ctx, x, w, group, group, 1e-6f),
                       doctest::Contains("rms_norm_modulate: x (2, 4) does not fit weight (5)"), Error);
  CHECK_THROWS_WITH_AS(rms_norm_modulate(ctx, x, fits, {}, {}, 1e-6f),
                       doctest::Contains("rms_norm_modulate: x (2, 4) does not fit ()"), Error);
  CHECK_THROWS_WITH_AS(layer_norm_modulate(ctx, x, {}, {}, group, y, 1e-6f),
                       doctest::Contains("layer_norm_modulate: shapes (2, 4) and (4, 2) differ"), Error);
  CHECK_THROWS_WITH_AS(layer_norm_modulate(ctx, x, {}, {}, group, group, 1e-6f, {0, 3, 2}),
                       doctest::Contains("layer_norm_modulate: 3 starts do not part x (2, 4) into 2 groups"), Error);
}
