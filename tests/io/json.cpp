// tests/io/json.cpp: messages with file, line and column; typed access; depth; duplicates.
#include "io_test.hpp"

using namespace ft;
using namespace ft::test;

TEST_CASE("io/json: builds what nlohmann builds") {
  for (const char* text :
       {"null", "true", "-3", "18446744073709551615", "1.5e-3", "\"\\ud55c\\n\"", "[]", "{}",
        "[[],{},[1,[2,{\"a\":[]}]],3]", "{\"b\":{\"c\":[1,2,{\"d\":null}],\"e\":\"f\"},\"a\":{\"g\":{}},\"h\":1}",
        " \t\n[1 , 2]\r\n", "\xef\xbb\xbf{\"bom\":1}"})
    CHECK(parse_json(text, "t") == Json::parse(text));
}

TEST_CASE("io/json: a syntax error names file, line, column and what was expected") {
  const auto fails = [](std::string_view text, const char* message) {
    CHECK_THROWS_WITH_AS(parse_json(text, "config.json"), doctest::Contains(message), Error);
  };
  fails("{\n  \"a\": 1,\n  \"b\" 2\n}", "config.json: line 3, column 7: syntax error while parsing object separator");
  fails("{\n  \"a\": 1,\n  \"b\" 2\n}", "expected ':'");
  fails("", "config.json: line 1, column 1: syntax error while parsing value - unexpected end of input");
  fails("[1,", "line 1, column 4");
  fails("[1] x", "line 1, column 5");
  fails("[1e999]", "line 1, column 6: number overflow");
  fails("[\"\x80\"]", "invalid string: ill-formed UTF-8");
  fails("{\"a\":1,\"b\":{\"a\":1},\"a\":2}", "config.json: key 'a' appears twice");
  CHECK_NOTHROW(parse_json("{\"a\":{\"a\":{}},\"b\":[{\"a\":1},{\"a\":2}]}", "t"));
  try {
    parse_json("[\"" + std::string(100'000, 'x'), "t");
    CHECK(false);
  } catch (const Error& error) {
    CHECK(std::string_view(error.what()).size() < 500);  // the text of a hostile file is not repeated
  }
}

TEST_CASE("io/json: depth is limited") {
  const auto nested = [](int depth) {
    return std::string(static_cast<std::size_t>(depth), '[') + std::string(static_cast<std::size_t>(depth), ']');
  };
  CHECK_NOTHROW(parse_json(nested(max_json_depth), "t"));
  CHECK_THROWS_WITH_AS(parse_json(nested(max_json_depth + 1), "t"), doctest::Contains("deeper than 128"), Error);
  CHECK_THROWS_AS(parse_json(std::string(10'000'000, '['), "t"), Error);
  std::string objects;
  for (int i = 0; i < 100'000; ++i) objects += "{\"a\":";
  CHECK_THROWS_AS(parse_json(objects, "t"), Error);
}

TEST_CASE("io/json: typed access") {
  const Json j = parse_json(R"({"i":7,"neg":-1,"f":0.5,"whole":2048.0,"s":"text","t":true,"n":null,"a":[1,2,3],
                                "as":["x","y"],"o":{},"mixed":[1,"x"],"big":18446744073709551615,"huge":1e300})",
                            "t");
  CHECK(at<int64_t>(j, "i", "t") == 7);
  CHECK(at<uint64_t>(j, "big", "t") == ~uint64_t{0});
  CHECK(at<int>(j, "whole", "t") == 2048);
  CHECK(at<float>(j, "i", "t") == 7.0f);
  CHECK(at<double>(j, "huge", "t") == 1e300);
  CHECK(at<bool>(j, "t", "t"));
  CHECK(at<std::string>(j, "s", "t") == "text");
  CHECK(at<std::vector<int>>(j, "a", "t") == std::vector{1, 2, 3});
  CHECK(at<std::vector<std::string>>(j, "as", "t") == std::vector<std::string>{"x", "y"});
  CHECK(at<Json>(j, "o", "t").is_object());
  CHECK(value_or<int>(j, "none", 5, "t") == 5);
  CHECK(value_or<int>(j, "n", 5, "t") == 5);
  CHECK(value_or<int>(j, "i", 5, "t") == 7);
  CHECK(value_or<std::string>(j, "none", "fallback", "t") == "fallback");

  const auto fails = [&](auto access, const char* message) {
    CHECK_THROWS_WITH_AS(access(), doctest::Contains(message), Error);
  };
  fails([&] { at<int>(j, "none", "config.json"); }, "config.json: key 'none' is missing");
  fails([&] { at<int>(j, "n", "config.json"); }, "config.json: key 'n' should be an integer, found null");
  fails([&] { at<int>(j, "s", "config.json"); }, "key 's' should be an integer, found \"text\"");
  fails([&] { at<int>(j, "f", "t"); }, "key 'f' should be an integer in [-2147483648, 2147483647], found 0.5");
  fails([&] { at<int>(j, "big", "t"); }, "found 18446744073709551615");
  fails([&] { at<uint64_t>(j, "neg", "t"); }, "found -1");
  fails([&] { at<int64_t>(j, "huge", "t"); }, "found 1e+300");
  fails([&] { at<float>(j, "huge", "t"); }, "should be at most");
  fails([&] { at<bool>(j, "i", "t"); }, "should be true or false, found 7");
  fails([&] { at<std::string>(j, "a", "t"); }, "should be a string, found an array");
  fails([&] { at<std::vector<int>>(j, "mixed", "t"); }, "key 'mixed' should be an integer, found \"x\"");
  fails([&] { at<int>(j["a"], "x", "t"); }, "an object with key 'x' was expected, found array");
  fails([&] { value_or<int>(j, "s", 1, "t"); }, "should be an integer");
}

TEST_CASE("io/json: from a file, with its limit") {
  const Scratch scratch;
  spit(scratch / "config.json", "{\"a\": }");
  CHECK_THROWS_WITH_AS(read_json(scratch / "config.json"), doctest::Contains("config.json: line 1, column 7"), Error);
  spit(scratch / "config.json", "{\"a\": 1}");
  CHECK(read_json(scratch / "config.json")["a"] == 1);
  CHECK_THROWS_WITH_AS(read_json(scratch / "config.json", 4), doctest::Contains("at most 4"), Error);
}
