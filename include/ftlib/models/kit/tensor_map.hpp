// models/kit/tensor_map.hpp: the tensors of a checkpoint under their Hugging Face names, taken one by one by a model's
// constructor: what is missing, extra or of another shape is an error that names it.
#pragma once
#include <ftlib/autograd/parameter.hpp>
#include <ftlib/tensor/dequantise.hpp>  // dequantise

#include <algorithm>  // std::copy_n
#include <map>        // std::map
#include <string>     // std::string
#include <vector>     // std::vector

namespace ft::inline FTLIB_ABI {

class Weights {
 public:
  /// `file` is what messages call the checkpoint.
  explicit Weights(std::string file) : file_(std::move(file)) {}

  void put(const std::string& name, Stored<Cpu> tensor) { tensors_.insert_or_assign(name, std::move(tensor)); }
  bool has(const std::string& name) const { return tensors_.count(name) != 0; }
  const std::string& file() const { return file_; }

  /// Removes and returns a tensor. Throws Error where there is none of that name, or it has another shape.
  Stored<Cpu> take(const std::string& name, const Shape& shape) {
    const auto found = tensors_.find(name);
    if (found == tensors_.end())
      throw Error(str(file_, ": tensor '", name, "' ", shape, " is missing"),
                  "the file is not whole, or its configuration is of another model.");
    if (found->second.shape != shape)
      throw Error(
          str(file_, ": tensor '", name, "' has shape ", found->second.shape, ", the configuration says ", shape));
    Stored<Cpu> tensor = std::move(found->second);
    tensors_.erase(found);
    return tensor;
  }
  /// A matrix, left as it is stored.
  template <Scalar T, Device D>
  Parameter<T, D> matrix(Context<D>& ctx, const std::string& name, const Shape& shape, WeightKind kind) {
    Parameter<T, D> w;
    w.name = name;
    w.kind = kind;
    w.stored = on_device<T>(ctx, take(name, shape));
    return w;
  }
  /// A norm's weight or a bias, in the compute type.
  template <Scalar T, Device D> Parameter<T, D> vector(Context<D>& ctx, const std::string& name, int64_t size) {
    const Stored<Cpu> tensor = take(name, {size});
    std::vector<T> values(static_cast<std::size_t>(size));
    dequantise_row(tensor.type, tensor.data, 0, size, values.data());
    return Parameter<T, D>(name, Tensor<T, D>(ctx, {size}, values), false);
  }
  /// Forgets tensors that hold nothing a model reads.
  void ignore(const std::string& name) { tensors_.erase(name); }
  /// Throws Error where a tensor was not taken.
  void finish() const {
    if (tensors_.empty()) return;
    throw Error(str(file_, ": tensor '", tensors_.begin()->first, "' ", tensors_.begin()->second.shape,
                    " is not part of this architecture (", tensors_.size(), " such)"),
                "the configuration is of another model, or the model has parts that ftlib does not know.");
  }

 private:
  /// Mapped files stay where they are; a GPU gets a copy, in the compute type where the file's is dense.
  template <Scalar T, Device D> static Stored<D> on_device(Context<D>& ctx, const Stored<Cpu>& tensor) {
    if constexpr (std::same_as<D, Cpu>) {
      return tensor;
    } else {
      const auto bytes = static_cast<std::size_t>(tensor.bytes());
      const std::shared_ptr<void> memory = ctx.allocate(bytes);
      ctx.copy_from_host(memory.get(), tensor.data, bytes);
      const Stored<D> copy{tensor.type, tensor.shape, static_cast<const std::byte*>(memory.get()), memory};
      if (is_quantised(tensor.type) || tensor.type == dtype_of<T>) return copy;
      Tensor<T, D> value(ctx, tensor.shape);
      dequantise(ctx, value.view(), copy);
      return as_stored(value);
    }
  }

  std::string file_;
  std::map<std::string, Stored<Cpu>> tensors_;
};

/// GGUF's llama files hold q and k with the rows of each head in the order of interleaved rotary pairs: row 2j + p of a
/// head is the Hugging Face row p hd/2 + j. A copy with the rows back in place; rows of quantised blocks move whole.
inline Stored<Cpu> unpermute_heads(const Stored<Cpu>& w, int64_t heads) {
  const int64_t rows = w.shape[0], hd = rows / heads,
                bytes = w.shape.rank() == 1 ? storage_bytes(w.type, 1) : w.row_bytes();
  if (heads < 1 || rows % heads || hd % 2)
    throw Error(str("gguf: ", rows, " rows of q or k do not divide into ", heads, " heads of even size"));
  auto copy = std::make_shared<std::vector<std::byte>>(static_cast<std::size_t>(w.bytes()));
  for (int64_t h = 0; h < heads; ++h)
    for (int64_t p = 0; p < 2; ++p)
      for (int64_t j = 0; j < hd / 2; ++j)
        std::copy_n(w.data + (h * hd + 2 * j + p) * bytes, bytes, copy->data() + (h * hd + p * (hd / 2) + j) * bytes);
  return {w.type, w.shape, copy->data(), copy};
}

/// The values of a float32 vector plus `offset`: Gemma's GGUF files hold 1 + w where Hugging Face's hold w.
inline Stored<Cpu> shifted(const Stored<Cpu>& w, float offset) {
  auto copy = std::make_shared<std::vector<float>>(static_cast<std::size_t>(w.shape.count()));
  dequantise_row(w.type, w.data, 0, w.shape.count(), copy->data());
  for (float& v : *copy) v += offset;
  return {DType::f32, w.shape, reinterpret_cast<const std::byte*>(copy->data()), copy};
}

/// "blk.3.attn_q.weight" -> "model.layers.3.self_attn.q_proj.weight", by a table of the architecture's parts
/// ("attn_q" -> "self_attn.q_proj"). Empty where the table has no such part.
inline std::string from_gguf_name(const std::string& name, const std::map<std::string, std::string>& parts) {
  if (name == "token_embd.weight") return "model.embed_tokens.weight";
  if (name == "output_norm.weight") return "model.norm.weight";
  if (name == "output.weight") return "lm_head.weight";
  if (!name.starts_with("blk.")) return {};
  const std::size_t layer_end = name.find('.', 4), part_end = name.rfind('.');
  if (layer_end == std::string::npos || part_end <= layer_end) return {};
  const auto part = parts.find(name.substr(layer_end + 1, part_end - layer_end - 1));
  if (part == parts.end()) return {};
  return "model.layers." + name.substr(4, layer_end - 4) + "." + part->second + name.substr(part_end);
}

}  // namespace ft::inline FTLIB_ABI
