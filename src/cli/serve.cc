// `weft serve`: the OpenAI API over one model, and the hidden command of its ranks.
#include <fmt/format.h>
#include <signal.h>
#include <sys/resource.h>

#include <filesystem>
#include <memory>
#include <sstream>

#include "cli/serve_flags.h"
#include "engine/ranks.h"
#include "engine/socket_executor.h"
#include "serve/access_log.h"
#include "serve/api.h"
#include "weights/registry.h"

namespace weft {
namespace {

constexpr std::chrono::seconds kIdleProbe{5};  // "ready" is never older than this and the step deadline together

std::chrono::milliseconds milliseconds(double seconds) {
  return std::chrono::milliseconds(i64(seconds * 1000));
}

// Thousands of connections need as many descriptors.
void raise_descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

sigset_t ending_signals() {
  sigset_t set;
  ::sigemptyset(&set);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) ::sigaddset(&set, signal);
  return set;
}

Result<std::vector<std::string>> all_keys(const ServeFlags& flags) {
  std::vector<std::string> keys = flags.api_keys;
  if (!flags.api_key_file.empty()) {
    WEFT_ASSIGN(const std::string text, read_file(flags.api_key_file));
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
      while (!line.empty() && std::isspace(static_cast<unsigned char>(line.back()))) line.pop_back();
      if (!line.empty()) keys.push_back(line);
    }
    if (keys.empty()) return error(Code::kInvalidArgument, "--api-key-file {}: it has no key", flags.api_key_file);
  }
  for (const std::string& key : keys) {
    if (key.empty()) return error(Code::kInvalidArgument, "--api-key: a key is empty");
  }
  return keys;
}

Result<std::shared_ptr<const ServedModel>> served_model(const ServeFlags& flags, const Pretrained& model,
                                                        bool needs_key) {
  std::vector<std::string> names = flags.served_names;
  if (names.empty()) names.push_back(flags.ranks.model);
  ServedLimits limits{.version = WEFT_VERSION,
                      .models = names,
                      .context = flags.ranks.context(model.config),
                      .vocab = model.config.vocab,
                      .needs_key = needs_key};
  WEFT_ASSIGN(Tokenizer tokenizer, model.load_tokenizer());
  WEFT_ASSIGN(const ToolFormat tool_format, parse_tool_format(flags.tool_parser));
  auto served = std::make_shared<ServedModel>(ServedModel{.limits = limits,
                                                          .schema = ApiSchema(limits),
                                                          .tokenizer = tokenizer,
                                                          .chat_template = {},
                                                          .tool_format = tool_format});
  auto chat_template = model.load_chat_template(tokenizer);
  if (chat_template.ok()) {
    served->template_has_tools = template_writes_tools(*chat_template);
    served->chat_template = std::move(*chat_template);
  } else if (chat_template.status().code() != Code::kNotFound) {
    return chat_template.status();
  }
  served->reasoning =
      flags.reasoning_parser == "think" || (flags.reasoning_parser == "auto" && tokenizer.id("<think>").has_value());
  return std::shared_ptr<const ServedModel>(std::move(served));
}

EngineHostOptions host_options(const ServeFlags& flags, const ModelConfig& config) {
  EngineHostOptions options;
  options.engine.max_running = flags.ranks.max_running;
  options.engine.max_queued = flags.max_queued_requests;
  options.engine.max_queued_tokens = flags.max_queued_tokens;
  options.engine.max_step_tokens = flags.ranks.max_step_tokens;
  options.engine.max_context = flags.ranks.context(config);
  options.engine.prefix_cache = !flags.no_prefix_cache;
  options.engine.draft_tokens = flags.draft_tokens;
  options.engine.step_deadline = milliseconds(flags.ranks.step_deadline_s);
  options.engine.idle_probe = std::min<std::chrono::milliseconds>(kIdleProbe, options.engine.step_deadline / 2);
  options.ranks = {.ranks = flags.ranks.ranks(), .arguments = flags.ranks.arguments()};
  options.longest_backoff = milliseconds(flags.max_restart_wait_s);
  options.first_backoff = std::min(options.first_backoff, options.longest_backoff);
  if (flags.mock) {
    MockOptions mock;
    mock.info = executor_info(config, flags.ranks.shape(config), 1);
    mock.step_time = std::chrono::microseconds(flags.mock_step_us);
    options.mock = mock;
  }
  return options;
}

HttpOptions http_options(const ServeFlags& flags) {
  return {.host = flags.host,
          .port = flags.port,
          .max_header_bytes = size_t(flags.max_header_bytes),
          .max_body_bytes = size_t(flags.max_body_bytes),
          .max_unsent_bytes = size_t(flags.max_unsent_bytes),
          .max_connections = size_t(flags.max_connections),
          .header_timeout = milliseconds(flags.header_timeout_s),
          .body_timeout = milliseconds(flags.body_timeout_s),
          .idle_timeout = milliseconds(flags.idle_timeout_s),
          .write_timeout = milliseconds(flags.write_timeout_s)};
}

std::string ready_line(const ServeFlags& flags, const HttpServer& server, const EngineHost& host) {
  std::string pids;
  for (const int pid : host.pids()) pids += (pids.empty() ? "" : ", ") + std::to_string(pid);
  const bool v6 = flags.host.find(':') != std::string::npos;
  return fmt::format("weft: ready: http://{}:{} | model {} | {} rank{} (pids {}) | {} KV tokens",
                     v6 ? "[" + flags.host + "]" : flags.host, server.port(), flags.ranks.model, flags.ranks.ranks(),
                     flags.ranks.ranks() == 1 ? "" : "s", pids.empty() ? "none" : pids, flags.ranks.kv_cache_tokens);
}

// Ends the server well: no new requests, time for the open ones, an error for those left, then the connections.
class Shutdown {
 public:
  Shutdown(HttpServer& server, EngineHost& host, Generations& generations, std::chrono::milliseconds drain)
      : server_(server), host_(host), generations_(generations), drain_(drain) {}

  // I/O thread. The second call does not wait for open requests.
  void begin() {
    if (++asked_ == 1) {
      spdlog::info("shutting down: {} open requests", generations_.num_open());
      host_.set_draining();
      until_ = Deadline::after(drain_);
      wait_for_requests();
    } else {
      until_ = Deadline::after(std::chrono::seconds(0));
    }
  }

 private:
  static constexpr auto kTurn = std::chrono::milliseconds(20);
  static constexpr auto kFlush = std::chrono::seconds(2);

  void wait_for_requests() {
    if (generations_.num_open() > 0 && !until_.expired()) return server_.after(kTurn, [this] { wait_for_requests(); });
    generations_.fail_all({.status = 503,
                           .message = "The server shut down before the answer was complete.",
                           .code = "shutting_down",
                           .type = "server_error"});
    server_.drain();
    until_ = Deadline::after(kFlush);
    wait_for_connections();
  }
  void wait_for_connections() {
    if (server_.num_connections() > 0 && !until_.expired()) {
      return server_.after(kTurn, [this] { wait_for_connections(); });
    }
    server_.stop();
  }

  HttpServer& server_;
  EngineHost& host_;
  Generations& generations_;
  const std::chrono::milliseconds drain_;
  int asked_ = 0;
  Deadline until_ = Deadline::after(std::chrono::seconds(0));
};

// Waits for signals on a thread of its own, which must not be the one that has the ranks.
class SignalThread {
 public:
  explicit SignalThread(std::function<void()> on_signal) : on_signal_(std::move(on_signal)) {
    thread_ = std::thread([this] {
      const sigset_t set = ending_signals();
      while (!leaving_) {
        const timespec turn{0, 100 * 1000 * 1000};
        if (::sigtimedwait(&set, nullptr, &turn) > 0) on_signal_();
      }
    });
  }
  ~SignalThread() {
    leaving_ = true;
    thread_.join();
  }

 private:
  std::function<void()> on_signal_;
  std::atomic<bool> leaving_{false};
  std::thread thread_;
};

Status serve(ServeFlags& flags) {
  if (flags.ranks.model.empty()) return error(Code::kInvalidArgument, "--model is required");
  const sigset_t signals = ending_signals();
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);  // of all threads that follow, the log's too
  ::signal(SIGPIPE, SIG_IGN);
  WEFT_TRY(init_server_log({.level = flags.log_level, .json = flags.log_format == "json", .file = flags.log_file}));
  WEFT_ASSIGN(const std::vector<std::string> keys, all_keys(flags));
  WEFT_ASSIGN(const std::filesystem::path path, resolve_model(flags.ranks.model));
  WEFT_ASSIGN(const Pretrained model, Pretrained::open(path));
  WEFT_TRY(flags.ranks.choose(model.config));
  WEFT_ASSIGN(const auto served, served_model(flags, model, !keys.empty()));
  raise_descriptor_limit();
  Metrics* counted = nullptr;
  EngineHostOptions hosting = host_options(flags, model.config);
  WEFT_ASSIGN(hosting.engine.grammars,
              GrammarCompiler::create(served->tokenizer, model.config.vocab, model.config.eos_ids));
  hosting.on_restart = [&counted] { counted->count_restart(); };
  EngineHost host(std::move(hosting));
  Metrics metrics(served->limits.models.front(), [&host] { return host.stats(); });
  counted = &metrics;
  Router router({.api_keys = keys, .cors_origins = flags.cors_origins, .access_log = !flags.no_access_log});
  router.set_metrics(&metrics);
  WEFT_ASSIGN(const std::unique_ptr<HttpServer> server, HttpServer::create(http_options(flags), router));
  Api api(*server, host, served, metrics,
          {.max_open_requests = size_t(flags.ranks.max_running + flags.max_queued_requests),
           .work_threads = 1,
           .generation = {.request_deadline = milliseconds(flags.request_timeout_s),
                          .max_unsent_bytes = size_t(flags.max_unsent_bytes)}});
  api.add_routes(router);
  Shutdown shutdown(*server, host, api.generations(), milliseconds(flags.drain_timeout_s));
  SignalThread on_signal([&] { server->post([&] { shutdown.begin(); }); });
  Status failure;
  // While the ranks load, the port answers: /live with 200, /health with 503.
  std::thread starter([&] {
    failure = host.start();
    if (failure.code() == Code::kAborted) return void(failure = {});  // a signal while the ranks were loading
    if (!failure.ok()) return server->post([&] { server->stop(); });
    fmt::print("{}\n", ready_line(flags, *server, host));
    std::fflush(stdout);
  });
  server->run();
  host.stop();
  starter.join();
  flush_server_log();
  return failure;
}

// For tests of faults: as soon as the file that the environment's WEFT_TEST_HANG names says "1", rank 1 never returns
// from its step.
std::function<void(int)> hang_if_told() {
  const char* path = std::getenv("WEFT_TEST_HANG");
  if (!path) return {};
  return [path](int rank) {
    const auto told = read_file(path);
    while (told.ok() && *told == std::to_string(rank)) std::this_thread::sleep_for(std::chrono::hours(1));
  };
}

struct RankCommandFlags {
  RankFlags ranks;
  int executor_fd = -1;
};

Status run_rank(RankCommandFlags& flags) {
  RankOptions options;
  WEFT_ASSIGN(options.world, world_spec_from_environment());
  set_process_title(fmt::format("weft rank {}/{}", options.world.rank, flags.ranks.ranks()));
  options.tp = flags.ranks.tp;
  options.ep = flags.ranks.ep;
  options.threads = flags.ranks.threads;
  WEFT_ASSIGN(options.mode, parse_layer_mode(flags.ranks.mode));
  // A little less than the server's: who hangs is then named by those who wait.
  options.deadline = milliseconds(0.9 * flags.ranks.step_deadline_s);
  options.in_step = hang_if_told();
  WEFT_ASSIGN(const std::filesystem::path path, resolve_model(flags.ranks.model));
  WEFT_ASSIGN(const Pretrained model, Pretrained::open(path));
  options.shape = flags.ranks.shape(model.config);
  Fd socket(flags.executor_fd);
  return run_ranks(model, options, [&](Leader& leader) -> Status {
    StepRunner runner(leader.worker);
    WEFT_TRY(runner.warm_up());
    return serve_steps(std::move(socket), runner, options.deadline);
  });
}

}  // namespace

void add_serve(CLI::App& app) {
  auto flags = std::make_shared<ServeFlags>();
  CLI::App* command = app.add_subcommand("serve", "Serve the OpenAI API");
  flags->declare(*command);
  command->callback([flags, command] {
    finish(flags->read_config(*command));
    finish(serve(*flags));
  });
}

void add_serve_rank(CLI::App& app) {
  auto flags = std::make_shared<RankCommandFlags>();
  CLI::App* command = app.add_subcommand("serve-rank", "A rank of weft serve")->group("");
  flags->ranks.declare(*command);
  command->add_option("--executor-fd", flags->executor_fd, "Rank 0's socket to the server");
  command->callback([flags] { finish(run_rank(*flags)); });
}

}  // namespace weft
