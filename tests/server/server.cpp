// tests/server/server.cpp: an hour of a server in half a minute: four sessions ask while one trains, adapters are
// swapped, clients leave in the middle of an answer, bad records, a full disk and a lack of memory come. Nothing is
// lost, no byte leaks, and every answer is that of one thread. FTLIB_SERVER_SECONDS says for how long: a minute for 1 %
// of memory; clean under TSan and ASan.
#include <malloc.h>        // ::mallinfo2, ::mallopt
#include <sys/resource.h>  // ::setrlimit
#include <unistd.h>        // ::sysconf

#include <doctest/doctest.h>
#include <ftlib/adapters/peft.hpp>
#include <ftlib/core/message.hpp>
#include <ftlib/finetune.hpp>

#include "../scratch.hpp"

#include <atomic>
#include <chrono>
#include <csignal>
#include <fstream>
#include <set>
#include <thread>

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define FTLIB_TEST_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
#define FTLIB_TEST_SANITIZED 1
#endif
#endif

namespace server_test {
namespace {
using namespace ft;
using ft::test::Scratch;
using Lm = CausalLM<float, Cpu>;
using Clock = std::chrono::steady_clock;

constexpr std::size_t askers = 4;
constexpr int64_t steps = 6;
const std::vector<std::string> questions{"Who?", "What is it, then?", "Q: what is 3?\nA:", "a",
                                         "Say more of this, and of that."};

Lm open(const Lm::Options& options = {.threads = 1}) {
  return Lm::from_pretrained(std::filesystem::path(FTLIB_TEST_DATA) / "models/llama_q4_1.gguf", options);
}
std::vector<text::Record> some_records() {
  std::vector<text::Record> records;
  for (int i = 0; i < 24; ++i)
    records.push_back({.id = str("r", i), .question = str("what is ", i, "?"), .answers = {str("it is ", i * i)}});
  return records;
}
Lora lora(uint64_t seed) { return {.rank = 4, .alpha = 8, .dropout = 0.1f, .seed = seed}; }
TrainerConfig training(const std::filesystem::path& out = {}) {
  TrainerConfig c;
  c.optimizer = AdamW{.lr = 3e-2f};
  c.batch_tokens = 128;
  c.max_steps = steps;
  c.out_dir = out;
  c.save_every = out.empty() ? 0 : 2;
  return c;
}

/// What a client is told; every other question is answered by chance, from a seed of its own.
std::string answer(Lm& lm, std::size_t question) {
  const Sampling sampling{.temperature = question % 2 ? 1.0f : 0.0f};
  return lm.generate(questions[question], {.max_new_tokens = 12, .sampling = sampling, .seed = question}).rest();
}
using Answers = std::vector<std::string>;  // to all questions
Answers answers(Lm& lm) {
  Answers all;
  for (std::size_t i = 0; i < questions.size(); ++i) all.push_back(answer(lm, i));
  return all;
}
std::vector<float> trained(Lm& lm) {
  std::vector<float> all;
  for (auto* w : lm.parameters())
    if (w->trainable) {
      const auto values = w->value.to_host(lm.context());
      all.insert(all.end(), values.begin(), values.end());
    }
  return all;
}

/// What one thread, alone with a model of its own, comes to: the truth that a server is held to.
struct Truth {
  std::map<std::string, Answers> tenants;   // by adapter; "": the base
  std::vector<std::set<std::string>> live;  // to each question, of all that the training passes through
  Answers last;                             // of its end
  std::vector<float> weights;

  explicit Truth(const std::filesystem::path& folder) {
    Lm lm = open();
    const text::Dataset data(some_records(), lm.prompt());
    tenants[""] = answers(lm);
    for (const std::string tenant : {"north", "south"}) {
      lm.attach(lora(tenant == "north" ? 1 : 2));
      Trainer(lm, training()).fit(data);
      lm.save_adapter(folder / tenant);
      tenants[tenant] = answers(lm);
    }
    lm.attach(lora(3));
    live.resize(questions.size());
    Trainer trainer(lm, training());
    const auto look = [&] {
      last = answers(lm);
      for (std::size_t i = 0; i < last.size(); ++i) live[i].insert(last[i]);
    };
    look();
    trainer.on_step([&](const Step&) {
      look();
      return Flow::go;
    });
    trainer.fit(data);
    weights = trained(lm);
  }
};

/// A disk on which no file has room for more than a few bytes, while it lives. All threads write to it.
class FullDisk {
 public:
  FullDisk() {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    const struct rlimit full { 600, before_.rlim_max };
    ::setrlimit(RLIMIT_FSIZE, &full);
  }
  ~FullDisk() { ::setrlimit(RLIMIT_FSIZE, &before_); }

 private:
  struct rlimit before_ {};
};

struct Memory {
  std::size_t used = 0, resident = 0;  // bytes that malloc has given out; of the process
  static Memory now() {
    const auto m = ::mallinfo2();
    std::size_t pages = 0, resident = 0;
    std::ifstream("/proc/self/statm") >> pages >> resident;
    return {m.uordblks + m.hblkhd, resident * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE))};
  }
};

/// Whether `f` throws an Error with `words` in it; what else it does goes into `fault`.
template <class F> bool fails(std::string& fault, const char* words, F f) {
  try {
    f();
    fault = str("no error where one was to say: ", words);
  } catch (const Error& e) {
    if (std::string(e.what()).find(words) != std::string::npos) return true;
    fault = e.what();
  }
  return false;
}

/// One client's requests until `done`, `least` at least.
struct Asker {
  Lm session;
  std::string fault;
  int64_t replies = 0, left = 0;

  void ask(const Truth& truth, std::size_t first, const std::atomic<bool>& done) {
    static const std::vector<std::string> tenants{"north", "live", "", "south", "live"};
    try {
      for (std::size_t k = first; fault.empty() && (!done || k < first + 10); ++k) {
        const std::size_t question = k % questions.size();
        const std::string& tenant = tenants[(k / questions.size() + first) % tenants.size()];
        if (tenant.empty()) session.use_base();
        else session.use(tenant);
        if (k % 7 == 3) {  // gone after two pieces, with the answer half made
          auto stream = session.generate(questions[question], {.max_new_tokens = 12});
          (void)stream.next();
          (void)stream.next();
          ++left;
          continue;
        }
        const std::string told = answer(session, question);
        const bool right =
            tenant == "live" ? truth.live[question].contains(told) : truth.tenants.at(tenant)[question] == told;
        if (!right)
          fault = str("request ", k, " to '", tenant, "', question ", question, ": another answer than one thread's");
        ++replies;
      }
    } catch (const std::exception& e) {
      fault = e.what();
    }
  }
};

/// A training beside it, with all that goes wrong. What the training comes to is one thread's, to the bit.
std::string train(Lm& session, const Truth& truth, const std::filesystem::path& folder, int round) {
  std::string fault;
  try {
    // A record that cannot be learned is refused before anything is changed.
    auto records = some_records();
    records[5].answers.clear();
    if (!fails(fault, "record 5, 'r5': there is no answer", [&] { text::Dataset(records, session.prompt()); }))
      return fault;
    const text::Dataset data(some_records(), session.prompt());
    session.attach("candidate", lora(3));
    session.adapters().copy(session.context(), "candidate", "live");
    auto config = training(folder / "run");
    std::optional<FullDisk> full;
    const auto fit = [&](int64_t full_at) {
      Trainer trainer(session, config);
      trainer.on_step([&](const Step& s) {
        session.adapters().copy(session.context(), "candidate", "live");
        if (s.step == full_at) full.emplace();
        return Flow::go;
      });
      return trainer.fit(data);
    };
    if (round % 2 == 0) {
      fit(0);
    } else {  // the disk is full when the second checkpoint is due; later there is room, and the first one goes on
      if (!fails(fault, "cannot write", [&] { fit(4); })) return fault;
      if (!fails(fault, "cannot write", [&] { session.save_adapter(folder / "saved"); })) return fault;
      full.reset();
      config.resume = true;
      fit(0);
    }
    if (trained(session) != truth.weights) return "the training came to other weights than one thread's";
    session.save_adapter(folder / "saved");
    session.load_adapter("reloaded", folder / "saved");
    if (answers(session) != truth.last) return "what was saved answers otherwise than what was trained";
    // No memory: an Error for that session, and nothing for the others.
    auto poor = session.session({.threads = 1, .memory_limit = 4096});
    if (!fails(fault, "4096", [&] { answer(poor, 0); })) return fault;
    session.adapters().remove("reloaded");
    session.detach();
  } catch (const std::exception& e) {
    fault = e.what();
  }
  return fault;
}

TEST_CASE(
    "server: sessions ask, one trains, adapters swap, clients leave, records, disk and memory fail: nothing is lost") {
  const char* asked_for = std::getenv("FTLIB_SERVER_SECONDS");
  const auto until = Clock::now() + std::chrono::duration<double>(asked_for ? std::atof(asked_for) : 20);
  ::mallopt(M_ARENA_MAX, 1);  // else threads that come and go spread what they free over many, which looks like a leak
  const auto old = std::signal(SIGXFSZ, SIG_IGN);  // a write beyond the limit is then an error, as on a full disk
  Scratch dir;
  const Truth truth(dir.path());

  Lm lm = open();
  std::vector<Asker> clients;
  for (std::size_t i = 0; i < askers; ++i) clients.push_back({lm.session({.threads = 1}), "", 0, 0});
  Lm trainer = lm.session({.threads = 1});
  trainer.attach("candidate", lora(3));
  trainer.adapters().copy(trainer.context(), "candidate", "live");
#ifdef FTLIB_TEST_SANITIZED
  constexpr int least = 4;  // each is ten times as long
#else
  constexpr int least = 12;
#endif
  int round = 0;
  int64_t replies = 0, left = 0;
  std::vector<Memory> memory;
  for (; round < least || Clock::now() < until; ++round) {
    // Tenants' adapters come again from the disk, while nobody is asked to wait for it.
    std::atomic<bool> done = false;
    std::string fault;
    for (const char* tenant : {"north", "south"}) lm.adapters().put(lm.context(), tenant, read_peft(dir / tenant));
    std::vector<std::thread> threads;
    for (std::size_t i = 0; i < askers; ++i) threads.emplace_back([&, i] { clients[i].ask(truth, i, done); });
    threads.emplace_back([&] {
      for (int i = 0; i < 3; ++i)
        for (const char* tenant : {"north", "south"}) lm.adapters().put(lm.context(), tenant, read_peft(dir / tenant));
    });
    threads.emplace_back([&] {
      fault = train(trainer, truth, dir.path(), round);
      done = true;
    });
    for (auto& thread : threads) thread.join();
    REQUIRE(fault == "");
    for (auto& client : clients) REQUIRE(client.fault == "");
    clients[static_cast<std::size_t>(round) % askers].session = lm.session({.threads = 1});  // another client
    memory.push_back(Memory::now());
  }
  for (const auto& client : clients) {
    replies += client.replies;
    left += client.left;
  }
  std::signal(SIGXFSZ, old);
  for (const auto& [tenant, wanted] : truth.tenants) {  // all is as it was
    if (tenant.empty()) lm.use_base();
    else lm.use(tenant);
    CHECK(answers(lm) == wanted);
  }
  MESSAGE(round << " trainings, " << replies << " answers, " << left << " left in the middle");
#ifndef FTLIB_TEST_SANITIZED  // whose own memory is no measure
  // What a thread keeps of the blocks it has freed, and a context for its next tensors, comes and goes: means are
  // compared.
  const auto mean = [&](std::size_t from, std::size_t to, std::size_t Memory::*what) {
    double sum = 0;
    for (std::size_t i = from; i < to; ++i) sum += static_cast<double>(memory[i].*what);
    return sum / static_cast<double>(to - from);
  };
  const std::size_t n = memory.size();
  const double used = mean(2 * n / 3, n, &Memory::used) / mean(n / 3, 2 * n / 3, &Memory::used) - 1;
  const double resident = mean(2 * n / 3, n, &Memory::resident) / mean(n / 3, 2 * n / 3, &Memory::resident) - 1;
  MESSAGE(
      "the last third of the rounds has "
      << printed("%+.2f %% of malloc's bytes and %+.2f %% of resident memory against the third before it, in the end ",
                 100 * used, 100 * resident)
      << memory.back().used << " and " << memory.back().resident << " bytes");
  const double most = n < 120 ? 0.03 : 0.01;  // a short run has not met all of its sizes in its first third
  CHECK(used < most);
  CHECK(resident < most);
#endif
}

}  // namespace
}  // namespace server_test
