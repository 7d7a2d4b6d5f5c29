// tests/fuzz/image_captions.cpp: any bytes as a metadata file, a caption beside a picture, a picture's name: an Error,
// or captions that are written and read back the same, of files that are in the folder.
#include "../../examples/image_style/captions.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  using namespace image_style;
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  if (tidy(caption_from_name(bytes)) != caption_from_name(bytes)) __builtin_trap();
  try {
    const std::string caption = caption_from_text(std::string(bytes), "a.txt");
    if (caption_from_text(caption, "a.txt") != caption && !caption.starts_with("\xEF\xBB\xBF")) __builtin_trap();
  } catch (const Error&) {
  }
  for (const bool csv : {false, true}) {
    std::vector<BadRecord> bad;
    auto rows = read_metadata(bytes, csv, "metadata", bad).rows;
    std::string lines;
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const auto& row = rows[i];
      const std::filesystem::path path(row.file_name);
      if (path.is_absolute() || (std::filesystem::path("folder") / path).lexically_normal().string().starts_with(".."))
        __builtin_trap();
      lines +=
          Json{{"file_name", row.file_name}, {"text", row.caption}, {"style", row.style}, {"split", row.split}}.dump();
      lines += '\n';
      rows[i].line = static_cast<std::int64_t>(i) + 1;
    }
    bad.clear();
    if (read_metadata(lines, false, "metadata", bad).rows != rows || !bad.empty()) __builtin_trap();
  }
  return 0;
}
