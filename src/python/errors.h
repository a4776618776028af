// How faults leave the library: as exceptions of weft.errors, which name the argument.
#pragma once
#include <exception>
#include <string>
#include <utility>

#include "base/status.h"

namespace weft::python {

// Carries a Status from a bound function to nanobind, which makes the Python exception of its code.
class StatusError final : public std::exception {
 public:
  explicit StatusError(Status status) : status_(std::move(status)) {}
  const char* what() const noexcept override { return status_.message().c_str(); }
  Code code() const { return status_.code(); }

 private:
  Status status_;
};

inline void check(Status status) {
  if (!status.ok()) throw StatusError(std::move(status));
}
template <class T>
T check(Result<T> result) {
  check(result.status());
  return std::move(result).value();
}

// Registers StatusError with nanobind; once, by the module.
void register_errors();

}  // namespace weft::python
