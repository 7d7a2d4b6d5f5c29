// tests/core/description.cpp: settings as texts that two runs can compare, and hashes.
#include <doctest/doctest.h>
#include <ftlib/core/description.hpp>

using namespace ft;

TEST_CASE("core/description: numbers are texts that are read back as the same ones") {
  Description d;
  d.add("lr", 5e-4f);
  d.add("third", 1.0 / 3);
  d.add("steps", int64_t{-12});
  d.add("on", true);
  d.add("name", "cosine");
  const std::vector<Description::Entry> expected{
      {"lr", "5e-04"}, {"third", "0.3333333333333333"}, {"steps", "-12"}, {"on", "yes"}, {"name", "cosine"}};
  CHECK(d.entries() == expected);
}

TEST_CASE("core/description: a hash depends on every byte, on order, and on where one text ends") {
  const auto hash = [](auto... parts) {
    Hash h;
    (h.add(parts), ...);
    return h.value();
  };
  CHECK(hash(std::string_view("ab"), std::string_view("c")) == hash(std::string_view("ab"), std::string_view("c")));
  CHECK(hash(std::string_view("ab"), std::string_view("c")) != hash(std::string_view("a"), std::string_view("bc")));
  CHECK(hash(1, 2) != hash(2, 1));
  CHECK(hash(std::string_view("")) != hash());
  std::vector<float> values(1000, 1.0f);
  Hash first;
  first.add(values);
  for (const std::size_t i : {std::size_t{0}, std::size_t{499}, std::size_t{999}}) {
    auto other = values;
    other[i] = 1.0000001f;
    Hash second;
    second.add(other);
    CHECK(second.value() != first.value());
  }
  Description d;
  d.add("data", first);
  CHECK(d.entries()[0].value.size() == 16);
}
