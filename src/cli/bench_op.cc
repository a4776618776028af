// `weft bench op <operator>`: one operator on one shape, checked, against this machine's ceilings.
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/format_option.h"
#include "ops/gemm/bench.h"

namespace weft {
namespace {

struct GemmFlags {
  GemmBenchOptions options;
  bool json = false;
};

void print_gemm(const GemmFlags& flags, const GemmBenchResult& result) {
  const GemmBenchOptions& options = flags.options;
  if (flags.json) {
    const auto spread = [](const Spread& value) {
      return nlohmann::ordered_json{{"median", value.median}, {"min", value.low}, {"max", value.high}};
    };
    const nlohmann::ordered_json out = {{"op", "gemm"},
                                        {"format", dtype_name(options.format)},
                                        {"m", options.m},
                                        {"n", options.n},
                                        {"k", options.k},
                                        {"threads", options.threads},
                                        {"cpu", cpu_isa_name(result.isa)},
                                        {"weights", result.cold ? "cold" : "warm"},
                                        {"samples", options.samples},
                                        {"us", spread(result.micros)},
                                        {"gops", spread(result.giga_ops)},
                                        {"ceiling_gops", spread(result.ceiling_ops)},
                                        {"gb_per_s", spread(result.gigabytes)},
                                        {"ceiling_gb_per_s", spread(result.ceiling_reading)},
                                        {"percent_of_ceiling", result.percent},
                                        {"percent_of_ceiling_best", result.percent_best}};
    fmt::print("{}\n", out.dump());
    return;
  }
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

}  // namespace

void add_bench_op(CLI::App& bench) {
  CLI::App* op = bench.add_subcommand("op", "Measure one operator on one shape");
  op->require_subcommand(1);
  add_bench_attention(*op);
  add_bench_rows(*op);
  CLI::App* gemm = op->add_subcommand("gemm", "y = x W^T: x [m, k], W [n, k]");
  auto flags = std::make_shared<GemmFlags>();
  GemmBenchOptions& options = flags->options;
  const CLI::Range size(i64(1), i64(1) << 20);
  gemm->add_option("--m", options.m, "Rows of x; 1 measures reading weights from memory")
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
  gemm->add_flag("--json", flags->json, "One JSON object on stdout");
  gemm->callback([flags] {
    const auto result = bench_gemm(flags->options);
    finish(result.status());
    print_gemm(*flags, *result);
  });
}

}  // namespace weft
