// train/screen/tensorboard.inl.hpp: the bodies of train/screen/tensorboard.hpp.
#pragma once
#include <ftlib/io/file.hpp>  // make_folders, path_exists, system_error
#include <ftlib/train/screen/tensorboard.hpp>

#include <array>    // std::array
#include <bit>      // std::bit_cast
#include <chrono>   // std::chrono::system_clock
#include <string>   // std::string
#include <utility>  // std::move

namespace ft::inline FTLIB_ABI {

namespace detail {

/// CRC-32C (Castagnoli): polynomial 0x1EDC6F41, reflected.                                                   RFC 3720
FTLIB_INLINE uint32_t crc32c(std::string_view bytes) {
  static constexpr auto table = [] {
    std::array<uint32_t, 256> t{};
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t c = i;
      for (int bit = 0; bit < 8; ++bit) c = (c >> 1) ^ ((c & 1u) ? 0x82f63b78u : 0u);
      t[i] = c;
    }
    return t;
  }();
  uint32_t c = 0xffffffffu;
  for (const char byte : bytes) c = table[(c ^ static_cast<uint8_t>(byte)) & 0xffu] ^ (c >> 8);
  return ~c;
}
/// TensorFlow's mask: a CRC of data that itself holds CRCs would be weak.
FTLIB_INLINE uint32_t masked_crc32c(std::string_view bytes) {
  const uint32_t c = crc32c(bytes);
  return ((c >> 15) | (c << 17)) + 0xa282ead8u;
}

/// A protocol buffer message that grows field by field; fields go in the order of their numbers.
class Message {
 public:
  /// A number, left out where it is 0 as proto3 does.
  Message& varint(int field, int64_t value) {
    if (value == 0) return *this;
    put_varint(static_cast<uint64_t>(field) << 3);
    put_varint(static_cast<uint64_t>(value));
    return *this;
  }
  Message& fixed64(int field, double value) {
    put_varint(static_cast<uint64_t>(field) << 3 | 1);
    put_little(std::bit_cast<uint64_t>(value), 8);
    return *this;
  }
  Message& fixed32(int field, float value) {
    put_varint(static_cast<uint64_t>(field) << 3 | 5);
    put_little(std::bit_cast<uint32_t>(value), 4);
    return *this;
  }
  /// Bytes, a string or another message.
  Message& bytes(int field, std::string_view value) {
    put_varint(static_cast<uint64_t>(field) << 3 | 2);
    put_varint(value.size());
    data_.append(value);
    return *this;
  }
  Message& message(int field, const Message& value) { return bytes(field, value.data_); }
  Message& little(uint64_t value, int size) {
    put_little(value, size);
    return *this;
  }
  const std::string& data() const { return data_; }

 private:
  void put_varint(uint64_t value) {
    for (; value >= 0x80; value >>= 7) data_.push_back(static_cast<char>(value | 0x80));
    data_.push_back(static_cast<char>(value));
  }
  void put_little(uint64_t value, int size) {
    for (int i = 0; i < size; ++i) data_.push_back(static_cast<char>(value >> (8 * i)));
  }
  std::string data_;
};
}  // namespace detail

FTLIB_INLINE double TensorBoardWriter::now() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

FTLIB_INLINE TensorBoardWriter::TensorBoardWriter(const std::filesystem::path& folder, Clock clock)
    : clock_(std::move(clock)) {
  make_folders(folder);
  // TensorBoard reads a folder's files in the order of their names: time, then a number for files of one second.
  const auto seconds = static_cast<int64_t>(clock_());
  for (int number = 0;; ++number) {
    path_ = folder / str("events.out.tfevents.", seconds, ".ftlib.", number);
    if (!path_exists(path_)) break;
  }
  file_.open(path_, std::ios::binary | std::ios::trunc);
  if (!file_) throw system_error(path_, "cannot open", "the folder must be yours to write.");
  write(detail::Message().fixed64(1, clock_()).bytes(3, "brain.Event:2"));
}

FTLIB_INLINE TensorBoardWriter TensorBoardWriter::resume(const std::filesystem::path& folder, int64_t last_step,
                                                         Clock clock) {
  TensorBoardWriter writer(folder, std::move(clock));
  const auto start = detail::Message().varint(1, 1);  // SessionLog.status = START
  writer.write(writer.event(last_step + 1).message(7, start));
  return writer;
}

FTLIB_INLINE void TensorBoardWriter::scalar(std::string_view tag, int64_t step, double value) {
  write(step, detail::Message().bytes(1, tag).fixed32(2, static_cast<float>(value)));
}

FTLIB_INLINE void TensorBoardWriter::image(std::string_view tag, int64_t step, std::string_view png, int height,
                                           int width, int colorspace) {
  const auto picture = detail::Message().varint(1, height).varint(2, width).varint(3, colorspace).bytes(4, png);
  write(step, detail::Message().bytes(1, tag).message(4, picture));
}

FTLIB_INLINE void TensorBoardWriter::text(std::string_view tag, int64_t step, std::string_view markdown) {
  using detail::Message;
  const auto shape = Message().message(2, Message().varint(1, 1));                  // one string
  const auto tensor = Message().varint(1, 7).message(2, shape).bytes(8, markdown);  // DT_STRING
  const auto plugin = Message().message(1, Message().bytes(1, "text"));
  write(step, Message().bytes(1, tag).message(8, tensor).message(9, plugin));
}

FTLIB_INLINE detail::Message TensorBoardWriter::event(int64_t step) {
  return detail::Message().fixed64(1, clock_()).varint(2, step);
}

FTLIB_INLINE void TensorBoardWriter::write(int64_t step, const detail::Message& value) {
  write(event(step).message(5, detail::Message().message(1, value)));  // Event.summary, Summary.value
}

FTLIB_INLINE void TensorBoardWriter::write(const detail::Message& event) {
  const std::string length = detail::Message().little(event.data().size(), 8).data();
  file_ << length << detail::Message().little(detail::masked_crc32c(length), 4).data() << event.data()
        << detail::Message().little(detail::masked_crc32c(event.data()), 4).data() << std::flush;
  if (!file_) throw system_error(path_, "cannot write", "is the disk full?");
}

}  // namespace ft::inline FTLIB_ABI
