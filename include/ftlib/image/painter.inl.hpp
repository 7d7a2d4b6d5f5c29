// image/painter.inl.hpp: the bodies of image/painter.hpp.
#pragma once
#include <ftlib/image/flow_data.inl.hpp>  // check_picture_size
#include <ftlib/image/painter.hpp>
#include <ftlib/image/text_to_image.inl.hpp>          // model_file_of
#include <ftlib/io/atomic_file.hpp>                   // write_atomically
#include <ftlib/io/json.hpp>                          // read_json
#include <ftlib/io/mapped_file.hpp>                   // MappedFile
#include <ftlib/io/safetensors.hpp>                   // SafetensorsFile, SafetensorsModel, write_safetensors
#include <ftlib/models/kit/autoencoder_registry.hpp>  // open_autoencoder
#include <ftlib/models/kit/denoiser.inl.hpp>          // upload_floats
#include <ftlib/models/kit/denoiser_file.hpp>         // open_tensors, tensors_in
#include <ftlib/tensor/copy.hpp>                      // convert

#include <algorithm>  // std::max, std::min
#include <cstdio>     // std::snprintf
#include <cstdlib>    // std::strtof

namespace ft::inline FTLIB_ABI {

namespace detail {

inline constexpr const char* adapter_style_file = "style.json";

/// Tells bases apart: of the file's size, its first MiB, which has the header, and its last; of an index, of all the
/// files that it names, for indices of different weights are alike.
FTLIB_INLINE std::string base_mark(const std::filesystem::path& file) {
  uint64_t hash = 0;
  const SafetensorsModel tensors = open_tensors(file);
  for (const SafetensorsFile& part : tensors.files()) {
    const auto mapped = MappedFile::open(part.file_name());
    const auto bytes = mapped->bytes();
    const auto some = std::min<std::size_t>(bytes.size(), std::size_t{1} << 20);
    hash = 31 * hash + 31 * (31 * fingerprint(bytes.first(some)) + fingerprint(bytes.last(some))) + bytes.size();
  }
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(hash));
  return text;
}

/// How `file` is called in a file of `folder`, so that both can be moved together.
FTLIB_INLINE std::string seen_from(const std::filesystem::path& folder, const std::filesystem::path& file) {
  std::error_code error;
  const auto near = std::filesystem::relative(file, folder, error);
  return (error || near.empty() ? file : near).generic_string();
}

/// What style.json says of an adapter; nothing where there is no such file.
struct AdapterStyle {
  std::string style, words, base, base_mark, text_model, finisher;
};
FTLIB_INLINE std::optional<AdapterStyle> read_adapter_style(const std::filesystem::path& folder) {
  const auto file = folder / adapter_style_file;
  if (!path_exists(file)) return std::nullopt;
  const Json json = read_json(file);
  const auto word = [&](const char* key) { return value_or<std::string>(json, key, "", file.string()); };
  AdapterStyle s{at<std::string>(json, "style", file.string()),
                 word("words"),
                 word("base"),
                 word("base_mark"),
                 word("text_model"),
                 word("finisher")};
  if (!json.contains("words")) s.words = s.style;
  return s;
}
FTLIB_INLINE void write_adapter_style(const std::filesystem::path& folder, const AdapterStyle& s) {
  Json json{{"style", s.style}, {"words", s.words}};
  for (const auto& [key, value] : {std::pair("base", &s.base), std::pair("base_mark", &s.base_mark),
                                   std::pair("text_model", &s.text_model), std::pair("finisher", &s.finisher)})
    if (!value->empty()) json[key] = *value;
  write_atomically(folder / adapter_style_file, json.dump() + "\n");
}

/// Is the folder an adapter of a picture model, and not a model?
FTLIB_INLINE bool is_adapter_folder(const std::filesystem::path& folder) {
  return is_folder(folder) && path_exists(folder / "pytorch_lora_weights.safetensors") &&
         tensors_in(folder, "model").empty();
}

/// What lies beside a base's file under one of these names, or in the pipeline that it is the transformer of.
FTLIB_INLINE std::filesystem::path part_in(const std::filesystem::path& folder,
                                           std::initializer_list<const char*> names) {
  std::vector<std::filesystem::path> places{folder};
  if (folder.filename() == "transformer")
    for (const char* up : {"..", "../.."}) places.push_back(folder / up);
  for (const auto& place : places)
    for (const char* name : names)
      if (path_exists(place / name)) return place / name;
  return {};
}
/// The language model that reads a base's captions.
FTLIB_INLINE std::filesystem::path text_model_in(const std::filesystem::path& folder) {
  return part_in(folder, {"text_encoder", "text_encoder.gguf"});
}

}  // namespace detail

template <Scalar T, Device D>
[[gnu::cold]] Painter<T, D> Painter<T, D>::from_pretrained(const std::filesystem::path& folder,
                                                           const std::filesystem::path& text_model,
                                                           const Options& options, const FlowOptions& flow) {
  if (detail::is_adapter_folder(folder)) {
    const auto style = detail::read_adapter_style(folder);
    if (!style || style->base.empty())
      throw Error(str(folder.string(), ": is an adapter, and ", style ? "its style.json" : "without a style.json it",
                      " does not say of which base"),
                  "open the base, then load_adapter(\"" + folder.string() + "\").");
    const auto base = folder / style->base;
    if (!path_exists(base))
      throw Error(str(folder.string(), ": is an adapter of the base ", quote(style->base), ", which is not there"),
                  "style.json names it as seen from the adapter's folder; open the base, then load_adapter().",
                  ErrorKind::bad_file);
    auto reader = text_model;
    if (reader.empty() && detail::text_model_in(is_folder(base) ? base : base.parent_path()).empty() &&
        !style->text_model.empty())
      reader = folder / style->text_model;
    auto painter = from_pretrained(base, reader, options, flow);
    for (auto& note : painter.load_adapter(folder)) painter.notes_.push_back(std::move(note));
    return painter;
  }
  const auto file = reading_file([&] { return detail::model_file_of(folder); });
  const auto metadata = reading_file([&] { return open_tensors(file).metadata(); });
  const auto entry = metadata.find(encoding_key);
  auto model = Model::from_pretrained(file, options, flow);
  const Json read =
      entry == metadata.end() ? model.network().text_encoding() : parse_json(entry->second, file.string());
  if (read.is_null())
    throw Error(str(file.string(), ": does not say how its captions are read: its metadata have no 'text_encoding'"),
                "open it as a TextToImage and give it captions' hidden states, or give a base that `image_style "
                "pretrain` or Painter::save made.",
                ErrorKind::bad_file);
  auto encoding = TextEncoding::from_json(read, file.string());
  const auto reader = text_model.empty() ? detail::text_model_in(file.parent_path()) : text_model;
  if (reader.empty())
    throw Error(
        str(file.parent_path().string(), ": holds no text_encoder and no text_encoder.gguf, and no text model ",
            "was given"),
        "give the language model that the base was trained with; tools/fetch_model en fetches the bundled base's.");
  if (!path_exists(reader))
    throw Error(str(reader.string(), ": there is no such text model"),
                "tools/fetch_model en fetches the one of the bundled base.", ErrorKind::bad_file);
  const auto style = metadata.find(style_key);
  std::shared_ptr<Autoencoder<T, D>> autoencoder;
  const auto vae = detail::part_in(file.parent_path(), {"vae"});
  if (model.info().latents) {
    if (vae.empty())
      throw Error(str(file.string(), ": works on latents, and there is no autoencoder (vae/) beside it"),
                  "give the whole pipeline's folder.", ErrorKind::bad_file);
    autoencoder = reading_file([&] { return open_autoencoder<T>(model.context(), vae); });
  }
  Painter painter(std::move(model), Encoder::open(reader, std::move(encoding), options),
                  style == metadata.end() ? "" : style->second, options, autoencoder);
  painter.base_ = file;
  if (painter.info().dropped_is_empty) painter.model_.network().set_dropped(*painter.encoder_.encode({""}).front());
  if (autoencoder) painter.autoencoder_mark_ = detail::base_mark(tensors_in(vae, "diffusion_pytorch_model"));
  return painter;
}

template <Scalar T, Device D>
Painter<T, D>::Painter(Model model, Encoder encoder, std::string style, const Options& options,
                       std::shared_ptr<Autoencoder<T, D>> autoencoder)
    : options_(options),
      model_(std::move(model)),
      encoder_(std::move(encoder)),
      autoencoder_(std::move(autoencoder)),
      base_style_(std::move(style)) {
  style_ = words_ = base_style_;
  if (model_.info().text_width != encoder_.width())
    throw Error(
        str("base: reads captions of width ", model_.info().text_width, ", the text model has ", encoder_.width()),
        "give the language model that the base was trained with: tools/fetch_model en.");
  if (model_.info().latents != bool(autoencoder_) ||
      (autoencoder_ && autoencoder_->info().channels != model_.info().channels))
    throw Error(
        str("base: works on ", model_.info().channels, " channels of ", model_.info().latents ? "latents" : "pictures",
            ", the autoencoder makes ", autoencoder_ ? autoencoder_->info().channels : 0),
        "a model of latents has the autoencoder that it was trained with, another none.");
}

template <Scalar T, Device D> Painter<T, D> Painter<T, D>::session(const Options& options) {
  Painter other(model_.session(options), encoder_.session(options), base_style_, options, autoencoder_);
  const auto used = model_.adapters().used(model_.context());
  typename Model::Strengths copies;
  for (const auto& [name, strength] : used) {  // what this one may train no other may use, but for a copy
    model_.adapters().copy(model_.context(), name, name + " of sessions");
    copies[name + " of sessions"] = strength;
  }
  if (!copies.empty()) other.model_.use(copies);
  if (finisher_) other.finisher_ = finisher_->session(options);
  other.finisher_begins_ = finisher_begins_;
  other.base_ = base_;
  other.autoencoder_mark_ = autoencoder_mark_;
  other.style_ = style_;
  other.words_ = words_;
  return other;
}

template <Scalar T, Device D>
std::vector<FlowExample> Painter<T, D>::examples(std::vector<CaptionedPicture> pictures,
                                                 const std::optional<std::string>& style,
                                                 const std::filesystem::path& cache,
                                                 const std::function<void(int64_t, int64_t)>& progress) {
  std::vector<std::string> captions;
  DenoiserInfo pixels = info();
  pixels.side = side();
  if (autoencoder_) pixels.channels = 3;
  for (const CaptionedPicture& p : pictures) {
    if (p.text.empty()) throw Error(str("picture '", p.id, "' has no words"), "say what it shows: \"dog face\".");
    detail::check_picture_size(p.id, p.picture.size(), pixels);
    captions.push_back(in_style(p.text, style.value_or(words_)));
  }
  const auto states = encoder_.encode(captions, cache, progress);
  std::vector<FlowExample> examples;
  for (std::size_t i = 0; i < pictures.size(); ++i)
    examples.push_back({std::move(pictures[i].id), std::move(pictures[i].picture), states[i]});
  if (autoencoder_) to_latents(examples, cache);
  return examples;
}

template <Scalar T, Device D>
void Painter<T, D>::to_latents(std::vector<FlowExample>& examples, const std::filesystem::path& cache) {
  Context<D>& ctx = model_.context();
  const NoGrad off(ctx);
  const Shape latents{info().channels, info().side, info().side};
  const auto file = cache.empty() ? cache : cache / ("latents-" + autoencoder_mark_ + ".safetensors");
  std::map<std::string, std::vector<float>> known;  // by the picture's content
  if (!cache.empty() && path_exists(file)) {
    const auto kept = SafetensorsFile::open(file);
    for (const std::string& name : kept.names()) {
      const Stored<Cpu> stored = kept.tensor(name);
      if (stored.shape != latents) continue;  // of another size
      auto& values = known[name];
      values.resize(static_cast<std::size_t>(latents.count()));
      dequantise_row(stored.type, stored.data, 0, latents.count(), values.data());
    }
  }
  const auto before = known.size();
  for (FlowExample& e : examples) {
    char key[17];
    std::snprintf(key, sizeof key, "%016llx",
                  static_cast<unsigned long long>(fingerprint(std::as_bytes(std::span(e.picture)))));
    auto& values = known[key];
    if (values.empty())
      values = convert<float>(ctx, autoencoder_->encode(ctx, upload_floats<T>(ctx, {1, 3, side(), side()}, e.picture)))
                   .to_host(ctx);
    e.picture = values;
  }
  if (cache.empty() || known.size() == before) return;
  std::vector<TensorEntry> entries;
  for (const auto& [name, values] : known) entries.push_back({name, DType::f32, latents, values.data()});
  make_folders(cache);
  write_safetensors(file, entries);
}

template <Scalar T, Device D> std::vector<Picture> Painter<T, D>::seen(const std::vector<float>& values) {
  if (!autoencoder_) return to_pictures(values, side());
  Context<D>& ctx = model_.context();
  const NoGrad off(ctx);
  std::vector<Picture> pictures;
  const auto each = static_cast<std::size_t>(info().values());
  for (std::size_t at = 0; at < values.size(); at += each) {  // one at a time: the decoder takes memory by pixels
    const std::vector<float> one(values.begin() + static_cast<std::ptrdiff_t>(at),
                                 values.begin() + static_cast<std::ptrdiff_t>(at + each));
    const auto decoded =
        autoencoder_->decode(ctx, upload_floats<T>(ctx, {1, info().channels, info().side, info().side}, one));
    for (auto& picture : to_pictures(convert<float>(ctx, decoded).to_host(ctx), side()))
      pictures.push_back(std::move(picture));
  }
  return pictures;
}

template <Scalar T, Device D>
[[gnu::cold]] std::vector<std::string> Painter<T, D>::load_adapter(const std::filesystem::path& folder, float strength,
                                                                   bool finished) {
  remove_adapter();
  const auto style = is_folder(folder) ? detail::read_adapter_style(folder) : std::nullopt;
  auto notes = model_.load_adapter(folder, strength);
  try {
    const bool named = style && !style->finisher.empty();
    const auto finisher = named ? folder / style->finisher : finisher_of(folder);
    if (finished && strength > 0 && (named || path_exists(finisher))) load_finisher(finisher, strength);
  } catch (...) {
    remove_adapter();
    throw;
  }
  if (!style) {
    notes.push_back(str(folder.string(), ": has no style.json, so the base's words call it: '", words_, "'"));
    return notes;
  }
  style_ = style->style;
  words_ = style->words;
  if (!style->base_mark.empty() && !base_.empty() && style->base_mark != detail::base_mark(base_))
    notes.push_back(str(folder.string(), ": was trained on another base",
                        style->base.empty() ? "" : " (" + style->base + ")", " than ", base_.string()));
  return notes;
}

template <Scalar T, Device D>
[[gnu::cold]] std::filesystem::path Painter<T, D>::text_model_of(const std::filesystem::path& base) {
  return reading_file([&] { return detail::text_model_in(detail::model_file_of(base).parent_path()); });
}

template <Scalar T, Device D> void Painter<T, D>::remove_adapter() {
  model_.detach();
  finisher_.reset();
  style_ = words_ = base_style_;
}

template <Scalar T, Device D>
[[gnu::cold]] void Painter<T, D>::save_adapter(const std::filesystem::path& folder, const std::string& style,
                                               const std::string& words) {
  model_.save_adapter(folder);
  std::error_code ignored;
  std::filesystem::remove(finisher_of(folder), ignored);
  detail::AdapterStyle s{style, words.empty() ? base_style_ : words, {}, {}, {}, {}};
  if (!base_.empty()) {
    s.base = detail::seen_from(folder, base_);
    s.base_mark = detail::base_mark(base_);
    s.text_model = detail::seen_from(folder, encoder_.path());
  }
  detail::write_adapter_style(folder, s);
}

template <Scalar T, Device D>
[[gnu::cold]] void Painter<T, D>::save(const std::filesystem::path& folder, const std::string& style) {
  make_folders(folder);
  model_.save(folder / "model.safetensors", DType::f16,
              {{encoding_key, encoder_.encoding().to_json().dump()}, {style_key, style}});
}

template <Scalar T, Device D>
auto Painter<T, D>::new_finisher(float begins, uint64_t seed, const FlowOptions& flow) -> Model& {
  if (!(begins > 0 && begins < 1))
    throw Error(str("a finisher that begins at time ", begins), "0 is noise, 1 the picture: give a time between.");
  auto options = options_;
  options.seed = seed;
  finisher_ = Model::initial(model_.network().finisher(), seed, options, flow);
  finisher_->train_all();
  finisher_begins_ = begins;
  return *finisher_;
}

template <Scalar T, Device D> [[gnu::cold]] void Painter<T, D>::save_finisher(const std::filesystem::path& folder) {
  if (!finisher_) throw Error(folder.string() + ": there is no finisher to save", "new_finisher() makes one to train.");
  const auto file = finisher_of(folder);
  make_folders(folder);
  finisher_->save(file, DType::f16, {{begins_key, str(finisher_begins_)}});
  if (auto style = detail::read_adapter_style(folder)) {
    style->finisher = file.filename().string();
    detail::write_adapter_style(folder, *style);
  }
}

template <Scalar T, Device D>
[[gnu::cold]] void Painter<T, D>::load_finisher(const std::filesystem::path& file, float strength) {
  const auto metadata = SafetensorsFile::open(file).metadata();
  const auto entry = metadata.find(begins_key);
  const float begins = entry == metadata.end() ? 0 : std::strtof(entry->second.c_str(), nullptr);
  if (!(begins > 0 && begins < 1))
    throw Error(str(file.string(), ": does not say at which time it takes over"), "make it anew: image_style finish.",
                ErrorKind::bad_file);
  auto options = options_;
  options.seed = 0;
  auto finisher = Model::from_pretrained(file, options);
  if (const auto its = finisher.info().side; its != side())
    throw Error(str(file.string(), ": draws ", its, " x ", its, ", the base ", side(), " x ", side()),
                "make it anew: image_style finish.", ErrorKind::bad_file);
  finisher_ = std::move(finisher);
  finisher_begins_ = 1 - (1 - begins) * std::min(strength, 1.0f);
}

template <Scalar T, Device D>
std::vector<Picture> Painter<T, D>::draw(const std::vector<std::string>& texts, const PaintOptions& options,
                                         const std::function<void(const PaintStep&)>& on_step) {
  auto seeds = options.seeds;
  if (seeds.empty())
    for (std::size_t i = 0; i < texts.size(); ++i) seeds.push_back(42 + i);
  if (seeds.size() != texts.size())
    throw Error(str("draw: ", texts.size(), " texts and ", seeds.size(), " seeds"),
                "give a seed for each text, or none at all.");
  std::vector<std::string> captions;
  for (const std::string& text : texts) {
    if (text.find_first_not_of(" \t\r\n") == text.npos)
      throw Error(str("draw: text ", captions.size() + 1, " of ", texts.size(), " is empty"), "say what to draw.");
    captions.push_back(in_style(text, options.style.value_or(words_)));
  }
  std::vector<Picture> drawn;
  const auto states = encoder_.encode(captions);
  const int64_t steps = options.steps.value_or(info().steps), all_steps = finisher_ ? 3 * steps : steps;
  const std::size_t at_once = info().latents ? 1 : drawn_at_once;  // one of latents is work enough
  for (std::size_t begin = 0; begin < captions.size(); begin += at_once) {
    const auto end = std::min(captions.size(), begin + at_once);
    PackedText text;
    for (auto i = begin; i < end; ++i) text.add(*states[i], model_.info().text_width);
    const std::vector<uint64_t> own(seeds.begin() + static_cast<std::ptrdiff_t>(begin),
                                    seeds.begin() + static_cast<std::ptrdiff_t>(end));
    int64_t before = 0;
    std::vector<Picture> finished;  // of latents
    const auto hear = [&](const DrawStep& s) {
      const bool done = before + s.step == all_steps;
      if (autoencoder_ && done) finished = seen(s.pictures);  // decoded once
      if (on_step && autoencoder_) on_step({before + s.step, all_steps, begin, finished});
      else if (on_step) {
        const auto now = to_pictures(s.pictures, side());
        on_step({before + s.step, all_steps, begin, now});
      }
      if (options.stop.stop_requested())
        throw Interrupted(str("draw: stopped after step ", before + s.step, " of ", all_steps));
    };
    DrawOptions part;
    part.steps = steps;
    part.solver = options.solver;
    part.guidance = options.guidance.value_or(info().guidance);
    if (finisher_) part.to = finisher_begins_;
    auto values = model_.draw(text, own, part, hear);
    if (finisher_) {
      before = steps;
      part.from = part.to;
      part.to = 1;
      part.steps = 2 * steps;  // details take more of them than the whole; they cost a third of the base's
      part.guidance = 1;
      part.eps = 0;  // its steps end nearer to the picture than those of a whole drawing
      PackedText none;
      for (auto i = begin; i < end; ++i) none.add({}, 1);
      values = denoise(finisher_->context(), finisher_->network(), none, std::move(values), part, hear);
    }
    if (!autoencoder_) finished = to_pictures(values, side());
    for (auto& picture : finished) drawn.push_back(std::move(picture));
  }
  return drawn;
}

}  // namespace ft::inline FTLIB_ABI
