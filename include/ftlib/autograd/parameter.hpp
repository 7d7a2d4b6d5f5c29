// autograd/parameter.hpp: Parameter, a named weight with its gradient: a leaf of the tape.
#pragma once
#include <ftlib/tensor/copy.hpp>    // copy
#include <ftlib/tensor/finite.hpp>  // first_not_finite
#include <ftlib/tensor/stored.hpp>  // Stored, as_stored

#include <memory>  // std::shared_ptr
#include <string>  // std::string

namespace ft::inline FTLIB_ABI {

/// What a weight is used for; adapters and weight decay go by it.
/// `other`: what adapters leave alone, a convolution's kernel or a router's matrix. `constant`: a number that belongs
/// to the model and that no training changes, which PyTorch calls a buffer.
enum class WeightKind { vector, linear, embedding, head, other, constant };

/// Which part of a stack of matrices a weight is. Hugging Face's classes, and so PEFT, have one part of all experts of
/// a layer as one tensor, and gate and up in it as one matrix: an adapter goes to the stack.
struct StackPart {
  std::string stack;                // its name there: "model.layers.0.mlp.experts.gate_up_proj"
  int64_t number = 0, count = 0;    // this is a part of matrix `number` of `count`,
  int64_t rows = 0;                 // which has so many rows:
  int64_t first = 0, row_step = 1;  // row r of the weight is row first + r row_step of it
};

/// A named weight. Either `value` holds it in the compute type, or `stored` in the type of its file; a stored weight is
/// frozen. Gradients are added to `grad`, which is empty until the first one.
template <Scalar T, Device D> struct Parameter {
  std::string name;                               // as in the Hugging Face checkpoint
  Tensor<T, D> value;                             // in the compute type; empty where `stored` is used
  Stored<D> stored;                               // in the file's type; empty where `value` is used
  WeightKind kind = WeightKind::vector;           // vectors (norms, biases) are not decayed
  bool trainable = false;                         // gradients are wanted
  Tensor<accumulate_t<T>, D> grad;                // of value's shape
  int32_t index = -1;                             // which of its model's weights: a session's adapter is found by it
  std::shared_ptr<const StackPart> part_of = {};  // null: it is a weight by itself

  Parameter() = default;
  Parameter(std::string name_, Tensor<T, D> value_, bool trainable_ = true)
      : name(std::move(name_)), value(std::move(value_)), trainable(trainable_) {}

  /// Weight decay is for matrices.
  bool decays() const { return kind != WeightKind::vector && kind != WeightKind::constant; }
  const Shape& shape() const { return value ? value.shape() : stored.shape; }
  explicit operator bool() const { return value || stored; }
  /// The weight as the matrix product and the embedding read it.
  Stored<D> weight() const { return value ? as_stored(value) : stored; }
  int64_t count() const { return shape().count(); }
  /// Bytes that the weight itself takes (no gradient, no optimizer state).
  int64_t bytes() const { return value ? storage_bytes(dtype_of<T>, count()) : stored.bytes(); }
};

/// "weight 'a.weight' (3, 4) holds a NaN or an infinity, at element 5", or an empty string. Reads all of it.
template <Scalar T, Device D> std::string weight_fault(Context<D>& ctx, const Parameter<T, D>& w) {
  const int64_t at = w ? first_not_finite(ctx, w.weight()) : -1;
  return at < 0 ? std::string()
                : str("weight '", w.name, "' ", w.shape(), " holds a NaN or an infinity, at element ", at);
}

}  // namespace ft::inline FTLIB_ABI
