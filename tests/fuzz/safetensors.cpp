// tests/fuzz/safetensors.cpp: any bytes as a safetensors file: an Error, or a file that can be read to its last byte.
#include "../io/walk.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  try {
    ft::test::walk(ft::SafetensorsFile::parse(std::as_bytes(std::span(data, size)), "fuzz.safetensors"));
  } catch (const ft::Error&) {
  }
  return 0;
}
