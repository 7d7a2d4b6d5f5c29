// tests/packaging/warnings.cpp: a host's file under every warning that it may have switched on: options and records
// named member by member, most of them left out.
#include <ftlib/finetune.hpp>

#include <iostream>
#include <utility>

namespace {
using Lm = ft::CausalLM<float, ft::Cpu>;

ft::text::Dataset records(const Lm& lm) {
  return ft::text::Dataset({ft::text::Record{.question = "q", .answers = {"a"}},
                            {.id = "2", .question = "q", .answers = {"a"}},
                            {.turns = {{.role = "user", .content = "q"}, {.role = "assistant", .content = "a"}}}},
                           lm.prompt(), {.max_tokens = 128});
}

void train(Lm& lm) {
  lm.attach({.rank = 8});
  lm.attach("other", ft::Lora{.alpha = 32, .targets = {"q_proj"}});
  lm.set_prompt({.stop = std::vector<std::string>{"\n"}});
  const ft::text::Dataset data = records(lm);
  ft::StopSource stop;
  ft::Trainer trainer(lm, {.optimizer = ft::AdamW{.lr = 5e-4f},
                           .schedule = ft::Cosine{.warmup = 0.03f},
                           .groups = {.lr_scale = ft::lora_plus()},
                           .epochs = 4,
                           .stop = stop.token()});
  trainer.on_step([](const ft::Step& s) {
    std::cout << s;
    return ft::Flow::go;
  });
  std::cout << trainer.plan(data) << trainer.fit(data).steps;
  lm.save_adapter("adapter", {.base = "base"});
}

void ask(Lm& lm) {
  auto session = lm.session({.threads = 1, .memory_limit = int64_t{1} << 30});
  for (const auto& piece : lm.generate("q", {.max_new_tokens = 4, .sampling = {.temperature = 0.5f}, .stop = {"\n"}}))
    std::cout << piece;
  const std::vector<ft::text::Record> asked{{.question = "q", .answers = {"a"}}};
  std::cout << ft::evaluate(session, asked, {.batch = 4}) << ft::perplexity(lm, "text") << lm.summary();
  const ft::text::ChatTemplate chat(lm.tokenizer());
  std::cout << chat.render({{.role = "user", .content = "q"}}, {.thinking = true});
}

void draw(const std::filesystem::path& path) {
  using Images = ft::TextToImage<float, ft::Cpu>;
  auto images = Images::from_pretrained(path, {.threads = 1}, ft::FlowOptions{});
  images.attach(ft::Lora{.rank = 4});
}

struct Own final : ft::Trainable<float, ft::Cpu> {
  explicit Own(Lm& model) : lm(model) {}
  ft::Context<ft::Cpu>& context() override { return lm.context(); }
  std::vector<ft::Parameter<float, ft::Cpu>*> parameters() override { return lm.parameters(); }
  ft::Loss<float, ft::Cpu> loss_sum(const ft::MicroBatch& micro, bool recompute) override {
    return lm.loss_sum(micro, recompute);
  }
  Lm& lm;
};
}  // namespace

int main(int argc, char** argv) try {
  auto lm = Lm::from_pretrained(argc > 1 ? argv[1] : "", {.threads = 1});
  train(lm);
  ask(lm);
  if (argc > 2) draw(argv[2]);
  const Own own(lm);
  return own.lm.path().empty();
} catch (const ft::Error& e) {
  std::cerr << e.what() << '\n';
  return e.kind() == ft::ErrorKind::bad_file ? 2 : 1;
}
