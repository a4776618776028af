// What every call of the Rust library shares: views in, owned buffers and errors out.
#pragma once
#include <string>
#include <string_view>

#include "base/status.h"
#include "text/ffi/weft_text.h"

namespace weft::text_ffi {

inline weft_text_view view(std::string_view text) {
  return {text.data(), text.size()};
}

// Copies a buffer of the library and gives it back.
inline std::string take(weft_text_buffer buffer) {
  std::string text(buffer.data, buffer.size);
  weft_text_buffer_free(buffer);
  return text;
}

inline Code code_of(weft_text_code code) {
  switch (code) {
    case WEFT_TEXT_DATA_LOSS: return Code::kDataLoss;
    case WEFT_TEXT_UNIMPLEMENTED: return Code::kUnimplemented;
    case WEFT_TEXT_RESOURCE_EXHAUSTED: return Code::kResourceExhausted;
    default: return Code::kInvalidArgument;
  }
}

// call(weft_tokenizer_decode, &out, arguments...): runs a function whose last two parameters are output and error.
template <class Out, class Function, class... Args>
Status call(Function function, Out* out, Args... args) {
  weft_text_buffer fault{};
  const weft_text_code code = function(args..., out, &fault);
  if (code == WEFT_TEXT_OK) return Status();
  return Status(code_of(code), take(fault));
}

// The same for functions that return text.
template <class Function, class... Args>
Result<std::string> call_for_text(Function function, Args... args) {
  weft_text_buffer out{};
  WEFT_TRY(call(function, &out, args...));
  return take(out);
}

}  // namespace weft::text_ffi
