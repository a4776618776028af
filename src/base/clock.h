// Monotonic time and deadlines. Every wait in weft takes a Deadline.
#pragma once
#include <algorithm>
#include <chrono>

#include "base/types.h"

namespace weft {

using Clock = std::chrono::steady_clock;

inline double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

class Deadline {
 public:
  static Deadline after(std::chrono::nanoseconds wait) { return Deadline(Clock::now() + wait); }
  bool expired() const { return Clock::now() >= at_; }
  // Time left, never negative.
  std::chrono::nanoseconds left() const {
    return std::max(std::chrono::nanoseconds(0), std::chrono::nanoseconds(at_ - Clock::now()));
  }
  // For poll(2): milliseconds left, rounded up, at most `cap`.
  int poll_ms(int cap = 1 << 30) const {
    const i64 ms = std::chrono::ceil<std::chrono::milliseconds>(left()).count();
    return int(std::min<i64>(ms, cap));
  }

 private:
  explicit Deadline(Clock::time_point at) : at_(at) {}
  Clock::time_point at_;
};

}  // namespace weft
