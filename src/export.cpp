// src/export.cpp: models on their way out: GGUF.
#include <ftlib/text/export.inl.hpp>

namespace ft::inline FTLIB_ABI {
template GgufReport save_gguf(CausalLM<float, Cpu>&, const std::filesystem::path&, const SaveGgufOptions&);
template GgufReport save_gguf_adapter(CausalLM<float, Cpu>&, const std::filesystem::path&, const SaveGgufOptions&);
}  // namespace ft::inline FTLIB_ABI
