#include "models/json_fields.h"

#include <cmath>

namespace weft {

Status JsonFields::bad(const char* name, const char* expected) const {
  return error(Code::kDataLoss, "{}: field '{}': expected {}, found {}", file_, name, expected,
               has(name) ? object_[name].dump(-1, ' ', true, Json::error_handler_t::replace).substr(0, 80) : "nothing");
}

Result<i64> JsonFields::count_or(const char* name, i64 absent) const {
  if (!has(name)) return absent;
  const Json& value = object_[name];
  const bool fits = value.is_number_integer() && (!value.is_number_unsigned() || value.get<u64>() <= u64(1) << 24) &&
                    value.get<i64>() >= 0 && value.get<i64>() <= i64(1) << 24;
  return fits ? Result<i64>(value.get<i64>()) : bad(name, "an integer from 0 to 2^24");
}

Result<i64> JsonFields::extent(const char* name) const {
  if (!has(name) || !object_[name].is_number_integer()) return bad(name, "a positive integer");
  const auto value = count_or(name, 0);
  return value.ok() && *value > 0 ? value : bad(name, "an integer from 1 to 2^24");
}

Result<float> JsonFields::positive(const char* name) const {
  if (!has(name) || !object_[name].is_number()) return bad(name, "a positive number");
  const float value = object_[name].get<float>();
  return value > 0 && std::isfinite(value) ? Result<float>(value) : bad(name, "a positive number");
}

Result<bool> JsonFields::flag_or(const char* name, bool absent) const {
  if (!has(name)) return absent;
  return object_[name].is_boolean() ? Result<bool>(object_[name].get<bool>()) : bad(name, "true or false");
}

Result<std::string> JsonFields::text_or(const char* name, const std::string& absent) const {
  if (!has(name)) return absent;
  return object_[name].is_string() ? Result<std::string>(object_[name].get<std::string>()) : bad(name, "a string");
}

Status JsonFields::refuse(const char* name, const Json& harmless) const {
  if (!has(name) || object_[name] == harmless) return {};
  return error(Code::kUnimplemented, "{}: {} = {} is not supported", file_, name,
               object_[name].dump(-1, ' ', true, Json::error_handler_t::replace).substr(0, 80));
}

}  // namespace weft
