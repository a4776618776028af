// weft bench gpu: the GPU operators beside their rivals.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>

#include "base/dtype.h"
#include "base/types.h"
#include "cli/bench_report.h"
#include "cli/commands.h"
#include "comm/bootstrap/launcher.h"
#if defined(WEFT_HAVE_CUDA)
#include "dist/cuda_bench.h"
#include "dist/exchange/cuda_bench.h"
#include "dist/exchange/cuda_moe_bench.h"
#include "dist/expert_parallel/cuda_bench.h"
#include "ops/cuda_bench.h"
#include "ops/gemm/cuda_bench.h"
#endif

namespace weft {
namespace {

const std::vector<std::string> kCollectives = {"all_reduce", "all_gather", "reduce_scatter",
                                               "broadcast",  "all_to_all", "send_recv"};
const std::vector<std::string> kOps = {"all_reduce", "all_gather", "reduce_scatter", "broadcast",    "all_to_all",
                                       "send_recv",  "gemm",       "ag_gemm",        "gemm_rs",      "gemm_ar",
                                       "ep",         "rms_norm",   "rope",           "swiglu",       "embedding",
                                       "take_rows",  "quantise",   "sampling",       "grouped_gemm", "ag_moe",
                                       "moe_rs",     "moe_ar"};

struct BenchGpuOptions {
  std::vector<std::string> ops = kOps;
  int ranks = 0;
  int repeats = 15;
  std::vector<i64> bytes = {8 << 10, 32 << 10, 128 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20};
  std::vector<std::string> algorithms = {"auto", "one_shot", "two_shot"};
  std::vector<std::string> variants = {"auto"};
  std::vector<std::string> regimes = {"sustained", "burst"};
  std::vector<i64> m = {128, 512, 1024, 2048, 4096, 8192};
  std::vector<std::pair<i64, i64>> n_k = {{12800, 5120}, {5120, 6400}};  // Qwen3-32B gate and up, down; TP 4
  std::vector<std::pair<i64, i64>> gemm_n_k;                             // empty: n_k
  std::string dtype = "bf16";                                            // of gemm, ag_gemm, gemm_rs, gemm_ar, *moe*
  DType element() const { return dtype == "f16" ? DType::kF16 : DType::kBF16; }
  bool every_tile = false;
  std::vector<i64> tokens = {1, 8, 32, 64, 128};
  i64 experts = 256, top_k = 8, hidden = 7168;  // DeepSeek-V3
  std::vector<std::string> routings = {"uniform"};
  std::string json_path, plot_path, trace_path, revision = "unknown";
  bool processes = false;
  bool reports = true;  // false on all processes but that of rank 0
};

#if defined(WEFT_HAVE_CUDA)
template <class... Args>
void say(const BenchGpuOptions& options, fmt::format_string<Args...> format, Args&&... args) {
  if (options.reports) fmt::print(format, std::forward<Args>(args)...);
}

// What all operators of a run add to.
struct GpuReport {
  Json json;
  std::vector<Plot> plots;
  std::vector<RankTrace> traces;
};

Status bench_collective(const std::string& op, const BenchGpuOptions& options, GpuReport& out) {
  WEFT_ASSIGN(const auto report,
              bench_cuda_collective({op, options.ranks, options.bytes, options.algorithms, options.repeats}));
  say(options,
      "{}, bf16, {} ranks, {}, NCCL {}; us per call in a graph, slowest rank: median (quartiles), percent of the "
      "link\n",
      op, report.ranks, report.device, report.nccl);
  Json rows = Json::array();
  for (const auto& row : report.rows) {
    say(options, "{:>10} B  {:<14} {:8.2f}  ({:.2f} {:.2f})  {:5.1f} %\n", row.bytes, row.variant, row.median_us,
        row.lower_us, row.upper_us, 100 * row.floor_us / row.median_us);
    add_bar(out.plots, fmt::format("{}, {} B", op, row.bytes), row.variant, {row.median_us, row.lower_us, row.upper_us},
            row.floor_us);
    rows.push_back({{"bytes", row.bytes},
                    {"variant", row.variant},
                    {"us", row.median_us},
                    {"quartiles_us", {row.lower_us, row.upper_us}},
                    {"floor_us", row.floor_us}});
  }
  out.json[op] = {
      {"device", report.device}, {"ranks", report.ranks}, {"dtype", "bf16"}, {"nccl", report.nccl}, {"rows", rows}};
  return {};
}

Status bench_gemm(const BenchGpuOptions& options, GpuReport& out) {
  WEFT_ASSIGN(const auto report, bench_cuda_gemm({options.m, options.gemm_n_k.empty() ? options.n_k : options.gemm_n_k,
                                                  options.repeats, options.element(), options.every_tile}));
  say(options,
      "gemm, {}, {}, cuBLAS {}; us per call in a graph, time / cublasGemmEx's, / cuBLASLt's best algorithm's: median "
      "(quartiles)\n",
      options.dtype, report.device, report.cublas);
  Json rows = Json::array();
  for (const auto& row : report.rows) {
    say(options,
        "{:>6} x {:<6} x {:<6} {:<12} {:8.1f}  cuBLAS {:8.1f}  ratio {:.3f} ({:.3f} {:.3f})  Lt {:8.1f}  ratio {:.3f} "
        "({:.3f} {:.3f})\n",
        row.m, row.n, row.k, row.tile, row.us, row.cublas_us, row.ratio, row.ratio_lower, row.ratio_upper,
        row.cublas_lt_us, row.lt_ratio, row.lt_ratio_lower, row.lt_ratio_upper);
    out.plots.push_back({fmt::format("gemm, {} x {} x {}", row.m, row.n, row.k),
                         "us",
                         {{"cublas", {row.cublas_us, row.cublas_us, row.cublas_us}, 0},
                          {"weft " + row.tile, {row.us, row.us, row.us}, row.cublas_us}}});
    rows.push_back({{"m", row.m},
                    {"n", row.n},
                    {"k", row.k},
                    {"tile", row.tile},
                    {"us", row.us},
                    {"cublas_us", row.cublas_us},
                    {"cublas_lt_us", row.cublas_lt_us},
                    {"ratio", row.ratio},
                    {"ratio_quartiles", {row.ratio_lower, row.ratio_upper}},
                    {"lt_ratio", row.lt_ratio},
                    {"lt_ratio_quartiles", {row.lt_ratio_lower, row.lt_ratio_upper}}});
  }
  out.json["gemm"] = {{"device", report.device}, {"cublas", report.cublas}, {"dtype", options.dtype}, {"rows", rows}};
  return {};
}

// Qwen3-32B at TP 4: gate and up for the gather, down for the reductions.
Status bench_fused(const std::string& op, const BenchGpuOptions& options, GpuReport& out) {
  const auto [n, k] = options.n_k[op == "ag_gemm" ? 0 : 1];
  WEFT_ASSIGN(const auto report,
              bench_cuda_fused({options.ranks, op, options.m, n, k, options.variants, options.regimes, options.repeats,
                                options.element(), !options.trace_path.empty()}));
  say(options,
      "{}, {}, N {} K {}, {} ranks, {}, cuBLAS {}, NCCL {}; us per call in a graph, slowest rank, time / cuBLAS "
      "alone: median (quartiles)\n",
      op, options.dtype, n, k, report.ranks, report.device, report.cublas, report.nccl);
  Json rows = Json::array();
  double alone_us = 0;  // cuBLAS without communication, which comes first: the floor
  for (const auto& row : report.rows) {
    say(options, "{:>6} {:<10} {:<14} {:8.1f} us  ratio {:.3f} ({:.3f} {:.3f})\n", row.m, row.regime, row.variant,
        row.us, row.ratio, row.ratio_lower, row.ratio_upper);
    if (row.variant == "cublas") alone_us = row.us;
    add_bar(out.plots, fmt::format("{}, m {}, {}", op, row.m, row.regime), row.variant,
            {row.us, row.us_lower, row.us_upper}, alone_us);
    rows.push_back(variant_json(row));
  }
  out.json[op] = {{"device", report.device},
                  {"ranks", report.ranks},
                  {"dtype", options.dtype},
                  {"n", n},
                  {"k", k},
                  {"cublas", report.cublas},
                  {"nccl", report.nccl},
                  {"rows", rows}};
  out.traces.insert(out.traces.end(), report.traces.begin(), report.traces.end());
  return {};
}

// Qwen3's experts at TP 4: gate and up for the gather, down for the reductions.
Status bench_moe(const std::string& op, const BenchGpuOptions& options, GpuReport& out) {
  WEFT_ASSIGN(const auto report, bench_cuda_moe({options.ranks, op, options.element(), options.m, options.variants,
                                                 options.regimes, options.repeats, !options.trace_path.empty()}));
  say(options,
      "{}, {}, 8 of 128 experts, {} ranks, {}, NCCL {}; us per call in a graph, slowest rank, time / grouped GEMM "
      "alone: median (quartiles)\n",
      op, options.dtype, report.ranks, report.device, report.nccl);
  Json rows = Json::array();
  double alone_us = 0;  // the grouped GEMM, which comes first: the floor
  for (const auto& [shape, n, k, time] : report.rows) {
    say(options, "{:<24} {:>6} {:<10} {:<18} {:8.1f} us  ratio {:.3f} ({:.3f} {:.3f})\n", shape, time.m, time.regime,
        time.variant, time.us, time.ratio, time.ratio_lower, time.ratio_upper);
    if (time.variant == "weft/grouped_gemm") alone_us = time.us;
    add_bar(out.plots, fmt::format("{}, {}, {} tokens, {}", op, shape, time.m, time.regime), time.variant,
            {time.us, time.us_lower, time.us_upper}, alone_us);
    Json row = variant_json(time);
    row.update({{"shape", shape}, {"n", n}, {"k", k}});
    rows.push_back(row);
  }
  out.json[op] = {{"device", report.device},
                  {"ranks", report.ranks},
                  {"dtype", options.dtype},
                  {"nccl", report.nccl},
                  {"rows", rows}};
  out.traces.insert(out.traces.end(), report.traces.begin(), report.traces.end());
  return {};
}

Status bench_experts(const BenchGpuOptions& options, const std::string& routing, GpuReport& out) {
  WEFT_ASSIGN(const auto report,
              ep::bench_cuda_experts({options.ranks, options.tokens, options.experts, options.top_k, options.hidden,
                                      routing, options.repeats, !options.trace_path.empty()}));
  say(options,
      "expert parallel, {} experts, top {}, hidden {}, {} routing, dispatch fp8, combine bf16, {} ranks, {}, NCCL {}; "
      "us per call in a graph, slowest rank: median (quartiles)\n",
      options.experts, options.top_k, options.hidden, routing, report.ranks, report.device, report.nccl);
  Json rows = Json::array();
  for (const auto& row : report.rows) {
    say(options, "{:>6} {:<20} {:8.2f}  ({:.2f} {:.2f})", row.tokens, row.variant, row.median_us, row.lower_us,
        row.upper_us);
    if (row.bytes > 0)
      say(options, "  {} B, {:.1f} us of wire, {:.0f} %", row.bytes, row.floor_us, 100 * row.floor_us / row.median_us);
    say(options, "\n");
    add_bar(out.plots, fmt::format("experts, {}, {} tokens", routing, row.tokens), row.variant,
            {row.median_us, row.lower_us, row.upper_us}, row.floor_us);
    rows.push_back({{"tokens", row.tokens},
                    {"variant", row.variant},
                    {"us", row.median_us},
                    {"quartiles_us", {row.lower_us, row.upper_us}},
                    {"bytes", row.bytes},
                    {"floor_us", row.floor_us}});
  }
  out.json[routing == options.routings.front() ? "ep" : "ep_" + routing] = {
      {"device", report.device},  {"ranks", report.ranks}, {"experts", options.experts}, {"top_k", options.top_k},
      {"hidden", options.hidden}, {"routing", routing},    {"nccl", report.nccl},        {"rows", rows}};
  out.traces.insert(out.traces.end(), report.traces.begin(), report.traces.end());
  return {};
}

// Operators that are limited by memory, beside a copy of as many bytes.
Status bench_rows(const std::string& op, const BenchGpuOptions& options, GpuReport& out) {
  WEFT_ASSIGN(const auto report, bench_cuda_rows({op, options.m, options.repeats}));
  say(options, "{}, bf16, {}; us per call in a graph, median (quartiles), GB/s, percent of a copy's bandwidth\n", op,
      report.device);
  Json rows = Json::array();
  for (const auto& row : report.rows) {
    say(options, "{:>6} x {:<7} {:<32} {:9.2f}  ({:.2f} {:.2f})  {:7.1f} GB/s  {:5.1f} %\n", row.rows, row.width,
        row.variant, row.us, row.us_lower, row.us_upper, row.gigabytes, 100 * row.of_copy);
    add_bar(out.plots, fmt::format("{} x {}", row.rows, row.width), row.variant, {row.us, row.us_lower, row.us_upper},
            row.us * row.of_copy);
    rows.push_back({{"rows", row.rows},
                    {"width", row.width},
                    {"variant", row.variant},
                    {"bytes", row.bytes},
                    {"us", row.us},
                    {"quartiles_us", {row.us_lower, row.us_upper}},
                    {"gigabytes_per_s", row.gigabytes},
                    {"of_copy", row.of_copy}});
  }
  out.json[op] = {{"device", report.device}, {"rows", rows}};
  return {};
}

Status bench_grouped(const BenchGpuOptions& options, GpuReport& out) {
  WEFT_ASSIGN(const auto report, bench_cuda_grouped_gemm({options.m, options.repeats}));
  say(options,
      "grouped_gemm, bf16, 8 of 128 experts, {}, cuBLAS {}; us per call in a graph, median (quartiles), time / one "
      "dense cuBLAS GEMM of as many rows\n",
      report.device, report.cublas);
  Json rows = Json::array();
  for (const auto& row : report.rows) {
    say(options, "{:<24} {:>6} tokens  {:<18} {:<8} {:9.1f}  ({:.1f} {:.1f})  {:.3f}\n", row.shape, row.tokens,
        row.variant, row.tile, row.us, row.us_lower, row.us_upper, row.of_dense);
    add_bar(out.plots, fmt::format("{}, {} tokens", row.shape, row.tokens), row.variant,
            {row.us, row.us_lower, row.us_upper});
    rows.push_back({{"shape", row.shape},
                    {"tokens", row.tokens},
                    {"rows", row.rows},
                    {"n", row.n},
                    {"k", row.k},
                    {"variant", row.variant},
                    {"tile", row.tile},
                    {"us", row.us},
                    {"quartiles_us", {row.us_lower, row.us_upper}},
                    {"of_dense", row.of_dense}});
  }
  out.json["grouped_gemm"] = {{"device", report.device}, {"cublas", report.cublas}, {"rows", rows}};
  return {};
}

Status bench_one(const std::string& op, const BenchGpuOptions& options, GpuReport& out) {
  if (std::find(kCollectives.begin(), kCollectives.end(), op) != kCollectives.end())
    return bench_collective(op, options, out);
  if (op == "ep") {
    for (const std::string& routing : options.routings) WEFT_TRY(bench_experts(options, routing, out));
    return {};
  }
  if (op == "ag_gemm" || op == "gemm_rs" || op == "gemm_ar") return bench_fused(op, options, out);
  if (op == "ag_moe" || op == "moe_rs" || op == "moe_ar") return bench_moe(op, options, out);
  if (!options.reports) return {};  // the others are one GPU's
  if (op == "gemm") return bench_gemm(options, out);
  if (op == "grouped_gemm") return bench_grouped(options, out);
  return bench_rows(op, options, out);
}

Status bench_gpu(const BenchGpuOptions& options) {
  GpuReport all;
  all.json = {{"revision", options.revision}, {"repeats", options.repeats}, {"processes", options.processes}};
  for (const std::string& op : options.ops) WEFT_TRY(bench_one(op, options, all));
  if (!options.reports) return {};
  if (!options.trace_path.empty()) WEFT_TRY(write_trace(options.trace_path, all.traces));
  if (!options.plot_path.empty()) WEFT_TRY(write_plots(options.plot_path, all.plots));
  if (options.json_path.empty()) return {};
  std::ofstream file(options.json_path);
  file << all.json.dump(1) << "\n";
  if (!file.flush()) return error(Code::kIo, "--json {}: cannot write", options.json_path);
  return {};
}
#else
Status bench_gpu(const BenchGpuOptions&) {
  return error(Code::kUnimplemented, "bench gpu: this build has no CUDA (configure with -DWEFT_CUDA=ON)");
}
#endif

// Runs the benchmark, or the ranks that do.
Result<int> run_bench_gpu(BenchGpuOptions& options) {
  WEFT_ASSIGN(const WorldSpec spec, world_spec_from_environment());
  const bool alone = spec.kind == WorldSpec::Kind::kAlone;
  if (alone && options.processes) {
    if (options.ranks < 1) return error(Code::kInvalidArgument, "--processes: --ranks must say how many");
    LaunchOptions launch;
    launch.prefix = false;
    return spawn_ranks(options.ranks, launch);
  }
  options.processes = !alone;
  options.reports = spec.rank == 0;
  if (options.processes && !options.trace_path.empty())
    return error(Code::kInvalidArgument, "--trace: the ranks must be threads of this process");
  WEFT_TRY(bench_gpu(options));
  return 0;
}

// "12800x5120": both from 8 to 2^24 and divisible by 8.
std::optional<std::pair<i64, i64>> parse_shape(std::string_view text) {
  i64 n = 0, k = 0;
  const char* end = text.data() + text.size();
  const auto first = std::from_chars(text.data(), end, n);
  if (first.ec != std::errc() || first.ptr == end || *first.ptr != 'x') return std::nullopt;
  const auto second = std::from_chars(first.ptr + 1, end, k);
  if (second.ec != std::errc() || second.ptr != end) return std::nullopt;
  for (const i64 extent : {n, k})
    if (extent < 8 || extent > i64(1) << 24 || extent % 8 != 0) return std::nullopt;
  return std::pair{n, k};
}

}  // namespace

void add_bench_gpu(CLI::App& bench) {
  auto options = std::make_shared<BenchGpuOptions>();
  CLI::App* command = bench.add_subcommand(
      "gpu", "Operators on this host's GPUs, beside NCCL and cuBLAS (opened at run time: $WEFT_NCCL, $WEFT_CUBLAS)");
  command->add_option("--ops", options->ops, fmt::format("{}", fmt::join(kOps, ", ")))
      ->delimiter(',')
      ->check(CLI::IsMember(kOps));
  command->add_option("--variants", options->variants, "Of the fused operators: auto, split, push, copy")
      ->delimiter(',')
      ->check(CLI::IsMember({"auto", "split", "push", "copy"}));
  command->add_option("--regimes", options->regimes, "Of the fused operators: sustained, burst")
      ->delimiter(',')
      ->check(CLI::IsMember({"sustained", "burst"}));
  command->add_option("--ranks", options->ranks, "Ranks, one GPU each; 0 = as many as there are GPUs")
      ->check(CLI::Range(0, 8))
      ->capture_default_str();
  command->add_option("--repeats", options->repeats, "Timed repeats of every variant")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command->add_option("--bytes", options->bytes, "Sizes of the collectives in bytes")->delimiter(',');
  command->add_option("--algorithms", options->algorithms, "Of all_reduce: one_shot, two_shot, auto")->delimiter(',');
  command->add_option("--m", options->m, "Rows of x, over all ranks; tokens of grouped_gemm and *moe*")
      ->delimiter(',')
      ->check(CLI::Range(1, 1 << 20));
  command
      ->add_option_function<std::vector<std::string>>(
          "--shapes",
          [options](const std::vector<std::string>& shapes) {
            for (const std::string& shape : shapes) options->gemm_n_k.push_back(*parse_shape(shape));
          },
          "Of gemm: N x K of its weights, for instance 12800x5120")
      ->delimiter(',')
      ->check([](const std::string& text) {
        return parse_shape(text) ? "" : fmt::format("{}: expected NxK, both divisible by 8", text);
      });
  command->add_flag("--every-tile", options->every_tile, "Of gemm: every compiled tile instead of the planned one");
  command->add_option("--dtype", options->dtype, "Of gemm, ag_gemm, gemm_rs, gemm_ar, *moe*: bf16, f16")
      ->check(CLI::IsMember({"bf16", "f16"}))
      ->capture_default_str();
  command->add_option("--tokens", options->tokens, "Of ep: tokens of each rank")
      ->delimiter(',')
      ->check(CLI::Range(1, 1 << 20));
  command->add_option("--experts", options->experts, "Of ep")->check(CLI::Range(1, 65535))->capture_default_str();
  command->add_option("--top-k", options->top_k, "Of ep: experts of a token")
      ->check(CLI::Range(1, 16))
      ->capture_default_str();
  command->add_option("--hidden", options->hidden, "Of ep: elements of a row, a multiple of 16")
      ->check(CLI::Range(16, 1 << 16))
      ->capture_default_str();
  command->add_option("--routing", options->routings, "Of ep: uniform, zipf, one_hot, holes, mixed")
      ->delimiter(',')
      ->check(CLI::IsMember({"uniform", "zipf", "one_hot", "holes", "mixed"}))
      ->capture_default_str();
  command->add_option("--json", options->json_path, "Also write the figures to this file");
  command->add_option("--plot", options->plot_path,
                      "Also draw the figures, sizes one below the other, into this SVG file");
  command->add_option("--trace", options->trace_path,
                      "Also trace a few calls of ag_gemm, gemm_rs, gemm_ar and ep into this file, for ui.perfetto.dev");
  command->add_option("--revision", options->revision, "Source revision to put into the JSON");
  command->add_flag("--processes", options->processes, "Ranks are processes, not threads; needs --ranks");
  command->callback([options] {
    const auto ended = run_bench_gpu(*options);
    finish(ended.status());
    if (*ended != 0) throw CLI::RuntimeError(*ended);
  });
}

}  // namespace weft
