// tests/distributed/training.cpp: what tests/distributed/training.hpp declares; compiled once, without any MPI.
#include "training.hpp"

#include <ftlib/finetune.hpp>
#include <ftlib/io/file.hpp>

#include <iostream>

using namespace ft;

int train_on_ranks(Communicator& world, const std::filesystem::path& model, const std::filesystem::path& out) {
  for (const bool full : {false, true}) {
    auto lm = CausalLM<float, Cpu>::from_pretrained(model, {.threads = 1, .seed = 5});
    if (full) lm.train_all();
    else lm.attach({.rank = 4, .alpha = 8, .dropout = 0.1f, .seed = 3});
    std::vector<text::Record> records;
    for (std::size_t i = 0; i < 30; ++i)
      records.push_back({.id = str("r", i),
                         .question = str("what is ", i, std::string(i % 7, 'x'), "?"),
                         .answers = {str("it is ", i * i)}});
    const text::Dataset data(records, lm.tokenizer());
    TrainerConfig config;
    config.optimizer = AdamW{.lr = 2e-2f};
    if (full) config.optimizer = AdamW8bit{.lr = 1e-3f};
    config.ema_decay = full ? 0.9f : 0;
    config.recompute = full;
    config.max_steps = 6;
    config.batch_tokens = 256;
    config.micro_batch_tokens = 24;
    config.clip_norm = 0.5f;
    config.exchange_bytes = 16 << 10;
    config.out_dir = out / (full ? "full" : "lora");
    config.save_every = 4;
    config.world = &world;
    Trainer trainer(lm, config);
    trainer.fit(data);
    if (world.rank() > 0) continue;
    Hash weights;
    for (const auto* w : lm.parameters())
      if (w->trainable) {
        const auto values = w->value.to_host(lm.context());
        weights.add(values.data(), values.size() * sizeof(float));
      }
    std::cout << (full ? "full" : "lora") << ": weights " << weights.value();
    for (const auto& file : files_in(config.out_dir / "checkpoint")) {
      Hash bytes;
      bytes.add(read_file(file, uint64_t{1} << 30));
      std::cout << ", " << file.filename().string() << ' ' << bytes.value();
    }
    std::cout << std::endl;
  }
  return 0;
}
