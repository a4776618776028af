// `weft bench op attention`: one layer's attention of one step.
#include <memory>

#include "cli/bench_report.h"
#include "device/cpu_features.h"
#include "ops/attention/bench.h"

namespace weft {
namespace {

struct Flags {
  AttentionBenchOptions options;
  std::string dtype = "bf16";
  ReportFlags report;
};

Status run(const Flags& flags) {
  const AttentionBenchOptions& o = flags.options;
  WEFT_ASSIGN(const AttentionBenchResult result, bench_attention(o));
  const Json all = {{"op", "attention"},
                    {"rows", o.rows},
                    {"tokens", o.tokens},
                    {"context", o.context},
                    {"q_heads", o.q_heads},
                    {"kv_heads", o.kv_heads},
                    {"head_dim", o.head_dim},
                    {"page_tokens", o.page_tokens},
                    {"dtype", flags.dtype},
                    {"threads", o.threads},
                    {"cpu", cpu_isa_name(cpu_isa())},
                    {"samples", o.samples},
                    {"us", spread_json(result.micros, 1)},
                    {"gops", result.giga_ops},
                    {"gb_per_s", result.gigabytes},
                    {"largest_error", result.largest_error}};
  const std::string what = fmt::format(
      "attention of {} x {} tokens at context {}, {} / {} heads of {}, pages of {} {}, {} threads, {}, warm", o.rows,
      o.tokens, o.context, o.q_heads, o.kv_heads, o.head_dim, o.page_tokens, flags.dtype, o.threads,
      cpu_isa_name(cpu_isa()));
  return report(flags.report, all, {.title = what, .unit = "us", .bars = {{"attention", result.micros}}}, [&] {
    fmt::print("{}\n  time {:.1f} us ({:.1f} - {:.1f}), {:.1f} GOP/s, {:.1f} GB/s of K and V; largest error {:.1e}\n",
               what, result.micros.median, result.micros.low, result.micros.high, result.giga_ops, result.gigabytes,
               result.largest_error);
  });
}

}  // namespace

void add_bench_attention(CLI::App& op) {
  CLI::App* app = op.add_subcommand("attention", "Prefill or decode of equal sequences over a paged KV cache");
  auto flags = std::make_shared<Flags>();
  AttentionBenchOptions& o = flags->options;
  const auto add = [&](const char* name, i64& value, i64 most, const char* help) {
    app->add_option(name, value, help)->capture_default_str()->check(CLI::Range(i64(1), most));
  };
  add("--rows", o.rows, 1024, "Sequences in the step");
  add("--tokens", o.tokens, 1 << 17, "Tokens of each in the step; 1 is decode");
  add("--context", o.context, 1 << 20, "Length of each sequence, those tokens included");
  add("--q-heads", o.q_heads, 1024, "Query heads");
  add("--kv-heads", o.kv_heads, 1024, "KV heads");
  add("--head-dim", o.head_dim, 256, "Size of a head");
  add("--page-tokens", o.page_tokens, 4096, "Positions of a page");
  app->add_option("--dtype", flags->dtype, "Elements of the cache")
      ->capture_default_str()
      ->check(CLI::IsMember({"bf16", "f16", "f32"}));
  app->add_option("--threads", o.threads, "Threads, pinned")->capture_default_str()->check(CLI::Range(1, 1024));
  app->add_option("--samples", o.samples, "Samples")->capture_default_str()->check(CLI::Range(1, 10000));
  flags->report.declare(*app);
  app->callback([flags] {
    for (DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
      if (flags->dtype == dtype_name(dtype)) flags->options.dtype = dtype;
    }
    finish(run(*flags));
  });
}

}  // namespace weft
