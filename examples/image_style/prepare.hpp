// examples/image_style/prepare.hpp: `image_style prepare`: folders of pictures and captions to one prepared folder
// (data.hpp): squares of one size, captions, splits.
#pragma once
#include "captions.hpp"
#include "data.hpp"
#include "folder.hpp"
#include "images.hpp"
#include "sheet.hpp"

#include <ftlib/core/parallel.hpp>
#include <ftlib/core/random.hpp>
#include <ftlib/train/screen/progress.hpp>

#include <unistd.h>  // ::access, isatty

#include <CLI/CLI.hpp>

#include <algorithm>    // std::any_of, std::find, std::sort
#include <array>        // std::array
#include <bit>          // std::popcount
#include <cmath>        // std::sqrt, std::lround
#include <cstdint>      // std::int64_t, std::uint64_t
#include <filesystem>   // std::filesystem
#include <functional>   // std::function
#include <iostream>     // std::cout
#include <map>          // std::map
#include <memory>       // std::shared_ptr
#include <mutex>        // std::mutex
#include <ostream>      // std::ostream
#include <set>          // std::set
#include <string>       // std::string
#include <string_view>  // std::string_view
#include <utility>      // std::move, std::pair
#include <vector>       // std::vector

namespace image_style {

/// Where captions come from.
enum class CaptionFrom { automatic, names, sidecar, metadata };

struct PrepareOptions {
  std::vector<std::filesystem::path> folders;
  std::filesystem::path out;
  int size = 32;
  CaptionFrom caption_from = CaptionFrom::automatic;
  Fit fit = Fit::cover;
  bool strict = false;  ///< the first file or row that cannot be used throws
  double test_share = 0.25, valid_share = 0.125;
  std::uint64_t seed = 42;
  int threads = 0;  ///< 0: one for each core
};

namespace detail {

/// A file on its way to a sample. `width` and `height` are the file's own.
struct Source {
  std::filesystem::path path;
  Sample sample;
  Picture picture = {};
  int width = 0, height = 0;
  bool is_drawing = false, is_animated = false, other_profile = false;
  bool split_of_folder = false;        ///< and not of a row
  std::string fault = {};              ///< why it cannot be used
  const char* kind = unread_pictures;  ///< of fault
};

/// Lists at most five of what is to be looked at.
class Warning {
 public:
  explicit Warning(std::string what) : what_(std::move(what)) {}
  void add(std::string one) {
    if (++count_ <= 5) list_ += (count_ > 1 ? "; " : "") + std::move(one);
  }
  void print(std::ostream& report) const {
    if (count_ > 0)
      report << "warning: " << count_ << ' ' << what_ << ": " << list_ << (count_ > 5 ? "; ..." : "") << '\n';
  }

 private:
  std::string what_, list_;
  int count_ = 0;
};

/// The split that the folders tell which a picture lies in, the innermost first; empty where none does.
inline std::string split_of_folders(const std::filesystem::path& file, const std::filesystem::path& root) {
  for (auto folder = file.parent_path(); folder != root && folder.has_relative_path(); folder = folder.parent_path())
    if (ft::text::is_known_split(folder.filename().string())) return ft::text::split_name(folder.filename().string());
  return {};
}

/// The split that the name of a given folder tells; empty where it tells none.
inline std::string split_of_name(const std::filesystem::path& given) {
  const auto name = (given.has_filename() ? given : given.parent_path()).filename().string();
  return ft::text::is_known_split(name) ? ft::text::split_name(name) : "";
}

/// The words for one picture, from a file beside it. Throws Error where that cannot be read.
inline std::string caption_from_file(const std::filesystem::path& file) {
  std::string bytes = ft::read_file(file, ft::text::max_line_bytes);
  if (ending_of(file) != ".json") return caption_from_text(std::move(bytes), file);
  const Json json = ft::parse_json(bytes, "JSON");
  for (const auto key : caption_names)
    if (const auto words = tidy(ft::value_or<std::string>(json, key, "", "JSON")); !words.empty()) return words;
  throw Error("has none of text, caption, prompt and description");
}

/// Reads the metadata files of a folder: each is of the pictures in its own folder and those below.
inline void read_all_metadata(const Found& found, std::vector<Source>& sources,
                              const std::function<Source&(const std::filesystem::path&, Sample)>& add, LeftOut& left,
                              std::ostream& report) {
  std::set<std::filesystem::path> named, seen;
  for (const auto& path : found.metadata) {
    const bool is_csv = ending_of(path) == ".csv";
    const auto jsonl = path.parent_path() / "metadata.jsonl";
    if (is_csv && std::find(found.metadata.begin(), found.metadata.end(), jsonl) != found.metadata.end()) {
      report << "warning: " << path.string() << " is not read, for metadata.jsonl is there as well\n";
      continue;
    }
    const auto decoded = examples::decode(ft::read_file(path, ft::max_json_bytes), path);
    if (!decoded.fault.empty()) throw Error(str(path.string(), ": ", decoded.fault), decoded.hint);
    std::vector<BadRecord> bad;
    const auto metadata = read_metadata(decoded.text, is_csv, path.string(), bad);
    for (const auto& one : bad)
      left.add(bad_rows, str(str(one), decoded.hint.empty() ? "" : " (" + decoded.hint + ")"));
    std::size_t count = 0;
    for (const auto& row : metadata.rows) {
      const auto file = (path.parent_path() / row.file_name).lexically_normal();
      if (!ft::path_exists(file) || ft::is_folder(file))
        throw Error(
            str(path.string(), ":", row.line, ": names ", ft::quote(row.file_name), ", which is not in the folder"),
            "add the picture, or take the line out.");
      if (!named.insert(file).second) {
        left.add(bad_rows, str(path.string(), ":", row.line, ": names ", ft::quote(row.file_name), " again"));
        continue;
      }
      Source& source = add(file, {"", row.caption, row.style, row.split});
      if (ft::text::is_blank(row.caption))
        source.fault = str("has no words in ", path.filename().string(), ":", row.line);
      ++count;
    }
    report << path.string() << ": names " << count << " pictures";
    for (const auto& note : metadata.notes) report << "; " << note;
    if (!decoded.note.empty()) report << "; " << decoded.note;
    report << '\n';
  }
  for (const auto& file : found.pictures)
    if (!named.count(file.lexically_normal()))
      left.add(not_named, file.string() + ": no usable row of the metadata names it");
  if (!found.beside.empty() && !sources.empty()) {
    std::size_t beside = 0;
    for (const auto& source : sources) beside += !found.captions_of(source.path).empty();
    if (beside > 0)
      report << "warning: " << beside << " pictures have a caption file beside them as well, which is not read; "
             << "--caption-from sidecar reads those\n";
  }
}

/// The sources of a folder with their captions. Says on `report` what was found, adds what cannot be used to `left`.
inline std::vector<Source> read_folder(const std::filesystem::path& given, const PrepareOptions& options, LeftOut& left,
                                       std::ostream& report) {
  const auto folder = given.has_filename() ? given : given.parent_path();
  const auto folder_name = std::filesystem::weakly_canonical(folder).filename();  // "." has a name too
  const auto found = find_files(folder, left);
  if (found.pictures.empty()) {
    left.print(report);
    throw Error(str(folder.string(), ": the folder holds no picture"),
                "prepare reads .png, .jpg, .bmp, .gif, .webp and .svg files.");
  }
  auto from = options.caption_from;
  if (from == CaptionFrom::automatic) {
    const bool any = std::any_of(found.pictures.begin(), found.pictures.end(),
                                 [&](auto& f) { return !found.captions_of(f).empty(); });
    from = !found.metadata.empty() ? CaptionFrom::metadata : any ? CaptionFrom::sidecar : CaptionFrom::names;
  }
  std::vector<Source> sources;
  sources.reserve(found.pictures.size());
  const auto add = [&](const std::filesystem::path& file, Sample sample) -> Source& {
    sample.file = (folder_name / file.lexically_relative(folder)).generic_string();
    std::string fault = ft::text::text_fault(sample.file);
    if (!fault.empty()) sample.file = "?";
    const bool by_folder = sample.split.empty();
    if (by_folder) sample.split = split_of_folders(file, folder);
    return sources.emplace_back(Source{.path = file,
                                       .sample = std::move(sample),
                                       .split_of_folder = by_folder,
                                       .fault = fault.empty() ? "" : str("its name is ", fault),
                                       .kind = without_words});
  };
  if (from == CaptionFrom::metadata) {
    if (found.metadata.empty())
      throw Error(str(folder.string(), ": has neither metadata.jsonl nor metadata.csv"),
                  "write one with file_name and text, or choose --caption-from names or sidecar.");
    read_all_metadata(found, sources, add, left, report);
  } else {
    Warning several("pictures have several caption files, of which the first is read");
    std::set<std::filesystem::path> used;
    for (const auto& file : found.pictures) {
      Source& source = add(file, {});
      if (!source.fault.empty()) continue;
      if (from == CaptionFrom::names) {
        source.sample.caption = caption_from_name(file.stem().string());
        const bool chosen = options.caption_from == CaptionFrom::names;
        if (source.sample.caption.empty() || (!chosen && says_nothing(source.sample.caption)))
          source.fault = "its name does not say what it shows";
        continue;
      }
      auto beside = found.captions_of(file);
      used.insert(beside.begin(), beside.end());
      if (beside.empty()) {
        source.fault = "has no caption file beside it, as others have";
        continue;
      }
      std::erase_if(beside, [&](auto& f) { return f != beside.front() && ending_of(f) == ".json"; });
      if (beside.size() > 1)
        several.add(str(source.sample.file, ": ", beside[0].filename().string(), ", ", beside[1].filename().string()));
      try {
        source.sample.caption = caption_from_file(beside.front());
        if (ft::text::is_blank(source.sample.caption))
          source.fault = str("its caption file ", beside.front().filename().string(), " is empty");
      } catch (const Error& e) {
        source.kind = bad_captions;
        const auto prefix = beside.front().string() + ": ";
        auto why = e.message();
        if (why.starts_with(prefix)) why = why.substr(prefix.size());
        source.fault = str("its caption file ", beside.front().filename().string(), " ",
                           why.starts_with("not ") || why.starts_with("a NUL") ? "holds " : "", why,
                           e.hint().empty() ? "" : " (" + e.hint() + ")");
      }
    }
    report << folder.string() << ": " << sources.size() << " pictures, captions from "
           << (from == CaptionFrom::names ? "their names" : "the files beside them") << '\n';
    several.print(report);
    if (from == CaptionFrom::sidecar) {
      Warning alone("caption files are beside no picture");
      std::set<std::filesystem::path> listed;
      for (const auto& [key, texts] : found.beside)
        for (const auto& text : texts)
          if (!used.count(text) && listed.insert(text).second) alone.add(text.filename().string());
      alone.print(report);
    }
  }
  std::string passed;
  int count = 0;
  for (const auto& [ending, number] : found.passed_over) {
    passed += str(passed.empty() ? "" : ", ", number, ' ', ending);
    count += number;
  }
  if (count > 0) report << folder.string() << ": " << count << " other files are passed over: " << passed << '\n';
  if (found.linked_folders > 0)
    report << "warning: " << folder.string() << ": " << found.linked_folders << " links to folders are not followed\n";
  return sources;
}

inline void read_picture(Source& source, const PrepareOptions& options) try {
  if (!source.fault.empty()) return;
  const Decoded decoded = decode(ft::read_file(source.path, max_file_bytes));
  source.width = decoded.picture.width;
  source.height = decoded.picture.height;
  source.is_drawing = decoded.is_drawing;
  source.is_animated = decoded.is_animated;
  source.other_profile = decoded.other_profile;
  source.picture = fitted(decoded.picture, options.size, options.fit);
} catch (const Error& e) {
  source.kind = unread_pictures;
  source.fault = e.message() + (e.hint().empty() ? "" : " (" + e.hint() + ")");
} catch (const std::bad_alloc&) {
  source.kind = unread_pictures;
  source.fault = "needs more memory than there is";
}

/// Whether the left pixel of each two neighbours of a 9 x 8 version is the lighter one: alike pictures differ in few of
/// the 64 bits, whatever their size and compression.
inline std::uint64_t difference_hash(const Picture& picture) {
  const Picture small = resized(picture, 9, 8);
  std::uint64_t hash = 0;
  const auto light = [&](int x, int y) {
    const auto* p = small.at(x, y);
    return 299 * p[0] + 587 * p[1] + 114 * p[2];
  };
  for (int y = 0; y < 8; ++y)
    for (int x = 0; x < 8; ++x) hash = hash << 1 | (light(x, y) > light(x + 1, y));
  return hash;
}

inline double root_mean_square(const Picture& a, const Picture& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.rgb.size(); ++i) sum += (a.rgb[i] - b.rgb[i]) * (a.rgb[i] - b.rgb[i]);
  return std::sqrt(sum / static_cast<double>(a.rgb.size()));
}

inline void warn(const std::vector<Source>& sources, const PrepareOptions& options, std::ostream& report) {
  Warning small(str("smaller than ", options.size, " x ", options.size)), plain("of one colour alone"),
      moving("animations, of which the first frame is taken"),
      coloured("with a colour profile other than sRGB's, which is not applied");
  for (const auto& s : sources) {
    if (!s.is_drawing &&
        (options.fit == Fit::cover ? std::min(s.width, s.height) : std::max(s.width, s.height)) < options.size)
      small.add(str(s.sample.file, " (", s.width, " x ", s.height, ")"));
    const auto& rgb = s.picture.rgb;
    if (std::equal(rgb.begin() + 3, rgb.end(), rgb.begin())) plain.add(s.sample.file);
    if (s.is_animated) moving.add(s.sample.file);
    if (s.other_profile) coloured.add(s.sample.file);
  }
  for (const auto* warning : {&small, &plain, &moving, &coloured}) warning->print(report);

  Warning same("pairs of the same picture"), alike("pairs of nearly the same picture"),
      leaks("of these pairs are trained and held out");
  std::vector<std::uint64_t> hashes;
  hashes.reserve(sources.size());
  for (const auto& s : sources) hashes.push_back(difference_hash(s.picture));
  for (std::size_t i = 0; i < sources.size(); ++i) {
    for (std::size_t k = 0; k < i; ++k) {
      if (std::popcount(hashes[i] ^ hashes[k]) > 8) continue;
      const double distance = root_mean_square(sources[i].picture, sources[k].picture);
      if (distance > 8) continue;  // of 255; what a JPEG of quality 50 differs from its original by
      const auto pair = str(sources[k].sample.file, " and ", sources[i].sample.file);
      (distance == 0 ? same : alike).add(pair);
      if ((sources[i].sample.split == "train") != (sources[k].sample.split == "train")) leaks.add(pair);
    }
  }
  for (const auto* warning : {&same, &alike, &leaks}) warning->print(report);
}

/// Gives every sample a split: its own where the metadata has splits, else by its subject, so that a caption that is
/// tested was never trained. Which subjects are held out depends on the seed and their words alone: sets of the same
/// subjects hold out the same.
inline void split_by_subject(std::vector<Source>& sources, const PrepareOptions& options, std::ostream& report) {
  const auto all = [&](auto is) { return std::all_of(sources.begin(), sources.end(), is); };
  if (all([](auto& s) { return s.split_of_folder && s.sample.split == "train"; })) {
    report << "all pictures lie in folders to train; what is held out is chosen by caption\n";
  } else if (!all([](auto& s) { return s.sample.split.empty(); })) {
    std::int64_t without = 0;
    for (auto& s : sources) {
      if (!s.sample.split.empty()) continue;
      s.sample.split = "train";
      ++without;
    }
    report << "splits are those of the " << (all([](auto& s) { return s.split_of_folder; }) ? "folders" : "metadata");
    if (without > 0) report << "; " << without << " pictures have none, and are trained";
    report << '\n';
    return;
  }
  std::map<std::string, std::string> split_of;
  for (const auto& s : sources) split_of[s.sample.subject()] = "train";
  std::vector<std::pair<std::uint64_t, std::string>> order;
  for (const auto& [subject, split] : split_of) {
    std::uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a
    for (const char c : subject) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
    const auto words = ft::philox(options.seed, hash);
    order.emplace_back(std::uint64_t{words[0]} << 32 | words[1], subject);
  }
  std::sort(order.begin(), order.end());
  const auto subjects = static_cast<std::int64_t>(order.size());
  std::int64_t next = 0;
  for (const auto& [name, share] : {std::pair("test", options.test_share), {"valid", options.valid_share}}) {
    std::int64_t count = std::lround(share * static_cast<double>(subjects));
    if (share > 0) count = std::max<std::int64_t>(count, 1);
    for (; count > 0 && next < subjects - 1; --count) split_of[order[static_cast<std::size_t>(next++)].second] = name;
  }
  if (subjects == 1) report << "warning: all pictures have one caption, so none is held out\n";
  for (auto& s : sources) s.sample.split = split_of[s.sample.subject()];
}

/// A folder that is there and not ours is never replaced.
inline void check_out(const PrepareOptions& options) {
  const auto absolute = [](const std::filesystem::path& path) { return std::filesystem::weakly_canonical(path); };
  for (const auto& folder : options.folders) {
    const auto inside = absolute(options.out).lexically_relative(absolute(folder));
    if (!inside.empty() && *inside.begin() != "..")
      throw Error(str(options.out.string(), ": lies in ", folder.string(), ", whose pictures are to be prepared"),
                  "name a folder outside with --out.");
    const auto around = absolute(folder).lexically_relative(absolute(options.out));
    if (!around.empty() && *around.begin() != "..")
      throw Error(str(options.out.string(), ": would be replaced, and holds ", folder.string(),
                      ", whose pictures are to be prepared"),
                  "name another folder with --out.");
  }
  auto above = absolute(options.out);
  while (!ft::path_exists(above) && above.has_relative_path()) above = above.parent_path();
  if (::access(above.c_str(), W_OK) != 0) throw ft::system_error(above, "cannot write");
  if (!ft::is_folder(options.out) || std::filesystem::is_empty(options.out)) return;
  if (!ft::path_exists(options.out / "records.jsonl") || !ft::path_exists(options.out / "pictures.safetensors"))
    throw Error(str(options.out.string(), ": is there already and was not made by prepare, so it is not replaced"),
                "name another folder with --out.");
  for (const auto& file : ft::files_in(options.out)) {
    const auto name = file.filename().string();
    if (!name.starts_with("records.jsonl") && !name.starts_with("pictures.safetensors") &&
        !name.starts_with("sheet.png") && !name.starts_with("text-states-"))
      throw Error(
          str(options.out.string(), ": is not replaced, for it holds ", ft::quote(name), ", which is not prepare's"),
          "move that away, or name another folder with --out.");
  }
}

}  // namespace detail

/// Reads the folders' pictures and captions and writes the prepared folder, whole or not at all. Says on `report` what
/// became of them: every file and row that cannot be used by name, then what is worth a look. Throws Error where fewer
/// than two pictures can be used, a caption file names a picture that is not there, or, if strict, at the first
/// that cannot be used; nothing is written then.
inline void prepare(const PrepareOptions& options, std::ostream& report) {
  if (options.test_share + options.valid_share >= 1)
    throw Error("--test-share and --valid-share leave nothing to train on", "together they must be less than 1.");
  detail::check_out(options);
  LeftOut left;
  std::vector<detail::Source> sources;
  std::set<std::string> named_splits;
  for (const auto& folder : options.folders) named_splits.insert(detail::split_of_name(folder));
  for (const auto& folder : options.folders)
    for (auto& source : detail::read_folder(folder, options, left, report)) {
      if (source.sample.split.empty() && named_splits.size() > 1) source.sample.split = detail::split_of_name(folder);
      sources.push_back(std::move(source));
    }

  ft::ThreadPool pool(options.threads);
  const bool watched = isatty(STDERR_FILENO) != 0;
  ft::Progress progress(std::cerr);
  std::mutex mutex;
  std::size_t next = 0;
  pool.run([&](int thread) {
    for (std::unique_lock lock(mutex); next < sources.size(); lock.lock()) {
      detail::Source& source = sources[next++];
      if (watched && thread == 0)
        progress.update({.step = static_cast<std::int64_t>(next),
                         .steps = static_cast<std::int64_t>(sources.size()),
                         .what = "pictures read"});
      lock.unlock();
      detail::read_picture(source, options);
    }
  });
  progress.finish();

  std::vector<detail::Source> usable;
  for (auto& source : sources) {
    if (source.fault.empty()) usable.push_back(std::move(source));
    else left.add(source.kind, str(source.path.string(), ": ", source.fault));
  }
  if (options.strict && !left.empty())
    throw Error(left.first(), "mend it, or leave --strict away to go on without it.");
  left.print(report);
  if (usable.size() < 2)
    throw Error(str(options.folders.front().string(), options.folders.size() > 1 ? " and the others" : "", ": ",
                    usable.empty() ? "no picture" : "only one picture", " can be used"),
                left.hint());
  detail::split_by_subject(usable, options, report);
  detail::warn(usable, options, report);

  std::vector<Sample> samples;
  std::vector<Picture> pictures;
  std::vector<Cell> cells;
  const std::size_t most_shown = 120, shown = std::min(usable.size(), most_shown);
  for (std::size_t i = 0; i < shown; ++i) {
    const auto& source = usable[i * usable.size() / shown];
    cells.push_back({source.picture, source.sample.caption});
  }
  for (auto& source : usable) {
    samples.push_back(std::move(source.sample));
    pictures.push_back(std::move(source.picture));
  }
  if (options.out.has_parent_path()) ft::make_folders(options.out.parent_path());
  ft::AtomicFolder out(options.out);
  Data::write(out.folder(), samples, pictures);
  write_png(out.folder() / "sheet.png", contact_sheet(cells, 12));
  out.commit();

  std::map<std::string, int> counts;
  std::set<std::string> captions;
  for (const auto& sample : samples) {
    ++counts[sample.split];
    captions.insert(sample.caption);
  }
  for (std::size_t i = 0; i < std::min<std::size_t>(3, samples.size()); ++i) {
    const auto& sample = samples[i * samples.size() / std::min<std::size_t>(3, samples.size())];
    report << "  " << sample.file << " (" << sample.split << "): " << ft::quote(sample.caption) << '\n';
  }
  report << options.out.string() << ": " << samples.size() << " pictures of " << options.size << " x " << options.size
         << ", " << captions.size() << " captions; train " << counts["train"] << ", valid " << counts["valid"]
         << ", test " << counts["test"] << "; look at " << (options.out / "sheet.png").string() << '\n';
}

/// Registers `prepare` with the program; its callback throws Error.
inline void add_prepare(CLI::App& app) {
  struct Arguments {
    std::vector<std::string> folders;
    std::string out, caption_from = "auto", fit = "cover";
    PrepareOptions options;
  };
  const auto a = std::make_shared<Arguments>();  // lives as long as the callback
  auto* c =
      app.add_subcommand("prepare", "Turn folders of pictures into squares with captions, split to train and test");
  c->add_option("FOLDER", a->folders, "PNG, JPEG, BMP, GIF, WebP and SVG pictures, in folders of folders too")
      ->required();
  c->add_option("--out", a->out, "the folder to write; one that prepare made is replaced")
      ->required()
      ->type_name("DATA");
  c->add_option("--size", a->options.size, "pixels along a side")->check(CLI::Range(8, 512))->capture_default_str();
  c->add_option("--caption-from", a->caption_from,
                "names: red-apple_03.png is \"red apple\"\n"
                "sidecar: red-apple_03.txt beside it\n"
                "metadata: file_name and text in FOLDER/metadata.jsonl or .csv\n"
                "auto: metadata where there is such a file, else sidecar where there is one, else names")
      ->check(CLI::IsMember({"auto", "names", "sidecar", "metadata"}))
      ->capture_default_str();
  c->add_option("--fit", a->fit, "cover: the picture's middle; pad: all of it, on white")
      ->check(CLI::IsMember({"cover", "pad"}))
      ->capture_default_str();
  c->add_option("--test-share", a->options.test_share, "of the captions, never trained, kept to test with")
      ->check(CLI::Range(0.0, 0.9))
      ->capture_default_str();
  c->add_option("--valid-share", a->options.valid_share, "of the captions, never trained, kept to choose with")
      ->check(CLI::Range(0.0, 0.9))
      ->capture_default_str();
  c->add_option("--seed", a->options.seed, "of the choice of captions")->capture_default_str();
  c->add_flag("--strict", a->options.strict, "stop at the first file that cannot be used (default: name it and go on)");
  c->add_option("--threads", a->options.threads, "CPU threads; 0: one for each core")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  c->footer("Example:\n  image_style prepare my_pictures --out data --caption-from names");
  c->callback([a] {
    PrepareOptions options = a->options;
    options.folders.assign(a->folders.begin(), a->folders.end());
    options.out = a->out;
    options.fit = a->fit == "pad" ? Fit::pad : Fit::cover;
    options.caption_from = a->caption_from == "names"      ? CaptionFrom::names
                           : a->caption_from == "sidecar"  ? CaptionFrom::sidecar
                           : a->caption_from == "metadata" ? CaptionFrom::metadata
                                                           : CaptionFrom::automatic;
    prepare(options, std::cout);
  });
}

}  // namespace image_style
