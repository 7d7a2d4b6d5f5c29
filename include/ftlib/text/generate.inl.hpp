// text/generate.inl.hpp: the bodies of text/generate.hpp.
#pragma once
#include <ftlib/nn/adapter.hpp>         // OverlayScope
#include <ftlib/ops/cross_entropy.hpp>  // sum_all
#include <ftlib/ops/shape.hpp>          // slice
#include <ftlib/text/generate.hpp>

#include <cmath>  // std::exp
#include <span>   // std::span

namespace ft::inline FTLIB_ABI {

template <Scalar T, Device D>
TokenGenerator<T, D>::TokenGenerator(Context<D>& ctx, LanguageModel<T, D>& model,
                                     std::vector<std::vector<int32_t>> prompts, const GenerateOptions& options,
                                     std::vector<int32_t> ends, int64_t vocab_size)
    : ctx_(ctx),
      model_(model),
      overlay_(ctx.overlay()),
      options_(options),
      ends_(std::move(ends)),
      vocab_size_(vocab_size),
      texts_(std::move(prompts)),
      cache_(make_cache()) {
  options.sampling.check();
  if (options.max_new_tokens < 0)
    throw Error(str("generate: max_new_tokens is ", options.max_new_tokens), "0 gives no token, 1 and more that many.");
  confidence_.assign(texts_.size(), 1);
  if (!(options.sure >= 0 && options.sure <= 1))
    throw Error(str("generate: sure is ", options.sure), "it is a probability: 0 to 1.");
  if (!(options.near >= -1 && options.near <= 1))
    throw Error(str("generate: near is ", options.near), "it is 0 to 1, or -1 for any.");
  for (std::size_t i = 0; i < texts_.size(); ++i) {
    prompt_sizes_.push_back(texts_[i].size());
    random_.emplace_back(options.seed + i);
    if (options.max_new_tokens > 0) active_.push_back(static_cast<int64_t>(i));
  }
}

template <Scalar T, Device D> std::vector<std::pair<int64_t, int32_t>> TokenGenerator<T, D>::next() {
  std::vector<std::pair<int64_t, int32_t>> produced;
  if (active_.empty()) return produced;
  const NoGrad off(ctx_);
  const OverlayScope<D> as_begun(ctx_, overlay_);
  PackedTokens batch;
  std::vector<int32_t> last;  // the row whose logits are asked, for each prompt
  for (const int64_t i : active_) {
    const auto& text = texts_[static_cast<std::size_t>(i)];
    if (const int64_t limit = model_.long_from(); limit > 0 && cache_.length(i) <= limit)
      if (static_cast<int64_t>(text.size()) > limit) cache_.length(i) = 0;  // all its positions change: read again
    const auto first = text.begin() + cache_.length(i);
    batch.ids.insert(batch.ids.end(), first, text.end());
    batch.starts.push_back(batch.tokens());
    last.push_back(static_cast<int32_t>(batch.tokens() - 1));
  }
  ForwardOptions<T, D> options;
  options.cache = &cache_;
  options.slots = active_;
  const Tensor<T, D> hidden = model_.hidden(ctx_, batch, options);
  Tensor<T, D> ends(ctx_, {static_cast<int64_t>(last.size()), hidden.cols()});
  gather_rows(ctx_, ends.view(), hidden.view(), Tensor<int32_t, D>(ctx_, {ends.rows()}, last).view());
  std::vector<double> uniform;  // from each prompt's own numbers, so that its text does not depend on the batch
  if (options_.sampling.temperature > 0)
    for (const int64_t i : active_) uniform.push_back(random_[static_cast<std::size_t>(i)].uniform());
  std::vector<std::span<const int32_t>> history;
  for (const int64_t i : active_) history.emplace_back(texts_[static_cast<std::size_t>(i)]);
  auto logits = convert<float>(ctx_, soft_cap(ctx_, project(ctx_, ends, model_.head()), model_.logits_cap()));
  // A NaN or an infinity in any of them shows in the sum, and every choice would be nonsense.
  Tensor<float, D> sum(ctx_, {});
  sum_all(ctx_, sum.view(), logits.view());
  if (const float s = sum.item(ctx_); !(s - s == 0))
    throw not_finite(ctx_, model_, "generate: what the model computes");
  if (vocab_size_ > 0 && vocab_size_ < logits.cols()) logits = slice(ctx_, logits, 1, 0, vocab_size_);
  Tensor<float, D> judged = options_.confidence || options_.withholds() ? clone(ctx_, logits) : Tensor<float, D>{};
  const auto tokens = sample_tokens(ctx_, logits, options_.sampling, uniform, history);
  const std::vector<int32_t> chosen = tokens.to_host(ctx_);
  if (judged) {
    Tensor<float, D> nll(ctx_, {tokens.count()});
    softmax_cross_entropy(ctx_, nll.view(), judged.view(), tokens.view(), false);
    const std::vector<float> of_each = nll.to_host(ctx_);
    for (std::size_t row = 0; row < active_.size(); ++row) {
      double& least = confidence_[static_cast<std::size_t>(active_[row])];
      least = std::min(least, std::exp(-double{of_each[row]}));
    }
  }

  std::vector<int64_t> running;
  for (std::size_t row = 0; row < active_.size(); ++row) {
    const auto i = static_cast<std::size_t>(active_[row]);
    const int32_t token = chosen[row];
    if (std::find(ends_.begin(), ends_.end(), token) != ends_.end()) continue;
    texts_[i].push_back(token);
    produced.emplace_back(active_[row], token);
    if (static_cast<int64_t>(texts_[i].size() - prompt_sizes_[i]) < options_.max_new_tokens)
      running.push_back(active_[row]);
  }
  active_ = std::move(running);
  return produced;
}

template <Scalar T, Device D> KvCache<T, D> TokenGenerator<T, D>::make_cache() {
  int64_t longest = 0;
  for (const auto& prompt : texts_) {
    if (prompt.empty())
      throw Error("generate: an empty prompt", "give at least one token, the beginning-of-text token say.");
    longest = std::max(longest, static_cast<int64_t>(prompt.size()));
  }
  if (longest > model_.context_length())
    throw Error(str("generate: a prompt of ", longest, " tokens; the model reads ", model_.context_length()),
                "shorten the prompt.");
  // The last token is never read again, so the cache needs no room for it.
  const int64_t capacity = std::min(longest + options_.max_new_tokens, model_.context_length() + 1);
  options_.max_new_tokens = std::min(options_.max_new_tokens, capacity - longest);
  return model_.make_cache(ctx_, static_cast<int64_t>(texts_.size()), std::max<int64_t>(1, capacity));
}

FTLIB_INLINE std::string TextStop::release(const std::string& piece, bool last) {
  if (stopped_) return {};
  held_ += piece;
  std::size_t cut = std::string::npos;
  for (const std::string& s : stop_)
    if (!s.empty()) cut = std::min(cut, held_.find(s));
  std::size_t ready = held_.size();
  if (cut != std::string::npos) {
    stopped_ = true;
    ready = cut;
  } else if (!last) {
    for (const std::string& s : stop_)
      for (std::size_t n = std::min(held_.size(), s.size()); n > 0; --n)
        if (std::string_view(s).substr(0, n) == std::string_view(held_).substr(held_.size() - n)) {
          ready = std::min(ready, held_.size() - n);
          break;
        }
  }
  std::string out = held_.substr(0, ready);
  held_.erase(0, ready);
  return out;
}

template <Scalar T, Device D> auto TextStream<T, D>::iterator::operator++() -> iterator& {
  auto piece = stream_->next();
  if (piece) piece_ = std::move(*piece);
  else stream_ = nullptr;
  return *this;
}

template <Scalar T, Device D> std::optional<std::string> TextStream<T, D>::next() {
  if (!judge_ || finished_) return next_piece();
  std::string all;
  while (auto piece = next_piece()) all += *piece;
  return judge_(all, tokens_.confidence(0)).value_or(all);
}
template <Scalar T, Device D> std::optional<std::string> TextStream<T, D>::next_piece() {
  while (!finished_) {
    std::string piece;
    const auto token = tokens_.next();
    if (!token.empty()) piece = text_.put(token.front().second);
    if (token.empty() || tokens_.done() || text_.stopped()) {
      piece += text_.finish();
      finished_ = true;
    }
    if (!piece.empty()) return piece;
  }
  return std::nullopt;
}

template <Scalar T, Device D> std::string TextStream<T, D>::rest() {
  std::string all;
  while (auto piece = next()) all += *piece;
  return all;
}

}  // namespace ft::inline FTLIB_ABI
