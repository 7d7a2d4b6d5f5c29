// benchmarks/generate.cpp: tokens per second of generation, without the prompt's; the peer is
// tools/compare_with_llama_cpp.
//   bench_generate MODEL [--tokens 128] [--batch 1] [--threads 0]      prints one JSON object
#include <ftlib/finetune.hpp>

#include <chrono>
#include <cstring>
#include <iostream>

int main(int argc, char** argv) try {
  if (argc < 2) throw ft::Error("usage: bench_generate MODEL [--tokens N] [--batch B] [--threads T]");
  int64_t tokens = 128, batch = 1, threads = 0;
  for (int i = 2; i + 1 < argc; i += 2) {
    if (!std::strcmp(argv[i], "--tokens")) tokens = std::atol(argv[i + 1]);
    else if (!std::strcmp(argv[i], "--batch")) batch = std::atol(argv[i + 1]);
    else if (!std::strcmp(argv[i], "--threads")) threads = std::atol(argv[i + 1]);
    else throw ft::Error(ft::str("bench_generate: no option ", argv[i]));
  }
  auto lm = ft::CausalLM<float, ft::Cpu>::from_pretrained(argv[1], {.threads = static_cast<int>(threads)});
  const std::vector<std::vector<int32_t>> prompts(static_cast<std::size_t>(batch),
                                                  lm.encode("The history of the city begins with"));
  ft::TokenGenerator<float, ft::Cpu> generator(lm.context(), lm.model(), prompts, {.max_new_tokens = tokens},
                                               {});  // no end token: all run to the end
  generator.next();                                  // the prompt
  const auto begin = std::chrono::steady_clock::now();
  int64_t made = 0;
  while (!generator.done()) made += static_cast<int64_t>(generator.next().size());
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  std::cout << ft::Json{{"tokens_per_second", static_cast<double>(made) / seconds},
                        {"tokens", made},
                        {"batch", batch},
                        {"threads", lm.context().threads()}}
                   .dump()
            << '\n';
} catch (const ft::Error& e) {
  std::cerr << e.what() << '\n';
  return 2;
}
