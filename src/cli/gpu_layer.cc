// weft bench mlp, weft check mlp; weft bench moe, weft check moe: a layer's MLP, or its experts, on this host's GPUs.
#include "cli/bench_report.h"
#include "cli/commands.h"
#include "models/presets.h"
#if defined(WEFT_HAVE_CUDA)
#include "layers/cuda_moe_bench.h"
#endif

namespace weft {
namespace {

struct LayerFlags {
  bool experts = false;  // moe, not mlp
  std::string model = "qwen3-32b", mode = "ag_rs", dtype = "bf16", variant = "auto", tuning, all_reduce;
  std::vector<i64> m = {4096};
  std::vector<std::string> regimes = {"sustained"};
  int tp = 0, ep = 1, repeats = 15;
  ReportFlags report;

  void declare(CLI::App& command, bool times) {
    command.add_option("-m,--m", m, "Tokens, of all ranks")->delimiter(',')->check(CLI::Range(0, 1 << 20));
    command.add_option("--model", model, "Shapes of this preset (weft models)")->capture_default_str();
    command.add_option("--tp,--ranks", tp, "Ranks, one GPU each; 0 = as many as there are GPUs")
        ->check(CLI::Range(0, 8))
        ->capture_default_str();
    command.add_option("--mode", mode, "How activations lie on ranks: ar = replicated, ag_rs = sharded by token")
        ->check(CLI::IsMember({"ar", "ag_rs"}))
        ->capture_default_str();
    if (experts) {
      command.add_option("--ep", ep, "Groups of --tp ranks over which the experts are spread")
          ->check(CLI::Range(1, 8))
          ->capture_default_str();
      command.add_option("--dtype", dtype, "bf16, f16")->check(CLI::IsMember({"bf16", "f16"}))->capture_default_str();
    } else {
      command.add_option("--variant", variant, "Of the fused operators: auto, split, push, copy")
          ->check(CLI::IsMember({"auto", "split", "push", "copy"}))
          ->capture_default_str();
      command.add_option("--tuning", tuning,
                         "Of --variant auto: take the variants that are fastest here, measured once and kept in this "
                         "file");
      command
          .add_option("--all-reduce", all_reduce,
                      "Of --mode ar: a GEMM and this all-reduce instead of gemm_ar: auto, one_shot, two_shot")
          ->check(CLI::IsMember({"auto", "one_shot", "two_shot"}));
    }
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
  const char* what() const { return experts ? "moe" : "mlp"; }
};

#if defined(WEFT_HAVE_CUDA)
Result<CudaMlpReport> measure(const LayerFlags& flags, const ModelConfig& config, bool times) {
  if (flags.experts) {
    const CudaMoeLayerBenchOptions options{.ranks = flags.tp * flags.ep,
                                           .m = flags.m,
                                           .hidden = config.hidden,
                                           .experts = config.moe.experts,
                                           .per_token = config.moe.per_token,
                                           .ffn = config.moe.ffn,
                                           .normalise = config.moe.normalise,
                                           .mode = flags.mode,
                                           .ep = flags.ep,
                                           .dtype = flags.dtype == "f16" ? DType::kF16 : DType::kBF16,
                                           .regimes = flags.regimes,
                                           .repeats = flags.repeats};
    return times ? bench_cuda_moe_layer(options) : check_cuda_moe_layer(options);
  }
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
  return times ? bench_cuda_mlp(options) : check_cuda_mlp(options);
}

Status run_layer(const LayerFlags& flags, bool times) {
  WEFT_ASSIGN(const ModelConfig config, preset_config(flags.model, 1));
  if (config.is_sparse(0) != flags.experts)
    return error(Code::kInvalidArgument, "--model {}: its layers have {}", flags.model,
                 flags.experts ? "one MLP, not experts" : "experts, not one MLP");
  WEFT_ASSIGN(const CudaMlpReport done, measure(flags, config, times));
  const i64 ffn = flags.experts ? config.moe.ffn : config.ffn;
  Json checks = Json::array(), rows = Json::array();
  std::vector<Plot> plots;
  bool passed = true;
  for (const auto& row : done.checks) {
    passed = passed && row.passed;
    checks.push_back({{"m", row.m}, {"error", row.error}, {"repeats", row.repeats}, {"passed", row.passed}});
  }
  double alone_us = 0;  // without communication, which comes first: the floor
  for (const auto& row : done.rows) {
    const std::string title = fmt::format("{} of {}, m {}, {}", flags.what(), flags.model, row.m, row.regime);
    if (row.variant == "cublas" || row.variant == "local") alone_us = row.us;
    add_bar(plots, title, row.variant, {row.us, row.us_lower, row.us_upper}, alone_us);
    rows.push_back(variant_json(row));
  }
  const Json all = {{flags.what(), flags.model},
                    {"device", done.device},
                    {"ranks", done.ranks},
                    {"ep", flags.ep},
                    {"mode", flags.mode},
                    {"dtype", flags.dtype},
                    {"hidden", config.hidden},
                    {"ffn", ffn},
                    {"limit", kCudaMlpError},
                    {"checks", checks},
                    {"cublas", done.cublas},
                    {"nccl", done.nccl},
                    {"rows", rows}};
  WEFT_TRY(report(flags.report, all, plots, [&] {
    fmt::print("{} of {}, hidden {}, ffn {}, {} ranks{}, {}, mode {}\n", flags.what(), flags.model, config.hidden, ffn,
               done.ranks, flags.ep > 1 ? fmt::format(", ep {}", flags.ep) : "", done.device, flags.mode);
    for (const auto& row : done.checks)
      fmt::print("{:>6}  {:.5f} from the fp32 reference (at most {:.5f}){}  {}\n", row.m, row.error, kCudaMlpError,
                 row.repeats ? "" : ", runs differ", row.passed ? "ok" : "FAILED");
    if (!done.rows.empty())
      fmt::print("cuBLAS {}, NCCL {}; us per call in a graph, slowest rank, time / {}: median (quartiles)\n",
                 done.cublas, done.nccl, flags.experts ? "local" : "cuBLAS alone");
    for (const auto& row : done.rows)
      fmt::print("{:>6} {:<10} {:<16} {:8.1f} us  ratio {:.3f} ({:.3f} {:.3f})\n", row.m, row.regime, row.variant,
                 row.us, row.ratio, row.ratio_lower, row.ratio_upper);
  }));
  return passed ? Status()
                : error(Code::kDataLoss, "{}: a result differs from the fp32 reference by more than allowed",
                        flags.what());
}
#else
Status run_layer(const LayerFlags& flags, bool) {
  return error(Code::kUnimplemented, "{}: this build has no CUDA (configure with -DWEFT_CUDA=ON)", flags.what());
}
#endif

void add_layer(CLI::App& parent, bool experts, const std::string& what, bool times) {
  auto flags = std::make_shared<LayerFlags>();
  flags->experts = experts;
  if (experts) flags->model = "qwen3-30b-a3b";
  CLI::App* command = parent.add_subcommand(flags->what(), what);
  flags->declare(*command, times);
  command->callback([flags, times] { finish(run_layer(*flags, times)); });
}

constexpr const char* kMlp = "The tensor-parallel MLP of a layer on this host's GPUs";
constexpr const char* kMoe = "The experts of a layer on this host's GPUs, cut by columns, by expert or both";

}  // namespace

void add_bench_gpu_layers(CLI::App& bench) {
  add_layer(bench, false, std::string(kMlp) + ", beside cuBLAS and NCCL", true);
  add_layer(bench, true, std::string(kMoe) + ", beside NCCL", true);
}
void add_check_gpu_layers(CLI::App& check) {
  add_layer(check, false, std::string(kMlp) + ", against an fp32 reference", false);
  add_layer(check, true, std::string(kMoe) + ", against an fp32 reference", false);
  // They have no use for what a check of logits requires.
  for (const char* layer : {"mlp", "moe"})
    check.get_subcommand(layer)->preparse_callback([&check](size_t) {
      for (CLI::Option* option : check.get_options()) option->required(false);
    });
}

}  // namespace weft
