#include "serve/schema.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <regex>

#include "base/check.h"
#include "serve_openapi.h"

namespace weft {
namespace {

constexpr double kTwoTo63 = 9223372036854775808.0;

bool is_integer(const Json& value) {
  if (value.is_number_integer()) {
    return !value.is_number_unsigned() || value.get<u64>() <= u64(INT64_MAX);
  }
  if (!value.is_number_float()) return false;
  const double number = value.get<double>();
  return std::trunc(number) == number && std::abs(number) < kTwoTo63;
}

bool has_type(const Json& value, std::string_view type) {
  if (type == "integer") return is_integer(value);
  if (type == "number") return value.is_number();
  if (type == "string") return value.is_string();
  if (type == "boolean") return value.is_boolean();
  if (type == "array") return value.is_array();
  if (type == "object") return value.is_object();
  return type == "null" && value.is_null();
}

std::string kind_of(const Json& value) {
  if (value.is_number_float()) return "a decimal";
  if (value.is_number()) return "an integer";
  if (value.is_null()) return "null";
  return (value.is_array() || value.is_object() ? "an " : "a ") + std::string(value.type_name());
}

std::string kind_name(std::string_view type) {
  if (type == "number") return "a decimal";
  if (type == "null") return "null";
  return fmt::format("{} {}", type == "integer" || type == "array" || type == "object" ? "an" : "a", type);
}

// A value as messages show it: short.
std::string shown(const Json& value) {
  std::string text = dump_json(value);
  if (text.size() > 80) text = text.substr(0, 77) + "...";  // dump_json replaces a cut code point
  return dump_json(Json(text)).size() > 2 && value.is_string() ? "'" + text.substr(1, text.size() - 2) + "'" : text;
}

std::string member(const std::string& path, const std::string& key) {
  return path.empty() ? key : path + "." + key;
}

ApiFault invalid(const std::string& path, std::string code, std::string message) {
  return ApiError{.message = std::move(message), .param = path, .code = std::move(code)};
}

std::string where(const std::string& path) {
  return path.empty() ? "the body" : "'" + path + "'";
}

ApiFault check_number(const Json& schema, const Json& value, const std::string& path) {
  const char* kind = is_integer(value) ? "integer" : "decimal";
  const double number = value.get<double>();
  auto outside = [&](const char* limit, const char* sign, const char* side) {
    return invalid(path, fmt::format("{}_{}_value", kind, side),
                   fmt::format("Invalid {}: expected a value {} {}, but got {} instead.", where(path), sign,
                               schema[limit].dump(), shown(value)));
  };
  if (!std::isfinite(number))
    return invalid(path, "invalid_value", fmt::format("Invalid {}: not finite.", where(path)));
  if (schema.contains("minimum") && number < schema["minimum"].get<double>()) {
    return outside("minimum", ">=", "below_min");
  }
  if (schema.contains("exclusiveMinimum") && number <= schema["exclusiveMinimum"].get<double>()) {
    return outside("exclusiveMinimum", ">", "below_min");
  }
  if (schema.contains("maximum") && number > schema["maximum"].get<double>()) {
    return outside("maximum", "<=", "above_max");
  }
  return {};
}

ApiFault check_string(const Json& schema, const Json& value, const std::string& path) {
  const auto& text = value.get_ref<const std::string&>();
  if (schema.contains("minLength") && text.size() < schema["minLength"].get<size_t>()) {
    return invalid(path, "string_below_min_length", fmt::format("Invalid {}: the string is too short.", where(path)));
  }
  // Length counts code points; no code point is longer than four bytes.
  if (schema.contains("maxLength")) {
    const auto points = std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; });
    if (points > schema["maxLength"].get<i64>()) {
      return invalid(path, "string_above_max_length",
                     fmt::format("Invalid {}: longer than {} characters.", where(path), schema["maxLength"].dump()));
    }
  }
  // The patterns here are short and every one comes with a maxLength: std::regex recurses per character.
  if (schema.contains("pattern") &&
      !std::regex_search(text, std::regex(schema["pattern"].get<std::string>(), std::regex::ECMAScript))) {
    return invalid(path, "invalid_value",
                   fmt::format("Invalid {}: expected a string that matches {}.", where(path),
                               schema["pattern"].get<std::string>()));
  }
  return {};
}

// Lets a schema take null too.
Json nullable(Json schema) {
  if (schema.contains("anyOf")) {
    schema["anyOf"].push_back({{"type", "null"}});
  } else if (schema.contains("$ref")) {
    return {{"anyOf", {schema, {{"type", "null"}}}}};
  } else if (schema.contains("type") && schema["type"].is_string() && schema["type"] != "null") {
    schema["type"] = {schema["type"], "null"};
    if (schema.contains("enum")) schema["enum"].push_back(nullptr);
    if (schema.contains("const")) {
      schema["enum"] = {schema["const"], nullptr};
      schema.erase("const");
    }
  }
  return schema;
}

void substitute(Json& value, const ServedLimits& limits) {
  if (value.is_structured()) {
    for (auto& part : value) substitute(part, limits);
  } else if (value == "$context") {
    value = limits.context;
  } else if (value == "$last_token") {
    value = limits.vocab - 1;
  } else if (value == "$version") {
    value = limits.version;
  } else if (value == "$models") {
    value = limits.models;
  } else if (value == "$model") {
    value = limits.models.empty() ? "" : limits.models.front();
  }
}

}  // namespace

ApiSchema::ApiSchema(const ServedLimits& limits) : document_(Json::parse(kOpenApi)) {
  substitute(document_, limits);
  if (!limits.needs_key) {
    document_.erase("security");
    document_["components"].erase("securitySchemes");
  }
  Json& schemas = document_["components"]["schemas"];
  for (auto& [name, schema] : schemas.items()) {
    if (schema.contains("x-include")) {
      for (const auto& included : schema["x-include"]) {
        for (const auto& [key, field] : schemas[included.get<std::string>()]["properties"].items()) {
          if (!schema["properties"].contains(key)) schema["properties"][key] = field;
        }
      }
      schema.erase("x-include");
    }
  }
  for (auto& [name, schema] : schemas.items()) {
    if (!schema.value("x-null-is-absent", false)) continue;
    schema.erase("x-null-is-absent");
    const Json required = schema.value("required", Json::array());
    for (auto& [key, field] : schema["properties"].items()) {
      if (std::find(required.begin(), required.end(), Json(key)) == required.end()) field = nullable(field);
    }
  }
}

const Json& ApiSchema::resolve(const Json& schema) const {
  if (!schema.contains("$ref")) return schema;
  return document_.at(Json::json_pointer(schema["$ref"].get<std::string>().substr(1)));
}

ApiFault ApiSchema::check(const std::string& name, const Json& value) const {
  return check_value(document_["components"]["schemas"].at(name), value, "", 0);
}

Json ApiSchema::field(const std::string& name, const Json& body, const char* key) const {
  if (const auto sent = body.find(key); sent != body.end() && !sent->is_null()) return *sent;
  const Json& properties = document_["components"]["schemas"].at(name).at("properties");
  WEFT_CHECK(properties.contains(key), name, key);
  return properties[key].value("default", Json());
}

ApiFault ApiSchema::check_value(const Json& reference, const Json& value, const std::string& path, int depth) const {
  const Json& schema = resolve(reference);
  WEFT_CHECK(depth < 100);
  if (schema.contains("anyOf")) return check_any_of(schema["anyOf"], value, path, depth);
  if (schema.contains("type")) {
    const Json types = schema["type"].is_array() ? schema["type"] : Json::array({schema["type"]});
    const bool fits = std::any_of(types.begin(), types.end(), [&](const Json& type) {
      return has_type(value, type.get_ref<const std::string&>());
    });
    if (!fits && types.size() == 1 && types[0] == "null") {
      return invalid(path, "unsupported_parameter",
                     fmt::format("Unsupported parameter: {}. {}", where(path), schema.value("description", "")));
    }
    if (!fits && types[0] == "integer" && value.is_number()) {
      return invalid(path, "invalid_type",
                     fmt::format("Invalid type for {}: expected an integer of 64 bits, but got {} instead.",
                                 where(path), shown(value)));
    }
    if (!fits) {
      return invalid(path, "invalid_type",
                     fmt::format("Invalid type for {}: expected {}, but got {} instead.", where(path),
                                 kind_name(types[0].get<std::string>()), kind_of(value)));
    }
  }
  if (schema.contains("const") && value != schema["const"]) {
    return invalid(
        path, "invalid_value",
        fmt::format("Invalid value for {}: {}. Supported: {}.", where(path), shown(value), shown(schema["const"])));
  }
  if (schema.contains("enum") &&
      std::find(schema["enum"].begin(), schema["enum"].end(), value) == schema["enum"].end()) {
    std::string known;
    for (const Json& each : schema["enum"]) {
      if (!each.is_null()) known += (known.empty() ? "" : ", ") + shown(each);
    }
    return invalid(path, "invalid_value",
                   fmt::format("Invalid value for {}: {}. Supported: {}.", where(path), shown(value), known));
  }
  if (value.is_number()) return check_number(schema, value, path);
  if (value.is_string()) return check_string(schema, value, path);
  if (value.is_object()) return check_object(schema, value, path, depth);
  if (value.is_array()) {
    if (schema.contains("minItems") && value.size() < schema["minItems"].get<size_t>()) {
      return invalid(path, value.empty() ? "empty_array" : "array_below_min_length",
                     fmt::format("Invalid {}: expected at least {} entries.", where(path), schema["minItems"].dump()));
    }
    if (schema.contains("maxItems") && value.size() > schema["maxItems"].get<size_t>()) {
      return invalid(path, "array_above_max_length",
                     fmt::format("Invalid {}: expected at most {} entries, but got {}.", where(path),
                                 schema["maxItems"].dump(), value.size()));
    }
    if (schema.contains("items")) {
      for (size_t i = 0; i < value.size(); ++i) {
        WEFT_API_TRY(check_value(schema["items"], value[i], fmt::format("{}[{}]", path, i), depth + 1));
      }
    }
  }
  return {};
}

ApiFault ApiSchema::check_object(const Json& schema, const Json& value, const std::string& path, int depth) const {
  const Json none = Json::object();
  const Json& properties = schema.contains("properties") ? schema["properties"] : none;
  // What kind of object it is comes first: an image part has no "text", but that is not what is wrong with it.
  for (const auto& [key, property] : properties.items()) {
    const auto sent = value.find(key);
    if (sent != value.end() && (property.contains("const") || property.contains("enum"))) {
      WEFT_API_TRY(check_value(property, *sent, member(path, key), depth + 1));
    }
  }
  if (schema.contains("required")) {
    for (const Json& key : schema["required"]) {
      const auto& name = key.get_ref<const std::string&>();
      if (!value.contains(name)) {
        return invalid(member(path, name), "missing_required_parameter",
                       fmt::format("Missing required parameter: '{}'.", member(path, name)));
      }
    }
  }
  if (schema.contains("maxProperties") && value.size() > schema["maxProperties"].get<size_t>()) {
    return invalid(path, "object_above_max_properties",
                   fmt::format("Invalid {}: expected at most {} keys.", where(path), schema["maxProperties"].dump()));
  }
  for (const auto& [key, part] : value.items()) {
    const auto known = properties.find(key);
    if (known != properties.end()) {
      WEFT_API_TRY(check_value(*known, part, member(path, key), depth + 1));
    } else if (schema.contains("additionalProperties") && schema["additionalProperties"].is_object()) {
      WEFT_API_TRY(check_value(schema["additionalProperties"], part, member(path, key), depth + 1));
    }
    if (schema.contains("propertyNames")) {
      if (check_value(schema["propertyNames"], key, path, depth + 1)) {
        return invalid(path, "invalid_value", fmt::format("Invalid {}: key {} is not valid.", where(path), shown(key)));
      }
    }
  }
  // Rules between fields: where "if" holds, "then" must; "x-message" and "x-param" say it in words.
  if (schema.contains("allOf")) {
    for (const Json& rule : schema["allOf"]) {
      if (!check_value(rule["if"], value, path, depth + 1) && check_value(rule["then"], value, path, depth + 1)) {
        const std::string param = member(path, rule["x-param"].get<std::string>());
        return invalid(param, "invalid_value",
                       fmt::format("Invalid '{}': {}", param, rule["x-message"].get<std::string>()));
      }
    }
  }
  return {};
}

// Whether the value has the fixed fields of this branch, {"type": "text"} say; where not, `fault` names the field and
// the value it would have.
bool ApiSchema::is_meant(const Json& branch, const Json& value, const std::string& path, FixedField* fault) const {
  const Json& schema = resolve(branch);
  if (!value.is_object() || !schema.contains("properties")) return true;
  for (const auto& [key, field] : schema["properties"].items()) {
    const auto sent = value.find(key);
    if (!field.contains("const") || sent == value.end() || *sent == field["const"]) continue;
    fault->path = member(path, key);
    fault->value = shown(*sent);
    fault->supported += (fault->supported.empty() ? "" : ", ") + shown(field["const"]);
    return false;
  }
  return true;
}

// The fault of the branch that the value was meant for: the one whose kind and fixed fields fit.
ApiFault ApiSchema::check_any_of(const Json& branches, const Json& value, const std::string& path, int depth) const {
  ApiFault found;
  std::string kinds;
  FixedField fixed;
  for (const Json& branch : branches) {
    if (!is_meant(branch, value, path, &fixed)) continue;
    if (branch.value("type", Json()) == "null") {
      if (value.is_null()) return {};
      continue;
    }
    ApiFault fault = check_value(branch, value, path, depth + 1);
    if (!fault) return {};
    if (fault->code != "invalid_type" || fault->param != path) {
      if (!found) found = std::move(fault);
      continue;
    }
    const Json& schema = resolve(branch);
    if (schema.contains("anyOf")) {
      found = std::move(fault);
    } else if (schema["type"].is_string()) {
      kinds += (kinds.empty() ? "" : " or ") + kind_name(schema["type"].get<std::string>());
    }
  }
  if (found) return found;
  if (!fixed.supported.empty()) {
    return invalid(fixed.path, "invalid_value",
                   fmt::format("Invalid value for '{}': {}. Supported: {}.", fixed.path, fixed.value, fixed.supported));
  }
  return invalid(
      path, "invalid_type",
      fmt::format("Invalid type for {}: expected {}, but got {} instead.", where(path), kinds, kind_of(value)));
}

}  // namespace weft
