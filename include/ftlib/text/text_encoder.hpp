// text/text_encoder.hpp: a frozen language model, or an encoder, as a reader of short texts: their hidden states after
// some block, computed once and kept on disk.
#pragma once
#include <ftlib/io/json_fwd.hpp>                // Json
#include <ftlib/models/kit/language_model.hpp>  // LanguageModel
#include <ftlib/tensor/tensor.hpp>              // Context
#include <ftlib/text/chat.hpp>                  // ChatTemplate
#include <ftlib/text/tokenizer.hpp>             // Tokenizer

#include <filesystem>  // std::filesystem::path
#include <functional>  // std::function
#include <map>         // std::map
#include <memory>      // std::shared_ptr, std::unique_ptr
#include <optional>    // std::optional
#include <span>        // std::span
#include <string>      // std::string
#include <vector>      // std::vector

namespace ft::inline FTLIB_ABI {

/// How texts are read; whoever was trained on the states must be given them in the same way.
struct TextEncoding {
  // States after so many blocks, without the model's last norm; of several, side by side. 0, alone: after all of them,
  // with it; -1, alone: after all but one, and so on.
  std::vector<int64_t> layers = {14};
  std::string before = "Emoji:";             // read in front of each text, whose states alone are given
  std::vector<float> mean = {}, scale = {};  // (C) each: states go as (h - mean) scale; empty: as they are
  float limit = 6;                           // and cut to [-limit, limit]; 0: not cut
  int64_t longest = 0;                       // tokens of a text, those behind them are left out; 0: any
  // Each text is a user's message in the model's own chat template, up to where an answer would begin, and may be
  // empty; the states of all of that are given. `thinking` is the template's enable_thinking.
  bool chat = false, thinking = false;
  // Each text gets `longest` rows: behind its own tokens pad tokens, which see the text and not each other, as where
  // transformers pads at the right under a mask. For models of attention without a window.
  bool padded = false;

  Json to_json() const;
  /// Throws Error, naming `file`, where a field is missing or makes no sense.
  static TextEncoding from_json(const Json& json, const std::string& file);
  /// Throws Error, naming `file`, where fields make no sense together.
  void check(const std::string& file) const;
};

/// A 64-bit FNV-1a hash over words of eight bytes and the rest: tells files apart, does not resist forgery.
uint64_t fingerprint(std::span<const std::byte> bytes);

/// Texts to hidden states (rows, C), a row a token of the text. Rows of a causal model do not know what follows them;
/// those of an encoder (T5) do, and the token that ends a text is one of them.
template <Scalar T, Device D> class TextEncoder {
 public:
  using States = std::shared_ptr<const std::vector<float>>;
  using Options = typename Context<D>::Options;

  /// Opens what CausalLM opens, or an encoder. Throws Error where the encoding does not fit the model.
  static TextEncoder open(const std::filesystem::path& path, TextEncoding encoding, const Options& options = {});
  /// Another one on the same weights, for another thread.
  TextEncoder session(const Options& options = {});

  int64_t width() const { return model_->info().hidden_size * static_cast<int64_t>(encoding_.layers.size()); }
  const TextEncoding& encoding() const { return encoding_; }
  /// Of the language model.
  const std::filesystem::path& path() const { return path_; }
  LanguageModel<T, D>& model() { return *model_; }
  /// Tokens that were left out of texts longer than the encoding's longest, of all that were computed.
  int64_t left_out() const { return left_out_; }

  /// States of `texts` in their order; equal texts share theirs. With a `cache`, a folder, those that are in it are
  /// read, and the others are added to its file for this model and encoding. Throws Error for an empty text that is no
  /// chat.
  std::vector<States> encode(const std::vector<std::string>& texts, const std::filesystem::path& cache = {},
                             const std::function<void(int64_t done, int64_t of)>& progress = {});

  /// Sets mean and scale so that the states of `texts` have mean 0 and deviation 1 in each dimension.
  void standardise(const std::vector<std::string>& texts, const std::filesystem::path& cache = {},
                   const std::function<void(int64_t done, int64_t of)>& progress = {});

 private:
  static constexpr std::size_t texts_at_once = 128, tokens_at_once = 2048;  // the second where texts are padded

  TextEncoder() = default;
  /// A text as the model reads it.
  std::vector<int32_t> tokens(const std::string& text);
  void compute(std::span<const std::string> texts, std::map<std::string, std::vector<float>>& raw);

  std::vector<float> standardised(std::vector<float> states) const;

  /// The key: the model's bytes, and what is read in which layer.
  std::string cache_name();
  /// A cache holds a tensor a text, (rows, C), under the text itself: f16, or bf16 where a state is beyond f16's range.
  void read_cache(const std::filesystem::path& path, const std::vector<std::string>& texts,
                  std::map<std::string, std::vector<float>>& raw);
  void write_cache(const std::filesystem::path& path, const std::map<std::string, std::vector<float>>& raw);

  std::filesystem::path path_;
  std::unique_ptr<Context<D>> ctx_;
  std::shared_ptr<LanguageModel<T, D>> model_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::optional<text::ChatTemplate> chat_;  // where texts are messages
  TextEncoding encoding_;
  std::vector<int32_t> before_;
  int64_t left_out_ = 0;
  std::string cache_name_;
};

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/text/text_encoder.inl.hpp>
#endif
