// models/kit/denoiser.hpp: what models of pictures have in common: a noisy picture, a time and a caption in, the clean
// picture or the velocity out.
#pragma once
#include <ftlib/adapters/config.hpp>     // Targets
#include <ftlib/autograd/parameter.hpp>  // Parameter
#include <ftlib/core/error.hpp>          // Error
#include <ftlib/io/json_fwd.hpp>         // Json

#include <filesystem>  // std::filesystem::path
#include <functional>  // std::function
#include <map>         // std::map
#include <span>        // std::span
#include <string>      // std::string
#include <vector>      // std::vector

namespace ft::inline FTLIB_ABI {

/// Captions as a text encoder's hidden states, one after the other, without padding. A caption without rows is a
/// dropped one.
struct PackedText {
  std::vector<float> states = {};  // (Nt, W)
  std::vector<int64_t> starts{0};  // (B + 1)  caption i is rows [starts[i], starts[i + 1])

  int64_t captions() const { return static_cast<int64_t>(starts.size()) - 1; }
  /// Appends a caption of hidden states (rows, width); none: a dropped one.
  void add(std::span<const float> caption, int64_t width) {
    if (static_cast<int64_t>(caption.size()) % width)
      throw Error(str("caption: ", caption.size(), " values are no rows of width ", width),
                  "give the hidden states of the text encoder that the model was made for.");
    states.insert(states.end(), caption.begin(), caption.end());
    starts.push_back(starts.back() + static_cast<int64_t>(caption.size()) / width);
  }
};

/// What a network says of z = t x + (1 - t) s e, x a picture, e noise N(0, 1), s the noise scale; t runs from 0, noise,
/// to 1, picture, for all of them: one whose own time or sign runs the other way turns both in its forward.
enum class Predicts {
  picture,  // x
  velocity  // dz / dt = x - s e
};

/// What a host, the trainer and the sampler may ask of a denoiser.
struct DenoiserInfo {
  std::string model_type = {};
  int64_t channels = 3, side = 0;  // what it denoises is (channels, side, side)
  bool latents = false;            // of an autoencoder, which makes pictures of them
  int64_t text_width = 0;          // W, of the text encoder's hidden states
  bool dropped_is_empty = false;   // a dropped caption is the empty text's states: set_dropped()
  float noise_scale = 1;           // s
  Predicts predicts = Predicts::picture;
  // The linear layers that pictures pass, and those that modulate them: an adapter on these changes how things are
  // drawn and leaves alone what words mean, so that it holds for words that it was not trained with.
  Targets picture_layers = {};
  // How it is drawn from where nobody says.
  int64_t steps = 12;
  float guidance = 1;
  // Layers that its published files carry and never use: adapters' parts for them are left out.
  std::vector<std::string> unused = {};

  int64_t values() const { return channels * side * side; }
};

template <Scalar T, Device D> class Denoiser {
 public:
  virtual ~Denoiser() = default;

  virtual DenoiserInfo info() const = 0;
  /// As config.json says it, and as a file of its own carries it.
  virtual Json configuration() const = 0;
  /// How its captions are read where its file does not say (TextEncoding as JSON); null: it is not known.
  virtual Json text_encoding() const;
  /// What the network says of noisy pictures z at times t in [0, 1], under a caption each: (B, ch, S, S), (B), B
  /// captions -> (B, ch, S, S). With `recompute` only each block's input is kept, and blocks run again in backward.
  /// Throws Error where shapes do not fit.
  virtual Tensor<T, D> forward(Context<D>& ctx, const Tensor<T, D>& z, const std::vector<float>& t,
                               const PackedText& text, bool recompute = false) = 0;
  /// Every parameter once, in the checkpoint's order; adapters' not among them.
  virtual void visit(const std::function<void(Parameter<T, D>&)>& f) = 0;
  /// Shapes in a file of those weights that are matrices in here: convolutions.
  virtual const std::map<std::string, Shape>& file_shapes() const = 0;
  /// The time that a drawing of so many steps comes to when a share u of them is done; u itself: uniform times.
  virtual float time_of(float u, int64_t /*steps*/) const { return u; }
  /// What a dropped caption is to the network: hidden states (rows, W) of the empty one. Throws Error where the network
  /// has something of its own for it.
  virtual void set_dropped(std::vector<float> states);
  /// The configuration of a small network for the last part of the way, which sees pictures alone. Throws Error where
  /// there is none.
  virtual Json finisher() const;

  /// Writes what open_denoiser() reads, whole or not at all, as f32, f16 or bf16. An adapter must be merged first.
  /// `metadata` goes beside the configuration: whatever else belongs to the model.
  void save(Context<D>& ctx, const std::filesystem::path& path, DType type = DType::f32,
            std::map<std::string, std::string> metadata = {});

 protected:
  Denoiser() = default;
  Denoiser(Denoiser&&) = default;
  Denoiser& operator=(Denoiser&&) = default;
};

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/models/kit/denoiser.inl.hpp>
#endif
