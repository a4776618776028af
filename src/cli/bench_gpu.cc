// weft bench gpu: the GPU operators beside their rivals.
#include <fmt/format.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#if defined(WEFT_HAVE_CUDA)
#include "dist/all_reduce/cuda_bench.h"
#endif

namespace weft {
namespace {

struct BenchGpuOptions {
  int ranks = 0;
  int repeats = 15;
  std::vector<i64> bytes = {8 << 10, 32 << 10, 128 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20};
  std::vector<std::string> algorithms = {"auto", "ll", "one_shot", "two_shot"};
  std::string json_path, revision = "unknown";
};

Status bench_gpu([[maybe_unused]] const BenchGpuOptions& options) {
#if defined(WEFT_HAVE_CUDA)
  WEFT_ASSIGN(const auto report,
              bench_cuda_all_reduce({options.ranks, options.bytes, options.algorithms, options.repeats}));
  fmt::print("all_reduce, bf16, {} ranks, {}, NCCL {}; us per call in a graph, slowest rank: median (quartiles)\n",
             report.ranks, report.device, report.nccl);
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (const auto& row : report.rows) {
    fmt::print("{:>10} B  {:<14} {:8.2f}  ({:.2f} {:.2f})\n", row.bytes, row.variant, row.median_us, row.lower_us,
               row.upper_us);
    rows.push_back({{"op", "all_reduce"},
                    {"bytes", row.bytes},
                    {"variant", row.variant},
                    {"us", row.median_us},
                    {"quartiles_us", {row.lower_us, row.upper_us}}});
  }
  if (options.json_path.empty()) return {};
  const nlohmann::ordered_json all = {
      {"revision", options.revision}, {"device", report.device},    {"ranks", report.ranks}, {"dtype", "bf16"},
      {"nccl", report.nccl},          {"repeats", options.repeats}, {"results", rows}};
  std::ofstream file(options.json_path);
  file << all.dump(1) << "\n";
  if (!file.flush()) return error(Code::kIo, "--json {}: cannot write", options.json_path);
  return {};
#else
  return error(Code::kUnimplemented, "bench gpu: this build has no CUDA (configure with -DWEFT_CUDA=ON)");
#endif
}

}  // namespace

void add_bench_gpu(CLI::App& bench) {
  auto options = std::make_shared<BenchGpuOptions>();
  CLI::App* command = bench.add_subcommand("gpu", "Collectives on this host's GPUs, beside NCCL ($WEFT_NCCL)");
  command->add_option("--ranks", options->ranks, "Ranks, one GPU each; 0 = as many as there are GPUs")
      ->check(CLI::Range(0, 8))
      ->capture_default_str();
  command->add_option("--repeats", options->repeats, "Timed repeats of every variant")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command->add_option("--bytes", options->bytes, "Sizes in bytes")->delimiter(',');
  command->add_option("--algorithms", options->algorithms, "ll, one_shot, two_shot, auto")->delimiter(',');
  command->add_option("--json", options->json_path, "Also write the figures to this file");
  command->add_option("--revision", options->revision, "Source revision to put into the JSON");
  command->callback([options] { finish(bench_gpu(*options)); });
}

}  // namespace weft
