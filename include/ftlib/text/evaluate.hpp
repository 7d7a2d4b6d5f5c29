// text/evaluate.hpp: does the model give the right answers, and what does it make of other text: exact match, F1,
// perplexity.
#pragma once
#include <ftlib/core/stop.hpp>                 // StopToken
#include <ftlib/distributed/communicator.hpp>  // Communicator
#include <ftlib/text/causal_lm.hpp>            // CausalLM
#include <ftlib/text/prompt.hpp>               // Form
#include <ftlib/text/records.hpp>              // Record

#include <functional>   // std::function
#include <optional>     // std::optional
#include <ostream>      // std::ostream
#include <string>       // std::string
#include <string_view>  // std::string_view
#include <vector>       // std::vector

namespace ft::inline FTLIB_ABI {

struct EvaluateOptions {
  std::optional<text::Form> form = {};                // none: the model's (CausalLM::prompt)
  GenerateOptions generate = {.max_new_tokens = 48};  // what it does not say the prompt does: CausalLM::answer_options
  int64_t batch = 64;                                 // prompts generated side by side
  std::function<void(int64_t done, int64_t of)> progress = {};  // called after each batch
  StopToken stop = {};                                          // looked at before each batch, where ranks are one
  Communicator* world = nullptr;  // ranks that share batches out, and all get the figures of all; null: one
};

/// What the model answered to one record.
struct Answer {
  const text::Record* record;
  std::string text;
  bool exact;
  double f1;
  bool strict;  // exact to the letter
  Certainty certainty;
};

struct Evaluation {
  double exact_match = 0, f1 = 0;  // means, in [0, 1]
  double strict_match = 0;         // of those that are exact to the letter: case, signs and symbols count
  double perplexity = 0;           // of the first accepted answer's tokens, after their question
  int64_t n = 0;                   // records that were asked
  std::vector<Answer> answers;     // of these, in their order
  std::vector<std::string> notes;  // which were not asked, or not read for the perplexity, a sentence each

  friend std::ostream& operator<<(std::ostream& out, const Evaluation& e);
};

/// Asks the model every record's question, greedily unless the options say otherwise, and scores what it generates by
/// SQuAD's rules or, for Korean records, KorQuAD's. A record whose question the chat template refuses, or that is
/// longer than the model reads, is left out of the figures and told in `notes`. Throws Error where no record is left or
/// the model's numbers are not finite, Interrupted on a request to stop.
template <Scalar T, Device D>
[[gnu::cold]] Evaluation evaluate(CausalLM<T, D>& lm, const std::vector<text::Record>& records,
                                  const EvaluateOptions& options = {});

/// exp of the mean -log p of a text's tokens, read in windows of at most `window` tokens that do not see each other,
/// and that the ranks of `world`, where it is not null, share out. Throws Error where it is not finite.
template <Scalar T, Device D>
double perplexity(CausalLM<T, D>& lm, std::string_view text, int64_t window = 512, Communicator* world = nullptr);

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/text/evaluate.inl.hpp>
#endif
