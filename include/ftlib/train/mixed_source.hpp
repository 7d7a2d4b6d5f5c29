// train/mixed_source.hpp: MixedSource, several sources in one run: each batch of the first with a share of the others.
#pragma once
#include <ftlib/train/data_source.hpp>

namespace ft::inline FTLIB_ABI {

/// A source beside the first of a MixedSource.
struct MixedPart {
  const DataSource* source;
  double share = 1;  // its tokens in a step, as a part of the step's batch_tokens
  float weight = 1;  // of its mean loss over targets, beside that of the first source
};

/// The batches of a source, each with further micro-batches of others behind its own. An epoch is the first's; the
/// others are read over and over, each time in another order. The loss of a batch is the first's mean over its targets
/// plus weight times the mean of each other. The sources must outlive it.
class MixedSource final : public DataSource {
 public:
  /// Throws Error for a share that is not above 0, a weight below 0, and a part that is a stream or holds nothing.
  MixedSource(const DataSource& first, std::vector<MixedPart> others);

  std::unique_ptr<BatchReader> epoch(int64_t epoch, const BatchOptions& options) const override;
  std::optional<EpochSize> size(int64_t epoch, const BatchOptions& options) const override;
  Hash content() const override;
  DataLimits limits() const override;
  const char* unit() const override { return first_.unit(); }

 private:
  static BatchOptions share_of(const MixedPart& part, const BatchOptions& options);

  const DataSource& first_;
  std::vector<MixedPart> others_;
};

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/train/mixed_source.inl.hpp>
#endif
