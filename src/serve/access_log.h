// The server's log: one line a request and whatever else happens, as text or as JSON objects. Never blocks its callers:
// what cannot be written in time is dropped, oldest first.
#pragma once
#include <string>

#include "base/log.h"
#include "base/types.h"

namespace weft {

struct ServerLogOptions {
  std::string level = "info";
  bool json = false;
  std::string file;  // empty: stderr. A full disk loses lines, nothing else.
};

// Replaces the process-wide logger. Errors: kInvalidArgument for the level, kIo for a file that cannot be opened.
Status init_server_log(const ServerLogOptions& options);
// Writes what is queued. Call before the process ends.
void flush_server_log();

struct AccessLine {
  std::string client, method, path, request_id;
  int status = 0;  // 0: the client left before an answer
  size_t bytes = 0;
  double seconds = 0;
  bool complete = true;  // false: the client left, or was cut off
};
void log_access(const AccessLine& line);

}  // namespace weft
