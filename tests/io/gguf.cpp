// tests/io/gguf.cpp: against files of gguf-py (tools/make_io_fixtures.py), and against damage.
#include "io_test.hpp"
#include "walk.hpp"

using namespace ft;
using namespace ft::test;

namespace {

std::string hex(std::span<const std::byte> bytes) {
  std::string text;
  for (const std::byte byte : bytes) {
    text += "0123456789abcdef"[std::to_integer<int>(byte) >> 4];
    text += "0123456789abcdef"[std::to_integer<int>(byte) & 15];
  }
  return text;
}

std::vector<TensorEntry> entries_of(const GgufFile& file) {
  std::vector<TensorEntry> entries;
  for (const auto& tensor : file.tensors())
    if (const auto* type = detail::ggml_type(tensor.ggml_type); type && type->type)
      entries.push_back(entry(tensor.name, file.tensor(tensor.name)));
  return entries;
}

/// The pieces of a file, for making such that lie.
std::string head(uint64_t tensors, uint64_t keys, uint32_t version = 3) {
  std::string text = "GGUF";
  append(text, version);
  append(text, tensors);
  append(text, keys);
  return text;
}
std::string text(std::string_view value) {
  std::string packed;
  append(packed, uint64_t{value.size()});
  return packed + std::string(value);
}
template <class T> std::string key(std::string_view name, GgufType type, T value) {
  std::string packed = text(name);
  append(packed, type);
  append(packed, value);
  return packed;
}
std::string info(std::string_view name, std::initializer_list<uint64_t> sizes, uint32_t type, uint64_t offset) {
  std::string packed = text(name);
  append(packed, static_cast<uint32_t>(sizes.size()));
  for (const uint64_t size : sizes) append(packed, size);
  append(packed, type);
  append(packed, offset);
  return packed;
}
std::string with_data(std::string packed, std::size_t bytes, std::size_t alignment = 32) {
  packed.resize((packed.size() + alignment - 1) / alignment * alignment);
  return packed + std::string(bytes, '\1');
}
GgufFile parse(const std::string& file) {
  const auto bytes = std::make_shared<std::vector<std::byte>>(exact(file));
  return GgufFile::parse(*bytes, "x.gguf", bytes);
}
void refused(const std::string& file, const char* message) {
  CHECK_THROWS_WITH_AS(parse(file), doctest::Contains(message), Error);
}

}  // namespace

TEST_CASE("io/gguf: every type of tensor, as gguf-py wrote it") {
  const auto file = GgufFile::open(data_folder / "every_type.gguf");
  const Json expected = read_json(data_folder / "gguf.json");
  CHECK(file.version() == 3);
  CHECK(file.alignment() == 32);
  REQUIRE(file.names().size() == expected.size());
  int read = 0;
  for (const auto& item : expected.items()) {
    const std::string& name = item.key();
    const Json& facts = item.value();
    CAPTURE(name);
    const auto type = facts["type"].get<std::string>();
    const auto shape = facts["shape"].get<std::vector<int64_t>>();
    CHECK(file.info(name).shape == Shape(std::span<const int64_t>(shape)));
    if (type == "I32" || type == "Q2_K") {
      CHECK_THROWS_WITH_AS(file.tensor(name), doctest::Contains(str("tensor '", name, "' at byte ").c_str()), Error);
      CHECK_THROWS_WITH_AS(file.tensor(name),
                           doctest::Contains(str("has ggml type ", type, ", which is not read").c_str()), Error);
      continue;
    }
    ++read;
    const auto tensor = file.tensor(name);
    CHECK(detail::ggml_type(detail::ggml_number(tensor.type))->name == type);
    CHECK(hex({tensor.data, static_cast<std::size_t>(tensor.bytes())}) == facts["bytes"].get<std::string>());
  }
  CHECK(read == 13);
  CHECK_THROWS_WITH_AS(file.tensor("none"), doctest::Contains("tensor 'none' is not in the file, which has 15"), Error);
  CHECK(GgufFile::open(data_folder / "aligned_64.gguf").info("Q8_0").begin % 64 == 0);
}

TEST_CASE("io/gguf: our types and ggml's are of one size") {
  for (uint32_t i = 0; i < dtype_table.size(); ++i) {
    const auto type = static_cast<DType>(i);
    const auto* known = detail::ggml_type(detail::ggml_number(type));
    REQUIRE(known);
    CHECK(known->type == type);
    CHECK(known->block == ft::info(type).block);
    CHECK(known->bytes == ft::info(type).bytes);
  }
}

TEST_CASE("io/gguf: every type of metadata") {
  const auto file = GgufFile::open(data_folder / "every_type.gguf");
  CHECK(file.metadata().front().first == "general.architecture");
  CHECK(file.get<std::string>("general.architecture") == "llama");
  CHECK(file.get<std::string>("test.string") == "caf\u00e9 \ud55c\uae00");
  CHECK(file.get<int>("test.uint8") == 200);
  CHECK(file.get<int8_t>("test.int8") == -100);
  CHECK(file.get<uint16_t>("test.uint16") == 60000);
  CHECK(file.get<int64_t>("test.int16") == -30000);
  CHECK(file.get<uint32_t>("test.uint32") == 4000000000u);
  CHECK(file.get<int32_t>("test.int32") == -2000000000);
  CHECK(file.get<uint64_t>("test.uint64") == uint64_t{1} << 63);
  CHECK(file.get<int64_t>("test.int64") == -(int64_t{1} << 62));
  CHECK(file.get<float>("test.float32") == 0.5f);
  CHECK(file.get<double>("test.float64") == 1e300);
  CHECK(file.get<float>("test.uint8") == 200.0f);
  CHECK(file.get<bool>("test.bool"));
  CHECK(file.get<std::vector<std::string_view>>("test.array.string") ==
        std::vector<std::string_view>{"", "a", "\u2581the", "\ud55c\uae00"});
  CHECK(file.get<std::vector<std::string>>("test.array.string").at(2) == "\u2581the");
  CHECK(file.get<std::vector<int64_t>>("test.array.int32") == std::vector<int64_t>{1, -2, 3});
  CHECK(file.get<std::vector<float>>("test.array.float32") == std::vector<float>{0.5f, -1.25f});
  CHECK(file.get<std::vector<bool>>("test.array.bool") == std::vector<bool>{true, false, true});
  CHECK(file.get<GgufArray>("test.array.string").size() == 4);
  CHECK(file.get_or<int>("none", 7) == 7);
  CHECK(file.get_or<int>("test.uint8", 7) == 200);
  CHECK(file.find("none") == nullptr);
  CHECK(std::get<uint8_t>(*file.find("test.uint8")) == 200);

  const auto fails = [&](auto access, const char* message) {
    CHECK_THROWS_WITH_AS(access(), doctest::Contains(message), Error);
  };
  fails([&] { file.get<int>("none"); }, "every_type.gguf: key 'none' is missing");
  fails([&] { file.get<int>("test.string"); }, "key 'test.string' is of type string, not an integer");
  fails([&] { file.get<int8_t>("test.uint8"); }, "key 'test.uint8' is of type uint8, not an integer of the range");
  fails([&] { file.get<int>("test.float32"); }, "is of type float32, not an integer");
  fails([&] { file.get<float>("test.float64"); }, "is of type float64, not a number of the range");
  fails([&] { file.get<bool>("test.uint8"); }, "not a bool");
  fails([&] { file.get<int>("test.bool"); }, "is of type bool, not an integer");
  fails([&] { file.get<std::string>("test.array.string"); }, "is of type array, not a string");
  fails([&] { file.get<std::vector<int>>("test.array.string"); },
        "is an array of string, not an array whose elements are each an integer");
  fails([&] { file.get<std::vector<unsigned>>("test.array.int32"); }, "is an array of int32, not");
  fails([&] { file.get<std::vector<std::string>>("test.string"); }, "is string, not an array");
  fails([&] { file.get_or<int>("test.string", 7); }, "not an integer");
}

TEST_CASE("io/gguf: a tensor outlives its file") {
  Stored<Cpu> tensor;
  { tensor = GgufFile::open(data_folder / "every_type.gguf").tensor("rank4"); }
  CHECK(tensor.shape == Shape{2, 1, 3, 4});
  CHECK(detail::load<float>(tensor.data) == -0.5f);
}

TEST_CASE("io/gguf: what is written is byte for byte what gguf-py writes") {
  const Scratch scratch;
  const auto aligned = GgufFile::open(data_folder / "aligned_64.gguf");
  write_gguf(scratch / "aligned.gguf", aligned.metadata(), entries_of(aligned));
  CHECK(slurp(scratch / "aligned.gguf") == slurp(data_folder / "aligned_64.gguf"));

  const char* kept = std::getenv("FTLIB_TEST_KEEP");  // for the check by Python; see tools/make_io_fixtures.py
  const auto path = (kept ? std::filesystem::path(kept) : scratch.folder()) / "written.gguf";
  const auto every = GgufFile::open(data_folder / "every_type.gguf");
  write_gguf(path, every.metadata(), entries_of(every));
  const auto written = GgufFile::open(path);
  CHECK(written.names().size() == 13);
  for (const auto& name : written.names()) {
    const auto ours = written.tensor(name), theirs = every.tensor(name);
    CHECK(ours.shape == theirs.shape);
    CHECK(ours.type == theirs.type);
    CHECK(std::memcmp(ours.data, theirs.data, static_cast<std::size_t>(ours.bytes())) == 0);
  }
}

TEST_CASE("io/gguf: arrays of a program") {
  const Scratch scratch;
  write_gguf(scratch / "x.gguf",
             {{"s", GgufArray::of(std::vector<std::string>{"", "b"})},
              {"i", GgufArray::of(std::vector<int32_t>{1, 2})},
              {"b", GgufArray::of(std::vector<bool>{true, false})},
              {"none", GgufArray::of(std::vector<float>{})},
              {"u", uint32_t{5}},
              {"t", std::string("text")},
              {"yes", true}},
             {});
  const auto file = GgufFile::open(scratch / "x.gguf");
  CHECK(file.get<std::vector<std::string>>("s") == std::vector<std::string>{"", "b"});
  CHECK(file.get<std::vector<int>>("i") == std::vector<int>{1, 2});
  CHECK(file.get<std::vector<bool>>("b") == std::vector<bool>{true, false});
  CHECK(file.get<std::vector<float>>("none").empty());
  CHECK(file.get<int>("u") == 5);
  CHECK(file.get<std::string>("t") == "text");
  CHECK(file.get<bool>("yes"));
  CHECK(file.names().empty());
}

TEST_CASE("io/gguf: what cannot be written leaves no file") {
  const Scratch scratch;
  const float x[64] = {};
  const auto fails = [&](const GgufMetadata& metadata, const std::vector<TensorEntry>& tensors, const char* message) {
    CHECK_THROWS_WITH_AS(write_gguf(scratch / "x.gguf", metadata, tensors), doctest::Contains(message), Error);
    CHECK(scratch.names().empty());
  };
  fails({{"a", 1}, {"a", 2}}, {}, "key 'a' is given twice");
  fails({{"general.alignment", uint32_t{24}}}, {}, "a power of two");
  fails({}, {{"t", DType::f32, {2}, x}, {"t", DType::f32, {2}, x}}, "tensor name 't' is given twice");
  fails({}, {{"t", DType::f32, {1, 1, 1, 1, 2}, x}}, "more than 4 axes");
  fails({}, {{"t", DType::q4_0, {16, 2}, x}},
        "tensor 't' (16, 2) Q4_0 cannot be written: its shape does not fit the type");
}

TEST_CASE("io/gguf: a file is written tensor by tensor, in pieces, and only when it is whole") {
  const Scratch scratch;
  std::vector<float> x(40);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i);
  const auto bytes = std::as_bytes(std::span(x));
  const std::vector<GgufTensor> tensors{
      {"a", DType::f32, {3, 3}}, {"none", DType::f32, {0, 7}}, {"b", DType::f16, {5}}, {"c", DType::f32, {20}}};
  {
    GgufWriter file(scratch / "x.gguf", {{"general.alignment", uint32_t{64}}}, tensors);
    file.put(bytes.first(8));
    file.put(bytes.subspan(8, 28));
    file.put(bytes.first(10));
    CHECK_THROWS_WITH_AS(file.put(bytes.first(84)),
                         doctest::Contains("84 bytes are more than what is left of tensor 'c'"), Error);
    file.put(bytes.first(76));
    CHECK_THROWS_WITH_AS(file.commit(), doctest::Contains("tensor 'c' has 76 bytes of 80"), Error);
    CHECK_FALSE(std::filesystem::exists(scratch / "x.gguf"));
    file.put(bytes.subspan(76, 4));
    CHECK_THROWS_WITH_AS(file.put(bytes.first(1)), doctest::Contains("what is left of the file"), Error);
    CHECK(file.written() == file.bytes());
    file.commit();
    CHECK(std::filesystem::file_size(scratch / "x.gguf") == file.bytes());
  }
  const auto read = GgufFile::open(scratch / "x.gguf");
  CHECK(read.info("none").shape == Shape{0, 7});
  CHECK(std::memcmp(read.tensor("a").data, bytes.data(), 36) == 0);
  CHECK(std::memcmp(read.tensor("b").data, bytes.data(), 10) == 0);
  CHECK(std::memcmp(read.tensor("c").data, bytes.data(), 80) == 0);
  CHECK(read.info("c").begin % 64 == 0);
  { const GgufWriter left(scratch / "y.gguf", {}, tensors); }
  CHECK(scratch.names() == std::vector<std::string>{"x.gguf"});
  CHECK_THROWS_WITH_AS(GgufWriter(scratch / "z.gguf", {}, {{"huge", DType::f32, {int64_t{1} << 58}}}),
                       doctest::Contains("the disk has"), Error);
}

TEST_CASE("io/gguf: files that lie are refused with what is wrong, and where") {
  const std::string four(4, '\0'), many(64, '\0');
  refused("", "does not begin with 'GGUF'");
  refused("GGUX" + many, "does not begin with 'GGUF'");
  refused("GGUF", "ends at byte 4 within the version at byte 4");
  refused(head(0, 0, 1), "GGUF version 1; 2 and 3 are read");
  refused(head(0, 0, 0x03000000), "take the little-endian one");
  CHECK(parse(head(0, 0, 2)).names().empty());
  CHECK(parse(head(0, 0, 3)).names().empty());
  refused(head(~uint64_t{0}, 0),
          "the tensor count at byte 8 is 18,446,744,073,709,551,615, more than the 8 bytes left can hold");
  refused(head(0, uint64_t{1} << 60) + many, "the key count at byte 16 is 1,152,921,504,606,846,976");

  std::string long_key = head(0, 1);
  append(long_key, ~uint64_t{0});
  refused(long_key + many, "a key at byte 24 claims 18,446,744,073,709,551,615 bytes, 64 are left");
  refused(head(0, 1) + key("k", static_cast<GgufType>(13), uint64_t{0}),
          "the type of key 'k' at byte 33 is 13, which GGUF does not define");
  refused(head(0, 1) + key("k", GgufType::boolean, uint8_t{2}), "key 'k' is a bool of value 2");
  refused(head(0, 2) + key("k", GgufType::u8, '1') + key("k", GgufType::u8, '2'),
          "key 'k' at byte 38 is there a second time");
  refused(head(0, 1) + key("k", GgufType::string, uint64_t{9}) + "12345678",
          "key 'k' at byte 37 claims 9 bytes, 8 are left");

  const auto array = [](GgufType element, uint64_t size) {
    std::string packed = key("k", GgufType::array, element);
    append(packed, size);
    return packed;
  };
  refused(head(0, 1) + array(GgufType::array, 1) + many, "key 'k' is an array of arrays");
  refused(head(0, 1) + array(GgufType::u8, 65) + many,
          "the length of key 'k' at byte 41 is 65, more than the 64 bytes left");
  refused(head(0, 1) + array(GgufType::f64, (uint64_t{1} << 61) + 1) + many,
          "the length of key 'k' at byte 41");  // x 8 = 8
  refused(head(0, 1) + array(GgufType::string, 9) + many, "the length of key 'k' at byte 41 is 9");
  refused(head(0, 1) + array(GgufType::string, 2) + text("") + text("abc").substr(0, 10),
          "key 'k' at byte 57 claims 3 bytes, 2 are left");
  CHECK(parse(head(0, 1) + array(GgufType::string, 8) + many).get<std::vector<std::string>>("k").size() == 8);

  for (const uint32_t alignment : {0u, 3u, 24u})
    refused(head(0, 1) + key("general.alignment", GgufType::u32, alignment), "not a power of two");
  refused(head(0, 1) + key("general.alignment", GgufType::f32, 32.0f), "key 'general.alignment' is of type float32");
  CHECK(parse(with_data(head(1, 1) + key("general.alignment", GgufType::u32, 1u) + info("t", {2}, 0, 0), 8, 1))
            .alignment() == 1);
  refused(head(1, 1) + key("general.alignment", GgufType::u32, 0x80000000u) + info("t", {2}, 0, 0),
          "begins beyond the file's end");

  const auto one = [&](const std::string& tensor, std::size_t data = 64) {
    return with_data(head(1, 0) + tensor, data);
  };
  CHECK(parse(one(info("t", {4, 4}, 0, 0))).tensor("t").bytes() == 64);
  CHECK(parse(one(info("t", {}, 0, 0))).tensor("t").shape == Shape{});
  CHECK(parse(one(info("t", {0}, 0, 0))).tensor("t").bytes() == 0);
  refused(one(info("t", {1, 1, 1, 1, 1}, 0, 0)), "tensor 't' at byte 24 has 5 dimensions");
  refused(one(info("t", {uint64_t{1} << 63}, 0, 0)), "has a dimension of 9,223,372,036,854,775,808");
  refused(one(info("t", {uint64_t{1} << 32, uint64_t{1} << 32}, 0, 0)), "whose size no file can have");
  refused(one(info("t", {uint64_t{1} << 62}, 0, 0)), "whose size no file can have");  // the bytes overflow
  refused(one(info("t", {uint64_t{1} << 40, uint64_t{1} << 40, 0}, 0, 0)), "whose size no file can have");
  refused(one(info("t", {33}, 2, 0)), "has rows of 33 elements, no multiple of the 32 in a block of Q4_0");
  refused(one(info("t", {}, 2, 0)), "has rows of 1 elements");
  refused(one(info("t", {17}, 0, 0)), "x.gguf: tensor 't' ends at byte 132, the file at 128");
  refused(one(info("t", {4}, 0, 16)), "has offset 16, no multiple of the alignment 32");
  refused(one(info("t", {4}, 0, 96)), "begins beyond the file's end at byte 128");
  refused(one(info("t", {4}, 0, ~uint64_t{31})), "begins beyond the file's end");
  refused(head(1, 0) + info("t", {4}, 0, 0), "begins beyond the file's end");

  const auto unknown = parse(one(info("t", {4}, 1000, 0)));
  CHECK(unknown.names().size() == 1);
  CHECK_THROWS_WITH_AS(unknown.tensor("t"),
                       doctest::Contains("tensor 't' at byte 64 has ggml type 1000, which is not read"), Error);

  const auto two = [&](const char* name, uint64_t offset) {
    return with_data(head(2, 0) + info("t", {12}, 0, 0) + info(name, {4}, 0, offset), 128);
  };
  CHECK(parse(two("u", 64)).names().size() == 2);
  refused(two("t", 64), "tensor 't' at byte 57 is there a second time");
  refused(two("u", 32), "tensors 't' and 'u' both claim byte 128");
  refused(two("u", 0), "both claim byte 96");
}

TEST_CASE("io/gguf: cut at every byte, with every bit turned") {
  const auto read = [](std::span<const std::byte> bytes) { walk(GgufFile::parse(bytes, "damaged")); };
  const std::string file = slurp(data_folder / "aligned_64.gguf");
  const auto accepted = damage(file, 0, read);
  const auto data_end = GgufFile::open(data_folder / "aligned_64.gguf").tensors().back();
  CHECK(accepted == static_cast<int>(file.size() - data_end.begin - data_end.bytes));  // only padding may be missing
  damage(file, file.size(), read);
}
