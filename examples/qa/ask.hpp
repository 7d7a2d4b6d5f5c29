// examples/qa/ask.hpp: `qa ask`: one question, or a prompt with what was said before.
#pragma once
#include "model.hpp"

#include <unistd.h>  // isatty

namespace qa {

struct AskArguments : ModelArguments {
  std::string adapter, question;
  bool history = false;
  int64_t max_new_tokens = 128;
  ft::Sampling sampling;
  uint64_t seed = 0;
};

/// Answers the last question of `turns`, and adds the answer to them.
template <class Lm> void answer(Lm& lm, const AskArguments& a, std::vector<ft::text::Message>& turns) {
  const auto options =
      lm.answer_options(lm.prompt(), {.max_new_tokens = a.max_new_tokens, .sampling = a.sampling, .seed = a.seed});
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

inline void add_ask(CLI::App& app) {
  const auto a = std::make_shared<AskArguments>();
  auto* c = app.add_subcommand("ask", "Answer one question, or open a prompt");
  a->add_to(*c);
  a->add_sure_to(*c);
  c->add_option("--adapter", a->adapter, "a PEFT folder, as train leaves it (default: none)")
      ->check(examples::not_empty)
      ->type_name("FOLDER");
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
    if (!a->adapter.empty()) a->check_adapter(a->adapter);
    a->with_model([&](auto lm) { ask(*a, std::move(lm)); });
  });
}

}  // namespace qa
