// tests/ops/upsample.cpp: pictures with repeated places against plain loops.
#include <ftlib/ops/upsample.hpp>

#include "../op_suite.hpp"

using namespace ft;
using namespace ft::test;

namespace {

struct Upsample {
  int64_t B, H, W, C, factor;
  static constexpr const char* name = "upsample_nearest";
  static std::vector<Upsample> shapes() {
    return {{1, 1, 1, 1, 2}, {2, 3, 5, 3, 2}, {1, 2, 3, 8, 1}, {1, 4, 2, 16, 3}, {3, 1, 7, 5, 2}};
  }
  std::vector<HostArray> inputs(Random& random) const { return {activation(random, {B, H, W, C})}; }
  template <class T, class D> Tensor<T, D> run(Context<D>& ctx, Args<T, D>& a) const {
    return upsample_nearest(ctx, a.x[0], factor);
  }
  HostArray reference(const std::vector<HostArray>& in) const {
    HostArray y(Shape{B, factor * H, factor * W, C});
    for (int64_t i = 0; i < y.count(); ++i) {
      const int64_t c = i % C, w = i / C % (factor * W), h = i / C / (factor * W) % (factor * H),
                    b = i / C / (factor * W) / (factor * H);
      y[i] = in[0][((b * H + h / factor) * W + w / factor) * C + c];
    }
    return y;
  }
  Tolerance16 tolerance16() const { return {.dx = 2e-5}; }  // each copy's share is rounded as it is added
  double bytes(double item) const { return item * static_cast<double>((1 + factor * factor) * B * H * W * C); }
};

}  // namespace

TEST_CASE("ops/upsample: upsample_nearest") { test_op<Upsample>(); }

TEST_CASE("ops/upsample: what is no picture is refused") {
  Context<Cpu> ctx({.threads = 1});
  CHECK_THROWS_WITH_AS(upsample_nearest(ctx, Tensor<float, Cpu>::zeros(ctx, {2, 3}), 2),
                       doctest::Contains("x (2, 3) by 2"), Error);
}
