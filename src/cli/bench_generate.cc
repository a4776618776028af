// `weft bench generate`: answers of a batch of equal sequences, without a server.
#include <memory>

#include "cli/bench_report.h"
#include "cli/model_flags.h"
#include "engine/model_bench.h"

namespace weft {
namespace {

struct Flags {
  ModelFlags model;
  i64 batch = 1, prompt_tokens = 128, gen_len = 64, max_tokens = 512;
  int samples = 3;
  ReportFlags report;

  ModelBenchShape shape() const {
    return {.batch = batch, .tokens = prompt_tokens, .context = prompt_tokens, .decode_tokens = gen_len - 1};
  }
};

struct Figures {
  std::vector<double> first_s, step_s, tokens_per_s, read;
};

void add_run(const Flags& flags, const GeneratedBatch& run, Figures& figures) {
  double seconds = run.first_token_s;
  for (const double step : run.step_s) seconds += step;
  figures.first_s.push_back(run.first_token_s);
  figures.step_s.insert(figures.step_s.end(), run.step_s.begin(), run.step_s.end());
  figures.tokens_per_s.push_back(double(flags.batch * flags.gen_len) / seconds);
}

Json to_json(const Flags& flags, const Leader& leader, const ModelWork& work, const Figures& figures) {
  const Spread step = spread_of(figures.step_s), reading = spread_of(figures.read);
  const double bytes = work.bytes_per_step(flags.batch, flags.prompt_tokens + flags.gen_len / 2);
  Json out = {{"bench", "generate"},
              {"model", flags.model.model},
              {"cpu", cpu_isa_name(cpu_isa())},
              {"tp", leader.tp},
              {"ep", leader.ep},
              {"threads", leader.threads},
              {"mode", flags.model.mode},
              {"batch", flags.batch},
              {"prompt_tokens", flags.prompt_tokens},
              {"gen_len", flags.gen_len},
              {"samples", flags.samples},
              {"load_s", leader.load_s},
              {"memory_bytes", leader.memory_bytes()},
              {"tokens_per_s", spread_json(spread_of(figures.tokens_per_s), 1)},
              {"first_token_ms", spread_json(spread_of(figures.first_s), 1e3)},
              {"ceiling_gb_per_s", spread_json(reading, 1e-9)}};
  if (!figures.step_s.empty()) {
    out["step_ms"] = spread_json(step, 1e3);
    out["decode_tokens_per_s"] = double(flags.batch) / step.median;
    out["percent_of_reading"] = 100 * bytes / step.median / reading.median;
  }
  return out;
}

void print(const Json& all) {
  const auto spread = [&](const char* key) {
    const Json& value = all[key];
    return fmt::format("{:.2f} ({:.2f} - {:.2f})", value["median"].get<double>(), value["min"].get<double>(),
                       value["max"].get<double>());
  };
  fmt::print("{}: {} x {} threads, {}, batch {}, {} + {} tokens; answers checked; median (min - max), {} runs\n",
             all["model"].get<std::string>(), all["tp"].get<int>() * all["ep"].get<int>(), all["threads"].get<int>(),
             all["cpu"].get<std::string>(), all["batch"].get<i64>(), all["prompt_tokens"].get<i64>(),
             all["gen_len"].get<i64>(), all["samples"].get<int>());
  fmt::print("  all         {} tokens/s\n  first token {} ms\n", spread("tokens_per_s"), spread("first_token_ms"));
  if (!all.contains("step_ms")) return;
  fmt::print("  step        {} ms, {:.1f} tokens/s, {:.0f} % of reading alone\n", spread("step_ms"),
             all["decode_tokens_per_s"].get<double>(), all["percent_of_reading"].get<double>());
}

Status run_bench(const Flags& flags) {
  WEFT_ASSIGN(RankOptions options, flags.model.rank_options());
  WEFT_ASSIGN(const Pretrained model, flags.model.open());
  options.shape = worker_shape(flags.shape(), flags.max_tokens);
  return run_ranks(model, options, [&](Leader& leader) -> Status {
    WEFT_ASSIGN(const ModelWork work, work_of(model));
    WEFT_ASSIGN(ModelBench bench, ModelBench::create(leader.worker, flags.shape()));
    WEFT_ASSIGN(Ceilings ceilings, Ceilings::create(work.format, leader.ranks * leader.threads));
    Figures figures;
    for (int i = 0; i < flags.samples; ++i) {
      WEFT_ASSIGN(const double bytes, ceilings.bytes_per_s());
      figures.read.push_back(bytes);
      WEFT_ASSIGN(const GeneratedBatch run, bench.generate());
      if (i == 0) WEFT_TRY(bench.check_answers(run));
      add_run(flags, run, figures);
    }
    const Json all = to_json(flags, leader, work, figures);
    const auto bar = [](const char* label, const std::vector<double>& seconds) {
      const Spread s = spread_of(seconds);
      return Plot::Bar{label, {s.median * 1e3, s.low * 1e3, s.high * 1e3}};
    };
    return report(flags.report, all,
                  {.title = fmt::format("{}, batch {}", flags.model.model, flags.batch),
                   .unit = "ms",
                   .bars = {bar("first token", figures.first_s), bar("step", figures.step_s)}},
                  [&] { print(all); });
  });
}

}  // namespace

void add_bench_generate(CLI::App& bench) {
  CLI::App* app = bench.add_subcommand("generate", "Greedy answers of a batch in lockstep, without a server");
  auto flags = std::make_shared<Flags>();
  flags->model.declare(*app);
  const CLI::Range size(i64(1), i64(1) << 20);
  app->add_option("--batch", flags->batch, "Sequences")->capture_default_str()->check(size);
  app->add_option("--prompt-tokens", flags->prompt_tokens, "Tokens of each prompt")->capture_default_str()->check(size);
  app->add_option("--gen-len", flags->gen_len, "Tokens of each answer")->capture_default_str()->check(size);
  app->add_option("--max-tokens", flags->max_tokens, "Most tokens in a step")->capture_default_str()->check(size);
  app->add_option("--samples", flags->samples, "Runs")->capture_default_str()->check(CLI::Range(1, 10000));
  flags->report.declare(*app);
  app->callback([flags] { finish(run_bench(*flags)); });
}

}  // namespace weft
