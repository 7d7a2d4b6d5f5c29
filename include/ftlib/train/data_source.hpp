// train/data_source.hpp: what a trainer reads: micro-batches of any kind, batches of them, and sources of batches, of
// known length or not.
#pragma once
#include <ftlib/core/description.hpp>  // Hash
#include <ftlib/core/random.hpp>       // Random

#include <functional>  // std::function
#include <memory>      // std::shared_ptr
#include <optional>    // std::optional
#include <string>      // std::string
#include <vector>      // std::vector

namespace ft::inline FTLIB_ABI {

/// What one forward pass reads. Its type is between the source and the Trainable; the trainer passes it on.
class MicroBatch {
 public:
  virtual ~MicroBatch() = default;
  virtual int64_t tokens() const = 0;    // or what else the source counts
  virtual const char* kind() const = 0;  // of what it holds: a name that no other type has
  virtual const void* data() const = 0;  // what it holds
};

namespace detail {
template <class M> class MicroOf final : public MicroBatch {
 public:
  explicit MicroOf(M micro) : micro_(std::move(micro)) {}
  int64_t tokens() const override { return micro_.tokens(); }
  const char* kind() const override { return M::kind; }
  const void* data() const override { return &micro_; }

 private:
  M micro_;
};
[[noreturn]] void wrong_micro_batch(const char* got, const char* wanted);
}  // namespace detail

/// The M that a micro-batch holds; Error, with both names, where it holds something else.
template <class M> const M& micro_cast(const MicroBatch& micro) {
  if (std::string_view(micro.kind()) != M::kind) detail::wrong_micro_batch(micro.kind(), M::kind);
  return *static_cast<const M*>(micro.data());
}

/// What a step learns from: micro-batches whose losses, each times its weight, are summed and divided by the number of
/// targets of all.
struct Batch {
  std::vector<std::shared_ptr<const MicroBatch>> micro = {};
  std::vector<float> weights = {};  // one a micro-batch; empty: 1 each
  int64_t targets = 0, tokens = 0;
  std::vector<std::string> names = {};  // of the records, for messages

  /// Adds a micro-batch of any type M that has tokens() and `static constexpr const char* kind`.
  template <class M> void add(M micro_batch, int64_t target_count) {
    tokens += micro_batch.tokens();
    targets += target_count;
    micro.push_back(std::make_shared<detail::MicroOf<M>>(std::move(micro_batch)));
  }
};

/// How a source is cut into batches.
struct BatchOptions {
  int64_t batch_tokens = 512;        // tokens a step
  int64_t micro_batch_tokens = 512;  // tokens a forward pass
  uint64_t seed = 42;                // of the order
};

/// The batches of one epoch, one after the other.
class BatchReader {
 public:
  virtual ~BatchReader() = default;
  /// The next one; nothing at the end. May wait for one.
  virtual std::optional<Batch> next() = 0;
  /// As if so many had been read.
  virtual void skip(int64_t batches) {
    while (batches-- > 0 && next()) {
    }
  }
};

/// What is known of an epoch before it is read.
struct EpochSize {
  int64_t batches = 0, tokens = 0;
  int64_t largest = 0;        // tokens of the largest micro-batch,
  int64_t largest_batch = 0;  // and the batch that it is in
};

/// What a model is asked before the first step, so that a fault in the data shows at once, not when it is reached.
struct DataLimits {
  int64_t first_token = 0, last_token = -1;  // the least and the largest token id; none where last < first
  std::string where = {};                    // the record that has the worse of them
};

/// Where batches come from. A finished one is a function of (seed, epoch): epoch() may be called again, and gives the
/// same. A stream derives as well: it has no size, and its epoch() opens it from its start. Sources are shared by
/// nobody while a run reads them.
///
/// A run over several machines reads the same batches everywhere and shares out their micro-batches.
class DataSource {
 public:
  virtual ~DataSource() = default;
  virtual std::unique_ptr<BatchReader> epoch(int64_t epoch, const BatchOptions& options) const = 0;
  /// Nothing where the length is not known before the end.
  virtual std::optional<EpochSize> size(int64_t /*epoch*/, const BatchOptions&) const { return std::nullopt; }
  /// Of all that decides what is read: a run is not resumed on other data.
  virtual Hash content() const = 0;
  virtual DataLimits limits() const { return {}; }
  /// What tokens() count.
  virtual const char* unit() const { return "tokens"; }
};

/// A finished set of examples, which are known by number.
class IndexedSource : public DataSource {
 public:
  /// The batches of an epoch, as lists of numbers.
  virtual std::vector<std::vector<std::size_t>> plan(int64_t batch_tokens, uint64_t seed, int64_t epoch) const = 0;
  /// The examples of `items`, in that order, in micro-batches of at most `micro_tokens` tokens, at least one example.
  virtual Batch batch(const std::vector<std::size_t>& items, int64_t micro_tokens) const = 0;
  /// Tokens of one example.
  virtual int64_t tokens_of(std::size_t item) const = 0;

  std::unique_ptr<BatchReader> epoch(int64_t epoch, const BatchOptions& options) const override;
  std::optional<EpochSize> size(int64_t epoch, const BatchOptions& options) const override;
};

/// A source of unknown length from a function: `open` begins it anew and returns what gives the next batch, or nothing
/// at the end.
///
///     ft::StreamSource source("questions.jsonl as of May", [] {
///       auto lines = std::make_shared<std::ifstream>("questions.jsonl");
///       return [lines]() -> std::optional<ft::Batch> { ... };
///     });
class StreamSource final : public DataSource {
 public:
  using Next = std::function<std::optional<Batch>()>;
  /// `name` stands for the content where a run is resumed.
  StreamSource(std::string name, std::function<Next()> open) : name_(std::move(name)), open_(std::move(open)) {}

  std::unique_ptr<BatchReader> epoch(int64_t epoch, const BatchOptions& options) const override;
  Hash content() const override {
    Hash hash;
    hash.add(name_);
    return hash;
  }

 private:
  std::string name_;
  std::function<Next()> open_;
};

/// A run's way through the epochs of a source.
class EpochWalk {
 public:
  /// Counts the run's batches, where the source knows them; no epoch's batches are made.
  EpochWalk(const DataSource& source, const BatchOptions& options, int64_t epochs, int64_t max_steps);

  bool known() const { return known_; }
  int64_t steps() const { return steps_; }               // of the run; 0 where not known and not limited
  int64_t tokens() const { return tokens_; }             // of the run; 0 where not known
  const EpochSize& largest() const { return largest_; }  // of the epochs' sizes the one with the largest micro-batch
  int64_t largest_epoch() const { return largest_epoch_; }

  /// Goes on behind `batch` batches of an epoch.
  void seek(int64_t epoch, int64_t batch);
  /// The next batch; nothing where the epoch has ended.
  std::optional<Batch> next();
  /// What next() gave was an epoch's last one; where the length is not known, that is not known either.
  bool at_epoch_end() const;
  /// False where that was the last epoch.
  bool next_epoch();
  int64_t epoch() const { return epoch_; }
  int64_t batch() const { return batch_; }

 private:
  const DataSource& source_;
  BatchOptions options_;
  int64_t epochs_;
  bool known_ = false;
  std::vector<int64_t> sizes_;  // batches of each epoch that the run reads
  int64_t steps_ = 0, tokens_ = 0, largest_epoch_ = 0;
  EpochSize largest_;
  int64_t epoch_ = 0, batch_ = 0;
  std::unique_ptr<BatchReader> reader_;
};

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/train/data_source.inl.hpp>
#endif
