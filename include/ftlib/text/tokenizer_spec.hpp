// text/tokenizer_spec.hpp: what a tokenizer is made from, read from Hugging Face's tokenizer.json or a GGUF's metadata.
#pragma once
#include <ftlib/core/error.hpp>   // Error
#include <ftlib/io/json_fwd.hpp>  // Json
#include <ftlib/text/pre_tokenizer.hpp>

#include <cstdint>      // std::int32_t
#include <filesystem>   // std::filesystem::path
#include <optional>     // std::optional
#include <string>       // std::string
#include <string_view>  // std::string_view
#include <vector>       // std::vector

namespace ft::inline FTLIB_ABI {

class GgufFile;

/// A token that is looked for in the text before anything else is done to it; the flags are those of tokenizer.json.
struct AddedToken {
  std::string content;
  std::int32_t id = -1;
  bool special = false;      ///< control tokens: not looked for with Special::as_text, left out by decode on request
  bool single_word = false;  ///< only where no letter, digit or underscore touches it
  bool lstrip = false;       ///< takes the white space before it along
  bool rstrip = false;       ///< takes the white space after it along
  bool normalized = false;   ///< looked for in the normalized text
};

/// A tokenizer's description, independent of the file it came from.
struct TokenizerSpec {
  enum class Model {
    byte_level_bpe,    ///< words of bytes, merges by rank; tokens are spelled in GPT-2's byte alphabet
    sentencepiece_bpe  ///< text with spaces as U+2581; merges by rank, or without `merges` by the tokens' scores
  };
  /// As in GGUF. What is unknown, control, unused or byte is never made by merging.
  enum class Type : std::int32_t { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };
  /// sentencepiece_bpe: where a space is put before the text.
  enum class SpacePrefix {
    never,
    always,             ///< before each stretch of text between added tokens
    unless_there,       ///< the same, but not before a space (Metaspace "always")
    first_unless_there  ///< the same, but at the start of the text only (Metaspace "first")
  };

  std::string name = "tokenizer";  ///< the file, for messages
  Model model = Model::byte_level_bpe;
  std::vector<std::string> tokens;
  std::vector<float> scores;        ///< one a token, where there are no merges
  std::vector<Type> types;          ///< one a token, or empty: all normal
  std::vector<std::string> merges;  ///< "left right", the first is merged first
  std::vector<AddedToken> added;
  PreTokenizer pre_tokenizer;  ///< byte_level_bpe
  bool nfc = false;            ///< byte_level_bpe: text is put into normalisation form C first
  bool ignore_merges = false;  ///< a word that is a token is that token, whatever the merges say
  SpacePrefix space_prefix = SpacePrefix::never;
  bool cut_before_spaces = false;  ///< sentencepiece_bpe: no token reaches over the start of a U+2581
  bool byte_fallback = true;       ///< sentencepiece_bpe: characters that are no token become tokens <0x00>...<0xFF>
  bool fuse_unk = false;           ///< neighbouring unknown characters become one unknown token
  bool strip_space = false;        ///< decode drops one space at the start
  std::int32_t bos = -1, eos = -1, pad = -1;
  std::vector<std::int32_t> ends;  ///< more tokens that end an answer, beside eos: generation_config.json's, GGUF's eot
  std::int32_t unk = -1;           ///< what unknown characters become; -1: they are dropped
  bool add_bos = false, add_eos = false;
  std::string chat_template;       ///< Jinja, as the file has it
  std::vector<std::string> notes;  ///< what the files hold that is passed over, a sentence each
};

/// Reads tokenizer.json of Hugging Face's tokenizers and, where given, tokenizer_config.json (bos, eos, pad, whether
/// they are added, chat template). A part that is not known here is an Error that quotes it.
TokenizerSpec tokenizer_spec_from_json(const Json& tokenizer_json, const Json* tokenizer_config = nullptr,
                                       std::string_view name = "tokenizer.json");
/// Reads a Hugging Face folder: tokenizer.json, and where they are there tokenizer_config.json, the chat template in
/// chat_template.jinja or, of a processor, chat_template.json, and the tokens that end an answer in
/// generation_config.json; where tokenizer_config.json names no eos_token, it or config.json does, with a note. A chat
/// template in a file of its own goes before tokenizer_config.json's, as in
/// transformers; of several with names, "default" is taken. None where there is no tokenizer.json.
std::optional<TokenizerSpec> tokenizer_spec_from_folder(const std::filesystem::path& folder);
/// Reads the keys tokenizer.ggml.* and tokenizer.chat_template. Throws Error for a pre-tokenizer that is not known.
TokenizerSpec tokenizer_spec_from(const GgufFile& file);

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/text/tokenizer_spec.inl.hpp>
#endif
