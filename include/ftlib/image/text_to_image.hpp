// image/text_to_image.hpp: TextToImage, a flow model of pictures with its context: opened, adapted, trained, saved,
// drawn from.
#pragma once
#include <ftlib/adapters/diffusers_lora.hpp>  // save_diffusers_lora, load_diffusers_lora
#include <ftlib/adapters/set.hpp>             // with_adapters, train_all, merge
#include <ftlib/image/flow.hpp>               // flow_loss, draw
#include <ftlib/train/trainable.hpp>          // Trainable

#include <filesystem>  // std::filesystem::path
#include <memory>      // std::unique_ptr
#include <optional>    // std::optional

namespace ft::inline FTLIB_ABI {

/// The linear layers that pictures pass, and those that modulate them: an adapter on these changes how things are drawn
/// and leaves alone what words mean, so that it holds for words that it was not trained with.
inline const Targets picture_layers{"img_embedder.proj1", "img_embedder.proj2", "img_qkv",
                                    "img_attn_proj",      "img_mlp.w1",         "img_mlp.w2",
                                    "img_mlp.w3",         "adaLN_modulation.1", "final_layer.linear"};

/// A text-to-image model on device D, computing in T: captions come as a text encoder's hidden states, pictures go as
/// (ch, S, S) floats in [-1, 1]. What ft::Trainer calls a model. Moves, does not copy.
template <Scalar T, Device D> class TextToImage : public Trainable<T, D> {
 public:
  using value_type = T;
  using device_type = D;
  /// The context's: threads on the CPU or the device's number, and the seed of what training draws.
  using Options = typename Context<D>::Options;

  /// Opens a file that save() wrote, or a published one; weights stay mapped as they are stored, and are frozen.
  static TextToImage from_pretrained(const std::filesystem::path& path, const Options& options = {},
                                     const FlowOptions& flow = {}) {
    TextToImage model(options, flow);
    model.net_ = std::make_unique<MMJiT<T, D>>(MMJiT<T, D>::open(*model.ctx_, path));
    return model;
  }
  /// A new model, all of it trainable.
  static TextToImage initial(const MMJiTConfig& config, uint64_t seed, const Options& options = {},
                             const FlowOptions& flow = {}) {
    TextToImage model(options, flow);
    model.net_ = std::make_unique<MMJiT<T, D>>(MMJiT<T, D>::initial(*model.ctx_, config, seed));
    return model;
  }

  Context<D>& context() override { return *ctx_; }
  MMJiT<T, D>& network() { return *net_; }
  const MMJiTConfig& config() const { return net_->config(); }
  /// Every parameter once, adapters' included.
  std::vector<Parameter<T, D>*> parameters() override { return with_adapters<T, D>(base_parameters()); }

  /// Freezes the model and hangs a LoRA onto it: only the adapter learns.
  void attach(const Lora& lora) {
    detach();
    ft::attach<T, D>(*ctx_, base_parameters(), lora);
    lora_ = lora;
  }
  /// Full fine-tuning: every weight is brought into the compute type and learns.
  void train_all() {
    ft::train_all<T, D>(*ctx_, base_parameters());
    lora_.reset();
  }
  /// Takes the adapter off; the model draws as before.
  void detach() {
    ft::detach<T, D>(base_parameters());
    lora_.reset();
  }
  /// Folds the adapter into the weights, which are in the compute type from then on.
  void merge() {
    ft::merge<T, D>(*ctx_, base_parameters());
    lora_.reset();
  }

  /// Writes the adapter as diffusers does, into a folder or to a .safetensors file.
  void save_adapter(const std::filesystem::path& path) {
    if (!lora_) throw Error(path.string() + ": there is no adapter to save", "attach one, or call save.");
    save_diffusers_lora<T, D>(*ctx_, path, base_parameters(), *lora_, net_->file_shapes());
  }
  /// Reads a diffusers adapter. `strength` scales what it adds, for drawing: 0 is the base, 1 the adapter as trained.
  void load_adapter(const std::filesystem::path& path, float strength = 1) {
    lora_ = load_diffusers_lora<T, D>(*ctx_, path, base_parameters());
    for (auto& [w, lora] : detail::lora_adapters<T, D>(base_parameters())) lora->scale *= strength;
  }
  /// Writes the whole model to one safetensors file; an adapter must be merged first. See MMJiT::save.
  void save(const std::filesystem::path& path, DType type = DType::f32,
            const std::map<std::string, std::string>& metadata = {}) {
    net_->save(*ctx_, path, type, metadata);
  }

  /// The sum over a batch's pictures of their losses: what the trainer asks for.
  Tensor<T, D> loss_sum(const FlowBatch& batch, bool recompute = false) {
    return flow_loss(*ctx_, *net_, batch, flow_, recompute);
  }
  /// What a Trainer asks: micro-batches are FlowBatches.
  Loss<T, D> loss_sum(const MicroBatch& micro, bool recompute) override {
    return loss_sum(micro_cast<FlowBatch>(micro), recompute);
  }
  void describe(Description& d) const override {
    if (lora_) ft::describe(d, *lora_);
    d.add("flow.time_mu", flow_.time_mu);
    d.add("flow.time_sigma", flow_.time_sigma);
    d.add("flow.eps", flow_.eps);
    d.add("flow.caption_drop", flow_.caption_drop);
  }
  /// Pictures under a caption and a seed each, (B, ch, S, S). See ft::draw.
  std::vector<float> draw(const PackedText& captions, const std::vector<uint64_t>& seeds,
                          const DrawOptions& options = {}, const std::function<void(const DrawStep&)>& on_step = {}) {
    return ft::draw(*ctx_, *net_, captions, seeds, options, on_step);
  }

 private:
  TextToImage(const Options& options, const FlowOptions& flow)
      : ctx_(std::make_unique<Context<D>>(options)), flow_(flow) {}

  std::vector<Parameter<T, D>*> base_parameters() {
    std::vector<Parameter<T, D>*> all;
    net_->visit([&](Parameter<T, D>& w) { all.push_back(&w); });
    return all;
  }

  std::unique_ptr<Context<D>> ctx_;
  std::unique_ptr<MMJiT<T, D>> net_;
  FlowOptions flow_;
  std::optional<Lora> lora_;
};

}  // namespace ft::inline FTLIB_ABI
