#include "serve/sse_parser.h"

namespace weft {

Status SseParser::push(std::string_view bytes,
                       const std::function<bool(std::string_view, std::string_view)>& on_event) {
  if (after_cr_ && !bytes.empty()) {
    if (bytes.front() == '\n') bytes.remove_prefix(1);
    after_cr_ = false;
  }
  while (!bytes.empty()) {
    const size_t end = bytes.find_first_of("\r\n");
    line_.append(bytes.substr(0, end));
    if (line_.size() + data_.size() > kMaxEventBytes) {
      return error(Code::kResourceExhausted, "an event of the stream has more than {} bytes", kMaxEventBytes);
    }
    if (end == std::string_view::npos) break;
    const bool cr = bytes[end] == '\r';
    bytes.remove_prefix(end + 1);
    if (cr && bytes.empty()) after_cr_ = true;
    if (cr && !bytes.empty() && bytes.front() == '\n') bytes.remove_prefix(1);
    if (!end_line(on_event)) return {};
  }
  return {};
}

// Takes the field of line_, or delivers the event at an empty line; false where the receiver wants no more.
bool SseParser::end_line(const std::function<bool(std::string_view, std::string_view)>& on_event) {
  std::string_view line = line_;
  if (std::exchange(first_line_, false) && line.starts_with("\xEF\xBB\xBF")) line.remove_prefix(3);
  bool keep_on = true;
  if (line.empty()) {
    if (has_data_) keep_on = on_event(event_, data_);
    event_.clear();
    data_.clear();
    has_data_ = false;
  } else {
    const size_t colon = line.find(':');
    const std::string_view name = line.substr(0, colon);
    std::string_view value = colon == std::string_view::npos ? std::string_view() : line.substr(colon + 1);
    if (value.starts_with(' ')) value.remove_prefix(1);
    if (name == "event") event_ = value;
    if (name == "data") {
      if (has_data_) data_ += '\n';
      data_ += value;
      has_data_ = true;
    }
  }
  line_.clear();
  return keep_on;
}

}  // namespace weft
