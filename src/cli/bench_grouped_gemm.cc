// `weft bench op grouped_gemm`: rows times the weights of the experts that they were routed to.
#include <memory>

#include "cli/bench_report.h"
#include "cli/format_option.h"
#include "device/cpu_features.h"
#include "ops/grouped_gemm/bench.h"

namespace weft {
namespace {

struct Flags {
  GroupedGemmBenchOptions options;
  ReportFlags report;
};

Status run(const Flags& flags) {
  const GroupedGemmBenchOptions& o = flags.options;
  WEFT_ASSIGN(const GroupedGemmBenchResult result, bench_grouped_gemm(o));
  const Json all = {{"op", "grouped_gemm"},
                    {"tokens", o.tokens},
                    {"experts", o.experts},
                    {"per_token", o.per_token},
                    {"n", o.n},
                    {"k", o.k},
                    {"format", dtype_name(o.format)},
                    {"routing", o.routing},
                    {"threads", o.threads},
                    {"cpu", cpu_isa_name(cpu_isa())},
                    {"samples", o.samples},
                    {"us", spread_json(result.micros, 1)},
                    {"sum_us", spread_json(result.sum_micros, 1)},
                    {"dense_us", spread_json(result.dense_micros, 1)},
                    {"gops", result.giga_ops},
                    {"gb_per_s", result.gigabytes}};
  const std::string what =
      fmt::format("{} tokens to {} of {} experts ({}), {} [{}, {}], {} threads, {}", o.tokens, o.per_token, o.experts,
                  o.routing, dtype_name(o.format), o.n, o.k, o.threads, cpu_isa_name(cpu_isa()));
  const Plot plot{.title = what,
                  .unit = "us",
                  .bars = {{"grouped_gemm", result.micros},
                           {"grouped_gemm_sum", result.sum_micros},
                           {"one matrix", result.dense_micros}}};
  return report(flags.report, all, plot, [&] {
    const auto row = [](const char* name, const Spread& us) {
      fmt::print("  {:<18}{:>10.1f} us ({:.1f} - {:.1f})", name, us.median, us.low, us.high);
    };
    fmt::print("{}; output checked; median (min - max) of {} samples\n", what, o.samples);
    row("grouped_gemm", result.micros);
    fmt::print(", {:.1f} GOP/s, {:.1f} GB/s of weights\n", result.giga_ops, result.gigabytes);
    row("grouped_gemm_sum", result.sum_micros);
    fmt::print("\n");
    row("one matrix", result.dense_micros);
    fmt::print(", as many rows, warm\n");
  });
}

}  // namespace

void add_bench_grouped_gemm(CLI::App& op) {
  CLI::App* app = op.add_subcommand("grouped_gemm", "Rows times the weights of their experts, and the weighted sum");
  auto flags = std::make_shared<Flags>();
  GroupedGemmBenchOptions& o = flags->options;
  const auto add = [&](const char* name, i64& value, i64 most, const char* help) {
    app->add_option(name, value, help)->capture_default_str()->check(CLI::Range(i64(1), most));
  };
  add("--tokens", o.tokens, 1 << 16, "Tokens of the step");
  add("--experts", o.experts, 4096, "Experts");
  add("--per-token", o.per_token, 4096, "Experts of a token");
  add("--n", o.n, 1 << 16, "Rows of an expert's weight");
  add("--k", o.k, 1 << 16, "Columns of it; whole blocks of 32 for quantised weights");
  add_format_option(*app, o.format);
  app->add_option("--routing", o.routing, "even, or one_hot: one expert is everybody's")
      ->capture_default_str()
      ->check(CLI::IsMember({"even", "one_hot"}));
  app->add_option("--threads", o.threads, "Threads, pinned")->capture_default_str()->check(CLI::Range(1, 1024));
  app->add_option("--samples", o.samples, "Samples")->capture_default_str()->check(CLI::Range(1, 10000));
  flags->report.declare(*app);
  app->callback([flags] { finish(run(*flags)); });
}

}  // namespace weft
