// text/causal_lm.hpp: CausalLM, a pretrained language model with its tokenizer: opened, adapted, saved, asked.
#pragma once
#include <ftlib/adapters/adapted.hpp>           // Adapted
#include <ftlib/core/cpu.hpp>                   // cpu_flags_hint
#include <ftlib/core/stop.hpp>                  // StopToken
#include <ftlib/models/kit/language_model.hpp>  // LanguageModel
#include <ftlib/text/generate.hpp>              // TokenGenerator, TextStream
#include <ftlib/text/learned_questions.hpp>     // LearnedQuestions
#include <ftlib/text/prompt.hpp>                // Prompt
#include <ftlib/text/tokenizer.hpp>             // Tokenizer
#include <ftlib/train/trainable.hpp>            // Trainable

#include <filesystem>   // std::filesystem::path
#include <iosfwd>       // std::ostream
#include <map>          // std::map
#include <memory>       // std::shared_ptr
#include <optional>     // std::optional
#include <string>       // std::string
#include <string_view>  // std::string_view
#include <vector>       // std::vector

namespace ft::inline FTLIB_ABI {

/// What a model holds, as operator<< prints it.
struct ModelSummary {
  std::string architecture;
  int64_t parameters = 0, trainable = 0;  // counts
  int64_t bytes = 0;                      // of all weights, adapters among them
  std::map<DType, int64_t> stored;        // parameters by how they are stored
  std::vector<std::string> notes;         // what the files hold that is passed over, a sentence each
  std::string hint = cpu_flags_hint();    // the compiler's flag that this build lacks for this CPU; mostly empty

  friend std::ostream& operator<<(std::ostream& out, const ModelSummary& s);
};

struct SavePretrainedOptions {
  std::optional<DType> type = {};  // float32, float16 or bfloat16; none: the type that is computed in
  int64_t max_shard_bytes = int64_t{5} << 30;
  StopToken stop = {};
};

/// A pretrained causal language model on device D, computing in T: a session on it (adapters/adapted.hpp). Moves, does
/// not copy; session() gives another one.
template <Scalar T, Device D> class CausalLM : public Adapted<T, D>, public Trainable<T, D> {
 public:
  using value_type = T;
  using device_type = D;
  using typename Adapted<T, D>::Options;

  /// Opens a Hugging Face folder (config.json, safetensors, tokenizer.json) or a GGUF file. Weights keep the type they
  /// are stored in (and on the CPU stay mapped), and are frozen. Replace a file that is open by renaming another over
  /// it: one that is written over or cut ends the process by SIGBUS. Throws Error naming the file for whatever does not
  /// fit, and Interrupted on a request to stop, which is looked at before each tensor.
  static CausalLM from_pretrained(const std::filesystem::path& path, const Options& options = {},
                                  const StopToken& stop = {});
  /// Another session on the same weights, tokenizer and adapters, with threads, memory and random state of its own, in
  /// which no adapter is in use. For another thread, or beside a training. Throws Error where base weights are trained.
  CausalLM session(const Options& options = {}) { return {*this, options}; }

  Context<D>& context() override { return Adapted<T, D>::context(); }
  std::vector<Parameter<T, D>*> parameters() override { return Adapted<T, D>::parameters(); }
  LanguageModel<T, D>& model() { return *model_; }
  const std::filesystem::path& path() const { return path_; }
  /// Throws Error where the checkpoint has none.
  const Tokenizer& tokenizer() const {
    if (!tokenizer_) throw Error(path_.string() + ": has no tokenizer.json", "copy it beside config.json.");
    return *tokenizer_;
  }

  /// Writes the adapter in use as a PEFT folder, which peft opens; base weights that were trained beside it are in it,
  /// as modules_to_save.
  void save_adapter(const std::filesystem::path& folder, const SaveAdapterOptions& options = {});
  /// The same in memory; peft_bytes() makes bytes of it.
  AdapterData adapter_data(const SaveAdapterOptions& options = {}) { return named_adapter_data("adapter", options); }
  /// Reads a PEFT folder, or a GGUF LoRA; the adapter is in use, and can be trained on. Returns what the caller should
  /// tell: that it was made for another base, keys that are not known. adapters().put() takes one that only answers, or
  /// one from memory.
  std::vector<std::string> load_adapter(const std::filesystem::path& path) { return load_adapter("default", path); }
  std::vector<std::string> load_adapter(const std::string& name, const std::filesystem::path& path);
  /// The same from memory, as read_peft() reads it.
  std::vector<std::string> load_adapter(const std::string& name, const AdapterData& data);

  /// Writes a Hugging Face folder, which transformers opens: config.json, safetensors in shards, tokenizer; tensor by
  /// tensor, with what the session has in use folded into each as it is written (the model itself stays as it is).
  /// Memory: a tensor or two. Throws Interrupted on a request to stop, which is looked at before each tensor; what was
  /// at `folder` before stays then.
  void save_pretrained(const std::filesystem::path& folder, const SavePretrainedOptions& options = {});

  ModelSummary summary();

  /// The sum over a batch's targets of -log p: what the trainer asks for.
  Tensor<accumulate_t<T>, D> loss_sum(const PackedTokens& batch, bool recompute = false) {
    return model_->nll_sum(this->context(), batch, {.recompute = recompute});
  }

  /// What a Trainer asks: micro-batches are PackedTokens.
  Loss<T, D> loss_sum(const MicroBatch& micro, bool recompute) override {
    return loss_sum(micro_cast<PackedTokens>(micro), recompute);
  }
  void check(const DataLimits& data) override;
  void describe(Description& d) const override {
    Adapted<T, D>::describe(d);
    if (model_->router_loss() > 0) d.add("router_loss", model_->router_loss());
  }

  /// How this session's model is asked: data, evaluation and generation go by it. What set_prompt() has said,
  /// save_adapter keeps and load_adapter takes up; else questions and answers, "Q: ...\nA: ...". Throws Error where
  /// there is no tokenizer, or it has no chat template and the form is chat.
  text::Prompt prompt(std::optional<text::Form> form = {}) const {
    text::PromptOptions options = prompt_.value_or(text::PromptOptions());
    if (form) options.form = *form;
    return text::Prompt(tokenizer(), options);
  }
  void set_prompt(text::PromptOptions options) { prompt_ = text::Prompt(tokenizer(), std::move(options)).options(); }

  /// What the model makes of the questions of `records`, with their first answers: asked after training, of what was
  /// trained, so that answers can be told that belong to other questions (PromptOptions::near). Records without a
  /// question or an answer are passed over, and of more than `most` every so many is taken. Returns how many it has.
  /// save_adapter keeps them and load_adapter takes them up. They are of the weights as they are in use now.
  int64_t remember_questions(const std::vector<text::Record>& records, int64_t most = 2048);
  /// Then, how the signs of nearness are weighed, LearnedQuestions::weigh(), of held-out records that were answered
  /// rightly, with `answers` and the certainty of each. Returns how near each of them is.
  std::vector<double> weigh_nearness(const std::vector<text::Record>& right, const std::vector<std::string>& answers,
                                     const std::vector<double>& confidence);
  const LearnedQuestions& learned_questions() const { return *learned_; }
  /// The states of questions' prompts, as learned_questions() wants them: of at most 64 tokens each, the last ones.
  std::vector<QuestionStates> question_states(const std::vector<std::vector<int32_t>>& prompts);

  /// How an answer in the form of `prompt` is generated: `options`, with its stop strings where they name none, and
  /// what an answer must reach (sure, near) while an adapter is in use, of which that was found.
  GenerateOptions answer_options(const text::Prompt& prompt, GenerateOptions options = {});

  /// `text` as tokens, as Prompt::plain has them.
  std::vector<int32_t> encode(std::string_view text) const { return prompt().plain(text); }
  /// Goes on from `prompt`, piece by piece; the model must outlive the stream.
  TextStream<T, D> generate(std::string_view prompt, const GenerateOptions& options = {}) {
    return generate_from(encode(prompt), options);
  }
  TextStream<T, D> generate_from(std::vector<int32_t> prompt, const GenerateOptions& options = {});
  /// Many prompts in one batch; the answers in their order. `certainty`, where it is given, becomes that of each.
  std::vector<std::string> generate_batch(std::vector<std::vector<int32_t>> prompts,
                                          const GenerateOptions& options = {},
                                          std::vector<Certainty>* certainty = nullptr);

 private:
  CausalLM(std::unique_ptr<Context<D>> ctx, std::shared_ptr<LanguageModel<T, D>> model,
           std::shared_ptr<const Tokenizer> tokenizer, std::filesystem::path path);
  CausalLM(CausalLM& other, const Options& options);

  AdapterData named_adapter_data(const std::string& what_for, const SaveAdapterOptions& options);
  void save_tokenizer(const std::filesystem::path& to) const;

  std::filesystem::path path_;
  std::shared_ptr<LanguageModel<T, D>> model_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::optional<text::PromptOptions> prompt_;  // as it was set, or as the adapter has it
  std::shared_ptr<const LearnedQuestions> learned_ = std::make_shared<LearnedQuestions>();
};

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/text/causal_lm.inl.hpp>
#endif
