// tests/fuzz/vocabulary.cpp: any bytes as a SentencePiece model, as tiktoken's ranks, as tekken.json and as a table of
// normalisation rules, for a text. The first byte says how long the text is that follows; the file is the rest.
#include <ftlib/io/json.hpp>
#include <ftlib/text/pretokenize.hpp>
#include <ftlib/text/tokenizer.hpp>

namespace {
void use(const ft::TokenizerSpec& spec, std::string_view text) {
  const ft::Tokenizer tokenizer(spec);
  for (const auto special : {ft::Special::parse, ft::Special::as_text}) {
    const auto ids = tokenizer.encode(text, {.special = special, .add_special_tokens = true});
    ft::StreamDecoder decoder(tokenizer);
    std::string streamed;
    for (const int32_t id : ids) streamed += decoder.put(id);
    if (streamed + decoder.finish() != tokenizer.decode(ids)) __builtin_trap();
  }
  for (int32_t id = 0; id < tokenizer.vocab_size(); id += 97) tokenizer.id(tokenizer.token(id));
}

template <class Make> void attempt(std::string_view text, const Make& make) {
  try {
    use(make(), text);
  } catch (const ft::Error&) {
  }
}
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  const std::string_view text = bytes.substr(0, data[0]), file = bytes.substr(text.size());
  attempt(text, [&] { return ft::tokenizer_spec_from_sentencepiece(file, "fuzz"); });
  attempt(text, [&] { return ft::tokenizer_spec_from_tiktoken(file, "fuzz", ft::gpt4o_words); });
  attempt(text, [&] { return ft::tokenizer_spec_from_tekken(ft::parse_json(file, "fuzz"), "fuzz"); });
  for (const bool sentencepiece : {false, true})
    attempt(text, [&] {
      ft::TokenizerSpec spec;
      spec.model = ft::TokenizerSpec::Model::unigram;
      for (const char* token : {"<unk>", "\u2581", "a", "\u2581a", "\n", "e\u0301"}) {
        spec.tokens.emplace_back(token);
        spec.scores.push_back(-static_cast<float>(spec.tokens.size()));
      }
      spec.unk = 0;
      spec.charsmap = file;
      spec.sentencepiece_normalizer = sentencepiece;
      spec.collapse_spaces = spec.strip_right = true;
      spec.space_prefix = ft::TokenizerSpec::SpacePrefix::always;
      return spec;
    });
  return 0;
}
