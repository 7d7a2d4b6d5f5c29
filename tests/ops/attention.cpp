// tests/ops/attention.cpp: attention against plain loops: masks, windows, groups, segments, short and long.
#include <ftlib/ops/attention.hpp>

#include "../op_suite.hpp"

using namespace ft;
using namespace ft::test;

namespace {

struct Attention {
  int64_t H, KV, hd;
  std::vector<Segment> segments;
  AttentionOptions options = {};
  int64_t spare = 0;     // rows of q and k in no segment
  double nmse16 = 1e-4;  // weights are rounded before they meet V
  static constexpr const char* name = "attention";
  static constexpr bool in_half = true;
  static std::vector<Attention> shapes() {
    const AttentionOptions all{.mask = Mask::none}, near{.window = 3}, far{.window = 70, .scale = 0.3f};
    return {
        {1, 1, 1, {{0, 1, 0, 1}}},                                         // one of everything
        {3, 1, 7, {{0, 5, 0, 5}}},                                         // odd head size, one group
        {6, 3, 16, {{0, 13, 0, 13}, {13, 14, 13, 14}, {14, 37, 14, 37}}},  // packed, unequal lengths
        {4, 2, 33, {{0, 9, 0, 20}, {9, 17, 20, 28}}},                      // earlier keys in a cache
        {2, 2, 5, {{0, 3, 0, 70}, {3, 20, 70, 72}}, all},                  // cross attention, more and fewer keys
        {2, 1, 9, {{0, 75, 0, 75}}, near},                                 // a window that leaves tiles out
        {1, 1, 20, {{0, 90, 0, 141}, {90, 92, 141, 230}}, far},            // a window longer than a tile
        {3, 1, 64, {{0, 70, 0, 70}}},                                      // several blocks of queries
        {2, 1, 96, {{0, 33, 0, 50}}, near},                                // the GPU's tiles for heads up to 128,
        {1, 1, 128, {{0, 67, 0, 67}}},                                     // full and not,
        {1, 1, 256, {{0, 34, 0, 35}}},                                     // and up to 256,
        {1, 1, 136, {{0, 1, 0, 135}}},                                     // decoding as well
        {3, 1, 512, {{0, 23, 0, 23}, {23, 24, 23, 24}}},                   // two blocks have a half of a head each,
        {1, 1, 301, {{0, 34, 0, 40}}, near},                               // not full,
        {2, 1, 512, {{0, 1, 0, 300}, {1, 2, 300, 316}}},                   // decoding
        {3, 1, 8, {{0, 1, 0, 300}, {1, 3, 300, 430}}},                     // decoding: chunks of keys
        {4, 1, 17, {{2, 4, 5, 210}}, near, 6},                             // decoding with a window; rows of no segment
        {5, 1, 4, {{0, 30, 2, 40}, {30, 50, 0, 25}}, all, 1},              // keys shared by two segments
        {2, 1, 4, {{3, 3, 0, 0}, {0, 3, 0, 3}, {3, 3, 3, 3}}},             // empty segments
        {2, 1, 4, {}},                                                     // no tokens
        {130, 1, 3, {{0, 3, 0, 3}}},                                       // more heads than a block has rows
        {10, 1, 18, {{0, 1, 0, 19}}},                                      // one query, too many heads to stream
        {4, 1, 16, {{2, 4, 5, 210}}, near, 6},         // tiles of keys that no row sees, copied in packs
        {1, 1, 16, {{0, 24, 0, 1500}}, all, 0, 2e-5},  // many tiles of keys for one query's sums,
        {1, 1, 16, {{0, 1500, 0, 24}}, all, 0, 2e-5},  // and of queries for one key's
    };
  }
  int64_t queries() const {
    int64_t n = 0;
    for (const Segment& s : segments) n = std::max(n, s.q_end);
    return n + spare;
  }
  int64_t keys() const {
    int64_t n = 0;
    for (const Segment& s : segments) n = std::max(n, s.k_end);
    return n + spare;
  }
  std::vector<HostArray> inputs(Random& random) const {
    return {activation(random, {queries(), H, hd}), activation(random, {keys(), KV, hd}),
            activation(random, {keys(), KV, hd})};
  }
  template <class T, class D> Tensor<T, D> run(Context<D>& ctx, Args<T, D>& a) const {
    return attention(ctx, a.x[0], a.x[1], a.x[2], segments, options);
  }
  HostArray reference(const std::vector<HostArray>& in) const {
    return reference(in, [](int64_t, int64_t) { return 0.0; });
  }
  /// bias(h, distance) is added to each score.
  template <class F> HostArray reference(const std::vector<HostArray>& in, F bias) const {
    HostArray y({queries(), H, hd});
    const double scale = options.scale != 0 ? double{options.scale} : 1 / std::sqrt(static_cast<double>(hd));
    for (const Segment& s : segments)
      for (int64_t i = s.q_begin; i < s.q_end; ++i)
        for (int64_t h = 0; h < H; ++h) {
          const int64_t kv = h / (H / KV), own = s.k_end - s.q_end + i;
          std::vector<double> weight;
          double total = in.size() > 3 ? std::exp(in[3][h]) : 0;  // a sink: a key more, whose value is zero
          for (int64_t j = s.k_begin; j < s.k_end; ++j) {
            double score = 0;
            for (int64_t d = 0; d < hd; ++d) score += in[0][(i * H + h) * hd + d] * in[1][(j * KV + kv) * hd + d];
            const bool seen =
                options.mask == Mask::none || (j <= own && (options.window == 0 || j > own - options.window));
            weight.push_back(seen ? std::exp(score * scale + bias(h, j - own)) : 0);
            total += weight.back();
          }
          for (int64_t j = s.k_begin; j < s.k_end; ++j)
            for (int64_t d = 0; d < hd; ++d)
              y[(i * H + h) * hd + d] +=
                  weight[static_cast<std::size_t>(j - s.k_begin)] / total * in[2][(j * KV + kv) * hd + d];
        }
    return y;
  }
  double tolerance() const { return 1e-11; }
  Tolerance16 tolerance16() const { return {.y = nmse16, .dx = nmse16}; }
  GradcheckOptions gradcheck() const { return {.elements = 24}; }
  bool sums_alone() const { return nmse16 < 1e-4; }
};

struct AttentionWithSinks : Attention {
  static constexpr const char* name = "attention with sinks";
  static std::vector<AttentionWithSinks> shapes() {
    const auto all = Attention::shapes();
    std::vector<AttentionWithSinks> some;  // of one segment, packed, decoding, with rows of no segment, without tokens
    for (const int i : {1, 2, 3, 12, 15, 16, 19}) some.push_back({all[static_cast<std::size_t>(i)]});
    return some;
  }
  std::vector<HostArray> inputs(Random& random) const {
    auto in = Attention::inputs(random);
    in.push_back(parameter(random, {H}, 3));
    return in;
  }
  template <class T, class D> Tensor<T, D> run(Context<D>& ctx, Args<T, D>& a) const {
    return attention(ctx, a.x[0], a.x[1], a.x[2], segments, options, &a.w[0]);
  }
  Tolerance16 tolerance16() const { return {.y = nmse16, .dx = nmse16, .sums = nmse16}; }  // of y, which is rounded
};

struct AttentionWithBias : Attention {
  int64_t reach = 4;
  static constexpr const char* name = "attention with a relative bias";
  static std::vector<AttentionWithBias> shapes() {
    const auto base = Attention::shapes();
    std::vector<AttentionWithBias> some;  // odd heads, packed, a cache, cross, windows, decoding in chunks, many keys
    for (const int i : {1, 2, 3, 4, 5, 6, 7, 12, 13, 20, 21}) some.push_back({base[static_cast<std::size_t>(i)]});
    some[1].reach = 40;  // beyond all
    some[2].options.scale = 1;
    some[3].reach = 0;
    return some;
  }
  /// The bias of a head at a distance; a constant, so no input.
  double bias(int64_t h, int64_t distance) const {
    const int64_t d = std::clamp(distance, -reach, reach);
    return static_cast<double>(static_cast<float>(std::sin(1.0 + 3 * static_cast<double>(h) + static_cast<double>(d))));
  }
  HostArray reference(const std::vector<HostArray>& in) const {
    return Attention::reference(in, [this](int64_t h, int64_t distance) { return bias(h, distance); });
  }
  template <class T, class D> Tensor<T, D> run(Context<D>& ctx, Args<T, D>& a) const {
    std::vector<float> values;
    for (int64_t h = 0; h < H; ++h)
      for (int64_t d = -reach; d <= reach; ++d) values.push_back(static_cast<float>(bias(h, d)));
    return attention(ctx, a.x[0], a.x[1], a.x[2], segments, options, static_cast<Parameter<T, D>*>(nullptr),
                     Tensor<float, D>(ctx, {H, 2 * reach + 1}, values));
  }
};

/// q, k and v of one projection, (N, (H + 2 KV) hd), as slices without a copy.
template <class T> std::vector<Tensor<T, Cpu>> slices(const Tensor<T, Cpu>& qkv, int64_t H, int64_t KV, int64_t hd) {
  const int64_t N = qkv.size(0), C = qkv.size(1);
  const auto slice = [&](int64_t first, int64_t heads) { return qkv.strided(first * hd, {N, heads, hd}, {C, hd, 1}); };
  return {slice(0, H), slice(H, KV), slice(H + KV, KV)};
}

}  // namespace

TEST_CASE("ops/attention: attention") { test_op<Attention>(); }
TEST_CASE("ops/attention: attention with sinks") { test_op<AttentionWithSinks>(); }
#if !FTLIB_WITH_CUDA
TEST_CASE("ops/attention: attention with a relative bias") { test_op<AttentionWithBias>(); }
#endif

TEST_CASE("ops/attention: slices of a fused projection give what copies give, bit by bit") {
  Context<Cpu> ctx({.threads = 2});
  Random random(5);
  const int64_t N = 50, H = 6, KV = 2, hd = 20;
  const auto qkv = upload<float>(ctx, activation(random, {N, (H + 2 * KV) * hd}));
  const auto x = slices(qkv, H, KV, hd);
  const std::vector<Segment> segments{{0, 3, 0, 3}, {3, 4, 3, 20}, {4, 50, 4, 50}};
  const auto y = attention(ctx, x[0], x[1], x[2], segments);
  const auto z = attention(ctx, clone(ctx, x[0]), clone(ctx, x[1]), clone(ctx, x[2]), segments);
  CHECK(y.to_host(ctx) == z.to_host(ctx));
}

TEST_CASE("ops/attention: the result does not depend on the number of threads; gradients only by rounding") {
  Random random(6);
  const int64_t H = 4, KV = 1, hd = 24;
  const std::vector<Segment> segments{{0, 200, 0, 200}, {200, 203, 200, 503}, {203, 204, 503, 900}};
  const std::vector<HostArray> in{activation(random, {204, H, hd}), activation(random, {900, KV, hd}),
                                  activation(random, {900, KV, hd}), activation(random, {204, H, hd})};
  std::vector<std::vector<float>> results;
  std::vector<HostArray> gradients;
  for (const int threads : {1, 2, 3, 3, 8}) {
    Context<Cpu> ctx({.threads = threads});
    Tape<Cpu> tape(ctx);
    auto a = upload<float>(ctx, in);
    for (int i = 0; i < 3; ++i) tape.watch(a.x[static_cast<std::size_t>(i)]);
    const auto y = attention(ctx, a.x[0], a.x[1], a.x[2], segments);
    tape.backward(y, a.x[3]);
    results.push_back(y.to_host(ctx));
    CHECK(results.back() == results.front());
    for (std::size_t i = 0; i < 3; ++i) gradients.push_back(download(ctx, tape.gradient(a.x[i])));
    for (std::size_t i = 0; i < 3; ++i) CHECK(nmse(gradients[gradients.size() - 3 + i], gradients[i]) < 1e-11);
  }
  for (std::size_t i = 6; i < 9; ++i) CHECK(gradients[i].values == gradients[i + 3].values);  // 3 threads, twice
}

TEST_CASE("ops/attention: one token that looks at many, in parts, gives what the whole sequence gives") {
#if FTLIB_WITH_CUDA
  Context<Cuda> ctx;
#else
  Context<Cpu> ctx({.threads = 2});
#endif
  Random random(8);
  const int64_t N = 301, H = 4, KV = 2, hd = 24;
  for (const int64_t window : {0, 200}) {
    const auto in = upload<float>(
        ctx, {activation(random, {N, H, hd}), activation(random, {N, KV, hd}), activation(random, {N, KV, hd})});
    const auto whole = attention(ctx, in.x[0], in.x[1], in.x[2], {{0, N, 0, N}}, {.window = window});
    const auto last = [&](const auto& x) { return clone(ctx, x.strided((N - 1) * H * hd, {1, H, hd}, {hd, hd, 1})); };
    const auto one = attention(ctx, last(in.x[0]), in.x[1], in.x[2], {{0, 1, 0, N}}, {.window = window});
    CHECK(nmse(download(ctx, one), download(ctx, last(whole))) < 1e-12);
  }
}

TEST_CASE("ops/attention: tokens that begin at no whole number of packs give what dense ones give") {
#if FTLIB_WITH_CUDA
  Context<Cuda> ctx;
#else
  Context<Cpu> ctx({.threads = 2});
#endif
  Random random(9);
  const int64_t N = 40, heads[] = {4, 2, 2}, hd = 16;
  for (int padded = 0; padded < 3; ++padded) {  // q, k or v has a number more behind each token
    CAPTURE(padded);
    const auto row = [&](int i) { return heads[i] * hd + (i == padded ? 1 : 0); };
    const auto in = upload<float>(
        ctx, {activation(random, {N, row(0)}), activation(random, {N, row(1)}), activation(random, {N, row(2)})});
    const auto x = [&](int i) {
      return in.x[static_cast<std::size_t>(i)].strided(0, {N, heads[i], hd}, {row(i), hd, 1});
    };
    const auto y = attention(ctx, x(0), x(1), x(2), {{0, N, 0, N}});
    const auto z = attention(ctx, clone(ctx, x(0)), clone(ctx, x(1)), clone(ctx, x(2)), {{0, N, 0, N}});
    CHECK(nmse(download(ctx, y), download(ctx, z)) < 1e-12);
  }
}

TEST_CASE("ops/attention: memory is linear in the sequence") {
  const auto peak = [](int64_t N) {
    Context<Cpu> ctx({.threads = 2});
    Random random(1);
    auto a = upload<float>(
        ctx, {activation(random, {N, 2, 16}), activation(random, {N, 1, 16}), activation(random, {N, 1, 16})});
    Tape<Cpu> tape(ctx);
    for (auto& x : a.x) tape.watch(x);
    const auto y = attention(ctx, a.x[0], a.x[1], a.x[2], {{0, N, 0, N}});
    tape.backward(y, clone(ctx, y));
    return static_cast<double>(ctx.memory().peak);
  };
  CHECK(peak(2048) < 2.2 * peak(1024));
}

TEST_CASE("ops/attention: large scores neither overflow nor lose the largest") {
  Context<Cpu> ctx({.threads = 1});
  for (const int64_t keys : {70, 200}) {  // through the tiles, and through the streams
    const int64_t queries = keys == 70 ? 70 : 1;
    std::vector<float> k(static_cast<std::size_t>(keys), 0.0f), v(static_cast<std::size_t>(keys), -1.0f);
    k[65] = 1000;
    v[65] = 3;
    const Tensor<float, Cpu> q(ctx, {queries, 1, 1}, std::vector<float>(static_cast<std::size_t>(queries), 1000.0f));
    const auto y = attention(ctx, q, Tensor<float, Cpu>(ctx, {keys, 1, 1}, k), Tensor<float, Cpu>(ctx, {keys, 1, 1}, v),
                             {{0, queries, 0, keys}});
    const auto values = y.to_host(ctx);
    if (queries > 1) CHECK(values[64] == -1.0f);
    CHECK(values.back() == 3.0f);
  }
}

TEST_CASE("ops/attention: what does not fit is refused") {
  Context<Cpu> ctx({.threads = 1});
  const auto zeros = [&](const Shape& shape) { return Tensor<float, Cpu>::zeros(ctx, shape); };
  const auto q = zeros({4, 6, 8}), k = zeros({5, 3, 8});
  const auto fails = [&](const char* message, const std::vector<Segment>& segments,
                         const AttentionOptions& options = {}) {
    CHECK_THROWS_WITH_AS(attention(ctx, q, k, k, segments, options), doctest::Contains(message), Error);
  };
  CHECK_THROWS_WITH_AS(attention(ctx, q, zeros({5, 4, 8}), zeros({5, 4, 8}), {}),
                       doctest::Contains("attention: q (4, 6, 8), k (5, 4, 8) and v (5, 4, 8) do not fit"), Error);
  CHECK_THROWS_WITH_AS(attention(ctx, q, k, zeros({4, 3, 8}), {}), doctest::Contains("v (4, 3, 8)"), Error);
  CHECK_THROWS_WITH_AS(attention(ctx, q, zeros({5, 3, 4}), zeros({5, 3, 4}), {}), doctest::Contains("k (5, 3, 4)"),
                       Error);
  CHECK_THROWS_WITH_AS(attention(ctx, zeros({4, 48}), k, k, {}), doctest::Contains("q (4, 48)"), Error);
  fails("attention: segment 1, queries [2, 5) and keys [0, 5), is not within", {{0, 2, 0, 2}, {2, 5, 0, 5}});
  fails("segment 0, queries [0, 2) and keys [4, 6)", {{0, 2, 4, 6}});
  fails("segment 0, queries [2, 1)", {{2, 1, 0, 2}});
  fails("segment 0, queries [0, 3) and keys [0, 2), has a query that sees no key", {{0, 3, 0, 2}});
  fails("segment 0, queries [0, 3) and keys [2, 2), has a query", {{0, 3, 2, 2}}, {.mask = Mask::none});
  fails("segments 1 and 0 share queries", {{1, 3, 0, 2}, {0, 2, 0, 2}});
  fails("attention: a window of -1", {{0, 1, 0, 1}}, {.window = -1});
  fails("attention: a window of 4 without a mask", {{0, 1, 0, 1}}, {.mask = Mask::none, .window = 4});
}
