// Status and Result: how faults of input, I/O, peers and capacity travel. Broken invariants use WEFT_CHECK (check.h).
#pragma once
#include <fmt/format.h>

#include <memory>
#include <string>
#include <utility>
#include <variant>

#include "base/check.h"

namespace weft {

enum class Code {
  kOk,
  kInvalidArgument,    // the caller's value is wrong, whatever the state of the system
  kNotFound,           // a named thing does not exist
  kDataLoss,           // a file or message is truncated, corrupt or hostile
  kResourceExhausted,  // memory, disk, pages or queue are full
  kUnimplemented,      // valid, but not supported: named, never run wrong
  kUnavailable,        // a peer is gone
  kDeadlineExceeded,   // a wait expired
  kAborted,            // stopped because somebody else failed or asked for it
  kIo,                 // the operating system refused
};

// The name of a code as users read it, for instance "invalid argument".
const char* code_name(Code code);

// The outcome of a call that can fail. Copying is cheap; success holds no memory.
class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Code code, std::string message) : fault_(std::make_shared<const Fault>(Fault{code, std::move(message)})) {
    WEFT_CHECK(code != Code::kOk);
  }
  bool ok() const { return fault_ == nullptr; }
  Code code() const { return ok() ? Code::kOk : fault_->code; }
  // One line without a final period; empty on success.
  const std::string& message() const;
  // The same fault with `context: ` before its message. No effect on success.
  Status with_context(const std::string& context) const;

 private:
  struct Fault {
    Code code;
    std::string message;
  };
  std::shared_ptr<const Fault> fault_;
};

// Builds a Status: error(Code::kNotFound, "{}: no such file", path).
template <class... Args>
Status error(Code code, fmt::format_string<Args...> format, Args&&... args) {
  return Status(code, fmt::format(format, std::forward<Args>(args)...));
}

// A value or the Status that says why there is none.
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::move(value)) {}                                            // NOLINT: implicit by design
  Result(Status status) : state_(std::move(status)) { WEFT_CHECK(!this->status().ok()); }  // NOLINT

  bool ok() const { return std::holds_alternative<T>(state_); }
  Status status() const { return ok() ? Status() : std::get<Status>(state_); }
  T& value() & { return checked(); }
  const T& value() const& { return const_cast<Result*>(this)->checked(); }
  T&& value() && { return std::move(checked()); }
  T& operator*() & { return checked(); }
  const T& operator*() const& { return const_cast<Result*>(this)->checked(); }
  T&& operator*() && { return std::move(checked()); }
  T* operator->() { return &checked(); }
  const T* operator->() const { return &const_cast<Result*>(this)->checked(); }

 private:
  T& checked() {
    if (!ok()) check_failed(__FILE__, __LINE__, "Result holds a value", std::get<Status>(state_).message());
    return std::get<T>(state_);
  }
  std::variant<T, Status> state_;
};

}  // namespace weft

#define WEFT_CONCAT_(a, b) a##b
#define WEFT_CONCAT(a, b) WEFT_CONCAT_(a, b)

// Returns from the calling function with the fault, if there is one.
#define WEFT_TRY(expression)                                                  \
  do {                                                                        \
    if (::weft::Status status_ = (expression); !status_.ok()) return status_; \
  } while (0)

// WEFT_ASSIGN(auto file, File::open(path)): declares or assigns the value, or returns the fault.
#define WEFT_ASSIGN(target, expression) WEFT_ASSIGN_(WEFT_CONCAT(result_, __LINE__), target, expression)
#define WEFT_ASSIGN_(result, target, expression) \
  auto result = (expression);                    \
  if (!result.ok()) return result.status();      \
  target = std::move(result).value()
