// image/painter.hpp: Painter, words in and pictures out: a TextToImage with the language model that reads its captions,
// an adapter and its finisher, in one object.
#pragma once
#include <ftlib/core/stop.hpp>               // StopToken
#include <ftlib/image/flow_data.hpp>         // FlowExample
#include <ftlib/image/picture.hpp>           // Picture
#include <ftlib/image/text_to_image.hpp>     // TextToImage
#include <ftlib/models/kit/autoencoder.hpp>  // Autoencoder
#include <ftlib/text/text_encoder.hpp>       // TextEncoder

#include <filesystem>  // std::filesystem::path
#include <functional>  // std::function
#include <optional>    // std::optional
#include <span>        // std::span
#include <string>      // std::string
#include <vector>      // std::vector

namespace ft::inline FTLIB_ABI {

/// "dog face", "painterly style" -> "dog face, painterly style": how captions are written.
inline std::string in_style(const std::string& subject, const std::string& style) {
  return style.empty() ? subject : subject + ", " + style;
}

/// How a Painter draws.
struct PaintOptions {
  std::vector<uint64_t> seeds = {};       // of the noise that each picture begins with; empty: 42, 43, ...
  std::optional<std::string> style = {};  // words behind each text; not given: Painter::words(); "": none
  std::optional<int64_t> steps = {};      // not given: the model's own; a finisher takes twice as many more
  Solver solver = Solver::euler;
  std::optional<float> guidance = {};  // how much more than usual the words count; 1: as usual, in half the time; not
                                       // given: the model's own
  StopToken stop = {};                 // another thread's request to end
};

/// Pictures on their way out of the noise; they live as long as the call that is told of them.
struct PaintStep {
  int64_t step, steps;  // this one, from 1; of all
  std::size_t first;    // the text that pictures[0] is of: some dozens are drawn at a time, of latents one
  const std::vector<Picture>& pictures;  // as the model sees them by now; of latents after the last step, else empty
};

/// A picture to learn, and words for what it shows.
struct CaptionedPicture {
  std::string id = {};              // for messages
  std::vector<float> picture = {};  // (3, S, S) in [-1, 1], see from_rgba
  std::string text = {};            // "dog face"
};

/// A base, what reads its captions, and what was tuned. One Painter is for one thread at a time; session() gives
/// another over the same weights.
///
/// A base is a folder with model.safetensors, whose metadata hold how its captions are read (TextEncoding) and the
/// words that call its own drawings, and the language model as `text_encoder/` or `text_encoder.gguf`; it may lie
/// elsewhere. Or it is a pipeline as diffusers lays it out, with a transformer that is known, and an autoencoder (vae/)
/// where that works on latents. An adapter is a folder
/// with pytorch_lora_weights.safetensors, as diffusers writes it, and style.json: its style, the words that call it
/// (the base's own, where the adapter takes their place, or new ones), and where its base and text model are. A
/// finisher may be in it: a small network which has seen pictures of the style alone and no words. It draws the last
/// part of the way: by then it is settled what the picture shows, and not how it is painted.
template <Scalar T, Device D> class Painter {
 public:
  using Model = TextToImage<T, D>;
  using Encoder = TextEncoder<T, D>;
  using Options = typename Context<D>::Options;

  /// Opens a base's folder or file, or an adapter's folder, which names its base. `text_model` is a GGUF file or a
  /// Hugging Face folder; empty: the one that lies in the base, or that the adapter names. Throws Error naming what is
  /// not there, or is something else: a language model, one's adapter, a diffusers pipeline.
  static Painter from_pretrained(const std::filesystem::path& folder, const std::filesystem::path& text_model = {},
                                 const Options& options = {}, const FlowOptions& flow = {});
  /// Of parts: for a new model. `style` calls its own drawings; a model of latents has an autoencoder. Throws Error
  /// where their widths differ.
  Painter(Model model, Encoder encoder, std::string style, const Options& options = {},
          std::shared_ptr<Autoencoder<T, D>> autoencoder = {});
  /// Another one on the same weights, with the adapter and finisher that this one has now. Throws Error where base
  /// weights are trained.
  Painter session(const Options& options = {});

  /// What learns, as ft::Trainer takes it: model().attach(...), then Trainer(model(), ...).fit(FlowData(examples(...),
  /// info())).
  Model& model() { return model_; }
  DenoiserInfo info() const { return model_.info(); }
  /// Pixels along a picture's side.
  int64_t side() const { return model_.info().side * (autoencoder_ ? autoencoder_->info().pixels : 1); }
  Encoder& encoder() { return encoder_; }

  /// Pictures with their captions' hidden states, as FlowData takes them. `style`: words behind each text; not given:
  /// words(). With a `cache`, a folder, hidden states are kept there, and latents where the model learns those. Throws
  /// Error for a picture of another size, and an empty text.
  std::vector<FlowExample> examples(std::vector<CaptionedPicture> pictures,
                                    const std::optional<std::string>& style = {},
                                    const std::filesystem::path& cache = {},
                                    const std::function<void(int64_t done, int64_t of)>& progress = {});

  /// The style of the loaded adapter, as its data name it, or of the base: "painterly style".
  const std::string& style() const { return style_; }
  /// What calls it in a prompt.
  const std::string& words() const { return words_; }
  /// What calls the base's own drawings.
  const std::string& base_style() const { return base_style_; }

  /// Hangs an adapter onto the base in place of the one before. `strength` scales it: 0 the base, 1 as trained; below
  /// 1 its finisher, where there is one and it is wanted, takes over later. Returns what the caller should tell. Throws
  /// Error, and has no adapter then, where it does not fit.
  std::vector<std::string> load_adapter(const std::filesystem::path& folder, float strength = 1, bool finished = true);
  /// Draws as the base again.
  void remove_adapter();
  /// Writes the adapter in use, with style.json, into `folder`. A finisher in the folder, which was for the adapter
  /// before, goes. `words`: what calls the style; empty: the base's own.
  void save_adapter(const std::filesystem::path& folder, const std::string& style, const std::string& words = {});
  /// Writes the whole model as a base, in f16; `style` calls what it draws. The language model is not copied.
  void save(const std::filesystem::path& folder, const std::string& style);

  /// A finisher that has learned nothing yet, for drawings in the loaded adapter's style; takes over at time `begins`,
  /// in (0, 1). Its captions are empty: FlowExamples with no rows.
  Model& new_finisher(float begins, uint64_t seed, const FlowOptions& flow = {});
  /// Puts the finisher beside the adapter in `folder`. Throws Error where there is none.
  void save_finisher(const std::filesystem::path& folder);
  bool has_finisher() const { return finisher_.has_value(); }

  /// A picture for each text. One depends on its own text and seed alone, but for rounding. `on_step` sees them as they
  /// come out of the noise; what it throws ends the drawing, and so does a request to stop, with Interrupted. Throws
  /// Error for an empty text, and where there are seeds and not one for each.
  std::vector<Picture> draw(const std::vector<std::string>& texts, const PaintOptions& options = {},
                            const std::function<void(const PaintStep&)>& on_step = {});

  /// The language model that lies in a base's folder or pipeline; empty where none does.
  static std::filesystem::path text_model_of(const std::filesystem::path& base);
  /// What opening has to tell.
  const std::vector<std::string>& notes() const { return notes_; }

  static std::filesystem::path finisher_of(const std::filesystem::path& adapter) {
    return adapter / "finisher.safetensors";
  }

 private:
  static constexpr const char *encoding_key = "text_encoding", *style_key = "style", *begins_key = "begins";
  static constexpr std::size_t drawn_at_once = 32;

  void load_finisher(const std::filesystem::path& file, float strength);
  void to_latents(std::vector<FlowExample>& examples, const std::filesystem::path& cache);
  /// What the model draws, (N, ch, S, S), as pictures.
  std::vector<Picture> seen(const std::vector<float>& values);

  Options options_;  // of the finisher's context
  Model model_;
  std::optional<Model> finisher_;
  float finisher_begins_ = 1;
  Encoder encoder_;
  std::shared_ptr<Autoencoder<T, D>> autoencoder_;  // of a model of latents
  std::string autoencoder_mark_;                    // tells it from others, for the cache
  std::filesystem::path base_;                      // the file; empty: a new model
  std::string base_style_, style_, words_;
  std::vector<std::string> notes_;
};

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/image/painter.inl.hpp>
#endif
