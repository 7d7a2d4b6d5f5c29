// adapters/adapted.hpp: Adapted, what every model that a host touches can do with adapters: CausalLM and TextToImage.
#pragma once
#include <ftlib/adapters/set.hpp>      // AdapterSet
#include <ftlib/core/description.hpp>  // Description

#include <filesystem>  // std::filesystem::path
#include <functional>  // std::function
#include <memory>      // std::shared_ptr
#include <string>      // std::string
#include <utility>     // std::swap
#include <vector>      // std::vector

namespace ft::inline FTLIB_ABI {

struct SaveAdapterOptions {
  std::string base =
      {};  // what the file calls the base model; empty: what the adapter's file said, or the model's path
};

/// A session on a model: a context of its own over weights and adapters that are shared. One session is for one thread
/// at a time; sessions of one model answer side by side. Calls without a name are for the adapter "default", which a
/// program with one adapter never hears of.
template <Scalar T, Device D> class Adapted {
 public:
  using value_type = T;
  using device_type = D;
  using Options = typename Context<D>::Options;  // the CPU's threads or which GPU; the seed of dropout
  using Strengths = typename AdapterSet<T, D>::Strengths;

  Adapted(Adapted&&) noexcept = default;
  Adapted& operator=(Adapted&& other) noexcept {
    std::swap(ctx_, other.ctx_);
    std::swap(shared_, other.shared_);
    return *this;
  }
  /// What this session trains stays in the set, frozen.
  ~Adapted() {
    if (ctx_) adapters().freeze(*ctx_);
  }

  /// The context of this session.
  Context<D>& context() { return *ctx_; }
  /// The model's adapters, shared with all its sessions.
  AdapterSet<T, D>& adapters() { return shared_->adapters; }
  /// Every parameter once: the base's, and those of the adapters in use.
  std::vector<Parameter<T, D>*> parameters() { return adapters().parameters(*ctx_); }
  /// The same, each of which keeps alive what it belongs to, whatever becomes of the model or the adapter's name.
  std::vector<std::shared_ptr<Parameter<T, D>>> shared_parameters() {
    return adapters().shared_parameters(*ctx_, shared_->model);
  }

  /// Freezes the model and hangs a new adapter over it, which is in use from now on: only the adapter learns.
  void attach(const Lora& lora) { attach("default", lora); }
  void attach(const std::string& name, const Lora& lora);
  /// Full fine-tuning: no adapter is in use, every weight is brought into the compute type and learns. All or nothing.
  /// Throws Error while other sessions share the weights.
  void train_all();
  /// Those weights of the base learn, beside the adapter in use, of which `which` says so, and no others of the base:
  /// train([](const auto& w) { return w.name.ends_with("norm.weight"); }). Call it after attach(), which freezes the
  /// base. All or nothing. Throws Error where none is meant, one has an adapter in use, or other sessions share them.
  void train(const std::function<bool(const Parameter<T, D>&)>& which);
  /// No adapter is in use: the model answers as before. What this session used and trained, and "default", is
  /// forgotten.
  void detach();
  /// Folds the adapters in use into the weights, which are in the compute type from then on. All or nothing. Throws
  /// Error while other sessions share the weights.
  void merge();
  /// Goes back towards the base: `share` of what the adapter in use adds stays, 0 none of it, 1 all. A share of 0.6
  /// costs few of the answers that were learned and saves most of what was forgotten.    Wortsman et al.,
  /// arXiv:2109.01903
  void interpolate(float share);

  /// What is in use from now on: one adapter, or a sum of several: {{"tenant", 0.7f}, {"tone", 0.3f}}. Takes
  /// microseconds. Streams that have begun go on with what they began with.
  void use(const std::string& name) { adapters().use(*ctx_, name); }
  void use(const Strengths& strengths) { adapters().use(*ctx_, strengths); }
  void use_base() { adapters().use_base(*ctx_); }

  /// Adds what of the adapters in use decides a training's numbers, beside their weights.
  void describe(Description& d) const;

 protected:
  struct Shared {
    std::shared_ptr<void> model;
    AdapterSet<T, D> adapters;
    Shared(std::shared_ptr<void> model_, typename AdapterSet<T, D>::Params base, const Parameter<T, D>* tied)
        : model(std::move(model_)), adapters(std::move(base), tied) {}
  };

  /// The first session on a model.
  Adapted(std::unique_ptr<Context<D>> ctx, std::shared_ptr<void> model, typename AdapterSet<T, D>::Params base,
          const Parameter<T, D>* tied = nullptr)
      : ctx_(std::move(ctx)), shared_(std::make_shared<Shared>(std::move(model), std::move(base), tied)) {}
  /// A further one, in which no adapter is in use. Throws Error where base weights are trained.
  Adapted(std::unique_ptr<Context<D>> ctx, Adapted& other);

  const std::vector<Parameter<T, D>*>& base_parameters() { return adapters().base(); }
  /// The name of the one adapter that is in use at strength 1. Throws Error, saying what for, where there is none.
  std::string only_adapter(const std::string& what_for);
  AdapterData adapter_data(const std::string& what_for, const std::filesystem::path& model,
                           const SaveAdapterOptions& options);
  /// Puts an adapter into the set, to be trained on and in use. Returns what to tell.
  std::vector<std::string> take_adapter(const std::string& name, const AdapterData& data,
                                        const std::filesystem::path& model, float share = 1);

 private:
  void check_alone(const char* what);

  std::unique_ptr<Context<D>> ctx_;
  std::shared_ptr<Shared> shared_;
};

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/adapters/adapted.inl.hpp>
#endif
