// tests/train/tensorboard.cpp: what a run leaves for plots: TensorBoard's event files against its own writer's bytes,
// and the log of JSON lines through kills and resumes.
#include <doctest/doctest.h>
#include <ftlib/train/metrics_log.hpp>
#include <ftlib/train/screen/tensorboard.hpp>

#include <cmath>
#include <iterator>

#include "../scratch.hpp"

using namespace ft;
using namespace ft::test;
namespace fs = std::filesystem;

namespace {
std::string read(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  REQUIRE(file);
  return {std::istreambuf_iterator<char>(file), {}};
}
void write(const fs::path& path, std::string_view text) { std::ofstream(path, std::ios::binary) << text; }
}  // namespace

TEST_CASE("train/tensorboard: CRC-32C gives RFC 3720's examples") {
  CHECK(ft::detail::crc32c(std::string(32, '\0')) == 0x8a9136aau);
  CHECK(ft::detail::crc32c(std::string(32, '\xff')) == 0x62a8ab43u);
  CHECK(ft::detail::crc32c("123456789") == 0xe3069283u);
}

TEST_CASE("train/tensorboard: the bytes of TensorBoard's own writer") {
  const Scratch folder;
  auto writer = TensorBoardWriter::resume(folder.path() / "run", 0, [] { return 1700000000.25; });
  std::string png;
  for (int i = 0; i < 3 * 256; ++i) png += static_cast<char>(i);
  writer.scalar("train/loss", 0, 0);
  writer.scalar("train/loss", 1, 2.5);
  writer.scalar("lr", 300, std::nan(""));
  writer.scalar("train/loss", int64_t{1} << 40, -1e-3);
  writer.image("sample", 2, png, 16, 300);
  writer.text("answers", 3, "Q: 지구?\nA: *yes*");
  CHECK(writer.path().filename() == "events.out.tfevents.1700000000.ftlib.0");
  const std::string expected = read(FTLIB_TEST_DATA "/tensorboard/events.out.tfevents.1700000000.ftlib.0");
  const std::string got = read(writer.path());  // while the writer is open: each record is out at once
  CHECK(got.size() == expected.size());
  CHECK(std::mismatch(got.begin(), got.end(), expected.begin(), expected.end()).first - got.begin() ==
        static_cast<std::ptrdiff_t>(expected.size()));
}

TEST_CASE("train/tensorboard: a resumed run adds a file and leaves the older one") {
  const Scratch folder;
  const auto clock = [] { return 1700000000.0; };
  TensorBoardWriter first(folder.path(), clock);
  first.scalar("loss", 1, 3);
  const std::string before = read(first.path());
  const auto second = TensorBoardWriter::resume(folder.path(), 1, clock);
  CHECK(second.path() != first.path());
  CHECK(second.path() > first.path());
  CHECK(read(first.path()) == before);
  write(folder.path() / "file", "");
  CHECK_THROWS_WITH_AS(TensorBoardWriter(folder.path() / "file"), doctest::Contains("cannot make the folder"), Error);
}

TEST_CASE("train/metrics_log: one line a record, out at once") {
  const Scratch folder;
  const fs::path path = folder.path() / "metrics.jsonl";
  auto log = MetricsLog::create(path);
  log.write({{"step", 1}, {"loss", 2.25}, {"kind", "train"}});
  log.write({{"step", 1}, {"kind", "evaluate"}, {"loss", std::nan("")}, {"sample", "line\nbreak \xff"}});
  CHECK(read(path) ==
        "{\"step\":1,\"loss\":2.25,\"kind\":\"train\"}\n"
        "{\"step\":1,\"kind\":\"evaluate\",\"loss\":null,\"sample\":\"line\\nbreak \xef\xbf\xbd\"}\n");
  MetricsLog::create(path);
  CHECK(read(path).empty());
  CHECK_THROWS_WITH_AS(MetricsLog::create(folder.path() / "none" / "m"), doctest::Contains("cannot open"), Error);
}

TEST_CASE("train/metrics_log: on resume no step is there twice, wherever the run was killed") {
  const Scratch folder;
  const fs::path path = folder.path() / "metrics.jsonl";
  const std::string kept = "{\"run\":\"x\"}\n{\"step\":1}\n{\"step\":2}\n{\"step\":2,\"kind\":\"evaluate\"}\n";
  const std::string later = "{\"step\":3}\n{\"step\":4,\"loss\":1.5}\n";
  for (std::size_t cut = 0; cut <= later.size(); ++cut) {
    write(path, kept + later.substr(0, cut));
    auto log = MetricsLog::resume(path, 2);
    log.write({{"step", 3}});
    CHECK(read(path) == kept + "{\"step\":3}\n");
  }
  write(path, kept.substr(0, kept.size() - 1));  // whole but for its newline: may be cut short all the same
  MetricsLog::resume(path, 2);
  CHECK(read(path) == "{\"run\":\"x\"}\n{\"step\":1}\n{\"step\":2}\n");
  fs::remove(path);
  MetricsLog::resume(path, 2).write({{"step", 3}});
  CHECK(read(path) == "{\"step\":3}\n");
}
