// io/gguf.hpp: GGUF files, versions 2 and 3: a reader made for hostile files, and a writer.
//
// A file is: magic, version, counts; metadata (key, type, value); tensor infos (name, dimensions, type, offset); then,
// from the next multiple of general.alignment, the data.  https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
#pragma once
#include <ftlib/io/atomic_file.hpp>
#include <ftlib/io/entry.hpp>
#include <ftlib/io/mapped_file.hpp>

#include <algorithm>  // std::sort
#include <cstring>    // std::memcpy
#include <map>        // std::map
#include <optional>   // std::optional
#include <set>        // std::set
#include <variant>    // std::variant

namespace ft::inline FTLIB_ABI {

/// The types of metadata, numbered as in the file.
enum class GgufType : uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };

namespace detail {

inline std::string_view gguf_type_name(GgufType type) {
  static constexpr std::string_view names[] = {"uint8", "int8",   "uint16", "int16",  "uint32", "int32",  "float32",
                                               "bool",  "string", "array",  "uint64", "int64",  "float64"};
  return names[static_cast<std::size_t>(type)];
}
/// Bytes of one value; 0 for strings and arrays, whose size is in the file.
inline uint64_t gguf_type_bytes(GgufType type) {
  static constexpr uint64_t bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
  return bytes[static_cast<std::size_t>(type)];
}

template <class T> constexpr GgufType gguf_type_of() {
  if constexpr (std::same_as<T, uint8_t>) return GgufType::u8;
  else if constexpr (std::same_as<T, int8_t>) return GgufType::i8;
  else if constexpr (std::same_as<T, uint16_t>) return GgufType::u16;
  else if constexpr (std::same_as<T, int16_t>) return GgufType::i16;
  else if constexpr (std::same_as<T, uint32_t>) return GgufType::u32;
  else if constexpr (std::same_as<T, int32_t>) return GgufType::i32;
  else if constexpr (std::same_as<T, float>) return GgufType::f32;
  else if constexpr (std::same_as<T, uint64_t>) return GgufType::u64;
  else if constexpr (std::same_as<T, int64_t>) return GgufType::i64;
  else {
    static_assert(std::same_as<T, double>, "not a number type of GGUF");
    return GgufType::f64;
  }
}

template <class T> T load(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof(T));
  return value;
}

/// Walks over bytes that may lie: nothing is read before what is left has been compared.
class GgufCursor {
 public:
  GgufCursor(std::span<const std::byte> bytes, std::string_view name) : bytes_(bytes), name_(name) {}

  uint64_t position() const { return position_; }
  uint64_t left() const { return bytes_.size() - position_; }

  template <class T> T number(std::string_view what) {
    need(sizeof(T), what);
    const T value = load<T>(bytes_.data() + position_);
    position_ += sizeof(T);
    return value;
  }
  std::string_view string(std::string_view what) {
    const uint64_t start = position_, length = number<uint64_t>(what);
    if (length > left())
      throw Error(str(name_, ": ", what, " at byte ", grouped(start), " claims ", grouped(length), " bytes, ",
                      grouped(left()), " are left"),
                  "the file is damaged or cut short; compare its size with the publisher's.");
    const std::string_view text(reinterpret_cast<const char*>(bytes_.data() + position_),
                                static_cast<std::size_t>(length));
    position_ += length;
    return text;
  }
  /// A count of things that take at least `least` bytes each.
  uint64_t count(uint64_t least, std::string_view what) {
    const uint64_t start = position_, n = number<uint64_t>(what);
    if (n > left() / least)
      throw Error(str(name_, ": ", what, " at byte ", grouped(start), " is ", grouped(n), ", more than the ",
                      grouped(left()), " bytes left can hold"),
                  "the file is damaged or cut short; compare its size with the publisher's.");
    return n;
  }
  GgufType type(std::string_view what) {
    const uint64_t start = position_;
    const auto type = number<uint32_t>(what);
    if (type > static_cast<uint32_t>(GgufType::f64))
      throw Error(str(name_, ": ", what, " at byte ", grouped(start), " is ", type, ", which GGUF does not define"));
    return static_cast<GgufType>(type);
  }
  void skip(uint64_t bytes, std::string_view what) {
    need(bytes, what);
    position_ += bytes;
  }
  std::span<const std::byte> since(uint64_t start) const {
    return bytes_.subspan(static_cast<std::size_t>(start), static_cast<std::size_t>(position_ - start));
  }

 private:
  void need(uint64_t bytes, std::string_view what) const {
    if (bytes > left())
      throw Error(
          str(name_, ": ends at byte ", grouped(bytes_.size()), " within ", what, " at byte ", grouped(position_)),
          "the copy is cut short; compare its size with the publisher's.");
  }

  std::span<const std::byte> bytes_;
  std::string_view name_;
  uint64_t position_ = 0;
};

/// A number or bool of metadata: its GgufType, and its value in the widest type of its kind. What asks for a T then is
/// compiled for four kinds, not for eleven types.
struct GgufNumber {
  GgufType type;
  uint64_t natural = 0;  // of unsigned types and bool
  int64_t integer = 0;   // of signed types
  double real = 0;       // of float types

  template <class X> GgufNumber(GgufType type_, X x) : type(type_) {
    if constexpr (std::floating_point<X>) real = x;
    else if constexpr (std::signed_integral<X>) integer = x;  // NOLINT(bugprone-signed-char-misuse): a number of 8 bits
    else natural = x;
  }

  /// The number at `at`; of a type that has a size.
  static GgufNumber load(GgufType type, const std::byte* at) {
    switch (type) {
      case GgufType::u16:
        return {type, detail::load<uint16_t>(at)};
      case GgufType::u32:
        return {type, detail::load<uint32_t>(at)};
      case GgufType::u64:
        return {type, detail::load<uint64_t>(at)};
      case GgufType::i8:
        return {type, detail::load<int8_t>(at)};
      case GgufType::i16:
        return {type, detail::load<int16_t>(at)};
      case GgufType::i32:
        return {type, detail::load<int32_t>(at)};
      case GgufType::i64:
        return {type, detail::load<int64_t>(at)};
      case GgufType::f32:
        return {type, detail::load<float>(at)};
      case GgufType::f64:
        return {type, detail::load<double>(at)};
      default:
        return {type, detail::load<uint8_t>(at)};
    }
  }

  /// As T where T holds it; a bool is no number.
  template <class T> std::optional<T> as() const {
    if constexpr (std::same_as<T, bool>) {
      if (type == GgufType::boolean) return natural != 0;
      return std::nullopt;
    } else {
      switch (type) {
        case GgufType::boolean:
          return std::nullopt;
        case GgufType::f64:
          if (std::same_as<T, float> && std::abs(real) > double{std::numeric_limits<float>::max()}) return std::nullopt;
          [[fallthrough]];
        case GgufType::f32:
          if constexpr (std::floating_point<T>) return static_cast<T>(real);
          else return std::nullopt;
        case GgufType::i8:
        case GgufType::i16:
        case GgufType::i32:
        case GgufType::i64:
          return narrow<T>(integer);
        default:
          return narrow<T>(natural);
      }
    }
  }

 private:
  template <class T, class From> static std::optional<T> narrow(From value) {
    if constexpr (std::integral<T>)
      if (!std::in_range<T>(value)) return std::nullopt;
    return static_cast<T>(value);
  }
};

}  // namespace detail

/// An array of metadata as it lies in the file: nothing is unpacked before values() asks for it.
class GgufArray {
 public:
  /// From values of a program, for write_gguf: numbers, bool, or strings.
  template <class T> static GgufArray of(const std::vector<T>& values) {
    auto packed = std::make_shared<std::vector<std::byte>>();
    const auto append = [&](const void* data, std::size_t bytes) {
      packed->insert(packed->end(), static_cast<const std::byte*>(data), static_cast<const std::byte*>(data) + bytes);
    };
    GgufType type;
    if constexpr (std::same_as<T, bool>) {
      type = GgufType::boolean;
      for (const bool value : values) append(&value, 1);
    } else if constexpr (std::convertible_to<T, std::string_view>) {
      type = GgufType::string;
      for (const std::string_view value : values) {
        const uint64_t length = value.size();
        append(&length, 8);
        append(value.data(), value.size());
      }
    } else {
      type = detail::gguf_type_of<T>();
      append(values.data(), values.size() * sizeof(T));
    }
    return {type, values.size(), *packed, packed};
  }
  GgufType type() const { return type_; }
  uint64_t size() const { return size_; }
  /// As in the file.
  std::span<const std::byte> bytes() const { return bytes_; }

  /// The elements as T: a number type that holds them all, bool, std::string, or std::string_view (into the file, and
  /// so as long as the GgufFile). Nothing where they are not.
  template <class T> std::optional<std::vector<T>> values() const {
    std::vector<T> result;
    if constexpr (std::same_as<T, std::string> || std::same_as<T, std::string_view>) {
      if (type_ != GgufType::string) return std::nullopt;
      result.reserve(static_cast<std::size_t>(size_));
      for (std::size_t at = 0; result.size() < size_;) {
        const auto length = static_cast<std::size_t>(detail::load<uint64_t>(bytes_.data() + at));
        result.emplace_back(reinterpret_cast<const char*>(bytes_.data() + at + 8), length);
        at += 8 + length;
      }
      return result;
    } else {
      if (type_ == GgufType::string || type_ == GgufType::array) return std::nullopt;
      result.reserve(static_cast<std::size_t>(size_));
      const auto bytes = static_cast<std::size_t>(detail::gguf_type_bytes(type_));
      for (std::size_t i = 0; i < size_; ++i) {
        const auto value = detail::GgufNumber::load(type_, bytes_.data() + i * bytes).template as<T>();
        if (!value) return std::nullopt;
        result.push_back(*value);
      }
      return result;
    }
  }

 private:
  friend class GgufFile;
  GgufArray(GgufType type, uint64_t size, std::span<const std::byte> bytes, std::shared_ptr<const void> owner)
      : type_(type), size_(size), bytes_(bytes), owner_(std::move(owner)) {}

  GgufType type_;
  uint64_t size_;
  std::span<const std::byte> bytes_;
  std::shared_ptr<const void> owner_;
};

/// A value of metadata; the index of the alternative is its GgufType.
using GgufValue = std::variant<uint8_t, int8_t, uint16_t, int16_t, uint32_t, int32_t, float, bool, std::string,
                               GgufArray, uint64_t, int64_t, double>;
using GgufMetadata = std::vector<std::pair<std::string, GgufValue>>;

namespace detail {

/// ggml's tensor types: names for messages, sizes for the check against the file, and ours where there is one.
/// ggml.h, enum ggml_type; ggml.c, type_traits. Numbers that are missing were given up by ggml.
struct GgmlType {
  uint32_t number;
  std::string_view name;
  int64_t block, bytes;
  std::optional<DType> type;
};
inline const GgmlType* ggml_type(uint32_t number) {
  static constexpr GgmlType table[] = {{0, "F32", 1, 4, DType::f32},
                                       {1, "F16", 1, 2, DType::f16},
                                       {2, "Q4_0", 32, 18, DType::q4_0},
                                       {3, "Q4_1", 32, 20, DType::q4_1},
                                       {6, "Q5_0", 32, 22, DType::q5_0},
                                       {7, "Q5_1", 32, 24, DType::q5_1},
                                       {8, "Q8_0", 32, 34, DType::q8_0},
                                       {9, "Q8_1", 32, 36, {}},
                                       {10, "Q2_K", 256, 84, {}},
                                       {11, "Q3_K", 256, 110, {}},
                                       {12, "Q4_K", 256, 144, DType::q4_k},
                                       {13, "Q5_K", 256, 176, DType::q5_k},
                                       {14, "Q6_K", 256, 210, DType::q6_k},
                                       {15, "Q8_K", 256, 292, {}},
                                       {16, "IQ2_XXS", 256, 66, {}},
                                       {17, "IQ2_XS", 256, 74, {}},
                                       {18, "IQ3_XXS", 256, 98, {}},
                                       {19, "IQ1_S", 256, 50, {}},
                                       {20, "IQ4_NL", 32, 18, {}},
                                       {21, "IQ3_S", 256, 110, {}},
                                       {22, "IQ2_S", 256, 82, {}},
                                       {23, "IQ4_XS", 256, 136, {}},
                                       {24, "I8", 1, 1, {}},
                                       {25, "I16", 1, 2, {}},
                                       {26, "I32", 1, 4, {}},
                                       {27, "I64", 1, 8, {}},
                                       {28, "F64", 1, 8, DType::f64},
                                       {29, "IQ1_M", 256, 56, {}},
                                       {30, "BF16", 1, 2, DType::bf16},
                                       {34, "TQ1_0", 256, 54, {}},
                                       {35, "TQ2_0", 256, 66, {}},
                                       {39, "MXFP4", 32, 17, DType::mxfp4},
                                       {40, "NVFP4", 64, 36, {}},
                                       {41, "Q1_0", 128, 18, {}},
                                       // ftlib's own, of which no other program knows
                                       {0x4654, "NF4", 256, 134, DType::nf4}};
  for (const GgmlType& type : table)
    if (type.number == number) return &type;
  return nullptr;
}
inline uint32_t ggml_number(DType type) {
  static constexpr uint32_t numbers[] = {0, 28, 1, 30, 8, 2, 3, 6, 7, 12, 13, 14, 39, 0x4654};  // in DType's order
  return numbers[static_cast<std::size_t>(type)];
}

template <class T> constexpr std::string_view gguf_wanted() {
  if constexpr (std::same_as<T, bool>) return "a bool";
  else if constexpr (std::integral<T>) return "an integer";
  else if constexpr (std::floating_point<T>) return "a number";
  else if constexpr (std::same_as<T, GgufArray>) return "an array";
  else return "a string";
}
template <class T> struct GgufVector : std::false_type {};
template <class U> struct GgufVector<std::vector<U>> : std::true_type {};

}  // namespace detail

/// A GGUF file. Opening checks every count, length, type, dimension and offset before it is used; what it accepts can
/// be read without a further check. Cheap to copy but for the metadata; tensors outlive it.
class GgufFile {
 public:
  struct TensorInfo {
    std::string name;
    uint32_t ggml_type = 0;
    Shape shape;         // row-major: ggml's dimensions reversed
    uint64_t begin = 0;  // byte of the file
    uint64_t bytes = 0;  // 0 for a type that this version does not know
  };

  /// Maps a file. Throws Error for anything that is not a whole, sound GGUF file of version 2 or 3.
  static GgufFile open(const std::filesystem::path& path) {
    const auto file = MappedFile::open(path);
    return reading_file([&] { return parse(file->bytes(), file->name(), file); });
  }

  /// Reads a file that is in memory already; `owner` keeps its bytes. `name` is for messages.
  [[gnu::cold]] static GgufFile parse(std::span<const std::byte> bytes, std::string name,
                                      std::shared_ptr<const void> owner = {}) {
    GgufFile file(bytes, std::move(name), std::move(owner));
    file.read();
    return file;
  }

  const std::string& file_name() const { return name_; }
  uint32_t version() const { return version_; }
  uint32_t alignment() const { return alignment_; }

  /// In the file's order.
  const GgufMetadata& metadata() const { return metadata_; }
  /// Null where the key is missing.
  const GgufValue* find(std::string_view key) const {
    const auto found = key_index_.find(key);
    return found == key_index_.end() ? nullptr : &metadata_[found->second].second;
  }
  /// The value of a key as T: an integer or float type that holds it (any number type may be stored), bool,
  /// std::string, GgufArray, or a std::vector of numbers, bool, std::string or std::string_view (views into the file).
  /// Throws Error naming file and key where it is missing or another type.
  template <class T> T get(std::string_view key) const {
    const GgufValue* value = find(key);
    if (!value) throw Error(str(name_, ": key ", quote(key), " is missing"));
    if (auto result = as<T>(*value)) return *std::move(result);
    if constexpr (detail::GgufVector<T>::value) {
      const auto* array = std::get_if<GgufArray>(value);
      throw Error(str(name_, ": key ", quote(key), " is ", array ? "an array of " : "",
                      detail::gguf_type_name(array ? array->type() : type_of(*value)),
                      ", not an array whose elements are each ", detail::gguf_wanted<typename T::value_type>(),
                      " of the range that was asked for"));
    } else {
      throw Error(str(name_, ": key ", quote(key), " is of type ", detail::gguf_type_name(type_of(*value)), ", not ",
                      detail::gguf_wanted<T>(), " of the range that was asked for"));
    }
  }
  /// As get<T>, but `fallback` where the key is missing.
  template <class T> T get_or(std::string_view key, std::type_identity_t<T> fallback) const {
    return find(key) ? get<T>(key) : fallback;
  }

  /// Of the tensors, in the file's order.
  const std::vector<std::string>& names() const { return names_; }
  const std::vector<TensorInfo>& tensors() const { return tensors_; }
  bool contains(std::string_view name) const { return tensor_index_.find(name) != tensor_index_.end(); }
  const TensorInfo& info(std::string_view name) const {
    const auto found = tensor_index_.find(name);
    if (found == tensor_index_.end())
      throw Error(str(name_, ": tensor ", quote(name), " is not in the file, which has ", tensors_.size()));
    return tensors_[found->second];
  }
  /// A tensor as it lies in the file, sharing the mapping. Throws Error for a type of ggml that is no DType.
  Stored<Cpu> tensor(std::string_view name) const {
    const TensorInfo& tensor = info(name);
    const auto* type = detail::ggml_type(tensor.ggml_type);
    if (!type || !type->type)
      throw Error(
          str(name_, ": tensor ", quote(name), " at byte ", grouped(tensor.begin), " has ggml type ",
              type ? std::string(type->name) : std::to_string(tensor.ggml_type), ", which is not read"),
          "F32, F16, BF16, F64, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K and MXFP4 are: take such a file.");
    return {*type->type, tensor.shape, bytes_.data() + tensor.begin, owner_};
  }

 private:
  GgufFile(std::span<const std::byte> bytes, std::string name, std::shared_ptr<const void> owner)
      : bytes_(bytes), name_(std::move(name)), owner_(std::move(owner)) {}

  static GgufType type_of(const GgufValue& value) { return static_cast<GgufType>(value.index()); }

  template <class T> static std::optional<T> as(const GgufValue& value) {
    if constexpr (detail::GgufVector<T>::value) {
      const auto* array = std::get_if<GgufArray>(&value);
      return array ? array->template values<typename T::value_type>() : std::nullopt;
    } else if constexpr (std::same_as<T, std::string> || std::same_as<T, GgufArray>) {
      const T* found = std::get_if<T>(&value);
      return found ? std::optional<T>(*found) : std::nullopt;
    } else {
      static_assert(std::is_arithmetic_v<T>, "get<T>: a number, bool, std::string, GgufArray or a std::vector");
      const auto number = number_of(value);
      return number ? number->template as<T>() : std::nullopt;
    }
  }
  static std::optional<detail::GgufNumber> number_of(const GgufValue& value) {
    return std::visit(
        [&](const auto& x) -> std::optional<detail::GgufNumber> {
          if constexpr (std::is_arithmetic_v<std::decay_t<decltype(x)>>) return detail::GgufNumber(type_of(value), x);
          else return std::nullopt;
        },
        value);
  }

  [[gnu::cold]] void read() {
    detail::GgufCursor in(bytes_, name_);
    if (bytes_.size() < 4 || std::memcmp(bytes_.data(), "GGUF", 4) != 0)
      throw Error(str(name_, ": does not begin with 'GGUF'"), "this is another kind of file, or a failed download.");
    in.skip(4, "the magic");
    version_ = in.number<uint32_t>("the version");
    if (version_ != 2 && version_ != 3)
      throw Error(str(name_, ": GGUF version ", version_, "; 2 and 3 are read"),
                  version_ == 1         ? "convert it again with a current llama.cpp."
                  : version_ << 16 != 0 ? "the file is newer than this library, or damaged."
                                        : "the file is big-endian; take the little-endian one.");
    // The least bytes: key, type, value of one byte; name, dimension count, type, offset.
    const uint64_t tensor_count = in.count(8 + 4 + 4 + 8, "the tensor count");
    const uint64_t key_count = in.count(8 + 4 + 1, "the key count");
    for (uint64_t i = 0; i < key_count; ++i) read_key(in);
    if (find("general.alignment")) {
      alignment_ = get<uint32_t>("general.alignment");
      if (alignment_ == 0 || (alignment_ & (alignment_ - 1)) != 0)
        throw Error(str(name_, ": general.alignment is ", alignment_, ", not a power of two"));
    }
    for (uint64_t i = 0; i < tensor_count; ++i) read_info(in);
    place_tensors((in.position() + alignment_ - 1) / alignment_ * alignment_);
  }

  [[gnu::cold]] void read_key(detail::GgufCursor& in) {
    const uint64_t start = in.position();
    std::string key(in.string("a key"));
    const std::string what = "key " + quote(key);
    if (!key_index_.emplace(key, metadata_.size()).second)
      throw Error(str(name_, ": ", what, " at byte ", grouped(start), " is there a second time"));
    const GgufType type = in.type("the type of " + what);
    metadata_.emplace_back(std::move(key), read_value(in, type, what));
  }

  [[gnu::cold]] GgufValue read_value(detail::GgufCursor& in, GgufType type, const std::string& what) {
    switch (type) {
      case GgufType::u8:
        return in.number<uint8_t>(what);
      case GgufType::i8:
        return in.number<int8_t>(what);
      case GgufType::u16:
        return in.number<uint16_t>(what);
      case GgufType::i16:
        return in.number<int16_t>(what);
      case GgufType::u32:
        return in.number<uint32_t>(what);
      case GgufType::i32:
        return in.number<int32_t>(what);
      case GgufType::f32:
        return in.number<float>(what);
      case GgufType::u64:
        return in.number<uint64_t>(what);
      case GgufType::i64:
        return in.number<int64_t>(what);
      case GgufType::f64:
        return in.number<double>(what);
      case GgufType::boolean: {
        const auto byte = in.number<uint8_t>(what);
        if (byte > 1) throw Error(str(name_, ": ", what, " is a bool of value ", int{byte}));
        return byte == 1;
      }
      case GgufType::string:
        return std::string(in.string(what));
      case GgufType::array:
        break;
    }
    const GgufType element = in.type("the element type of " + what);
    // llama.cpp refuses these as well; without them nothing here recurses.
    if (element == GgufType::array) throw Error(str(name_, ": ", what, " is an array of arrays, which is not read"));
    const uint64_t bytes = detail::gguf_type_bytes(element);
    const uint64_t size = in.count(bytes ? bytes : 8, "the length of " + what), start = in.position();
    if (bytes) in.skip(size * bytes, what);
    else
      for (uint64_t i = 0; i < size; ++i) in.string(what);
    return GgufArray(element, size, in.since(start), owner_);
  }

  [[gnu::cold]] void read_info(detail::GgufCursor& in) {
    const uint64_t start = in.position();
    TensorInfo tensor;
    tensor.name = in.string("a tensor's name");
    const std::string what = "tensor " + quote(tensor.name);
    const std::string where = str(name_, ": ", what, " at byte ", grouped(start));
    if (!tensor_index_.emplace(tensor.name, tensors_.size()).second) throw Error(where + " is there a second time");

    const auto rank = in.number<uint32_t>("the dimension count of " + what);
    if (rank > 4) throw Error(str(where, " has ", rank, " dimensions, ggml has at most 4"));
    std::array<int64_t, 4> sizes{};
    for (uint32_t i = 0; i < rank; ++i) {
      const auto size = in.number<uint64_t>("the dimensions of " + what);
      if (!std::in_range<int64_t>(size)) throw Error(str(where, " has a dimension of ", grouped(size)));
      sizes[rank - 1 - i] = static_cast<int64_t>(size);
    }
    tensor.shape = Shape(std::span<const int64_t>(sizes).first(rank));
    const auto count = detail::checked_count(std::span<const int64_t>(sizes).first(rank));
    if (!count) throw Error(str(where, " has shape ", tensor.shape, ", whose size no file can have"));

    tensor.ggml_type = in.number<uint32_t>("the type of " + what);
    tensor.begin = in.number<uint64_t>("the offset of " + what);  // from the start of the data; place_tensors adds that
    if (const auto* type = detail::ggml_type(tensor.ggml_type)) {
      const int64_t row = rank ? tensor.shape.back() : 1;
      if (row % type->block != 0)
        throw Error(str(where, " has rows of ", row, " elements, no multiple of the ", type->block, " in a block of ",
                        type->name));
      const auto bytes = detail::checked_mul(*count / type->block, type->bytes);
      if (!bytes) throw Error(str(where, " has shape ", tensor.shape, ", whose size no file can have"));
      tensor.bytes = static_cast<uint64_t>(*bytes);
    }
    names_.push_back(tensor.name);
    tensors_.push_back(std::move(tensor));
  }

  /// Offsets are aligned, inside the file, and no two tensors share a byte.
  [[gnu::cold]] void place_tensors(uint64_t data_begin) {
    std::vector<const TensorInfo*> order;
    for (TensorInfo& tensor : tensors_) {
      const std::string where = str(name_, ": tensor ", quote(tensor.name));
      if (tensor.begin % alignment_ != 0)
        throw Error(str(where, " has offset ", grouped(tensor.begin), ", no multiple of the alignment ", alignment_));
      if (data_begin > bytes_.size() || tensor.begin > bytes_.size() - data_begin)
        throw Error(str(where, " begins beyond the file's end at byte ", grouped(bytes_.size())),
                    "the copy is cut short; compare its size with the publisher's.");
      tensor.begin += data_begin;
      if (tensor.bytes > bytes_.size() - tensor.begin)
        throw Error(str(where, " ends at byte ", grouped(tensor.begin + tensor.bytes), ", the file at ",
                        grouped(bytes_.size())),
                    "the copy is cut short; compare its size with the publisher's.");
      order.push_back(&tensor);
    }
    std::sort(order.begin(), order.end(), [](const TensorInfo* a, const TensorInfo* b) {
      return std::tie(a->begin, a->bytes) < std::tie(b->begin, b->bytes);
    });
    for (std::size_t i = 1; i < order.size(); ++i)
      if (order[i]->begin < order[i - 1]->begin + order[i - 1]->bytes)
        throw Error(str(name_, ": tensors ", quote(order[i - 1]->name), " and ", quote(order[i]->name),
                        " both claim byte ", grouped(order[i]->begin)));
  }

  std::span<const std::byte> bytes_;
  std::string name_;
  std::shared_ptr<const void> owner_;
  uint32_t version_ = 0, alignment_ = 32;
  GgufMetadata metadata_;
  std::map<std::string, std::size_t, std::less<>> key_index_, tensor_index_;
  std::vector<TensorInfo> tensors_;
  std::vector<std::string> names_;
};

/// A tensor that a GgufWriter is to write.
struct GgufTensor {
  std::string name;
  DType type = DType::f32;
  Shape shape;  // row-major
};

namespace detail {

/// What stands before the data of a GGUF file of version 3, padded to its alignment, and where the tensors lie.
struct GgufHeader {
  std::vector<std::byte> bytes;
  std::vector<uint64_t> sizes;        // of the tensors' data, without padding
  uint64_t alignment = 32, data = 0;  // `data`: bytes behind the header, padding included
};

[[gnu::cold]] inline GgufHeader gguf_header(const std::string& file, const GgufMetadata& metadata,
                                            const std::vector<GgufTensor>& tensors) {
  GgufHeader header;
  auto& out = header.bytes;
  const auto bytes = [&](std::span<const std::byte> b) { out.insert(out.end(), b.begin(), b.end()); };
  const auto number = [&](auto value) { bytes(std::as_bytes(std::span(&value, 1))); };
  const auto string = [&](std::string_view text) {
    number(uint64_t{text.size()});
    bytes(std::as_bytes(std::span(text.data(), text.size())));
  };
  bytes(std::as_bytes(std::span(std::string_view("GGUF"))));
  number(uint32_t{3});
  number(uint64_t{tensors.size()});
  number(uint64_t{metadata.size()});
  std::set<std::string_view> seen;
  for (const auto& [key, value] : metadata) {
    if (!seen.insert(key).second) throw Error(str(file, ": key ", quote(key), " is given twice"));
    if (key == "general.alignment") {
      const auto* asked = std::get_if<uint32_t>(&value);
      if (!asked || *asked == 0 || (*asked & (*asked - 1)) != 0)
        throw Error(str(file, ": general.alignment must be a uint32 and a power of two"));
      header.alignment = *asked;
    }
    string(key);
    number(static_cast<uint32_t>(value.index()));
    std::visit(
        [&](const auto& x) {
          using T = std::decay_t<decltype(x)>;
          if constexpr (std::same_as<T, std::string>) {
            string(x);
          } else if constexpr (std::same_as<T, GgufArray>) {
            number(static_cast<uint32_t>(x.type()));
            number(x.size());
            bytes(x.bytes());
          } else {
            number(x);
          }
        },
        value);
  }
  seen.clear();
  for (const auto& tensor : tensors) {
    if (!seen.insert(tensor.name).second)
      throw Error(str(file, ": tensor name ", quote(tensor.name), " is given twice"));
    if (tensor.shape.rank() > 4)
      throw Error(str(file, ": tensor ", quote(tensor.name), " ", tensor.shape, " has more than 4 axes"));
    const TensorEntry entry{tensor.name, tensor.type, tensor.shape, tensor.name.data()};
    header.sizes.push_back(static_cast<uint64_t>(entry_bytes(entry, file)));
    string(tensor.name);
    number(static_cast<uint32_t>(tensor.shape.rank()));
    for (int i = tensor.shape.rank() - 1; i >= 0; --i) number(tensor.shape[i]);
    number(ggml_number(tensor.type));
    number(header.data);
    header.data += (header.sizes.back() + header.alignment - 1) / header.alignment * header.alignment;
  }
  out.resize((out.size() + header.alignment - 1) / header.alignment * header.alignment);
  return header;
}

}  // namespace detail

/// Writes a GGUF file of version 3, atomically and tensor by tensor, so that a model is never in memory as a whole: say
/// which tensors there will be, put() their bytes in that order, commit(). The alignment is metadata's
/// general.alignment (uint32), or else 32.
class GgufWriter {
 public:
  /// Writes what stands before the data. Throws Error for a name twice, more than 4 axes, a row that is no whole number
  /// of blocks, an alignment that is no power of two, and, before it writes, a disk without room for all of it.
  [[gnu::cold]] GgufWriter(const std::filesystem::path& path, const GgufMetadata& metadata,
                           std::vector<GgufTensor> tensors)
      : name_(path.string()), tensors_(std::move(tensors)), header_(detail::gguf_header(name_, metadata, tensors_)) {
    check_room(path, bytes());
    file_.emplace(path);
    file_->write(header_.bytes);
    settle();
  }
  /// Of the whole file.
  uint64_t bytes() const { return header_.bytes.size() + header_.data; }
  /// So far.
  uint64_t written() const { return file_->size(); }

  /// The next bytes of the data, of one tensor after the other, in any pieces that end where a tensor does.
  void put(std::span<const std::byte> bytes) {
    if (at_ == tensors_.size() ? !bytes.empty() : bytes.size() > header_.sizes[at_] - done_)
      throw Error(str(name_, ": ", grouped(bytes.size()), " bytes are more than what is left of ",
                      at_ == tensors_.size() ? std::string("the file") : "tensor " + quote(tensors_[at_].name)));
    file_->write(bytes);
    done_ += bytes.size();
    settle();
  }
  /// Puts the file in place. Throws Error where a tensor is not complete.
  void commit() {
    if (at_ < tensors_.size())
      throw Error(str(name_, ": tensor ", quote(tensors_[at_].name), " has ", grouped(done_), " bytes of ",
                      grouped(header_.sizes[at_])));
    file_->commit();
  }

 private:
  /// Pads behind tensors that are complete, those without elements among them.
  void settle() {
    while (at_ < tensors_.size() && done_ == header_.sizes[at_]) {
      const std::vector<std::byte> zeros(
          static_cast<std::size_t>((header_.alignment - done_ % header_.alignment) % header_.alignment));
      file_->write(zeros);
      ++at_;
      done_ = 0;
    }
  }

  std::string name_;
  std::vector<GgufTensor> tensors_;
  detail::GgufHeader header_;
  std::optional<AtomicFile> file_;
  std::size_t at_ = 0;  // the tensor that is written
  uint64_t done_ = 0;   // bytes of it
};

/// The same of tensors that are in memory.
[[gnu::cold]] inline void write_gguf(const std::filesystem::path& path, const GgufMetadata& metadata,
                                     const std::vector<TensorEntry>& tensors) {
  std::vector<GgufTensor> described;
  std::vector<int64_t> sizes;
  for (const auto& tensor : tensors) {
    sizes.push_back(detail::entry_bytes(tensor, path.string()));
    described.push_back({tensor.name, tensor.type, tensor.shape});
  }
  GgufWriter file(path, metadata, std::move(described));
  for (std::size_t i = 0; i < tensors.size(); ++i)
    detail::with_entry_data(tensors[i], sizes[i], [&](auto data) { file.put(data); });
  file.commit();
}

}  // namespace ft::inline FTLIB_ABI
