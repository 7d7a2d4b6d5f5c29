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
//   double tolerance16() const;                         // NMSE for bfloat16 on CUDA against the CPU's float, 1e-4
//   static constexpr bool in_half = true;               // compared in half as well
//   bool rounding_alone() const;                        // gradients of rounding alone: not compared on a real GPU
//   GradcheckOptions gradcheck() const;
//   double flops() const; double bytes(double item) const;  // for the benchmark
// To add an op, copy tests/ops/norm.cpp and run `ctest -R ops`. Where the CUDA side is built (tests/cuda_emulation/),
// the same descriptions hold it against the CPU.
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

/// How activations lie in memory: without gaps; likewise, one element off the start of their memory and so of no
/// alignment; or as every second element of a larger, transposed array.
enum class Layout { contiguous, unaligned, strided };

template <Scalar T, Device D>
Tensor<T, D> upload(Context<D>& ctx, const HostArray& a, Layout layout = Layout::contiguous) {
  const auto cast = [](double v) { return static_cast<T>(static_cast<accumulate_t<T>>(v)); };
  if (layout != Layout::strided) {
    std::vector<T> values(layout == Layout::unaligned ? 1 : 0);
    for (const double v : a.values) values.push_back(cast(v));
    if (layout == Layout::contiguous) return Tensor<T, D>(ctx, a.shape, values);
    const auto size = static_cast<int64_t>(values.size());
    return Tensor<T, D>(ctx, {size}, values).strided(1, a.shape, a.shape.strides());
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

#if FTLIB_WITH_CUDA
/// Values in [-1, 1) without a pattern, which bfloat16 holds exactly.
inline HostArray scattered(const Shape& shape) {
  HostArray a(shape);
  for (int64_t i = 0; i < a.count(); ++i) a[i] = static_cast<double>((i + 1) * 40503 % 65521 % 256) / 128 - 1;
  return a;
}

/// The nearest bfloat16 of each value.
inline HostArray rounded(HostArray a) {
  for (double& v : a.values) v = double{static_cast<float>(bfloat16(static_cast<float>(v)))};
  return a;
}

/// The result of an op, and the gradients of its activations and parameters for some cotangent. Parameters' gradients
/// start at some values, so that one that is assigned shows.
template <class T, Device D, class Op>
std::vector<HostArray> forward_backward(Context<D>& ctx, const Op& op, const std::vector<HostArray>& inputs,
                                        Layout layout) {
  ctx.random().seek(0);
  Args<T, D> args = upload<T>(ctx, inputs, layout);
  for (auto& w : args.w) w.grad = upload<accumulate_t<T>>(ctx, scattered(w.shape()));
  std::vector<HostArray> results;
  Tape<D> tape(ctx);
  for (auto& x : args.x) tape.watch(x);
  const auto y = op.run(ctx, args);  // of T; a loss of the type that sums are kept in
  results.push_back(download(ctx, y));
  tape.backward(y, upload<typename decltype(op.run(ctx, args))::value_type>(ctx, scattered(y.shape())));
  for (auto& x : args.x)
    if (const auto dx = tape.gradient(x)) results.push_back(download(ctx, dx));
  for (auto& w : args.w) results.push_back(download(ctx, w.grad));
  return results;
}

/// The CUDA side of a description against the CPU's, in float and in bfloat16, and each order of threads against the
/// others: to the bit.
template <class Op> void test_op() {
  Context<Cpu> cpu({.threads = 1, .seed = 7});
  for (const Op& op : Op::shapes()) {
    if constexpr (requires { op.rounding_alone(); })
      if (op.rounding_alone() && !cuda_emulation::here) continue;  // nvcc contracts to FMA where it likes
    Random random(3);
    const std::vector<HostArray> inputs = op.inputs(random);
    std::string sizes;
    for (const HostArray& a : inputs) sizes += str(a.shape, ' ');
    for (const Layout layout : {Layout::contiguous, Layout::unaligned, Layout::strided}) {
      INFO(Op::name, " on ", sizes, "layout ", static_cast<int>(layout));
      const auto expected = forward_backward<float>(cpu, op, inputs, layout);
      std::vector<HostArray> first;
      for (const uint64_t seed : {1u, 2u}) {
        cuda_emulation::set_seed(seed);
        Context<Cuda> ctx({.seed = 7});
        const auto got = forward_backward<float>(ctx, op, inputs, layout);
        REQUIRE(got.size() == expected.size());
        for (std::size_t i = 0; i < got.size(); ++i) {
          CHECK(str(got[i].shape) == str(expected[i].shape));
          CHECK(nmse(got[i], expected[i]) <= 1e-7);
          if (seed == 1) first = got;
          else CHECK(got[i].values == first[i].values);
        }
      }
      std::vector<HostArray> inputs16;  // so that what differs is the rounding of results alone
      for (const HostArray& a : inputs) inputs16.push_back(rounded(a));
      const auto expected16 = forward_backward<float>(cpu, op, inputs16, layout);
      double tolerance16 = 1e-4;  // 2^-9, some times
      if constexpr (requires { op.tolerance16(); }) tolerance16 = op.tolerance16();
      const auto check16 = [&]<class T>(T) {
        Context<Cuda> ctx({.seed = 7});
        const auto got16 = forward_backward<T>(ctx, op, inputs16, layout);
        REQUIRE(got16.size() == expected16.size());
        for (std::size_t i = 0; i < got16.size(); ++i) CHECK(nmse(got16[i], expected16[i]) <= tolerance16);
      };
      check16(bfloat16());
      if constexpr (requires { Op::in_half; }) check16(half());  // where half has instructions of its own
    }
  }
}
#else
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
#endif

}  // namespace ft::test
