// models/kit/gguf_adapter.hpp: reads a GGUF LoRA, as llama.cpp's convert_lora_to_gguf.py and save_gguf_adapter() write
// it, for a model whose tensors have other names.
#pragma once
#include <ftlib/adapters/data.hpp>                // AdapterData
#include <ftlib/io/gguf.hpp>                      // GgufFile
#include <ftlib/models/kit/gguf_description.hpp>  // GgufDescription

#include <algorithm>  // std::copy_n, std::equal
#include <map>        // std::map
#include <string>     // std::string
#include <tuple>      // std::tie
#include <vector>     // std::vector

namespace ft::inline FTLIB_ABI {

namespace detail {
/// As float32, row-major, in memory of its own.
[[gnu::cold]] inline Stored<Cpu> in_float(const Stored<Cpu>& w) {
  auto [out, bytes] = new_stored(DType::f32, w.shape);
  dequantise_row(w.type, w.data, 0, w.shape.count(), reinterpret_cast<float*>(bytes));
  return out;
}
inline bool same_values(const Stored<Cpu>& a, const Stored<Cpu>& b) {
  return a.type == b.type && a.shape == b.shape && std::equal(a.data, a.data + a.bytes(), b.data);
}
/// Of a GGUF LoRA's pairs for the weights of one stack (E, R, in) and (E, rows, R), each scaled, the stack's as PEFT
/// has it: A (E R, in), of each expert its rows; B (stack's rows, R E), column k E + e of expert e. Where all share
/// their A, that is it; else their ranks stand behind one another.
struct ExpertPair {
  std::string name;  // GGUF's
  Stored<Cpu> a, b;
  float scale = 1;
  ExpertStack stack;
};
[[gnu::cold]] inline std::pair<Stored<Cpu>, Stored<Cpu>> of_experts(const std::vector<ExpertPair>& pairs) {
  const int64_t experts = pairs.front().a.shape[0], in = pairs.front().a.shape[2], rows = pairs.front().stack.part.rows;
  bool shared = true;
  int64_t ranks = 0;
  for (const ExpertPair& p : pairs) {
    shared &= same_values(pairs.front().a, p.a);
    ranks += p.a.shape[1];
  }
  if (shared) ranks = pairs.front().a.shape[1];
  auto [a, a_bytes] = new_stored(DType::f32, {experts * ranks, in});
  auto [b, b_bytes] = new_stored(DType::f32, {rows, ranks * experts});
  auto* const to_a = reinterpret_cast<float*>(a_bytes);
  auto* const to_b = reinterpret_cast<float*>(b_bytes);
  int64_t begin = 0;  // of the pair's ranks
  for (const ExpertPair& p : pairs) {
    const int64_t own = p.a.shape[1];
    const auto* const from_a = reinterpret_cast<const float*>(p.a.data);
    const auto* const from_b = reinterpret_cast<const float*>(p.b.data);
    for (int64_t e = 0; e < experts; ++e) {
      std::copy_n(from_a + e * own * in, own * in, to_a + (e * ranks + begin) * in);
      for (int64_t r = 0; r < p.stack.rows; ++r)
        for (int64_t k = 0; k < own; ++k)
          to_b[(p.stack.part.first + r * p.stack.part.row_step) * ranks * experts + (begin + k) * experts + e] =
              p.scale * from_b[(e * p.stack.rows + r) * own + k];
    }
    if (!shared) begin += own;
  }
  return {a, b};
}
}  // namespace detail

/// The adapter in `file` for a model that `model` describes (LanguageModel::gguf). Where GGUF has a weight in parts,
/// the parts' pairs become one: side by side, or, where they share their A, one behind the other. Throws Error for what
/// is no LoRA of this architecture, and naming tensor or key for what is not read: adapters of embeddings, and aLoRA.
/// llama.cpp, src/llama-adapter.cpp
[[gnu::cold]] inline AdapterData read_gguf_adapter(const GgufDescription& model, const GgufFile& file) {
  const std::string& name = file.file_name();
  const auto type = file.get_or<std::string>("general.type", "model");
  if (type != "adapter")
    throw Error(str(name, ": is a ", type, ", and no adapter"), "open it with from_pretrained (qa: --model).",
                ErrorKind::bad_file);
  if (const auto kind = file.get<std::string>("adapter.type"); kind != "lora")
    throw Error(str(name, ": adapter.type '", kind, "' is not read"), "only lora is.", ErrorKind::bad_file);
  if (const auto architecture = file.get<std::string>("general.architecture"); architecture != model.architecture)
    throw Error(str(name, ": an adapter for ", architecture, "; the model is ", model.architecture),
                "it was made for another model.", ErrorKind::bad_file);
  AdapterData data;
  data.source = name;
  data.rank_in_tensors = true;
  data.base = file.get_or<std::string>("general.base_model.0.name", "");
  const auto alpha = file.get<float>("adapter.lora.alpha");
  for (const auto& [key, value] : file.metadata())
    if (key == "adapter.lora.task_name" || key == "adapter.lora.prompt_prefix")
      data.warnings.push_back(str(name, ": ", key, " is passed over"));
    else if (key.starts_with("adapter.") && key != "adapter.type" && key != "adapter.lora.alpha")
      throw Error(str(name, ": ", key, " is not known"), "it may change what the adapter computes.",
                  ErrorKind::bad_file);

  // Pairs of a weight's parts, by the weight; of a stack's, by the stack.
  std::map<std::string, std::vector<TensorMap::Piece>> weights;
  std::map<std::string, std::vector<detail::ExpertPair>> of_stacks;
  for (const std::string& tensor : file.names()) {
    const std::size_t cut = tensor.rfind(".lora_");
    const std::string weight = tensor.substr(0, cut), end = cut == tensor.npos ? "" : tensor.substr(cut);
    const bool is_a = end == ".lora_a";
    if ((!is_a && end != ".lora_b") || !file.contains(weight + (is_a ? ".lora_b" : ".lora_a")))
      throw Error(str(name, ": tensor '", tensor, "' is no half of a pair lora_a, lora_b"), {}, ErrorKind::bad_file);
    if (!is_a) continue;
    if (weight.starts_with("token_embd."))
      throw Error(
          str(name, ": tensor '", tensor, "' ", file.info(tensor).shape, " adapts the embedding, which is not read"),
          "make the adapter without it.", ErrorKind::bad_file);
    const auto unfit = [&](const Shape& a, const Shape& b) {
      return Error(str(name, ": tensor '", weight, "': lora_a ", a, " and lora_b ", b, " do not fit"), {},
                   ErrorKind::bad_file);
    };
    const std::string first = model.map.first_of_stack(weight, name);
    if (file.info(tensor).shape.rank() != (first.empty() ? 2 : 3))
      throw unfit(file.info(tensor).shape, file.info(weight + ".lora_b").shape);
    if (!first.empty()) {
      const auto stack = model.stacks.find(first);
      if (stack == model.stacks.end())
        throw Error(str(name, ": tensor '", tensor, "' adapts experts, which this model has not in one stack"), {},
                    ErrorKind::bad_file);
      detail::ExpertPair pair{weight, detail::in_float(file.tensor(tensor)),
                              detail::in_float(file.tensor(weight + ".lora_b")), 1, stack->second};
      const Shape &a = pair.a.shape, &b = pair.b.shape;
      auto& others = of_stacks[stack->second.part.stack];
      if (a.count() == 0 || b != Shape{stack->second.part.count, stack->second.rows, a[1]} || a[0] != b[0] ||
          (!others.empty() && others.front().a.shape[2] != a[2]))
        throw unfit(a, b);
      pair.scale = alpha == 0 ? 1 : alpha / static_cast<float>(a[1]);
      others.push_back(std::move(pair));
      continue;
    }
    const auto [whole, pieces] = model.map.pieces_of(weight, name);
    weights[whole] = pieces;
  }
  if (weights.empty() && of_stacks.empty())
    throw Error(name + ": holds no pair lora_a, lora_b", {}, ErrorKind::bad_file);

  for (const auto& [stack, pairs] : of_stacks)
    std::tie(data.tensors[stack + ".lora_A.weight"], data.tensors[stack + ".lora_B.weight"]) =
        detail::of_experts(pairs);
  for (const auto& entry : weights) {
    const std::string& whole = entry.first;
    const std::vector<TensorMap::Piece>& pieces = entry.second;
    const std::string module = whole.substr(0, whole.rfind('.'));
    std::vector<Stored<Cpu>> down, up;  // of each piece; empty where it has none
    int64_t rank = 0, in = 0;
    bool shared = true;
    for (const auto& piece : pieces) {
      const bool there = file.contains(piece.name + ".lora_a");
      down.push_back(there ? model.map.columns_to_hf(piece.name, detail::in_float(file.tensor(piece.name + ".lora_a")))
                           : Stored<Cpu>{});
      up.push_back(there ? detail::in_float(file.tensor(piece.name + ".lora_b")) : Stored<Cpu>{});
      if (there && (down.back().shape.count() == 0 || up.back().shape.count() == 0 || up.back().shape.rank() != 2 ||
                    up.back().shape[1] != down.back().shape[0] || (in > 0 && down.back().shape[1] != in)))
        throw Error(str(name, ": tensor '", piece.name, "': lora_a ", down.back().shape, " and lora_b ",
                        up.back().shape, " do not fit"),
                    {}, ErrorKind::bad_file);
      shared &= there && detail::same_values(down.front(), down.back());
      if (there) {
        in = down.back().shape[1];
        rank += down.back().shape[0];
      }
    }
    if (shared) rank = down.front().shape[0];
    // A: what is shared, or all of them, one behind the other. B: each piece's in its columns; the scale alpha / rank,
    // where it differs from one, in its values.
    const auto of_piece = [&](std::size_t i, int64_t begin) {
      const int64_t rows = up[i] ? up[i].shape[0] : pieces[i].rows, own = up[i] ? up[i].shape[1] : 0;
      auto [out, bytes] = detail::new_stored(DType::f32, {rows, rank});
      auto* const to = reinterpret_cast<float*>(bytes);
      const auto* const from = reinterpret_cast<const float*>(up[i].data);
      const float scale = alpha == 0 || own == 0 ? 1 : alpha / static_cast<float>(own);
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t k = 0; k < own; ++k) to[r * rank + begin + k] = scale * from[r * own + k];
      return out;
    };
    std::map<std::string, Stored<Cpu>> b;
    std::vector<Stored<Cpu>> a;
    for (std::size_t i = 0, begin = 0; i < pieces.size(); ++i) {
      b[pieces[i].name] = of_piece(i, shared ? 0 : static_cast<int64_t>(begin));
      if (!down[i] || (shared && i > 0)) continue;
      a.push_back(down[i]);
      begin += static_cast<std::size_t>(down[i].shape[0]);
    }
    data.tensors[module + ".lora_A.weight"] = a.size() == 1 ? a.front() : detail::joined(a, false);
    model.map.to_hf(
        {pieces.front().name}, [&](const std::string& piece) { return b.at(piece); },
        [&](const std::string&, Stored<Cpu> w) { data.tensors[module + ".lora_B.weight"] = std::move(w); }, name,
        TensorMap::Of::lora_b);
  }
  return data;
}

}  // namespace ft::inline FTLIB_ABI
