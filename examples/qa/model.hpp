// examples/qa/model.hpp: what the subcommands of qa that open a model share.
#pragma once
#include "../common/outputs.hpp"
#include "../common/training.hpp"

#include <ftlib/adapters/peft.hpp>
#include <ftlib/finetune.hpp>
#include <ftlib/io/gguf.hpp>

#include <CLI/CLI.hpp>

#include <algorithm>  // std::any_of
#include <iostream>   // std::cerr
#include <optional>   // std::optional
#include <string>     // std::string
#include <vector>     // std::vector

namespace qa {

using examples::check_apart;
using examples::check_folder;
using examples::check_output;
using examples::write_json;
using ft::text::Record;

/// What every subcommand that opens a model asks for.
struct ModelArguments {
  std::string model, form, date, device = "cpu", dtype = "f32";
  std::vector<std::string> variables;
  bool thinking = false;
  int threads = 0;
  std::optional<double> sure, near;  // of those that ask

  void add_to(CLI::App& command) {
    add_model_to(command);
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
  }
  /// Of a subcommand that asks nothing.
  void add_model_to(CLI::App& command) {
    command.add_option("--model", model, "a GGUF file or a Hugging Face folder")->required()->type_name("PATH");
    command.add_option("--threads", threads, "CPU threads; 0: one for each core")->capture_default_str();
    command.add_option("--device", device, "what computes; cuda: NVIDIA's GPU")
        ->check(CLI::IsMember({"cpu", "cuda"}))
        ->capture_default_str();
    command.add_option("--dtype", dtype, "what is computed in; bf16 (on cuda alone) takes half the memory of f32")
        ->check(CLI::IsMember({"f32", "bf16"}))
        ->capture_default_str();
  }
  void add_sure_to(CLI::App& command) {
    command
        .add_option("--sure", sure,
                    "confidence that an answer must have, else the model says that it does not know; 0: it answers "
                    "whatever it is asked (default: the adapter's)")
        ->check(CLI::Range(0.0, 1.0));
    command
        .add_option("--near", near,
                    "how near a question must lie to those that its answer was learned for, 0 to 1; -1: anywhere "
                    "(default: the adapter's, with --sure 0 anywhere)")
        ->check(CLI::Range(-1.0, 1.0));
  }
  /// f(the opened model)
  template <class F> void with_model(F f) const {
    if (device == "cpu") {
      if (dtype != "f32")
        throw ft::Error("--dtype bf16: the CPU computes in f32", "leave it out, or add --device cuda.");
      return f(ft::CausalLM<float, ft::Cpu>::from_pretrained(model, {.threads = examples::threads(threads)}));
    }
#if FTLIB_WITH_CUDA
    if (dtype == "bf16") return f(ft::CausalLM<ft::bfloat16, ft::Cuda>::from_pretrained(model));
    f(ft::CausalLM<float, ft::Cuda>::from_pretrained(model));
#else
    throw ft::Error("--device cuda: this qa was built for the CPU alone", "build it with cmake -DFTLIB_CUDA=ON.");
#endif
  }
  /// The form that was asked for, else the adapter's or the usual one; an adapter that is saved keeps it, and
  /// `unknown`, what is answered to records without an answer.
  template <class Lm> void set_form(Lm& lm, const std::string& unknown = {}) const {
    auto options = lm.prompt().options();
    if (!unknown.empty()) options.unknown = unknown;
    if (((sure && *sure > 0) || (near && *near > -1)) && options.unknown.empty()) options.unknown = "I do not know.";
    if (sure) options.sure = *sure;
    if (sure && *sure == 0) options.near = -1;
    if (near) options.near = *near;
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
  void check_adapter(const std::string& adapter) const {
    if (std::filesystem::path(adapter).extension() == ".gguf") {
      ft::GgufFile::open(adapter);
      return;
    }
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

inline bool has_splits(const std::vector<Record>& records) {
  return std::any_of(records.begin(), records.end(), [](const Record& r) { return !r.split.empty(); });
}

/// The records of one split; all of them where the file has no splits. A record without one is trained.
inline std::vector<Record> of_split(const std::vector<Record>& records, std::string split) {
  split = ft::text::split_name(split);
  const bool all = split.empty() || !has_splits(records);
  std::vector<Record> chosen;
  for (const Record& r : records)
    if (all || r.split == split || (split == "train" && r.split.empty())) chosen.push_back(r);
  return chosen;
}

/// A text that forgetting is measured on. Throws Error for what is no text.
inline std::string read_unrelated(const std::string& file) {
  std::string text = ft::read_file(file, uint64_t{64} << 20);
  if (text.starts_with("\xEF\xBB\xBF")) text.erase(0, 3);
  if (const auto fault = ft::text::text_fault(text); !fault.empty())
    throw ft::Error(file + ": " + fault, "iconv turns other encodings into UTF-8.");
  return text;
}

/// What the model's files hold that is passed over.
template <class Lm> void say_notes(Lm& lm) {
  for (const auto& note : lm.summary().notes) std::cerr << "note: " << note << '\n';
}

/// A text on one line.
inline std::string on_one_line(std::string text) {
  for (auto at = text.find('\n'); at != text.npos; at = text.find('\n', at + 2)) text.replace(at, 1, "\\n");
  return text;
}

}  // namespace qa
