// tests/text/sessions.cpp: one model, many threads: four sessions answer while a fifth trains an adapter and swaps it
// in. Clean under ThreadSanitizer, and each answer is that of one thread.
#include <doctest/doctest.h>
#include <ftlib/adapters/peft.hpp>
#include <ftlib/optim/adamw.hpp>
#include <ftlib/optim/clip.hpp>
#include <ftlib/text/causal_lm.hpp>

#include <atomic>
#include <chrono>
#include <set>
#include <thread>

namespace sessions_test {
namespace {
using namespace ft;
using Lm = CausalLM<float, Cpu>;
const std::filesystem::path model = std::filesystem::path(FTLIB_TEST_DATA) / "models/llama_untied",
                            tuned = std::filesystem::path(FTLIB_TEST_DATA) / "adapters";
const std::vector<int32_t> prompt{7, 70, 6, 46, 90, 3, 22, 51, 8, 33, 12};

/// The logits of the prompt, and the tokens that follow it: what a request is answered with.
struct Reply {
  std::vector<float> logits;
  std::vector<int32_t> tokens;
  bool operator==(const Reply&) const = default;
};
Reply answer(Lm& lm) {
  const NoGrad off(lm.context());
  PackedTokens batch;
  batch.add(prompt);
  Reply reply{lm.model().logits(lm.context(), batch).to_host(lm.context()), {}};
  TokenGenerator<float, Cpu> generator(lm.context(), lm.model(), {prompt}, {.max_new_tokens = 6}, {});
  while (!generator.done())
    for (const auto& [i, token] : generator.next()) reply.tokens.push_back(token);
  return reply;
}
/// Trains the adapter in use, and calls after(step) behind each.
template <class F> void learn(Lm& lm, int steps, F after) {
  std::vector<Parameter<float, Cpu>*> params;
  for (auto* w : lm.parameters())
    if (w->trainable) params.push_back(w);
  REQUIRE(!params.empty());
  AdamWOptimizer<float, Cpu> optimizer({.lr = 1e-2f});
  PackedTokens batch;
  batch.add(prompt);
  for (int step = 0; step < steps; ++step) {
    zero_grad(std::span<Parameter<float, Cpu>* const>(params));
    {
      Tape tape(lm.context());
      tape.backward(lm.loss_sum(batch));
    }
    optimizer.step(lm.context(), params, 1e-2f);
    after(step);
  }
}

TEST_CASE("sessions: four threads answer while a fifth trains an adapter and swaps it in; all as one thread would") {
  constexpr int versions = 6, readers = 4;
  const Lora lora{
      .rank = 4, .alpha = 8, .targets = {"q_proj", "up_proj", "lm_head"}, .modules_to_save = {"model.norm"}};
  Lm lm = Lm::from_pretrained(model, {.threads = 1});
  lm.adapters().put(lm.context(), "dora", read_peft(tuned / "dora/trained"));
  lm.adapters().put(lm.context(), "patterns", read_peft(tuned / "patterns/trained"));

  // What one thread says.
  std::map<std::string, Reply> expected;
  expected[""] = answer(lm);
  for (const char* name : {"dora", "patterns"}) {
    lm.use(name);
    expected[name] = answer(lm);
  }
  std::vector<Reply> live;
  {
    Lm alone = Lm::from_pretrained(model, {.threads = 1});
    alone.attach("candidate", lora);
    live.push_back(answer(alone));
    learn(alone, versions, [&](int) { live.push_back(answer(alone)); });
  }
  lm.attach("candidate", lora);
  lm.adapters().copy(lm.context(), "candidate", "live");
  CHECK(live.front() == answer(lm));

  std::atomic<bool> done = false;
  std::atomic<int> replies = 0;
  std::vector<std::string> faults(readers);
  std::vector<std::vector<std::size_t>> seen(readers);
  std::vector<Lm> sessions;
  for (int i = 0; i < readers; ++i) sessions.push_back(lm.session({.threads = 1}));
  CHECK_THROWS_WITH_AS(lm.merge(), doctest::Contains("4 other session(s) share these weights"), Error);
  std::vector<std::thread> threads;
  for (int i = 0; i < readers; ++i)
    threads.emplace_back([&, i] {
      const auto at = static_cast<std::size_t>(i);
      try {
        Lm& own = sessions[at];
        const std::vector<std::string> tenants{"dora", "live", "patterns", "live", ""};
        for (std::size_t k = at; !done || k < at + 5; ++k, ++replies) {
          const std::string& tenant = tenants[k % tenants.size()];
          if (tenant.empty()) own.use_base();
          else own.use(tenant);
          const Reply reply = answer(own);
          if (tenant != "live") {
            if (!(reply == expected[tenant])) faults[at] = "another answer with '" + tenant + "'";
            continue;
          }
          const auto version = static_cast<std::size_t>(std::find(live.begin(), live.end(), reply) - live.begin());
          if (version == live.size()) faults[at] = "an answer of no version";
          seen[at].push_back(version);
        }
      } catch (const std::exception& e) {
        faults[at] = e.what();
      }
    });
  std::thread trainer([&] {  // a context serves one thread, which need not be the one that made it
    learn(lm, versions, [&](int) {
      const int before = replies;
      lm.adapters().copy(lm.context(), "candidate", "live");
      while (replies < before + readers) std::this_thread::yield();
    });
    done = true;
  });
  trainer.join();
  for (auto& thread : threads) thread.join();
  std::set<std::size_t> versions_seen;
  for (std::size_t i = 0; i < readers; ++i) {
    CHECK(faults[i] == "");
    CHECK(std::is_sorted(seen[i].begin(), seen[i].end()));  // never back to an older one
    versions_seen.insert(seen[i].begin(), seen[i].end());
  }
  CHECK(versions_seen.size() > 2);
  CHECK(answer(lm) == live.back());
  sessions.front().use("live");
  CHECK(answer(sessions.front()) == live.back());
}

TEST_CASE("sessions: an answer ends with the adapter that it began with, and switching is for each request") {
  Lm lm = Lm::from_pretrained(model, {.threads = 1});
  for (const std::string name : {"dora", "patterns"})
    lm.adapters().put(lm.context(), name, read_peft(tuned / name / "trained"));
  lm.use("dora");
  const auto expected = answer(lm).tokens;
  TokenGenerator<float, Cpu> generator(lm.context(), lm.model(), {prompt}, {.max_new_tokens = 6}, {});
  std::vector<int32_t> tokens;
  for (int i = 0; !generator.done(); ++i) {
    for (const auto& [row, token] : generator.next()) tokens.push_back(token);
    if (i == 0) lm.use("patterns");
    if (i == 1) lm.adapters().remove("dora");
    if (i == 2) lm.use_base();
  }
  CHECK(tokens == expected);
  CHECK(lm.adapters().used(lm.context()).empty());

  lm.adapters().put(lm.context(), "dora", read_peft(tuned / "dora/trained"));
  double most = 0, all = 0;
  for (int i = 0; i < 200; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    lm.use(i % 2 ? "dora" : "patterns");
    const double took = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    most = std::max(most, took);
    all += took;
  }
  MESSAGE("switching two tenants' adapters: " << 1e6 * all / 200 << " us on average, " << 1e6 * most << " at most");
  CHECK(all / 200 < 5e-3);
}

}  // namespace
}  // namespace sessions_test
