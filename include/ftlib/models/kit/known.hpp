// models/kit/known.hpp: the architectures that ftlib knows. To add one, include its file and give it a word in the
// list.
#pragma once
#include <ftlib/models/gemma3.hpp>
#include <ftlib/models/gemma4.hpp>
#include <ftlib/models/gpt2.hpp>
#include <ftlib/models/gpt_oss.hpp>
#include <ftlib/models/granite.hpp>
#include <ftlib/models/lfm2.hpp>
#include <ftlib/models/llama.hpp>
#include <ftlib/models/mistral.hpp>
#include <ftlib/models/phi3.hpp>
#include <ftlib/models/qwen2.hpp>
#include <ftlib/models/qwen3.hpp>
#include <ftlib/models/qwen3_5.hpp>
#include <ftlib/models/qwen3_moe.hpp>
#include <ftlib/models/smollm3.hpp>
#include <ftlib/models/t5.hpp>

namespace ft::inline FTLIB_ABI::detail {

template <class... Config> struct ConfigList {};
/// Of several with one name in GGUF, the first reads such files.
using KnownConfigs = ConfigList<LlamaConfig, Qwen2Config, Qwen3Config, Gemma3Config, Gemma4Config, MistralConfig,
                                SmolLM3Config, GraniteConfig, GraniteHybridConfig, Phi3Config, Gpt2Config, Lfm2Config,
                                Qwen3MoeConfig, GptOssConfig, Qwen3_5Config, T5Config>;

}  // namespace ft::inline FTLIB_ABI::detail
