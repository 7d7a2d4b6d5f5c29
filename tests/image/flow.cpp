// tests/image/flow.cpp: drawing beside PyTorch, and what training draws: times, noise, dropped captions.
#include "mmjit_case.hpp"

#include <doctest/doctest.h>

using namespace ft;
using namespace ft::test;

namespace {

DrawOptions options_of(const MMJiTCase& c, Solver solver) {
  const auto& draw = c.expected["draw"];
  return {.steps = draw["steps"],
          .solver = solver,
          .guidance = draw["guidance"],
          .guide_from = draw["guide_from"],
          .guide_to = draw["guide_to"]};
}
/// Captions [from, to) of batch 0.
PackedText captions(const MMJiTCase& c, std::size_t from, std::size_t to) {
  const PackedText all = c.batch(0).text;
  const int64_t W = c.net.config().txt_input_size;
  PackedText some;
  for (std::size_t i = from; i < to; ++i)
    some.add({all.states.data() + all.starts[i] * W, all.states.data() + all.starts[i + 1] * W}, W);
  return some;
}
std::vector<float> one_of_two(const std::vector<float>& values, std::size_t which) {
  const auto n = static_cast<std::ptrdiff_t>(values.size() / 2), at = static_cast<std::ptrdiff_t>(which) * n;
  return {values.begin() + at, values.begin() + at + n};
}

double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  REQUIRE(a.size() == b.size());
  double most = 0;
  for (std::size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(double{a[i]} - double{b[i]}));
  return most;
}

}  // namespace

TEST_CASE("flow: every step of a drawing with guidance is PyTorch's, by Euler and by Heun") {
  for (const std::string name : {"published", "adaln"})
    for (const Solver solver : {Solver::euler, Solver::heun}) {
      const std::string key = solver == Solver::euler ? "euler." : "heun.";
      CAPTURE(name);
      CAPTURE(key);
      MMJiTCase c(name);
      auto noise = c.batch(0).noise;
      noise.resize(noise.size() / 3 * 2);
      int64_t heard = 0;
      std::vector<float> last;
      const auto pictures =
          denoise(c.ctx, c.net, captions(c, 0, 2), noise, options_of(c, solver), [&](const DrawStep& s) {
            const std::string at = str(key, heard);
            CAPTURE(at);
            CHECK(c.difference(s.noisy, at) <= 1e-4 * std::max(1.0, c.largest(at)));
            CHECK(s.step == ++heard);
            CHECK(s.steps == 5);
            CHECK(s.pictures.size() == noise.size());
            last = s.pictures;
          });
      CHECK(heard == 5);
      CHECK(pictures == last);
    }
}

TEST_CASE("flow: a picture depends on its caption and seed, not on those that are drawn with it") {
  for (const std::string name : {"published", "adaln"}) {
    CAPTURE(name);
    MMJiTCase c(name);
    const auto options = options_of(c, Solver::heun);
    const auto both = draw(c.ctx, c.net, captions(c, 0, 2), {7, 8}, options);
    const auto first = draw(c.ctx, c.net, captions(c, 0, 1), {7}, options),
               second = draw(c.ctx, c.net, captions(c, 1, 2), {8}, options);
    CHECK(largest_difference(one_of_two(both, 0), first) <= 1e-4);  // products of few rows sum in another order
    CHECK(largest_difference(one_of_two(both, 1), second) <= 1e-4);
    CHECK(largest_difference(draw(c.ctx, c.net, captions(c, 0, 1), {8}, options), first) > 0.1);
    CHECK(largest_difference(draw(c.ctx, c.net, captions(c, 1, 2), {7}, options), first) > 0.1);
    CHECK(draw(c.ctx, c.net, captions(c, 0, 1), {7}, options) == first);
  }
}

TEST_CASE("flow: without guidance, or outside its interval, dropped captions are not looked at") {
  MMJiTCase c("adaln");
  const auto text = captions(c, 0, 1);
  const auto plain = draw(c.ctx, c.net, text, {1}, {.steps = 4, .guidance = 1});
  CHECK(draw(c.ctx, c.net, text, {1}, {.steps = 4, .guidance = 3, .guide_from = 2, .guide_to = 3}) == plain);
  CHECK(draw(c.ctx, c.net, text, {1}, {.steps = 4, .guidance = 3}) != plain);
}

TEST_CASE("flow: a drawing may stop on its way, and another call go on from there") {
  MMJiTCase c("adaln");
  const auto text = captions(c, 0, 1);
  const DrawOptions all{.steps = 4, .solver = Solver::euler};
  auto first = all, second = all;
  first.steps = second.steps = 2;
  first.to = second.from = 0.5f;
  std::vector<float> seen;
  const auto half = draw(c.ctx, c.net, text, {1}, first, [&](const DrawStep& s) { seen = s.pictures; });
  CHECK(largest_difference(half, seen) > 0.1);  // what is heard of are pictures, what is returned is z
  const auto whole = draw(c.ctx, c.net, text, {1}, all);
  CHECK(denoise(c.ctx, c.net, text, half, second) == whole);
  CHECK(half != whole);
}

TEST_CASE("flow: times are logit-normal, noise is normal, captions are dropped at their rate; all from the stream") {
  Random random(1);
  const FlowOptions options;
  int above = 0;
  for (int i = 0; i < 20000; ++i) above += draw_time(random, options) > 1 / (1 + std::exp(0.8f));  // the median
  CHECK(above > 9700);
  CHECK(above < 10300);
  std::vector<float> noise(20000);
  draw_noise(Random(2), noise);
  double sum = 0, squares = 0;
  for (const float e : noise) {
    sum += double{e};
    squares += double{e} * double{e};
  }
  CHECK(std::abs(sum / 20000) < 0.03);
  CHECK(std::abs(squares / 20000 - 1) < 0.04);

  MMJiTCase c("adaln");
  FlowBatch batch = c.batch(2);
  batch.times.clear();
  batch.noise.clear();
  const auto loss = [&](float drop) { return flow_loss(c.ctx, c.net, batch, {.caption_drop = drop}).item(c.ctx); };
  const float first = loss(0);
  CHECK(loss(0) != first);
  c.ctx.random().seek(0);
  CHECK(loss(0) == first);  // the whole state is the stream's position
  c.ctx.random().seek(0);
  CHECK(loss(1) != first);
  FlowBatch nothing = batch;
  nothing.text = {};
  for (int i = 0; i < 4; ++i) nothing.text.add({}, 10);
  c.ctx.random().seek(0);
  const float dropped = loss(1);
  c.ctx.random().seek(0);
  CHECK(flow_loss(c.ctx, c.net, nothing, {.caption_drop = 0}).item(c.ctx) == dropped);
}

TEST_CASE("flow: what does not fit is refused") {
  MMJiTCase c("published");
  FlowBatch batch = c.batch(0);
  batch.noise.pop_back();
  CHECK_THROWS_WITH_AS(flow_loss(c.ctx, c.net, batch), doctest::Contains("3 times and noise of 1295 do not fit"),
                       Error);
  batch = c.batch(0);
  batch.text.add({}, 10);
  CHECK_THROWS_WITH_AS(flow_loss(c.ctx, c.net, batch), doctest::Contains("flow_loss: 4 captions"), Error);
  CHECK_THROWS_WITH_AS(flow_loss(c.ctx, c.net, FlowBatch{}), doctest::Contains("flow_loss: 0 captions"), Error);
  CHECK_THROWS_WITH_AS(draw(c.ctx, c.net, captions(c, 0, 2), {1}),
                       doctest::Contains("2 captions, and noise of 1 pictures"), Error);
  CHECK_THROWS_WITH_AS(draw(c.ctx, c.net, captions(c, 0, 1), {1}, {.steps = 0}), doctest::Contains("draw: 0 steps"),
                       Error);
  CHECK_THROWS_WITH_AS(draw(c.ctx, c.net, captions(c, 0, 1), {1}, {.from = 0.5f, .to = 0.5f}),
                       doctest::Contains("from time 0.5 to 0.5"), Error);
  CHECK_THROWS_WITH_AS(draw(c.ctx, c.net, captions(c, 0, 1), {1}, {.steps = 3},
                            [](const DrawStep& s) {
                              if (s.step == 2) throw Interrupted("the browser went away");
                            }),
                       doctest::Contains("went away"), Interrupted);
}
