// text/calibrate.hpp: how much each input channel of a model's matrices carries over a text: what quantisers weigh
// their errors by.
#pragma once
#include <ftlib/text/causal_lm.hpp>  // CausalLM

#include <map>          // std::map
#include <string>       // std::string
#include <string_view>  // std::string_view
#include <vector>       // std::vector

namespace ft::inline FTLIB_ABI {

/// What calibrate() found. A matrix W (out, in) that rounding makes W' changes its product by an error of expected
/// square sum over channels of E[x_c^2] (W - W')_c^2, channels taken as independent.
struct Importance {
  double perplexity = 0;                              // of the text
  std::map<std::string, std::vector<float>> squares;  // by a weight's name: E[x_c^2] of each input channel, (in)
};

/// Reads a text in windows, as perplexity() does, with what the session has in use, and takes the mean squares of what
/// the model's matrices are multiplied by; of an expert over the tokens that chose it, and none where no token did.
/// llama.cpp's imatrix. Throws Error where the text has fewer than two tokens.
template <Scalar T, Device D> Importance calibrate(CausalLM<T, D>& lm, std::string_view text, int64_t window = 512);

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/text/calibrate.inl.hpp>
#endif
