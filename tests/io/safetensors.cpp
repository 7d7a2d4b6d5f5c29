// tests/io/safetensors.cpp: against files of the reference writer (tools/make_io_fixtures.py), and against damage.
#include "io_test.hpp"
#include "walk.hpp"

using namespace ft;
using namespace ft::test;

namespace {

double element(const Stored<Cpu>& tensor, int64_t i) {
  switch (tensor.type) {
    case DType::f64:
      return detail::load<double>(tensor.data + i * 8);
    case DType::f32:
      return double{detail::load<float>(tensor.data + i * 4)};
    case DType::f16:
      return static_cast<double>(static_cast<float>(detail::load<half>(tensor.data + i * 2)));
    case DType::bf16:
      return static_cast<double>(static_cast<float>(detail::load<bfloat16>(tensor.data + i * 2)));
    default:
      return 0;
  }
}

const std::map<std::string, DType> types{
    {"float64", DType::f64}, {"float32", DType::f32}, {"float16", DType::f16}, {"bfloat16", DType::bf16}};

/// A file from header text and a number of data bytes.
std::string made(const std::string& header, std::size_t data) {
  std::string file;
  append(file, uint64_t{header.size()});
  return file + header + std::string(data, '\1');
}

void refused_header(const std::string& file, const char* message) {
  const auto bytes = exact(file);
  CHECK_THROWS_WITH_AS(SafetensorsFile::parse(bytes, "x.safetensors"), doctest::Contains(message), Error);
}

std::vector<TensorEntry> entries_of(const SafetensorsFile& file) {
  std::vector<TensorEntry> entries;
  for (const auto& name : file.names()) entries.push_back(entry(name, file.tensor(name)));
  return entries;
}

/// Where to leave files for the check by Python; see tools/make_io_fixtures.py.
std::filesystem::path keep(const Scratch& scratch) {
  const char* folder = std::getenv("FTLIB_TEST_KEEP");
  return folder ? std::filesystem::path(folder) : scratch.folder();
}

}  // namespace

TEST_CASE("io/safetensors: every dtype, as the reference wrote it") {
  const auto file = SafetensorsFile::open(data_folder / "every_dtype.safetensors");
  const Json expected = read_json(data_folder / "safetensors.json");
  CHECK(file.metadata() == std::map<std::string, std::string>{{"format", "pt"}, {"note", "caf\u00e9 \"quoted\""}});
  REQUIRE(file.names().size() == expected.size());
  int floats = 0;
  for (const auto& item : expected.items()) {
    const std::string& name = item.key();
    const Json& facts = item.value();
    CAPTURE(name);
    REQUIRE(file.contains(name));
    const auto shape = facts["shape"].get<std::vector<int64_t>>();
    CHECK(file.info(name).shape == Shape(std::span<const int64_t>(shape)));
    const auto type = types.find(facts["dtype"].get<std::string>());
    if (type == types.end()) {
      CHECK_THROWS_WITH_AS(file.tensor(name), doctest::Contains(name.c_str()), Error);
      CHECK_THROWS_WITH_AS(file.tensor(name), doctest::Contains(file.info(name).dtype.c_str()), Error);
      continue;
    }
    ++floats;
    const auto tensor = file.tensor(name);
    CHECK(tensor.type == type->second);
    CHECK(static_cast<bool>(tensor));
    const auto values = facts["values"].get<std::vector<double>>();
    REQUIRE(tensor.shape.count() == static_cast<int64_t>(values.size()));
    for (std::size_t i = 0; i < values.size(); ++i) CHECK(element(tensor, static_cast<int64_t>(i)) == values[i]);
  }
  CHECK(floats == 8);
  CHECK(file.bytes("int.int64").size() == 24);
  CHECK_THROWS_WITH_AS(file.tensor("none"), doctest::Contains("tensor 'none' is not in the file, which has 15"), Error);
}

TEST_CASE("io/safetensors: a tensor outlives its file") {
  Stored<Cpu> tensor;
  { tensor = SafetensorsFile::open(data_folder / "floats.safetensors").tensor("scalar"); }
  CHECK(tensor.shape == Shape{});
  CHECK(element(tensor, 0) == 2.5);
}

TEST_CASE("io/safetensors: what is written is byte for byte what the reference writes") {
  const Scratch scratch;
  const auto file = SafetensorsFile::open(data_folder / "floats.safetensors");
  auto entries = entries_of(file);
  std::reverse(entries.begin(), entries.end());
  const auto path = keep(scratch) / "floats.safetensors";
  write_safetensors(path, entries, {{"format", "pt"}});
  CHECK(slurp(path) == slurp(data_folder / "floats.safetensors"));
  write_safetensors(scratch / "none.safetensors", {});
  CHECK(SafetensorsFile::open(scratch / "none.safetensors").names().empty());
}

TEST_CASE("io/safetensors: a view of a tensor is an entry") {
  const Scratch scratch;
  const std::vector<float> values{1, 2, 3, 4, 5, 6};
  write_safetensors(scratch / "x.safetensors", {entry("x", View<const float>(values.data(), {2, 3}))});
  const auto tensor = SafetensorsFile::open(scratch / "x.safetensors").tensor("x");
  CHECK(tensor.shape == Shape{2, 3});
  CHECK(std::memcmp(tensor.data, values.data(), 24) == 0);
  CHECK_THROWS_AS(entry("x", View<const float>(values.data(), {3, 2}, {1, 3})), Error);
}

TEST_CASE("io/safetensors: what cannot be written leaves no file") {
  const Scratch scratch;
  const float x[32] = {};
  const auto fails = [&](std::vector<TensorEntry> entries, const char* message) {
    CHECK_THROWS_WITH_AS(write_safetensors(scratch / "x", std::move(entries)), doctest::Contains(message), Error);
    CHECK(scratch.names().empty());
  };
  fails({{"q", DType::q4_0, {32}, x}}, "tensor 'q' is Q4_0, which safetensors files do not hold");
  fails({{"a", DType::f32, {2}, x}, {"a", DType::f32, {2}, x}}, "'a' is given twice");
  fails({{"__metadata__", DType::f32, {2}, x}}, "reserved");
  fails({{"a", DType::f32, {2}, nullptr}}, "it has no data");
  fails({{"a", DType::f32, {-2}, x}}, "its shape does not fit the type");
  fails({{"a\xff", DType::f32, {2}, x}}, "not UTF-8");
}

TEST_CASE("io/safetensors: sharded, as the reference wrote it") {
  const auto model = SafetensorsModel::open(data_folder / "sharded");
  CHECK(model.names() == std::vector<std::string>{"a.weight", "b.weight", "c.weight"});
  CHECK(model.files().size() == 2);
  CHECK(model.tensor("c.weight").shape == Shape{2, 2, 2});
  CHECK(model.tensor("b.weight").type == DType::f16);
  CHECK(element(model.tensor("a.weight"), 1) == -0.75);
  CHECK(model.metadata().at("format") == "pt");
  CHECK_THROWS_WITH_AS(model.tensor("d"), doctest::Contains("tensor 'd' is not in the model, which has 3 in 2 files"),
                       Error);

  const auto single = SafetensorsModel::open(data_folder / "floats.safetensors");
  CHECK(single.files().size() == 1);
  CHECK(single.contains("half"));
  const Scratch scratch;
  CHECK_THROWS_WITH_AS(SafetensorsModel::open(scratch.folder()),
                       doctest::Contains("has neither model.safetensors nor model.safetensors.index.json"), Error);
  CHECK_THROWS_WITH_AS(SafetensorsModel::open(scratch / "none"), doctest::Contains("cannot open: No such file"), Error);
}

TEST_CASE("io/safetensors: the sharded writer") {
  const Scratch scratch;
  const auto file = SafetensorsFile::open(data_folder / "floats.safetensors");
  const auto entries = entries_of(file);
  const auto folder = keep(scratch) / "sharded";
  std::filesystem::create_directories(folder);
  const auto same = [&](const SafetensorsModel& model) {
    REQUIRE(model.names().size() == entries.size());
    for (const auto& expected : entries) {
      const auto tensor = model.tensor(expected.name);
      CHECK(tensor.type == expected.type);
      CHECK(tensor.shape == expected.shape);
      CHECK((tensor.bytes() == 0 ||
             std::memcmp(tensor.data, expected.data, static_cast<std::size_t>(tensor.bytes())) == 0));
    }
  };
  write_safetensors_sharded(folder, entries, {{"format", "pt"}}, int64_t{1} << 30);
  CHECK(std::filesystem::exists(folder / "model.safetensors"));
  same(SafetensorsModel::open(folder));

  write_safetensors_sharded(folder, entries, {{"format", "pt"}}, 60);  // less than the largest tensor
  CHECK(!std::filesystem::exists(folder / "model.safetensors"));
  const auto model = SafetensorsModel::open(folder);
  same(model);
  CHECK(model.files().size() > 2);
  for (const auto& shard : model.files()) {
    int64_t bytes = 0;
    for (const auto& name : shard.names()) bytes += shard.tensor(name).bytes();
    CHECK((bytes <= 60 || shard.names().size() == 1));
  }
  const Json index = read_json(folder / "model.safetensors.index.json");
  CHECK(index["metadata"]["total_size"] == 192);

  if (!std::getenv("FTLIB_TEST_KEEP")) {
    write_safetensors_sharded(folder, entries, {}, int64_t{1} << 30);
    CHECK(!std::filesystem::exists(folder / "model.safetensors.index.json"));
    same(SafetensorsModel::open(folder));
  }
}

TEST_CASE("io/safetensors: an index that lies") {
  const Scratch scratch;
  const auto index = scratch / "model.safetensors.index.json";
  const std::string a = "model-00001-of-00002.safetensors", b = "model-00002-of-00002.safetensors";
  for (const auto& shard : {a, b}) std::filesystem::copy_file(data_folder / "sharded" / shard, scratch / shard);
  const auto fails = [&](const std::string& map, const char* message) {
    spit(index, "{\"weight_map\":" + map + "}");
    CHECK_THROWS_WITH_AS(SafetensorsModel::open(scratch.folder()), doctest::Contains(message), Error);
  };
  const auto map = [](const std::string& of_a, const std::string& of_b, const std::string& of_c) {
    return Json{{"a.weight", of_a}, {"b.weight", of_b}, {"c.weight", of_c}}.dump();
  };
  spit(index, "{\"weight_map\":" + map(a, a, b) + "}");
  CHECK(SafetensorsModel::open(scratch.folder()).names().size() == 3);
  fails(map(a, a, "model-00003.safetensors"), "names shard 'model-00003.safetensors', which is not in the folder");
  fails(map(a, b, b), "tensor 'b.weight' is in this shard, the index says otherwise");
  fails(Json{{"a.weight", a}, {"c.weight", b}}.dump(),
        "tensor 'b.weight' is in this shard, the index does not name it");
  fails(Json{{"a.weight", a}, {"b.weight", a}, {"c.weight", b}, {"d", b}}.dump(), "tensor 'd' is not in its shard");
  fails(map(a, a, "../" + b), "which is no plain file name");
  fails(map(a, a, ".."), "which is no plain file name");
  fails(map(a, a, ""), "which is no plain file name");
  fails("{}", "weight_map names no tensors");
  fails("{\"a.weight\":1}", "key 'a.weight' should be a string, found 1");
  std::filesystem::copy_file(scratch / a, scratch / "copy.safetensors");
  spit(index,
       "{\"weight_map\":" + Json{{"a.weight", a}, {"b.weight", "copy.safetensors"}, {"c.weight", b}}.dump() + "}");
  CHECK_THROWS_AS(SafetensorsModel::open(scratch.folder()), Error);  // a.weight is in two shards
}

TEST_CASE("io/safetensors: headers that lie are refused with what is wrong") {
  refused_header("", "has 0 bytes, a safetensors file has at least 8");
  refused_header("1234567", "has 7 bytes");
  refused_header(std::string(8, '\0'), "the header at byte 8 does not begin with '{'");
  refused_header(std::string("\x0a\0\0\0\0\0\0\0{}", 10), "the header ends at byte 18, the file at 10");
  refused_header(std::string("\xff\xff\xff\xff\xff\xff\xff\xff{}", 10),
                 "claims a header of 18,446,744,073,709,551,615 bytes");
  refused_header(made(" {}", 0), "does not begin with '{'");
  refused_header(made("{", 0), "x.safetensors (header): line 1, column 2");
  refused_header(made("{}", 1), "the tensors end at byte 10, the file at 11");
  const auto tensor = [](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return "{\"dtype\":\"" + dtype + "\",\"shape\":" + shape + ",\"data_offsets\":" + offsets + "}";
  };
  const auto one = [&](const std::string& dtype, const std::string& shape, const std::string& offsets,
                       std::size_t data = 8) { return made("{\"w\":" + tensor(dtype, shape, offsets) + "}", data); };
  CHECK_NOTHROW(SafetensorsFile::parse(exact(one("F32", "[2]", "[0,8]")), "x"));
  refused_header(one("F33", "[2]", "[0,8]"), "tensor 'w' has unknown type 'F33'");
  refused_header(one("F32", "[2]", "[0,9]"), "tensor 'w' ends at byte 9 of the data, which has 8");
  refused_header(one("F32", "[2]", "[8,0]"), "data_offsets that are not [begin, end]");
  refused_header(one("F32", "[2]", "[0]"), "data_offsets that are not [begin, end]");
  refused_header(one("F32", "[2]", "[0,18446744073709551615]"), "ends at byte 18,446,744,073,709,551,615");
  refused_header(one("F32", "[2]", "[-1,8]"), "key 'data_offsets' should be an integer");
  refused_header(one("F32", "[1]", "[0,8]"), "tensor 'w' (1) F32 takes 4 bytes, its offsets span 8");
  refused_header(one("F32", "[-2]", "[0,8]"), "a shape whose size no file can have");
  refused_header(one("F32", "[4611686018427387905,4]", "[0,8]"), "a shape whose size no file can have");
  refused_header(one("F32", "[4611686018427387904]", "[0,0]", 0),
                 "a shape whose size no file can have");  // the bits overflow
  refused_header(one("F32", "[4611686018427387904,4,0]", "[0,0]", 0), "a shape whose size no file can have");
  refused_header(one("F32", "[1,1,1,1,1,1,2]", "[0,8]"), "has 7 axes");
  refused_header(one("F4", "[3]", "[0,8]"), "does not end at a whole byte");
  refused_header(one("F32", "[2]", "[4,12]", 12), "begins at byte");
  refused_header(one("F32", "\"2\"", "[0,8]"), "tensor 'w': key 'shape' should be an array");
  refused_header(made("{\"w\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8), "tensor 'w': key 'data_offsets' is missing");
  refused_header(made("{\"w\":3}", 8), "an object with key 'dtype' was expected");
  refused_header(made("{\"__metadata__\":{\"a\":1}}", 0), "key 'a' should be a string");
  refused_header(made("{\"__metadata__\":[]}", 0), "__metadata__ is not an object");
  const auto two = [&](const std::string& name, const std::string& a, const std::string& b, std::size_t data) {
    return made("{\"a\":" + tensor("F32", "[2]", a) + ",\"" + name + "\":" + tensor("F32", "[2]", b) + "}", data);
  };
  CHECK_NOTHROW(SafetensorsFile::parse(exact(two("b", "[8,16]", "[0,8]", 16)), "x"));
  refused_header(two("a", "[0,8]", "[8,16]", 16), "key 'a' appears twice");
  refused_header(two("b", "[0,8]", "[4,12]", 12), "tensor 'b' begins at byte 120, the one before it ends at 124");
  refused_header(two("b", "[0,8]", "[9,17]", 17), "tensor 'b' begins at byte");
  refused_header(two("b", "[0,8]", "[0,8]", 8), "tensor 'b' begins at byte");
}

TEST_CASE("io/safetensors: cut at every byte, with every bit of the header turned") {
  const std::string file = slurp(data_folder / "floats.safetensors");
  const auto read = [](std::span<const std::byte> bytes) { walk(SafetensorsFile::parse(bytes, "damaged")); };
  CHECK(damage(file, 0, read) == 0);  // no prefix is a file
  damage(file, file.size(), read);
}
