// examples/image_style/prepare.hpp: `image_style prepare`: folders of pictures and captions to one prepared folder
// (data.hpp): squares of one size, captions, splits.
#pragma once
#include "captions.hpp"
#include "data.hpp"
#include "images.hpp"
#include "sheet.hpp"

#include <ftlib/core/parallel.hpp>
#include <ftlib/core/random.hpp>
#include <ftlib/train/screen/progress.hpp>

#include <unistd.h>  // isatty

#include <CLI/CLI.hpp>

#include <algorithm>    // std::any_of, std::find, std::sort
#include <array>        // std::array
#include <bit>          // std::popcount
#include <cmath>        // std::sqrt, std::lround
#include <cstdint>      // std::int64_t, std::uint64_t
#include <filesystem>   // std::filesystem
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
  Picture picture;
  int width = 0, height = 0;
  bool is_drawing = false;
  std::string fault;
};

/// Endings of pictures; those after svg cannot be read, and are named as such rather than passed over.
inline constexpr std::array<std::string_view, 14> picture_endings = {".png",  ".jpg",  ".jpeg", ".bmp",  ".gif",
                                                                     ".webp", ".svg",  ".heic", ".heif", ".avif",
                                                                     ".tif",  ".tiff", ".jxl",  ".svgz"};

/// What a folder and its folders hold, by name; hidden files are passed over.
inline std::vector<std::filesystem::path> picture_files(const std::filesystem::path& folder) {
  if (!ft::path_exists(folder)) throw Error(str(folder.string(), ": there is no such folder"), "check the name.");
  if (!ft::is_folder(folder))
    throw Error(str(folder.string(), ": is a file, a folder of pictures was expected"), "give the folder it lies in.");
  std::vector<std::filesystem::path> files;
  try {
    for (auto at = std::filesystem::recursive_directory_iterator(folder); at != end(at); ++at) {
      const bool hidden = at->path().filename().string().starts_with('.');
      if (hidden && at->is_directory()) at.disable_recursion_pending();
      const auto ending = lowered(at->path().extension().string());
      if (!hidden && at->is_regular_file() &&
          std::find(picture_endings.begin(), picture_endings.end(), ending) != picture_endings.end())
        files.push_back(at->path());
    }
  } catch (const std::filesystem::filesystem_error& e) {
    throw ft::system_error(e.path1(), "cannot be read", {}, e.code().value());
  }
  if (files.empty())
    throw Error(str(folder.string(), ": the folder holds no picture"),
                "prepare reads .png, .jpg, .bmp, .gif, .webp and .svg files.");
  std::sort(files.begin(), files.end());
  return files;
}

/// The sources of a folder with their captions. Says on `report` what was found, adds what is wrong to `faults`.
inline std::vector<Source> read_folder(const std::filesystem::path& given, const PrepareOptions& options,
                                       std::vector<std::string>& faults, std::ostream& report) {
  const auto folder = given.has_filename() ? given : given.parent_path();
  const auto folder_name = std::filesystem::weakly_canonical(folder).filename();  // "." has a name too
  const auto files = picture_files(folder);
  const auto jsonl = folder / "metadata.jsonl", csv = folder / "metadata.csv";
  const auto sidecar = [](std::filesystem::path file) { return file.replace_extension(".txt"); };
  auto from = options.caption_from;
  if (from == CaptionFrom::automatic) {
    const bool any = std::any_of(files.begin(), files.end(), [&](auto& f) { return ft::path_exists(sidecar(f)); });
    from = ft::path_exists(jsonl) || ft::path_exists(csv) ? CaptionFrom::metadata
           : any                                          ? CaptionFrom::sidecar
                                                          : CaptionFrom::names;
  }
  std::vector<Source> sources;
  const auto add = [&](const std::filesystem::path& file, Sample sample) {
    sample.file = (folder_name / file.lexically_relative(folder)).generic_string();
    std::string fault = ft::text::text_fault(sample.file);
    if (!fault.empty()) sample.file = "?";
    sources.push_back({file, std::move(sample), {}, 0, 0, false, fault.empty() ? "" : str("its name is ", fault)});
  };

  if (from == CaptionFrom::metadata) {
    const bool is_csv = !ft::path_exists(jsonl);
    const auto& path = is_csv ? csv : jsonl;
    if (!ft::path_exists(path))
      throw Error(str(folder.string(), ": has neither metadata.jsonl nor metadata.csv"),
                  "write one with file_name and text, or choose --caption-from names or sidecar.");
    std::vector<BadRecord> bad;
    const auto rows = read_metadata(ft::read_file(path, ft::max_json_bytes), is_csv, path.string(), bad);
    for (const auto& one : bad) faults.push_back(str(one));
    std::set<std::filesystem::path> named;
    for (const auto& row : rows) {
      const auto file = (folder / row.file_name).lexically_normal();
      if (!ft::path_exists(file) || ft::is_folder(file))
        throw Error(
            str(path.string(), ":", row.line, ": names ", ft::quote(row.file_name), ", which is not in the folder"),
            "add the picture, or take the line out.");
      if (named.insert(file).second) add(file, {"", row.caption, row.style, row.split});
      else faults.push_back(str(path.string(), ":", row.line, ": names ", ft::quote(row.file_name), " again"));
    }
    report << folder.string() << ": " << sources.size() << " pictures, captions from " << path.filename().string();
    if (files.size() > sources.size())
      report << "; " << files.size() - sources.size() << " pictures are not named there and left out";
    report << '\n';
    return sources;
  }

  for (const auto& file : files) {
    Sample sample;
    if (from == CaptionFrom::names) sample.caption = caption_from_name(file.stem().string());
    else if (ft::path_exists(sidecar(file))) {
      try {
        sample.caption = caption_from_text(ft::read_file(sidecar(file), ft::text::max_line_bytes));
      } catch (const Error& e) {
        faults.push_back(str(sidecar(file).string(), ": ", e.message()));
      }
    }
    add(file, std::move(sample));
  }
  report << folder.string() << ": " << sources.size() << " pictures, captions from "
         << (from == CaptionFrom::names ? "their names" : ".txt files beside them") << '\n';
  return sources;
}

inline void read_picture(Source& source, const PrepareOptions& options) try {
  if (!source.fault.empty()) return;
  const Decoded decoded = decode(ft::read_file(source.path, max_file_bytes));
  source.width = decoded.picture.width;
  source.height = decoded.picture.height;
  source.is_drawing = decoded.is_drawing;
  source.picture = fitted(decoded.picture, options.size, options.fit);
} catch (const Error& e) {
  source.fault = e.message() + (e.hint().empty() ? "" : " (" + e.hint() + ")");
} catch (const std::bad_alloc&) {
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

inline void warn(const std::vector<Source>& sources, const PrepareOptions& options, std::ostream& report) {
  Warning small(str("smaller than ", options.size, " x ", options.size)), empty("without a caption");
  for (const auto& s : sources) {
    if (!s.is_drawing &&
        (options.fit == Fit::cover ? std::min(s.width, s.height) : std::max(s.width, s.height)) < options.size)
      small.add(str(s.sample.file, " (", s.width, " x ", s.height, ")"));
    if (s.sample.caption.empty()) empty.add(s.sample.file);
  }
  small.print(report);
  empty.print(report);

  Warning same("pairs of the same picture"), alike("pairs of nearly the same picture");
  std::vector<std::uint64_t> hashes;
  hashes.reserve(sources.size());
  for (const auto& s : sources) hashes.push_back(difference_hash(s.picture));
  for (std::size_t i = 0; i < sources.size(); ++i) {
    for (std::size_t k = 0; k < i; ++k) {
      if (std::popcount(hashes[i] ^ hashes[k]) > 8) continue;
      const double distance = root_mean_square(sources[i].picture, sources[k].picture);
      if (distance > 8) continue;  // of 255; what a JPEG of quality 50 differs from its original by
      (distance == 0 ? same : alike).add(str(sources[k].sample.file, " and ", sources[i].sample.file));
    }
  }
  same.print(report);
  alike.print(report);
}

/// Gives every sample a split: its own where the metadata has splits, else by its subject, so that a caption that is
/// tested was never trained. Which subjects are held out depends on the seed and their words alone: sets of the same
/// subjects hold out the same.
inline void split_by_subject(std::vector<Source>& sources, const PrepareOptions& options, std::ostream& report) {
  if (std::any_of(sources.begin(), sources.end(), [](auto& s) { return !s.sample.split.empty(); })) {
    for (auto& s : sources)
      if (s.sample.split.empty()) s.sample.split = "train";
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
  }
  if (!ft::is_folder(options.out) || std::filesystem::is_empty(options.out)) return;
  if (!ft::path_exists(options.out / "records.jsonl") || !ft::path_exists(options.out / "pictures.safetensors"))
    throw Error(str(options.out.string(), ": is there already and was not made by prepare, so it is not replaced"),
                "name another folder with --out.");
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
  std::vector<std::string> faults;
  std::vector<detail::Source> sources;
  for (const auto& folder : options.folders)
    for (auto& source : detail::read_folder(folder, options, faults, report)) sources.push_back(std::move(source));

  ft::ThreadPool pool(options.threads);
  const bool watched = isatty(STDERR_FILENO) != 0;
  ft::Progress progress(std::cerr);
  std::mutex mutex;
  std::size_t next = 0;
  pool.run([&](int thread, int) {
    for (std::unique_lock lock(mutex); next < sources.size(); lock.lock()) {
      detail::Source& source = sources[next++];
      if (watched && thread == 0)
        progress.update({.step = static_cast<std::int64_t>(next), .steps = static_cast<std::int64_t>(sources.size())});
      lock.unlock();
      detail::read_picture(source, options);
    }
  });
  progress.finish();

  std::vector<detail::Source> usable;
  for (auto& source : sources) {
    if (source.fault.empty()) usable.push_back(std::move(source));
    else faults.push_back(str(source.path.string(), ": ", source.fault));
  }
  for (const auto& fault : faults) {
    if (options.strict) throw Error(fault, "mend it, or leave --strict away to go on without it.");
    report << "left out: " << fault << '\n';
  }
  if (usable.size() < 2)
    throw Error(str(options.folders.front().string(), options.folders.size() > 1 ? " and the others" : "", ": ",
                    usable.empty() ? "no picture" : "only one picture", " can be used"),
                "a style takes some dozens, and two at the least: one to learn, one to test.");
  detail::warn(usable, options, report);
  detail::split_by_subject(usable, options, report);

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
