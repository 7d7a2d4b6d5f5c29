// tests/text/embedding_docs.cpp: the program text of docs/embedding.md, compiled and run. tools/check_readme.py holds
// the page's blocks against what stands here between the lines "// block" and "// end".
#include "../tiny_text_model.hpp"

#include <doctest/doctest.h>
#include <ftlib/finetune.hpp>

#include <cmath>
#include <fstream>
#include <iostream>
#include <sstream>
#include <thread>

namespace embedding_docs {

// block
using LM = ft::CausalLM<float, ft::Cpu>;

/// One request, in the thread that owns `session`; each piece goes to the client as soon as it is certain.
bool answer(LM& session, const std::string& tenant, const std::vector<ft::text::Message>& turns,
            const std::function<bool(const std::string&)>& send) {
  if (tenant.empty()) session.use_base();
  else session.use(tenant);  // an adapter by its name, in microseconds
  const ft::text::Prompt prompt = session.prompt(ft::text::Form::chat);
  auto stream =
      session.generate_from(prompt.conversation(turns), session.answer_options(prompt, {.max_new_tokens = 64}));
  while (const auto piece = stream.next())
    if (!send(*piece)) return false;  // the client has gone: leave the stream, there is nothing to clean up
  return true;
}
// end

// block
/// In a thread of its own: learns in its own session, and hands what it has to those that answer.
ft::RunReport learn(LM session, const std::string& tenant, const std::vector<ft::text::Record>& records,
                    ft::StopToken stop) {
  session.attach(tenant + ", learning", ft::Lora{.rank = 8, .alpha = 16, .targets = {"q_proj", "v_proj", "up_proj"}});
  const ft::text::Dataset data(records, session.prompt(ft::text::Form::chat), {.max_tokens = 512});
  ft::Trainer trainer(session, {.optimizer = ft::AdamW{.lr = 5e-3f}, .epochs = 4, .batch_tokens = 256, .stop = stop});
  const auto report = trainer.fit(data);
  session.adapters().copy(session.context(), tenant + ", learning", tenant);  // for each request that begins now
  return report;
}
// end

// block
/// Rows of a host's own table. A record with turns is a conversation, of which each of the assistant's turns is
/// learned.
std::vector<ft::text::Record> records_of(const std::vector<std::pair<std::string, std::string>>& rows) {
  std::vector<ft::text::Record> records;
  for (const auto& [question, reply] : rows) {
    ft::text::Record record;
    record.id = ft::str("ticket ", records.size());  // messages name it
    record.turns = {{"user", question}, {"assistant", reply}};
    if (const auto fault = ft::text::record_fault(record); !fault.empty()) continue;  // count and tell these
    records.push_back(std::move(record));
  }
  return records;
}
// end

// block
/// Learns which of two replies is the better one (a record's answer, and its `rejected` ones), and stays beside it as
/// the base is on text that the base writes.
ft::PreferenceReport prefer(LM& session, const std::vector<ft::text::Record>& records,
                            const std::vector<std::string>& beginnings) {
  session.attach(ft::Lora{.rank = 8, .alpha = 16, .targets = {"q_proj", "v_proj", "up_proj"}});
  const ft::PreferenceData pairs(records, session.prompt(ft::text::Form::chat));  // left_out() says what is not in it
  const ft::KeptText kept(ft::text::Dataset(ft::write_texts(session, beginnings), session.prompt()));
  ft::Keeping<float, ft::Cpu> keeping(session);
  ft::Preferring<float, ft::Cpu> preferring(session, {.beta = 0.1f}, keeping);  // what are no pairs is keeping's
  const ft::MixedSource source(pairs, {{&kept, /*share=*/0.25, /*weight=*/1}});
  ft::Trainer trainer(preferring, {.optimizer = ft::AdamW{.lr = 1e-3f}, .epochs = 8});
  trainer.fit(source);
  std::clog << "kept text moved by " << trainer.evaluate(kept) << " a token\n";
  return ft::evaluate_preferences(session, pairs);
}
// end

void tenants(LM& lm, LM& other) {
  // block
  lm.use("tenant 7");
  const ft::PeftBytes row = ft::peft_bytes(lm.adapter_data());  // to a database, with the form it is asked in

  const auto warnings = other.adapters().put(other.context(), "tenant 7", ft::read_peft(row.config, row.tensors));
  for (const std::string& warning : warnings) std::cerr << warning << '\n';  // made for another base, say
  other.use({{"tenant 7", 0.7f}});  // or a sum of several, each with its strength
  {
    const ft::AdaptersOff off(other);  // the base, until the end of the scope
  }
  other.adapters().remove("tenant 7");  // sessions in the middle of an answer end it with what they began with
  // end
}

void freezing(LM& lm, const ft::text::Dataset& data, const std::string& folder) {
  // block
  lm.attach(ft::Lora{.rank = 8, .targets = {"q_proj", "v_proj"}});
  lm.train([](const auto& w) { return w.name.ends_with("norm.weight"); });  // beside the adapter; saved with it

  ft::TrainerConfig config{.optimizer = ft::AdamW{.lr = 5e-4f}};
  config.groups.lr_scale = [](const ft::ParameterInfo& w) {  // LoRA+, and slow norms
    return w.name.ends_with("lora_B.weight") ? 16.0f : w.kind == ft::WeightKind::vector ? 0.1f : 1.0f;
  };
  ft::Trainer trainer(lm, config);
  trainer.on_gradients([](ft::Context<ft::Cpu>& ctx, auto params) {  // after backward, before clipping and the update
    for (const auto* w : params)
      if (w->grad) std::clog << w->name << ' ' << w->grad.to_host(ctx)[0] << '\n';
  });
  trainer.fit(data);
  lm.save_adapter(folder);  // the norms are in it, as PEFT's modules_to_save
  // end
}

struct Inside {
  std::vector<float> logits, states, embedding;
  float loss = 0;
};
Inside inside(LM& lm, const std::vector<std::string>& texts) {
  Inside seen;
  // block
  auto& ctx = lm.context();
  const ft::NoGrad no_grad(ctx);  // nothing is recorded while it lives
  ft::PackedTokens packed;        // sequences one after the other, no padding
  for (const std::string& text : texts) packed.add(lm.encode(text));

  const auto logits = lm.model().logits(ctx, packed);                     // (N, V), N tokens of all texts
  const auto states = lm.model().hidden_after(ctx, packed, {1}).front();  // (N, C) after the first block
  const auto last = lm.model().hidden(ctx, packed, {});                   // (N, C) after the last norm
  const auto embeddings = ft::mean_rows(ctx, last, packed.starts);        // (texts, C)
  const float loss = lm.loss_sum(packed).item(ctx) / static_cast<float>(packed.target_count());
  // end
  seen = {logits.to_host(ctx), states.to_host(ctx), embeddings.to_host(ctx), loss};
  return seen;
}

// block
/// What a server can do about an error. Nothing that was there before is changed by any of them.
std::string advice(const ft::Error& e) {
  switch (e.kind()) {
    case ft::ErrorKind::bad_argument:
      return "400: " + e.message();
    case ft::ErrorKind::bad_file:
      return "422: " + e.message();
    case ft::ErrorKind::no_memory:
      return "503: later, or less at once";
    case ft::ErrorKind::no_space:
      return "507: " + e.hint();
    case ft::ErrorKind::cancelled:
      return "499";
    case ft::ErrorKind::other:
      break;
  }
  return std::string("500: ") + e.what();
}
// end

std::filesystem::path chat_model(const ft::test::Scratch& dir) {
  const auto folder = ft::test::tiny_text_model(dir);
  std::ofstream(folder / "chat_template.jinja")
      << "{% for m in messages %}{{ m.role + ':' + m.content + '<|endoftext|>' }}{% endfor %}"
         "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}";
  return folder;
}
std::string said(LM& session, const std::string& tenant) {
  std::string all;
  CHECK(answer(session, tenant, {{"user", "how are you?"}}, [&](const std::string& piece) {
    all += piece;
    return true;
  }));
  return all;
}

}  // namespace embedding_docs

TEST_CASE("docs/embedding: sessions answer while one learns, and say what it learned once it has") {
  using namespace embedding_docs;
  const ft::test::Scratch dir;
  auto lm = LM::from_pretrained(chat_model(dir), {.threads = 1});
  const auto records = records_of({{"how are you?", "well"}, {" ", "nobody asked"}, {"who?", "me"}});
  REQUIRE(records.size() == 2);
  auto one = lm.session({.threads = 1}), two = lm.session({.threads = 1});
  const std::string before = said(one, "");
  std::thread learner([&, own = lm.session({.threads = 1})]() mutable {
    const auto report = learn(std::move(own), "tenant 7", records, {});
    CHECK(report.finished);
    CHECK(report.train_loss.back().y < report.train_loss.front().y);
  });
  CHECK(said(two, "") == before);
  learner.join();
  CHECK(lm.adapters().names() == std::vector<std::string>{"tenant 7", "tenant 7, learning"});
  const std::string after = said(two, "tenant 7");
  CHECK(after != before);
  CHECK(said(one, "") == before);
  int pieces = 0;
  CHECK(!answer(one, "tenant 7", {{"user", "how are you?"}}, [&](const std::string&) { return ++pieces < 2; }));
  CHECK(pieces == 2);

  auto other = LM::from_pretrained(dir / "text-model", {.threads = 1});
  tenants(lm, other);
  CHECK(other.adapters().names().empty());
  ft::StopSource stop;
  stop.request_stop();
  CHECK(!learn(lm.session({.threads = 1}), "tenant 8", records, stop.token()).finished);
}

TEST_CASE("docs/embedding: freezing, rates and gradients; what is saved comes back") {
  using namespace embedding_docs;
  const ft::test::Scratch dir;
  auto lm = LM::from_pretrained(chat_model(dir), {.threads = 1});
  const ft::text::Dataset data(records_of({{"how are you?", "well"}}), lm.prompt(ft::text::Form::chat));
  std::ostringstream log;
  auto* const clog = std::clog.rdbuf(log.rdbuf());
  freezing(lm, data, dir / "adapter");
  std::clog.rdbuf(clog);
  CHECK(log.str().find("model.norm.weight ") != std::string::npos);
  CHECK(log.str().find("layers.0.self_attn.q_proj.lora_B.weight ") != std::string::npos);
  CHECK(log.str().find("up_proj") == std::string::npos);
  auto again = LM::from_pretrained(dir / "text-model", {.threads = 1});
  again.load_adapter(dir / "adapter");
  const std::vector<std::string> texts{"one text", "another"};
  const auto seen = inside(lm, texts);
  CHECK(seen.logits == inside(again, texts).logits);
  CHECK(seen.embedding.size() == 2 * static_cast<std::size_t>(lm.model().info().hidden_size));
  CHECK(seen.states.size() == 15 * static_cast<std::size_t>(lm.model().info().hidden_size));
  CHECK(std::isfinite(seen.loss));
}

TEST_CASE("docs/embedding: preferences are learned, and other text is kept") {
  using namespace embedding_docs;
  const ft::test::Scratch dir;
  auto lm = LM::from_pretrained(chat_model(dir), {.threads = 1});
  std::vector<ft::text::Record> records;
  for (const char* word : {"sky", "snow", "tar", "grass"})
    records.push_back({.question = ft::str(word, "?"), .answers = {"it is fine"}, .rejected = {"go away", "no idea"}});
  std::ostringstream log;
  auto* const clog = std::clog.rdbuf(log.rdbuf());
  const auto report = prefer(lm, records, {"a", "the", "one"});
  std::clog.rdbuf(clog);
  CHECK(log.str().starts_with("kept text moved by "));
  CHECK(report.pairs == 8);
  CHECK(report.margin > 0);
  CHECK(report.accuracy > 0.9);
}

TEST_CASE("docs/embedding: errors by kind") {
  using namespace embedding_docs;
  const auto of = [](auto&& f) -> std::string {
    try {
      f();
    } catch (const ft::Error& e) {
      return advice(e).substr(0, 3);
    }
    return "200";
  };
  const ft::test::Scratch dir;
  auto lm = LM::from_pretrained(chat_model(dir), {.threads = 1});
  CHECK(of([&] { lm.use("nobody"); }) == "400");
  CHECK(of([&] { LM::from_pretrained(dir / "nothing"); }) == "422");
  CHECK(of([&] { LM::from_pretrained(dir / "text-model", {.threads = 1, .memory_limit = 1}).train_all(); }) == "503");
  CHECK(of([&] { lm.encode("fine"); }) == "200");
}
