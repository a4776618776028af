// WEFT_CHECK: a broken invariant prints its condition and values, then ends the process. Never reachable from input.
#pragma once
#include <fmt/format.h>

#include <string>

namespace weft {

[[noreturn]] void check_failed(const char* file, int line, const char* condition, const std::string& values);

template <class... Args>
std::string check_values(const Args&... args) {
  std::string text;
  ((text += fmt::format(fmt::runtime(text.empty() ? "{}" : ", {}"), args)), ...);
  return text;
}

}  // namespace weft

#define WEFT_CHECK(condition, ...)                                                             \
  do {                                                                                         \
    if (!(condition)) [[unlikely]]                                                             \
      ::weft::check_failed(__FILE__, __LINE__, #condition, ::weft::check_values(__VA_ARGS__)); \
  } while (0)
