// tests/text/tokenizer.cpp: ids, decoding and streaming against the reference tokenizers, on strings in 20 scripts.
// Small tokenizers are in tests/data/tokenizer; SmolLM2's and Gemma's are read where FTLIB_MODELS names their folder.
#include <ftlib/io/file.hpp>
#include <ftlib/io/json.hpp>
#include <ftlib/text/tokenizer.hpp>
#include <ftlib/text/tokenizer_json.hpp>

#include <doctest/doctest.h>

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <optional>
#include <thread>

using namespace ft;

namespace {

const std::filesystem::path tokenizer_data = std::filesystem::path(FTLIB_TEST_DATA) / "tokenizer";

/// The strings of the fixtures, as bytes; some are not valid UTF-8.
const std::vector<std::string>& strings() {
  static const auto result = [] {
    std::vector<std::string> all;
    for (const Json& item : read_json(tokenizer_data / "strings.json")) {
      if (item.is_string()) {
        all.push_back(item.get<std::string>());
        continue;
      }
      const auto hex = at<std::string>(item, "hex", "strings.json");
      all.emplace_back();
      for (std::size_t i = 0; i < hex.size(); i += 2)
        all.back().push_back(static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16)));
    }
    return all;
  }();
  return result;
}

std::vector<int32_t> unpack(const std::string& digits, std::size_t width) {
  static const std::string alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::vector<int32_t> ids;
  for (std::size_t i = 0; i < digits.size(); ++i) {
    if (i % width == 0) ids.push_back(0);
    ids.back() = ids.back() * 64 + static_cast<int32_t>(alphabet.find(digits[i]));
  }
  return ids;
}

/// make_tokenizer_fixtures.py's digest of ids, as six digits of base 64.
std::string digest(const std::vector<int32_t>& ids) {
  uint32_t value = 0x811c9dc5;
  for (const int32_t id : ids)
    for (int shift = 0; shift < 32; shift += 8)
      value = (value ^ (static_cast<uint32_t>(id) >> shift & 255)) * 0x01000193;
  std::string digits;
  for (int shift = 30; shift >= 0; shift -= 6)
    digits += "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"[value >> shift & 63];
  return digits;
}

TokenizerSpec scored_spec(const Json& json) {
  TokenizerSpec spec;
  spec.model = TokenizerSpec::Model::sentencepiece_bpe;
  spec.tokens = at<std::vector<std::string>>(json, "tokens", "spec");
  spec.scores = at<std::vector<float>>(json, "scores", "spec");
  for (const int type : at<std::vector<int>>(json, "types", "spec"))
    spec.types.push_back(static_cast<TokenizerSpec::Type>(type));
  for (std::size_t i = 0; i < spec.tokens.size(); ++i)
    if (const auto type = spec.types[i]; type != TokenizerSpec::Type::normal && type != TokenizerSpec::Type::byte)
      spec.added.push_back({.content = ft::detail::replace_all(spec.tokens[i], "\u2581", " "),
                            .id = static_cast<int32_t>(i),
                            .special = type != TokenizerSpec::Type::user_defined});
  return spec;
}

std::string spaced(const std::string& text) { return ft::detail::replace_all(text, "\u2581", " "); }

void check_case(const Tokenizer& tokenizer, const Json& item) {
  const Special special = item.value("as_text", false) ? Special::as_text : Special::parse;
  std::vector<std::size_t> which = item.value("only", std::vector<std::size_t>());
  if (which.empty())
    for (std::size_t i = 0; i < strings().size(); ++i) which.push_back(i);
  const bool digests = item.contains("digests");
  const Json& expected = item.at(digests ? "digests" : "ids");
  REQUIRE((digests ? expected.get_ref<const std::string&>().size() / 6 : expected.size()) == which.size());
  const Json decoded = item.value("decoded", Json::object());
  std::size_t wrong = 0;
  for (std::size_t k = 0; k < which.size() && wrong < 10; ++k) {
    const std::string& text = strings()[which[k]];
    CAPTURE(which[k]);
    CAPTURE(text);
    const auto ids = tokenizer.encode(text, {.special = special});
    if (digests) {
      const std::string want = expected.get_ref<const std::string&>().substr(6 * k, 6), is = digest(ids);
      if (is != want) ++wrong;
      CAPTURE(ids);
      CHECK(is == want);
    } else {
      const auto want = unpack(expected[k].get<std::string>(), item.at("width").get<std::size_t>());
      if (ids != want) ++wrong;
      CHECK(ids == want);
    }
    const std::string key = std::to_string(which[k]);
    const std::string back = tokenizer.decode(ids);
    if (!decoded.contains(key)) CHECK(spaced(back) == spaced(replace_broken_utf8(text)));
    else if (decoded.at(key).is_string()) CHECK(spaced(back) == spaced(decoded.at(key).get<std::string>()));
    StreamDecoder stream(tokenizer);
    std::string streamed;
    for (const int32_t id : ids) {
      const std::string part = stream.put(id);
      CHECK(valid_utf8_prefix(part) == part.size());
      streamed += part;
    }
    streamed += stream.finish();
    CHECK(streamed == back);
  }
}

}  // namespace

TEST_CASE("text/tokenizer: ids and text are the references' on all strings") {
  REQUIRE(strings().size() >= 2000);
  const char* models = std::getenv("FTLIB_MODELS");
  std::map<std::string, Json> files;
  int checked = 0;
  for (const Json& item : read_json(tokenizer_data / "expected.json")) {
    const auto name = at<std::string>(item, "name", "expected.json");
    CAPTURE(name);
    if (item.contains("gguf")) {
      const auto path = std::filesystem::path(models ? models : "") / at<std::string>(item, "gguf", name);
      if (!models || !std::filesystem::exists(path)) {
        MESSAGE("skipped: " << name << "; set FTLIB_MODELS to the tokenizer_data of " << path.filename().string());
        continue;
      }
      check_case(Tokenizer::from_gguf(GgufFile::open(path)), item);
    } else if (item.contains("model")) {
      const bool real = item.value("real", false);
      const auto path =
          (real ? std::filesystem::path(models ? models : "") : tokenizer_data) / item.at("model").get<std::string>();
      if (real && (!models || !std::filesystem::exists(path))) {
        MESSAGE("skipped: " << name << "; set FTLIB_MODELS to the folder of " << path.filename().string());
        continue;
      }
      if (!item.contains("convert")) {
        check_case(Tokenizer::from_file(path), item);
      } else {  // as transformers would write it
        Json json = tokenizer_json(tokenizer_spec_from_file(path)).first;
        if (item.value("rules_alone", false)) json["normalizer"] = Json(json["normalizer"]["normalizers"][0]);
        json.merge_patch(item.at("convert"));
        check_case(Tokenizer::from_json(json), item);
      }
    } else if (item.contains("spec")) {
      TokenizerSpec spec = scored_spec(read_json(tokenizer_data / at<std::string>(item, "spec", name)));
      if (item.value("prefix", false)) {
        spec.space_prefix = TokenizerSpec::SpacePrefix::always;
        spec.strip_space = true;
      }
      check_case(Tokenizer(spec), item);
    } else {
      Json json = read_json(tokenizer_data / at<std::string>(item, "file", name));
      json.merge_patch(item.at("patch"));
      check_case(Tokenizer::from_json(json), item);
    }
    ++checked;
  }
  CHECK(checked >= 27);
}

TEST_CASE("text/tokenizer: many threads encode with one tokenizer") {
  const Tokenizer tokenizer = Tokenizer::from_json(read_json(tokenizer_data / "gemma.json"));
  std::vector<std::vector<int32_t>> alone;
  for (const auto& text : strings()) alone.push_back(Tokenizer(tokenizer).encode(text));
  const Tokenizer fresh = Tokenizer::from_json(read_json(tokenizer_data / "gemma.json"));
  std::array<bool, 4> same{};
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < same.size(); ++t)
    threads.emplace_back([&, t] {
      same[t] = true;
      for (std::size_t i = 0; i < strings().size(); ++i) same[t] = same[t] && fresh.encode(strings()[i]) == alone[i];
    });
  for (auto& thread : threads) thread.join();
  for (const bool s : same) CHECK(s);
}

TEST_CASE("text/tokenizer: special tokens, names and ids") {
  const Json config = parse_json(R"({"bos_token": {"content": "<bos>"}, "eos_token": "<eos>", "pad_token": "<pad>",
                                     "add_bos_token": true, "chat_template": "{{ x }}"})",
                                 "config");
  const Tokenizer tokenizer = Tokenizer::from_json(read_json(tokenizer_data / "gemma.json"), &config);
  CHECK(tokenizer.bos() == tokenizer.id("<bos>"));
  CHECK(tokenizer.eos() == tokenizer.id("<eos>"));
  CHECK(tokenizer.pad() == tokenizer.id("<pad>"));
  CHECK(tokenizer.unk() == tokenizer.id("<unk>"));
  CHECK(tokenizer.add_bos());
  CHECK_FALSE(tokenizer.add_eos());
  CHECK(tokenizer.chat_template() == "{{ x }}");
  CHECK(tokenizer.id("no such token") == -1);
  CHECK(tokenizer.token(tokenizer.id("\u2581")) == "\u2581");
  CHECK(tokenizer.token(tokenizer.id("<0x0A>")) == "<0x0A>");
  CHECK(tokenizer.is_special(tokenizer.id("<start_of_turn>")));
  CHECK_FALSE(tokenizer.is_special(tokenizer.id("\n\n")));
  CHECK_FALSE(tokenizer.is_special(-1));
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) CHECK(tokenizer.id(tokenizer.token(id)) == id);

  const auto ids = tokenizer.encode("<start_of_turn>a", {.add_special_tokens = true});
  CHECK(ids.front() == tokenizer.bos());
  CHECK(ids[1] == tokenizer.id("<start_of_turn>"));
  CHECK(tokenizer.decode(ids) == "<bos><start_of_turn>a");
  CHECK(tokenizer.decode(ids, /*skip_special=*/true) == "a");
  CHECK(tokenizer.encode("<eos>", {.special = Special::as_text}).size() > 1);
  CHECK_THROWS_WITH_AS(tokenizer.decode(std::vector<int32_t>{tokenizer.vocab_size()}),
                       doctest::Contains("is not in the vocabulary"), Error);
}

TEST_CASE("text/tokenizer: the stream holds back what is unfinished, and no more") {
  const Tokenizer tokenizer = Tokenizer::from_json(read_json(tokenizer_data / "gemma.json"));
  const auto byte = [&](int b) { return tokenizer.id(ft::detail::TokenizerJson::byte_token(static_cast<uint8_t>(b))); };
  StreamDecoder stream(tokenizer);
  CHECK(stream.put(byte(0xf0)) == "");
  CHECK(stream.put(byte(0x9f)) == "");
  CHECK(stream.put(byte(0x98)) == "");
  CHECK(stream.put(byte(0x80)) == "\U0001F600");
  CHECK(stream.put(byte(0xe2)) == "");
  CHECK(stream.put(byte('x')) == "\uFFFDx");
  CHECK(stream.put(byte(0xff)) == "\uFFFD");
  CHECK(stream.put(byte(0xed)) == "");
  CHECK(stream.put(byte(0xa0)) == "\uFFFD\uFFFD");  // a surrogate: never to be completed
  CHECK(stream.put(byte(0xc3)) == "");
  CHECK(stream.finish() == "\uFFFD");
  CHECK(stream.put(byte('y')) == "y");
}

TEST_CASE("text/tokenizer: broken UTF-8 is replaced by maximal subparts") {
  // The Unicode Standard 15.0, table 3-8 and the text around it.
  CHECK(replace_broken_utf8("\x61\xF1\x80\x80\xE1\x80\xC2\x62\x80\x63\x80\xBF\x64") ==
        "a\uFFFD\uFFFD\uFFFDb\uFFFDc\uFFFD\uFFFDd");
  CHECK(replace_broken_utf8("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41") ==
        "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\x41");
  CHECK(replace_broken_utf8("\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41") ==
        "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\x41");
  CHECK(replace_broken_utf8("\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42") ==
        "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\x41\uFFFD\uFFFD\x42");
  CHECK(replace_broken_utf8("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41") == "\uFFFD\uFFFD\uFFFD\uFFFD\x41");
}

TEST_CASE("text/tokenizer: an added token that is part of a character does not part it") {
  TokenizerSpec spec;
  spec.model = TokenizerSpec::Model::sentencepiece_bpe;
  spec.tokens = {"\xA9", "\u00e9", "\u2581"};
  spec.scores = {0, 0, 0};
  spec.added = {{.content = "\xA9", .id = 0}};
  CHECK(Tokenizer(spec).encode("\u00e9 \u2581\u00e9") == std::vector<int32_t>{1, 2, 2, 1});
}

TEST_CASE("text/tokenizer: a long text without a word's end takes O(n log n)") {
  const Tokenizer tokenizer = Tokenizer::from_json(read_json(tokenizer_data / "gpt2.json"));
  std::string text;
  for (int i = 0; i < 200000; ++i) text += static_cast<char>('a' + i % 97 * (i % 89) % 23);
  const auto ids = tokenizer.encode(text);  // quadratic merging would take minutes
  CHECK(tokenizer.decode(ids) == text);
}

TEST_CASE("text/tokenizer: what is not known is quoted, what is wrong is named") {
  const Json good = read_json(tokenizer_data / "gpt2.json");
  const auto message = [&](const char* patch) {
    Json json = good;
    json.merge_patch(parse_json(patch, "patch"));
    try {
      Tokenizer::from_json(json);
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string("accepted");
  };
  CHECK(message("{}") == "accepted");
  const std::pair<const char*, const char*> cases[] = {
      {R"({"pre_tokenizer": {"type": "Whitespace"}})", R"("type":"Whitespace")"},
      {R"({"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "x+"}, "behavior": "Isolated"}})", "x+"},
      {R"({"pre_tokenizer": null})", "pre_tokenizer null"},
      {R"({"normalizer": {"type": "NFKC"}})", R"(normalizer {"type":"NFKC"})"},
      {R"({"model": {"type": "WordPiece"}})", "WordPiece"},
      {R"({"model": {"merges": ["zz qq"]}})", "merge 0 'zz qq'"},
      {R"({"model": {"merges": ["a"]}})", "merge 0 'a'"},
      {R"({"model": {"merges": [["a"]]}})", "not two tokens"},
      {R"({"model": {"merges": null}})", "'merges'"},
      {R"({"model": {"vocab": {"a": -1}}})", "has id -1"},
      {R"({"model": {"vocab": {"a": 2000000000}}})", "has id 2000000000"},
      {R"({"model": {"vocab": {"a": 5, "b": 5}}})", "same id 5"},
      {R"({"model": {"vocab": {"a": "x"}}})", "'a' should be an integer"},
      {R"({"model": {"vocab": null}})", "'vocab'"},
      {R"({"model": {"unk_token": "<nope>"}})", "unk_token '<nope>'"},
      {R"({"added_tokens": [{"content": "q", "id": -7}]})", "has id -7"},
      {R"({"added_tokens": 3})", "added_tokens"},
  };
  for (const auto& one : cases) {
    const char *patch = one.first, *what = one.second;
    CAPTURE(patch);
    CHECK_MESSAGE(message(patch).find(what) != std::string::npos, message(patch));
  }

  TokenizerSpec spec;
  spec.tokens = {"a", "b"};
  spec.types = {TokenizerSpec::Type::normal};
  CHECK_THROWS_WITH_AS(Tokenizer{spec}, doctest::Contains("2 tokens but 1 types"), Error);
  spec.types.clear();
  spec.bos = 2;
  CHECK_THROWS_WITH_AS(Tokenizer{spec}, doctest::Contains("in a vocabulary of 2"), Error);
  CHECK_THROWS_WITH_AS(ft::detail::gguf_pre_tokenizer("mystery", "m.gguf"), doctest::Contains("'mystery'"), Error);
}

namespace {
/// A field of a protobuf message: its number, and its bytes behind their length.
std::string field(int number, const std::string& bytes) {
  return std::string{static_cast<char>(number << 3 | 2), static_cast<char>(bytes.size())} + bytes;
}
std::string message_of(const std::function<void()>& read) {
  try {
    read();
  } catch (const Error& e) {
    return e.what();
  }
  return "accepted";
}
std::string all_ranks() {
  std::string text;
  for (int byte = 0; byte < 256; ++byte)
    text += str(ft::detail::to_base64(std::string(1, static_cast<char>(byte))), ' ', byte, '\n');
  return text;
}
}  // namespace

TEST_CASE("text/tokenizer: SentencePiece models: what is wrong is named, with its byte") {
  const std::string unk = field(1, field(1, "<unk>") + std::string("\x18\x02", 2)), a = field(1, field(1, "a"));
  const auto message = [](const std::string& bytes) {
    return message_of([&] { Tokenizer{tokenizer_spec_from_sentencepiece(bytes, "m.model")}; });
  };
  CHECK(message(unk + a) == "accepted");
  const std::string sound = unk + a;
  for (std::size_t cut = 1; cut < sound.size(); ++cut)
    if (cut != unk.size()) CHECK(message(sound.substr(0, cut)) != "accepted");
  const std::pair<std::string, const char*> cases[] = {
      {"", "without pieces"},
      {a, "no piece stands for unknown text"},
      {unk + "\x0a", "byte 12: 1 bytes are wanted, 0 are left"},
      {unk + "\x0a\x7f", "127 bytes are wanted, 0 are left"},
      {unk + "\x0b", "wire type 3"},
      {unk + std::string(11, '\xff'), "more than ten bytes"},
      {unk + std::string("\x08\x01", 2), "field 1 has wire type 0, not 2"},
      {unk + field(1, field(1, "\xc3")), "piece 1 is no text"},
      {unk + field(1, field(1, "b") + std::string("\x18\x09", 2)), "piece 1 'b' is of type 9"},
      {unk + field(2, std::string("\x18\x03", 2)), "model of type 3; unigram (1) and BPE (2)"},
      {unk + field(2, std::string("\xc0\x01\x01", 3)), "treat_whitespace_as_suffix"},
      {unk + field(3, std::string("\x28\x00", 2)), "escape_whitespaces"},
      {unk + field(3, field(2, "abc")), "less than four bytes"},
      {unk + field(3, field(2, std::string("\x08\0\0\0abcd", 8))), "a trie of 8 bytes in 8"},
      {unk + field(3, field(2, std::string("\x04\0\0\0\0\0\0\0a", 9))), "do not end with a zero byte"},
      {unk + field(3, field(2, std::string("\x04\0\0\0\0\0\0\0\xff\0", 10))), "not UTF-8"},
  };
  for (const auto& one : cases) {
    const std::string& bytes = one.first;
    const char* const what = one.second;
    CAPTURE(what);
    CHECK_MESSAGE(message(bytes).find(what) != std::string::npos, message(bytes));
  }
}

TEST_CASE("text/tokenizer: ranks: what is wrong is named; merges of them stand in for them") {
  const auto message = [](const std::string& text, std::optional<PreTokenizer> words) {
    return message_of([&] { Tokenizer{tokenizer_spec_from_tiktoken(text, "r", words)}; });
  };
  const std::string sound = all_ranks();
  CHECK(message(sound, gpt4o_words) == "accepted");
  CHECK(message(sound, {}).find("256 ranks, of which the file does not say how text is cut") != std::string::npos);
  const std::pair<std::string, const char*> cases[] = {
      {sound.substr(sound.find('\n') + 1), "byte 0 has no rank"},
      {sound + "YQ", "line 257 'YQ' is not base64"},
      {sound + "Y= 7", "line 257 'Y= 7' is not base64"},
      {sound + "YWI= x", "line 257 'YWI= x' is not base64"},
      {sound + "YWI= 7", "have the same id 7"},
      {sound + "YWI= 4000000000", "has id 4000000000"},
  };
  for (const auto& one : cases) {
    const std::string& text = one.first;
    const char* const what = one.second;
    CAPTURE(what);
    CHECK_MESSAGE(message(text, gpt4o_words).find(what) != std::string::npos, message(text, gpt4o_words));
  }
  const TokenizerSpec spec = tokenizer_spec_from_tiktoken(sound + "YWI= 256\nYWJj 257\nYmM= 258\n", "r", gpt4o_words);
  CHECK(merges_of(spec) == std::vector<std::string>{"a b", "a bc", "ab c", "b c"});
  CHECK(Tokenizer(spec).encode("abc xbcabx") == std::vector<int32_t>{257, 32, 'x', 258, 256, 'x'});
  CHECK(Tokenizer::from_json(tokenizer_json(spec).first).encode("abc xbcabx") == Tokenizer(spec).encode("abc xbcabx"));
}

TEST_CASE("text/tokenizer: tekken.json: what is wrong is named; a folder without tokenizer.json") {
  Json good{{"config",
             {{"pattern", split_pattern(PreTokenizer::Pattern::tekken)->regex},
              {"default_vocab_size", 22 + 256},
              {"default_num_special_tokens", 22},
              {"version", "v3"}}},
            {"vocab", Json::array()}};
  for (int byte = 0; byte < 260; ++byte)  // four more than the model has
    good["vocab"].push_back({{"rank", byte},
                             {"token_bytes", ft::detail::to_base64(byte < 256 ? std::string(1, static_cast<char>(byte))
                                                                              : std::string("ab"))}});
  const auto message = [&](const char* patch) {
    Json json = good;
    json.merge_patch(parse_json(patch, "patch"));
    return message_of([&] { Tokenizer{tokenizer_spec_from_tekken(json, "tekken.json")}; });
  };
  CHECK(message("{}") == "accepted");
  const std::pair<const char*, const char*> cases[] = {
      {R"({"config": null})", "'config'"},
      {R"({"vocab": 3})", "'vocab'"},
      {R"({"config": {"pattern": "x+"}})", "pattern 'x+' is not known"},
      {R"({"config": {"default_vocab_size": 300}})",
       "default_vocab_size 300 with default_num_special_tokens 22 of 260 ranks"},
      {R"({"config": {"default_num_special_tokens": 70000}})", "default_num_special_tokens 70000"},
      {R"({"special_tokens": [{"rank": 22, "token_str": "<x>"}]})", "special token 22 of 22"},
      {R"({"special_tokens": [{"rank": 1, "token_str": "<x>"}, {"rank": 1, "token_str": "<y>"}]})", "same id 1"},
      {R"({"vocab": [{"rank": 0, "token_bytes": "?"}]})", "of 1 ranks"},
  };
  for (const auto& one : cases) {
    const char *patch = one.first, *what = one.second;
    CAPTURE(patch);
    CHECK_MESSAGE(message(patch).find(what) != std::string::npos, message(patch));
  }

  const auto folder = std::filesystem::temp_directory_path() / str("ftlib_vocabulary_", ::getpid());
  std::filesystem::create_directories(folder);
  std::ofstream(folder / "tekken.json") << good;
  std::ofstream(folder / "tokenizer_config.json")
      << R"({"eos_token": "[/INST]", "add_bos_token": false, "chat_template": "{{ x }}",
             "added_tokens_decoder": {"5": {"content": "[TOOLS]", "special": true}, "278": {"content": "<more>"}}})";
  const auto spec = tokenizer_spec_from_folder(folder);
  REQUIRE(spec);
  const Tokenizer tokenizer(*spec);
  CHECK(tokenizer.encode("<s>[TOOLS]a<more>[AVAILABLE_TOOLS]").size() == 4 + 17);
  CHECK(tokenizer.encode("<s>[TOOLS]a<more>") == std::vector<int32_t>{1, 5, 22 + 'a', 278});
  CHECK(tokenizer.eos() == 4);
  CHECK_FALSE(tokenizer.add_bos());
  CHECK(tokenizer.chat_template() == "{{ x }}");
  CHECK(spec->notes.size() == 1);
  CHECK(spec->notes[0].find("tekken.json is taken") != std::string::npos);
  std::ofstream(folder / "tokenizer_config.json") << R"({"added_tokens_decoder": {"30": {"content": "<x>"}}})";
  CHECK(message_of([&] { tokenizer_spec_from_folder(folder); }).find("gives '<x>' the id 30, which is") !=
        std::string::npos);
  std::filesystem::remove_all(folder);
}
