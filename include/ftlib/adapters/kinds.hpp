// adapters/kinds.hpp: the table of adapter kinds. To add one: write its file like adapters/dora.hpp, include it here,
// and name it in AdapterKinds.
#pragma once
#include <ftlib/adapters/dora.hpp>
#include <ftlib/adapters/lora.hpp>

#include <memory>       // std::shared_ptr
#include <string_view>  // std::string_view
#include <vector>       // std::vector

namespace ft::inline FTLIB_ABI {

template <class... Kinds> struct AdapterKindList {};

/// All kinds; the last is the one that no flag tells.
template <Scalar T, Device D> using AdapterKinds = AdapterKindList<DoraAdapter<T, D>, LoraAdapter<T, D>>;

/// What files say of each.
std::vector<AdapterKind> adapter_kinds();

/// A new adapter of config.kind on w; without `random`, one whose values are still to come. Throws Error where there is
/// no such kind, and says which there are.
template <Scalar T, Device D>
std::shared_ptr<Adapter<T, D>> make_adapter(Context<D>& ctx, const Parameter<T, D>& w, const Lora& config,
                                            Random* random);

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/adapters/kinds.inl.hpp>
#endif
