// autograd/tape.hpp: reverse-mode differentiation. Ops record a rule each while a Tape lives; backward() runs the rules
// in reverse.
//
// The house's one rule on gradients: parameters' gradients are ADDED to (accumulation over micro-batches is free),
// activations' gradients are ASSIGNED. Where an activation feeds several ops the tape adds up their shares, so that a
// kernel never needs to know. Gradients are contiguous, whatever the strides of the tensor were.
#pragma once
#include <ftlib/autograd/parameter.hpp>
#include <ftlib/tensor/copy.hpp>  // accumulate

#include <atomic>            // std::atomic
#include <functional>        // std::function
#include <initializer_list>  // std::initializer_list
#include <type_traits>       // std::type_identity_t
#include <utility>           // std::exchange
#include <vector>            // std::vector

namespace ft::inline FTLIB_ABI {

template <Scalar T, Device D> class Gradients;

namespace detail {
/// Serial numbers of tapes, unique in the process: a tensor of another model's tape is told from this one's. Of 40
/// bits, which at a thousand tapes a second last 35 years. One of the library's few mutable globals.
inline std::atomic<uint64_t> tape_serials{0};
inline uint64_t next_tape_serial() { return tape_serials.fetch_add(1, std::memory_order_relaxed) + 1; }
}  // namespace detail

/// Something that a gradient may flow to: a recorded tensor, or a trainable parameter.
struct TapeInput {
  uint64_t node = 0;
  bool parameter = false;

  TapeInput() = default;
  template <Element T> TapeInput(const TensorId<T>& x) : node(x.node) {}
  template <Element T, Device D> TapeInput(const Tensor<T, D>& x) : node(x.node()) {}
  template <Scalar T, Device D> TapeInput(const Parameter<T, D>& w) : parameter(w.trainable) {}
  template <Scalar T, Device D> TapeInput(const Parameter<T, D>* w) : parameter(w && w->trainable) {}
};

/// Hears which parameters' gradients a backward pass adds to, from tapes inside rules (recompute) too. What it throws
/// ends the pass.
class GradientListener {
 public:
  virtual ~GradientListener() = default;
  /// A rule is going to add to this parameter's gradient.
  virtual void touched(const void* parameter) = 0;
  /// A rule has run: what it has touched is added.
  virtual void rule_done() = 0;
};

/// Records ops from its construction to its end, and differentiates what they computed:
///
///     Tape tape(ctx);
///     auto loss = model.loss(ctx, batch);
///     tape.backward(loss);              // parameters' gradients have been added to
///
/// Tapes nest (recompute does that); the innermost records. Memory that a rule holds is freed as soon as it has run.
/// A tape holds its context for the thread that made it: what another one begins or records meanwhile is an Error.
template <Device D> class Tape {
 public:
  /// `listener` may be null, and hears of backward(). Throws Error where another thread uses the context.
  explicit Tape(Context<D>& ctx, GradientListener* listener = nullptr)
      : ctx_(ctx),
        guard_(ctx),
        serial_(detail::next_tape_serial()),
        outer_(ctx.exchange_tape(this)),
        listener_(listener) {}
  ~Tape() { ctx_.exchange_tape(outer_); }
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  /// Makes x a leaf whose gradient gradient(x) returns after backward.
  template <Scalar T> void watch(Tensor<T, D>& x) {
    x.set_node(new_node());
    slots_.back().keep = true;
  }

  /// Runs every rule that y depends on, last first, with dy as the gradient of y (1 where y has one element and none is
  /// given). Once per tape. Throws Error where y was not recorded on this tape.
  template <Scalar T> void backward(const Tensor<T, D>& y) {
    if (y.count() != 1)
      throw Error(str("backward: shape ", y.shape(), " is no scalar"),
                  "give the gradient of the result: backward(y, dy).");
    Tensor<T, D> dy(ctx_, y.shape());
    fill(ctx_, dy.view(), T(1.0f));
    backward(y, dy);
  }
  template <Scalar T> void backward(const Tensor<T, D>& y, const Tensor<T, D>& dy) {
    backward(std::vector<Tensor<T, D>>{y}, {dy});
  }
  /// The same of several results at once; a gradient may be empty, where nothing came of its result.
  template <Scalar T>
  void backward(const std::vector<Tensor<T, D>>& ys, const std::vector<std::type_identity_t<Tensor<T, D>>>& dys) {
    if (ran_)
      throw Error("backward: this tape has run already",
                  "its rules were freed as they ran; record the forward pass again.");
    for (std::size_t i = 0; i < ys.size(); ++i) {
      const Tensor<T, D>&y = ys[i], &dy = dys.at(i);
      if (!dy) continue;
      if (dy.shape() != y.shape())
        throw Error(str("backward: gradient ", dy.shape(), " does not fit result ", y.shape()));
      if (!y.node()) throw Error("backward: the result depends on nothing that is trained or watched");
      AnyTensor& gradient = slot(y.node(), "backward").gradient;
      if (gradient.has()) throw Error("backward: a result is given twice");
      gradient = contiguous(ctx_, dy.detached()).detached();
    }
    ran_ = true;
    Tape* const self = ctx_.exchange_tape(nullptr);  // rules may use ops; those are not recorded
    try {
      while (!entries_.empty()) {
        Entry entry = std::move(entries_.back());
        entries_.pop_back();
        bool reached = false;
        for (const std::size_t out : entry.outputs) reached |= slots_[out].gradient.has();
        if (reached) {
          entry.rule(*this, entry.outputs);
          flush();
          if (listener_) listener_->rule_done();
        }
        for (const std::size_t out : entry.outputs)
          if (!slots_[out].keep) slots_[out].gradient.clear();
      }
    } catch (...) {
      ctx_.exchange_tape(self);
      throw;
    }
    ctx_.exchange_tape(self);
  }

  /// The gradient of a watched tensor after backward; empty where the result did not depend on it.
  template <Scalar T> Tensor<T, D> gradient(const Tensor<T, D>& x) {
    Slot& s = slot(x.node(), "gradient");
    return s.gradient.has() ? s.gradient.template get<T>() : Tensor<T, D>{};
  }

  /// Used by record(): true where one of the inputs wants a gradient. Throws where a tensor of another tape is among
  /// them, of this context or of any other, and where another thread than the tape's records.
  bool wants(const char* op, std::initializer_list<TapeInput> inputs) const {
    ctx_.owner().check();
    bool any = false;
    for (const TapeInput& input : inputs) {
      any |= input.parameter;
      if (input.node == 0) continue;
      if (!here(input.node))
        throw Error(str(op, ": an input was recorded on another tape"),
                    "inside recompute, pass it as an input; one tape serves one context: models that train together "
                    "share theirs; else use x.detached() where no gradient is meant.");
      any = true;
    }
    return any;
  }
  template <Scalar T, class Rule> void push(std::initializer_list<Tensor<T, D>*> outputs, Rule rule) {
    push(std::vector<Tensor<T, D>*>(outputs), std::move(rule));
  }
  template <Scalar T, class Rule> void push(const std::vector<Tensor<T, D>*>& outputs, Rule rule) {
    Entry entry;
    for (Tensor<T, D>* y : outputs) {
      y->set_node(new_node());
      entry.outputs.push_back(slots_.size() - 1);
    }
    std::vector<Shape> shapes;
    for (Tensor<T, D>* y : outputs) shapes.push_back(y->shape());
    entry.rule = [rule = std::move(rule), shapes = std::move(shapes)](Tape& tape,
                                                                      const std::vector<std::size_t>& outs) mutable {
      Gradients<T, D> gradients(tape, outs, shapes);
      rule(gradients);
    };
    entries_.push_back(std::move(entry));
  }

 private:
  template <Scalar, Device> friend class Gradients;

  /// A gradient of any element type.
  struct AnyTensor {
    std::shared_ptr<void> tensor;
    void (*add)(Context<D>&, std::shared_ptr<void>& to, const std::shared_ptr<void>& from) = nullptr;

    bool has() const { return tensor != nullptr; }
    void clear() { tensor.reset(); }
    template <Scalar T> Tensor<T, D>& get() const { return *static_cast<Tensor<T, D>*>(tensor.get()); }
    template <Scalar T> AnyTensor& operator=(Tensor<T, D> t) {
      tensor = std::make_shared<Tensor<T, D>>(std::move(t));
      add = [](Context<D>& ctx, std::shared_ptr<void>& to, const std::shared_ptr<void>& from) {
        auto& sum = *static_cast<Tensor<T, D>*>(to.get());
        if (!sum.unique()) sum = clone(ctx, sum);  // passed on by reference: somebody else reads it too
        accumulate(ctx, sum.view(), View<const T>(static_cast<const Tensor<T, D>*>(from.get())->view()));
      };
      return *this;
    }
  };
  struct Slot {
    AnyTensor gradient;
    bool keep = false;
  };
  struct Entry {
    std::vector<std::size_t> outputs;
    std::function<void(Tape&, const std::vector<std::size_t>&)> rule;
  };
  struct Pending {
    std::size_t slot;
    AnyTensor share;
  };

  uint64_t new_node() {
    if (slots_.size() == index_of(~uint64_t{0}))
      throw Error(str("tape: more than ", slots_.size(), " results on one tape"), "differentiate in smaller parts.");
    slots_.emplace_back();
    return serial_ << index_bits | slots_.size();
  }
  // A node is the tape's serial number and, in the lower bits, one more than the number of its slot.
  static constexpr int index_bits = 24;
  static constexpr uint64_t index_of(uint64_t node) { return node & ((uint64_t{1} << index_bits) - 1); }
  bool here(uint64_t node) const {
    return node >> index_bits == serial_ && index_of(node) - 1 < slots_.size();  // index 0 wraps
  }
  Slot& slot(uint64_t node, const char* what) {
    if (!here(node)) throw Error(str(what, ": the tensor was not recorded on this tape"));
    return slots_[index_of(node) - 1];
  }
  void flush() {
    for (Pending& p : pending_) slots_[p.slot].gradient.add(ctx_, slots_[p.slot].gradient.tensor, p.share.tensor);
    pending_.clear();
  }

  Context<D>& ctx_;
  ContextGuard<D> guard_;
  uint64_t serial_;
  Tape* outer_;
  GradientListener* listener_;
  bool ran_ = false;
  std::vector<Slot> slots_;
  std::vector<Entry> entries_;
  std::vector<Pending> pending_;
};
template <Device D> Tape(Context<D>&) -> Tape<D>;

/// What a backward rule works with: the gradients that come in, and places for those that go out.
template <Scalar T, Device D> class Gradients {
 public:
  Gradients(Tape<D>& tape, const std::vector<std::size_t>& outputs, const std::vector<Shape>& shapes)
      : tape_(tape), outputs_(outputs), shapes_(shapes) {}

  Context<D>& context() { return tape_.ctx_; }
  /// For a tape inside a rule.
  GradientListener* listener() const { return tape_.listener_; }

  /// The gradient of the op's result number i; zeros where nothing used that result.
  Tensor<T, D> incoming_tensor(int i = 0) {
    auto& gradient = tape_.slots_[outputs_[static_cast<std::size_t>(i)]].gradient;
    if (!gradient.has()) gradient = Tensor<T, D>::zeros(tape_.ctx_, shapes_[static_cast<std::size_t>(i)]);
    return gradient.template get<T>();
  }
  View<const T> incoming(int i = 0) {
    const Tensor<T, D> dy = incoming_tensor(i);
    return dy.view();
  }

  /// Whether something used the op's result number i, so that an op of several need not work on zeros.
  bool came(int i) const { return tape_.slots_[outputs_[static_cast<std::size_t>(i)]].gradient.has(); }

  bool wants(const TapeInput& input) const { return input.node != 0 || input.parameter; }

  /// Where to assign the gradient of activation x; an empty view where nobody wants it.
  template <Scalar U> View<U> assign(const TensorId<U>& x) {
    if (!x.node) return {};
    Tensor<U, D> dx(tape_.ctx_, x.shape);
    View<U> view = dx.view();
    give(x, std::move(dx));
    return view;
  }
  template <Scalar U> View<U> assign(const Tensor<U, D>& x) { return assign(TensorId<U>(x)); }

  /// As assign, for a kernel that can add by itself: Write::add where an earlier share is there already.
  template <Scalar U> std::pair<View<U>, Write> write(const TensorId<U>& x) {
    if (!x.node) return {};
    auto& gradient = tape_.slot(x.node, "write").gradient;
    if (gradient.has() && gradient.template get<U>().unique()) return {gradient.template get<U>().view(), Write::add};
    return {assign(x), Write::assign};
  }

  /// Makes dx, of x's shape, the gradient of x (or adds it), without a copy.
  template <Scalar U> void give(const TensorId<U>& x, Tensor<U, D> dx) {
    if (!x.node) return;
    auto& gradient = tape_.slot(x.node, "give").gradient;
    if (!gradient.has()) {
      gradient = std::move(dx);
    } else {  // added once the rule has filled it
      tape_.pending_.push_back({static_cast<std::size_t>(Tape<D>::index_of(x.node) - 1), {}});
      tape_.pending_.back().share = std::move(dx);
    }
  }

  /// Where to add the gradient of parameter w; an empty view where it is frozen.
  template <Scalar U> View<accumulate_t<U>> add(Parameter<U, D>& w) {
    if (!w.trainable) return {};
    if (listener()) listener()->touched(&w);
    if (!w.grad) w.grad = Tensor<accumulate_t<U>, D>::zeros(tape_.ctx_, w.shape());
    return w.grad.view();
  }
  template <Scalar U> View<accumulate_t<U>> add(Parameter<U, D>* w) { return w ? add(*w) : View<accumulate_t<U>>{}; }

  /// As add, for a kernel that can also assign: Write::assign where nothing has been added yet.
  template <Scalar U> std::pair<View<accumulate_t<U>>, Write> write(Parameter<U, D>& w) {
    if (!w.trainable) return {};
    if (listener()) listener()->touched(&w);
    const Write write = w.grad ? Write::add : Write::assign;
    if (!w.grad) w.grad = Tensor<accumulate_t<U>, D>(tape_.ctx_, w.shape());
    return {w.grad.view(), write};
  }

 private:
  Tape<D>& tape_;
  const std::vector<std::size_t>& outputs_;
  const std::vector<Shape>& shapes_;
};

/// Writes on the current tape that y came from `inputs`, and how a gradient flows back: rule(Gradients<T, D>& g). Does
/// nothing where no tape records or no input wants a gradient.
template <Scalar T, Device D, class Rule>
void record(Context<D>& ctx, const char* op, Tensor<T, D>& y, std::initializer_list<TapeInput> inputs, Rule rule) {
  if (ctx.tape() && ctx.tape()->wants(op, inputs)) ctx.tape()->push({&y}, std::move(rule));
}
/// The same for an op with several results.
template <Scalar T, Device D, class Rule>
void record(Context<D>& ctx, const char* op, std::initializer_list<Tensor<T, D>*> outputs,
            std::initializer_list<TapeInput> inputs, Rule rule) {
  if (ctx.tape() && ctx.tape()->wants(op, inputs)) ctx.tape()->push(outputs, std::move(rule));
}
/// True where record() would write: an op asks before it keeps what only the rule needs.
template <Device D> bool recording(Context<D>& ctx, const char* op, std::initializer_list<TapeInput> inputs) {
  return ctx.tape() && ctx.tape()->wants(op, inputs);
}
/// For an op without a backward: throws under recording, so that no gradient is cut silently.
template <Device D> void no_backward(Context<D>& ctx, const char* op, std::initializer_list<TapeInput> inputs) {
  if (recording(ctx, op, inputs))
    throw Error(str(op, ": has no backward"), "call it under NoGrad, or on x.detached().");
}

/// Nothing is recorded while it lives. Throws Error where another thread uses the context.
template <Device D> class NoGrad {
 public:
  explicit NoGrad(Context<D>& ctx) : ctx_(ctx), guard_(ctx), outer_(ctx.exchange_tape(nullptr)) {}
  ~NoGrad() { ctx_.exchange_tape(outer_); }
  NoGrad(const NoGrad&) = delete;
  NoGrad& operator=(const NoGrad&) = delete;

 private:
  Context<D>& ctx_;
  ContextGuard<D> guard_;
  Tape<D>* outer_;
};
template <Device D> NoGrad(Context<D>&) -> NoGrad<D>;

}  // namespace ft::inline FTLIB_ABI
