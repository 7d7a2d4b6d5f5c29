// text/causal_lm.inl.hpp: the bodies of text/causal_lm.hpp.
#pragma once
#include <ftlib/adapters/adapted.hpp>         // Adapted
#include <ftlib/adapters/peft.hpp>            // read_peft, write_peft
#include <ftlib/io/atomic_file.hpp>           // AtomicFolder
#include <ftlib/io/gguf.hpp>                  // GgufFile
#include <ftlib/io/pages.hpp>                 // release_pages
#include <ftlib/io/safetensors.hpp>           // write_safetensors_sharded
#include <ftlib/models/kit/gguf_adapter.hpp>  // read_gguf_adapter
#include <ftlib/ops/shape.hpp>                // transpose
#include <ftlib/tensor/quantise.hpp>          // quantise_row
#include <ftlib/text/causal_lm.hpp>
#include <ftlib/text/generate.hpp>          // TokenGenerator
#include <ftlib/text/opened.hpp>            // opened
#include <ftlib/text/tokenizer_json.hpp>    // tokenizer_json
#include <ftlib/train/screen/progress.hpp>  // pretty_bytes, pretty_count

#include <ostream>  // std::ostream

namespace ft::inline FTLIB_ABI {

FTLIB_INLINE std::ostream& operator<<(std::ostream& out, const ModelSummary& s) {
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
  for (const std::string& note : s.notes) out << "note: " << note << '\n';
  if (!s.hint.empty()) out << "hint: " << s.hint << '\n';
  return out;
}

namespace detail {
template <Scalar T, Device D> std::vector<Parameter<T, D>*> weights_of(LanguageModel<T, D>& model) {
  std::vector<Parameter<T, D>*> all;
  model.visit([&](Parameter<T, D>& w) { all.push_back(&w); });
  return all;
}
/// The weight that is embedding and head at once; null where there are two.
template <Scalar T, Device D> const Parameter<T, D>* tied_weight(LanguageModel<T, D>& model) {
  return model.head().kind == WeightKind::embedding ? &model.head() : nullptr;
}
}  // namespace detail

template <Scalar T, Device D>
CausalLM<T, D>::CausalLM(std::unique_ptr<Context<D>> ctx, std::shared_ptr<LanguageModel<T, D>> model,
                         std::shared_ptr<const Tokenizer> tokenizer, std::filesystem::path path)
    : Adapted<T, D>(std::move(ctx), model, detail::weights_of(*model), detail::tied_weight(*model)),
      path_(std::move(path)),
      model_(std::move(model)),
      tokenizer_(std::move(tokenizer)) {}
template <Scalar T, Device D>
CausalLM<T, D>::CausalLM(CausalLM& other, const Options& options)
    : Adapted<T, D>(std::make_unique<Context<D>>(options), other),
      path_(other.path_),
      model_(other.model_),
      tokenizer_(other.tokenizer_),
      prompt_(other.prompt_),
      learned_(other.learned_) {}

template <Scalar T, Device D>
[[gnu::cold]] CausalLM<T, D> CausalLM<T, D>::from_pretrained(const std::filesystem::path& path, const Options& options,
                                                             const StopToken& stop) {
  auto ctx = std::make_unique<Context<D>>(options);
  auto [model, tokenizer] = detail::opened<T>(*ctx, path, stop);
  if (model->info().encoder)
    throw Error(
        str(path.string(), ": is an encoder (", model->info().model_type, "), which reads texts and writes none"),
        "TextEncoder opens it, for the captions of pictures.", ErrorKind::bad_file);
  return {std::move(ctx), std::move(model), std::move(tokenizer), path};
}

template <Scalar T, Device D>
[[gnu::cold]] void CausalLM<T, D>::save_adapter(const std::filesystem::path& folder,
                                                const SaveAdapterOptions& options) {
  write_peft(folder, named_adapter_data(folder.string(), options));
}
template <Scalar T, Device D>
AdapterData CausalLM<T, D>::named_adapter_data(const std::string& what_for, const SaveAdapterOptions& options) {
  AdapterData data = Adapted<T, D>::adapter_data(what_for, path_, options);
  if (prompt_) data.metadata["ftlib.prompt"] = prompt_->to_json().dump();
  if (!learned_->empty()) data.metadata["ftlib.learned_questions"] = learned_->to_json().dump();
  return data;
}
template <Scalar T, Device D>
[[gnu::cold]] std::vector<std::string> CausalLM<T, D>::load_adapter(const std::string& name,
                                                                    const std::filesystem::path& path) {
  return load_adapter(
      name, path.extension() == ".gguf" ? read_gguf_adapter(model_->gguf(), GgufFile::open(path)) : read_peft(path));
}
template <Scalar T, Device D>
[[gnu::cold]] std::vector<std::string> CausalLM<T, D>::load_adapter(const std::string& name, const AdapterData& data) {
  std::optional<text::PromptOptions> prompt;
  if (const auto kept = data.metadata.find("ftlib.prompt"); kept != data.metadata.end()) {
    const std::string where = data.source + ": ftlib.prompt";
    prompt = text::PromptOptions::from_json(parse_json(kept->second, where), where);
    if (tokenizer_) text::Prompt(*tokenizer_, *prompt);  // a form that this model has not is said before it is taken
  }
  auto learned = std::make_shared<LearnedQuestions>();
  if (const auto kept = data.metadata.find("ftlib.learned_questions"); kept != data.metadata.end()) {
    const std::string where = data.source + ": ftlib.learned_questions";
    *learned = LearnedQuestions::from_json(parse_json(kept->second, where), where);
    if (const auto& model = model_->info();
        !learned->empty() && (learned->width() != model.hidden_size || learned->blocks() != model.num_hidden_layers))
      throw Error(str(where, ": states of ", learned->width(), " numbers of ", learned->blocks(),
                      " blocks; the model has ", model.hidden_size, " and ", model.num_hidden_layers),
                  "the adapter is another model's.");
  }
  auto warnings = this->take_adapter(name, data, path_);
  if (prompt && prompt->near > -1 && learned->empty())
    warnings.push_back(data.source + ": asks for questions near to those it learned, and does not hold these: it " +
                       "answers every question");
  if (prompt) prompt_ = std::move(prompt);
  learned_ = std::move(learned);
  return warnings;
}

template <Scalar T, Device D>
[[gnu::cold]] void CausalLM<T, D>::save_pretrained(const std::filesystem::path& folder,
                                                   const SavePretrainedOptions& options) {
  Context<D>& ctx = this->context();
  const DType type = options.type.value_or(dtype_of<T>);
  if (is_quantised(type) || (type == DType::f64) != std::same_as<T, double>)
    throw Error(str(folder.string(), ": a folder in ", type), "give float32, float16 or bfloat16.");
  const auto host_values = [&ctx, this](const Parameter<T, D>& w) {
    const Tensor<T, D> merged = this->adapters().merged(ctx, w);
    return contiguous(ctx, merged ? merged : w.value ? w.value : dense(ctx, w)).to_host(ctx);
  };
  std::vector<TensorEntry> entries;
  std::map<std::string, std::vector<const Parameter<T, D>*>> parts;  // of a tensor in the folder
  uint64_t bytes = 0;
  for (const Parameter<T, D>* w : this->base_parameters()) {
    const FolderPlace place = model_->folder_place(*w);
    bytes += static_cast<uint64_t>(storage_bytes(type, w->count()));
    auto& of_tensor = parts[place.name];
    of_tensor.push_back(w);
    if (of_tensor.size() > 1) continue;
    entries.push_back({.name = place.name, .type = type, .shape = place.shape, .make = [&, place] {
                         std::vector<T> there(static_cast<std::size_t>(place.shape.count()));
                         for (const Parameter<T, D>* part : parts.at(place.name)) {
                           const std::vector<T> value = host_values(*part);
                           model_->folder_place(*part).each(part->shape(), [&](int64_t to, int64_t from) {
                             there[static_cast<std::size_t>(to)] = value[static_cast<std::size_t>(from)];
                           });
                           if constexpr (std::same_as<D, Cpu>)
                             if (part->stored)
                               release_pages({part->stored.data, static_cast<std::size_t>(part->stored.bytes())});
                         }
                         std::vector<std::byte> made(
                             static_cast<std::size_t>(storage_bytes(type, place.shape.count())));
                         if (type == dtype_of<T>) {
                           std::memcpy(made.data(), there.data(), made.size());
                         } else {
                           const std::vector<float> values(there.begin(), there.end());
                           quantise_row(type, values.data(), place.shape.count(), made.data());
                         }
                         return made;
                       }});
  }
  check_room(folder, bytes);
  AtomicFolder out(folder);
  Json config = model_->config();
  config["torch_dtype"] = std::string(info(type).name);
  config.erase("dtype");
  write_atomically(out.folder() / "config.json", config.dump(2) + "\n");
  write_safetensors_sharded(out.folder(), entries, {{"format", "pt"}}, options.max_shard_bytes, "model", options.stop);
  save_tokenizer(out.folder());
  out.commit();
}
template <Scalar T, Device D> [[gnu::cold]] void CausalLM<T, D>::save_tokenizer(const std::filesystem::path& to) const {
  if (is_folder(path_)) {
    for (const char* name : {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
                             "chat_template.jinja", "chat_template.json", "generation_config.json"})
      if (path_exists(path_ / name)) duplicate_file(path_ / name, to / name);
  } else if (tokenizer_) {
    const auto [json, config] = tokenizer_json(tokenizer_->spec());
    write_atomically(to / "tokenizer.json", json.dump() + "\n");
    write_atomically(to / "tokenizer_config.json", config.dump(2) + "\n");
    write_atomically(to / "generation_config.json", Json{{"eos_token_id", prompt().end_tokens()}}.dump(2) + "\n");
  }
}

template <Scalar T, Device D> [[gnu::cold]] ModelSummary CausalLM<T, D>::summary() {
  ModelSummary s;
  s.architecture = model_->info().model_type;
  s.notes = model_->info().notes;
  if (tokenizer_) s.notes.insert(s.notes.end(), tokenizer_->spec().notes.begin(), tokenizer_->spec().notes.end());
  if (tokenizer_ && tokenizer_->vocab_size() > model_->info().vocab_size)
    s.notes.push_back(str("the tokenizer has ", tokenizer_->vocab_size(), " tokens, the model's embedding ",
                          model_->info().vocab_size, " rows: text that needs one of the others is refused"));
  bool balanced = false;
  for (const Parameter<T, D>* w : this->parameters()) {
    s.parameters += w->count();
    s.trainable += w->trainable ? w->count() : 0;
    s.bytes += w->bytes();
    s.stored[w->value ? dtype_of<T> : w->stored.type] += w->count();
    balanced |= w->part_of && w->trainable;
  }
  if (model_->router_loss() > 0 && s.trainable > 0)
    s.notes.push_back(balanced ? str("the load of experts is balanced: router_aux_loss_coef ", model_->router_loss())
                               : "output_router_logits is set, but routers are not trained: the load of experts is not "
                                 "balanced");
  return s;
}

template <Scalar T, Device D> void CausalLM<T, D>::check(const DataLimits& data) {
  const int64_t rows = model_->head().shape()[0];
  if (data.first_token < 0 || data.last_token >= rows)
    throw Error(str("data: token ids go from ", data.first_token, " to ", data.last_token, " (record '", data.where,
                    "'), the model has ", rows, " rows"),
                "was it made by another model's tokenizer?");
}

template <Scalar T, Device D>
GenerateOptions CausalLM<T, D>::answer_options(const text::Prompt& prompt, GenerateOptions options) {
  if (options.stop.empty()) options.stop = prompt.stop();
  if (options.otherwise.empty() && !this->adapters().used(this->context()).empty()) {
    options.sure = prompt.options().sure;
    options.near = learned_->empty() ? -1 : prompt.options().near;
    options.otherwise = prompt.options().unknown;
  }
  return options;
}

template <Scalar T, Device D>
TextStream<T, D> CausalLM<T, D>::generate_from(std::vector<int32_t> prompt, const GenerateOptions& options) {
  TokenGenerator<T, D> tokens(this->context(), *model_, {prompt}, options, this->prompt().end_tokens(),
                              tokenizer().vocab_size());
  typename TextStream<T, D>::Judge judge;
  if (options.withholds()) {
    std::optional<QuestionStates> question;  // of the adapters that are in use now, as all of the answer will be
    if (options.near > -1 && !learned_->empty() && !this->adapters().used(this->context()).empty())
      question = question_states({std::move(prompt)}).front();
    judge = [options, learned = learned_, question](const std::string& answer,
                                                    double confidence) -> std::optional<std::string> {
      const Certainty certainty{confidence, question ? learned->nearness(*question, answer, confidence) : 1};
      if (certainty.reaches(options)) return {};
      return options.otherwise;
    };
  }
  return {std::move(tokens), TextStop(tokenizer(), options.stop), std::move(judge)};
}
template <Scalar T, Device D>
std::vector<std::string> CausalLM<T, D>::generate_batch(std::vector<std::vector<int32_t>> prompts,
                                                        const GenerateOptions& options_,
                                                        std::vector<Certainty>* certainty) {
  GenerateOptions options = options_;
  options.confidence |= certainty != nullptr;
  std::vector<QuestionStates> questions;
  if ((options.confidence || options.near > -1) && !learned_->empty() &&
      !this->adapters().used(this->context()).empty())
    questions = question_states(prompts);
  std::vector<std::string> answers(prompts.size());
  std::vector<TextStop> texts(prompts.size(), TextStop(tokenizer(), options.stop));
  TokenGenerator<T, D> generator(this->context(), *model_, std::move(prompts), options, this->prompt().end_tokens(),
                                 tokenizer().vocab_size());
  while (!generator.done())
    for (const auto& [i, token] : generator.next()) {
      const auto at = static_cast<std::size_t>(i);
      answers[at] += texts[at].put(token);
      if (texts[at].stopped()) generator.stop(i);
    }
  if (certainty) certainty->clear();
  for (std::size_t i = 0; i < answers.size(); ++i) {
    answers[i] += texts[i].finish();
    Certainty of_this{generator.confidence(static_cast<int64_t>(i)), 1};
    if (!questions.empty()) of_this.nearness = learned_->nearness(questions[i], answers[i], of_this.confidence);
    if (!of_this.reaches(options)) answers[i] = options.otherwise;
    if (certainty) certainty->push_back(of_this);
  }
  return answers;
}

template <Scalar T, Device D>
std::vector<QuestionStates> CausalLM<T, D>::question_states(const std::vector<std::vector<int32_t>>& prompts) {
  constexpr int64_t tokens_at_once = 2048, tokens_of_each = 64;
  Context<D>& ctx = this->context();
  const NoGrad unrecorded(ctx);
  const auto layers = LearnedQuestions::layers(model_->info().num_hidden_layers);
  std::vector<QuestionStates> out;
  PackedTokens batch;
  std::vector<int32_t> rows, last;  // of the batch: those that are looked at, and each question's last
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    const auto size = static_cast<int64_t>(prompts[i].size()), looked_at = std::min(size, tokens_of_each);
    batch.add(prompts[i]);
    for (int64_t back = looked_at; back > 0; --back) rows.push_back(static_cast<int32_t>(batch.tokens() - back));
    last.push_back(rows.back());
    out.push_back({{prompts[i].end() - looked_at, prompts[i].end()}, {}, {}});
    if (batch.tokens() < tokens_at_once && i + 1 < prompts.size()) continue;
    const auto after = model_->hidden_after(ctx, batch, layers);
    const auto taken = [&](const Tensor<T, D>& from, const std::vector<int32_t>& which) {
      Tensor<T, D> some(ctx, {static_cast<int64_t>(which.size()), from.cols()});
      gather_rows(ctx, some.view(), from.view(), Tensor<int32_t, D>(ctx, {some.rows()}, which).view());
      return convert<float>(ctx, some).to_host(ctx);
    };
    const auto width = static_cast<std::size_t>(after.front().cols());
    const auto tokens = taken(after.front(), rows);
    auto from = tokens.begin();
    for (auto q = out.end() - static_cast<std::ptrdiff_t>(last.size()); q != out.end(); ++q) {
      const auto n = static_cast<std::ptrdiff_t>(q->tokens.size() * width);
      q->states.assign(from, from + n);
      from += n;
    }
    for (const auto& states : after) {
      const auto ends = taken(states, last);
      for (std::size_t k = 0; k < last.size(); ++k) {
        auto& of_this = out[out.size() - last.size() + k].ends;
        of_this.insert(of_this.end(), ends.begin() + static_cast<std::ptrdiff_t>(k * width),
                       ends.begin() + static_cast<std::ptrdiff_t>((k + 1) * width));
      }
    }
    batch = {};
    rows.clear();
    last.clear();
  }
  return out;
}
template <Scalar T, Device D>
int64_t CausalLM<T, D>::remember_questions(const std::vector<text::Record>& records, int64_t most) {
  std::vector<const text::Record*> asked;
  for (const text::Record& r : records)
    if (r.text.empty() && !r.unanswered) asked.push_back(&r);
  const text::Prompt prompt = this->prompt();
  std::vector<std::vector<int32_t>> prompts;
  std::vector<std::string> answers;
  const auto limit = static_cast<std::size_t>(std::max<int64_t>(1, most));
  const std::size_t step = std::max<std::size_t>(1, (asked.size() + limit - 1) / limit);
  for (std::size_t i = 0; i < asked.size(); i += step) {
    auto question = prompt.question(*asked[i]);
    if (static_cast<int64_t>(question.size()) > model_->context_length()) continue;
    prompts.push_back(std::move(question));
    answers.push_back(text::accepted_answers(*asked[i]).front());
  }
  learned_ = answers.empty() ? std::make_shared<LearnedQuestions>()
                             : std::make_shared<LearnedQuestions>(model_->info().num_hidden_layers,
                                                                  question_states(prompts), answers);
  return learned_->size();
}
template <Scalar T, Device D>
std::vector<double> CausalLM<T, D>::weigh_nearness(const std::vector<text::Record>& right,
                                                   const std::vector<std::string>& answers,
                                                   const std::vector<double>& confidence) {
  if (answers.size() != right.size() || confidence.size() != right.size())
    throw Error(str("weigh_nearness: ", right.size(), " records, ", answers.size(), " answers, ", confidence.size(),
                    " confidences"),
                "give each record's answer and its confidence.");
  const text::Prompt prompt = this->prompt();
  std::vector<std::vector<int32_t>> prompts;
  for (const text::Record& r : right) prompts.push_back(prompt.question(r));
  auto questions = question_states(prompts);
  std::vector<AnsweredQuestion> answered;
  for (std::size_t i = 0; i < right.size(); ++i)
    answered.push_back({std::move(questions[i]), answers[i], confidence[i]});
  auto weighed = std::make_shared<LearnedQuestions>(*learned_);
  weighed->weigh(answered);
  learned_ = std::move(weighed);
  std::vector<double> nearness;
  for (const auto& a : answered) nearness.push_back(learned_->nearness(a.question, a.answer, a.confidence));
  return nearness;
}

}  // namespace ft::inline FTLIB_ABI
