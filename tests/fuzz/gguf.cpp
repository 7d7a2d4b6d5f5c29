// tests/fuzz/gguf.cpp: any bytes as a GGUF file: an Error, or a file that can be read to its last byte.
#include "../io/walk.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  try {
    ft::test::walk(ft::GgufFile::parse(std::as_bytes(std::span(data, size)), "fuzz.gguf"));
  } catch (const ft::Error&) {
  }
  return 0;
}
