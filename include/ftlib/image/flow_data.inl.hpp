// image/flow_data.inl.hpp: the bodies of image/flow_data.hpp.
#pragma once
#include <ftlib/image/flow_data.hpp>
#include <ftlib/image/picture.inl.hpp>  // size_of_values

#include <map>      // std::map
#include <numeric>  // std::iota
#include <utility>  // std::exchange

namespace ft::inline FTLIB_ABI {

namespace detail {
/// Throws Error, naming the picture, where it has another size than the model learns.
FTLIB_INLINE void check_picture_size(const std::string& id, std::size_t values, const DenoiserInfo& model) {
  if (static_cast<int64_t>(values) == model.values()) return;
  throw Error(str("picture '", id, "' is ", size_of_values(values, model.channels), ", the model learns pictures of ",
                  model.channels, " x ", model.side, " x ", model.side),
              str("prepare pictures of that size: ft::from_rgba(..., ", model.side, ")."));
}
}  // namespace detail

FTLIB_INLINE FlowData::FlowData(std::vector<FlowExample> examples, const DenoiserInfo& model,
                                std::optional<uint64_t> fixed, const FlowOptions& options)
    : examples_(std::move(examples)), width_(model.text_width), fixed_(fixed), options_(options) {
  if (examples_.empty()) throw Error("flow data: there is no picture");
  for (const FlowExample& e : examples_) {
    detail::check_picture_size(e.id, e.picture.size(), model);
    if (!e.caption || static_cast<int64_t>(e.caption->size()) % width_)
      throw Error(str("flow data: '", e.id, "' has a caption of ", e.caption ? e.caption->size() : 0,
                      " values; the model asks for rows of ", width_),
                  "captions are read by the model's own text encoder: Painter::examples does it.");
  }
}

FTLIB_INLINE std::vector<std::vector<std::size_t>> FlowData::plan(int64_t batch_pictures, uint64_t seed,
                                                                  int64_t epoch) const {
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

FTLIB_INLINE Batch FlowData::batch(const std::vector<std::size_t>& items, int64_t micro_pictures) const {
  Batch batch;
  FlowBatch micro;
  const auto put = [&] {
    const int64_t pictures = micro.tokens();
    if (pictures > 0) batch.add(std::exchange(micro, {}), pictures);
  };
  for (const std::size_t item : items) {
    const FlowExample& e = examples_[item];
    if (micro.tokens() >= micro_pictures) put();
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
  put();
  return batch;
}

FTLIB_INLINE Hash FlowData::content() const {
  Hash hash;
  std::map<const void*, uint64_t> captions;  // pictures share them
  for (const FlowExample& e : examples_) {
    hash.add(e.picture);
    const auto [found, fresh] = captions.emplace(e.caption.get(), 0);
    if (fresh) {
      Hash of_caption;
      of_caption.add(*e.caption);
      found->second = of_caption.value();
    }
    hash.add(found->second);
  }
  hash.add(fixed_.has_value());
  if (fixed_) {
    hash.add(*fixed_);
    hash.add(options_.time_mu);
    hash.add(options_.time_sigma);
  }
  return hash;
}

}  // namespace ft::inline FTLIB_ABI
