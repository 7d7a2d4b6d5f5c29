// benchmarks/tokenizer.cpp: how fast text is encoded and decoded, and tokenizers are loaded. FTLIB_MODELS names the
// folder of GGUF files and vocabularies, FTLIB_TEXT a text file; tools/compare_tokenizers.py runs this beside the
// references.
#include <ftlib/io/file.hpp>
#include <ftlib/text/tokenizer.hpp>

#include <benchmark/benchmark.h>

#include <cstdlib>
#include <filesystem>

namespace {
using namespace ft;

void count(benchmark::State& state, std::size_t bytes) {
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(bytes));
}

void run(const std::string& name, const std::filesystem::path& path, const std::string& text) {
  const Tokenizer tokenizer = Tokenizer::from_file(path);
  benchmark::RegisterBenchmark((name + "/long").c_str(), [=](benchmark::State& state) {
    for (auto _ : state) benchmark::DoNotOptimize(tokenizer.encode(text));
    count(state, text.size());
  });
  benchmark::RegisterBenchmark((name + "/lines").c_str(), [=](benchmark::State& state) {
    std::vector<std::string_view> lines;
    for (std::size_t at = 0, end; at < text.size(); at = end + 1) {
      end = std::min(text.find('\n', at), text.size());
      lines.push_back(std::string_view(text).substr(at, end - at));
    }
    for (auto _ : state)
      for (const auto line : lines) benchmark::DoNotOptimize(tokenizer.encode(line));
    count(state, text.size());
  });
  benchmark::RegisterBenchmark((name + "/decode").c_str(), [=](benchmark::State& state) {
    const auto ids = tokenizer.encode(text);
    for (auto _ : state) benchmark::DoNotOptimize(tokenizer.decode(ids));
    count(state, text.size());
  });
  benchmark::RegisterBenchmark((name + "/load").c_str(), [=](benchmark::State& state) {
    for (auto _ : state) benchmark::DoNotOptimize(Tokenizer::from_file(path));
  })->Unit(benchmark::kMillisecond);
}
}  // namespace

int main(int argc, char** argv) try {
  benchmark::Initialize(&argc, argv);
  const char* models = std::getenv("FTLIB_MODELS");
  const char* file = std::getenv("FTLIB_TEXT");
  require(models && file, "FTLIB_MODELS and FTLIB_TEXT are not set", "name the models' folder and a text file.");
  const std::string text = read_file(file, std::uint64_t{1} << 30);
  for (const char* name : {"SmolLM2-135M-Instruct.Q4_1.gguf", "gemma-3-270m-Q4_K_M.gguf", "qwen2-vocabulary.gguf",
                           "llama3.tokenizer.model", "llama4.tokenizer.model", "tekken_240911.json", "mistral-v3.model",
                           "unigram.model", "unigram.json"})
    if (path_exists(std::filesystem::path(models) / name)) run(name, std::filesystem::path(models) / name, text);
  benchmark::RunSpecifiedBenchmarks();
} catch (const std::exception& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
