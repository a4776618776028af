#include "base/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>

namespace weft {

Status init_logging(const std::string& level) {
  static constexpr const char* kLevels[] = {"trace", "debug", "info", "warn", "error", "off"};
  bool known = false;
  for (const char* name : kLevels) known = known || level == name;
  if (!known) {
    return error(Code::kInvalidArgument, "log level '{}' is not one of trace, debug, info, warn, error, off", level);
  }
  auto logger = std::make_shared<spdlog::logger>("weft", std::make_shared<spdlog::sinks::stderr_color_sink_mt>());
  logger->set_pattern("%H:%M:%S.%e %^%l%$ %v");
  logger->set_level(spdlog::level::from_str(level == "error" ? "err" : level));
  spdlog::set_default_logger(std::move(logger));
  return {};
}

}  // namespace weft
