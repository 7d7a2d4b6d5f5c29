// train/mixed_source.inl.hpp: what train/mixed_source.hpp declares.
#pragma once
#include <ftlib/train/mixed_source.hpp>

#include <algorithm>  // std::max, std::min
#include <cmath>      // std::llround
#include <limits>     // std::numeric_limits

namespace ft::inline FTLIB_ABI {

FTLIB_INLINE MixedSource::MixedSource(const DataSource& first, std::vector<MixedPart> others)
    : first_(first), others_(std::move(others)) {
  for (std::size_t i = 0; i < others_.size(); ++i) {
    const MixedPart& part = others_[i];
    if (!(part.share > 0) || !(part.weight >= 0))
      throw Error(str("mixed source: part ", i + 1, " has a share of ", part.share, " and a weight of ", part.weight),
                  "a share is above 0, a weight 0 or more.");
    const auto size = part.source->size(0, {});
    if (!size || size->batches == 0)
      throw Error(str("mixed source: part ", i + 1, size ? " holds nothing" : " is a stream"),
                  "the first source may be a stream, those beside it are read again and again.");
  }
}

FTLIB_INLINE BatchOptions MixedSource::share_of(const MixedPart& part, const BatchOptions& options) {
  BatchOptions own = options;
  own.batch_tokens = std::max<int64_t>(1, std::llround(part.share * static_cast<double>(options.batch_tokens)));
  own.micro_batch_tokens = std::min(own.micro_batch_tokens, own.batch_tokens);
  return own;
}

FTLIB_INLINE std::unique_ptr<BatchReader> MixedSource::epoch(int64_t epoch, const BatchOptions& options) const {
  struct Reader final : BatchReader {
    struct Part {
      EpochWalk walk;
      float weight;
    };
    std::unique_ptr<BatchReader> first;
    std::vector<Part> others;

    std::optional<Batch> next() override {
      auto batch = first->next();
      if (!batch) return batch;
      for (Part& part : others) {
        auto more = part.walk.next();
        while (!more) {
          part.walk.next_epoch();
          more = part.walk.next();
        }
        if (batch->weights.empty()) batch->weights.assign(batch->micro.size(), 1);
        const double of_sum = part.weight * static_cast<double>(batch->targets) / static_cast<double>(more->targets);
        for (std::size_t i = 0; i < more->micro.size(); ++i) {
          batch->micro.push_back(std::move(more->micro[i]));
          batch->weights.push_back(static_cast<float>(of_sum) * (more->weights.empty() ? 1 : more->weights[i]));
        }
        batch->tokens += more->tokens;
        batch->names.insert(batch->names.end(), more->names.begin(), more->names.end());
      }
      return batch;
    }
  };
  auto reader = std::make_unique<Reader>();
  reader->first = first_.epoch(epoch, options);
  for (const MixedPart& part : others_) {
    // A part goes on in each epoch where a run that never stopped would be: an order of its own for each.
    BatchOptions own = share_of(part, options);
    own.seed = options.seed + (static_cast<uint64_t>(epoch) << 20);
    reader->others.push_back({EpochWalk(*part.source, own, std::numeric_limits<int32_t>::max(), 1), part.weight});
  }
  return reader;
}

FTLIB_INLINE std::optional<EpochSize> MixedSource::size(int64_t epoch, const BatchOptions& options) const {
  auto size = first_.size(epoch, options);
  if (!size) return size;
  for (const MixedPart& part : others_) {  // batches of a source are of about one size
    const auto own = part.source->size(0, share_of(part, options));
    size->tokens += size->batches * own->tokens / own->batches;
    size->largest = std::max(size->largest, own->largest);
  }
  return size;
}

FTLIB_INLINE Hash MixedSource::content() const {
  Hash hash = first_.content();
  for (const MixedPart& part : others_) {
    hash.add(part.source->content().value());
    hash.add(part.share);
    hash.add(part.weight);
  }
  return hash;
}

FTLIB_INLINE DataLimits MixedSource::limits() const {
  DataLimits all = first_.limits();
  for (const MixedPart& part : others_) {
    const DataLimits own = part.source->limits();
    if (own.last_token < own.first_token) continue;
    if (all.last_token < all.first_token) all = own;
    if (own.first_token < 0 || own.last_token > all.last_token) all.where = own.where;
    all.first_token = std::min(all.first_token, own.first_token);
    all.last_token = std::max(all.last_token, own.last_token);
  }
  return all;
}

}  // namespace ft::inline FTLIB_ABI
