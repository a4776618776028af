#include "serve/stop_strings.h"

#include <algorithm>
#include <utility>

namespace weft {

StopStrings::StopStrings(std::vector<std::string> stops, bool include) : stops_(std::move(stops)), include_(include) {
  for (const std::string& stop : stops_) longest_ = std::max(longest_, stop.size());
}

std::string StopStrings::push(std::string_view piece) {
  if (stopped()) return {};
  if (stops_.empty()) return std::string(piece);
  held_ += piece;
  size_t first = std::string::npos;
  for (const std::string& stop : stops_) {
    const size_t at = held_.find(stop);
    if (at < first || (at == first && found_ && stop.size() > found_->size())) first = at, found_ = stop;
  }
  if (found_) {
    std::string shown = held_.substr(0, first + (include_ ? found_->size() : 0));
    held_.clear();
    return shown;
  }
  // Keep the longest end that begins a stop string.
  size_t keep = std::min(held_.size(), longest_ - 1);
  for (; keep > 0; --keep) {
    const std::string_view end = std::string_view(held_).substr(held_.size() - keep);
    if (std::any_of(stops_.begin(), stops_.end(), [&](const std::string& stop) { return stop.starts_with(end); }))
      break;
  }
  std::string shown = held_.substr(0, held_.size() - keep);
  held_.erase(0, shown.size());
  return shown;
}

std::string StopStrings::finish() {
  return std::exchange(held_, {});
}

}  // namespace weft
