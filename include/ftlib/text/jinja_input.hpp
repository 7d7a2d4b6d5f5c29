// text/jinja_input.hpp: what a chat template is given, and what it may use up.
#pragma once
#include <ftlib/text/conversation.hpp>  // Message

#include <cstdint>  // std::int64_t
#include <string>   // std::string
#include <utility>  // std::pair
#include <vector>   // std::vector

namespace ft::inline FTLIB_ABI {
namespace text {

/// What a chat template is given. Roles are taken as the template's own words: check them first.
struct JinjaInput {
  const std::vector<Message>* messages = nullptr;  ///< `messages`: role and content of each; null: not defined
  std::vector<std::pair<std::string, std::string>> texts = {};  ///< trusted, as bos_token
  std::vector<std::pair<std::string, bool>> flags = {};         ///< as add_generation_prompt
  std::string variables =
      {};                 ///< an object of JSON, set last; its strings count as from outside, its members are sorted
  std::string date = {};  ///< what strftime_now formats, "2024-07-26" or "2024-07-26T09:30:00"; empty: now
};

/// What a template may use up; each is far above what conversations of some megabytes need.
struct JinjaLimits {
  std::int64_t steps = 20'000'000;               ///< expressions and statements run
  std::int64_t bytes = std::int64_t{512} << 20;  ///< of strings and lists made on the way, output among them
};

}  // namespace text
}  // namespace ft::inline FTLIB_ABI
