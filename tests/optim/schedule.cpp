// tests/optim/schedule.cpp: schedules against transformers' get_*_schedule_with_warmup.
#include <doctest/doctest.h>
#include <ftlib/optim/schedule.hpp>

#include <fstream>
#include <nlohmann/json.hpp>

using namespace ft;

namespace {
nlohmann::json schedules() {
  std::ifstream file(FTLIB_TEST_DATA "/optim/schedule.json");
  REQUIRE(file);
  return nlohmann::json::parse(file);
}
}  // namespace

TEST_CASE("optim/schedule: the numbers of transformers' schedules, without a warm-up's first step at rate 0") {
  const auto data = schedules();
  REQUIRE(data["cases"].size() == 24);
  for (const auto& c : data["cases"]) {
    const auto kind = c["kind"].get<std::string>();
    const auto theirs = c["warmup"].get<int64_t>();
    const int64_t left_out = theirs > 0 ? 1 : 0, steps = c["steps"].get<int64_t>() - left_out;
    const auto warmup = static_cast<float>(theirs - left_out), floor = c["floor"].get<float>();
    INFO(kind, " of ", steps, " steps, warm-up ", warmup, ", floor ", floor);
    const Schedule schedule = kind == "constant" ? Schedule(Constant{.warmup = warmup})
                              : kind == "linear" ? Schedule(LinearDecay{.warmup = warmup, .floor = floor})
                                                 : Schedule(Cosine{.warmup = warmup, .floor = floor});
    for (int64_t step = 0; step < steps; ++step) {
      INFO("step ", step);
      CHECK(std::abs(schedule.multiplier(step, steps) -
                     c["values"][static_cast<std::size_t>(step + left_out)].get<double>()) < 1e-7);
    }
  }
}

TEST_CASE("optim/schedule: a share of warm-up is as many steps as in transformers") {
  const auto data = schedules();
  REQUIRE(data["shares"].size() == 8);
  for (const auto& c : data["shares"])
    CHECK(warmup_steps(c["warmup"].get<float>(), c["steps"].get<int64_t>()) == c["first"].get<int64_t>());
  CHECK_THROWS_AS(warmup_steps(-0.1f, 10), Error);
}

TEST_CASE("optim/schedule: past the end it stays at the floor, which linear decay has too") {
  CHECK(Cosine{.warmup = 0, .floor = 0.25f}.multiplier(15, 10) == doctest::Approx(0.25));
  CHECK(LinearDecay{.warmup = 0, .floor = 0.5f}.multiplier(5, 10) == doctest::Approx(0.75));
  CHECK(LinearDecay{.warmup = 0, .floor = 0.5f}.multiplier(12, 10) == doctest::Approx(0.5));
  CHECK(Schedule().multiplier(0, 0) == 1);
  CHECK(Schedule(Cosine{.warmup = 0.03f}).multiplier(0, 1) == 0.5f);  // a run of one step learns something
  CHECK(Schedule(Constant{.warmup = 7}).multiplier(0, 2) == 0.125f);
}
