// image/flow_data.hpp: pictures with their captions' hidden states, as ft::Trainer takes its data.
#pragma once
#include <ftlib/image/flow.hpp>  // FlowBatch

#include <memory>    // std::shared_ptr
#include <numeric>   // std::iota
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
           const FlowOptions& options = {})
      : examples_(std::move(examples)), width_(config.txt_input_size), fixed_(fixed), options_(options) {
    if (examples_.empty()) throw Error("flow data: there is no picture");
    for (const FlowExample& e : examples_)
      if (static_cast<int64_t>(e.picture.size()) != config.picture_values() || !e.caption ||
          static_cast<int64_t>(e.caption->size()) % width_)
        throw Error(str("flow data: '", e.id, "' has ", e.picture.size(), " values and a caption of ",
                        e.caption ? e.caption->size() : 0, "; the model asks for ", config.in_channels, " x ",
                        config.image_size, " x ", config.image_size, " and rows of ", width_),
                    "prepare the pictures for this model's size, and the captions by its text encoder.");
  }

  std::size_t size() const { return examples_.size(); }
  const std::vector<FlowExample>& examples() const { return examples_; }

  /// The batches of an epoch, as places in examples(), shuffled by (seed, epoch); the last one may be smaller.
  std::vector<std::vector<std::size_t>> plan(int64_t batch_pictures, uint64_t seed, int64_t epoch) const {
    std::vector<std::size_t> order(size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    Random(seed, static_cast<uint64_t>(epoch) << 40).shuffle(order);
    std::vector<std::vector<std::size_t>> batches;
    for (std::size_t i = 0; i < order.size(); ++i) {
      if (i % static_cast<std::size_t>(batch_pictures) == 0) batches.emplace_back();
      batches.back().push_back(order[i]);
    }
    return batches;
  }

  /// The examples at `items`, in micro-batches of at most `micro_pictures`, at least one.
  FlowBatches batch(const std::vector<std::size_t>& items, int64_t micro_pictures) const {
    FlowBatches batch;
    for (const std::size_t item : items) {
      const FlowExample& e = examples_[item];
      if (batch.micro.empty() || batch.micro.back().tokens() >= micro_pictures) batch.micro.emplace_back();
      FlowBatch& micro = batch.micro.back();
      micro.pictures.insert(micro.pictures.end(), e.picture.begin(), e.picture.end());
      micro.text.add(*e.caption, width_);
      if (fixed_) {
        Random random(*fixed_, uint64_t{item} << 32);
        micro.times.push_back(draw_time(random, options_));
        micro.noise.resize(micro.pictures.size());
        draw_noise(random, std::span(micro.noise).last(e.picture.size()));
      }
      batch.names.push_back(e.id);
    }
    batch.targets = batch.tokens = static_cast<int64_t>(items.size());
    return batch;
  }

 private:
  std::vector<FlowExample> examples_;
  int64_t width_;
  std::optional<uint64_t> fixed_;
  FlowOptions options_;
};

}  // namespace ft::inline FTLIB_ABI
