// `weft bench engine`: what the scheduler costs, over the mock executor.
#include <fmt/format.h>

#include <condition_variable>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "engine/engine.h"
#include "engine/mock_executor.h"

namespace weft {
namespace {

struct Flags {
  i64 streams = 256, tokens = 100, prompt = 64, step_us = 0;
  int depth = 2;
  bool json = false;
};

Status run(const Flags& f) {
  MockOptions mock;
  mock.info = {.vocab = 50000,
               .context = 8192,
               .eos_ids = {},
               .pages = f.streams * ((f.prompt + f.tokens) / 16 + 2),
               .page_tokens = 16,
               .max_step_tokens = std::max<i64>(512, f.streams + 512),
               .max_rows = f.streams,
               .max_logits = f.streams,
               .ranks = 1,
               .depth = f.depth};
  mock.step_time = std::chrono::microseconds(f.step_us);
  EngineOptions options{.max_running = f.streams, .max_queued = f.streams, .max_step_tokens = f.streams + 512};
  WEFT_ASSIGN(const std::unique_ptr<Engine> engine, Engine::create(std::make_unique<MockExecutor>(mock), options));
  std::mutex mutex;
  std::condition_variable changed;
  i64 ended = 0;
  const auto sink = std::make_shared<const EventSink>([&](const std::vector<TokenEvent>& events) {
    const std::lock_guard lock(mutex);
    for (const TokenEvent& event : events) ended += event.last_of_request;
    changed.notify_one();
  });
  const auto start = Clock::now();
  for (i64 i = 0; i < f.streams; ++i) {
    EngineRequest r;
    r.id = u64(i);
    for (i64 t = 0; t < f.prompt; ++t) r.prompt.push_back(i32((t * 31 + i * 17) % 50000));
    r.max_tokens = f.tokens;
    WEFT_TRY(engine->submit(std::move(r), sink));
  }
  std::unique_lock lock(mutex);
  if (!changed.wait_for(lock, std::chrono::minutes(10), [&] { return ended == f.streams; })) {
    return error(Code::kDeadlineExceeded, "{} of {} streams ended within 10 minutes", ended, f.streams);
  }
  const double seconds = seconds_since(start);
  const EngineStats stats = engine->stats();
  const double per_token = 1e6 * stats.schedule_s / double(stats.generation_tokens);
  const double per_step = 1e6 * stats.schedule_s / double(stats.steps);
  if (f.json) {
    const nlohmann::ordered_json out = {{"streams", f.streams},           {"tokens", stats.generation_tokens},
                                        {"steps", stats.steps},           {"seconds", seconds},
                                        {"engine_us_per_step", per_step}, {"engine_us_per_token", per_token},
                                        {"step_us", f.step_us},           {"depth", f.depth}};
    fmt::print("{}\n", out.dump());
    return {};
  }
  fmt::print(
      "{} streams, {} tokens in {} steps, {:.3f} s: {:.0f} tokens/s; the engine's thread took {:.1f} us per step, "
      "{:.2f} us per token (the mock's work within, unless --step-us makes a thread for it)\n",
      f.streams, stats.generation_tokens, stats.steps, seconds, double(stats.generation_tokens) / seconds, per_step,
      per_token);
  return {};
}

}  // namespace

void add_bench_engine(CLI::App& bench) {
  auto flags = std::make_shared<Flags>();
  CLI::App* app = bench.add_subcommand("engine", "The scheduler's cost, over a mock of the ranks");
  app->add_option("--streams", flags->streams, "Requests at once")->check(CLI::Range(1, 100000))->capture_default_str();
  app->add_option("--tokens", flags->tokens, "Tokens of each answer")
      ->check(CLI::Range(1, 4000))
      ->capture_default_str();
  app->add_option("--prompt", flags->prompt, "Tokens of each prompt")
      ->check(CLI::Range(1, 4000))
      ->capture_default_str();
  app->add_option("--step-us", flags->step_us, "Time of a step of the mock, in microseconds")
      ->check(CLI::Range(0, 1000000))
      ->capture_default_str();
  app->add_option("--depth", flags->depth, "Steps in flight: 2 plans one while another runs")
      ->check(CLI::Range(1, 2))
      ->capture_default_str();
  app->add_flag("--json", flags->json, "Print one JSON object");
  app->callback([flags] { finish(run(*flags)); });
}

}  // namespace weft
