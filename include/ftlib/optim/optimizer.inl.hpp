// optim/optimizer.inl.hpp: what optim/optimizer.hpp declares.
#pragma once
#include <ftlib/optim/optimizer.hpp>

#include <algorithm>  // std::max, std::find_if
#include <cstring>    // std::memcpy
#include <list>       // std::list

namespace ft::inline FTLIB_ABI {

FTLIB_INLINE void detail::check_setting(bool holds, const char* optimizer, const char* name, float value,
                                        const char* range) {
  if (!holds) throw Error(str(optimizer, ": ", name, " is ", value), str("it must be ", range, "."));
}

template <Scalar T, Device D> int64_t NamedStates<T, D>::steps() const {
  int64_t most = 0;
  for (const auto& [name, kept] : kept_) most = std::max(most, kept.states.steps);
  return most;
}

template <Scalar T, Device D>
auto NamedStates<T, D>::place_of(const std::string& parameter, int64_t count, const Array& array) const -> Place {
  const std::size_t width = array.type == "F64" ? 8 : array.type == "U8" ? 1 : 4;
  const auto all = static_cast<std::size_t>(array.shape.count()) * width;
  const auto found = shares_.find(parameter);
  if (found == shares_.end()) return {0, all, all};
  const auto numbers = [&](int64_t elements) {
    return static_cast<std::size_t>((elements + array.each - 1) / array.each) * width;
  };
  if (numbers(count) != all)
    throw Error(str(name_, ": state '", array.name, "' ", array.shape, " of parameter '", parameter,
                    "' is not by element, and ranks cannot share it out"),
                "train on one rank, or with another optimizer.");
  const std::size_t begin = numbers(found->second.begin);
  return {begin, numbers(found->second.end) - begin, all};
}

template <Scalar T, Device D> int64_t NamedStates<T, D>::state_bytes(Params params) const {
  int64_t bytes = 0;
  for (const Parameter<T, D>* w : params)
    if (w->trainable)
      for (const Array& array : arrays(*w)) bytes += static_cast<int64_t>(place_of(w->name, w->count(), array).bytes);
  return bytes;
}

template <Scalar T, Device D> std::vector<StateEntry> NamedStates<T, D>::save(Context<D>& ctx) const {
  std::vector<StateEntry> entries;
  for (const auto& [name, kept] : kept_) {
    if (kept.states.steps == 0) continue;  // no step of it has counted yet
    for (std::size_t i = 0; i < kept.arrays.size(); ++i) {
      const Array& array = kept.arrays[i];
      StateEntry entry{name + '.' + array.name, std::string(array.type), array.shape, {}, name, array.each};
      entry.bytes.resize(place_of(name, kept.count, array).bytes);
      ctx.copy_to_host(entry.bytes.data(), kept.states.arrays[i].get(), entry.bytes.size());
      entries.push_back(std::move(entry));
    }
    StateEntry steps{name + ".step", "I64", {1}, std::vector<std::byte>(sizeof(int64_t)), name};
    std::memcpy(steps.bytes.data(), &kept.states.steps, sizeof(int64_t));
    entries.push_back(std::move(steps));
  }
  return entries;
}

template <Scalar T, Device D>
void NamedStates<T, D>::load(Context<D>& ctx, Params params, const std::vector<StateEntry>& entries) {
  std::map<std::string_view, const StateEntry*> by_name;
  for (const StateEntry& entry : entries) by_name.emplace(entry.name, &entry);
  std::map<std::string, Kept> loaded;
  const auto take = [&](const std::string& parameter, const char* what) {  // null where it is not there
    const auto found = by_name.find(parameter + '.' + what);
    if (found == by_name.end()) return static_cast<const StateEntry*>(nullptr);
    const StateEntry* entry = found->second;
    by_name.erase(found);
    return entry;
  };
  for (const Parameter<T, D>* w : params) {
    if (!w->trainable) continue;
    const StateEntry* steps = take(w->name, "step");
    Kept kept{{}, arrays(*w), w->count()};
    std::string missing = steps ? "" : "step";
    std::size_t found = steps ? 1 : 0;
    for (const Array& array : kept.arrays) {
      const StateEntry* entry = take(w->name, array.name);
      if (!entry) {
        missing += (missing.empty() ? "" : ", ") + std::string(array.name);
        continue;
      }
      ++found;
      const Place place = place_of(w->name, w->count(), array);
      if (entry->type != array.type || entry->shape != array.shape || entry->bytes.size() != place.all)
        throw Error(str(name_, ": saved state '", entry->name, "' ", entry->shape, ' ', entry->type,
                        " does not fit parameter ", w->shape(), ", which asks for ", array.shape, ' ', array.type),
                    "the checkpoint is of another model, of another LoRA rank, or of other settings.");
      std::shared_ptr<void> memory = ctx.allocate(place.bytes);
      ctx.copy_from_host(memory.get(), entry->bytes.data() + place.begin, place.bytes);
      kept.states.arrays.push_back(std::move(memory));
    }
    if (found == 0) continue;  // had no gradient yet when it was saved
    if (!missing.empty())
      throw Error(str(name_, ": the saved state of parameter '", w->name, "' lacks ", missing),
                  "the checkpoint is damaged, or of another optimizer or `master`; resume as the run was started.");
    if (steps->type == "I64" && steps->bytes.size() == sizeof(int64_t))
      std::memcpy(&kept.states.steps, steps->bytes.data(), sizeof(int64_t));
    if (kept.states.steps < 1)
      throw Error(str(name_, ": saved state '", steps->name, "' is no step count"),
                  "the checkpoint is damaged; resume from an older one.");
    if (!loaded.emplace(w->name, std::move(kept)).second)
      throw Error(str(name_, ": two parameters are called '", w->name, "'"), "state is kept by name: rename one.");
  }
  if (!by_name.empty())
    throw Error(str(name_, ": saved state '", by_name.begin()->first, "' belongs to no trainable parameter"),
                "resume with the options that the run was started with (targets, rank, frozen parts, optimizer).");
  kept_ = std::move(loaded);
  touched_.clear();
}

template <Scalar T, Device D>
typename NamedStates<T, D>::States& NamedStates<T, D>::states_of(Context<D>& ctx, const Parameter<T, D>& w,
                                                                 const Parameter<T, D>& part) {
  auto found = kept_.find(w.name);
  const auto wanted = arrays(w);
  if (found == kept_.end()) {
    Kept kept{{}, wanted, w.count()};
    for (const Array& array : wanted) {
      const std::size_t bytes = place_of(w.name, w.count(), array).bytes;
      kept.states.arrays.push_back(ctx.allocate(bytes));
      ctx.zero(kept.states.arrays.back().get(), bytes);
    }
    begin(ctx, part, kept.states);
    found = kept_.emplace(w.name, std::move(kept)).first;
  }
  for (std::size_t i = 0; i < wanted.size(); ++i)
    if (found->second.arrays.size() != wanted.size() || found->second.arrays[i].shape != wanted[i].shape)
      throw Error(str(name_, ": parameter '", w.name, "' is ", w.shape(), ", its state is of another shape"),
                  "state is kept by name: give each parameter its own.");
  return found->second.states;
}

template <Scalar T, Device D>
void NamedStates<T, D>::update(Context<D>& ctx, Params params, float lr, const Verdict* verdict) {
  std::vector<Item> items;
  std::list<Parameter<T, D>> parts;  // of those that are shared out
  touched_.clear();
  ++calls_;
  for (Parameter<T, D>* w : params) {
    if (!w->trainable || !w->grad) continue;
    if (!w->value)
      throw Error(str(name_, ": parameter '", w->name, "' is stored as ", w->stored.type, " and cannot be trained"),
                  "load it in the compute type, or freeze it and train an adapter.");
    const auto share = shares_.find(w->name);
    const bool of_share = share != shares_.end() && w->grad.shape() == Shape{share->second.count()};
    if ((!of_share && w->grad.shape() != w->shape()) || !w->value.contiguous() || !w->grad.contiguous())
      throw Error(str(name_, ": gradient ", w->grad.shape(), " does not fit parameter '", w->name, "' ", w->shape()),
                  "both must be contiguous and of one shape.");
    Parameter<T, D>* changed = w;
    if (share != shares_.end()) {
      changed = &parts.emplace_back(w->name, part(w->value, share->second));
      changed->kind = w->kind;
      changed->grad = part(w->grad, share->second);
    }
    States& states = states_of(ctx, *w, *changed);
    if (states.call == calls_)
      throw Error(str(name_, ": two parameters are called '", w->name, "'"), "state is kept by name: rename one.");
    states.call = calls_;
    const ParameterInfo info{w->name, w->kind, w->shape()};
    const double scale = groups_.lr_scale ? double{groups_.lr_scale(info)} : 1.0;
    if (!(scale >= 0)) throw Error(str(name_, ": lr_scale of '", w->name, "' is ", scale), "it must be 0 or more.");
    const bool decays = groups_.decays ? groups_.decays(info) : w->decays();
    items.push_back({*changed, states, double{lr} * scale, decays ? 1.0 : 0.0, states.steps + 1, *w,
                     share == shares_.end() ? 0 : share->second.begin});
    touched_.push_back(&states);
  }
  apply(ctx, items, verdict);
}

template <Scalar T, Device D> void NamedStates<T, D>::count() {
  for (States* states : touched_) ++states->steps;
  touched_.clear();
}

}  // namespace ft::inline FTLIB_ABI
