// text/tokenizer_gguf.hpp: writes a tokenizer as GGUF's metadata, as llama.cpp reads it, so that a model that came as a
// Hugging Face folder can leave as one file.
#pragma once
#include <ftlib/io/gguf.hpp>              // GgufMetadata
#include <ftlib/text/pretokenize.hpp>     // gguf_pre_tokenizers
#include <ftlib/text/tokenizer_spec.hpp>  // TokenizerSpec, merges_of

#include <algorithm>      // std::find_if
#include <set>            // std::set
#include <string>         // std::string
#include <unordered_map>  // std::unordered_map
#include <vector>         // std::vector

namespace ft::inline FTLIB_ABI {

namespace detail {

/// GGUF's name for how words are cut. Throws Error where there is none; what it says beyond is a note.
[[gnu::cold]] inline std::string gguf_pre_name(const TokenizerSpec& spec, std::vector<std::string>& notes) {
  const auto cuts = [&](const GgufPreTokenizer& known) {
    return known.how.pattern == spec.pre_tokenizer.pattern && known.how.digits == spec.pre_tokenizer.digits &&
           known.how.add_prefix_space == spec.pre_tokenizer.add_prefix_space;
  };
  const GgufPreTokenizer* best = nullptr;
  int most = -1;
  for (const GgufPreTokenizer& known : gguf_pre_tokenizers) {
    if (!cuts(known)) continue;
    const int fit = 2 * (known.ignore_merges == spec.ignore_merges) + (known.nfc == spec.nfc);
    if (fit > most) best = &known, most = fit;
  }
  if (!best)
    throw Error(str(spec.name, ": cuts words in a way for which GGUF has no name (tokenizer.ggml.pre)"),
                "leave as a Hugging Face folder.");
  if (best->ignore_merges != spec.ignore_merges)
    notes.push_back(str("tokenizer.ggml.pre is '", best->name, "', whose words that are tokens ",
                        best->ignore_merges ? "are taken whole there, where this tokenizer merges them"
                                            : "are merged there, where this tokenizer takes them whole"));
  if (spec.nfc) notes.push_back("text is put into normalisation form C by this tokenizer; llama.cpp leaves that out");
  return std::string(best->name);
}

/// Scores by which SentencePiece makes the merges in their order: the earlier a token is made, the better it is.
[[gnu::cold]] inline std::vector<float> scores_of_merges(const TokenizerSpec& spec, std::vector<std::string>& notes) {
  std::unordered_map<std::string_view, std::size_t> ids;
  for (std::size_t i = 0; i < spec.tokens.size(); ++i) ids.emplace(spec.tokens[i], i);
  std::vector<float> scores(spec.tokens.size(), -1e9f);
  std::vector<std::size_t> last(spec.tokens.size(), spec.merges.size());
  int64_t apart = 0, unmade = 0;
  for (std::size_t rank = 0; rank < spec.merges.size(); ++rank) {
    std::string whole = spec.merges[rank];
    whole.erase(whole.find(' '), 1);
    const auto found = ids.find(whole);
    if (found == ids.end()) continue;  // Tokenizer refuses it
    const std::size_t id = found->second;
    if (last[id] == spec.merges.size()) scores[id] = -static_cast<float>(rank);
    else if (last[id] + 1 != rank) ++apart;
    last[id] = rank;
  }
  for (std::size_t i = 0; i < spec.tokens.size(); ++i) {
    const auto type = spec.types.empty() ? TokenizerSpec::Type::normal : spec.types[i];
    if (last[i] != spec.merges.size() ||
        (type != TokenizerSpec::Type::normal && type != TokenizerSpec::Type::user_defined))
      continue;
    const std::string_view token = spec.tokens[i];
    for (std::size_t cut = 1; cut < token.size(); ++cut)
      if (ids.count(token.substr(0, cut)) && ids.count(token.substr(cut))) {
        ++unmade;
        break;
      }
  }
  if (apart)
    notes.push_back(str(apart,
                        " merges stand apart from others that make the same token: GGUF has one score a token, "
                        "so that rare words may be cut otherwise"));
  if (unmade)
    notes.push_back(str(unmade, " tokens that no merge makes here: llama.cpp makes them where two others meet"));
  return scores;
}

}  // namespace detail

/// The keys tokenizer.ggml.* and tokenizer.chat_template of a model with `rows` rows in its embedding: what
/// tokenizer_spec_from() reads, and llama.cpp. Rows without a token get a filler, tokens without a row are left out;
/// that, and what GGUF has no word for, is said in `notes`. `end_of_turn`: the token that ends an answer, beside eos;
/// -1: none. `by_merges`: a SentencePiece BPE is written with its merges (tokenizer.ggml.model "gemma4"), which
/// llama.cpp reads since Gemma 4; else with scores. Throws Error for a tokenizer that GGUF cannot hold.
[[gnu::cold]] inline GgufMetadata gguf_tokenizer(const TokenizerSpec& spec, int64_t rows, std::int32_t end_of_turn,
                                                 std::vector<std::string>& notes, bool by_merges = false) {
  using Type = TokenizerSpec::Type;
  if (spec.model == TokenizerSpec::Model::unigram)
    throw Error(str(spec.name, ": a unigram tokenizer is not written to GGUF"), "leave as a Hugging Face folder.");
  const bool bytes = spec.model == TokenizerSpec::Model::byte_level_bpe;
  const bool merges = bytes || by_merges;
  GgufMetadata out;
  const auto put = [&](const char* key, GgufValue value) {
    out.emplace_back(std::string("tokenizer.ggml.") + key, std::move(value));
  };

  const auto n = static_cast<std::size_t>(rows);
  std::vector<std::string> tokens = spec.tokens;
  std::vector<std::int32_t> types;
  for (std::size_t i = 0; i < tokens.size(); ++i)
    types.push_back(static_cast<std::int32_t>(spec.types.empty() ? Type::normal : spec.types[i]));
  int64_t flags = 0;
  for (const AddedToken& token : spec.added) {
    const auto id = static_cast<std::size_t>(token.id);
    if (id >= tokens.size()) continue;
    tokens[id] = token.content;
    if (types[id] != static_cast<std::int32_t>(Type::unknown) && types[id] != static_cast<std::int32_t>(Type::byte))
      types[id] = static_cast<std::int32_t>(token.special ? Type::control : Type::user_defined);
    flags += token.single_word || token.lstrip || token.rstrip ||
             (token.normalized && (spec.nfc || (!bytes && !spec.sentencepiece_normalizer)));
  }
  if (flags)
    notes.push_back(str(flags,
                        " added tokens take white space beside them along, stand as whole words alone, or are "
                        "sought in text that is normalised, for which GGUF has no word"));
  if (tokens.size() > n) {
    notes.push_back(str(tokens.size() - n, " tokens for which the embedding has no row are left out, from ",
                        quote(tokens[n]), " on"));
    tokens.resize(n);
    types.resize(n);
  }
  std::size_t fillers = n - tokens.size();
  types.resize(n, static_cast<std::int32_t>(Type::unused));
  tokens.resize(n);
  for (std::size_t i = 0; i < n; ++i)
    if (tokens[i].empty()) {
      fillers += i < spec.tokens.size();
      tokens[i] = str("[PAD", i, "]");
      types[i] = static_cast<std::int32_t>(Type::unused);
    }
  if (fillers) notes.push_back(str(fillers, " rows of the embedding have no token: [PADn] stands for each"));

  put("model", std::string(bytes ? "gpt2" : merges ? "gemma4" : "llama"));
  if (bytes || !merges) put("pre", bytes ? detail::gguf_pre_name(spec, notes) : std::string("default"));
  put("tokens", GgufArray::of(tokens));
  if (!merges) {
    auto scores = spec.scores.empty() ? detail::scores_of_merges(spec, notes) : spec.scores;
    scores.resize(n, -1e9f);
    put("scores", GgufArray::of(scores));
  }
  put("token_type", GgufArray::of(types));
  if (merges) put("merges", GgufArray::of(merges_of(spec)));
  if (const auto over = bytes || !merges ? 0 : detail::merges_over_lines(spec.merges); over > 0)
    notes.push_back(str(over, " merges reach over the end of a line, where llama.cpp cuts text"));
  for (const auto& [key, id] : {std::pair{"bos_token_id", spec.bos}, std::pair{"eos_token_id", spec.eos},
                                std::pair{"unknown_token_id", spec.unk}, std::pair{"padding_token_id", spec.pad}})
    if (id >= 0 && id < rows) put(key, static_cast<uint32_t>(id));

  std::vector<std::int32_t> ends;
  const auto end = [&](std::int32_t id) {
    if (id >= 0 && id < rows && id != spec.eos && std::find(ends.begin(), ends.end(), id) == ends.end())
      ends.push_back(id);
  };
  end(end_of_turn);
  for (const std::int32_t id : spec.ends) end(id);
  if (!ends.empty()) put("eot_token_id", static_cast<uint32_t>(ends[0]));
  if (ends.size() > 1) put("eom_token_id", static_cast<uint32_t>(ends[1]));
  if (ends.size() > 2)
    notes.push_back(str(ends.size() - 2, " more tokens end an answer, for which GGUF has no key: ",
                        quote(tokens[static_cast<std::size_t>(ends[2])]), ends.size() > 3 ? " ..." : ""));
  put("add_bos_token", spec.add_bos && spec.bos >= 0);
  put("add_eos_token", spec.add_eos && spec.eos >= 0);
  if (!bytes) {
    using Prefix = TokenizerSpec::SpacePrefix;
    put("add_space_prefix", spec.space_prefix != Prefix::never);
    if (spec.space_prefix == Prefix::unless_there || spec.space_prefix == Prefix::first_unless_there)
      notes.push_back(
          "this tokenizer puts a space before a text that has none at its start; llama.cpp puts one always");
    if (!spec.charsmap.empty() || spec.collapse_spaces || spec.strip_right || spec.split_whitespace)
      notes.push_back(
          "rules by which this tokenizer changes text before it is cut are left out: GGUF has no word for "
          "them in this kind");
    if (!spec.byte_fallback)
      notes.push_back("characters that are no token become the unknown token here, and bytes in llama.cpp");
  }
  if (!spec.chat_template.empty()) out.emplace_back("tokenizer.chat_template", spec.chat_template);
  return out;
}

}  // namespace ft::inline FTLIB_ABI
