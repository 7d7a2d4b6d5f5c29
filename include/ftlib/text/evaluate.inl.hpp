// text/evaluate.inl.hpp: the bodies of text/evaluate.hpp.
#pragma once
#include <ftlib/core/message.hpp>  // printed
#include <ftlib/text/dataset.hpp>  // Dataset
#include <ftlib/text/evaluate.hpp>
#include <ftlib/text/scores.hpp>  // exact_match, f1

#include <algorithm>  // std::max, std::min
#include <cmath>      // std::exp, std::isfinite
#include <cstring>    // std::memcpy

namespace ft::inline FTLIB_ABI {

FTLIB_INLINE std::ostream& operator<<(std::ostream& out, const Evaluation& e) {
  return out << printed("exact match %.1f %%  F1 %.1f %%  perplexity %.3g", 100 * e.exact_match, 100 * e.f1,
                        e.perplexity)
             << "  on " << e.n << '\n';
}

template <Scalar T, Device D>
Evaluation evaluate(CausalLM<T, D>& lm, const std::vector<text::Record>& records, const EvaluateOptions& options) {
  const bool alone = !options.world || options.world->size() == 1;
  const auto go_on = [&] {
    if (alone && options.stop.stop_requested()) throw Interrupted("evaluate: stopped by the host");
  };
  if (options.batch < 1) throw Error(str("evaluate: a batch of ", options.batch, " prompts"), "give 1 or more.");
  Evaluation result;
  const text::Prompt prompt = lm.prompt(options.form);
  const GenerateOptions generate = lm.answer_options(prompt, options.generate);
  const text::Dataset data(records, prompt, {.max_tokens = lm.model().context_length()});
  {  // perplexity
    const NoGrad off(lm.context());
    double nll = 0;
    std::vector<double> mine;
    int64_t targets = 0, turn = 0;
    for (const auto& items : data.plan(1024, 0, 0)) {
      go_on();
      const auto batch = data.batch(items, 1024);
      for (const auto& micro : batch.micro)
        if (is_turn(options.world, turn++)) mine.push_back(lm.loss_sum(*micro, false).item(lm.context()));
      targets += batch.targets;
    }
    for (const double one : gather_in_turn(options.world, mine)) nll += one;
    if (!std::isfinite(nll)) throw not_finite(lm.context(), lm.model(), "evaluate: the loss");
    result.perplexity = std::exp(nll / static_cast<double>(std::max<int64_t>(1, targets)));
  }
  if (const auto left_out = data.left_out(); !left_out.empty())
    result.notes.push_back("the perplexity is of " + str(data.size()) + " records: " + left_out);

  std::vector<std::vector<int32_t>> questions;
  std::vector<const text::Record*> asked;
  std::string first;
  for (const text::Record& record : records) {
    std::string why;
    try {
      auto question = prompt.question(record);
      if (const auto n = static_cast<int64_t>(question.size()); n <= lm.model().context_length()) {
        questions.push_back(std::move(question));
        asked.push_back(&record);
        continue;
      }
      why = str("its question has ", question.size(), " tokens, the model reads ", lm.model().context_length());
    } catch (const Error& e) {
      if (prompt.options().form != text::Form::chat) throw;
      why = e.message();
    }
    if (first.empty()) first = str(record.id.empty() ? "" : str('\'', record.id, "', "), why);
  }
  const auto size = static_cast<int64_t>(asked.size());
  if (asked.size() < records.size())
    result.notes.push_back(str(records.size() - asked.size(), " of ", records.size(),
                               " records cannot be asked and are in no figure; the first: ", first));
  if (asked.empty()) throw Error("evaluate: no record can be asked; the first: " + first);
  struct Said {
    std::string text;
    Certainty certainty;
  };
  std::vector<Said> said;         // all that this rank has
  std::vector<std::string> mine;  // of several ranks: of each batch, its answers with their certainty in front
  for (int64_t begin = 0; begin < size; begin += options.batch) {
    go_on();
    const int64_t end = std::min(size, begin + options.batch);
    if (!is_turn(options.world, begin / options.batch)) continue;
    std::vector<std::vector<int32_t>> prompts;
    for (int64_t i = begin; i < end; ++i) prompts.push_back(std::move(questions[static_cast<std::size_t>(i)]));
    std::vector<Certainty> certainty;
    auto texts = lm.generate_batch(std::move(prompts), generate, &certainty);
    std::vector<std::string> packed;
    for (std::size_t i = 0; i < texts.size(); ++i)
      if (alone) said.push_back({std::move(texts[i]), certainty[i]});
      else packed.push_back(std::string(reinterpret_cast<const char*>(&certainty[i]), sizeof(Certainty)) + texts[i]);
    if (!alone) mine.push_back(detail::pack(packed));
    if (options.progress) options.progress(end, size);
  }
  if (!alone) options.world->announce("answers");
  for (const std::string& batch : gather_in_turn(options.world, std::move(mine)))
    for (const std::string& one : detail::unpack(batch)) {
      said.push_back({one.substr(sizeof(Certainty)), {}});
      std::memcpy(&said.back().certainty, one.data(), sizeof(Certainty));
    }
  for (std::size_t i = 0; i < asked.size(); ++i) {
    const auto& record = *asked[i];
    const auto rules = text::rules_for(record.lang);
    std::string answer = said.at(i).text;
    answer.erase(0, answer.find_first_not_of(' '));
    const auto accepted = prompt.accepted(record);
    result.answers.push_back({&record, answer, text::exact_match(answer, accepted, rules),
                              text::f1(answer, accepted, rules), text::strict_match(answer, accepted),
                              said[i].certainty});
    result.strict_match += result.answers.back().strict;
    result.exact_match += result.answers.back().exact;
    result.f1 += result.answers.back().f1;
  }
  result.n = size;
  result.exact_match /= static_cast<double>(std::max<int64_t>(1, size));
  result.strict_match /= static_cast<double>(std::max<int64_t>(1, size));
  result.f1 /= static_cast<double>(std::max<int64_t>(1, size));
  return result;
}

template <Scalar T, Device D>
double perplexity(CausalLM<T, D>& lm, std::string_view text, int64_t window, Communicator* world) {
  if (window < 2) throw Error(str("perplexity: a window of ", window, " tokens"), "give 2 or more.");
  const NoGrad off(lm.context());
  const auto ids = lm.tokenizer().encode(text, {.special = Special::as_text}), beginning = lm.prompt().beginning();
  double nll = 0;
  std::vector<double> mine;
  int64_t targets = 0, turn = 0;
  for (std::size_t begin = 0; begin < ids.size(); begin += static_cast<std::size_t>(window)) {
    const auto end = std::min(ids.size(), begin + static_cast<std::size_t>(window));
    std::vector<int32_t> part(ids.begin() + static_cast<std::ptrdiff_t>(begin),
                              ids.begin() + static_cast<std::ptrdiff_t>(end));
    part.insert(part.begin(), beginning.begin(), beginning.end());
    PackedTokens batch;
    batch.add(part);
    if (batch.target_count() == 0) continue;
    if (is_turn(world, turn++)) mine.push_back(static_cast<double>(lm.loss_sum(batch).item(lm.context())));
    targets += batch.target_count();
  }
  for (const double one : gather_in_turn(world, mine)) nll += one;
  if (targets == 0) throw Error("perplexity: the text has fewer than two tokens");
  if (!std::isfinite(nll)) throw not_finite(lm.context(), lm.model(), "perplexity: the loss");
  return std::exp(nll / static_cast<double>(targets));
}

}  // namespace ft::inline FTLIB_ABI
