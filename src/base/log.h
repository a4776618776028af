// Logs go to stderr through spdlog; results go to stdout and never through here.
#pragma once
#include <spdlog/spdlog.h>

#include "base/status.h"

namespace weft {

// Sets up the process-wide logger: stderr, one line each. `level` is trace, debug, info, warn, error or off.
// Errors: kInvalidArgument for another level.
Status init_logging(const std::string& level);

}  // namespace weft
