// train/data_source.inl.hpp: what train/data_source.hpp declares.
#pragma once
#include <ftlib/train/data_source.hpp>

namespace ft::inline FTLIB_ABI {

FTLIB_INLINE void detail::wrong_micro_batch(const char* got, const char* wanted) {
  throw Error(str("micro-batch: holds ", got, ", what learns from it asks for ", wanted),
              "the data source and the model must agree.");
}

FTLIB_INLINE std::unique_ptr<BatchReader> IndexedSource::epoch(int64_t epoch, const BatchOptions& options) const {
  struct Reader final : BatchReader {
    const IndexedSource& source;
    std::vector<std::vector<std::size_t>> batches;
    int64_t micro_tokens;
    std::size_t at = 0;

    Reader(const IndexedSource& source_, std::vector<std::vector<std::size_t>> batches_, int64_t micro_tokens_)
        : source(source_), batches(std::move(batches_)), micro_tokens(micro_tokens_) {}
    std::optional<Batch> next() override {
      if (at >= batches.size()) return std::nullopt;
      return source.batch(batches[at++], micro_tokens);
    }
    void skip(int64_t count) override { at += static_cast<std::size_t>(count); }
  };
  return std::make_unique<Reader>(*this, plan(options.batch_tokens, options.seed, epoch), options.micro_batch_tokens);
}

FTLIB_INLINE std::optional<EpochSize> IndexedSource::size(int64_t epoch, const BatchOptions& options) const {
  EpochSize size;
  for (const auto& items : plan(options.batch_tokens, options.seed, epoch)) {
    int64_t micro = 0;
    for (const std::size_t item : items) {
      const int64_t n = tokens_of(item);
      size.tokens += n;
      micro = micro > 0 && micro + n > options.micro_batch_tokens ? n : micro + n;
      if (micro > size.largest) {
        size.largest = micro;
        size.largest_batch = size.batches;
      }
    }
    ++size.batches;
  }
  return size;
}

FTLIB_INLINE std::unique_ptr<BatchReader> StreamSource::epoch(int64_t, const BatchOptions&) const {
  struct Reader final : BatchReader {
    Next next_;
    explicit Reader(Next next) : next_(std::move(next)) {}
    std::optional<Batch> next() override { return next_(); }
  };
  return std::make_unique<Reader>(open_());
}

FTLIB_INLINE EpochWalk::EpochWalk(const DataSource& source, const BatchOptions& options, int64_t epochs,
                                  int64_t max_steps)
    : source_(source), options_(options), epochs_(epochs) {
  for (int64_t epoch = 0; epoch < epochs && (max_steps == 0 || steps_ < max_steps); ++epoch) {
    const auto size = source.size(epoch, options);
    known_ = size.has_value();
    if (!known_) break;
    if (size->batches == 0)
      throw Error("trainer: the data set is empty", "a default-constructed Dataset holds nothing.");
    if (size->largest > largest_.largest) {
      largest_ = *size;
      largest_epoch_ = epoch;
    }
    sizes_.push_back(size->batches);
    // Of an epoch that max_steps cuts short, its share: batches are of about one size.
    const int64_t left = max_steps > 0 ? std::min(max_steps - steps_, size->batches) : size->batches;
    steps_ += left;
    tokens_ += left == size->batches
                   ? size->tokens
                   : static_cast<int64_t>(static_cast<double>(size->tokens) * static_cast<double>(left) /
                                          static_cast<double>(size->batches));
  }
  if (!known_) {
    steps_ = max_steps;
    tokens_ = max_steps * options.batch_tokens;
  }
}

FTLIB_INLINE void EpochWalk::seek(int64_t epoch, int64_t batch) {
  epoch_ = epoch;
  batch_ = batch;
  reader_.reset();
}

FTLIB_INLINE std::optional<Batch> EpochWalk::next() {
  if (!reader_) {
    reader_ = source_.epoch(epoch_, options_);
    if (batch_ > 0) reader_->skip(batch_);
  }
  auto batch = reader_->next();
  if (batch) ++batch_;
  return batch;
}

FTLIB_INLINE bool EpochWalk::at_epoch_end() const {
  return known_ && static_cast<std::size_t>(epoch_) < sizes_.size() &&
         batch_ == sizes_[static_cast<std::size_t>(epoch_)];
}

FTLIB_INLINE bool EpochWalk::next_epoch() {
  if (epoch_ + 1 >= epochs_) return false;
  seek(epoch_ + 1, 0);
  return true;
}

}  // namespace ft::inline FTLIB_ABI
