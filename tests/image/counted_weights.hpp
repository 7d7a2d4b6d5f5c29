// tests/image/counted_weights.hpp: weights that a model of published size takes, of which nothing but shapes is there.
#pragma once
#include <ftlib/models/kit/weights.hpp>

#include <cstddef>
#include <string>

namespace ft::test {

struct CountedWeights {
  int64_t parameters = 0;
  template <Scalar T, Device D>
  Parameter<T, D> matrix(Context<D>&, const std::string& name, const Shape& shape, WeightKind kind) {
    parameters += shape.count();
    Parameter<T, D> w;
    w.name = name;
    w.kind = kind;
    w.stored.shape = shape;
    w.stored.data = reinterpret_cast<const std::byte*>(this);  // it counts as being there; nobody reads it
    return w;
  }
  template <Scalar T, Device D> Parameter<T, D> vector(Context<D>& ctx, const std::string& name, int64_t size) {
    return matrix<T>(ctx, name, {size}, WeightKind::vector);
  }
};

}  // namespace ft::test
