// tests/fuzz/image_files.cpp: any bytes as a picture: an Error, or a picture that can be scaled.
#include "../../examples/image_style/images.hpp"

// SVG: fontconfig keeps what it knows of the fonts until the process ends; libxml2 loses some bytes of entities that it
// refuses.
extern "C" const char* __lsan_default_suppressions() { return "leak:libfontconfig\nleak:libxml2"; }

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  try {
    const std::string_view bytes(reinterpret_cast<const char*>(data), size);
    const auto picture = image_style::decode(bytes, 1 << 20).picture;
    if (picture.width < 1 || picture.height < 1) __builtin_trap();
    for (const auto fit : {image_style::Fit::cover, image_style::Fit::pad})
      if (image_style::fitted(picture, 9, fit).rgb.size() != 9 * 9 * 3) __builtin_trap();
  } catch (const ft::Error&) {
  }
  return 0;
}
