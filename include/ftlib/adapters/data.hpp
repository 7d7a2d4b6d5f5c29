// adapters/data.hpp: an adapter as files and databases hold it: a configuration and named tensors. Formats (peft.hpp,
// diffusers_lora.hpp) read and write this, and know no model and no kind of adapter.
#pragma once
#include <ftlib/adapters/config.hpp>  // Lora
#include <ftlib/io/json_fwd.hpp>      // Json
#include <ftlib/tensor/stored.hpp>    // Stored

#include <map>     // std::map
#include <string>  // std::string
#include <vector>  // std::vector

namespace ft::inline FTLIB_ABI {

/// AdapterSet::put makes an adapter of it, AdapterSet::data makes it of an adapter.
struct AdapterData {
  Lora config = {};
  bool rank_in_tensors = false;  // config.rank is not known: each module's tensors tell, and its alpha is the rank
  std::string base = {};         // what the model that it is for is called; may be empty
  std::string initial = {};      // what W was less of in training, see adapters/residual.hpp: "", "pissa", "olora"
  std::string source = {};       // what messages call it: a file, a name
  // "<module>.lora_A.weight", "<module>.lora_B.weight" ..., "<module>.alpha" (a number, which goes before config's); a
  // weight that is trained whole under its own name.
  std::map<std::string, Stored<Cpu>> tensors = {};
  std::map<std::string, std::string> keys = {};  // what the file calls a tensor, where it is another name: for messages
  // Names that end as config.targets' and mean the same modules, where they do.
  std::vector<std::string> short_targets = {};
  // target_modules as a file says them: names, or one pattern, or "all-linear" as one; empty where it says none, or
  // says beside it which of them it leaves out. Layers that they mean and that have no tensors are told.
  std::vector<std::string> said_names = {};
  std::string said_pattern = {};
  std::vector<std::string> said_parameters = {};  // target_parameters: stacks of experts
  std::vector<std::string> warnings = {};         // what the caller should tell
  // What a program keeps beside it, in the header of the tensors' file.
  std::map<std::string, std::string> metadata = {};

  /// The file's name for a tensor.
  const std::string& key_of(const std::string& tensor) const {
    const auto found = keys.find(tensor);
    return found == keys.end() ? tensor : found->second;
  }
};

namespace detail {
/// Reads what PEFT's LoraConfig says, from keys that begin with `prefix`, into data.config, data.initial and
/// data.warnings. Every key that changes what the adapter computes is read, or is an Error that names it; keys that are
/// not known and not empty become warnings.
void read_lora_config(AdapterData& data, const Json& json, const std::string& prefix, const std::string& where);
/// The opposite: what every format writes of the configuration.
Json lora_config_json(const Lora& config, const std::string& prefix = "");
/// "x.lora_A.default.weight" -> "x.lora_A.weight": names as PEFT's state_dict has them become those of its files.
std::string without_adapter_name(std::string key);
}  // namespace detail

/// What to tell where an adapter that was made for `theirs` is put on `ours`, both names or paths of models; empty
/// where they name the same: the last part of a path counts, without .gguf and the type of its quantisation.
std::string other_base_warning(const std::string& theirs, const std::string& ours);

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/adapters/data.inl.hpp>
#endif
