// image/flow_data.hpp: pictures with their captions' hidden states, as ft::Trainer takes its data.
#pragma once
#include <ftlib/image/flow.hpp>         // FlowBatch
#include <ftlib/train/data_source.hpp>  // IndexedSource

#include <memory>    // std::shared_ptr
#include <optional>  // std::optional
#include <string>    // std::string
#include <vector>    // std::vector

namespace ft::inline FTLIB_ABI {

struct FlowExample {
  std::string id = {};                                     // for messages
  std::vector<float> picture = {};                         // (ch, S, S)  in [-1, 1]
  std::shared_ptr<const std::vector<float>> caption = {};  // (rows, text_width)  shared by pictures of one caption
};

/// The unit of batch sizes is a picture: TrainerConfig{.batch_tokens = 16} takes 16 at a time.
class FlowData final : public IndexedSource {
 public:
  /// With `fixed`, a seed, every picture has one time and one noise for good, and keeps its caption: for validation,
  /// where losses of different steps are to be compared. Throws Error where there is no example or a size differs.
  FlowData(std::vector<FlowExample> examples, const DenoiserInfo& model, std::optional<uint64_t> fixed = {},
           const FlowOptions& options = {});

  std::size_t size() const { return examples_.size(); }
  using IndexedSource::size;
  const std::vector<FlowExample>& examples() const { return examples_; }

  /// The batches of an epoch, as places in examples(), shuffled by (seed, epoch); the last one may be smaller.
  std::vector<std::vector<std::size_t>> plan(int64_t batch_pictures, uint64_t seed, int64_t epoch) const override;
  /// Micro-batches are FlowBatches.
  Batch batch(const std::vector<std::size_t>& items, int64_t micro_pictures) const override;
  int64_t tokens_of(std::size_t) const override { return 1; }
  const char* unit() const override { return "pictures"; }
  /// Of pictures, captions, and what is fixed of them.
  Hash content() const override;

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
