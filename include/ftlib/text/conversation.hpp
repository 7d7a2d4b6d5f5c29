// text/conversation.hpp: turns of a conversation.
#pragma once
#include <ftlib/core/version.hpp>  // FTLIB_ABI

#include <string>  // std::string

namespace ft::inline FTLIB_ABI {
namespace text {

struct Message {
  std::string role = {};  ///< "system", "user" or "assistant"
  std::string content = {};

  friend bool operator==(const Message&, const Message&) = default;
};

}  // namespace text
}  // namespace ft::inline FTLIB_ABI
