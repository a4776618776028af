#include "cli/serve_flags.h"

#include <sys/sysinfo.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>

#include "engine/ranks.h"

namespace weft {
namespace {
constexpr i64 kMostDefaultKvTokens = 65536;
}

void RankFlags::declare(CLI::App& command) {
  command.add_option("-m,--model", model, "Name of a fetched model, path of a .gguf file or of a model folder");
  command.add_option("--tp", tp, "Tensor-parallel ranks, each a process")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command.add_option("--ep", ep, "Expert-parallel groups of --tp ranks: each holds some of a mixture's experts")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  command.add_option("--threads", threads, "Threads per rank [usable CPUs divided by the ranks]")
      ->check(CLI::Range(1, 1024));
  command
      .add_option("--mode", mode,
                  "How activations lie on ranks: ar = replicated, ag_rs = sharded by token,\nauto = by each step's "
                  "number of tokens")
      ->check(CLI::IsMember({"auto", "ar", "ag_rs"}))
      ->capture_default_str();
  command.add_option("--device", device, "Where to compute")->check(CLI::IsMember({"cpu"}))->capture_default_str();
  command.add_option("--kv-cache-tokens", kv_cache_tokens, "Tokens that the KV cache holds [by the memory]")
      ->check(CLI::Range(i64(32), i64(1) << 40));
  command.add_option("--max-running-requests", max_running, "Answers that are generated at once")
      ->check(CLI::Range(i64(1), i64(65536)))
      ->capture_default_str();
  command.add_option("--max-step-tokens", max_step_tokens, "Tokens of one step, prefill and decode together")
      ->check(CLI::Range(i64(1), i64(1) << 20))
      ->capture_default_str();
  command.add_option("--max-model-len", max_model_len, "Longest prompt and answer together, in tokens [the model's]")
      ->check(CLI::Range(i64(2), i64(1) << 30));
  command
      .add_option("--step-deadline", step_deadline_s, "Longest step, in seconds; ranks that take longer start again")
      ->check(CLI::Range(0.1, 3600.0))
      ->capture_default_str();
}

i64 RankFlags::context(const ModelConfig& config) const {
  const i64 wanted = max_model_len ? std::min(max_model_len, config.context) : config.context;
  const i64 page = WorkerShape().page_tokens;
  return std::min(wanted, kv_cache_tokens / page * page);
}

Status RankFlags::choose(const ModelConfig& config) {
  if (model.empty()) return error(Code::kInvalidArgument, "--model is required");
  WEFT_TRY(check_split(config, tp, ep));
  max_running = std::min(max_running, max_step_tokens);
  if (kv_cache_tokens == 0) {
    struct sysinfo info{};
    ::sysinfo(&info);
    const i64 token_bytes = 2 * config.layers * config.kv_heads * config.head_dim * 2;  // K and V, bf16
    const i64 fits = i64(info.totalram) * info.mem_unit / 4 / token_bytes;
    kv_cache_tokens = std::clamp<i64>(fits, 64, std::max(kMostDefaultKvTokens, config.context));
  }
  return {};
}

WorkerShape RankFlags::shape(const ModelConfig& config) const {
  WorkerShape shape{.max_tokens = max_step_tokens, .max_rows = max_running, .max_logits = max_running};
  shape.pages = kv_cache_tokens / shape.page_tokens;
  shape.max_pages = (context(config) + shape.page_tokens - 1) / shape.page_tokens;
  return shape;
}

std::vector<std::string> RankFlags::arguments() const {
  std::vector<std::string> all = {"serve-rank",
                                  "--model",
                                  model,
                                  "--mode",
                                  mode,
                                  "--device",
                                  device,
                                  "--tp",
                                  std::to_string(tp),
                                  "--ep",
                                  std::to_string(ep),
                                  "--kv-cache-tokens",
                                  std::to_string(kv_cache_tokens),
                                  "--max-running-requests",
                                  std::to_string(max_running),
                                  "--max-step-tokens",
                                  std::to_string(max_step_tokens),
                                  "--step-deadline",
                                  std::to_string(step_deadline_s)};
  if (threads) all.insert(all.end(), {"--threads", std::to_string(threads)});
  if (max_model_len) all.insert(all.end(), {"--max-model-len", std::to_string(max_model_len)});
  return all;
}

void ServeFlags::declare(CLI::App& command) {
  command.add_option("--config", config, "YAML file with the same names as the flags, which go before it");
  ranks.declare(command);
  command.add_option("--host", host, "Address to listen on; 0.0.0.0 = all")->capture_default_str();
  command.add_option("--port", port, "Port; 0 = any free one")->check(CLI::Range(0, 65535))->capture_default_str();
  command.add_option("--served-model-name", served_names, "Names under which clients ask for it [the --model given]");
  command.add_option("--api-key", api_keys, "Keys of which requests must send one; may be given several times");
  command.add_option("--api-key-file", api_key_file, "The same, one a line, unseen by process lists");
  command.add_option("--cors-origin", cors_origins, "Origins whose pages may use the API; * = all [none]");
  command.add_option("--max-queued-requests", max_queued_requests, "Requests that wait; more are answered with 429")
      ->check(CLI::Range(i64(0), i64(1) << 20))
      ->capture_default_str();
  command.add_option("--max-queued-tokens", max_queued_tokens, "Prompt tokens that wait; more are answered with 429")
      ->check(CLI::Range(i64(1), i64(1) << 40))
      ->capture_default_str();
  command.add_option("--request-timeout", request_timeout_s, "Longest time of a request, in seconds; 0 = any")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  command.add_option("--drain-timeout", drain_timeout_s, "After SIGTERM: seconds for open requests to end")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  command.add_option("--max-body-bytes", max_body_bytes, "Largest body of a request")
      ->check(CLI::Range(i64(1024), i64(1) << 30))
      ->capture_default_str();
  command.add_option("--max-header-bytes", max_header_bytes, "Largest head of a request")
      ->check(CLI::Range(i64(1024), i64(1) << 20))
      ->capture_default_str();
  command.add_option("--max-connections", max_connections, "Open connections")
      ->check(CLI::Range(i64(1), i64(1) << 20))
      ->capture_default_str();
  command
      .add_option("--max-unsent-bytes", max_unsent_bytes, "Of a stream that its client does not read; then it is cut")
      ->check(CLI::Range(i64(4096), i64(1) << 30))
      ->capture_default_str();
  command
      .add_option("--max-restart-wait", max_restart_wait_s, "Longest back-off before lost ranks start again, seconds")
      ->check(CLI::Range(0.1, 3600.0))
      ->capture_default_str();
  auto timeout = [&](const char* name, double& value, const char* help) {
    command.add_option(name, value, help)->check(CLI::Range(0.1, 1e6))->capture_default_str();
  };
  timeout("--header-timeout", header_timeout_s, "Seconds for the head of a request to come");
  timeout("--body-timeout", body_timeout_s, "Seconds for the body of a request to come");
  timeout("--idle-timeout", idle_timeout_s, "Seconds that a connection is kept between requests");
  timeout("--write-timeout", write_timeout_s, "Seconds without the client taking a byte");
  command.add_option("--draft-tokens", draft_tokens, "Longest draft of speculative decoding; 0 = off")
      ->check(CLI::Range(i64(0), i64(16)))
      ->capture_default_str();
  command.add_flag("--no-prefix-cache", no_prefix_cache, "Do not reuse what prompts have in common");
  command.add_option("--tool-parser", tool_parser, "How the model writes calls: hermes, qwen3, llama3_json, mistral")
      ->check(CLI::IsMember({"hermes", "qwen3", "llama3_json", "mistral"}))
      ->capture_default_str();
  command.add_option("--reasoning-parser", reasoning_parser, "Split <think> off the answer: auto, think, none")
      ->check(CLI::IsMember({"auto", "think", "none"}))
      ->capture_default_str();
  command.add_option("--log-level", log_level, "trace, debug, info, warn, error or off")->capture_default_str();
  command.add_option("--log-format", log_format, "text, or json: one object a line")
      ->check(CLI::IsMember({"text", "json"}))
      ->capture_default_str();
  command.add_option("--log-file", log_file, "Where the log goes [stderr]");
  command.add_flag("--no-access-log", no_access_log, "Do not log every request");
  command.add_flag("--mock", mock, "Compute nothing: tokens come from a hash. For load tests of the server");
  command.add_option("--mock-step-us", mock_step_us, "Length of a mock step, in microseconds")
      ->check(CLI::Range(i64(0), i64(60000000)))
      ->capture_default_str();
}

Status ServeFlags::read_config(CLI::App& command) const {
  if (config.empty()) return {};
  try {
    const YAML::Node file = YAML::LoadFile(config);
    if (!file.IsMap()) return error(Code::kInvalidArgument, "--config {}: expected 'flag: value' lines", config);
    for (const auto& entry : file) {
      const auto key = entry.first.as<std::string>();
      const auto where = [&] {
        return fmt::format("--config {}: line {}: {}", config, entry.first.Mark().line + 1, key);
      };
      CLI::Option* option = key == "config" || key == "help" ? nullptr : command.get_option_no_throw("--" + key);
      if (!option) return error(Code::kInvalidArgument, "{}: no such flag", where());
      if (option->count() > 0) continue;  // the command line goes first
      std::vector<std::string> values;
      if (entry.second.IsSequence()) {
        for (const auto& each : entry.second) values.push_back(each.as<std::string>());
      } else if (!entry.second.IsNull()) {
        values.push_back(entry.second.as<std::string>());
      }
      const bool is_flag = option->get_expected_min() == 0;
      if (values.empty() || (is_flag && values[0] == "false")) continue;
      try {
        option->add_result(values);
        option->run_callback();
      } catch (const CLI::Error& fault) {
        return error(Code::kInvalidArgument, "{}: {}", where(), fault.what());
      }
    }
  } catch (const YAML::Exception& fault) {
    return error(Code::kInvalidArgument, "--config {}: {}", config, fault.what());
  }
  return {};
}

}  // namespace weft
