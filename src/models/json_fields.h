// JsonFields: reads the fields of one JSON object; errors name the file and the field.
#pragma once
#include <nlohmann/json.hpp>
#include <string>

#include "base/status.h"
#include "base/types.h"

namespace weft {

class JsonFields {
 public:
  using Json = nlohmann::json;
  // `object` must outlive this.
  JsonFields(std::string file, const Json& object) : file_(std::move(file)), object_(object) {}
  const std::string& file() const { return file_; }

  // Present and not null.
  bool has(const char* name) const { return object_.contains(name) && !object_[name].is_null(); }
  bool is_null(const char* name) const { return object_.contains(name) && object_[name].is_null(); }
  const Json& raw(const char* name) const { return object_[name]; }

  // Positive integers up to 2^24.
  Result<i64> extent(const char* name) const;
  Result<i64> extent_or(const char* name, i64 absent) const { return has(name) ? extent(name) : Result<i64>(absent); }
  // 0 allowed.
  Result<i64> count_or(const char* name, i64 absent) const;
  Result<float> positive(const char* name) const;
  Result<float> positive_or(const char* name, float absent) const {
    return has(name) ? positive(name) : Result<float>(absent);
  }
  Result<bool> flag_or(const char* name, bool absent) const;
  Result<std::string> text_or(const char* name, const std::string& absent) const;

  Status bad(const char* name, const char* expected) const;
  // An error unless the field is absent, null, or the value that leaves the arithmetic as it is.
  Status refuse(const char* name, const Json& harmless) const;

 private:
  const std::string file_;
  const Json& object_;
};

}  // namespace weft
