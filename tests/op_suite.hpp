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
//   bool sums_alone() const;                            // many additions and little else: in one placement alone
//   Tolerance16 tolerance16() const;                    // for 16 bits on CUDA against the CPU's float, see there
//   static constexpr bool in_half = true;               // compared in half as well
//   bool rounding_alone() const;                        // gradients of rounding alone: not compared on a real GPU
//   GradcheckOptions gradcheck() const;
//   double flops() const; double bytes(double item) const;  // for the benchmark
// To add an op, copy tests/ops/norm.cpp and run `ctest -R ops`. Where the CUDA side is built (tests/cuda_emulation/),
// the same descriptions hold it against the CPU.
#pragma once
#include <doctest/doctest.h>
#include <ftlib/autograd/gradcheck.hpp>

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <vector>

/// So that INFO prints a const char* as text, not as an address.
template <> struct doctest::StringMaker<const char*> {
  static String convert(const char* text) { return text; }
};

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
/// alignment; as every second element of a larger, transposed array; or without gaps but for one element behind each
/// index of the first axis, so that the first token alone is aligned.
enum class Layout { contiguous, unaligned, strided, padded };

template <Scalar T, Device D>
Tensor<T, D> upload(Context<D>& ctx, const HostArray& a, Layout layout = Layout::contiguous) {
  const auto cast = [](double v) { return static_cast<T>(static_cast<accumulate_t<T>>(v)); };
  if (layout == Layout::padded) {
    if (a.shape.rank() < 2) return upload<T>(ctx, a);
    Shape strides = a.shape.strides();
    const int64_t row = strides[0]++;
    std::vector<T> values;
    for (int64_t i = 0; i < a.count(); ++i) {
      values.push_back(cast(a[i]));
      if ((i + 1) % row == 0) values.push_back(cast(std::nan("")));
    }
    const auto size = static_cast<int64_t>(values.size());
    return Tensor<T, D>(ctx, {size}, values).strided(0, a.shape, strides);
  }
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
Args<T, D> upload(Context<D>& ctx, const std::vector<HostArray>& inputs, Layout layout = Layout::contiguous,
                  Layout layout_of_parameters = Layout::contiguous) {
  Args<T, D> args;
  for (const HostArray& a : inputs) {
    if (a.role == Role::parameter)
      args.w.emplace_back(str("w", args.w.size()), upload<T>(ctx, a, layout_of_parameters));
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

/// What 16 bits on CUDA are held to beside the CPU's float on the same inputs. A kernel that sums in float and rounds
/// once gives the nearest number of 16 bits, whatever the sizes: that is `nearest`. An NMSE is for those that work from
/// something rounded: a kept result, a part that is rounded before another is added to it.
struct Tolerance16 {
  static constexpr double nearest = -1;
  double y = nearest, dx = nearest;
  double sums = 1e-9;  // of what is float even then: losses, parameters' gradients
};

#if FTLIB_WITH_CUDA
/// Values in [-1, 1) without a pattern, which bfloat16 holds exactly.
inline HostArray scattered(const Shape& shape) {
  HostArray a(shape);
  for (int64_t i = 0; i < a.count(); ++i) a[i] = static_cast<double>((i + 1) * 40503 % 65521 % 256) / 128 - 1;
  return a;
}

/// The nearest T of each value.
template <Scalar T> HostArray rounded(HostArray a) {
  for (double& v : a.values) v = static_cast<double>(static_cast<accumulate_t<T>>(T(static_cast<float>(v))));
  return a;
}

/// A result of an op, or a gradient.
struct Result {
  std::string name;  // "y", "dx of input 0", "dw of parameter 1"
  DType type;
  HostArray array;
};

/// How an op's operands lie in memory on the GPU.
struct Placement {
  const char* name;
  Layout x, dy, w;
  uint64_t seeds;  // orders of threads that are tried: two for each way through the kernels
};
inline constexpr Placement placements[] = {
    {"contiguous", Layout::contiguous, Layout::contiguous, Layout::contiguous, 2},
    {"unaligned", Layout::unaligned, Layout::unaligned, Layout::contiguous, 2},
    {"strided", Layout::strided, Layout::strided, Layout::contiguous, 2},
    {"tokens padded", Layout::padded, Layout::contiguous, Layout::contiguous, 1},  // tokens at odd distances
    {"unaligned dy alone", Layout::contiguous, Layout::unaligned, Layout::contiguous, 1},
    {"unaligned parameters", Layout::contiguous, Layout::contiguous, Layout::unaligned, 1},
};

/// The result of an op, and the gradients of its activations and parameters for some cotangent. Parameters' gradients
/// start at some values, so that one that is assigned shows.
template <class T, Device D, class Op>
std::vector<Result> forward_backward(Context<D>& ctx, const Op& op, const std::vector<HostArray>& inputs,
                                     const Placement& at) {
  using Y = typename decltype(op.run(ctx, std::declval<Args<T, D>&>()))::value_type;  // of a loss: accumulate_t<T>
  ctx.random().seek(0);
  Args<T, D> args = upload<T>(ctx, inputs, at.x, at.w);
  for (auto& w : args.w) w.grad = upload<accumulate_t<T>>(ctx, scattered(w.shape()), at.w);
  std::vector<Result> results;
  Tape<D> tape(ctx);
  for (auto& x : args.x) tape.watch(x);
  const auto y = op.run(ctx, args);
  results.push_back({"y", dtype_of<Y>, download(ctx, y)});
  tape.backward(y, upload<Y>(ctx, scattered(y.shape()), at.dy));
  for (std::size_t i = 0; i < args.x.size(); ++i)
    if (const auto dx = tape.gradient(args.x[i]))
      results.push_back({str("dx of input ", i), dtype_of<T>, download(ctx, dx)});
  for (std::size_t i = 0; i < args.w.size(); ++i)
    results.push_back({str("dw of parameter ", i), dtype_of<accumulate_t<T>>, download(ctx, args.w[i].grad)});
  return results;
}

/// Numbers of T from a to b.
template <Scalar T> int64_t steps(double a, double b) {
  const auto place = [](double v) {
    const int64_t bits = T(static_cast<float>(v)).bits;
    return bits & 0x8000 ? -(bits & 0x7fff) : bits;
  };
  return std::abs(place(a) - place(b));
}

/// Empty where `got` is `expected` within the NMSE `tolerance`, or, of `nearest` numbers of T, but for one element in
/// 50 that is a neighbour, as float's own rounding may decide; else what differs, and how the run was.
template <Scalar T> std::string difference(const Result& got, const Result& expected, double tolerance, uint64_t seed) {
  const std::string what =
      str(got.name, ' ', got.array.shape, ' ', got.type, " of a run in ", dtype_of<T>, ", seed ", seed, ": ");
  if (str(got.array.shape) != str(expected.array.shape))
    return what + str("the shape was to be ", expected.array.shape);
  const int64_t count = got.array.count();
  int64_t worst = 0, wrong = 0;
  double most = -1;
  bool neighbours = true;
  for (int64_t i = 0; i < count; ++i) {
    double off = std::abs(got.array[i] - expected.array[i]);
    if constexpr (sizeof(T) == 2) {
      if (tolerance == Tolerance16::nearest) {
        off = std::isfinite(got.array[i]) ? static_cast<double>(steps<T>(got.array[i], expected.array[i])) : INFINITY;
        neighbours &= off <= 1;
        wrong += off > 0;
      }
    }
    if (!(off <= most)) worst = i, most = std::isnan(off) ? INFINITY : off;
  }
  std::string error;
  if (tolerance == Tolerance16::nearest) {
    if (neighbours && wrong <= 1 + count / 50) return "";
    error = str(wrong, " of ", count, " are not the nearest number");
  } else {
    const double found = nmse(got.array, expected.array);
    if (found <= tolerance) return "";
    error = str("NMSE ", found, " > ", tolerance);
  }
  return what + error + str("; element ", worst, " is ", got.array[worst], ", not ", expected.array[worst]);
}

/// The CUDA side of a description against the CPU's, in float and in 16 bits, and each order of threads against the
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
    Tolerance16 tolerance16;
    if constexpr (requires { op.tolerance16(); }) tolerance16 = op.tolerance16();
    std::vector<HostArray> inputs16;  // so that what differs is the rounding of results alone
    for (const HostArray& a : inputs) inputs16.push_back(rounded<bfloat16>(a));
    const auto any = [&](auto is) { return std::any_of(inputs.begin(), inputs.end(), is); };
    const bool weights = any([](const HostArray& a) { return a.role == Role::parameter; });
    const bool heads = any([](const HostArray& a) { return a.role == Role::activation && a.shape.rank() > 2; });
    for (const Placement& at : placements) {
      if ((at.w == Layout::unaligned && !weights) || (at.x == Layout::padded && !heads)) continue;
      if constexpr (requires { op.sums_alone(); })
        if (op.sums_alone() && &at != placements) continue;
      INFO(Op::name, " on ", sizes, at.name);
      const auto expected = forward_backward<float>(cpu, op, inputs, at);
      std::vector<Result> first;
      for (uint64_t seed = 1; seed <= at.seeds; ++seed) {
        cuda_emulation::set_seed(seed);
        Context<Cuda> ctx({.seed = 7});
        const auto got = forward_backward<float>(ctx, op, inputs, at);
        REQUIRE(got.size() == expected.size());
        for (std::size_t i = 0; i < got.size(); ++i) {
          CHECK(difference<float>(got[i], expected[i], 1e-7, seed) == "");
          if (seed == 1) first = got;
          else if (got[i].array.values != first[i].array.values)
            CHECK(difference<float>(got[i], first[i], 0, seed) == "the same as with seed 1");
        }
      }
      const auto expected16 = forward_backward<float>(cpu, op, inputs16, at);
      const auto check16 = [&]<class T>(T) {
        Context<Cuda> ctx({.seed = 7});
        const auto got = forward_backward<T>(ctx, op, inputs16, at);
        REQUIRE(got.size() == expected16.size());
        for (std::size_t i = 0; i < got.size(); ++i) {
          const bool sums = got[i].type == DType::f32;
          const double tolerance = sums ? tolerance16.sums : i == 0 ? tolerance16.y : tolerance16.dx;
          CHECK(difference<T>(got[i], expected16[i], tolerance, at.seeds) == "");
        }
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
