// weft bench mlp and weft check mlp: the tensor-parallel MLP of a model's layer on this host's GPUs.
#include "cli/bench_report.h"
#include "cli/commands.h"
#include "models/presets.h"
#if defined(WEFT_HAVE_CUDA)
#include "layers/cuda_mlp_bench.h"
#endif

namespace weft {
namespace {

struct MlpFlags {
  std::string model = "qwen3-32b", mode = "ag_rs", variant = "auto", tuning, all_reduce;
  std::vector<i64> m = {4096};
  std::vector<std::string> regimes = {"sustained"};
  int tp = 0, repeats = 15;
  ReportFlags report;

  void declare(CLI::App& command, bool times) {
    command.add_option("-m,--m", m, "Tokens, of all ranks")->delimiter(',')->check(CLI::Range(0, 1 << 20));
    command.add_option("--model", model, "Shapes of this preset (weft models)")->capture_default_str();
    command.add_option("--tp", tp, "Ranks, one GPU each; 0 = as many as there are GPUs")
        ->check(CLI::Range(0, 8))
        ->capture_default_str();
    command.add_option("--mode", mode, "How activations lie on ranks: ar = replicated, ag_rs = sharded by token")
        ->check(CLI::IsMember({"ar", "ag_rs"}))
        ->capture_default_str();
    command.add_option("--variant", variant, "Of the fused operators: auto, split, push, copy")
        ->check(CLI::IsMember({"auto", "split", "push", "copy"}))
        ->capture_default_str();
    command.add_option("--tuning", tuning,
                       "Of --variant auto: take the variants that are fastest here, measured once and kept in this "
                       "file");
    command
        .add_option("--all-reduce", all_reduce,
                    "Of --mode ar: a GEMM and this all-reduce instead of gemm_ar: auto, one_shot, two_shot")
        ->check(CLI::IsMember({"auto", "ll", "one_shot", "two_shot"}));
    if (!times) {
      command.add_flag("--json", report.json, "One JSON object on stdout");
      return;
    }
    command.add_option("--regimes", regimes, "sustained, burst")
        ->delimiter(',')
        ->check(CLI::IsMember({"sustained", "burst"}));
    command.add_option("--repeats", repeats, "Timed repeats of every variant")
        ->check(CLI::Range(1, 1000))
        ->capture_default_str();
    report.declare(command);
  }
};

#if defined(WEFT_HAVE_CUDA)
Status run_mlp(const MlpFlags& flags, bool times) {
  WEFT_ASSIGN(const ModelConfig config, preset_config(flags.model, 1));
  if (config.is_sparse(0))
    return error(Code::kInvalidArgument, "--model {}: its layers have experts, not one MLP", flags.model);
  if (!flags.tuning.empty() && flags.variant != "auto")
    return error(Code::kInvalidArgument, "--tuning chooses among variants, --variant {} names one", flags.variant);
  const CudaMlpBenchOptions options{.ranks = flags.tp,
                                    .m = flags.m,
                                    .hidden = config.hidden,
                                    .ffn = config.ffn,
                                    .mode = flags.mode,
                                    .variant = flags.variant,
                                    .tuning = flags.tuning.empty() ? std::nullopt : std::optional(flags.tuning),
                                    .all_reduce = flags.all_reduce,
                                    .regimes = flags.regimes,
                                    .repeats = flags.repeats};
  WEFT_ASSIGN(const CudaMlpReport done, times ? bench_cuda_mlp(options) : check_cuda_mlp(options));
  Json checks = Json::array(), rows = Json::array();
  std::vector<Plot> plots;
  bool passed = true;
  for (const auto& row : done.checks) {
    passed = passed && row.passed;
    checks.push_back({{"m", row.m}, {"error", row.error}, {"repeats", row.repeats}, {"passed", row.passed}});
  }
  double alone_us = 0;  // without communication, which comes first: the floor
  for (const auto& row : done.rows) {
    const std::string title = fmt::format("mlp of {}, m {}, {}", flags.model, row.m, row.regime);
    if (row.variant == "cublas") alone_us = row.us;
    add_bar(plots, title, row.variant, {row.us, row.us_lower, row.us_upper}, alone_us);
    rows.push_back(variant_json(row));
  }
  const Json all = {{"mlp", flags.model},
                    {"device", done.device},
                    {"ranks", done.ranks},
                    {"mode", flags.mode},
                    {"hidden", config.hidden},
                    {"ffn", config.ffn},
                    {"limit", kCudaMlpError},
                    {"checks", checks},
                    {"cublas", done.cublas},
                    {"nccl", done.nccl},
                    {"rows", rows}};
  WEFT_TRY(report(flags.report, all, plots, [&] {
    fmt::print("mlp of {}, hidden {}, ffn {}, {} ranks, {}, mode {}\n", flags.model, config.hidden, config.ffn,
               done.ranks, done.device, flags.mode);
    for (const auto& row : done.checks)
      fmt::print("{:>6}  {:.5f} from the fp32 reference (at most {:.5f}){}  {}\n", row.m, row.error, kCudaMlpError,
                 row.repeats ? "" : ", runs differ", row.passed ? "ok" : "FAILED");
    if (!done.rows.empty())
      fmt::print("cuBLAS {}, NCCL {}; us per call in a graph, slowest rank, time / cuBLAS alone: median (quartiles)\n",
                 done.cublas, done.nccl);
    for (const auto& row : done.rows)
      fmt::print("{:>6} {:<10} {:<16} {:8.1f} us  ratio {:.3f} ({:.3f} {:.3f})\n", row.m, row.regime, row.variant,
                 row.us, row.ratio, row.ratio_lower, row.ratio_upper);
  }));
  return passed ? Status()
                : error(Code::kDataLoss, "mlp: a result differs from the fp32 reference by more than allowed");
}
#else
Status run_mlp(const MlpFlags&, bool) {
  return error(Code::kUnimplemented, "mlp: this build has no CUDA (configure with -DWEFT_CUDA=ON)");
}
#endif

void add_mlp(CLI::App& parent, const char* what, bool times) {
  auto flags = std::make_shared<MlpFlags>();
  CLI::App* command = parent.add_subcommand("mlp", what);
  flags->declare(*command, times);
  command->callback([flags, times] { finish(run_mlp(*flags, times)); });
}

}  // namespace

void add_bench_mlp(CLI::App& bench) {
  add_mlp(bench, "The tensor-parallel MLP of a layer on this host's GPUs, beside cuBLAS and NCCL", true);
}
void add_check_mlp(CLI::App& check) {
  add_mlp(check, "The tensor-parallel MLP of a layer on this host's GPUs against an fp32 reference", false);
}

}  // namespace weft
