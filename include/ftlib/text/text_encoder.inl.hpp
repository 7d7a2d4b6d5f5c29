// text/text_encoder.inl.hpp: the bodies of text/text_encoder.hpp.
#pragma once
#include <ftlib/io/mapped_file.hpp>   // MappedFile
#include <ftlib/io/safetensors.hpp>   // SafetensorsFile, write_safetensors
#include <ftlib/tensor/quantise.hpp>  // quantise_row
#include <ftlib/text/opened.hpp>      // opened
#include <ftlib/text/prompt.hpp>      // Prompt
#include <ftlib/text/text_encoder.hpp>

#include <algorithm>  // std::any_of, std::clamp, std::max_element
#include <cmath>      // std::abs, std::sqrt
#include <cstring>    // std::memcpy
#include <tuple>      // std::tie

namespace ft::inline FTLIB_ABI {

namespace detail {
FTLIB_INLINE std::string layers_in_words(const std::vector<int64_t>& layers) {
  std::string words = layers.size() == 1 ? "layer" : "layers";
  for (const int64_t layer : layers) words += str(' ', layer);
  return words;
}
/// A few states of a large model are: bf16 holds those.
FTLIB_INLINE bool beyond_half(std::span<const float> values) {
  return std::any_of(values.begin(), values.end(), [](float v) { return std::abs(v) > 65504.0f; });
}
}  // namespace detail

FTLIB_INLINE Json TextEncoding::to_json() const {
  Json json{{"before", before}, {"mean", mean}, {"scale", scale}, {"limit", limit}};
  if (layers.size() == 1) json["layer"] = layers.front();
  else json["layers"] = layers;
  if (longest) json["longest"] = longest;
  for (const auto& [key, value] :
       {std::pair{"chat", chat}, std::pair{"thinking", thinking}, std::pair{"padded", padded}})
    if (value) json[key] = true;
  return json;
}

FTLIB_INLINE TextEncoding TextEncoding::from_json(const Json& json, const std::string& file) {
  const auto flag = [&](const char* key) { return value_or<bool>(json, key, false, file); };
  TextEncoding e{json.is_object() && json.contains("layers") ? at<std::vector<int64_t>>(json, "layers", file)
                                                             : std::vector{at<int64_t>(json, "layer", file)},
                 at<std::string>(json, "before", file),
                 at<std::vector<float>>(json, "mean", file),
                 at<std::vector<float>>(json, "scale", file),
                 at<float>(json, "limit", file),
                 value_or<int64_t>(json, "longest", 0, file),
                 flag("chat"),
                 flag("thinking"),
                 flag("padded")};
  e.check(file);
  return e;
}

FTLIB_INLINE void TextEncoding::check(const std::string& file) const {
  bool fits = !layers.empty() && mean.size() == scale.size() && limit >= 0 && longest >= 0;
  for (const int64_t layer : layers) fits &= layer >= 1 || layers.size() == 1;
  if (!fits)
    throw Error(str(file, ": ", detail::layers_in_words(layers), ", mean of ", mean.size(), ", scale of ", scale.size(),
                    ", limit ", limit, " and longest ", longest, " make no sense"));
  if (padded && longest == 0) throw Error(file + ": texts are padded, and `longest` does not say to how many tokens");
  if (chat && !before.empty())
    throw Error(str(file, ": texts are messages, and ", quote(before), " is to be before them"));
}

FTLIB_INLINE uint64_t fingerprint(std::span<const std::byte> bytes) {
  uint64_t hash = 14695981039346656037u;
  for (; bytes.size() >= 8; bytes = bytes.subspan(8)) {
    uint64_t word = 0;
    std::memcpy(&word, bytes.data(), 8);
    hash = (hash ^ word) * 1099511628211u;
    hash ^= hash >> 29;
  }
  for (const std::byte byte : bytes) hash = (hash ^ static_cast<uint64_t>(byte)) * 1099511628211u;
  return hash;
}

template <Scalar T, Device D>
TextEncoder<T, D> TextEncoder<T, D>::open(const std::filesystem::path& path, TextEncoding encoding,
                                          const Options& options) {
  TextEncoder encoder;
  encoder.path_ = path;
  encoder.encoding_ = std::move(encoding);
  encoder.ctx_ = std::make_unique<Context<D>>(options);
  std::tie(encoder.model_, encoder.tokenizer_) = detail::opened<T>(*encoder.ctx_, path);
  if (!encoder.tokenizer_) throw Error(path.string() + ": has no tokenizer.json", "copy it beside config.json.");
  const auto width = static_cast<std::size_t>(encoder.width());
  const auto& e = encoder.encoding_;
  const auto layers = encoder.model_->info().num_hidden_layers;
  e.check(path.string());
  if (int64_t& only = encoder.encoding_.layers.front(); only < 0 && only + layers > 0) only += layers;
  if (e.layers.front() < 0 || *std::max_element(e.layers.begin(), e.layers.end()) > layers ||
      (!e.mean.empty() && e.mean.size() != width))
    throw Error(str(path.string(), ": has ", layers, " layers and width ", width, ", ",
                    detail::layers_in_words(e.layers), " and width ", e.mean.size(), " are asked for"),
                "give the language model that the captions were read with.");
  if (e.padded && encoder.tokenizer_->pad() < 0)
    throw Error(path.string() + ": texts are to be padded, and the tokenizer has no pad token", "",
                ErrorKind::bad_file);
  const bool reads_both_ways = encoder.model_->info().encoder;
  if (reads_both_ways && (!e.before.empty() || e.chat || e.padded))
    throw Error(str(path.string(), ": is an encoder, which reads texts alone, and ",
                    e.before.empty() ? "a chat template or padding is asked for"
                                     : quote(e.before) + " is to be read before them"),
                "leave it empty (image_style pretrain: --before \"\").");
  if (e.chat) encoder.chat_.emplace(*encoder.tokenizer_);
  else if (!reads_both_ways) encoder.before_ = text::Prompt(*encoder.tokenizer_, {}).plain(e.before);
  return encoder;
}

template <Scalar T, Device D> TextEncoder<T, D> TextEncoder<T, D>::session(const Options& options) {
  TextEncoder other;
  other.path_ = path_;
  other.ctx_ = std::make_unique<Context<D>>(options);
  other.model_ = model_;
  other.tokenizer_ = tokenizer_;
  other.chat_ = chat_;
  other.encoding_ = encoding_;
  other.before_ = before_;
  other.cache_name_ = cache_name_;
  return other;
}

template <Scalar T, Device D>
auto TextEncoder<T, D>::encode(const std::vector<std::string>& texts, const std::filesystem::path& cache,
                               const std::function<void(int64_t done, int64_t of)>& progress) -> std::vector<States> {
  std::map<std::string, std::vector<float>> raw;
  const auto file = cache.empty() ? cache : cache / cache_name();
  if (!cache.empty() && path_exists(file)) read_cache(file, texts, raw);
  std::vector<std::string> missing;
  for (const std::string& text : texts)
    if (raw.emplace(text, std::vector<float>()).second) missing.push_back(text);
  const auto at_once = encoding_.padded
                           ? std::max<std::size_t>(1, tokens_at_once / static_cast<std::size_t>(encoding_.longest))
                           : texts_at_once;
  for (std::size_t begin = 0; begin < missing.size(); begin += at_once) {
    const auto end = std::min(missing.size(), begin + at_once);
    compute(std::span(missing).subspan(begin, end - begin), raw);
    if (progress) progress(static_cast<int64_t>(end), static_cast<int64_t>(missing.size()));
  }
  if (!cache.empty() && !missing.empty()) write_cache(file, raw);

  std::map<std::string, States> ready;
  std::vector<States> result;
  for (const std::string& text : texts) {
    States& states = ready[text];
    if (!states) states = std::make_shared<const std::vector<float>>(standardised(std::move(raw[text])));
    result.push_back(states);
  }
  return result;
}

template <Scalar T, Device D>
void TextEncoder<T, D>::standardise(const std::vector<std::string>& texts, const std::filesystem::path& cache,
                                    const std::function<void(int64_t done, int64_t of)>& progress) {
  encoding_.mean.clear();
  encoding_.scale.clear();
  const auto limit = std::exchange(encoding_.limit, std::numeric_limits<float>::infinity());
  const auto width = static_cast<std::size_t>(this->width());
  std::vector<double> sum(width), squares(width);
  double rows = 0;
  for (const States& states : encode(texts, cache, progress)) {
    for (std::size_t i = 0; i < states->size(); ++i) {
      const auto v = static_cast<double>((*states)[i]);
      sum[i % width] += v;
      squares[i % width] += v * v;
    }
    rows += static_cast<double>(states->size() / width);
  }
  encoding_.limit = limit;
  for (std::size_t c = 0; c < width; ++c) {
    const double mean = sum[c] / rows;
    encoding_.mean.push_back(static_cast<float>(mean));
    encoding_.scale.push_back(static_cast<float>(1 / std::sqrt(std::max(1e-12, squares[c] / rows - mean * mean))));
  }
}

template <Scalar T, Device D> std::vector<int32_t> TextEncoder<T, D>::tokens(const std::string& text) {
  const bool whole = model_->info().encoder;  // else it goes on behind `before`
  std::vector<int32_t> own;
  if (chat_) own = chat_->encode({{"user", text}}, {.thinking = encoding_.thinking});
  else own = tokenizer_->encode(whole ? text : " " + text, {.special = Special::as_text, .add_special_tokens = whole});
  if ((text.empty() && !chat_) || own.empty())
    throw Error("text encoder: a text is empty", "give each picture a caption.");
  if (const auto most = static_cast<std::size_t>(encoding_.longest); most && own.size() > most) {
    left_out_ += static_cast<int64_t>(own.size() - most);
    const auto last = own.back();
    own.resize(most);
    if (whole && tokenizer_->add_eos()) own.back() = last;  // the end is still said
  }
  own.insert(own.begin(), before_.begin(), before_.end());
  return own;
}

template <Scalar T, Device D>
void TextEncoder<T, D>::compute(std::span<const std::string> texts, std::map<std::string, std::vector<float>>& raw) {
  const NoGrad off(*ctx_);
  PackedTokens batch;
  for (const std::string& text : texts) {
    auto own = tokens(text);
    const auto padding = encoding_.padded ? encoding_.longest - static_cast<int64_t>(own.size()) : 0;
    own.insert(own.end(), static_cast<std::size_t>(padding), tokenizer_->pad());
    batch.add(own);
    if (encoding_.padded) batch.padding.push_back(padding);
  }
  batch.targets.clear();
  std::vector<std::vector<float>> of_layers;
  const auto keep = [&](const Tensor<T, D>& states) {
    of_layers.push_back(convert<float>(*ctx_, states).to_host(*ctx_));
  };
  if (encoding_.layers == std::vector<int64_t>{0}) keep(model_->hidden(*ctx_, batch, {}));
  else
    for (const auto& states : model_->hidden_after(*ctx_, batch, encoding_.layers)) keep(states);
  const auto C = static_cast<std::size_t>(model_->info().hidden_size), skip = before_.size();
  for (std::size_t i = 0; i < texts.size(); ++i) {
    auto& rows = raw[texts[i]];
    for (auto n = static_cast<std::size_t>(batch.starts[i]) + skip; n < static_cast<std::size_t>(batch.starts[i + 1]);
         ++n)
      for (const auto& states : of_layers)
        rows.insert(rows.end(), states.begin() + static_cast<std::ptrdiff_t>(n * C),
                    states.begin() + static_cast<std::ptrdiff_t>((n + 1) * C));
    const bool wide = detail::beyond_half(rows);
    for (float& v : rows)
      v = wide ? static_cast<float>(bfloat16(v)) : static_cast<float>(half(v));  // as a cache has them
  }
}

template <Scalar T, Device D> std::vector<float> TextEncoder<T, D>::standardised(std::vector<float> states) const {
  const std::size_t width = encoding_.mean.size();
  for (std::size_t i = 0; i < states.size(); ++i) {
    if (width) states[i] = (states[i] - encoding_.mean[i % width]) * encoding_.scale[i % width];
    if (encoding_.limit > 0) states[i] = std::clamp(states[i], -encoding_.limit, encoding_.limit);
  }
  return states;
}

template <Scalar T, Device D> std::string TextEncoder<T, D>::cache_name() {
  if (cache_name_.empty()) {
    uint64_t hash = fingerprint(std::as_bytes(std::span(encoding_.before)));
    std::vector<std::filesystem::path> files{path_};
    if (is_folder(path_)) {
      files = files_in(path_);
      std::erase_if(files, [](const auto& f) { return f.extension() != ".safetensors" && f.extension() != ".json"; });
    }
    for (const auto& file : files) hash = 31 * hash + fingerprint(MappedFile::open(file)->bytes());
    char text[64];
    if (encoding_.longest) hash = 31 * hash + static_cast<uint64_t>(encoding_.longest);
    if (encoding_.chat) hash = 31 * hash + 7 + (encoding_.thinking ? 2 : 0) + (encoding_.padded ? 1 : 0);
    for (std::size_t i = 1; i < encoding_.layers.size(); ++i)
      hash = 31 * hash + static_cast<uint64_t>(encoding_.layers[i]);
    std::snprintf(text, sizeof text, "text-states-%016llx-%lld.safetensors", static_cast<unsigned long long>(hash),
                  static_cast<long long>(encoding_.layers.front()));
    cache_name_ = text;
  }
  return cache_name_;
}

template <Scalar T, Device D>
void TextEncoder<T, D>::read_cache(const std::filesystem::path& path, const std::vector<std::string>& texts,
                                   std::map<std::string, std::vector<float>>& raw) {
  const auto file = SafetensorsFile::open(path);
  for (const std::string& text : texts) {
    if (!file.contains(text) || raw.contains(text)) continue;
    const Stored<Cpu> stored = file.tensor(text);
    if (stored.shape.rank() != 2 || stored.shape[0] < 1 || stored.shape[1] != width())
      throw Error(str(path.string(), ": ", quote(text), " is ", stored.shape, ", rows of ", width(), " were expected"),
                  "remove the file; it is made anew.");
    std::vector<float> values(static_cast<std::size_t>(stored.shape.count()));
    dequantise_row(stored.type, stored.data, 0, stored.shape.count(), values.data());
    raw.emplace(text, std::move(values));
  }
}

template <Scalar T, Device D>
void TextEncoder<T, D>::write_cache(const std::filesystem::path& path,
                                    const std::map<std::string, std::vector<float>>& raw) {
  std::optional<SafetensorsFile> old;
  if (path_exists(path)) old = SafetensorsFile::open(path);
  std::vector<TensorEntry> entries;
  std::vector<std::vector<std::byte>> bytes;
  for (const auto& [text, values] : raw) {
    const DType type = detail::beyond_half(values) ? DType::bf16 : DType::f16;
    const auto count = static_cast<int64_t>(values.size());
    auto& stored = bytes.emplace_back(static_cast<std::size_t>(storage_bytes(type, count)));
    quantise_row(type, values.data(), count, stored.data());
    entries.push_back({text, type, {count / width(), width()}, stored.data()});
  }
  if (old)
    for (const std::string& name : old->names())
      if (!raw.contains(name)) entries.push_back(entry(name, old->tensor(name)));
  make_folders(path.parent_path());
  write_safetensors(path, entries);
}

}  // namespace ft::inline FTLIB_ABI
