// text/pre_tokenizer.hpp: which way text is cut into words; pretokenize.hpp cuts it.
#pragma once
#include <ftlib/core/version.hpp>  // FTLIB_ABI

namespace ft::inline FTLIB_ABI {

/// How text is cut into words, over which no token reaches.
struct PreTokenizer {
  /// split_patterns has their text; none: all is one word.
  enum class Pattern { none, gpt2, llama3, qwen2, qwen35, gpt4o, tekken };
  enum class Digits {
    in_pattern,  ///< as the pattern says
    each,        ///< each numeric character (class N) is a word, cut out before the pattern is looked for (SmolLM2)
    runs         ///< each run of them is
  };
  Pattern pattern = Pattern::none;
  Digits digits = Digits::in_pattern;
  bool add_prefix_space = false;  ///< a text that does not start with a space gets one
};

}  // namespace ft::inline FTLIB_ABI
