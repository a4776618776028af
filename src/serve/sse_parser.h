// Server-sent events, as a client reads them.
#pragma once
#include <functional>
#include <string>
#include <string_view>

#include "base/status.h"
#include "base/types.h"

namespace weft {

// Splits a body into events, wherever the network cut it. Lines end in LF, CR or CR LF; a leading byte order mark,
// comments and the fields `id` and `retry` are dropped; an event that the end of the body cuts off is not delivered.
// Source: WHATWG HTML standard, section 9.2.6, Interpreting an event stream.
class SseParser {
 public:
  static constexpr size_t kMaxEventBytes = 16 << 20;

  // Calls on_event(event, data) for every event that `bytes` complete; `event` is empty where the server named none.
  // Views hold until on_event returns; on_event returning false ends the call and the rest is dropped.
  // Errors: kResourceExhausted for an event above kMaxEventBytes.
  Status push(std::string_view bytes,
              const std::function<bool(std::string_view event, std::string_view data)>& on_event);

 private:
  bool end_line(const std::function<bool(std::string_view, std::string_view)>& on_event);

  std::string line_, event_, data_;
  bool has_data_ = false;   // a data field came, perhaps an empty one
  bool after_cr_ = false;   // a LF that comes next belongs to the CR before it
  bool first_line_ = true;  // which may begin with a byte order mark
};

}  // namespace weft
