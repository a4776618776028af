// `weft bench op rms_norm|swiglu|rope|embedding|take_rows|sampling`: operators that work row by row.
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
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

void print(const RowBench& bench, const RowBenchOptions& o, const RowBenchResult& result, bool json) {
  if (json) {
    const nlohmann::ordered_json out = {
        {"op", bench.name},
        {"tokens", o.tokens},
        {"width", o.width},
        {"threads", o.threads},
        {"cpu", cpu_isa_name(cpu_isa())},
        {"samples", o.samples},
        {"us", {{"median", result.micros.median}, {"min", result.micros.low}, {"max", result.micros.high}}},
        {"gb_per_s", result.gigabytes},
        {"largest_error", result.largest_error}};
    fmt::print("{}\n", out.dump());
    return;
  }
  fmt::print("{} of {} x {}, {} threads, {}, warm: {:.2f} us ({:.2f} - {:.2f}), {:.1f} GB/s; largest error {:.1e}\n",
             bench.name, o.tokens, o.width, o.threads, cpu_isa_name(cpu_isa()), result.micros.median, result.micros.low,
             result.micros.high, result.gigabytes, result.largest_error);
}

}  // namespace

void add_bench_rows(CLI::App& op) {
  for (const RowBench& bench : kRowBenches) {
    struct Flags {
      RowBenchOptions options;
      bool json = false;
    };
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
    app->add_flag("--json", flags->json, "One JSON object on stdout");
    app->callback([flags, &bench] {
      const auto result = bench.run(flags->options);
      finish(result.status());
      print(bench, flags->options, *result, flags->json);
    });
  }
}

}  // namespace weft
