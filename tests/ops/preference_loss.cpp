// tests/ops/preference_loss.cpp: the loss of preferences against its formula, and its gradient down to hidden states.
#include "../op_suite.hpp"

#include <ftlib/ops/preference_loss.hpp>

using namespace ft;
using namespace ft::test;

namespace {
double log_sigmoid(double x) { return -std::log1p(std::exp(-x)); }

/// The formula, pair by pair.
double preference_by_hand(const HostArray& nll, const HostArray& reference, const std::vector<int64_t>& targets,
                          const PreferenceOptions& o) {
  const double beta = double{o.beta}, s = double{o.label_smoothing};
  double sum = 0;
  for (int64_t i = 0; i < nll.count(); i += 2) {
    const double d = beta * ((reference[i] - nll[i]) - (reference[i + 1] - nll[i + 1]));
    sum += -(1 - s) * log_sigmoid(d) - s * log_sigmoid(-d);
    sum += double{o.nll} * nll[i] / static_cast<double>(targets[static_cast<std::size_t>(i)]);
  }
  return sum;
}
const std::vector<PreferenceOptions> preference_options = {
    {}, {.beta = 0.5f, .label_smoothing = 0.1f}, {.beta = 2, .nll = 0.5f}, {.label_smoothing = 0.2f, .nll = 1}};
}  // namespace

TEST_CASE("ops/preference_loss: is the formula, in float and double") {
  Random random(3);
  Context<Cpu> ctx;
  ctx.poison(true);
  for (const int64_t pairs : {1, 2, 7}) {
    const auto nll = activation(random, {2 * pairs}, 9), reference = activation(random, {2 * pairs}, 9);
    std::vector<int64_t> targets;
    for (int64_t i = 0; i < 2 * pairs; ++i) targets.push_back(1 + i % 5);
    for (const auto& options : preference_options) {
      const double wanted = preference_by_hand(nll, reference, targets, options);
      const auto loss = [&]<class T>(T) {
        return static_cast<double>(
            preference_loss(ctx, upload<T>(ctx, nll), upload<T>(ctx, reference), targets, options).item(ctx));
      };
      CHECK(loss(0.0f) == doctest::Approx(wanted).epsilon(1e-5));
      CHECK(loss(0.0) == doctest::Approx(wanted).epsilon(1e-7));  // options are floats
    }
  }
  // Held to nothing yet: log 2 a pair; and far off it neither overflows nor loses its slope.
  const Tensor<float, Cpu> same(ctx, {4}, {3, 1, 4, 1});
  CHECK(preference_loss(ctx, same, same, {1, 1, 1, 1}).item(ctx) == doctest::Approx(2 * std::log(2.0)));
  const Tensor<float, Cpu> far(ctx, {2}, {4000, 0}), zero(ctx, {2}, {0, 0});
  CHECK(preference_loss(ctx, far, zero, {1, 1}, {.beta = 1}).item(ctx) == 4000);
}

TEST_CASE(
    "ops/preference_loss: gradients are differences', from log-probabilities and from hidden states and the head") {
  Random random(4);
  Context<Cpu> ctx;
  const auto reference = upload<double>(ctx, activation(random, {4}, 2));
  for (const auto& options : preference_options) {
    CHECK(gradcheck(ctx,
                    [&](Context<Cpu>& c, const std::vector<Tensor<double, Cpu>>& xs) {
                      return preference_loss(c, xs[0], reference, {2, 3, 1, 4}, options);
                    },
                    {upload<double>(ctx, activation(random, {4}, 2))}) == "");
    for (const bool trained : {false, true}) {
      Parameter<double, Cpu> head("head", upload<double>(ctx, activation(random, {7, 5})));
      head.trainable = trained;
      const std::vector<Parameter<double, Cpu>*> ws{&head};
      CHECK(gradcheck(
                ctx,
                [&](Context<Cpu>& c, const std::vector<Tensor<double, Cpu>>& xs) {
                  // as LanguageModel::nll_by_sequence has it: four answers, of which some rows are no target
                  std::vector<int32_t> targets;
                  for (int32_t n = 0; n < 11; ++n) targets.push_back(n == 2 || n == 8 ? ignored_target : n % 7);
                  const auto nll = linear_cross_entropy_by_group(c, xs[0], head, targets, {0, 3, 6, 7, 11});
                  return preference_loss(c, nll, reference, {2, 3, 1, 3}, options);
                },
                {upload<double>(ctx, activation(random, {11, 5}))},
                std::span<Parameter<double, Cpu>* const>(ws)) == "");
    }
  }
}

TEST_CASE("ops/preference_loss: what are no pairs, and options out of range, are refused") {
  Context<Cpu> ctx;
  const Tensor<float, Cpu> three(ctx, {3}, {1, 2, 3}), two(ctx, {2}, {1, 2});
  CHECK_THROWS_WITH_AS(preference_loss(ctx, three, three, {1, 1, 1}), doctest::Contains("nll (3)"), Error);
  CHECK_THROWS_WITH_AS(preference_loss(ctx, two, three, {1, 1}), doctest::Contains("the reference's (3)"), Error);
  CHECK_THROWS_WITH_AS(preference_loss(ctx, two, two, {1}), doctest::Contains("1 numbers of targets"), Error);
  for (const PreferenceOptions& wrong :
       {PreferenceOptions{.beta = 0}, {.label_smoothing = 0.5f}, {.label_smoothing = -0.1f}, {.nll = -1}})
    CHECK_THROWS_WITH_AS(preference_loss(ctx, two, two, {1, 1}, wrong), doctest::Contains("preferences: beta"), Error);
}
