// autograd/parameter.hpp: Parameter, a named weight with its gradient: a leaf of the tape.
#pragma once
#include <ftlib/tensor/copy.hpp>    // copy
#include <ftlib/tensor/stored.hpp>  // Stored, as_stored

#include <memory>  // std::shared_ptr
#include <string>  // std::string

namespace ft::inline FTLIB_ABI {

template <Scalar T, Device D> class Adapter;  // nn/adapter.hpp: LoRA and its kin, hung onto a Parameter

/// A named weight. Either `value` holds it in the compute type, or `stored` in the type of its file; a stored weight is
/// frozen. Gradients are added to `grad`, which is empty until the first one.
template <Scalar T, Device D> struct Parameter {
  std::string name;                            // as in the Hugging Face checkpoint, without a trailing ".weight" lost
  Tensor<T, D> value;                          // in the compute type; empty where `stored` is used
  Stored<D> stored;                            // in the file's type; empty where `value` is used
  bool trainable = false;                      // gradients are wanted
  bool decay = true;                           // weight decay applies: false for norms and biases
  Tensor<accumulate_t<T>, D> grad;             // of value's shape
  std::shared_ptr<ft::Adapter<T, D>> adapter;  // replaces x W^T by what it makes of W

  Parameter() = default;
  Parameter(std::string name_, Tensor<T, D> value_, bool trainable_ = true)
      : name(std::move(name_)), value(std::move(value_)), trainable(trainable_) {}

  const Shape& shape() const { return value ? value.shape() : stored.shape; }
  explicit operator bool() const { return value || stored; }
  /// The weight as the matrix product and the embedding read it.
  Stored<D> weight() const { return value ? as_stored(value) : stored; }
  int64_t count() const { return shape().count(); }
  /// Bytes that the weight itself takes (no gradient, no optimizer state).
  int64_t bytes() const { return value ? storage_bytes(dtype_of<T>, count()) : stored.bytes(); }
};

}  // namespace ft::inline FTLIB_ABI
