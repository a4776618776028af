#include "serve/reasoning.h"

#include <algorithm>
#include <utility>

namespace weft {
namespace {
constexpr std::string_view kOpen = "<think>", kClose = "</think>", kSpace = " \t\r\n";

// How many bytes at the end of `text` may begin `tag`.
size_t partial(std::string_view text, std::string_view tag) {
  for (size_t length = std::min(text.size(), tag.size() - 1); length > 0; --length) {
    if (text.ends_with(tag.substr(0, length))) return length;
  }
  return 0;
}

void drop_leading_space(std::string& text) {
  text.erase(0, std::min(text.find_first_not_of(kSpace), text.size()));
}
}  // namespace

ReasoningSplitter::Parts ReasoningSplitter::push(std::string_view piece) {
  Parts parts;
  held_ += piece;
  if (state_ == State::kBefore) {
    const size_t start = std::min(held_.find_first_not_of(kSpace), held_.size());
    const std::string_view text = std::string_view(held_).substr(start);
    if (text.starts_with(kOpen)) {
      held_.erase(0, start + kOpen.size());
      state_ = State::kInside;
    } else if (kOpen.starts_with(text)) {
      return parts;  // not yet known
    } else {
      state_ = State::kContent;
    }
  }
  if (state_ == State::kInside) {
    if (trim_) drop_leading_space(held_);
    trim_ = trim_ && held_.empty();
    const size_t end = held_.find(kClose);
    if (end == std::string::npos) {
      // White space before the closing tag is dropped, so it waits, too.
      size_t keep = partial(held_, kClose);
      while (keep < held_.size() && kSpace.find(held_[held_.size() - keep - 1]) != kSpace.npos) ++keep;
      parts.reasoning = held_.substr(0, held_.size() - keep);
      held_.erase(0, parts.reasoning.size());
      return parts;
    }
    parts.reasoning = held_.substr(0, end);
    parts.reasoning.erase(parts.reasoning.find_last_not_of(kSpace) + 1);
    held_.erase(0, end + kClose.size());
    state_ = State::kAfter;
  }
  if (state_ == State::kAfter) {
    drop_leading_space(held_);
    if (held_.empty()) return parts;
    state_ = State::kContent;
  }
  parts.content = std::exchange(held_, {});
  return parts;
}

ReasoningSplitter::Parts ReasoningSplitter::finish() {
  Parts parts;
  (state_ == State::kInside ? parts.reasoning : parts.content) = std::exchange(held_, {});
  return parts;
}

}  // namespace weft
