// tests/op_suite.hpp: one description per op gives its parity and gradient tests (and, in benchmarks/, its benchmark).
//
// A description is a struct with sizes as members, and
//   static constexpr const char* name;
//   static std::vector<Op> shapes();                    // tails, size 1 and odd rows first; at least five
//   std::vector<HostArray> inputs(Random&) const;       // activations and parameters, as double on the host
//   template <class T, class D> Tensor<T, D> run(Context<D>&, Args<T, D>&) const;   // the op on a.x[i] and a.w[i]
//   HostArray reference(const std::vector<HostArray>&) const;   // plain loops in double, in the order of inputs()
// and optionally
//   double tolerance() const;                           // NMSE for float against the reference, 1e-7 by default
//   GradcheckOptions gradcheck() const;
//   double flops() const; double bytes(double item) const;   // for the benchmark
// To add an op, copy tests/ops/norm.cpp and run `ctest -R ops`.
#pragma once
#include <doctest/doctest.h>
#include <ftlib/autograd/gradcheck.hpp>

#include <cmath>
#include <functional>
#include <string>
#include <vector>

namespace ft::test {

enum class Role { activation, parameter };

/// An array of doubles on the host.
struct HostArray {
  Shape shape;
  std::vector<double> values;
  Role role = Role::activation;

  HostArray() = default;
  HostArray(const Shape& shape_, double value = 0)
      : shape(shape_), values(static_cast<std::size_t>(shape_.count()), value) {}
  double& operator[](int64_t i) { return values[static_cast<std::size_t>(i)]; }
  double operator[](int64_t i) const { return values[static_cast<std::size_t>(i)]; }
  int64_t count() const { return shape.count(); }
  int64_t rows() const { return shape.rows(); }
  int64_t cols() const { return shape.rank() ? shape.back() : 1; }
};

inline HostArray activation(Random& random, const Shape& shape, double scale = 1) {
  HostArray a(shape);
  for (double& v : a.values) v = scale * random.normal();
  return a;
}
inline HostArray parameter(Random& random, const Shape& shape, double scale = 1) {
  HostArray a = activation(random, shape, scale);
  a.role = Role::parameter;
  return a;
}

/// The arguments of an op on a device.
template <Scalar T, Device D> struct Args {
  std::vector<Tensor<T, D>> x;
  std::vector<Parameter<T, D>> w;
};

/// How activations lie in memory: without gaps, or as every second element of a larger, transposed array.
enum class Layout { contiguous, strided };

template <Scalar T, Device D>
Tensor<T, D> upload(Context<D>& ctx, const HostArray& a, Layout layout = Layout::contiguous) {
  const auto cast = [](double v) { return static_cast<T>(static_cast<accumulate_t<T>>(v)); };
  if (layout == Layout::contiguous) {
    std::vector<T> values;
    for (const double v : a.values) values.push_back(cast(v));
    return Tensor<T, D>(ctx, a.shape, values);
  }
  // Axes in reverse order of memory, and a gap behind each element.
  Shape strides = a.shape;
  int64_t step = 2;
  for (int i = 0; i < a.shape.rank(); ++i) {
    strides[i] = step;
    step *= a.shape[i];
  }
  std::vector<T> values(static_cast<std::size_t>(step), cast(std::nan("")));
  for (int64_t i = 0; i < a.count(); ++i) {
    int64_t at = 0, rest = i;
    for (int axis = a.shape.rank() - 1; axis >= 0; --axis) {
      at += rest % a.shape[axis] * strides[axis];
      rest /= a.shape[axis];
    }
    values[static_cast<std::size_t>(at)] = cast(a[i]);
  }
  return Tensor<T, D>(ctx, {step}, values).strided(0, a.shape, strides);
}
template <Scalar T, Device D>
Args<T, D> upload(Context<D>& ctx, const std::vector<HostArray>& inputs, Layout layout = Layout::contiguous) {
  Args<T, D> args;
  for (const HostArray& a : inputs) {
    if (a.role == Role::parameter) args.w.emplace_back(str("w", args.w.size()), upload<T>(ctx, a));
    else args.x.push_back(upload<T>(ctx, a, layout));
  }
  return args;
}
template <Scalar T, Device D> HostArray download(Context<D>& ctx, const Tensor<T, D>& x) {
  HostArray a(x.shape());
  const auto values = contiguous(ctx, x).to_host(ctx);
  for (std::size_t i = 0; i < values.size(); ++i)
    a.values[i] = static_cast<double>(static_cast<accumulate_t<T>>(values[i]));
  return a;
}

/// Normalised mean squared error: sum (a - b)^2 / sum b^2; infinite where a value is not finite.
inline double nmse(const HostArray& a, const HostArray& b) {
  double error = 0, norm = 0;
  for (int64_t i = 0; i < b.count(); ++i) {
    error += (a[i] - b[i]) * (a[i] - b[i]);
    norm += b[i] * b[i];
  }
  if (!std::isfinite(error)) return INFINITY;
  return error == 0 ? 0 : error / std::max(norm, 1e-30);
}

/// Runs all tests of a description. Call it from a TEST_CASE of the op's file.
template <class Op> void test_op() {
  Context<Cpu> ctx({.threads = 2, .seed = 7});
  ctx.poison(true);
  REQUIRE(Op::shapes().size() >= 5);
  for (const Op& op : Op::shapes()) {
    Random random(3);
    const std::vector<HostArray> inputs = op.inputs(random);
    const HostArray expected = op.reference(inputs);
    std::string sizes;
    for (const HostArray& a : inputs) sizes += str(a.shape, ' ');
    INFO(Op::name, " on ", sizes);

    double tolerance = 1e-7;
    if constexpr (requires { op.tolerance(); }) tolerance = op.tolerance();
    for (const Layout layout : {Layout::contiguous, Layout::strided}) {
      INFO("layout ", layout == Layout::contiguous ? "contiguous" : "strided");
      ctx.random().seek(0);
      auto f32 = upload<float>(ctx, inputs, layout);
      const HostArray y32 = download(ctx, op.run(ctx, f32));
      CHECK(str(y32.shape) == str(expected.shape));
      CHECK(nmse(y32, expected) <= tolerance);
      ctx.random().seek(0);
      auto f64 = upload<double>(ctx, inputs, layout);
      CHECK(nmse(download(ctx, op.run(ctx, f64)), expected) <= 1e-20);

      GradcheckOptions options;
      if constexpr (requires { op.gradcheck(); }) options = op.gradcheck();
      std::vector<Parameter<double, Cpu>*> ws;
      for (auto& w : f64.w) ws.push_back(&w);
      const auto run = [&](Context<Cpu>& c, std::vector<Tensor<double, Cpu>>& xs) {
        f64.x = xs;
        return op.run(c, f64);
      };
      CHECK(gradcheck(ctx, run, f64.x, std::span<Parameter<double, Cpu>* const>(ws), options) == "");
    }
  }
}

}  // namespace ft::test
