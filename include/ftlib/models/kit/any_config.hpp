// models/kit/any_config.hpp: AnyConfig, a configuration of whatever architecture, and how it is written.
#pragma once
#include <ftlib/models/kit/config_gguf.hpp>  // gguf_description
#include <ftlib/models/kit/config_json.hpp>  // TransformerConfig::to_json

#include <concepts>  // std::derived_from
#include <memory>    // std::shared_ptr
#include <utility>   // std::move

namespace ft::inline FTLIB_ABI {

/// A configuration of any architecture, shared and not changed.
class AnyConfig {
 public:
  template <std::derived_from<TransformerConfig> Config>
  AnyConfig(Config config)
      : config_(std::make_shared<const Config>(std::move(config))),
        json_([](const TransformerConfig& c) {
          Config copy = static_cast<const Config&>(c);  // fields() is one description, for readers and for the writer
          return copy.to_json();
        }),
        gguf_([](const TransformerConfig& c) { return detail::gguf_description(static_cast<const Config&>(c)); }) {}
  const TransformerConfig* operator->() const { return config_.get(); }
  const TransformerConfig& operator*() const { return *config_; }
  Json to_json() const { return json_(*config_); }
  GgufDescription to_gguf() const { return gguf_(*config_); }

 private:
  std::shared_ptr<const TransformerConfig> config_;
  Json (*json_)(const TransformerConfig&);
  GgufDescription (*gguf_)(const TransformerConfig&);
};

}  // namespace ft::inline FTLIB_ABI
