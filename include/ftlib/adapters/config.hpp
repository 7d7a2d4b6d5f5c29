// adapters/config.hpp: what an adapter is asked to be: Lora, the configuration of LoRA and its kin, in PEFT's words.
#pragma once
#include <ftlib/core/error.hpp>    // Error
#include <ftlib/core/version.hpp>  // FTLIB_INLINE

#include <cstdint>           // uint64_t
#include <initializer_list>  // std::initializer_list
#include <map>               // std::map
#include <string>            // std::string
#include <string_view>       // std::string_view
#include <vector>            // std::vector

namespace ft::inline FTLIB_ABI {

/// Which matrices an adapter goes to: all linear layers but the head, or those whose module name is one of `names` or
/// ends with ".name" (PEFT's rule for target_modules). The head goes by its name, "lm_head"; experts, all of a layer at
/// once, by that of their stack, "experts.gate_up_proj" and "experts.down_proj" (PEFT's target_parameters).
struct Targets {
  bool all = false;
  std::vector<std::string> names;

  Targets() = default;
  explicit Targets(bool all_) : all(all_) {}
  Targets(std::vector<std::string> names_) : names(std::move(names_)) {}
  Targets(std::initializer_list<std::string> names_) : names(names_) {}

  bool match(std::string_view module) const;
};
inline const Targets all_linear{true};

/// What files say of a kind of adapter, whatever the compute type and device: a member `kind` of its class.
struct AdapterKind {
  std::string_view name;  // Lora::kind
  std::string_view flag;  // the key that is true in PEFT's configuration; empty: no key tells
};

/// Low-rank adaptation, W + s B A with A (R, in) and B (out, R): Hu et al., arXiv:2106.09685. The fields are PEFT's.
struct Lora {
  int rank = 16;
  float alpha = 32;                                 // the addition is scaled by s = alpha / rank,
  bool rslora = false;                              // or by alpha / sqrt(rank), Kalajdzievski, arXiv:2312.03732
  float dropout = 0;                                // of the adapter's input, in training
  Targets targets = all_linear;                     // the matrices that are adapted
  uint64_t seed = 0;                                // of A's initialisation
  std::string kind = "lora";                        // a line in the table of adapters/kinds.hpp: "lora", "dora"
  std::map<std::string, int> rank_pattern = {};     // other ranks by module name or pattern, see matches_pattern
  std::map<std::string, float> alpha_pattern = {};  // other alphas likewise
  std::vector<std::string> modules_to_save = {};    // trained whole, as copies of the adapter's: modules whose name
                                                    // ends so ("norm" is every norm; an embedding, a head that is not
                                                    // tied), their biases too

  int rank_of(const std::string& module) const;
  float alpha_of(const std::string& module) const;
  /// s for a module.
  float scale_of(const std::string& module) const;
  bool saves(std::string_view module) const;
  /// Throws Error for a rank, an alpha or a dropout that makes no sense.
  void check(const std::string& where) const;
};

/// Whether a key of rank_pattern or alpha_pattern is for `module`: PEFT's rule, the regular expression (.*\.)?(key)$
/// from the module's beginning. Of regular expressions there are: characters, ".", "\." and other escapes, "\d", "\w",
/// [sets], (groups), "|", "*", "+", "?", "^", "$". Throws Error for others.
bool matches_pattern(std::string_view key, std::string_view module);

/// "model.layers.0.mlp.up_proj.weight" -> "model.layers.0.mlp.up_proj"
std::string module_of(const std::string& parameter);

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/adapters/config.inl.hpp>
#endif
