#include <ftlib/finetune.hpp>
#include <iostream>

bool host_wants_to_stop() { return false; }

int main(int argc, char** argv) try {
  if (argc < 3) throw ft::Error("usage: thirty_lines MODEL FACTS.jsonl");
  auto lm = ft::CausalLM<float, ft::Cpu>::from_pretrained(argv[1]);  // GGUF file or Hugging Face folder
  lm.attach(ft::Lora{.rank = 16, .alpha = 32, .targets = ft::all_linear});
  std::cout << lm.summary();  // parameters, trainable %, bytes

  auto records = ft::text::read_records(argv[2]);  // {"question": ..., "answer": ...}
  ft::text::Dataset data(
      records, lm.tokenizer(),
      {.form = ft::text::Form::question_answer, .loss_on = ft::text::LossOn::answer, .max_tokens = 128});
  auto [train, held_out] = data.split(0.9, /*seed=*/42);

  ft::Trainer trainer(lm, {.optimizer = ft::AdamW{.lr = 5e-4f},
                           .schedule = ft::Cosine{.warmup = 0.03f},
                           .epochs = 4,
                           .batch_tokens = 512,
                           .clip_norm = 1.0f,
                           .out_dir = "run"});
  std::cout << trainer.plan(train);        // memory and time, before the first step
  trainer.on_step([](const ft::Step& s) {  // the host stays in charge
    std::cout << s << '\n';
    return host_wants_to_stop() ? ft::Flow::stop : ft::Flow::go;
  });
  trainer.fit(train, &held_out);

  std::cout << ft::evaluate(lm, held_out.records());  // exact match, F1, perplexity
  lm.save_adapter("run/adapter");                     // a PEFT folder
  for (const auto& piece : lm.generate("Q: Who wrote it?\nA:", {.max_new_tokens = 64, .stop = {"\n"}}))
    std::cout << piece << std::flush;  // streams from a KV cache
} catch (const ft::Error& e) {
  std::cerr << e.what() << '\n';
  return 1;
}
