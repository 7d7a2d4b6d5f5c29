// models/kit/decoder.hpp: Decoder, what a language model of blocks in a row is without its blocks, and WeightReader,
// which fills the blocks of nn/ from a checkpoint.
#pragma once
#include <ftlib/autograd/recompute.hpp>         // recompute
#include <ftlib/models/kit/any_config.hpp>      // AnyConfig
#include <ftlib/models/kit/language_model.hpp>  // LanguageModel
#include <ftlib/models/kit/weights.hpp>         // Weights
#include <ftlib/nn/attention.hpp>               // KeysValues
#include <ftlib/nn/embedding.hpp>               // Embedding
#include <ftlib/nn/linear.hpp>                  // Linear
#include <ftlib/nn/norm.hpp>                    // NormLayer
#include <ftlib/ops/elementwise.hpp>            // add, scale
#include <ftlib/ops/shape.hpp>                  // reshape, slice

#include <algorithm>  // std::max_element
#include <cmath>      // std::sqrt
#include <memory>     // std::make_shared
#include <string>     // std::string
#include <utility>    // std::exchange, std::move
#include <vector>     // std::vector

namespace ft::inline FTLIB_ABI {

/// Takes blocks of nn/ out of a checkpoint, under Hugging Face's names. Throws Error for what is missing or of another
/// shape.
template <Scalar T, Device D> struct WeightReader {
  Context<D>& ctx;
  Weights& weights;

  [[gnu::cold]] Linear<T, D> linear(const std::string& name, int64_t out, int64_t in, bool bias = false) const {
    Linear<T, D> l;
    l.weight = weights.template matrix<T>(ctx, name + ".weight", {out, in}, WeightKind::linear);
    if (bias) l.bias = weights.template vector<T>(ctx, name + ".bias", out);
    return l;
  }
  /// A LayerNorm has a bias.
  [[gnu::cold]] NormLayer<T, D> norm(const std::string& name, int64_t size, float eps, float offset = 0,
                                     NormKind kind = NormKind::rms) const {
    NormLayer<T, D> n;
    n.weight = weights.template vector<T>(ctx, name + ".weight", size);
    if (kind == NormKind::layer) n.bias = weights.template vector<T>(ctx, name + ".bias", size);
    n.eps = eps;
    n.offset = offset;
    n.kind = kind;
    return n;
  }
};

/// What each layer reads of the tokens beside x: e = (norm(projection(x) / sqrt(C)) + table[ids]) / sqrt(2), x (N, C)
/// being the embedding: (N, L P), of which layer i has [i P, (i + 1) P). The table is read by the row, as it is stored.
/// Gemma 3n and 4; transformers' models/gemma4.
template <Scalar T, Device D> struct PerLayerEmbeddings {
  Embedding<T, D> table = {};    // (V, L P)
  Linear<T, D> projection = {};  // (L P, C)
  NormLayer<T, D> norm = {};     // (P)
  int64_t size = 0;              // P

  Tensor<T, D> operator()(Context<D>& ctx, const Tensor<T, D>& x, const std::vector<int32_t>& ids) {
    const auto projected = scale(ctx, projection(ctx, x), 1 / std::sqrt(static_cast<float>(x.cols())));
    const auto normed = norm(ctx, reshape(ctx, projected, {x.rows(), projected.cols() / size, size}));
    return scale(ctx, add(ctx, reshape(ctx, normed, projected.shape()), table(ctx, ids)), std::sqrt(0.5f));
  }
  explicit operator bool() const { return size > 0; }
  void visit(const std::function<void(Parameter<T, D>&)>& f) {
    if (table.weight) f(table.weight);
    projection.visit(f);
    norm.visit(f);
  }
};

/// Embedding, blocks, last norm and head. Transformer (models/kit/transformer.hpp) fills them by a table of traits;
/// whoever has blocks of another kind derives. A Block is called with (ctx, x, placement, cache or null, its part of
/// the per-layer embeddings or empty, keys and values, its experts' load or null), and has visit(f), kept(), the shape
/// of its keys and values, and reads_kv_of(): -1, and it leaves its keys and values in that argument, or the earlier
/// block whose it finds there.
template <Scalar T, Device D, class Block> class Decoder : public LanguageModel<T, D> {
 public:
  Tensor<T, D> hidden(Context<D>& ctx, const PackedTokens& batch, const ForwardOptions<T, D>& options) final {
    const ContextGuard guard(ctx);
    if (options.cache && config_->encoder)
      throw Error(str(config_->model_type, ": an encoder writes nothing, so that there is nothing to cache"),
                  "read whole texts with it.");
    const Placement<D> at = place(ctx, batch, options, long_from());
    int64_t last = config_->num_hidden_layers;
    std::vector<bool> lends(blocks_.size());  // blocks whose keys and values a later one reads
    for (const Block& b : blocks_)
      if (b.reads_kv_of() >= 0) lends[static_cast<std::size_t>(b.reads_kv_of())] = true;
    std::vector<KeysValues<T, D>> lent(blocks_.size());
    if (options.taps) last = *std::max_element(options.taps->after.begin(), options.taps->after.end());
    auto x = embed_tokens_(ctx, batch.ids);                                              // (N, C)
    const auto per_layer = per_layer_ ? per_layer_(ctx, x, batch.ids) : Tensor<T, D>{};  // (N, L P)
    if (positions_.weight) x = add(ctx, x, positions_(ctx, learned_positions(at)));
    tap(options, 0, x);
    for (int64_t i = 0; i < last; ++i) {
      Block& b = blocks_[static_cast<std::size_t>(i)];
      const int64_t of = b.reads_kv_of();
      const bool lending = lends[static_cast<std::size_t>(i)];
      KeysValues<T, D> own, &kv = of < 0 ? own : lent[static_cast<std::size_t>(of)];
      const int64_t P = per_layer_.size;
      const auto e = per_layer_ ? slice(ctx, per_layer, 1, i * P, (i + 1) * P) : Tensor<T, D>{};
      if (options.recompute) {  // the rule outlives this call, so it keeps a placement of its own
        std::vector<Tensor<T, D>> in;
        in.reserve(4);
        in.push_back(x);
        if (e) in.push_back(e);
        if (of >= 0) {
          in.push_back(kv.k);
          in.push_back(kv.v);
        }
        const auto load = options.load ? std::make_shared<RouterLoad<T, D>>() : nullptr;
        const auto out = recompute(
            ctx, in,
            [&ctx, &b, at, of, lending, with_e = static_cast<bool>(e), load](const std::vector<Tensor<T, D>>& given) {
              KeysValues<T, D> shared;
              if (of >= 0) shared = {given[given.size() - 2], given.back()};
              std::vector<Tensor<T, D>> made;
              made.reserve(4);
              if (load) *load = {};  // it was filled by the first run
              made.push_back(b(ctx, given[0], at, nullptr, with_e ? given[1] : Tensor<T, D>{}, shared, load.get()));
              if (lending) {
                made.push_back(shared.k);
                made.push_back(shared.v);
              }
              if (load && load->tokens) made.push_back(std::exchange(load->probabilities, {}).front());
              return made;
            });
        if (load && load->tokens) options.load->add(out.back(), load->chosen, load->tokens);
        x = out[0];
        if (lending) own = {out[1], out[2]};
      } else {
        x = b(ctx, x, at, options.cache ? &options.cache->layer(of < 0 ? i : of) : nullptr, e, kv, options.load);
      }
      if (lending) lent[static_cast<std::size_t>(i)] = own;
      tap(options, i + 1, x);
    }
    if (options.taps) return x;
    x = norm_(ctx, x);
    return output_scale_ == 1 ? x : scale(ctx, x, output_scale_);
  }
  Parameter<T, D>& head() final { return lm_head_ ? lm_head_ : embed_tokens_.weight; }
  float logits_cap() const final { return config_->decoder().logits_cap; }
  void visit(const std::function<void(Parameter<T, D>&)>& f) final {
    f(embed_tokens_.weight);
    if (positions_.weight) f(positions_.weight);
    per_layer_.visit(f);
    for (Block& b : blocks_) b.visit(f);
    if (relative_bias_) f(relative_bias_);
    norm_.visit(f);
    if (lm_head_) f(lm_head_);
  }
  KvCache<T, D> make_cache(Context<D>& ctx, int64_t slots, int64_t capacity) final {
    std::vector<KvShape> layers;
    for (const Block& b : blocks_) layers.push_back(b.kept());
    return {ctx, layers, slots, capacity};
  }
  FolderPlace folder_place(const Parameter<T, D>& w) const final {
    if (config_->decoder().transposed && w.kind == WeightKind::linear)
      return {w.name, {w.shape()[1], w.shape()[0]}, 0, 1, w.shape()[0]};
    return config_->folder_place(w.name, w.shape());
  }
  int64_t long_from() const final { return config_->long_from(); }
  float router_loss() const final { return router_loss_; }
  [[gnu::cold]] void set_router_loss(float coefficient) final {
    bool any = coefficient == 0;
    for (int64_t i = 0; !any && i < config_->num_hidden_layers; ++i) any = config_->layer(i).experts > 0;
    if (!any || !(coefficient >= 0))
      throw Error(any ? str("router_loss: a coefficient of ", coefficient)
                      : str("router_loss: a model of kind '", config_->model_type, "' has no routers to be balanced"));
    router_loss_ = coefficient;
  }
  const ModelInfo& info() const final { return *config_; }
  Json config() const final { return config_.to_json(); }
  GgufDescription gguf() const final { return config_.to_gguf(); }

 protected:
  /// Takes the embedding, and the head where it is not tied; the last norm and the blocks are the architecture's.
  [[gnu::cold]] Decoder(Context<D>& ctx, AnyConfig config, Weights& weights)
      : config_(std::move(config)), router_loss_(config_->output_router_logits ? config_->router_aux_loss_coef : 0) {
    const Shape shape{config_->vocab_size, config_->hidden_size};
    embed_tokens_.weight =
        weights.template matrix<T>(ctx, str(config_->decoder().embedding, ".weight"), shape, WeightKind::embedding);
    if (const char* name = config_->decoder().positions)
      positions_.weight = weights.template matrix<T>(
          ctx, str(name, ".weight"), {config_->max_position_embeddings, config_->hidden_size}, WeightKind::embedding);
    if (config_->tie_word_embeddings) weights.ignore("lm_head.weight");  // where it is there, it is the embedding again
    else lm_head_ = weights.template matrix<T>(ctx, "lm_head.weight", shape, WeightKind::head);
  }

  AnyConfig config_;
  float router_loss_ = 0;
  Embedding<T, D> embed_tokens_;
  Embedding<T, D> positions_;           // learned ones (P, C), or empty
  PerLayerEmbeddings<T, D> per_layer_;  // or empty
  NormLayer<T, D> norm_;
  Parameter<T, D> relative_bias_;  // (buckets, H), or empty
  float output_scale_ = 1;         // of what the head reads
  Parameter<T, D> lm_head_;        // empty where it is tied
  std::vector<Block> blocks_;

 private:
  /// The row of each token. Throws Error beyond the last that was learned.
  std::vector<int32_t> learned_positions(const Placement<D>& at) const {
    std::vector<int32_t> rows;
    for (const Segment& s : at.segments)
      for (int64_t p = s.k_end - s.k_begin - (s.q_end - s.q_begin); p < s.k_end - s.k_begin; ++p)
        rows.push_back(static_cast<int32_t>(p));
    if (at.length > config_->max_position_embeddings)
      throw Error(str("positions: a text of ", at.length, " tokens; the model has learned ",
                      config_->max_position_embeddings, " positions"),
                  "shorten it.");
    return rows;
  }
  static void tap(const ForwardOptions<T, D>& options, int64_t done, const Tensor<T, D>& x) {
    if (!options.taps) return;
    for (std::size_t i = 0; i < options.taps->after.size(); ++i)
      if (options.taps->after[i] == done) options.taps->states[i] = x;
  }
};

}  // namespace ft::inline FTLIB_ABI
