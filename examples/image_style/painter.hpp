// examples/image_style/painter.hpp: what learns and draws here: ft::Painter, with this program's defaults; and prepared
// samples as it learns them.
#pragma once
#include "data.hpp"

#include <ftlib/image/painter.hpp>

#include <cstdint>     // std::int64_t
#include <filesystem>  // std::filesystem::path
#include <functional>  // std::function
#include <iostream>    // std::cerr
#include <string>      // std::string
#include <utility>     // std::move
#include <vector>      // std::vector

namespace image_style {

using ft::in_style;
using Painter = ft::Painter<float, ft::Cpu>;
using Model = Painter::Model;
using Encoder = Painter::Encoder;

/// Where tools/fetch_model puts the text model of the committed base.
inline constexpr const char* default_text_model = "build/models/SmolLM2-135M-Instruct.Q4_1.gguf";

/// The library's way to draw, for captions that have their style's words already.
inline const ft::PaintOptions default_drawing{.style = ""};

/// A file of a base's folder, or the folder or pipeline, with its text model: where none is named, the one that lies in
/// it.
inline Painter open_painter(const std::filesystem::path& base, const std::filesystem::path& text_model, int threads,
                            std::uint64_t seed = 0, const ft::FlowOptions& flow = {}) {
  const bool named = text_model != default_text_model;
  auto painter = Painter::from_pretrained(
      base, named || Painter::text_model_of(base).empty() ? text_model : std::filesystem::path(),
      {.threads = threads, .seed = seed}, flow);
  for (const auto& note : painter.notes()) std::cerr << "warning: " << note << '\n';
  return painter;
}

/// Says what loading has to tell.
inline void load_adapter(Painter& painter, const std::filesystem::path& folder, float strength = 1,
                         bool finished = true) {
  for (const auto& note : painter.load_adapter(folder, strength, finished)) std::cerr << "warning: " << note << '\n';
}

/// Samples as a trainer takes them, with captions beside.
struct Examples {
  std::vector<ft::FlowExample> flow;
  std::vector<std::string> captions;
};
/// The rows of a prepared folder; hidden states come from, or go to, a cache in it. Captions are as prepared, or, with
/// `words`, the subject with these for its style.
inline Examples examples_of(const Data& data, const std::filesystem::path& folder,
                            const std::vector<std::int64_t>& rows, Painter& painter, const std::string& words = {},
                            const std::function<void(std::int64_t, std::int64_t)>& progress = {}) {
  Examples examples;
  std::vector<ft::CaptionedPicture> pictures;
  for (const auto row : rows) {
    const Sample& sample = data.samples()[static_cast<std::size_t>(row)];
    examples.captions.push_back(words.empty() ? sample.caption : in_style(sample.subject(), words));
    std::vector<float> picture(static_cast<std::size_t>(3 * data.side() * data.side()));
    data.read(row, picture);
    pictures.push_back({sample.file, std::move(picture), examples.captions.back()});
  }
  examples.flow = painter.examples(std::move(pictures), /*style=*/"", folder, progress);
  return examples;
}

}  // namespace image_style
