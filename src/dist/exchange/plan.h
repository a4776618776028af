// Host-side planning shared by the operators of many ranks.
#pragma once
#include <string>

#include "comm/communicator.h"
#include "dist/exchange/tiles.h"

namespace weft {

// Lays out an operator's symmetric memory: reserve() in one order on every rank, then one collective allocate().
class SymmetricLayout {
 public:
  // The offset of n objects within the allocation, on a line of its own.
  template <class T>
  i64 reserve(i64 n) {
    const i64 at = bytes_;
    bytes_ = round_up(bytes_ + n * i64(sizeof(T)), kFlagLineBytes);
    return at;
  }
  i64 bytes() const { return bytes_; }
  template <class T>
  static sym<T> at(sym<std::byte> base, i64 offset) {
    return (base + offset).as<T>();
  }

 private:
  i64 bytes_ = 0;
};

// Flags for `count` tiles of each of `ranks` sources.
inline i64 flags_per_source(i64 count) {
  return round_up(count, kFlagsPerLine);
}

// `tensor` must be dense on the CPU.
inline Status expect_dense(const char* op, const char* tensor, const TensorView& view) {
  if (view.is_dense()) return {};
  return error(Code::kInvalidArgument, "{}: {}: a row stride is not supported, found {}", op, tensor, view.describe());
}

// f32, bf16 or f16.
inline Status expect_summable(const char* op, DType dtype) {
  if (dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16) return {};
  return error(Code::kInvalidArgument, "{}: dtype: expected f32, bf16 or f16, found {}", op, dtype_name(dtype));
}

// Calls f with a value of the element type.
template <class F>
auto with_element(DType dtype, F&& f) {
  if (dtype == DType::kBF16) return f(bf16{});
  if (dtype == DType::kF16) return f(f16{});
  return f(float{});
}

// Ends an operator on the CPU: the kernel boundary. `done` false = the communicator failed.
inline Status end_call(const Communicator& comm, Exec& exec, bool done) {
  if (!done) return comm.status();
  return exec.sync();
}

}  // namespace weft
