// `weft bench op <operator>`: one operator on one shape, checked, against this machine's ceilings.
#include <memory>

#include "cli/bench_report.h"
#include "cli/format_option.h"

namespace weft {
namespace {

struct GemmFlags {
  GemmBenchOptions options;
  std::vector<i64> m = {1};
  ReportFlags report;
};

Json gemm_json(const GemmBenchOptions& options, const GemmBenchResult& result) {
  return {{"op", "gemm"},
          {"format", dtype_name(options.format)},
          {"m", options.m},
          {"n", options.n},
          {"k", options.k},
          {"threads", options.threads},
          {"cpu", cpu_isa_name(result.isa)},
          {"weights", result.cold ? "cold" : "warm"},
          {"samples", options.samples},
          {"us", spread_json(result.micros, 1)},
          {"gops", spread_json(result.giga_ops, 1)},
          {"ceiling_gops", spread_json(result.ceiling_ops, 1)},
          {"gb_per_s", spread_json(result.gigabytes, 1)},
          {"ceiling_gb_per_s", spread_json(result.ceiling_reading, 1)},
          {"percent_of_ceiling", result.percent},
          {"percent_of_ceiling_best", result.percent_best}};
}

void print_gemm(const GemmBenchOptions& options, const GemmBenchResult& result) {
  fmt::print("gemm {} m={} n={} k={}, {} threads, {}, weights {}; output checked; median (min - max) of {} samples\n",
             dtype_name(options.format), options.m, options.n, options.k, options.threads, cpu_isa_name(result.isa),
             result.cold ? "cold" : "warm", options.samples);
  const auto row = [](const char* name, const char* unit, const Spread& value) {
    fmt::print("  {:<22}{:>10.1f} {:<6} ({:.1f} - {:.1f})\n", name, value.median, unit, value.low, value.high);
  };
  row("time", "us", result.micros);
  row("operations", "GOP/s", result.giga_ops);
  row("  registers alone", "GOP/s", result.ceiling_ops);
  row("weights", "GB/s", result.gigabytes);
  row("  reading alone", "GB/s", result.ceiling_reading);
  fmt::print("  {:.0f} % (best samples {:.0f} %) of {}\n", result.percent, result.percent_best,
             options.m == 1 ? "reading alone" : "registers alone");
}

Status run_gemm(const GemmFlags& flags) {
  GemmBenchOptions options = flags.options;
  Plot plot{.title = fmt::format("gemm {} n={} k={}, {} threads; dashed: registers alone", dtype_name(options.format),
                                 options.n, options.k, options.threads),
            .unit = "GOP/s",
            .bars = {}};
  for (const i64 m : flags.m) {
    options.m = m;
    WEFT_ASSIGN(const GemmBenchResult result, bench_gemm(options));
    plot.bars.push_back({fmt::format("m={}", m), result.giga_ops, result.ceiling_ops.median});
    WEFT_TRY(report(flags.report, gemm_json(options, result), plot, [&] { print_gemm(options, result); }));
  }
  return {};
}

}  // namespace

void add_bench_op(CLI::App& bench) {
  CLI::App* op = bench.add_subcommand("op", "Measure one operator on one shape");
  op->require_subcommand(1);
  add_bench_attention(*op);
  add_bench_rows(*op);
  add_bench_grouped_gemm(*op);
  CLI::App* gemm = op->add_subcommand("gemm", "y = x W^T: x [m, k], W [n, k]");
  auto flags = std::make_shared<GemmFlags>();
  GemmBenchOptions& options = flags->options;
  const CLI::Range size(i64(1), i64(1) << 20);
  gemm->add_option("--m", flags->m, "Rows of x, one or several; 1 measures reading weights from memory")
      ->delimiter(',')
      ->capture_default_str()
      ->check(size);
  gemm->add_option("--n", options.n, "Rows of W")->capture_default_str()->check(size);
  gemm->add_option("--k", options.k, "Columns of both; whole blocks of 32 for quantised weights")
      ->capture_default_str()
      ->check(size);
  add_format_option(*gemm, options.format);
  gemm->add_option("--threads", options.threads, "Threads, pinned")->capture_default_str()->check(CLI::Range(1, 1024));
  gemm->add_option("--samples", options.samples, "Times that ceiling and operator alternate")
      ->capture_default_str()
      ->check(CLI::Range(1, 10000));
  gemm->add_flag("--cold", options.cold, "Read the weights from memory for every m");
  flags->report.declare(*gemm);
  gemm->callback([flags] { finish(run_gemm(*flags)); });
}

}  // namespace weft
