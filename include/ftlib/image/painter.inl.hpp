// image/painter.inl.hpp: the bodies of image/painter.hpp.
#pragma once
#include <ftlib/image/painter.hpp>
#include <ftlib/image/text_to_image.inl.hpp>  // model_file_of
#include <ftlib/io/atomic_file.hpp>           // write_atomically
#include <ftlib/io/json.hpp>                  // read_json
#include <ftlib/io/mapped_file.hpp>           // MappedFile
#include <ftlib/io/safetensors.hpp>           // SafetensorsFile

#include <algorithm>  // std::max, std::min
#include <cstdio>     // std::snprintf
#include <cstdlib>    // std::strtof

namespace ft::inline FTLIB_ABI {

namespace detail {

inline constexpr const char* adapter_style_file = "style.json";

/// Tells bases apart: of the file's size, its first MiB, which has the header, and its last.
FTLIB_INLINE std::string base_mark(const std::filesystem::path& file) {
  const auto mapped = MappedFile::open(file);
  const auto bytes = mapped->bytes();
  const auto some = std::min<std::size_t>(bytes.size(), std::size_t{1} << 20);
  const uint64_t hash = 31 * (31 * fingerprint(bytes.first(some)) + fingerprint(bytes.last(some))) + bytes.size();
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
         !path_exists(folder / "model.safetensors");
}

/// The language model that lies beside a base's file, or in the pipeline that it is the transformer of.
FTLIB_INLINE std::filesystem::path text_model_in(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> places{folder};
  if (folder.filename() == "transformer")
    for (const char* up : {"..", "../.."}) places.push_back(folder / up);
  for (const auto& place : places)
    for (const char* name : {"text_encoder", "text_encoder.gguf"})
      if (path_exists(place / name)) return place / name;
  return {};
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
  const auto metadata = SafetensorsFile::open(file).metadata();
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
  Painter painter(std::move(model), Encoder::open(reader, std::move(encoding), options),
                  style == metadata.end() ? "" : style->second, options);
  painter.base_ = file;
  return painter;
}

template <Scalar T, Device D>
Painter<T, D>::Painter(Model model, Encoder encoder, std::string style, const Options& options)
    : options_(options), model_(std::move(model)), encoder_(std::move(encoder)), base_style_(std::move(style)) {
  style_ = words_ = base_style_;
  if (model_.info().text_width != encoder_.width())
    throw Error(
        str("base: reads captions of width ", model_.info().text_width, ", the text model has ", encoder_.width()),
        "give the language model that the base was trained with: tools/fetch_model en.");
}

template <Scalar T, Device D> Painter<T, D> Painter<T, D>::session(const Options& options) {
  Painter other(model_.session(options), encoder_.session(options), base_style_, options);
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
  for (const CaptionedPicture& p : pictures) {
    if (p.text.empty()) throw Error(str("picture '", p.id, "' has no words"), "say what it shows: \"dog face\".");
    detail::check_picture_size(p.id, p.picture.size(), info());
    captions.push_back(in_style(p.text, style.value_or(words_)));
  }
  const auto states = encoder_.encode(captions, cache, progress);
  std::vector<FlowExample> examples;
  for (std::size_t i = 0; i < pictures.size(); ++i)
    examples.push_back({std::move(pictures[i].id), std::move(pictures[i].picture), states[i]});
  return examples;
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
  for (std::size_t begin = 0; begin < captions.size(); begin += drawn_at_once) {
    const auto end = std::min(captions.size(), begin + drawn_at_once);
    PackedText text;
    for (auto i = begin; i < end; ++i) text.add(*states[i], model_.info().text_width);
    const std::vector<uint64_t> own(seeds.begin() + static_cast<std::ptrdiff_t>(begin),
                                    seeds.begin() + static_cast<std::ptrdiff_t>(end));
    int64_t before = 0;
    const auto hear = [&](const DrawStep& s) {
      if (on_step) {
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
    for (auto& picture : to_pictures(values, side())) drawn.push_back(std::move(picture));
  }
  return drawn;
}

}  // namespace ft::inline FTLIB_ABI
