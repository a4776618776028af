#include "python/errors.h"

#include <nanobind/nanobind.h>

namespace weft::python {
namespace nb = nanobind;

namespace {

const char* class_name(Code code) {
  switch (code) {
    case Code::kInvalidArgument: return "InvalidArgument";
    case Code::kResourceExhausted: return "ResourceExhausted";
    case Code::kUnimplemented: return "Unimplemented";
    case Code::kUnavailable: return "Unavailable";
    case Code::kDeadlineExceeded: return "DeadlineExceeded";
    case Code::kAborted: return "Aborted";
    default: return "Error";
  }
}

}  // namespace

void register_errors() {
  nb::register_exception_translator([](const std::exception_ptr& thrown, void*) {
    try {
      std::rethrow_exception(thrown);
    } catch (const StatusError& fault) {
      const nb::object type = nb::module_::import_("weft.errors").attr(class_name(fault.code()));
      PyErr_SetString(type.ptr(), fault.what());
    }
  });
}

}  // namespace weft::python
