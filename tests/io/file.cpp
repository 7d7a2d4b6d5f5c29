// tests/io/file.cpp: what the system cannot say or do is an Error that names the file.
#include <doctest/doctest.h>
#include <ftlib/io/file.hpp>
#include <ftlib/models/kit/registry.hpp>

#include <fstream>

using namespace ft;

TEST_CASE("io/file: where the system cannot look, list, make or copy, an Error names the file and the reason") {
  const auto folder = std::filesystem::temp_directory_path() / str("ftlib_file_", ::getpid());
  make_folders(folder / "a" / "b");
  make_folders(folder / "a" / "b");
  std::ofstream(folder / "file") << "text";
  CHECK(path_exists(folder / "file"));
  CHECK(!is_folder(folder / "file"));
  CHECK(is_folder(folder / "a"));
  CHECK(!path_exists(folder / "none"));
  CHECK(!path_exists(folder / "file" / "below"));  // a file has nothing below it
  CHECK(files_in(folder) == std::vector<std::filesystem::path>{folder / "a", folder / "file"});
  duplicate_file(folder / "file", folder / "copy");
  CHECK(read_file(folder / "copy", 100) == "text");

  const auto fails = [](auto call, const std::string& message) {
    CHECK_THROWS_WITH_AS(call(), doctest::Contains(message.c_str()), Error);
  };
  const std::string too_long = (folder / std::string(5000, 'x')).string();
  fails([&] { path_exists(too_long); }, too_long + ": cannot look for it: File name too long");
  fails([&] { is_folder(too_long); }, "File name too long");
  fails([&] { (void)Checkpoint::open(too_long); }, "cannot look for it: File name too long");
  fails([&] { files_in(folder / "none"); }, (folder / "none").string() + ": cannot list the folder: No such file");
  fails([&] { make_folders(folder / "file" / "below"); }, "cannot make the folder: Not a directory");
  fails([&] { duplicate_file(folder / "none", folder / "c"); }, (folder / "none").string() + ": cannot copy to ");
  fails([&] { duplicate_file(folder / "file", folder / "copy"); }, "File exists");
  std::filesystem::remove_all(folder);
}
