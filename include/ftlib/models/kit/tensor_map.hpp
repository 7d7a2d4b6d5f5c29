// models/kit/tensor_map.hpp: the tensors of an architecture under their Hugging Face and their GGUF names, and what is
// done to them between the two: read in one direction where a GGUF file is opened, in the other where one is written.
#pragma once
#include <ftlib/tensor/quantised.hpp>  // dequantise_row
#include <ftlib/tensor/stored.hpp>     // Stored

#include <algorithm>    // std::copy_n
#include <cmath>        // std::exp, std::log
#include <functional>   // std::function
#include <map>          // std::map
#include <memory>       // std::make_shared
#include <string>       // std::string
#include <string_view>  // std::string_view
#include <vector>       // std::vector

namespace ft::inline FTLIB_ABI {

/// From Hugging Face's form of a tensor to GGUF's; each has its way back.
enum class Transform {
  none,
  transpose,      ///< Hugging Face's files have (in, out); GGUF, and a model in memory, (out, in): GPT-2's Conv1D
  permute_heads,  ///< rows of each head from halves, p hd/2 + j, to pairs, 2 j + p: Llama's q and k
  squeeze,        ///< (C, 1, L) becomes (C, L): a depthwise convolution
  shift,          ///< a number is added to each value: Gemma's norms, which GGUF holds as 1 + w
  negative_exp,   ///< w becomes -e^w: a rate of decay that is kept as a logarithm
  split,          ///< rows [begin, end) of one tensor are a tensor of their own: fused projections
  stack           ///< tensors of many names are one with an axis more in front: experts
};

/// The order of `heads` heads of values in `groups` groups, each of which shares a head of keys: Hugging Face has all
/// of a group behind one another, GGUF the first of each group, then the second of each: its head r groups + g is head
/// g heads / groups + r. They are the rows from `begin` on, or all columns.
struct HeadTiles {
  int64_t groups = 0, heads = 0;  // 0: nothing moves
  int64_t begin = 0;
  bool columns = false;
};

/// One tensor of each layer, or of the model. "{}" stands for the layer's number, in a stack's Hugging Face name "{e}"
/// for the expert's. Names are without what is behind the last dot (weight, bias), which is the same on both sides; or
/// whole, where they are not alike so.
struct TensorRule {
  std::string hf = {}, gguf = {};
  Transform transform = Transform::none;
  int64_t heads = 0;           // permute_heads
  float shift = 0;             // shift: GGUF's minus Hugging Face's
  int64_t begin = 0, end = 0;  // split; rules of one tensor follow one another and fill it
  int64_t experts = 0;         // stack
  HeadTiles tiles = {};        // besides
};

namespace detail {

/// Memory of its own for a tensor.
inline std::pair<Stored<Cpu>, std::byte*> new_stored(DType type, const Shape& shape) {
  Stored<Cpu> s{type, shape, nullptr, {}};
  auto bytes = std::make_shared<std::vector<std::byte>>(static_cast<std::size_t>(s.bytes()));
  s.data = bytes->data();
  s.owner = bytes;
  return {s, bytes->data()};
}
/// Bytes of one element of the first axis.
inline int64_t slice_bytes(const Stored<Cpu>& w) { return w.shape[0] ? w.bytes() / w.shape[0] : 0; }

inline Stored<Cpu> rows_of(const Stored<Cpu>& w, int64_t begin, int64_t end) {
  Stored<Cpu> part = w;
  part.data += begin * slice_bytes(w);
  part.shape[0] = end - begin;
  return part;
}
inline Stored<Cpu> transposed(const Stored<Cpu>& w) {
  if (w.shape.rank() != 2) return w;  // a bias
  if (is_quantised(w.type))
    throw Error(str("a matrix ", w.shape, ' ', w.type, " of quantised blocks is not transposed"));
  const int64_t rows = w.shape[0], cols = w.shape[1], size = storage_bytes(w.type, 1);
  auto [out, to] = new_stored(w.type, {cols, rows});
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < cols; ++j) std::copy_n(w.data + (i * cols + j) * size, size, to + (j * rows + i) * size);
  return out;
}
/// Rows of quantised blocks move whole.
inline Stored<Cpu> heads_permuted(const Stored<Cpu>& w, int64_t heads, bool to_pairs) {
  const int64_t rows = w.shape[0], hd = heads > 0 ? rows / heads : 0, bytes = slice_bytes(w);
  if (heads < 1 || rows % heads || hd % 2)
    throw Error(str("gguf: ", rows, " rows of q or k do not divide into ", heads, " heads of even size"));
  auto [out, to] = new_stored(w.type, w.shape);
  for (int64_t h = 0; h < heads; ++h)
    for (int64_t p = 0; p < 2; ++p)
      for (int64_t j = 0; j < hd / 2; ++j) {
        const int64_t half = h * hd + p * (hd / 2) + j, pair = h * hd + 2 * j + p;
        std::copy_n(w.data + (to_pairs ? half : pair) * bytes, bytes, to + (to_pairs ? pair : half) * bytes);
      }
  return out;
}
inline Stored<Cpu> shifted(const Stored<Cpu>& w, float by) {
  auto [out, bytes] = new_stored(DType::f32, w.shape);
  auto* const to = reinterpret_cast<float*>(bytes);
  dequantise_row(w.type, w.data, 0, w.shape.count(), to);
  for (int64_t i = 0; i < w.shape.count(); ++i) to[i] += by;
  return out;
}
/// Blocks move whole; where one reaches over two heads of columns, the values as float32.
[[gnu::cold]] inline Stored<Cpu> heads_tiled(const Stored<Cpu>& w, const HeadTiles& t, bool to_gguf) {
  const int64_t count = t.columns ? w.shape.back() : w.shape[0] - t.begin, each = count / t.heads;
  if (count < 0 || count % t.heads)
    throw Error(str("gguf: ", count, t.columns ? " columns" : " rows", " of a tensor ", w.shape, " do not divide into ",
                    t.heads, " heads of values"));
  if (t.columns && each % info(w.type).block) return heads_tiled(shifted(w, 0), t, to_gguf);
  auto [out, to] = new_stored(w.type, w.shape);
  const int64_t lines = t.columns ? w.shape.count() / count : 1;
  const int64_t head = t.columns ? storage_bytes(w.type, each) : each * slice_bytes(w);
  const int64_t before = t.columns ? 0 : t.begin * slice_bytes(w), line = before + t.heads * head;
  std::copy_n(w.data, before, to);
  for (int64_t i = 0; i < lines; ++i)
    for (int64_t h = 0; h < t.heads; ++h) {
      const int64_t at = h % t.groups * (t.heads / t.groups) + h / t.groups;  // Hugging Face's place of GGUF's h
      std::copy_n(w.data + i * line + before + (to_gguf ? at : h) * head, head,
                  to + i * line + before + (to_gguf ? h : at) * head);
    }
  return out;
}
[[gnu::cold]] inline Stored<Cpu> negative_exponential(const Stored<Cpu>& w, bool inverse) {
  Stored<Cpu> changed = shifted(w, 0);
  auto* const to = reinterpret_cast<float*>(const_cast<std::byte*>(changed.data));
  for (int64_t i = 0; i < w.shape.count(); ++i) {
    if (inverse && !(to[i] < 0))
      throw Error(str("gguf: a rate of decay is ", to[i], ", which no logarithm stands for"));
    to[i] = inverse ? std::log(-to[i]) : -std::exp(to[i]);
  }
  return changed;
}
/// Of `count` tensors of that shape, with an axis of their own in front.
inline Shape stacked_shape(int64_t count, const Shape& one) {
  return one.rank() == 1 ? Shape{count, one[0]} : Shape{count, one[0], one[1]};
}
/// One behind the other along the first axis; `stack` gives each an axis of its own.
[[gnu::cold]] inline Stored<Cpu> joined(const std::vector<Stored<Cpu>>& parts, bool stack) {
  const Stored<Cpu>& first = parts.front();
  const int rank = first.shape.rank();
  Shape shape = first.shape;
  int64_t rows = 0;
  for (const Stored<Cpu>& part : parts) {
    Shape other = part.shape;
    if (!stack && other.rank() == rank) other[0] = first.shape[0];
    if (other != first.shape || part.type != first.type)
      throw Error(str("tensors ", first.shape, ' ', first.type, " and ", part.shape, ' ', part.type,
                      " are parts of one, and do not fit"));
    rows += part.shape[0];
  }
  if (stack) shape = stacked_shape(static_cast<int64_t>(parts.size()), first.shape);
  else shape[0] = rows;
  auto [out, to] = new_stored(first.type, shape);
  for (const Stored<Cpu>& part : parts) to = std::copy_n(part.data, part.bytes(), to);
  return out;
}
inline Stored<Cpu> nth(const Stored<Cpu>& stacked, int64_t i) {
  Stored<Cpu> part = rows_of(stacked, i, i + 1);
  part.shape = stacked.shape.rank() == 2 ? Shape{stacked.shape[1]} : Shape{stacked.shape[1], stacked.shape[2]};
  return part;
}

}  // namespace detail

/// The rules of an architecture, both ways. Tensors come and go one at a time, so a model is never in memory twice.
class TensorMap {
 public:
  using Get = std::function<Stored<Cpu>(const std::string& name)>;
  using Put = std::function<void(const std::string& name, Stored<Cpu>)>;

  TensorMap() = default;
  /// Of two rules for one tensor the later counts.
  TensorMap(int64_t layers, const std::vector<TensorRule>& rules) {
    for (int64_t i = 0; i < std::max<int64_t>(1, layers); ++i)  // so that parts of one tensor follow one another
      for (const TensorRule& rule : rules) {
        if (rule.hf.find("{}") == std::string::npos ? i > 0 : i >= layers) continue;
        TensorRule one = rule;
        one.hf = filled(one.hf, "{}", i);
        one.gguf = filled(one.gguf, "{}", i);
        from_gguf_.insert_or_assign(one.gguf, rules_.size());
        for (int64_t e = 0; e < std::max<int64_t>(1, one.experts); ++e) {
          const std::string hf = filled(one.hf, "{e}", e);
          if (one.begin > 0) continue;  // a split tensor is found by its first part
          from_hf_.insert_or_assign(hf, rules_.size());
        }
        rules_.push_back(std::move(one));
      }
  }

  /// A tensor of a Hugging Face folder as a model in memory has it, or the other way.
  Stored<Cpu> across_folder(const std::string& name, const Stored<Cpu>& w) const {
    const auto found = from_hf_.find(parted(from_hf_, name).first);
    return found != from_hf_.end() && rules_[found->second].transform == Transform::transpose ? detail::transposed(w)
                                                                                              : w;
  }

  /// Whether a tensor is a weight, or the half of LoRA that has a weight's rows (B) and a rank for its columns.
  enum class Of { weight, lora_b };

  /// Puts the Hugging Face tensors, as a model in memory has them, that a GGUF's tensors `names` are. `file` is for
  /// messages. Throws Error for a name that is not in the map.
  [[gnu::cold]] void to_hf(const std::vector<std::string>& names, const Get& get, const Put& put,
                           const std::string& file, Of of = Of::weight) const {
    for (const std::string& name : names) {
      const auto [stem, ending] = parted(from_gguf_, name);
      const TensorRule& rule = rule_of(from_gguf_, stem, name, file);
      const Stored<Cpu> w = get(name);
      switch (rule.transform) {
        case Transform::split: {
          if (rule.begin != 0) break;  // with the first part
          std::vector<Stored<Cpu>> parts;
          for (std::size_t i = from_hf_.at(rule.hf); i < rules_.size() && rules_[i].hf == rule.hf; ++i)
            parts.push_back(get(rules_[i].gguf + ending));
          put(rule.hf + ending, detail::joined(parts, false));
          break;
        }
        case Transform::stack:
          if (w.shape.rank() < 2 || w.shape[0] != rule.experts)
            throw Error(str(file, ": tensor '", name, "' ", w.shape, " is not of ", rule.experts, " experts"));
          for (int64_t e = 0; e < rule.experts; ++e) put(filled(rule.hf, "{e}", e) + ending, detail::nth(w, e));
          break;
        default:
          put(rule.hf + ending, changed(rule, w, false, of));
      }
    }
  }
  /// A tensor of GGUF that a Hugging Face tensor is, or is made of; `rows` of it, where it is one of several.
  struct Piece {
    std::string name;
    int64_t rows = 0;
  };
  /// The Hugging Face tensor that the GGUF tensor `name` is or is a part of, and all that it is made of, in their
  /// order. Throws Error for a name that is not in the map, and where it is several of Hugging Face's.
  [[gnu::cold]] std::pair<std::string, std::vector<Piece>> pieces_of(const std::string& name,
                                                                     const std::string& file) const {
    const auto [stem, ending] = parted(from_gguf_, name);
    const TensorRule& rule = rule_of(from_gguf_, stem, name, file);
    if (rule.transform == Transform::stack)
      throw Error(str(file, ": tensor '", name, "' holds experts, and is no single weight"));
    std::vector<Piece> pieces;
    if (rule.transform != Transform::split) pieces.push_back({name, 0});
    else
      for (std::size_t i = from_hf_.at(rule.hf); i < rules_.size() && rules_[i].hf == rule.hf; ++i)
        pieces.push_back({rules_[i].gguf + ending, rules_[i].end - rules_[i].begin});
    return {rule.hf + ending, std::move(pieces)};
  }
  /// The first expert's Hugging Face tensor, where the GGUF tensor `name` is a stack of experts; empty where it is
  /// none. Throws Error for a name that is not in the map.
  [[gnu::cold]] std::string first_of_stack(const std::string& name, const std::string& file) const {
    const auto [stem, ending] = parted(from_gguf_, name);
    const TensorRule& rule = rule_of(from_gguf_, stem, name, file);
    return rule.transform == Transform::stack ? filled(rule.hf, "{e}", 0) + ending : std::string();
  }
  /// A tensor of GGUF that is to be made, and of which of Hugging Face's: one, or a stack's one of each expert.
  struct Part {
    std::string name;  // GGUF's
    Shape shape;
    std::vector<std::string> from;
    std::size_t rule = 0;  // its place in the map
  };
  /// What GGUF tensors the Hugging Face tensors `names`, as a model in memory has them, become, in their order. Throws
  /// Error for a name that is not in the map, or a shape that does not fit its rule.
  [[gnu::cold]] std::vector<Part> gguf_parts(const std::vector<std::string>& names,
                                             const std::function<Shape(const std::string& name)>& shape_of,
                                             const std::string& file) const {
    std::vector<Part> parts;
    for (const std::string& name : names) {
      const auto [stem, ending] = parted(from_hf_, name);
      const TensorRule& rule = rule_of(from_hf_, stem, name, file);
      const std::size_t first = from_hf_.find(stem)->second;
      Shape shape = shape_of(name);
      switch (rule.transform) {
        case Transform::split: {
          int64_t rows = 0;
          for (std::size_t i = first; i < rules_.size() && rules_[i].hf == rule.hf; ++i) {
            const TensorRule& part = rules_[i];
            if (part.begin != rows || part.end > shape[0])
              throw Error(
                  str(file, ": tensor '", name, "' ", shape, " has no rows [", part.begin, ", ", part.end, ")"));
            Shape of_part = shape;
            of_part[0] = part.end - part.begin;
            parts.push_back({part.gguf + ending, of_part, {name}, i});
            rows = part.end;
          }
          if (rows != shape[0])
            throw Error(str(file, ": tensor '", name, "' ", shape, " has rows behind ", rows, " that no part takes"));
          break;
        }
        case Transform::stack: {
          if (stem != filled(rule.hf, "{e}", 0)) break;  // with the first expert
          std::vector<std::string> from;
          for (int64_t e = 0; e < rule.experts; ++e) from.push_back(filled(rule.hf, "{e}", e) + ending);
          parts.push_back({rule.gguf + ending, detail::stacked_shape(rule.experts, shape), std::move(from), first});
          break;
        }
        case Transform::squeeze:
          if (shape.rank() == 3) shape = {shape[0], shape[2]};
          [[fallthrough]];
        default:
          parts.push_back({rule.gguf + ending, shape, {name}, first});
      }
    }
    return parts;
  }
  /// The values of a part. `get` gives the tensors that it is made from, one at a time.
  [[gnu::cold]] Stored<Cpu> gguf_tensor(const Part& part, const Get& get, Of of = Of::weight) const {
    const TensorRule& rule = rules_[part.rule];
    if (rule.transform == Transform::split) return detail::rows_of(get(part.from.front()), rule.begin, rule.end);
    if (rule.transform != Transform::stack) return changed(rule, get(part.from.front()), true, of);
    std::vector<Stored<Cpu>> experts;
    for (const std::string& name : part.from) experts.push_back(get(name));
    return detail::joined(experts, true);
  }
  /// What has a weight's columns and no rows of it (LoRA's A; a number for each), as GGUF has them, and as Hugging
  /// Face.
  [[gnu::cold]] Stored<Cpu> columns_to_gguf(const Part& part, const Stored<Cpu>& x) const {
    return columns(rules_[part.rule], x, true);
  }
  [[gnu::cold]] Stored<Cpu> columns_to_hf(const std::string& gguf_name, const Stored<Cpu>& x) const {
    return columns(rules_[from_gguf_.at(parted(from_gguf_, gguf_name).first)], x, false);
  }
  /// The inverse of to_hf.
  [[gnu::cold]] void to_gguf(const std::vector<std::string>& names, const Get& get, const Put& put,
                             const std::string& file) const {
    for (const Part& part : gguf_parts(
             names, [&](const std::string& name) { return get(name).shape; }, file))
      put(part.name, gguf_tensor(part, get));
  }

 private:
  using Index = std::map<std::string, std::size_t, std::less<>>;  // places in rules_

  static std::string filled(std::string name, std::string_view mark, int64_t number) {
    if (const std::size_t at = name.find(mark); at != std::string::npos)
      name.replace(at, mark.size(), std::to_string(number));
    return name;
  }
  /// "blk.0.attn_q.weight" -> "blk.0.attn_q" and ".weight"; a name that the index has whole, and "".
  static std::pair<std::string, std::string> parted(const Index& index, const std::string& name) {
    const std::size_t dot = index.count(name) ? std::string::npos : name.rfind('.');
    return dot == std::string::npos ? std::pair(name, std::string()) : std::pair(name.substr(0, dot), name.substr(dot));
  }
  const TensorRule& rule_of(const Index& index, const std::string& stem, const std::string& name,
                            const std::string& file) const {
    const auto found = index.find(stem);
    if (found == index.end())
      throw Error(str(file, ": tensor '", name, "' is not part of this architecture"),
                  "the model is of another kind, or has parts that ftlib does not know.");
    return rules_[found->second];
  }
  static Stored<Cpu> columns(const TensorRule& rule, const Stored<Cpu>& x, bool to_gguf) {
    return rule.tiles.columns ? detail::heads_tiled(x, rule.tiles, to_gguf) : x;
  }
  static Stored<Cpu> changed(const TensorRule& rule, const Stored<Cpu>& w, bool to_gguf, Of of) {
    const HeadTiles& tiles = rule.tiles;
    const bool moves = tiles.heads > 0 && !(tiles.columns && of == Of::lora_b);
    return transformed(rule, moves ? detail::heads_tiled(w, tiles, to_gguf) : w, to_gguf);
  }
  static Stored<Cpu> transformed(const TensorRule& rule, const Stored<Cpu>& w, bool to_gguf) {
    switch (rule.transform) {
      case Transform::permute_heads:
        return detail::heads_permuted(w, rule.heads, to_gguf);
      case Transform::squeeze: {
        Stored<Cpu> other = w;
        if (to_gguf && w.shape.rank() == 3) other.shape = {w.shape[0], w.shape[2]};
        if (!to_gguf && w.shape.rank() == 2) other.shape = {w.shape[0], 1, w.shape[1]};
        return other;
      }
      case Transform::shift:
        return detail::shifted(w, to_gguf ? rule.shift : -rule.shift);
      case Transform::negative_exp:
        return detail::negative_exponential(w, !to_gguf);
      default:
        return w;
    }
  }

  std::vector<TensorRule> rules_;
  Index from_hf_, from_gguf_;
};

}  // namespace ft::inline FTLIB_ABI
