#include "comm/bootstrap/exec.h"

#include <unistd.h>

namespace weft {

std::vector<std::string> environment_without(const std::function<bool(std::string_view name)>& dropped) {
  std::vector<std::string> all;
  for (char** entry = environ; *entry; ++entry) {
    const std::string_view text(*entry);
    if (!dropped(text.substr(0, text.find('=')))) all.emplace_back(text);
  }
  return all;
}

std::vector<char*> exec_pointers(std::vector<std::string>& texts) {
  std::vector<char*> all;
  for (std::string& text : texts) all.push_back(text.data());
  all.push_back(nullptr);
  return all;
}

}  // namespace weft
