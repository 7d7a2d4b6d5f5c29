// adapters/kinds.inl.hpp: the bodies of adapters/kinds.hpp.
#pragma once
#include <ftlib/adapters/dora.inl.hpp>
#include <ftlib/adapters/kinds.hpp>
#include <ftlib/adapters/lora.inl.hpp>

#include <type_traits>  // std::type_identity

namespace ft::inline FTLIB_ABI {

namespace detail {
template <class... Kinds> std::vector<AdapterKind> kinds_of(AdapterKindList<Kinds...>) { return {Kinds::kind...}; }
template <Scalar T, Device D, class... Kinds>
std::shared_ptr<Adapter<T, D>> make_kind(AdapterKindList<Kinds...>, Context<D>& ctx, const Parameter<T, D>& w,
                                         const Lora& config, Random* random) {
  std::shared_ptr<Adapter<T, D>> made;
  const auto make = [&]<class Kind>(std::type_identity<Kind>) {
    if (config.kind == Kind::kind.name) made = std::make_shared<Kind>(ctx, w, config, random);
  };
  (make(std::type_identity<Kinds>{}), ...);
  return made;
}
}  // namespace detail

FTLIB_INLINE std::vector<AdapterKind> adapter_kinds() { return detail::kinds_of(AdapterKinds<float, Cpu>{}); }

template <Scalar T, Device D>
[[gnu::cold]] std::shared_ptr<Adapter<T, D>> make_adapter(Context<D>& ctx, const Parameter<T, D>& w, const Lora& config,
                                                          Random* random) {
  if (auto made = detail::make_kind<T, D>(AdapterKinds<T, D>{}, ctx, w, config, random)) return made;
  std::string known;
  for (const AdapterKind& kind : adapter_kinds()) known += str(known.empty() ? "" : ", ", kind.name);
  throw Error(str("adapter: kind '", config.kind, "' is not known"), str("known are: ", known, "."));
}

}  // namespace ft::inline FTLIB_ABI
