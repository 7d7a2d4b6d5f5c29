// tests/autograd/tape.cpp: the tape's rules: sums where a tensor is used twice, accumulation, NoGrad, recompute,
// freeing of memory, refusals; and that gradcheck catches planted bugs.
#include <doctest/doctest.h>
#include <ftlib/autograd/gradcheck.hpp>
#include <ftlib/autograd/recompute.hpp>
#include <ftlib/ops/activation.hpp>
#include <ftlib/ops/dropout.hpp>
#include <ftlib/ops/elementwise.hpp>
#include <ftlib/ops/norm.hpp>
#include <ftlib/ops/shape.hpp>

using namespace ft;

namespace {

using Values = std::vector<float>;
using Floats = Tensor<float, Cpu>;
using Doubles = Tensor<double, Cpu>;
using Weight = Parameter<float, Cpu>;

template <class T> std::vector<T> normals(Random& random, int64_t n) {
  std::vector<T> values;
  for (int64_t i = 0; i < n; ++i) values.push_back(static_cast<T>(random.normal()));
  return values;
}

/// y = factor x w (w of x's shape), with a bug to plant in its backward.
enum class Bug { none, factor, missing, added, parameter_assigned, parameter_missing };
Doubles buggy(Context<Cpu>& ctx, const Doubles& x_, Parameter<double, Cpu>& w, Bug bug) {
  const Doubles x = contiguous(ctx, x_);
  Doubles y(ctx, x.shape());
  product(ctx, y.view(), x.view(), w.value.view());
  record(ctx, "buggy", y, {x, w}, [x, &w, bug](Gradients<double, Cpu>& g) {
    const View<const double> dy = g.incoming();
    if (bug != Bug::missing) {
      const View<double> dx = g.assign(x);
      for (int64_t i = 0; i < dx.count(); ++i) {
        const double d = dy.data[i] * w.value.data()[i] * (bug == Bug::factor && i == dx.count() - 1 ? 1.001 : 1);
        dx.data[i] = bug == Bug::added ? dx.data[i] + d : d;
      }
    }
    const View<double> dw = g.add(w);
    for (int64_t i = 0; i < dw.count(); ++i) {
      const double d = dy.data[i] * x.data()[i];
      if (bug == Bug::parameter_assigned) dw.data[i] = d;
      else if (bug != Bug::parameter_missing) dw.data[i] += d;
    }
  });
  return y;
}

}  // namespace

TEST_CASE("autograd/tape: a tensor used several times gets the sum of its gradients") {
  Context<Cpu> ctx({.threads = 1});
  ctx.poison(true);
  Tape<Cpu> tape(ctx);
  Floats x(ctx, {3}, Values{1, 2, 3});
  tape.watch(x);
  const auto a = scale(ctx, x, 2), b = mul(ctx, x, x);      // 2 x, x^2
  const auto y = add(ctx, add(ctx, a, b), add(ctx, x, a));  // 2 x + x^2 + x + 2 x
  tape.backward(y, Floats(ctx, {3}, Values{1, 1, 10}));
  CHECK(tape.gradient(x).to_host(ctx) == Values{7, 9, 110});
}

TEST_CASE("autograd/tape: shared gradients are not changed by later sums") {
  Context<Cpu> ctx({.threads = 1});
  Tape<Cpu> tape(ctx);
  Floats x(ctx, {2}, Values{1, 2}), z(ctx, {2}, Values{5, 6});
  tape.watch(x);
  tape.watch(z);
  const auto early = scale(ctx, x, 3);             // its share of dx comes last,
  const auto y = add(ctx, add(ctx, x, z), early);  // after add has given x and z one and the same tensor
  const Floats dy(ctx, {2}, Values{1, 1});
  tape.backward(y, dy);
  CHECK(tape.gradient(x).to_host(ctx) == Values{4, 4});
  CHECK(tape.gradient(z).to_host(ctx) == Values{1, 1});
  CHECK(dy.to_host(ctx) == Values{1, 1});
}

TEST_CASE("autograd/tape: parameters accumulate over backward passes, frozen ones get nothing") {
  Context<Cpu> ctx({.threads = 1});
  ctx.poison(true);
  Weight w("w", Floats(ctx, {2}, Values{2, 3})), frozen("frozen", Floats(ctx, {2}, Values{1, 1}), false);
  const Floats x(ctx, {1, 2}, Values{1, -1});
  Values once;
  for (int pass = 1; pass <= 2; ++pass) {
    Tape<Cpu> tape(ctx);
    tape.backward(sum(ctx, rms_norm(ctx, rms_norm(ctx, x, w, 1e-6f), frozen, 1e-6f)));
    if (pass == 1) once = w.grad.to_host(ctx);
  }
  const Values twice = w.grad.to_host(ctx);
  CHECK(once[0] != 0);
  for (std::size_t i = 0; i < 2; ++i) CHECK(twice[i] == doctest::Approx(2 * once[i]));
  CHECK(!frozen.grad);
}

TEST_CASE("autograd/tape: results that nothing uses, and inputs that nothing depends on") {
  Context<Cpu> ctx({.threads = 1});
  ctx.poison(true);
  Tape<Cpu> tape(ctx);
  Floats x(ctx, {2}, Values{1, 2}), unused(ctx, {2}, Values{1, 2});
  tape.watch(x);
  tape.watch(unused);
  const auto dead_end = silu(ctx, x);
  tape.backward(scale(ctx, x, 4), Floats(ctx, {2}, Values{1, 1}));
  CHECK(tape.gradient(x).to_host(ctx) == Values{4, 4});
  CHECK(!tape.gradient(unused));
  CHECK(dead_end.node() != 0);
}

TEST_CASE("autograd/tape: nothing is recorded without a tape, under NoGrad, or for detached tensors") {
  Context<Cpu> ctx({.threads = 1});
  Floats x(ctx, {2}, Values{1, 2});
  CHECK(scale(ctx, x, 2).node() == 0);
  Tape<Cpu> tape(ctx);
  CHECK(scale(ctx, x, 2).node() == 0);  // nobody wants x's gradient
  tape.watch(x);
  CHECK(scale(ctx, x, 2).node() != 0);
  CHECK(scale(ctx, x.detached(), 2).node() == 0);
  {
    const NoGrad off(ctx);
    CHECK(scale(ctx, x, 2).node() == 0);
    {
      Tape<Cpu> inner(ctx);  // a tape inside records again, for itself
      Floats z = x.detached();
      inner.watch(z);
      inner.backward(sum(ctx, scale(ctx, z, 5)));
      CHECK(inner.gradient(z).to_host(ctx) == Values{5, 5});
    }
    CHECK(ctx.tape() == nullptr);
  }
  CHECK(ctx.tape() == &tape);
  const auto y = add(ctx, mul(ctx, x, x.detached()), x);  // the detached factor counts as constant
  tape.backward(sum(ctx, y));
  CHECK(tape.gradient(x).to_host(ctx) == Values{2, 3});
}

TEST_CASE("autograd/tape: a tensor of another tape is refused, by op and by backward") {
  Context<Cpu> ctx({.threads = 1});
  Tape<Cpu> outer(ctx);
  Floats x(ctx, {2}, Values{1, 2});
  outer.watch(x);
  const auto y = sum(ctx, x);
  {
    Tape<Cpu> inner(ctx);
    CHECK_THROWS_WITH_AS(scale(ctx, x, 2), doctest::Contains("scale: an input was recorded on another tape"), Error);
    CHECK_THROWS_WITH_AS(inner.backward(y), doctest::Contains("not recorded on this tape"), Error);
    CHECK_THROWS_WITH_AS(inner.gradient(x), doctest::Contains("not recorded on this tape"), Error);
  }
  outer.backward(y);  // and the refusals have broken nothing
  CHECK(outer.gradient(x).to_host(ctx) == Values{1, 1});
  Tape<Cpu> next(ctx);
  CHECK_THROWS_WITH_AS(scale(ctx, x, 2), doctest::Contains("another tape"), Error);
}

TEST_CASE("autograd/tape: a tensor of another context's tape is refused, though each tape is its context's first") {
  Context<Cpu> teacher({.threads = 1}), student({.threads = 1});
  Tape<Cpu> theirs(teacher), ours(student);
  Floats x(teacher, {2}, Values{1, 2}), z(student, {2}, Values{3, 4});
  theirs.watch(x);
  const auto far = silu(teacher, silu(teacher, x));  // slots that our tape does not have
  ours.watch(z);
  CHECK_THROWS_WITH_AS(mul(student, z, far), doctest::Contains("mul: an input was recorded on another tape"), Error);
  CHECK_THROWS_WITH_AS(ours.gradient(far), doctest::Contains("not recorded on this tape"), Error);
  CHECK_THROWS_WITH_AS(ours.backward(far, far.detached()), doctest::Contains("not recorded on this tape"), Error);
  ours.backward(sum(student, mul(student, z, far.detached())));
  CHECK(ours.gradient(z).to_host(student) == far.to_host(teacher));
  Floats forged = z.detached();
  forged.set_node(z.node() + 1000);  // of this tape, and none of its slots
  CHECK_THROWS_WITH_AS(ours.gradient(forged), doctest::Contains("not recorded on this tape"), Error);
}

TEST_CASE("autograd/tape: what backward cannot do is refused") {
  Context<Cpu> ctx({.threads = 1});
  Tape<Cpu> tape(ctx);
  Floats x(ctx, {2}, Values{1, 2});
  CHECK_THROWS_WITH_AS(tape.backward(sum(ctx, x)), doctest::Contains("depends on nothing"), Error);
  tape.watch(x);
  const auto y = scale(ctx, x, 2);
  CHECK_THROWS_WITH_AS(tape.backward(y), doctest::Contains("backward: shape (2) is no scalar"), Error);
  CHECK_THROWS_WITH_AS(tape.backward(y, sum(ctx, y)), doctest::Contains("gradient () does not fit result (2)"), Error);
  CHECK_THROWS_WITH_AS(no_backward(ctx, "argmax", {y}), doctest::Contains("argmax: has no backward"), Error);
  no_backward(ctx, "argmax", {y.detached()});
  tape.backward(y, y.detached());
  CHECK(ctx.tape() == &tape);
  CHECK_THROWS_WITH_AS(tape.backward(y, y.detached()), doctest::Contains("has run already"), Error);
}

TEST_CASE("autograd/tape: an error inside a rule leaves the context in order") {
  Context<Cpu> ctx({.threads = 1});
  Tape<Cpu> tape(ctx);
  Floats x(ctx, {2}, Values{1, 2});
  tape.watch(x);
  Floats y(ctx, {2});
  record(ctx, "fails", y, {x}, [](Gradients<float, Cpu>&) { throw Error("on purpose"); });
  CHECK_THROWS_WITH_AS(tape.backward(y, x.detached()), "on purpose", Error);
  CHECK(ctx.tape() == &tape);
}

TEST_CASE("autograd/tape: backward frees what rules hold as it goes; a tape's end frees the rest") {
  Context<Cpu> ctx({.threads = 1});
  const int64_t n = 1 << 16, layers = 20, bytes = n * static_cast<int64_t>(sizeof(float));
  Floats x = Floats::zeros(ctx, {n});
  const int64_t before = ctx.memory().now;
  {
    Tape<Cpu> tape(ctx);
    tape.watch(x);
    Floats y = x;
    for (int64_t i = 0; i < layers; ++i) y = silu(ctx, y);
    CHECK(ctx.memory().now - before >= layers * bytes);
    const int64_t forward = ctx.memory().now;
    ctx.reset_peak();
    const auto loss = sum(ctx, y);
    y = {};
    tape.backward(loss);
    CHECK(ctx.memory().peak - forward < 4 * bytes);        // gradients of two layers at a time, not of all
    CHECK(ctx.memory().now - before < bytes + bytes / 2);  // x's gradient
  }
  x = x.detached();
  CHECK(ctx.memory().now == before);
  {
    Tape<Cpu> tape(ctx);
    tape.watch(x);
    const auto y = silu(ctx, silu(ctx, x));  // recorded, and never differentiated
  }
  CHECK(ctx.memory().now == before);
}

TEST_CASE("autograd/recompute: gives what the plain block gives, dropout included, and keeps less") {
  const int64_t N = 32, C = 64;
  struct Result {
    Values y, dx, dw;
    uint64_t position;
    int64_t kept;
  };
  const auto run = [&](bool again, int blocks) {
    Context<Cpu> ctx({.threads = 2, .seed = 11});
    ctx.poison(true);
    Random random(4);
    Weight w("w", Floats(ctx, {C}, normals<float>(random, C)));
    const auto block = [&](const Floats& in) {
      const auto h = dropout(ctx, rms_norm(ctx, in, w, 1e-6f), 0.25f);
      return add(ctx, in, mul(ctx, silu(ctx, h), h));
    };
    Floats x(ctx, {N, C}, normals<float>(random, N * C));
    Tape<Cpu> tape(ctx);
    tape.watch(x);
    Floats y = x;
    for (int i = 0; i < blocks; ++i) y = again ? recompute(ctx, y, block) : block(y);
    const auto more = dropout(ctx, y, 0.5f);  // drawn between a block's two runs
    const int64_t kept = ctx.memory().now;
    tape.backward(more, Floats(ctx, {N, C}, normals<float>(random, N * C)));
    return Result{more.to_host(ctx), tape.gradient(x).to_host(ctx), w.grad.to_host(ctx), ctx.random().position(), kept};
  };
  for (const int blocks : {1, 3}) {
    const Result plain = run(false, blocks), again = run(true, blocks);
    CHECK(plain.y == again.y);
    CHECK(plain.dx == again.dx);
    CHECK(plain.dw == again.dw);
    CHECK(plain.position == again.position);
    if (blocks == 3) CHECK(again.kept < plain.kept);
  }
}

TEST_CASE("autograd/recompute: trains parameters where the input wants no gradient; nests; is plain without a tape") {
  Context<Cpu> ctx({.threads = 1});
  Weight w("w", Floats(ctx, {2}, Values{2, 3}));
  const Floats x(ctx, {1, 2}, Values{3, 4});
  const auto block = [&](const Floats& in) { return rms_norm(ctx, in, w, 0); };
  {
    Tape<Cpu> tape(ctx);
    tape.backward(sum(ctx, block(x)));
  }
  const Values plain = w.grad.to_host(ctx);
  w.grad = {};
  {
    Tape<Cpu> tape(ctx);
    tape.backward(sum(ctx, recompute(ctx, x, [&](const Floats& in) { return recompute(ctx, in, block); })));
  }
  CHECK(w.grad.to_host(ctx) == plain);
  CHECK(recompute(ctx, x, block).node() == 0);
}

TEST_CASE("autograd/recompute: several in and out, of which some lead nowhere") {
  Context<Cpu> ctx({.threads = 1});
  const auto run = [&](bool again) {
    Tape<Cpu> tape(ctx);
    Floats x(ctx, {2}, Values{1, 2}), y(ctx, {2}, Values{3, 5});
    const Floats z(ctx, {2}, Values{7, 9});
    tape.watch(x);
    tape.watch(y);
    const auto block = [&](const std::vector<Floats>& in) {
      return std::vector<Floats>{mul(ctx, in[0], in[1]), silu(ctx, in[0]), scale(ctx, in[1], 2),
                                 mul(ctx, in[1], in[2])};
    };
    const std::vector<Floats> in{x, y, z};
    const auto out = again ? recompute(ctx, in, block) : block(in);
    // out[1] is not used, out[2] twice, and y beside the block too
    const auto used = add(ctx, mul(ctx, out[0], out[2]), add(ctx, out[2], add(ctx, out[3], y)));
    tape.backward(sum(ctx, used));
    return std::pair(tape.gradient(x).to_host(ctx), tape.gradient(y).to_host(ctx));
  };
  CHECK(run(true) == run(false));
  CHECK(run(true).first == Values{18, 50});   // 2 y^2
  CHECK(run(true).second == Values{22, 52});  // 4 x y + 2 + z + 1
}

TEST_CASE("autograd/recompute: the second run sees the session as the first did, and what is there now stays") {
  Context<Cpu> ctx({.threads = 1, .seed = 3});
  const auto three = std::make_shared<float>(3.0f), five = std::make_shared<float>(5.0f);
  const auto block = [&](const Floats& in) { return scale(ctx, in, *static_cast<float*>(ctx.overlay().get())); };
  Floats x(ctx, {2}, Values{1, 2});
  Tape<Cpu> tape(ctx);
  tape.watch(x);
  ctx.exchange_overlay(three);
  const auto y = recompute(ctx, x, block);
  ctx.exchange_overlay(five);
  ctx.random() = random_of(3, 1, 0);
  const uint64_t seed = ctx.random().seed();
  tape.backward(sum(ctx, y));
  CHECK(tape.gradient(x).to_host(ctx) == Values{3, 3});
  CHECK(ctx.overlay() == five);
  CHECK(ctx.random().seed() == seed);
}

TEST_CASE("autograd/recompute: a block that uses another recorded tensor is refused") {
  Context<Cpu> ctx({.threads = 1});
  Tape<Cpu> tape(ctx);
  Floats x(ctx, {2}, Values{1, 2}), hidden(ctx, {2}, Values{1, 2});
  tape.watch(x);
  tape.watch(hidden);
  const auto y = recompute(ctx, x, [&](const Floats& in) { return mul(ctx, in, hidden); });
  CHECK_THROWS_WITH_AS(tape.backward(sum(ctx, y)), doctest::Contains("mul: an input was recorded on another tape"),
                       Error);
}

TEST_CASE("autograd/gradcheck: catches a wrong gradient, a missing one, and adding mixed up with assigning") {
  Context<Cpu> ctx({.threads = 1});
  Random random(8);
  const auto report = [&](Bug bug, const Shape& shape = {3, 4}) {
    Parameter<double, Cpu> w("w", Doubles(ctx, shape, normals<double>(random, shape.count())));
    Parameter<double, Cpu>* const ws[] = {&w};
    const auto f = [&](Context<Cpu>& c, std::vector<Doubles>& xs) { return buggy(c, xs[0], w, bug); };
    return gradcheck(ctx, f, {Doubles(ctx, shape, normals<double>(random, shape.count()))},
                     std::span<Parameter<double, Cpu>* const>(ws));
  };
  CHECK(report(Bug::none) == "");
  CHECK(report(Bug::none, {0, 4}) == "");
  CHECK(report(Bug::factor).find("input 0 (3, 4) element 11: backward says") == 0);
  CHECK(report(Bug::missing).find("input 0: no gradient came") == 0);
  CHECK(report(Bug::added).find("input 0 (3, 4) element 0: backward says") == 0);
  CHECK(report(Bug::parameter_assigned).find("parameter w (3, 4) element 0") == 0);
  CHECK(report(Bug::parameter_missing).find("parameter w (3, 4) element 0") == 0);
  CHECK(!ctx.poison());
}
