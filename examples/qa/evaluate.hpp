// examples/qa/evaluate.hpp: `qa evaluate`: the base and tuned models answer the same questions and judge the same
// preference pairs; what was learned, kept and made up.
#pragma once
#include "model.hpp"

#include <ftlib/core/random.hpp>
#include <ftlib/text/prefer.hpp>
#include <ftlib/train/weight_hash.hpp>

#include <map>       // std::map
#include <optional>  // std::optional
#include <set>       // std::set
#include <tuple>     // std::tuple

namespace qa {

struct EvaluateArguments : ModelArguments {
  std::vector<std::string> adapters;
  std::string data, split = "test", unrelated, json;
  int64_t max_new_tokens = 48, batch = 64, limit = 0;
  float beta = 0.1f;
  double rank_timeout = 600;
};

inline constexpr double most_forgotten = 0.1;

/// The share of answers of which f(answer) says so.
template <class F> double share(const ft::Evaluation& e, F f) {
  return e.n ? static_cast<double>(std::count_if(e.answers.begin(), e.answers.end(), f)) / static_cast<double>(e.n) : 0;
}

/// Between what the share of right answers lies with 95 % confidence: of 1,000 draws of as many facts, each with all
/// its phrasings, because those of one fact are right or wrong together.   Bootstrap over clusters: Efron and
/// Tibshirani, 1993
struct Interval {
  double low = 0, high = 0;
};
inline Interval interval(const ft::Evaluation& e) {
  std::map<std::string, std::pair<double, double>> facts;  // right, asked
  for (const auto& answer : e.answers) {
    auto& [right, asked] = facts[answer.record->id.substr(0, answer.record->id.rfind('/'))];
    right += answer.exact;
    ++asked;
  }
  if (facts.empty()) return {};
  std::vector<std::pair<double, double>> list;
  for (const auto& [id, counts] : facts) list.push_back(counts);
  std::vector<double> means;
  ft::Random random(1);
  for (int draw = 0; draw < 1000; ++draw) {
    double right = 0, asked = 0;
    for (std::size_t i = 0; i < list.size(); ++i) {
      const auto& fact = list[static_cast<std::size_t>(random.below(static_cast<int64_t>(list.size())))];
      right += fact.first;
      asked += fact.second;
    }
    means.push_back(right / asked);
  }
  std::sort(means.begin(), means.end());
  return {means[25], means[974]};
}

/// What is asked and read, before a model is opened.
struct Asked {
  std::vector<Record> all, records, untrained, unanswered, pairs;  // pairs are judged, not asked
  std::set<std::string> trained;                                   // answers, by the rules of their language
  std::string unrelated;

  explicit Asked(const EvaluateArguments& a) : all(ft::text::read_records(a.data)), records(of_split(all, a.split)) {
    if (records.empty())
      throw ft::Error(a.data + ": has no record of split '" + a.split + "'", "name another with --split.");
    for (const Record& r : records)
      if (!r.rejected.empty()) pairs.push_back(r);
      else if (r.unanswered) unanswered.push_back(r);
    std::erase_if(records, [](const Record& r) { return r.unanswered || !r.text.empty() || !r.rejected.empty(); });
    if (records.empty() && unanswered.empty() && pairs.empty())
      throw ft::Error(a.data + ": split '" + a.split + "' has plain texts alone", "there is nothing to ask.");
    for (auto* of : {&records, &pairs})
      if (a.limit > 0 && static_cast<int64_t>(of->size()) > a.limit) of->resize(static_cast<std::size_t>(a.limit));
    // Facts that were never trained: what the tuned model says to them should not be a trained answer.
    if (ft::text::split_name(a.split) == "test") untrained = of_split(all, "untrained");
    if (untrained.size() == all.size()) untrained.clear();
    for (const Record& r : all)
      if (r.split == "train" || (r.split.empty() && has_splits(all)))
        for (const auto& answer : ft::text::accepted_answers(r))
          trained.insert(ft::text::normalize_answer(answer, ft::text::rules_for(r.lang)));
    if (!a.unrelated.empty()) unrelated = read_unrelated(a.unrelated);
    check_output("--json", a.json);
    std::vector<std::filesystem::path> inputs(a.adapters.begin(), a.adapters.end());
    inputs.insert(inputs.end(), {a.data, a.unrelated, a.model});
    check_apart("--json", a.json, inputs);
    for (const std::string& adapter : a.adapters) a.check_adapter(adapter);
  }
  /// The share of answers that are an answer which was trained: to questions that were not, made up with confidence.
  double says_trained(const ft::Evaluation& e) const {
    return share(e, [&](const ft::Answer& answer) {
      return trained.contains(ft::text::normalize_answer(answer.text, ft::text::rules_for(answer.record->lang)));
    });
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

/// What one model said.
struct Result {
  std::string name;  // "base", or the adapter's folder
  ft::Evaluation main, untrained, unanswered;
  std::optional<double> unrelated;
  std::optional<ft::PreferenceReport> pairs;
  double says_trained = 0, says_unknown = 0;  // of what was never trained
  Interval exact;
};

inline ft::Json to_json(const Result& r, const Asked& asked) {
  ft::Json json{{"exact_match", r.main.exact_match},
                {"exact_match_95", {r.exact.low, r.exact.high}},
                {"strict_match", r.main.strict_match},
                {"f1", r.main.f1},
                {"perplexity", r.main.perplexity},
                {"unrelated_perplexity", r.unrelated ? ft::Json(*r.unrelated) : ft::Json()},
                {"n", r.main.n}};
  if (!asked.untrained.empty())
    json["untrained"] = {{"exact_match", r.untrained.exact_match},
                         {"strict_match", r.untrained.strict_match},
                         {"says_trained_answer", r.says_trained},
                         {"says_it_does_not_know", r.says_unknown},
                         {"n", r.untrained.n}};
  if (r.pairs)
    json["pairs"] = {{"likelier", r.pairs->likelier},
                     {"likelier_a_token", r.pairs->likelier_a_token},
                     {"larger_reward", r.pairs->accuracy},
                     {"margin", r.pairs->margin},
                     {"loss", r.pairs->loss},
                     {"n", r.pairs->pairs}};
  if (!asked.unanswered.empty())
    json["unanswered"] = {{"says_it_does_not_know", r.unanswered.exact_match}, {"n", r.unanswered.n}};
  return json;
}

/// Which of several tuned models is the better one, as a place in `results`, whose first is the base: of those whose
/// perplexity of unrelated text rises by at most `most` (of all, where none is, or it was not asked) the one
/// with most right answers; among equals the one that judges more pairs rightly, then the one that forgets less.
inline std::size_t better_of(const std::vector<Result>& results, double most) {
  const auto rise = [&](const Result& r) { return r.unrelated ? *r.unrelated / *results[0].unrelated - 1 : 0; };
  const bool some = std::any_of(results.begin() + 1, results.end(), [&](auto& r) { return rise(r) <= most; });
  std::size_t best = 0;
  for (std::size_t i = 1; i < results.size(); ++i) {
    if (some && rise(results[i]) > most) continue;
    const auto rank = [&](const Result& r) {
      return std::tuple(r.main.exact_match, r.pairs ? r.pairs->accuracy : 0, -rise(r));
    };
    if (best == 0 || rank(results[i]) > rank(results[best])) best = i;
  }
  return best;
}

/// Ranks share out what is asked: throws ft::Error where theirs is not the same.
template <class Lm> void check_ranks(const EvaluateArguments& a, const Asked& asked, Lm& lm) {
  examples::begin_ranks(lm.context(), a.rank_timeout);
  if (!examples::ranks) return;
  ft::Hash weights, records, adapters;
  for (const auto* w : lm.parameters())
    if (*w) ft::add_weight(weights, lm.context(), w->name, w->weight());
  for (const Record& r : asked.all) records.add(ft::text::to_json_line(r));
  records.add(asked.unrelated);
  for (const std::string& adapter : a.adapters)
    for (const auto& file :
         ft::is_folder(adapter) ? ft::files_in(adapter) : std::vector{std::filesystem::path(adapter)})
      adapters.add(ft::fingerprint(ft::MappedFile::open(file)->bytes()));
  ft::Description d;
  if constexpr (requires { lm.context().threads(); }) d.add("threads", lm.context().threads());
  d.add("weights", weights);
  d.add("records and texts", records);
  d.add("--split, --limit, --batch, --max-new-tokens",
        ft::str(a.split, ' ', a.limit, ' ', a.batch, ' ', a.max_new_tokens));
  d.add("adapters", adapters);
  std::string lines;
  for (const auto& [key, value] : d.entries()) lines += key + " = " + value + '\n';
  ft::agree(*examples::ranks, lines);
}

template <class Lm> void evaluate(const EvaluateArguments& a, const Asked& asked, Lm lm) {
  check_ranks(a, asked, lm);
  const examples::ShareOfMachine share_of_machine;
  std::string left_out;  // of the pairs
  const auto run = [&](const std::string& name, const std::string& shown) {
    const auto answers = [&](const std::vector<Record>& to, const std::string& what) -> ft::Evaluation {
      if (to.empty()) return {};
      ft::Progress progress(std::cerr);
      ft::EvaluateOptions options{.batch = a.batch, .world = examples::ranks};
      options.generate.max_new_tokens = a.max_new_tokens;
      options.progress = [&](int64_t done, int64_t of) {
        progress.update({.step = done, .steps = of, .unit = "answers", .what = shown + ": " + what});
      };
      return ft::evaluate(lm, to, options);
    };
    Result r;
    r.name = name;
    r.main = answers(asked.records, "questions of split '" + a.split + "', answered");
    r.untrained = answers(asked.untrained, "questions that were never trained, answered");
    r.unanswered = answers(asked.unanswered, "questions without an answer, answered");
    if (!asked.pairs.empty()) {
      const ft::PreferenceData data(asked.pairs, lm.prompt(), lm.model().context_length());
      r.pairs = ft::evaluate_preferences(lm, data, {.beta = a.beta}, {}, examples::ranks);
      left_out = data.left_out();
    }
    if (!asked.unrelated.empty()) r.unrelated = ft::perplexity(lm, asked.unrelated, 512, examples::ranks);
    r.says_trained = asked.says_trained(r.untrained);
    const std::string unknown = lm.prompt().options().unknown;
    r.says_unknown = share(r.untrained, [&](const auto& answer) {
      const auto rules = ft::text::rules_for(answer.record->lang);
      return !unknown.empty() && ft::text::exact_match(answer.text, {unknown}, rules);
    });
    r.exact = interval(r.main);
    return r;
  };
  std::vector<Result> results;
  const auto load = [&](const std::string& folder) {
    for (const auto& warning : lm.load_adapter(folder)) std::cerr << "warning: " << warning << '\n';
    a.set_form(lm);
  };
  if (!a.adapters.empty()) load(a.adapters.front());  // first, because it says in which form the base is asked
  else a.set_form(lm);
  say_notes(lm);
  {
    const ft::AdaptersOff off(lm);
    results.push_back(run("base", "the base model"));
  }
  for (const std::string& folder : a.adapters) {
    if (folder != a.adapters.front()) load(folder);
    results.push_back(run(folder, a.adapters.size() == 1 ? "the tuned model" : folder));
  }
  share_of_machine.tell(std::cerr, lm.context());

  // The table: the base and the tuned ones side by side.
  const auto row = [&](const char* name, auto value) {
    std::cout << name;
    for (const Result& r : results) std::cout << "  " << value(r);
    std::cout << '\n';
  };
  const auto percent = [](double v) { return ft::printed("%8.1f %%", 100 * v); };
  const auto plain = [](double v) { return ft::printed("%10.3g", v); };
  const auto of_pairs = results[0].pairs ? ft::str(results[0].pairs->pairs, " preference pairs ") : "";
  std::cout << "on " << (asked.records.empty() && results[0].pairs ? "" : ft::str(results[0].main.n, " records "))
            << (asked.records.empty() || of_pairs.empty() ? "" : "and ") << of_pairs << "of split '" << a.split
            << "'        base";
  if (results.size() == 2) std::cout << "       tuned";
  for (std::size_t i = 1; results.size() > 2 && i < results.size(); ++i) std::cout << ft::printed("     tuned %zu", i);
  std::cout << '\n';
  if (!asked.records.empty()) {
    row("exact match               ", [&](const Result& r) { return percent(r.main.exact_match); });
    row("  95 % of draws: from     ", [&](const Result& r) { return percent(r.exact.low); });
    row("                 to       ", [&](const Result& r) { return percent(r.exact.high); });
    std::set<std::string> languages;
    for (const Record& r : asked.records) languages.insert(r.lang);
    for (const auto& lang : languages)
      if (languages.size() > 1)
        row(ft::printed("  language %-16s", lang.empty() ? "not said" : lang.c_str()).c_str(), [&](const Result& r) {
          double right = 0, all = 0;
          for (const auto& answer : r.main.answers) {
            all += answer.record->lang == lang;
            right += answer.record->lang == lang && answer.exact;
          }
          return percent(all > 0 ? right / all : 0);
        });
    row("  to the letter           ", [&](const Result& r) { return percent(r.main.strict_match); });
    row("F1                        ", [&](const Result& r) { return percent(r.main.f1); });
    row("perplexity of the answers ", [&](const Result& r) { return plain(r.main.perplexity); });
  }
  if (results[0].pairs) {
    row("pairs: better one likelier", [&](const Result& r) { return percent(r.pairs->likelier); });
    row("  by its tokens' mean     ", [&](const Result& r) { return percent(r.pairs->likelier_a_token); });
    if (results.size() > 1) {  // rewards are measured from the base
      row("  has the larger reward   ",
          [&](const Result& r) { return &r == &results[0] ? "         -" : percent(r.pairs->accuracy); });
      row("  margin of rewards       ", [&](const Result& r) { return plain(r.pairs->margin); });
    }
    if (!left_out.empty()) std::cout << "warning: of the preference pairs, " << left_out << '\n';
  }
  if (!asked.untrained.empty()) {
    row("never trained: exact match", [&](const Result& r) { return percent(r.untrained.exact_match); });
    row("  says a trained answer   ", [&](const Result& r) { return percent(r.says_trained); });
    if (!lm.prompt().options().unknown.empty())
      row("  says it does not know   ", [&](const Result& r) { return percent(r.says_unknown); });
  }
  if (!asked.unanswered.empty())
    row("no answer: says so        ", [&](const Result& r) { return percent(r.unanswered.exact_match); });
  if (results[0].unrelated) row("perplexity, unrelated text", [&](const Result& r) { return plain(*r.unrelated); });
  for (const auto* e : {&results[0].main, &results[0].untrained})
    for (const auto& note : e->notes) std::cout << "warning: " << note << '\n';
  asked.warn();
  const std::size_t better = better_of(results, most_forgotten);
  const Result *base = &results[0], *tuned = better ? &results[better] : nullptr;
  if (results.size() > 2)
    std::cout << "the better one: tuned " << better << ", " << tuned->name << ": "
              << (base->unrelated ? "of those that raise the perplexity of unrelated text by at most " +
                                        ft::printed("%.0f %%", 100 * most_forgotten) + " (of all, where none does) "
                                  : "")
              << "the one with most right answers\n";
  if (tuned && !asked.records.empty()) {
    std::cout << "some of them:\n";
    const auto &before = base->main.answers, &after = tuned->main.answers;
    for (std::size_t i = 0; i < std::min<std::size_t>(3, before.size()); ++i) {
      const std::size_t at = i * before.size() / 3;
      std::cout << "  " << on_one_line(ft::text::last_question(*before[at].record)) << "\n    base  "
                << on_one_line(before[at].text) << "\n    tuned " << on_one_line(after[at].text) << "\n    right "
                << on_one_line(ft::text::accepted_answers(*before[at].record).front()) << '\n';
    }
  }

  if (a.json.empty() || !examples::first_rank()) return;
  ft::Json report{{"model", a.model},
                  {"adapter", tuned ? ft::Json(tuned->name) : ft::Json("")},
                  {"data", a.data},
                  {"split", a.split},
                  {"base", to_json(*base, asked)}};
  if (tuned) report["tuned"] = to_json(*tuned, asked);
  for (std::size_t i = 1; results.size() > 2 && i < results.size(); ++i)
    report["adapters"][results[i].name] = to_json(results[i], asked);
  ft::Json answers = ft::Json::array();
  for (auto part : {&Result::main, &Result::untrained, &Result::unanswered})
    for (std::size_t i = 0; i < (base->*part).answers.size(); ++i) {
      const auto& record = *(base->*part).answers[i].record;
      ft::Json entry{{"id", record.id},
                     {"split", record.split},
                     {"question", ft::text::last_question(record)},
                     {"answers", ft::text::accepted_answers(record)},
                     {"base", (base->*part).answers[i].text}};
      if (tuned) {
        entry["tuned"] = (tuned->*part).answers[i].text;
        entry["confidence"] = (tuned->*part).answers[i].certainty.confidence;
        entry["nearness"] = (tuned->*part).answers[i].certainty.nearness;
      }
      answers.push_back(std::move(entry));
    }
  report["answers"] = std::move(answers);
  examples::write_or_save_elsewhere(a.json, [&](const auto& path) { write_json(path, report); });
  std::cout << "wrote " << a.json << '\n';
}

inline void add_evaluate(CLI::App& app) {
  const auto a = std::make_shared<EvaluateArguments>();
  auto* c = app.add_subcommand("evaluate", "Ask held-out questions, before and after");
  a->add_to(*c);
  a->add_sure_to(*c);
  c->add_option("--adapter", a->adapters,
                "a PEFT folder, as train leaves it, or several, of which the better is named (default: none)")
      ->check(examples::not_empty)
      ->type_name("FOLDER");
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
  c->add_option("--beta", a->beta, "of preference pairs, as they were trained: the rewards' unit")
      ->check(examples::finite)
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  c->add_option("--limit", a->limit, "only the first so many records; 0: all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  examples::add_rank_timeout(*c, a->rank_timeout);
  c->footer(
      "Example:\n  qa evaluate --model SmolLM2-135M-Instruct.Q4_1.gguf --adapter run/adapter --data facts.jsonl --json "
      "report.json");
  c->callback([a] {
    const Asked asked(*a);
    a->with_model([&](auto lm) { evaluate(*a, asked, std::move(lm)); });
  });
}

}  // namespace qa
