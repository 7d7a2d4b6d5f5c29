// text/tokenizer_ranks.inl.hpp: bodies of text/tokenizer_spec.hpp that read vocabularies that are bytes by rank:
// tiktoken's (.tiktoken, the tokenizer.model of Llama 3 and 4) and Mistral's tekken.json.
#pragma once
#include <ftlib/io/base64.hpp>
#include <ftlib/io/json.hpp>
#include <ftlib/text/bpe.hpp>          // ByteAlphabet
#include <ftlib/text/pretokenize.hpp>  // split_patterns
#include <ftlib/text/tokenizer_spec.hpp>

#include <algorithm>    // std::min
#include <bitset>       // std::bitset
#include <charconv>     // std::from_chars
#include <optional>     // std::optional
#include <span>         // std::span
#include <string>       // std::string
#include <string_view>  // std::string_view
#include <utility>      // std::move
#include <vector>       // std::vector

namespace ft::inline FTLIB_ABI {
namespace detail {

/// Special tokens that a file of ranks does not name: `text`, with numbers from `first` on in place of its '#'.
struct SpecialTokens {
  std::string_view text;
  int first = 0, count = 1;
};
/// A published vocabulary, known by its number of ranks; its special tokens follow them.
struct RankedVocabulary {
  std::size_t ranks;
  PreTokenizer words;
  bool nfc, add_bos;
  std::string_view bos, eos, pad;
  std::string_view ends[2];  // more tokens that end an answer
  std::span<const SpecialTokens> special;
};

// github.com/meta-llama/llama-models, models/llama3/tokenizer.py and models/llama4/tokenizer.py
inline constexpr SpecialTokens llama3_special[] = {{"<|begin_of_text|>"},
                                                   {"<|end_of_text|>"},
                                                   {"<|reserved_special_token_#|>", 0, 2},
                                                   {"<|finetune_right_pad_id|>"},
                                                   {"<|step_id|>"},
                                                   {"<|start_header_id|>"},
                                                   {"<|end_header_id|>"},
                                                   {"<|eom_id|>"},
                                                   {"<|eot_id|>"},
                                                   {"<|python_tag|>"},
                                                   {"<|image|>"},
                                                   {"<|reserved_special_token_#|>", 2, 244}};
inline constexpr SpecialTokens llama4_special[] = {{"<|begin_of_text|>"},
                                                   {"<|end_of_text|>"},
                                                   {"<|fim_prefix|>"},
                                                   {"<|fim_middle|>"},
                                                   {"<|fim_suffix|>"},
                                                   {"<|header_start|>"},
                                                   {"<|header_end|>"},
                                                   {"<|eom|>"},
                                                   {"<|eot|>"},
                                                   {"<|step|>"},
                                                   {"<|text_post_train_reserved_special_token_#|>", 0, 6},
                                                   {"<|python_start|>"},
                                                   {"<|python_end|>"},
                                                   {"<|finetune_right_pad|>"},
                                                   {"<|text_post_train_reserved_special_token_#|>", 8, 61},
                                                   {"<|image_start|>"},
                                                   {"<|image_end|>"},
                                                   {"<|vision_reserved_special_token_#|>", 0, 2},
                                                   {"<|tile_x_separator|>"},
                                                   {"<|tile_y_separator|>"},
                                                   {"<|vision_reserved_special_token_#|>", 2, 4},
                                                   {"<|image|>"},
                                                   {"<|vision_reserved_special_token_#|>", 6, 1},
                                                   {"<|patch|>"},
                                                   {"<|vision_reserved_special_token_#|>", 7, 1041},
                                                   {"<|reasoning_reserved_special_token_#|>", 0, 8},
                                                   {"<|reasoning_thinking_start|>"},
                                                   {"<|reasoning_thinking_end|>"},
                                                   {"<|reserved_special_token_#|>", 0, 904}};
// PyPI's dashscope, dashscope/tokenizers/qwen_tokenizer.py
inline constexpr SpecialTokens qwen_special[] = {
    {"<|endoftext|>"}, {"<|im_start|>"}, {"<|im_end|>"}, {"<|extra_#|>", 0, 205}};
inline constexpr RankedVocabulary ranked_vocabularies[] = {
    {128000,
     llama3_words,
     false,
     true,
     "<|begin_of_text|>",
     "<|end_of_text|>",
     "<|finetune_right_pad_id|>",
     {"<|eot_id|>", "<|eom_id|>"},
     llama3_special},
    {200000,
     gpt4o_words,
     false,
     true,
     "<|begin_of_text|>",
     "<|end_of_text|>",
     "<|finetune_right_pad|>",
     {"<|eot|>", "<|eom|>"},
     llama4_special},
    {151643, qwen2_words, true, false, "", "<|endoftext|>", "", {"<|im_end|>", ""}, qwen_special}};
// github.com/mistralai/mistral-common, tokens/tokenizers/tekken.py: where a file, up to version 7, names none
inline constexpr std::string_view tekken_special[] = {"<unk>",
                                                      "<s>",
                                                      "</s>",
                                                      "[INST]",
                                                      "[/INST]",
                                                      "[AVAILABLE_TOOLS]",
                                                      "[/AVAILABLE_TOOLS]",
                                                      "[TOOL_RESULTS]",
                                                      "[/TOOL_RESULTS]",
                                                      "[TOOL_CALLS]",
                                                      "[IMG]",
                                                      "<pad>",
                                                      "[IMG_BREAK]",
                                                      "[IMG_END]",
                                                      "[PREFIX]",
                                                      "[MIDDLE]",
                                                      "[SUFFIX]",
                                                      "[SYSTEM_PROMPT]",
                                                      "[/SYSTEM_PROMPT]",
                                                      "[TOOL_CONTENT]"};

/// Collects the tokens of a vocabulary of ranks. Two neighbours are merged where what they make is a token, that of the
/// lowest rank first, and a word that is a token is that token: github.com/openai/tiktoken, src/lib.rs.
class RankedTokens {
 public:
  explicit RankedTokens(std::string_view name, std::size_t at_most) : limit_(at_most) {
    spec_.name = name;
    spec_.ignore_merges = true;
    spec_.byte_fallback = false;
  }
  void add(std::size_t id, std::string_view bytes, std::size_t rank) {
    put(id, alphabet_.spelling(bytes), TokenizerSpec::Type::normal);
    spec_.scores[id] = -static_cast<float>(rank);
    if (bytes.size() == 1) single_[static_cast<std::uint8_t>(bytes[0])] = true;
  }
  void add_special(std::size_t id, std::string text) {
    spec_.added.push_back({.content = text, .id = static_cast<std::int32_t>(id), .special = true});
    put(id, std::move(text), TokenizerSpec::Type::control);
  }
  std::int32_t special(std::string_view text) const {
    for (const AddedToken& token : spec_.added)
      if (token.content == text) return token.id;
    return -1;
  }
  std::size_t size() const { return spec_.tokens.size(); }
  TokenizerSpec& spec() { return spec_; }
  TokenizerSpec finish() {
    for (std::size_t byte = 0; byte < 256; ++byte)
      if (!single_[byte])
        throw Error(str(spec_.name, ": byte ", byte, " has no rank"), "every byte of a text has to become a token.");
    return std::move(spec_);
  }

 private:
  void put(std::size_t id, std::string token, TokenizerSpec::Type type) {
    if (id >= limit_) throw Error(str(spec_.name, ": a token has id ", id, "; at most ", limit_, " were expected"));
    if (id >= size()) {
      spec_.tokens.resize(id + 1);
      spec_.scores.resize(id + 1);
      spec_.types.resize(id + 1, TokenizerSpec::Type::unused);
    }
    if (spec_.types[id] != TokenizerSpec::Type::unused)
      throw Error(
          str(spec_.name, ": tokens ", quote(spec_.tokens[id]), " and ", quote(token), " have the same id ", id));
    spec_.tokens[id] = std::move(token);
    spec_.types[id] = type;
  }

  TokenizerSpec spec_;
  ByteAlphabet alphabet_;
  std::size_t limit_;
  std::bitset<256> single_;
};

}  // namespace detail

[[gnu::cold]] FTLIB_INLINE TokenizerSpec tokenizer_spec_from_tiktoken(std::string_view text, std::string_view name,
                                                                      std::optional<PreTokenizer> words) {
  // Holes are allowed, but a file cannot make us reserve more than it gives.
  detail::RankedTokens tokens(name, std::min<std::size_t>(text.size() + 65536, 1u << 24));
  std::size_t line = 0, ranks = 0;
  for (std::size_t at = 0, end; at < text.size(); at = end + 1) {
    end = std::min(text.find('\n', at), text.size());
    std::string_view row = text.substr(at, end - at);
    if (row.ends_with('\r')) row.remove_suffix(1);
    ++line;
    if (row.empty()) continue;
    const std::size_t space = row.find(' ');
    const auto bytes = detail::from_base64(row.substr(0, space));
    std::uint32_t rank = 0;
    const char* digits = row.data() + std::min(space, row.size() - 1) + 1;
    const auto [stop, error] = std::from_chars(digits, row.data() + row.size(), rank);
    if (space == row.npos || !bytes || bytes->empty() || error != std::errc() || stop != row.data() + row.size())
      throw Error(str(name, ": line ", line, " ", quote(row), " is not base64, a space and a rank"),
                  "tiktoken's files of ranks are read.");
    tokens.add(rank, *bytes, rank);
    ++ranks;
  }
  for (const detail::RankedVocabulary& known : detail::ranked_vocabularies) {
    if (known.ranks != ranks || ranks != tokens.size()) continue;
    for (const detail::SpecialTokens& some : known.special)
      for (int i = 0; i < some.count; ++i) {
        std::string one(some.text);
        if (const std::size_t mark = one.find('#'); mark != one.npos) one.replace(mark, 1, str(some.first + i));
        tokens.add_special(tokens.size(), std::move(one));
      }
    TokenizerSpec& spec = tokens.spec();
    spec.pre_tokenizer = known.words;
    spec.nfc = known.nfc;
    spec.bos = tokens.special(known.bos);
    spec.eos = tokens.special(known.eos);
    spec.pad = tokens.special(known.pad);
    spec.add_bos = known.add_bos;
    for (const std::string_view end : known.ends)
      if (!end.empty()) spec.ends.push_back(tokens.special(end));
    words = words.value_or(known.words);
  }
  if (!words)
    throw Error(
        str(name, ": ", ranks, " ranks, of which the file does not say how text is cut into words"),
        "known by their number are Llama 3 (128000), Llama 4 (200000) and Qwen (151643); name the words of others "
        "to tokenizer_spec_from_tiktoken, or take the model's tokenizer.json.");
  tokens.spec().pre_tokenizer = *words;
  return tokens.finish();
}

[[gnu::cold]] FTLIB_INLINE TokenizerSpec tokenizer_spec_from_tekken(const Json& json, std::string_view name) {
  const auto fail = [&](const auto&... what) { throw Error(str(name, ": ", what...)); };
  const auto list = [&](const char* key) -> const Json& {
    const Json* found = detail::json_find(json, key, name);
    if (!found || !found->is_array()) fail("key ", quote(key), " is missing, or no array");
    return *found;
  };
  const Json* config = detail::json_find(json, "config", name);
  if (!config || !config->is_object()) fail("key 'config' is missing, or no object");
  const Json& vocab = list("vocab");
  const auto size = at<std::uint32_t>(*config, "default_vocab_size", name);
  const auto special = at<std::uint32_t>(*config, "default_num_special_tokens", name);
  if (special > 65536 || special > size || size - special > vocab.size())
    fail("default_vocab_size ", size, " with default_num_special_tokens ", special, " of ", vocab.size(), " ranks");
  detail::RankedTokens tokens(name, size);
  const Json* named = detail::json_find(json, "special_tokens", name);
  if (named && !named->is_null()) {
    for (const Json& one : list("special_tokens")) {
      const auto id = at<std::uint32_t>(one, "rank", name);
      if (id >= special) fail("special token ", id, " of ", special);
      tokens.add_special(id, at<std::string>(one, "token_str", name));
    }
  } else {
    for (std::size_t id = 0; id < special && id < std::size(detail::tekken_special); ++id)
      tokens.add_special(id, std::string(detail::tekken_special[id]));
  }
  for (std::size_t id = 0; id < special; ++id)
    if (id >= tokens.size() || tokens.spec().types[id] == TokenizerSpec::Type::unused)
      tokens.add_special(id, str("<SPECIAL_", id, ">"));
  for (const Json& one : vocab) {
    const auto rank = at<std::uint32_t>(one, "rank", name);
    if (rank >= size - special) continue;  // a file has more ranks than the model has rows
    const auto bytes = detail::from_base64(at<std::string>(one, "token_bytes", name));
    if (!bytes || bytes->empty()) fail("rank ", rank, ": token_bytes is not base64");
    tokens.add(special + rank, *bytes, rank);
  }
  TokenizerSpec& spec = tokens.spec();
  const auto regex = at<std::string>(*config, "pattern", name);
  for (const SplitPattern& known : split_patterns)
    if (regex == known.regex) spec.pre_tokenizer.pattern = known.pattern;
  if (spec.pre_tokenizer.pattern == PreTokenizer::Pattern::none)
    fail("config: pattern ", quote(regex), " is not known to this library");
  spec.bos = tokens.special("<s>");
  spec.eos = tokens.special("</s>");
  spec.pad = tokens.special("<pad>");
  spec.unk = tokens.special("<unk>");
  spec.add_bos = spec.bos >= 0;
  return tokens.finish();
}

}  // namespace ft::inline FTLIB_ABI
