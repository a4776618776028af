// `weft bench model`: prefill and decode of a model, against this machine's ceilings.
#include <memory>

#include "cli/bench_report.h"
#include "cli/model_flags.h"
#include "engine/model_bench.h"

namespace weft {
namespace {

struct Flags {
  ModelFlags model;
  ModelBenchShape shape;
  std::vector<std::string> phases = {"prefill", "decode"};
  i64 max_tokens = 512;
  int samples = 21;
  bool paced = false;
  ReportFlags report;
};

// What a phase's samples add up to.
struct Phase {
  std::string name;
  std::vector<double> seconds;
};

struct Bench {
  const Flags& flags;
  Leader& leader;
  ModelBench model;
  Ceilings ceilings;
  ModelWork work;

  Result<double> sample(const std::string& what) {
    if (what == "prefill") return model.prefill();
    if (what == "decode") return model.decode();
    if (what == "read") return ceilings.bytes_per_s();
    if (what == "compute") return ceilings.ops_per_s();
    return error(Code::kInvalidArgument, "'{}': expected prefill, decode, read or compute", what);
  }
};

// One sample for every line of standard input, for a script that takes turns with a rival.
Status follow(Bench& bench) {
  const auto say = [](const Json& line) {
    fmt::print("{}\n", line.dump());
    std::fflush(stdout);
  };
  say({{"ready", true},
       {"load_s", bench.leader.load_s},
       {"bytes_per_step", bench.work.bytes_per_step(bench.flags.shape.batch, bench.flags.shape.context)},
       {"ops_per_token", bench.work.ops_per_token}});
  LineReader input;
  std::string line;
  for (;;) {
    WEFT_ASSIGN(const bool more, input.next(bench.leader.worker, &line));
    if (!more) return {};
    WEFT_ASSIGN(const double value, bench.sample(line));
    say({{line, value}});
  }
}

Json phase_json(const Bench& bench, const Phase& phase, const Spread& reading, const Spread& computing) {
  const ModelBenchShape& shape = bench.flags.shape;
  const bool prefill = phase.name == "prefill";
  const double tokens = double(shape.batch * (prefill ? shape.tokens : 1));
  const Spread seconds = spread_of(phase.seconds);
  Json out = {{"phase", phase.name},
              {"tokens", tokens},
              {"ms", spread_json(seconds, 1e3)},
              {"tokens_per_s", tokens / seconds.median},
              {"best_tokens_per_s", tokens / seconds.low}};
  if (prefill) {
    out["gops"] = tokens * bench.work.ops_per_token / seconds.median * 1e-9;
    out["percent_of_compute"] = 100 * tokens * bench.work.ops_per_token / seconds.median / computing.median;
    out["percent_of_compute_best"] = 100 * tokens * bench.work.ops_per_token / seconds.low / computing.high;
  } else {
    const double bytes = bench.work.bytes_per_step(shape.batch, shape.context);
    out["context"] = shape.context;
    out["gb_per_s"] = bytes / seconds.median * 1e-9;
    out["percent_of_reading"] = 100 * bytes / seconds.median / reading.median;
    out["percent_of_reading_best"] = 100 * bytes / seconds.low / reading.high;
  }
  return out;
}

Status measure(Bench& bench) {
  std::vector<Phase> phases;
  for (const std::string& name : bench.flags.phases) phases.push_back({name, {}});
  std::vector<double> read, compute;
  for (int i = 0; i < bench.flags.samples; ++i) {
    WEFT_ASSIGN(const double bytes, bench.sample("read"));
    WEFT_ASSIGN(const double ops, bench.sample("compute"));
    read.push_back(bytes);
    compute.push_back(ops);
    for (Phase& phase : phases) {
      WEFT_ASSIGN(const double seconds, bench.sample(phase.name));
      phase.seconds.push_back(seconds);
    }
  }
  const Spread reading = spread_of(read), computing = spread_of(compute);
  Json all = {{"bench", "model"},
              {"model", bench.flags.model.model},
              {"cpu", cpu_isa_name(cpu_isa())},
              {"tp", bench.leader.tp},
              {"ep", bench.leader.ep},
              {"threads", bench.leader.threads},
              {"mode", bench.flags.model.mode},
              {"batch", bench.flags.shape.batch},
              {"samples", bench.flags.samples},
              {"load_s", bench.leader.load_s},
              {"memory_bytes", bench.leader.memory_bytes()},
              {"ceiling_gb_per_s", spread_json(reading, 1e-9)},
              {"ceiling_gops", spread_json(computing, 1e-9)},
              {"phases", Json::array()}};
  Plot plot{.title = fmt::format("{}: {} x {} tokens at once", bench.flags.model.model, bench.flags.shape.batch, 1),
            .unit = "ms",
            .bars = {}};
  for (const Phase& phase : phases) {
    all["phases"].push_back(phase_json(bench, phase, reading, computing));
    const Spread ms = spread_of(phase.seconds);
    plot.bars.push_back({phase.name, {ms.median * 1e3, ms.low * 1e3, ms.high * 1e3}});
  }
  return report(bench.flags.report, all, plot, [&] {
    fmt::print("{}: {} rank{} x {} thread{}, {}, batch {}; output checked; median (min - max) of {} samples\n",
               bench.flags.model.model, bench.leader.ranks, bench.leader.ranks == 1 ? "" : "s", bench.leader.threads,
               bench.leader.threads == 1 ? "" : "s", cpu_isa_name(cpu_isa()), bench.flags.shape.batch,
               bench.flags.samples);
    for (const Json& phase : all["phases"]) {
      const bool prefill = phase["phase"] == "prefill";
      fmt::print(
          "  {:<8}{:>9.1f} tokens/s (best {:.1f}), {:.2f} ms ({:.2f} - {:.2f}), {:.1f} {}, {:.0f} % (best samples "
          "{:.0f} %) of {}\n",
          phase["phase"].get<std::string>(), phase["tokens_per_s"].get<double>(),
          phase["best_tokens_per_s"].get<double>(), phase["ms"]["median"].get<double>(),
          phase["ms"]["min"].get<double>(), phase["ms"]["max"].get<double>(),
          phase[prefill ? "gops" : "gb_per_s"].get<double>(), prefill ? "GOP/s" : "GB/s",
          phase[prefill ? "percent_of_compute" : "percent_of_reading"].get<double>(),
          phase[prefill ? "percent_of_compute_best" : "percent_of_reading_best"].get<double>(),
          prefill ? "registers alone" : "reading alone");
    }
    fmt::print("  ceilings: reading {:.1f} GB/s ({:.1f} - {:.1f}), registers alone {:.0f} GOP/s ({:.0f} - {:.0f})\n",
               reading.median * 1e-9, reading.low * 1e-9, reading.high * 1e-9, computing.median * 1e-9,
               computing.low * 1e-9, computing.high * 1e-9);
  });
}

Status run_bench(const Flags& flags) {
  WEFT_ASSIGN(RankOptions options, flags.model.rank_options());
  WEFT_ASSIGN(const Pretrained model, flags.model.open());
  options.shape = worker_shape(flags.shape, flags.max_tokens);
  return run_ranks(model, options, [&](Leader& leader) -> Status {
    WEFT_ASSIGN(ModelWork work, work_of(model));
    WEFT_ASSIGN(ModelBench timed, ModelBench::create(leader.worker, flags.shape));
    WEFT_ASSIGN(Ceilings ceilings, Ceilings::create(work.format, leader.ranks * leader.threads));
    Bench bench{flags, leader, std::move(timed), std::move(ceilings), work};
    return flags.paced ? follow(bench) : measure(bench);
  });
}

}  // namespace

void add_bench_model(CLI::App& bench) {
  CLI::App* app = bench.add_subcommand("model", "Prefill and decode of a model");
  auto flags = std::make_shared<Flags>();
  ModelBenchShape& shape = flags->shape;
  flags->model.declare(*app);
  const CLI::Range size(i64(1), i64(1) << 20);
  app->add_option("--phases", flags->phases, "What to measure")
      ->delimiter(',')
      ->capture_default_str()
      ->check(CLI::IsMember({"prefill", "decode"}));
  app->add_option("--batch", shape.batch, "Sequences")->capture_default_str()->check(size);
  app->add_option("--tokens", shape.tokens, "Tokens of each in a prefill")->capture_default_str()->check(size);
  app->add_option("--context", shape.context, "Tokens of each in the cache before decode")
      ->capture_default_str()
      ->check(size);
  app->add_option("--decode-tokens", shape.decode_tokens, "Steps in a sample of decode")
      ->capture_default_str()
      ->check(size);
  app->add_option("--max-tokens", flags->max_tokens, "Most tokens in a step")->capture_default_str()->check(size);
  app->add_option("--samples", flags->samples, "Times that phases and ceilings alternate")
      ->capture_default_str()
      ->check(CLI::Range(1, 100000));
  app->add_flag("--paced", flags->paced,
                "Take one sample for every line of standard input: prefill, decode, read or compute");
  flags->report.declare(*app);
  app->callback([flags] { finish(run_bench(*flags)); });
}

}  // namespace weft
