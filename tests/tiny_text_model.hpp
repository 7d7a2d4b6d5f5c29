// tests/tiny_text_model.hpp: a tiny Llama of tests/data with a tokenizer for its 97 tokens: a byte each.
#pragma once
#include "scratch.hpp"

#include <ftlib/io/json.hpp>  // Json

#include <filesystem>  // std::filesystem::copy
#include <fstream>     // std::ofstream
#include <string>      // std::string

namespace ft::test {

inline std::filesystem::path tiny_text_model(const Scratch& dir, const char* model = "llama_tiny") {
  const auto folder = dir / "text-model";
  std::filesystem::copy(std::filesystem::path(FTLIB_TEST_DATA) / "models" / model, folder);
  Json vocab{{"<|endoftext|>", 0}};
  for (char c = '!'; c <= '~'; ++c) vocab[std::string(1, c)] = vocab.size();
  vocab["\u0120"] = vocab.size();  // a space, in byte-level BPE's alphabet
  const Json tokenizer{{"version", "1.0"},
                       {"added_tokens", {{{"id", 0}, {"content", "<|endoftext|>"}, {"special", true}}}},
                       {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}},
                       {"decoder", {{"type", "ByteLevel"}}},
                       {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", Json::array()}}}};
  std::ofstream(folder / "tokenizer.json") << tokenizer.dump();
  return folder;
}

}  // namespace ft::test
