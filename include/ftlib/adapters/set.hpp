// adapters/set.hpp: AdapterSet, the named adapters of a model: added, loaded, switched, weighed, merged, saved. All
// sessions of a model share one; which of them a session uses is the session's own.
#pragma once
#include <ftlib/adapters/config.hpp>   // Lora
#include <ftlib/adapters/data.hpp>     // AdapterData
#include <ftlib/core/description.hpp>  // Description
#include <ftlib/nn/adapter.hpp>        // Adapter, Overlay, AdaptersOff

#include <map>      // std::map
#include <memory>   // std::shared_ptr
#include <mutex>    // std::mutex
#include <set>      // std::set
#include <span>     // std::span
#include <string>   // std::string
#include <utility>  // std::pair
#include <vector>   // std::vector

namespace ft::inline FTLIB_ABI {

/// An adapter on a whole model. Frozen ones are only read, by any number of sessions; one that is trained belongs to
/// the session that trains it.
template <Scalar T, Device D> struct ModelAdapter {
  Lora config;
  std::string base;  // what the model that it was made for was called; may be empty
  // By Parameter::index; null where the weight stays as it is. The parts of a stack share one.
  std::vector<std::shared_ptr<Adapter<T, D>>> on;
  const Context<D>* trained_in = nullptr;  // the session that trains it; null: it is frozen

  void visit(const std::function<void(Parameter<T, D>&)>& f) const {
    std::set<const Adapter<T, D>*> seen;
    for (const auto& adapter : on)
      if (adapter && seen.insert(adapter.get()).second) adapter->visit(f);
  }
};

/// The adapters of a model, by name. May be used from many threads, each with its own session's context; what a session
/// uses stays as it was when use() took it, whatever happens to the name afterwards: a session in the middle of an
/// answer ends it with the adapter that it began with.
///
///     lm.adapters().put(ctx, "tenant", read_peft(folder));    // frozen
///     lm.adapters().use(ctx, "tenant");                       // one request, in microseconds
///     lm.adapters().use(ctx, {{"tenant", 0.7f}, {"tone", 0.3f}});
///     const AdaptersOff off(lm);                              // the base, until the end of the scope
template <Scalar T, Device D> class AdapterSet {
 public:
  using Strengths = std::map<std::string, float>;
  using Params = std::vector<Parameter<T, D>*>;

  /// Over a model's weights, which live as long and get their Parameter::index here. `tied` is the one that is both the
  /// embedding and the head, where there is such a one.
  explicit AdapterSet(Params base, const Parameter<T, D>* tied = nullptr);
  AdapterSet(const AdapterSet&) = delete;
  AdapterSet& operator=(const AdapterSet&) = delete;

  const Params& base() const { return base_; }
  std::vector<std::string> names() const;
  bool contains(const std::string& name) const;

  /// A new adapter, which this session trains; not in use yet. The base is frozen. One of that name is replaced, but
  /// for one that another session trains: that is an Error. Throws Error where no weight is meant, or the configuration
  /// makes no sense. Returns how many weights it changes.
  int add(Context<D>& ctx, const std::string& name, const Lora& config);
  /// Puts an adapter that was read into the set, frozen, under a name that is new or replaced at once. Returns what the
  /// caller should tell. Throws Error, and changes nothing, for tensors that match no weight (it says which, and how
  /// many of all), have no partner, have another shape, or hold a NaN or an infinity.
  std::vector<std::string> put(Context<D>& ctx, const std::string& name, const AdapterData& data);
  /// The opposite. Base weights that are trained beside the adapter are in it, as modules_to_save.
  AdapterData data(Context<D>& ctx, const std::string& name) const;
  /// A frozen copy of `from` as it now is, under the name `to`: how a session that trains swaps what it has into those
  /// that answer. With `share` less than 1 it is nearer to the base: W + share (W' - W).
  void copy(Context<D>& ctx, const std::string& from, const std::string& to, float share = 1);
  /// Lets this session train an adapter that is frozen: it gets a copy of its own, in use where the old one was.
  void train(Context<D>& ctx, const std::string& name);
  /// Makes an adapter weaker for good, W + share (W' - W), in memory of its own; whoever uses the old one keeps it.
  /// What was trained by this session still is.
  void interpolate(Context<D>& ctx, const std::string& name, float share);
  /// This session trains no adapter any longer: those that it did are frozen, and may be used by others.
  void freeze(Context<D>& ctx) noexcept;
  /// Forgets a name. Sessions that use the adapter keep it until they use another.
  void remove(const std::string& name);
  /// Forgets all that this session trains.
  void remove_trained(const Context<D>& ctx);

  /// What this session uses from now on: one adapter; a sum of several, each weight being W + sum of strength (W' - W);
  /// nothing, the base. Throws Error where a name is not known, or another session trains that adapter.
  void use(Context<D>& ctx, const std::string& name) { use(ctx, Strengths{{name, 1.0f}}); }
  void use(Context<D>& ctx, const Strengths& strengths);
  void use_base(Context<D>& ctx) { ctx.exchange_overlay(nullptr); }
  /// Adds what of the adapters in use decides a training's numbers, beside their weights.
  void describe(const Context<D>& ctx, Description& d) const;
  /// What it uses now.
  Strengths used(const Context<D>& ctx) const;

  /// The base's parameters, and behind them those of the adapters that the session uses.
  Params parameters(const Context<D>& ctx) const;
  /// The same, each of which keeps alive what it belongs to; `owner` keeps the base's.
  std::vector<std::shared_ptr<Parameter<T, D>>> shared_parameters(const Context<D>& ctx,
                                                                  const std::shared_ptr<void>& owner) const;

  /// Of the base those weights learn, beside what is in use, of which `which` says so; they are brought into the
  /// compute type. All or nothing: where memory runs out the model is what it was. Throws Error where none is meant, or
  /// one has an adapter in use. Weights must not be shared with other sessions.
  void train_base(Context<D>& ctx, const std::function<bool(const Parameter<T, D>&)>& which);
  /// The same with every weight and nothing in use: full fine-tuning.
  void train_all(Context<D>& ctx);
  /// W as what the session uses makes it, in the compute type and in memory of its own; empty where nothing changes it.
  Tensor<T, D> merged(Context<D>& ctx, const Parameter<T, D>& w) const;
  /// Folds what the session uses into the weights, which are in the compute type from then on; those names are
  /// forgotten, other adapters stay and add to the new weights. All or nothing, as train_all.
  void merge(Context<D>& ctx);

 private:
  struct InUse;  // the overlay that use() makes
  using Entry = std::shared_ptr<ModelAdapter<T, D>>;

  static const InUse* in_use_by(const Context<D>& ctx);
  Entry find(const std::string& name) const;
  Entry find_own(const Context<D>& ctx, const std::string& name, const char* what) const;
  void replace(const Context<D>& ctx, const std::string& name, Entry adapter);
  void freeze_base();
  Entry copy_of(Context<D>& ctx, const ModelAdapter<T, D>& adapter, float share) const;

  Params base_;
  const Parameter<T, D>* tied_;
  mutable std::mutex mutex_;
  std::map<std::string, Entry> named_;
};

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/adapters/set.inl.hpp>
#endif
