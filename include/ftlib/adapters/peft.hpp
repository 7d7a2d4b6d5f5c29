// adapters/peft.hpp: adapters as PEFT's folders, adapter_config.json and adapter_model.safetensors, on disk or in
// memory.
#pragma once
#include <ftlib/adapters/data.hpp>  // AdapterData

#include <cstddef>      // std::byte
#include <filesystem>   // std::filesystem::path
#include <span>         // std::span
#include <string>       // std::string
#include <string_view>  // std::string_view
#include <vector>       // std::vector

namespace ft::inline FTLIB_ABI {

/// The two files of a PEFT folder, for a database or a network.
struct PeftBytes {
  std::string config = {};              // adapter_config.json
  std::vector<std::byte> tensors = {};  // adapter_model.safetensors
};

/// Reads a PEFT folder; tensors stay mapped. Also reads keys without PEFT's prefix, and those of a state_dict
/// ("lora_A.default.weight"). Throws Error for what is no LoRA, rsLoRA or DoRA, and for every setting that changes what
/// an adapter computes and is not known here, by its key.
AdapterData read_peft(const std::filesystem::path& folder);
/// The same from memory, which must live until the adapter has been put into a set. `name` is what messages call it.
AdapterData read_peft(std::string_view config, std::span<const std::byte> tensors, const std::string& name = "adapter");

/// Writes a PEFT folder, which peft opens, whole or not at all. `task` is PEFT's task_type.
void write_peft(const std::filesystem::path& folder, const AdapterData& adapter, const std::string& task = "CAUSAL_LM");
/// The same in memory.
PeftBytes peft_bytes(const AdapterData& adapter, const std::string& task = "CAUSAL_LM");

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/adapters/peft.inl.hpp>
#endif
