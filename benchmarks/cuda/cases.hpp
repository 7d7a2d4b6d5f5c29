// benchmarks/cuda/cases.hpp: what is measured on the GPU, each case described once: a call of the library, the bytes it
// must move and its FLOPs. benchmarks/cuda/main.cpp times them, tests/cuda_emulation/benchmarks_test.cpp runs them tiny
// on the CPU and lists the launches of the full sizes, and tools/roofline.py makes an estimate of both.
//
// Bytes are the least that the mathematics needs: each input read once, each output written once. FLOPs count additions
// and multiplications, an exp or a square root as one; backward's are those of the textbook, not what a kernel computes
// again. Arrays of the full sizes are larger together than the L2 cache of any GPU so far (128 MB), but for products
// and attention, which arithmetic bounds.
#pragma once
#include <ftlib/ops/activation.hpp>
#include <ftlib/ops/attention.hpp>
#include <ftlib/ops/cross_entropy.hpp>
#include <ftlib/ops/dropout.hpp>
#include <ftlib/ops/elementwise.hpp>
#include <ftlib/ops/embedding.hpp>
#include <ftlib/ops/linear.hpp>
#include <ftlib/ops/norm.hpp>
#include <ftlib/ops/rope.hpp>
#include <ftlib/ops/rows.hpp>
#include <ftlib/ops/sampling.hpp>
#include <ftlib/ops/softmax.hpp>
#include <ftlib/tensor/quantised.hpp>

#include <ftlib/cuda_runtime.cuda.cuh>  // all launchers

#include <functional>   // std::function
#include <memory>       // std::shared_ptr
#include <string>       // std::string
#include <type_traits>  // std::is_same_v
#include <vector>       // std::vector

namespace ft::bench {

/// What the FLOPs are done by: FMA units in float; tensor cores in 16 bits where an op is made of products.
enum class Unit { fp32, tensor };

/// Something to be called. Two hundred lambdas in std::functions take a compiler three times as long.
template <class R, class... Args> struct Call {
  virtual ~Call() = default;
  virtual R operator()(Args...) const = 0;
};
template <class F, class R, class... Args> struct CallOf : Call<R, Args...> {
  F f;
  explicit CallOf(const F& from) : f(from) {}
  R operator()(Args... args) const override { return f(args...); }
};

/// A case's arrays and its call, which may be repeated.
struct Ready {
  std::unique_ptr<Call<void>> run;
  std::vector<std::function<bool()>> finite;  // of each result
  std::vector<std::shared_ptr<void>> arrays;
};

class Arrays;
struct Case {
  std::string name;  // FAMILY/WHAT/SIZE/TYPE
  double bytes, flops;
  Unit unit;
  std::unique_ptr<Call<Call<void>*, Context<Cuda>&, Arrays&>> make;

  Ready prepare(Context<Cuda>& ctx) const;
};

/// Makes arrays, which live as long as `ready`, and remembers which ones are results.
class Arrays {
 public:
  explicit Arrays(Context<Cuda>& context) : ctx(context) {}

  Context<Cuda>& ctx;
  Ready ready;

  /// Values in [-1, 1), a pattern of a prime number of them over and over.
  template <class T> View<T> values(const Shape& shape) {
    static const std::vector<T> pattern = [] {
      constexpr int period = 65521;
      std::vector<T> all;
      for (int64_t i = 1; i <= period; ++i)
        all.push_back(T(static_cast<float>(i * 40503 % period) * (2.0f / period) - 1));
      return all;
    }();
    return View<T>(repeated(pattern, shape.count()), shape);
  }
  template <class T> View<T> result(const Shape& shape) {
    const View<T> y = values<T>(shape);
    check(y);
    return y;
  }
  template <class T> void check(const View<T>& y) {
    ready.finite.push_back([c = &ctx, y] {
      // Of a large one the beginning, for the host is slow.
      std::vector<T> all(static_cast<std::size_t>(std::min<int64_t>(y.count(), 1 << 20)));
      c->copy_to_host(all.data(), y.data, all.size() * sizeof(T));
      for (const T v : all)
        if (!std::isfinite(static_cast<float>(v))) return false;
      return true;
    });
  }
  template <class T> Stored<Cuda> dense(const Shape& shape) {
    return {dtype_of<T>, shape, reinterpret_cast<const std::byte*>(values<T>(shape).data), nullptr};
  }
  /// A quantised weight, made of valid blocks.
  Stored<Cuda> quantised(DType type, const Shape& shape) {
    std::vector<std::byte> block(static_cast<std::size_t>(info(type).bytes));
    for (std::size_t i = 0; i < block.size(); ++i) block[i] = std::byte(i * 37 + 11);
    // The scales are of type half: about 2^-10. They are the first two, or in Q6_K the last.
    for (const std::size_t at : {std::size_t{0}, std::size_t{2}, block.size() - 2}) block[at + 1] = std::byte{0x14};
    return {type, shape, repeated(block, storage_bytes(type, shape.count())), nullptr};
  }
  View<int32_t> indices(const std::vector<int32_t>& all) {
    const auto count = static_cast<int64_t>(all.size());
    return View<int32_t>(repeated(all, count), {count});
  }
  /// A parameter, for ops that take one.
  template <class T> std::shared_ptr<Parameter<T, Cuda>> parameter(const Shape& shape, bool trainable) {
    auto w = std::make_shared<Parameter<T, Cuda>>("w", Tensor<T, Cuda>(ctx, shape), trainable);
    copy<T, T>(ctx, w->value.view(), View<const T>(values<T>(shape)));
    return w;
  }

 private:
  template <class T> T* repeated(const std::vector<T>& pattern, int64_t count) {
    const auto bytes = [](int64_t n) { return static_cast<std::size_t>(n) * sizeof(T); };
    ready.arrays.push_back(ctx.allocate(bytes(count)));
    T* const x = static_cast<T*>(ready.arrays.back().get());
    int64_t done = std::min(count, static_cast<int64_t>(pattern.size()));
    ctx.copy_from_host(x, pattern.data(), bytes(done));
    for (int64_t n; done < count; done += n) {  // doubled each time
      n = std::min(done, count - done);
      ctx.copy_on_device(x + done, x, bytes(n));
    }
    return x;
  }
};

inline Ready Case::prepare(Context<Cuda>& ctx) const {
  Arrays arrays(ctx);
  arrays.ready.run.reset((*make)(ctx, arrays));
  return std::move(arrays.ready);
}

/// Every case; `tiny`: so small that a test runs each on the CPU, with the same kernels.
class Cases {
 public:
  explicit Cases(bool tiny) : tiny_(tiny) {
    of_type<float>();
    of_type<bfloat16>();
  }
  std::vector<Case> all;

 private:
  bool tiny_;

  int64_t size(int64_t full, int64_t tiny) const { return tiny_ ? tiny : full; }
  template <class T, class Make>
  void add(const std::string& name, double bytes, double flops, Make make, bool products = false) {
    const Unit unit = products && sizeof(T) == 2 ? Unit::tensor : Unit::fp32;
    const auto call_of = [make](Context<Cuda>& ctx, Arrays& of) -> Call<void>* {
      const auto f = make(ctx, of);
      return new CallOf<std::remove_const_t<decltype(f)>, void>(f);
    };
    using Made = CallOf<std::remove_const_t<decltype(call_of)>, Call<void>*, Context<Cuda>&, Arrays&>;
    all.push_back(
        {str(name, '/', sizeof(T) == 2 ? "bfloat16" : "float"), bytes, flops, unit, std::make_unique<Made>(call_of)});
  }

  template <class T> void of_type() {
    elements<T>();
    rows<T>();
    tokens<T>();
    // Heads of SmolLM2-135M, Llama 3 8B and Gemma 3 1B.
    for (const Heads& heads : {Heads{9, 3, 64}, Heads{32, 8, 128}, Heads{4, 1, 256}}) {
      attention_training<T>(heads);
      attention_decoding<T>(heads, size(64, 2), size(4096, 150));
      attention_decoding<T>(heads, 1, size(131072, 150));  // one long sequence
    }
    products<T>();
    optimizer<T>();
  }
  struct Heads {
    int64_t H, KV, hd;
    std::string name() const { return str('/', H, '+', KV, " heads of ", hd); }
  };

  // Element by element. C is Llama 3 8B's width.
  template <class T> void elements() {
    const int64_t N = size(16384, 3), C = size(4096, 64), B = size(8, 2);
    const double n = double(N * C), e = sizeof(T), b = double(B * C) * e;
    std::vector<int64_t> starts;
    for (int64_t g = 0; g <= B; ++g) starts.push_back(g * N / B);
    const Shape shape{N, C}, groups{B, C};
    using A = accumulate_t<T>;

    add<T>("elementwise/add", 3 * n * e, n, [=](Context<Cuda>& ctx, Arrays& of) {
      return [&ctx, y = of.result<T>(shape), a = of.values<T>(shape), x = of.values<T>(shape)] {
        linear_combination(ctx, y, a, x, T(1.0f), T(1.0f));
      };
    });
    add<T>("elementwise/mul", 3 * n * e, n, [=](Context<Cuda>& ctx, Arrays& of) {
      return
          [&ctx, y = of.result<T>(shape), a = of.values<T>(shape), x = of.values<T>(shape)] { product(ctx, y, a, x); };
    });
    add<T>("elementwise/modulate", 2 * n * e + 2 * b, 3 * n, [=](Context<Cuda>& ctx, Arrays& of) {
      return [=, &ctx, y = of.result<T>(shape), x = of.values<T>(shape), scale = of.values<T>(groups),
              shift = of.values<T>(groups)] { modulate_forward(ctx, y, x, scale, shift, starts); };
    });
    add<T>("elementwise/modulate backward", 3 * n * e + 3 * b, 5 * n, [=](Context<Cuda>& ctx, Arrays& of) {
      return [=, &ctx, dx = of.result<T>(shape), dscale = of.result<T>(groups), dshift = of.result<T>(groups),
              dy = of.values<T>(shape), x = of.values<T>(shape),
              scale = of.values<T>(groups)] { modulate_backward(ctx, dx, dscale, dshift, dy, x, scale, starts); };
    });
    add<T>("elementwise/gate residual", 3 * n * e + b, 2 * n, [=](Context<Cuda>& ctx, Arrays& of) {
      return [=, &ctx, z = of.result<T>(shape), x = of.values<T>(shape), y = of.values<T>(shape),
              gate = of.values<T>(groups)] { gate_residual_forward(ctx, z, x, y, gate, starts); };
    });
    add<T>("elementwise/gate residual backward", 3 * n * e + 2 * b, 3 * n, [=](Context<Cuda>& ctx, Arrays& of) {
      return [=, &ctx, dy = of.result<T>(shape), dgate = of.result<T>(groups), dz = of.values<T>(shape),
              y = of.values<T>(shape),
              gate = of.values<T>(groups)] { gate_residual_backward(ctx, dy, dgate, dz, y, gate, starts); };
    });
    add<T>("elementwise/sum", n * e, n, [=](Context<Cuda>& ctx, Arrays& of) {
      return [&ctx, y = of.result<T>({}), x = of.values<T>(shape)] { sum_forward(ctx, y, x, 1); };
    });
    add<T>("elementwise/squared error", 2 * n * e, 3 * n, [=](Context<Cuda>& ctx, Arrays& of) {
      return [&ctx, y = of.result<T>({}), x = of.values<T>(shape), target = of.values<T>(shape)] {
        mean_squared_error_forward(ctx, y, x, target);
      };
    });
    add<T>("elementwise/squared error backward", 4 * n * e, 3 * n, [=](Context<Cuda>& ctx, Arrays& of) {
      return [&ctx, dx = of.result<T>(shape), dtarget = of.result<T>(shape), dy = of.values<T>({}),
              x = of.values<T>(shape),
              target = of.values<T>(shape)] { mean_squared_error_backward(ctx, dx, dtarget, dy, x, target); };
    });
    add<T>("copy/fill", n * e, 0,
           [=](Context<Cuda>& ctx, Arrays& of) { return [&ctx, y = of.result<T>(shape)] { fill(ctx, y, T(1.0f)); }; });
    add<T>("copy/transposed", 2 * n * e, 0, [=](Context<Cuda>& ctx, Arrays& of) {
      return [&ctx, C, N, y = of.result<T>({C, N}), x = of.values<T>(shape)] {
        copy<T, T>(ctx, y, View<const T>(x.data, {C, N}, {1, C}));
      };
    });
    if constexpr (!std::is_same_v<T, A>)
      add<T>("copy/from float", n * (4 + e), 0, [=](Context<Cuda>& ctx, Arrays& of) {
        return [&ctx, y = of.result<T>(shape), x = of.values<float>(shape)] {
          copy<T, float>(ctx, y, View<const float>(x));
        };
      });

    add<T>("activation/gelu", 2 * n * e, 8 * n, [=](Context<Cuda>& ctx, Arrays& of) {
      return
          [&ctx, y = of.result<T>(shape), x = of.values<T>(shape)] { activation_forward(ctx, detail::Gelu{}, y, x); };
    });
    add<T>("activation/gelu backward", 3 * n * e, 12 * n, [=](Context<Cuda>& ctx, Arrays& of) {
      return [&ctx, dx = of.result<T>(shape), dy = of.values<T>(shape), x = of.values<T>(shape)] {
        activation_backward(ctx, detail::Gelu{}, dx, dy, x);
      };
    });
    add<T>("activation/swiglu", 3 * n * e, 5 * n, [=](Context<Cuda>& ctx, Arrays& of) {
      return [&ctx, y = of.result<T>(shape), gate = of.values<T>(shape), up = of.values<T>(shape)] {
        gated_forward(ctx, detail::Silu{}, y, gate, up);
      };
    });
    add<T>("activation/swiglu backward", 5 * n * e, 12 * n, [=](Context<Cuda>& ctx, Arrays& of) {
      return [&ctx, dgate = of.result<T>(shape), dup = of.result<T>(shape), dy = of.values<T>(shape),
              gate = of.values<T>(shape),
              up = of.values<T>(shape)] { gated_backward(ctx, detail::Silu{}, dgate, dup, dy, gate, up); };
    });
    add<T>("dropout/forward", 2 * n * e, 2 * n, [=](Context<Cuda>& ctx, Arrays& of) {
      return [&ctx, y = of.result<T>(shape), x = of.values<T>(shape)] { dropout_mask(ctx, y, x, 0.1f, 7, 0); };
    });
    // Heads of 128 turn whole, half with half, as Llama's do.
    const int64_t hd = size(128, 32), H = C / hd, P = size(4096, 4);
    add<T>("rope/forward", 2 * n * e + double(P * hd) * e, 3 * n, [=](Context<Cuda>& ctx, Arrays& of) {
      std::vector<int32_t> at;
      for (int64_t i = 0; i < N; ++i) at.push_back(static_cast<int32_t>(i % P));
      return [&ctx, y = of.result<T>({N, H, hd}), x = of.values<T>({N, H, hd}), cos = of.values<T>({P, hd / 2}),
              sin = of.values<T>({P, hd / 2}), position = of.indices(at)] {
        rope_turn(ctx, y, x, cos, sin, position, RopePairing::half_split, T(1.0f));
      };
    });
  }

  /// A norm, of a sum or not, modulated or not, forward and backward. All is trained.
  template <class T> void norm(bool centred, bool added, bool modulated, int64_t N, int64_t C) {
    using A = accumulate_t<T>;
    const int64_t B = size(8, 2);
    const double e = sizeof(T), n = double(N * C), w = double(C), b = double(B * C);
    const double per_row_bytes = double(N) * (centred ? 8 : 4);
    const Shape shape{N, C}, per_row{N}, per_col{C}, groups{B, C};
    std::vector<int64_t> starts{0};
    for (int64_t g = 1; modulated && g < B; ++g) starts.push_back(g * N / B);
    starts.push_back(N);
    const auto make_norm = [=](Arrays& of) {
      Norm<T> norm{.centred = centred, .eps = 1e-5f, .w = of.values<T>(per_col), .starts = starts};
      if (centred) norm.b = of.values<T>(per_col);
      if (modulated) norm.scale = of.values<T>(groups), norm.shift = of.values<T>(groups);
      return norm;
    };
    const std::string name = str("norm/", added ? "add " : "", centred ? "layer" : "rms", modulated ? " modulate" : "");
    const std::string suffix = str('/', C, " wide");
    add<T>(name + suffix,
           (added ? 4 : 2) * n * e + per_row_bytes + (centred ? 2 : 1) * w * e + (modulated ? 2 * b * e : 0),
           (centred ? 7 : 4) * n + (added ? n : 0) + (modulated ? 3 * n : 0), [=](Context<Cuda>& ctx, Arrays& of) {
             View<T> s;
             View<A> mean;
             View<const T> y;
             if (added) s = of.result<T>(shape), y = of.values<T>(shape);
             if (centred) mean = of.result<A>(per_row);
             return [=, &ctx, norm = make_norm(of), h = of.result<T>(shape), r = of.result<A>(per_row),
                     x = of.values<T>(shape)] { norm_forward(ctx, norm, h, s, mean, r, x, y); };
           });
    add<T>(name + " backward" + suffix,
           (added ? 4 : 3) * n * e + per_row_bytes + w * (e + (centred ? 16 : 8)) +
               (modulated ? 3 * b * e + (centred ? w * e : 0) : 0),
           (centred ? 14 : 10) * n + (added ? n : 0) + (modulated ? 5 * n : 0), [=](Context<Cuda>& ctx, Arrays& of) {
             View<A> db;
             View<T> dscale, dshift;
             View<const T> ds;
             View<const A> mean;
             if (centred) db = of.result<A>(per_col), mean = of.values<A>(per_row);
             if (modulated) dscale = of.result<T>(groups), dshift = of.result<T>(groups);
             if (added) ds = of.values<T>(shape);
             return [=, &ctx, norm = make_norm(of), dx = of.result<T>(shape), dw = of.result<A>(per_col),
                     dh = of.values<T>(shape), s = of.values<T>(shape), r = of.values<A>(per_row)] {
               norm_backward(ctx, norm, dx, dw, db, dscale, dshift, dh, ds, s, mean, r);
             };
           });
  }

  // Row by row.
  template <class T> void rows() {
    using A = accumulate_t<T>;
    const double e = sizeof(T);
    const int64_t N = size(16384, 9), C = size(4096, 64), B = size(8, 2);
    for (const bool centred : {false, true}) {
      norm<T>(centred, false, false, N, C);
      norm<T>(centred, true, false, N, C);
      norm<T>(centred, false, true, N, C);
    }
    for (const bool added : {false, true}) norm<T>(false, added, false, size(131072, 5), size(576, 72));
    const double n = double(N * C);
    const Shape shape{N, C}, per_col{C};
    add<T>("softmax/forward", 2 * n * e, 5 * n, [=](Context<Cuda>& ctx, Arrays& of) {
      return [&ctx, y = of.result<T>(shape), x = of.values<T>(shape)] {
        softmax_forward(ctx, y, x, SoftmaxResult::probability);
      };
    });
    add<T>("softmax/backward", 3 * n * e, 4 * n, [=](Context<Cuda>& ctx, Arrays& of) {
      return [&ctx, dx = of.result<T>(shape), dy = of.values<T>(shape), y = of.values<T>(shape)] {
        softmax_backward(ctx, dx, dy, y, SoftmaxResult::probability);
      };
    });
    if constexpr (std::is_same_v<T, float>) {  // Gemma 3's vocabulary; FLOPs of the cuts are not counted
      const int64_t R = size(256, 3), W = size(262144, 512);
      add<T>("sampling/top_k 50, top_p 0.9", double(R * W) * e, 3.0 * double(R * W),
             [=](Context<Cuda>& ctx, Arrays& of) {
               const detail::SamplingRule rule({.temperature = 1, .top_k = 50, .top_p = 0.9f});
               const View<int32_t> tokens = of.indices(std::vector<int32_t>(static_cast<std::size_t>(R)));
               of.check(tokens);
               return [=, &ctx, logits = of.values<T>({R, W}),
                       uniform = std::vector<double>(static_cast<std::size_t>(R), 0.5)] {
                 choose_tokens(ctx, tokens, logits, rule, uniform, {}, {});
               };
             });
    }
    add<T>("linear/bias gradient", n * e + 8 * double(C), n, [=](Context<Cuda>& ctx, Arrays& of) {
      return [&ctx, sums = of.result<A>(per_col), x = of.values<T>(shape)] { add_column_sums<T>(ctx, sums, x); };
    });
    std::vector<int64_t> starts;
    for (int64_t g = 0; g <= B; ++g) starts.push_back(g * N / B);
    std::vector<int32_t> order;  // 5 divides no power of two, and not 9
    for (int64_t i = 0; i < N; ++i) order.push_back(static_cast<int32_t>(i * 5 % N));
    const double b = double(B * C) * e;
    add<T>("rows/take", 2 * n * e, 0, [=](Context<Cuda>& ctx, Arrays& of) {
      return [=, &ctx, y = of.result<T>(shape), x = of.values<T>(shape)] { take_rows_forward(ctx, y, x, 0, order); };
    });
    add<T>("rows/take backward", 2 * n * e, 0, [=](Context<Cuda>& ctx, Arrays& of) {
      return [=, &ctx, dx = of.result<T>(shape), dy = of.values<T>(shape)] {
        take_rows_backward(ctx, Write::assign, dx, dy, 0, order);
      };
    });
    add<T>("rows/mean", n * e + b, n, [=](Context<Cuda>& ctx, Arrays& of) {
      return [=, &ctx, y = of.result<T>({B, C}), x = of.values<T>(shape)] { mean_rows_forward(ctx, y, x, starts); };
    });
    add<T>("rows/mean backward", n * e + b, n, [=](Context<Cuda>& ctx, Arrays& of) {
      return
          [=, &ctx, dx = of.result<T>(shape), dy = of.values<T>({B, C})] { mean_rows_backward(ctx, dx, dy, starts); };
    });
  }

  // What tokens begin and end with. V and C are SmolLM2's.
  template <class T> void tokens() {
    using A = accumulate_t<T>;
    const int64_t N = size(131072, 9), C = size(576, 64), V = size(49152, 16);
    const double e = sizeof(T), n = double(N * C), of_table = double(std::min(N, V) * C);
    std::vector<int32_t> ids;  // each token about as often
    for (int64_t i = 0; i < N; ++i) ids.push_back(static_cast<int32_t>(i * 40507 % V));
    add<T>("embedding/forward", (n + of_table) * e, 0, [=](Context<Cuda>& ctx, Arrays& of) {
      return [=, &ctx, y = of.result<T>({N, C}), w = of.dense<T>({V, C})] { embedding_forward(ctx, y, w, ids, 1); };
    });
    add<T>("embedding/backward", n * e + 8 * of_table, n, [=](Context<Cuda>& ctx, Arrays& of) {
      return [=, &ctx, dw = of.result<A>({V, C}), dy = of.values<T>({N, C})] {
        embedding_backward<T>(ctx, dw, dy, ids, 1);
      };
    });
    // The logits of a chunk, which become their gradients in place.
    const int64_t M = size(2048, 3), W = size(49152, 40);
    std::vector<int32_t> targets;
    for (int64_t i = 0; i < M; ++i) targets.push_back(static_cast<int32_t>(i * 7 % W));
    for (const bool gradient : {false, true})
      add<T>(gradient ? "cross entropy/with gradient" : "cross entropy/forward", double(M * W) * e * (gradient ? 2 : 1),
             double(M * W) * (gradient ? 7 : 4), [=](Context<Cuda>& ctx, Arrays& of) {
               return [&ctx, gradient, nll = of.result<A>({M}), logits = of.result<T>({M, W}),
                       wanted = of.indices(targets)] { softmax_cross_entropy(ctx, nll, logits, wanted, gradient); };
             });
    const int64_t D = size(576, 64);
    add<T>(
        "cross entropy/fused with a frozen head", double(2 * M * D + W * D) * e, 4 * double(M * W * D),
        [=](Context<Cuda>& ctx, Arrays& of) {
          auto w = of.parameter<T>({W, D}, false);
          auto loss = of.result<A>({});
          Tensor<T, Cuda> h = of.parameter<T>({M, D}, true)->value;
          return [=, &ctx] {
            Tape tape(ctx);
            Tensor<T, Cuda> watched = h.detached();
            tape.watch(watched);
            const auto y = linear_cross_entropy(ctx, watched, *w, targets);
            copy<A, A>(ctx, loss, View<const A>(y.view()));
          };
        },
        true);
    const int64_t out = size(16384, 4), in = size(4096, 256);
    for (const DType type : {DType::q4_1, DType::q8_0, DType::q4_k, DType::q6_k}) {
      const double stored = double(storage_bytes(type, out * in));
      add<T>(
          str("dequantise/", type), stored + double(out * in) * e, 2 * double(out * in),
          [=](Context<Cuda>& ctx, Arrays& of) {
            return [&ctx, to = of.result<T>({out, in}), w = of.quantised(type, {out, in})] { dequantise(ctx, to, w); };
          });
    }
  }

  template <class T> void attention_training(const Heads& heads) {
    using A = accumulate_t<T>;
    const int64_t KV = size(heads.KV, 1), H = KV * (heads.H / heads.KV), hd = heads.hd, B = size(8, 2),
                  S = size(2048, 5), N = B * S;
    std::vector<Segment> segments;
    for (int64_t b = 0; b < B; ++b) segments.push_back({b * S, (b + 1) * S, b * S, (b + 1) * S});
    const double e = sizeof(T), seen = double(B) * double(S) * double(S + 1) / 2 * double(H),
                 q = double(N * H * hd) * e, k = double(N * KV * hd) * e, lse = 4.0 * double(H * N);
    const Shape queries{N, H, hd}, keys{N, KV, hd};
    add<T>(
        "attention/causal, 8 x 2048" + heads.name(), 2 * q + 2 * k + lse, 4.0 * double(hd) * seen,
        [=](Context<Cuda>& ctx, Arrays& of) {
          return [=, &ctx, y = of.result<T>(queries), sums = of.result<A>({H, N}), qs = of.values<T>(queries),
                  ks = of.values<T>(keys),
                  vs = of.values<T>(keys)] { attention_forward(ctx, y, sums, qs, ks, vs, segments, {}); };
        },
        true);
    add<T>(
        "attention/causal backward, 8 x 2048" + heads.name(), 4 * q + 4 * k + lse, 10.0 * double(hd) * seen,
        [=](Context<Cuda>& ctx, Arrays& of) {
          auto y = of.result<T>(queries);
          auto sums = of.result<A>({H, N});
          auto qs = of.values<T>(queries);
          auto ks = of.values<T>(keys), vs = of.values<T>(keys);
          attention_forward(ctx, y, sums, qs, ks, vs, segments, {});
          return [=, &ctx, dq = of.result<T>(queries), dk = of.result<T>(keys), dv = of.result<T>(keys),
                  dy = of.values<T>(queries)] {
            attention_backward(ctx, dq, dk, dv, dy, qs, ks, vs, y, sums, segments, {});
          };
        },
        true);
  }
  /// One query for each of B sequences of S tokens: generation with a cache.
  template <class T> void attention_decoding(const Heads& heads, int64_t B, int64_t S) {
    using A = accumulate_t<T>;
    const int64_t KV = size(heads.KV, 1), H = KV * (heads.H / heads.KV), hd = heads.hd;
    std::vector<Segment> segments;
    for (int64_t b = 0; b < B; ++b) segments.push_back({b, b + 1, b * S, (b + 1) * S});
    const double k = double(B * S * KV * hd) * sizeof(T), q = double(B * H * hd) * sizeof(T);
    const Shape queries{B, H, hd}, keys{B * S, KV, hd};
    add<T>(
        str("attention/one token, ", B, " x ", S, heads.name()), 2 * k + 2 * q, 4 * double(hd * H) * double(B * S),
        [=](Context<Cuda>& ctx, Arrays& of) {
          return [=, &ctx, y = of.result<T>(queries), sums = of.result<A>({H, B}), qs = of.values<T>(queries),
                  ks = of.values<T>(keys),
                  vs = of.values<T>(keys)] { attention_forward(ctx, y, sums, qs, ks, vs, segments, {}); };
        },
        true);
  }

  // Matrix products, by cuBLASLt. Feed-forward layers of SmolLM2-135M and Llama 3 8B.
  template <class T> void products() {
    const double e = sizeof(T);
    for (const Shape& shape : {Shape{size(16384, 4), size(576, 64), size(1536, 48)},
                               Shape{size(8192, 4), size(4096, 256), size(14336, 32)}}) {
      const int64_t N = shape[0], in = shape[1], out = shape[2];
      const double nio = double(N) * double(in * out), x = double(N * in) * e, y = double(N * out) * e,
                   w = double(in * out);
      const std::string suffix = str('/', N, " x ", in, " x ", out);
      add<T>(
          "linear/forward" + suffix, x + y + w * e, 2 * nio,
          [=](Context<Cuda>& ctx, Arrays& of) {
            return [=, &ctx, to = of.result<T>({N, out}), from = of.values<T>({N, in}),
                    weight = of.dense<T>({out, in})] { detail::project(ctx, Write::assign, to, from, weight); };
          },
          true);
      add<T>(
          "linear/backward" + suffix, 2 * x + y + w * (e + 4), 4 * nio,
          [=](Context<Cuda>& ctx, Arrays& of) {
            return [=, &ctx, dx = of.result<T>({N, in}), dw = of.result<accumulate_t<T>>({out, in}),
                    dy = of.values<T>({N, out}), from = of.values<T>({N, in}), weight = of.dense<T>({out, in})] {
              detail::project_back(ctx, Write::assign, dx, dy, weight);
              detail::outer<T>(ctx, Write::assign, dw, dy, from);
            };
          },
          true);
      const int64_t R = 16;
      const double adapters = double(R * (in + out));
      add<T>(
          "linear/LoRA of rank 16, forward and backward" + suffix, 2 * x + 2 * y + w * e + adapters * (e + 8),
          4 * nio + 6 * double(N) * adapters,
          [=](Context<Cuda>& ctx, Arrays& of) {
            auto weight = of.parameter<T>({out, in}, false), a = of.parameter<T>({R, in}, true),
                 b = of.parameter<T>({out, R}, true);
            for (Parameter<T, Cuda>* w_ab : {a.get(), b.get()}) {
              w_ab->grad = Tensor<accumulate_t<T>, Cuda>::zeros(ctx, w_ab->shape());
              of.check(w_ab->grad.view());
            }
            Tensor<T, Cuda> from = of.parameter<T>({N, in}, true)->value, dy = of.parameter<T>({N, out}, true)->value;
            return [=, &ctx] {
              {
                Tape tape(ctx);
                Tensor<T, Cuda> watched = from.detached();
                tape.watch(watched);
                tape.backward(lora_linear(ctx, watched, *weight, *a, *b, 2), dy.detached());
              }
            };
          },
          true);
    }
    const int64_t N = size(8192, 4), in = size(4096, 256), out = size(14336, 32);
    add<T>(
        "linear/forward, weight in Q4_K/8192 x 4096 x 14336",
        double(N * (in + out)) * e + double(storage_bytes(DType::q4_k, in * out)), 2 * double(N) * double(in * out),
        [=](Context<Cuda>& ctx, Arrays& of) {
          return [=, &ctx, to = of.result<T>({N, out}), from = of.values<T>({N, in}),
                  weight = of.quantised(DType::q4_k, {out, in})] {
            detail::project(ctx, Write::assign, to, from, weight);
          };
        },
        true);
  }

  /// A step over the arrays of SmolLM2-135M, of which there are 272.
  template <class T> void optimizer() {
    using A = accumulate_t<T>;
    std::vector<Shape> shapes{{size(49152, 8), size(576, 24)}};
    const int64_t C = size(576, 24), F = size(1536, 24), K = size(192, 8);
    for (int64_t layer = 0; layer < size(30, 1); ++layer)
      for (const Shape& shape : {Shape{C, C}, Shape{C, C}, Shape{K, C}, Shape{K, C}, Shape{F, C}, Shape{F, C},
                                 Shape{C, F}, Shape{C}, Shape{C}})
        shapes.push_back(shape);
    shapes.push_back({C});
    double n = 0;
    for (const Shape& shape : shapes) n += double(shape.count());

    std::vector<std::pair<Master, const char*>> ways{{Master::none, "none"}};
    if (sizeof(T) == 2)
      ways.push_back({Master::float32, "float32"}), ways.push_back({Master::stochastic_rounding, "by chance"});
    for (const auto& each : ways) {
      const Master way = each.first;
      // w, m and v in and out, g in; with a master that is what is read, and it is written too.
      const double bytes = 20 + 2 * double(sizeof(T)) + (way == Master::float32 ? 8 - double(sizeof(T)) : 0);
      add<T>(str("adamw/master ", each.second), n * bytes, 12 * n, [=](Context<Cuda>& ctx, Arrays& of) {
        std::vector<AdamWItem<T>> items;
        for (const Shape& shape : shapes) {
          const View<A> v = of.values<A>(shape);
          fill(ctx, v, A(1));
          items.push_back(
              {of.result<T>(shape),
               of.values<A>(shape),
               v,
               of.values<A>(shape),
               way == Master::float32 ? of.values<A>(shape) : View<A>{},
               {.keep = 0.999, .step_size = 1e-5, .beta1 = 0.9, .beta2 = 0.999, .sqrt_correction = 1, .eps = 1e-8},
               0});
        }
        return [&ctx, way, items] { adamw_update<T>(ctx, std::span<const AdamWItem<T>>(items), nullptr, way, 7); };
      });
    }
    add<T>("average/move towards", n * (8 + double(sizeof(T))), 3 * n, [=](Context<Cuda>& ctx, Arrays& of) {
      const Shape whole{int64_t(n)};
      return [&ctx, x = of.result<A>(whole), to = of.values<T>(whole)] {
        move_towards<T>(ctx, x, View<const T>(to), 0.001);
      };
    });
    if constexpr (std::is_same_v<T, float>) {  // gradients are floats whatever the weights are
      const auto gradients = [shapes](Arrays& of) {
        std::vector<View<float>> xs;
        for (const Shape& shape : shapes) xs.push_back(of.result<float>(shape));
        return xs;
      };
      // A factor so near to 1 that the gradients keep their size over many calls.
      const auto verdict = [](Context<Cuda>& ctx) {
        return std::const_pointer_cast<Verdict>(ctx.upload(std::vector<Verdict>{{.factor = 1 - 1e-7}}));
      };
      add<T>("clip/norm", n * 4, 2 * n, [=](Context<Cuda>& ctx, Arrays& of) {
        int64_t blocks = 0;
        const auto xs = gradients(of);
        for (const auto& x : xs) blocks += (x.count() + squares_block<Cuda> - 1) / squares_block<Cuda>;
        return [&ctx, xs, squares = std::make_shared<Tensor<double, Cuda>>(ctx, Shape{blocks}), v = verdict(ctx)] {
          block_squares<float>(ctx, squares->view(), std::span<const View<float>>(xs));
          judge_squares<double>(ctx, v.get(), View<const double>(squares->view()), 1, 1);
        };
      });
      add<T>("clip/scale", n * 8, n, [=](Context<Cuda>& ctx, Arrays& of) {
        return [&ctx, xs = gradients(of), v = verdict(ctx)] {
          scale_gradients<float>(ctx, std::span<const View<float>>(xs), v.get());
        };
      });
    }
  }
};

}  // namespace ft::bench
