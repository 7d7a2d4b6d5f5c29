// models/kit/known_denoisers.hpp: the models of pictures that ftlib knows. To add one, include its file and give it a
// word in the list.
#pragma once
#include <ftlib/models/flux2.hpp>
#include <ftlib/models/mmjit.hpp>
#include <ftlib/models/z_image.hpp>

#include <vector>  // std::vector

namespace ft::inline FTLIB_ABI::detail {

template <Scalar T, Device D> std::vector<DenoiserKind<T, D>> known_denoisers() {
  return {MMJiT<T, D>::kind(), Flux2<T, D>::kind(), ZImage<T, D>::kind()};
}

}  // namespace ft::inline FTLIB_ABI::detail
