// text/tokenizer_json.hpp: writes a tokenizer as Hugging Face's tokenizer.json and tokenizer_config.json, so that a
// model that came as GGUF can leave as a folder.
#pragma once
#include <ftlib/io/base64.hpp>                // to_base64
#include <ftlib/io/json.hpp>                  // Json
#include <ftlib/text/pretokenize.hpp>         // split_pattern
#include <ftlib/text/tokenizer_spec.inl.hpp>  // sp_space, merges_of, TokenizerSpec

#include <string>   // std::string
#include <utility>  // std::pair
#include <vector>   // std::vector

namespace ft::inline FTLIB_ABI {

/// tokenizer.json and tokenizer_config.json.
[[gnu::cold]] inline std::pair<Json, Json> tokenizer_json(const TokenizerSpec& spec) {
  using Type = TokenizerSpec::Type;
  const bool bytes = spec.model == TokenizerSpec::Model::byte_level_bpe;
  const bool unigram = spec.model == TokenizerSpec::Model::unigram;
  const std::string space(detail::sp_space);
  const auto type = [&](std::size_t i) { return spec.types.empty() ? Type::normal : spec.types[i]; };
  const auto name = [&](int32_t id) { return id >= 0 ? Json(spec.tokens[static_cast<std::size_t>(id)]) : Json(); };

  Json vocab = Json::object(), added = Json::array();
  for (std::size_t i = 0; i < spec.tokens.size(); ++i) vocab[spec.tokens[i]] = i;
  if (spec.added.empty()) {
    for (std::size_t i = 0; i < spec.tokens.size(); ++i)
      if (type(i) == Type::control || type(i) == Type::user_defined || (type(i) == Type::unknown && !bytes))
        added.push_back({{"id", i},
                         {"content", spec.tokens[i]},
                         {"single_word", false},
                         {"lstrip", false},
                         {"rstrip", false},
                         {"normalized", false},
                         {"special", type(i) != Type::user_defined}});
  } else {
    for (const AddedToken& t : spec.added)
      added.push_back(
          {{"id", t.id},
           {"content", t.content},
           {"single_word", t.single_word},
           {"lstrip", t.lstrip},
           {"rstrip", t.rstrip},
           {"normalized", t.normalized && !spec.sentencepiece_normalizer},  // whose symbols are sought in raw text
           {"special", t.special}});
  }
  Json merges = Json::array();
  for (const std::string& merge : merges_of(spec)) {
    const std::size_t at = merge.find(' ');
    merges.push_back({merge.substr(0, at), merge.substr(at + 1)});
  }

  const Json back{{"type", "Replace"}, {"pattern", {{"String", space}}}, {"content", " "}};
  Json decoders = Json::array({back, {{"type", "ByteFallback"}}, {{"type", "Fuse"}}});
  if (spec.strip_space) decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});

  Json tokenizer{{"version", "1.0"}, {"truncation", nullptr}, {"padding", nullptr}, {"added_tokens", std::move(added)}};
  if (bytes) {
    const bool own_regex = spec.pre_tokenizer.pattern != PreTokenizer::Pattern::gpt2;  // ByteLevel has GPT-2's
    Json steps = Json::array();
    if (spec.pre_tokenizer.digits != PreTokenizer::Digits::in_pattern)
      steps.push_back(
          {{"type", "Digits"}, {"individual_digits", spec.pre_tokenizer.digits == PreTokenizer::Digits::each}});
    if (own_regex)
      steps.push_back({{"type", "Split"},
                       {"pattern", {{"Regex", split_pattern(spec.pre_tokenizer.pattern)->regex}}},
                       {"behavior", "Isolated"},
                       {"invert", false}});
    steps.push_back({{"type", "ByteLevel"},
                     {"add_prefix_space", spec.pre_tokenizer.add_prefix_space},
                     {"trim_offsets", true},
                     {"use_regex", !own_regex}});
    tokenizer["normalizer"] = spec.nfc ? Json{{"type", "NFC"}} : Json();
    tokenizer["pre_tokenizer"] = steps.size() == 1 ? steps[0] : Json{{"type", "Sequence"}, {"pretokenizers", steps}};
    tokenizer["decoder"] = {
        {"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}};
  } else if (unigram || !spec.charsmap.empty() || spec.collapse_spaces) {  // as transformers' conversion writes them
    Json before = Json::array();
    if (!spec.charsmap.empty())
      before.push_back({{"type", "Precompiled"}, {"precompiled_charsmap", detail::to_base64(spec.charsmap)}});
    if (spec.strip_right || (spec.sentencepiece_normalizer && spec.collapse_spaces))
      before.push_back({{"type", "Strip"}, {"strip_left", false}, {"strip_right", true}});
    if (spec.collapse_spaces)
      before.push_back({{"type", "Replace"},
                        {"pattern", {{"Regex", " {2,}"}}},
                        {"content", spec.split_whitespace ? std::string(" ") : space}});
    const Json metaspace{
        {"type", "Metaspace"},
        {"replacement", space},
        {"prepend_scheme", spec.space_prefix == TokenizerSpec::SpacePrefix::never                ? "never"
                           : spec.space_prefix == TokenizerSpec::SpacePrefix::first_unless_there ? "first"
                                                                                                 : "always"},
        {"split", spec.cut_before_spaces}};
    tokenizer["normalizer"] = before.empty() ? Json() : Json{{"type", "Sequence"}, {"normalizers", before}};
    tokenizer["pre_tokenizer"] =
        spec.split_whitespace
            ? Json{{"type", "Sequence"}, {"pretokenizers", Json::array({{{"type", "WhitespaceSplit"}}, metaspace})}}
            : metaspace;
    tokenizer["decoder"] = spec.byte_fallback ? Json{{"type", "Sequence"}, {"decoders", decoders}} : metaspace;
  } else {
    const Json replace{{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", space}};
    tokenizer["normalizer"] =
        spec.space_prefix == TokenizerSpec::SpacePrefix::never
            ? replace
            : Json{{"type", "Sequence"},
                   {"normalizers", Json::array({{{"type", "Prepend"}, {"prepend", space}}, replace})}};
    tokenizer["pre_tokenizer"] = nullptr;
    tokenizer["decoder"] = {{"type", "Sequence"}, {"decoders", decoders}};
  }
  Json single = Json::array(), special = Json::object();
  const auto put = [&](int32_t id) {
    single.push_back({{"SpecialToken", {{"id", name(id)}, {"type_id", 0}}}});
    special[name(id).get<std::string>()] = {
        {"id", name(id)}, {"ids", Json::array({id})}, {"tokens", Json::array({name(id)})}};
  };
  if (spec.add_bos && spec.bos >= 0) put(spec.bos);
  single.push_back({{"Sequence", {{"id", "A"}, {"type_id", 0}}}});
  if (spec.add_eos && spec.eos >= 0) put(spec.eos);
  Json pair = single;
  pair.push_back({{"Sequence", {{"id", "B"}, {"type_id", 1}}}});
  tokenizer["post_processor"] =
      special.empty()
          ? Json()
          : Json{{"type", "TemplateProcessing"}, {"single", single}, {"pair", pair}, {"special_tokens", special}};
  tokenizer["model"] = {{"type", "BPE"},
                        {"dropout", nullptr},
                        {"unk_token", bytes ? Json() : name(spec.unk)},
                        {"continuing_subword_prefix", nullptr},
                        {"end_of_word_suffix", nullptr},
                        {"fuse_unk", spec.fuse_unk},
                        {"byte_fallback", !bytes && spec.byte_fallback},
                        {"ignore_merges", spec.ignore_merges},
                        {"vocab", std::move(vocab)},
                        {"merges", std::move(merges)}};
  if (unigram) {
    vocab = Json::array();
    for (std::size_t i = 0; i < spec.tokens.size(); ++i)
      vocab.push_back({spec.tokens[i], static_cast<double>(spec.scores[i])});
    tokenizer["model"] = {{"type", "Unigram"},
                          {"unk_id", spec.unk >= 0 ? Json(spec.unk) : Json()},
                          {"vocab", std::move(vocab)},
                          {"byte_fallback", spec.byte_fallback}};
  }

  Json config{{"tokenizer_class", "PreTrainedTokenizerFast"},
              {"add_bos_token", spec.add_bos},
              {"add_eos_token", spec.add_eos},
              {"clean_up_tokenization_spaces", false}};
  for (const auto& [key, id] : {std::pair{"bos_token", spec.bos}, std::pair{"eos_token", spec.eos},
                                std::pair{"pad_token", spec.pad}, std::pair{"unk_token", spec.unk}})
    if (id >= 0) config[key] = name(id);
  if (!spec.chat_template.empty()) config["chat_template"] = spec.chat_template;
  return {std::move(tokenizer), std::move(config)};
}

}  // namespace ft::inline FTLIB_ABI
