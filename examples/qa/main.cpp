// examples/qa/main.cpp: from question-answer files to a model that answers them: prepare, train, evaluate, ask.
//
// Each subcommand is one function below, in the order in which a person uses them. Needs one model (a GGUF file or a
// Hugging Face folder); SmolLM2-135M in Q4_1 trains in about 0.7 GB of memory. docs/qa.md walks through it.
#include "../common/outputs.hpp"
#include "../common/training.hpp"
#include "prepare.hpp"

#include <ftlib/adapters/peft.hpp>
#include <ftlib/finetune.hpp>

#include <unistd.h>  // isatty
#include <algorithm>
#include <CLI/CLI.hpp>
#include <csignal>
#include <iostream>
#include <map>

namespace {

using examples::check_apart;
using examples::check_folder;
using examples::check_output;
using examples::write_json;
using ft::text::Record;

/// What every subcommand that opens a model asks for.
struct ModelArguments {
  std::string model, adapter, form, date, device = "cpu", dtype = "f32";
  std::vector<std::string> variables;
  bool thinking = false;
  int threads = 0;

  void add_to(CLI::App& command, bool with_adapter) {
    command.add_option("--model", model, "a GGUF file or a Hugging Face folder")->required()->type_name("PATH");
    if (with_adapter)
      command.add_option("--adapter", adapter, "a PEFT folder, as train leaves it (default: none)")
          ->check(examples::not_empty)
          ->type_name("FOLDER");
    command
        .add_option("--form", form,
                    "qa: \"Q: ...\\nA: ...\"; chat: the model's chat template (default: the adapter's, or qa)")
        ->check(CLI::IsMember({"qa", "chat"}));
    command
        .add_option("--date", date,
                    "the day that the chat template writes, as 2024-07-26 (default: the adapter's, or today)")
        ->type_name("DAY");
    command.add_flag("--thinking", thinking,
                     "let a model whose chat template can think do so (default: the adapter's, or no)");
    command
        .add_option("--variable", variables, "sets a variable of the chat template, as JSON or text; may be repeated")
        ->type_name("NAME=VALUE");
    command.add_option("--threads", threads, "CPU threads; 0: one for each core")->capture_default_str();
    command.add_option("--device", device, "what computes; cuda: NVIDIA's GPU")
        ->check(CLI::IsMember({"cpu", "cuda"}))
        ->capture_default_str();
    command.add_option("--dtype", dtype, "what is computed in; bf16 (on cuda alone) takes half the memory of f32")
        ->check(CLI::IsMember({"f32", "bf16"}))
        ->capture_default_str();
  }
  /// f(the opened model)
  template <class F> void with_model(F f) const {
    if (device == "cpu") {
      if (dtype != "f32")
        throw ft::Error("--dtype bf16: the CPU computes in f32", "leave it out, or add --device cuda.");
      return f(ft::CausalLM<float, ft::Cpu>::from_pretrained(model, {.threads = threads}));
    }
#if FTLIB_WITH_CUDA
    if (dtype == "bf16") return f(ft::CausalLM<ft::bfloat16, ft::Cuda>::from_pretrained(model));
    f(ft::CausalLM<float, ft::Cuda>::from_pretrained(model));
#else
    throw ft::Error("--device cuda: this qa was built for the CPU alone", "build it with cmake -DFTLIB_CUDA=ON.");
#endif
  }
  /// The form that was asked for, else the adapter's or the usual one; an adapter that is saved keeps it.
  template <class Lm> void set_form(Lm& lm) const {
    auto options = lm.prompt().options();
    if (form == "chat") options.form = ft::text::Form::chat;
    if (form == "qa") options.form = ft::text::Form::question_answer;
    if (!date.empty()) options.date = date;
    if (thinking) options.thinking = true;
    if (!variables.empty()) {
      ft::Json all =
          options.variables.empty() ? ft::Json::object() : ft::parse_json(options.variables, "the adapter's variables");
      for (const std::string& given : variables) {
        const auto cut = given.find('=');
        if (cut == given.npos || cut == 0)
          throw ft::Error("--variable " + given + ": has no name", "write NAME=VALUE, as date_string=\"26 Jul 2024\".");
        const std::string value = given.substr(cut + 1);
        try {
          all[given.substr(0, cut)] = ft::parse_json(value, "--variable");
        } catch (const ft::Error&) {  // a text needs no quotation marks
          all[given.substr(0, cut)] = value;
        }
      }
      options.variables = all.dump();
    }
    if (options.form != ft::text::Form::chat && (!date.empty() || thinking || !variables.empty()))
      throw ft::Error("--date, --thinking and --variable are for the chat template, and the form is qa",
                      "add --form chat.");
    lm.set_prompt(options);
  }
  /// Opens the adapter's files before the model's, so that a name that is wrong is told at once; and says so where it
  /// was trained in another form than the one that was asked for.
  void check_adapter() const {
    if (adapter.empty()) return;
    const auto data = ft::read_peft(adapter);
    const auto kept = data.metadata.find("ftlib.prompt");
    if (kept == data.metadata.end() || form.empty()) return;
    const auto trained =
        ft::text::PromptOptions::from_json(ft::parse_json(kept->second, data.source), data.source).form;
    if ((trained == ft::text::Form::chat) != (form == "chat"))
      std::cerr << "warning: the adapter was trained in the form " << (trained == ft::text::Form::chat ? "chat" : "qa")
                << ", and is asked in " << form << "; without --form it is asked as it was trained\n";
  }
};

bool has_splits(const std::vector<Record>& records) {
  return std::any_of(records.begin(), records.end(), [](const Record& r) { return !r.split.empty(); });
}

/// The records of one split; all of them where the file has no splits. A record without one is trained.
std::vector<Record> of_split(const std::vector<Record>& records, std::string split) {
  split = ft::text::split_name(split);
  const bool all = split.empty() || !has_splits(records);
  std::vector<Record> chosen;
  for (const Record& r : records)
    if (all || r.split == split || (split == "train" && r.split.empty())) chosen.push_back(r);
  return chosen;
}

/// What the model's files hold that is passed over.
template <class Lm> void say_notes(Lm& lm) {
  for (const auto& note : lm.summary().notes) std::cerr << "note: " << note << '\n';
}

/// A text on one line.
std::string on_one_line(std::string text) {
  for (auto at = text.find('\n'); at != text.npos; at = text.find('\n', at + 2)) text.replace(at, 1, "\\n");
  return text;
}

// --- train ---------------------------------------------------------------------------------------------------------

struct TrainArguments : ModelArguments {
  std::string data, out;
  examples::RunOptions run;
  examples::LoraOptions lora{.alpha_per_rank = 2};
  bool recompute = false, everything = false, cuda_graph = false;
  float interpolate = 1, weight_decay = 0;
  double lr = 0;
  int64_t epochs = 4, max_steps = 0, batch_tokens = 512, micro_batch_tokens = 0, max_tokens = 512;
  int samples = 2;
};

/// "test 3, other 5"
std::string counted(const std::map<std::string, int64_t>& splits) {
  std::string out;
  for (const auto& [split, n] : splits) out += ft::str(out.empty() ? "" : ", ", split, ' ', n);
  return out;
}

template <class Lm> void train(const TrainArguments& a, const std::vector<Record>& records, Lm lm) {
  // 1. The model, with what is to be learned: an adapter, or all of it.
  a.lora.apply(lm, a.run.seed);
  std::cout << lm.summary();
  const auto result = std::filesystem::path(a.out) / (a.lora.full ? "model" : "adapter");
  uint64_t result_bytes = 0;
  for (const auto* w : lm.parameters())
    if (w->trainable) result_bytes += static_cast<uint64_t>(w->bytes());
  ft::check_room(result, result_bytes + (uint64_t{1} << 20));  // and the logs

  // 2. The records as tokens: those to learn, and those held out to see when to stop.
  a.set_form(lm);
  const ft::text::DatasetOptions options{
      .loss_on = a.everything ? ft::text::LossOn::everything : ft::text::LossOn::answer, .max_tokens = a.max_tokens};
  const bool splits = has_splits(records);
  const auto valid = splits ? of_split(records, "valid") : std::vector<Record>(),
             test = splits ? of_split(records, "test") : std::vector<Record>();
  const ft::text::Dataset data(of_split(records, "train"), lm.prompt(), options);
  // What decides when to stop must not be what is asked at the end: without "valid", a tenth of what is learned.
  const bool look_at_test = valid.empty() && !test.empty() && a.run.patience == 0;
  const auto parts = [&]() -> std::pair<ft::text::Dataset, ft::text::Dataset> {
    if (!valid.empty() || look_at_test) return {data, {look_at_test ? test : valid, lm.prompt(), options}};
    if (data.size() < 5) return {data, {}};  // too few to spare one
    const double rest = static_cast<double>(data.size() - 1) / static_cast<double>(data.size());
    return data.split(std::min(0.9, rest), a.run.seed);
  }();
  const auto &learned = parts.first, &held_out = parts.second;
  if (held_out.size() == 0 && a.run.patience > 0)
    throw ft::Error(ft::str("--patience: of ", data.size(), " records none is held out"),
                    "give more records, or some of split \"valid\".");
  std::cout << "data: " << learned.size() << " examples, " << learned.tokens() << " tokens; held out "
            << held_out.size()
            << (held_out.size() == 0 ? ": there are too few"
                : look_at_test       ? " of split \"test\", which are looked at and decide nothing"
                : !valid.empty()     ? " of split \"valid\""
                                     : ", a tenth of what there was to learn");
  if (data.too_long()) std::cout << "; " << data.too_long() << " left out: longer than " << a.max_tokens << " tokens";
  if (held_out.too_long()) std::cout << "; and " << held_out.too_long() << " of those to hold out";
  std::cout << '\n';
  for (const auto* of : {&data, &held_out})
    if (!of->refused().empty())
      std::cout << "warning: of those to " << (of == &data ? "learn" : "hold out") << ' ' << of->left_out() << '\n';
  std::map<std::string, int64_t> others;
  int64_t without = 0;
  for (const Record& r : records) {
    without += splits && r.split.empty();
    const bool used =
        r.split.empty() || r.split == "train" || r.split == "valid" || (look_at_test && r.split == "test");
    if (!used) ++others[r.split];
  }
  if (without) std::cout << "  " << without << " of them have no split, and are learned\n";
  if (!others.empty()) std::cout << "  not learned, by their splits: " << counted(others) << '\n';
  int64_t stopped = 0;
  const std::vector<std::string> stops = lm.prompt().stop();
  for (const auto& example : data.examples()) {
    const Record& r = data.records()[example.record];
    for (const auto& stop : stops)
      if (ft::text::accepted_answers(r).front().find(stop) != std::string::npos) {
        ++stopped;
        break;
      }
  }
  if (stopped)
    std::cout << "warning: " << stopped << " of the answers hold what ends an answer in this form ("
              << on_one_line(stops.front()) << "), and will be cut there: give --form chat\n";

  // 3. The run.
  const std::filesystem::path out = a.out;
  const double lr = a.lr > 0 ? a.lr : a.lora.full ? 3e-5 : 5e-4;
  auto config = a.run.config(out);
  config.optimizer = ft::AdamW{.lr = static_cast<float>(lr), .weight_decay = a.weight_decay};
  config.epochs = a.epochs;
  config.max_steps = a.max_steps;
  config.batch_tokens = a.batch_tokens;
  config.micro_batch_tokens = a.micro_batch_tokens;
  config.recompute = a.recompute;
  config.cuda_graph = a.cuda_graph;
  ft::Trainer trainer(lm, config);
  const auto plan = trainer.plan(learned);
  std::cout << plan << std::flush;
  ft::Progress progress(std::cerr);
  int64_t steps = 0;
  trainer.on_step([&](const ft::Step& s) {
    examples::show(progress, s);
    steps = s.step;
    return ft::Flow::go;
  });
  trainer.on_evaluation([&](int64_t step, double loss) {
    progress.message(ft::str("step ", step, ": held-out loss ", loss));
    for (int i = 0; i < a.samples && i < static_cast<int>(held_out.size()); ++i) {
      const auto& record = held_out.records()[held_out.examples()[static_cast<std::size_t>(i)].record];
      auto answer = lm.generate_from(lm.prompt().question(record), {.max_new_tokens = 24, .stop = lm.prompt().stop()});
      progress.message(on_one_line("  " + ft::text::last_question(record) + " ->" + answer.rest()));
    }
  });
  const auto save = [&](const std::filesystem::path& to) {
    if (a.lora.full) lm.save_pretrained(to);
    else lm.save_adapter(to);
  };
  const auto report = examples::fit_or_keep(
      lm, progress, steps, out / (a.lora.full ? "unfinished-model" : "unfinished-adapter"),
      [&] { return trainer.fit(learned, held_out.size() ? &held_out : nullptr); }, save);

  // 4. What it came to: the weights first, which took longest to come by.
  if (report.finished) {
    if (!a.lora.full) lm.interpolate(a.interpolate);
    examples::write_or_save_elsewhere(result, save);
  }
  if (examples::report_run(
          out, plan, report,
          {{"model", a.model}, {"data", a.data}, {"seed", a.run.seed}, {"lr", lr}, {"interpolate", a.interpolate}}))
    std::cout << "wrote " << result.string() << '\n';
}

void add_train(CLI::App& app) {
  const auto a = std::make_shared<TrainArguments>();
  auto* c = app.add_subcommand("train", "Fine-tune a model on records");
  a->add_to(*c, false);
  c->add_option("--data", a->data,
                "records, as prepare writes them; split \"train\" is learned, \"valid\" held out (without one, "
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
  c->add_option("--lr", a->lr, "learning rate; 0: 5e-4 for LoRA, 3e-5 for --full")
      ->check(examples::finite)
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  a->run.add_to(*c);
  c->add_option("--weight-decay", a->weight_decay, "decoupled; none for norms and biases")
      ->check(examples::finite)
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  c->add_option("--epochs", a->epochs, "times through the data")->check(CLI::PositiveNumber)->capture_default_str();
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
  c->add_flag("--recompute", a->recompute, "less memory for a third more time (default: off)");
  c->add_flag("--cuda-graph", a->cuda_graph, "on cuda, launch each step as one CUDA graph (default: off)");
  c->add_option("--samples", a->samples, "held-out questions answered at each evaluation")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  c->footer("Example:\n  qa train --model SmolLM2-135M-Instruct.Q4_1.gguf --data facts.jsonl --out run --epochs 4");
  c->callback([a] {
    check_folder("--out", a->out);
    check_apart("--out", std::filesystem::path(a->out) / (a->lora.full ? "model" : "adapter"), {a->model, a->data});
    const auto records = ft::text::read_records(a->data);
    if (of_split(records, "train").empty()) {
      std::map<std::string, int64_t> splits;
      for (const Record& r : records) ++splits[r.split];
      throw ft::Error(a->data + ": has no record to learn, its splits are " + counted(splits),
                      "those of split \"train\", or without one, are learned.");
    }
    a->with_model([&](auto lm) { train(*a, records, std::move(lm)); });
  });
}

// --- evaluate ------------------------------------------------------------------------------------------------------

struct EvaluateArguments : ModelArguments {
  std::string data, split = "test", unrelated, json;
  int64_t max_new_tokens = 48, batch = 64, limit = 0;
};

ft::Json figures(const ft::Evaluation& e, std::optional<double> unrelated) {
  return {{"exact_match", e.exact_match},
          {"strict_match", e.strict_match},
          {"f1", e.f1},
          {"perplexity", e.perplexity},
          {"unrelated_perplexity", unrelated ? ft::Json(*unrelated) : ft::Json()},
          {"n", e.n}};
}

/// What is asked and read, before a model is opened.
struct Asked {
  std::vector<Record> all, records, untrained;
  std::string unrelated;

  explicit Asked(const EvaluateArguments& a) : all(ft::text::read_records(a.data)), records(of_split(all, a.split)) {
    if (records.empty())
      throw ft::Error(a.data + ": has no record of split '" + a.split + "'", "name another with --split.");
    if (a.limit > 0 && static_cast<int64_t>(records.size()) > a.limit)
      records.resize(static_cast<std::size_t>(a.limit));
    // Facts that were never trained: what the tuned model says to them should not be a trained answer.
    if (ft::text::split_name(a.split) == "test") untrained = of_split(all, "untrained");
    if (untrained.size() == all.size()) untrained.clear();
    if (!a.unrelated.empty()) {
      unrelated = ft::read_file(a.unrelated, uint64_t{64} << 20);
      if (unrelated.starts_with("\xEF\xBB\xBF")) unrelated.erase(0, 3);
      if (const auto fault = ft::text::text_fault(unrelated); !fault.empty())
        throw ft::Error(a.unrelated + ": " + fault, "iconv turns other encodings into UTF-8.");
    }
    check_output("--json", a.json);
    check_apart("--json", a.json, {a.data, a.unrelated, a.model, a.adapter});
    a.check_adapter();
  }
  /// Says which answers the rules cannot tell from wrong ones.
  void warn() const {
    std::size_t n = 0;
    std::string some;
    for (const Record& r : records)
      for (const auto& answer : ft::text::accepted_answers(r))
        if (const auto fault = ft::text::gold_fault(answer, ft::text::rules_for(r.lang)); !fault.empty()) {
          if (n++ < 3) some += ft::str(some.empty() ? "" : ", ", '"', on_one_line(answer), "\" (", fault, ')');
          break;
        }
    if (n > 0)
      std::cout << "warning: " << n << " of " << records.size()
                << " records have an answer that the rules of exact match and F1 cannot tell from some others: " << some
                << (n > 3 ? ", ..." : "") << "; to the letter they can\n";
  }
};

template <class Lm> void evaluate(const EvaluateArguments& a, const Asked& asked, Lm lm) {
  const auto &all = asked.all, &records = asked.records, &untrained = asked.untrained;
  const bool has_untrained = !untrained.empty();
  const std::string& unrelated = asked.unrelated;

  struct Result {
    ft::Evaluation main, untrained;
    std::optional<double> unrelated;
  };
  const examples::ShareOfMachine share;
  const auto run = [&](const std::string& name) {
    const auto answers = [&](const std::vector<Record>& to, const std::string& what) {
      ft::Progress progress(std::cerr);
      ft::EvaluateOptions options{.batch = a.batch};
      options.generate.max_new_tokens = a.max_new_tokens;
      options.progress = [&](int64_t done, int64_t of) {
        progress.update({.step = done, .steps = of, .unit = "answers", .what = what});
      };
      return ft::evaluate(lm, to, options);
    };
    Result r;
    r.main = answers(records, name + ": questions of split '" + a.split + "', answered");
    if (has_untrained) r.untrained = answers(untrained, name + ": questions that were never trained, answered");
    if (!unrelated.empty()) r.unrelated = ft::perplexity(lm, unrelated);
    return r;
  };
  if (!a.adapter.empty())  // first, because it says in which form both are asked
    for (const auto& warning : lm.load_adapter(a.adapter)) std::cerr << "warning: " << warning << '\n';
  a.set_form(lm);
  say_notes(lm);
  const Result base = [&] {
    const ft::AdaptersOff off(lm);
    return run("the base model");
  }();
  std::optional<Result> tuned;
  if (!a.adapter.empty()) tuned = run("the tuned model");
  share.tell(std::cerr, lm.context());

  std::set<std::string> trained_answers;
  for (const Record& r : all)
    if (r.split == "train" || (r.split.empty() && has_splits(all)))
      for (const auto& answer : ft::text::accepted_answers(r))
        trained_answers.insert(ft::text::normalize_answer(answer, ft::text::rules_for(r.lang)));
  const auto says_trained = [&](const ft::Evaluation& e) {
    int64_t n = 0;
    for (const auto& answer : e.answers)
      n +=
          trained_answers.count(ft::text::normalize_answer(answer.text, ft::text::rules_for(answer.record->lang))) != 0;
    return e.n ? static_cast<double>(n) / static_cast<double>(e.n) : 0.0;
  };

  // The table, base and tuned side by side.
  const auto row = [&](const char* name, auto value) {
    std::cout << name << "  " << value(base);
    if (tuned) std::cout << "  " << value(*tuned);
    std::cout << '\n';
  };
  const auto percent = [](double v) { return ft::printed("%8.1f %%", 100 * v); };
  const auto plain = [](double v) { return ft::printed("%10.3g", v); };
  std::cout << "on " << base.main.n << " records of split '" << a.split << "'        base"
            << (tuned ? "       tuned" : "") << '\n';
  row("exact match               ", [&](const Result& r) { return percent(r.main.exact_match); });
  row("  to the letter           ", [&](const Result& r) { return percent(r.main.strict_match); });
  row("F1                        ", [&](const Result& r) { return percent(r.main.f1); });
  row("perplexity of the answers ", [&](const Result& r) { return plain(r.main.perplexity); });
  if (has_untrained) {
    row("never trained: exact match", [&](const Result& r) { return percent(r.untrained.exact_match); });
    row("  says a trained answer   ", [&](const Result& r) { return percent(says_trained(r.untrained)); });
  }
  if (base.unrelated) row("perplexity, unrelated text", [&](const Result& r) { return plain(*r.unrelated); });
  for (const auto* e : {&base.main, &base.untrained})
    for (const auto& note : e->notes) std::cout << "warning: " << note << '\n';
  asked.warn();
  if (tuned) {
    std::cout << "some of them:\n";
    const auto &before = base.main.answers, &after = tuned->main.answers;
    for (std::size_t i = 0; i < std::min<std::size_t>(3, before.size()); ++i) {
      const std::size_t at = i * before.size() / 3;
      std::cout << "  " << on_one_line(ft::text::last_question(*before[at].record)) << "\n    base  "
                << on_one_line(before[at].text) << "\n    tuned " << on_one_line(after[at].text) << "\n    right "
                << on_one_line(ft::text::accepted_answers(*before[at].record).front()) << '\n';
    }
  }

  if (a.json.empty()) return;
  ft::Json report{{"model", a.model},
                  {"adapter", a.adapter},
                  {"data", a.data},
                  {"split", a.split},
                  {"base", figures(base.main, base.unrelated)}};
  if (tuned) report["tuned"] = figures(tuned->main, tuned->unrelated);
  if (has_untrained)
    for (const Result* r : {&base, tuned ? &std::as_const(*tuned) : nullptr})
      if (r)
        report[r == &base ? "base" : "tuned"]["untrained"] = {{"exact_match", r->untrained.exact_match},
                                                              {"strict_match", r->untrained.strict_match},
                                                              {"says_trained_answer", says_trained(r->untrained)},
                                                              {"n", r->untrained.n}};
  ft::Json answers = ft::Json::array();
  const auto list = [&](const ft::Evaluation& before, const ft::Evaluation* after) {
    for (std::size_t i = 0; i < before.answers.size(); ++i) {
      const auto& record = *before.answers[i].record;
      ft::Json entry{{"id", record.id},
                     {"split", record.split},
                     {"question", ft::text::last_question(record)},
                     {"answers", ft::text::accepted_answers(record)},
                     {"base", before.answers[i].text}};
      if (after) entry["tuned"] = after->answers[i].text;
      answers.push_back(std::move(entry));
    }
  };
  list(base.main, tuned ? &tuned->main : nullptr);
  if (has_untrained) list(base.untrained, tuned ? &tuned->untrained : nullptr);
  report["answers"] = std::move(answers);
  examples::write_or_save_elsewhere(a.json, [&](const auto& path) { write_json(path, report); });
  std::cout << "wrote " << a.json << '\n';
}

void add_evaluate(CLI::App& app) {
  const auto a = std::make_shared<EvaluateArguments>();
  auto* c = app.add_subcommand("evaluate", "Ask held-out questions, before and after");
  a->add_to(*c, true);
  c->add_option("--data", a->data, "records, as prepare writes them")->required()->type_name("DATA.jsonl");
  c->add_option("--split", a->split, "which of them; all where the file has no splits")->capture_default_str();
  c->add_option("--unrelated", a->unrelated, "text to measure forgetting on (default: none)")
      ->check(examples::not_empty)
      ->type_name("TEXT");
  c->add_option("--json", a->json, "also write the figures and every answer there")
      ->check(examples::not_empty)
      ->type_name("REPORT.json");
  c->add_option("--max-new-tokens", a->max_new_tokens, "of an answer")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  c->add_option("--batch", a->batch, "questions answered side by side")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  c->add_option("--limit", a->limit, "only the first so many records; 0: all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  c->footer(
      "Example:\n  qa evaluate --model SmolLM2-135M-Instruct.Q4_1.gguf --adapter run/adapter --data facts.jsonl --json "
      "report.json");
  c->callback([a] {
    const Asked asked(*a);
    a->with_model([&](auto lm) { evaluate(*a, asked, std::move(lm)); });
  });
}

// --- ask -----------------------------------------------------------------------------------------------------------

struct AskArguments : ModelArguments {
  std::string question;
  bool history = false;
  int64_t max_new_tokens = 128;
  ft::Sampling sampling;
  uint64_t seed = 0;
};

/// Answers the last question of `turns`, and adds the answer to them.
template <class Lm> void answer(Lm& lm, const AskArguments& a, std::vector<ft::text::Message>& turns) {
  ft::GenerateOptions options{
      .max_new_tokens = a.max_new_tokens, .sampling = a.sampling, .stop = lm.prompt().stop(), .seed = a.seed};
  auto prompt = lm.prompt().conversation(turns);
  while (turns.size() > 1 && static_cast<int64_t>(prompt.size()) + a.max_new_tokens > lm.model().context_length()) {
    turns.erase(turns.begin(), turns.begin() + 2);  // the oldest question and its answer have no room any more
    prompt = lm.prompt().conversation(turns);
  }
  std::string text;
  for (const std::string& piece : lm.generate_from(std::move(prompt), options)) {
    std::string shown = piece;
    if (text.empty()) shown.erase(0, shown.find_first_not_of(' '));
    std::cout << shown << std::flush;
    text += shown;
  }
  std::cout << std::endl;
  turns.push_back({.role = "assistant", .content = text});
}

template <class Lm> void ask(const AskArguments& a, Lm lm) {
  if (!a.adapter.empty())
    for (const auto& warning : lm.load_adapter(a.adapter)) std::cerr << "warning: " << warning << '\n';
  a.set_form(lm);
  say_notes(lm);
  std::vector<ft::text::Message> turns;
  if (!a.question.empty()) {
    turns.push_back({.role = "user", .content = a.question});
    answer(lm, a, turns);
    return;
  }
  const bool terminal = isatty(0);
  if (terminal) std::cout << "Ask a question; /new forgets what was said, an empty line ends.\n";
  int64_t number = 0;
  for (std::string line; (terminal && std::cout << "> " << std::flush), std::cout && std::getline(std::cin, line);) {
    if (++number == 1 && line.starts_with("\xEF\xBB\xBF")) line.erase(0, 3);
    if (line.ends_with('\r')) line.pop_back();
    if (ft::text::is_blank(line)) {
      if (terminal) break;
      continue;
    }
    if (const auto fault = ft::text::text_fault(line); !fault.empty()) {
      const ft::Error error(ft::str("question ", number, ": ", fault), "iconv turns other encodings into UTF-8.");
      if (!terminal) throw error;
      std::cout << error.what() << '\n';
      continue;
    }
    if (line == "/new" || (!terminal && !a.history)) turns.clear();
    if (line == "/new") continue;
    turns.push_back({.role = "user", .content = line});
    answer(lm, a, turns);
  }
}

void add_ask(CLI::App& app) {
  const auto a = std::make_shared<AskArguments>();
  auto* c = app.add_subcommand("ask", "Answer one question, or open a prompt");
  a->add_to(*c, true);
  c->add_option(
       "question", a->question,
       "the question (default: read questions line by line: at a terminal with what was said before, from a file "
       "or pipe each alone)")
      ->check(examples::not_empty);
  c->add_flag("--history", a->history, "questions from a file or pipe go on from those before (default: each alone)");
  c->add_option("--max-new-tokens", a->max_new_tokens, "of an answer")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  c->add_option("--temperature", a->sampling.temperature, "0: always the likeliest token")->capture_default_str();
  c->add_option("--top-k", a->sampling.top_k, "only the k likeliest; 0: all")->capture_default_str();
  c->add_option("--top-p", a->sampling.top_p, "only the likeliest that together have this probability")
      ->capture_default_str();
  c->add_option("--min-p", a->sampling.min_p, "only those with this share of the likeliest's probability")
      ->capture_default_str();
  c->add_option("--repetition-penalty", a->sampling.repetition_penalty, "of tokens that were there already; 1: none")
      ->capture_default_str();
  c->add_option("--seed", a->seed, "of the sampling")->capture_default_str();
  c->footer(
      "Example:\n  qa ask --model SmolLM2-135M-Instruct.Q4_1.gguf --adapter run/adapter \"Which mountain is the "
      "highest on Earth?\"");
  c->callback([a] {
    a->sampling.check();
    a->check_adapter();
    a->with_model([&](auto lm) { ask(*a, std::move(lm)); });
  });
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);  // a reader that goes away is a write that fails
  CLI::App app("Fine-tune a language model on questions and answers: prepare, train, evaluate, ask.", "qa");
  app.require_subcommand(1);
  app.set_version_flag("--version", std::string("qa (ftlib " FTLIB_VERSION ")"));
  try {
    qa::add_prepare(app);
    add_train(app);
    add_evaluate(app);
    add_ask(app);
    app.parse(argc, argv);
    if (!std::cout.flush())
      throw ft::Error("standard output cannot be written to", "is its disk full, or its reader gone?");
    return 0;
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == 0) return app.exit(e);  // --help, --version
    std::cerr << "qa: " << e.what() << " (see --help)\n";
  } catch (const ft::Error& e) {
    std::cerr << "qa: " << e.message() << (e.hint().empty() ? "" : " (hint: " + e.hint() + ")") << '\n';
  } catch (const std::exception& e) {
    std::cerr << "qa: " << e.what() << '\n';
  }
  return 2;
}
