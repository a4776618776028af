// The OpenAPI document is the one declaration of every request's fields: it is served at /openapi.json, it gives the
// defaults, and requests are checked against it.
#pragma once
#include <string>
#include <vector>

#include "serve/api_error.h"

namespace weft {

// Values of the document that only the running server knows.
struct ServedLimits {
  std::string version;
  std::vector<std::string> models;  // names under which the model is served
  i64 context = 0;                  // tokens of prompt and answer together
  i64 vocab = 0;
  bool needs_key = false;
};

class ApiSchema {
 public:
  // Reads the embedded document. In the requests' schemas it resolves "x-include", lets every optional field be null
  // (which means absent), and puts `limits` in place of "$context", "$vocab" and "$models".
  explicit ApiSchema(const ServedLimits& limits);

  // The document as served.
  const Json& document() const { return document_; }
  // Checks `value` against components/schemas/<name>. The fault names the field in `param` and the kind of fault in
  // `code`, in OpenAI's words.
  ApiFault check(const std::string& name, const Json& value) const;
  // The value of an optional field: the one sent, else the declared default, else null.
  Json field(const std::string& name, const Json& body, const char* key) const;

 private:
  struct FixedField {
    std::string path, value, supported;
  };
  bool is_meant(const Json& branch, const Json& value, const std::string& path, FixedField* fault) const;
  ApiFault check_value(const Json& schema, const Json& value, const std::string& path, int depth) const;
  ApiFault check_object(const Json& schema, const Json& value, const std::string& path, int depth) const;
  ApiFault check_any_of(const Json& branches, const Json& value, const std::string& path, int depth) const;
  const Json& resolve(const Json& schema) const;
  Json document_;
};

}  // namespace weft
