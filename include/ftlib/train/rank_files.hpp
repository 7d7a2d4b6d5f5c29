// train/rank_files.hpp: files that several ranks write together, each where its own bytes belong.
#pragma once
#include <ftlib/distributed/communicator.hpp>
#include <ftlib/io/entry.hpp>  // TensorEntry

#include <cstddef>     // std::byte
#include <cstdint>     // std::uint64_t
#include <filesystem>  // std::filesystem::path
#include <span>        // std::span
#include <string>      // std::string
#include <vector>      // std::vector

namespace ft::inline FTLIB_ABI {

/// Whether `folder`, which rank 0 makes where it is missing, is the same one for all ranks: rank 0 writes a file under
/// a name of its own, and the others look for it. All ranks call it; throws Error where rank 0 cannot write.
bool is_same_folder(Communicator& world, const std::filesystem::path& folder);

/// What a rank has of a file's tensor: bytes that begin at byte `begin` of it, and live until the file is written.
struct FilePiece {
  std::string tensor;
  std::uint64_t begin = 0;
  std::span<const std::byte> bytes;
};

/// Writes the safetensors file that write_safetensors() would, of entries whose bytes the ranks have among them. All
/// ranks call it, with the same entries and each with its pieces; rank 0 says which `file`. It grows beside `folder`,
/// in which `file` will lie, under a name that was never there, so that no machine's cache holds what it was; rank 0
/// then puts it in place. Throws Error on all ranks where one cannot write.
void write_together(Communicator& world, const std::filesystem::path& folder, const std::filesystem::path& file,
                    std::vector<TensorEntry> entries, const std::vector<FilePiece>& pieces);
/// Removes what killed runs have left of such files beside `folder`, which nobody may write.
void remove_parts(const std::filesystem::path& folder);

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/train/rank_files.inl.hpp>
#endif
