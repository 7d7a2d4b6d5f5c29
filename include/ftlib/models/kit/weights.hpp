// models/kit/weights.hpp: the tensors of a checkpoint under their Hugging Face names, taken one by one by a model's
// constructor: what is missing, extra or of another shape is an error that names it.
#pragma once
#include <ftlib/autograd/parameter.hpp>
#include <ftlib/core/stop.hpp>          // StopToken
#include <ftlib/tensor/dequantise.hpp>  // dequantise
#include <ftlib/tensor/quantised.hpp>   // dequantise_row

#include <map>     // std::map
#include <memory>  // std::shared_ptr
#include <string>  // std::string
#include <vector>  // std::vector

namespace ft::inline FTLIB_ABI {

class Weights {
 public:
  /// `file` is what messages call the checkpoint. `stop` is looked at before each tensor that is put or taken, which
  /// then throws Interrupted.
  explicit Weights(std::string file, StopToken stop = {}) : file_(std::move(file)), stop_(std::move(stop)) {}

  void put(const std::string& name, Stored<Cpu> tensor) {
    go_on();
    tensors_.insert_or_assign(name, std::move(tensor));
  }
  /// Bytes that are no numbers by themselves: parts of blocks, which an architecture's prepare() puts together.
  struct Bytes {
    Shape shape;
    const std::byte* data = nullptr;
    std::shared_ptr<const void> owner = {};
  };
  void put_bytes(const std::string& name, Bytes bytes) { bytes_.insert_or_assign(name, std::move(bytes)); }
  bool has(const std::string& name) const { return tensors_.count(name) != 0 || bytes_.count(name) != 0; }
  const std::string& file() const { return file_; }

  /// Removes and returns a tensor. Throws Error where there is none of that name, or it has another shape.
  Stored<Cpu> take(const std::string& name, const Shape& shape) { return take_from(tensors_, name, shape); }
  Bytes take_bytes(const std::string& name, const Shape& shape) { return take_from(bytes_, name, shape); }
  /// A matrix, left as it is stored.
  template <Scalar T, Device D>
  Parameter<T, D> matrix(Context<D>& ctx, const std::string& name, const Shape& shape, WeightKind kind) {
    Parameter<T, D> w;
    w.name = name;
    w.kind = kind;
    w.stored = on_device<T>(ctx, take(name, shape));
    return w;
  }
  /// What no product reads, in the compute type: a norm's weight, a bias, a convolution's kernel.
  template <Scalar T, Device D>
  Parameter<T, D> dense(Context<D>& ctx, const std::string& name, const Shape& shape,
                        WeightKind kind = WeightKind::vector) {
    const Stored<Cpu> tensor = take(name, shape);
    std::vector<T> values(static_cast<std::size_t>(shape.count()));
    const int64_t cols = shape.back();
    for (int64_t i = 0; i < shape.count() / cols; ++i)
      dequantise_row(tensor.type, tensor.data + i * tensor.row_bytes(), 0, cols, values.data() + i * cols);
    Parameter<T, D> w(name, Tensor<T, D>(ctx, shape, values), false);
    w.kind = kind;
    return w;
  }
  template <Scalar T, Device D> Parameter<T, D> vector(Context<D>& ctx, const std::string& name, int64_t size) {
    return dense<T>(ctx, name, {size});
  }
  /// Names become `prefix` + name, but for those that begin with it or with `except`.
  void put_below(const std::string& prefix, const std::string& except) {
    std::map<std::string, Stored<Cpu>> renamed;
    for (auto& [name, tensor] : tensors_)
      renamed.insert_or_assign(name.starts_with(prefix) || name.starts_with(except) ? name : prefix + name,
                               std::move(tensor));
    tensors_ = std::move(renamed);
  }
  /// Forgets tensors that hold nothing a model reads.
  void ignore(const std::string& name) { tensors_.erase(name); }
  /// Counts a tensor of a part that is not read.
  void pass_over(const std::string& name) {
    if (passed_over_++ == 0) first_passed_over_ = name;
  }
  /// Forgets the tensors of such a part, whose names begin so.
  void pass_over_all(const std::string& beginning) {
    for (auto at = tensors_.lower_bound(beginning); at != tensors_.end() && at->first.starts_with(beginning);) {
      pass_over(at->first);
      at = tensors_.erase(at);
    }
  }
  /// Counts a quantised tensor whose values had to be unpacked, into so many bytes.
  void unpacked(int64_t bytes) {
    ++unpacked_;
    unpacked_bytes_ += bytes;
  }
  /// What was passed over and what was unpacked, a sentence each.
  std::vector<std::string> notes() const {
    std::vector<std::string> out;
    if (passed_over_)
      out.push_back(str(file_, ": ", passed_over_, " tensors of other parts are passed over, '", first_passed_over_,
                        "' the first of them"));
    if (unpacked_)
      out.push_back(str(file_, ": ", unpacked_, " tensors whose blocks reach over two heads are held as float32, ",
                        unpacked_bytes_ / 1000000, " MB"));
    return out;
  }
  /// Throws Error where a tensor was not taken.
  void finish() const {
    if (!bytes_.empty())
      throw Error(str(file_, ": tensor '", bytes_.begin()->first, "' ", bytes_.begin()->second.shape,
                      " has type U8, which is no weight of this architecture (", bytes_.size(), " such)"),
                  "F64, F32, F16 and BF16 are read: take a model that is not quantised, or a GGUF file.");
    if (tensors_.empty()) return;
    throw Error(str(file_, ": tensor '", tensors_.begin()->first, "' ", tensors_.begin()->second.shape,
                    " is not part of this architecture (", tensors_.size(), " such)"),
                "the configuration is of another model, or the model has parts that ftlib does not know.");
  }

 private:
  template <class Tensor>
  Tensor take_from(std::map<std::string, Tensor>& all, const std::string& name, const Shape& shape) const {
    go_on();
    const auto found = all.find(name);
    if (found == all.end())
      throw Error(str(file_, ": tensor '", name, "' ", shape, " is missing"),
                  "the file is not whole, or its configuration is of another model.");
    if (found->second.shape != shape)
      throw Error(
          str(file_, ": tensor '", name, "' has shape ", found->second.shape, ", the configuration says ", shape));
    Tensor tensor = std::move(found->second);
    all.erase(found);
    return tensor;
  }
  void go_on() const {
    if (stop_.stop_requested()) throw Interrupted(file_ + ": opening it was stopped by the host");
  }
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
  StopToken stop_;
  std::map<std::string, Stored<Cpu>> tensors_;
  std::map<std::string, Bytes> bytes_;
  int64_t passed_over_ = 0, unpacked_ = 0, unpacked_bytes_ = 0;
  std::string first_passed_over_;
};

}  // namespace ft::inline FTLIB_ABI
