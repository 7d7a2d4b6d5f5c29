// examples/image_style/train.hpp: `image_style pretrain`, which makes a base, `image_style train`, which tunes one to a
// style, and `image_style finish`, which adds a finisher to what was tuned.
#pragma once
#include "../common/outputs.hpp"
#include "../common/training.hpp"
#include "painter.hpp"
#include "sheet.hpp"

#include <ftlib/models/mmjit_config.hpp>
#include <ftlib/train/screen/tensorboard.hpp>

#include <CLI/CLI.hpp>

#include <cstdint>     // std::int64_t, std::uint64_t
#include <filesystem>  // std::filesystem::path
#include <functional>  // std::function
#include <iostream>    // std::cout, std::cerr
#include <memory>      // std::shared_ptr
#include <numeric>     // std::iota
#include <set>         // std::set
#include <string>      // std::string
#include <utility>     // std::move, std::pair
#include <vector>      // std::vector

namespace image_style {

/// What all ways of training ask for.
struct TrainArguments {
  std::string data, out, text_model = default_text_model, style;
  examples::RunOptions run;
  double lr = 2e-3;
  float ema = 0.999f;
  ft::FlowOptions flow;
  std::int64_t steps = 0, batch = 16, micro_batch = 0;
  bool recompute = false;
  std::size_t samples = 8;
  int threads = 0;

  void add_to(CLI::App& c) {
    c.add_option("--data", data, "a folder that prepare made")->required()->type_name("DATA");
    c.add_option("--text-model", text_model, "the language model that reads the captions; tools/fetch_model en")
        ->type_name("PATH")
        ->capture_default_str();
    c.add_option("--steps", steps, "batches to learn from")->check(CLI::PositiveNumber)->capture_default_str();
    c.add_option("--batch", batch, "pictures a step")->check(CLI::PositiveNumber)->capture_default_str();
    c.add_option("--micro-batch", micro_batch, "pictures a forward pass, for less memory; 0: all at once")
        ->check(CLI::NonNegativeNumber)
        ->capture_default_str();
    c.add_flag("--recompute", recompute, "forget activations and compute them again: less memory, a third more time");
    c.add_option("--lr", lr, "learning rate")->check(CLI::PositiveNumber)->capture_default_str();
    run.add_to(c);
    c.add_option("--ema", ema, "decay of the average of weights that is kept; 0: the last weights")
        ->check(CLI::Range(0.0, 0.99999))
        ->capture_default_str();
    c.add_option("--time-mean", flow.time_mu,
                 "of the normal distribution whose sigmoid are the times that are trained: 0 is noise, 1 the picture")
        ->capture_default_str();
    c.add_option("--time-deviation", flow.time_sigma, "of the same")
        ->check(CLI::NonNegativeNumber)
        ->capture_default_str();
    c.add_option("--caption-drop", flow.caption_drop, "share of captions left out, which guidance needs")
        ->check(CLI::Range(0.0, 1.0))
        ->capture_default_str();
    c.add_option("--samples", samples, "pictures drawn at each evaluation, to RUN/samples and TensorBoard")
        ->capture_default_str();
    c.add_option("--threads", threads, "CPU threads; 0: one for each core")
        ->check(CLI::NonNegativeNumber)
        ->capture_default_str();
  }
};

/// At most `count` places of a list of `size`, at equal distances.
inline std::vector<std::size_t> spread(std::size_t count, std::size_t size) {
  std::vector<std::size_t> places;
  for (std::size_t i = 0; i < std::min(count, size); ++i) places.push_back(i * size / std::min(count, size));
  return places;
}

/// Trains what of `model`, one of the painter's two, is trainable; true where the run came to its end. What was learned
/// is then written to `result` by `save`, or elsewhere where that fails; so is what a run has that fails on its way, to
/// RUN/unfinished.
inline bool learn(Painter& painter, Model& model, const TrainArguments& a, std::vector<ft::FlowExample> learned,
                  Examples held_out, ft::Json settings, const std::filesystem::path& result,
                  const std::function<void(const std::filesystem::path&)>& save) {
  const auto config = model.info();
  const ft::FlowData train(std::move(learned), config),
      valid(std::move(held_out.flow), config, /*fixed=*/a.run.seed, a.flow);
  std::vector<std::string> shown;
  auto drawing = default_drawing;
  for (const auto i : spread(a.samples, held_out.captions.size())) {
    shown.push_back(held_out.captions[i]);
    drawing.seeds.push_back(a.run.seed + i);
  }
  const std::filesystem::path out = a.out;
  std::uint64_t result_bytes = std::uint64_t{1} << 20;  // and the logs
  for (const auto* w : model.parameters())
    if (w->trainable) result_bytes += static_cast<std::uint64_t>(4 * w->count());
  ft::check_room(result, result_bytes);
  std::cout << "data: " << train.size() << " pictures; held out " << valid.size() << '\n';
  const auto epoch_steps = (static_cast<std::int64_t>(train.size()) + a.batch - 1) / a.batch;
  auto run = a.run.config(out);
  run.optimizer = ft::AdamW{.lr = static_cast<float>(a.lr), .beta2 = 0.99f};
  run.epochs = (a.steps + epoch_steps - 1) / epoch_steps;
  run.max_steps = a.steps;
  run.batch_tokens = a.batch;
  run.micro_batch_tokens =
      examples::micro_batch_of_ranks(a.batch, a.micro_batch, !a.run.no_exact, "pictures", "--micro-batch");
  run.recompute = a.recompute;
  run.ema_decay = a.ema;
  ft::Trainer trainer(model, run);
  const auto plan = trainer.plan(train);
  std::cout << plan << std::flush;
  ft::Progress progress(std::cerr);
  std::int64_t steps = 0;
  trainer.on_step([&](const ft::Step& s) {
    examples::show(progress, s, plan.unit);
    steps = s.step;
    return ft::Flow::go;
  });
  trainer.on_evaluation([&](std::int64_t step, double loss) {
    progress.message(ft::str("step ", step, ": held-out loss ", loss));
    if (shown.empty() || !examples::first_rank()) return;
    std::vector<Cell> cells;
    auto drawn = painter.draw(shown, drawing);
    for (std::size_t i = 0; i < shown.size(); ++i) cells.push_back({std::move(drawn[i]), shown[i]});
    const auto sheet = contact_sheet(cells, 8);
    const auto png = to_png(sheet);
    std::filesystem::create_directories(out / "samples");
    ft::write_atomically(out / "samples" / ft::str("step-", step, ".png"), png);
    if (auto* board = trainer.board()) board->image("samples", step, png, sheet.height, sheet.width);
  });
  const auto report = examples::fit_or_keep(
      model, progress, steps, out / "unfinished", [&] { return trainer.fit(train, &valid); }, save);
  if (!examples::first_rank()) return false;
  if (report.finished) examples::write_or_save_elsewhere(result, save);  // first what took longest to come by
  settings.update({{"data", a.data}, {"lr", a.lr}, {"batch", a.batch}, {"ema", a.ema}, {"seed", a.run.seed}});
  return examples::report_run(out, plan, report, std::move(settings));
}

/// Captions' states are computed or read under this line.
class ReadingProgress {
 public:
  std::function<void(std::int64_t, std::int64_t)> callback() {
    return [this](std::int64_t done, std::int64_t of) {
      progress_.update({.step = done, .steps = of, .what = "captions read"});
    };
  }

 private:
  ft::Progress progress_{std::cerr};
};

// --- pretrain --------------------------------------------------------------------------------------------------------

struct PretrainArguments : TrainArguments {
  std::string from, conditioning = "adaln", before = "Emoji:";
  std::int64_t layer = 14, width = 256, depth = 5, text_depth = 1, heads = 4, patch = 8;
};

/// A model that has learned nothing yet, and how its captions are read.
inline Painter unlearned(const PretrainArguments& a, const Data& data) {
  std::vector<std::string> captions;
  for (const auto& sample : data.samples()) captions.push_back(sample.caption);
  auto encoder =
      Encoder::open(a.text_model, {.layers = {a.layer}, .before = a.before}, {.threads = examples::threads(a.threads)});
  std::cout << "reading " << captions.size() << " captions\n" << std::flush;
  {
    ReadingProgress progress;
    encoder.standardise(captions, a.data, progress.callback());
  }
  const ft::MMJiTConfig config{
      .image_size = data.side(),
      .patch_size = a.patch,
      .pca_channels = std::min<std::int64_t>(128, 3 * a.patch * a.patch),
      .hidden_size = a.width,
      .txt_input_size = encoder.width(),
      .txt_preamble_depth = a.text_depth,
      .depth_double = a.depth,
      .num_heads = a.heads,
      .head_dim = a.width / a.heads,
      .prompt_length = 1,
      .noise_scale = 1,
      .conditioning = a.conditioning == "adaln" ? ft::Conditioning::adaln_zero : ft::Conditioning::none};
  config.check("pretrain");
  auto model = Model::initial(config.to_json(), a.run.seed,
                              {.threads = examples::threads(a.threads), .seed = a.run.seed}, a.flow);
  return {std::move(model), std::move(encoder), a.style, {.threads = examples::threads(a.threads), .seed = a.run.seed}};
}

inline void pretrain(const PretrainArguments& a) {
  examples::check_apart("--out", a.out, {a.data, a.from, a.text_model}, /*replaced=*/false);
  const auto data = Data::open(a.data);
  auto painter = examples::first_rank_first([&] {
    return a.from.empty() ? unlearned(a, data)
                          : open_painter(a.from, a.text_model, examples::threads(a.threads), a.run.seed, a.flow);
  });
  examples::begin_ranks(painter.model().context(), a.run.rank_timeout);
  painter.model().train_all();
  std::int64_t parameters = 0;
  for (const auto* w : painter.model().parameters()) parameters += w->count();
  std::cout << "model: " << ft::pretty_count(parameters) << " parameters\n";

  // All subjects are learned, in every style: what is held out of a new style must be known in the others. So what is
  // looked at in between are pictures of the set, with fixed times and noises.
  std::vector<std::int64_t> all(static_cast<std::size_t>(data.size()));
  std::iota(all.begin(), all.end(), std::int64_t{0});
  auto examples = examples_of(data, a.data, all, painter);
  Examples some;
  for (const auto i : spread(256, examples.flow.size())) {
    some.flow.push_back(examples.flow[i]);
    some.captions.push_back(examples.captions[i]);
  }
  if (!learn(painter, painter.model(), a, std::move(examples.flow), std::move(some),
             {{"parameters", parameters}, {"config", painter.model().network().configuration()}}, a.out,
             [&](const auto& folder) { painter.save(folder, painter.base_style()); }))
    return;
  std::cout << "wrote " << (std::filesystem::path(a.out) / "model.safetensors").string() << '\n';
}

inline void add_pretrain(CLI::App& app) {
  const auto a = std::make_shared<PretrainArguments>();
  a->steps = 20000;
  a->style = "noto style";
  a->run.evaluate_every = 1000;
  a->samples = 24;
  auto* c = app.add_subcommand("pretrain", "Make a base: train a text-to-image transformer from nothing");
  a->add_to(*c);
  c->add_option("--out", a->out, "folder for the base, checkpoint, metrics, samples")->required()->type_name("BASE");
  c->add_option("--style", a->style, "the words that call the base's own style, for captions that name none")
      ->capture_default_str();
  c->add_option("--from", a->from,
                "go on from a finished base, whose making the options below are then (default: from nothing)")
      ->type_name("BASE");
  c->add_option("--layer", a->layer, "of the text model, whose hidden states are the captions")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  c->add_option("--before", a->before, "words that the text model reads before each caption")->capture_default_str();
  c->add_option("--width", a->width, "of the model's hidden states")->check(CLI::PositiveNumber)->capture_default_str();
  c->add_option("--depth", a->depth, "blocks that see picture and caption")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  c->add_option("--text-depth", a->text_depth, "blocks before them that see the caption alone")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  c->add_option("--heads", a->heads, "of attention")->check(CLI::PositiveNumber)->capture_default_str();
  c->add_option("--patch", a->patch, "pixels along a token's side")->check(CLI::PositiveNumber)->capture_default_str();
  c->add_option("--conditioning", a->conditioning,
                "adaln: blocks are told the time and the caption as a whole; none: as MiniT2I has it")
      ->check(CLI::IsMember({"adaln", "none"}))
      ->capture_default_str();
  c->footer("Example:\n  image_style pretrain --data build/base-data --out build/base --steps 20000");
  c->callback([a] { pretrain(*a); });
}

// --- train -----------------------------------------------------------------------------------------------------------

struct TuneArguments : TrainArguments {
  std::string base, words;
  examples::LoraOptions lora;
};

/// The samples of `split` in the wanted style, called by `words`. Data without styles is all of that style.
inline Examples styled(const Data& data, const std::string& folder, const std::string& split, const std::string& style,
                       const std::string& words, Painter& painter) {
  std::vector<std::int64_t> rows;
  for (const auto row : data.of_split(split)) {
    const auto& own = data.samples()[static_cast<std::size_t>(row)].style;
    if (own.empty() || own == style) rows.push_back(row);
  }
  ReadingProgress progress;
  return examples_of(data, folder, rows, painter, words, progress.callback());
}

/// The one style of a set, where --style does not say which.
inline std::string only_style(const Data& data, const std::string& folder) {
  std::set<std::string> styles;
  for (const auto& sample : data.samples())
    if (!sample.style.empty()) styles.insert(sample.style);
  if (styles.size() == 1) return *styles.begin();
  std::string names;
  for (const auto& style : styles) names += (names.empty() ? "" : ", ") + style;
  throw Error(styles.empty() ? folder + ": names no style" : str(folder, ": has several styles: ", names),
              "say with --style which words shall call it, for example --style \"my style\".");
}

/// What is learned of a style, and what is looked at in between: the samples of "valid"; without them, those of "test"
/// or else the same, but where --patience decides by them, a tenth of what there is to learn.
inline std::pair<Examples, Examples> examples_in(const Data& data, const std::string& folder, const std::string& style,
                                                 const std::string& words, Painter& painter, bool decides) {
  auto learned = styled(data, folder, "train", style, words, painter);
  if (learned.flow.empty())
    throw Error(str(folder, ": no picture of split \"train\" is of style '", style, "'"), "look at its records.jsonl.");
  auto held_out = styled(data, folder, "valid", style, words, painter);
  if (!held_out.flow.empty()) return {std::move(learned), std::move(held_out)};
  if (decides && learned.flow.size() > 1) {
    Examples rest;
    for (std::size_t i = 0; i < learned.flow.size(); ++i) {
      Examples& side = i % 10 == 9 || (learned.flow.size() < 10 && i == 0) ? held_out : rest;
      side.flow.push_back(learned.flow[i]);
      side.captions.push_back(learned.captions[i]);
    }
    std::cout << "no split \"valid\": " << held_out.flow.size() << " of " << learned.flow.size()
              << " pictures are held out, to decide when to stop\n";
    return {std::move(rest), std::move(held_out)};
  }
  held_out = styled(data, folder, "test", style, words, painter);
  std::cout << "no split \"valid\": the pictures of \"" << (held_out.flow.empty() ? "train" : "test")
            << "\" are looked at, and decide nothing\n";
  if (held_out.flow.empty()) held_out = learned;
  return {std::move(learned), std::move(held_out)};
}

inline void train(const TuneArguments& a) {
  const auto result = std::filesystem::path(a.out) / (a.lora.full ? "model" : "adapter");
  examples::check_apart("--out", a.out, {a.data, a.base, a.text_model}, /*replaced=*/false);
  examples::check_apart("--out", result, {a.data, a.base, a.text_model});
  const auto data = Data::open(a.data);
  const auto style = a.style.empty() ? only_style(data, a.data) : a.style;
  auto painter = open_painter(a.base, a.text_model, examples::threads(a.threads), a.run.seed, a.flow);
  const auto words = a.words.empty() ? painter.base_style() : a.words;
  auto lora = a.lora;
  lora.named["picture"] = painter.info().picture_layers;
  lora.apply(painter.model(), a.run.seed);
  examples::begin_ranks(painter.model().context(), a.run.rank_timeout);
  auto [learned, held_out] =
      examples::first_rank_first([&] { return examples_in(data, a.data, style, words, painter, a.run.patience > 0); });
  if (!learn(painter, painter.model(), a, std::move(learned.flow), std::move(held_out),
             {{"base", a.base}, {"style", style}, {"words", words}}, result, [&](const auto& folder) {
               if (a.lora.full) painter.save(folder, words);
               else painter.save_adapter(folder, style, words);
             }))
    return;
  std::cout << "wrote " << result.string() << ", which draws in " << style << " where prompts say " << words << '\n';
}

inline void add_train(CLI::App& app) {
  const auto a = std::make_shared<TuneArguments>();
  a->steps = 3000;
  a->run.evaluate_every = 250;
  a->lora.named["picture"];  // the base's own
  a->lora.targets = "picture";
  auto* c = app.add_subcommand("train", "Tune a base to the style of a set of pictures");
  a->add_to(*c);
  c->add_option("--base", a->base, "a folder that pretrain made")->required()->type_name("BASE");
  c->add_option("--out", a->out, "folder for the adapter or model, checkpoint, metrics, samples")
      ->required()
      ->type_name("RUN");
  c->add_option("--style", a->style,
                "the style that is learned; needed where the set names none, or several, of which it picks one");
  c->add_option("--words", a->words,
                "what calls the style in prompts; new words have to be learned (default: the base's own, so that the "
                "adapter takes the place of the base's style)");
  a->lora.add_to(*c);
  c->footer("Example:\n  image_style train --base examples/image_style/base --data build/painterly --out run");
  c->callback([a] { train(*a); });
}

// --- finish ----------------------------------------------------------------------------------------------------------

struct FinishArguments : TrainArguments {
  std::string base, adapter;
  float from = 0.8f;
};

inline void finish(const FinishArguments& a) {
  examples::check_apart("--out", a.out, {a.data, a.base, a.adapter, a.text_model}, /*replaced=*/false);
  const auto data = Data::open(a.data);
  auto painter = open_painter(a.base, a.text_model, examples::threads(a.threads), a.run.seed);
  load_adapter(painter, a.adapter, 1, /*finished=*/false);
  const auto style = a.style.empty() ? painter.style() : a.style;
  examples::begin_ranks(painter.model().context(), a.run.rank_timeout);
  auto [learned, held_out] = examples::first_rank_first(
      [&] { return examples_in(data, a.data, style, painter.words(), painter, a.run.patience > 0); });
  const auto wordless = std::make_shared<const std::vector<float>>();
  for (auto* some : {&learned, &held_out})
    for (auto& example : some->flow) example.caption = wordless;
  if (!learn(painter, painter.new_finisher(a.from, a.run.seed, a.flow), a, std::move(learned.flow), std::move(held_out),
             {{"base", a.base}, {"adapter", a.adapter}, {"style", style}, {"from", a.from}}, a.adapter,
             [&](const auto& folder) { painter.save_finisher(folder); }))
    return;
  std::cout << "wrote " << Painter::finisher_of(a.adapter).string() << '\n';
}

inline void add_finish(CLI::App& app) {
  const auto a = std::make_shared<FinishArguments>();
  a->steps = 3500;
  a->run.evaluate_every = 500;
  a->flow = {.time_mu = 1, .time_sigma = 1};
  auto* c =
      app.add_subcommand("finish", "Teach a small network how the style is painted, for the last part of the way");
  a->add_to(*c);
  c->add_option("--base", a->base, "a folder that pretrain made")->required()->type_name("BASE");
  c->add_option("--adapter", a->adapter, "a folder that train left, for which it is")
      ->required()
      ->type_name("RUN/adapter");
  c->add_option("--out", a->out, "folder for checkpoint, metrics, samples; the finisher itself goes into the adapter's")
      ->required()
      ->type_name("RUN/finisher");
  c->add_option(
       "--from", a->from,
       "the time at which it takes over: 0 is noise, 1 the picture; earlier where outlines are the style's own")
      ->check(CLI::Range(0.05, 0.95))
      ->capture_default_str();
  c->add_option("--style", a->style, "the style in the data (default: the adapter's)");
  c->footer(
      "Example:\n  image_style finish --base examples/image_style/base --adapter run/adapter --data build/painterly "
      "--out run/finisher");
  c->callback([a] { finish(*a); });
}

}  // namespace image_style
