// text/tokenizer_spec.inl.hpp: the bodies of text/tokenizer_spec.hpp.
#pragma once
#include <ftlib/io/base64.hpp>
#include <ftlib/io/gguf.hpp>
#include <ftlib/io/json.hpp>
#include <ftlib/text/pretokenize.hpp>
#include <ftlib/text/tokenizer_ranks.inl.hpp>
#include <ftlib/text/tokenizer_sentencepiece.inl.hpp>
#include <ftlib/text/tokenizer_spec.hpp>

#include <algorithm>      // std::find, std::max, std::sort
#include <charconv>       // std::from_chars
#include <cstdint>        // std::int32_t
#include <string>         // std::string
#include <string_view>    // std::string_view
#include <tuple>          // std::tuple
#include <unordered_map>  // std::unordered_map
#include <utility>        // std::move
#include <vector>         // std::vector

namespace ft::inline FTLIB_ABI {

namespace detail {

/// Says which chat templates with names are there beside the one that is used.
[[gnu::cold]] inline void note_templates(TokenizerSpec& spec, const std::vector<std::string>& others) {
  if (others.empty()) return;
  std::string names;
  for (const std::string& name : others) names += (names.empty() ? "" : ", ") + quote(name);
  spec.notes.push_back(str("chat templates that are not used: ", names,
                           spec.chat_template.empty() ? "; none is called 'default', so there is no chat form" : ""));
}

inline constexpr std::string_view sp_space = "\xE2\x96\x81";  // U+2581, SentencePiece's space

[[gnu::cold]] inline std::int32_t named_token(const TokenizerSpec& spec, const std::string& content) {
  for (const AddedToken& token : spec.added)
    if (token.content == content) return token.id;
  const auto found = std::find(spec.tokens.begin(), spec.tokens.end(), content);
  if (found == spec.tokens.end())
    throw Error(str(spec.name, ": token ", quote(content), " is named but not in the vocabulary"));
  return static_cast<std::int32_t>(found - spec.tokens.begin());
}

/// What tokenizer_config.json says of bos, eos, pad, whether they are added, and the chat template.
[[gnu::cold]] inline void apply_tokenizer_config(TokenizerSpec& spec, const Json& config, const std::string& where) {
  const auto token = [&](std::string_view key, std::int32_t& id) {
    const Json* value = json_find(config, key, where);
    const std::string content = !value               ? std::string()
                                : value->is_object() ? at<std::string>(*value, "content", where)
                                : value->is_string() ? value->get<std::string>()
                                                     : std::string();
    if (!content.empty()) id = named_token(spec, content);
  };
  token("bos_token", spec.bos);
  token("eos_token", spec.eos);
  token("pad_token", spec.pad);
  spec.add_bos = value_or<bool>(config, "add_bos_token", spec.add_bos, where);
  spec.add_eos = value_or<bool>(config, "add_eos_token", spec.add_eos, where);
  const Json* chat = json_find(config, "chat_template", where);
  if (chat && chat->is_string()) spec.chat_template = chat->get<std::string>();
  if (chat && chat->is_array()) {
    std::vector<std::string> others;
    for (const Json& item : *chat) {
      const auto name = at<std::string>(item, "name", where);
      if (name == "default") spec.chat_template = at<std::string>(item, "template", where);
      else others.push_back(name);
    }
    note_templates(spec, others);
  }
}

inline AddedToken added_token(const Json& item, std::int32_t id, const std::string& where) {
  const auto flag = [&](const char* key) { return value_or<bool>(item, key, false, where); };
  AddedToken token{at<std::string>(item, "content", where), id};
  token.special = flag("special");
  token.single_word = flag("single_word");
  token.lstrip = flag("lstrip");
  token.rstrip = flag("rstrip");
  token.normalized = value_or<bool>(item, "normalized", !token.special, where);
  return token;
}

/// The tokens that tokenizer_config.json's added_tokens_decoder has beyond a vocabulary that is no tokenizer.json.
[[gnu::cold]] inline void add_config_tokens(TokenizerSpec& spec, const Json& config, const std::string& where) {
  const Json* list = json_find(config, "added_tokens_decoder", where);
  if (!list || !list->is_object()) return;
  const std::size_t limit = spec.tokens.size() + 65536;
  for (const auto& [key, item] : list->items()) {
    std::uint32_t id = 0;
    const auto [stop, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    AddedToken token = added_token(item, static_cast<std::int32_t>(id), where);
    if (error != std::errc() || stop != key.data() + key.size() || id >= limit)
      throw Error(str(where, ": added_tokens_decoder gives ", quote(token.content), " the id ", quote(key),
                      " beside a vocabulary of ", spec.tokens.size()));
    if (id < spec.tokens.size() && spec.tokens[id] == token.content) continue;
    if (id >= spec.tokens.size()) {
      spec.tokens.resize(id + 1);
      spec.types.resize(id + 1, TokenizerSpec::Type::unused);
      if (!spec.scores.empty()) spec.scores.resize(id + 1);
    } else if (spec.types[id] == TokenizerSpec::Type::normal) {
      throw Error(str(where, ": added_tokens_decoder gives ", quote(token.content), " the id ", id, ", which is ",
                      quote(spec.tokens[id]), "'s"));
    }
    std::erase_if(spec.added, [&](const AddedToken& other) { return other.id == token.id; });
    spec.tokens[id] = token.content;
    spec.types[id] = token.special ? TokenizerSpec::Type::control : TokenizerSpec::Type::user_defined;
    spec.added.push_back(std::move(token));
  }
}

/// Reads tokenizer.json. One member function a section.
class TokenizerJson {
 public:
  TokenizerJson(const Json& json, const Json* config, std::string_view name) : json_(json), config_(config) {
    spec_.name = name;
  }

  [[gnu::cold]] TokenizerSpec read() {
    const Json model = section(json_, "model");
    const bool unigram = type(model) == "Unigram";
    if (!unigram && type(model) != "BPE") throw unsupported("model of type " + quote(type(model)), "");
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
      if (!value_or<std::string>(model, key, "", spec_.name).empty()) throw unsupported("model with", key);
    read_pre_tokenizer(find(json_, "pre_tokenizer"));
    spec_.model = unigram       ? TokenizerSpec::Model::unigram
                  : byte_level_ ? TokenizerSpec::Model::byte_level_bpe
                                : TokenizerSpec::Model::sentencepiece_bpe;
    if (unigram && byte_level_)
      throw unsupported("Unigram model with pre_tokenizer", dump(find(json_, "pre_tokenizer")));
    read_normalizer(find(json_, "normalizer"));
    if (!byte_level_ && !spaces_replaced_) throw unsupported("pre_tokenizer", dump(find(json_, "pre_tokenizer")));
    read_model(model);
    read_decoder(find(json_, "decoder"));
    read_post_processor(find(json_, "post_processor"));
    if (config_) apply_tokenizer_config(spec_, *config_, spec_.name);
    return std::move(spec_);
  }

 private:
  static const Json& null_json() {
    static const Json null;
    return null;
  }
  const Json& find(const Json& object, std::string_view key) const {
    const Json* found = json_find(object, key, spec_.name);
    return found ? *found : null_json();
  }
  const Json& section(const Json& object, std::string_view key) const {
    const Json& found = find(object, key);
    if (!found.is_object()) throw Error(str(spec_.name, ": key ", quote(key), " is missing, or no object"));
    return found;
  }
  std::string type(const Json& object) const { return at<std::string>(object, "type", spec_.name); }
  static std::string dump(const Json& json) {
    return printable(json.dump(-1, ' ', false, Json::error_handler_t::replace), 400);
  }
  Error unsupported(std::string_view what, std::string_view quote) const {
    return Error(
        str(spec_.name, ": ", what, quote.empty() ? "" : " ", quote, " is not known to this library"),
        "byte-level BPE with the pre-tokenizers of GPT-2, SmolLM2, Llama 3, Qwen2, Qwen3.5, GPT-4o and Tekken, "
        "SentencePiece-style BPE (Llama 2, Gemma) and Unigram (T5, XLM-R) are read.");
  }
  /// The steps of a Sequence, or the one step, or none for null.
  std::vector<const Json*> steps(const Json& json, std::string_view list) const {
    if (json.is_null()) return {};
    if (type(json) != "Sequence") return {&json};
    std::vector<const Json*> result;
    const Json& items = find(json, list);
    if (!items.is_array()) throw Error(str(spec_.name, ": key ", quote(list), " is missing, or no array"));
    for (const Json& item : items)
      for (const Json* step : steps(item, list)) result.push_back(step);
    return result;
  }

  [[gnu::cold]] void read_pre_tokenizer(const Json& json) {
    using Pattern = PreTokenizer::Pattern;
    using Digits = PreTokenizer::Digits;
    PreTokenizer& pre = spec_.pre_tokenizer;
    const auto all = steps(json, "pretokenizers");
    for (std::size_t i = 0; i < all.size(); ++i) {
      const Json& step = *all[i];
      const std::string kind = type(step);
      const Json& split = kind == "Split" ? section(step, "pattern") : null_json();
      const bool last = i + 1 == all.size();
      if (kind == "ByteLevel" && last) {
        byte_level_ = true;
        pre.add_prefix_space = value_or<bool>(step, "add_prefix_space", true, spec_.name);
        if (value_or<bool>(step, "use_regex", true, spec_.name)) {
          if (pre.pattern != Pattern::none) throw unsupported("pre_tokenizer", dump(json));
          pre.pattern = Pattern::gpt2;
        }
      } else if (kind == "Digits" && i == 0) {
        pre.digits = value_or<bool>(step, "individual_digits", false, spec_.name) ? Digits::each : Digits::runs;
      } else if (kind == "Split" && pre.pattern == Pattern::none && split.contains("Regex") &&
                 // What is no match is kept as a word, or what is none is dropped: all of a text is in some match.
                 value_or<std::string>(step, "behavior", "", spec_.name) ==
                     (value_or<bool>(step, "invert", false, spec_.name) ? "Removed" : "Isolated")) {
        const auto regex = at<std::string>(split, "Regex", spec_.name);
        for (const SplitPattern& known : split_patterns)
          if (regex == known.regex && (known.pattern == Pattern::gpt2 || pre.digits == Digits::in_pattern))
            pre.pattern = known.pattern;
        if (pre.pattern == Pattern::none) throw unsupported("pre_tokenizer", dump(json));
      } else if (kind == "Split" && split == Json{{"String", " "}} && all.size() == 1) {
        // Gemma: the normalizer leaves no space to split at; read_normalizer makes sure of that.
      } else if (kind == "WhitespaceSplit" && i == 0 && all.size() == 2) {
        spec_.split_whitespace = true;
      } else if (kind == "Metaspace" && all.size() == (spec_.split_whitespace ? 2 : 1) &&
                 at<std::string>(step, "replacement", spec_.name) == sp_space) {
        const bool prefix = value_or<bool>(step, "add_prefix_space", true, spec_.name);  // in older files
        const auto scheme = value_or<std::string>(step, "prepend_scheme", prefix ? "always" : "never", spec_.name);
        if (scheme == "always") spec_.space_prefix = TokenizerSpec::SpacePrefix::unless_there;
        else if (scheme == "first" && !spec_.split_whitespace)
          spec_.space_prefix = TokenizerSpec::SpacePrefix::first_unless_there;
        else if (scheme != "never") throw unsupported("pre_tokenizer", dump(json));
        spec_.cut_before_spaces = value_or<bool>(step, "split", true, spec_.name);
        spaces_replaced_ = metaspace_ = true;
      } else {
        throw unsupported("pre_tokenizer", dump(json));
      }
    }
    if (pre.add_prefix_space && all.size() > 1) throw unsupported("pre_tokenizer", dump(json));
    if (spec_.split_whitespace && !metaspace_) throw unsupported("pre_tokenizer", dump(json));
    if (byte_level_ && pre.pattern == Pattern::none) throw unsupported("pre_tokenizer", dump(json));
    if (!byte_level_ && (pre.pattern != Pattern::none || pre.digits != Digits::in_pattern))
      throw unsupported("pre_tokenizer", dump(json));
  }

  [[gnu::cold]] void read_normalizer(const Json& json) {
    bool spaces = false;  // a step has been that Precompiled is not read after
    for (const Json* step : steps(json, "normalizers")) {
      const std::string kind = type(*step);
      const Json& pattern = find(*step, "pattern");
      const auto content = [&] { return at<std::string>(*step, "content", spec_.name); };
      if (!byte_level_ && !metaspace_ && kind == "Prepend" &&
          at<std::string>(*step, "prepend", spec_.name) == sp_space) {
        spec_.space_prefix = TokenizerSpec::SpacePrefix::always;
      } else if (!byte_level_ && kind == "Replace" && pattern == Json{{"String", " "}} && content() == sp_space) {
        spaces_replaced_ = true;
      } else if (byte_level_ && kind == "NFC") {
        spec_.nfc = true;
        continue;
      } else if (!byte_level_ && kind == "Precompiled" && !spaces) {
        const auto map = from_base64(at<std::string>(*step, "precompiled_charsmap", spec_.name));
        if (!map) throw Error(spec_.name + ": key 'precompiled_charsmap' is not base64");
        spec_.charsmap = *map;
      } else if (!byte_level_ && kind == "Strip" && !spaces && !value_or<bool>(*step, "strip_left", true, spec_.name) &&
                 value_or<bool>(*step, "strip_right", true, spec_.name)) {
        spec_.strip_right = true;
        continue;
      } else if (!byte_level_ && kind == "Replace" && !spaces && pattern == Json{{"Regex", " {2,}"}} &&
                 content() == (spec_.split_whitespace ? " "
                               : content() == " "     ? " "
                                                      : sp_space)) {
        spec_.collapse_spaces = true;
      } else {
        throw unsupported("normalizer", dump(json));
      }
      spaces = kind != "Precompiled";
    }
  }

  [[gnu::cold]] void read_model(const Json& model) {
    const bool unigram = spec_.model == TokenizerSpec::Model::unigram;
    const Json& vocab = unigram ? find(model, "vocab") : section(model, "vocab");
    const Json& added = find(json_, "added_tokens");
    std::vector<std::pair<std::string, std::int32_t>> entries;
    if (unigram) {
      if (!vocab.is_array()) throw Error(str(spec_.name, ": key 'vocab' is missing, or no array"));
      std::size_t rounded = 0;
      for (const Json& item : vocab) {
        if (!item.is_array() || item.size() != 2 || !item[0].is_string() || !item[1].is_number())
          throw Error(str(spec_.name, ": ", dump(item), " is not a token and its score"));
        const double score = item[1].get<double>();
        rounded += static_cast<double>(static_cast<float>(score)) != score;
        entries.emplace_back(item[0].get<std::string>(), static_cast<std::int32_t>(entries.size()));
        spec_.scores.push_back(static_cast<float>(score));
      }
      if (rounded > 0)
        spec_.notes.push_back(str(rounded, " of ", entries.size(),
                                  " scores are not single precision, and are rounded to it: where two segmentations of "
                                  "a text are nearly as good, tokenizers may take the other"));
    } else {
      for (const auto& [token, id] : vocab.items())
        entries.emplace_back(token, json_as<std::int32_t>(id, token, spec_.name));
    }
    const std::size_t in_vocab = entries.size();
    if (!added.is_null() && !added.is_array()) throw Error(str(spec_.name, ": key 'added_tokens' is no array"));
    for (const Json& item : added) {
      AddedToken token = added_token(item, at<std::int32_t>(item, "id", spec_.name), spec_.name);
      entries.emplace_back(token.content, token.id);
      spec_.added.push_back(std::move(token));
    }
    // Holes are allowed, but a file cannot make us reserve more than it gives.
    const auto limit = static_cast<std::int32_t>(std::min<std::size_t>(4 * entries.size() + 65536, 1u << 30));
    for (const auto& [token, id] : entries)
      if (id < 0 || id >= limit)
        throw Error(str(spec_.name, ": token ", quote(token), " has id ", id, " in a vocabulary of ", entries.size()));
    std::int32_t size = 0;
    for (const auto& entry : entries) size = std::max(size, entry.second + 1);
    spec_.tokens.resize(static_cast<std::size_t>(size));
    spec_.types.assign(spec_.tokens.size(), TokenizerSpec::Type::unused);
    spec_.byte_fallback = !byte_level_ && value_or<bool>(model, "byte_fallback", false, spec_.name);
    for (std::size_t i = 0; i < entries.size(); ++i) {
      const auto id = static_cast<std::size_t>(entries[i].second);
      if (i < in_vocab) {
        if (spec_.types[id] != TokenizerSpec::Type::unused)
          throw Error(str(spec_.name, ": tokens ", quote(spec_.tokens[id]), " and ", quote(entries[i].first),
                          " have the same id ", id));
        spec_.types[id] = TokenizerSpec::Type::normal;
      }
      spec_.tokens[id] = std::move(entries[i].first);
    }
    std::unordered_map<std::string_view, std::int32_t> by_name;  // of the unigram model's
    for (std::size_t i = 0; unigram && spec_.byte_fallback && i < in_vocab; ++i)
      by_name.emplace(spec_.tokens[i], static_cast<std::int32_t>(i));
    const auto id_of = [&](const std::string& token) -> std::int32_t {
      if (unigram) return by_name.contains(token) ? by_name[token] : -1;
      const Json* found = json_find(vocab, token, spec_.name);
      return found ? found->get<std::int32_t>() : -1;
    };
    if (spec_.byte_fallback) {
      for (int byte = 0; byte < 256; ++byte) {
        const std::int32_t id = id_of(byte_token(static_cast<std::uint8_t>(byte)));
        if (id >= 0) spec_.types[static_cast<std::size_t>(id)] = TokenizerSpec::Type::byte;
      }
    }
    if (unigram) {
      spec_.scores.resize(spec_.tokens.size());
      spec_.unk = value_or<std::int32_t>(model, "unk_id", -1, spec_.name);
      spec_.fuse_unk = true;
      return;
    }
    if (const auto unk = value_or<std::string>(model, "unk_token", "", spec_.name); !unk.empty()) {
      spec_.unk = id_of(unk);
      if (spec_.unk < 0) throw Error(str(spec_.name, ": the unk_token ", quote(unk), " is not in the vocabulary"));
    }
    spec_.fuse_unk = value_or<bool>(model, "fuse_unk", false, spec_.name);
    spec_.ignore_merges = value_or<bool>(model, "ignore_merges", false, spec_.name);
    const Json& merges = find(model, "merges");
    if (!merges.is_array()) throw Error(str(spec_.name, ": key 'merges' is missing, or no array"));
    spec_.merges.reserve(merges.size());
    for (const Json& merge : merges) {
      if (merge.is_string()) {
        spec_.merges.push_back(merge.get<std::string>());
      } else {
        const bool pair = merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string();
        std::string both = pair ? merge[0].get_ref<const std::string&>() + merge[1].get_ref<const std::string&>() : " ";
        if (both.find(' ') != std::string::npos)
          throw Error(str(spec_.name, ": merge ", dump(merge), " is not two tokens without spaces"));
        spec_.merges.push_back(std::move(both.insert(merge[0].get_ref<const std::string&>().size(), 1, ' ')));
      }
    }
  }

  [[gnu::cold]] void read_decoder(const Json& json) {
    for (const Json* step : steps(json, "decoders"))
      if (type(*step) == "Strip" && value_or<std::string>(*step, "content", "", spec_.name) == " ")
        spec_.strip_space = value_or<int>(*step, "start", 0, spec_.name) > 0;
      else if (type(*step) == "Metaspace") spec_.strip_space = spec_.space_prefix != TokenizerSpec::SpacePrefix::never;
  }

  /// bos and eos, as the template puts them around one text.
  [[gnu::cold]] void read_post_processor(const Json& json) {
    for (const Json* step : steps(json, "processors")) {
      if (type(*step) != "TemplateProcessing") continue;
      bool before = true;
      for (const Json& item : find(*step, "single")) {
        if (item.contains("Sequence")) before = false;
        if (!item.contains("SpecialToken")) continue;
        const std::int32_t id = token_id(at<std::string>(section(item, "SpecialToken"), "id", spec_.name));
        (before ? spec_.bos : spec_.eos) = id;
        (before ? spec_.add_bos : spec_.add_eos) = true;
      }
    }
  }

  std::int32_t token_id(const std::string& content) const { return named_token(spec_, content); }

 public:
  static std::string byte_token(std::uint8_t byte) {
    constexpr char digits[] = "0123456789ABCDEF";
    return {'<', '0', 'x', digits[byte >> 4], digits[byte & 15], '>'};
  }

 private:
  const Json& json_;
  const Json* config_;
  TokenizerSpec spec_;
  bool byte_level_ = false, spaces_replaced_ = false, metaspace_ = false;
};

}  // namespace detail

[[gnu::cold]] FTLIB_INLINE TokenizerSpec tokenizer_spec_from_json(const Json& tokenizer_json,
                                                                  const Json* tokenizer_config, std::string_view name) {
  return detail::TokenizerJson(tokenizer_json, tokenizer_config, name).read();
}

[[gnu::cold]] FTLIB_INLINE std::optional<TokenizerSpec> tokenizer_spec_from_folder(
    const std::filesystem::path& folder) {
  auto file = folder / "tokenizer.json";
  for (const char* name :
       {"tekken.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "tiktoken.model"})
    if (!path_exists(file)) file = folder / name;
  if (!path_exists(file) && is_folder(folder))
    for (const auto& path : files_in(folder))
      if (path.extension() == ".tiktoken") file = path;
  if (!path_exists(file)) return {};
  const auto optional_json = [&](const char* name) {
    return path_exists(folder / name) ? read_json(folder / name) : Json();
  };
  const Json config = optional_json("tokenizer_config.json"), generation = optional_json("generation_config.json");
  TokenizerSpec spec;
  if (file.filename() == "tokenizer.json") {
    spec = tokenizer_spec_from_json(read_json(file), config.is_null() ? nullptr : &config, file.string());
  } else {
    spec = tokenizer_spec_from_file(file);
    spec.notes.push_back(str("the folder has no tokenizer.json: ", file.filename().string(), " is taken"));
    const std::string where = (folder / "tokenizer_config.json").string();
    if (path_exists(folder / "added_tokens.json"))
      spec.notes.push_back("added_tokens.json is not read; tokenizer_config.json's added_tokens_decoder is");
    if (!config.is_null()) {
      detail::add_config_tokens(spec, config, where);
      detail::apply_tokenizer_config(spec, config, where);
    }
  }
  const auto own_file = [&](const char* name, std::string text) {
    if (!spec.chat_template.empty() && spec.chat_template != text)
      spec.notes.push_back(
          str("tokenizer_config.json's chat template is not used: ", name, " is there, and is another"));
    spec.chat_template = std::move(text);
  };
  if (const auto jinja = folder / "chat_template.jinja"; path_exists(jinja))
    own_file("chat_template.jinja", read_file(jinja, std::uint64_t{1} << 20));
  else if (const auto json = folder / "chat_template.json"; path_exists(json))
    own_file("chat_template.json", at<std::string>(read_json(json), "chat_template", json.string()));
  std::vector<std::string> others;
  if (const auto more = folder / "additional_chat_templates"; is_folder(more))
    for (const auto& path : files_in(more))
      if (path.extension() == ".jinja") others.push_back(path.stem().string());
  detail::note_templates(spec, others);
  const auto ids = [&](const Json& from, const char* of, const char* key) {
    const std::string where = (folder / of).string();
    const auto found = from.find(key);
    if (found == from.end() || found->is_null()) return std::vector<std::int32_t>();
    if (found->is_array()) return detail::json_as<std::vector<std::int32_t>>(*found, key, where);
    return std::vector<std::int32_t>{detail::json_as<std::int32_t>(*found, key, where)};
  };
  if (auto ends = ids(generation, "generation_config.json", "eos_token_id"); !ends.empty()) spec.ends = std::move(ends);
  const Json model = optional_json("config.json");
  const auto take = [&](std::int32_t& id, const char* key, const char* what) {
    for (const auto& [from, of] : {std::pair{&generation, "generation_config.json"}, std::pair{&model, "config.json"}})
      for (const std::int32_t one : ids(*from, of, key)) {
        if (id >= 0 || one < 0 || static_cast<std::size_t>(one) >= spec.tokens.size()) continue;
        id = one;
        spec.notes.push_back(str("tokenizer_config.json names no ", what, ": ",
                                 quote(spec.tokens[static_cast<std::size_t>(one)]), " is taken, by ", of));
      }
  };
  if (spec.eos < 0) take(spec.eos, "eos_token_id", "eos_token");
  if (spec.bos < 0 && spec.add_bos) take(spec.bos, "bos_token_id", "bos_token");
  if (spec.bos < 0 && spec.add_bos)
    throw Error(str(spec.name, ": every text is to begin with a bos_token (add_bos_token), and no file names it"),
                "name it in tokenizer_config.json.");
  return spec;
}

[[gnu::cold]] FTLIB_INLINE TokenizerSpec tokenizer_spec_from_file(const std::filesystem::path& file) {
  const std::string name = file.string();
  if (file.extension() == ".gguf") return tokenizer_spec_from(GgufFile::open(file));
  const std::string bytes = read_file(file, max_json_bytes);
  const std::string_view start = std::string_view(bytes).substr(0, 256);
  if (const std::size_t first = start.find_first_not_of(" \t\r\n"); first != start.npos && start[first] == '{') {
    const Json json = parse_json(bytes, name);
    return json.contains("config") && !json.contains("model") ? tokenizer_spec_from_tekken(json, name)
                                                              : tokenizer_spec_from_json(json, nullptr, name);
  }
  const std::size_t space = start.find(' ');
  const bool ranks = space != start.npos && detail::from_base64(start.substr(0, space)) && space + 1 < start.size() &&
                     start[space + 1] >= '0' && start[space + 1] <= '9';
  return ranks ? tokenizer_spec_from_tiktoken(bytes, name) : tokenizer_spec_from_sentencepiece(bytes, name);
}

namespace detail {
inline const GgufPreTokenizer& gguf_pre_tokenizer(std::string_view pre, std::string_view file) {
  std::string names;
  for (const GgufPreTokenizer& known : gguf_pre_tokenizers) {
    if (known.name == pre) return known;
    names += str(names.empty() ? "" : ", ", known.name);
  }
  throw Error(str(file, ": tokenizer.ggml.pre is ", quote(pre), ", a pre-tokenizer this library does not know"),
              str("known are: ", names, "; take the model's Hugging Face folder if it has a tokenizer.json."));
}
}  // namespace detail

[[gnu::cold]] FTLIB_INLINE TokenizerSpec tokenizer_spec_from(const GgufFile& file) {
  const auto key = [](const char* name) { return std::string("tokenizer.ggml.") + name; };
  TokenizerSpec spec;
  spec.name = file.file_name();
  spec.tokens = file.get<std::vector<std::string>>(key("tokens"));
  for (const auto type : file.get_or<std::vector<std::int32_t>>(key("token_type"), {})) {
    if (type < 1 || type > 6)
      throw Error(str(spec.name, ": tokenizer.ggml.token_type holds ", type, "; 1 to 6 are known"));
    spec.types.push_back(static_cast<TokenizerSpec::Type>(type));
  }
  spec.bos = file.get_or<std::int32_t>(key("bos_token_id"), -1);
  spec.eos = file.get_or<std::int32_t>(key("eos_token_id"), -1);
  spec.pad = file.get_or<std::int32_t>(key("padding_token_id"), -1);
  for (const char* end : {"eot_token_id", "eom_token_id"})
    if (file.find(key(end))) spec.ends.push_back(file.get<std::int32_t>(key(end)));
  const auto model = file.get<std::string>(key("model"));
  const auto pre = file.get_or<std::string>(key("pre"), "default");
  if (model == "gpt2") {
    spec.model = TokenizerSpec::Model::byte_level_bpe;
    const auto& words = detail::gguf_pre_tokenizer(pre, spec.name);
    spec.pre_tokenizer = words.how;
    spec.ignore_merges = words.ignore_merges;
    spec.nfc = words.nfc;
    spec.merges = file.get<std::vector<std::string>>(key("merges"));
    spec.add_bos = file.get_or<bool>(key("add_bos_token"), spec.ignore_merges);  // llama.cpp's default for Llama 3
  } else if (model == "llama") {
    spec.model = TokenizerSpec::Model::sentencepiece_bpe;
    spec.scores = file.get<std::vector<float>>(key("scores"));
    spec.unk = file.get_or<std::int32_t>(key("unknown_token_id"), 0);
    spec.fuse_unk = true;
    spec.add_bos = file.get_or<bool>(key("add_bos_token"), true);
    spec.strip_space = file.get_or<bool>(key("add_space_prefix"), true);
    if (spec.strip_space) spec.space_prefix = TokenizerSpec::SpacePrefix::always;
  } else if (model == "gemma4") {  // BPE over characters, as its tokenizer.json has it
    spec.model = TokenizerSpec::Model::sentencepiece_bpe;
    spec.merges = file.get<std::vector<std::string>>(key("merges"));
    spec.unk = file.get_or<std::int32_t>(key("unknown_token_id"), -1);
    spec.fuse_unk = spec.cut_lines = true;
    spec.add_bos = file.get_or<bool>(key("add_bos_token"), true);
    spec.strip_space = file.get_or<bool>(key("add_space_prefix"), false);
    if (spec.strip_space) spec.space_prefix = TokenizerSpec::SpacePrefix::always;
    if (const auto n = detail::merges_over_lines(spec.merges); n > 0)
      spec.notes.push_back(str(n, " merges reach over the end of a line, where text is cut, so that none is made"));
  } else if (model == "t5") {
    spec.model = TokenizerSpec::Model::unigram;
    spec.scores = file.get<std::vector<float>>(key("scores"));
    spec.unk = file.get_or<std::int32_t>(key("unknown_token_id"), 2);
    spec.sentencepiece_normalizer = spec.fuse_unk = true;
    spec.byte_fallback = false;
    for (const auto byte : file.get_or<std::vector<std::int32_t>>(key("precompiled_charsmap"), {}))
      spec.charsmap.push_back(static_cast<char>(byte));
    spec.collapse_spaces = file.get_or<bool>(key("remove_extra_whitespaces"), false);
    const bool prefix = file.get_or<bool>(key("add_space_prefix"), true);
    if (prefix) spec.space_prefix = TokenizerSpec::SpacePrefix::always;
    spec.strip_space = prefix || spec.collapse_spaces;
    spec.add_bos = file.get_or<bool>(key("add_bos_token"), false);
  } else {
    throw Error(str(spec.name, ": tokenizer.ggml.model is ", quote(model), ", which this library does not know"),
                "gpt2 (byte-level BPE), llama (SentencePiece BPE), gemma4 (BPE over characters) and t5 (unigram) are "
                "known.");
  }
  spec.add_eos = file.get_or<bool>(key("add_eos_token"), model == "t5");
  spec.chat_template = file.get_or<std::string>("tokenizer.chat_template", "");
  detail::note_templates(spec, file.get_or<std::vector<std::string>>("tokenizer.chat_templates", {}));
  for (std::size_t i = 0; i < spec.types.size() && i < spec.tokens.size(); ++i) {
    const auto type = spec.types[i];
    const bool user = type == TokenizerSpec::Type::user_defined;
    if (user || type == TokenizerSpec::Type::control || type == TokenizerSpec::Type::unknown)
      spec.added.push_back({.content = spec.tokens[i],
                            .id = static_cast<std::int32_t>(i),
                            .special = !user,
                            .normalized = user && spec.sentencepiece_normalizer});
  }
  return spec;
}

namespace detail {
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

[[gnu::cold]] FTLIB_INLINE std::vector<std::string> merges_of(const TokenizerSpec& spec) {
  if (!spec.merges.empty() || spec.scores.empty() || spec.model == TokenizerSpec::Model::unigram) return spec.merges;
  return detail::merges_from_scores(spec);
}

}  // namespace ft::inline FTLIB_ABI
