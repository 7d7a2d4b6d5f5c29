// text/export.hpp: a model with its tokenizer and what a session has in use, as one GGUF file for llama.cpp.
#pragma once
#include <ftlib/text/calibrate.hpp>  // Importance
#include <ftlib/text/causal_lm.hpp>  // CausalLM

#include <cstdint>     // std::int64_t
#include <filesystem>  // std::filesystem::path
#include <functional>  // std::function
#include <iosfwd>      // std::ostream
#include <map>         // std::map
#include <string>      // std::string
#include <vector>      // std::vector

namespace ft::inline FTLIB_ABI {

struct SaveGgufOptions {
  /// f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, q4_k_m, q4_k_s, q5_k_m, q5_k_s, q6_k: llama.cpp's mixtures; nf4,
  /// which ftlib alone reads; "stored": each tensor in the type in which the model's files have it.
  std::string type = "stored";
  std::string name = {};  ///< general.name; empty: what the model's folder or file is called
  std::function<void(int64_t done, int64_t of)> progress = {};  ///< bytes of the file
  const Importance* importance = nullptr;  ///< calibrate()'s: quantisers that look for scales weigh errors by it
};

/// What was written; operator<< prints it.
struct GgufReport {
  struct Share {
    int64_t tensors = 0, parameters = 0;
  };
  std::filesystem::path path = {};
  int64_t bytes = 0;
  std::map<DType, Share> types = {};
  int64_t merged = 0;       ///< tensors into which the adapters in use went
  int64_t copied = 0;       ///< tensors whose quantised blocks are those of the model's files
  int64_t requantised = 0;  ///< tensors that were quantised in the files already, and are so again: they lose twice
  int64_t adapted = 0;      ///< weights that the adapter in the file is for
  int64_t weighed = 0;      ///< tensors whose errors were weighed by importance,
  int64_t unweighed = 0;    ///< and experts among them that no token of the calibration chose: weighed alike
  int64_t fallbacks = 0;    ///< tensors of another type than the mixture's, because of their rows' length
  std::vector<std::string> notes = {};  ///< what GGUF does not hold, a sentence each

  friend std::ostream& operator<<(std::ostream& out, const GgufReport& report);
};

/// Writes `lm` as a GGUF file that llama.cpp opens, atomically and tensor by tensor: weights with what the session has
/// in use folded into each as it is written (the model itself stays as it is), configuration, tokenizer, chat template.
/// Vectors, and what llama.cpp holds in float32, are float32 whatever the type. Memory: one weight in the compute type,
/// and a few rows. Throws Error, and leaves nothing, for a model or tokenizer that GGUF cannot say, for a weight that
/// holds a NaN or an infinity, and where `path` is the model's own file.
template <Scalar T, Device D>
GgufReport save_gguf(CausalLM<T, D>& lm, const std::filesystem::path& path, const SaveGgufOptions& options = {});

/// Writes the adapter in use as a GGUF LoRA, which llama.cpp puts over the model's own GGUF (llama-cli --lora FILE): as
/// its convert_lora_to_gguf.py does, NAME.lora_a (R, in) and NAME.lora_b (out, R) of each weight, rows turned and
/// parted as the weight's are; of experts, all in one, (E, R, in) and (E, out, R). `type`: f32 or f16. Scales that
/// differ between modules go into B, and a note says so. Throws Error for what a GGUF LoRA does not hold, by its name:
/// another kind than LoRA, weights that are trained whole; and where there is not one adapter in use, at strength 1.
/// llama.cpp, src/llama-adapter.cpp
template <Scalar T, Device D>
GgufReport save_gguf_adapter(CausalLM<T, D>& lm, const std::filesystem::path& path,
                             const SaveGgufOptions& options = {});

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/text/export.inl.hpp>
#endif
