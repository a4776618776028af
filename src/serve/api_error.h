// An error as OpenAI's clients read it, in an answer or inside a stream.
#pragma once
#include <optional>
#include <string>

#include "serve/json_text.h"

namespace weft {

struct ApiError {
  int status = 400;
  std::string message;
  std::string param = {};  // the path of the field, "messages[1].content"; empty = null
  std::string code = {};   // empty = null
  std::string type = "invalid_request_error";
  int retry_after_s = 0;  // sent as Retry-After when positive

  Json body() const {
    auto or_null = [](const std::string& text) { return text.empty() ? Json(nullptr) : Json(text); };
    return {{"error", {{"message", message}, {"type", type}, {"param", or_null(param)}, {"code", or_null(code)}}}};
  }
};

// What is wrong with a request; nothing if all is well.
using ApiFault = std::optional<ApiError>;

inline ApiError not_ready(std::string message) {
  return {.status = 503,
          .message = std::move(message),
          .code = "engine_unavailable",
          .type = "service_unavailable_error",
          .retry_after_s = 1};
}

inline ApiError internal_error(std::string message, std::string code = "internal_error") {
  return {.status = 500, .message = std::move(message), .code = std::move(code), .type = "server_error"};
}

}  // namespace weft

// Returns from the calling function with the fault, if there is one.
#define WEFT_API_TRY(expression)                                       \
  do {                                                                 \
    if (::weft::ApiFault fault_ = (expression); fault_) return fault_; \
  } while (0)
