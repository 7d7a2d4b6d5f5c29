// models/kit/gguf_mixture.hpp: which type each tensor of a GGUF file gets: llama.cpp's mixtures, by their names.
#pragma once
#include <ftlib/models/kit/gguf_description.hpp>  // GgufDescription, TensorMap::Part

#include <array>        // std::array
#include <cctype>       // std::tolower
#include <string>       // std::string
#include <string_view>  // std::string_view
#include <vector>       // std::vector

namespace ft::inline FTLIB_ABI {

/// A mixture: what most of its tensors are, and its number in general.file_type (llama.h, enum llama_ftype; 1024 says
/// nothing). NF4 is for ftlib alone.
struct GgufMixture {
  std::string_view name;
  DType type;
  uint32_t number;
};
inline constexpr std::array<GgufMixture, 14> gguf_mixtures{{{"f32", DType::f32, 0},
                                                            {"f16", DType::f16, 1},
                                                            {"bf16", DType::bf16, 32},
                                                            {"q8_0", DType::q8_0, 7},
                                                            {"q4_0", DType::q4_0, 2},
                                                            {"q4_1", DType::q4_1, 3},
                                                            {"q5_0", DType::q5_0, 8},
                                                            {"q5_1", DType::q5_1, 9},
                                                            {"q4_k_m", DType::q4_k, 15},
                                                            {"q4_k_s", DType::q4_k, 14},
                                                            {"q5_k_m", DType::q5_k, 17},
                                                            {"q5_k_s", DType::q5_k, 16},
                                                            {"q6_k", DType::q6_k, 18},
                                                            {"nf4", DType::nf4, 1024}}};

/// The mixture of a name, in small or capital letters. Throws Error that says which there are.
[[gnu::cold]] inline const GgufMixture& gguf_mixture(std::string_view name) {
  std::string small, known;
  for (const char c : name) small += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  for (const GgufMixture& mixture : gguf_mixtures) {
    if (mixture.name == small) return mixture;
    known += str(known.empty() ? "" : ", ", mixture.name);
  }
  throw Error(str("gguf: type ", quote(name), " is not known"), str("known are: ", known, "."));
}

/// Whether a tensor stays in float32 whatever the mixture: vectors, a router, a convolution's kernel, learned
/// positions.
inline bool gguf_stays_f32(const TensorMap::Part& part) {
  const std::string_view name = part.name;
  if (part.shape.rank() < 2 || !name.ends_with(".weight")) return true;
  for (const char* word :
       {"_norm.weight", "ffn_gate_inp.weight", "shortconv.conv.weight", "ssm_conv1d.weight", "position_embd.weight"})
    if (name.find(word) != name.npos) return true;
  return false;
}

/// The types of all tensors, in their order, and how many rows' lengths are no whole number of the mixture's blocks, so
/// that another type stands in: Q5_0, Q5_1 and Q8_0 in the place of Q4_K (and NF4), Q5_K and Q6_K, and F16 where 32
/// does not divide them either. As llama.cpp's llama-quant.cpp chooses without an importance matrix: the head, or the
/// embedding that is one and per-layer embeddings with it, in Q6_K; of Q4_K_M and Q5_K_M a half of attn_v and ffn_down
/// in Q6_K.
struct GgufTypes {
  std::vector<DType> types;
  int64_t fallbacks = 0;
};
[[gnu::cold]] inline GgufTypes gguf_types(const GgufMixture& mixture, const std::vector<TensorMap::Part>& parts,
                                          const GgufDescription& model) {
  const std::string_view name = mixture.name;
  const bool medium = name.ends_with("_k_m"), small = name == "q4_k_s";
  const auto has = [](const TensorMap::Part& part, const char* word) {
    return part.name.find(word) != std::string::npos;
  };
  const auto is_v = [&](const TensorMap::Part& part) {
    return has(part, "attn_v.weight") || has(part, "attn_qkv.weight");
  };
  int64_t values = 0, v = 0, down = 0;
  bool tied = true;
  for (const auto& part : parts) {
    values += is_v(part);
    tied &= part.name != "output.weight";
  }
  const auto more_bits = [](int64_t i, int64_t n) { return i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2; };
  const auto fits = [](DType type, const TensorMap::Part& part) { return part.shape.back() % info(type).block == 0; };
  // Llama 2 and 3's and Qwen2's of 70 billion parameters, whose values serve eight heads.
  const bool large = model.layers == 80 && (model.architecture == "qwen2" ||
                                            (model.architecture == "llama" && model.heads != model.kv_heads));
  GgufTypes out;
  for (const auto& part : parts) {
    DType type = mixture.type;
    if (gguf_stays_f32(part) || part.name == "per_layer_model_proj.weight") type = DType::f32;
    if (type == DType::f32 || !is_quantised(type)) {
      out.types.push_back(type);
      continue;
    }
    const bool table = part.name == "token_embd.weight" || part.name == "per_layer_token_embd.weight";
    if (part.name == "output.weight" || (tied && table)) {
      if (!fits(type, part)) type = DType::q8_0;
      else if (type != DType::q8_0) type = DType::q6_k;
    } else if (is_v(part)) {
      if (medium && more_bits(v, values)) type = DType::q6_k;
      else if (small && v < 4) type = DType::q5_k;
      if (large && type == DType::q4_k) type = DType::q5_k;
      if (model.experts == 8) type = DType::q8_0;
      ++v;
    } else if (has(part, "attn_k.weight")) {
      if (model.experts == 8) type = DType::q8_0;
    } else if (has(part, "ffn_down")) {
      const int64_t layer = model.experts > 1 ? std::stoll(part.name.substr(4)) : down;  // "blk.N."
      if (medium && more_bits(layer, model.layers)) type = DType::q6_k;
      else if (small && layer < model.layers / 8) type = DType::q5_k;
      ++down;
    } else if (has(part, "attn_output") && model.experts == 8 && type == DType::q4_k) {
      type = DType::q5_k;
    }
    if (!fits(type, part)) {
      ++out.fallbacks;
      if (type == DType::q4_k || type == DType::nf4) type = DType::q5_0;
      else if (type == DType::q5_k) type = DType::q5_1;
      else if (type == DType::q6_k) type = DType::q8_0;
      if (!fits(type, part)) type = DType::f16;
    }
    out.types.push_back(type);
  }
  return out;
}

}  // namespace ft::inline FTLIB_ABI
