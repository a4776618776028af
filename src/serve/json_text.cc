#include "serve/json_text.h"

#include <vector>

namespace weft {
namespace {

// Counts brackets, keys and values outside strings, before anything is built.
Status check_limits(std::string_view text, const JsonLimits& limits) {
  std::vector<i64> keys;  // of the objects and arrays that are open
  i64 values = 1;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      in_string = c != '"';
      continue;
    }
    switch (c) {
      case '"': in_string = true; break;
      case '{':
      case '[':
        keys.push_back(0);
        ++values;
        if (i64(keys.size()) > limits.max_depth) {
          return error(Code::kInvalidArgument, "JSON nested deeper than {} at byte {}", limits.max_depth, i);
        }
        break;
      case '}':
      case ']':
        if (!keys.empty()) keys.pop_back();
        break;
      case ':':
        if (!keys.empty() && ++keys.back() > limits.max_keys) {
          return error(Code::kInvalidArgument, "JSON object with more than {} keys at byte {}", limits.max_keys, i);
        }
        break;
      case ',':
        if (++values > limits.max_values) {
          return error(Code::kInvalidArgument, "JSON with more than {} values at byte {}", limits.max_values, i);
        }
        break;
      default: break;
    }
  }
  return {};
}

// What the library says, without its own prefix "[json.exception.parse_error.101] ".
std::string plain(const std::string& message) {
  const size_t end = message.find("] ");
  return message.starts_with("[json.exception") && end != std::string::npos ? message.substr(end + 2) : message;
}

}  // namespace

Result<Json> parse_json(std::string_view text, const JsonLimits& limits) {
  WEFT_TRY(check_limits(text, limits));
  try {
    return Json::parse(text);
  } catch (const nlohmann::json::exception& fault) {
    // The message may quote bytes that are not UTF-8; it goes into an answer that must be.
    return Status(Code::kInvalidArgument, "the body is not valid JSON: " + plain(fault.what()));
  }
}

std::string dump_json(const Json& value) {
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace weft
