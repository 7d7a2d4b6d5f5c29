// text/text_encoder.inl.hpp: the bodies of text/text_encoder.hpp.
#pragma once
#include <ftlib/io/mapped_file.hpp>  // MappedFile
#include <ftlib/io/safetensors.hpp>  // SafetensorsFile, write_safetensors
#include <ftlib/text/text_encoder.hpp>

#include <algorithm>  // std::clamp
#include <cmath>      // std::sqrt
#include <cstring>    // std::memcpy

namespace ft::inline FTLIB_ABI {

FTLIB_INLINE Json TextEncoding::to_json() const {
  return {{"layer", layer}, {"before", before}, {"mean", mean}, {"scale", scale}, {"limit", limit}};
}

FTLIB_INLINE TextEncoding TextEncoding::from_json(const Json& json, const std::string& file) {
  TextEncoding e{at<int64_t>(json, "layer", file), at<std::string>(json, "before", file),
                 at<std::vector<float>>(json, "mean", file), at<std::vector<float>>(json, "scale", file),
                 at<float>(json, "limit", file)};
  if (e.layer < 1 || e.mean.size() != e.scale.size() || !(e.limit > 0))
    throw Error(str(file, ": layer ", e.layer, ", mean of ", e.mean.size(), ", scale of ", e.scale.size(),
                    " and limit ", e.limit, " make no sense"));
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
  TextEncoder encoder{CausalLM<T, D>::from_pretrained(path, options), std::move(encoding)};
  const auto width = static_cast<std::size_t>(encoder.width());
  const auto& e = encoder.encoding_;
  const auto layers = encoder.lm_.model().info().num_hidden_layers;
  if (e.layer > layers || (!e.mean.empty() && e.mean.size() != width))
    throw Error(str(path.string(), ": has ", layers, " layers and width ", width, ", layer ", e.layer, " and width ",
                    e.mean.size(), " are asked for"),
                "give the language model that the captions were read with.");
  encoder.before_ = encoder.lm_.encode(e.before);
  return encoder;
}

template <Scalar T, Device D> TextEncoder<T, D> TextEncoder<T, D>::session(const Options& options) {
  TextEncoder other{lm_.session(options), encoding_};
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

template <Scalar T, Device D>
void TextEncoder<T, D>::compute(std::span<const std::string> texts, std::map<std::string, std::vector<float>>& raw) {
  const NoGrad off(lm_.context());
  PackedTokens batch;
  for (const std::string& text : texts) {
    const auto own = lm_.tokenizer().encode(" " + text, {.special = Special::as_text});
    if (text.empty() || own.empty()) throw Error("text encoder: a text is empty", "give each picture a caption.");
    auto ids = before_;
    ids.insert(ids.end(), own.begin(), own.end());
    batch.add(ids);
  }
  batch.targets.clear();
  const auto states =
      convert<float>(lm_.context(), lm_.model().hidden_after(lm_.context(), batch, {encoding_.layer}).front())
          .to_host(lm_.context());
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
    states[i] = std::clamp(states[i], -encoding_.limit, encoding_.limit);
  }
  return states;
}

template <Scalar T, Device D> std::string TextEncoder<T, D>::cache_name() {
  if (cache_name_.empty()) {
    uint64_t hash = fingerprint(std::as_bytes(std::span(encoding_.before)));
    std::vector<std::filesystem::path> files{lm_.path()};
    if (is_folder(lm_.path())) {
      files = files_in(lm_.path());
      std::erase_if(files, [](const auto& f) { return f.extension() != ".safetensors" && f.extension() != ".json"; });
    }
    for (const auto& file : files) hash = 31 * hash + fingerprint(MappedFile::open(file)->bytes());
    char text[64];
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
