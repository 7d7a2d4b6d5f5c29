// text/tokenizer_sentencepiece.inl.hpp: the body of text/tokenizer_spec.hpp that reads SentencePiece's model files,
// which are a protobuf message.
#pragma once
#include <ftlib/text/tokenizer_spec.hpp>
#include <ftlib/text/unicode.hpp>  // valid_utf8_prefix

#include <bit>          // std::bit_cast
#include <cstdint>      // std::uint64_t
#include <string>       // std::string
#include <string_view>  // std::string_view
#include <utility>      // std::move

namespace ft::inline FTLIB_ABI {
namespace detail {

/// The fields of a protobuf message, one after the other. protobuf.dev/programming-guides/encoding
class ProtobufFields {
 public:
  /// `begin` is where the message lies in the file.
  ProtobufFields(std::string_view message, std::string_view name, std::size_t begin = 0)
      : message_(message), name_(name), begin_(begin) {}

  /// Reads a field; false at the end. Throws Error where the message is cut short or of a kind of its own.
  bool next() {
    if (at_ == message_.size()) return false;
    const std::uint64_t key = varint();
    number_ = key >> 3;
    wire_ = static_cast<int>(key & 7);
    if (wire_ == 0) {
      value_ = varint();
    } else if (wire_ == 1 || wire_ == 5) {
      value_ = 0;
      const std::string_view bytes = take(wire_ == 1 ? 8 : 4);
      for (std::size_t i = 0; i < bytes.size(); ++i)
        value_ |= static_cast<std::uint64_t>(static_cast<std::uint8_t>(bytes[i])) << 8 * i;
    } else if (wire_ == 2) {
      bytes_ = take(varint());
    } else {
      fail(str("a field of wire type ", wire_));
    }
    return true;
  }
  std::uint64_t number() const { return number_; }
  std::int64_t integer() const { return want(0), static_cast<std::int64_t>(value_); }
  bool boolean() const { return integer() != 0; }
  float real() const { return want(5), std::bit_cast<float>(static_cast<std::uint32_t>(value_)); }
  std::string_view bytes() const { return want(2), bytes_; }
  ProtobufFields message() const {
    return {bytes(), name_, begin_ + static_cast<std::size_t>(bytes_.data() - message_.data())};
  }
  [[noreturn]] void fail(const std::string& what) const {
    throw Error(str(name_, ": byte ", begin_ + at_, ": ", what, " in what should be a SentencePiece model"),
                "the file is cut short, or of another kind.");
  }

 private:
  void want(int wire) const {
    if (wire_ != wire) fail(str("field ", number_, " has wire type ", wire_, ", not ", wire));
  }
  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<std::uint8_t>(take(1)[0]);
      value |= static_cast<std::uint64_t>(byte & 127) << shift;
      if (byte < 128) return value;
    }
    fail("a number of more than ten bytes");
  }
  std::string_view take(std::uint64_t count) {
    if (count > message_.size() - at_) fail(str(count, " bytes are wanted, ", message_.size() - at_, " are left,"));
    const std::string_view taken = message_.substr(at_, static_cast<std::size_t>(count));
    at_ += taken.size();
    return taken;
  }

  std::string_view message_, name_, bytes_;
  std::size_t begin_, at_ = 0;
  std::uint64_t number_ = 0, value_ = 0;
  int wire_ = 0;
};

}  // namespace detail

// Numbers of fields and defaults: github.com/google/sentencepiece, src/sentencepiece_model.proto.
[[gnu::cold]] FTLIB_INLINE TokenizerSpec tokenizer_spec_from_sentencepiece(std::string_view bytes,
                                                                           std::string_view name) {
  using Type = TokenizerSpec::Type;
  TokenizerSpec spec;
  spec.name = name;
  const auto fail = [&](const auto&... what) { throw Error(str(name, ": ", what...)); };
  std::int64_t model = 1;
  bool dummy_prefix = true, denormalized = false;
  spec.collapse_spaces = true;
  spec.byte_fallback = false;
  std::string_view names[] = {"<unk>", "<s>", "</s>", "<pad>"};
  for (detail::ProtobufFields file(bytes, name); file.next();) {
    if (file.number() == 1) {
      std::string piece;
      float score = 0;
      std::int64_t type = 1;
      for (auto field = file.message(); field.next();) {
        if (field.number() == 1) piece = field.bytes();
        if (field.number() == 2) score = field.real();
        if (field.number() == 3) type = field.integer();
      }
      const std::size_t id = spec.tokens.size();
      if (piece.empty() || valid_utf8_prefix(piece) != piece.size()) fail("piece ", id, " is no text");
      if (type < 1 || type > 6) fail("piece ", id, " ", quote(piece), " is of type ", type, "; 1 to 6 are known");
      spec.tokens.push_back(std::move(piece));
      spec.scores.push_back(score);
      spec.types.push_back(static_cast<Type>(type));
    } else if (file.number() == 2) {  // how it was trained
      for (auto field = file.message(); field.next();) {
        if (field.number() == 3) model = field.integer();
        if (field.number() == 24 && field.boolean())
          fail("treat_whitespace_as_suffix is set, which this library does not know");
        if (field.number() == 35) spec.byte_fallback = field.boolean();
        if (field.number() >= 45 && field.number() <= 48) names[field.number() - 45] = field.bytes();
      }
    } else if (file.number() == 3) {  // how text is normalised
      for (auto field = file.message(); field.next();) {
        if (field.number() == 2) spec.charsmap = field.bytes();
        if (field.number() == 3) dummy_prefix = field.boolean();
        if (field.number() == 4) spec.collapse_spaces = field.boolean();
        if (field.number() == 5 && !field.boolean())
          fail("escape_whitespaces is off, which this library does not know");
      }
    } else if (file.number() == 5) {  // how decoded text is
      for (auto field = file.message(); field.next();) denormalized |= field.number() == 2 && !field.bytes().empty();
    }
  }
  if (spec.tokens.empty())
    throw Error(str(name, ": a SentencePiece model without pieces"), "the file is of another kind.");
  if (model != 1 && model != 2)
    fail("a SentencePiece model of type ", model, "; unigram (1) and BPE (2) are known to this library");
  spec.model = model == 1 ? TokenizerSpec::Model::unigram : TokenizerSpec::Model::sentencepiece_bpe;
  spec.sentencepiece_normalizer = spec.fuse_unk = true;
  spec.space_prefix = dummy_prefix ? TokenizerSpec::SpacePrefix::always : TokenizerSpec::SpacePrefix::never;
  spec.strip_space = dummy_prefix || spec.collapse_spaces;
  if (denormalized)
    spec.notes.push_back("decoded text is left as the tokens have it: the model's denormalizer is not used");
  std::size_t unused = 0;
  for (std::size_t i = 0; i < spec.tokens.size(); ++i) {
    const auto id = static_cast<std::int32_t>(i);
    const Type type = spec.types[i];
    const bool user = type == Type::user_defined;
    unused += type == Type::unused;
    if (user || type == Type::control || type == Type::unknown)
      spec.added.push_back({.content = spec.tokens[i], .id = id, .special = !user, .normalized = user});
    if (type == Type::unknown) spec.unk = id;
    std::int32_t* named[] = {nullptr, &spec.bos, &spec.eos, &spec.pad};
    for (std::size_t k = 1; k < 4; ++k)
      if (type == Type::control && spec.tokens[i] == names[k]) *named[k] = id;
  }
  if (spec.unk < 0) fail("no piece stands for unknown text");
  if (unused > 0 && model == 2)
    spec.notes.push_back(
        str(unused, " unused pieces are never made; SentencePiece makes them and takes them apart again"));
  spec.add_bos = spec.bos >= 0;                  // Llama's kind
  spec.add_eos = spec.bos < 0 && spec.eos >= 0;  // T5's
  return spec;
}

}  // namespace ft::inline FTLIB_ABI
