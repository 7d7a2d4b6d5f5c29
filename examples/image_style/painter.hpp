// examples/image_style/painter.hpp: a base with the language model that reads its captions: what learns and draws.
//
// A base is a folder with model.safetensors, whose metadata hold the text encoding and the style of its own drawings,
// and a model card. The language model is a file of its own; see tools/fetch_model. An adapter is a folder with
// pytorch_lora_weights.safetensors, as diffusers writes it, and style.json, which names its style and says the words
// that call it: the base's own, where the adapter takes their place, or new ones. A finisher may lie beside them in
// finisher.safetensors: a small network of the same kind, which has seen pictures of the style alone and no words. It
// draws the last part of the way: by then it is settled what the picture shows, and not how it is painted.
#pragma once
#include "data.hpp"

#include <ftlib/image/flow_data.hpp>
#include <ftlib/image/text_to_image.hpp>
#include <ftlib/io/atomic_file.hpp>
#include <ftlib/text/text_encoder.hpp>

#include <algorithm>    // std::max, std::min
#include <cstdint>      // std::int64_t, std::uint64_t
#include <cstdlib>      // std::strtof
#include <filesystem>   // std::filesystem::path
#include <functional>   // std::function
#include <iostream>     // std::cerr
#include <map>          // std::map
#include <optional>     // std::optional
#include <span>         // std::span
#include <string>       // std::string
#include <string_view>  // std::string_view
#include <utility>      // std::move
#include <vector>       // std::vector

namespace image_style {

using Model = ft::TextToImage<float, ft::Cpu>;
using Encoder = ft::TextEncoder<float, ft::Cpu>;

/// "dog face", "painterly style" -> "dog face, painterly style": how prepare's captions are written.
inline std::string in_style(const std::string& subject, const std::string& style) {
  return style.empty() ? subject : subject + ", " + style;
}

/// Where tools/fetch_model puts the text model of the committed base.
inline constexpr const char* default_text_model = "build/models/SmolLM2-135M-Instruct.Q4_1.gguf";

/// What an application draws with where nobody says otherwise; measured in docs/image_style.md.
inline constexpr ft::DrawOptions default_drawing{.steps = 12, .solver = ft::Solver::euler, .guidance = 1.0f};

class Painter {
 public:
  /// A base folder, or its file; `text_model` is a GGUF file or Hugging Face folder.
  static Painter open(const std::filesystem::path& base, const std::filesystem::path& text_model, int threads = 0,
                      std::uint64_t seed = 0, const ft::FlowOptions& flow = {}) {
    const auto file = file_of(base);
    if (!std::filesystem::exists(text_model))
      throw Error(str(text_model.string(), ": there is no such text model"),
                  "tools/fetch_model en fetches the one of the bundled base.");
    const auto metadata = ft::SafetensorsFile::open(file).metadata();
    const auto entry = metadata.find(encoding_key);
    if (entry == metadata.end())
      throw Error(str(file.string(), ": does not say how its captions are read"),
                  "give a base that `image_style pretrain` made.");
    auto encoding = ft::TextEncoding::from_json(ft::parse_json(entry->second, file.string()), file.string());
    const auto style = metadata.find(style_key);
    return {Model::from_pretrained(file, {.threads = threads, .seed = seed}, flow),
            Encoder::open(text_model, std::move(encoding), threads), style == metadata.end() ? "" : style->second};
  }
  /// `style` calls the base's own drawings.
  Painter(Model model, Encoder encoder, std::string style)
      : model_(std::move(model)), encoder_(std::move(encoder)), base_style_(std::move(style)) {
    style_ = words_ = base_style_;
    if (model_.config().txt_input_size != encoder_.width())
      throw Error(str("base: reads captions of width ", model_.config().txt_input_size, ", the text model has ",
                      encoder_.width()),
                  "give the language model that the base was trained with: tools/fetch_model en.");
  }

  Model& model() { return model_; }
  /// A finisher that has learned nothing yet, for drawings in the loaded adapter's style; takes over at time `begins`,
  /// in (0, 1).
  Model& new_finisher(float begins, std::uint64_t seed, const ft::FlowOptions& flow) {
    const auto& base = model_.config();
    const auto patch = std::max<std::int64_t>(1, base.patch_size / 2);
    const ft::MMJiTConfig config{.image_size = base.image_size,
                                 .in_channels = base.in_channels,
                                 .patch_size = patch,
                                 .pca_channels = base.in_channels * patch * patch,
                                 .hidden_size = 96,
                                 .txt_input_size = 1,
                                 .txt_preamble_depth = 0,
                                 .depth_double = 3,
                                 .num_heads = 2,
                                 .head_dim = 48,
                                 .prompt_length = 1,
                                 .noise_scale = base.noise_scale,
                                 .conditioning = ft::Conditioning::adaln_zero};
    finisher_ = Model::initial(config, seed, {.threads = threads(), .seed = seed}, flow);
    finisher_->train_all();
    finisher_begins_ = begins;
    return *finisher_;
  }
  Encoder& encoder() { return encoder_; }
  /// The style of the loaded adapter, as its data name it, or of the base: "painterly style".
  const std::string& style() const { return style_; }
  /// What calls it in a prompt.
  const std::string& words() const { return words_; }
  const std::string& base_style() const { return base_style_; }
  int side() const { return static_cast<int>(model_.config().image_size); }

  /// Hangs an adapter onto the base in place of the one before. `strength` scales it: 0 the base, 1 as trained; below
  /// 1 its finisher, where there is one and it is wanted, takes over later.
  void load_adapter(const std::filesystem::path& folder, float strength = 1, bool finished = true) {
    remove_adapter();
    for (const auto& warning : model_.load_adapter(folder, strength)) std::cerr << "warning: " << warning << '\n';
    if (finished && strength > 0 && std::filesystem::exists(finisher_of(folder))) load_finisher(folder, strength);
    if (const auto file = folder / "style.json"; std::filesystem::exists(file)) {
      const auto json = ft::read_json(file);
      style_ = ft::at<std::string>(json, "style", file.string());
      words_ = json.contains("words") ? ft::at<std::string>(json, "words", file.string()) : style_;
    }
  }
  /// A finisher in the folder, which was for the adapter before, goes.
  void save_adapter(const std::filesystem::path& folder, const std::string& style, const std::string& words) {
    model_.save_adapter(folder);
    std::filesystem::remove(finisher_of(folder));
    ft::write_atomically(folder / "style.json", ft::Json{{"style", style}, {"words", words}}.dump() + "\n");
  }
  /// Puts the finisher that has learned beside the adapter in `folder`.
  void save_finisher(const std::filesystem::path& folder) {
    finisher_->save(finisher_of(folder), ft::DType::f16, {{begins_key, ft::str(finisher_begins_)}});
  }
  void remove_adapter() {
    model_.detach();
    finisher_.reset();
    style_ = words_ = base_style_;
  }

  /// A picture for each caption and seed; one depends on its own alone. A finisher takes twice as many steps more.
  /// `on_step` sees them as they come out of the noise. Not for two threads at once.
  std::vector<Picture> draw(
      const std::vector<std::string>& captions, const std::vector<std::uint64_t>& seeds,
      const ft::DrawOptions& options = default_drawing,
      const std::function<void(std::int64_t step, std::int64_t steps, const std::vector<Picture>& now)>& on_step = {}) {
    std::vector<Picture> drawn;
    const auto states = encoder_.encode(captions);
    for (std::size_t begin = 0; begin < captions.size(); begin += drawn_at_once) {
      const auto end = std::min(captions.size(), begin + drawn_at_once);
      ft::PackedText text;
      for (auto i = begin; i < end; ++i) text.add(*states[i], model_.config().txt_input_size);
      const std::vector<std::uint64_t> own(seeds.begin() + static_cast<std::ptrdiff_t>(begin),
                                           seeds.begin() + static_cast<std::ptrdiff_t>(end));
      const std::int64_t steps = finisher_ ? 3 * options.steps : options.steps;
      std::int64_t before = 0;
      const auto hear = [&](const ft::DrawStep& s) {
        if (on_step) on_step(before + s.step, steps, pictures(s.pictures));
      };
      auto part = options;
      if (finisher_) part.to = finisher_begins_;
      auto values = model_.draw(text, own, part, hear);
      if (finisher_) {
        before = options.steps;
        part.from = part.to;
        part.to = 1;
        part.steps = 2 * options.steps;  // details take more of them than the whole; they cost a third of the base's
        part.guidance = 1;
        part.eps = 0;  // its steps end nearer to the picture than those of a whole drawing
        ft::PackedText none;
        for (auto i = begin; i < end; ++i) none.add({}, 1);
        values = ft::denoise(finisher_->context(), finisher_->network(), none, std::move(values), part, hear);
      }
      for (auto& picture : pictures(values)) drawn.push_back(std::move(picture));
    }
    return drawn;
  }

  /// The whole model as a base, in f16; `style` calls what it draws.
  void save(const std::filesystem::path& folder, const std::string& style) {
    std::filesystem::create_directories(folder);
    model_.save(folder / "model.safetensors", ft::DType::f16,
                {{encoding_key, encoder_.encoding().to_json().dump()}, {style_key, style}});
  }

  /// Pictures (N, 3, S, S) as a model gives them.
  std::vector<Picture> pictures(std::span<const float> values) const {
    std::vector<Picture> all;
    for (const auto each = static_cast<std::size_t>(model_.config().picture_values()); !values.empty();
         values = values.subspan(each))
      all.push_back(Data::to_picture(values.first(each), side()));
    return all;
  }

  static std::filesystem::path finisher_of(const std::filesystem::path& adapter) {
    return adapter / "finisher.safetensors";
  }
  static std::filesystem::path file_of(const std::filesystem::path& base) {
    return ft::is_folder(base) ? base / "model.safetensors" : base;
  }

 private:
  static constexpr const char *encoding_key = "text_encoding", *style_key = "style", *begins_key = "begins";
  static constexpr std::size_t drawn_at_once = 32;

  int threads() { return model_.context().threads(); }

  void load_finisher(const std::filesystem::path& folder, float strength) {
    const auto file = finisher_of(folder);
    const auto metadata = ft::SafetensorsFile::open(file).metadata();
    const auto entry = metadata.find(begins_key);
    const float begins = entry == metadata.end() ? 0 : std::strtof(entry->second.c_str(), nullptr);
    if (!(begins > 0 && begins < 1))
      throw Error(str(file.string(), ": does not say at which time it takes over"),
                  "make it anew: image_style finish.");
    auto finisher = Model::from_pretrained(file, {.threads = threads()});
    if (const auto its = finisher.config().image_size; its != side())
      throw Error(str(file.string(), ": draws ", its, " x ", its, ", the base ", side(), " x ", side()),
                  "make it anew: image_style finish.");
    finisher_ = std::move(finisher);
    finisher_begins_ = 1 - (1 - begins) * std::min(strength, 1.0f);
  }

  Model model_;
  std::optional<Model> finisher_;
  float finisher_begins_ = 1;
  Encoder encoder_;
  std::string base_style_, style_, words_;
};

/// Samples as a trainer takes them, with captions beside.
struct Examples {
  std::vector<ft::FlowExample> flow;
  std::vector<std::string> captions;
};
/// The rows of a prepared folder; hidden states come from, or go to, a cache in it. Captions are as prepared, or, with
/// `words`, the subject with these for its style.
inline Examples examples_of(const Data& data, const std::filesystem::path& folder,
                            const std::vector<std::int64_t>& rows, Encoder& encoder, const std::string& words = {},
                            const std::function<void(std::int64_t, std::int64_t)>& progress = {}) {
  Examples examples;
  for (const auto row : rows) {
    const Sample& sample = data.samples()[static_cast<std::size_t>(row)];
    examples.captions.push_back(words.empty() ? sample.caption : in_style(sample.subject(), words));
  }
  const auto states = encoder.encode(examples.captions, folder, progress);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    std::vector<float> picture(static_cast<std::size_t>(3 * data.side() * data.side()));
    data.read(rows[i], picture);
    examples.flow.push_back({data.samples()[static_cast<std::size_t>(rows[i])].file, std::move(picture), states[i]});
  }
  return examples;
}

}  // namespace image_style
