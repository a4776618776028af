// `weft bench op attention`: one layer's attention of one step.
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "device/cpu_features.h"
#include "ops/attention/bench.h"

namespace weft {
namespace {

struct Flags {
  AttentionBenchOptions options;
  std::string dtype = "bf16";
  bool json = false;
};

void print(const Flags& flags, const AttentionBenchResult& result) {
  const AttentionBenchOptions& o = flags.options;
  if (flags.json) {
    const nlohmann::ordered_json out = {
        {"op", "attention"},
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
        {"us", {{"median", result.micros.median}, {"min", result.micros.low}, {"max", result.micros.high}}},
        {"gops", result.giga_ops},
        {"gb_per_s", result.gigabytes},
        {"largest_error", result.largest_error}};
    fmt::print("{}\n", out.dump());
    return;
  }
  fmt::print("attention of {} x {} tokens at context {}, {} / {} heads of {}, pages of {} {}, {} threads, {}, warm\n",
             o.rows, o.tokens, o.context, o.q_heads, o.kv_heads, o.head_dim, o.page_tokens, flags.dtype, o.threads,
             cpu_isa_name(cpu_isa()));
  fmt::print("  time {:.1f} us ({:.1f} - {:.1f}), {:.1f} GOP/s, {:.1f} GB/s of K and V; largest error {:.1e}\n",
             result.micros.median, result.micros.low, result.micros.high, result.giga_ops, result.gigabytes,
             result.largest_error);
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
  app->add_flag("--json", flags->json, "One JSON object on stdout");
  app->callback([flags] {
    for (DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
      if (flags->dtype == dtype_name(dtype)) flags->options.dtype = dtype;
    }
    const auto result = bench_attention(flags->options);
    finish(result.status());
    print(*flags, *result);
  });
}

}  // namespace weft
