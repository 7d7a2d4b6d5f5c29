// distributed/array_exchange.hpp: sums and gathers over ranks of what lies in a device's memory, while that computes.
#pragma once
#include <ftlib/distributed/background.hpp>  // Background
#include <ftlib/tensor/device.hpp>           // Context

#include <concepts>  // std::same_as
#include <cstddef>   // std::byte
#include <deque>     // std::deque
#include <memory>    // std::shared_ptr
#include <vector>    // std::vector

namespace ft::inline FTLIB_ABI {

/// What an engine that reaches a device's memory has beside Communicator: it derives from both. Calls are made in the
/// same order on all ranks, come behind what the context was asked for before, and return at once; x, of the context's
/// memory, is not touched until wait().
template <Device D> class ArrayExchange {
 public:
  virtual ~ArrayExchange() = default;
  /// As reduce_scatter() of distributed/communicator.hpp, in its order; not `exact`: in the engine's own.
  virtual void reduce_scatter(Context<D>& ctx, std::shared_ptr<float> x, std::vector<std::size_t> bounds,
                              bool exact) = 0;
  virtual void reduce_scatter(Context<D>& ctx, std::shared_ptr<double> x, std::vector<std::size_t> bounds,
                              bool exact) = 0;
  /// As all_gather() there.
  virtual void all_gather(Context<D>& ctx, std::shared_ptr<std::byte> x, std::vector<std::size_t> bounds) = 0;
  /// What the context is asked for from here on comes behind all of these; throws what one of them has thrown.
  virtual void wait(Context<D>& ctx) = 0;
};

/// Through the host's memory, for engines that know no other, with sums in a thread of their own.
template <Device D> class HostArrays final : public ArrayExchange<D> {
 public:
  explicit HostArrays(Communicator& world) : world_(world), background_(world) {}

  void reduce_scatter(Context<D>& ctx, std::shared_ptr<float> x, std::vector<std::size_t> bounds, bool) override {
    add(ctx, std::move(x), std::move(bounds));
  }
  void reduce_scatter(Context<D>& ctx, std::shared_ptr<double> x, std::vector<std::size_t> bounds, bool) override {
    add(ctx, std::move(x), std::move(bounds));
  }
  void all_gather(Context<D>& ctx, std::shared_ptr<std::byte> x, std::vector<std::size_t> bounds) override {
    if constexpr (std::same_as<D, Cpu>) {
      ft::all_gather(world_, std::span(x.get(), bounds.back()), bounds);
    } else {
      std::vector<std::byte> all(bounds.back());
      const auto part = part_of(world_.rank(), world_.size());
      ctx.copy_to_host(all.data() + bounds[part], x.get() + bounds[part], bounds[part + 1] - bounds[part]);
      ft::all_gather(world_, std::span(all), bounds);
      ctx.copy_from_host(x.get(), all.data(), all.size());
    }
  }
  void wait(Context<D>& ctx) override { wait(ctx, 0); }
  /// The same for all but the last `left` sums, which may still be on their way.
  void wait(Context<D>& ctx, std::size_t left) {
    background_.wait(left);
    for (; sums_.size() > left; sums_.pop_front()) sums_.front()(ctx);
  }

 private:
  template <class V> void add(Context<D>& ctx, std::shared_ptr<V> x, std::vector<std::size_t> bounds) {
    if constexpr (std::same_as<D, Cpu>) {
      background_.add([this, x, bounds] { ft::reduce_scatter(world_, std::span(x.get(), bounds.back()), bounds); });
    } else {
      const auto all = std::make_shared<std::vector<V>>(bounds.back());
      ctx.copy_to_host(all->data(), x.get(), all->size() * sizeof(V));
      background_.add([this, all, bounds] { ft::reduce_scatter(world_, std::span(*all), bounds); });
      const auto part = part_of(world_.rank(), world_.size());
      sums_.push_back([all, x, begin = bounds[part], end = bounds[part + 1]](Context<D>& c) {
        c.copy_from_host(x.get() + begin, all->data() + begin, (end - begin) * sizeof(V));
      });
    }
  }

  Communicator& world_;
  std::deque<std::function<void(Context<D>&)>> sums_;  // what puts them into the device's memory
  Background background_;                              // last, so that it ends before what it reads
};

/// The engine's own way to the device's memory; null: it has none.
template <Device D> ArrayExchange<D>* arrays_of(Communicator* world) { return dynamic_cast<ArrayExchange<D>*>(world); }

}  // namespace ft::inline FTLIB_ABI
