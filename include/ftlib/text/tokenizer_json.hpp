// text/tokenizer_json.hpp: writes a tokenizer as Hugging Face's tokenizer.json and tokenizer_config.json, so that a
// model that came as GGUF can leave as a folder.
#pragma once
#include <ftlib/io/json.hpp>                  // Json
#include <ftlib/text/pretokenize.hpp>         // split_pattern
#include <ftlib/text/tokenizer_spec.inl.hpp>  // sp_space, TokenizerSpec

#include <algorithm>      // std::stable_sort
#include <string>         // std::string
#include <tuple>          // std::tuple
#include <unordered_map>  // std::unordered_map
#include <utility>        // std::pair
#include <vector>         // std::vector

namespace ft::inline FTLIB_ABI {

namespace detail {
/// Merges for a vocabulary that has scores instead: every way to put a token together from two others, the best token
/// first; so does transformers' conversion (convert_slow_tokenizer.py, generate_merges).
[[gnu::cold]] inline std::vector<std::string> merges_from_scores(const TokenizerSpec& spec) {
  std::unordered_map<std::string_view, std::size_t> ids;
  for (std::size_t i = 0; i < spec.tokens.size(); ++i)
    if (spec.types.empty() || spec.types[i] == TokenizerSpec::Type::normal) ids.emplace(spec.tokens[i], i);
  std::vector<std::tuple<float, std::size_t, std::size_t, std::string_view, std::string_view>> found;
  for (const auto& [token, id] : ids)
    for (std::size_t cut = 1; cut < token.size(); ++cut) {
      const auto left = ids.find(token.substr(0, cut)), right = ids.find(token.substr(cut));
      if (left != ids.end() && right != ids.end())
        found.emplace_back(-spec.scores[id], left->second, right->second, left->first, right->first);
    }
  std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) {
    return std::tie(std::get<0>(a), std::get<1>(a), std::get<2>(a)) <
           std::tie(std::get<0>(b), std::get<1>(b), std::get<2>(b));
  });
  std::vector<std::string> merges;
  merges.reserve(found.size());
  for (const auto& m : found) merges.push_back(str(std::get<3>(m), ' ', std::get<4>(m)));
  return merges;
}
}  // namespace detail

/// tokenizer.json and tokenizer_config.json.
[[gnu::cold]] inline std::pair<Json, Json> tokenizer_json(const TokenizerSpec& spec) {
  using Type = TokenizerSpec::Type;
  const bool bytes = spec.model == TokenizerSpec::Model::byte_level_bpe;
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
      added.push_back({{"id", t.id},
                       {"content", t.content},
                       {"single_word", t.single_word},
                       {"lstrip", t.lstrip},
                       {"rstrip", t.rstrip},
                       {"normalized", t.normalized},
                       {"special", t.special}});
  }
  Json merges = Json::array();
  for (const std::string& merge :
       spec.merges.empty() && !spec.scores.empty() ? detail::merges_from_scores(spec) : spec.merges) {
    const std::size_t at = merge.find(' ');
    merges.push_back({merge.substr(0, at), merge.substr(at + 1)});
  }

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
  } else {
    const Json replace{{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", space}};
    const Json back{{"type", "Replace"}, {"pattern", {{"String", space}}}, {"content", " "}};
    Json decoders = Json::array({back, {{"type", "ByteFallback"}}, {{"type", "Fuse"}}});
    if (spec.strip_space) decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
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
