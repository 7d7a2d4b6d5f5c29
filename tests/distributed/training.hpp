// tests/distributed/training.hpp: a training on whatever ranks there are, for programs that bring different MPIs.
#pragma once
#include <ftlib/distributed/communicator.hpp>

#include <filesystem>

/// Trains LoRA, then all weights, of the GGUF file `model`, with checkpoints in folders of `out`; rank 0 prints one
/// line for each: hashes of what it ends with and of its checkpoint's files.
int train_on_ranks(ft::Communicator& world, const std::filesystem::path& model, const std::filesystem::path& out);
