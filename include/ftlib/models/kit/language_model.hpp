// models/kit/language_model.hpp: what all language models have in common: packed tokens in, hidden states out, a KV
// cache.
#pragma once
#include <ftlib/autograd/parameter.hpp>  // Parameter
#include <ftlib/io/json_fwd.hpp>         // Json
#include <ftlib/nn/kv_cache.hpp>         // KvCache, Placement
#include <ftlib/nn/router_load.hpp>      // RouterLoad
#include <ftlib/ops/cross_entropy.hpp>   // ignored_target, logits_chunk_bytes

#include <algorithm>   // std::max
#include <functional>  // std::function
#include <string>      // std::string
#include <vector>      // std::vector

namespace ft::inline FTLIB_ABI {

struct GgufDescription;

/// Sequences of unequal length, one after the other, without padding.
struct PackedTokens {
  static constexpr const char* kind = "packed tokens";
  std::vector<int32_t> ids = {};   // (N)    tokens of all sequences
  std::vector<int64_t> starts{0};  // (B+1)  sequence i is [starts[i], starts[i + 1])
  // (N)    the token that should follow, or ignored_target; empty where no loss is asked
  std::vector<int32_t> targets = {};
  // (B)    so many last tokens of a sequence see those before them, each from its own position, and no other padding,
  //        nor does another token see them; empty: none. For attention without a window and without a cache.
  std::vector<int64_t> padding = {};

  int64_t sequences() const { return static_cast<int64_t>(starts.size()) - 1; }
  int64_t tokens() const { return static_cast<int64_t>(ids.size()); }
  /// Appends a sequence; tokens of it before `loss_from` are read but not learned.
  void add(const std::vector<int32_t>& sequence, std::size_t loss_from = 0);
  /// The same, with a word for each token whether it is learned.
  void add(const std::vector<int32_t>& sequence, const std::vector<bool>& learned);
  int64_t target_count() const;
};

/// What a host may ask of a model, in the words of Hugging Face's config.json.
struct ModelInfo {
  std::string model_type = {};
  int64_t vocab_size = 0, hidden_size = 0, num_hidden_layers = 0;
  int64_t max_position_embeddings = 0;  // the longest sequence the model was made for, in tokens
  bool encoder = false;                 // reads texts in both directions and writes none: it has no head
  std::vector<std::string> notes = {};  // what its files hold that is passed over, a sentence each
};

/// Where a Hugging Face folder has a weight of a model in memory: in tensor `name` of `shape`, of which it may be a
/// part. Its element (r, c) is there at begin + r row_step + c col_step, a vector's element r at begin + r row_step.
struct FolderPlace {
  std::string name;
  Shape shape;
  int64_t begin = 0, row_step = 0, col_step = 1;  // row_step 0: as it is in memory

  /// f(element there, element in memory) for each of w's, of this shape.
  template <class F> void each(const Shape& w, F f) const {
    const int64_t cols = w.rank() > 1 ? w.count() / std::max<int64_t>(1, w[0]) : 1, step = row_step ? row_step : cols;
    for (int64_t i = 0; i < w.count(); ++i) f(begin + i / cols * step + i % cols * col_step, i);
  }
};

/// Hidden states to be kept on the way: after how many blocks each, and where they go.
template <Scalar T, Device D> struct Taps {
  std::vector<int64_t> after;        // 0: the embedding
  std::vector<Tensor<T, D>> states;  // (N, C) each, in the order of `after`
};

template <Scalar T, Device D> struct ForwardOptions {
  KvCache<T, D>* cache = nullptr;    // sequence i is read on from slot slots[i] (or i)
  std::vector<int64_t> slots = {};   // which slot of the cache each sequence has; empty: 0, 1, 2 ...
  bool recompute = false;            // keep only each block's input, and run blocks again in backward
  Taps<T, D>* taps = nullptr;        // nothing is computed behind the last of them: ask LanguageModel::hidden_after
  RouterLoad<T, D>* load = nullptr;  // gets what experts were asked for
};

/// Lays out a packed batch; with a cache, makes room in it. Positions of sequences longer than `long_from` begin there
/// (text_angles, of longrope); 0: none do. Throws Error where a sequence does not fit.
template <Scalar T, Device D>
Placement<D> place(Context<D>& ctx, const PackedTokens& batch, const ForwardOptions<T, D>& options,
                   int64_t long_from = 0);

/// The sum over targets of -log softmax(h W^T)[target], through what the session has in use on the head W (V, C).
/// Logits live in chunks of at most `chunk_bytes`; an adapted head's are computed again in backward. With a `cap`, of
/// soft_cap(h W^T).
template <Scalar T, Device D>
Tensor<accumulate_t<T>, D> head_loss(Context<D>& ctx, const Tensor<T, D>& h, Parameter<T, D>& w,
                                     const std::vector<int32_t>& targets, int64_t chunk_bytes = logits_chunk_bytes,
                                     float cap = 0);

/// The sum over rows of KL(softmax(teacher W^T) || softmax(h W^T)): h (N, C) through what the session has in use on the
/// head W (V, C), the teacher's states (N, C) through W as it is in the base. In chunks, as head_loss().
template <Scalar T, Device D>
Tensor<accumulate_t<T>, D> head_divergence(Context<D>& ctx, const Tensor<T, D>& h, Parameter<T, D>& w,
                                           const Tensor<T, D>& teacher, int64_t chunk_bytes = logits_chunk_bytes,
                                           float cap = 0);

template <Scalar T, Device D> class LanguageModel;

/// The Error to throw where `what` of a model's came to be a NaN or an infinity: it names the weight, the adapter's in
/// use among them, that holds one, and otherwise says that none does. Reads all weights.
template <Scalar T, Device D>
[[gnu::cold]] Error not_finite(Context<D>& ctx, LanguageModel<T, D>& model, const std::string& what);

/// A language model of any architecture: a causal one, or an encoder.
template <Scalar T, Device D> class LanguageModel {
 public:
  virtual ~LanguageModel() = default;

  /// The hidden states that the LM head reads, after the last norm: N tokens -> (N, C).
  virtual Tensor<T, D> hidden(Context<D>& ctx, const PackedTokens& batch, const ForwardOptions<T, D>& options) = 0;
  /// The LM head's matrix (V, C); the embedding's where they are tied, and of an encoder. Read it through project()
  /// and soft_cap(), or head_loss().
  virtual Parameter<T, D>& head() = 0;
  /// What soft_cap() takes of the head's products; 0: logits are those products.
  virtual float logits_cap() const { return 0; }
  /// Every parameter once, in the checkpoint's order; adapters' not among them.
  virtual void visit(const std::function<void(Parameter<T, D>&)>& f) = 0;
  virtual KvCache<T, D> make_cache(Context<D>& ctx, int64_t slots, int64_t capacity) = 0;
  virtual const ModelInfo& info() const = 0;
  /// The configuration, as Hugging Face's config.json. Throws Error where it cannot be said there.
  virtual Json config() const = 0;
  /// The same as GGUF says it, with the names of tensors there (models/kit/gguf_description.hpp). Throws Error, naming
  /// what GGUF has no word for, where a file could not be read as this model.
  virtual GgufDescription gguf() const;

  int64_t context_length() const { return info().max_position_embeddings; }
  /// Where a Hugging Face folder has a weight of its.
  virtual FolderPlace folder_place(const Parameter<T, D>& w) const { return {w.name, w.shape()}; }
  /// A text that grows beyond so many tokens has other positions from the first on (longrope), so that what a cache
  /// holds of it must be read again; 0: none.
  virtual int64_t long_from() const { return 0; }
  /// Where routers of experts are trained, nll_sum() adds so many times load_balancing_loss() (nn/experts.hpp) for each
  /// target: config.json's router_aux_loss_coef where that says output_router_logits, as in transformers; else 0.
  virtual float router_loss() const { return 0; }
  /// Another coefficient. Throws Error for a negative one, and where the model has no routers.
  [[gnu::cold]] virtual void set_router_loss(float coefficient) {
    if (coefficient != 0) throw Error(str("router_loss: a model of kind '", info().model_type, "' has no routers"));
  }
  /// The hidden states after so many blocks each (0: the embedding), before the last norm: (N, C) each. Blocks behind
  /// the last of them are not run. Throws Error for a number that the model has not.
  std::vector<Tensor<T, D>> hidden_after(Context<D>& ctx, const PackedTokens& batch, const std::vector<int64_t>& blocks,
                                         const ForwardOptions<T, D>& options = {});
  /// (N, V). Large: for losses use nll_sum, for generation ask the rows that are needed.
  Tensor<T, D> logits(Context<D>& ctx, const PackedTokens& batch, const ForwardOptions<T, D>& options = {});
  /// The sum over targets of -log p(target): a scalar. While a tape records, with router_loss() where that is on.
  Tensor<accumulate_t<T>, D> nll_sum(Context<D>& ctx, const PackedTokens& batch,
                                     const ForwardOptions<T, D>& options = {});
  /// The same of each sequence by itself: (B).
  Tensor<accumulate_t<T>, D> nll_by_sequence(Context<D>& ctx, const PackedTokens& batch,
                                             const ForwardOptions<T, D>& options = {});
};

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/models/kit/language_model.inl.hpp>
#endif
