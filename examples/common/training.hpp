// examples/common/training.hpp: what every training program asks for, shows while it runs and leaves behind.
#pragma once
#include <ftlib/io/atomic_file.hpp>
#include <ftlib/train/plot.hpp>
#include <ftlib/train/trainer.hpp>

#include <CLI/CLI.hpp>

#include <cstdint>      // std::int64_t, std::uint64_t
#include <filesystem>   // std::filesystem::path
#include <iostream>     // std::cout
#include <string>       // std::string
#include <string_view>  // std::string_view
#include <vector>       // std::vector

namespace examples {

inline void write_json(const std::filesystem::path& path, const ft::Json& json) {
  ft::write_atomically(path, json.dump(2, ' ', false, ft::Json::error_handler_t::replace) + "\n");
}

inline ft::Schedule schedule_named(std::string_view name, float warmup) {
  if (name == "linear") return ft::LinearDecay{.warmup = warmup};
  if (name == "constant") return ft::Constant{.warmup = warmup};
  return ft::Cosine{.warmup = warmup};
}

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

/// Leaves loss.svg and training.json (`settings`, and the run's figures) in `out`, and prints the run beside its plan.
inline void write_report(const std::filesystem::path& out, const ft::Plan& plan, const ft::RunReport& report,
                         ft::Json settings) {
  ft::write_atomically(out / "loss.svg", ft::loss_curve_svg(std::vector<ft::PlotSeries>{
                                             {"training", report.train_loss}, {"held out", report.held_out_loss}}));
  settings.update({{"steps", report.steps},
                   {"seconds", report.seconds},
                   {"tokens_per_second", report.tokens_per_second},
                   {"peak_memory_bytes", report.peak_bytes},
                   {"planned_memory_bytes", plan.process_bytes},
                   {"planned_seconds", plan.seconds},
                   {"final_loss", report.train_loss.empty() ? ft::Json() : ft::Json(report.train_loss.back().y)},
                   {"best_held_out_loss", report.best_step == 0 ? ft::Json() : ft::Json(report.best_loss)},
                   {"best_step", report.best_step}});
  write_json(out / "training.json", settings);
  const auto off = [](auto planned, auto used) {
    return ft::detail::printed("%+.0f %%", 100 * (static_cast<double>(planned) / static_cast<double>(used) - 1));
  };
  std::cout << "trained " << report.steps << " steps in " << ft::pretty_duration(report.seconds) << " at "
            << static_cast<std::int64_t>(report.tokens_per_second) << ' ' << plan.unit << "/s"
            << (report.stopped_early ? ", stopped early" : "") << "\nplan against use: memory "
            << ft::pretty_bytes(plan.process_bytes) << " planned, " << ft::pretty_bytes(report.peak_bytes) << " used ("
            << off(plan.process_bytes, report.peak_bytes) << "); time " << ft::pretty_duration(plan.seconds)
            << " planned, " << ft::pretty_duration(report.seconds) << " used (" << off(plan.seconds, report.seconds)
            << ")\n";
}

}  // namespace examples
