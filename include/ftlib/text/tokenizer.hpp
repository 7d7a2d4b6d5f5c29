// text/tokenizer.hpp: text to tokens and back: byte-level BPE, SentencePiece's BPE and unigram models, exact as the
// references.
#pragma once
#include <ftlib/text/tokenizer_spec.hpp>  // TokenizerSpec

#include <cstdint>      // std::int32_t
#include <filesystem>   // std::filesystem::path
#include <memory>       // std::shared_ptr
#include <span>         // std::span
#include <string>       // std::string
#include <string_view>  // std::string_view
#include <utility>      // std::move
#include <vector>       // std::vector

namespace ft::inline FTLIB_ABI {

/// Whether control tokens (`<|im_end|>`, `<bos>`, ...) that are written in a text become those tokens. Text from
/// outside is encoded as_text, so that it cannot forge a turn. User-defined tokens (Gemma's runs of newlines) are
/// always parsed.
enum class Special { parse, as_text };

struct EncodeOptions {
  Special special = Special::parse;
  bool add_special_tokens = false;  ///< bos and eos, where the model's file asks for them
};

/// A part of a text, and whether control tokens that are written in it count.
struct TextPart {
  std::string_view text;
  Special special;
};

/// Encodes and decodes; immutable, cheap to copy, and safe to use from many threads at once.
///
/// Encoding gives the ids of Hugging Face's tokenizers for a tokenizer.json, of tiktoken and mistral-common for ranks,
/// of SentencePiece for its models (each stretch between control tokens is a text of its own), and of it and llama.cpp
/// for a GGUF (but that text is put into NFC where the model's tokenizer.json does so, which llama.cpp leaves out).
/// Text that is not valid UTF-8 is read as Python's bytes.decode("utf-8", "replace") would read it.
class Tokenizer {
 public:
  /// Throws Error for a description that contradicts itself.
  explicit Tokenizer(TokenizerSpec spec);
  static Tokenizer from_json(const Json& tokenizer_json, const Json* tokenizer_config = nullptr,
                             std::string_view name = "tokenizer.json");
  static Tokenizer from_gguf(const GgufFile& file);
  /// A file of any kind that is read; see tokenizer_spec_from_file.
  static Tokenizer from_file(const std::filesystem::path& file);

  std::vector<std::int32_t> encode(std::string_view text, EncodeOptions options = {}) const;
  /// The parts as one text, of which a control token counts where it stands wholly in parts whose control tokens do. So
  /// words from outside cannot forge one, not with the help of what stands beside them either, and all else is encoded
  /// as it would be in one piece.
  std::vector<std::int32_t> encode(std::span<const TextPart> parts) const;
  /// The text of tokens. Bytes that do not make valid UTF-8 become U+FFFD, by maximal subparts; ids outside the
  /// vocabulary are an Error.
  std::string decode(std::span<const std::int32_t> ids, bool skip_special = false) const;

  /// The bytes a token stands for, which may be part of a character.
  std::string_view bytes(std::int32_t id) const;
  /// A token as the file spells it ("Ġthe", "▁the", "<0x0A>").
  std::string token(std::int32_t id) const;
  /// The token that the file spells like this, or -1.
  std::int32_t id(std::string_view token) const;

  std::int32_t vocab_size() const;
  std::int32_t bos() const { return spec().bos; }  ///< -1: none; so are eos, pad and unk
  std::int32_t eos() const { return spec().eos; }
  std::int32_t pad() const { return spec().pad; }
  std::int32_t unk() const { return spec().unk; }
  bool add_bos() const { return spec().add_bos && spec().bos >= 0; }
  bool add_eos() const { return spec().add_eos && spec().eos >= 0; }
  /// Whether this is a control token, which decode leaves out on request.
  bool is_special(std::int32_t id) const;
  /// Whether the first space of a decoded text is dropped (Llama 2).
  bool strips_space() const { return spec().strip_space; }
  /// The file's Jinja text; see text/chat.hpp.
  const std::string& chat_template() const { return spec().chat_template; }
  /// What it was made from; what another file is written from.
  const TokenizerSpec& spec() const { return *spec_; }

 private:
  friend class StreamDecoder;
  struct Data;
  /// A token's bytes, less the space that decode drops; `strip`: whether it still may, which this takes back.
  std::string_view next_bytes(std::int32_t id, bool& strip) const;

  std::shared_ptr<const TokenizerSpec> spec_;
  std::shared_ptr<const Data> data_;
};

/// Decodes tokens as they come, and keeps the bytes of an unfinished character until the rest of it is there. All that
/// put and finish return is together what Tokenizer::decode returns.
class StreamDecoder {
 public:
  explicit StreamDecoder(Tokenizer tokenizer, bool skip_special = false)
      : tokenizer_(std::move(tokenizer)), skip_special_(skip_special), strip_(tokenizer_.strips_space()) {}

  /// The text that is complete with this token; often empty inside a character.
  std::string put(std::int32_t id);
  /// What is left at the end: U+FFFD for a character that never got its rest. The decoder can then be used anew.
  std::string finish();

 private:
  Tokenizer tokenizer_;
  std::string pending_;
  bool skip_special_, strip_;
};

}  // namespace ft::inline FTLIB_ABI

#if FTLIB_HEADER_ONLY
#include <ftlib/text/tokenizer.inl.hpp>
#endif
