// train/screen/listeners.hpp: a run's figures as JSON lines and for TensorBoard: what listens to a run that has a
// folder.
#pragma once
#include <ftlib/train/metrics_log.hpp>         // MetricsLog
#include <ftlib/train/run.hpp>                 // RunListener
#include <ftlib/train/screen/tensorboard.hpp>  // TensorBoardWriter

#include <optional>  // std::optional

namespace ft::inline FTLIB_ABI {

/// FOLDER/metrics.jsonl, a line a step and a line an evaluation.
class MetricsListener final : public RunListener {
 public:
  explicit MetricsListener(const std::filesystem::path& folder) : path_(folder / "metrics.jsonl") {}
  void begin(int64_t done) override;
  void step(const Step& s) override;
  void evaluation(int64_t step, double loss) override;

 private:
  std::filesystem::path path_;
  std::optional<MetricsLog> log_;
};

/// FOLDER/tensorboard.
class TensorBoardListener final : public RunListener {
 public:
  explicit TensorBoardListener(const std::filesystem::path& folder) : path_(folder / "tensorboard") {}
  void begin(int64_t done) override;
  void step(const Step& s) override;
  void evaluation(int64_t step, double loss) override;
  /// For what a host shows beside; null before begin().
  TensorBoardWriter* writer() { return writer_ ? &*writer_ : nullptr; }

 private:
  std::filesystem::path path_;
  std::optional<TensorBoardWriter> writer_;
};

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/train/screen/listeners.inl.hpp>
#endif
