// tests/io/mapped_file.cpp: what can be mapped or read, and what is refused.
#include "io_test.hpp"

#include <ftlib/io/mapped_file.hpp>

using namespace ft;
using namespace ft::test;

TEST_CASE("io/mapped_file: the bytes live as long as an owner") {
  const Scratch scratch;
  spit(scratch / "file", "some bytes");
  std::shared_ptr<const void> owner;
  std::span<const std::byte> bytes;
  {
    const auto file = MappedFile::open(scratch / "file");
    CHECK(file->name() == (scratch / "file").string());
    bytes = file->bytes();
    owner = file;
  }
  REQUIRE(bytes.size() == 10);
  CHECK(std::memcmp(bytes.data(), "some bytes", 10) == 0);
}

TEST_CASE("io/mapped_file: missing, empty, folder, FIFO, unreadable") {
  const Scratch scratch;
  spit(scratch / "empty", "");
  ::mkfifo((scratch / "fifo").c_str(), 0600);
  CHECK_THROWS_WITH_AS(MappedFile::open(scratch / "none"),
                       doctest::Contains("none: cannot open: No such file or directory"), Error);
  CHECK_THROWS_WITH_AS(MappedFile::open(scratch / "empty"), doctest::Contains("empty: is empty"), Error);
  CHECK_THROWS_WITH_AS(MappedFile::open(scratch.folder()), doctest::Contains("is a folder, a file was expected"),
                       Error);
  CHECK_THROWS_WITH_AS(MappedFile::open(scratch / "fifo"), doctest::Contains("fifo: is not a regular file"), Error);
  CHECK_THROWS_WITH_AS(MappedFile::open("/dev/zero"), doctest::Contains("/dev/zero: is not a regular file"), Error);
}

TEST_CASE("io/read_file: a limit, and an empty file") {
  const Scratch scratch;
  spit(scratch / "file", std::string(1001, 'x'));
  CHECK(read_file(scratch / "file", 1001).size() == 1001);
  CHECK_THROWS_WITH_AS(read_file(scratch / "file", 1000), doctest::Contains("has 1,001 bytes, at most 1,000 are read"),
                       Error);
  spit(scratch / "empty", "");
  CHECK(read_file(scratch / "empty", 0).empty());
  CHECK_THROWS_WITH_AS(read_file(scratch.folder(), 10), doctest::Contains("is a folder"), Error);
}

TEST_CASE("io/file: words of messages") {
  CHECK(grouped(0) == "0");
  CHECK(grouped(999) == "999");
  CHECK(grouped(101202240) == "101,202,240");
  CHECK(grouped(~uint64_t{0}) == "18,446,744,073,709,551,615");
  CHECK(quote("a\n\x1b[31m") == "'a\\x0a\\x1b[31m'");
  CHECK(quote(std::string(1000, 'x')).size() == 125);
}
