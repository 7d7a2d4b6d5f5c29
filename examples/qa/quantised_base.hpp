// examples/qa/quantised_base.hpp: a base that is dense on disk as quantised blocks, made once and kept beside it, so
// that LoRA learns over a model that takes a quarter of the memory.
#pragma once
#include <ftlib/core/description.hpp>  // Hash
#include <ftlib/finetune.hpp>          // CausalLM, save_gguf
#include <ftlib/io/file.hpp>           // files_in
#include <ftlib/io/mapped_file.hpp>    // MappedFile
#include <ftlib/io/pages.hpp>          // release_pages

#include <algorithm>   // std::sort
#include <filesystem>  // std::filesystem::path
#include <iostream>    // std::cout
#include <string>      // std::string
#include <vector>      // std::vector

namespace qa {

/// Of a model's file, or of what is in its folder: names and bytes.
inline uint64_t content_of(const std::filesystem::path& model) {
  std::vector<std::filesystem::path> files{model};
  if (ft::is_folder(model)) files = ft::files_in(model);
  std::sort(files.begin(), files.end());
  ft::Hash hash;
  for (const auto& file : files) {
    if (ft::is_folder(file)) continue;
    hash.add(file.filename().string());
    std::error_code error;
    if (std::filesystem::file_size(file, error) == 0) continue;  // no mapping of nothing
    const auto mapped = ft::MappedFile::open(file);
    constexpr std::size_t step = std::size_t{64} << 20;
    for (std::size_t at = 0; at < mapped->bytes().size(); at += step) {
      const auto part = mapped->bytes().subspan(at, std::min(step, mapped->bytes().size() - at));
      hash.add(part.data(), part.size());
      ft::release_pages(part);
    }
  }
  return hash.value();
}

/// The model as a GGUF of `type` ("q8_0", "q4_0", "q4_k", "nf4"), beside it under the hash of its content: made where
/// it is not there. What was made, and from what, is said.
inline std::string quantised_base(const std::string& model, const std::string& type, int threads) {
  std::filesystem::path from = model;
  if (!from.has_filename()) from = from.parent_path();  // "folder/"
  const std::string mixture = type == "q4_k" ? "q4_k_m" : type;
  auto to = from;
  to += ft::printed(".%s-%016llx.gguf", mixture.c_str(), static_cast<unsigned long long>(content_of(from)));
  if (ft::path_exists(to)) {
    std::cout << "base: " << to.string() << ", quantised before from this very " << model << '\n';
    return to.string();
  }
  auto lm = ft::CausalLM<float, ft::Cpu>::from_pretrained(model, {.threads = threads});
  std::cout << "base: quantised once, and kept for the next run: " << ft::save_gguf(lm, to, {.type = mixture});
  return to.string();
}

}  // namespace qa
