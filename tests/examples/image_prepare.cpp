// tests/examples/image_prepare.cpp: every kind of picture that `image_style prepare` reads, held against Pillow;
// captions; splits; the folder it writes; every line it refuses with. tools/make_image_fixtures.py makes
// tests/data/images.
#include "../../examples/image_style/prepare.hpp"

#include <doctest/doctest.h>

#include "../scratch.hpp"

#include <sys/wait.h>  // WEXITSTATUS
#include <cstdlib>     // std::system
#include <fstream>     // std::ofstream
#include <sstream>     // std::ostringstream

using namespace image_style;
using ft::test::Scratch;
namespace fs = std::filesystem;

namespace {
const fs::path images = fs::path(FTLIB_TEST_DATA) / "images";

void write(const fs::path& path, std::string_view text) {
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << text;
}

/// A square with a mark that no other `kind` has.
void draw(const fs::path& path, int kind, int side = 32) {
  Picture picture(side, side, static_cast<std::uint8_t>(200 - 7 * kind));
  for (int i = 0; i < side / 2; ++i) picture.at((kind * 5 + i) % side, (kind * 11 + i) % side)[kind % 3] = 0;
  write(path, to_png(picture));
}

int largest_difference(const Picture& picture, std::span<const std::byte> expected) {
  REQUIRE(picture.rgb.size() == expected.size());
  int largest = 0;
  for (std::size_t i = 0; i < expected.size(); ++i)
    largest = std::max(largest, std::abs(int{picture.rgb[i]} - std::to_integer<int>(expected[i])));
  return largest;
}

std::string refusal(const PrepareOptions& options, std::string* report = nullptr) {
  std::ostringstream out;
  try {
    prepare(options, out);
  } catch (const Error& e) {
    if (report) *report = out.str();
    return e.message();
  }
  return "";
}

/// What became of a file that cannot be read.
std::string fault(const fs::path& path) {
  try {
    decode(ft::read_file(path, max_file_bytes));
  } catch (const Error& e) {
    return e.message();
  }
  return "";
}

std::vector<MetadataRow> rows_of(std::string_view text, bool csv, std::vector<std::string>* faults = nullptr) {
  std::vector<BadRecord> bad;
  auto rows = read_metadata(text, csv, "m", bad).rows;
  if (faults)
    for (const auto& one : bad) faults->push_back(str(one));
  return rows;
}
using Strings = std::vector<std::string>;
}  // namespace

TEST_CASE("examples/image_prepare: pictures of every kind, turned, on white, scaled as Pillow does it") {
  const auto expected = ft::SafetensorsFile::open(images / "expected.safetensors");
  CHECK(expected.names().size() == 62);
  for (const auto& name : expected.names()) {
    CAPTURE(name);
    const auto slash = name.find('/');
    const Decoded decoded = decode(ft::read_file(images / name.substr(0, slash), max_file_bytes));
    const Fit fit = name.substr(slash + 1) == "pad" ? Fit::pad : Fit::cover;
    CHECK(largest_difference(fitted(decoded.picture, 16, fit), expected.bytes(name)) <= 2);  // Pillow rounds on its way
  }
}

TEST_CASE("examples/image_prepare: damaged and huge files are refused with a reason") {
  const auto broken = images / "broken";
  CHECK(fault(broken / "cut_alpha.png").starts_with("PNG: "));
  CHECK(fault(broken / "cut_photo.jpg") == "JPEG: Premature end of JPEG file");
  CHECK(fault(broken / "cut_progressive.jpg").starts_with("JPEG: "));
  CHECK(fault(broken / "cut_rgb.bmp") == "BMP: cut short");
  CHECK(fault(broken / "cut_still.gif").starts_with("GIF: "));
  CHECK(fault(broken / "cut_lossy.webp") == "WebP: damaged or cut short");
  CHECK(fault(broken / "cut_drawing.svg").starts_with("SVG: "));
  CHECK(fault(broken / "huge.png") == "has 60000 x 60000 pixels, more than 100000000");
  CHECK(fault(broken / "huge.jpg") == "has 65000 x 65000 pixels, more than 100000000");
  CHECK(fault(broken / "huge.bmp") == "has 40000 x 40000 pixels, more than 100000000");
  CHECK(fault(broken / "huge.gif") == "has 65000 x 65000 pixels, more than 100000000");
  CHECK(fault(broken / "huge.webp") == "has 16383 x 16383 pixels, more than 100000000");
  CHECK(fault(broken / "empty.png") == "is empty");
  CHECK(fault(broken / "text.jpg") == "is none of PNG, JPEG, BMP, GIF, WebP and SVG");
  CHECK(fault(broken / "embeds.svg") == "SVG: embeds a picture");
  CHECK(fault(broken / "no_size.svg") == "SVG: has no size");
  for (const auto& file : fs::directory_iterator(broken)) CHECK(fault(file).find('\n') == std::string::npos);
}

TEST_CASE("examples/image_prepare: captions from names") {
  CHECK(caption_from_name("red-apple_03") == "red apple");
  CHECK(caption_from_name("red_apple (2)") == "red apple");
  CHECK(caption_from_name("route.66.7") == "route");
  CHECK(caption_from_name("3 little pigs") == "3 little pigs");
  CHECK(caption_from_name("빨간-사과_1") == "빨간 사과");
  CHECK(caption_from_name("0001") == "");
  CHECK(caption_from_name("") == "");
}

TEST_CASE("examples/image_prepare: metadata.jsonl, with the lines that cannot be used named") {
  Strings faults;
  const auto rows = rows_of(
      "\xEF\xBB\xBF{\"file_name\": \"a.png\", \"text\": \" a  red\\napple \", \"style\": \"oil\", \"split\": "
      "\"validation\"}\r\n\n"
      "{\"file_name\": \"b/c.png\", \"caption\": \"pear\", \"width\": 3}\n"
      "{\"file_name\": \"b.png\"\n"
      "{\"text\": \"x\"}\n"
      "[1]\n"
      "{\"file_name\": \"../b.png\", \"text\": \"x\"}\n"
      "{\"file_name\": \"/b.png\", \"text\": \"x\"}\n"
      "{\"file_name\": \"b.png\", \"text\": 7}\n"
      "{\"file_name\": \"b.png\", \"text\": \"x\", \"split\": \"exam\"}\n"
      "{\"file_name\": \"b.png\", \"text\": \"\\u0000\"}\n"
      "{\"file_name\": \"d.png\"}",
      false, &faults);
  CHECK(rows == std::vector<MetadataRow>{{1, "a.png", "a red apple", "oil", "valid"},
                                         {3, "b/c.png", "pear", "", ""},
                                         {12, "d.png", "", "", ""}});
  REQUIRE(faults.size() == 8);
  CHECK(faults[0].starts_with("m:4: JSON: line 1, column "));
  CHECK(faults[1] == "m:5: file_name is missing");
  CHECK(faults[2] == "m:6: JSON: an object with key 'file_name' was expected, found array");
  CHECK(faults[3] == "m:7: file_name '../b.png' leads out of the folder");
  CHECK(faults[4] == "m:8: file_name '/b.png' leads out of the folder");
  CHECK(faults[5] == "m:9: JSON: key 'text' should be a string, found 7");
  CHECK(faults[6] == "m:10: split 'exam' is none of train, valid and test");
  CHECK(faults[7] == "m:11: a NUL at byte 1");
}

TEST_CASE("examples/image_prepare: metadata.csv") {
  Strings faults;
  const auto rows =
      rows_of("File_Name,Text,split\na.png,\"a, red\napple\",test\nb.png\n\"c.png\" x,y,\n", true, &faults);
  CHECK(rows == std::vector<MetadataRow>{{2, "a.png", "a, red apple", "", "test"}, {4, "b.png", "", "", ""}});
  CHECK(faults == Strings{"m:5: there is text behind a closing quote"});
  faults.clear();
  CHECK(rows_of("name,text\na.png,b\n", true, &faults).empty());
  CHECK(faults == Strings{"m:1: no column of the first row is named file_name; its columns are name, text"});
}

TEST_CASE("examples/image_prepare: what is written is read back, to the last bit of a pixel") {
  const Scratch scratch;
  const fs::path in = scratch / "in", out = scratch / "out";
  for (int i = 0; i < 40; ++i) draw(in / str("deep/thing", static_cast<char>('a' + i / 2), "-", i % 2, ".png"), i);
  draw(in / ".hidden.png", 1);
  std::ostringstream report;
  prepare({.folders = {in}, .out = out}, report);
  CHECK(report.str().find(": 40 pictures, captions from their names\n") != std::string::npos);
  CHECK(report.str().find(": 40 pictures of 32 x 32, 20 captions; train 24, valid 6, test 10; look at ") !=
        std::string::npos);

  const Data data = Data::open(out);
  REQUIRE(data.size() == 40);
  CHECK(data.side() == 32);
  CHECK(data.of_split("test").size() == 10);
  const std::vector<Sample>& samples = data.samples();
  CHECK(samples[0].file == "in/deep/thinga-0.png");
  CHECK(samples[0].caption == "thinga");
  for (std::size_t i = 0; i < 40; i += 2) CHECK(samples[i].split == samples[i + 1].split);
  for (std::int64_t i = 0; i < 40; ++i)
    CHECK(data.picture(i) ==
          decode(ft::read_file(in / "deep" / fs::path(samples[static_cast<std::size_t>(i)].file).filename(),
                               max_file_bytes))
              .picture);
  std::vector<float> values(3 * 32 * 32);
  data.read(0, values);
  CHECK(values[5 * 32 + 20] == doctest::Approx(200 / 127.5 - 1).epsilon(0.001));
  CHECK(decode(ft::read_file(out / "sheet.png", max_file_bytes)).picture.width == 12 * 102 + 6);

  // The same again, other seeds, and splits that hold across sets.
  const auto splits = [&](std::uint64_t seed) {
    std::ostringstream ignored;
    prepare({.folders = {in}, .out = out, .seed = seed}, ignored);
    return Data::open(out).samples();
  };
  CHECK(splits(42) == samples);
  CHECK(splits(43) != samples);
}

TEST_CASE("examples/image_prepare: samples of one subject stay together, whatever their style") {
  const Scratch scratch;
  const fs::path in = scratch / "in";
  std::string lines;
  for (int i = 0; i < 30; ++i) {
    draw(in / str(i, ".png"), i);
    const std::string style = i % 3 == 0 ? "oil style" : i % 3 == 1 ? "ink style" : "";
    const std::string text = str("thing ", i / 3, style.empty() ? "" : ", ", style);
    lines += ft::Json{{"file_name", str(i, ".png")}, {"text", text}, {"style", style}}.dump() + "\n";
  }
  write(in / "metadata.jsonl", lines);
  std::ostringstream report;
  prepare({.folders = {in / "."}, .out = scratch / "out", .valid_share = 0.1}, report);
  const Data data = Data::open(scratch / "out");
  for (std::size_t i = 0; i < 30; ++i) {
    CHECK(data.samples()[i].file == str("in/", i, ".png"));
    CHECK(data.samples()[i].subject() == str("thing ", i / 3));
    CHECK(data.samples()[i].split == data.samples()[i / 3 * 3].split);
  }
  CHECK(data.of_split("test").size() == 9);
  CHECK(data.of_split("valid").size() == 3);

  // Where the metadata has splits they are kept.
  write(in / "metadata.jsonl", R"({"file_name": "0.png", "text": "a", "split": "test"}
{"file_name": "1.png", "text": "b"}
)");
  prepare({.folders = {in}, .out = scratch / "out"}, report);
  CHECK(Data::open(scratch / "out").samples() ==
        std::vector<Sample>{{"in/0.png", "a", "", "test"}, {"in/1.png", "b", "", "train"}});
  CHECK(report.str().find("left out: and 8 more pictures that the metadata do not name\n") != std::string::npos);
  CHECK(report.str().find("left out in all: 28 pictures that the metadata do not name\n") != std::string::npos);
  CHECK(report.str().find("splits are those of the metadata; 1 pictures have none, and are trained\n") !=
        std::string::npos);
}

TEST_CASE("examples/image_prepare: what is worth a look is said, and what cannot be used is left out by name") {
  const Scratch scratch;
  const fs::path in = scratch / "in";
  draw(in / "apple.png", 1);
  fs::copy(in / "apple.png", in / "same.png");
  draw(in / "0001.png", 2, 20);
  draw(in / "small.png", 4, 20);
  draw(in / "pear.png", 3);
  Picture near = decode(ft::read_file(in / "pear.png", max_file_bytes)).picture;
  near.at(0, 0)[1] = 180;
  write(in / "pear-2.png", to_png(near));
  write(in / "house.heic", "????ftypheic");
  write(in / "notes.pdf", "passed over");
  fs::copy(images / "broken" / "text.jpg", in / "text.jpg");
  std::ostringstream out;
  prepare({.folders = {in}, .out = scratch / "out"}, out);
  const std::string report = out.str();
  const auto says = [&](const std::string& line) { return report.find(line + "\n") != std::string::npos; };
  const std::string heic = (in / "house.heic").string() +
                           ": is HEIC, which is not read (make it a PNG file first: magick mogrify -format png FILE)";
  CHECK(says("left out: " + heic));
  CHECK(says("left out: " + (in / "text.jpg").string() + ": is none of PNG, JPEG, BMP, GIF, WebP and SVG"));
  CHECK(says("left out: " + (in / "0001.png").string() + ": its name does not say what it shows"));
  CHECK(says("left out in all: 2 pictures that cannot be read, 1 pictures without words"));
  CHECK(says("warning: 1 smaller than 32 x 32: in/small.png (20 x 20)"));
  CHECK(says("warning: 1 pairs of the same picture: in/apple.png and in/same.png"));
  CHECK(says("warning: 1 pairs of nearly the same picture: in/pear-2.png and in/pear.png"));
  CHECK(says(in.string() + ": 1 other files are passed over: 1 .pdf"));
  CHECK(Data::open(scratch / "out").size() == 5);

  CHECK(refusal({.folders = {in}, .out = scratch / "strict", .strict = true}) == heic);
  CHECK(!fs::exists(scratch / "strict"));
}

TEST_CASE("examples/image_prepare: captions from text files, chosen by themselves") {
  const Scratch scratch;
  const fs::path in = scratch / "in";
  draw(in / "1.png", 1);
  draw(in / "2.png", 2);
  draw(in / "3.png", 3);
  write(in / "1.txt", "\xEF\xBB\xBF a red\r\n  apple \n");
  write(in / "2.txt", "\xFF");
  draw(in / "4.png", 4);
  write(in / "4.caption", "pear");
  std::ostringstream report;
  prepare({.folders = {in}, .out = scratch / "out"}, report);
  const Data data = Data::open(scratch / "out");
  REQUIRE(data.size() == 2);
  CHECK(data.samples()[0].caption == "a red apple");
  CHECK(data.samples()[1].caption == "pear");
  CHECK(report.str().find("left out: " + (in / "2.png").string() +
                          ": its caption file 2.txt holds not UTF-8 at byte 1") != std::string::npos);
  CHECK(report.str().find("left out: " + (in / "3.png").string() + ": has no caption file beside it") !=
        std::string::npos);
  CHECK(report.str().find("captions from the files beside them\n") != std::string::npos);
}

TEST_CASE("examples/image_prepare: one caption for all cannot be held out") {
  const Scratch scratch;
  draw(scratch / "in/cat_1.png", 1);
  draw(scratch / "in/cat_2.png", 2);
  std::ostringstream report;
  prepare({.folders = {scratch / "in"}, .out = scratch / "out"}, report);
  CHECK(report.str().find("warning: all pictures have one caption, so none is held out\n") != std::string::npos);
  CHECK(Data::open(scratch / "out").of_split("train").size() == 2);
}

TEST_CASE("examples/image_prepare: refusals, after which everything is as it was") {
  const Scratch scratch;
  const fs::path in = scratch / "in", out = scratch / "out";
  fs::create_directories(in);
  CHECK(refusal({.folders = {scratch / "none"}, .out = out}) ==
        (scratch / "none").string() + ": there is no such folder");
  CHECK(refusal({.folders = {in}, .out = out}) == in.string() + ": the folder holds no picture");
  draw(in / "apple.png", 1);
  CHECK(refusal({.folders = {in}, .out = out}) == in.string() + ": only one picture can be used");
  CHECK(refusal({.folders = {in / "apple.png"}, .out = out}) ==
        (in / "apple.png").string() + ": is a file, a folder of pictures was expected");
  write(in / "bad.png", "no");
  fs::remove(in / "apple.png");
  std::string report;
  CHECK(refusal({.folders = {in}, .out = out}, &report) == in.string() + ": no picture can be used");
  CHECK(report.find("left out: ") != std::string::npos);
  draw(in / "apple.png", 1);
  draw(in / "pear.png", 2);
  CHECK(refusal({.folders = {in}, .out = out, .caption_from = CaptionFrom::metadata}) ==
        in.string() + ": has neither metadata.jsonl nor metadata.csv");
  CHECK(refusal({.folders = {in}, .out = out, .test_share = 0.5, .valid_share = 0.5}) ==
        "--test-share and --valid-share leave nothing to train on");
  CHECK(refusal({.folders = {in}, .out = in}).ends_with("whose pictures are to be prepared"));
  CHECK(refusal({.folders = {in}, .out = in / "data"}).ends_with("whose pictures are to be prepared"));
  CHECK(!fs::exists(out));

  write(scratch / "mine/letter.txt", "dear");
  CHECK(
      refusal({.folders = {in}, .out = scratch / "mine"}).ends_with("was not made by prepare, so it is not replaced"));
  CHECK(fs::exists(scratch / "mine/letter.txt"));
  CHECK(refusal({.folders = {in}, .out = scratch / "mine/letter.txt"})
            .ends_with("is a file, a folder was to be written"));
  CHECK(refusal({.folders = {in}, .out = scratch / "mine/letter.txt/place"}).find("cannot make the folder") !=
        std::string::npos);
  CHECK(refusal({.folders = {in}, .out = scratch / "no/such/place"}) == "");  // is made

  CHECK(refusal({.folders = {in}, .out = out}) == "");
  const std::string before = ft::read_file(out / "records.jsonl", 1000);
  write(in / "metadata.jsonl",
        "{\"file_name\": \"apple.png\", \"text\": \"a\"}\n{\"file_name\": \"plum.png\", \"text\": \"b\"}\n");
  CHECK(refusal({.folders = {in}, .out = out}) ==
        (in / "metadata.jsonl").string() + ":2: names 'plum.png', which is not in the folder");
  CHECK(ft::read_file(out / "records.jsonl", 1000) == before);
}

TEST_CASE("examples/image_prepare: a prepared folder that is none") {
  const Scratch scratch;
  const auto why = [&] {
    try {
      Data::open(scratch / "d");
    } catch (const Error& e) {
      return e.message();
    }
    return std::string();
  };
  CHECK(why() == (scratch / "d").string() + ": has no records.jsonl");
  write(scratch / "d/records.jsonl", "{\"file\": \"a\", \"caption\": \"a\", \"split\": \"train\"}\n");
  CHECK(why() == (scratch / "d").string() + ": has no pictures.safetensors");
  const std::vector<ft::half> values(3 * 4 * 4 * 2);
  ft::write_safetensors(scratch / "d/pictures.safetensors",
                        {{"pictures", ft::DType::f16, ft::Shape{2, 3, 4, 4}, values.data()}});
  CHECK(why().find("(1, 3, S, S) was expected after records.jsonl") != std::string::npos);
  write(scratch / "d/records.jsonl", "{\"file\": \"a\"}\n");
  CHECK(why() == (scratch / "d/records.jsonl").string() + ":1: key 'caption' is missing");
}

TEST_CASE("examples/image_prepare: the program ends with status 2 and one line") {
  const Scratch scratch;
  draw(scratch / "in/apple.png", 1);
  const auto run = [&](const std::string& arguments) {
    const auto command = str(FTLIB_IMAGE_STYLE, " ", arguments, " >", (scratch / "out.txt").string(), " 2>",
                             (scratch / "err.txt").string());
    const int status = std::system(command.c_str());
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  };
  const std::string in = (scratch / "in").string(), out = " --out " + (scratch / "data").string();
  for (const std::string& arguments :
       {std::string(), std::string("paint"), std::string("prepare"), "prepare " + in, "prepare " + in + out,
        "prepare " + in + out + " --size 0", "prepare " + in + out + " --fit stretch",
        "prepare " + in + out + " --sizes 3", "prepare " + in + out + " --test-share 2", "prepare " + in + "x" + out}) {
    CAPTURE(arguments);
    CHECK(run(arguments) == 2);
    const std::string error = ft::read_file(scratch / "err.txt", 10000);
    CHECK(error.starts_with("image_style: "));
    CHECK(std::count(error.begin(), error.end(), '\n') == 1);
  }
  CHECK(run("--version") == 0);
  CHECK(run("prepare --help") == 0);
  CHECK(ft::read_file(scratch / "out.txt", 10000).find("Example:\n  image_style prepare ") != std::string::npos);
  draw(scratch / "in/pear.png", 2);
  CHECK(run("prepare " + in + out) == 0);
}
