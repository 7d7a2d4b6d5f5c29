// tests/io/atomic_file.cpp: whole or not at all: commits, exceptions, full disks, SIGKILL.
#include "io_test.hpp"

#include <ftlib/io/mapped_file.hpp>

#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <thread>

using namespace ft;
using namespace ft::test;

namespace {

/// Runs `work` in a child that is killed after about `microseconds`; returns whether it lived until then.
template <class Work> bool killed_after(unsigned microseconds, Work work) {
  const pid_t child = ::fork();
  if (child == 0) {
    try {
      work();
    } catch (...) {
    }
    ::_exit(1);
  }
  ::usleep(microseconds);
  ::kill(child, SIGKILL);
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
}

/// A process id that no process has.
pid_t dead_process() {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  ::waitpid(child, nullptr, 0);
  return child;
}

/// Version n of a file: its number, and then a length of that number's letter which differs from version to version.
std::string content(int n) {
  return std::to_string(n) + ":" +
         std::string(200'000 + static_cast<std::size_t>(n % 7) * 30'000, static_cast<char>('a' + n % 26));
}
bool whole(const std::string& text) {
  const auto colon = text.find(':');
  return colon != std::string::npos && text == content(std::stoi(text.substr(0, colon)));
}

}  // namespace

TEST_CASE("io/atomic_file: a commit replaces, its absence leaves all as it was") {
  const Scratch scratch;
  write_atomically(scratch / "file", "old");
  CHECK(slurp(scratch / "file") == "old");
  {
    AtomicFile file(scratch / "file");
    file.write("new");
    CHECK(slurp(scratch / "file") == "old");
    CHECK(file.size() == 3);
  }
  CHECK(slurp(scratch / "file") == "old");
  CHECK(scratch.names() == std::vector<std::string>{"file"});

  std::string large(300'001, 'x');
  {
    AtomicFile file(scratch / "file");
    file.write("head");
    file.write(large);
    file.write("tail");
    CHECK(file.size() == large.size() + 8);
    file.commit();
  }
  CHECK(slurp(scratch / "file") == "head" + large + "tail");
  CHECK(scratch.names() == std::vector<std::string>{"file"});
  write_atomically(scratch / "file", "");
  CHECK(slurp(scratch / "file").empty());
}

TEST_CASE("io/atomic_file: a mapping keeps the file that was replaced") {
  const Scratch scratch;
  write_atomically(scratch / "file", "old");
  const auto mapped = MappedFile::open(scratch / "file");
  write_atomically(scratch / "file", "a longer text");
  CHECK(std::memcmp(mapped->bytes().data(), "old", 3) == 0);
}

TEST_CASE("io/atomic_file: a link stays, and what it leads to is replaced, with the permissions that it had") {
  const Scratch scratch;
  std::filesystem::create_directory(scratch / "there");
  write_atomically(scratch / "there" / "file", std::string_view("old"));
  REQUIRE(::chmod((scratch / "there" / "file").c_str(), 0600) == 0);
  std::filesystem::create_symlink("there/file", scratch / "near");
  std::filesystem::create_symlink(scratch / "near", scratch / "far");
  write_atomically(scratch / "far", std::string_view("new"));
  CHECK(read_file(scratch / "there" / "file", 10) == "new");
  CHECK(std::filesystem::is_symlink(scratch / "far"));
  CHECK(std::filesystem::is_symlink(scratch / "near"));
  CHECK(std::filesystem::status(scratch / "there" / "file").permissions() == std::filesystem::perms(0600));
  std::filesystem::create_symlink("there/none", scratch / "dangling");
  write_atomically(scratch / "dangling", std::string_view("made"));
  CHECK(read_file(scratch / "there" / "none", 10) == "made");
  std::filesystem::create_symlink("loop", scratch / "loop");
  CHECK_THROWS_WITH_AS(write_atomically(scratch / "loop", std::string_view("x")), doctest::Contains("loop: "), Error);
  CHECK(std::distance(std::filesystem::directory_iterator(scratch / "there"), {}) == 2);
  // A folder too.
  std::filesystem::create_directory(scratch / "run");
  std::filesystem::create_symlink("run", scratch / "link");
  AtomicFolder folder(scratch / "link");
  write_atomically(folder.folder() / "a", std::string_view("b"));
  folder.commit();
  CHECK(std::filesystem::is_symlink(scratch / "link"));
  CHECK(read_file(scratch / "run" / "a", 10) == "b");
}

TEST_CASE("io/atomic_file: a pipe is written to and stays") {
  const Scratch scratch;
  const auto pipe = scratch / "pipe";
  REQUIRE(::mkfifo(pipe.c_str(), 0600) == 0);
  std::filesystem::create_symlink("pipe", scratch / "link");
  for (const auto& path : {pipe, scratch / "link"}) {
    std::string got;
    std::thread reader([&] {
      std::ifstream in(pipe, std::ios::binary);  // opens when somebody writes
      got.assign(std::istreambuf_iterator<char>(in), {});
    });
    write_atomically(path, std::string_view("to whoever reads"));
    reader.join();
    CHECK(got == "to whoever reads");
    CHECK(std::filesystem::is_fifo(pipe));
  }
  CHECK(std::distance(std::filesystem::directory_iterator(scratch.folder()), {}) == 2);
}

TEST_CASE("io/atomic_file: errors name the file and the system's reason") {
  const Scratch scratch;
  CHECK_THROWS_WITH_AS(AtomicFile(scratch / "none/file"), doctest::Contains("none/file: cannot write: No such file"),
                       Error);
  CHECK_THROWS_WITH_AS(AtomicFile(scratch.folder()), doctest::Contains("is a folder"), Error);
  write_atomically(scratch / "file", "x");
  CHECK_THROWS_WITH_AS(AtomicFolder(scratch / "file"), doctest::Contains("is a file"), Error);
  CHECK_THROWS_WITH_AS(AtomicFolder(scratch / "none/folder"), doctest::Contains("none/folder: cannot make the folder"),
                       Error);
}

TEST_CASE("io/atomic_file: a full disk is an Error, and the old file stays") {
  const Scratch scratch;
  write_atomically(scratch / "file", "old");
  const pid_t child = ::fork();
  if (child == 0) {  // a limit on the size of files stands for the full disk
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{100'000, 100'000};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    try {
      write_atomically(scratch / "file", std::string(500'000, 'x'));
    } catch (const Error& error) {
      const std::string what = error.what();
      ::_exit(error.kind() == ErrorKind::no_space &&
                      what.find("file: cannot write at byte 100,000: File too large") != what.npos &&
                      what.find("what was there before is unchanged") != what.npos
                  ? 42
                  : 2);
    }
    ::_exit(1);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  CHECK(WEXITSTATUS(status) == 42);
  CHECK(slurp(scratch / "file") == "old");
  CHECK(scratch.names() == std::vector<std::string>{"file"});
}

TEST_CASE("io/atomic_file: killed at any moment, the file is whole") {
  const Scratch scratch;
  write_atomically(scratch / "file", content(0));
  for (unsigned round = 0; round < 40; ++round) {
    const bool alive = killed_after(2'000 + round * 1'231 % 9'000, [&] {
      for (int n = 1;; ++n) write_atomically(scratch / "file", content(n));
    });
    REQUIRE(alive);
    REQUIRE(whole(slurp(scratch / "file")));
  }
  write_atomically(scratch / "file", "end");  // clears what the killed left
  CHECK(scratch.names() == std::vector<std::string>{"file"});
}

TEST_CASE("io/atomic_folder: a commit replaces the whole folder") {
  const Scratch scratch;
  const auto path = scratch / "checkpoint";
  {
    AtomicFolder folder(path);
    spit(folder.folder() / "a", "1");
    std::filesystem::create_directory(folder.folder() / "sub");
    spit(folder.folder() / "sub/b", "1");
    CHECK(!std::filesystem::exists(path));
    folder.commit();
  }
  CHECK(slurp(path / "sub/b") == "1");
  {
    AtomicFolder folder(path / "");  // with a slash at its end
    write_atomically(folder.folder() / "a", "2");
    CHECK(slurp(path / "a") == "1");
    folder.commit();
  }
  CHECK(slurp(path / "a") == "2");
  CHECK(!std::filesystem::exists(path / "sub"));
  { const AtomicFolder abandoned(path); }
  CHECK(slurp(path / "a") == "2");
  CHECK(scratch.names() == std::vector<std::string>{"checkpoint"});
}

TEST_CASE("io/atomic_folder: killed at any moment, the folder is whole") {
  const Scratch scratch;
  const auto path = scratch / "checkpoint";
  const auto write = [&](int n) {
    AtomicFolder folder(path);
    for (const char* name : {"a", "b", "c"}) write_atomically(folder.folder() / name, content(n));
    folder.commit();
  };
  write(0);
  for (unsigned round = 0; round < 30; ++round) {
    const bool alive = killed_after(3'000 + round * 2'711 % 25'000, [&] {
      for (int n = 1;; ++n) write(n);
    });
    REQUIRE(alive);
    recover_folder(path);
    const auto a = slurp(path / "a");
    REQUIRE(whole(a));
    REQUIRE(slurp(path / "b") == a);
    REQUIRE(slurp(path / "c") == a);
  }
  CHECK(scratch.names() == std::vector<std::string>{"checkpoint"});
}

TEST_CASE("io/atomic_folder: where folders cannot be exchanged, the two steps can be undone") {
  const Scratch scratch;
  const auto path = scratch / "checkpoint", next = scratch / "next";
  const auto aside = scratch / str("checkpoint.old-", dead_process());
  std::filesystem::create_directory(path);
  std::filesystem::create_directory(next);
  spit(path / "a", "old");
  spit(next / "a", "new");
  detail::replace_in_two_steps(next, path, aside);
  CHECK(slurp(path / "a") == "new");
  CHECK(slurp(aside / "a") == "old");

  std::filesystem::remove_all(path);  // killed between the steps: only the old one, aside, and a temporary
  std::filesystem::create_directory(scratch / str("checkpoint.tmp-", dead_process()));
  recover_folder(path);
  CHECK(slurp(path / "a") == "old");
  CHECK(scratch.names() == std::vector<std::string>{"checkpoint"});

  CHECK_THROWS_WITH_AS(detail::replace_in_two_steps(scratch / "none", path, aside), doctest::Contains("checkpoint"),
                       Error);
  CHECK(slurp(path / "a") == "old");  // put back

  std::filesystem::rename(path, aside);
  AtomicFolder folder(path);  // the next writer recovers as well
  CHECK(slurp(path / "a") == "old");
}

TEST_CASE("io/atomic_folder: what a living process writes, or what only looks like ours, is left alone") {
  const Scratch scratch;
  const std::string living = str("checkpoint.tmp-", ::getppid());
  for (const std::string& name : {living, std::string("checkpoint.tmp-x"), std::string("checkpoint.tmp-1x")})
    std::filesystem::create_directory(scratch / name);
  recover_folder(scratch / "checkpoint");
  CHECK(scratch.names().size() == 3);
}
