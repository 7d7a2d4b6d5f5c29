// examples/image_style/draw.hpp: `image_style draw`: words in, a picture out.
#pragma once
#include "../common/outputs.hpp"
#include "../common/rows.hpp"
#include "painter.hpp"
#include "sheet.hpp"

#include <CLI/CLI.hpp>

#include <chrono>      // std::chrono::steady_clock
#include <cstdint>     // std::int64_t, std::uint64_t
#include <filesystem>  // std::filesystem::path
#include <iostream>    // std::cout
#include <memory>      // std::shared_ptr
#include <optional>    // std::optional
#include <string>      // std::string
#include <vector>      // std::vector

namespace image_style {

struct DrawArguments {
  std::string base, adapter, text_model = default_text_model, style, prompt, out;
  float scale = 1;
  std::uint64_t seed = 42;
  std::optional<float> guidance;      // none: the model's own
  std::optional<std::int64_t> steps;  // likewise
  std::int64_t count = 1;
  int threads = 0, enlarge = 1;
};

inline void draw(const DrawArguments& a) {
  if (examples::trimmed(a.prompt).empty()) throw Error("draw: the prompt is empty", "say what to draw: \"tomato\"");
  const std::filesystem::path out = a.out;
  if (const auto ending = examples::lowered(out.extension().string()); !ending.empty() && ending != ".png")
    throw Error(str("--out ", a.out, ": a PNG file is written, and its name ends in ", ending), "let it end in .png.");
  if (out.has_parent_path()) ft::make_folders(out.parent_path());
  examples::check_output("--out", out);
  examples::check_apart("--out", out, {a.base, a.adapter, a.text_model});
  auto painter = open_painter(a.base, a.text_model, a.threads);
  if (!a.adapter.empty()) load_adapter(painter, a.adapter, a.scale);
  const auto prompt = in_style(a.prompt, a.style.empty() ? painter.words() : a.style == "none" ? "" : a.style);
  auto options = default_drawing;
  for (std::int64_t i = 0; i < a.count; ++i) options.seeds.push_back(a.seed + static_cast<std::uint64_t>(i));
  const auto& seeds = options.seeds;
  options.steps = a.steps.value_or(painter.info().steps);
  options.guidance = a.guidance.value_or(painter.info().guidance);
  const auto started = std::chrono::steady_clock::now();
  const auto drawn = painter.draw(std::vector<std::string>(seeds.size(), prompt), options);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
  for (std::size_t i = 0; i < drawn.size(); ++i) {
    auto path = out;
    if (drawn.size() > 1) path.replace_filename(ft::str(out.stem().string(), '-', seeds[i], out.extension().string()));
    write_png(path, magnified(drawn[i], a.enlarge),
              {{"parameters", ft::str("prompt: ", prompt, "; seed: ", seeds[i], "; steps: ", *options.steps,
                                      "; guidance: ", *options.guidance, "; base: ", a.base,
                                      "; adapter: ", a.adapter.empty() ? "none" : a.adapter, "; scale: ", a.scale)},
               {"Software", "ftlib image_style " FTLIB_VERSION}});
    std::cout << "wrote " << path.string() << '\n';
  }
  std::cout << "\"" << prompt << "\": " << ft::printed("%.2f", seconds / static_cast<double>(drawn.size()))
            << " s a picture\n";
}

inline void add_draw(CLI::App& app) {
  const auto a = std::make_shared<DrawArguments>();
  auto* c = app.add_subcommand("draw", "Draw what the words say");
  c->add_option("PROMPT", a->prompt, "what to draw: \"tomato\"")->required();
  c->add_option("--base", a->base, "a folder that pretrain made")->required()->type_name("BASE");
  c->add_option("--adapter", a->adapter, "a folder that train left (default: none)")->type_name("RUN/adapter");
  c->add_option("--out", a->out, "the file to write; with --count the seed goes into its name")
      ->required()
      ->type_name("PICTURE.png");
  c->add_option("--text-model", a->text_model, "the language model that reads the words; tools/fetch_model en")
      ->type_name("PATH")
      ->capture_default_str();
  c->add_option("--style", a->style, "words for the style (default: the adapter's, or the base's own; none: no words)");
  c->add_option("--scale", a->scale, "strength of the adapter: 0 the base, 1 as trained")
      ->check(CLI::Range(0.0, 4.0))
      ->capture_default_str();
  c->add_option("--seed", a->seed, "of the noise it begins with")->capture_default_str();
  c->add_option("--steps", a->steps, "from noise to picture (default: the model's own)")->check(CLI::Range(1, 1000));
  c->add_option("--guidance", a->guidance,
                "how much more than usual the words count; 1: as usual, in half the time (default: the model's own)")
      ->check(CLI::Range(0.0, 20.0));
  c->add_option("--count", a->count, "pictures, with one seed after the other")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  c->add_option("--enlarge", a->enlarge, "each pixel becomes a square of so many")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  c->add_option("--threads", a->threads, "CPU threads; 0: one for each core")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  c->footer(
      "Example:\n  image_style draw --base examples/image_style/base --adapter run/adapter tomato --out "
      "tomato.png");
  c->callback([a] { draw(*a); });
}

}  // namespace image_style
