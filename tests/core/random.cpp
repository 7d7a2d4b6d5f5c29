// tests/core/random.cpp: the stream of a micro-batch.
#include <doctest/doctest.h>
#include <ftlib/core/random.hpp>

#include <set>

using namespace ft;

TEST_CASE("core/random: a micro-batch's stream is a function of seed, step and number, each with a key of its own") {
  CHECK(random_of(1, 2, 3).seed() == random_of(1, 2, 3).seed());
  CHECK(random_of(1, 2, 3).position() == 0);
  CHECK(random_of(7, 0, 0).seed() == 3966109767549452622u);  // resumed runs rely on it
  std::set<uint64_t> keys;
  for (uint64_t seed = 0; seed < 4; ++seed) {
    for (int64_t step = 0; step < 20; ++step)
      for (int64_t micro = 0; micro < 20; ++micro) keys.insert(random_of(seed, step, micro).seed());
    keys.insert(seed);
  }
  CHECK(keys.size() == 4 * (20 * 20 + 1));
  CHECK_THROWS_WITH_AS(random_of(0, -1, 0), doctest::Contains("step -1"), Error);
  CHECK_THROWS_WITH_AS(random_of(0, 0, -1), doctest::Contains("micro-batch -1"), Error);
}
