#include "serve/access_log.h"

#include <spdlog/async.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_color_sinks.h>

#include <atomic>
#include <ctime>

#include "serve/json_text.h"

namespace weft {
namespace {

std::atomic<bool> json_lines{false};
constexpr size_t kQueuedLines = 2048;  // of 400 bytes, all there from the start

// One JSON object a line. A message that is an object already (the access log's) gives its fields.
class JsonFormatter final : public spdlog::formatter {
 public:
  void format(const spdlog::details::log_msg& message, spdlog::memory_buf_t& out) override {
    const auto since = message.time.time_since_epoch();
    const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(since).count();
    const std::time_t seconds = ms / 1000;
    std::tm utc;
    ::gmtime_r(&seconds, &utc);
    char date[32];
    std::strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%S", &utc);
    const auto level = spdlog::level::to_string_view(message.level);
    Json line = {{"time", fmt::format("{}.{:03}Z", date, ms % 1000)},
                 {"level", std::string(level.data(), level.size())}};
    const std::string_view text(message.payload.data(), message.payload.size());
    const Json fields = text.starts_with('{') ? Json::parse(text, nullptr, false) : Json();
    if (fields.is_object())
      line.update(fields);
    else
      line["message"] = text;
    const std::string dumped = dump_json(line) + "\n";
    out.append(dumped.data(), dumped.data() + dumped.size());
  }
  std::unique_ptr<spdlog::formatter> clone() const override { return std::make_unique<JsonFormatter>(); }
};

}  // namespace

Status init_server_log(const ServerLogOptions& options) {
  WEFT_TRY(init_logging(options.level));  // checks the level
  const auto level = spdlog::default_logger()->level();
  try {
    spdlog::sink_ptr sink;
    if (options.file.empty()) {
      sink = std::make_shared<spdlog::sinks::stderr_color_sink_mt>();
    } else {
      sink = std::make_shared<spdlog::sinks::basic_file_sink_mt>(options.file);
    }
    if (!spdlog::thread_pool()) spdlog::init_thread_pool(kQueuedLines, 1);
    auto logger = std::make_shared<spdlog::async_logger>("serve", sink, spdlog::thread_pool(),
                                                         spdlog::async_overflow_policy::overrun_oldest);
    if (options.json) {
      logger->set_formatter(std::make_unique<JsonFormatter>());
    } else {
      logger->set_pattern("%H:%M:%S.%e %^%l%$ %v");
    }
    logger->set_level(level);
    logger->flush_on(spdlog::level::info);
    logger->set_error_handler([](const std::string&) {});  // a full disk: there is nowhere to say so
    json_lines = options.json;
    spdlog::set_default_logger(std::move(logger));
  } catch (const spdlog::spdlog_ex& fault) {
    return error(Code::kIo, "--log-file {}: {}", options.file, fault.what());
  }
  return {};
}

void flush_server_log() {
  spdlog::shutdown();
}

void log_access(const AccessLine& line) {
  if (!json_lines) {
    spdlog::info("{} \"{} {}\" {}{} {} bytes {:.1f} ms {}", line.client, line.method, line.path, line.status,
                 line.complete ? "" : " (cut short)", line.bytes, 1000 * line.seconds, line.request_id);
    return;
  }
  spdlog::info("{}", dump_json({{"message", "request"},
                                {"request_id", line.request_id},
                                {"client", line.client},
                                {"method", line.method},
                                {"path", line.path},
                                {"status", line.status},
                                {"complete", line.complete},
                                {"bytes", line.bytes},
                                {"duration_ms", 1000 * line.seconds}}));
}

}  // namespace weft
