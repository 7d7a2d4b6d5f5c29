// examples/qa/prepare.hpp: `qa prepare`: question-answer files of many kinds to one file of records.
#pragma once
#include "readers.hpp"

#include <ftlib/io/gguf.hpp>       // GgufFile
#include <ftlib/text/dataset.hpp>  // Dataset
#include <ftlib/text/prompt.hpp>
#include <ftlib/text/records.hpp>
#include <ftlib/text/tokenizer.hpp>

#include <sys/stat.h>  // ::stat
#include <CLI/CLI.hpp>

#include <filesystem>     // std::filesystem::path
#include <functional>     // std::function
#include <iostream>       // std::cout
#include <limits>         // std::numeric_limits
#include <map>            // std::map
#include <memory>         // std::shared_ptr
#include <ostream>        // std::ostream
#include <set>            // std::set
#include <span>           // std::span
#include <string>         // std::string
#include <string_view>    // std::string_view
#include <unordered_map>  // std::unordered_map
#include <unordered_set>  // std::unordered_set
#include <vector>         // std::vector

namespace qa {

struct PrepareOptions {
  std::vector<std::filesystem::path> files;  ///< or folders
  std::filesystem::path out = {};
  Form form = Form::qa;
  bool strict = false;  ///< the first bad record throws
  Columns columns = {};
  bool no_header = false;
  char delimiter = 0;                ///< 0: found
  bool unanswered = false;           ///< questions without an answer are kept
  std::filesystem::path model = {};  ///< whose tokens lengths are counted in; none: characters

  ReadOptions read() const {
    ReadOptions options(form);
    options.columns = columns;
    options.no_header = no_header;
    options.delimiter = delimiter;
    options.unanswered = unanswered;
    return options;
  }
};

/// Whether there is a Hangul syllable or letter in a UTF-8 text: U+1100-11FF, U+3130-318F, U+AC00-D7A3.
inline bool has_hangul(std::string_view text) {
  for (std::size_t i = 0; i + 2 < text.size(); ++i) {
    const auto byte = [&](std::size_t k) { return static_cast<unsigned char>(text[i + k]); };
    if ((byte(0) & 0xF0u) != 0xE0u) continue;
    const unsigned c = ((byte(0) & 0x0Fu) << 12) | ((byte(1) & 0x3Fu) << 6) | (byte(2) & 0x3Fu);
    if ((c >= 0x1100 && c <= 0x11FF) || (c >= 0x3130 && c <= 0x318F) || (c >= 0xAC00 && c <= 0xD7A3)) return true;
  }
  return false;
}

namespace detail {

/// "1 record", "2 records"
inline std::string counted(std::size_t n, std::string_view what) { return str(n, ' ', what, n == 1 ? "" : "s"); }

/// All that a record is made of, so that two are the same where this is.
inline std::string content_of(const Record& record) {
  std::string all =
      str(record.question, '\0', record.answers.empty() ? "" : record.answers.front(), '\0', record.context);
  for (const auto& turn : record.turns) all += str('\0', turn.role, '\0', turn.content);
  for (const auto& answer : record.rejected) all += str('\0', "not ", answer);
  return all + '\0' + record.text;
}

/// The split that a file's name tells, or the folder's that it lies in below `root`: train-00000.jsonl,
/// KorQuAD_v1.0_dev.json, Validation/a.csv. Empty where it tells none, or two.
inline std::string split_of_name(const std::filesystem::path& file, const std::filesystem::path& root) {
  const auto told = [](const std::filesystem::path& name) {
    std::set<std::string> found;
    std::string word;
    for (const char c : name.string() + '.') {
      if ((c >= '0' && c <= '9') || std::string_view("._- ()[]").find(c) != std::string_view::npos) {
        if (ft::text::is_known_split(word)) found.insert(ft::text::split_name(word));
        word.clear();
      } else {
        word += c;
      }
    }
    return found.size() == 1 ? *found.begin() : std::string();
  };
  std::string split = told(file.stem());
  if (!std::filesystem::is_directory(root)) return split;
  for (auto folder = file.parent_path(); split.empty() && folder != root && folder.has_relative_path();
       folder = folder.parent_path())
    split = told(folder.filename());
  return split;
}

/// "not JSON at byte #": reasons that differ in numbers and ids are one.
inline std::string reason(std::string_view why) {
  if (why.starts_with("id "))
    if (const auto colon = why.find(": "); colon != why.npos) why.remove_prefix(colon + 2);
  std::string out;
  for (const char c : why) {
    const bool digit = c >= '0' && c <= '9';
    if (digit && out.ends_with('#')) continue;
    out += digit && (out.empty() || out.back() == ' ') ? '#' : c;  // and not the 8 of UTF-8
  }
  return out;
}

inline ft::Tokenizer tokenizer_of(const std::filesystem::path& model) {
  if (!std::filesystem::is_directory(model)) return ft::Tokenizer::from_gguf(ft::GgufFile::open(model));
  auto spec = ft::tokenizer_spec_from_folder(model);
  if (!spec) throw Error(str(model.string(), ": has no tokenizer"), "a Hugging Face folder has a tokenizer.json.");
  return ft::Tokenizer(*std::move(spec));
}

/// How long each record is, and how to show one.
struct Measured {
  std::vector<std::size_t> sizes;
  std::function<std::string(std::size_t)> shown;  // of a record's place
  bool tokens = false;                            // what `sizes` are in; else characters
  std::string warning;                            // why the model does not learn all of them
};

/// A text's lines, indented; what is longer than a screen is cut.
inline std::string indented(std::string_view text) {
  std::string out;
  Lines lines(text);
  for (std::string_view line; lines.next(line);) out += str("    ", line, '\n');
  return out;
}
inline std::string cut(std::string_view text) {
  constexpr std::size_t most = 400;
  if (text.size() <= most) return std::string(text);
  return str(text.substr(0, ft::valid_utf8_prefix(text.substr(0, most))), "... (", text.size(), " bytes)");
}

/// In characters, and as the question-answer form writes them, or turn by turn.
inline Measured measure(const std::vector<Record>& records) {
  Measured out;
  const auto characters = [](std::string_view text) {
    return static_cast<std::size_t>(std::count_if(
        text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0u) != 0x80u; }));
  };
  for (const auto& record : records) {
    std::size_t n = characters(record.context) + characters(record.question) + characters(record.text);
    if (!record.answers.empty()) n += characters(record.answers.front());
    for (const auto& turn : record.turns) n += characters(turn.content);
    for (const auto& answer : record.rejected) n += characters(answer);
    out.sizes.push_back(n);
  }
  out.shown = [&records](std::size_t i) {
    const Record& record = records[i];
    std::string text;
    for (const auto& turn : record.turns) {
      const bool learned = turn.role == "assistant";
      text += str(turn.role, ": ", learned ? "[[" : "", cut(turn.content), learned ? "]]\n" : "\n");
    }
    if (!record.text.empty()) text = str("[[", cut(record.text), "]]\n");
    else if (record.turns.empty()) {
      if (!record.context.empty()) text += str("Context: ", cut(record.context), '\n');
      text += str("Q: ", cut(record.question), "\nA:[[ ",
                  record.unanswered ? "(that it does not know: --unknown)" : cut(record.answers.front()), "]]\n");
    }
    for (const auto& answer : record.rejected) text += str("not [[ ", cut(answer), "]]\n");
    return indented(text);
  };
  return out;
}

/// In a model's tokens, and as it learns them: in the chat form where one is a conversation.
inline Measured measure(const std::vector<Record>& records, const std::filesystem::path& model) {
  const bool chat = std::any_of(records.begin(), records.end(), [](const Record& r) { return !r.turns.empty(); });
  const auto tokenizer = tokenizer_of(model);
  try {
    const ft::text::Prompt prompt(tokenizer, {.form = chat ? ft::text::Form::chat : ft::text::Form::question_answer,
                                              .unknown = "I do not know."});
    const auto data = std::make_shared<ft::text::Dataset>(
        records, prompt, ft::text::DatasetOptions{.max_tokens = std::numeric_limits<std::int64_t>::max()});
    Measured out;
    std::vector<std::size_t> places(records.size(), data->size());  // of the records' examples
    for (const auto& example : data->examples()) {
      places[example.record] = out.sizes.size();
      out.sizes.push_back(example.tokens.size());
    }
    out.tokens = true;
    if (!data->refused().empty()) out.warning = "of these, training will have " + data->left_out();
    out.shown = [data, tokenizer, places](std::size_t i) -> std::string {
      if (places[i] == data->size()) return indented("(refused by the model's chat template)");
      const auto& example = data->examples()[places[i]];
      std::string text;
      for (std::size_t begin = 0, end; begin < example.tokens.size(); begin = end) {
        const bool learned = example.learned[begin];
        for (end = begin; end < example.tokens.size() && example.learned[end] == learned;) ++end;
        const auto part = cut(tokenizer.decode(std::span(example.tokens).subspan(begin, end - begin)));
        text += learned ? "[[" + part + "]]" : part;
      }
      for (const auto& answer : data->records()[i].rejected) text += str("\nnot [[", cut(answer), "]]");
      return indented(text);
    };
    return out;
  } catch (const Error& e) {
    auto out = measure(records);
    out.warning = str("this model does not learn them", chat ? " in the chat form" : "", ": ", e.message());
    return out;
  }
}

}  // namespace detail

/// Reads the files, leaves out what is bad and what is there twice (the same question, first answer and context, or the
/// same turns), gives every record an id, a language and, where the files' names tell them, a split, and writes the
/// rest. Says on `report` what became of each file, and what was understood. Throws Error where a file cannot be read,
/// one that was given by name holds no record, the output is an input, nothing is left to write, or, if strict, at the
/// first bad record; nothing is written then.
inline void prepare(const PrepareOptions& options, std::ostream& report) {
  constexpr std::size_t most_listed = 20;
  struct File {
    std::filesystem::path path;
    std::string split;  // that its name tells
    bool by_name;       // not found in a folder
  };
  std::vector<File> files;
  for (const auto& given : options.files)
    for (auto& path : source_files(given))
      files.push_back({path, detail::split_of_name(path, given), !std::filesystem::is_directory(given)});
  for (const auto& file : files) {
    std::error_code ignored;
    if (std::filesystem::equivalent(file.path, options.out, ignored))
      throw Error(str(options.out.string(), ": is to be read and to be written"), "give --out another name.");
  }
  if (!options.model.empty()) (void)detail::tokenizer_of(options.model);  // a name that is wrong is told at once

  std::vector<Source> sources;
  bool own_splits = false;
  std::set<std::string> named_splits;
  for (const auto& file : files) {
    sources.push_back(read_source(file.path, options.read()));
    auto& source = sources.back();
    if (options.strict && !source.bad.empty())
      throw Error(str(source.bad.front()),
                  source.hint.empty() ? "mend it, or leave --strict away to go on without it." : source.hint);
    if (file.by_name && source.records.empty())
      throw Error(
          source.bad.empty() ? str(file.path.string(), ": holds no record")
                             : str(file.path.string(), ": no record can be used; line ", source.bad.front().line, ": ",
                                   source.bad.front().why),
          source.hint.empty() ? "each needs a question and an answer, messages, or a text, in UTF-8." : source.hint);
    for (const auto& record : source.records) own_splits |= !record.split.empty();
    if (!source.records.empty()) named_splits.insert(file.split);
  }
  // A name tells a split where files differ in it; one file alone, whatever its name, is all there is.
  const bool split_by_name = named_splits.size() > 1 || (own_splits && !named_splits.contains(""));

  std::vector<Record> records;
  std::unordered_map<std::string, std::string> pairs;  // and their splits
  std::unordered_set<std::string> ids;
  struct Reason {
    std::size_t count = 0;
    std::vector<std::string> places;  // the first
  };
  std::map<std::string, Reason> reasons;
  std::vector<std::string> not_read;
  std::size_t left_out = 0, duplicates = 0, in_other_split = 0, renamed = 0, by_name = 0;
  for (std::size_t f = 0; f < files.size(); ++f) {
    const auto& file = files[f];
    auto& source = sources[f];
    const std::size_t before = records.size(), read = source.records.size();
    if (read == 0) not_read.push_back(file.path.filename().string());
    std::size_t number = 0, same = 0;
    for (auto& record : source.records) {
      ++number;
      if (record.split.empty() && split_by_name && !file.split.empty()) record.split = file.split, ++by_name;
      const auto [first, fresh] = pairs.emplace(detail::content_of(record), record.split);
      if (!fresh) {
        ++same;
        in_other_split += first->second != record.split;
        continue;
      }
      if (record.id.empty()) record.id = str(file.path.stem().string(), '/', number);
      const std::string id = record.id;
      for (int copy = 2; !ids.insert(record.id).second; ++copy) record.id = str(id, '-', copy);
      renamed += record.id != id;
      if (record.lang.empty()) record.lang = has_hangul(detail::content_of(record)) ? "ko" : "en";
      try {
        (void)ft::text::to_json_line(record);
      } catch (const Error& e) {
        source.bad.push_back({file.path.string(), source.lines[number - 1], e.message()});
        continue;
      }
      records.push_back(std::move(record));
    }
    duplicates += same;
    report << file.path.string() << ": " << records.size() - before + same << " records, " << same << " duplicates, "
           << source.bad.size() << " bad\n";
    for (const auto& note : source.notes) report << "  " << note << '\n';
    if (split_by_name && !file.split.empty() && read > 0) report << "  split \"" << file.split << "\" by its name\n";
    for (std::size_t i = 0; i < source.bad.size() && i < most_listed; ++i) report << "  " << source.bad[i] << '\n';
    if (source.bad.size() > most_listed) report << "  and " << source.bad.size() - most_listed << " more\n";
    if (!source.hint.empty()) report << "  hint: " << source.hint << '\n';
    for (const auto& bad : source.bad) {
      auto& one = reasons[detail::reason(bad.why)];
      ++one.count;
      if (one.places.size() < 3) one.places.push_back(str(file.path.filename().string(), ':', bad.line));
    }
    left_out += source.bad.size();
    source = {};
  }
  if (records.empty())
    throw Error(str(options.files.front().string(), options.files.size() > 1 ? " and the others" : "",
                    ": no record can be used"),
                "each needs a question and an answer, messages, or a text, in UTF-8 (iconv -f CP949 -t UTF-8 converts "
                "old Korean files).");
  ft::text::write_records(options.out, records);

  std::map<std::string, std::size_t> languages, splits;
  std::map<std::string, std::set<std::string>> answers_of_question;
  std::size_t conversations = 0, texts = 0, preferred = 0, line_feeds = 0, none = 0;
  const std::set<std::string> missing = {"nan", "null", "none", "n/a", "#n/a", "undefined"};
  for (const auto& record : records) {
    ++languages[record.lang];
    ++splits[record.split];
    conversations += !record.turns.empty();
    texts += !record.text.empty();
    preferred += record.rejected.size();
    if (!record.answers.empty()) {
      none += missing.contains(lowered(record.answers.front()));
      line_feeds += record.answers.front().find('\n') != std::string::npos;
      answers_of_question[str(record.context, '\0', record.question)].insert(record.answers.front());
    }
  }
  report << options.out.string() << ": " << records.size() << " records";
  for (const auto& [lang, count] : languages) report << ", " << lang << ' ' << count;
  report << '\n';
  if (conversations > 0)
    report << "  " << detail::counted(conversations, "conversation")
           << ", of which every assistant's turn is learned: train with --form chat\n";
  if (preferred > 0)
    report << "  " << detail::counted(preferred, "preference pair")
           << ", of which the better answer is learned to be preferred\n";
  if (texts > 0) report << "  " << detail::counted(texts, "plain text") << ", learned whole\n";
  if (splits.size() == 1 && splits.contains("")) {
    report << "  no splits: train holds a tenth out\n";
  } else {
    report << "  splits:";
    for (const auto& [split, count] : splits)
      report << (split == splits.begin()->first ? " " : ", ") << (split.empty() ? "none" : split) << ' ' << count
             << (split.empty() ? " (is trained)"
                 : !ft::text::is_known_split(split) && split != "untrained"
                     ? " (is not trained: not train, valid or test)"
                     : "");
    report << (by_name > 0 ? str("; ", by_name, " by their files' names") : "") << '\n';
  }
  if (!not_read.empty()) report << "  files of which nothing is read: " << listed(not_read) << '\n';
  if (left_out > 0) {
    report << "  left out: " << left_out << " that are bad\n";
    for (const auto& [why, one] : reasons) {
      report << "    " << one.count << ": " << why << " (";
      for (std::size_t i = 0; i < one.places.size(); ++i) report << (i ? ", " : "") << one.places[i];
      report << (one.count > one.places.size() ? ", ...)\n" : ")\n");
    }
  }
  if (duplicates > 0) {
    report << "  left out: " << duplicates << " that were there already";
    if (in_other_split > 0) report << ", " << in_other_split << " of them in another split";
    report << '\n';
  }
  if (renamed > 0) report << "  " << detail::counted(renamed, "id") << " that were there already got a number\n";
  std::size_t several = 0;
  for (const auto& [question, answers] : answers_of_question) several += answers.size() > 1;
  if (several > 0)
    report << "  warning: " << detail::counted(several, "question") << " with different answers in several records\n";
  if (none > 0)
    report << "  warning: " << detail::counted(none, "answer")
           << " of nan, null, none or the like, as a missing value is written\n";
  if (line_feeds > 0)
    report << "  warning: " << line_feeds << (line_feeds == 1 ? " answer has" : " answers have")
           << " several lines, and a line's end ends answers in the question-answer form: train with --form chat\n";
  const auto measured = options.model.empty() ? detail::measure(records) : detail::measure(records, options.model);
  auto sizes = measured.sizes;
  std::sort(sizes.begin(), sizes.end());
  if (!measured.warning.empty()) report << "  warning: " << measured.warning << '\n';
  report << "  " << (measured.tokens ? "tokens" : "characters") << " a record: half have up to "
         << sizes[(sizes.size() - 1) / 2] << ", 95 % up to " << sizes[(sizes.size() - 1) * 95 / 100] << ", the longest "
         << sizes.back() << '\n';
  report << "  as they are trained, what is learned between [[ and ]]:\n";
  for (std::size_t i = 0, printed = 0; i < records.size() && printed < 3; ++i) {
    const auto& split = records[i].split;
    if (!split.empty() && split != "train" && (splits.contains("train") || splits.contains(""))) continue;
    report << (printed++ ? "\n" : "") << measured.shown(i);
  }
}

/// Whether a path leads to what this program prints to, as /dev/stdout does.
inline bool is_standard_output(const std::filesystem::path& path) {
  struct ::stat printed, named;
  return ::fstat(1, &printed) == 0 && ::stat(path.c_str(), &named) == 0 && printed.st_dev == named.st_dev &&
         printed.st_ino == named.st_ino;
}

/// Registers `prepare` with the program; its callback throws Error.
inline void add_prepare(CLI::App& app) {
  struct Arguments {
    PrepareOptions options;
    std::vector<std::string> files;
    std::string out, form = "qa", delimiter, model;
  };
  const auto arguments = std::make_shared<Arguments>();  // lives as long as the callback
  auto* command = app.add_subcommand("prepare", "Turn question-answer files into one file of records");
  command
      ->add_option(
          "FILE", arguments->files,
          "JSON, JSONL, CSV, TSV, SQuAD, KorQuAD, chat data (messages, ShareGPT, TRL, Alpaca), preference pairs, "
          "chatterbot YAML, Open Trivia text, or folders of these")
      ->required();
  command->add_option("--out", arguments->out, "the JSONL file to write")->required()->type_name("DATA.jsonl");
  command
      ->add_option("--form", arguments->form,
                   "qa: questions and answers alone\n"
                   "chat: chatterbot's conversations turn by turn, the turns before as context\n"
                   "context: questions with the passage they came with")
      ->check(CLI::IsMember({"qa", "chat", "context"}))
      ->capture_default_str();
  auto& columns = arguments->options.columns;
  command->add_option(
      "--question-column", columns.question,
      "the column or member that is the question (default: by its name); a number counts columns from 1");
  command->add_option("--answer-column", columns.answer, "that is the answer");
  command->add_option("--context-column", columns.context, "that is the passage");
  command->add_option("--id-column", columns.id, "that is the record's name");
  command->add_option("--split-column", columns.split, "that says train, valid or test");
  command->add_flag("--no-header", arguments->options.no_header,
                    "a table's first row is a record; of two columns the first is the question");
  command->add_option("--delimiter", arguments->delimiter,
                      "what separates a table's columns: a character, or tab (default: found)");
  command
      ->add_option("--model", arguments->model,
                   "count lengths in this model's tokens, and show records as it learns them (default: in characters)")
      ->type_name("PATH");
  command->add_flag(
      "--unanswered", arguments->options.unanswered,
      "keep questions without an answer, to which the model learns to say that it does not know (default: "
      "they are bad)");
  command->add_flag("--strict", arguments->options.strict, "stop at the first bad record (default: list it and go on)");
  command->footer("Example:\n  qa prepare korquad.json faq.csv --out data.jsonl");
  command->callback([arguments] {
    PrepareOptions options = arguments->options;
    options.files = {arguments->files.begin(), arguments->files.end()};
    options.out = arguments->out;
    options.model = arguments->model;
    options.form = arguments->form == "chat" ? Form::chat : arguments->form == "context" ? Form::context : Form::qa;
    const auto& delimiter = arguments->delimiter;
    if (delimiter == "tab" || delimiter == "\\t") options.delimiter = '\t';
    else if (delimiter.size() > 1)
      throw Error(str("--delimiter ", delimiter, ": is not one character"), "for a tab say tab.");
    else if (!delimiter.empty()) options.delimiter = delimiter[0];
    prepare(options, is_standard_output(options.out) ? std::cerr : std::cout);  // records alone, where those go there
  });
}

}  // namespace qa
