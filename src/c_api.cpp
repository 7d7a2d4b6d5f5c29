// src/c_api.cpp: ftlib.h's calls, over the runtime. No exception leaves them, and no other symbol the library.
#include <ftlib/ftlib.h>
#include <ftlib/adapters/peft.hpp>  // read_peft, peft_bytes
#include <ftlib/io/json.hpp>        // Json, parse_json
#include <ftlib/text/causal_lm.hpp>
#include <ftlib/text/dataset.hpp>
#include <ftlib/text/evaluate.hpp>
#include <ftlib/text/export.hpp>
#include <ftlib/train/trainer.hpp>

#include <algorithm>  // std::any_of
#include <cstdlib>    // std::malloc
#include <cstring>    // std::memcpy
#include <limits>     // std::numeric_limits
#include <memory>     // std::unique_ptr
#include <mutex>      // std::recursive_mutex
#include <new>        // std::bad_alloc
#include <set>        // std::set
#include <sstream>    // std::ostringstream
#include <string>     // std::string
#include <vector>     // std::vector

struct ft_session {
  ft::CausalLM<float, ft::Cpu> lm;
  std::recursive_mutex calls = {};  // held by the thread whose call runs
  std::mutex stop_mutex = {};       // of the next
  int depth = 0;                    // calls within one another, of callbacks
  ft::StopSource stop = {};         // of the outermost
};

struct ft_records {
  std::vector<ft::text::Record> all;
};

namespace {

using ft::Error;
using ft::ErrorKind;
using ft::Json;
using ft::str;

thread_local std::string last_error, last_notes;

/// What is to be told of a call that goes well.
void note(const std::string& what) { last_notes += what + '\n'; }

void note_all(const std::vector<std::string>& all) {
  for (const auto& one : all) note(one);
}

ft_status status_of(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::bad_argument:
      return FT_BAD_ARGUMENT;
    case ErrorKind::bad_file:
      return FT_BAD_FILE;
    case ErrorKind::no_memory:
      return FT_NO_MEMORY;
    case ErrorKind::no_space:
      return FT_NO_SPACE;
    case ErrorKind::cancelled:
      return FT_CANCELLED;
    case ErrorKind::other:
      break;
  }
  return FT_OTHER;
}

ft_status failed(ft_status status, const char* call, const char* message) noexcept {
  try {
    last_error = str(call, ": ", message);
  } catch (...) {
    last_error.clear();  // no memory for the message either
  }
  return status;
}

/// body(), with what it throws as a status and a message.
template <class F> ft_status guarded(const char* call, F&& body) noexcept {
  last_error.clear();
  last_notes.clear();
  try {
    body();
    return FT_OK;
  } catch (const Error& e) {
    return failed(status_of(e.kind()), call, e.what());
  } catch (const std::bad_alloc&) {
    return failed(FT_NO_MEMORY, call, "the system has no more memory");
  } catch (const std::exception& e) {
    return failed(FT_OTHER, call, e.what());
  } catch (...) {
    return failed(FT_OTHER, call, "an exception of an unknown kind");
  }
}

void require_pointer(const void* pointer, const char* name) {
  if (!pointer) throw Error(str(name, " is NULL"));
}

/// A call in a session: it is this thread's alone, and can be cancelled.
class Call {
 public:
  explicit Call(ft_session& session) : session_(session), lock_(session.calls, std::try_to_lock) {
    if (!lock_)
      throw Error("another thread's call runs in this session", "give each thread its own, by ft_open_session().");
    const std::lock_guard stop(session_.stop_mutex);
    if (session_.depth++ == 0) session_.stop = {};
  }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;
  ~Call() {
    const std::lock_guard stop(session_.stop_mutex);
    --session_.depth;
  }

 private:
  ft_session& session_;
  std::unique_lock<std::recursive_mutex> lock_;
};

/// body(the session's model), as a call in it.
template <class F> ft_status in_session(const char* call, ft_session* session, F&& body) noexcept {
  return guarded(call, [&] {
    require_pointer(session, "session");
    const Call running(*session);
    body(session->lm);
  });
}

std::string text_of(const char* text, const char* name) {
  require_pointer(text, name);
  if (auto fault = ft::text::text_fault(text); !fault.empty()) throw Error(str(name, ": ", fault), "give UTF-8.");
  return text;
}

/// Memory that ft_free() takes.
void* copied(const void* data, std::size_t bytes) {
  void* const memory = std::malloc(bytes ? bytes : 1);
  if (!memory) throw std::bad_alloc();
  if (bytes) std::memcpy(memory, data, bytes);
  return memory;
}
void give(char** to, const std::string& text) {
  if (to) *to = static_cast<char*>(copied(text.c_str(), text.size() + 1));
}
std::string dump(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

/// The members of a JSON object, each read once by its name; done() refuses what was not.
class Options {
 public:
  explicit Options(const char* text) : json_(Json::object()) {
    if (text && *text) json_ = ft::parse_json(text, name);
    if (!json_.is_object()) throw Error(str(name, ": are no JSON object"));
  }

  template <class T> T get(const char* key, T fallback) {
    known_.insert(key);
    return ft::value_or<T>(json_, key, std::move(fallback), name);
  }
  /// A value that is one of these names, as its number.
  int choose(const char* key, const std::vector<std::string>& names) {
    const auto got = get<std::string>(key, names.front());
    std::string list;
    for (std::size_t i = 0; i < names.size(); ++i) {
      if (got == names[i]) return static_cast<int>(i);
      list += (i ? ", " : "") + names[i];
    }
    throw Error(str(name, ": ", key, " is '", got, "'"), str("it can be ", list, "."));
  }
  const Json* find(const char* key) {
    known_.insert(key);
    const auto found = json_.find(key);
    return found == json_.end() || found->is_null() ? nullptr : &*found;
  }
  /// A member that is an object of numbers.
  template <class T> std::map<std::string, T> numbers(const char* key) {
    std::map<std::string, T> out;
    if (const Json* found = find(key)) {
      if (!found->is_object()) throw Error(str(name, ": ", key, " is no JSON object"));
      for (const auto& [member, value] : found->items()) out[member] = ft::at<T>(*found, member, name);
    }
    return out;
  }
  void done() const {
    std::string unknown, list;
    for (const auto& [key, value] : json_.items())
      if (!known_.contains(key)) unknown += str(unknown.empty() ? "" : ", ", '\'', key, '\'');
    for (const auto& key : known_) list += (list.empty() ? "" : ", ") + key;
    if (!unknown.empty()) throw Error(str(name, ": ", unknown, " is not known"), str("known are ", list, "."));
  }

 private:
  static constexpr const char* name = "options";

  Json json_;
  std::set<std::string> known_;
};

ft::Context<ft::Cpu>::Options context_options(const char* text) {
  Options options(text);
  ft::Context<ft::Cpu>::Options out{.threads = options.get("threads", 0),
                                    .seed = options.get<uint64_t>("seed", 0),
                                    .memory_limit = options.get<int64_t>("memory_limit", 0)};
  options.done();
  return out;
}

ft::GenerateOptions generate_options(Options& options, int64_t max_new_tokens) {
  ft::GenerateOptions out{.max_new_tokens = options.get("max_new_tokens", max_new_tokens)};
  out.sampling = {.repetition_penalty = options.get("repetition_penalty", 1.0f),
                  .temperature = options.get("temperature", 0.0f),
                  .top_k = options.get("top_k", 0),
                  .top_p = options.get("top_p", 1.0f),
                  .min_p = options.get("min_p", 0.0f)};
  out.stop = options.get<std::vector<std::string>>("stop", {});
  out.seed = options.get<uint64_t>("seed", 0);
  if (out.max_new_tokens < 1) throw Error(str("options: max_new_tokens is ", out.max_new_tokens), "give 1 or more.");
  out.sampling.check();
  return out;
}

/// The answer to `prompt`, told and given as it comes; with `trim`, without the blanks that it begins with.
void answer(ft_session& session, std::vector<int32_t> prompt, const ft::GenerateOptions& options, bool trim,
            ft_on_text on_text, void* user, char** to) {
  const ft::StopToken stop = session.stop.token();
  auto stream = session.lm.generate_from(std::move(prompt), options);
  std::string all;
  bool stopped = stop.stop_requested();
  while (!stopped) {
    auto piece = stream.next();
    if (!piece) break;
    if (trim && all.empty()) piece->erase(0, piece->find_first_not_of(' '));
    if (piece->empty()) continue;
    all += *piece;
    stopped = (on_text && on_text(piece->c_str(), user) != 0) || stop.stop_requested();
  }
  give(to, all);
  if (stopped) throw ft::Interrupted(str("cancelled after ", all.size(), " bytes of the answer"));
}

ft_status answer_turns(const char* call, ft_session* session, const char* options, ft_on_text on_text, void* user,
                       char** to, const std::function<std::vector<ft::text::Message>()>& turns) noexcept {
  return in_session(call, session, [&](auto& lm) {
    if (to) *to = nullptr;
    const auto prompt = lm.prompt();
    Options given(options);
    const auto generate = generate_options(given, 128);
    given.done();
    answer(*session, prompt.conversation(turns()), lm.answer_options(prompt, generate), true, on_text, user, to);
  });
}

std::vector<ft::text::Message> turns_of(const char* messages) {
  const Json list = ft::parse_json(text_of(messages, "messages"), "messages");
  if (!list.is_array() || list.empty()) throw Error("messages: are no JSON list of turns");
  std::vector<ft::text::Message> turns;
  for (const Json& turn : list) {
    for (const auto& [key, value] : turn.items())
      if (key != "role" && key != "content") throw Error(str("messages: a turn has the key '", key, "'"));
    turns.push_back({ft::at<std::string>(turn, "role", "messages"), ft::at<std::string>(turn, "content", "messages")});
  }
  return turns;
}

/// "3 of split 'test', 1 of split 'other'"
std::string counted(const std::map<std::string, int64_t>& splits) {
  std::string out;
  for (const auto& [split, n] : splits) out += str(out.empty() ? "" : ", ", n, " of split '", split, '\'');
  return out;
}

void note_bad(const std::vector<ft::text::BadRecord>& bad) {
  if (bad.empty()) return;
  note(str(bad.size(), " record(s) cannot be used and are left out:"));
  for (std::size_t i = 0; i < bad.size() && i < 3; ++i) note(str("  ", bad[i]));
  if (bad.size() > 3) note("  ...");
}

ft_status new_records(const char* call, ft_records** records,
                      const std::function<std::vector<ft::text::Record>(std::vector<ft::text::BadRecord>&)>& read) {
  return guarded(call, [&] {
    require_pointer(records, "records");
    *records = nullptr;
    std::vector<ft::text::BadRecord> bad;
    auto made = std::make_unique<ft_records>(ft_records{read(bad)});
    note_bad(bad);
    *records = made.release();
  });
}

Json curve(const std::vector<ft::CurvePoint>& points) {
  Json out = Json::array();
  for (const auto& point : points) out.push_back({point.x, point.y});
  return out;
}

/// What is read of ft_train()'s options.
struct TrainOptions {
  ft::TrainerConfig config;
  ft::text::DatasetOptions data;

  TrainOptions(const char* text, ft::StopToken stop) {
    Options options(text);
    const auto lr = options.get("lr", 5e-4f), decay = options.get("weight_decay", 0.0f);
    switch (options.choose("optimizer", {"adamw", "adamw8bit", "lion"})) {
      case 0:
        config.optimizer = ft::AdamW{.lr = lr, .weight_decay = decay};
        break;
      case 1:
        config.optimizer = ft::AdamW8bit{.lr = lr, .weight_decay = decay};
        break;
      default:
        config.optimizer = ft::Lion{.lr = lr, .weight_decay = decay};
    }
    const auto warmup = options.get("warmup", 0.03f);
    switch (options.choose("schedule", {"cosine", "linear", "constant"})) {
      case 0:
        config.schedule = ft::Cosine{.warmup = warmup};
        break;
      case 1:
        config.schedule = ft::LinearDecay{.warmup = warmup};
        break;
      default:
        config.schedule = ft::Constant{.warmup = warmup};
    }
    config.epochs = options.get("epochs", config.epochs);
    config.max_steps = options.get("max_steps", config.max_steps);
    config.batch_tokens = options.get("batch_tokens", config.batch_tokens);
    config.micro_batch_tokens = options.get("micro_batch_tokens", config.micro_batch_tokens);
    config.clip_norm = options.get("clip_norm", config.clip_norm);
    config.recompute = options.get("recompute", config.recompute);
    config.seed = options.get("seed", config.seed);
    config.evaluate_every = options.get("evaluate_every", config.evaluate_every);
    config.patience = options.get("patience", config.patience);
    config.out_dir = options.get<std::string>("out_dir", {});
    config.save_every = options.get("save_every", config.save_every);
    config.resume = options.get("resume", config.resume);
    config.stop = std::move(stop);
    data.max_tokens = options.get("max_tokens", data.max_tokens);
    if (options.choose("loss_on", {"answer", "everything"}) == 1) data.loss_on = ft::text::LossOn::everything;
    options.done();
    if (config.out_dir.empty() && (config.resume || config.save_every > 0))
      throw Error("options: resume and save_every need an out_dir", "it is where the checkpoint is.");
  }
};

/// Says how many answers asking will cut, because they hold what ends one.
void note_stops(const ft::text::Dataset& data, const ft::text::Prompt& prompt) {
  int64_t cut = 0;
  for (const auto& example : data.examples()) {
    const auto answers = ft::text::accepted_answers(data.records()[example.record]);
    cut += std::any_of(prompt.stop().begin(), prompt.stop().end(), [&](const std::string& stop) {
      return !answers.empty() && !stop.empty() && answers.front().find(stop) != std::string::npos;
    });
  }
  if (cut > 0) note(str(cut, " of the answers to learn hold what ends an answer in this form, and will be cut there"));
}

ft_step step_of(const ft::Step& s, double held_out_loss) {
  return {.size = sizeof(ft_step),
          .step = s.step,
          .steps = s.steps,
          .loss = s.loss,
          .held_out_loss = held_out_loss,
          .lr = s.lr,
          .grad_norm = s.grad_norm,
          .tokens_per_second = s.tokens_per_second,
          .tokens = s.tokens,
          .memory = s.memory,
          .skipped = s.skipped};
}

void train(ft_session& session, const ft_records& records, const TrainOptions& options, ft_on_step on_step, void* user,
           char** report) {
  auto& lm = session.lm;
  std::vector<ft::text::Record> learned, held_out;
  std::map<std::string, int64_t> others;
  for (const auto& record : records.all) {
    if (record.split.empty() || record.split == "train") learned.push_back(record);
    else if (record.split == "valid") held_out.push_back(record);
    else ++others[record.split];
  }
  if (learned.empty())
    throw Error(str("records: none is there to learn", others.empty() ? "" : "; " + counted(others)),
                "those of split \"train\", or without one, are learned.");
  if (!others.empty()) note(str("not learned: ", counted(others)));
  if (held_out.empty() && options.config.patience > 0)
    throw Error("options: patience needs records that are held out", "give some of split \"valid\".");
  const ft::text::Dataset data(std::move(learned), lm.prompt(), options.data);
  const auto valid =
      held_out.empty() ? ft::text::Dataset() : ft::text::Dataset(std::move(held_out), lm.prompt(), options.data);
  if (const auto left_out = data.left_out(); !left_out.empty()) note("to learn: " + left_out);
  if (const auto left_out = valid.left_out(); !left_out.empty()) note("held out: " + left_out);
  note_stops(data, lm.prompt());

  ft::Trainer trainer(lm, options.config);
  double held_out_loss = std::numeric_limits<double>::quiet_NaN();
  trainer.on_evaluation([&](int64_t, double loss) { held_out_loss = loss; });
  trainer.on_step([&](const ft::Step& s) {
    const ft_step told = step_of(s, held_out_loss);
    return on_step && on_step(&told, user) != 0 ? ft::Flow::stop : ft::Flow::go;
  });
  const ft::RunReport r = trainer.fit(data, valid.size() ? &valid : nullptr);
  note_all(r.warnings);
  give(report, dump({{"steps", r.steps},
                     {"finished", r.finished},
                     {"stopped_early", r.stopped_early},
                     {"examples", data.size()},
                     {"best_loss", r.best_step > 0 ? Json(r.best_loss) : Json()},
                     {"best_step", r.best_step},
                     {"seconds", r.seconds},
                     {"tokens_per_second", r.tokens_per_second},
                     {"peak_bytes", r.peak_bytes},
                     {"train_loss", curve(r.train_loss)},
                     {"held_out_loss", curve(r.held_out_loss)}}));
  if (!r.finished)
    throw ft::Interrupted(str("cancelled after step ", r.steps), options.config.out_dir.empty()
                                                                     ? "the session keeps what it has learned so far."
                                                                     : "call it again with \"resume\": true to go on.");
}

Json answers_of(const ft::Evaluation& e) {
  Json out = Json::array();
  for (const auto& a : e.answers)
    out.push_back({{"id", a.record->id},
                   {"question", ft::text::last_question(*a.record)},
                   {"answer", a.text},
                   {"exact", a.exact},
                   {"f1", a.f1},
                   {"confidence", a.certainty.confidence},
                   {"nearness", a.certainty.nearness}});
  return out;
}

void evaluate(ft_session& session, const ft_records& records, const char* text, ft_on_progress on_progress, void* user,
              char** report) {
  Options given(text);
  ft::EvaluateOptions options{.generate = generate_options(given, 48), .batch = given.get<int64_t>("batch", 64)};
  const auto split = ft::text::split_name(given.get<std::string>("split", {}));
  given.done();
  std::vector<ft::text::Record> asked;
  for (const auto& record : records.all)
    if (split.empty() || record.split == split) asked.push_back(record);
  if (asked.empty()) throw Error(str("records: none is of split '", split, '\''), "leave \"split\" out to ask all.");
  options.stop = session.stop.token();
  options.progress = [&](int64_t done, int64_t of) {
    if (on_progress && on_progress(done, of, user) != 0 && done < of)
      throw ft::Interrupted(str("cancelled after ", done, " of ", of, " questions"));
  };
  const ft::Evaluation e = ft::evaluate(session.lm, asked, options);
  note_all(e.notes);
  give(report, dump({{"n", e.n},
                     {"exact_match", e.exact_match},
                     {"strict_match", e.strict_match},
                     {"f1", e.f1},
                     {"perplexity", e.perplexity},
                     {"answers", answers_of(e)}}));
}

ft::Lora lora_of(const char* text) {
  Options options(text);
  ft::Lora lora;
  lora.kind = options.get("kind", lora.kind);
  lora.rank = options.get("rank", lora.rank);
  lora.alpha = options.get("alpha", lora.alpha);
  lora.rslora = options.get("rslora", lora.rslora);
  lora.dropout = options.get("dropout", lora.dropout);
  lora.seed = options.get("seed", lora.seed);
  lora.modules_to_save = options.get("modules_to_save", lora.modules_to_save);
  lora.rank_pattern = options.numbers<int>("rank_pattern");
  lora.alpha_pattern = options.numbers<float>("alpha_pattern");
  if (const Json* targets = options.find("targets"); targets && *targets != "all")
    lora.targets = ft::Targets(options.get<std::vector<std::string>>("targets", {}));
  options.done();
  return lora;
}

}  // namespace

const char* ft_version(void) { return FTLIB_VERSION; }
const char* ft_last_error(void) { return last_error.c_str(); }
const char* ft_last_notes(void) { return last_notes.c_str(); }
void ft_free(void* memory) { std::free(memory); }

ft_status ft_open(const char* path, const char* options, ft_session** session) {
  return guarded("ft_open", [&] {
    require_pointer(session, "session");
    *session = nullptr;
    require_pointer(path, "path");
    auto made = std::unique_ptr<ft_session>(
        new ft_session{.lm = ft::CausalLM<float, ft::Cpu>::from_pretrained(path, context_options(options))});
    const auto summary = made->lm.summary();
    note_all(summary.notes);
    if (!summary.hint.empty()) note(summary.hint);
    *session = made.release();
  });
}
ft_status ft_open_session(ft_session* of, const char* options, ft_session** session) {
  return in_session("ft_open_session", of, [&](auto& lm) {
    require_pointer(session, "session");
    *session = nullptr;
    *session = new ft_session{.lm = lm.session(context_options(options))};
  });
}
void ft_close(ft_session* session) { delete session; }

ft_status ft_summary(ft_session* session, char** text) {
  return in_session("ft_summary", session, [&](auto& lm) {
    require_pointer(text, "text");
    *text = nullptr;
    std::ostringstream out;
    out << lm.summary();
    give(text, out.str());
  });
}
int ft_cancel(ft_session* session) {
  if (!session) return 0;
  const std::lock_guard stop(session->stop_mutex);
  if (session->depth == 0) return 0;
  session->stop.request_stop();
  return 1;
}
ft_status ft_set_prompt(ft_session* session, const char* options) {
  return in_session("ft_set_prompt", session, [&](auto& lm) {
    Json json = lm.prompt().options().to_json();  // what is not named stays
    const Json given = options && *options ? ft::parse_json(options, "options") : Json::object();
    if (!given.is_object()) throw Error("options: are no JSON object");
    json.update(given);
    lm.set_prompt(ft::text::PromptOptions::from_json(json, "options"));
  });
}

ft_status ft_generate(ft_session* session, const char* text, const char* options, ft_on_text on_text, void* user,
                      char** to) {
  return in_session("ft_generate", session, [&](auto& lm) {
    if (to) *to = nullptr;
    Options given(options);
    const auto generate = generate_options(given, 128);
    given.done();
    answer(*session, lm.encode(text_of(text, "text")), generate, false, on_text, user, to);
  });
}
ft_status ft_ask(ft_session* session, const char* question, const char* options, ft_on_text on_text, void* user,
                 char** to) {
  return answer_turns("ft_ask", session, options, on_text, user, to, [&] {
    return std::vector<ft::text::Message>{{.role = "user", .content = text_of(question, "question")}};
  });
}
ft_status ft_chat(ft_session* session, const char* messages, const char* options, ft_on_text on_text, void* user,
                  char** to) {
  return answer_turns("ft_chat", session, options, on_text, user, to, [&] { return turns_of(messages); });
}

ft_status ft_attach(ft_session* session, const char* name, const char* options) {
  return in_session("ft_attach", session, [&](auto& lm) { lm.attach(text_of(name, "name"), lora_of(options)); });
}
ft_status ft_use(ft_session* session, const char* name) {
  return in_session("ft_use", session, [&](auto& lm) {
    if (name) lm.use(name);
    else lm.use_base();
  });
}
ft_status ft_use_sum(ft_session* session, const char* strengths) {
  return in_session("ft_use_sum", session, [&](auto& lm) {
    const Json json = ft::parse_json(text_of(strengths, "strengths"), "strengths");
    if (!json.is_object()) throw Error("strengths: are no JSON object");
    std::map<std::string, float> parts;
    for (const auto& [name, value] : json.items()) parts[name] = ft::at<float>(json, name, "strengths");
    lm.use(parts);
  });
}
ft_status ft_adapter_names(ft_session* session, char** names) {
  return in_session("ft_adapter_names", session, [&](auto& lm) {
    require_pointer(names, "names");
    *names = nullptr;
    give(names, dump(lm.adapters().names()));
  });
}
ft_status ft_copy_adapter(ft_session* session, const char* from, const char* to, float share) {
  return in_session("ft_copy_adapter", session, [&](auto& lm) {
    if (!(share >= 0 && share <= 1)) throw Error(str("share is ", share), "0 (the base) to 1 (as it is).");
    lm.adapters().copy(lm.context(), text_of(from, "from"), text_of(to, "to"), share);
  });
}
ft_status ft_freeze_adapters(ft_session* session) {
  return in_session("ft_freeze_adapters", session, [&](auto& lm) { lm.adapters().freeze(lm.context()); });
}
ft_status ft_remove_adapter(ft_session* session, const char* name) {
  return in_session("ft_remove_adapter", session, [&](auto& lm) { lm.adapters().remove(text_of(name, "name")); });
}
ft_status ft_save_adapter(ft_session* session, const char* folder) {
  return in_session("ft_save_adapter", session, [&](auto& lm) {
    require_pointer(folder, "folder");
    lm.save_adapter(folder);
  });
}
ft_status ft_load_adapter(ft_session* session, const char* name, const char* folder) {
  return in_session("ft_load_adapter", session, [&](auto& lm) {
    require_pointer(folder, "folder");
    note_all(lm.load_adapter(text_of(name, "name"), std::filesystem::path(folder)));
  });
}
ft_status ft_adapter_to_bytes(ft_session* session, char** config, void** tensors, size_t* bytes) {
  return in_session("ft_adapter_to_bytes", session, [&](auto& lm) {
    require_pointer(config, "config");
    require_pointer(tensors, "tensors");
    require_pointer(bytes, "bytes");
    *config = nullptr;
    *tensors = nullptr;
    *bytes = 0;
    const ft::PeftBytes peft = ft::peft_bytes(lm.adapter_data());
    std::unique_ptr<void, void (*)(void*)> copy(copied(peft.tensors.data(), peft.tensors.size()), std::free);
    give(config, peft.config);
    *tensors = copy.release();
    *bytes = peft.tensors.size();
  });
}
ft_status ft_adapter_from_bytes(ft_session* session, const char* name, const char* config, const void* tensors,
                                size_t bytes) {
  return in_session("ft_adapter_from_bytes", session, [&](auto& lm) {
    const auto called = text_of(name, "name");
    require_pointer(config, "config");
    require_pointer(tensors, "tensors");
    const std::span memory(static_cast<const std::byte*>(tensors), bytes);
    note_all(lm.load_adapter(called, ft::read_peft(config, memory, called)));
  });
}
ft_status ft_merge(ft_session* session) {
  return in_session("ft_merge", session, [](auto& lm) { lm.merge(); });
}
ft_status ft_train_all(ft_session* session) {
  return in_session("ft_train_all", session, [](auto& lm) { lm.train_all(); });
}

ft_status ft_read_records(const char* path, ft_records** records) {
  return new_records("ft_read_records", records, [&](auto& bad) {
    require_pointer(path, "path");
    return ft::text::read_records(path, bad);
  });
}
ft_status ft_parse_records(const char* lines, ft_records** records) {
  return new_records("ft_parse_records", records, [&](auto& bad) {
    require_pointer(lines, "lines");
    return ft::text::parse_records(lines, bad);
  });
}
int64_t ft_count_records(const ft_records* records) { return records ? static_cast<int64_t>(records->all.size()) : 0; }
void ft_free_records(ft_records* records) { delete records; }

ft_status ft_train(ft_session* session, const ft_records* records, const char* options, ft_on_step on_step, void* user,
                   char** report) {
  return in_session("ft_train", session, [&](auto&) {
    if (report) *report = nullptr;
    require_pointer(records, "records");
    train(*session, *records, TrainOptions(options, session->stop.token()), on_step, user, report);
  });
}
ft_status ft_evaluate(ft_session* session, const ft_records* records, const char* options, ft_on_progress on_progress,
                      void* user, char** report) {
  return in_session("ft_evaluate", session, [&](auto&) {
    if (report) *report = nullptr;
    require_pointer(records, "records");
    evaluate(*session, *records, options, on_progress, user, report);
  });
}
ft_status ft_remember_questions(ft_session* session, const ft_records* records) {
  return in_session("ft_remember_questions", session, [&](auto& lm) {
    require_pointer(records, "records");
    lm.remember_questions(records->all);
  });
}
ft_status ft_save_model(ft_session* session, const char* folder) {
  return in_session("ft_save_model", session, [&](auto& lm) {
    require_pointer(folder, "folder");
    lm.save_pretrained(folder);
  });
}
ft_status ft_save_gguf(ft_session* session, const char* path, const char* type) {
  return in_session("ft_save_gguf", session, [&](auto& lm) {
    require_pointer(path, "path");
    std::ostringstream said;
    said << ft::save_gguf(lm, path, {.type = type ? type : "stored"});
    std::istringstream lines(said.str());
    for (std::string line; std::getline(lines, line);) note(line);
  });
}
