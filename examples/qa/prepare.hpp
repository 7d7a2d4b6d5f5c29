// examples/qa/prepare.hpp: `qa prepare`: question-answer files of many kinds to one file of records.
#pragma once
#include "readers.hpp"

#include <ftlib/text/records.hpp>

#include <CLI/CLI.hpp>

#include <filesystem>     // std::filesystem::path
#include <iostream>       // std::cout
#include <map>            // std::map
#include <memory>         // std::shared_ptr
#include <ostream>        // std::ostream
#include <string>         // std::string
#include <string_view>    // std::string_view
#include <unordered_set>  // std::unordered_set
#include <vector>         // std::vector

namespace qa {

struct PrepareOptions {
  std::vector<std::filesystem::path> files;  ///< or folders
  std::filesystem::path out;
  Form form = Form::qa;
  bool strict = false;  ///< the first bad record throws
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

/// Reads the files, leaves out what is bad and what is there twice (the same question, first answer and context), gives
/// every record an id and a language, and writes the rest. Says on `report` what became of each file. Throws Error
/// where a file cannot be read, nothing is left to write, or, if strict, at the first bad record; nothing is written
/// then.
inline void prepare(const PrepareOptions& options, std::ostream& report) {
  constexpr std::size_t most_listed = 20;
  std::vector<Record> records;
  std::unordered_set<std::string> pairs, ids;
  for (const auto& given : options.files) {
    for (const auto& file : source_files(given)) {
      auto source = read_source(file, options.form);
      if (options.strict && !source.bad.empty())
        throw Error(str(source.bad.front()), "mend it, or leave --strict away to go on without it.");
      const std::size_t before = records.size();
      std::size_t number = 0;
      for (auto& record : source.records) {
        ++number;
        if (!pairs.insert(str(record.question, '\0', record.answers.front(), '\0', record.context)).second) continue;
        if (record.id.empty()) record.id = str(file.stem().string(), '/', number);
        const std::string id = record.id;
        for (int copy = 2; !ids.insert(record.id).second; ++copy) record.id = str(id, '-', copy);
        if (record.lang.empty())
          record.lang = has_hangul(record.question) || has_hangul(record.answers.front()) ? "ko" : "en";
        records.push_back(std::move(record));
      }
      report << file.string() << ": " << source.records.size() << " records, "
             << source.records.size() - (records.size() - before) << " duplicates, " << source.bad.size() << " bad\n";
      for (std::size_t i = 0; i < source.bad.size() && i < most_listed; ++i) report << "  " << source.bad[i] << '\n';
      if (source.bad.size() > most_listed) report << "  and " << source.bad.size() - most_listed << " more\n";
    }
  }
  if (records.empty())
    throw Error(str(options.files.front().string(), options.files.size() > 1 ? " and the others" : "",
                    ": no record can be used"),
                "each needs a question and an answer, in UTF-8 (iconv -f CP949 -t UTF-8 converts old Korean files).");
  ft::text::write_records(options.out, records);
  std::map<std::string, std::size_t> languages;
  for (const auto& record : records) ++languages[record.lang];
  report << options.out.string() << ": " << records.size() << " records";
  for (const auto& [lang, count] : languages) report << ", " << lang << ' ' << count;
  report << '\n';
}

/// Registers `prepare` with the program; its callback throws Error.
inline void add_prepare(CLI::App& app) {
  struct Arguments {
    std::vector<std::string> files;
    std::string out, form = "qa";
    bool strict = false;
  };
  const auto arguments = std::make_shared<Arguments>();  // lives as long as the callback
  auto* command = app.add_subcommand("prepare", "Turn question-answer files into one file of records");
  command
      ->add_option("FILE", arguments->files,
                   "JSON, JSONL, CSV, TSV, SQuAD, KorQuAD, chatterbot YAML, Open Trivia text, or folders of these")
      ->required();
  command->add_option("--out", arguments->out, "the JSONL file to write")->required()->type_name("DATA.jsonl");
  command
      ->add_option("--form", arguments->form,
                   "qa: questions and answers alone\n"
                   "chat: conversations turn by turn, the turns before as context\n"
                   "context: questions with the passage they came with")
      ->check(CLI::IsMember({"qa", "chat", "context"}))
      ->capture_default_str();
  command->add_flag("--strict", arguments->strict, "stop at the first bad record (default: list it and go on)");
  command->footer("Example:\n  qa prepare korquad.json faq.csv --out data.jsonl");
  command->callback([arguments] {
    PrepareOptions options{.files = {arguments->files.begin(), arguments->files.end()},
                           .out = arguments->out,
                           .form = arguments->form == "chat"      ? Form::chat
                                   : arguments->form == "context" ? Form::context
                                                                  : Form::qa,
                           .strict = arguments->strict};
    prepare(options, std::cout);
  });
}

}  // namespace qa
