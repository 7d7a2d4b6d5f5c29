// src/export.cpp: models on their way out: GGUF, and what its quantisers weigh errors by.
#include <ftlib/text/calibrate.inl.hpp>
#include <ftlib/text/export.inl.hpp>

namespace ft::inline FTLIB_ABI {
template Importance calibrate(CausalLM<float, Cpu>&, std::string_view, int64_t);
template GgufReport save_gguf(CausalLM<float, Cpu>&, const std::filesystem::path&, const SaveGgufOptions&);
template GgufReport save_gguf_adapter(CausalLM<float, Cpu>&, const std::filesystem::path&, const SaveGgufOptions&);
}  // namespace ft::inline FTLIB_ABI
