// Finds stop strings in text that comes in pieces. Text that may be the beginning of one is held back.
#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace weft {

class StopStrings {
 public:
  // `include`: the stop string found stays part of the text.
  StopStrings(std::vector<std::string> stops, bool include);

  // Takes more text; returns what may be shown. Once stopped() there is nothing more to show.
  std::string push(std::string_view piece);
  // The text has ended: what was held back.
  std::string finish();
  bool stopped() const { return found_.has_value(); }
  // The one that was found first in the text; of those at one place the longest known so far.
  const std::string& found() const { return *found_; }

 private:
  std::vector<std::string> stops_;
  bool include_;
  size_t longest_ = 0;
  std::string held_;
  std::optional<std::string> found_;
};

}  // namespace weft
