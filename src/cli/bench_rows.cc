// `weft bench op rms_norm|swiglu|rope|embedding|take_rows|sampling`: operators that work row by row.
#include <memory>

#include "cli/bench_report.h"
#include "device/cpu_features.h"
#include "ops/bench.h"

namespace weft {
namespace {

struct RowBench {
  const char* name;
  const char* help;
  Result<RowBenchResult> (*run)(const RowBenchOptions&);
  i64 width;
};

constexpr RowBench kRowBenches[] = {
    {"rms_norm", "Normalisation of rows", bench_rms_norm, 576},
    {"swiglu", "SwiGLU of rows", bench_swiglu, 1536},
    {"rope", "Rotation of queries and keys, and the cache write", bench_rope, 960},
    {"embedding", "Rows of a q8_0 table", bench_embedding, 576},
    {"take_rows", "Copies of rows", bench_take_rows, 576},
    {"sampling", "Random tokens with top_p", bench_sampling, 49152},
};

struct Flags {
  RowBenchOptions options;
  ReportFlags report;
};

Status run(const RowBench& bench, const Flags& flags) {
  const RowBenchOptions& o = flags.options;
  WEFT_ASSIGN(const RowBenchResult result, bench.run(o));
  const Json all = {{"op", bench.name},
                    {"tokens", o.tokens},
                    {"width", o.width},
                    {"threads", o.threads},
                    {"cpu", cpu_isa_name(cpu_isa())},
                    {"samples", o.samples},
                    {"us", spread_json(result.micros, 1)},
                    {"gb_per_s", result.gigabytes},
                    {"largest_error", result.largest_error}};
  const std::string what = fmt::format("{} of {} x {}, {} threads, {}, warm", bench.name, o.tokens, o.width, o.threads,
                                       cpu_isa_name(cpu_isa()));
  return report(flags.report, all, {.title = what, .unit = "us", .bars = {{bench.name, result.micros}}}, [&] {
    fmt::print("{}: {:.2f} us ({:.2f} - {:.2f}), {:.1f} GB/s; largest error {:.1e}\n", what, result.micros.median,
               result.micros.low, result.micros.high, result.gigabytes, result.largest_error);
  });
}

}  // namespace

void add_bench_rows(CLI::App& op) {
  for (const RowBench& bench : kRowBenches) {
    auto flags = std::make_shared<Flags>();
    flags->options.width = bench.width;
    CLI::App* app = op.add_subcommand(bench.name, bench.help);
    app->add_option("--tokens", flags->options.tokens, "Rows")->capture_default_str()->check(CLI::Range(1, 1 << 20));
    app->add_option("--width", flags->options.width, "Values of a row")
        ->capture_default_str()
        ->check(CLI::Range(1, 1 << 24));
    app->add_option("--threads", flags->options.threads, "Threads, pinned")
        ->capture_default_str()
        ->check(CLI::Range(1, 1024));
    app->add_option("--samples", flags->options.samples, "Samples")->capture_default_str()->check(CLI::Range(1, 10000));
    flags->report.declare(*app);
    app->callback([flags, &bench] { finish(run(bench, *flags)); });
  }
}

}  // namespace weft
