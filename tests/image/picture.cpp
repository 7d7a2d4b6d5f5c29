// tests/image/picture.cpp: RGBA buffers in and out, sizes, and what is no picture. That scaling is Pillow's is shown by
// tests/examples/image_prepare.cpp.
#include <doctest/doctest.h>
#include <ftlib/core/error.hpp>
#include <ftlib/image/picture.hpp>

using namespace ft;

TEST_CASE("picture: RGBA to values and back is the same picture, whatever lies behind the rows") {
  constexpr int64_t size = 5, stride = 4 * size + 3;
  std::vector<std::uint8_t> rgba(size * stride, 77);
  for (int64_t y = 0; y < size; ++y)
    for (int64_t x = 0; x < 4 * size; ++x)
      rgba[static_cast<std::size_t>(y * stride + x)] =
          x % 4 == 3 ? 255 : static_cast<std::uint8_t>((y * 53 + x * 31) % 256);
  const auto values = from_rgba(rgba.data(), size, size, stride, size);
  REQUIRE(values.size() == 3 * size * size);
  CHECK(values[0] == rgba[0] / 127.5f - 1);                // red of the first pixel
  CHECK(values[25 + 1] == rgba[5] / 127.5f - 1);           // green of the second
  CHECK(values[50 + 5] == rgba[stride + 2] / 127.5f - 1);  // blue of the second row's first
  const auto pictures = to_pictures(values, size);
  REQUIRE(pictures.size() == 1);
  const auto back = to_rgba(pictures[0]);
  REQUIRE(back.size() == 4 * size * size);
  for (std::size_t y = 0; y < size; ++y)
    for (std::size_t x = 0; x < 4 * size; ++x) CHECK(back[y * 4 * size + x] == rgba[y * stride + x]);
  CHECK(to_values(pictures[0]) == values);
}

TEST_CASE("picture: transparency is laid on white, the middle is taken or all of it") {
  const std::vector<std::uint8_t> clear{10, 20, 30, 0, 10, 20, 30, 128};
  CHECK(on_white(clear.data(), 2, 1, 8).rgb == std::vector<std::uint8_t>{255, 255, 255, 132, 137, 142});
  std::vector<std::uint8_t> wide;  // 12 x 4: black, red, black
  for (int y = 0; y < 4; ++y)
    for (int x = 0; x < 12; ++x) wide.insert(wide.end(), {static_cast<std::uint8_t>(x / 4 == 1 ? 255 : 0), 0, 0, 255});
  const auto middle = to_pictures(from_rgba(wide.data(), 12, 4, 48, 4), 4).front();
  for (int i = 0; i < 4; ++i) CHECK(middle.at(i, i)[0] >= 240);
  const auto all = to_pictures(from_rgba(wide.data(), 12, 4, 48, 12, Fit::pad), 12).front();
  CHECK(all.at(0, 0)[1] == 255);
  CHECK(all.at(6, 6)[0] >= 240);
  CHECK(all.at(6, 6)[1] == 0);
  CHECK(all.at(1, 6)[0] <= 15);
  const std::vector<float> beyond{-9, 0, 9, 1, 9, -9, 0, 1, 0, 0, 0, 0}, cut{-1, 0, 1, 1, 1, -1, 0, 1, 0, 0, 0, 0};
  CHECK(to_pictures(beyond, 2) == to_pictures(cut, 2));
}

TEST_CASE("picture: sizes that make no sense are named") {
  const std::vector<std::uint8_t> rgba(64);
  const auto fails = [](auto f, const char* why) { CHECK_THROWS_WITH_AS(f(), doctest::Contains(why), Error); };
  fails([&] { from_rgba(nullptr, 4, 4, 16, 8); }, "no buffer");
  fails([&] { from_rgba(rgba.data(), 4, 4, 12, 8); }, "4 x 4 pixels in rows of 12 bytes");
  fails([&] { from_rgba(rgba.data(), 0, 4, 16, 8); }, "0 x 4 pixels");
  fails([&] { from_rgba(rgba.data(), 4, -4, 16, 8); }, "4 x -4 pixels");
  fails([&] { from_rgba(rgba.data(), int64_t{1} << 40, 4, int64_t{1} << 42, 8); }, "pixels in rows of");
  fails([&] { from_rgba(rgba.data(), 4, 4, 16, 0); }, "to a picture of 0 x 0");
  fails([&] { to_pictures(std::vector<float>(47), 4); }, "47 values are no pictures of 3 x 4 x 4");
  fails([&] { to_values(Picture(3, 4)); }, "a picture of 3 x 4 is not what a model learns");
}
