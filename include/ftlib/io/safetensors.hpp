// io/safetensors.hpp: safetensors files, single and sharded: a memory-mapped reader and a streaming, atomic writer.
//
// A file is: the header's length (8 bytes), the header (JSON: name -> dtype, shape, data_offsets; __metadata__), data.
// https://github.com/huggingface/safetensors, "Format"
#pragma once
#include <ftlib/core/stop.hpp>  // StopToken
#include <ftlib/io/atomic_file.hpp>
#include <ftlib/io/entry.hpp>
#include <ftlib/io/json.hpp>
#include <ftlib/io/mapped_file.hpp>

#include <algorithm>  // std::sort
#include <cstdio>     // std::snprintf
#include <cstring>    // std::memcpy
#include <map>        // std::map
#include <numeric>    // std::accumulate
#include <set>        // std::set

namespace ft::inline FTLIB_ABI {

/// A safetensors file. Opening checks all of the header against the file: known types, sizes that are the shape's,
/// offsets inside the data without overlap and hole, no name twice. Cheap to copy; tensors outlive it.
class SafetensorsFile {
 public:
  struct TensorInfo {
    std::string name, dtype;  // dtype in the file's words: "F32", "BF16", "I64", ...
    Shape shape;
    uint64_t begin = 0, end = 0;  // bytes of the file
  };
  static constexpr uint64_t max_header_bytes = 100'000'000;

  /// Maps a file. Throws Error for anything that is not a whole, sound safetensors file.
  [[gnu::cold]] static SafetensorsFile open(const std::filesystem::path& path) {
    const auto file = MappedFile::open(path);
    return reading_file([&] { return parse(file->bytes(), file->name(), file); });
  }

  /// Reads a file that is in memory already; `owner` keeps its bytes. `name` is for messages.
  static SafetensorsFile parse(std::span<const std::byte> bytes, std::string name,
                               std::shared_ptr<const void> owner = {}) {
    SafetensorsFile file(bytes, std::move(name), std::move(owner));
    file.read_header();
    return file;
  }

  const std::string& file_name() const { return name_; }
  /// In the order of their bytes.
  const std::vector<std::string>& names() const { return names_; }
  bool contains(std::string_view name) const { return tensors_.find(name) != tensors_.end(); }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

  const TensorInfo& info(std::string_view name) const {
    const auto found = tensors_.find(name);
    if (found == tensors_.end())
      throw Error(str(name_, ": tensor ", quote(name), " is not in the file, which has ", names_.size()));
    return found->second;
  }

  /// The bytes of a tensor of any type; they live as long as the mapping.
  std::span<const std::byte> bytes(std::string_view name) const {
    const TensorInfo& tensor = info(name);
    return bytes_.subspan(static_cast<std::size_t>(tensor.begin), static_cast<std::size_t>(tensor.end - tensor.begin));
  }

  /// What keeps the bytes.
  const std::shared_ptr<const void>& owner() const { return owner_; }

  /// A tensor as it lies in the file, sharing the mapping. Throws Error for a type that is no DType (integers, float8).
  Stored<Cpu> tensor(std::string_view name) const {
    const TensorInfo& tensor = info(name);
    const auto type = dtype_from(tensor.dtype);
    if (!type)
      throw Error(str(name_, ": tensor ", quote(name), " has type ", tensor.dtype, " at byte ", grouped(tensor.begin),
                      "; F64, F32, F16 and BF16 can be read as weights"),
                  "leave the tensor out, or convert the file.");
    return {*type, tensor.shape, bytes_.data() + tensor.begin, owner_};
  }

  /// The file's word for a type, or nothing for quantised blocks, which the format does not have.
  static std::optional<std::string_view> word_for(DType type) {
    switch (type) {
      case DType::f64:
        return "F64";
      case DType::f32:
        return "F32";
      case DType::f16:
        return "F16";
      case DType::bf16:
        return "BF16";
      default:
        return std::nullopt;
    }
  }

 private:
  SafetensorsFile(std::span<const std::byte> bytes, std::string name, std::shared_ptr<const void> owner)
      : bytes_(bytes), name_(std::move(name)), owner_(std::move(owner)) {}

  static std::optional<DType> dtype_from(std::string_view word) {
    for (const DType type : {DType::f64, DType::f32, DType::f16, DType::bf16})
      if (word_for(type) == word) return type;
    return std::nullopt;
  }

  /// Bits an element, 0 for a word that is none of the format's types.
  static int64_t bits_of(std::string_view word) {
    struct Bits {
      std::string_view word;
      int64_t bits;
    };
    static constexpr Bits table[] = {
        {"F64", 64},        {"F32", 32},    {"F16", 16},    {"BF16", 16},   {"I64", 64},    {"I32", 32},
        {"I16", 16},        {"I8", 8},      {"U64", 64},    {"U32", 32},    {"U16", 16},    {"U8", 8},
        {"BOOL", 8},        {"C64", 64},    {"F8_E4M3", 8}, {"F8_E5M2", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
        {"F8_E5M2FNUZ", 8}, {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"F4", 4}};
    for (const auto& [known, bits] : table)
      if (known == word) return bits;
    return 0;
  }

  [[gnu::cold]] void read_header() {
    if (bytes_.size() < 8)
      throw Error(str(name_, ": has ", bytes_.size(), " bytes, a safetensors file has at least 8"),
                  "the copy is cut short, or this is another kind of file.");
    uint64_t length = 0;
    std::memcpy(&length, bytes_.data(), 8);
    if (length > max_header_bytes)
      throw Error(str(name_, ": claims a header of ", grouped(length), " bytes, at most ", grouped(max_header_bytes),
                      " are allowed"),
                  "this is no safetensors file, or a damaged one.");
    if (length > bytes_.size() - 8)
      throw Error(
          str(name_, ": the header ends at byte ", grouped(length + 8), ", the file at ", grouped(bytes_.size())),
          "the copy is cut short; compare its size with the publisher's.");
    data_begin_ = length + 8;
    const std::string_view text(reinterpret_cast<const char*>(bytes_.data() + 8), static_cast<std::size_t>(length));
    if (text.empty() || text.front() != '{') throw Error(str(name_, ": the header at byte 8 does not begin with '{'"));

    const Json header = parse_json(text, name_ + " (header)");
    for (const auto& [name, value] : header.get_ref<const Json::object_t&>()) {
      if (name == "__metadata__") read_metadata(value);
      else tensors_.emplace(name, read_tensor(name, value));
    }
    check_layout();
  }

  [[gnu::cold]] void read_metadata(const Json& value) {
    if (!value.is_object()) throw Error(str(name_, ": __metadata__ is not an object"));
    for (const auto& [key, text] : value.get_ref<const Json::object_t&>())
      metadata_.emplace(key, detail::json_as<std::string>(text, key, name_ + ": __metadata__"));
  }

  [[gnu::cold]] TensorInfo read_tensor(const std::string& name, const Json& value) const {
    const std::string where = str(name_, ": tensor ", quote(name));
    TensorInfo tensor{name, at<std::string>(value, "dtype", where), {}, 0, 0};
    const int64_t bits = bits_of(tensor.dtype);
    if (bits == 0) throw Error(str(where, " has unknown type ", quote(tensor.dtype)));

    const auto sizes = at<std::vector<int64_t>>(value, "shape", where);
    const auto count = detail::checked_count(sizes);
    const auto total_bits = count ? detail::checked_mul(*count, bits) : std::nullopt;
    if (!total_bits) throw Error(str(where, " has a shape whose size no file can have"));
    if (*total_bits % 8 != 0) throw Error(str(where, " of type ", tensor.dtype, " does not end at a whole byte"));
    if (sizes.size() > Shape::max_rank)
      throw Error(str(where, " has ", sizes.size(), " axes, at most ", Shape::max_rank, " are supported"));
    tensor.shape = Shape(std::span<const int64_t>(sizes));

    const auto offsets = at<std::vector<uint64_t>>(value, "data_offsets", where);
    if (offsets.size() != 2 || offsets[0] > offsets[1])
      throw Error(str(where, " has data_offsets that are not [begin, end] with begin <= end"));
    if (offsets[1] > bytes_.size() - data_begin_)
      throw Error(str(where, " ends at byte ", grouped(offsets[1]), " of the data, which has ",
                      grouped(bytes_.size() - data_begin_)),
                  "the copy is cut short; compare its size with the publisher's.");
    if (offsets[1] - offsets[0] != static_cast<uint64_t>(*total_bits / 8))
      throw Error(str(where, " ", tensor.shape, " ", tensor.dtype, " takes ",
                      grouped(static_cast<uint64_t>(*total_bits / 8)), " bytes, its offsets span ",
                      grouped(offsets[1] - offsets[0])));
    tensor.begin = data_begin_ + offsets[0];
    tensor.end = data_begin_ + offsets[1];
    return tensor;
  }

  /// Every byte of the data belongs to exactly one tensor.
  [[gnu::cold]] void check_layout() {
    std::vector<const TensorInfo*> order;
    for (const auto& [name, tensor] : tensors_) order.push_back(&tensor);
    std::sort(order.begin(), order.end(), [](const TensorInfo* a, const TensorInfo* b) {
      return std::tie(a->begin, a->end, a->name) < std::tie(b->begin, b->end, b->name);
    });
    uint64_t position = data_begin_;
    for (const TensorInfo* tensor : order) {
      if (tensor->begin != position)
        throw Error(str(name_, ": tensor ", quote(tensor->name), " begins at byte ", grouped(tensor->begin),
                        ", the one before it ends at ", grouped(position)));
      position = tensor->end;
      names_.push_back(tensor->name);
    }
    if (position != bytes_.size())
      throw Error(
          str(name_, ": the tensors end at byte ", grouped(position), ", the file at ", grouped(bytes_.size())));
  }

  std::span<const std::byte> bytes_;
  std::string name_;
  std::shared_ptr<const void> owner_;
  uint64_t data_begin_ = 0;
  std::map<std::string, TensorInfo, std::less<>> tensors_;
  std::vector<std::string> names_;
  std::map<std::string, std::string> metadata_;
};

/// A model's tensors: one file, or the shards that an index (model.safetensors.index.json) names. Every tensor of the
/// index must be in the shard it names, and every tensor of a shard in the index.
class SafetensorsModel {
 public:
  /// `path` is a file, or a folder with `stem`.safetensors or else `stem`.safetensors.index.json.
  [[gnu::cold]] static SafetensorsModel open(const std::filesystem::path& path, const std::string& stem = "model") {
    SafetensorsModel model;
    if (!is_folder(path)) {
      model.add(SafetensorsFile::open(path));
      return model;
    }
    const auto single = path / (stem + ".safetensors"), index = path / (stem + ".safetensors.index.json");
    if (path_exists(single)) model.add(SafetensorsFile::open(single));
    else if (path_exists(index)) model.open_shards(path, index);
    else
      throw Error(str(path.string(), ": has neither ", single.filename().string(), " nor ", index.filename().string()),
                  "weights in pickle files (.bin, .pt) are not read; convert them to safetensors.");
    return model;
  }

  const std::vector<std::string>& names() const { return names_; }
  bool contains(std::string_view name) const { return file_of_.find(name) != file_of_.end(); }
  /// The file that holds a tensor; throws Error where none does.
  const SafetensorsFile& file_of(std::string_view name) const {
    const auto found = file_of_.find(name);
    if (found == file_of_.end())
      throw Error(str(files_.front().file_name(), ": tensor ", quote(name), " is not in the model, which has ",
                      names_.size(), " in ", files_.size(), files_.size() == 1 ? " file" : " files"));
    return files_[found->second];
  }
  Stored<Cpu> tensor(std::string_view name) const { return file_of(name).tensor(name); }
  const std::vector<SafetensorsFile>& files() const { return files_; }
  /// Of the first file.
  const std::map<std::string, std::string>& metadata() const { return files_.front().metadata(); }

 private:
  SafetensorsModel() = default;

  [[gnu::cold]] void add(SafetensorsFile file) {
    for (const auto& name : file.names()) {
      const auto [at, fresh] = file_of_.emplace(name, files_.size());
      if (!fresh)
        throw Error(str(file.file_name(), ": tensor ", quote(name), " is also in ", files_[at->second].file_name()));
      names_.push_back(name);
    }
    files_.push_back(std::move(file));
  }

  [[gnu::cold]] void open_shards(const std::filesystem::path& folder, const std::filesystem::path& index) {
    const std::string where = index.string();
    const auto weight_map = at<Json>(read_json(index, SafetensorsFile::max_header_bytes), "weight_map", where);
    if (!weight_map.is_object() || weight_map.empty()) throw Error(str(where, ": weight_map names no tensors"));
    std::set<std::string> shards;
    for (const auto& [name, shard] : weight_map.items()) {
      const auto file = detail::json_as<std::string>(shard, name, where);
      // A shard lies beside its index: a path would let a downloaded index read any file.
      if (file.empty() || file == "." || file == ".." || file.find_first_of(std::string_view("/\\\0", 3)) != file.npos)
        throw Error(
            str(where, ": tensor ", quote(name), " is said to be in ", quote(file), ", which is no plain file name"));
      shards.insert(file);
    }
    for (const auto& shard : shards) {
      if (!path_exists(folder / shard))
        throw Error(str(where, ": names shard ", quote(shard), ", which is not in the folder"),
                    "fetch all files of the model.");
      add(SafetensorsFile::open(folder / shard));
      for (const auto& name : files_.back().names()) {
        const auto found = weight_map.find(name);
        if (found == weight_map.end() || found->get_ref<const std::string&>() != shard)
          throw Error(str(files_.back().file_name(), ": tensor ", quote(name), " is in this shard, the index ",
                          found == weight_map.end() ? "does not name it" : "says otherwise"));
      }
    }
    for (const auto& [name, shard] : weight_map.items())
      if (!contains(name))
        throw Error(
            str(where, ": tensor ", quote(name), " is not in its shard ", quote(shard.get_ref<const std::string&>())));
  }

  std::vector<SafetensorsFile> files_;
  std::map<std::string, std::size_t, std::less<>> file_of_;
  std::vector<std::string> names_;
};

namespace detail {
/// A safetensors file before it is written: its header, and the tensors in the order of their bytes.
struct SafetensorsLayout {
  std::string header;  // with the length in front
  std::vector<TensorEntry> entries;
  std::vector<int64_t> sizes;
};
[[gnu::cold]] inline SafetensorsLayout safetensors_layout(const std::string& file_name,
                                                          std::vector<TensorEntry> entries,
                                                          const std::map<std::string, std::string>& metadata) {
  std::sort(entries.begin(), entries.end(), [](const TensorEntry& a, const TensorEntry& b) {
    const auto width = [](const TensorEntry& e) {
      return e.word.empty() ? info(e.type).bytes : e.word == "I64" ? 8 : 1;
    };
    const auto width_a = width(a), width_b = width(b);
    return width_a != width_b ? width_a > width_b : a.name < b.name;
  });
  std::set<std::string_view> seen{"__metadata__"};
  std::vector<int64_t> sizes;
  std::string header;
  try {
    header = "{";
    if (!metadata.empty()) header += "\"__metadata__\":" + Json(metadata).dump();
    int64_t position = 0;
    for (const auto& tensor : entries) {
      const auto word = tensor.word.empty() ? SafetensorsFile::word_for(tensor.type) : std::optional(tensor.word);
      if (!word)
        throw Error(str(file_name, ": tensor ", quote(tensor.name), " is ", tensor.type,
                        ", which safetensors files do not hold"),
                    "convert it to float32, float16 or bfloat16 first.");
      if (!seen.insert(tensor.name).second)
        throw Error(str(file_name, ": tensor name ", quote(tensor.name), " is given twice or reserved"));
      sizes.push_back(detail::entry_bytes(tensor, file_name));
      const std::vector<int64_t> shape(tensor.shape.begin(), tensor.shape.end());
      header +=
          str(header.size() > 1 ? "," : "", Json(tensor.name).dump(), ":{\"dtype\":\"", *word,
              "\",\"shape\":", Json(shape).dump(), ",\"data_offsets\":[", position, ",", position + sizes.back(), "]}");
      position += sizes.back();
    }
  } catch (const Json::exception&) {  // dump() of a string that is not UTF-8
    throw Error(str(file_name, ": a tensor's name or the metadata is not UTF-8"));
  }
  header += '}';
  header.append((8 - header.size() % 8) % 8, ' ');
  if (header.size() > SafetensorsFile::max_header_bytes)
    throw Error(str(file_name, ": a header of ", grouped(header.size()), " bytes is over the format's limit"));

  const uint64_t length = header.size();
  header.insert(0, reinterpret_cast<const char*>(&length), sizeof length);
  return {std::move(header), std::move(entries), std::move(sizes)};
}
}  // namespace detail

/// Writes one safetensors file, atomically (io/atomic_file.hpp) and straight from the entries' memory. Wide types come
/// first, then by name, so that every tensor is aligned to its type, as the reference writes. transformers wants
/// metadata {"format": "pt"}. Throws Error for a quantised entry, a name twice, or text that is not UTF-8; Interrupted
/// on a request to stop, which is looked at before each entry.
[[gnu::cold]] inline void write_safetensors(const std::filesystem::path& path, std::vector<TensorEntry> entries,
                                            const std::map<std::string, std::string>& metadata = {},
                                            const StopToken& stop = {}) {
  const auto layout = detail::safetensors_layout(path.string(), std::move(entries), metadata);
  AtomicFile file(path);
  if (!detail::is_channel(path))
    check_room(path, std::accumulate(layout.sizes.begin(), layout.sizes.end(), std::uint64_t{layout.header.size()}));
  file.write(layout.header);
  for (std::size_t i = 0; i < layout.entries.size(); ++i) {
    if (stop.stop_requested()) throw Interrupted(path.string() + ": writing it was stopped by the host");
    detail::with_entry_data(layout.entries[i], layout.sizes[i], [&](auto data) { file.write(data); });
  }
  file.commit();
}
/// The same in memory; `name` is what messages call it.
[[gnu::cold]] inline std::vector<std::byte> safetensors_bytes(const std::string& name, std::vector<TensorEntry> entries,
                                                              const std::map<std::string, std::string>& metadata = {}) {
  const auto layout = detail::safetensors_layout(name, std::move(entries), metadata);
  const auto head = std::as_bytes(std::span(layout.header.data(), layout.header.size()));
  std::vector<std::byte> bytes(head.begin(), head.end());
  for (std::size_t i = 0; i < layout.entries.size(); ++i) {
    detail::with_entry_data(layout.entries[i], layout.sizes[i],
                            [&](auto data) { bytes.insert(bytes.end(), data.begin(), data.end()); });
  }
  return bytes;
}

/// Writes a model into an existing folder: `stem`.safetensors where all fits into `max_shard_bytes`, else
/// `stem`-00001-of-0000N.safetensors ... and, last, the index. Entries keep their order; one that is larger than a
/// shard gets its own. Each file is atomic; for all of them together write into an AtomicFolder. The other form's
/// `stem` file is removed, because readers would prefer it.
[[gnu::cold]] inline void write_safetensors_sharded(const std::filesystem::path& folder,
                                                    const std::vector<TensorEntry>& entries,
                                                    const std::map<std::string, std::string>& metadata,
                                                    int64_t max_shard_bytes, const std::string& stem = "model",
                                                    const StopToken& stop = {}) {
  std::vector<std::vector<TensorEntry>> shards(1);
  int64_t total = 0, in_shard = 0;
  std::set<std::string_view> seen;
  for (const auto& tensor : entries) {
    const int64_t bytes = detail::entry_bytes(tensor, folder.string());
    if (!seen.insert(tensor.name).second)
      throw Error(str(folder.string(), ": tensor name ", quote(tensor.name), " is given twice"));
    if (!shards.back().empty() && bytes > max_shard_bytes - in_shard) {
      shards.emplace_back();
      in_shard = 0;
    }
    shards.back().push_back(tensor);
    in_shard += bytes;
    total += bytes;
  }
  const auto single = folder / (stem + ".safetensors"), index = folder / (stem + ".safetensors.index.json");
  std::error_code ignored;
  if (shards.size() == 1) {
    write_safetensors(single, shards.front(), metadata, stop);
    std::filesystem::remove(index, ignored);
    return;
  }
  Json weight_map = Json::object();
  for (std::size_t i = 0; i < shards.size(); ++i) {
    char number[64];
    std::snprintf(number, sizeof number, "-%05zu-of-%05zu.safetensors", i + 1, shards.size());
    write_safetensors(folder / (stem + number), shards[i], metadata, stop);
    for (const auto& tensor : shards[i]) weight_map[tensor.name] = stem + number;
  }
  const Json document{{"metadata", {{"total_size", total}}}, {"weight_map", std::move(weight_map)}};
  write_atomically(index, document.dump(2) + "\n");
  std::filesystem::remove(single, ignored);
}

}  // namespace ft::inline FTLIB_ABI
