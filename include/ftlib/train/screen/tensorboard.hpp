// train/screen/tensorboard.hpp: TensorBoard's event files: scalars, text, images. Protocol buffers are written by hand.
//
// A file is a sequence of records (tensorflow/core/lib/io/record_writer.h), each
//     u64 length   u32 masked CRC-32C of it   the bytes   u32 masked CRC-32C of those
// of one Event message (tensorboard/compat/proto/event.proto); the first holds file_version "brain.Event:2".
#pragma once
#include <ftlib/core/dtype.hpp>  // int64_t, uint32_t

#include <filesystem>   // std::filesystem::path
#include <fstream>      // std::ofstream
#include <functional>   // std::function
#include <string_view>  // std::string_view

namespace ft::inline FTLIB_ABI {

namespace detail {
class Message;
}

/// Writes one event file into a run's folder, which `tensorboard --logdir FOLDER` shows while it grows. Each record is
/// handed to the system at once. Tags may hold slashes, which group them: "train/loss".
class TensorBoardWriter {
 public:
  using Clock = std::function<double()>;  // seconds since 1970

  static double now();

  /// A new file in `folder`, which is made where it is missing. Older files in it stay and are shown with this one.
  [[gnu::cold]] explicit TensorBoardWriter(const std::filesystem::path& folder, Clock clock = now);

  /// The same, going on after a checkpoint that holds `last_step`: TensorBoard drops what older files in the folder say
  /// of later steps.
  [[gnu::cold]] static TensorBoardWriter resume(const std::filesystem::path& folder, int64_t last_step,
                                                Clock clock = now);

  void scalar(std::string_view tag, int64_t step, double value);
  /// An encoded picture (PNG); colorspace is the number of channels: 1 grey, 3 RGB, 4 RGBA.
  void image(std::string_view tag, int64_t step, std::string_view png, int height, int width, int colorspace = 3);
  /// Markdown, shown under TEXT.
  void text(std::string_view tag, int64_t step, std::string_view markdown);

  const std::filesystem::path& path() const { return path_; }

 private:
  detail::Message event(int64_t step);
  void write(int64_t step, const detail::Message& value);
  void write(const detail::Message& event);

  Clock clock_;
  std::filesystem::path path_;
  std::ofstream file_;
};

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/train/screen/tensorboard.inl.hpp>
#endif
