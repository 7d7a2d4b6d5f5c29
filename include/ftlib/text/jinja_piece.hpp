// text/jinja_piece.hpp: what a chat template renders: text that knows who wrote it.
#pragma once
#include <ftlib/core/version.hpp>  // FTLIB_ABI

#include <cstdint>  // std::int32_t
#include <string>   // std::string

namespace ft::inline FTLIB_ABI {
namespace text {

/// A stretch of rendered text from one source.
struct JinjaPiece {
  std::string text;
  std::int32_t from = from_template;  ///< the template, a message (its place from 0), or the variables
  bool generated = false;             ///< inside {% generation %}: what the assistant says

  static constexpr std::int32_t from_template = -1, from_variables = -2;
  friend bool operator==(const JinjaPiece&, const JinjaPiece&) = default;
};

}  // namespace text
}  // namespace ft::inline FTLIB_ABI
