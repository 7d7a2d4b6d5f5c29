// tests/fuzz/tokenizer.cpp: any bytes as a tokenizer.json and, after the first zero byte, as text for it. The bytes are
// also text for a sound tokenizer, which must give them back.
#include <ftlib/io/json.hpp>
#include <ftlib/text/bpe.hpp>
#include <ftlib/text/tokenizer.hpp>
#include <ftlib/text/unicode.hpp>

#include <cstdio>  // std::snprintf

namespace {
std::string stream(const ft::Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  ft::StreamDecoder decoder(tokenizer);
  std::string text;
  for (const int32_t id : ids) text += decoder.put(id);
  return text + decoder.finish();
}

/// Every byte is a token; words of two and three letters are made by score.
ft::Tokenizer sound() {
  ft::TokenizerSpec spec;
  spec.model = ft::TokenizerSpec::Model::sentencepiece_bpe;
  using Type = ft::TokenizerSpec::Type;
  for (int byte = 0; byte < 256; ++byte) {
    char token[7];
    std::snprintf(token, sizeof token, "<0x%02X>", static_cast<unsigned>(byte));
    spec.tokens.emplace_back(token);
    spec.types.push_back(Type::byte);
  }
  for (const char* token : {"\u2581", "a", "b", "ab", "\u2581a", "ba", "abab", "a\u2581b", "\u00e9", "\u00e9a"}) {
    spec.tokens.emplace_back(token);
    spec.types.push_back(Type::normal);
  }
  for (std::size_t i = 0; i < spec.tokens.size(); ++i) spec.scores.push_back(-static_cast<float>(i));
  spec.added.push_back({.content = "\n", .id = 10});
  return ft::Tokenizer(spec);
}
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  static const ft::Tokenizer tokenizer = sound();
  const auto ids = tokenizer.encode(bytes);
  const std::string text = tokenizer.decode(ids);
  if (text != ft::detail::replace_all(ft::replace_broken_utf8(bytes), "\u2581", " ")) __builtin_trap();
  if (stream(tokenizer, ids) != text) __builtin_trap();

  const std::size_t zero = bytes.find('\0');
  try {
    const auto other = ft::Tokenizer::from_json(ft::parse_json(bytes.substr(0, zero), "fuzz"));
    const std::string_view rest = zero == bytes.npos ? bytes : bytes.substr(zero);
    for (const auto special : {ft::Special::parse, ft::Special::as_text}) {
      const auto found = other.encode(rest, {.special = special, .add_special_tokens = true});
      if (stream(other, found) != other.decode(found)) __builtin_trap();
    }
    for (int32_t id = 0; id < other.vocab_size(); id += 97) other.id(other.token(id));
  } catch (const ft::Error&) {
  }
  return 0;
}
