// tests/ops/sampling.cpp: the next token against a plain reference in double, and the same one on every device.
#include <ftlib/ops/sampling.hpp>

#include "../op_suite.hpp"

#include <numeric>

using namespace ft;
using namespace ft::test;

namespace {

constexpr float inf = std::numeric_limits<float>::infinity(), no_number = std::numeric_limits<float>::quiet_NaN();

/// Rows of logits, and what else a choice depends on.
struct Rows {
  int64_t n, V;
  std::vector<float> logits;
  std::vector<double> uniform;
  std::vector<std::vector<int32_t>> history;

  std::span<const float> row(int64_t i) const {
    return std::span(logits).subspan(static_cast<std::size_t>(i * V), static_cast<std::size_t>(V));
  }
};

template <Device D>
std::vector<int32_t> chosen(Context<D>& ctx, const Rows& rows, const Sampling& options, int64_t offset) {
  std::vector<float> values(static_cast<std::size_t>(offset));
  values.insert(values.end(), rows.logits.begin(), rows.logits.end());
  const auto logits = Tensor<float, D>(ctx, {static_cast<int64_t>(values.size())}, values)
                          .strided(offset, {rows.n, rows.V}, {rows.V, 1});
  const std::vector<std::span<const int32_t>> history(rows.history.begin(), rows.history.end());
  return sample_tokens(ctx, logits, options, rows.uniform, history).to_host(ctx);
}
/// The tokens that the CPU chooses; where there is a CUDA side, it must choose the same, in any order of threads, and
/// at addresses that are no multiples of 16 bytes as well.
std::vector<int32_t> chosen(const Rows& rows, const Sampling& options) {
  Context<Cpu> cpu({.threads = 2});
  const auto tokens = chosen(cpu, rows, options, 0);
#if FTLIB_WITH_CUDA
  for (const uint64_t seed : {1u, 2u}) {
    cuda_emulation::set_seed(seed);
    Context<Cuda> ctx;
    CHECK(chosen(ctx, rows, options, static_cast<int64_t>(seed) - 1) == tokens);
  }
#endif
  return tokens;
}

/// The probability of each token: exp and plain sums, in double.
std::vector<double> probabilities(std::span<const float> row, const Sampling& options,
                                  const std::vector<int32_t>& history) {
  std::vector<float> logits(row.begin(), row.end());
  for (std::size_t i = 0; i < logits.size(); ++i) {
    float& x = logits[i];
    if (std::isnan(x)) x = -inf;
    if (std::count(history.begin(), history.end(), static_cast<int32_t>(i)))
      x = x > 0 ? x / options.repetition_penalty : x * options.repetition_penalty;
  }
  std::vector<std::size_t> order(logits.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return logits[a] > logits[b]; });
  std::vector<double> p(logits.size(), 0.0);
  if (options.temperature == 0) {
    p[order[0]] = 1;
    return p;
  }
  const double most = double{logits[order[0]]}, temperature = double{options.temperature};
  const auto weight = [&](std::size_t i) { return std::exp((double{logits[i]} - most) / temperature); };
  std::size_t n = 0;  // how many are kept
  while (n < order.size() && weight(order[n]) >= double{options.min_p}) ++n;
  if (options.top_k > 0) n = std::min(n, static_cast<std::size_t>(options.top_k));
  double total = 0, kept = 0;
  for (std::size_t i = 0; i < n; ++i) total += weight(order[i]);
  for (std::size_t i = 0; i < n && (options.top_p == 1 || kept < double{options.top_p} * total); ++i)
    kept += p[order[i]] = weight(order[i]);
  for (double& x : p) x /= kept;
  return p;
}

/// Random rows with ties and with logits of -infinity and NaN.
Rows random_rows(Random& random, int64_t n, int64_t V) {
  Rows rows{.n = n, .V = V, .logits = {}, .uniform = {}, .history = {}};
  for (int64_t i = 0; i < n * V; ++i) {
    const auto x = static_cast<float>(3 * random.normal());
    rows.logits.push_back(i / V % 2 == 0 ? x : std::round(4 * x) / 4);
    if (i % V > 0 && random.below(16) == 0) rows.logits.back() = random.below(2) ? no_number : -inf;
  }
  for (int64_t i = 0; i < n; ++i) {
    rows.uniform.push_back(random.uniform());
    rows.history.emplace_back();
    for (int64_t k = 0; k < 2 * i; ++k) rows.history.back().push_back(static_cast<int32_t>(random.below(V)));
  }
  return rows;
}

/// Each token is where its row's number falls among the reference's probabilities.
void check_reference(const Rows& rows, const Sampling& options) {
  const auto tokens = chosen(rows, options);
  for (int64_t i = 0; i < rows.n; ++i) {
    INFO("row ", i, " of ", rows.V, ": penalty ", options.repetition_penalty, ", temperature ", options.temperature,
         ", top_k ", options.top_k, ", top_p ", options.top_p, ", min_p ", options.min_p);
    const auto row = static_cast<std::size_t>(i);
    REQUIRE((tokens[row] >= 0 && tokens[row] < rows.V));
    const auto p = probabilities(rows.row(i), options, rows.history[row]);
    const auto token = p.begin() + tokens[row];
    CHECK(*token > 0);
    const double before = std::accumulate(p.begin(), token, 0.0), u = rows.uniform[row];
    if (options.temperature > 0) CHECK((before - 1e-6 <= u && u < before + *token + 1e-6));
  }
}

}  // namespace

TEST_CASE("ops/sampling: tokens are those of a plain reference, with every set of cuts") {
  Random random(3);
  const int64_t vocabularies[] = {1, 2, 3, 31, 64, 129, 260, 1000};
#if FTLIB_WITH_CUDA
  const int stride = 97;  // the emulation takes its time
#else
  const int stride = 1;
#endif
  int at = 0;
  for (const float penalty : {1.0f, 1.3f})
    for (const float temperature : {0.0f, 0.7f, 1.0f, 20.0f})
      for (const float min_p : {0.0f, 0.05f, 1.0f})
        for (const int32_t top_k : {0, 1, 3, 50})
          for (const float top_p : {1.0f, 0.9f, 0.3f})
            for (const int64_t V : vocabularies) {
              if (at++ % stride) continue;
              const Sampling options{penalty, temperature, top_k, top_p, min_p};
              const Rows rows = random_rows(random, 3, V);
              check_reference(rows, options);
            }
}

TEST_CASE("ops/sampling: ties go to the lower id, NaN counts as -infinity, infinities are certain") {
  const Sampling greedy, warm{.temperature = 1};
  const auto one = [](std::vector<float> logits, const Sampling& options, double u = 0.999) {
    const auto V = static_cast<int64_t>(logits.size());
    return chosen({.n = 1, .V = V, .logits = std::move(logits), .uniform = {u}, .history = {{}}}, options)[0];
  };
  CHECK(one({1, 3, 2, 3}, greedy) == 1);
  CHECK(one({-0.0f, 0, -1}, greedy) == 0);
  CHECK(one({-3, -1e-30f, -2}, greedy) == 1);
  CHECK(one({no_number, 1, no_number, 2, no_number}, greedy) == 3);
  for (const Sampling& options : {greedy, warm, Sampling{.temperature = 1, .top_k = 2, .top_p = 0.5f, .min_p = 0.1f}}) {
    CHECK(one({no_number, no_number, no_number, no_number}, options) == 0);
    CHECK(one({-inf, no_number, -inf}, options) == 0);
    CHECK(one({1, inf, 2, inf, no_number}, options) == 1);
    CHECK(one({no_number, -5, -inf, no_number}, options) == 1);
    CHECK(one({7}, options) == 0);
  }
  // Of equals, top_k and top_p keep the lower ids.
  const std::vector<float> equal(100, 2.0f);
  for (const double u : {0.0, 0.5, 0.999}) {
    CHECK(one(equal, {.temperature = 1, .top_k = 10}, u) == static_cast<int32_t>(10 * u));
    CHECK(one(equal, {.temperature = 1, .top_p = 0.25f}, u) == static_cast<int32_t>(25 * u));
    CHECK(one(equal, {.temperature = 1, .top_k = 50, .top_p = 0.5f}, u) == static_cast<int32_t>(25 * u));
    CHECK(one(equal, {.temperature = 1, .min_p = 1}, u) == static_cast<int32_t>(100 * u));
  }
  // Temperatures at the ends of their range.
  for (const float temperature : {1e-45f, 1e-30f, 1e-3f})
    CHECK(one({1, 2, 2.5f, 0}, {.temperature = temperature}) == 2);
  for (const float temperature : {1e9f, 3e38f, inf}) {
    CHECK(one({1, 2, 2.5f, 0}, {.temperature = temperature}, 0.6) == 2);
    CHECK(one({1, 2, 2.5f, 0}, {.temperature = temperature, .top_k = 1}, 0.1) == 2);
    CHECK(one({1, 2, no_number, -inf}, {.temperature = temperature, .top_k = 3}, 0.99) == 1);
  }
}

TEST_CASE("ops/sampling: the penalty counts a token once, and lowers logits of either sign") {
  Rows rows{.n = 2, .V = 3, .logits = {3, 2.9f, 0, -1, -1.1f, -1.2f}, .uniform = {}, .history = {{0, 0, 0}, {0, 2}}};
  CHECK(chosen(rows, {.repetition_penalty = 1.02f}) == std::vector<int32_t>{0, 0});  // 2.94, -1.02
  CHECK(chosen(rows, {.repetition_penalty = 1.2f}) == std::vector<int32_t>{1, 1});
  rows.history = {{}, {}};
  CHECK(chosen(rows, {.repetition_penalty = 1.2f}) == std::vector<int32_t>{0, 0});
}

TEST_CASE("ops/sampling: wide vocabularies, the second row all equal") {
#if FTLIB_WITH_CUDA
  const std::vector<int64_t> vocabularies{16388};
#else
  const std::vector<int64_t> vocabularies{16391, 262144};
#endif
  Random random(8);
  for (const int64_t V : vocabularies) {
    Rows rows = random_rows(random, 2, V);
    std::fill(rows.logits.begin() + V, rows.logits.end(), -2.5f);
    check_reference(rows, {.repetition_penalty = 1.1f, .temperature = 0.8f, .top_k = 5000, .top_p = 0.95f});
  }
}

TEST_CASE("ops/sampling: weights are powers of two, fall with the distance, and are not libraries' to decide") {
  CHECK(detail::sampling_weight(0) == uint64_t{1} << 40);
  CHECK(detail::sampling_weight(7) == uint64_t{1} << 33);
  CHECK(detail::sampling_weight(40) == 0);
  CHECK(detail::sampling_weight(inf) == 0);
  CHECK(detail::sampling_weight(no_number) == 0);
  static_assert(detail::sampling_weight(1.5f) == 388736064256);
  uint64_t last = uint64_t{1} << 40;
  double worst = 0;
  for (float t = 0; t < 41; t += 0.000317f) {
    const uint64_t w = detail::sampling_weight(t);
    CHECK_UNARY(w <= last);
    last = w;
    const double exact = std::exp2(40 - double{t});
    worst = std::max(worst, (std::abs(static_cast<double>(w) - exact) - 1) / exact);
  }
  CHECK(worst < 2e-8);
}

#if !FTLIB_WITH_CUDA
TEST_CASE("ops/sampling: draws are distributed as the probabilities") {
  const std::vector<float> logits{0.5f, -1, 2, 2, -inf, 1.25f, -3, 0};
  const auto V = static_cast<int64_t>(logits.size());
  Random random(11);
  Rows rows{.n = 20000, .V = V, .logits = {}, .uniform = {}, .history = {}};
  for (int64_t i = 0; i < rows.n; ++i) {
    rows.logits.insert(rows.logits.end(), logits.begin(), logits.end());
    rows.uniform.push_back(random.uniform());
  }
  for (const Sampling& options :
       {Sampling{.temperature = 1}, Sampling{.temperature = 2, .top_k = 5}, Sampling{.temperature = 1, .top_p = 0.8f},
        Sampling{.temperature = 1.5f, .top_k = 6, .top_p = 0.9f, .min_p = 0.1f}}) {
    std::vector<double> count(logits.size(), 0.0);
    for (const int32_t token : chosen(rows, options)) ++count[static_cast<std::size_t>(token)];
    const auto p = probabilities(logits, options, {});
    double chi_square = 0;  // of at most 6 degrees of freedom: above 22.5 once in a thousand
    for (std::size_t i = 0; i < p.size(); ++i) {
      const double expected = p[i] * static_cast<double>(rows.n);
      if (p[i] == 0) CHECK(count[i] == 0);
      else chi_square += (count[i] - expected) * (count[i] - expected) / expected;
    }
    CHECK(chi_square < 22.5);
  }
}
#endif

TEST_CASE("ops/sampling: what does not fit is refused") {
  Context<Cpu> ctx({.threads = 1});
  auto logits = Tensor<float, Cpu>::zeros(ctx, {2, 3});
  const std::vector<double> two{0, 0.5};
  const Sampling warm{.temperature = 1};
  const auto refused = [&](auto&& call, const char* message) {
    CHECK_THROWS_WITH_AS(call(), doctest::Contains(message), Error);
  };
  refused([&] { return sample_tokens(ctx, logits, {.temperature = -1}, two); }, "temperature -1 must be 0 or above");
  refused([&] { return sample_tokens(ctx, logits, {.top_p = 0}, two); }, "top_p 0 is outside (0, 1]");
  refused(
      [&] {
        return sample_tokens(ctx, Tensor<float, Cpu>::zeros(ctx, {2, 0}), warm, two);
      },
      "logits (2, 0) are not rows of 1 to 8388608");
  refused([&] { return sample_tokens(ctx, Tensor<float, Cpu>::zeros(ctx, {3}), warm, two); },
          "logits (3) are not rows");
  refused([&] { return sample_tokens(ctx, logits, warm, {0.5}); }, "1 random numbers do not fit logits (2, 3)");
  refused([&] { return sample_tokens(ctx, logits, warm, {0.5, 1}); }, "random number 1 is outside [0, 1)");
  refused([&] { return sample_tokens(ctx, logits, {.repetition_penalty = 2}, {}); }, "0 histories do not fit");
  const std::vector<int32_t> fits{2, 0}, outside{3};
  refused(
      [&] {
        return sample_tokens(ctx, logits, {.repetition_penalty = 2}, {}, {fits, outside});
      },
      "token 3 of a history is outside the vocabulary of 3");
  CHECK(sample_tokens(ctx, Tensor<float, Cpu>::zeros(ctx, {0, 3}), warm, {}).count() == 0);
  Tape tape(ctx);
  tape.watch(logits);
  refused([&] { return sample_tokens(ctx, logits, {}, {}); }, "sample_tokens: has no backward");
}
