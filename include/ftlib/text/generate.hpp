// text/generate.hpp: generation with a KV cache: many prompts in one batch, token by token.
#pragma once
#include <ftlib/models/kit/language_model.hpp>  // LanguageModel
#include <ftlib/ops/sampling.hpp>               // Sampling
#include <ftlib/text/tokenizer.hpp>             // Tokenizer, StreamDecoder

#include <functional>  // std::function
#include <optional>    // std::optional
#include <string>      // std::string
#include <utility>     // std::move
#include <vector>      // std::vector

namespace ft::inline FTLIB_ABI {

struct GenerateOptions {
  int64_t max_new_tokens = 128;
  Sampling sampling = {};
  std::vector<std::string> stop = {};  // generation ends before the first of these; they are not part of the answer
  uint64_t seed = 0;                   // prompt i draws from seed + i
  bool confidence = false;             // ask how sure the model is, see TokenGenerator::confidence
  double sure = 0;                     // an answer of a lower confidence becomes `otherwise`; 0: none does
  double near = -1;  // so does one to a question of less nearness to those learned (CausalLM::remember_questions)
  std::string otherwise = {};

  /// Whether an answer can be told from `otherwise` only when it is whole.
  bool withholds() const { return sure > 0 || near > -1; }
};

/// How far an answer can be relied on.
struct Certainty {
  double confidence = 1;  // TokenGenerator::confidence
  double nearness = 1;    // of its question, LearnedQuestions::nearness; 1 where nothing is known

  bool reaches(const GenerateOptions& options) const { return confidence >= options.sure && nearness >= options.near; }
};

/// Generates token ids for many prompts side by side. Prompts that have ended leave the batch. The adapters that the
/// session uses when it is made are those of all its tokens, whatever the session uses meanwhile.
template <Scalar T, Device D> class TokenGenerator {
 public:
  /// `ends` are the tokens that end a sequence. `vocab_size`, of the tokenizer: the head's rows from there on are none
  /// (many models have some, which make its size round) and are never chosen; 0: all rows are tokens. Throws Error for
  /// an empty prompt or one longer than the model's context.
  TokenGenerator(Context<D>& ctx, LanguageModel<T, D>& model, std::vector<std::vector<int32_t>> prompts,
                 const GenerateOptions& options, std::vector<int32_t> ends, int64_t vocab_size = 0);

  /// The next token of every prompt that still runs, as (prompt, token) pairs; empty where all have ended. A token that
  /// ends its sequence is not among them.
  std::vector<std::pair<int64_t, int32_t>> next();

  /// The probability that the model gave to the least likely token of prompt i's answer so far, the one that ended it
  /// among them: near 1 where it recalls, lower where it guesses. Before sampling's rules. Where it was asked for.
  double confidence(int64_t i) const { return confidence_[static_cast<std::size_t>(i)]; }

  bool done() const { return active_.empty(); }
  /// Ends prompt i: its text is whole.
  void stop(int64_t i) { std::erase(active_, i); }

 private:
  KvCache<T, D> make_cache();

  Context<D>& ctx_;
  LanguageModel<T, D>& model_;
  std::shared_ptr<void> overlay_;  // the adapters that it began with
  GenerateOptions options_;
  std::vector<int32_t> ends_;
  int64_t vocab_size_;
  std::vector<std::vector<int32_t>> texts_;  // prompt and what came after it
  std::vector<std::size_t> prompt_sizes_;
  KvCache<T, D> cache_;
  std::vector<Random> random_;
  std::vector<int64_t> active_;
  std::vector<double> confidence_;
};

/// Turns one prompt's tokens into pieces of text, and holds back what may be the beginning of a stop string.
class TextStop {
 public:
  TextStop(const Tokenizer& tokenizer, std::vector<std::string> stop) : decoder_(tokenizer), stop_(std::move(stop)) {}

  /// The text that is certain now. After a stop string nothing more comes, and stopped() is true.
  std::string put(int32_t token) { return release(decoder_.put(token), false); }
  std::string finish() { return release(decoder_.finish(), true); }
  bool stopped() const { return stopped_; }

 private:
  std::string release(const std::string& piece, bool last);

  StreamDecoder decoder_;
  std::vector<std::string> stop_;
  std::string held_;
  bool stopped_ = false;
};

/// One prompt's answer as it is made: a range of pieces of text, to be walked through once. Where there is something
/// that an answer must reach, one piece, once it is whole.
///
///     for (const std::string& piece : lm.generate("Q: Who wrote it?\nA:")) std::cout << piece << std::flush;
template <Scalar T, Device D> class TextStream {
 public:
  /// Asked of a whole answer and its confidence: what is said in its place, where something is.
  using Judge = std::function<std::optional<std::string>(const std::string& answer, double confidence)>;

  TextStream(TokenGenerator<T, D> tokens, TextStop text, Judge judge = {})
      : tokens_(std::move(tokens)), text_(std::move(text)), judge_(std::move(judge)) {}

  class iterator {
   public:
    using value_type = std::string;
    explicit iterator(TextStream* stream) : stream_(stream) { ++*this; }
    const std::string& operator*() const { return piece_; }
    iterator& operator++();
    friend bool operator==(const iterator& i, std::nullptr_t) { return i.stream_ == nullptr; }

   private:
    TextStream* stream_;
    std::string piece_;
  };
  iterator begin() { return iterator(this); }
  std::nullptr_t end() const { return nullptr; }

  /// The next piece; none where the answer is whole.
  std::optional<std::string> next();
  /// All that is still to come, as one text.
  std::string rest();

 private:
  std::optional<std::string> next_piece();

  TokenGenerator<T, D> tokens_;
  TextStop text_;
  Judge judge_;
  bool finished_ = false;
};

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/text/generate.inl.hpp>
#endif
