// examples/common/training.hpp: what every training program asks for, shows while it runs and leaves behind.
#pragma once
#include "rows.hpp"

#include <ftlib/adapters/lora.hpp>
#include <ftlib/distributed/node.hpp>
#include <ftlib/io/atomic_file.hpp>
#include <ftlib/io/json.hpp>
#include <ftlib/train/screen/plot.hpp>
#include <ftlib/train/screen/progress.hpp>
#include <ftlib/train/trainer.hpp>

#include <unistd.h>  // ::getpid
#include <CLI/CLI.hpp>

#include <sys/resource.h>  // getrusage
#include <chrono>          // std::chrono::steady_clock
#include <cmath>           // std::isfinite
#include <cstdint>         // std::int64_t, std::uint64_t
#include <cstdlib>         // std::getenv
#include <filesystem>      // std::filesystem::path
#include <iostream>        // std::cout
#include <map>             // std::map
#include <string>          // std::string
#include <string_view>     // std::string_view
#include <vector>          // std::vector

namespace examples {

inline void write_json(const std::filesystem::path& path, const ft::Json& json) {
  ft::write_atomically(path, json.dump(2, ' ', false, ft::Json::error_handler_t::replace) + "\n");
}

/// Hands `path` to `write`, which writes a result that took long to come by. Where that fails, says so, writes it to
/// the first folder for which it succeeds (the system's for temporary files, the user's, the current one), says where,
/// and throws what failed.
template <class Write> void write_or_save_elsewhere(const std::filesystem::path& path, Write write) {
  try {
    return write(path);
  } catch (const ft::Error& error) {
    const auto name = ft::str(path.filename().string(), '-', ::getpid());
    std::error_code ignored;
    const char* home = std::getenv("HOME");
    for (const auto& folder : {std::filesystem::temp_directory_path(ignored), std::filesystem::path(home ? home : ""),
                               std::filesystem::current_path(ignored)}) {
      if (folder.empty()) continue;
      try {
        write(folder / name);
      } catch (const ft::Error&) {
        continue;
      }
      throw ft::Error(ft::str(error.message(), "; it was written to ", (folder / name).string(), " instead"),
                      "copy it from there, once there is room.", error.kind());
    }
    throw;
  }
}

/// A number that is none, or has no end, passes CLI's own checks.
inline const CLI::Validator finite(
    [](std::string& text) {
      double value = 0;
      return CLI::detail::lexical_cast(text, value) && !std::isfinite(value) ? "is no finite number" : std::string();
    },
    "");
/// What is given and empty is a shell's variable that was not set, mostly.
inline const CLI::Validator not_empty([](std::string& text) { return text.empty() ? "is empty" : std::string(); }, "");

/// The ranks that mpirun or srun has started, which share a training; null: there are none.
inline ft::Communicator* ranks = nullptr;
/// What this rank has of its machine, which main() asks for once there are ranks.
inline ft::NodeShare node;
/// CPU threads of a model, where `asked` are: 0 means this rank's share of the cores.
inline int threads(int asked) { return asked == 0 && ranks && ranks->size() > 1 ? node.cores : asked; }
inline bool first_rank() { return !ranks || ranks->rank() == 0; }

/// While it lives, nothing is printed: what other ranks say is what the first one says.
class Muted {
 public:
  explicit Muted(bool muted) {
    if (muted)
      for (std::ostream* out : {&std::cout, &std::cerr}) buffers_.emplace_back(out, out->rdbuf(&nothing_));
  }
  ~Muted() {
    for (const auto& [out, buffer] : buffers_) out->rdbuf(buffer);
  }
  Muted(const Muted&) = delete;
  Muted& operator=(const Muted&) = delete;

 private:
  struct Nothing final : std::streambuf {
    int overflow(int c) override { return traits_type::not_eof(c); }
  } nothing_;
  std::vector<std::pair<std::ostream*, std::streambuf*>> buffers_;
};

/// An option of what ranks may do.
inline void add_rank_timeout(CLI::App& c, double& seconds) {
  c.add_option("--rank-timeout", seconds,
               "of ranks that mpirun or srun has started: seconds that one waits for another, until the run fails")
      ->check(finite)
      ->check(CLI::Range(0.001, 1e9))
      ->capture_default_str();
}
/// Says which ranks there are, if there are several, and how long they wait for one another.
template <class Context> void begin_ranks(Context& ctx, double timeout) {
  if (!ranks) return;
  ranks->set_timeout(std::chrono::milliseconds(static_cast<std::int64_t>(1000 * timeout)));
  if (ranks->size() == 1) return;
  std::string threads;
  if constexpr (requires { ctx.threads(); }) threads = ft::str(", threads: ", ctx.threads());
  std::cout << "ranks: " << ranks->size() << '\n';
  for (const std::string& name : ranks->gather(ranks->name() + threads)) std::cout << "  " << name << '\n';
}
/// What a micro-batch is to have, so that each rank has one; says so. `option` is where it is asked for.
inline std::int64_t micro_batch_of_ranks(std::int64_t batch, std::int64_t micro_batch, bool exact, const char* unit,
                                         const char* option) {
  if (!ranks || ranks->size() == 1) return micro_batch;
  const std::int64_t micro = micro_batch > 0 ? micro_batch : std::max<std::int64_t>(1, batch / ranks->size());
  std::cout << "  micro-batches of " << micro << ' ' << unit << " are shared out; ";
  if (exact)
    std::cout << "any number of ranks, a power of two and 1 among them, with " << option << ' ' << micro
              << " gives the same bits\n";
  else std::cout << "sums go by rank, so another number of ranks gives other bits\n";
  return micro;
}
/// f() on the first rank, then on the others, which find what that one has left in a cache.
template <class F> auto first_rank_first(F f) {
  if (ranks && !first_rank()) ranks->gather("");
  auto result = f();
  if (ranks && first_rank()) ranks->gather("");
  return result;
}

/// Options of a run that every training program has.
struct RunOptions {
  std::string schedule = "cosine";
  float warmup = 0.03f, clip_norm = 1;
  std::int64_t evaluate_every = 0, patience = 0, save_every = 0;
  std::uint64_t seed = 42;
  bool resume = false, no_exact = false;
  double rank_timeout = 600;

  void add_to(CLI::App& c) {
    c.add_option("--schedule", schedule, "of the learning rate")
        ->check(CLI::IsMember({"cosine", "linear", "constant"}))
        ->capture_default_str();
    c.add_option("--warmup", warmup, "share of the steps (or, from 1, their number)")
        ->check(finite)
        ->check(CLI::NonNegativeNumber)
        ->capture_default_str();
    c.add_option("--clip-norm", clip_norm, "of all gradients; 0: no clipping")
        ->check(finite)
        ->check(CLI::NonNegativeNumber)
        ->capture_default_str();
    c.add_option("--evaluate-every", evaluate_every, "steps between two looks at held-out data; 0: each epoch")
        ->check(CLI::NonNegativeNumber)
        ->capture_default_str();
    c.add_option("--patience", patience, "stop after so many of them without a better one, keep the best; 0: never")
        ->check(CLI::NonNegativeNumber)
        ->capture_default_str();
    c.add_option("--save-every", save_every, "steps between checkpoints; 0: only when stopped by SIGINT or SIGTERM")
        ->check(CLI::NonNegativeNumber)
        ->capture_default_str();
    c.add_flag("--resume", resume, "go on from RUN's checkpoint, where there is one (default: start afresh)");
    add_rank_timeout(c, rank_timeout);
    c.add_flag("--no-exact", no_exact,
               "of ranks: their number may be any, and decides bits; takes less memory (default: it is a power of two, "
               "and any gives the same bits)");
    c.add_option("--seed", seed, "of all that is drawn: the data's order, where training starts, dropout or noise")
        ->capture_default_str();
  }

  /// A run that writes to `out`; the rest is the program's to set.
  ft::TrainerConfig config(const std::filesystem::path& out) const {
    ft::TrainerConfig c;
    c.schedule = schedule == "linear"     ? ft::Schedule(ft::LinearDecay{.warmup = warmup})
                 : schedule == "constant" ? ft::Schedule(ft::Constant{.warmup = warmup})
                                          : ft::Schedule(ft::Cosine{.warmup = warmup});
    c.clip_norm = clip_norm;
    c.seed = seed;
    c.evaluate_every = evaluate_every;
    c.patience = patience;
    c.out_dir = out;
    c.save_every = save_every;
    c.resume = resume;
    c.signals = true;  // Ctrl-C saves
    c.world = ranks;
    c.exact = !no_exact;
    return c;
  }
};

/// What learns: an adapter, or all of the model.
struct LoraOptions {
  bool full = false;
  int rank = 16;
  float alpha = 0, dropout = 0, alpha_per_rank = 1;
  std::string targets = "all";
  std::map<std::string, ft::Targets> named = {{"all", ft::all_linear}};  // words for many layers

  void add_to(CLI::App& c) {
    std::string words;
    for (const auto& [word, layers] : named) words += (words.empty() ? "" : ", ") + word;
    auto* all = c.add_flag("--full", full, "train all weights (default: LoRA)");
    c.add_option("--lora-rank", rank, "LoRA's rank")->check(CLI::Range(1, 1024))->excludes(all)->capture_default_str();
    c.add_option("--lora-alpha", alpha, ft::str("LoRA's alpha; 0: ", alpha_per_rank, " times the rank"))
        ->check(finite)
        ->capture_default_str();
    c.add_option("--lora-dropout", dropout, "dropout of the adapter's input")
        ->check(finite)
        ->check(CLI::Range(0.0, 0.99))
        ->capture_default_str();
    c.add_option("--targets", targets, "layers to adapt: " + words + ", or names: q_proj,v_proj")
        ->capture_default_str();
  }
  /// Makes `model` ready for it.
  template <class Model> void apply(Model& model, std::uint64_t seed) const {
    if (full) return model.train_all();
    ft::Lora lora{.rank = rank,
                  .alpha = alpha > 0 ? alpha : alpha_per_rank * static_cast<float>(rank),
                  .dropout = dropout,
                  .seed = seed};
    const auto layers = named.find(trimmed(targets));
    auto names = CLI::detail::split(targets, ',');
    for (auto& name : names) name = trimmed(name);
    lora.targets = layers != named.end() ? layers->second : ft::Targets(std::move(names));
    model.attach(lora);
  }
};

/// A step's figures on the live line.
inline void show(ft::Progress& progress, const ft::Step& s, const char* unit = "tokens") {
  progress.update({.step = s.step,
                   .steps = s.steps,
                   .loss = s.loss,
                   .lr = s.lr,
                   .tokens_per_second = s.tokens_per_second,
                   .memory = s.memory,
                   .unit = unit});
  if (s.skipped) progress.message(ft::str("step ", s.step, ": loss or gradient not finite, skipped"));
}

/// How much of the machine this process has had since this was made.
class ShareOfMachine {
 public:
  /// Says so in a line, where other programs had much of what the context's threads would have used.
  template <class Context> void tell(std::ostream& out, Context& ctx) const {
    if constexpr (requires { ctx.threads(); }) tell_threads(out, ctx.threads());
  }

 private:
  void tell_threads(std::ostream& out, int threads) const {
    const rusage now = use();
    const double wall = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    const double cores = (cpu_seconds(now) - cpu_seconds(before_)) / wall;
    // Interrupted by others, not waiting for itself: tens of switches a second that it did not ask for.
    const double switches = static_cast<double>(now.ru_nivcsw - before_.ru_nivcsw) / wall;
    if (wall > 5 && threads > 0 && cores < 0.8 * threads && switches > 10)
      out << "the machine was busy with other programs: this one had " << ft::printed("%.1f", cores) << " of its "
          << threads << " cores, so times are longer than they would be\n";
  }
  static rusage use() {
    rusage r{};
    getrusage(RUSAGE_SELF, &r);
    return r;
  }
  static double cpu_seconds(const rusage& r) {
    return static_cast<double>(r.ru_utime.tv_sec + r.ru_stime.tv_sec) +
           1e-6 * static_cast<double>(r.ru_utime.tv_usec + r.ru_stime.tv_usec);
  }

  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  rusage before_ = use();
};

/// fit(), which trains `model` and counts its `steps`, with the end of its live line and a word on a busy machine.
/// Where it fails in the middle (a full disk, numbers that are none any more), what was learned until then is handed to
/// `write` for the path `kept`, and the Error says so.
template <class Model, class Fit, class Write>
ft::RunReport fit_or_keep(Model& model, ft::Progress& progress, const std::int64_t& steps,
                          const std::filesystem::path& kept, Fit fit, Write write) {
  const ShareOfMachine share;
  try {
    auto report = fit();
    progress.finish();
    share.tell(std::cerr, model.context());
    return report;
  } catch (const ft::Error& error) {
    progress.finish();
    if (steps == 0 || !first_rank()) throw;
    std::string where = "is in " + kept.string();
    try {
      write_or_save_elsewhere(kept, write);
    } catch (const ft::Error& other) {
      where = "cannot be where it was to be: " + other.message();
    }
    throw ft::Error(ft::str(error.message(), "; what was learned in ", steps, " steps ", where), error.hint(),
                    error.kind());
  }
}

/// Says how a run ended. Where it came to its end, leaves loss.svg and training.json (`settings`, and the run's
/// figures) in `out`, prints the run beside its plan, and returns true.
inline bool report_run(const std::filesystem::path& out, const ft::Plan& plan, const ft::RunReport& report,
                       ft::Json settings) {
  if (!report.finished) {
    for (const auto& warning : report.warnings) std::cout << "warning: " << warning << '\n';
    std::cout << "stopped after step " << report.steps << "; the same command with --resume goes on\n";
    return false;
  }
  ft::write_atomically(out / "loss.svg", ft::loss_curve_svg(std::vector<ft::PlotSeries>{
                                             {"training", report.train_loss}, {"held out", report.held_out_loss}}));
  settings.update({{"steps", report.steps},
                   {"seconds", report.seconds},
                   {"tokens_per_second", report.tokens_per_second},
                   {"peak_memory_bytes", report.peak_bytes},
                   {"planned_memory_bytes", plan.peak_bytes},
                   {"planned_seconds", plan.seconds},
                   {"final_loss", report.train_loss.empty() ? ft::Json() : ft::Json(report.train_loss.back().y)},
                   {"best_held_out_loss", report.best_step == 0 ? ft::Json() : ft::Json(report.best_loss)},
                   {"best_step", report.best_step}});
  write_json(out / "training.json", settings);
  const auto beside = [](auto planned, auto used) {
    return ft::printed("%.2g times the plan", static_cast<double>(used) / static_cast<double>(planned));
  };
  for (const auto& warning : report.warnings) std::cout << "warning: " << warning << '\n';
  std::cout << "trained " << report.steps << " steps in " << ft::pretty_duration(report.seconds) << " at "
            << static_cast<std::int64_t>(report.tokens_per_second) << ' ' << plan.unit << "/s"
            << (report.stopped_early ? ", stopped early" : "") << "\nused: memory "
            << ft::pretty_bytes(report.peak_bytes) << ", " << beside(plan.peak_bytes, report.peak_bytes) << " ("
            << ft::pretty_bytes(plan.peak_bytes) << "); time " << ft::pretty_duration(report.seconds) << ", "
            << beside(plan.seconds, report.seconds) << " (" << ft::pretty_duration(plan.seconds) << ")\n";
  return true;
}

}  // namespace examples
