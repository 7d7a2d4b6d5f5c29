// examples/image_style/data.hpp: a prepared folder, which `image_style prepare` writes and all else reads:
//   records.jsonl         a line a picture: {"file": "fruit/red-apple.png", "caption": "red apple", "split": "train"},
//                         and "style" where the set names one
//   pictures.safetensors  "pictures", float16 (N, 3, S, S): sRGB as value / 127.5 - 1, planes R, G, B, in the records'
//                         order. A float16 tells 256 values in [-1, 1] apart, so that nothing of 8 bits is lost.
//   sheet.png             some of them with their captions, to be looked at
#pragma once
#include "picture.hpp"

#include <ftlib/io/json.hpp>
#include <ftlib/io/safetensors.hpp>

#include <cstdint>      // std::int64_t
#include <filesystem>   // std::filesystem::path
#include <span>         // std::span
#include <string>       // std::string
#include <string_view>  // std::string_view
#include <utility>      // std::move
#include <vector>       // std::vector

namespace image_style {

struct Sample {
  std::string file;     ///< where the picture came from
  std::string caption;  ///< with the style, where one is named: "dog face, painterly style"
  std::string style;    ///< "painterly style", or empty
  std::string split;    ///< "train", "valid" or "test"

  /// The caption without its style: "dog face". Samples of one subject are always in one split.
  std::string subject() const {
    const std::string tail = ", " + style;
    return !style.empty() && caption.ends_with(tail) ? caption.substr(0, caption.size() - tail.size()) : caption;
  }
  friend bool operator==(const Sample&, const Sample&) = default;
};

/// A prepared folder. Pictures stay in the file until they are asked for.
class Data {
 public:
  /// Throws Error for what is no such folder, or whose files do not fit each other.
  static Data open(const std::filesystem::path& folder) {
    ft::recover_folder(folder.has_filename() ? folder : folder.parent_path());
    const auto lines = folder / "records.jsonl", tensors = folder / "pictures.safetensors";
    if (!ft::path_exists(lines) || !ft::path_exists(tensors))
      throw Error(str(folder.string(), ": has no ", (ft::path_exists(lines) ? tensors : lines).filename().string()),
                  "`image_style prepare` makes such a folder from pictures.");
    Data data;
    const std::string text = ft::read_file(lines, ft::max_json_bytes);
    for (std::string_view rest = text; !rest.empty();) {
      const auto end = std::min(rest.size(), rest.find('\n'));
      const auto where = str(lines.string(), ":", data.samples_.size() + 1);
      const ft::Json line = ft::parse_json(rest.substr(0, end), where);
      data.samples_.push_back({ft::at<std::string>(line, "file", where), ft::at<std::string>(line, "caption", where),
                               ft::value_or<std::string>(line, "style", "", where),
                               ft::at<std::string>(line, "split", where)});
      rest.remove_prefix(std::min(rest.size(), end + 1));
    }
    data.pictures_ = ft::SafetensorsFile::open(tensors).tensor("pictures");
    const auto& shape = data.pictures_.shape;
    if (data.pictures_.type != ft::DType::f16 || shape.rank() != 4 || shape[0] != data.size() || shape[1] != 3 ||
        shape[2] != shape[3] || shape[2] < 1)
      throw Error(str(tensors.string(), ": 'pictures' is ", data.pictures_.type, " ", shape, ", float16 (", data.size(),
                      ", 3, S, S) was expected after ", lines.filename().string()),
                  "make the folder anew with `image_style prepare`.");
    return data;
  }

  std::int64_t size() const { return static_cast<std::int64_t>(samples_.size()); }
  /// Pixels along a picture's side.
  std::int64_t side() const { return pictures_.shape[2]; }
  const std::vector<Sample>& samples() const { return samples_; }
  /// The numbers of a split's samples.
  std::vector<std::int64_t> of_split(std::string_view split) const {
    std::vector<std::int64_t> rows;
    for (std::int64_t i = 0; i < size(); ++i)
      if (samples_[static_cast<std::size_t>(i)].split == split) rows.push_back(i);
    return rows;
  }

  /// Values in [-1, 1]: (3, S, S).
  void read(std::int64_t i, std::span<float> values) const {
    const auto* stored = reinterpret_cast<const ft::half*>(pictures_.data) + i * 3 * side() * side();
    for (float& value : values) value = static_cast<float>(*stored++);
  }
  Picture picture(std::int64_t i) const {
    std::vector<float> values(static_cast<std::size_t>(3 * side() * side()));
    read(i, values);
    return ft::to_pictures(values, side()).front();
  }

  /// Writes records.jsonl and pictures.safetensors into an existing folder; the pictures are squares of one size.
  static void write(const std::filesystem::path& folder, const std::vector<Sample>& samples,
                    const std::vector<Picture>& pictures) {
    std::string lines;
    for (const Sample& sample : samples) {
      nlohmann::ordered_json line{{"file", sample.file}, {"caption", sample.caption}};
      if (!sample.style.empty()) line["style"] = sample.style;
      line["split"] = sample.split;
      lines += line.dump() + '\n';
    }
    ft::write_atomically(folder / "records.jsonl", lines);
    const int side = pictures.front().width;
    std::vector<ft::half> values;
    values.reserve(pictures.size() * pictures.front().rgb.size());
    for (const Picture& picture : pictures)
      for (const float value : ft::to_values(picture)) values.emplace_back(value);
    ft::write_safetensors(folder / "pictures.safetensors",
                          {{"pictures", ft::DType::f16,
                            ft::Shape{static_cast<std::int64_t>(pictures.size()), 3, side, side}, values.data()}});
  }

 private:
  std::vector<Sample> samples_;
  ft::Stored<ft::Cpu> pictures_;
};

}  // namespace image_style
