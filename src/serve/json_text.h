// JSON of strangers: parsed with bounds on depth, keys and values, so that no text costs more than its size deserves.
#pragma once
#include <nlohmann/json.hpp>
#include <string_view>

#include "base/status.h"
#include "base/types.h"

namespace weft {

// Keys keep their order: chat templates print tools and arguments as they were sent.
using Json = nlohmann::ordered_json;

struct JsonLimits {
  i64 max_depth = 64;
  i64 max_keys = 2048;       // of one object: an ordered object looks its keys up one by one
  i64 max_values = 2000000;  // in all; each takes 16 bytes or more
};

// Errors: kInvalidArgument with the byte of the fault: not JSON, not UTF-8, a number outside double's range, a limit.
Result<Json> parse_json(std::string_view text, const JsonLimits& limits = {});

// Compact text. Bytes that are not UTF-8 become U+FFFD.
std::string dump_json(const Json& value);

}  // namespace weft
