// text/text_encoder.inl.hpp: the bodies of text/text_encoder.hpp.
#pragma once
#include <ftlib/io/mapped_file.hpp>  // MappedFile
#include <ftlib/io/safetensors.hpp>  // SafetensorsFile, write_safetensors
#include <ftlib/text/opened.hpp>     // opened
#include <ftlib/text/prompt.hpp>     // Prompt
#include <ftlib/text/text_encoder.hpp>

#include <algorithm>  // std::clamp
#include <cmath>      // std::sqrt
#include <cstring>    // std::memcpy
#include <tuple>      // std::tie

namespace ft::inline FTLIB_ABI {

FTLIB_INLINE Json TextEncoding::to_json() const {
  Json json{{"layer", layer}, {"before", before}, {"mean", mean}, {"scale", scale}, {"limit", limit}};
  if (longest) json["longest"] = longest;
  return json;
}

FTLIB_INLINE TextEncoding TextEncoding::from_json(const Json& json, const std::string& file) {
  TextEncoding e{at<int64_t>(json, "layer", file),
                 at<std::string>(json, "before", file),
                 at<std::vector<float>>(json, "mean", file),
                 at<std::vector<float>>(json, "scale", file),
                 at<float>(json, "limit", file),
                 value_or<int64_t>(json, "longest", 0, file)};
  if (e.layer < 0 || e.mean.size() != e.scale.size() || !(e.limit >= 0) || e.longest < 0)
    throw Error(str(file, ": layer ", e.layer, ", mean of ", e.mean.size(), ", scale of ", e.scale.size(), ", limit ",
                    e.limit, " and longest ", e.longest, " make no sense"));
  return e;
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
  if (e.layer > layers || (!e.mean.empty() && e.mean.size() != width))
    throw Error(str(path.string(), ": has ", layers, " layers and width ", width, ", layer ", e.layer, " and width ",
                    e.mean.size(), " are asked for"),
                "give the language model that the captions were read with.");
  if (!encoder.model_->info().encoder) encoder.before_ = text::Prompt(*encoder.tokenizer_, {}).plain(e.before);
  else if (!e.before.empty())
    throw Error(str(path.string(), ": is an encoder, which reads texts alone, and ", quote(e.before),
                    " is to be read before them"),
                "leave it empty (image_style pretrain: --before \"\").");
  return encoder;
}

template <Scalar T, Device D> TextEncoder<T, D> TextEncoder<T, D>::session(const Options& options) {
  TextEncoder other;
  other.path_ = path_;
  other.ctx_ = std::make_unique<Context<D>>(options);
  other.model_ = model_;
  other.tokenizer_ = tokenizer_;
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
  for (std::size_t begin = 0; begin < missing.size(); begin += texts_at_once) {
    const auto end = std::min(missing.size(), begin + texts_at_once);
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
  auto own = tokenizer_->encode(whole ? text : " " + text, {.special = Special::as_text, .add_special_tokens = whole});
  if (text.empty() || own.empty()) throw Error("text encoder: a text is empty", "give each picture a caption.");
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
  for (const std::string& text : texts) batch.add(tokens(text));
  batch.targets.clear();
  const auto states =
      convert<float>(*ctx_, encoding_.layer == 0 ? model_->hidden(*ctx_, batch, {})
                                                 : model_->hidden_after(*ctx_, batch, {encoding_.layer}).front())
          .to_host(*ctx_);
  const auto C = static_cast<std::size_t>(width()), skip = before_.size();
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const auto begin = static_cast<std::size_t>(batch.starts[i]) + skip,
               end = static_cast<std::size_t>(batch.starts[i + 1]);
    for (std::size_t k = begin * C; k < end * C; ++k)  // as a cache gives them back
      raw[texts[i]].push_back(static_cast<float>(half(states[k])));
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
    std::snprintf(text, sizeof text, "text-states-%016llx-%lld.safetensors", static_cast<unsigned long long>(hash),
                  static_cast<long long>(encoding_.layer));
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
  std::vector<std::vector<half>> bytes;
  for (const auto& [text, values] : raw) {
    auto& stored = bytes.emplace_back();
    for (const float v : values) stored.emplace_back(v);
    entries.push_back({text, DType::f16, {static_cast<int64_t>(values.size()) / width(), width()}, stored.data()});
  }
  if (old)
    for (const std::string& name : old->names())
      if (!raw.contains(name)) entries.push_back(entry(name, old->tensor(name)));
  make_folders(path.parent_path());
  write_safetensors(path, entries);
}

}  // namespace ft::inline FTLIB_ABI
