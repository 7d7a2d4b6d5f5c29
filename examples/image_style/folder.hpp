// examples/image_style/folder.hpp: what lies in a folder of pictures: pictures, caption files beside them, metadata
// files, and what is passed over, which is counted.
#pragma once
#include "../common/rows.hpp"
#include "images.hpp"

#include <ftlib/io/file.hpp>
#include <ftlib/text/records.hpp>

#include <algorithm>    // std::find, std::sort
#include <array>        // std::array
#include <filesystem>   // std::filesystem
#include <fstream>      // std::ifstream
#include <map>          // std::map
#include <ostream>      // std::ostream
#include <string>       // std::string
#include <string_view>  // std::string_view
#include <utility>      // std::pair
#include <vector>       // std::vector

namespace image_style {

/// What is left out of a set, by kind: each is named, up to some of a kind, and all are counted.
class LeftOut {
 public:
  /// `kind` goes with a number before it: "pictures that cannot be read".
  void add(const std::string& kind, std::string what) { kinds_[kind].push_back(std::move(what)); }
  bool empty() const { return kinds_.empty(); }
  const std::string& first() const { return kinds_.begin()->second.front(); }
  /// What to do where nothing is left.
  std::string hint() const {
    if (kinds_.count("pictures without words"))
      return "say what each shows: in its name (red-apple_03.png), in red-apple_03.txt beside it, or in metadata.csv "
             "with file_name and text; --caption-from names takes names as they are.";
    return "a style takes some dozens, and two at the least: one to learn, one to test.";
  }
  void print(std::ostream& report) const {
    constexpr std::size_t most = 20;
    std::string counts;
    for (const auto& [kind, all] : kinds_) {
      for (std::size_t i = 0; i < std::min(all.size(), most); ++i) report << "left out: " << all[i] << '\n';
      if (all.size() > most) report << "left out: and " << all.size() - most << " more " << kind << '\n';
      counts += str(counts.empty() ? "" : ", ", all.size(), ' ', kind);
    }
    if (!counts.empty()) report << "left out in all: " << counts << '\n';
  }

 private:
  std::map<std::string, std::vector<std::string>> kinds_;
};

namespace detail {

inline constexpr const char *unread_pictures = "pictures that cannot be read",
                            *without_words = "pictures without words", *bad_captions = "captions that cannot be read",
                            *bad_rows = "rows of metadata that cannot be used",
                            *not_named = "pictures that the metadata do not name",
                            *without_ending = "files that are pictures, by names that say otherwise";

/// Endings of pictures; those after svg cannot be read, and are named as such rather than passed over.
inline constexpr std::array<std::string_view, 41> picture_endings = {
    ".png",  ".apng", ".jpg",  ".jpeg", ".jpe",  ".jfif", ".jif",  ".jfi", ".bmp",  ".dib", ".gif",
    ".webp", ".svg",  ".heic", ".heif", ".avif", ".tif",  ".tiff", ".jxl", ".svgz", ".tga", ".psd",
    ".jp2",  ".j2k",  ".jpx",  ".ico",  ".exr",  ".hdr",  ".ppm",  ".pgm", ".pbm",  ".pnm", ".qoi",
    ".dds",  ".xcf",  ".eps",  ".ai",   ".dng",  ".cr2",  ".nef",  ".arw"};
inline constexpr std::array<std::string_view, 3> caption_endings = {".txt", ".caption", ".json"};

inline std::string ending_of(const std::filesystem::path& path) { return lowered(path.extension().string()); }
template <class Endings> bool is_one_of(const Endings& endings, const std::string& ending) {
  return std::find(endings.begin(), endings.end(), ending) != endings.end();
}

/// What a folder and its folders hold, by name. Hidden files are passed over.
struct Found {
  std::vector<std::filesystem::path> pictures, metadata;
  std::map<std::string, std::vector<std::filesystem::path>> beside;  // caption files, by folder and stem
  std::map<std::string, int> passed_over;                            // by ending
  int linked_folders = 0;

  /// The caption files of a picture: apple.txt, .caption or .json of apple.png, in this order; apple.png.txt too.
  std::vector<std::filesystem::path> captions_of(const std::filesystem::path& picture) const {
    for (const auto& key : {(picture.parent_path() / picture.stem()).string(), picture.string()})
      for (const auto& name : {key, lowered(key)})
        if (const auto found = beside.find(name); found != beside.end()) return found->second;
    return {};
  }
};

inline std::string beginning_of(const std::filesystem::path& path) {
  std::string bytes(512, '\0');
  std::ifstream file(path, std::ios::binary);
  file.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  bytes.resize(static_cast<std::size_t>(file.gcount()));
  return bytes;
}

inline Found find_files(const std::filesystem::path& folder, LeftOut& left) {
  if (!ft::path_exists(folder)) throw Error(str(folder.string(), ": there is no such folder"), "check the name.");
  if (!ft::is_folder(folder))
    throw Error(str(folder.string(), ": is a file, a folder of pictures was expected"), "give the folder it lies in.");
  if (ft::path_exists(folder / "records.jsonl") && ft::path_exists(folder / "pictures.safetensors"))
    throw Error(str(folder.string(), ": was made by prepare, and is no folder of pictures"),
                "give the folders that it was made from.");
  Found found;
  std::vector<std::filesystem::path> texts, others;
  try {
    for (auto at = std::filesystem::recursive_directory_iterator(folder); at != end(at); ++at) {
      const auto& path = at->path();
      const bool hidden = path.filename().string().starts_with('.');
      if (hidden && at->is_directory()) at.disable_recursion_pending();
      if (hidden) continue;
      const auto ending = ending_of(path);
      std::error_code gone;
      if (at->is_directory(gone)) {
        found.linked_folders += at->is_symlink();
      } else if (is_one_of(picture_endings, ending)) {
        if (at->is_regular_file(gone)) found.pictures.push_back(path);
        else left.add(unread_pictures, path.string() + ": is no file, or a link to none");
      } else if (at->is_regular_file(gone)) {
        const auto name = lowered(path.filename().string());
        if (name == "metadata.jsonl" || name == "metadata.csv") found.metadata.push_back(path);
        else (is_one_of(caption_endings, ending) ? texts : others).push_back(path);
      }
    }
  } catch (const std::filesystem::filesystem_error& e) {
    throw ft::system_error(e.path1(), "cannot be read", {}, e.code().value());
  }
  for (auto* list : {&found.pictures, &found.metadata, &texts, &others}) std::sort(list->begin(), list->end());
  // Whatever the letters' case: apple.TXT and Apple.txt are of APPLE.PNG too, the same case first.
  for (const auto ending : caption_endings)
    for (const auto& text : texts) {
      if (ending_of(text) != ending) continue;
      const auto key = (text.parent_path() / text.stem()).string();
      found.beside[key].push_back(text);
      if (lowered(key) != key) found.beside[lowered(key)].push_back(text);
    }
  for (const auto& path : others) {
    const auto ending = ending_of(path);
    const auto kind = kind_of(beginning_of(path));
    if (kind.is_picture)
      left.add(without_ending, str(path.string(), ": is ", kind.name, ", and its name does not end so (rename it to ",
                                   path.filename().string(), kind.ending, ')'));
    else ++found.passed_over[ending.empty() ? "no ending" : ending];
  }
  return found;
}

}  // namespace detail

}  // namespace image_style
