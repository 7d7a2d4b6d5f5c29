// tests/text/error_kinds.cpp: what kind of Error there is, by what a host can do about it.
#include "../scratch.hpp"

#include <doctest/doctest.h>
#include <ftlib/adapters/peft.hpp>
#include <ftlib/io/file.hpp>  // system_error
#include <ftlib/text/causal_lm.hpp>
#include <ftlib/text/records.hpp>

#include <fstream>

using namespace ft;
using ft::test::Scratch;

namespace error_kinds_test {
namespace {
using Lm = CausalLM<float, Cpu>;
const auto tiny_gguf = std::filesystem::path(FTLIB_TEST_DATA) / "models/llama_q4_1.gguf";

/// The kind of what f() throws.
template <class F> ErrorKind error_kind_of(F f) {
  try {
    f();
  } catch (const Error& e) {
    return e.kind();
  }
  FAIL("nothing was thrown");
  return ErrorKind::other;
}

TEST_CASE("text/error_kinds: what a host asked for is a bad argument, what a file holds a bad file") {
  const Scratch dir;
  std::ofstream(dir / "records.jsonl") << "{\"question\": 1}\n";
  std::ofstream(dir / "model.gguf") << "GGUF";
  CHECK(error_kind_of([] { Lm::from_pretrained(tiny_gguf, {.threads = -1}); }) == ErrorKind::bad_argument);
  CHECK(error_kind_of([] { Lm::from_pretrained(tiny_gguf).attach({.rank = 0}); }) == ErrorKind::bad_argument);
  CHECK(error_kind_of([] { Lm::from_pretrained("none.gguf"); }) == ErrorKind::bad_file);
  CHECK(error_kind_of([&] { Lm::from_pretrained(dir / "model.gguf"); }) == ErrorKind::bad_file);
  CHECK(error_kind_of([&] { Lm::from_pretrained(dir / ""); }) == ErrorKind::bad_file);
  CHECK(error_kind_of([&] { read_peft(dir / ""); }) == ErrorKind::bad_file);
  CHECK(error_kind_of([&] { text::read_records(dir / "records.jsonl"); }) == ErrorKind::bad_file);
  CHECK(error_kind_of([&] { text::read_records(dir / "none.jsonl"); }) == ErrorKind::bad_file);
  std::vector<text::BadRecord> bad;
  CHECK(error_kind_of([&] { text::parse_records("nothing", bad, "the host's"); }) == ErrorKind::bad_argument);
  REQUIRE(bad.size() == 1);
  CHECK(bad[0].file == "the host's");
  CHECK(bad[0].line == 1);
}

TEST_CASE("text/error_kinds: no memory, no space, cancelled") {
  CHECK(error_kind_of([] { Lm::from_pretrained(tiny_gguf, {.threads = 1, .memory_limit = 1000}).train_all(); }) ==
        ErrorKind::no_memory);
  CHECK(error_kind_of([] { throw system_error("f", "cannot write", {}, ENOSPC); }) == ErrorKind::no_space);
  CHECK(error_kind_of([] { throw system_error("f", "cannot write", {}, EACCES); }) == ErrorKind::bad_file);
  CHECK(error_kind_of([] { throw Interrupted("stopped"); }) == ErrorKind::cancelled);
  CHECK(error_kind_of([] { reading_file([] { throw Interrupted("stopped"); }); }) == ErrorKind::cancelled);
}

}  // namespace
}  // namespace error_kinds_test
