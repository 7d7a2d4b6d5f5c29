// image/flow_data.hpp: pictures with their captions' hidden states, as ft::Trainer takes its data.
#pragma once
#include <ftlib/image/flow.hpp>  // FlowBatch

#include <memory>    // std::shared_ptr
#include <optional>  // std::optional
#include <string>    // std::string
#include <vector>    // std::vector

namespace ft::inline FTLIB_ABI {

struct FlowExample {
  std::string id;                                     // for messages
  std::vector<float> picture;                         // (ch, S, S)  in [-1, 1]
  std::shared_ptr<const std::vector<float>> caption;  // (rows, txt_input_size)  shared by pictures of one caption
};

/// What a step learns from: losses of micro-batches are summed and divided by the number of pictures.
struct FlowBatches {
  std::vector<FlowBatch> micro;
  int64_t targets = 0, tokens = 0;  // pictures
  std::vector<std::string> names;
};

/// The unit of batch sizes is a picture: TrainerConfig{.batch_tokens = 16} takes 16 at a time.
class FlowData {
 public:
  static constexpr const char* unit = "pictures";

  /// With `fixed`, a seed, every picture has one time and one noise for good, and keeps its caption: for validation,
  /// where losses of different steps are to be compared. Throws Error where there is no example or a size differs.
  FlowData(std::vector<FlowExample> examples, const MMJiTConfig& config, std::optional<uint64_t> fixed = {},
           const FlowOptions& options = {});

  std::size_t size() const { return examples_.size(); }
  const std::vector<FlowExample>& examples() const { return examples_; }

  /// The batches of an epoch, as places in examples(), shuffled by (seed, epoch); the last one may be smaller.
  std::vector<std::vector<std::size_t>> plan(int64_t batch_pictures, uint64_t seed, int64_t epoch) const;

  /// The examples at `items`, in micro-batches of at most `micro_pictures`, at least one.
  FlowBatches batch(const std::vector<std::size_t>& items, int64_t micro_pictures) const;

 private:
  std::vector<FlowExample> examples_;
  int64_t width_;
  std::optional<uint64_t> fixed_;
  FlowOptions options_;
};

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/image/flow_data.inl.hpp>
#endif
