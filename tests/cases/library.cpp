// tests/cases/library.cpp: what of the cases a host meets without a program: arguments that make no sense, a full disk,
// records that are refused.
#include "../scratch.hpp"

#include <doctest/doctest.h>
#include <ftlib/finetune.hpp>
#include <ftlib/io/atomic_file.hpp>

#include <sys/resource.h>
#include <csignal>
#include <fstream>

namespace library_test {
namespace {
using namespace ft;
using ft::test::Scratch;
using Lm = CausalLM<float, Cpu>;
const auto tiny = std::filesystem::path(FTLIB_TEST_DATA) / "models/llama_q4_1.gguf";

/// While it lives, no file has room for more than `bytes`.
class FullDisk {
 public:
  explicit FullDisk(rlim_t bytes) : old_(std::signal(SIGXFSZ, SIG_IGN)) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    const struct rlimit full { bytes, before_.rlim_max };
    ::setrlimit(RLIMIT_FSIZE, &full);
  }
  ~FullDisk() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, old_);
  }

 private:
  struct rlimit before_ {};
  void (*old_)(int);
};
std::vector<std::string> files_of(const std::filesystem::path& folder) {
  std::vector<std::string> names;
  for (const auto& path : files_in(folder)) names.push_back(path.filename().string());
  return names;
}

TEST_CASE("cases: arguments that make no sense are told, and what they are") {
  CHECK_THROWS_WITH_AS(Lm::from_pretrained(""), doctest::Contains("model: no path is given"), Error);
  CHECK_THROWS_WITH_AS(Lm::from_pretrained(tiny, {.threads = -3}), doctest::Contains("-3 threads"), Error);
  auto lm = Lm::from_pretrained(tiny, {.threads = 1});
  CHECK_THROWS_WITH_AS(lm.generate("a", {.max_new_tokens = -1}), doctest::Contains("max_new_tokens is -1"), Error);
  CHECK(lm.generate("a", {.max_new_tokens = 0}).rest().empty());
  CHECK_THROWS_WITH_AS(evaluate(lm, {{.question = "a?", .answers = {"b"}}}, {.batch = 0}),
                       doctest::Contains("a batch of 0 prompts"), Error);
  CHECK_THROWS_WITH_AS(perplexity(lm, "some text", 0), doctest::Contains("a window of 0 tokens"), Error);
  CHECK_THROWS_WITH_AS(text::Dataset({{.question = "caf\xe9?", .answers = {"x"}}}, lm.tokenizer()),
                       doctest::Contains("record 0: question: not UTF-8 at byte 4"), Error);
}

TEST_CASE("cases: a disk without room leaves what was there, nothing beside it, and the weights for another try") {
  Scratch dir;
  auto lm = Lm::from_pretrained(tiny, {.threads = 1});
  lm.attach({.rank = 4});
  const auto save_all = [&] {
    lm.save_adapter(dir / "adapter");
    const AdaptersOff off(lm);
    lm.save_pretrained(dir / "model");
  };
  save_all();
  const auto names = files_of(dir.path()), in_adapter = files_of(dir / "adapter"), in_model = files_of(dir / "model");
  const auto before = read_file(dir / "adapter/adapter_model.safetensors", 1 << 22);
  for (auto* w : lm.parameters())
    if (w->trainable) w->value.data()[0] = 0.5f;
  {
    const FullDisk full(100);
    CHECK_THROWS_WITH_AS(lm.save_adapter(dir / "adapter"), doctest::Contains("free some space"), Error);
    const AdaptersOff off(lm);
    CHECK_THROWS_WITH_AS(lm.save_pretrained(dir / "model"), doctest::Contains("free some space"), Error);
  }
  CHECK(read_file(dir / "adapter/adapter_model.safetensors", 1 << 22) == before);
  CHECK(files_of(dir.path()) == names);
  CHECK(files_of(dir / "adapter") == in_adapter);
  CHECK(files_of(dir / "model") == in_model);
  save_all();
  CHECK(read_file(dir / "adapter/adapter_model.safetensors", 1 << 22) != before);
}

TEST_CASE("cases: room on the disk is asked for, of a path that is not there yet too") {
  Scratch dir;
  CHECK_NOTHROW(check_room(dir / "a/b/c", 1));
  CHECK_THROWS_WITH_AS(check_room(dir / "a/b/c", uint64_t{1} << 62),
                       doctest::Contains("needs 4,611,686,018,427,387,904 bytes"), Error);
  CHECK_NOTHROW(check_room("/proc/self", 0));
}

}  // namespace
}  // namespace library_test
