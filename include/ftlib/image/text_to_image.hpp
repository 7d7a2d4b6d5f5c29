// image/text_to_image.hpp: TextToImage, a flow model of pictures with its context: opened, adapted, trained, saved,
// drawn from.
#pragma once
#include <ftlib/adapters/adapted.hpp>  // Adapted
#include <ftlib/image/flow.hpp>        // flow_loss, draw
#include <ftlib/train/trainable.hpp>   // Trainable

#include <filesystem>  // std::filesystem::path
#include <functional>  // std::function
#include <map>         // std::map
#include <memory>      // std::shared_ptr
#include <string>      // std::string
#include <vector>      // std::vector

namespace ft::inline FTLIB_ABI {

/// A text-to-image model on device D, computing in T: captions come as a text encoder's hidden states, pictures go as
/// (ch, S, S) floats in [-1, 1]. What ft::Trainer calls a model, and a session on it (adapters/adapted.hpp). Moves,
/// does not copy; session() gives another one.
template <Scalar T, Device D> class TextToImage : public Adapted<T, D>, public Trainable<T, D> {
 public:
  using value_type = T;
  using device_type = D;
  using typename Adapted<T, D>::Options;

  /// Opens a file that save() wrote, or a published one, or the folder that it lies in as model.safetensors or
  /// diffusion_pytorch_model.safetensors, in one file or in several with their index; weights stay mapped as they are
  /// stored, and are frozen. Throws Error saying what the path is where it is something else. Painter opens the reader
  /// of its captions too.
  static TextToImage from_pretrained(const std::filesystem::path& path, const Options& options = {},
                                     const FlowOptions& flow = {});
  /// A new model from a configuration (model_type and the sizes: MMJiTConfig::to_json), all of it trainable.
  static TextToImage initial(const Json& configuration, uint64_t seed, const Options& options = {},
                             const FlowOptions& flow = {});
  /// Another session on the same weights and adapters, in which no adapter is in use. See CausalLM::session.
  TextToImage session(const Options& options = {}) { return {*this, options}; }

  Context<D>& context() override { return Adapted<T, D>::context(); }
  std::vector<Parameter<T, D>*> parameters() override { return Adapted<T, D>::parameters(); }
  Denoiser<T, D>& network() { return *net_; }
  /// What it draws and reads, and the layers that pictures pass: attach({.targets = info().picture_layers}).
  DenoiserInfo info() const { return net_->info(); }

  /// Writes the adapter in use as diffusers does, into a folder or to a .safetensors file.
  void save_adapter(const std::filesystem::path& path);
  /// Reads a diffusers adapter, which is in use and can be trained on. `strength` scales what it adds: 0 is the base, 1
  /// the adapter as trained; saving it again saves it so. Returns what the caller should tell.
  std::vector<std::string> load_adapter(const std::filesystem::path& path, float strength = 1);
  /// Writes the whole model to one safetensors file; an adapter in use must be merged first. See Denoiser::save.
  void save(const std::filesystem::path& path, DType type = DType::f32,
            const std::map<std::string, std::string>& metadata = {});

  /// The sum over a batch's pictures of their losses: what the trainer asks for.
  Tensor<T, D> loss_sum(const FlowBatch& batch, bool recompute = false) {
    return flow_loss(this->context(), *net_, batch, flow_, recompute);
  }
  /// What a Trainer asks: micro-batches are FlowBatches.
  Loss<T, D> loss_sum(const MicroBatch& micro, bool recompute) override {
    return loss_sum(micro_cast<FlowBatch>(micro), recompute);
  }
  void describe(Description& d) const override {
    Adapted<T, D>::describe(d);
    d.add("flow.time_mu", flow_.time_mu);
    d.add("flow.time_sigma", flow_.time_sigma);
    d.add("flow.eps", flow_.eps);
    d.add("flow.caption_drop", flow_.caption_drop);
  }
  /// Pictures under a caption and a seed each, (B, ch, S, S). See ft::draw.
  std::vector<float> draw(const PackedText& captions, const std::vector<uint64_t>& seeds,
                          const DrawOptions& options = {}, const std::function<void(const DrawStep&)>& on_step = {}) {
    return ft::draw(this->context(), *net_, captions, seeds, options, on_step);
  }

 private:
  TextToImage(std::unique_ptr<Context<D>> ctx, std::shared_ptr<Denoiser<T, D>> net, const FlowOptions& flow);
  TextToImage(TextToImage& other, const Options& options);

  std::shared_ptr<Denoiser<T, D>> net_;
  FlowOptions flow_;
};

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/image/text_to_image.inl.hpp>
#endif
