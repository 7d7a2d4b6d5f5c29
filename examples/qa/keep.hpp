// examples/qa/keep.hpp: what a tuned model is to keep: the text on which it is held to its base, a file's or what the
// base itself writes.
#pragma once
#include <ftlib/core/description.hpp>
#include <ftlib/core/random.hpp>
#include <ftlib/io/file.hpp>
#include <ftlib/text/keep.hpp>
#include <ftlib/train/screen/progress.hpp>

#include <algorithm>  // std::clamp, std::min
#include <cctype>     // std::ispunct
#include <iostream>   // std::cout
#include <set>        // std::set
#include <string>     // std::string
#include <vector>     // std::vector

namespace qa {

inline constexpr int64_t least_texts = 96, most_texts = 192, kept_text_tokens = 128;  // of what the base writes
inline constexpr double kept_share = 0.25;  // tokens of kept text for each that is learned

/// How many texts the base writes for a run that reads so many tokens of records: what it reads of them once, within
/// bounds, for writing takes its time too.
inline int64_t texts_for(int64_t learned_tokens) {
  return std::clamp(static_cast<int64_t>(kept_share * static_cast<double>(learned_tokens)) / kept_text_tokens,
                    least_texts, most_texts);
}

/// The texts of a file: of records (JSON lines) those that are plain texts, else its paragraphs, which blank lines
/// divide.
inline std::vector<ft::text::Record> texts_of(const std::string& path) {
  std::vector<ft::text::Record> texts;
  if (path.ends_with(".jsonl")) {
    texts = ft::text::read_records(path);
    const auto others = std::erase_if(texts, [](const auto& r) { return r.text.empty(); });
    if (texts.empty()) throw ft::Error(path + ": has no record with a text", "write {\"text\": ...} a line.");
    if (others) std::cout << "  of " << path << ' ' << others << " records are no plain texts, and are not read\n";
    return texts;
  }
  ft::text::LineReader lines(path);
  std::string paragraph;
  const auto end = [&] {
    if (!ft::text::is_blank(paragraph)) texts.push_back({.id = ft::str("text/", texts.size()), .text = paragraph});
    paragraph.clear();
  };
  for (std::string line; lines.next(line);) {
    if (const auto fault = lines.fault(line); !fault.empty())
      throw ft::Error(ft::str(path, ":", lines.number(), ": ", fault), "iconv turns other encodings into UTF-8.");
    if (ft::text::is_blank(line)) end();
    else paragraph += (paragraph.empty() ? "" : "\n") + line;
  }
  end();
  if (texts.empty()) throw ft::Error(path + ": holds no text");
  return texts;
}

/// `count` words of the records, in an order that `seed` draws: the base writes on from them, so that it writes in the
/// records' language, of many things.
inline std::vector<std::string> beginnings(const std::vector<ft::text::Record>& records, int64_t count, uint64_t seed) {
  std::set<std::string> words;
  for (const auto& record : records) {
    const std::string text = record.text.empty() ? ft::text::last_question(record) : record.text;
    for (std::size_t at = 0; at < text.size();) {
      const auto end = std::min(text.find_first_of(" \t\r\n", at), text.size());
      std::string word = text.substr(at, end - at);
      while (!word.empty() && std::ispunct(static_cast<unsigned char>(word.back()))) word.pop_back();
      if (word.size() > 2) words.insert(std::move(word));
      at = end + 1;
    }
  }
  if (words.empty()) words.insert("");  // of what it likes
  std::vector<std::string> order(words.begin(), words.end()), out;
  ft::Random random(seed);
  while (static_cast<int64_t>(out.size()) < count) {
    random.shuffle(order);
    for (const auto& word : order)
      if (static_cast<int64_t>(out.size()) < count) out.push_back(word);
  }
  return out;
}

/// The kept text as data: what a step reads of it, and a tenth that is only watched.
class Kept {
 public:
  /// Of the file `path`; where that is empty, of `count` texts that the base writes, which are kept in `out` and taken
  /// from there where they are of the same path and words. `whole`: all weights are trained, and the text is learned as
  /// it stands.
  template <class Lm>
  Kept(const std::string& path, Lm& lm, const std::vector<ft::text::Record>& records, int64_t count,
       const std::filesystem::path& out, uint64_t seed, bool whole) {
    const auto texts = path.empty() ? written(lm, records, count, out / "base-text.jsonl", seed) : texts_of(path);
    const ft::text::Dataset data(texts, lm.prompt(), {.max_tokens = 2 * kept_text_tokens});
    if (data.size() < 10)
      throw ft::Error(ft::str("--keep: ", data.size(), " texts are too few"), "give ten or more, or --keep-weight 0.");
    auto [read, watched] = data.split(0.9, seed);
    std::cout << "keep: " << read.size() << " texts, " << read.tokens() << " tokens, "
              << (path.empty() ? "that the base wrote" : "of " + path) << "; watched " << watched.size()
              << (data.left_out().empty() ? "" : "; ") << data.left_out() << '\n';
    if (whole) {
      read_ = std::make_unique<ft::text::Dataset>(std::move(read));
      watched_ = std::make_unique<ft::text::Dataset>(std::move(watched));
    } else {
      read_ = std::make_unique<ft::KeptText>(std::move(read));
      watched_ = std::make_unique<ft::KeptText>(std::move(watched));
    }
  }
  const ft::DataSource& read() const { return *read_; }
  const ft::DataSource& watched() const { return *watched_; }

 private:
  template <class Lm>
  static std::vector<ft::text::Record> written(Lm& lm, const std::vector<ft::text::Record>& records, int64_t count,
                                               const std::filesystem::path& cache, uint64_t seed) {
    const auto words = beginnings(records, count, seed);
    ft::Hash key;
    key.add(lm.path().string());
    for (int64_t i = 0; i < least_texts; ++i) key.add(words[static_cast<std::size_t>(i)]);  // a run of any length's
    const std::string name = ft::printed("written/%016llx/", static_cast<unsigned long long>(key.value()));
    if (ft::path_exists(cache))
      if (auto texts = ft::text::read_records(cache); texts.front().id.starts_with(name)) return texts;
    ft::Progress progress(std::cerr);
    ft::WriteOptions options{.tokens = kept_text_tokens, .seed = seed};
    options.progress = [&](int64_t done, int64_t of) {
      progress.update({.step = done, .steps = of, .unit = "texts", .what = "text of the base, to be kept: written"});
    };
    auto texts = ft::write_texts(lm, words, options);
    progress.finish();
    for (std::size_t i = 0; i < texts.size(); ++i) texts[i].id = name + std::to_string(i);
    std::filesystem::create_directories(cache.parent_path());
    ft::text::write_records(cache, texts);
    return texts;
  }

  std::unique_ptr<ft::DataSource> read_, watched_;
};

}  // namespace qa
