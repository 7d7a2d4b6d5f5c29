// text/causal_lm.hpp: CausalLM, a pretrained language model with its tokenizer: opened, adapted, saved, asked.
#pragma once
#include <ftlib/adapters/peft.hpp>          // attach, save_peft, load_peft
#include <ftlib/adapters/set.hpp>           // with_adapters, train_all, detach, merge
#include <ftlib/core/cpu.hpp>               // cpu_flags_hint
#include <ftlib/models/kit/registry.hpp>    // Checkpoint, make_language_model
#include <ftlib/text/generate.hpp>          // TokenGenerator, TextStream
#include <ftlib/text/tokenizer.hpp>         // Tokenizer
#include <ftlib/text/tokenizer_json.hpp>    // tokenizer_json
#include <ftlib/train/screen/progress.hpp>  // pretty_bytes, pretty_count
#include <ftlib/train/trainable.hpp>        // Trainable

#include <filesystem>  // std::filesystem::path
#include <memory>      // std::unique_ptr
#include <optional>    // std::optional

namespace ft::inline FTLIB_ABI {

/// What a model holds, as operator<< prints it.
struct ModelSummary {
  std::string architecture;
  int64_t parameters = 0, trainable = 0;  // counts
  int64_t bytes = 0;                      // of all weights, adapters among them
  std::map<DType, int64_t> stored;        // parameters by how they are stored
  std::string hint = cpu_flags_hint();    // the compiler's flag that this build lacks for this CPU; mostly empty

  friend std::ostream& operator<<(std::ostream& out, const ModelSummary& s) {
    out << s.architecture << ": " << pretty_count(s.parameters) << " parameters, " << pretty_bytes(s.bytes) << " (";
    const char* comma = "";
    for (const auto& [type, count] : s.stored) {
      out << comma << type << ' ' << pretty_count(count);
      comma = ", ";
    }
    out << "); trainable " << pretty_count(s.trainable) << " ("
        << printed("%.2f",
                   100.0 * static_cast<double>(s.trainable) / static_cast<double>(std::max<int64_t>(1, s.parameters)))
        << " %)\n";
    if (!s.hint.empty()) out << "hint: " << s.hint << '\n';
    return out;
  }
};

/// A pretrained causal language model on device D, computing in T. Moves, does not copy.
template <Scalar T, Device D> class CausalLM : public Trainable<T, D> {
 public:
  using value_type = T;
  using device_type = D;
  using Options = typename Context<D>::Options;  // the CPU's threads or which GPU; the seed of dropout

  /// Opens a Hugging Face folder (config.json, safetensors, tokenizer.json) or a GGUF file. Weights keep the type they
  /// are stored in (and on the CPU stay mapped), and are frozen. Throws Error naming the file for whatever does not
  /// fit.
  [[gnu::cold]] static CausalLM from_pretrained(const std::filesystem::path& path, const Options& options = {}) {
    CausalLM lm;
    lm.path_ = path;
    lm.ctx_ = std::make_unique<Context<D>>(options);
    const Checkpoint checkpoint = Checkpoint::open(path);
    lm.model_ = make_language_model<T>(*lm.ctx_, checkpoint);
    if (checkpoint.gguf) {
      lm.tokenizer_ = Tokenizer::from_gguf(*checkpoint.gguf);
    } else if (std::filesystem::exists(path / "tokenizer.json")) {
      const Json json = read_json(path / "tokenizer.json");
      Json config;
      const bool has_config = std::filesystem::exists(path / "tokenizer_config.json");
      if (has_config) config = read_json(path / "tokenizer_config.json");
      lm.tokenizer_ = Tokenizer::from_json(json, has_config ? &config : nullptr);
    }
    return lm;
  }

  Context<D>& context() override { return *ctx_; }
  LanguageModel<T, D>& model() { return *model_; }
  const std::filesystem::path& path() const { return path_; }
  /// Throws Error where the checkpoint has none.
  const Tokenizer& tokenizer() const {
    if (!tokenizer_) throw Error(path_.string() + ": has no tokenizer.json", "copy it beside config.json.");
    return *tokenizer_;
  }

  /// Every parameter once, adapters' included.
  std::vector<Parameter<T, D>*> parameters() override { return with_adapters<T, D>(base_parameters()); }

  /// Freezes the model and hangs a LoRA onto it: only the adapter learns.
  void attach(const Lora& lora) {
    detach();
    ft::attach<T, D>(*ctx_, base_parameters(), lora);
    lora_ = lora;
  }
  /// Full fine-tuning: every weight is brought into the compute type and learns.
  void train_all() {
    ft::train_all<T, D>(*ctx_, base_parameters());
    lora_.reset();
  }
  /// Takes the adapter off; the model answers as before.
  void detach() {
    ft::detach<T, D>(base_parameters());
    lora_.reset();
  }
  /// Folds the adapter into the weights, which are in the compute type from then on.
  void merge() {
    ft::merge<T, D>(*ctx_, base_parameters());
    lora_.reset();
  }

  /// Goes back towards the base: `share` of what the adapter adds stays, 0 none of it, 1 all. A share of 0.6 costs few
  /// of the answers that were learned and saves most of what was forgotten.    Wortsman et al., arXiv:2109.01903
  void interpolate(float share) {
    if (!lora_) throw Error("interpolate: there is no adapter");
    if (!(share >= 0)) throw Error(str("interpolate: a share of ", share), "give 0 (the base) to 1 (as trained).");
    lora_->alpha *= share;
    for (auto& [w, lora] : detail::lora_adapters<T, D>(base_parameters())) lora->scale *= share;
  }

  /// Writes a PEFT folder, which peft opens.
  [[gnu::cold]] void save_adapter(const std::filesystem::path& folder) {
    if (!lora_) throw Error(folder.string() + ": there is no adapter to save", "attach one, or call save_pretrained.");
    save_peft<T, D>(*ctx_, folder, base_parameters(), *lora_, path_.string());
  }
  /// Reads a PEFT folder of LoRA; it can be trained on.
  void load_adapter(const std::filesystem::path& folder) { lora_ = load_peft<T, D>(*ctx_, folder, base_parameters()); }

  /// Writes a Hugging Face folder in the compute type, which transformers opens: config.json, safetensors in shards,
  /// tokenizer. An adapter must be merged first.
  [[gnu::cold]] void save_pretrained(const std::filesystem::path& folder, int64_t max_shard_bytes = int64_t{5} << 30) {
    if (lora_)
      throw Error(folder.string() + ": the model has an adapter that would be lost", "call merge() or save_adapter().");
    std::vector<Tensor<T, D>> kept;
    std::vector<TensorEntry> entries;
    std::vector<std::vector<T>> host;
    for (const Parameter<T, D>* w : base_parameters()) {
      host.push_back((w->value ? w->value : dense(*ctx_, *w)).to_host(*ctx_));
      entries.push_back({w->name, dtype_of<T>, w->shape(), host.back().data()});
    }
    AtomicFolder out(folder);
    Json config = model_->config();
    config["torch_dtype"] = std::string(info(dtype_of<T>).name);
    config.erase("dtype");
    write_atomically(out.folder() / "config.json", config.dump(2) + "\n");
    write_safetensors_sharded(out.folder(), entries, {{"format", "pt"}}, max_shard_bytes);
    save_tokenizer(out.folder());
    out.commit();
  }

  [[gnu::cold]] ModelSummary summary() {
    ModelSummary s;
    s.architecture = model_->info().model_type;
    for (const Parameter<T, D>* w : parameters()) {
      s.parameters += w->count();
      s.trainable += w->trainable ? w->count() : 0;
      s.bytes += w->bytes();
      s.stored[w->value ? dtype_of<T> : w->stored.type] += w->count();
    }
    return s;
  }

  /// The sum over a batch's targets of -log p: what the trainer asks for.
  Tensor<accumulate_t<T>, D> loss_sum(const PackedTokens& batch, bool recompute = false) {
    return model_->nll_sum(*ctx_, batch, {.recompute = recompute});
  }

  /// What a Trainer asks: micro-batches are PackedTokens.
  Loss<T, D> loss_sum(const MicroBatch& micro, bool recompute) override {
    return loss_sum(micro_cast<PackedTokens>(micro), recompute);
  }
  void check(const DataLimits& data) override {
    const int64_t rows = model_->head().shape()[0];
    if (data.first_token < 0 || data.last_token >= rows)
      throw Error(str("data: token ids go from ", data.first_token, " to ", data.last_token, " (record '", data.where,
                      "'), the model has ", rows, " rows"),
                  "was it made by another model's tokenizer?");
  }
  void describe(Description& d) const override {
    if (lora_) ft::describe(d, *lora_);
  }

  /// `text` as tokens, with the model's beginning-of-text token where it asks for one. What is written like a control
  /// token stays text.
  std::vector<int32_t> encode(std::string_view text) const {
    auto ids = tokenizer().encode(text, {.special = Special::as_text});
    if (tokenizer().add_bos() || ids.empty())
      ids.insert(ids.begin(), tokenizer().bos() >= 0 ? tokenizer().bos() : tokenizer().eos());
    return ids;
  }
  /// Goes on from `prompt`, piece by piece; the model must outlive the stream.
  TextStream<T, D> generate(std::string_view prompt, const GenerateOptions& options = {}) {
    return generate_from(encode(prompt), options);
  }
  TextStream<T, D> generate_from(std::vector<int32_t> prompt, const GenerateOptions& options = {}) {
    return {TokenGenerator<T, D>(*ctx_, *model_, {std::move(prompt)}, options, end_tokens()),
            TextStop(tokenizer(), options.stop)};
  }
  /// Many prompts in one batch; the answers in their order.
  std::vector<std::string> generate_batch(std::vector<std::vector<int32_t>> prompts,
                                          const GenerateOptions& options = {}) {
    std::vector<std::string> answers(prompts.size());
    std::vector<TextStop> texts(prompts.size(), TextStop(tokenizer(), options.stop));
    TokenGenerator<T, D> generator(*ctx_, *model_, std::move(prompts), options, end_tokens());
    while (!generator.done())
      for (const auto& [i, token] : generator.next()) {
        const auto at = static_cast<std::size_t>(i);
        answers[at] += texts[at].put(token);
        if (texts[at].stopped()) generator.stop(i);
      }
    for (std::size_t i = 0; i < answers.size(); ++i) answers[i] += texts[i].finish();
    return answers;
  }
  /// The tokens that end an answer: the end of text, and the end of a turn.
  std::vector<int32_t> end_tokens() const {
    std::vector<int32_t> ends;
    if (tokenizer().eos() >= 0) ends.push_back(tokenizer().eos());
    for (const char* name : {"<|im_end|>", "<end_of_turn>", "<|eot_id|>", "<|endoftext|>"})
      if (const int32_t id = tokenizer().id(name); id >= 0 && tokenizer().is_special(id)) ends.push_back(id);
    return ends;
  }

 private:
  CausalLM() = default;

  std::vector<Parameter<T, D>*> base_parameters() {
    std::vector<Parameter<T, D>*> all;
    model_->visit([&](Parameter<T, D>& w) { all.push_back(&w); });
    return all;
  }
  [[gnu::cold]] void save_tokenizer(const std::filesystem::path& to) const {
    if (std::filesystem::is_directory(path_)) {
      for (const char* name :
           {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"})
        if (std::filesystem::exists(path_ / name)) std::filesystem::copy_file(path_ / name, to / name);
    } else if (tokenizer_) {
      const auto [json, config] = tokenizer_json(tokenizer_spec_from(GgufFile::open(path_)));
      write_atomically(to / "tokenizer.json", json.dump() + "\n");
      write_atomically(to / "tokenizer_config.json", config.dump(2) + "\n");
    }
  }

  std::filesystem::path path_;
  std::unique_ptr<Context<D>> ctx_;
  std::unique_ptr<LanguageModel<T, D>> model_;
  std::optional<Tokenizer> tokenizer_;
  std::optional<Lora> lora_;
};

}  // namespace ft::inline FTLIB_ABI
