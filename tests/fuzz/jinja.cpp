// tests/fuzz/jinja.cpp: any bytes as a chat template, and after the first zero byte as what a message says: an Error,
// or text in which whatever is not the template's own comes from the message or the variables.
#include <ftlib/io/json.hpp>
#include <ftlib/text/jinja.hpp>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  using namespace ft::text;
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const std::size_t zero = std::min(bytes.find('\0'), size);
  const std::vector<Message> messages = {
      {"system", "s"}, {"user", std::string(bytes.substr(std::min(zero + 1, size)))}, {"assistant", "a"}};
  try {
    const JinjaTemplate jinja(bytes.substr(0, zero));
    const JinjaInput input{.messages = &messages,
                           .texts = {{"bos_token", "<s>"}},
                           .flags = {{"add_generation_prompt", true}, {"enable_thinking", false}},
                           .variables = R"({"d": {"a": [1, 2.5, null, true], "b": "x"}, "w": [" b ", "A"]})",
                           .date = "2024-07-26"};
    const auto pieces = jinja.render(input, {.steps = 20'000, .bytes = 1 << 20});
    std::size_t total = 0;
    for (std::size_t i = 0; i < pieces.size(); ++i) {
      const auto& piece = pieces[i];
      total += piece.text.size();
      if (piece.text.empty() || piece.from < JinjaPiece::from_variables || piece.from > 2) __builtin_trap();
      if (i > 0 && piece.from == pieces[i - 1].from && piece.generated == pieces[i - 1].generated) __builtin_trap();
      if (piece.generated && !jinja.marks_generation()) __builtin_trap();
    }
    if (total > 1 << 20) __builtin_trap();
    if (jinja.render(input, {.steps = 20'000, .bytes = 1 << 20}) != pieces) __builtin_trap();
  } catch (const ft::Error&) {
  }
  return 0;
}
