#include "comm/bootstrap/line_relay.h"

#include <limits.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace weft {

void OutputQueue::write_some() {
  const ssize_t written = ::write(fd_, waiting_.data() + sent_, std::min<size_t>(waiting_.size() - sent_, PIPE_BUF));
  if (written >= 0) {
    sent_ += size_t(written);
  } else if (errno != EINTR && errno != EAGAIN) {
    broken_ = true;
  }
  if (broken_ || sent_ == waiting_.size()) {
    waiting_.clear();
    sent_ = 0;
  }
}

void LineRelay::push(std::string_view bytes) {
  while (!bytes.empty()) {
    if (bytes.front() == '\n') {
      bytes.remove_prefix(1);
      emit();
      continue;
    }
    if (line_.size() == kLongest) emit();
    const size_t count = std::min({bytes.find('\n'), bytes.size(), kLongest - line_.size()});
    line_.append(bytes.substr(0, count));
    bytes.remove_prefix(count);
  }
}

void LineRelay::finish() {
  if (!line_.empty()) emit();
}

void LineRelay::emit() {
  out_.push(prefix_);
  out_.push(line_);
  out_.push("\n");
  line_.clear();
}

}  // namespace weft
