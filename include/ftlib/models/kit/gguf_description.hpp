// models/kit/gguf_description.hpp: what a GGUF file says of a model beside its weights and its tokenizer.
#pragma once
#include <ftlib/autograd/parameter.hpp>     // StackPart
#include <ftlib/io/gguf.hpp>                // GgufMetadata
#include <ftlib/models/kit/tensor_map.hpp>  // TensorMap

#include <map>      // std::map
#include <string>   // std::string
#include <utility>  // std::pair
#include <vector>   // std::vector

namespace ft::inline FTLIB_ABI {

/// What a stack of experts has in memory of a GGUF tensor: the first expert's part of it, and that one's rows.
struct ExpertStack {
  StackPart part;
  int64_t rows = 0;
};

struct GgufDescription {
  std::string architecture;  // general.architecture
  GgufMetadata metadata;     // its keys, "<architecture>.*"
  // Tensors that are no weights: divisors of rotary frequencies, in float32.
  std::vector<std::pair<std::string, std::vector<float>>> tables;
  TensorMap map;
  int64_t layers = 0, experts = 0, heads = 0, kv_heads = 0;  // by which llama.cpp's mixtures of types go
  std::map<std::string, ExpertStack> stacks;                 // by the name of the first expert's weight
  std::vector<std::string> notes;                            // what GGUF has no word for, a sentence each
};

}  // namespace ft::inline FTLIB_ABI
