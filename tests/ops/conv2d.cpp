// tests/ops/conv2d.cpp: the convolution over pictures against plain loops, in several parts, and what it refuses.
#include <ftlib/ops/conv2d.hpp>

#include "../op_suite.hpp"

using namespace ft;
using namespace ft::test;

namespace {

struct Conv {
  int64_t B, H, W, C, O, kh, kw;
  ConvWindow window;
  bool bias = true;
  static constexpr const char* name = "conv2d";
  static std::vector<Conv> shapes() {
    return {{1, 1, 1, 1, 1, 1, 1, {}},
            {2, 3, 4, 5, 7, 3, 3, ConvWindow::padded(1)},
            {1, 5, 6, 3, 2, 3, 3, {2, 0, 0, 1, 1}},  // an autoencoder's way down
            {2, 5, 4, 8, 16, 3, 3, {2, 1, 1, 1, 1}, false},
            {1, 4, 7, 16, 8, 1, 1, {}},
            {1, 4, 5, 2, 3, 2, 4, {3, 2, 1, 0, 3}},
            {1, 7, 5, 3, 4, 5, 1, {1, 0, 2, 3, 0}}};
  }
  int64_t rows() const { return (H + window.top + window.bottom - kh) / window.stride + 1; }
  int64_t cols() const { return (W + window.left + window.right - kw) / window.stride + 1; }
  std::vector<HostArray> inputs(Random& random) const {
    std::vector<HostArray> all{activation(random, {B, H, W, C}), parameter(random, {O, C, kh, kw})};
    if (bias) all.push_back(parameter(random, {O}));
    return all;
  }
  template <class T, class D> Tensor<T, D> run(Context<D>& ctx, Args<T, D>& a) const {
    return conv2d(ctx, a.x[0], a.w[0], bias ? &a.w[1] : nullptr, window);
  }
  HostArray reference(const std::vector<HostArray>& in) const {
    HostArray y(Shape{B, rows(), cols(), O});
    for (int64_t b = 0; b < B; ++b)
      for (int64_t h = 0; h < rows(); ++h)
        for (int64_t v = 0; v < cols(); ++v)
          for (int64_t o = 0; o < O; ++o) {
            double sum = bias ? in[2][o] : 0;
            for (int64_t i = 0; i < kh; ++i)
              for (int64_t j = 0; j < kw; ++j) {
                const int64_t p = h * window.stride + i - window.top, q = v * window.stride + j - window.left;
                if (p < 0 || p >= H || q < 0 || q >= W) continue;
                for (int64_t c = 0; c < C; ++c)
                  sum += in[1][((o * C + c) * kh + i) * kw + j] * in[0][((b * H + p) * W + q) * C + c];
              }
            y[((b * rows() + h) * cols() + v) * O + o] = sum;
          }
    return y;
  }
  double bytes(double item) const {
    return item * static_cast<double>(B * (H * W * C + rows() * cols() * O) + O * C * kh * kw);
  }
  double flops() const { return 2.0 * static_cast<double>(B * rows() * cols() * O * C * kh * kw); }
};

}  // namespace

TEST_CASE("ops/conv2d: conv2d") { test_op<Conv>(); }

TEST_CASE("ops/conv2d: a picture whose patches are gathered in parts is what it is in one, and so are its gradients") {
  Context<Cpu> ctx({.threads = 2, .seed = 7});
  const Conv op{1, 70, 60, 50, 2, 3, 3, ConvWindow::padded(1)};  // 4,200 patches of 450: two parts
  Random random(3);
  const auto inputs = op.inputs(random);
  auto args = upload<double>(ctx, inputs);
  Tape<Cpu> tape(ctx);
  tape.watch(args.x[0]);
  const auto y = op.run(ctx, args);
  CHECK(nmse(download(ctx, y), op.reference(inputs)) <= 1e-20);
  // <dy, conv(x', w)> = <dx, x'> and <dy, conv(x, w')> = <dw, w'>, with no bias
  const HostArray dy = activation(random, y.shape());
  tape.backward(y, upload<double>(ctx, dy));
  const auto dot = [](const HostArray& a, const HostArray& b) {
    double sum = 0;
    for (int64_t i = 0; i < a.count(); ++i) sum += a[i] * b[i];
    return sum;
  };
  auto others = op.inputs(random);
  others[2] = HostArray(Shape{2});
  CHECK(dot(dy, op.reference({others[0], inputs[1], others[2]})) ==
        doctest::Approx(dot(download(ctx, tape.gradient(args.x[0])), others[0])).epsilon(1e-9));
  CHECK(dot(dy, op.reference({inputs[0], others[1], others[2]})) ==
        doctest::Approx(dot(download(ctx, args.w[0].grad), others[1])).epsilon(1e-9));
}

TEST_CASE("ops/conv2d: what does not fit is refused by name and shape") {
  Context<Cpu> ctx({.threads = 1});
  const auto x = Tensor<float, Cpu>::zeros(ctx, {1, 4, 4, 3});
  Parameter<float, Cpu> w("conv.weight", Tensor<float, Cpu>::zeros(ctx, {2, 5, 3, 3})),
      fits("conv.weight", Tensor<float, Cpu>::zeros(ctx, {2, 3, 3, 3})), b("conv.bias", Tensor<float, Cpu>(ctx, {3}));
  CHECK_THROWS_WITH_AS(conv2d(ctx, x, w), doctest::Contains("x (1, 4, 4, 3) does not fit w (2, 5, 3, 3) 'conv.weight'"),
                       Error);
  CHECK_THROWS_WITH_AS(conv2d(ctx, x, fits, &b), doctest::Contains("bias (3) 'conv.bias' does not fit"), Error);
  CHECK_THROWS_WITH_AS(conv2d(ctx, Tensor<float, Cpu>::zeros(ctx, {1, 2, 2, 3}), fits),
                       doctest::Contains("a window 3 x 3 of stride 1 does not go over x (1, 2, 2, 3)"), Error);
}
