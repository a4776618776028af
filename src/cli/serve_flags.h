// The flags of `weft serve`, and of the ranks that it starts.
#pragma once
#include <string>
#include <vector>

#include "cli/commands.h"
#include "engine/worker.h"
#include "models/pretrained.h"

namespace weft {

// What the server and its ranks must agree on.
struct RankFlags {
  std::string model;
  std::string mode = "auto";
  std::string device = "cpu";
  int tp = 1, ep = 1;
  int threads = 0;
  i64 kv_cache_tokens = 0;  // 0: by the memory of the machine
  i64 max_running = 256;
  i64 max_step_tokens = 512;
  i64 max_model_len = 0;  // 0: the model's
  double step_deadline_s = 10;

  void declare(CLI::App& command);
  int ranks() const { return tp * ep; }
  // Fills in what was left to be chosen. Errors: kInvalidArgument naming the flag.
  Status choose(const ModelConfig& config);
  // Longest sequence.
  i64 context(const ModelConfig& config) const;
  WorkerShape shape(const ModelConfig& config) const;
  // The same flags as arguments of a rank's command line.
  std::vector<std::string> arguments() const;
};

struct ServeFlags {
  RankFlags ranks;
  std::string config;
  std::string host = "127.0.0.1";
  int port = 8000;
  std::vector<std::string> served_names, api_keys, cors_origins;
  std::string api_key_file;
  i64 max_queued_requests = 512, max_queued_tokens = i64(1) << 20;
  i64 max_body_bytes = 8 << 20, max_header_bytes = 32 << 10, max_connections = 10000, max_unsent_bytes = 256 << 10;
  double header_timeout_s = 10, body_timeout_s = 60, idle_timeout_s = 75, write_timeout_s = 30;
  double request_timeout_s = 0, drain_timeout_s = 30, max_restart_wait_s = 30;
  i64 draft_tokens = 0;
  bool no_prefix_cache = false;
  std::string tool_parser = "hermes", reasoning_parser = "auto";
  std::string log_level = "info", log_format = "text", log_file;
  bool no_access_log = false;
  bool mock = false;
  i64 mock_step_us = 0;

  void declare(CLI::App& command);
  // Takes from the YAML file of --config what the command line does not give. Errors name file, line and key.
  Status read_config(CLI::App& command) const;
};

}  // namespace weft
