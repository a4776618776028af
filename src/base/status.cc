#include "base/status.h"

#include <cstdio>
#include <cstdlib>

namespace weft {

const char* code_name(Code code) {
  switch (code) {
    case Code::kOk: return "ok";
    case Code::kInvalidArgument: return "invalid argument";
    case Code::kNotFound: return "not found";
    case Code::kDataLoss: return "bad data";
    case Code::kResourceExhausted: return "resource exhausted";
    case Code::kUnimplemented: return "not supported";
    case Code::kUnavailable: return "unavailable";
    case Code::kDeadlineExceeded: return "deadline exceeded";
    case Code::kAborted: return "aborted";
    case Code::kIo: return "input/output error";
  }
  return "unknown";
}

const std::string& Status::message() const {
  static const std::string empty;
  return ok() ? empty : fault_->message;
}

Status Status::with_context(const std::string& context) const {
  return ok() ? Status() : Status(code(), context + ": " + message());
}

void check_failed(const char* file, int line, const char* condition, const std::string& values) {
  std::fprintf(stderr, "weft: internal error: %s:%d: %s%s%s\n", file, line, condition, values.empty() ? "" : ": ",
               values.c_str());
  std::abort();
}

}  // namespace weft
