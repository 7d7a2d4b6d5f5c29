// adapters/residual.hpp: adapters that were trained beside a base with a part taken out: PiSSA and OLoRA. PEFT saves A
// and B as they then are, so on the whole base they are right only with that part taken out again.
#pragma once
#include <string>   // std::string
#include <utility>  // std::pair
#include <vector>   // std::vector

#include <ftlib/core/version.hpp>  // FTLIB_ABI

namespace ft::inline FTLIB_ABI {

/// The factors A0 (R, in) and B0 (out, R) of what an `initial` takes out of W (out, in), row-major: W becomes W - B0
/// A0.
///   "pissa": the R greatest singular values' part, arXiv:2404.02948;
///   "olora": s Q R's first R columns and rows, where W = Q R, arXiv:2406.01775.
/// W + s (B A) - B0 A0 is a LoRA of twice the rank. Throws Error for another name, or a rank above W's sides.
std::pair<std::vector<double>, std::vector<double>> removed_factors(const std::string& initial,
                                                                    const std::vector<double>& w, int64_t out,
                                                                    int64_t in, int64_t rank, double s);

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/adapters/residual.cpu.hpp>
#endif
