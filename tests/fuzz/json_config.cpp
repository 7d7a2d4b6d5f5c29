// tests/fuzz/json_config.cpp: any bytes as a config.json: an Error, or a value that can be asked for anything.
#include <ftlib/io/json.hpp>

namespace {
template <class T> void ask(const ft::Json& config, std::string_view key) {
  try {
    ft::value_or<T>(config, key, T{}, "config.json");
  } catch (const ft::Error&) {
  }
}
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  try {
    const std::string text(reinterpret_cast<const char*>(data), size);
    const ft::Json config = ft::parse_json(text, "config.json");
    if (ft::parse_json(config.dump(), "config.json") != config) __builtin_trap();  // what was read can be written
    for (const std::string_view key : {"hidden_size", "architectures", "rms_norm_eps", "eos_token_id", "a"}) {
      ask<int>(config, key);
      ask<uint64_t>(config, key);
      ask<float>(config, key);
      ask<bool>(config, key);
      ask<std::string>(config, key);
      ask<std::vector<int64_t>>(config, key);
      ask<std::vector<std::string>>(config, key);
    }
  } catch (const ft::Error&) {
  }
  return 0;
}
