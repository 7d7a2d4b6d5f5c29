// train/metrics_log.hpp: a run's figures as JSON lines, one object a step or evaluation, in the order of steps.
#pragma once
#include <ftlib/io/file.hpp>  // system_error
#include <ftlib/io/json.hpp>  // Json, parse_json

#include <filesystem>        // std::filesystem::path, resize_file
#include <fstream>           // std::ofstream
#include <initializer_list>  // std::initializer_list
#include <string>            // std::string, std::getline

namespace ft::inline FTLIB_ABI {

/// A file of JSON lines that is complete up to the last line written, whenever the process is killed:
///
///     auto log = MetricsLog::create(out / "metrics.jsonl");
///     log.write({{"step", 1}, {"loss", 2.31}, {"lr", 1e-4}});       // {"step":1,"loss":2.31,"lr":0.0001}
class MetricsLog {
 public:
  /// An empty file; an older one of that name is overwritten.
  static MetricsLog create(const std::filesystem::path& path) { return MetricsLog(path, std::ios::trunc); }

  /// Goes on with a file after a checkpoint that holds `last_step`: the first line of a later step, or that a killed
  /// run has left half-written, is cut off with all that follows. Lines without a "step" stay. Makes the file where
  /// there is none.
  static MetricsLog resume(const std::filesystem::path& path, int64_t last_step) {
    if (path_exists(path)) {
      const std::uintmax_t keep = bytes_until(path, last_step);
      std::error_code failure;
      std::filesystem::resize_file(path, keep, failure);
      if (failure) throw system_error(path, "cannot shorten", {}, failure.value());
    }
    return MetricsLog(path, std::ios::app);
  }

  /// Adds one line and hands it to the system. Values that are not finite become null, as JSON has none.
  void write(std::initializer_list<std::pair<std::string_view, Json>> record) {
    std::string line;
    for (const auto& [key, value] : record) {
      line += line.empty() ? '{' : ',';
      line += Json(key).dump() + ':' + value.dump(-1, ' ', false, Json::error_handler_t::replace);
    }
    file_ << line << "}\n" << std::flush;
    if (!file_) throw system_error(path_, "cannot write", "is the disk full?");
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  MetricsLog(const std::filesystem::path& path, std::ios::openmode mode)
      : path_(path), file_(path, std::ios::binary | std::ios::out | mode) {
    if (!file_) throw system_error(path_, "cannot open for writing", "the folder must exist and be yours.");
  }

  /// Bytes of whole lines up to the first that is broken or of a step after last_step.
  [[gnu::cold]] static std::uintmax_t bytes_until(const std::filesystem::path& path, int64_t last_step) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw system_error(path, "cannot read");
    std::uintmax_t bytes = 0;
    for (std::string line; std::getline(file, line);) {
      if (file.eof()) break;  // no newline: half-written
      Json record;
      try {
        record = parse_json(line, path.string());
      } catch (const Error&) {
        break;
      }
      if (!record.is_object()) break;
      const auto step = record.find("step");
      if (step != record.end() && step->is_number() && step->get<double>() > static_cast<double>(last_step)) break;
      bytes += line.size() + 1;
    }
    return bytes;
  }

  std::filesystem::path path_;
  std::ofstream file_;
};

}  // namespace ft::inline FTLIB_ABI
