// text/tokenizer_spec.hpp: what a tokenizer is made from, read from Hugging Face's tokenizer.json, a GGUF's metadata,
// tiktoken's ranks, tekken.json or a SentencePiece model.
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
    byte_level_bpe,     ///< words of bytes; tokens are spelled in GPT-2's byte alphabet
    sentencepiece_bpe,  ///< text with spaces as U+2581
    unigram             ///< the same; the tokens whose scores sum highest, and no merging
  };
  /// As in GGUF. What is unknown, control, unused or byte is never made by merging.
  enum class Type : std::int32_t { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };
  /// sentencepiece_bpe, unigram: where a space is put before the text.
  enum class SpacePrefix {
    never,
    always,             ///< before each stretch of text between added tokens
    unless_there,       ///< the same, but not before a space (Metaspace "always")
    first_unless_there  ///< the same, but at the start of the text only (Metaspace "first")
  };

  std::string name = "tokenizer";  ///< the file, for messages
  Model model = Model::byte_level_bpe;
  std::vector<std::string> tokens;
  std::vector<float> scores;        ///< one a token: of a unigram model, and where there are no merges
  std::vector<Type> types;          ///< one a token, or empty: all normal
  std::vector<std::string> merges;  ///< "left right", the first is merged first; none: the best token, by its score
  std::vector<AddedToken> added;
  PreTokenizer pre_tokenizer;  ///< byte_level_bpe
  bool nfc = false;            ///< byte_level_bpe: text is put into normalisation form C first
  bool ignore_merges = false;  ///< a word that is a token is that token, whatever the merges say
  SpacePrefix space_prefix = SpacePrefix::never;
  // What else sentencepiece_bpe and unigram do:
  std::string charsmap;  ///< SentencePiece's precompiled_charsmap, or empty; see Charsmap
  bool sentencepiece_normalizer =
      false;                       ///< text is normalised as SentencePiece does it: the longest rules of charsmap,
                                   ///< user-defined tokens untouched; else as tokenizers': by grapheme cluster
  bool collapse_spaces = false;    ///< of neighbouring spaces one stays, and by SentencePiece none at both ends
  bool strip_right = false;        ///< white space at the end goes, where SentencePiece does not normalise
  bool split_whitespace = false;   ///< white space parts words and goes; each gets its own space before it
  bool cut_before_spaces = false;  ///< no token reaches over the start of a U+2581
  bool cut_lines = false;          ///< none has newlines and others; a run of newlines that is a token is that token
  bool byte_fallback = true;       ///< characters that are no token become tokens <0x00>...<0xFF>
  bool fuse_unk = false;           ///< neighbouring unknown characters become one unknown token
  bool strip_space = false;        ///< decode drops one space at the start; by SentencePiece's normalizer, where it
                                   ///< collapses spaces, one of each token until text begins
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
/// Reads tiktoken's ranks: lines of base64, a space and a number. Llama 3's, Llama 4's and Qwen's are known by how many
/// they are, and get their special tokens; of others `words` says how text is cut, and special tokens are the caller's
/// to add. Throws Error for what is not that, or lacks a byte.
TokenizerSpec tokenizer_spec_from_tiktoken(std::string_view text, std::string_view name,
                                           std::optional<PreTokenizer> words = {});
/// Reads Mistral's tekken.json. Ranks beyond its default_vocab_size are left out, as mistral-common leaves them.
TokenizerSpec tokenizer_spec_from_tekken(const Json& json, std::string_view name = "tekken.json");
/// Reads a SentencePiece model: BPE or unigram, with its normalizer. Control and unknown pieces become special tokens.
/// Throws Error for models of words or characters, for what its normalizer asks beyond `charsmap`, spaces and prefix,
/// and for a file that is cut short.
TokenizerSpec tokenizer_spec_from_sentencepiece(std::string_view bytes, std::string_view name = "tokenizer.model");
/// Reads one file of any kind that is read here, told apart by what is in it: GGUF, tokenizer.json, tekken.json,
/// tiktoken's ranks, a SentencePiece model.
TokenizerSpec tokenizer_spec_from_file(const std::filesystem::path& file);
/// spec.merges, or what stands for them where there are scores instead: every way to put a token together from two
/// others, the best token first, as transformers' conversion has them; of equal tokens the leftmost pair first is then
/// lost.
std::vector<std::string> merges_of(const TokenizerSpec& spec);
/// Reads a Hugging Face folder: tokenizer.json or, where there is none, tekken.json, tokenizer.model, spiece.model or a
/// *.tiktoken, of which a note says that it was taken; and where they are there tokenizer_config.json, the chat
/// template in chat_template.jinja or, of a processor, chat_template.json, and the tokens that end an answer in
/// generation_config.json; where tokenizer_config.json names no eos_token, it or config.json does, with a note. A chat
/// template in a file of its own goes before tokenizer_config.json's, as in
/// transformers; of several with names, "default" is taken. None where there is no file of a tokenizer.
std::optional<TokenizerSpec> tokenizer_spec_from_folder(const std::filesystem::path& folder);
/// Reads the keys tokenizer.ggml.* and tokenizer.chat_template. Throws Error for a pre-tokenizer that is not known.
TokenizerSpec tokenizer_spec_from(const GgufFile& file);

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/text/tokenizer_spec.inl.hpp>
#endif
