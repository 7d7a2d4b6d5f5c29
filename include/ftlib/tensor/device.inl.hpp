// tensor/device.inl.hpp: what a thread hears that comes into another one's context.
#pragma once
#include <ftlib/tensor/device.hpp>

namespace ft::inline FTLIB_ABI::detail {

FTLIB_INLINE void ContextOwner::refuse() {
  throw Error("this session (context) is in use by another thread",
              "give each thread its own: lm.session(); the weights are shared.");
}

}  // namespace ft::inline FTLIB_ABI::detail
