// tests/image/docs.cpp: the program text of docs/image_style.md, compiled and run. tools/check_readme.py holds the
// page's blocks against what stands here between the lines "// block" and "// end".

// block
#include <ftlib/finetune.hpp>

#include <iostream>
// end

#include <doctest/doctest.h>

#include "../scratch.hpp"
#include "tiny_painter.hpp"

namespace image_docs {

// block
using Painter = ft::Painter<float, ft::Cpu>;

/// What a host has: 8-bit R, G, B, A, rows `stride` bytes apart, and words for what is to be seen.
struct HostPicture {
  std::vector<std::uint8_t> rgba;
  int64_t width, height, stride;
  std::string shows;
};

/// A picture of `shows` in RGBA, painter.side() pixels a side.
std::vector<std::uint8_t> draw_one(Painter& painter, const std::string& shows, uint64_t seed) {
  return ft::to_rgba(painter.draw({shows}, {.seeds = {seed}}).front());
}
// end

// block
/// Several at once, seen as they come out of the noise, until another thread asks to stop.
std::vector<ft::Picture> draw_some(Painter& painter, const std::vector<std::string>& texts, const ft::StopToken& stop,
                                   const std::function<void(int64_t step, const ft::Picture& first)>& show) {
  try {
    return painter.draw(texts, {.steps = 20, .guidance = 1.5f, .stop = stop},
                        [&](const ft::PaintStep& s) { show(s.step, s.pictures.front()); });
  } catch (const ft::Interrupted&) {
    return {};  // the painter is as it was
  }
}
// end

// block
/// Tunes the base to the style of `pictures`; `folder` then draws in it: Painter::from_pretrained(folder).
void learn_style(Painter& painter, const std::vector<HostPicture>& pictures, const std::filesystem::path& folder) {
  std::vector<ft::CaptionedPicture> captioned;
  for (const HostPicture& p : pictures)
    captioned.push_back({.id = p.shows,
                         .picture = ft::from_rgba(p.rgba.data(), p.width, p.height, p.stride, painter.side()),
                         .text = p.shows});
  painter.model().attach({.rank = 16, .targets = painter.info().picture_layers});
  const ft::FlowData data(painter.examples(std::move(captioned)), painter.info());
  ft::Trainer trainer(painter.model(), {.optimizer = ft::AdamW{.lr = 4e-3f, .beta2 = 0.99f},
                                        .epochs = 1500,
                                        .max_steps = 1500,
                                        .batch_tokens = 16});  // counts what the data count: pictures
  trainer.on_step([](const ft::Step& s) {
    std::cout << s << '\n';  // "step 1/1500  loss 0.213  ...  172 pictures/s"
    return ft::Flow::go;     // or stop
  });
  trainer.fit(data);
  painter.save_adapter(folder, "my style");
}
// end

}  // namespace image_docs

TEST_CASE("docs/image_style: a picture from words, frames and a stop, a style from RGBA buffers") {
  using namespace image_docs;
  const ft::test::Scratch dir;
  ft::test::write_tiny_base(dir / "base");
  auto painter = image_docs::Painter::from_pretrained(dir / "base", ft::test::tiny_text_model_file, {.threads = 1});
  const auto rgba = draw_one(painter, "tomato", 42);
  CHECK(rgba.size() == 32 * 32 * 4);
  ft::StopSource stop;
  int64_t last = 0;
  const auto stop_at_3 = [&](int64_t step, const ft::Picture&) {
    if ((last = step) == 3) stop.request_stop();
  };
  CHECK(draw_some(painter, {"tomato", "owl"}, stop.token(), stop_at_3).empty());
  CHECK(last == 3);
  CHECK(draw_some(painter, {"tomato", "owl"}, {}, [](int64_t, const ft::Picture&) {}).size() == 2);

  std::vector<HostPicture> pictures;
  for (int i = 0; i < 3; ++i)
    pictures.push_back(
        {std::vector<std::uint8_t>(40 * 4 * 30, static_cast<std::uint8_t>(60 * i)), 36, 30, 160, "thing"});
  std::ostringstream said;
  auto* const out = std::cout.rdbuf(said.rdbuf());
  learn_style(painter, pictures, dir / "run/adapter");
  std::cout.rdbuf(out);
  CHECK(said.str().find("step 1500/1500  loss ") != std::string::npos);
  CHECK(said.str().find(" pictures/s") != std::string::npos);
  CHECK(said.str().find("tokens") == std::string::npos);
  auto tuned = image_docs::Painter::from_pretrained(dir / "run/adapter", {}, {.threads = 1});
  CHECK(tuned.style() == "my style");
  CHECK(draw_one(tuned, "tomato", 42) != rgba);
}
