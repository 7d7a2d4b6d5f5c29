// examples/image_style/evaluate.hpp: `image_style evaluate`: does it draw that style well? The base and each adapter
// draw subjects that were never trained, from the same seeds; figures say how near they come to real pictures, and a
// sheet shows them.
#pragma once
#include "../common/outputs.hpp"
#include "../common/training.hpp"
#include "painter.hpp"
#include "sheet.hpp"
#include "yardstick.hpp"

#include <ftlib/train/screen/progress.hpp>

#include <CLI/CLI.hpp>

#include <algorithm>   // std::any_of, std::min, std::rotate
#include <cstdint>     // std::int64_t, std::uint64_t
#include <filesystem>  // std::filesystem::path
#include <functional>  // std::function
#include <iostream>    // std::cout, std::cerr
#include <memory>      // std::shared_ptr
#include <optional>    // std::optional
#include <ostream>     // std::ostream
#include <set>         // std::set
#include <string>      // std::string
#include <utility>     // std::move
#include <vector>      // std::vector

namespace image_style {

struct EvaluateOptions {
  std::filesystem::path base, text_model;       ///< as open_painter takes them
  std::vector<std::filesystem::path> adapters;  ///< none: the base alone
  std::filesystem::path data;                   ///< prepared from the folders of several styles
  std::string style;                            ///< as the data name it; empty: the first adapter's
  std::string split = "test";                   ///< whose subjects are drawn
  std::filesystem::path json, sheet;            ///< what is written; empty: not
  std::uint64_t seed = 42;                      ///< subject i is drawn from seed + i, by whomever
  ft::PaintOptions drawing = default_drawing;
  std::int64_t limit = 0;  ///< so many subjects, evenly spread over the split's; 0: all
  int threads = 0;         ///< 0: one for each core
};

namespace detail {

/// An adapter with what it drew.
struct Tuned {
  std::string name, style, words;
  std::filesystem::path folder;
  std::vector<Picture> pictures;
  Score score;
};

/// "run/adapter" is called "run"; where two would be called alike all keep their paths.
inline std::vector<Tuned> name_adapters(const std::vector<std::filesystem::path>& folders) {
  std::vector<Tuned> all;
  std::set<std::string> names;
  for (const auto& folder : folders) {
    const auto path = (folder.has_filename() ? folder : folder.parent_path()).lexically_normal();
    const bool plain = path.filename() == "adapter" && path.has_parent_path();
    all.push_back({(plain ? path.parent_path() : path).filename().string(), {}, {}, folder, {}, {}});
    names.insert(all.back().name);
  }
  if (names.size() < all.size())
    for (Tuned& tuned : all) tuned.name = tuned.folder.string();
  return all;
}

/// What the data call an adapter's style: so, or nothing where the pictures were prepared without one.
inline std::string style_in(const Data& data, const std::string& style) {
  const auto has = [&](const std::string& name) {
    return std::any_of(data.samples().begin(), data.samples().end(), [&](auto& s) { return s.style == name; });
  };
  return !has(style) && has("") ? "" : style;
}

/// The names, figures side by side.
class Table {
 public:
  explicit Table(std::ostream& out) : out_(out) {
    out_ << ft::printed("%-30s", "") << "  in style       MMD      p   top-1   top-5   drift  copies\n";
  }
  void row(const std::string& name, const Score& s) {
    out_ << name << std::string(name.size() < 30 ? 30 - name.size() : 0, ' ')
         << ft::printed("%8.1f %%%10.4f%7.3f%8.2f%8.2f", 100 * s.style_share.value, s.mmd.value, s.mmd_p,
                        s.content_top1.value, s.content_top5.value)
         << (s.drift ? ft::printed("%8.3f", s.drift->value) : "       -")
         << ft::printed("%6.1f %%", 100 * s.copying.value) << '\n';
  }

 private:
  std::ostream& out_;
};

}  // namespace detail

/// Draws the split's subjects with the base, under its own style's words and under the wanted style's name, and with
/// each adapter; measures (yardstick.hpp), prints a table on `out`, writes the report and the sheet. The report holds
/// a Score for each of
///   real                the real pictures of the style, what cannot be surpassed
///   copy                the real pictures in the base's style: null where the data have none of the subjects
///   base                drawn by the base in its own style, and
///   base_tuned_prompt   asked for the wanted one by its name
///   adapters            by name; the best by overall(), the first of equals, is named as well
/// and how good the classifier is, and chance. Returns the report. Throws Error before anything is drawn where data,
/// base and adapters do not fit one another.
inline ft::Json evaluate(const EvaluateOptions& options, std::ostream& out) {
  // 1. What draws, and what it is measured with.
  auto inputs = options.adapters;
  inputs.insert(inputs.end(), {options.base, options.text_model, options.data});
  for (const auto& [option, path] : {std::pair("--json", options.json), std::pair("--sheet", options.sheet)}) {
    examples::check_output(option, path);
    examples::check_apart(option, path, inputs);
    inputs.push_back(path);  // nor is one to be written over the other
  }
  auto tuned = detail::name_adapters(options.adapters);
  const Data data = Data::open(options.data);
  Painter painter = open_painter(options.base, options.text_model, options.threads);
  if (data.side() != painter.side())
    throw Error(str(options.data.string(), ": pictures of ", data.side(), " x ", data.side(), ", the base draws ",
                    painter.side(), " x ", painter.side()),
                str("prepare them with --size ", painter.side(), "."));
  for (auto& t : tuned) {  // all are tried before one draws
    load_adapter(painter, t.folder);
    t.style = painter.style();
    t.words = painter.words();
    if (options.style.empty() && t.style != tuned.front().style)
      throw Error(str(t.folder.string(), ": draws '", t.style, "', ", tuned.front().folder.string(), " '",
                      tuned.front().style, "'"),
                  "evaluate them one after the other, or say with --style what both are to be held against.");
  }
  painter.remove_adapter();
  if (tuned.empty() && options.style.empty())
    throw Error("without an adapter nothing says which style is wanted", "name one with --style.");
  const std::string wanted = tuned.empty() ? options.style : tuned.front().style;
  const std::string style = options.style.empty() ? detail::style_in(data, wanted) : options.style;
  const Yardstick yardstick(data, options.data.string(), style, painter.base_style(), options.split, options.limit);
  const auto& subjects = yardstick.subjects();

  // 2. The drawings.
  std::vector<Eigen::Index> rows, copied_rows;
  std::vector<Picture> copied;
  std::vector<std::uint64_t> seeds;
  for (const auto& subject : subjects) {
    seeds.push_back(options.seed + seeds.size());
    rows.push_back(subject.row);
    if (subject.copy.width == 0) continue;
    copied.push_back(subject.copy);
    copied_rows.push_back(subject.row);
  }
  ft::Progress progress(std::cerr);
  std::int64_t drawn = 0;
  const auto draw = [&](const std::string& style_words) {
    constexpr std::size_t at_once = 32;
    std::vector<Picture> pictures;
    for (std::size_t begin = 0; begin < subjects.size(); begin += at_once) {
      const auto end = std::min(subjects.size(), begin + at_once);
      std::vector<std::string> captions;
      for (auto i = begin; i < end; ++i) captions.push_back(in_style(subjects[i].name, style_words));
      auto how = options.drawing;
      how.seeds.assign(&seeds[begin], &seeds[begin] + captions.size());
      for (auto& picture : painter.draw(captions, how)) pictures.push_back(std::move(picture));
      drawn += static_cast<std::int64_t>(captions.size());
      progress.update({.step = drawn,
                       .steps = static_cast<std::int64_t>((2 + 2 * tuned.size()) * subjects.size()),
                       .what = "pictures drawn"});
    }
    return pictures;
  };
  const auto base = draw(painter.base_style()), base_tuned_prompt = draw(wanted);
  const Score base_score = yardstick.score(base, rows, true),
              prompted_score = yardstick.score(base_tuned_prompt, rows, false);
  for (auto& t : tuned) {
    load_adapter(painter, t.folder);
    t.pictures = draw(t.words);
    t.score = yardstick.score(t.pictures, rows, false);
    yardstick.score_drift(t.score, draw(painter.base_style()), base);
  }
  progress.finish();
  Score apart;  // how far drawings of the base are from those of other captions: what a large drift would be
  auto others = base;
  std::rotate(others.begin(), others.begin() + 1, others.end());
  yardstick.score_drift(apart, others, base);

  // 3. The table and the report.
  const Score real = yardstick.score_real();
  std::optional<Score> copy;
  if (copied.size() >= 2) copy = yardstick.score(copied, copied_rows, true);
  const auto& accuracy = yardstick.classifier_accuracy();
  const double chance = 1 / static_cast<double>(yardstick.held_out()), chance5 = std::min(1.0, 5 * chance);
  out << subjects.size() << " subjects of split '" << options.split << "', " << wanted << ":\n";
  detail::Table table(out);
  table.row("real", real);
  if (copy) table.row("real, " + painter.base_style(), *copy);
  table.row("base", base_score);
  table.row("base, " + wanted, prompted_score);
  ft::Json adapters = ft::Json::object();
  const detail::Tuned* best = nullptr;
  for (const auto& t : tuned) {
    table.row(t.name, t.score);
    adapters[t.name] = t.score.to_json();
    adapters[t.name]["style"] = t.style;
    adapters[t.name]["words"] = t.words;
    adapters[t.name]["overall"] = overall(t.score, base_score);
    if (!best || overall(t.score, base_score) > overall(best->score, base_score)) best = &t;
  }
  out << "in style: as a classifier calls them that is right about "
      << ft::printed("%.1f %%", 100 * accuracy.at("accuracy").get<double>())
      << " of real pictures; top-1, top-5: by chance " << ft::printed("%.3f, %.3f", chance, chance5)
      << ";\ndrift: of drawings under " << painter.base_style() << "; those of different captions are "
      << ft::printed("%.3f", apart.drift->value) << " apart\n";
  if (tuned.size() > 1)
    out << "best: " << best->name << " (harmonic mean of in style, top-5 and the part of base's MMD that is gone: "
        << ft::printed("%.3f", overall(best->score, base_score)) << ")\n";
  ft::Json report{
      {"base_model", options.base.string()},
      {"text_model", options.text_model.string()},
      {"data", options.data.string()},
      {"split", options.split},
      {"style", style},
      {"base_style", painter.base_style()},
      {"seed", options.seed},
      {"steps", options.drawing.steps.value_or(painter.info().steps)},
      {"guidance", options.drawing.guidance.value_or(painter.info().guidance)},
      {"n", subjects.size()},
      {"held_out", yardstick.held_out()},
      {"trained", yardstick.trained()},
      {"chance", {{"content_top1", chance}, {"content_top5", chance5}}},
      {"classifier", accuracy},
      {"drift_of_other_captions", {{"drift", apart.drift->value}, {"drift_features", apart.drift_features->value}}},
      {"real", real.to_json()},
      {"copy", copy ? copy->to_json() : ft::Json()},
      {"base", base_score.to_json()},
      {"base_tuned_prompt", prompted_score.to_json()},
      {"adapters", std::move(adapters)},
      {"best", best ? ft::Json(best->name) : ft::Json()}};
  const auto wrote = [&](const std::filesystem::path& path) { out << "wrote " << path.string() << '\n'; };
  if (!options.json.empty()) {
    examples::write_or_save_elsewhere(options.json, [&](const auto& path) { examples::write_json(path, report); });
    wrote(options.json);
  }

  // 4. The sheet: a row a subject, at most 24 of them.
  if (!options.sheet.empty()) {
    std::vector<Cell> cells;
    const auto shown = std::min<std::size_t>(subjects.size(), 24);
    for (std::size_t k = 0; k < shown; ++k) {
      const auto i = k * subjects.size() / shown;
      cells.push_back({{}, subjects[i].name});
      cells.push_back({subjects[i].copy, "real, " + painter.base_style()});
      cells.push_back({base[i], "base"});
      cells.push_back({base_tuned_prompt[i], "base, " + wanted});
      for (const auto& t : tuned) cells.push_back({t.pictures[i], t.name});
      cells.push_back({subjects[i].real, "real, " + wanted});
    }
    const auto sheet = contact_sheet(cells, static_cast<int>(5 + tuned.size()));
    examples::write_or_save_elsewhere(options.sheet, [&](const auto& path) { write_png(path, sheet); });
    wrote(options.sheet);
  }
  return report;
}

/// Registers `evaluate` with the program; its callback throws Error.
inline void add_evaluate(CLI::App& app) {
  struct Arguments {
    std::string base, text_model = default_text_model, data, json, sheet;
    std::vector<std::string> adapters;
    EvaluateOptions options;
  };
  const auto a = std::make_shared<Arguments>();  // lives as long as the callback
  auto* c = app.add_subcommand("evaluate", "Draw held-out subjects, before and after, and measure the style");
  c->add_option("--base", a->base, "a folder that pretrain made")->required()->type_name("BASE");
  c->add_option("--adapter", a->adapters, "folders that train left, to be compared (default: none)")
      ->type_name("RUN/adapter");
  c->add_option("--text-model", a->text_model, "the language model that reads the captions; tools/fetch_model en")
      ->type_name("PATH")
      ->capture_default_str();
  c->add_option("--data", a->data, "real pictures of several styles, as prepare writes them")
      ->required()
      ->type_name("DATA");
  c->add_option("--style", a->options.style, "the style to meet, as the data name it (default: the adapter's)");
  c->add_option("--split", a->options.split, "whose subjects are drawn: valid to choose with, test to report")
      ->capture_default_str();
  c->add_option("--json", a->json, "also write the figures, with 95 % intervals, there")->type_name("REPORT.json");
  c->add_option("--sheet", a->sheet, "also write a picture of the drawings there")->type_name("SHEET.png");
  c->add_option("--seed", a->options.seed, "of the first subject's noise; the next has the next")
      ->capture_default_str();
  c->add_option("--steps", a->options.drawing.steps, "from noise to picture (default: the model's own)")
      ->check(CLI::Range(1, 1000));
  c->add_option("--guidance", a->options.drawing.guidance,
                "how much more than usual the words count; 1: as usual, in half the time (default: the model's own)")
      ->check(CLI::Range(0.0, 20.0));
  c->add_option("--limit", a->options.limit, "only so many subjects, evenly spread; 0: all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  c->add_option("--threads", a->options.threads, "CPU threads; 0: one for each core")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  c->footer(
      "Example:\n  image_style evaluate --base examples/image_style/base --adapter run/adapter --data build/styles "
      "--json report.json");
  c->callback([a] {
    EvaluateOptions options = a->options;
    options.base = a->base;
    options.text_model = a->text_model;
    options.adapters.assign(a->adapters.begin(), a->adapters.end());
    options.data = a->data;
    options.json = a->json;
    options.sheet = a->sheet;
    evaluate(options, std::cout);
  });
}

}  // namespace image_style
