// examples/qa/train.hpp: `qa train`: records and preference pairs are learned, what the model knows beside is kept, an
// adapter is written.
#pragma once
#include "keep.hpp"
#include "model.hpp"
#include "quantised_base.hpp"

#include <ftlib/text/prefer.hpp>

#include <algorithm>  // std::count_if
#include <map>        // std::map
#include <optional>   // std::optional
#include <set>        // std::set

namespace qa {

struct TrainArguments : ModelArguments {
  std::vector<std::string> data, mix;
  std::string out, unknown, keep, quantise_base;
  std::string base;  // what the adapter's file calls the model; empty: as it is opened
  examples::RunOptions run;
  examples::LoraOptions lora{.alpha_per_rank = 2};
  bool recompute = false, everything = false, cuda_graph = false;
  float interpolate = 1, weight_decay = 0, keep_weight = 1;
  ft::PreferenceOptions preferences;
  double lr = 0, withhold = 0.07;
  int64_t epochs = 0, max_steps = 0, batch_tokens = 512, micro_batch_tokens = 0, max_tokens = 512;
  int samples = 2;
};

/// "test 3, other 5"
inline std::string counted(const std::map<std::string, int64_t>& splits) {
  std::string out;
  for (const auto& [split, n] : splits) out += ft::str(out.empty() ? "" : ", ", split, ' ', n);
  return out;
}

inline constexpr double default_lr = 1e-3, default_preference_lr = 1e-4;
inline constexpr int64_t usual_epochs = 4, least_steps = 120;

/// How long a run is.
struct Length {
  int64_t epochs = 0, steps = 0;
};

/// Of what is asked for; without epochs the usual ones, or as many as make steps enough: of few records four epochs
/// would be a dozen steps, in which nothing is learned.
inline Length length_of(const TrainArguments& a, const ft::DataSource& data) {
  const auto steps =
      data.size(0, {.batch_tokens = a.batch_tokens, .micro_batch_tokens = a.batch_tokens, .seed = a.run.seed})->batches;
  Length run{.epochs = a.epochs};
  if (run.epochs <= 0) {
    run.epochs = std::max(usual_epochs, (least_steps + steps - 1) / steps);
    if (run.epochs > usual_epochs)
      std::cout << "epochs: " << run.epochs << ", because one has " << steps << (steps == 1 ? " step" : " steps")
                << ", and fewer than " << least_steps << " learn little\n";
  }
  run.steps = run.epochs * steps;
  if (a.max_steps > 0) run.steps = std::min(run.steps, a.max_steps);
  return run;
}

/// What is answered where the model does not know, in the language of the records; empty where they are of several or
/// of another one than those whose words are here.
inline std::string unknown_words(const std::vector<Record>& records) {
  static const std::map<std::string, std::string> words = {{"en", "I do not know."}, {"ko", "모르겠습니다."}};
  std::set<std::string> languages;
  for (const Record& r : records)
    if (!r.lang.empty()) languages.insert(r.lang);
  if (languages.empty()) languages.insert("en");
  if (languages.size() != 1) return {};
  const auto found = words.find(*languages.begin());
  return found == words.end() ? std::string() : found->second;
}

/// The files of --mix, FILE or FILE=WEIGHT.
struct MixFile {
  std::string path;
  float weight = 1;

  explicit MixFile(const std::string& given) : path(given) {
    const auto cut = given.rfind('=');
    if (cut == given.npos || ft::path_exists(given)) return;
    path = given.substr(0, cut);
    if (!CLI::detail::lexical_cast(given.substr(cut + 1), weight) || !(weight >= 0) || !std::isfinite(weight))
      throw ft::Error("--mix " + given + ": its weight is no number of 0 or more", "write FILE=0.5.");
  }
};

/// Those of the records that hold a preference pair, or those that hold none.
inline std::vector<Record> of_kind(const std::vector<Record>& records, bool pairs) {
  std::vector<Record> out;
  for (const Record& r : records)
    if (r.rejected.empty() != pairs) out.push_back(r);
  return out;
}
/// How many records data are of.
inline std::size_t records_of(const ft::text::Dataset& data) { return data.size(); }
inline std::size_t records_of(const ft::PreferenceData& data) {
  std::set<std::size_t> places;
  for (const auto& pair : data.pairs()) places.insert(pair.chosen.record);
  return places.size();
}

/// Records as they are learned and held out, with what is said of them.
struct Parts {
  std::vector<Record> records;
  ft::text::Dataset learned, held_out;       // of records that are learned as they stand
  ft::PreferenceData pairs, held_out_pairs;  // of which the better answer is learned to be preferred
  bool looks_at_test = false;                // what is held out is what is asked at the end, and decides nothing

  /// Throws Error where nothing can be learned.
  template <class Lm> Parts(const TrainArguments& a, std::vector<Record> all, Lm& lm) : records(std::move(all)) {
    const ft::text::DatasetOptions options{
        .loss_on = a.everything ? ft::text::LossOn::everything : ft::text::LossOn::answer, .max_tokens = a.max_tokens};
    const bool splits = has_splits(records);
    const auto train = of_split(records, "train"), valid = splits ? of_split(records, "valid") : std::vector<Record>(),
               test = splits ? of_split(records, "test") : std::vector<Record>();
    // What decides when to stop must not be what is asked at the end: without "valid", a tenth of what is learned.
    looks_at_test = valid.empty() && !test.empty() && a.run.patience == 0;
    const auto& apart = looks_at_test ? test : valid;
    // One kind of records: `data` of those to learn and of those that are held out.
    const auto part = [&](const std::string& what, bool of_pairs, auto make, auto& learn, auto& hold) {
      const auto own = of_kind(train, of_pairs), own_apart = of_kind(apart, of_pairs);
      if (own.empty()) {
        if (!own_apart.empty())
          std::cout << "warning: " << own_apart.size() << (of_pairs ? " preference pairs" : " other records")
                    << " to hold out are not looked at, for none of the kind is learned\n";
        return;
      }
      const auto data = make(own);
      const std::size_t whole = records_of(data);
      if (!apart.empty()) {
        learn = data;
        if (!own_apart.empty()) hold = make(own_apart);
      } else if (whole < 5) {  // too few to spare one
        learn = data;
      } else {
        const double rest = static_cast<double>(whole - 1) / static_cast<double>(whole);
        std::tie(learn, hold) = data.split(std::min(0.9, rest), a.run.seed);
      }
      std::cout << what << ": " << learn.size() << (of_pairs ? ", " : " examples, ") << learn.tokens()
                << " tokens; held out " << hold.size()
                << (hold.size() == 0 ? ": there are too few"
                    : looks_at_test  ? " of split \"test\", which are looked at and decide nothing"
                    : !valid.empty() ? " of split \"valid\""
                                     : ", a tenth of what there was to learn");
      say_left_out(data, hold, a.max_tokens);
    };
    part(
        "data", false, [&](const auto& r) { return ft::text::Dataset(r, lm.prompt(), options); }, learned, held_out);
    part(
        "preference pairs", true, [&](const auto& r) { return ft::PreferenceData(r, lm.prompt(), a.max_tokens); },
        pairs, held_out_pairs);
    if (held_out.size() + held_out_pairs.size() == 0 && a.run.patience > 0)
      throw ft::Error(ft::str("--patience: of ", learned.size() + pairs.size(), " records none is held out"),
                      "give more records, or some of split \"valid\".");
    say_kinds(splits);
    say_cut(lm.prompt());
  }

  /// Those that are learned, of both kinds.
  std::vector<Record> to_learn() const {
    std::vector<Record> out = learned.records();
    out.insert(out.end(), pairs.records().begin(), pairs.records().end());
    return out;
  }
  /// Held-out records that are questions.
  std::vector<Record> to_ask() const {
    std::vector<Record> out;
    for (const auto& example : held_out.examples())
      if (held_out.records()[example.record].text.empty()) out.push_back(held_out.records()[example.record]);
    for (const auto& pair : held_out_pairs.pairs())
      if (out.empty() || !(out.back() == held_out_pairs.records()[pair.chosen.record]))
        out.push_back(held_out_pairs.records()[pair.chosen.record]);
    return out;
  }

 private:
  void say_kinds(bool splits) const {
    std::map<std::string, int64_t> others;
    int64_t without = 0, unanswered = 0, texts = 0;
    for (const Record& r : records) {
      without += splits && r.split.empty();
      unanswered += r.unanswered;
      texts += !r.text.empty();
      const bool used =
          r.split.empty() || r.split == "train" || r.split == "valid" || (looks_at_test && r.split == "test");
      if (!used) ++others[r.split];
    }
    if (without) std::cout << "  " << without << " of them have no split, and are learned\n";
    if (!others.empty()) std::cout << "  not learned, by their splits: " << counted(others) << '\n';
    if (texts) std::cout << "  " << texts << " of all are plain texts, which are learned whole\n";
    if (unanswered) std::cout << "  " << unanswered << " of all have no answer\n";
  }
  void say_cut(const ft::text::Prompt& prompt) const {
    int64_t cut = 0;
    const std::vector<std::string> stops = prompt.stop();
    const auto look = [&](const Record& r) {
      if (!r.text.empty()) return;
      const std::string answer = prompt.accepted(r).front();
      cut += std::any_of(stops.begin(), stops.end(), [&](const auto& s) { return answer.find(s) != answer.npos; });
    };
    for (const auto& example : learned.examples()) look(learned.records()[example.record]);
    for (const auto& pair : pairs.pairs()) look(pairs.records()[pair.chosen.record]);
    if (cut)
      std::cout << "warning: " << cut << " of the answers hold what ends an answer in this form ("
                << on_one_line(stops.front()) << "), and will be cut there: give --form chat\n";
  }
  static void say_left_out(const ft::text::Dataset& data, const ft::text::Dataset& hold, int64_t max_tokens) {
    if (data.too_long()) std::cout << "; " << data.too_long() << " left out: longer than " << max_tokens << " tokens";
    if (hold.too_long()) std::cout << "; and " << hold.too_long() << " of those to hold out";
    std::cout << '\n';
    for (const ft::text::Dataset* of : {&data, &hold})
      if (!of->refused().empty())
        std::cout << "warning: of those to " << (of == &data ? "learn" : "hold out") << ' ' << of->left_out() << '\n';
  }
  static void say_left_out(const ft::PreferenceData& data, const ft::PreferenceData& hold, int64_t) {
    if (!data.left_out().empty()) std::cout << "; " << data.left_out();
    if (!hold.left_out().empty()) std::cout << "; of those to hold out " << hold.left_out();
    std::cout << '\n';
  }
};

/// Finds how near to what it has learned held-out questions lie that the model answers rightly, so that it answers
/// nothing that lies below what all but a share of `withhold` of right answers reach. Without enough of them, says so.
template <class Lm>
void find_sure(Lm& lm, const std::vector<Record>& learned, const std::vector<Record>& held_out, double withhold,
               const std::string& unknown) {
  constexpr std::size_t enough = 20, most = 256;
  std::vector<Record> answered, unanswered;
  for (const Record& r : held_out) {
    auto& of_kind = r.unanswered ? unanswered : answered;
    if (r.text.empty() && of_kind.size() < most) of_kind.push_back(r);
  }
  const auto asked = [&](const std::vector<Record>& records) {
    ft::Progress progress(std::cerr);
    ft::EvaluateOptions options{.generate = {.max_new_tokens = 48}, .world = examples::ranks};
    options.progress = [&](int64_t done, int64_t of) {
      progress.update({.step = done, .steps = of, .unit = "answers", .what = "how sure it is: held-out questions"});
    };
    return ft::evaluate(lm, records, options).answers;
  };
  std::vector<Record> right;
  std::vector<std::string> texts;
  std::vector<double> confidence;
  if (answered.size() >= enough)
    for (const auto& answer : asked(answered)) {
      if (!answer.exact) continue;
      right.push_back(*answer.record);
      texts.push_back(answer.text);
      confidence.push_back(answer.certainty.confidence);
    }
  if (right.size() < enough || unknown.empty()) {
    std::cout << "sure: it answers whatever it is asked, "
              << (right.size() < enough ? ft::str("for of ", answered.size(), " held-out questions it answers ",
                                                  right.size(), " rightly, too few to tell by")
                                        : "for no words are known for what it does not know; give --unknown")
              << '\n';
    return;
  }
  lm.remember_questions(learned);
  const auto nearness = lm.weigh_nearness(right, texts, confidence);
  if (!lm.learned_questions().weighed()) {
    std::cout << "sure: it answers whatever it is asked, for too few of the " << right.size()
              << " right answers to held-out questions were learned word for word\n";
    return;
  }
  auto options = lm.prompt().options();
  options.sure = 0;
  options.near = ft::LearnedQuestions::bound(nearness, withhold);
  options.unknown = unknown;
  lm.set_prompt(options);
  const auto lost = std::count_if(nearness.begin(), nearness.end(), [&](double n) { return n < options.near; });
  std::cout << "sure: an answer of a nearness under " << ft::printed("%.3f", options.near)
            << " to the questions that it was learned for becomes \"" << unknown << "\", which costs " << lost << " of "
            << right.size() << " right answers to held-out questions";
  if (!unanswered.empty()) {
    const auto answers = asked(unanswered);
    std::cout << "; of " << unanswered.size() << " held-out questions without an answer "
              << std::count_if(answers.begin(), answers.end(), [](const auto& answer) { return answer.exact; })
              << " are told so";
  }
  std::cout << '\n';
}

template <class Lm> void train(const TrainArguments& a, const std::vector<Record>& records, Lm lm) {
  using T = typename Lm::value_type;
  using D = typename Lm::device_type;
  // 1. The model, with what is to be learned: an adapter, or all of it.
  if (a.lora.full && !of_kind(of_split(records, "train"), true).empty())
    throw ft::Error("--full: preference pairs are learned beside the base that the model is held to",
                    "leave --full away; an adapter can be merged into its base afterwards.");
  a.lora.apply(lm, a.run.seed);
  std::cout << lm.summary();
  const std::filesystem::path out = a.out, result = out / (a.lora.full ? "model" : "adapter");
  uint64_t result_bytes = 0;
  for (const auto* w : lm.parameters())
    if (w->trainable) result_bytes += static_cast<uint64_t>(w->bytes());
  ft::check_room(result, result_bytes + (uint64_t{1} << 20));  // and the logs

  // 2. The records as tokens: those to learn, and those held out to see when to stop; and what is learned beside them.
  const std::string unknown = a.unknown.empty() ? unknown_words(records) : a.unknown;
  const bool unanswered = std::any_of(records.begin(), records.end(), [](const Record& r) { return r.unanswered; });
  a.set_form(lm, unanswered ? unknown : "");
  const Parts parts(a, records, lm);
  std::vector<ft::text::Dataset> beside;
  std::vector<ft::MixedPart> mix, looked_at;
  // Of records and pairs the larger part is read through, and in each step as much of the other as makes one epoch too.
  const bool prefers = parts.pairs.size() > 0, pairs_first = parts.pairs.tokens() > parts.learned.tokens();
  const auto first_of = [&](const ft::text::Dataset& plain, const ft::PreferenceData& pairs,
                            std::vector<ft::MixedPart>& others) -> const ft::DataSource& {
    const ft::DataSource *first = &plain, *second = &pairs;
    if (pairs.size() > 0 && (pairs_first || plain.size() == 0)) std::swap(first, second);
    if (plain.size() > 0 && pairs.size() > 0)
      others.push_back({second,
                        static_cast<double>(std::min(plain.tokens(), pairs.tokens())) /
                            static_cast<double>(std::max(plain.tokens(), pairs.tokens())),
                        1});
    return *first;
  };
  const ft::DataSource& first = first_of(parts.learned, parts.pairs, mix);
  const ft::DataSource& first_held_out = first_of(parts.held_out, parts.held_out_pairs, looked_at);
  beside.reserve(a.mix.size());
  for (const std::string& given : a.mix) {
    const MixFile file(given);
    const auto others = of_split(ft::text::read_records(file.path), "train");
    if (const auto n = of_kind(others, true).size(); n > 0)
      std::cout << "warning: of " << n << " preference pairs in " << file.path
                << " the better answers alone are learned; give it as --data to learn the preference\n";
    beside.emplace_back(others, lm.prompt(), ft::text::DatasetOptions{.max_tokens = a.max_tokens});
    mix.push_back({&beside.back(), 1, file.weight});
    std::cout << "beside them: " << file.path << ", " << beside.back().size() << " examples, weight " << file.weight
              << (beside.back().left_out().empty() ? "" : "; ") << beside.back().left_out() << '\n';
  }
  // 3. What the model is to keep. One that is trained whole has no base beside it: there the text itself is learned.
  const Length length = length_of(a, first);
  std::optional<Kept> kept;
  std::optional<ft::Keeping<T, D>> keeping;
  if (a.keep_weight > 0) {
    kept.emplace(a.keep, lm, parts.to_learn(), texts_for(length.steps * a.batch_tokens), out, a.run.seed, a.lora.full);
    mix.push_back({&kept->read(), kept_share, a.keep_weight});
    looked_at.push_back({&kept->watched(), 1, a.keep_weight});
    if (!a.lora.full) keeping.emplace(lm);
  }
  const ft::MixedSource source(first, mix), held_out(first_held_out, looked_at);
  ft::Trainable<T, D>* learner = &lm;
  if (keeping) learner = &*keeping;
  std::optional<ft::Preferring<T, D>> preferring;
  if (prefers) learner = &preferring.emplace(lm, a.preferences, *learner);

  // 4. The run.
  const double lr = a.lr > 0 ? a.lr : a.lora.full ? 3e-5 : prefers ? default_preference_lr : default_lr;
  if (prefers)
    std::cout << "preferences: beta " << a.preferences.beta << ", rate " << lr
              << (parts.learned.size() > 0 ? "; the records' loss stands beside the pairs', each a mean" : "") << '\n';
  auto config = a.run.config(out);
  config.optimizer = ft::AdamW{.lr = static_cast<float>(lr), .weight_decay = a.weight_decay};
  config.batch_tokens = a.batch_tokens;
  examples::begin_ranks(lm.context(), a.run.rank_timeout);
  config.micro_batch_tokens = examples::micro_batch_of_ranks(a.batch_tokens, a.micro_batch_tokens, !a.run.no_exact,
                                                             "tokens", "--micro-batch-tokens");
  config.epochs = length.epochs;
  config.max_steps = a.max_steps;
  if (config.evaluate_every == 0 && config.epochs > usual_epochs)  // epochs of a few steps: not behind each
    config.evaluate_every = (least_steps + usual_epochs - 1) / usual_epochs;
  config.recompute = a.recompute;
  config.cuda_graph = a.cuda_graph;
  if (a.run.patience > 0 && kept)
    std::cout << "stops by the held-out loss plus " << a.keep_weight << " times the divergence from the base\n";
  ft::Trainer<T, D> trainer(*learner, config);
  const auto plan = trainer.plan(source);
  std::cout << plan << std::flush;
  ft::Progress progress(std::cerr);
  int64_t steps = 0;
  trainer.on_step([&](const ft::Step& s) {
    examples::show(progress, s);
    steps = s.step;
    return ft::Flow::go;
  });
  const auto asked = parts.to_ask();
  trainer.on_evaluation([&](int64_t step, double loss) {
    const double moved = kept ? trainer.evaluate(kept->watched()) : 0;
    progress.message(ft::str("step ", step, ": held-out loss ", loss - a.keep_weight * moved) +
                     (!kept         ? ""
                      : a.lora.full ? ft::printed("; loss on kept text %.3g", moved)
                                    : ft::printed("; kept text: perplexity %+.1f %%", 100 * std::expm1(moved))));
    if (parts.held_out_pairs.size() > 0) {
      const auto pairs = ft::evaluate_preferences(lm, parts.held_out_pairs, a.preferences, {}, examples::ranks);
      progress.message(
          ft::printed("  held-out pairs: loss %.3g, the better answer has the larger reward in %.0f %%, "
                      "margin %.3g",
                      pairs.loss, 100 * pairs.accuracy, pairs.margin));
    }
    for (std::size_t i = 0; i < asked.size() && i < static_cast<std::size_t>(a.samples); ++i) {
      auto answer =
          lm.generate_from(lm.prompt().question(asked[i]), {.max_new_tokens = 24, .stop = lm.prompt().stop()});
      progress.message(on_one_line("  " + ft::text::last_question(asked[i]) + " ->" + answer.rest()));
    }
  });
  const auto save = [&](const std::filesystem::path& to) {
    if (a.lora.full) lm.save_pretrained(to);
    else lm.save_adapter(to, {.base = a.base});
  };
  const auto report = examples::fit_or_keep(
      lm, progress, steps, out / (a.lora.full ? "unfinished-model" : "unfinished-adapter"),
      [&] { return trainer.fit(source, parts.held_out.size() + parts.held_out_pairs.size() ? &held_out : nullptr); },
      save);

  // 5. What it came to: the weights first, which took longest to come by.
  if (report.finished) {
    if (!a.lora.full) lm.interpolate(a.interpolate);
    if (a.withhold > 0 && !a.lora.full && !parts.looks_at_test && parts.learned.size() > 0)
      find_sure(lm, parts.learned.records(), parts.held_out.records(), a.withhold, unknown);
    if (examples::first_rank()) examples::write_or_save_elsewhere(result, save);
  }
  if (examples::first_rank() && examples::report_run(out, plan, report,
                                                     {{"model", a.model},
                                                      {"data", a.data},
                                                      {"seed", a.run.seed},
                                                      {"lr", lr},
                                                      {"epochs", config.epochs},
                                                      {"keep_weight", a.keep_weight},
                                                      {"interpolate", a.interpolate},
                                                      {"preference_pairs", parts.pairs.size()},
                                                      {"beta", a.preferences.beta}}))
    std::cout << "wrote " << result.string() << '\n';
}

inline void add_train(CLI::App& app) {
  const auto a = std::make_shared<TrainArguments>();
  auto* c = app.add_subcommand("train", "Fine-tune a model on records");
  a->add_to(*c);
  c->add_option("--data", a->data,
                "records, as prepare writes them, of one file or several; split \"train\" is learned, \"valid\" held "
                "out (without one, "
                "\"test\" is looked "
                "at, but where --patience decides by it a tenth of \"train\" is held out)")
      ->required()
      ->type_name("DATA.jsonl");
  c->add_option("--out", a->out, "folder for the adapter or model, checkpoint, metrics")
      ->required()
      ->check(examples::not_empty)
      ->type_name("RUN");
  a->lora.add_to(*c);
  c->add_option("--interpolate", a->interpolate,
                "share of the trained adapter that is saved: less than 1 answers a little worse and forgets much less")
      ->check(examples::finite)
      ->check(CLI::Range(0.0, 1.0))
      ->excludes(c->get_option("--full"))
      ->capture_default_str();
  c->add_option(
       "--mix", a->mix,
       "other records, of which each step reads as many tokens beside those of --data, with a weight for their "
       "loss; may be repeated")
      ->type_name("DATA.jsonl[=WEIGHT]");
  c->add_option("--keep", a->keep,
                "text on which the tuned model is held to the base: paragraphs, or JSON lines of {\"text\": ...} "
                "(default: what the base itself writes)")
      ->check(examples::not_empty)
      ->type_name("TEXT");
  c->add_option("--keep-weight", a->keep_weight,
                "of the divergence from the base on that text; 0: it is free to forget")
      ->check(examples::finite)
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  c->add_option(
       "--unknown", a->unknown,
       "what is learned as the answer to records without one (default: \"I do not know.\" or \"모르겠습니다.\", by "
       "their language)")
      ->check(examples::not_empty)
      ->type_name("WORDS");
  c->add_option("--withhold", a->withhold,
                "share of right answers that may become --unknown, so that less is made up; 0: it answers whatever it "
                "is asked")
      ->check(examples::finite)
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  c->add_option("--beta", a->preferences.beta,
                "of preference pairs (records with rejected answers): how strongly the model is held to its base")
      ->check(examples::finite)
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  c->add_option("--label-smoothing", a->preferences.label_smoothing,
                "of pairs: the share that may be the wrong way round")
      ->check(examples::finite)
      ->check(CLI::Range(0.0, 0.49))
      ->capture_default_str();
  c->add_option("--chosen-nll", a->preferences.nll,
                "of pairs: weight of the better answer's own loss beside the preference (RPO)")
      ->check(examples::finite)
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  c->add_option("--lr", a->lr,
                ft::str("learning rate; 0: ", default_lr, " for LoRA, ", default_preference_lr,
                        " where there are preference pairs, 3e-5 for --full"))
      ->check(examples::finite)
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  a->run.add_to(*c);
  c->add_option("--weight-decay", a->weight_decay, "decoupled; none for norms and biases")
      ->check(examples::finite)
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  c->add_option("--epochs", a->epochs,
                ft::str("times through the data; 0: ", usual_epochs, ", or as many as make ", least_steps, " steps"))
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  c->add_option("--max-steps", a->max_steps, "stop there; 0: after the epochs")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  c->add_option("--batch-tokens", a->batch_tokens, "tokens a step")->check(CLI::PositiveNumber)->capture_default_str();
  c->add_option("--micro-batch-tokens", a->micro_batch_tokens, "tokens a forward pass, for less memory; 0: all at once")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  c->add_option("--max-tokens", a->max_tokens, "longer examples are left out")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  c->add_flag("--loss-on-everything", a->everything, "learn the questions too (default: the answers alone)");
  c->add_option(
       "--quantise-base", a->quantise_base,
       "learn over the model as q8_0, q4_0, q4_k or nf4, made once and kept beside it (default: as it is stored)")
      ->check(CLI::IsMember({"q8_0", "q4_0", "q4_k", "nf4"}));
  c->add_flag("--recompute", a->recompute, "less memory for a third more time (default: off)");
  c->add_flag("--cuda-graph", a->cuda_graph, "on cuda, launch each step as one CUDA graph (default: off)");
  c->add_option("--samples", a->samples, "held-out questions answered at each evaluation")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  c->footer("Example:\n  qa train --model SmolLM2-135M-Instruct.Q4_1.gguf --data facts.jsonl --out run --epochs 4");
  c->callback([a] {
    check_folder("--out", a->out);
    std::vector<std::filesystem::path> inputs(a->data.begin(), a->data.end());
    inputs.insert(inputs.end(), {a->model, a->keep});
    check_apart("--out", std::filesystem::path(a->out) / (a->lora.full ? "model" : "adapter"), inputs);
    std::vector<Record> records;
    for (const std::string& path : a->data) {
      auto more = ft::text::read_records(path);
      records.insert(records.end(), std::make_move_iterator(more.begin()), std::make_move_iterator(more.end()));
    }
    for (const std::string& path : a->mix) MixFile{path};
    if (of_split(records, "train").empty()) {
      std::map<std::string, int64_t> splits;
      for (const Record& r : records) ++splits[r.split];
      throw ft::Error(CLI::detail::join(a->data, ", ") + ": has no record to learn, its splits are " + counted(splits),
                      "those of split \"train\", or without one, are learned.");
    }
    if (!a->quantise_base.empty()) {
      if (a->lora.full)
        throw ft::Error("--quantise-base: with --full every weight is brought into the type that is computed in",
                        "leave one of the two out.");
      a->base = a->model;
      a->model = quantised_base(a->model, a->quantise_base, a->threads);
    }
    a->with_model([&](auto lm) { train(*a, records, std::move(lm)); });
  });
}

}  // namespace qa
