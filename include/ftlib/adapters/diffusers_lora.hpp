// adapters/diffusers_lora.hpp: adapters as diffusers' files: pytorch_lora_weights.safetensors, for models of pictures.
#pragma once
#include <ftlib/adapters/data.hpp>  // AdapterData
#include <ftlib/tensor/shape.hpp>   // Shape

#include <filesystem>  // std::filesystem::path
#include <map>         // std::map
#include <string>      // std::string

namespace ft::inline FTLIB_ABI {

/// Writes an adapter as diffusers' save_lora_weights does: keys "transformer.", the module's name and ".lora_A.weight"
/// (R, in) or ".lora_B.weight" (out, R), PEFT's configuration in the header's metadata. `path` is a .safetensors file,
/// or a folder for one. `file_shapes` names weights that are convolutions in files (Denoiser::file_shapes), whose A is
/// (R, ch, p, p) and B (out, R, 1, 1).
void write_diffusers_lora(const std::filesystem::path& path, const AdapterData& adapter,
                          const std::map<std::string, Shape>& file_shapes = {});

/// Reads such a file, or the one of that name in a folder, or a PEFT folder of MiniT2I's (its layers are below
/// "model.net."). Also reads PEFT's, ai-toolkit's and ComfyUI's prefixes, and
/// kohya's names (lora_unet_double_blocks_0_img_qkv.lora_down.weight, .lora_up.weight, .alpha); without metadata each
/// module's rank is its tensors', and its alpha the rank where no .alpha says otherwise. Throws Error for kohya's DoRA,
/// and for settings that are not known (read_peft says which).
AdapterData read_diffusers_lora(const std::filesystem::path& path);

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/adapters/diffusers_lora.inl.hpp>
#endif
