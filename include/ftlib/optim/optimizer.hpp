// optim/optimizer.hpp: Optimizer, what gives trained parameters their step; and the bookkeeping that all of them share:
// state by parameter, groups, saving and loading.
//
// To add one, copy lion.hpp (settings and class), lion.cpu.hpp and lion.cuda.cuh (its arithmetic), and give it a line
// in optimizers.hpp.
#pragma once
#include <ftlib/autograd/parameter.hpp>  // Parameter
#include <ftlib/core/description.hpp>    // Description
#include <ftlib/optim/clip.hpp>          // StepCheck, Verdict
#include <ftlib/optim/share.hpp>         // Share

#include <functional>  // std::function
#include <map>         // std::map
#include <memory>      // std::shared_ptr
#include <span>        // std::span
#include <string>      // std::string
#include <vector>      // std::vector

namespace ft::inline FTLIB_ABI {

/// A parameter as rules for groups see it.
struct ParameterInfo {
  const std::string& name;
  WeightKind kind;
  const Shape& shape;
};

/// In what parameters differ from one another. LoRA+:
///
///     {.lr_scale = [](const ft::ParameterInfo& w) { return w.name.ends_with("lora_B.weight") ? 16.0f : 1.0f; }}
struct ParameterGroups {
  std::function<float(const ParameterInfo&)> lr_scale = {};  // what the learning rate is multiplied by; empty: 1
  std::function<bool(const ParameterInfo&)> decays = {};     // who has weight decay; empty: matrices
};

/// One array of an optimizer's state on the host, as a checkpoint holds it.
struct StateEntry {
  std::string name = {};  // "<parameter>.<what>"
  std::string type = {};  // as safetensors call it: F32, F64, U8, I64
  Shape shape = {};
  std::vector<std::byte> bytes = {};  // row-major; what save() gives of a parameter that is shared out: the share's
  std::string parameter = {};         // whose it is
  int64_t each = 0;                   // elements of the parameter that have one here; 0: it has one number in all
};

/// Gives parameters their steps. A parameter that is frozen or has no gradient is left alone. State is kept under the
/// parameter's name, so names must differ.
template <Scalar T, Device D> class Optimizer {
 public:
  using Params = std::span<Parameter<T, D>* const>;
  virtual ~Optimizer() = default;

  /// One step of all `params` with learning rate `lr`. Throws Error, and changes nothing, where two parameters have one
  /// name, or a trainable one is only stored in its file's type.
  void step(Context<D>& ctx, Params params, float lr) {
    update(ctx, params, lr, nullptr);
    count();
  }
  /// The same with gradients times the factor that `check` found; changes nothing where loss or norm is not finite. The
  /// device decides that by itself: the host waits for it once, at the end, for the verdict that is returned.
  Verdict step(Context<D>& ctx, Params params, float lr, const StepCheck<D>& check) {
    update(ctx, params, lr, check.get());
    const Verdict verdict = check.read(ctx);
    if (verdict.finite) count();
    return verdict;
  }

  /// From now on only these elements of the parameters with these names are changed, and have state; before the first
  /// step and load(). Another rank has the rest, so parameters without an element are among them. Throws Error where an
  /// optimizer cannot do so: one that is not by element.
  virtual void share_out(std::map<std::string, Share> shares) {
    if (!shares.empty())
      throw Error("optimizer: this one updates whole parameters, and ranks share them out",
                  "derive it from NamedStates, or start one rank.");
  }

  /// The most steps that any parameter has made.
  virtual int64_t steps() const = 0;
  /// Bytes of state that `params` take once each has had a gradient.
  virtual int64_t state_bytes(Params params) const = 0;
  /// All that a checkpoint has to hold, in the order of names.
  virtual std::vector<StateEntry> save(Context<D>& ctx) const = 0;
  /// The opposite: replaces all state by `entries`, which hold whole arrays, whatever is shared out. Throws Error, and
  /// changes nothing, where one belongs to no trainable parameter of `params`, is missing, or has another type or
  /// shape.
  virtual void load(Context<D>& ctx, Params params, const std::vector<StateEntry>& entries) = 0;

 protected:
  /// Changes the parameters, with gradients times the verdict's factor, unless the verdict is not finite; null:
  /// factor 1.
  virtual void update(Context<D>& ctx, Params params, float lr, const Verdict* verdict) = 0;
  /// The last update took place.
  virtual void count() = 0;
};

/// An optimizer that keeps the same few arrays for each parameter. What derives from it says which, and does the
/// arithmetic; names, counting, groups, saving and loading are here.
template <Scalar T, Device D> class NamedStates : public Optimizer<T, D> {
 public:
  using typename Optimizer<T, D>::Params;

  /// `name` is for messages.
  NamedStates(std::string name, ParameterGroups groups) : name_(std::move(name)), groups_(std::move(groups)) {}

  void share_out(std::map<std::string, Share> shares) override { shares_ = std::move(shares); }
  int64_t steps() const override;
  int64_t state_bytes(Params params) const override;
  std::vector<StateEntry> save(Context<D>& ctx) const override;
  void load(Context<D>& ctx, Params params, const std::vector<StateEntry>& entries) override;

 protected:
  /// An array that is kept for a parameter; `type` is F32, F64 or U8. One that ranks can share out has a number for
  /// `each` elements of the parameter, in their order; `each` divides squares_block.
  struct Array {
    const char* name;
    std::string_view type;
    Shape shape;
    int64_t each = 1;
  };
  /// A parameter's arrays, in the order of arrays(), and the steps that it has made.
  struct States {
    std::vector<std::shared_ptr<void>> arrays;
    int64_t steps = 0;
    uint64_t call = 0;  // the update that saw it last

    template <class V> V* data(std::size_t i) const { return static_cast<V*>(arrays[i].get()); }
  };
  /// A parameter that gets a step: `number` counts from 1, `rate` has the group's scale in it. Where ranks share
  /// parameters out, w is a rank's share, of one axis and maybe of no element: elements of `whole` from `begin` on.
  struct Item {
    Parameter<T, D>& w;
    const States& states;
    double rate, decay;  // weight decay's share of the rate: 1 where the parameter decays, else 0
    int64_t number;
    const Parameter<T, D>& whole;
    int64_t begin;
  };

  /// What is kept for w, always the same.
  virtual std::vector<Array> arrays(const Parameter<T, D>& w) const = 0;
  /// Fills new arrays, which are zeros.
  virtual void begin(Context<D>&, const Parameter<T, D>&, const States&) {}
  /// The step of all items; see Optimizer::update.
  virtual void apply(Context<D>& ctx, std::span<const Item> items, const Verdict* verdict) = 0;

  /// The word for the type that sums are kept in.
  static constexpr std::string_view wide = sizeof(accumulate_t<T>) == 8 ? "F64" : "F32";

 private:
  void update(Context<D>& ctx, Params params, float lr, const Verdict* verdict) override;
  void count() override;
  States& states_of(Context<D>& ctx, const Parameter<T, D>& w, const Parameter<T, D>& part);
  /// Where what is kept of an array lies in all of it.
  struct Place {
    std::size_t begin, bytes, all;
  };
  Place place_of(const std::string& parameter, int64_t count, const Array& array) const;

  std::string name_;
  ParameterGroups groups_;
  std::map<std::string, Share> shares_;
  struct Kept {
    States states;
    std::vector<Array> arrays;
    int64_t count;  // elements of the parameter
  };
  std::map<std::string, Kept> kept_;
  std::vector<States*> touched_;  // by the last update
  uint64_t calls_ = 0;
};

namespace detail {
/// Throws Error where a setting is out of its range.
void check_setting(bool holds, const char* optimizer, const char* name, float value, const char* range);
}  // namespace detail

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/optim/optimizer.inl.hpp>
#endif
