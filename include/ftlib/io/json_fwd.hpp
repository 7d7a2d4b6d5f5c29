// io/json_fwd.hpp: the name of a JSON value, for headers that only pass one on: parsing and access are in io/json.hpp.
#pragma once
#include <ftlib/core/version.hpp>

#include <nlohmann/json_fwd.hpp>  // nlohmann::json

namespace ft::inline FTLIB_ABI {

using Json = nlohmann::json;

}  // namespace ft::inline FTLIB_ABI
