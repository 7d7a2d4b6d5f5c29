// adapters/adapted.inl.hpp: the bodies of adapters/adapted.hpp.
#pragma once
#include <ftlib/adapters/adapted.hpp>
#include <ftlib/adapters/set.inl.hpp>

namespace ft::inline FTLIB_ABI {

template <Scalar T, Device D>
[[gnu::cold]] Adapted<T, D>::Adapted(std::unique_ptr<Context<D>> ctx, Adapted& other)
    : ctx_(std::move(ctx)), shared_(other.shared_) {
  for (const Parameter<T, D>* w : base_parameters())
    if (w->trainable)
      throw Error(str("session: '", w->name, "' of the base is trained, and sessions share weights that are only read"),
                  "train an adapter, which may have modules_to_save; or open the model twice.");
  other.context().synchronize();  // the weights are there before another stream reads them
}

template <Scalar T, Device D> void Adapted<T, D>::check_alone(const char* what) {
  if (shared_.use_count() > 1)
    throw Error(str(what, ": ", shared_.use_count() - 1, " other session(s) share these weights"),
                "end them first, or open the model a second time.");
}

template <Scalar T, Device D> void Adapted<T, D>::describe(Description& d) const {
  shared_->adapters.describe(*ctx_, d);
}
template <Scalar T, Device D> void Adapted<T, D>::attach(const std::string& name, const Lora& lora) {
  adapters().add(*ctx_, name, lora);
  use(name);
}
template <Scalar T, Device D> void Adapted<T, D>::train_all() {
  check_alone("train_all");
  adapters().train_all(*ctx_);
  if (adapters().contains("default")) adapters().remove("default");
}
template <Scalar T, Device D> void Adapted<T, D>::train(const std::function<bool(const Parameter<T, D>&)>& which) {
  check_alone("train");
  adapters().train_base(*ctx_, which);
}
template <Scalar T, Device D> void Adapted<T, D>::detach() {
  use_base();
  adapters().remove_trained(*ctx_);
  if (adapters().contains("default")) adapters().remove("default");
}
template <Scalar T, Device D> void Adapted<T, D>::merge() {
  check_alone("merge");
  adapters().merge(*ctx_);
}
template <Scalar T, Device D> void Adapted<T, D>::interpolate(float share) {
  const std::string name = only_adapter("interpolate");
  if (!(share >= 0)) throw Error(str("interpolate: a share of ", share), "give 0 (the base) to 1 (as trained).");
  adapters().interpolate(*ctx_, name, share);
  use(name);
}

template <Scalar T, Device D> std::string Adapted<T, D>::only_adapter(const std::string& what_for) {
  const Strengths used = adapters().used(*ctx_);
  if (used.empty()) throw Error(what_for + ": there is no adapter to save or change", "attach one, or load one.");
  if (used.size() > 1 || used.begin()->second != 1)
    throw Error(str(what_for, ": ", used.size(), " adapter(s) are in use, at strengths other than 1"),
                "use() the one that is meant, at strength 1; interpolate() makes it weaker for good.");
  return used.begin()->first;
}
template <Scalar T, Device D>
AdapterData Adapted<T, D>::adapter_data(const std::string& what_for, const std::filesystem::path& model,
                                        const SaveAdapterOptions& options) {
  AdapterData data = adapters().data(*ctx_, only_adapter(what_for));
  if (!options.base.empty()) data.base = options.base;
  else if (data.base.empty()) data.base = model.string();
  data.source = what_for;
  return data;
}
template <Scalar T, Device D>
std::vector<std::string> Adapted<T, D>::take_adapter(const std::string& name, const AdapterData& data,
                                                     const std::filesystem::path& model, float share) {
  auto warnings = adapters().put(*ctx_, name, data);
  if (share != 1) adapters().copy(*ctx_, name, name, share);
  adapters().train(*ctx_, name);
  use(name);
  if (auto other = other_base_warning(data.base, model.string()); !other.empty())
    warnings.push_back(data.source + ": " + other);
  return warnings;
}

}  // namespace ft::inline FTLIB_ABI
